"""Queues of waiting requests: each has those of one build that may use the same hosts."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from compilefarm.core.model import Request
from compilefarm.core.placement.earliest.builds import Build
from compilefarm.core.placement.earliest.speed_classes import View

# The hosts that the requests of a queue may use: those of a view, but for some names.
Reach = tuple[View, frozenset[str]]


@dataclass(slots=True, eq=False)
class Waiting:
    """A request that waits. `cost` is None where its file's cost is unknown."""

    request: Request
    build: Build
    queue: Queue
    cost: float | None
    number: int  # in the order of arrival, over all requests
    arrived_s: float
    waits: bool = True  # False once it was granted or withdrawn
    # The speed of the slot that it could have had on arrival; its patience depends on that.
    at_once_speed: float = 1.0


class Queue:
    """The waiting requests of one build that may use the same hosts.

    `refused` and `stamp` belong to `Turns`. `refused` is the class of slots that this queue
    refused, or None while it is empty. `stamp` goes up when the queue moves to another line.
    """

    __slots__ = (
        "_known",
        "avoid",
        "build",
        "costs",
        "reach",
        "refused",
        "stamp",
        "unknown",
        "view",
    )

    def __init__(self, build: Build, reach: Reach) -> None:
        self.build = build
        self.reach = reach
        self.view, self.avoid = reach
        self.refused: int | None = None
        self.stamp = 0
        # Files of known cost, the cheapest first, and the newest first among equals: their costs,
        # and the requests in the same order.
        self.costs: list[float] = []
        self._known: list[Waiting] = []
        self.unknown: dict[int, Waiting] = {}  # in the order of arrival

    def __len__(self) -> int:
        return len(self.costs) + len(self.unknown)

    def oldest(self) -> Waiting:
        """Return the oldest request of unknown cost; if there is none, the one of highest cost."""
        return next(iter(self.unknown.values())) if self.unknown else self._known[-1]

    def put(self, waiting: Waiting) -> None:
        """Queue a request."""
        if waiting.cost is None:
            self.unknown[waiting.number] = waiting
        else:
            index = bisect_left(self.costs, waiting.cost)
            if index < len(self.costs) and self.costs[index] == waiting.cost:
                index = self._index(waiting)  # one that is put back may be older than its equals
            self.costs.insert(index, waiting.cost)
            self._known.insert(index, waiting)

    def drop(self, waiting: Waiting) -> None:
        """Take a request out."""
        if waiting.cost is None:
            del self.unknown[waiting.number]
        else:
            index = self._index(waiting)
            del self.costs[index], self._known[index]

    def _index(self, waiting: Waiting) -> int:
        """Return where a request of known cost is, or belongs."""
        assert waiting.cost is not None
        low = bisect_left(self.costs, waiting.cost)
        if low < len(self._known) and self._known[low] is waiting:
            return low
        high = bisect_right(self.costs, waiting.cost, low)
        return bisect_left(self._known, -waiting.number, low, high, key=_newest_first)

    def costs_with(self, typical_cost: float) -> list[float]:
        """Return the costs of the waiting files, the cheapest first.

        All files of unknown cost are one entry, of `typical_cost`: nothing tells them apart.
        """
        if not self.unknown:
            return self.costs
        costs = self.costs[:]
        costs.insert(bisect_right(costs, typical_cost), typical_cost)
        return costs

    def picked(self, index: int, typical_cost: float) -> Waiting:
        """Return the request at an index into `costs_with`; among equals, the oldest."""
        if self.unknown:
            of_unknown = bisect_right(self.costs, typical_cost)
            if index == of_unknown:
                return next(iter(self.unknown.values()))
            if index > of_unknown:
                index -= 1
        return self._known[index]

    def cheapest(self) -> Waiting:
        """Return the cheapest request of known cost; there must be one."""
        return self._known[0]


def _newest_first(waiting: Waiting) -> int:
    return -waiting.number
