"""Backups: a second lease for a compile that runs on a slow slot, on a faster one that is idle.

The compile then runs on both, and the attempt that ends first counts. A file's cost is unknown
until it was compiled once, so a very long file may start on a slow slot. By the time that shows,
faster slots are often idle. A second attempt on one of them ends the build sooner. The first
attempt goes on, and the backup's slot is given up the moment a request wants it. So a backup uses
only idle slots, and no build ends later because of it. The idea is MapReduce's (Dean and Ghemawat,
2004).

The alternative is to move the compile, by ending the first attempt. That is half the work, but it
loses time when the file was almost done. A build then took up to a quarter longer than with the
compile left where it ran.

The cost of a file that has run for some time is estimated from the files that this build has done
(`DoneFiles.expected_cost`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import islice

from compilefarm.core.model import Host, Lease
from compilefarm.core.placement.earliest.builds import Build
from compilefarm.core.placement.earliest.leases import Leases
from compilefarm.core.placement.earliest.mechanisms import Mechanisms
from compilefarm.core.placement.earliest.queues import Reach
from compilefarm.core.placement.earliest.running import Running
from compilefarm.core.placement.earliest.speed_classes import CLASS_RATIO, Place, class_of
from compilefarm.core.placement.earliest.turns import Turns

# A learned cost holds until the work done is this many times as much. After that, the file's cost
# counts as unknown. Learned costs are right to about 10 %.
KNOWN_WITHIN_TIMES = 1.25
# Slots that are faster by less than this are not worth a second attempt.
FASTER_TIMES = 1.3
# A backup that is not expected to end first begins only if its chance to do so is at least this.
LEAST_CHANCE = 0.2
# The cost of beginning again, besides twice the builder's preprocessing time: the builder is busy
# meanwhile.
RESTART_S = 0.002
# A slot that came free counts as idle after this many times the mean gap of its build
# (`Rhythm.gap_s`) without a new request.
IDLE_AFTER_GAPS = 4.0
# Idle slots are often idle for moments only. After a backup was taken back, the next ones wait
# BACK_OFF_S longer. Each further one doubles that, up to the limit. Each backup that was not taken
# back halves it.
BACK_OFF_S, BACK_OFF_LIMIT_S = 0.01, 0.5
# If nothing changes, the leases are checked again when the age of the youngest has grown by this
# part. The wait is at least LOOK_AGAIN_EACH_S for each lease, to keep the use of CPU time low.
LOOK_AGAIN_PART, LOOK_AGAIN_EACH_S = 0.02, 1e-4
# A client that gave up this many backups of a compile is offered no more. The source may have an
# error in it, or the problem is not speed. Each attempt costs the builder a preprocessing.
REFUSALS = 2
# The most leases of one class that one check covers, the oldest first.
LOOKED_AT = 64
_FASTER_CLASSES = math.log(FASTER_TIMES) / math.log(CLASS_RATIO)


@dataclass(slots=True, eq=False)
class _Candidate:
    """A lease that may have a backup, and the one that it has.

    `class_index` is the class of its speed now, and `reach` the hosts that it may use.
    """

    running: Running
    build: Build
    reach: Reach
    class_index: int
    backup: Running | None = None
    refusals: int = 0

    def speed(self) -> float:
        """Return how fast it runs now; the host's owner may use some of its CPUs."""
        place = self.running.place
        slots, in_use = sum(part.slots for part in place.parts()), place.host.in_use
        if slots >= in_use:
            return self.running.speed
        return self.running.speed * max(slots, 0.5) / in_use

    def is_slower_than(self, place: Place) -> bool:
        """Whether a place is of a class that is faster by enough."""
        return place.class_index >= self.class_index + _FASTER_CLASSES


# The work that its user got; minus its expected end; a number that breaks ties.
_Ranked = tuple[float, float, int, _Candidate]


