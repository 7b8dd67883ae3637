"""The compiles that learning keeps: one `Observation` each, reached from its file and its host.

The model of a compile, in natural logarithms, is

    log time = log cost of the file - log speed of the host
               + crowdedness × crowding cost of the host + noise

- The *cost* of a file is its time in seconds on a host of speed 1 with slots to spare.
- The *speed* of a host is what a slot does when at most half of the slots are in use.
- *Crowdedness* says how far the later slots are in use: on an SMT machine, these are threads of
  cores that are taken already.
- The *crowding cost* of a host is the log time that a compile gains when all slots are in use.

This module knows how a file's cost follows from its observations. How a host's speed follows from
them is in `speed_fit`.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

# Below, a time is the network's alone. Above, a clock jumped.
SHORTEST_S, LONGEST_S = 1e-4, 86_400.0
COMPILES_OF_FILE = 5
# A fit of a host costs time in proportion to this number, and noise falls with its root.
COMPILES_OF_HOST = 48
# In log time. A compile further than this from the middle one of its file counts as if it were this
# far. It came out of a cache, or its machine was suspended meanwhile. 0.5 is a factor of 1.65.
COST_OUTLIER = 0.5


@dataclass(slots=True, eq=False)
class Observation:
    """One compile in the model."""

    file: LearnedFile
    host: LearnedHost
    log_s: float  # of the time that it took
    at: float  # when it ended, in seconds of the caller's clock
    crowdedness: float  # of the host, averaged over the compile: 0 to 1


@dataclass(slots=True, eq=False)
class LearnedFile:
    """A file of one directory, and its last compiles."""

    observations: deque[Observation] = field(default_factory=lambda: deque(maxlen=COMPILES_OF_FILE))

    def cost_s(self) -> float:
        """Return the file's cost: the mean of its compiles in log time.

        Each counts by the weight of its host.
        """
        total = weights = 0.0
        lowest, highest = math.inf, -math.inf
        for each in self.observations:
            host = each.host
            log_cost = each.log_s - host.crowding_cost * each.crowdedness + host.log_speed
            total += host.weight * log_cost
            weights += host.weight
            if log_cost < lowest:
                lowest = log_cost
            if log_cost > highest:
                highest = log_cost
        if highest - lowest > COST_OUTLIER and len(self.observations) > 2:  # seldom
            total = self._total_without_outliers()
        return math.exp(total / weights)

    def _total_without_outliers(self) -> float:
        """Return the weighted sum of log costs, each within `COST_OUTLIER` of the middle one."""
        log_costs = [
            (
                each.log_s - each.host.crowding_cost * each.crowdedness + each.host.log_speed,
                each.host.weight,
            )
            for each in self.observations
        ]
        middle = sorted(log_costs)[len(log_costs) // 2][0]
        lowest, highest = middle - COST_OUTLIER, middle + COST_OUTLIER
        return sum(weight * min(max(lowest, each), highest) for each, weight in log_costs)


@dataclass(slots=True, eq=False)
class LearnedHost:
    """A host, its last compiles, and what they say of it by the last fit."""

    name: str
    log_declared: float  # logarithm of the declared power index
    log_speed: float
    variance: float  # of `log_speed`
    weight: float  # of what the host says of a file's cost: the surer its speed, the more
    # False: known only from compiles that were kept, and so of no known scale.
    is_declared: bool = True
    pinned: bool = False
    crowding_cost: float = 0.0
    # How far `log_speed` is from `log_declared`, as it counts in the farm's average; None: it does
    # not count, as nothing was measured.
    scale_offset: float | None = None
    refits_left: int = 0  # without a new compile, because neighbours were declared
    # The estimates that `Learning` tells others. They follow the fit in steps worth a look.
    published_log_speed: float = 0.0
    published_crowding_cost: float = 0.0
    measured_at: float = -math.inf  # when a compile last said something of the speed
    unfitted: int = 0  # compiles since the last fit
    observations: deque[Observation] = field(default_factory=lambda: deque(maxlen=COMPILES_OF_HOST))


def is_plausible(took_s: float) -> bool:
    """Whether a compile can have taken this time."""
    return SHORTEST_S <= took_s <= LONGEST_S


def crowdedness(in_use: float, slots: int) -> float:
    """Return how crowded a host is: 0 up to half of its slots in use, 1 with all of them.

    In between, it is the part of the compiles that share a core, if each core has two slots.
    """
    if in_use <= 1.0:
        return 0.0
    return 1.0 if in_use >= slots else max(0.0, 2.0 - slots / in_use)
