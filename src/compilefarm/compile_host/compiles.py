"""Stops, resumes and ends the compiles that run below a distccd.

distccd's workers are children of the distccd that listens. Each worker starts its compiler as the
leader of a process group. A signal goes to the whole group at once. If only the compiler's cc1 were
killed, the compiler would report a fatal error in the source, and the build would fail. If the
whole group is killed, distccd answers with the signal, and gethost counts that as a failure of the
host. If host-server has revoked the lease before, gethost ignores the answer.

The workers get no signal. They hold the connections, and end by themselves.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

from compilefarm.compile_host.processes import Process, ProcessTree, Unreadable

# A compiler may start others while they are looked for, so look again, but not without a limit.
ROUNDS_MAX = 50


class Compiles:
    """The compiles of one distccd.

    `complain` gets a line for each compile that we may not signal: the distccd is another user's.
    """

    def __init__(self, distccd: ProcessTree, complain: Callable[[str], None]) -> None:
        self._tree = distccd
        self._complain = complain

    def stop(self) -> int:
        """Stop the compiles that run; return the number of process groups stopped."""
        return self._signal(signal.SIGSTOP, lambda process: not process.stopped)

    def resume(self) -> int:
        """Resume the compiles that are stopped; return the number of process groups resumed."""
        return self._signal(signal.SIGCONT, lambda process: process.stopped)

    def end(self) -> int:
        """Kill all compiles; return the number of process groups killed."""
        return self._signal(signal.SIGKILL, lambda process: not process.gone)

    def _members(self) -> list[Process]:
        try:
            tree = self._tree.read()
        except Unreadable as error:
            self._complain(str(error))
            return []
        root = self._tree.root_pid
        return [
            process
            for process in tree.values()
            if process.pid != root and process.parent != root and not process.gone
        ]

    def _signal(self, number: signal.Signals, wanted: Callable[[Process], bool]) -> int:
        signalled: set[int] = set()
        for _ in range(ROUNDS_MAX):
            groups = {self._group(each) for each in self._members() if wanted(each)} - signalled
            if not groups:
                break
            for group in groups:
                signalled.add(group)
                try:
                    os.killpg(group, number) if group > 0 else os.kill(-group, number)
                except ProcessLookupError:
                    pass  # it has ended
                except OSError as error:
                    self._complain(f"cannot signal a compile: {error.strerror}")
        return len(signalled)

    def _group(self, process: Process) -> int:
        """Return the group of a process; if that is distccd's own, the process's id, negated."""
        with contextlib.suppress(OSError):
            group = os.getpgid(process.pid)
            if group != self._tree.root_pid:
                return group
        return -process.pid
