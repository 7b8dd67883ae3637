"""Backups: a second lease for a compile that runs on a slow slot, on a faster one that is idle.

The compile then runs on both, and whichever ends first counts. What a file costs is unknown until
it was compiled once, so a giant is put on a slow slot as readily as any; when that shows, faster
slots have often run out of work, and to begin again on one of them ends the build sooner. The first
attempt goes on, and the backup's slot is given up the moment a request wants it: so a backup costs
what would have been idle, and no build ends later for it. (To move the compile instead, by ending
the first attempt, is half the work, and loses where the file was about to be done: up to a quarter
of a build, against the rule that leaves it alone.) The idea is MapReduce's (Dean and Ghemawat,
2004).

How long a file takes that has run for some time is told from the files that this build has done:
those of them that cost more than what was worked on it so far, and one that costs `OVERRUN` more,
which stands for what has not been seen yet.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import islice

from compilefarm.core.model import Host, Lease, Request
from compilefarm.core.placement.earliest.builds import Build
from compilefarm.core.placement.earliest.speed_classes import (
    CLASS_RATIO,
    Place,
    Running,
    class_index,
)
from compilefarm.core.placement.earliest.turns import Turns

# A compile that took longer than all that is known of is expected to take this much more of the
# work done on it. Nothing is lost where that is too much.
OVERRUN = 4.0
# A learned cost holds until the work is this much more; then the file is one that nobody knows.
KNOWN_WITHIN = 1.25
# Slots faster by less than this are not worth a second attempt.
FASTER = 1.3
# Where the backup is not expected to end first, the least chance that it does.
LEAST_CHANCE = 0.2
# To begin again costs this, and the builder's preprocessing twice over: it is busy meanwhile.
RESTART_S = 0.002
# A slot that came free is idle when the build that had it has not asked again for so many times the
# time in which it usually does.
GAPS = 4.0
# And so much later after each backup that was taken back again, up to a limit: slots are idle for
# moments only. Each that was not halves it.
TAKEN_BACK_S = 0.01
WAIT_LIMIT_S = 0.5
# Nothing changed: look again when the youngest of the leases has run for this much longer.
AGAIN = 0.02
# And for each lease that was looked at, so that this takes a small part of the time.
AGAIN_FOR_EACH_S = 1e-4
# A client that gave up so many backups of a compile is offered no more: the source has an error in
# it, or something else than speed is amiss, and each attempt costs the builder a preprocessing.
REFUSALS = 2
# Leases of one class that are looked at, the oldest first.
LOOKED_AT = 64
_FASTER_CLASSES = math.log(FASTER) / math.log(CLASS_RATIO)


@dataclass(slots=True, eq=False)
class _Candidate:
    """A lease that may have a backup, and the one that it has. `index` is its class of now."""

    running: Running
    build: Build
    index: int
    backup: Running | None = None
    refusals: int = 0

    def speed(self) -> float:
        """Return how fast it runs now: its host's owner may have come to need his CPUs."""
        place = self.running.place
        slots, in_use = sum(part.slots for part in place.parts()), place.host.in_use
        if slots >= in_use:
            return self.running.speed
        return self.running.speed * max(slots, 0.5) / in_use


# How much its user was served, minus its expected end, a number that tells equals apart.
_Ranked = tuple[float, float, int, _Candidate]


