"""The files that a build has done: what they cost, and what that says of those that still run."""

from __future__ import annotations

from bisect import bisect_right, insort

# Costs kept of one build. Beyond it every second one is dropped: what is left is spread the same.
COSTS_LIMIT = 1000
# One file that nobody has seen yet is always expected beside those that were: one that costs this
# many times the work that is done on it. Too much loses nothing: a backup takes an idle slot.
UNSEEN_COSTS_TIMES = 5.0


class DoneFiles:
    """The files done in one build. Costs and work are in seconds at power index 1."""

    def __init__(self) -> None:
        self.count = 0
        self.work = 0.0
        self._costs: list[float] = []  # the cheapest first

    def add(self, work: float) -> None:
        """Count a file that took that work."""
        self.count += 1
        self.work += work
        insort(self._costs, work)
        if len(self._costs) > COSTS_LIMIT:
            del self._costs[::2]

    def above(self, work: float) -> int:
        """Return how many of the files kept cost more than that."""
        return len(self._costs) - bisect_right(self._costs, work)

    def expected_cost(self, work: float) -> float:
        """Return what a file is expected to cost, on which so much work is done already.

        That is the mean of those that cost more, and of the one that nobody has seen yet.
        """
        above = self._costs[bisect_right(self._costs, work) :]
        return (sum(above) + work * UNSEEN_COSTS_TIMES) / (len(above) + 1)
