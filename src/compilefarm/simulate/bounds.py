"""What a simulated build is compared with: the time that no schedule can beat, and even shares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from compilefarm.protocol.declaration import Declaration
from compilefarm.simulate.machine import true_speed


def lower_bound_s(costs_s: Iterable[float], speeds: Iterable[float], jobs: int) -> float:
    """Return a time that no schedule of these costs can beat with `jobs` compiles at once.

    It is the larger of two figures: all costs over the summed speed of the fastest `jobs` slots;
    and, over all k, the k largest costs over the summed speed of the k fastest slots. If compiles
    could move between slots at any time, this would be the optimum (E. Horvath, S. Lam and
    R. Sethi, A Level Algorithm for Preemptive Scheduling, 1977). No compile runs on two slots at
    once.
    """
    costs = sorted(costs_s, reverse=True)
    fastest = sorted(speeds, reverse=True)[:jobs]
    speed_sums = list(accumulate(fastest))
    cost_sums = accumulate(costs)
    bound = sum(costs) / speed_sums[-1]
    for cost, speed in zip(cost_sums, speed_sums, strict=False):
        bound = max(bound, cost / speed)
    return bound


def slot_speeds(declarations: Iterable[Declaration]) -> Iterator[float]:
    """Yield what every slot of a farm really adds, also as a part of a shared core."""
    for each in declarations:
        speed = true_speed(each)
        slots, full_part = each.slots or 1, each.actual_full or 1.0
        sharing = slots // 2 if full_part < 1.0 else 0
        yield from [speed] * (slots - sharing)
        yield from [speed * (2.0 * full_part - 1.0)] * sharing


def jain_index(shares: Sequence[float]) -> float:
    """Return Jain's fairness index: 1 when n shares are equal, 1/n when one has everything.

    R. Jain, D. Chiu and W. Hawe, A Quantitative Measure of Fairness, 1984.
    """
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0
