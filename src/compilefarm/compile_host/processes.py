"""distccd's process tree: its processes, and the CPU time that they have used.

The CPU time of distccd's tree tells the farm's own work from all other work. Most of it is used by
compilers that live for a tenth of a second. A sum over the living processes misses those that have
ended since the last reading, and adding the ended ones counts them twice. The exact sum follows
from how Unix accounts for CPU time:

    total(p)  =  CPU time of p itself  +  total of every child that p has waited for

/proc calls the second part cutime and cstime. When a parent q waits for an ended child c, total(c)
moves into q and c disappears. Until then c is a zombie, which still has its own line. So each tick
is in exactly one place. The sum of total(p) over the tree is all the CPU time that the tree has
ever used. The CPU time used between two readings is the difference of two sums. Grouped by the
processes r of the second reading, with `before` 0 for a new process:

    used  =  Σ_r  own(r) − own_before(r)  +  [ waited(r) − waited_before(r) − reaped(r) ]

where reaped(r) is the CPU time that the processes which have vanished had used before the first
reading. Each counts at its nearest ancestor that still exists: it is in that ancestor's `waited`
now, and was counted in the first reading.

Two things can break the sum:

- If a process's parent dies first, init waits for the process, and its total leaves the tree. Then
  the square bracket of one r is too small, perhaps negative. A negative bracket counts as 0, so one
  killed compile cannot hide the CPU time of all others. At most the CPU time of that compile since
  the last reading is lost. If a whole subtree is orphaned, it stays in the sum through its session,
  which distccd leads.
- A reading takes time. A child that its parent waits for meanwhile is seen in both places, or in
  neither. So the tree is read until two consecutive readings have the same processes with the same
  `waited`. Then nothing was reaped between or during the two.

A control group for distccd would give the same number in one file. It was rejected because it needs
root or a systemd that delegates, and because distccd may already be running.

A process outside the tree can never enter it, so it is read only once. On a desktop with a thousand
processes, that makes the difference between noticeable CPU use and none.

This module must not know what the CPU time is for, nor anything of the machine as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

READINGS_MAX = 5


class Unreadable(Exception):
    """A fact cannot be read from the system; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process at one moment.

    `started_s` is its start time on a clock of the system's own. With the pid it identifies the
    process for ever. `own_cpu_s` is the CPU time that it used itself; `waited_cpu_s` is the total
    of the children that it has waited for. `state` is the letter that ps shows. `resident_mb` is
    its resident memory in MiB.
    """

    pid: int
    parent: int
    session: int
    state: str
    started_s: float
    own_cpu_s: float
    waited_cpu_s: float
    resident_mb: float = 0.0

    @property
    def gone(self) -> bool:
        """Whether the process has ended, and only its accounts are left."""
        return self.state in "ZX"

    @property
    def stopped(self) -> bool:
        """Whether the process is stopped, by SIGSTOP or a debugger."""
        return self.state in "Tt"

    @property
    def total_cpu_s(self) -> float:
        """All CPU time in the accounts of this process."""
        return self.own_cpu_s + self.waited_cpu_s


class ProcessSource(Protocol):
    """A source of processes, such as /proc."""

    def pids(self) -> list[int]:
        """Return the ids of all processes; raises `Unreadable`."""

    def process(self, pid: int) -> Process | None:
        """Return one process, or None if it does not exist; raises `Unreadable`."""


Tree = Mapping[int, Process]


class ProcessTree:
    """The processes of one root: itself, its descendants, and those left in the session it led.

    `started_s` guards against a recycled pid: a root with another start time does not count.
    Without it, the first process found under the pid is the root. `complain` gets a line for each
    process that cannot be read.
    """

    def __init__(
        self,
        source: ProcessSource,
        root_pid: int,
        started_s: float | None = None,
        *,
        complain: Callable[[str], None] | None = None,
    ) -> None:
        self.root_pid = root_pid
        self._source = source
        self._started_s = started_s
        self._complain = complain
        self._outside: set[int] = set()  # processes that are not in the tree, so never will be

    def read(self) -> Tree:
        """Return the processes of the tree by pid, as they were at one moment.

        A process that cannot be read is left out and complained about. Raises `Unreadable` if the
        list of processes cannot be read.
        """
        tree = self._read_once()
        for _ in range(READINGS_MAX - 1):
            again = self._read_once()
            if _agree(tree, again):
                return again
            tree = again
        return tree

    def root(self) -> Process | None:
        """Return the root if it is alive, else None."""
        root = self.process(self.root_pid)
        return root if root is not None and not root.gone and self._is_root(root) else None

    def _read_once(self) -> Tree:
        pids = set(self._source.pids())
        self._outside &= pids
        seen = {
            pid: process
            for pid in pids - self._outside
            if (process := self.process(pid)) is not None
        }
        members: dict[int, Process] = {}
        root = seen.get(self.root_pid)
        if root is not None and not self._is_root(root):
            # The pid was recycled. The kernel does not reuse a pid while its session has members,
            # so the tree is empty.
            return members
        unplaced = list(seen.values())
        while unplaced:
            later = []
            for process in unplaced:
                if (
                    process.pid == self.root_pid
                    or process.parent in members
                    or process.session == self.root_pid
                ):
                    members[process.pid] = process
                elif process.parent == 0 or process.parent in self._outside:
                    self._outside.add(process.pid)
                else:
                    later.append(process)
            # If no process could be placed, the parents of the rest came or went during the
            # reading. The next reading looks at them again.
            if len(later) == len(unplaced):
                break
            unplaced = later
        return members

    def _is_root(self, process: Process) -> bool:
        if self._started_s is None:
            self._started_s = process.started_s
        return process.started_s == self._started_s

    def process(self, pid: int) -> Process | None:
        """Return one process, in the tree or not; None if it does not exist or cannot be read."""
        try:
            return self._source.process(pid)
        except Unreadable as error:
            if self._complain is not None:
                self._complain(str(error))
            return None


def compiles(tree: Tree, root_pid: int) -> int:
    """Return the number of compiles in distccd's tree: its children that have a child of their own.

    distccd starts its children in advance, and each runs one compiler at a time. A child that
    receives a source or sends an object is not counted, and neither is what a compiler starts.
    """
    return len(
        {
            process.parent
            for process in tree.values()
            if not process.gone
            and process.parent in tree
            and process.parent != root_pid
            and tree[process.parent].parent == root_pid
        }
    )


def _agree(one: Tree, other: Tree) -> bool:
    return one.keys() == other.keys() and all(
        process.waited_cpu_s == other[pid].waited_cpu_s
        and process.parent == other[pid].parent
        and process.started_s == other[pid].started_s
        for pid, process in one.items()
    )


def cpu_used_s(before: Tree, after: Tree) -> float:
    """Return the CPU seconds that a tree has used between two readings, never negative."""

    def there(process: Process | None) -> bool:
        return (
            process is not None
            and process.pid in after
            and after[process.pid].started_s == process.started_s
        )

    reaped_s: dict[int, float] = {}
    for process in before.values():
        if there(process):
            continue
        ancestor = before.get(process.parent)
        while ancestor is not None and not there(ancestor):
            ancestor = before.get(ancestor.parent)
        if ancestor is not None:
            reaped_s[ancestor.pid] = reaped_s.get(ancestor.pid, 0.0) + process.total_cpu_s

    used_s = 0.0
    for pid, process in after.items():
        earlier = before.get(pid)
        if earlier is None or not there(earlier):
            used_s += process.total_cpu_s
            continue
        used_s += max(0.0, process.own_cpu_s - earlier.own_cpu_s)
        used_s += max(0.0, process.waited_cpu_s - earlier.waited_cpu_s - reaped_s.get(pid, 0.0))
    return used_s
