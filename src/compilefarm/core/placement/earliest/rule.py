"""The placement rule: which of a build's waiting files starts on a free slot, or that none does.

For every build there is R, the least time that the rest of it can take: what waits, what runs and
what is to come, spread over the fastest slots that the build can have; the longest file on the
fastest slot; and the latest expected end of what runs.

- A file may start on the free slot if it ends there within R, for then it delays nobody.
- Beyond R it may start if no busy, faster slot would end it sooner, its wait included.
- Of the files that may start, the longest does. The shortest does instead in a mode that hurries,
  while a file about as long as the longest waiting one is still to come: a `make -jN` asks for that
  file only when enough others are done.
- If no file may start, all of them wait; but not where nothing runs, for nothing would come free.

In the middle of a build R is large, nothing waits, and the fastest slots are busy. Towards the end
R shrinks, and slow slots are left alone.

The rule is a pure function of a `Situation`. The policy asks it about the farm as it is, and
`playing` asks it about farms that may come to be. Costs and work are in seconds at power index 1,
and a speed is a power index, so that a file takes its cost divided by the slot's speed.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# Expected ends are sums of floats: what differs by less is equal.
EPSILON_S = 1e-9
# Hurry while a file is to come that costs this part of the longest waiting one. At 1.0 the builds
# of like files never hurry; see `python -m bench placement --ablate`.
HURRY_FROM = 0.7
# No file starts: the slot stays free until something changes.
WAIT = -1


class Mode(NamedTuple):
    """One way to hold the rule.

    `hurry`: the shortest file goes first while a long one is to come. `stretch`: one file may take
    this many times what is to be done of the rest of its build; infinite: no file ever waits.
    """

    hurry: bool
    stretch: float


STEADY = Mode(hurry=False, stretch=1.0)


@dataclass(slots=True)
class Situation:
    """A free slot, what waits, what runs and what is to come, of one build at one moment.

    `waiting` has the costs of the files that may use the slot, the cheapest first; there is at
    least one. `busy_slots` has the speed of each class of slots and when the first slot of it is
    expected to come free (infinite: none is busy), the fastest first; it is read only where R says
    no.
    """

    now_s: float
    free_speed: float
    waiting: Sequence[float]
    busy_slots: Iterable[tuple[float, float]]
    runs: bool  # something runs, so that a slot will come free
    work: float  # of all that waits, that is to come, and that is left of what runs
    longest_coming: float  # cost; 0 where nothing is to come
    longest_beside: float  # cost of the longest that is to come, or waits for other slots only
    last_end_s: float  # the latest expected end of what runs
    build_speed: float  # summed, of the fastest slots that the build can have
    top_speed: float  # of the fastest slot
    mode: Mode = STEADY
    compares: bool = True  # with busy slots, where a file would not end within R


def least_rest_s(situation: Situation, stretch: float = 1.0) -> float:
    """Return R: no plan ends the rest of the build sooner, on the slots that it can have.

    What is to be done is taken `stretch` times, what runs as it is. If both were stretched, each
    file on a slow slot would make room for one on a slower slot.
    """
    longest = situation.longest_beside
    if situation.waiting[-1] > longest:
        longest = situation.waiting[-1]
    longest_s = longest / situation.top_speed
    to_do_s = situation.work / situation.build_speed
    if longest_s > to_do_s:
        to_do_s = longest_s
    to_do_s *= stretch
    runs_s = situation.last_end_s - situation.now_s
    return to_do_s if to_do_s > runs_s else runs_s


def choose(situation: Situation, rest_s: float) -> int:
    """Return which of the waiting files starts on the free slot, as an index; `WAIT`: none.

    `rest_s` is R as the mode stretches it (`least_rest_s`), or what stands in for it where R is
    unknown.
    """
    waiting, mode = situation.waiting, situation.mode
    longest = waiting[-1]
    limit = (rest_s + EPSILON_S) * situation.free_speed
    if longest > limit and situation.compares:
        limit = no_sooner_elsewhere(situation, limit)
    if waiting[0] > limit:
        return WAIT if situation.runs else len(waiting) - 1
    if mode.hurry and situation.longest_coming >= HURRY_FROM * longest:
        return 0
    return bisect_right(waiting, limit) - 1


def no_sooner_elsewhere(situation: Situation, at_least: float) -> float:
    """Return the largest cost that no busy, faster slot would end sooner than the free one.

    That is, of all costs c with c / free <= wait + c / faster for every faster class of slots.
    Infinite where no faster slot is busy: there is nothing to wait for. `at_least` is returned
    where the largest cost is less; on a busy farm the fastest class shows that already.
    """
    largest = math.inf
    free_speed = situation.free_speed
    for speed, end_s in situation.busy_slots:
        if speed <= free_speed:
            break
        wait_s = end_s - situation.now_s
        if wait_s < 0.0:
            wait_s = 0.0
        cost = wait_s / (1.0 / free_speed - 1.0 / speed)
        if cost < largest:
            if cost <= at_least:
                return at_least
            largest = cost
    return largest
