"""A compile under gethost that can have a backup, for the tests to direct.

The command is a script called `distcc`. It says when it runs, and waits to be told how to end. It
leaves an object, dependencies and a warning, all with the name of the attempt that wrote them.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from gethost_program import LEASE, PATIENCE_S, Connection, Gethost, Server

BACKUP_DESK = "host=desk2 address=198.51.100.2 port=4002 slots=2"
WORDS = "-c main.c -o main.o -MD -MF main.d -MT main.o"
COMPILE = ("distcc", "cc", *WORDS.split())

# Not by a pipe: a signal that comes just before the shell reads one is seen when a line is there.
TOLD = """
told() {
    while [ ! -e told-$1 ]; do sleep 0.01; done
    mv told-$1 taken-$1
    read status < taken-$1
}
"""
DISTCC = f"""{TOLD}
case $DISTCC_HOSTS in 192*) attempt=first;; *) attempt=backup;; esac
for word; do
    case $previous in -o) object=$word;; -MF) dependencies=$word;; esac
    previous=$word
done
echo "main.o: $attempt.h" > "$dependencies"
echo "$attempt warns" >&2
[ ! -e before-$attempt ] || . ./before-$attempt
echo $attempt > says
told $attempt
[ $status != 0 ] || echo $attempt > "$object"
exit $status
"""


def backup_of(number: int) -> str:
    return f"backup id={number} {BACKUP_DESK}"


BACKUP = backup_of(8)


class NamedPipe:
    """A pipe of that name. The test has both its ends open, so that opening it takes no time."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._ends = os.open(path, os.O_RDWR)

    def read_line(self) -> str:
        assert select.select([self._ends], [], [], PATIENCE_S)[0], "no line came"
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self._ends, 1)
        return line.decode().strip()

    def close(self) -> None:
        os.close(self._ends)


def eventually(happened: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline_s
        os.sched_yield()


class Compile:
    """A gethost that has a lease, and the compile under it."""

    def __init__(self, gethost: Gethost, server: Server) -> None:
        self.gethost = gethost
        self.server = server
        self.directory = gethost.directory
        gethost.program("distcc", DISTCC)
        self._says = NamedPipe(self.directory / "says")
        self._held_by_children, self._held = os.pipe()
        self.process: subprocess.Popen[str]
        self.connection: Connection
        self.request: dict[str, str]

    def start(self, *options: str, command: tuple[str, ...] = COMPILE) -> None:
        """Start it, give it a lease, and wait until the first attempt runs."""
        self.begin(*options, command=command)
        self.runs("first")

    def begin(self, *options: str, command: tuple[str, ...] = COMPILE) -> None:
        self.process = self.gethost.start(*options, *command, pass_fds=[self._held])
        self.connection = self.server.accept()
        self.request = self.connection.receive("request")
        self.connection.send(LEASE)

    def before(self, attempt: str, script: str) -> None:
        """Have the attempt do something before it says that it runs."""
        (self.directory / f"before-{attempt}").write_text(script + "\n")

    def runs(self, attempt: str) -> None:
        """Wait for what an attempt says."""
        assert self._says.read_line() == attempt

    def runs_at_last(self, attempt: str) -> None:
        """Wait for what an attempt says, after anything else."""
        while self._says.read_line() != attempt:
            pass

    def back_up(self, offer: str = BACKUP) -> None:
        self.connection.send(offer)
        self.runs("backup")

    def tell(self, attempt: str, status: int = 0) -> None:
        """Tell an attempt to end, and how."""
        order = self.directory / "order"
        order.write_text(f"{status}\n")
        order.rename(self.directory / f"told-{attempt}")

    def temporaries(self) -> list[str]:
        return [path.name for path in self.directory.glob("**/*.backup-*")]

    def result(self) -> tuple[int, str]:
        """Wait for the end of gethost; return its status, and what it wrote to stderr."""
        errors = self.process.communicate(timeout=PATIENCE_S)[1]
        self.nobody_is_left()
        return self.process.returncode, errors

    def nobody_is_left(self) -> None:
        os.close(self._held)
        self._held = -1
        assert select.select([self._held_by_children], [], [], PATIENCE_S)[0], "a process is left"
        assert self.temporaries() == []

    def written(self) -> tuple[str, str]:
        """Return who wrote the object, and who the dependencies."""
        object_ = (self.directory / "main.o").read_text().strip()
        dependencies = (self.directory / "main.d").read_text()
        return object_, dependencies.removeprefix("main.o: ").removesuffix(".h\n")

    def close(self) -> None:
        self._says.close()
        os.close(self._held_by_children)
        if self._held >= 0:
            os.close(self._held)
