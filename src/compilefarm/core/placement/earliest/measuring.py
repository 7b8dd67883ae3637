"""Finding out how fast hosts are of which that is not known, or no longer.

A host that counts as slow is not used, and so never gets to show that it has become fast. Hosts of
which too little is known wait here for their turn; the policy sends one a short file where that
costs next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import islice

from compilefarm.core.learning.learning import Learning
from compilefarm.core.placement.earliest.places import Places
from compilefarm.core.placement.earliest.speed_classes import Place

# A host is worth measuring when what is known of its speed is less sure than this: some 30 % off.
SURE_FROM = 0.7
LOOK_AGAIN_S = 3600.0
MEASURE_AGAIN_S = 60.0
AT_ONCE = 4  # hosts that one decision looks at


class Measuring:
    """The hosts that are worth measuring, each in its turn."""

    def __init__(self, learning: Learning, places: Places) -> None:
        self._learning = learning
        self._places = places
        self._known: set[str] = set()
        self._unsure: dict[str, None] = {}
        self._look_at: list[tuple[float, str]] = []  # look at that host's confidence then

    def add(self, name: str) -> None:
        """Have an eye on a host, from now on."""
        if name not in self._known:
            self._known.add(name)
            heappush(self._look_at, (-math.inf, name))

    def forget(self, name: str) -> None:
        """Leave a host alone that has gone."""
        self._known.discard(name)
        self._unsure.pop(name, None)

    def some(self, now: float) -> Iterator[Place]:
        """Yield some hosts that are worth measuring; those not taken are at the end of the line."""
        for _ in range(AT_ONCE):
            if not self._look_at or self._look_at[0][0] > now:
                break
            name = heappop(self._look_at)[1]
            if name not in self._known:
                continue
            if self._learning.confidence(name, now) < SURE_FROM:
                self._unsure[name] = None
            else:
                heappush(self._look_at, (now + LOOK_AGAIN_S, name))
        for name in tuple(islice(self._unsure, AT_ONCE)):
            place = self._places.get(name)
            del self._unsure[name]
            self._unsure[name] = None
            if place is not None:
                yield place

    def taken(self, name: str, now: float) -> None:
        """Take note that a host is being measured."""
        del self._unsure[name]
        heappush(self._look_at, (now + MEASURE_AGAIN_S, name))
