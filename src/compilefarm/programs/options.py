"""The options that several programs share, and the error lines for their users.

They are in one place so that `--server` and `--slots` mean the same everywhere. Every user error is
one line: what is wrong, and what to do. This module must not know what a program does with the
options.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from compilefarm import __version__
from compilefarm.programs.command_line import OneLineParser
from compilefarm.programs.connection import KEY_FILE_VARIABLE, servers
from compilefarm.protocol.address import Address, parse_address
from compilefarm.protocol.ports import DISTCCD_PORT


class Parser(OneLineParser):
    """An option parser with `--server` and `--version` that prints an error as one line."""

    def __init__(self, program: str, description: str) -> None:
        super().__init__(prog=program, description=description, allow_abbrev=False)
        self.add_argument(
            "--server",
            metavar="HOST[:PORT]",
            help="where host-server is; separate several with commas, they are tried in order "
            "(default: the environment variable HOST_SERVER)",
        )
        self.add_argument("--version", action="version", version=f"{program} {__version__}")

    def add_host_words(self) -> None:
        """Add the options that describe a host: its slots, power index, types and compilers."""
        self.add_argument(
            "--slots", type=whole_number, metavar="N", help="number of compiles at the same time"
        )
        self.add_argument(
            "--power-index",
            type=positive_number,
            metavar="X",
            help="speed of the host; the slowest machine of the farm has 1",
        )
        self.add_argument(
            "--mode",
            choices=("dedicated", "proportional", "idle"),
            help="when the host takes compiles. dedicated: always. proportional: always, on the "
            "CPUs that its owner does not use. idle: only while watch-ssaver reports it unused "
            "(default: dedicated)",
        )
        self.add_argument(
            "--reserve",
            type=cpus,
            metavar="CPUS",
            help="in proportional mode, the number of CPUs to leave unused (default: 1)",
        )
        for option, meaning in (
            ("--type", "a type of the host"),
            ("--compiler", "a compiler that the host has"),
        ):
            self.add_argument(
                option, action="append", metavar="NAME", help=f"{meaning}; may be repeated"
            )

    def add_key_file(self) -> None:
        """Add `--key-file`, for a program that speaks for hosts.

        The option overrides the environment variable by setting it. So it reaches every connection,
        and the programs that this one starts, in whichever directory they run.
        """
        if path := os.environ.get(KEY_FILE_VARIABLE):
            os.environ[KEY_FILE_VARIABLE] = str(Path(path).absolute())
        self.add_argument(
            "--key-file",
            type=_key_file,
            metavar="FILE",
            help="file with the farm's key, if the farm has one "
            f"(default: the environment variable {KEY_FILE_VARIABLE})",
        )

    def servers(self, options: argparse.Namespace) -> list[Address]:
        """Return the host-servers to try, or exit with one line."""
        try:
            return servers(options.server)
        except ValueError as error:
            self.error(str(error))


def host_words(options: argparse.Namespace) -> dict[str, Any]:
    """Return the words of `add` from the options of `add_host_words`; None means not given."""
    return {
        "slots": options.slots,
        "power_index": options.power_index,
        "types": options.type,
        "compilers": options.compiler,
        "mode": options.mode,
        "reserve_cpus": options.reserve,
    }


def host_address(text: str) -> Address:
    """Return a compile host's name and distccd's port, from `HOST[:PORT]`."""
    try:
        return parse_address(text, DISTCCD_PORT)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def this_host() -> Address:
    """Return this machine's own host name with distccd's usual port."""
    return Address(socket.gethostname().lower(), DISTCCD_PORT)


def whole_number(text: str) -> int:
    """Return a whole number from 1 to 10000."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10_000):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 to 10000")
    return int(text)


def positive_number(text: str) -> float:
    """Return a number above 0 and up to a million."""
    value = number(text)
    if not 0 < value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"'{text}' is not above 0 and at most 1000000")
    return value


def number(text: str) -> float:
    """Return a finite number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 0 or more")
    return value


# Names for `number` that say its unit.
seconds = cpus = number


def directory(text: str) -> Path:
    """Return the path of a directory that exists."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is not a directory")
    return Path(text)


def _key_file(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected the name of a file")
    path = os.environ[KEY_FILE_VARIABLE] = str(Path(text).absolute())
    return path


def complain(program: str, message: object) -> int:
    """Print one line on standard error; return 1, the exit status of a program that failed."""
    print(f"{program}: {message}", file=sys.stderr, flush=True)
    return 1


def ending_signals() -> list[signal.Signals]:
    """Return the signals that end a program, without those that nohup lets it ignore."""
    ending = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [number for number in ending if signal.getsignal(number) is not signal.SIG_IGN]


def exit_on_a_signal() -> None:
    """Let a signal end the program as an exception does, with status 128 + its number.

    So a program undoes on its way out what it has begun.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    for number in ending_signals():
        signal.signal(number, end)
