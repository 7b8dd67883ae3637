"""Playing the rest of a build forward on what is known of it, to choose how to play it.

No one rule is best for every build: to start short files first while a giant is still to come
shows the giant sooner, and where all files are long it is a mistake. So a few rules are each
played to the end on the estimated costs, and the one that ends first is taken. A step of such a
play costs about a microsecond; the caller bounds how many are spent. When few files are left, each
single choice is tried in the same way.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from copy import copy
from heapq import heapify, heappop, heappush

from compilefarm.core.placement.earliest.builds import EPSILON_S, STEADY, Build, Mode
from compilefarm.core.placement.earliest.speed_classes import View

# Hurry while a file of this part of the longest waiting one is still to come.
HURRY_FROM = 0.7
# Above 1, more at once is started than R has room for: it knows of no slot that is too slow for one
# file, and where many like files wait, each counts on the slot that only one of them will have.
# What runs is not stretched, or each file on a slow slot would make room for one on a slower slot.
MODES = (
    Mode(True, 0.8),
    Mode(True, 1.0),
    Mode(False, 0.8),
    STEADY,
    Mode(False, 1.4),
    Mode(False, 2.0),
    Mode(False, math.inf),
)


class Rest:
    """The rest of one build at one moment, on all slots of the farm that others leave."""

    def __init__(self, farm: View, build: Build, now: float) -> None:
        self._now = now
        self._jobs = build.jobs
        order = [index for index in reversed(farm.order) if farm.classes[index].slots > 0]
        self._order = order
        place_of = {index: place for place, index in enumerate(order)}
        self._speeds = [farm.classes[index].speed for index in order]
        busy = [0] * len(order)
        self._running: list[tuple[float, int]] = []
        for running in build.held.values():
            place = place_of.get(running.index)
            if place is not None:
                busy[place] += 1
                self._running.append((running.end_s, place))
        heapify(self._running)
        self._free = [
            farm.classes[index].slots - taken for index, taken in zip(order, busy, strict=True)
        ]
        typical = build.typical(now)
        costs = [entry[0] for queue in build.queues.values() for entry in queue.known]
        self._waiting = sorted(costs + [typical] * build.unknown)
        self._coming = list(build.outlook.values())
        self._longest_coming = [0.0] * (len(self._coming) + 1)
        for i in range(len(self._coming) - 1, -1, -1):
            self._longest_coming[i] = max(self._longest_coming[i + 1], self._coming[i])
        self._work = sum(self._waiting) + sum(self._coming)
        self._share = max(EPSILON_S, farm.fastest_sum(build.jobs))

    @property
    def runs(self) -> bool:
        """Whether anything runs, and so will end."""
        return bool(self._running)

    def starting(self, cost: float | None, index: int) -> Rest:
        """Return the rest as it is when a waiting file of that cost starts in a class of slots now.

        None: a free slot of that class is left alone until something ends, for which something must
        run.
        """
        rest = copy(self)
        place = self._order.index(index)
        rest._free, rest._running = self._free[:], self._running[:]
        rest._free[place] -= 1
        if cost is None:
            end = self._running[0][0]
        else:
            end = self._now + cost / self._speeds[place]
            rest._waiting = self._waiting[:]
            del rest._waiting[bisect_left(rest._waiting, cost)]
            rest._work = self._work - cost
        heappush(rest._running, (end, place))
        return rest

    def play(self, mode: Mode, give_up_at: float) -> float:
        """Return when the build would end; from `give_up_at` on, one end is as bad as another."""
        now, speeds = self._now, self._speeds
        coming, longest_coming = self._coming, self._longest_coming
        free, running, waiting = self._free[:], self._running[:], self._waiting[:]
        ends: list[list[float]] = [[] for _ in speeds]
        end_power = power = 0.0
        last = now
        for end, place in running:
            ends[place].append(end)
            end_power += end * speeds[place]
            power += speeds[place]
            last = max(last, end)
        for heap in ends:
            heapify(heap)
        share, fastest = self._share, speeds[0]
        work, i = self._work, 0
        outstanding = len(waiting) + len(running)
        while True:
            while i < len(coming) and outstanding < self._jobs:
                insort(waiting, coming[i])
                i += 1
                outstanding += 1
            place = 0
            while waiting:
                while place < len(speeds) and free[place] <= 0:
                    place += 1
                if place == len(speeds):
                    break
                speed = speeds[place]
                longest = waiting[-1]
                rest_s = (work + end_power - now * power) / share
                rest_s = max(rest_s, longest / fastest, longest_coming[i] / fastest)
                if now + rest_s >= give_up_at or last >= give_up_at:
                    return max(now + rest_s, last)
                limit = (max(rest_s * mode.limit, last - now) + EPSILON_S) * speed
                if longest > limit:
                    limit = max(limit, _no_sooner_elsewhere(ends, speeds, place, now))
                pick = bisect_right(waiting, limit) - 1
                if pick < 0:
                    if running:
                        break
                    pick = len(waiting) - 1
                elif mode.hurry and longest_coming[i] >= HURRY_FROM * longest:
                    pick = 0
                cost = waiting.pop(pick)
                free[place] -= 1
                end = now + cost / speed
                heappush(running, (end, place))
                heappush(ends[place], end)
                end_power += end * speed
                power += speed
                work -= cost
                last = max(last, end)
            if not running or (not waiting and i == len(coming)):
                return last
            now, place = heappop(running)
            heappop(ends[place])
            free[place] += 1
            outstanding -= 1
            end_power -= now * speeds[place]
            power -= speeds[place]


def _no_sooner_elsewhere(
    ends: list[list[float]], speeds: list[float], place: int, now: float
) -> float:
    """As `View.no_sooner_elsewhere`, in the play's own terms."""
    limit = math.inf
    for faster in range(place):
        if ends[faster]:
            wait_s = max(0.0, ends[faster][0] - now)
            limit = min(limit, wait_s / (1.0 / speeds[place] - 1.0 / speeds[faster]))
    return limit
