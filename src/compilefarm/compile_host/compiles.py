"""The compiles that run below a distccd: stopped, continued, ended.

distccd's workers are children of the distccd that listens, and each starts its compiler as the
leader of a process group. Whole groups are signalled, at once: a compiler whose cc1 alone is killed
reports a fatal error in the source, and the build would fail. One that dies as a whole makes
distccd answer with the signal, which gethost takes for a failure of the host; and when host-server
has taken the lease back before, gethost does not even look at it.

The workers are left alone: they hold the connections, and end by themselves.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

from compilefarm.compile_host.processes import Process, ProcessTree, Unreadable

# A compiler can start others as fast as they are found; it cannot go on for ever.
ROUNDS_MAX = 50


class Compiles:
    """The compiles of one distccd.

    `complain` is told of what may not be signalled, which is a distccd of another user.
    """

    def __init__(self, distccd: ProcessTree, complain: Callable[[str], None]) -> None:
        self._tree = distccd
        self._complain = complain

    def stop(self) -> int:
        """Stop those that run; return how many groups that were."""
        return self._signal(signal.SIGSTOP, lambda process: not process.stopped)

    def go_on(self) -> int:
        """Let those go on that were stopped; return how many groups that were."""
        return self._signal(signal.SIGCONT, lambda process: process.stopped)

    def end(self) -> int:
        """Kill all; return how many groups that were."""
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
        told: set[int] = set()
        for _ in range(ROUNDS_MAX):
            groups = {self._group(each) for each in self._members() if wanted(each)} - told
            if not groups:
                break
            for group in groups:
                told.add(group)
                try:
                    os.killpg(group, number) if group > 0 else os.kill(-group, number)
                except ProcessLookupError:
                    pass  # it ended by itself
                except OSError as error:
                    self._complain(f"a compile cannot be signalled: {error.strerror}")
        return len(told)

    def _group(self, process: Process) -> int:
        """Return a process's group; where that is distccd's own, the process alone, negated."""
        with contextlib.suppress(OSError):
            group = os.getpgid(process.pid)
            if group != self._tree.root_pid:
                return group
        return -process.pid
