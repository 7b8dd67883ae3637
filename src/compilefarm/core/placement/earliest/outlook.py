"""What a build is still to ask for, as the last build in its directory had it."""

from __future__ import annotations

from bisect import bisect_left


class Outlook:
    """Files still to come, with their costs in seconds at power index 1, in the order of asking.

    It is empty in a first build.
    """

    def __init__(self, costs: dict[str, float]) -> None:
        self._costs = costs
        self._sorted = sorted(costs.values())
        self.work = sum(self._sorted)

    def __len__(self) -> int:
        return len(self._costs)

    @property
    def longest(self) -> float:
        """The cost of the longest file; 0 where there is none."""
        return self._sorted[-1] if self._sorted else 0.0

    def costs(self) -> list[float]:
        """Return the costs in the order of asking."""
        return list(self._costs.values())

    def drop(self, source: str) -> None:
        """Drop a file, if it is here: it is no longer to come."""
        cost = self._costs.pop(source, None)
        if cost is not None:
            del self._sorted[bisect_left(self._sorted, cost)]
            # Sums of floats drift; here it is known.
            self.work = self.work - cost if self._sorted else 0.0