class Backups:
    """The leases that have a backup, and those that may come to have one.

    `turns_of` says what slots a request may have.
    """

    def __init__(self, turns_of: Callable[[Build, Request], Turns]) -> None:
        self._turns_of = turns_of
        self._candidates: dict[int, _Candidate] = {}
        self._by_class: dict[int, dict[int, _Candidate]] = {}  # oldest first
        self._having: dict[int, _Candidate] = {}  # a backup
        self._backups_of_class: dict[int, dict[int, Running]] = {}  # oldest first
        self._due = math.inf
        self._postponed = False
        self._wait_s = 0.0  # longer, since backups were taken back
        self._moving: _Candidate | None = None  # its backup ends, to begin again elsewhere
        self._ranking: list[_Ranked] = []  # who may have a backup now, a heap

    # -- leases come and go

    def leased(self, running: Running, build: Build) -> None:
        """Take note of a lease; only a client that can run a backup gets one."""
        if running.lease.request.can_back_up:
            candidate = _Candidate(running, build, running.index)
            self._candidates[running.lease.id] = candidate
            self._by_class.setdefault(running.index, {})[running.lease.id] = candidate

    def ended(self, running: Running, build: Build, free: Place | None, now: float) -> None:
        """Take note that a lease ended; `free` is the fastest free place: it may be of use."""
        number = running.lease.id
        candidate = self._candidates.pop(number, None)
        if candidate is not None:
            self._leave_class(candidate)
        if self._due == math.inf and free is not None and self._any_slower_than(free.index):
            self._due = now + self._idle_after_s(GAPS * build.gap_s)

    def host_changed(self, host: Host, now: float) -> None:
        """Take note that a host may be faster or slower now."""
        self._ranking.clear()
        for number in host.leases:
            candidate = self._candidates.get(number)
            if candidate is not None and candidate.running.lease.host is host:
                index = class_index(candidate.speed())
                if index != candidate.index:
                    self._leave_class(candidate)
                    candidate.index = index
                    self._by_class.setdefault(index, {})[number] = candidate
        if self._candidates:
            self._due = min(self._due, now + self._idle_after_s())

    def _idle_after_s(self, gap_s: float = 0.0) -> float:
        """Return for how long a slot must have been free to count as idle."""
        return max(RESTART_S, min(gap_s + self._wait_s, WAIT_LIMIT_S))

    def began(self, backup: Running, now: float) -> None:
        """Take note of a backup."""
        candidate = self._candidates[backup.lease.id]
        candidate.backup = backup
        self._having[backup.lease.id] = candidate
        self._backups_of_class.setdefault(backup.index, {})[backup.lease.id] = backup
        self._due = now

    def over(self, lease: Lease, now: float, *, refused: bool = False) -> tuple[Running, Build]:
        """Take note that a backup ended, by its client's wish if `refused`; return its books."""
        candidate = self._having.pop(lease.id)
        if candidate is self._moving:
            self._moving = None
        elif lease.id in self._candidates:  # the first attempt goes on
            self._wait_s = min(max(TAKEN_BACK_S, 2.0 * self._wait_s), WAIT_LIMIT_S)
        else:
            self._wait_s /= 2.0
        self._due = min(self._due, now + self._idle_after_s())
        candidate.refusals += refused
        if candidate.refusals >= REFUSALS and self._candidates.pop(lease.id, None) is not None:
            self._leave_class(candidate)
        backup, candidate.backup = candidate.backup, None
        assert backup is not None
        alike = self._backups_of_class[backup.index]
        del alike[lease.id]
        if not alike:
            del self._backups_of_class[backup.index]
        return backup, candidate.build

    def running(self, lease: Lease) -> Running | None:
        """Return a backup's books."""
        candidate = self._having.get(lease.id)
        return candidate.backup if candidate is not None else None

    def _leave_class(self, candidate: _Candidate) -> None:
        members = self._by_class[candidate.index]
        del members[candidate.running.lease.id]
        if not members:
            del self._by_class[candidate.index]

    def _any_slower_than(self, index: int) -> bool:
        """Whether any lease runs on a slot that is slower by enough."""
        return any(each + _FASTER_CLASSES <= index for each in self._by_class)

    # -- the choice

    def next_due(self) -> float:
        """Return when `choose` may have another answer although nothing changed."""
        return self._due

    def lapse(self, now: float, waiting: bool, free: Place | None) -> None:
        """Take note that time passed in which nothing could have been chosen, and nobody asked.

        To be told before anything changes, of who waited and what was free until now.
        """
        if self._due < now:
            if waiting:
                self.postpone(now)
            elif free is None:
                self._due = math.inf

    def postpone(self, now: float) -> None:
        """Leave the choice, if it is due, until nobody waits any more."""
        if now >= self._due:
            self._due, self._postponed = math.inf, True

    def resume(self, now: float) -> None:
        """Take note that nobody waits any more."""
        if self._postponed:
            self._due, self._postponed = now + self._idle_after_s(), False

    def any(self) -> bool:
        """Whether there are any."""
        return bool(self._having)

    def choose(self, free: Place | None, now: float) -> tuple[Lease, Place] | None:
        """Return a lease that is to have a backup, and the free place for it.

        `free` is the fastest of all free places. Among those that a free slot may end sooner it is
        one of the least served user's: the one that is expected to end last. To be asked when
        nothing waits, and until it says None: so all are looked at once, not for each backup.
        """
        if now < self._due:
            return None
        chosen = self._next_ranked(now)
        if chosen is None:
            again_s = self._rank(free, now) if free is not None else math.inf
            chosen = self._next_ranked(now)
            if chosen is None:
                self._due = now + again_s
                return None
        self._due = math.inf
        candidate, place = chosen
        self._moving = candidate if candidate.backup is not None else None
        return candidate.running.lease, place

    def _rank(self, free: Place, now: float) -> float:
        """Rank those who may have a backup; return after how long it is worth another look."""
        seen, youngest = 0, -math.inf
        for number, (candidate, place) in enumerate(self._slower_than(free)):
            running = candidate.running
            if place.host is not running.lease.host:
                seen, youngest = seen + 1, max(youngest, running.start_s)
            end = _end_with(candidate, place, now)
            if end is not None:
                self._ranking.append((candidate.build.user.served, -end, number, candidate))
        heapify(self._ranking)
        if not seen:
            return math.inf
        return max(RESTART_S, AGAIN * (now - youngest), AGAIN_FOR_EACH_S * seen)

    def _next_ranked(self, now: float) -> tuple[_Candidate, Place] | None:
        """Return the first who may still have a backup: the fastest slots went to those before."""
        aside = []  # the slot that they could have is on the very host that they run on
        chosen = None
        while self._ranking and chosen is None:
            entry = heappop(self._ranking)
            candidate = entry[3]
            place = self._turns_of(candidate.build, candidate.running.lease.request).free()
            if place is None or not _is_faster(place, candidate):
                continue
            if _end_with(candidate, place, now) is None:
                continue
            if place.host is candidate.running.lease.host:
                aside.append(entry)
            else:
                chosen = candidate, place
        for entry in aside if chosen is not None else ():
            heappush(self._ranking, entry)
        return chosen

    def in_the_way(self, contested: Collection[Turns]) -> Lease | None:
        """Return a backup on a slot that somebody who waits would have instead.

        Those who wait are asked once of each class, and then almost any backup of it will do.
        """
        for index in sorted(self._backups_of_class, reverse=True):
            wanting = [turns for turns in contested if _wants(turns, index)]
            for backup in self._backups_of_class[index].values() if wanting else ():
                if any(_may_have(turns, backup) for turns in wanting):
                    return backup.lease
        return None

    def _slower_than(self, fastest_free: Place) -> Iterator[tuple[_Candidate, Place]]:
        """Yield leases with a free place for each that is faster by enough."""
        free: dict[Turns, Place | None] = {}
        for index, members in self._by_class.items():
            if index + _FASTER_CLASSES > fastest_free.index:
                continue
            for candidate in islice(members.values(), LOOKED_AT):
                turns = self._turns_of(candidate.build, candidate.running.lease.request)
                if turns not in free:
                    free[turns] = turns.free()
                place = free[turns]
                if place is not None and _is_faster(place, candidate):
                    yield candidate, place


