"""Times at which something is due, by key: the farm keeps these instead of a clock.

A deadline that moves with every load report must cost almost nothing to move: 5,000 hosts report
every 2 s. So moving a deadline to later only records the new time. The heap keeps the old entry and
is corrected when that entry becomes the first one. The first entry is therefore always right, and
`next_due` is a plain attribute: asking for it changes nothing.

This module knows nothing of hosts or requests.
"""

from __future__ import annotations

import heapq
import math
from typing import Any

Key = tuple[str, Any]


class Timers:
    """Due times by key; each key has at most one.

    `next_due` is the earliest of them, in seconds on the caller's clock; infinity if there is none.
    `len()` is the number of heap entries, for tests of memory use.
    """

    __slots__ = ("_due", "_heap", "_queued", "_serial", "next_due")

    def __init__(self) -> None:
        self.next_due = math.inf
        self._due: dict[Key, float] = {}
        # For each key, only the heap entry with this time is valid. It is never later than the due
        # time, and a key that was cleared may still have one.
        self._queued: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, key: Key, due: float) -> None:
        """Let `key` be due at `due`, in place of any earlier setting."""
        self._due[key] = due
        queued = self._queued.get(key)
        if queued is None or due < queued:
            self._serial += 1
            self._queued[key] = due
            heapq.heappush(self._heap, (due, self._serial, key))
            if due < self.next_due:
                self.next_due = due
        if queued == self.next_due:
            self._correct_first()

    def clear(self, key: Key) -> None:
        """Let `key` not be due."""
        if self._due.pop(key, None) is not None and self._queued[key] == self.next_due:
            self._correct_first()

    def pop_next(self) -> Key:
        """Return and clear the key that is due first; raises IndexError if there is none."""
        key = heapq.heappop(self._heap)[2]
        del self._due[key], self._queued[key]
        self._correct_first()
        return key

    def _correct_first(self) -> None:
        """Drop or move the first heap entries until the first one is right."""
        heap, queued = self._heap, self._queued
        while heap:
            at, _, key = heap[0]
            due = self._due.get(key)
            if queued.get(key) != at:
                heapq.heappop(heap)
            elif due is None:
                del queued[key]
                heapq.heappop(heap)
            elif due > at:
                self._serial += 1
                queued[key] = due
                heapq.heapreplace(heap, (due, self._serial, key))
            else:
                self.next_due = at
                return
        self.next_due = math.inf
