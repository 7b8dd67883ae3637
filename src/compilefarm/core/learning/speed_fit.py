"""The fit of one host: its speed, and what crowding costs it.

A file compiled on two hosts compares them, although its cost is unknown. So a host's speed
is fitted to what the *other* hosts say of the same files. Two other ways were tried and dropped:

- To count the host's own compiles, too. A file that only one host compiled then confirms whatever
  that host was believed to be. A Kalman filter over costs and speeds failed in this way.
- To compare a file that only one host compiled with the typical file. A good placement gives the
  short files to the slow hosts, so this makes slow hosts look fast.

The estimate is a robust mean: the median first, then Huber's weights about it (P. J. Huber, Robust
Estimation of a Location Parameter, 1964). The declared power index is one more observation, of
standard deviation `DECLARED_SD`. Crowding cost is the slope of a line through the same points.

Only the latest compiles count. Those more than a day older than the newest one count together as
one observation, the less sure the longer ago. Whatever changed a host since then changed it for
all of them. So a few compiles now outvote many of last month.

Pure functions: nothing here changes a host.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from compilefarm.core.learning.observations import LearnedHost, Observation

# None of these is tuned finely. Halved or doubled, each changes the third builds of the 30 cases
# of `bench placement` by less than 1 % on average. That holds with noise, with wrong power indices,
# and with cores that slots share. Those builds are too short for ageing. In the case of a host that
# became fast within a week, four times as fast or as slow ageing makes 3 %.
#
# Standard deviations of natural logarithms: 0.1 is 10 %.
NOISE_SD = 0.12  # of one compile's time about its file's cost
DECLARED_SD = 1.0  # of a declared power index: factors of 3 do occur
CROWDING_SD = 0.3  # of the crowding cost of a host of which nothing is known
# Deviations beyond which a surprise counts for less. Huber proposes 1 to 2.
HUBER = 2.0
# The most that crowding may cost: four times the time.
CROWDING_COST_LIMIT = math.log(4.0)
# Two compiles of one file on one host tell the crowding cost if crowdedness differs by this much.
CROWDEDNESS_APART = 0.2
# The most that two such compiles may say, in log time from half of the slots in use to all.
SLOPE_LIMIT = 2.0
DAY_S = 86_400.0
# Variance per second that a host gains while it is not used: 30 % after a day.
AGEING_PER_S = 0.3**2 / DAY_S
# The weight of a host whose scale is unknown, as it is not declared: next to nothing.
UNDECLARED_WEIGHT = 1e-9

# What other hosts say of a host's speed by one of its compiles. The numbers are the logarithm of
# the speed as if the host was not crowded, its variance, and the host's crowdedness.
# It is a plain tuple, because a fit makes dozens of them.
_Comparison = tuple[float, float, float]


class SpeedFit(NamedTuple):
    """A host as fitted. `variance` is that of `log_speed`."""

    log_speed: float
    variance: float
    crowding_cost: float
    measured_at: float  # when a compile last said something of the speed


class _CrowdingCost(NamedTuple):
    """The last estimate of a host's crowding cost, and other evidence of it.

    The evidence is a normal distribution of mean `total / precision`.
    """

    last: float
    total: float
    precision: float


class _Evidence(NamedTuple):
    """The comparisons of a host: of its newest day, of earlier days, and of its crowding cost."""

    recent: list[_Comparison]
    older: list[_Comparison]
    newest_at: float
    crowding: _CrowdingCost


def fit(host: LearnedHost, now: float) -> SpeedFit:
    """Fit a host's speed and crowding cost to what other hosts say of its files."""
    recent, older, newest_at, crowding = _evidence(host)
    log_speed, variance = host.log_declared, DECLARED_SD**2
    if older:
        log_speed, variance, _ = _robust_line(older, log_speed, variance, crowding)
        variance += aged_variance(now - (newest_at - DAY_S))
        if recent:
            # The older compiles are less sure still where they differ from the recent ones.
            change = _median(recent, host.crowding_cost) - log_speed
            variance = max(variance, (change / HUBER) ** 2)
    log_speed, variance, crowding = _robust_line(recent, log_speed, variance, crowding)
    return SpeedFit(log_speed, variance, crowding.last, newest_at if recent else host.measured_at)