def _is_faster(place: Place, candidate: _Candidate) -> bool:
    """Whether a place is of a class that is faster by enough."""
    return place.index >= candidate.index + _FASTER_CLASSES


def _wants(turns: Turns, index: int) -> bool:
    """Whether the next that waits would rather have a slot of a class than the fastest free one."""
    free = turns.free()
    if free is not None and free.index >= index:
        return False
    return bool(turns.overdue) or turns.first(index) is not None


def _may_have(turns: Turns, backup: Running) -> bool:
    """Whether those who wait may use the slot of a backup."""
    return turns.view in backup.place.views and backup.lease.host.name not in turns.avoid


def _end_with(candidate: _Candidate, place: Place, now: float) -> float | None:
    """Return when a compile is expected to end; None: a backup at that place has little use."""
    running, backup, build = candidate.running, candidate.backup, candidate.build
    if backup is not None and place.speed < FASTER * backup.speed:
        return None
    speed = candidate.speed()
    if place.speed < FASTER * speed:  # its class was an earlier speed's
        return None
    work = (now - running.start_s) * running.speed
    restart_s = RESTART_S + 2.0 * build.preprocess_s
    known = running.known and work < KNOWN_WITHIN * running.charged
    most = work if backup is None else max(work, (now - backup.start_s) * backup.speed)
    cost = max(running.charged, work) if known else _cost_above(most, build.costs)
    end = now + (cost - work) / speed
    if backup is not None:
        end = min(end, backup.start_s + cost / backup.speed)
    if end > now + restart_s + cost / place.speed:
        return end
    if known or backup is not None:
        return None
    # A file of how much more work would end there first, and how likely is it that this is one?
    needed = work + (restart_s + work / place.speed) / (1.0 / speed - 1.0 / place.speed)
    likely = (_above(needed, build.costs) + 1.0) / (_above(work, build.costs) + 1.0)
    return end if likely >= LEAST_CHANCE else None


def _above(work: float, costs: list[float]) -> int:
    """Return how many costs, of a sorted list, are above what was worked."""
    return len(costs) - bisect_right(costs, work)


def _cost_above(work: float, costs: list[float]) -> float:
    """Return the expected cost of a file on which so much work was done."""
    above = costs[bisect_right(costs, work) :]
    return (sum(above) + work * (1.0 + OVERRUN)) / (len(above) + 1)
