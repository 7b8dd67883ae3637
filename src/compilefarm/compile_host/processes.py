"""distccd's process tree: who is in it, and how much CPU time it has used.

A farm's own work and everybody else's are told apart by what distccd's tree used, and most of that
is used by compilers that live for a tenth of a second. Summing what the living processes use loses
those that died since the last reading; counting the dead as well counts them twice. What is exact
follows from how a Unix keeps the books:

    total(p)  =  CPU time of p itself  +  total of every child that p has waited for

The second part is what /proc calls cutime and cstime. When a parent q waits for a dead child c,
total(c) moves into q and c disappears; until then c is a zombie and still has its own line. So
every tick is in exactly one place, and the sum of total(p) over the tree at any moment is all that
the tree ever used, whoever has died meanwhile. What was used between two readings is the
difference of two sums. Grouped by the processes r that are there at the second reading, and with
`before` 0 for a new process:

    used  =  Σ_r  own(r) − own_before(r)  +  [ waited(r) − waited_before(r) − buried(r) ]

where buried(r) is what the processes that vanished since had used before, each counted at its
nearest ancestor that is still there: it is part of what r's waiting brought, and was counted last
time.

Two things can break the sum, and each is dealt with in its place:

- A process whose parent died first is waited for by init, and its total leaves the tree. Then the
  square bracket of one r comes out too small, possibly negative. It is taken as 0 there and then,
  so that one killed compile cannot hide what all others used; no more is lost than what that
  compile used since the last reading. A whole tree that is orphaned stays in the sum through its
  session: distccd leads one.
- A reading takes time, and a child that is waited for meanwhile is seen in both places or in
  neither. So the tree is read until two readings in a row agree on who is there and what each has
  waited for: then nobody was buried between the first's end and the second's beginning, nor during
  either's overlap.

A control group of distccd's own would count the same with one file, and was rejected because it
needs root or a delegating systemd, and because distccd may already be running.

Whoever is neither in the tree nor its descendant never will be, so a stranger's line is read once
and not again: on a desktop with a thousand processes that is the difference between a noticeable
program and none.

This module must not know what the CPU time is for, nor of the machine as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

READINGS_MAX = 5


class Unreadable(Exception):
    """Something that the system should tell cannot be read; the text says what and why."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process at one moment.

    `started_s` is when it began, on a clock of the system's own: with the pid it names the process
    for ever. `own_cpu_s` is CPU time that it used itself, `waited_cpu_s` the total of the children
    that it has waited for. `state` is the letter that ps shows, `resident_mb` the memory that it
    holds.
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
        """Whether it has ended, and only its books are left."""
        return self.state in "ZX"

    @property
    def stopped(self) -> bool:
        """Whether somebody stopped it, with SIGSTOP or a debugger."""
        return self.state in "Tt"

    @property
    def total_cpu_s(self) -> float:
        """All CPU time that is written down here."""
        return self.own_cpu_s + self.waited_cpu_s


class ProcessSource(Protocol):
    """Where processes are read from."""

    def pids(self) -> list[int]:
        """Return the ids of all processes; raise `Unreadable`."""

    def process(self, pid: int) -> Process | None:
        """Return one process, None where there is none; raise `Unreadable`."""


Tree = Mapping[int, Process]


class ProcessTree:
    """The processes below one root, the root included, and those left in the session that it led.

    `started_s` guards against a recycled pid: a root with another start time is not there.
    Without it, the first process that is found under the pid is the root.
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
        self._strangers: set[int] = set()

    def read(self) -> Tree:
        """Return the processes of the tree by pid, as they were at one moment.

        A process that cannot be read is left out and complained about; raises `Unreadable` where
        the list of processes cannot be read.
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
        root = self._process(self.root_pid)
        return root if root is not None and not root.gone and self._is_root(root) else None

    def _read_once(self) -> Tree:
        pids = set(self._source.pids())
        self._strangers &= pids
        seen = {
            pid: process
            for pid in pids - self._strangers
            if (process := self._process(pid)) is not None
        }
        members: dict[int, Process] = {}
        root = seen.get(self.root_pid)
        if root is not None and not self._is_root(root):
            # A pid is not given to a new process while anybody is left in the session of that
            # name.
            return members
        unsettled = list(seen.values())
        while unsettled:
            later = []
            for process in unsettled:
                if (
                    process.pid == self.root_pid
                    or process.parent in members
                    or process.session == self.root_pid
                ):
                    members[process.pid] = process
                elif process.parent == 0 or process.parent in self._strangers:
                    self._strangers.add(process.pid)
                else:
                    later.append(process)
            # What is left when nothing moves hangs on a parent that came or went while the list
            # was read; it is looked at again next time.
            if len(later) == len(unsettled):
                break
            unsettled = later
        return members

    def _is_root(self, process: Process) -> bool:
        if self._started_s is None:
            self._started_s = process.started_s
        return process.started_s == self._started_s

    def _process(self, pid: int) -> Process | None:
        try:
            return self._source.process(pid)
        except Unreadable as error:
            if self._complain is not None:
                self._complain(str(error))
            return None


def compiles(tree: Tree, root_pid: int) -> int:
    """Return how many compiles run in distccd's tree: its children that have a child of their own.

    distccd starts its children in advance, and each runs one compiler at a time. One that receives
    a source or sends an object is not counted, nor what a compiler starts.
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
    """Return the CPU seconds that a tree used between two readings, never negative."""

    def there(process: Process | None) -> bool:
        return (
            process is not None
            and process.pid in after
            and after[process.pid].started_s == process.started_s
        )

    buried_s: dict[int, float] = {}
    for process in before.values():
        if there(process):
            continue
        ancestor = before.get(process.parent)
        while ancestor is not None and not there(ancestor):
            ancestor = before.get(ancestor.parent)
        if ancestor is not None:
            buried_s[ancestor.pid] = buried_s.get(ancestor.pid, 0.0) + process.total_cpu_s

    used_s = 0.0
    for pid, process in after.items():
        earlier = before.get(pid)
        if earlier is None or not there(earlier):
            used_s += process.total_cpu_s
            continue
        used_s += max(0.0, process.own_cpu_s - earlier.own_cpu_s)
        used_s += max(0.0, process.waited_cpu_s - earlier.waited_cpu_s - buried_s.get(pid, 0.0))
    return used_s