def weight_of(variance: float) -> float:
    """Return the weight of what a host says of a file's cost, by the variance of its speed."""
    return 1.0 / (NOISE_SD**2 + variance)


def aged_variance(unused_s: float) -> float:
    """Return the variance that a host gains in a time without compiles."""
    return AGEING_PER_S * max(0.0, unused_s)


def _evidence(host: LearnedHost) -> _Evidence:
    """Compare each of a host's compiles with the others of the same file.

    Learning spends most of its time in the inner loop, so it is written out in full.
    """
    recent: list[_Comparison] = []
    older: list[_Comparison] = []
    slope_total = slope_weights = 0.0
    newest_at = max([each.at for each in host.observations], default=0.0)
    recent_from = newest_at - DAY_S
    for own in host.observations:
        total = weights = 0.0
        observations = own.file.observations
        for other in observations:
            other_host = other.host
            if other_host is not host:
                weight = other_host.weight
                total += weight * (
                    other.log_s
                    - other_host.crowding_cost * other.crowdedness
                    + other_host.log_speed
                )
                weights += weight
            elif other is not own:
                apart = own.crowdedness - other.crowdedness
                if abs(apart) > CROWDEDNESS_APART:
                    slope_total += apart * apart * _slope(own, other, apart)
                    slope_weights += apart * apart
        if weights > len(observations) * UNDECLARED_WEIGHT:
            log_speed, variance = total / weights - own.log_s, NOISE_SD**2 + 1.0 / weights
            (recent if own.at >= recent_from else older).append(
                (log_speed, variance, own.crowdedness)
            )
    # Each pair was met twice, and each of its two compiles is noisy.
    crowding = _CrowdingCost(
        host.crowding_cost,
        slope_total / (4.0 * NOISE_SD**2),
        slope_weights / (4.0 * NOISE_SD**2) + 1.0 / CROWDING_SD**2,
    )
    return _Evidence(recent, older, newest_at, crowding)


def _slope(one: Observation, other: Observation, apart: float) -> float:
    """Return the crowding cost by two compiles of one file on one host."""
    return min(max(-SLOPE_LIMIT, (one.log_s - other.log_s) / apart), SLOPE_LIMIT)


def _median(comparisons: list[_Comparison], crowding_cost: float) -> float:
    speeds = [log_speed + crowding_cost * crowded for log_speed, _, crowded in comparisons]
    return sorted(speeds)[len(speeds) // 2]


def _robust_line(
    comparisons: list[_Comparison], prior: float, prior_variance: float, crowding: _CrowdingCost
) -> tuple[float, float, _CrowdingCost]:
    """Fit log speed over crowdedness; return log speed, its variance, and the crowding cost.

    `prior` and `crowding` are what was known before, and hold the line. Comparisons far from the
    last line count for less.
    """
    cost = crowding.last
    median = _median(comparisons, cost) if comparisons else prior
    precision = 1.0 / prior_variance
    total = prior * precision
    sum_x = sum_xx = sum_xy = 0.0
    for log_speed, variance, x in comparisons:
        surprise = abs(log_speed + cost * x - median) / math.sqrt(variance)
        weight = (1.0 if surprise <= HUBER else HUBER / surprise) / variance
        total += weight * log_speed
        precision += weight
        weight_x = weight * x
        sum_x += weight_x
        sum_xx += weight_x * x
        sum_xy += weight_x * log_speed
    spread = sum_xx - sum_x * sum_x / precision + crowding.precision
    cost = (sum_x * total / precision - sum_xy + crowding.total) / spread
    cost = min(max(0.0, cost), CROWDING_COST_LIMIT)
    known = _CrowdingCost(cost, cost * spread, spread)
    return (total + cost * sum_x) / precision, 1.0 / precision, known
