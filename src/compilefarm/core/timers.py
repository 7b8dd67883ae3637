"""Times at which something is due, by key: what the farm keeps instead of a clock.

A deadline that is put off with every report (5,000 hosts, one report every 2 s) must cost next to
nothing to put off. So a later time is only written down; the heap learns of it when the earlier
one comes up.
"""

from __future__ import annotations

import heapq
import math
from typing import Any

Key = tuple[str, Any]


class Timers:
    """Due times by key; a key has one at most.

    Of each key one entry of the heap counts, that of `_queued`; it is never later than the key is
    due.
    """

    def __init__(self) -> None:
        self._due: dict[Key, float] = {}
        self._queued: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._serial = 0

    def set(self, key: Key, due: float) -> None:
        """Have `key` come up at `due`, instead of whenever it was to come before."""
        self._due[key] = due
        queued = self._queued.get(key)
        if queued is None or due < queued:
            self._push(key, due)

    def clear(self, key: Key) -> None:
        """Have `key` not come up."""
        self._due.pop(key, None)

    def next_due(self, before: float = math.inf) -> float | None:
        """Return the time at which `pop_due` has something, or None, also if it is not `before`."""
        while self._heap and self._heap[0][0] < before:
            at, _, key = self._heap[0]
            if self._queued.get(key) == at:
                due = self._due.get(key)
                if due == at:
                    return at
                del self._queued[key]
                if due is not None:
                    self._push(key, due)
            heapq.heappop(self._heap)
        return None

    def may_be_due(self, now: float) -> bool:
        """Whether `pop_due` may have something: a cheap look, before a thorough one."""
        return bool(self._heap) and self._heap[0][0] <= now

    def pop_due(self, now: float) -> Key | None:
        """Return and clear a key that is due, or None."""
        due = self.next_due()
        if due is None or due > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._due[key], self._queued[key]
        return key

    def _push(self, key: Key, due: float) -> None:
        self._serial += 1
        self._queued[key] = due
        heapq.heappush(self._heap, (due, self._serial, key))
