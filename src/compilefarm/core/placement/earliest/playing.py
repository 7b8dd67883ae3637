"""Plays the rest of a build forward, from what is known of it, to see when it would end.

Different builds need different modes of the rule. To start short files first makes a build ask
sooner for a very long file. Where all files are long, it is a mistake. So the rest is played to its
end in a few modes, by the same rule that places files. `tuning` picks the mode that ends first. To
play one file takes some microseconds; the caller limits how many are played.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from compilefarm.core.placement.earliest.rule import (
    WAIT,
    Mode,
    Situation,
    choose,
    to_do_s,
)


class Rest:
    """The rest of one build at one moment, on classes of slots of equal speed, the fastest first.

    `speeds` and `slots` are those of each class. `running` has (expected end, class) of each
    running compile. `waiting` and `coming` are costs, and `coming` is in the order of asking.
    `jobs` is the build's -j. `build_speed` is the summed speed of the fastest slots that it can
    have.
    """

    def __init__(
        self,
        now_s: float,
        speeds: Sequence[float],
        slots: Sequence[int],
        running: Sequence[tuple[float, int]],
        waiting: Sequence[float],
        coming: Sequence[float],
        jobs: int,
        build_speed: float,
        *,
        compares: bool = True,
    ) -> None:
        self.now_s = now_s
        self._speeds = speeds
        self._running = list(running)
        heapify(self._running)
        self._free = list(slots)
        self._ends: list[list[float]] = [[] for _ in speeds]
        self._power = self._work = 0.0
        self._last_end_s = now_s
        for end_s, index in running:
            self._free[index] -= 1
            self._ends[index].append(end_s)
            self._power += speeds[index]
            self._work += (end_s - now_s) * speeds[index]
            self._last_end_s = max(self._last_end_s, end_s)
        for heap in self._ends:
            heapify(heap)
        self._waiting = sorted(waiting)
        self._coming = coming
        self._longest_coming = [0.0] * (len(coming) + 1)
        for i in range(len(coming) - 1, -1, -1):
            self._longest_coming[i] = max(self._longest_coming[i + 1], coming[i])
        self._work += sum(waiting) + sum(coming)
        self._jobs = jobs
        self._build_speed = build_speed
        self._compares = compares

    def situation(self, index: int, mode: Mode) -> Situation:
        """Return the situation for the rule when a slot of that class is free now."""
        return Situation(
            self.now_s,
            self._speeds[index],
            self._waiting[:],
            [
                (speed, ends[0] if ends else math.inf)
                for speed, ends in zip(self._speeds, self._ends, strict=True)
            ],
            bool(self._running),
            self._work,
            self._longest_coming[0],
            self._longest_coming[0],
            self._last_end_s,
            self._build_speed,
            self._speeds[0],
            mode,
            self._compares,
        )

    def play(self, mode: Mode, give_up_at_s: float = math.inf) -> float:
        """Return when the build would end; from `give_up_at_s` on, one end is as bad as another."""
        situation = self.situation(0, mode)
        speeds, coming, longest_coming = self._speeds, self._coming, self._longest_coming
        free, running = self._free[:], self._running[:]
        ends = [heap[:] for heap in self._ends]
        waiting: list[float] = self._waiting[:]
        situation.waiting = waiting
        busy: list[tuple[float, float]] = list(situation.busy_slots)
        situation.busy_slots = busy
        now_s, power = self.now_s, self._power
        came, files = 0, len(coming)
        classes = len(speeds)
        outstanding = len(waiting) + len(running)
        while True:
            while came < files and outstanding < self._jobs:
                insort(waiting, coming[came])
                came += 1
                outstanding += 1
            situation.longest_coming = situation.longest_beside = longest_coming[came]
            index = 0
            while waiting:
                while index < classes and free[index] <= 0:
                    index += 1
                if index == classes:
                    break
                speed = situation.free_speed = speeds[index]
                least_s = to_do_s(situation)
                if now_s + least_s >= give_up_at_s or situation.last_end_s >= give_up_at_s:
                    return give_up_at_s
                picked = choose(situation, least_s)
                if picked == WAIT:
                    break
                end_s = now_s + waiting.pop(picked) / speed
                free[index] -= 1
                heappush(running, (end_s, index))
                heappush(ends[index], end_s)
                busy[index] = (speed, ends[index][0])
                situation.runs = True
                power += speed
                if end_s > situation.last_end_s:
                    situation.last_end_s = end_s
            if not running or (not waiting and came == files):
                return situation.last_end_s
            before_s = now_s
            now_s, index = heappop(running)
            situation.now_s = now_s
            situation.work -= (now_s - before_s) * power
            heappop(ends[index])
            busy[index] = (speeds[index], ends[index][0] if ends[index] else math.inf)
            free[index] += 1
            outstanding -= 1
            power -= speeds[index]
            situation.runs = bool(running)
