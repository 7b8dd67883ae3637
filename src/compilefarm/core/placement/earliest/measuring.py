"""Measures hosts whose speed is unknown, or was last measured long ago.

A host that counts as slow is not used, so it cannot show that it has become fast. Hosts whose speed
is not sure wait here for their turn. Where it costs almost nothing, one of them gets the cheapest
waiting file.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from itertools import islice

from compilefarm.core.learning.learning import Learning
from compilefarm.core.placement.earliest.places import Places
from compilefarm.core.placement.earliest.queues import Queue, Waiting
from compilefarm.core.placement.earliest.speed_classes import Place

# A host is worth measuring when its speed is less sure than this: known to about 30 %.
SURE_CONFIDENCE = 0.7
CONFIDENCE_AGAIN_S = 3600.0  # when a sure host's confidence is checked again
MEASURE_AGAIN_S = 60.0  # no host is measured more often
HOSTS_AT_ONCE = 4  # that one decision looks at
# The part of the rest of the build that one measuring compile may take.
REST_PART = 0.05


class Measuring:
    """The hosts that are worth measuring, each in its turn."""

    def __init__(self, learning: Learning, places: Places) -> None:
        self._learning = learning
        self._places = places
        self._known: set[str] = set()
        self._unsure: dict[str, None] = {}
        self._look_at: list[tuple[float, str]] = []  # when to check a host's confidence

    def add(self, name: str) -> None:
        """Look at a host's confidence from now on."""
        if name not in self._known:
            self._known.add(name)
            heappush(self._look_at, (-math.inf, name))

    def forget(self, name: str) -> None:
        """Drop a host that has gone."""
        self._known.discard(name)
        self._unsure.pop(name, None)

    def worth_it(self, queue: Queue, now: float) -> bool:
        """Whether a queue may have something to measure with: a known file in a build's middle."""
        build = queue.build
        return bool(queue.costs) and now >= build.measures_again_s and build.refills

    def choose(
        self, queue: Queue, free: Place, to_do_s: float, now: float
    ) -> tuple[Waiting, Place] | None:
        """Return the cheapest file, and an unsure host for it that is slower than the free place.

        A faster host would be used anyway. The file must take a small part of `to_do_s`, the time
        for the rest of the build.
        """
        for place in self._unsure_places(now):
            needs_s = queue.costs[0] / place.speed
            if (
                place.class_index < free.class_index
                and place.slots
                and place.host.name not in queue.avoid
                and queue.view in place.views
                and needs_s <= REST_PART * to_do_s
                and not place.host.in_use
            ):
                del self._unsure[place.host.name]
                heappush(self._look_at, (now + MEASURE_AGAIN_S, place.host.name))
                queue.build.measures_again_s = now + needs_s
                return queue.cheapest(), place
        return None

    def _unsure_places(self, now: float) -> list[Place]:
        """Return some hosts that are worth measuring, and put them at the end of the line."""
        for _ in range(HOSTS_AT_ONCE):
            if not self._look_at or self._look_at[0][0] > now:
                break
            name = heappop(self._look_at)[1]
            if name not in self._known:
                continue
            if self._learning.confidence(name, now) < SURE_CONFIDENCE:
                self._unsure[name] = None
            else:
                heappush(self._look_at, (now + CONFIDENCE_AGAIN_S, name))
        names = list(islice(self._unsure, HOSTS_AT_ONCE))
        for name in names:
            del self._unsure[name]
            self._unsure[name] = None
        return [self._places.by_name[name] for name in names if name in self._places.by_name]
