"""How long a request may be passed over.

That is the time that the file would have taken on arrival, plus some turnovers of its own build's
queue. After that, the request goes before all others on the next slot that it may have. So no
request waits for ever.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush

from compilefarm.core.placement.earliest.queues import Waiting
from compilefarm.core.placement.earliest.rule import EPSILON_S

# A request may be passed over for this many turnovers of its own build's queue. A turnover is the
# time that the build takes for its waiting files. A lower number slows healthy builds down: there,
# short files rightly pass over a long file that waits for a fast slot.
TURNOVERS = 8.0
# The least cost assumed for a file of unknown cost while its build has done no file. A lower guess
# would make whole builds overdue before their first file has ended.
UNKNOWN_COST = 1.0
# The most requests that become overdue in one decision, so that a long pause does not stall it.
OVERDUE_AT_ONCE = 16


class Patience:
    """The requests that wait, by when their patience ends."""

    def __init__(self) -> None:
        self._ends: list[tuple[float, int, Waiting]] = []

    def begin(self, waiting: Waiting, at_once_speed: float, build_speed: float) -> None:
        """Start a request's patience: it came, and was not granted at once.

        `at_once_speed` is the speed of the slot that it could have had on arrival. `build_speed` is
        the summed speed of the slots that its build can have.
        """
        waiting.at_once_speed = at_once_speed
        end_s = _end_s(waiting, build_speed, waiting.arrived_s)
        heappush(self._ends, (end_s, waiting.number, waiting))

    def end_if_over(self, waiting: Waiting, build_speed: float, now: float) -> bool:
        """Whether a request is overdue; if not, it is patient for longer.

        When it came, its cost may have been a guess, and its build's queue not yet complete.
        """
        end_s = _end_s(waiting, build_speed, now)
        if end_s <= now + EPSILON_S:
            return True
        heappush(self._ends, (end_s, waiting.number, waiting))
        return False

    def pop_ended(self, now: float) -> list[Waiting]:
        """Return some of those whose patience seems to have ended, and drop them."""
        ended: list[Waiting] = []
        while self._ends and self._ends[0][0] <= now and len(ended) < OVERDUE_AT_ONCE:
            waiting = heappop(self._ends)[2]
            if waiting.waits:
                ended.append(waiting)
        return ended

    def left(self) -> None:
        """Drop those in front that no longer wait."""
        while self._ends and not self._ends[0][2].waits:
            heappop(self._ends)

    def next_end_s(self) -> float:
        """Return when the next request's patience ends; infinite if nothing waits."""
        return self._ends[0][0] if self._ends else math.inf


def _end_s(waiting: Waiting, build_speed: float, now: float) -> float:
    build = waiting.build
    typical_cost = 0.0
    if build.waiting.unknown:
        typical_cost = build.typical_cost(now)
        if not build.done.count and typical_cost < UNKNOWN_COST:
            typical_cost = UNKNOWN_COST
    cost = waiting.cost if waiting.cost is not None else typical_cost
    queued_work = build.waiting.known_work + build.waiting.unknown * typical_cost
    return waiting.arrived_s + cost / waiting.at_once_speed + TURNOVERS * queued_work / build_speed
