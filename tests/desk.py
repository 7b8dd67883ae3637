"""A compile host on 127.0.0.3 whose distccd is a fake one: enabled, disabled and looked at.

The fake distccd compiles nothing, so a test can let it fail in chosen ways (fake_distccd.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from proc_directory import ProcDirectory
from run_program import PATIENCE_S, T, free_ports, program_environment, run

from compilefarm.compile_host.desktop.desktop import Desktop, add_desktop_options
from compilefarm.compile_host.load.machine import this_machine
from compilefarm.compile_host.processes import ProcessTree
from compilefarm.programs.options import Parser
from compilefarm.protocol.address import parse_address
from compilefarm.protocol.ports import BASE_PORT

FAKE_DISTCCD = Path(__file__).parent / "fake_distccd.py"
ADDRESS = "127.0.0.3"


class Desk:
    """A compile host with a port, a run directory and an environment of its own.

    `run_options` are further options of `run_program.run` for each program of the host.
    """

    def __init__(
        self,
        directory: Path,
        server: str,
        environment: dict[str, str] | None = None,
        **run_options: Any,
    ) -> None:
        self._directory = directory
        self._programs = directory / "programs"
        self._run_options = run_options
        self.run_dir = directory / "run"
        self.port = free_ports(address=ADDRESS)
        self.environment = (environment or program_environment()) | {"HOST_SERVER": server}
        # Whatever gethost is installed here does not count. DMUCS has a program of this name too.
        self.add_program("gethost", "#!/bin/sh\nexit 2\n")
        self.environment["PATH"] = f"{self._programs}:{os.environ['PATH']}"

    @property
    def name(self) -> str:
        """The farm's name for it."""
        return f"{ADDRESS}:{self.port}"

    @property
    def arguments(self) -> list[str]:
        """The options that name the host and its run directory."""
        return ["--host", ADDRESS, "--port", str(self.port), "--run-dir", str(self.run_dir)]

    def use_fake_distccd(self) -> None:
        """Put the fake distccd first on PATH."""
        script = f'#!/bin/sh\nexec "{sys.executable}" -S "{FAKE_DISTCCD}" "$@"\n'
        self.add_program("distccd", script)

    def add_program(self, name: str, script: str) -> None:
        """Put a program first on PATH."""
        self._programs.mkdir(exist_ok=True)
        program = self._programs / name
        program.write_text(script)
        program.chmod(0o755)

    def idle_machine(self) -> list[str]:
        """Return options with which the host is idle, however busy this machine is."""
        directory = self._directory / "proc"
        directory.mkdir(parents=True)
        ProcDirectory(directory)
        return ["--procfs", str(directory), "--slots", "2"]

    def enable(self, *more: object) -> subprocess.CompletedProcess[str]:
        """Run enable-host, without measuring the power index."""
        return self.run("enable-host", "--no-measure", *more)

    def disable(self, *more: object) -> subprocess.CompletedProcess[str]:
        """Run disable-host."""
        return self.run("disable-host", *more)

    def run(self, program: str, *more: object) -> subprocess.CompletedProcess[str]:
        """Run one of the programs for this host."""
        options = self._run_options
        return run(program, *self.arguments, *more, environment=self.environment, **options)

    def tree(self, program: str) -> ProcessTree:
        """Return the processes of a program, which must run."""
        tree = self._started_tree(program)
        assert tree is not None, f"{program} was not started"
        assert tree.root() is not None, f"{program} does not run"
        return tree

    def pid(self, program: str) -> int:
        """Return the process id of a program, which must run."""
        return self.tree(program).root_pid

    def command(self, program: str) -> list[str]:
        """Return the command line of a program, which must run."""
        return Path(f"/proc/{self.pid(program)}/cmdline").read_text().split("\0")[:-1]

    def runs(self, program: str) -> bool:
        """Return whether a program of the host runs."""
        tree = self._started_tree(program)
        return tree is not None and tree.root() is not None

    def _started_tree(self, program: str) -> ProcessTree | None:
        # Not by the product's own function: it refuses another user's run directory.
        try:
            pid, started_s = (self.run_dir / self.name / f"{program}.pid").read_text().split()
        except FileNotFoundError:
            return None
        return ProcessTree(this_machine(), int(pid), float(started_s))

    @property
    def listens(self) -> bool:
        """Whether anything accepts connections on the host's port."""
        try:
            socket.create_connection((ADDRESS, self.port), timeout=5).close()
        except OSError:
            return False
        return True

    @property
    def disabled(self) -> bool:
        """Whether distccd does not run, and the host's own run directory is gone."""
        return not self.runs("distccd") and not (self.run_dir / self.name).exists()

    @property
    def clean(self) -> bool:
        """Whether the host does not listen, and no run directory is left."""
        return not self.listens and not (self.run_dir.exists() and list(self.run_dir.iterdir()))


@contextlib.asynccontextmanager
async def watched_desktop(
    arguments: Sequence[str], servers: Sequence[str], complain: Callable[[str], None]
) -> AsyncIterator[Desktop]:
    """Run a `Desktop` with these options of watch-ssaver while the block runs."""
    parser = Parser("watch-ssaver", "")
    add_desktop_options(parser)
    options = parser.parse_args(["--server", ",".join(servers), *arguments])
    candidates = [parse_address(server, BASE_PORT) for server in servers]
    desktop = Desktop(options, candidates, complain)
    try:
        yield desktop
    finally:
        await desktop.leave()


async def comes_true(condition: Callable[[], T]) -> T:
    """Wait as `eventually` does, while the event loop runs."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (result := condition()):
        assert time.monotonic() < deadline_s, "it did not come true in time"
        await asyncio.sleep(0.01)
    return result


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a story to its end, within a limit."""
    asyncio.run(asyncio.wait_for(story(), 3 * PATIENCE_S))
