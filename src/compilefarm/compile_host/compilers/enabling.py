"""Finds the compilers of a host that is being enabled, and opens their doors before distccd starts.

Without gethost there are no ids and no doors, and distccd runs the compilers that it allows by
default. The same holds if the owner has set DISTCC_CMDLIST: a list of the owner's own decides.
"""

from __future__ import annotations

import argparse
import os

from compilefarm.compile_host.compilers.agent import CompilerAgent
from compilefarm.compile_host.compilers.folder import make_folder, remove_folder
from compilefarm.compile_host.compilers.identify import Compiler, gethost_program
from compilefarm.compile_host.run_directory import RunDirectory, RunError
from compilefarm.programs.error_text import error_text
from compilefarm.programs.options import Parser, directory

LIST_VARIABLE = "DISTCC_CMDLIST"
SHOWN_MAX = 6


def add_compiler_directories(parser: Parser) -> None:
    """Add `--compiler-dir`."""
    parser.add_argument(
        "--compiler-dir",
        type=directory,
        action="append",
        metavar="DIR",
        help="a directory with compilers that is not in PATH, such as /opt/gcc/bin; "
        "may be repeated",
    )


class HostDoors:
    """The doors of a host whose distccd is about to start.

    `environment` tells distccd its list, and `offer` is a line for the user. Both are empty if
    there are no doors.
    """

    def __init__(self, run: RunDirectory, options: argparse.Namespace) -> None:
        self.environment: dict[str, str] = {}
        self._loadavg_options: list[str] = []
        self.offer = ""
        gethost = None if LIST_VARIABLE in os.environ else gethost_program()
        if gethost is None:
            return
        directories = options.compiler_dir or []
        try:
            folder = make_folder(run)
            agent = CompilerAgent(
                folder, gethost, directories=directories, wanted=options.compiler or []
            )
            agent.look_once()
        except OSError as error:
            remove_folder(run)
            raise RunError(f"cannot make doors to compilers: {error_text(error)}") from None
        self.environment = {LIST_VARIABLE: str(agent.list_file)}
        self._loadavg_options = ["--doors", str(folder), "--gethost", gethost]
        for each in directories:
            self._loadavg_options += ["--compiler-dir", str(each.absolute())]
        self.offer = f"\n{offer_line(agent.offered or ())}"

    def loadavg_options(self, distccd_pid: int) -> list[str]:
        """Return the options that make loadavg keep the doors up to date."""
        if not self._loadavg_options:
            return []
        return [*self._loadavg_options, "--doors-pid", str(distccd_pid)]


def offer_line(compilers: tuple[Compiler, ...]) -> str:
    """Return the compilers as a line for people, with each target after all that have it."""
    if not compilers:
        return "it offers no compiler"
    targets: dict[str, list[str]] = {}
    for compiler in compilers[:SHOWN_MAX]:
        ending = f" ({compiler.target})"
        targets.setdefault(ending, []).append(compiler.text.removesuffix(ending))
    shown = ", ".join(", ".join(texts) + target for target, texts in targets.items())
    more = len(compilers) - SHOWN_MAX
    return f"it offers {shown}{f' and {more} more' if more > 0 else ''}"
