"""Ends the workers of a distccd that know an old list of compilers, but never a compile.

distccd starts its workers in advance. Each reads the list at its first compile, and lives for a
minute and 50 compiles at least. distccd replaces a worker that has ended.

A worker may be ended if it waits for a connection. Looking and then ending it is a race: it could
accept a connection in between. So the worker is stopped first, then looked at, and ended only if it
has no connection. A stopped process accepts nothing. While a worker is stopped, `steady` is locked,
so that no load report says that distccd is stopped.

A worker has a connection if it has a socket that distccd itself does not have. Only Linux says
which sockets a process has. On other systems no worker is ended here: each ends by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

from compilefarm.compile_host.processes import Process, ProcessTree, Tree, Unreadable

STOP_PATIENCE_S = 0.1


class Workers:
    """The workers of one distccd."""

    def __init__(self, distccd: ProcessTree) -> None:
        self._distccd = distccd
        self._old: set[tuple[int, float]] = set()  # pid and start time
        self.steady = threading.Lock()

    def outdate(self) -> None:
        """Count the workers that exist now as old."""
        self._old |= {(each.pid, each.started_s) for each in self._workers(self._read())}

    def end_idle(self) -> bool:
        """End the old workers that wait for a connection; return whether no old one is left."""
        if not self._old:
            return True
        tree = self._read()
        living = {(each.pid, each.started_s) for each in self._workers(tree)}
        self._old &= living
        parents = {each.parent for each in tree.values() if not each.gone}
        for pid, _ in sorted(self._old):
            if pid not in parents and self._is_idle(pid):
                self._end_if_idle(pid)
        return not self._old

    def _workers(self, tree: Tree) -> list[Process]:
        root = self._distccd.root_pid
        return [each for each in tree.values() if each.parent == root and not each.gone]

    def _read(self) -> Tree:
        try:
            return self._distccd.read()
        except Unreadable:
            return {}

    def _is_idle(self, pid: int) -> bool:
        own, distccd = _sockets(pid), _sockets(self._distccd.root_pid)
        return own is not None and distccd is not None and own <= distccd

    def _end_if_idle(self, pid: int) -> None:
        with self.steady, contextlib.suppress(OSError):
            os.kill(pid, signal.SIGSTOP)
            try:
                # SIGKILL would be an error in distccd's log. The worker gets SIGTERM as soon as it
                # is resumed, before it can accept a connection.
                if self._has_stopped(pid) and self._is_idle(pid):
                    os.kill(pid, signal.SIGTERM)
            finally:
                os.kill(pid, signal.SIGCONT)

    def _has_stopped(self, pid: int) -> bool:
        deadline_s = time.monotonic() + STOP_PATIENCE_S
        while time.monotonic() < deadline_s:
            process = self._distccd.process(pid)
            if process is None or process.gone:
                return False
            if process.stopped:
                return True
            time.sleep(0.001)
        return False


def _sockets(pid: int) -> set[str] | None:
    """Return the sockets of a process; None if that cannot be known."""
    found = set()
    try:
        for descriptor in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                link = str(Path(descriptor.path).readlink())
                if link.startswith("socket:"):
                    found.add(link)
    except OSError:
        return None
    return found