class Backups:
    """The leases that have a backup, by id in `having`, and those that may get one.

    At `due_s`, `choose` may have another answer although nothing changed. `postponed`: the choice
    was due while a request waited.
    """

    def __init__(self, leases: Leases, mechanisms: Mechanisms) -> None:
        self._leases = leases
        self._least_chance = LEAST_CHANCE if mechanisms.backup_chance else math.inf
        self._gaps = IDLE_AFTER_GAPS if mechanisms.backup_gap else 0.0
        self._back_off_limit_s = BACK_OFF_LIMIT_S if mechanisms.backup_back_off else 0.0
        self._moves = mechanisms.backup_moves
        self._candidates: dict[int, _Candidate] = {}
        self._by_class: dict[int, dict[int, _Candidate]] = {}  # oldest first
        self.having: dict[int, _Candidate] = {}
        self._backups_of_class: dict[int, dict[int, Running]] = {}  # oldest first
        self.due_s = math.inf
        self.postponed = False
        self._back_off_s = 0.0
        self._moving: _Candidate | None = None  # its backup ends, to begin again elsewhere
        self._ranking: list[_Ranked] = []  # a heap of those that may have a backup now

    # -- leases come and go

    def leased(self, running: Running, build: Build, reach: Reach) -> None:
        """Add a lease; only a client that can run a backup gets one."""
        if running.lease.request.can_back_up:
            candidate = _Candidate(running, build, reach, running.class_index)
            self._candidates[running.lease.id] = candidate
            self._by_class.setdefault(running.class_index, {})[running.lease.id] = candidate

    def ended(self, running: Running, build: Build, free: Place | None, now: float) -> None:
        """Drop a lease that ended; `free` is the fastest free place, for a backup."""
        candidate = self._candidates.pop(running.lease.id, None)
        if candidate is not None:
            self._leave_class(candidate)
        if self.due_s == math.inf and free is not None and self._any_slower_than(free):
            self.due_s = now + self._idle_after_s(self._gaps * build.rhythm.gap_s)

    def host_changed(self, host: Host, now: float) -> None:
        """Check a host's leases again: it may be faster or slower now."""
        self._ranking.clear()
        for number in host.leases:
            candidate = self._candidates.get(number)
            if candidate is not None and candidate.running.lease.host is host:
                class_index = class_of(candidate.speed())
                if class_index != candidate.class_index:
                    self._leave_class(candidate)
                    candidate.class_index = class_index
                    self._by_class.setdefault(class_index, {})[number] = candidate
        if self._candidates:
            self.due_s = min(self.due_s, now + self._idle_after_s())

    def regroup(self) -> None:
        """Find again which hosts each lease may use."""
        for candidate in self._candidates.values():
            candidate.reach = self._leases.reach_of(candidate.running.lease.request)

    def began(self, backup: Running, now: float) -> None:
        """Add a backup."""
        candidate = self._candidates[backup.lease.id]
        candidate.backup = backup
        self.having[backup.lease.id] = candidate
        self._backups_of_class.setdefault(backup.class_index, {})[backup.lease.id] = backup
        self.due_s = now

    def over(self, lease: Lease, now: float, *, refused: bool = False) -> tuple[Running, Build]:
        """Drop a backup that ended, `refused` by its client or not; return its record."""
        candidate = self.having.pop(lease.id)
        if candidate is self._moving:
            self._moving = None
        elif lease.id in self._candidates:  # the first attempt goes on
            back_off_s = max(BACK_OFF_S, 2.0 * self._back_off_s)
            self._back_off_s = min(back_off_s, self._back_off_limit_s)
        else:
            self._back_off_s /= 2.0
        self.due_s = min(self.due_s, now + self._idle_after_s())
        candidate.refusals += refused
        if candidate.refusals >= REFUSALS and self._candidates.pop(lease.id, None) is not None:
            self._leave_class(candidate)
        candidate.reach = self._leases.reach_of(lease.request)  # it may avoid the host now
        backup, candidate.backup = candidate.backup, None
        assert backup is not None
        alike = self._backups_of_class[backup.class_index]
        del alike[lease.id]
        if not alike:
            del self._backups_of_class[backup.class_index]
        return backup, candidate.build

    def running(self, lease: Lease) -> Running | None:
        """Return the record of a backup."""
        candidate = self.having.get(lease.id)
        return candidate.backup if candidate is not None else None

    def _idle_after_s(self, gap_s: float = 0.0) -> float:
        """Return for how long a slot must have been free to count as idle."""
        return max(RESTART_S, min(gap_s + self._back_off_s, BACK_OFF_LIMIT_S))

    def _leave_class(self, candidate: _Candidate) -> None:
        members = self._by_class[candidate.class_index]
        del members[candidate.running.lease.id]
        if not members:
            del self._by_class[candidate.class_index]

    def _any_slower_than(self, place: Place) -> bool:
        """Whether any lease runs on a slot that is slower by enough."""
        return min(self._by_class, default=math.inf) + _FASTER_CLASSES <= place.class_index

    # -- the choice

    def lapse(self) -> None:
        """Drop the choice that is due: there is no slot for a backup."""
        self.due_s = math.inf

    def postpone(self) -> None:
        """Postpone the choice that is due until no request waits."""
        self.due_s, self.postponed = math.inf, True

    def resume(self, now: float) -> None:
        """Make the postponed choice due: no request waits."""
        self.due_s, self.postponed = now + self._idle_after_s(), False

    def choose(self, free: Place | None, now: float) -> tuple[Lease, Place] | None:
        """Return a lease that gets a backup now, and the free place for it.

        `free` is the fastest of all free places. The candidates are the leases that a free slot may
        end sooner. Those of the least served user go first, and among them the one that is expected
        to end last. The caller asks when the choice is due and no request waits, until the answer
        is None. So all leases are checked once, and not for each backup.
        """
        chosen = self._next_ranked(now)
        if chosen is None:
            again_s = self._rank(free, now) if free is not None else math.inf
            chosen = self._next_ranked(now)
            if chosen is None:
                self.due_s = now + again_s
                return None
        self.due_s = math.inf
        candidate, place = chosen
        self._moving = candidate if candidate.backup is not None else None
        return candidate.running.lease, place

    def _rank(self, free: Place, now: float) -> float:
        """Rank the leases that may have a backup; return after how many seconds to rank again."""
        seen, youngest_s = 0, -math.inf
        for number, (candidate, place) in enumerate(self._slower_than(free)):
            running = candidate.running
            if place.host is not running.lease.host:
                seen, youngest_s = seen + 1, max(youngest_s, running.start_s)
            end_s = self._end_with(candidate, place, now)
            if end_s is not None:
                self._ranking.append((candidate.build.user.served, -end_s, number, candidate))
        heapify(self._ranking)
        if not seen:
            return math.inf
        return max(RESTART_S, LOOK_AGAIN_PART * (now - youngest_s), LOOK_AGAIN_EACH_S * seen)

    def _next_ranked(self, now: float) -> tuple[_Candidate, Place] | None:
        """Return the first that may still have a backup: the fastest slots went to those before."""
        aside = []  # the fastest free slot is on the host where the lease runs
        chosen = None
        while self._ranking and chosen is None:
            entry = heappop(self._ranking)
            candidate = entry[3]
            view, avoid = candidate.reach
            place = view.fastest_free(avoid)
            if place is None or not candidate.is_slower_than(place):
                continue
            if self._end_with(candidate, place, now) is None:
                continue
            if place.host is candidate.running.lease.host:
                aside.append(entry)
            else:
                chosen = candidate, place
        for entry in aside if chosen is not None else ():
            heappush(self._ranking, entry)
        return chosen

    def in_the_way(self, contested: Collection[Turns]) -> Lease | None:
        """Return a backup whose slot a waiting request should have instead.

        `contested` are the turns with waiting requests. Each is asked once for each class. Then
        almost any backup of that class can be returned.
        """
        for class_index in sorted(self._backups_of_class, reverse=True):
            wanting = [turns for turns in contested if _wants(turns, class_index)]
            for backup in self._backups_of_class[class_index].values() if wanting else ():
                if any(_may_have(turns, backup) for turns in wanting):
                    return backup.lease
        return None

    def _slower_than(self, fastest_free: Place) -> Iterator[tuple[_Candidate, Place]]:
        """Yield leases with a free place for each that is faster by enough."""
        free: dict[Reach, Place | None] = {}
        for class_index, members in self._by_class.items():
            if class_index + _FASTER_CLASSES > fastest_free.class_index:
                continue
            for candidate in islice(members.values(), LOOKED_AT):
                reach = candidate.reach
                if reach not in free:
                    view, avoid = reach
                    free[reach] = view.fastest_free(avoid)
                place = free[reach]
                if place is not None and candidate.is_slower_than(place):
                    yield candidate, place

    def _end_with(self, candidate: _Candidate, place: Place, now: float) -> float | None:
        """Return when a compile is expected to end; None: a backup there is of little use."""
        running, backup, build = candidate.running, candidate.backup, candidate.build
        if backup is not None and (not self._moves or place.speed < FASTER_TIMES * backup.speed):
            return None
        speed = candidate.speed()
        if place.speed < FASTER_TIMES * speed:  # its class was an earlier speed's
            return None
        work = running.work(now)
        restart_s = RESTART_S + 2.0 * build.rhythm.preprocess_s
        known = running.known and work < KNOWN_WITHIN_TIMES * running.charged
        if known:
            cost = max(running.charged, work)
        else:
            most = work if backup is None else max(work, backup.work(now))
            cost = build.done.expected_cost(most)
        end_s = now + (cost - work) / speed
        if backup is not None:
            end_s = min(end_s, backup.start_s + cost / backup.speed)
        if end_s > now + restart_s + cost / place.speed:
            return end_s
        if known or backup is not None:
            return None
        # How much work must the file have to end there first, and how likely is that?
        needed = work + (restart_s + work / place.speed) / (1.0 / speed - 1.0 / place.speed)
        chance = (build.done.above(needed) + 1.0) / (build.done.above(work) + 1.0)
        return end_s if chance >= self._least_chance else None


def _wants(turns: Turns, class_index: int) -> bool:
    """Whether the next request prefers a slot of that class to the fastest free one."""
    free = turns.free_place()
    if free is not None and free.class_index >= class_index:
        return False
    return bool(turns.overdue) or turns.first(class_index) is not None


def _may_have(turns: Turns, backup: Running) -> bool:
    """Whether the waiting requests may use the slot of a backup."""
    return turns.view in backup.place.views and backup.lease.host.name not in turns.avoid
