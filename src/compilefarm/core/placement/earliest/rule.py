"""The placement rule: which of a build's waiting files starts on a free slot, or that none does.

R is the least time that the rest of a build can take. It is the maximum of three times:

- all work that waits, runs or is still to come, spread over the fastest slots that the build can
  have;
- the longest file, on the fastest slot;
- the latest expected end of a running file.

The rule:

- A file may start on the free slot if it ends there within R: then it does not delay the build.
- Beyond R it may start if no busy, faster slot would end it sooner, the wait for it included.
- The longest file that may start does. In a mode that hurries, the shortest starts instead while a
  file about as long as the longest waiting one is still to come. A `make -jN` asks for that file
  only when enough others are done.
- If no file may start, all of them wait. If the build has no running file, the longest starts: no
  slot would come free.

In the middle of a build R is large, no file waits, and the fastest slots are busy. Towards the end
R shrinks, and slow slots are not used.

The rule is a pure function of a `Situation`. The policy asks it about the farm as it is, and
`playing` asks it about possible later states. Costs and work are in seconds at power index 1, and a
speed is a power index. So a file takes its cost divided by the slot's speed.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# Expected ends are sums of floats: times that differ by less are equal.
EPSILON_S = 1e-9
# Hurry while a file is to come that costs this part of the longest waiting one. At 1.0, builds of
# similar files never hurry; see `python -m bench placement --ablate`.
HURRY_FROM = 0.7
# No file starts: the slot stays free until something changes.
WAIT = -1


class Mode(NamedTuple):
    """A variant of the rule.

    `hurry`: the shortest file goes first while a long one is to come. `stretch`: a file may take
    this many times the least time for the rest of its build (`to_do_s`). If it is infinite, no file
    ever waits.
    """

    hurry: bool
    stretch: float


STEADY = Mode(hurry=False, stretch=1.0)


@dataclass(slots=True)
class Situation:
    """A free slot, and the waiting, running and coming files of one build at one moment.

    `waiting` has the costs of the files that may use the slot, the cheapest first; there is at
    least one. `busy_slots` has one pair for each class of slots, the fastest first. A pair is the
    class's speed, and when its first slot is expected to come free (infinite: none is busy). The
    rule reads `busy_slots` only for files that would not end within R.
    """

    now_s: float
    free_speed: float
    waiting: Sequence[float]
    busy_slots: Iterable[tuple[float, float]]
    runs: bool  # the build has a running file, so a slot will come free
    work: float  # of all waiting and coming files, and the work left of the running ones
    longest_coming: float  # highest cost of the coming files; 0 if there are none
    longest_beside: float  # the same, with the files that wait for other slots only
    last_end_s: float  # the latest expected end of a running file
    build_speed: float  # summed, of the fastest slots that the build can have
    top_speed: float  # of the fastest slot
    mode: Mode = STEADY
    compares: bool = True  # with busy slots, where a file would not end within R


def to_do_s(situation: Situation) -> float:
    """Return the least time for all work not done yet, on the slots that the build can have."""
    longest = situation.longest_beside
    if situation.waiting[-1] > longest:
        longest = situation.waiting[-1]
    longest_s = longest / situation.top_speed
    spread_s = situation.work / situation.build_speed
    return spread_s if spread_s > longest_s else longest_s


def choose(situation: Situation, to_do_s: float) -> int:
    """Return which of the waiting files starts on the free slot, as an index; `WAIT`: none.

    `to_do_s` is the result of the function of that name, or a stand-in for it where that is
    unknown. The mode stretches it, but not the time of running files. Otherwise, each file on a
    slow slot would make room for one on a slower slot.
    """
    waiting, mode = situation.waiting, situation.mode
    longest = waiting[-1]
    rest_s = to_do_s * mode.stretch
    if situation.last_end_s - situation.now_s > rest_s:
        rest_s = situation.last_end_s - situation.now_s
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

    That is the largest c with c / free <= wait + c / faster for every faster class of slots. It is
    infinite where no faster slot is busy: there is nothing to wait for. If it is less than
    `at_least`, that is returned; on a busy farm the fastest class shows that already.
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
