"""How many Python calls the core makes for a request and for an end: the same on every machine.

A call is a step that a reader follows, and about a tenth of a microsecond. Counted is what one
event costs, with the question when the next deadline is, in a build of which the files are known.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from heapq import heappop, heappush
from types import FrameType

from bench.table import Row
from compilefarm.core.events import (
    Effect,
    Event,
    Grant,
    HostsListed,
    RequestArrived,
    RequestEnded,
    TimePassed,
)
from compilefarm.core.farm.farm import Farm
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Outcome, Request
from compilefarm.core.placement.earliest.policy import EarliestPolicy
from compilefarm.protocol.declaration import Declaration

HOSTS, SLOTS, SPEEDS = 10, 4, 5  # with 40 slots in all
FILES, JOBS = 300, 60
ENDS = 20
PAUSE_S = 60.0  # between two builds: the first is over


def rows() -> list[Row]:
    """Return a row for a request that starts at once, and one for an end while others wait."""
    lone = _Build()
    lone.play()
    lone.start(1)
    request = _counted(lone.ask_next)
    busy = _Build()
    busy.play()
    busy.start(JOBS)
    ends = []
    for _ in range(ENDS):
        busy.await_end()
        ends.append(_counted(busy.end))
        busy.ask_next()
    return [
        _row("Python calls for a request that starts at once", [request]),
        _row("Python calls for an end beside waiting requests, median", ends),
    ]


def _row(what: str, counts: list[tuple[int, int]]) -> Row:
    calls, files = (statistics.median(figures) for figures in zip(*counts, strict=True))
    return Row(what, f"{calls:.0f}", f"in {files:.0f} files")


def _counted(act: Callable[[], object]) -> tuple[int, int]:
    """Return how many calls are made, and in how many of the package's files."""
    calls, files = 0, set()

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        if event == "call" and "compilefarm/core" in frame.f_code.co_filename:
            calls += 1
            files.add(frame.f_code.co_filename)

    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
    return calls, len(files)


class _Build:
    """A farm, a clock, and a build that is played on it, of files that take 1 to 2 s at power 1."""

    def __init__(self) -> None:
        self._learning = Learning()
        self._farm = Farm(EarliestPolicy(self._learning))
        self._now = 0.0
        self._id = 0
        self._asked = 0
        self._running: list[tuple[float, int]] = []
        hosts = [
            Declaration(
                f"host{number}", slots=SLOTS, power_index=1.0 + number % SPEEDS, static=True
            )
            for number in range(HOSTS)
        ]
        self._handle(HostsListed(tuple(hosts)))

    def play(self) -> None:
        """Build everything once."""
        self.start(JOBS)
        while self._running:
            self.await_end()
            self.end()
            self.ask_next()
        self._now += PAUSE_S

    def start(self, jobs: int) -> None:
        """Ask for the first files of a build, and have them started."""
        self._asked = 0
        for _ in range(jobs):
            self.ask_next()
        while not self._running:
            self._ring()

    def ask_next(self) -> None:
        """Ask for a slot for the next file, if there is one."""
        if self._asked < FILES:
            self._id += 1
            request = Request(
                self._id,
                user="user",
                builder="desk",
                directory="/home/user/project",
                source=f"{self._asked}.c",
                can_back_up=True,
            )
            self._asked += 1
            self._handle(RequestArrived(request))

    def await_end(self) -> None:
        """Let time pass until a compile is done."""
        while (due := self._farm.next_deadline()) is not None and due < self._running[0][0]:
            self._ring()
        self._now = self._running[0][0]

    def end(self) -> None:
        """End the compile that is done."""
        id = heappop(self._running)[1]
        granted = self._farm.leases[id].granted
        self._handle(RequestEnded(id, Outcome(exit=0, wall_s=self._now - granted, cpu_s=0.0)))

    def _ring(self) -> None:
        due = self._farm.next_deadline()
        assert due is not None
        self._now = max(self._now, due)
        self._handle(TimePassed())

    def _handle(self, event: Event) -> None:
        effects: list[Effect] = self._farm.handle(event, self._now)
        self._farm.next_deadline()
        for effect in effects:
            if isinstance(effect, Grant):
                lease = effect.lease
                cost_s = 1.0 + (lease.id * 7919 % 97) / 97
                heappush(self._running, (self._now + cost_s / lease.host.power_index, lease.id))
