"""Each compile where it finishes first: the policy `earliest`, and the default.

The rule. For every build there is R, the least time that the rest of it can take: what waits, what
runs, and what the last build says is still to come, spread over the fastest slots that it can have.
A waiting file may start on the fastest free slot if it ends there within about R, for then it
delays nobody. If it would not, it waits, unless no busy faster slot would finish it sooner either.
Among the files that may start, the longest goes first; but while a file as long as the longest
waiting one is still to come, the shortest does, because a make -jN shows us that file only when
enough others are done. Whether to hurry in this way, and how tight to hold the limit, is settled by
playing the rest of the build forward (`look_ahead`), on a budget.

In the middle of a build R is large, nothing waits, and the fastest slots are kept busy; towards the
end R shrinks, and slow slots are left alone. A first build has no outlook, so R is unknown;
`_limit_cold` stands in for it.

Between users, the one whose compiles got the least work so far is served first. A request is passed
over for a bounded time only (`_patience_ends`); then it goes before all others on the next slot
that it may have.

The whole is event-driven: a build that sleeps is asked again when a better slot comes free, when it
asks or ends something itself, when its own next lease is expected to end, or when a host or its
share of the farm changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice

from compilefarm.learning import Learning, crowding
from compilefarm.model import Host, Lease, Load, Outcome, Request, Signature
from compilefarm.placement import Standing
from compilefarm.placement.builds import (
    EPSILON_S,
    OVER_AFTER_S,
    STEADY,
    Build,
    BuildKey,
    Queue,
    Waiting,
)
from compilefarm.placement.look_ahead import HURRY_FROM, MODES, Rest
from compilefarm.placement.speed_classes import ANY_CLASS, Place, Running, View, class_index, trim
from compilefarm.placement.tier import tier_of

# A first build, of which nothing says how long the rest of it is: docs/scheduling.md has the
# reasons. The rest is at least this part of the time that the farm takes for what is outstanding,
# and less for slots that, with all that are slower, bring little of what the build can have.
COLD_QUEUE = 0.25
COLD_BRINGS = 1.0 / 6.0
COLD_FASTEST = 1.35  # a slot this much slower than the fastest is always good
COLD_TYPICAL_FILES = 16  # after so many, a typical file is known well enough to compare ends
# With slots to spare, any slot within this factor of the fastest is good; so it is in a build that
# has had so many files for each slot, for it will go on.
COLD_SPREAD = 4.0
COLD_ROUNDS = 8.0

LOOK_AHEAD_FILES = 400  # play forward only a rest this small
STEPS_EARNED = 4  # by each grant and each end
STEPS_SAVED = 2000
STEPS_AT_ONCE = 400  # the longest that one decision stalls: about half a millisecond
SWITCH_GAIN = 1.02  # what another mode must promise, to be taken

# Turnovers of its own build's queue that a request may be passed over. Fewer cut into healthy
# builds.
PATIENCE = 8.0
OVERDUE_AT_ONCE = 16

# Foreign CPU use below this is the noise of any living desktop.
FOREIGN_NOISE_CPUS = 0.3
# Memory that is left alone, so that the owner's next click does not swap.
MEMORY_RESERVE_MB = 256.0
# A host whose CPUs are not all taken has tasks waiting for CPUs this part of the time, at most, for
# no reason.
PRESSURE_NORMAL = 0.2
# A host counts as filled from when it is, or will be with what waits, so crowded; and until when.
FILLED_FROM, FILLED_UNTIL = 0.6, 0.2
# What a slot brings, at least, on a core that is in use already: as a part of its speed alone.
LEAST_LATER_PART = 0.05
# A host is worth measuring when what is known of its speed is less sure than this: some 30 % off.
SURE_FROM = 0.7
LOOK_AGAIN_S = 3600.0
MEASURE_AGAIN_S = 60.0
# What a measuring compile may take, as a part of the rest of the build.
MEASURING_PART = 0.05
UNSURE_AT_ONCE = 4  # hosts that one decision looks at
# A speed that moved by less is not worth a look at every waiting build.
SPEED_MOVED = 0.01
# A build that refused a slot is not asked again sooner on account of its own expected ends: on a
# large farm one of them is due at every moment.
ASK_AGAIN_S = 0.01
# While nothing waits, nobody asks when leases end, and most have ended before anybody does; so the
# expected ends of this many are entered only on demand. More would make the demand a stall.
UNENTERED_LIMIT = 256


@dataclass(slots=True, eq=False)
class _User:
    """Work that a user's compiles got: virtual time, in seconds at power index 1."""

    served: float = 0.0
    active: int = 0  # builds with anything outstanding
    builds: int = 0


