"""Expected ends: heaps of leases by when they are expected to end, some entries out of date.

An expected end can move, and a lease that ended early stays in its heaps. So an entry counts only
while it has the end that is expected now. Other entries are dropped when they come first.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

# A heap drops the entries that no longer count when it has more than CLEAR_FROM entries, and more
# than CLEAR_TIMES those that may count. Then clearing costs less than making the entries did.
CLEAR_FROM, CLEAR_TIMES = 64, 4
ENDED_S = -1.0


@dataclass(slots=True, eq=False)
class Expected:
    """Something that will end; `end_s` is when that is expected, and `ENDED_S` once it has."""

    end_s: float


E = TypeVar("E", bound=Expected)


class Ends(Generic[E]):
    """A heap of expected ends: the soonest comes first, or the latest."""

    __slots__ = ("_heap", "_sign")

    def __init__(self, *, latest_first: bool = False) -> None:
        self._sign = -1.0 if latest_first else 1.0
        self._heap: list[tuple[float, int, E]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, expected: E, serial: int, counting: int) -> None:
        """Enter an end as it is expected now.

        `serial` is unique in this heap; `counting` is about how many entries may count.
        """
        heap = self._heap
        heappush(heap, (self._sign * expected.end_s, serial, expected))
        if len(heap) > CLEAR_FROM and len(heap) > CLEAR_TIMES * counting:
            sign = self._sign
            heap[:] = [entry for entry in heap if entry[0] == sign * entry[2].end_s]
            heapify(heap)

    def first(self) -> E | None:
        """Return what comes first, having dropped the entries before it."""
        heap, sign = self._heap, self._sign
        while heap:
            end_s, _, expected = heap[0]
            if end_s == sign * expected.end_s:
                return expected
            heappop(heap)
        return None

    def pop_first(self) -> None:
        """Drop the entry of what `first` returned last."""
        heappop(self._heap)

    def all(self) -> list[E]:
        """Return all that have an entry that counts, in no order."""
        sign = self._sign
        return [each[2] for each in self._heap if each[0] == sign * each[2].end_s]
