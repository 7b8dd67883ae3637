"""The run directory of an enabled host: its lock, and the programs started for it.

There is one directory per HOST:PORT, so several hosts can be enabled on one machine. For each
program it holds a log, and a file with the pid and the start time. A pid alone may belong to
another process by now, and we kill the process that the file names. For the same reason, a
directory that others can write to is not trusted.

The directory itself is the lock. A lock file would have to stay behind or be deleted, and deleting
one is a race. After waiting for a directory that was removed meanwhile, a process notices that and
starts again.

This module must not know what the programs are for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from compilefarm.compile_host.load.machine import Machine
from compilefarm.compile_host.processes import Process, ProcessTree, Unreadable
from compilefarm.programs.error_text import error_text

# The time a program gets to end on SIGTERM, and the time the kernel gets to kill it.
END_PATIENCE_S = 2.0
KILL_PATIENCE_S = 2.0
POLL_S = 0.01


class RunError(Exception):
    """The run directory or a program in it is unusable; the text says what to do."""


def default_base() -> Path:
    """Return the directory of the run directories, without `--run-dir`.

    It is /run/compilefarm for root, else compilefarm in XDG_RUNTIME_DIR, else a directory of the
    user's own in the temporary directory.
    """
    if os.geteuid() == 0 and Path("/run").is_dir():
        return Path("/run/compilefarm")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime, "compilefarm")
    return Path(tempfile.gettempdir(), f"compilefarm-{os.geteuid()}")


@contextlib.contextmanager
def locked(
    base: Path | None, name: str, machine: Machine, *, create: bool, wait: bool = True
) -> Iterator[RunDirectory | None]:
    """Lock the run directory `name` while the block runs; wait for a process that has the lock.

    Yields None if there is no such directory and `create` is false, or if another process has the
    lock and `wait` is false. Raises `RunError`.
    """
    where = base or default_base()
    descriptor = _lock(where, where / name, create=create, wait=wait)
    if descriptor is None:
        yield None
        return
    try:
        yield RunDirectory(where / name, machine)
    finally:
        # Either fails if the directory is not empty: programs of this host, or another host.
        with contextlib.suppress(OSError):
            (where / name).rmdir()
            if base is None:
                where.rmdir()
        os.close(descriptor)


def _lock(base: Path, path: Path, *, create: bool, wait: bool) -> int | None:
    while True:
        try:
            if create:
                base.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(base)
            if create:
                path.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            if create:
                continue  # the last holder has just removed it
            return None
        except OSError as error:
            raise RunError(f"{path}: {error_text(error)}; choose another with --run-dir") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _check_private(directory: Path) -> None:
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise RunError(f"{directory} is not a directory; choose another with --run-dir")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise RunError(
            f"others can write to {directory}, so they could choose what is killed; "
            "choose another with --run-dir"
        )


def started_tree(
    base: Path | None, name: str, program: str, machine: Machine
) -> ProcessTree | None:
    """Return the processes of a program started in the run directory `name`; None if none was.

    This takes no lock, so the program may be ended, or started again, at any time. Raises
    `RunError`.
    """
    where = base or default_base()
    try:
        _check_private(where)
    except FileNotFoundError:
        return None
    return RunDirectory(where / name, machine).tree(program)


class RunDirectory:
    """A locked run directory, and the programs that it records."""

    def __init__(self, path: Path, machine: Machine) -> None:
        self.path = path
        self._machine = machine

    def running(self, program: str) -> Process | None:
        """Return the process that was started as `program` if it is alive, else None."""
        tree = self.tree(program)
        return tree.root() if tree else None

    def start(
        self,
        program: str,
        command: Sequence[str],
        environment: dict[str, str],
        *,
        output: int | None = None,
    ) -> Process:
        """Start a command in a session of its own; raises `RunError`.

        Its output goes to the log. With a descriptor `output`, only its errors go to the log.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        log = os.open(self.log(program), flags, mode=0o600)
        started = None
        try:
            started = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log if output is None else output,
                stderr=log,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
            process = self._machine.process(started.pid)
            if process is None:
                raise RunError(f"{program} (pid {started.pid}) is not in the list of processes")
            self._file(program).write_text(f"{process.pid} {process.started_s}\n")
            return process
        except OSError as error:
            raise RunError(f"cannot start {program}: {error_text(error)}") from None
        except BaseException:
            if started is not None:
                started.kill()  # its pid is not recorded, so nothing else would end it
            raise
        finally:
            os.close(log)

    def stop(self, program: str) -> None:
        """End a program with all its children, and forget it; raises `RunError` if it stays.

        If the program is not running, it is only forgotten: its children can no longer be told from
        other processes.
        """
        tree = self.tree(program)
        if tree is not None and tree.root() is not None:
            _end(program, tree)
        self._file(program).unlink(missing_ok=True)
        self.log(program).unlink(missing_ok=True)

    def log(self, program: str) -> Path:
        """Return the log file of a program."""
        return self.path / f"{program}.log"

    def last_line(self, program: str) -> str:
        """Return the last line of a program's log, or "" if there is none."""
        with contextlib.suppress(OSError):
            lines = self.log(program).read_text(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""

    def remember(self, key: str, text: str) -> None:
        """Store a text while the directory exists; an empty text removes it."""
        if text:
            (self.path / key).write_text(text)
        else:
            (self.path / key).unlink(missing_ok=True)

    def remembered(self, key: str) -> str:
        """Return the text stored under `key`, or ""."""
        try:
            return (self.path / key).read_text()
        except (OSError, UnicodeDecodeError):
            return ""

    def tree(self, program: str) -> ProcessTree | None:
        """Return the processes of a program that was started here; None if it was not."""
        try:
            pid, started_s = self._file(program).read_text().split()
            return ProcessTree(self._machine, int(pid), float(started_s))
        except (OSError, ValueError):
            return None

    def _file(self, program: str) -> Path:
        return self.path / f"{program}.pid"


def _end(program: str, tree: ProcessTree) -> None:
    for number, patience_s in ((signal.SIGTERM, END_PATIENCE_S), (signal.SIGKILL, KILL_PATIENCE_S)):
        deadline_s = time.monotonic() + patience_s
        signalled: set[int] = set()
        while True:
            try:
                living = [process for process in tree.read().values() if not process.gone]
            except Unreadable as error:
                raise RunError(str(error)) from None
            if not living:
                return
            for process in living:
                if process.pid not in signalled:
                    signalled.add(process.pid)
                    with contextlib.suppress(OSError):
                        os.kill(process.pid, number)
                        # A stopped process handles only SIGKILL until it is resumed.
                        os.kill(process.pid, signal.SIGCONT)
            if time.monotonic() > deadline_s:
                break
            time.sleep(POLL_S)
    raise RunError(f"{program} (pid {tree.root_pid}) does not end")