@dataclass(slots=True, eq=False)
class _Group:
    """Hosts that the same requests may use."""

    places: dict[str, Place] = field(default_factory=dict)
    views: list[View] = field(default_factory=list)


class EarliestPolicy:
    """Earliest completion as a `Policy`, on what `learning` has learned."""

    name = "earliest"

    def __init__(self, learning: Learning) -> None:
        self.learning = learning
        self._places: dict[str, Place] = {}
        self._groups: dict[Signature, _Group] = {}
        self._signature_of: dict[str, Signature] = {}
        self._standings: dict[str, Standing] = {}
        self._leases_at_report: dict[str, tuple[Load, int]] = {}
        self._farm = View(frozenset())
        self._views: dict[frozenset[Signature], View] = {}
        self._users: dict[str, _User] = {}
        self._builds: dict[BuildKey, Build] = {}
        self._idle: dict[BuildKey, None] = {}  # builds with nothing outstanding, longest idle first
        self._waiting: dict[int, Waiting] = {}
        # Nothing else waits, so it is queued only if it cannot start at once.
        self._lone: Waiting | None = None
        self._running: dict[int, Running] = {}
        self._unentered: list[tuple[Build, Running]] = []  # leases, ends not yet entered
        self._ready: dict[BuildKey, None] = {}  # builds worth asking
        self._asleep: dict[int, dict[BuildKey, None]] = {}  # by the class that they refused
        self._alarms: list[tuple[float, BuildKey]] = []  # ask that build again then
        self._fresh: list[Waiting] = []  # came since the last decision
        self._unsure: dict[str, Place] = {}  # hosts worth measuring
        self._unsure_at: list[tuple[float, str]] = []  # look at that host's confidence again then
        self._patience: list[tuple[float, int, Waiting]] = []
        self._overdue: dict[int, Waiting] = {}
        self._active = 0
        self._served_floor = 0.0  # by the least served active user
        self._serial = 0

    # -- hosts

    def host_changed(self, host: Host, now: float) -> None:
        """See `Policy`."""
        listed = host.listed
        self.learning.declare(
            host.name, host.power_index, pinned=listed is not None and listed.pinned
        )
        signature = host.signature
        if self._signature_of.get(host.name) != signature:
            self._move_group(host, signature)
        place = self._places[host.name]
        speed, slots, reason = self._usable(host)
        tier = tier_of(speed) if slots else None
        self._standings[host.name] = Standing(tier, reason)
        place.full_part = self.learning.full_part(host.name)
        self._crowd(place, now)
        wanted = self._parts(place, speed, slots)
        parts = list(place.parts())
        if (
            len(parts) == len(wanted)
            and all(
                abs(speed - part.speed) <= SPEED_MOVED * part.speed and slots == part.slots
                for (speed, slots), part in zip(wanted, parts, strict=True)
            )
            and host.in_use == sum(part.busy for part in parts)
        ):
            return
        views = self._groups[signature].views
        only_speed = [slots for _, slots in wanted] == [part.slots for part in parts]
        for view in views:
            for part in place.parts():
                view.count(part, -1)
        if place.later is not None:
            place.later.stamp += 1
            place.later = None
        if len(wanted) == 2:
            place.later = Place(host, views=views)
        for part, (part.speed, part.slots) in zip(place.parts(), wanted, strict=True):
            part.index = class_index(part.speed)
        place.occupy(host.in_use)
        for view in views:
            for part in place.parts():
                view.count(part, +1)
                view.offer(part)
        if only_speed:  # on a large farm, some host's speed is learned with every compile
            self._wake_below(place.index)
        else:
            self._wake_all()

    def _parts(self, place: Place, speed: float, slots: int) -> list[tuple[float, int]]:
        """Return a host's slots by what each brings, the fastest first, as (speed, slots).

        Where slots share cores, those used last add only what the cores have left: with n slots
        that keep a part p of their speed when all are in use, n * p in all, of which the first
        half are the n / 2 that they have alone. While all of them are in use, each has p.
        """
        host, part = place.host, place.full_part
        if part == 1.0:
            return [(speed, slots)]
        if place.filled:
            return [(speed * part, slots)]
        first = (host.slots + 1) // 2
        if host.load is not None:
            first -= round(min(max(0.0, host.load.foreign_cpus), float(first)))
        if slots <= first:
            return [(speed, slots)]
        return [(speed, first), (speed * max(LEAST_LATER_PART, 2.0 * part - 1.0), slots - first)]

    def _crowd(self, place: Place, now: float) -> None:
        """Bring up to date how crowded a host is, by the farm and by its owner."""
        host = place.host
        in_use: float = host.in_use
        if host.load is not None:
            in_use += host.load.foreign_cpus
        if place.crowding or 2.0 * in_use > host.slots:  # else it was and is not crowded
            place.crowd(crowding(in_use, host.slots), now)
        if place.full_part == 1.0:
            place.filled = False
            return
        # What waits will take what is free, here as everywhere.
        free = max(1, self._farm.slots - len(self._running))
        in_use += max(0.0, host.slots - in_use) * min(1.0, len(self._waiting) / free)
        soon = crowding(in_use, host.slots)
        place.filled = soon >= (FILLED_UNTIL if place.filled else FILLED_FROM)

    def host_forgotten(self, host: Host) -> None:
        """See `Policy`."""
        self._leave_group(host.name)
        self._places.pop(host.name)
        self._unsure.pop(host.name, None)
        del self._standings[host.name]
        self._leases_at_report.pop(host.name, None)
        self._wake_all()

    def _usable(self, host: Host) -> tuple[float, int, str]:
        """Return a host's speed now, its slots that may be used, and why not all of them."""
        speed = self.learning.speed(host.name)
        if not host.up:
            return speed, 0, host.reason
        load = host.load
        if load is None:
            return speed, host.slots, ""
        slots, reasons = host.slots, []
        cpus = load.cpus or host.capacity
        if load.foreign_cpus > FOREIGN_NOISE_CPUS:
            left = int(max(0.0, cpus - load.foreign_cpus + 0.5))
            if left < slots:
                slots = left
                reasons.append(f"{load.foreign_cpus:.1f} of {cpus} CPUs are in foreign use")
        room = self._memory_room(host, load)
        if room is not None and room < slots:
            slots = room
            reasons.append(f"memory for {room} compiles: {load.memory_free_mb:.0f} MB are free")
        if load.cpu_pressure is not None and load.own_cpus + load.foreign_cpus < cpus - 0.5:
            stalled = max(0.0, min(load.cpu_pressure, 1.0) - PRESSURE_NORMAL)
            if stalled > 0.0:
                speed *= 1.0 - stalled
                reasons.append(f"tasks wait for a CPU {100 * load.cpu_pressure:.0f} % of the time")
        if slots == 0:
            reasons.insert(0, "out of use")
        return speed, slots, "; ".join(reasons)

    def _memory_room(self, host: Host, load: Load) -> int | None:
        """Return how many compiles fit a host's memory, those counted that ran when it reported."""
        if load.memory_free_mb is None or not math.isfinite(load.memory_free_mb):
            return None
        report = self._leases_at_report.get(host.name)
        if report is None or report[0] is not load:
            report = self._leases_at_report[host.name] = (load, len(host.leases))
            if load.compile_memory_mb is not None:
                for directory in {lease.request.directory for lease in host.leases.values()}:
                    self.learning.observe_memory(directory, load.compile_memory_mb)
        needs_mb = max(
            (self.learning.memory_mb(build.key[2]) for build in self._builds.values()),
            default=self.learning.memory_mb(""),
        )
        return report[1] + max(0, int((load.memory_free_mb - MEMORY_RESERVE_MB) / needs_mb))

    def _move_group(self, host: Host, signature: Signature) -> None:
        """Put a host among those that the same requests may use."""
        if host.name in self._signature_of:
            self._leave_group(host.name)
        place = self._places.get(host.name)
        if place is None:
            place = self._places[host.name] = Place(host)
            heappush(self._unsure_at, (-math.inf, host.name))
        self._signature_of[host.name] = signature
        group = self._groups.get(signature)
        if group is None:
            group = self._groups[signature] = _Group()
            group.places[host.name] = place
            self._regroup()
            return
        group.places[host.name] = place
        for part in place.parts():
            part.views = group.views
            for view in group.views:
                view.count(part, +1)
                view.offer(part)

    def _leave_group(self, name: str) -> None:
        signature = self._signature_of.pop(name)
        group = self._groups[signature]
        place = group.places.pop(name)
        for part in place.parts():
            part.stamp += 1
            part.views = ()
            for view in group.views:
                view.count(part, -1)
        if not group.places:
            del self._groups[signature]
            self._regroup()

    def _regroup(self) -> None:
        """Make all views anew and put what waits into them: other kinds of hosts are here now."""
        self._views = {}
        for group in self._groups.values():
            group.views = []
        self._farm = self._view(frozenset(self._groups))
        for build in self._builds.values():
            waiting = [each for queue in build.queues.values() for each in queue.all()]
            build.queues = {}
            build.queue_of = {}
            for each in sorted(waiting, key=lambda each: each.number):
                each.queue = self._queue(build, each.request)
                each.queue.put(each)
            build.share_cache = (-1, -1, 0.0)
        self._wake_all()

    def _view(self, signatures: frozenset[Signature]) -> View:
        view = self._views.get(signatures)
        if view is None:
            view = self._views[signatures] = View(signatures)
            for signature in signatures:
                group = self._groups[signature]
                group.views.append(view)
                for place in group.places.values():
                    for part in place.parts():
                        part.views = group.views
                        view.count(part, +1)
                        view.offer(part)
            for running in self._running.values():
                if self._signature_of.get(running.lease.host.name) in signatures:
                    self._serial += 1
                    view.expect(running, self._serial)
        return view

    def _queue(self, build: Build, request: Request) -> Queue:
        queue = build.queue_of.get(request.restriction)
        if queue is not None:
            return queue
        signatures = frozenset(signature for signature in self._groups if request.admits(signature))
        key = (signatures, request.avoid)
        queue = build.queues.get(key)
        if queue is None:
            queue = build.queues[key] = Queue(self._view(signatures), request.avoid)
        build.queue_of[request.restriction] = queue
        return queue

    # -- requests

    def arrived(self, request: Request, now: float) -> None:
        """See `Policy`."""
        build = self._build_of(request, now)
        build.arrive(request.source, now)
        if not (build.held or build.waiting):
            self._activate(build)
        self._serial += 1
        waiting = Waiting(
            request,
            build,
            self._queue(build, request),
            self.learning.cost(request.directory, request.source),
            self._serial,
            now,
        )
        self._waiting[request.id] = waiting
        if len(self._waiting) == 1 and build.gathers_until < now:
            self._lone = waiting
        else:
            self._put(waiting, now)

    def _put(self, waiting: Waiting, now: float) -> None:
        """Queue a request, beside others or for later."""
        request, build = waiting.request, waiting.build
        build.put(waiting)
        self._fresh.append(waiting)
        build.gather(request, now)
        if now < build.gathers_until:
            self._set_alarm(build, build.gathers_until)
        else:
            self._ask(build)

    def withdrawn(self, request: Request, now: float) -> None:
        """See `Policy`."""
        build = self._unqueue(request)
        build.last_event = now
        self._rest_if_idle(build)

    def granted(self, lease: Lease, now: float) -> None:
        """See `Policy`."""
        waiting = self._waiting[lease.request.id]
        build = self._unqueue(lease.request)
        place = self._places[lease.host.name]
        taken, speed = place, place.speed
        if place.later is not None:
            taken = next((part for part in place.parts() if part.busy < part.slots), place)
            speed *= place.full_part**place.crowding
        cost = waiting.cost if waiting.cost is not None else build.typical(now)
        running = Running(
            lease,
            place,
            speed,
            taken.index,
            lease.granted,
            cost,
            lease.granted + build.preprocess_s + cost / speed,
            place.crowded_s,
        )
        self._running[lease.request.id] = running
        build.start(running)
        self._charge(build, cost)
        self._unentered.append((build, running))
        if len(self._unentered) > UNENTERED_LIMIT:
            self._drop_ended()
        self._occupied(place, now)
        build.asked += 1
        build.credit = min(build.credit + STEPS_EARNED, STEPS_SAVED)

    def ended(self, lease: Lease, outcome: Outcome, now: float) -> None:
        """See `Policy`."""
        running = self._running.pop(lease.request.id)
        build = self._builds[_key(lease.request)]
        whole = outcome.exit == 0 and not outcome.failed and not lease.disturbed
        work = build.end(running, now, whole)
        running.end_s = -1.0  # its entries in heaps are out of date
        self._charge(build, work - running.charged)
        self._occupied(running.place, now)
        if whole:
            self._learn(running, outcome, now)
            if outcome.cpu_s is not None and 0.0 <= outcome.cpu_s <= now - lease.granted:
                build.preprocessed(outcome.cpu_s)
        build.credit = min(build.credit + STEPS_EARNED, STEPS_SAVED)
        if build.waiting:
            self._ask(build)
        if not self._running:
            self._wake_all()
        elif self._asleep:
            self._wake_below(running.index)
        self._rest_if_idle(build)

    def _learn(self, running: Running, outcome: Outcome, now: float) -> None:
        """Learn from a compile that ran whole, on its first host, and as long as we saw it run."""
        lease = running.lease
        request, leased_s = lease.request, now - lease.granted
        wall_s = outcome.wall_s if outcome.wall_s is not None else leased_s
        if request.avoid or not 0.0 < wall_s <= leased_s + 1.0:
            return
        remote_s = wall_s - min(outcome.cpu_s or 0.0, 0.9 * wall_s)
        crowded_s = running.place.crowded_s - running.crowded_s
        crowded_part = min(1.0, crowded_s / max(leased_s, EPSILON_S))
        for name in self.learning.observe(
            request.directory, request.source, lease.host.name, remote_s, now, crowded_part
        ):
            place = self._places.get(name)
            if place is not None:
                self.host_changed(place.host, now)

    def _build_of(self, request: Request, now: float) -> Build:
        """Return the build that a request belongs to, which may begin with it."""
        if self._idle:
            for key in list(self._over(now)):
                self._close(key)
        key = _key(request)
        build = self._builds.get(key)
        if build is None:
            directory = request.directory
            build = self._builds[key] = Build(
                key, self.learning.outlook(directory), self.learning.jobs(directory)
            )
            build.credit = STEPS_SAVED
            self._users.setdefault(request.user, _User()).builds += 1
        self._idle.pop(key, None)
        return build

    def _over(self, now: float) -> Iterator[BuildKey]:
        for key in self._idle:
            if now - self._builds[key].last_event < OVER_AFTER_S:
                return
            yield key

    def _close(self, key: BuildKey) -> None:
        """Remember a build that is over, for the next one."""
        del self._idle[key]
        build = self._builds.pop(key)
        self._ready.pop(key, None)
        self.learning.build_ended(key[2], build.seen, build.most_outstanding)
        user = self._users[key[0]]
        user.builds -= 1
        if not user.builds:
            del self._users[key[0]]

    def _activate(self, build: Build) -> None:
        user = self._users[build.key[0]]
        if not user.active:
            user.served = max(user.served, self._served_floor)
        user.active += 1
        self._active += 1

    def _rest_if_idle(self, build: Build) -> None:
        if build.held or build.waiting:
            return
        self._users[build.key[0]].active -= 1
        self._active -= 1
        self._idle[build.key] = None
        if self._active:
            self._wake_all()  # everybody's share grew

    def _unqueue(self, request: Request) -> Build:
        waiting = self._waiting.pop(request.id)
        if waiting is self._lone:
            self._lone = None
            return waiting.build
        self._overdue.pop(request.id, None)
        if self._fresh and self._fresh[-1] is waiting:
            self._fresh.pop()
        waiting.build.drop(waiting)
        return waiting.build

    def _charge(self, build: Build, work: float) -> None:
        build.served += work
        self._users[build.key[0]].served += work

    # -- the decision

    def next_grant(self, now: float) -> tuple[Request, Host] | None:
        """See `Policy`."""
        lone = self._lone
        if lone is not None:
            place = lone.queue.view.fastest_free(lone.queue.avoid)
            if place is not None and lone.queue.view.is_fastest(place):
                return lone.request, place.host
            self._lone = None
            self._put(lone, now)
        if self._fresh and self._fresh[0].arrived < now:
            self._begin_patience()
        if self._patience and self._patience[0][0] <= now:
            self._note_overdue(now)
        while self._alarms and self._alarms[0][0] <= now:
            due, key = heappop(self._alarms)
            alarmed = self._builds.get(key)
            if alarmed is not None and alarmed.alarm == due:
                alarmed.alarm = math.inf
                self._ask(alarmed)
        if not (self._ready or self._overdue) or self._farm.fastest_free() is None:
            return None
        for waiting in self._overdue.values():
            place = waiting.queue.view.fastest_free(waiting.queue.avoid)
            if place is not None:
                return waiting.request, place.host
        for build in self._least_served_first():
            choice = self._choose(build, now)
            if choice is not None:
                return choice[0].request, choice[1].host
            del self._ready[build.key]
        return None

    def next_deadline(self) -> float | None:
        """See `Policy`."""
        if self._fresh:
            self._begin_patience()
        if not self._waiting:
            return None
        while self._patience and self._patience[0][2].request.id not in self._waiting:
            heappop(self._patience)
        due = self._patience[0][0] if self._patience else math.inf
        if self._alarms:
            due = min(due, self._alarms[0][0])
        return None if due == math.inf else due

    def hopeless(self, request: Request) -> str | None:
        """See `Policy`."""
        signatures = [signature for signature in self._groups if request.admits(signature)]
        for signature in signatures:
            for name, place in self._groups[signature].places.items():
                if name not in request.avoid and any(part.slots for part in place.parts()):
                    return None
        if not self._farm.slots:
            return "no host is available"
        if any(
            part.slots
            for signature in signatures
            for place in self._groups[signature].places.values()
            for part in place.parts()
        ):
            return "no host is left that was not to be avoided"
        if request.type:
            return f"no host of type {request.type}"
        return f"no host with compiler {request.compiler}"

    def ahead(self, request: Request) -> int:
        """See `Policy`."""
        return len(self._waiting) - 1

    def expected_s(self, lease: Lease) -> float | None:
        """See `Policy`."""
        request, running = lease.request, self._running[lease.id]
        cost = self.learning.cost(request.directory, request.source)
        if cost is None:
            return None
        return self._builds[_key(request)].preprocess_s + cost / running.speed

    def standing(self, host: Host) -> Standing:
        """See `Policy`."""
        return self._standings.get(host.name) or Standing(None, host.reason)

    def _least_served_first(self) -> list[Build]:
        """Return the ready builds in the order of asking: by what their users, then they, got."""
        ready = []
        for key in tuple(self._ready):
            build = self._builds.get(key)
            if build is None or not build.waiting:
                del self._ready[key]
            else:
                ready.append((self._users[key[0]].served, build.served, key, build))
        if ready:
            ready.sort()
            self._served_floor = max(self._served_floor, ready[0][0])
        return [entry[3] for entry in ready]

    def _choose(self, build: Build, now: float) -> tuple[Waiting, Place] | None:
        if now < build.gathers_until:
            self._set_alarm(build, build.gathers_until)
            return None
        for queue in build.queues.values():
            if not len(queue):
                continue
            place = queue.view.fastest_free(queue.avoid)
            if place is None:
                self._sleep(build, ANY_CLASS)
                continue
            if queue.refused_at == build.asked and place.index <= queue.refused:
                self._sleep(build, queue.refused)
                continue
            if len(queue) == 1 and queue.view.is_fastest(place):
                # There is no faster slot to wait for, and nothing to choose from.
                return queue.all()[0], place
            if self._unentered:
                self._enter_ends()
            measured = self._worth_measuring(build, queue, place, now)
            if measured is not None:
                return measured
            fitting = self._fitting(build, queue, place, now)
            if fitting is not None:
                return fitting, place
            queue.refused, queue.refused_at = place.index, build.asked
            self._sleep(build, place.index)
            self._put_off(build, now)
            if build.soonest:
                soonest_s = build.soonest[0][0] + EPSILON_S
                self._set_alarm(build, max(soonest_s, now + ASK_AGAIN_S))
        return None

    def _worth_measuring(
        self, build: Build, queue: Queue, free: Place, now: float
    ) -> tuple[Waiting, Place] | None:
        """Return a host whose speed has become unsure, and a short file that may find it out.

        It is slower than a free one, as far as is known, or it would be used anyway; and it costs
        little, because the rest of the build takes far longer than the file does there.
        """
        if not queue.known or now < build.measures_again or not build.refills:
            return None
        self._note_unsure(now)
        cheapest = queue.known[0]
        for name in tuple(islice(self._unsure, UNSURE_AT_ONCE)):
            place = self._unsure.pop(name)
            needs_s = cheapest[0] / place.speed
            if (
                place.index < free.index
                and place.slots
                and not place.host.in_use
                and name not in queue.avoid
                and queue.view in place.views
                and needs_s <= MEASURING_PART * self._rest_s(build, now, build.typical(now))
            ):
                heappush(self._unsure_at, (now + MEASURE_AGAIN_S, name))
                build.measures_again = now + needs_s
                return cheapest[2], place
            self._unsure[name] = place  # the others have their turn first
        return None

    def _note_unsure(self, now: float) -> None:
        """Look at the confidence of some hosts whose turn it is."""
        for _ in range(UNSURE_AT_ONCE):
            if not self._unsure_at or self._unsure_at[0][0] > now:
                return
            name = heappop(self._unsure_at)[1]
            place = self._places.get(name)
            if place is None:
                continue
            if self.learning.confidence(name, now) < SURE_FROM:
                self._unsure[name] = place
            else:
                heappush(self._unsure_at, (now + LOOK_AGAIN_S, name))

    def _fitting(self, build: Build, queue: Queue, place: Place, now: float) -> Waiting | None:
        """Return the request of a queue that is to start now on that free place, if any is."""
        if not build.warm:
            return self._fitting_cold(build, queue, place, now)
        self._look_ahead(build, now)
        known, unknown = queue.known, queue.unknown
        typical = build.typical(now) if unknown else 0.0
        limit = (self._rest_s(build, now, typical) * build.mode.limit + EPSILON_S) * place.speed
        longest = known[-1][0] if known else typical
        if longest > limit:
            limit = max(limit, queue.view.no_sooner_elsewhere(place, now))
        if (known[0][0] if known else typical) > limit:
            if unknown and typical <= limit:
                return queue.oldest_unknown()
            if build.held or self._running:
                return None
            return known[-1][2] if known else queue.oldest_unknown()
        coming = build.outlook_sorted
        if build.mode.hurry and known and coming and coming[-1] >= HURRY_FROM * longest:
            return known[0][2]
        if not known:
            return queue.oldest_unknown()
        best = queue.longest_within(limit)
        if unknown and (best.cost or 0.0) < typical <= limit:
            return queue.oldest_unknown()
        return best

    def _fitting_cold(self, build: Build, queue: Queue, place: Place, now: float) -> Waiting | None:
        limit = self._limit_cold(build, queue, place, now)
        if queue.unknown and build.typical(now) <= limit:
            return queue.oldest_unknown()
        if queue.known and queue.known[0][0] <= limit:
            return queue.longest_within(limit)
        if build.held:
            return None
        return queue.oldest_unknown() if queue.unknown else queue.known[-1][2]

    def _limit_cold(self, build: Build, queue: Queue, place: Place, now: float) -> float:
        """Return the largest cost that may start on a free place in a first build."""
        if not build.held:
            return math.inf
        speed, top, typical = place.speed, self._farm.top_speed(), build.typical(now)
        jobs = build.jobs * self._active
        roomy = jobs < self._farm.slots or build.done >= COLD_ROUNDS * self._farm.slots
        if roomy and build.refills and speed * COLD_SPREAD >= top:
            return math.inf
        power = max(EPSILON_S, self._farm.fastest_sum(jobs))
        brings = max(0.0, 1.0 - self._farm.fastest_sum(jobs, place.index) / power)
        outstanding = len(self._waiting) + len(self._running)
        queued_s = outstanding / max(EPSILON_S, self._farm.power)
        rest_s = typical * (
            COLD_QUEUE * math.pow(brings, COLD_BRINGS) * queued_s + COLD_FASTEST / top
        )
        limit = rest_s * speed
        if typical > limit and build.done >= COLD_TYPICAL_FILES:
            limit = max(limit, queue.view.no_sooner_elsewhere(place, now))
        return limit

    def _rest_s(self, build: Build, now: float, typical: float) -> float:
        """Return R: no plan ends the rest of the build sooner, on the slots that it can have."""
        self._put_off(build, now)
        longest = work = 0.0
        if build.outlook_sorted and build.still_expects(now):
            longest = build.outlook_sorted[-1]
            work = build.outlook_work
        for queue in build.queues.values():
            if queue.known and queue.known[-1][0] > longest:
                longest = queue.known[-1][0]
        work += build.waiting_work + build.unknown * typical
        work += build.end_power - now * build.power
        rest_s = max(work / self._share(build), longest / self._farm.top_speed())
        trim(build.latest)
        if build.latest:
            rest_s = max(rest_s, -build.latest[0][0] - now)
        return rest_s

    def _share(self, build: Build) -> float:
        """Return the summed speed of the slots that a build can hope for."""
        version, jobs, power = build.share_cache
        if version != self._farm.version or jobs != build.jobs:
            power = self._farm.fastest_sum(build.jobs)
            build.share_cache = (self._farm.version, build.jobs, power)
        return max(EPSILON_S, min(power, self._farm.power / max(1, self._active)))

    def _look_ahead(self, build: Build, now: float) -> None:
        """Try some modes, as far as their steps are earned; after a round take the best."""
        files = build.outstanding + len(build.outlook)
        if self._active > 1 or files > LOOK_AHEAD_FILES:
            build.mode, build.trials = STEADY, []
            return
        if not build.trials and build.credit < files * len(MODES):
            return
        rest: Rest | None = None
        steps = 0
        while build.credit >= files and steps + files <= max(STEPS_AT_ONCE, files):
            if rest is None:
                self._put_off(build, now)
                rest = Rest(self._farm, build, now)
            if not build.trials:
                build.trials = [build.mode] + [mode for mode in MODES if mode != build.mode]
                build.best, build.best_end_s = build.mode, math.inf
            mode = build.trials.pop(0)
            end_s = rest.play(mode, build.best_end_s)
            if mode == build.mode:
                build.best_end_s = now + (end_s - now) / SWITCH_GAIN
            elif end_s < build.best_end_s - EPSILON_S:
                build.best, build.best_end_s = mode, end_s
            build.credit -= files
            steps += files
            if not build.trials:
                build.mode = build.best
                return

    # -- patience

    def _patience_ends(self, waiting: Waiting, now: float) -> float:
        """Return until when a request may be passed over.

        That is what it could have had when it came, and some turnovers of its own build's queue.
        """
        build = waiting.build
        typical = build.typical(now) if build.unknown else 0.0
        cost = waiting.cost if waiting.cost is not None else typical
        queued_s = (build.waiting_work + build.unknown * typical) / self._share(build)
        return waiting.arrived + cost / waiting.at_once_speed + PATIENCE * queued_s

    def _begin_patience(self) -> None:
        """Find out until when those that were not granted at once may be passed over."""
        for waiting in self._fresh:
            request = waiting.request
            if self._waiting.get(request.id) is not waiting:
                continue
            view = waiting.queue.view
            free = view.fastest_free(request.avoid)
            waiting.at_once_speed = free.speed if free else view.slowest_speed()
            ends = self._patience_ends(waiting, waiting.arrived)
            heappush(self._patience, (ends, waiting.number, waiting))
        self._fresh.clear()

    def _note_overdue(self, now: float) -> None:
        for _ in range(OVERDUE_AT_ONCE):
            if not self._patience or self._patience[0][0] > now:
                return
            _, number, waiting = heappop(self._patience)
            if self._waiting.get(waiting.request.id) is not waiting:
                continue
            # When it came, its cost may have been a guess, and its build's queue not yet complete.
            ends = self._patience_ends(waiting, now)
            if ends > now + EPSILON_S:
                heappush(self._patience, (ends, number, waiting))
                continue
            self._overdue[waiting.request.id] = waiting

    # -- expectations, and who is to be asked again

    def _expect(self, build: Build, running: Running) -> None:
        self._serial += 1
        for view in running.place.views:
            view.expect(running, self._serial)
        build.expect(running, self._serial)

    def _enter_ends(self) -> None:
        for build, running in self._unentered:
            if running.end_s >= 0.0:
                self._expect(build, running)
        self._unentered.clear()

    def _drop_ended(self) -> None:
        """Make room among the ends not yet entered; where most leases still run, enter them."""
        self._unentered = [each for each in self._unentered if each[1].end_s >= 0.0]
        if len(self._unentered) > UNENTERED_LIMIT / 2:
            self._enter_ends()

    def _put_off(self, build: Build, now: float) -> None:
        for running in build.overdue_leases(now):
            self._expect(build, running)

    def _occupied(self, place: Place, now: float) -> None:
        """A slot of a host was taken or came free."""
        filled = place.filled
        self._crowd(place, now)
        if place.filled != filled:
            self.host_changed(place.host, now)
        place.occupy(place.host.in_use)  # counted anew: `host_changed` may have come first
        for view in place.views:
            view.offer(place)
        if place.later is not None:
            for view in place.views:
                view.offer(place.later)

    def _ask(self, build: Build) -> None:
        """Have a build asked anew: what it refused before, it may take now."""
        build.asked += 1
        self._ready[build.key] = None

    def _set_alarm(self, build: Build, due: float) -> None:
        """Have a build asked then, unless it will be sooner; one alarm is kept of each."""
        if due < build.alarm:
            build.alarm = due
            heappush(self._alarms, (due, build.key))

    def _sleep(self, build: Build, index: int) -> None:
        """Leave a build alone until a slot of a class above that one comes free."""
        self._asleep.setdefault(index, {})[build.key] = None

    def _wake_below(self, index: int) -> None:
        """A slot of this class came free: who refused a slower one may want it."""
        for refused in [refused for refused in self._asleep if refused < index]:
            self._ready.update(self._asleep.pop(refused))

    def _wake_all(self) -> None:
        self._asleep.clear()
        for build in self._builds.values():
            if build.waiting:
                self._ask(build)


def _key(request: Request) -> BuildKey:
    return (request.user, request.builder, request.directory)
