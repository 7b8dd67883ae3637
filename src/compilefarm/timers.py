"""Times at which something is due, by key: what the farm keeps instead of a clock.

A deadline that is put off with every report (5,000 hosts, one report every 2 s) must cost next to
nothing to put off. So a later time is only written down; the heap learns of it when the earlier
one comes up.
"""

from __future__ import annotations

import heapq
from typing import Any

Key = tuple[str, Any]


class Timers:
    """Due times by key; a key has one at most."""

    def __init__(self) -> None:
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._serial = 0

    def set(self, key: Key, due: float) -> None:
        """Have `key` come up at `due`, instead of whenever it was to come before."""
        before = self._due.get(key)
        self._due[key] = due
        if before is None or due < before:
            self._push(key, due)

    def clear(self, key: Key) -> None:
        """Have `key` not come up."""
        self._due.pop(key, None)

    def next_due(self) -> float | None:
        """Return the time at which `pop_due` has something, or None."""
        while self._heap:
            at, _, key = self._heap[0]
            due = self._due.get(key)
            if due == at:
                return at
            heapq.heappop(self._heap)
            if due is not None and due > at:
                self._push(key, due)
        return None

    def pop_due(self, now: float) -> Key | None:
        """Return and clear a key that is due, or None."""
        due = self.next_due()
        if due is None or due > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._due[key]
        return key

    def _push(self, key: Key, due: float) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (due, self._serial, key))
