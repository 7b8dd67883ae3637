"""Each compile where it finishes first: the policy `earliest`, and the default.

The rule. For every build there is R, the least time that the rest of it can take: what waits, what
runs, and what the last build says is still to come, spread over the fastest slots that it can have.
A waiting file may start on the fastest free slot if it ends there within about R, for then it
delays nobody. If it would not, it waits, unless no busy faster slot would finish it sooner either.
Among the files that may start, the longest goes first; but while a file as long as the longest
waiting one is still to come, the shortest does, because a make -jN shows us that file only when
enough others are done. Whether to hurry in this way, and how tight to hold the limit, is settled by
playing the rest of the build forward (`look_ahead`), on a budget; so is each choice of its last
files.

In the middle of a build R is large, nothing waits, and the fastest slots are kept busy; towards the
end R shrinks, and slow slots are left alone. A first build has no outlook, so R is unknown: its
files take any free slot, the fastest first, and what turns out to be long is begun again on a
faster one (`backups`). Where a compile can have no backup, a stand-in for R keeps it off slow slots
(`first_build`).

Between users, the one whose compiles got the least work so far is served first (`turns`). A request
is passed over for a bounded time only (`patience`); then it goes before all others on the next slot
that it may have.

The whole is event-driven: a build that sleeps is asked again when a better slot comes free, when it
asks or ends something itself, when its own next lease is expected to end, or when a host or its
share of the farm changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from weakref import WeakValueDictionary

from compilefarm.core.learning.clones import NAMES_LIMIT
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Ending, Host, Lease, Outcome, Request
from compilefarm.core.placement.earliest import first_build
from compilefarm.core.placement.earliest.backups import Backups
from compilefarm.core.placement.earliest.builds import (
    EPSILON_S,
    OVER_AFTER_S,
    STEADY,
    Build,
    BuildKey,
    Queue,
    Waiting,
)
from compilefarm.core.placement.earliest.look_ahead import HURRY_FROM, MODES, Rest
from compilefarm.core.placement.earliest.measuring import Measuring
from compilefarm.core.placement.earliest.patience import Patience
from compilefarm.core.placement.earliest.places import Change, Places
from compilefarm.core.placement.earliest.speed_classes import Place, Running, View, trim
from compilefarm.core.placement.earliest.turns import (
    FIRST_LINE,
    LAST_LINE,
    Entry,
    Turns,
    User,
    serve,
)
from compilefarm.core.placement.policy import HostUse

LOOK_AHEAD_FILES = 400  # play forward only a rest this small
STEPS_AT_ONCE = 400  # the longest that one decision stalls: about half a millisecond
SWITCH_GAIN = 1.02  # what another mode must promise, to be taken
# Of so many files that are left, each choice is played to the end; and what another must promise.
LAST_FILES = 16
LAST_GAIN = 1.002

# What a measuring compile may take, as a part of the rest of the build.
MEASURING_PART = 0.05
# A build that refused a slot is not asked again sooner on account of its own expected ends: on a
# large farm one of them is due at every moment.
ASK_AGAIN_S = 0.01
# All builds are asked anew when each one's share of the farm has grown by so much.
SHARE_GREW = 1.1
# While nothing waits, nobody asks when leases end, and most have ended before anybody does; so the
# expected ends of this many are entered only on demand. More would make the demand a stall.
UNENTERED_LIMIT = 256


class EarliestPolicy:
    """Earliest completion as a `Policy`, on what `learning` has learned."""

    name = "earliest"

    def __init__(self, learning: Learning, *, backups: bool = True) -> None:
        self.learning = learning
        self._backups = Backups(self._turns_of) if backups else None
        self._places = Places(learning, self._wanted)
        self._measuring = Measuring(learning, self._places)
        self._patience = Patience(self._waits, self._share)
        self._users: dict[str, User] = {}
        self._builds: dict[BuildKey, Build] = {}
        self._idle: dict[BuildKey, None] = {}  # builds with nothing outstanding, longest idle first
        self._waiting: dict[int, Waiting] = {}
        # Nothing else waits, so it is queued only if it cannot start at once.
        self._lone: Waiting | None = None
        self._running: dict[int, Running] = {}
        self._unentered: list[tuple[Build, Running]] = []  # leases, ends not yet entered
        # By view and hosts to be avoided; and those in which somebody waits.
        self._turns: WeakValueDictionary[tuple[View, frozenset[str]], Turns] = WeakValueDictionary()
        self._contested: dict[Turns, None] = {}
        self._alarms: list[tuple[float, BuildKey]] = []  # ask that build again then
        self._active = 0
        self._shared_among = 0  # so many were active when all were asked last
        self._served_floor = 0.0  # by the least served active user
        self._serials = count(1)

    # -- hosts

    def host_changed(self, host: Host, now: float) -> None:
        """See `Policy`."""
        directories = (build.key[2] for build in self._builds.values())
        change = self._places.changed(host, directories, now)
        self._measuring.add(host.name)
        if change is not Change.NOTHING and self._backups is not None:
            self._backups.host_changed(host, now)
        self._changed(change)

    def host_forgotten(self, host: Host) -> None:
        """See `Policy`."""
        self._measuring.forget(host.name)
        self._changed(self._places.forgotten(host))

    def _changed(self, change: Change) -> None:
        """Do what a change of a host means for those that wait."""
        if change is Change.KINDS:
            self._requeue()
        if change in (Change.KINDS, Change.SLOTS):
            self._ask_all()

    def _wanted(self) -> float:
        """Return the part of the farm's free slots that is about to be taken by what waits."""
        free = max(1, self._places.farm.slots - len(self._running))
        return min(1.0, len(self._waiting) / free)

    def _requeue(self) -> None:
        """Put what waits into the views of now."""
        overdue = [waiting for turns in self._contested for waiting in turns.overdue.values()]
        for build in self._builds.values():
            for queue in build.queues.values():
                queue.turns.leave(queue)
            waiting = [each for queue in build.queues.values() for each in queue.all()]
            build.queues, build.queue_of = {}, {}
            for each in sorted(waiting, key=lambda each: each.number):
                each.queue = self._queue(build, each.request)
                each.queue.put(each)
            build.share_cache = (-1, -1, 0.0)
        if self._lone is not None:
            self._lone.queue = self._queue(self._lone.build, self._lone.request)
        for each in overdue:
            each.queue.turns.overdue[each.request.id] = each

    def _view(self, request: Request) -> View:
        """Return the view of the hosts that a request may use."""
        signatures = self._places.admitting(request)
        view = self._places.view(signatures)
        if not view.expecting:
            view.expecting = True
            for running in self._running.values():
                if running.lease.host.signature in signatures and running.end_s >= 0.0:
                    view.expect(running, next(self._serials))
        return view

    def _queue(self, build: Build, request: Request) -> Queue:
        queue = build.queue_of.get(request.restriction)
        if queue is not None:
            return queue
        view = self._view(request)
        key = (view, request.avoid)
        queue = build.queues.get(key)
        if queue is None:
            turns = self._turns.get(key)
            if turns is None:
                turns = Turns(view, request.avoid, self._serials, self._contested)
                self._turns[key] = turns
            queue = build.queues[key] = Queue(build, turns)
        build.queue_of[request.restriction] = queue
        return queue

    # -- requests

    def arrived(self, request: Request, now: float) -> None:
        """See `Policy`."""
        build = self._build_of(request, now)
        build.arrive(request.source, now)
        if not (build.held or build.waiting):
            self._activate(build)
        waiting = Waiting(
            request,
            build,
            self._queue(build, request),
            self.learning.cost(request.directory, request.source),
            next(self._serials),
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
        self._patience.arrived(waiting)
        build.gather(request, now)
        if now < build.gathers_until:
            waiting.queue.turns.stand(waiting.queue, LAST_LINE)
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
        cost = waiting.cost if waiting.cost is not None else build.typical(now)
        running = self._run(lease, build, cost, known=waiting.cost is not None)
        self._running[lease.request.id] = running
        if self._backups is not None:
            self._backups.leased(running, build)
            if not self._waiting:
                self._backups.resume(now)
        build.start(running)
        serve(build, cost)
        self._unentered.append((build, running))
        if len(self._unentered) > UNENTERED_LIMIT:
            self._drop_ended()
        self._occupied(running.place, now)
        self._ask(build)
        build.earn_steps()

    def _run(self, lease: Lease, build: Build, cost: float, *, known: bool) -> Running:
        """Return a lease's books: at what speed it runs, and when it is expected to end."""
        place = self._places.get(lease.host.name)
        assert place is not None, "a lease on a host that the policy was not told of"
        taken, speed = place, place.speed
        if place.later is not None:
            taken = next((part for part in place.parts() if part.busy < part.slots), place)
            speed *= place.full_part**place.crowding
        return Running(
            lease,
            place,
            speed,
            taken.index,
            lease.granted,
            cost,
            lease.granted + build.preprocess_s + cost / speed,
            place.crowded_s,
            known,
        )

    def ended(self, lease: Lease, outcome: Outcome, now: float) -> None:
        """See `Policy`."""
        running = self._running.pop(lease.request.id)
        build = self._builds[_key(lease.request)]
        whole = outcome.exit == 0 and not outcome.failed and not lease.disturbed
        work = build.end(running, now, whole)
        running.end_s = -1.0  # its entries in heaps are out of date
        # What was overtaken by its backup is not charged; the backup is.
        serve(build, (work if outcome.ending is not Ending.OVERTAKEN else 0.0) - running.charged)
        self._occupied(running.place, now)
        if self._backups is not None:
            self._backups.ended(running, build, self._places.farm.fastest_free(), now)
        if whole:
            self._learn(running, build, outcome, now)
        build.earn_steps()
        if not self._running:
            self._ask_all()
        elif build.waiting:
            self._ask(build)
        self._rest_if_idle(build)

    def _learn(self, running: Running, build: Build, outcome: Outcome, now: float) -> None:
        """Learn from a compile that ran whole, on its first host, and as long as we saw it run."""
        lease = running.lease
        request, leased_s = lease.request, now - lease.granted
        if outcome.cpu_s is not None and 0.0 <= outcome.cpu_s <= leased_s:
            build.preprocessed(outcome.cpu_s)
        wall_s = outcome.wall_s if outcome.wall_s is not None else leased_s
        cpu_s = outcome.cpu_s or 0.0
        # Preprocessing is one process after the other: more CPU time than time is a wild report.
        if request.avoid or not 0.0 < wall_s <= leased_s + 1.0 or not 0.0 <= cpu_s <= wall_s + 0.1:
            return
        remote_s = wall_s - min(cpu_s, 0.9 * wall_s)
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
            user = self._users.setdefault(request.user, User())
            user.builds += 1
            build = self._builds[key] = Build(
                key, user, self.learning.outlook(directory), self.learning.jobs(directory)
            )
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
        self.learning.build_ended(key[2], build.seen, build.most_outstanding)
        build.user.builds -= 1
        if not build.user.builds:
            del self._users[key[0]]

    def _activate(self, build: Build) -> None:
        if not build.user.active:
            build.user.served = max(build.user.served, self._served_floor)
        build.user.active += 1
        self._active += 1
        self._shared_among = max(self._shared_among, self._active)

    def _rest_if_idle(self, build: Build) -> None:
        if build.held or build.waiting:
            return
        build.user.active -= 1
        self._active -= 1
        self._idle[build.key] = None
        if self._active and self._active * SHARE_GREW <= self._shared_among:
            self._shared_among = self._active
            self._ask_all()

    def _unqueue(self, request: Request) -> Build:
        waiting = self._waiting.pop(request.id)
        if waiting is self._lone:
            self._lone = None
            return waiting.build
        self._patience.left(waiting)
        waiting.build.drop(waiting)
        if not len(waiting.queue):
            waiting.queue.turns.leave(waiting.queue)
        return waiting.build

    def _waits(self, waiting: Waiting) -> bool:
        return self._waiting.get(waiting.request.id) is waiting

    # -- the decision

    def next_grant(self, now: float) -> tuple[Request, Host] | None:
        """See `Policy`."""
        lone = self._lone
        if lone is not None:
            turns = lone.queue.turns
            place = turns.free()
            if place is not None and turns.view.is_fastest(place):
                return lone.request, place.host
            self._lone = None
            self._put(lone, now)
        self._note_time(now)
        if self._places.farm.fastest_free() is None:
            return None
        for turns in self._contested:
            place = turns.free() if turns.overdue else None
            if place is not None:
                return next(iter(turns.overdue.values())).request, place.host
        while (turn := self._next_turn()) is not None:
            queue, place = turn
            choice = self._choose(queue, place, now)
            if choice is not None:
                return choice[0].request, choice[1].host
        return None

    def _note_time(self, now: float) -> None:
        """Do what has become due: somebody's patience has ended, a build is to be asked again."""
        self._patience.begin(before=now)
        self._patience.note_overdue(now)
        self._ring_alarms(now)

    def _next_turn(self) -> tuple[Queue, Place] | None:
        """Return the queue that is to be asked next, and the free place that it may have."""
        best: Entry | None = None
        offered: Place | None = None
        for turns in self._contested:
            place = turns.free()
            if place is None:
                continue
            entry = turns.first(place.index)
            if entry is not None and (best is None or entry < best):
                best, offered = entry, place
        if best is None or offered is None:
            return None
        self._served_floor = max(self._served_floor, best[0])
        return best[-1], offered

    def next_deadline(self) -> float | None:
        """See `Policy`."""
        self._patience.begin()
        due = math.inf
        if self._waiting:
            due = self._patience.next_end()
            if self._alarms:
                due = min(due, self._alarms[0][0])
        elif self._backups is not None:
            due = self._backups.next_due()
            if due < math.inf and self._places.farm.fastest_free() is None:
                due = math.inf
        return None if due == math.inf else due

    # -- backups

    def advance(self, now: float) -> None:
        """See `Policy`.

        A backup was due, perhaps, when there was no slot for one. `next_deadline` has nobody woken
        for that: on a busy farm it would be after each compile.
        """
        if self._backups is not None and self._backups.next_due() < now:
            self._backups.lapse(now, bool(self._waiting), self._places.farm.fastest_free())

    def _turns_of(self, build: Build, request: Request) -> Turns:
        return self._queue(build, request).turns

    def next_backup(self, now: float) -> tuple[Lease, Host] | None:
        """See `Policy`."""
        if self._backups is None:
            return None
        if self._waiting:
            self._backups.postpone(now)
            return None
        chosen = self._backups.choose(self._places.farm.fastest_free(), now)
        return None if chosen is None else (chosen[0], chosen[1].host)

    def backup_began(self, backup: Lease, now: float) -> None:
        """See `Policy`."""
        assert self._backups is not None
        main = self._running[backup.id]
        build = self._builds[_key(backup.request)]
        running = self._run(backup, build, main.charged, known=main.known)
        self._backups.began(running, now)
        self._occupied(running.place, now)

    def backup_ended(self, backup: Lease, outcome: Outcome, now: float) -> None:
        """See `Policy`; for one that was done, after the first attempt's end."""
        assert self._backups is not None
        running, build = self._backups.over(backup, now, refused=outcome.ending is Ending.GIVEN_UP)
        self._occupied(running.place, now)
        if outcome.exit == 0 and not outcome.failed and not backup.disturbed:
            work = (now - running.start_s) * running.speed
            serve(build, work)
            build.count(work)
            self._learn(running, build, outcome, now)

    def backup_in_the_way(self, now: float) -> Lease | None:
        """See `Policy`."""
        if self._backups is None or not self._backups.any():
            return None
        lone = self._lone
        if lone is not None:
            self._lone = None
            self._put(lone, now)
        self._note_time(now)
        return self._backups.in_the_way(self._contested)

    def hopeless(self, request: Request) -> str | None:
        """See `Policy`."""
        some = False
        for signature in self._places.admitting(request):
            for place in self._places.of_kind(signature):
                if any(part.slots for part in place.parts()):
                    if place.host.name not in request.avoid:
                        return None
                    some = True
        if not self._places.farm.slots:
            return "no host is available"
        if some:
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
        if lease.is_backup and self._backups is not None:
            running = self._backups.running(lease) or running
        cost = self.learning.cost(request.directory, request.source)
        if cost is None:
            return None
        return self._builds[_key(request)].preprocess_s + cost / running.speed

    def use_of(self, host: Host) -> HostUse:
        """See `Policy`."""
        return self._places.use_of(host)

    def _choose(self, queue: Queue, place: Place, now: float) -> tuple[Waiting, Place] | None:
        """Return which request of a queue is to start now, and where; None: it refuses a place."""
        build, view = queue.build, queue.turns.view
        if now < build.gathers_until:
            queue.turns.stand(queue, LAST_LINE)
            self._set_alarm(build, build.gathers_until)
            return None
        if not build.warm and len(build.seen) >= build.twin_wanted_at:
            self._find_twin(build)
        if len(queue) == 1 and view.is_fastest(place):
            # There is no faster slot to wait for, and nothing to choose from.
            return queue.all()[0], place
        if self._unentered:
            self._enter_ends()
        measured = self._worth_measuring(queue, place, now)
        if measured is not None:
            return measured
        fitting = self._fitting(build, queue, place, now)
        if fitting is not None:
            return fitting, place
        queue.turns.stand(queue, place.index)
        self._put_off(build, now)
        if build.soonest:
            soonest_s = build.soonest[0][0] + EPSILON_S
            self._set_alarm(build, max(soonest_s, now + ASK_AGAIN_S))
        return None

    def _find_twin(self, build: Build) -> None:
        """Have a first build go by another directory's last one, if that had the same files."""
        asked_for = len(build.seen)
        build.twin_wanted_at = 2 * asked_for if asked_for < NAMES_LIMIT else math.inf
        directory = build.key[2]
        if not self.learning.find_twin(directory, build.seen):
            return
        build.go_by_twin(self.learning.outlook(directory), self.learning.jobs(directory))
        for queue in build.queues.values():
            for waiting in list(queue.unknown.values()):
                build.drop(waiting)
                waiting.cost = self.learning.cost(directory, waiting.request.source)
                build.put(waiting)

    def _worth_measuring(
        self, queue: Queue, free: Place, now: float
    ) -> tuple[Waiting, Place] | None:
        """Return a host whose speed has become unsure, and a short file that may find it out.

        It is slower than a free one, as far as is known, or it would be used anyway; and it costs
        little, because the rest of the build takes far longer than the file does there.
        """
        build = queue.build
        if not queue.known or now < build.measures_again or not build.refills:
            return None
        cheapest = queue.known[0]
        for place in self._measuring.some(now):
            needs_s = cheapest[0] / place.speed
            if (
                place.index < free.index
                and place.slots
                and not place.host.in_use
                and place.host.name not in queue.turns.avoid
                and queue.turns.view in place.views
                and needs_s <= MEASURING_PART * self._rest_s(build, now, build.typical(now))
            ):
                self._measuring.taken(place.host.name, now)
                build.measures_again = now + needs_s
                return cheapest[2], place
        return None

    def _fitting(self, build: Build, queue: Queue, place: Place, now: float) -> Waiting | None:
        """Return the request of a queue that is to start now on that free place, if any is."""
        if not build.warm:
            return self._fitting_first(build, queue, place, now)
        self._look_ahead(build, now)
        fitting = self._fitting_rest(build, queue, place, now)
        last = build.outstanding + len(build.outlook) <= LAST_FILES
        if last and self._active == 1 and build.held and queue.known:
            return self._best_played(build, queue, place, fitting, now)
        return fitting

    def _best_played(
        self, build: Build, queue: Queue, place: Place, fitting: Waiting | None, now: float
    ) -> Waiting | None:
        """Return what fits, or what ends the build sooner: another file, or to wait."""
        if fitting is not None and fitting.cost is None:
            return fitting
        self._put_off(build, now)
        rest = Rest(self._places.farm, build, now)
        if fitting is None and not rest.runs:
            return None
        known, last = queue.known, len(queue.known) - 1
        choices: list[Waiting | None] = [fitting]
        choices += [known[number][2] for number in {part * last // 3 for part in range(4)}]
        if rest.runs:
            choices.append(None)
        best, best_end_s = fitting, math.inf
        for choice in dict.fromkeys(choices):
            cost = None if choice is None else choice.cost
            end_s = rest.starting(cost, place.index).play(build.mode, best_end_s)
            if choice is fitting:
                best_end_s = now + (end_s - now) / LAST_GAIN
            elif end_s < best_end_s:
                best, best_end_s = choice, end_s
        return best

    def _fitting_rest(self, build: Build, queue: Queue, place: Place, now: float) -> Waiting | None:
        """Return the request that fits the rest of its build on a place."""
        known, unknown = queue.known, queue.unknown
        typical = build.typical(now) if unknown else 0.0
        limit = (self._rest_s(build, now, typical, build.mode.limit) + EPSILON_S) * place.speed
        longest = known[-1][0] if known else typical
        if longest > limit:
            limit = queue.turns.view.no_sooner_elsewhere(place, now, at_least=limit)
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

    def _fitting_first(
        self, build: Build, queue: Queue, place: Place, now: float
    ) -> Waiting | None:
        """As `_fitting`, in a first build, of which nothing says how long the rest of it is."""
        first = queue.oldest_unknown() if queue.unknown else queue.known[-1][2]
        if not build.held or (self._backups is not None and first.request.can_back_up):
            return first
        outstanding = len(self._waiting) + len(self._running)
        limit = first_build.limit(queue, place, self._places.farm, self._active, outstanding, now)
        if queue.unknown and build.typical(now) <= limit:
            return queue.oldest_unknown()
        if queue.known and queue.known[0][0] <= limit:
            return queue.longest_within(limit)
        return None

    def _rest_s(self, build: Build, now: float, typical: float, stretch: float = 1.0) -> float:
        """Return R: no plan ends the rest of the build sooner, on the slots that it can have.

        With `stretch`, so many times that for what is to be done, and what runs as it is.
        """
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
        rest_s = max(work / self._share(build), longest / self._places.farm.top_speed()) * stretch
        trim(build.latest)
        if build.latest:
            rest_s = max(rest_s, -build.latest[0][0] - now)
        return rest_s

    def _share(self, build: Build) -> float:
        """Return the summed speed of the slots that a build can hope for."""
        farm = self._places.farm
        version, jobs, power = build.share_cache
        if version != farm.version or jobs != build.jobs:
            power = farm.fastest_sum(build.jobs)
            build.share_cache = (farm.version, build.jobs, power)
        return max(EPSILON_S, min(power, farm.power / max(1, self._active)))

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
                rest = Rest(self._places.farm, build, now)
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

    # -- expectations, and who is to be asked again

    def _expect(self, build: Build, running: Running) -> None:
        serial = next(self._serials)
        for view in running.place.views:
            view.expect(running, serial)
        build.expect(running, serial)

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
        if self._places.occupied(place, now):
            self.host_changed(place.host, now)

    def _set_alarm(self, build: Build, due: float) -> None:
        """Have a build asked then, unless it will be sooner; one alarm is kept of each."""
        if due < build.alarm:
            build.alarm = due
            heappush(self._alarms, (due, build.key))

    def _ring_alarms(self, now: float) -> None:
        while self._alarms and self._alarms[0][0] <= now:
            due, key = heappop(self._alarms)
            build = self._builds.get(key)
            if build is not None and build.alarm == due:
                build.alarm = math.inf
                self._ask(build)

    def _ask(self, build: Build) -> None:
        """Have a build asked anew: what it refused before, it may take now."""
        if build.waiting:
            for queue in build.queues.values():
                if len(queue):
                    queue.turns.stand(queue, FIRST_LINE)

    def _ask_all(self) -> None:
        for build in self._builds.values():
            self._ask(build)


def _key(request: Request) -> BuildKey:
    return (request.user, request.builder, request.directory)
