"""For how long a request may be passed over.

That is what it could have had when it came, and some turnovers of its own build's queue. After that
it goes before all others on the next slot that it may have, so nothing waits for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush

from compilefarm.core.placement.earliest.builds import EPSILON_S, Build, Waiting

# Turnovers of its own build's queue that a request may be passed over. Fewer cut into healthy
# builds.
TURNOVERS = 8.0
OVERDUE_AT_ONCE = 16


class Patience:
    """Who waits, and until when he may be passed over.

    `waits` says of a request whether it still waits; `share`, what summed speed a build can hope
    for.
    """

    def __init__(self, waits: Callable[[Waiting], bool], share: Callable[[Build], float]) -> None:
        self._waits = waits
        self._share = share
        self._fresh: list[Waiting] = []  # came since the last decision
        self._ends: list[tuple[float, int, Waiting]] = []

    def arrived(self, waiting: Waiting) -> None:
        """Take a request up; it may still be granted at once."""
        self._fresh.append(waiting)

    def left(self, waiting: Waiting) -> None:
        """Take note that a request no longer waits."""
        waiting.queue.turns.overdue.pop(waiting.request.id, None)
        if self._fresh and self._fresh[-1] is waiting:
            self._fresh.pop()

    def begin(self, before: float = math.inf) -> None:
        """Find out until when those may be passed over that came, and were not granted at once."""
        if not self._fresh or self._fresh[0].arrived >= before:
            return
        for waiting in self._fresh:
            if not self._waits(waiting):
                continue
            turns = waiting.queue.turns
            free = turns.free()
            waiting.at_once_speed = free.speed if free else turns.view.slowest_speed()
            heappush(self._ends, (self._end(waiting, waiting.arrived), waiting.number, waiting))
        self._fresh.clear()

    def note_overdue(self, now: float) -> None:
        """Put those whose patience has ended before all others that wait for the same slots."""
        for _ in range(OVERDUE_AT_ONCE):
            if not self._ends or self._ends[0][0] > now:
                return
            _, number, waiting = heappop(self._ends)
            if not self._waits(waiting):
                continue
            # When it came, its cost may have been a guess, and its build's queue not yet complete.
            end = self._end(waiting, now)
            if end > now + EPSILON_S:
                heappush(self._ends, (end, number, waiting))
            else:
                waiting.queue.turns.overdue[waiting.request.id] = waiting

    def next_end(self) -> float:
        """Return when the next request's patience ends; infinite if nobody waits."""
        while self._ends and not self._waits(self._ends[0][2]):
            heappop(self._ends)
        return self._ends[0][0] if self._ends else math.inf

    def _end(self, waiting: Waiting, now: float) -> float:
        build = waiting.build
        typical = build.typical(now) if build.unknown else 0.0
        cost = waiting.cost if waiting.cost is not None else typical
        queued_s = (build.waiting_work + build.unknown * typical) / self._share(build)
        return waiting.arrived + cost / waiting.at_once_speed + TURNOVERS * queued_s
