"""All waiting requests: whose turn it is, and when a build that refused a slot is asked again.

A build is asked about a slot once. It is asked again when:

- a better slot comes free;
- the build itself asks for a compile, or ends one;
- its alarm is due;
- a host changes, or the build's share of the farm.

Most requests come when no other request waits, and start at once. Such a lone request is kept
aside, and queued only if it cannot start. That saves two in three of the steps of queueing.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from heapq import heappop, heappush
from itertools import count

from compilefarm.core.model import Request, Restriction
from compilefarm.core.placement.earliest.active_builds import ActiveBuilds
from compilefarm.core.placement.earliest.builds import Build, BuildKey
from compilefarm.core.placement.earliest.leases import Leases
from compilefarm.core.placement.earliest.mechanisms import Mechanisms
from compilefarm.core.placement.earliest.patience import Patience
from compilefarm.core.placement.earliest.queues import Queue, Reach, Waiting
from compilefarm.core.placement.earliest.speed_classes import Place
from compilefarm.core.placement.earliest.turns import (
    REFUSED_NOTHING,
    REFUSES_ALL,
    Entry,
    Turns,
)


class _QueuesOfBuild:
    """The queues of one build: by the hosts that they may use, and by request restriction."""

    __slots__ = ("by_reach", "by_restriction")

    def __init__(self) -> None:
        self.by_reach: dict[Reach, Queue] = {}
        self.by_restriction: dict[Restriction, Queue] = {}


class Waitlist:
    """All requests that wait, by id in `waiting`.

    `lone` is the one that is alone and not queued, and `fresh` are those queued since the last
    decision.
    """

    def __init__(self, builds: ActiveBuilds, leases: Leases, mechanisms: Mechanisms) -> None:
        self._builds = builds
        self._leases = leases
        self.waiting: dict[int, Waiting] = {}
        self.lone: Waiting | None = None
        self._queues: dict[Build, _QueuesOfBuild] = {}
        self._turns: dict[Reach, Turns] = {}  # in which something waits
        self._patience = Patience() if mechanisms.patience else None
        self._fair = mechanisms.fairness
        self.fresh: list[Waiting] = []
        self._alarms: list[tuple[float, BuildKey]] = []
        self._serials = count(1)

    @property
    def turns(self) -> Collection[Turns]:
        """The turns in which something waits."""
        return self._turns.values()

    def queues_of(self, build: Build) -> Collection[Queue]:
        """Return the queues of a build, some of them empty."""
        return self._queues[build].by_reach.values()

    # -- requests come and go

    def add(self, request: Request, build: Build, cost: float | None, now: float) -> None:
        """Add a request; `cost` is None where its file's cost is unknown."""
        waiting = Waiting(
            request, build, self._queue(build, request), cost, next(self._serials), now
        )
        self.waiting[request.id] = waiting
        if len(self.waiting) == 1 and build.gathering.until_s < now:
            self.lone = waiting
        else:
            self._put(waiting, now)

    def queue_lone(self, now: float) -> None:
        """Queue the request that is alone, if there is one: it cannot start at once."""
        if self.lone is not None:
            waiting, self.lone = self.lone, None
            self._put(waiting, now)

    def _put(self, waiting: Waiting, now: float) -> None:
        build = waiting.build
        waiting.queue.put(waiting)
        build.queued(waiting.cost)
        self.fresh.append(waiting)
        gathering = build.gathering
        if now <= gathering.until_s:
            if waiting.request.wait_s == 0:  # it is refused if it is not granted now
                gathering.stop()
            else:
                gathering.extend(build.outstanding, now)
        if now < gathering.until_s:
            self.refuse_until(waiting.queue, REFUSES_ALL, gathering.until_s)
        else:
            self.ask(build)

    def remove(self, request: Request) -> Waiting:
        """Remove a request that was granted or withdrawn."""
        waiting = self.waiting.pop(request.id)
        waiting.waits = False
        if not self.waiting:
            self.fresh.clear()
        if waiting is self.lone:
            self.lone = None
            return waiting
        queue = waiting.queue
        queue.drop(waiting)
        waiting.build.unqueued(waiting.cost)
        turns = self._turns[queue.reach]
        turns.overdue.pop(request.id, None)
        if not queue.costs and not queue.unknown:
            turns.leave(queue)
            if not len(turns):
                del self._turns[queue.reach]
        if self._patience is not None:
            self._patience.left()
        return waiting

    def _queue(self, build: Build, request: Request) -> Queue:
        queues = self._queues.get(build)
        if queues is None:
            queues = self._queues[build] = _QueuesOfBuild()
        restriction = request.restriction
        queue = queues.by_restriction.get(restriction)
        if queue is None:
            reach = self._leases.reach_of(request)
            queue = queues.by_reach.get(reach)
            if queue is None:
                queue = queues.by_reach[reach] = Queue(build, reach)
            queues.by_restriction[restriction] = queue
        return queue

    def forget(self, build: Build) -> None:
        """Drop the queues of a build that is over."""
        self._queues.pop(build, None)

    def regroup(self) -> None:
        """Queue all requests again: they may use other hosts now."""
        overdue = [self.waiting[id] for turns in self._turns.values() for id in turns.overdue]
        self._queues, self._turns = {}, {}
        for waiting in self.waiting.values():
            waiting.queue = self._queue(waiting.build, waiting.request)
            if waiting is not self.lone:
                waiting.queue.put(waiting)
        self.ask_all()
        for waiting in overdue:
            self._turns[waiting.queue.reach].overdue[waiting.request.id] = waiting.request

    def unknown_of(self, build: Build) -> list[Waiting]:
        """Return the waiting requests of a build whose cost is unknown."""
        return [each for queue in self.queues_of(build) for each in queue.unknown.values()]

    def learn_cost(self, waiting: Waiting, cost: float | None) -> None:
        """Set the cost of a waiting file whose cost was unknown."""
        waiting.queue.drop(waiting)
        waiting.build.unqueued(waiting.cost)
        waiting.cost = cost
        waiting.build.queued(cost)
        waiting.queue.put(waiting)

    # -- who is asked next

    def lone_turn(self, now: float) -> tuple[Request, Place] | None:
        """Return the request that is alone and the fastest slot, if that is free; else queue it."""
        lone = self.lone
        assert lone is not None
        view, avoid = lone.queue.reach
        place = view.fastest_free(avoid)
        if place is not None and view.is_fastest(place):
            return lone.request, place
        self.queue_lone(now)
        return None

    def overdue_turn(self) -> tuple[Request, Place] | None:
        """Return a request that may be passed over no longer, and a free slot for it."""
        for turns in self._turns.values():
            place = turns.free_place() if turns.overdue else None
            if place is not None:
                return next(iter(turns.overdue.values())), place
        return None

    def next_turn(self) -> tuple[Queue, Place] | None:
        """Return the queue that is asked next, and the free place that it may have."""
        best: Entry | None = None
        offered: Place | None = None
        for turns in self._turns.values():
            place = turns.free_place()
            if place is None:
                continue
            entry = turns.first(place.class_index)
            if entry is not None and (best is None or entry < best):
                best, offered = entry, place
        if best is None or offered is None:
            return None
        self._builds.served_floor = max(self._builds.served_floor, best[0])
        return best[-1], offered

    def charge(self, build: Build, work: float) -> None:
        """Charge a build and its user for work; below 0, give back what they were charged."""
        if not self._fair:
            return
        build.served += work
        build.user.served += work
        if work < 0.0 and self._turns:
            queues = self._queues.get(build)
            for reach, turns in self._turns.items():
                queue = queues.by_reach.get(reach) if queues is not None else None
                turns.reposition(build.user, queue)

    # -- when they are asked again

    def ask(self, build: Build) -> None:
        """Have a build asked again: it may take now what it refused before."""
        if build.waiting.files:
            for queue in self._queues[build].by_reach.values():
                if queue.refused != REFUSED_NOTHING and (queue.costs or queue.unknown):
                    self._stand(queue, REFUSED_NOTHING)

    def ask_all(self) -> None:
        """Have every build asked again."""
        for build in self._queues:
            self.ask(build)

    def refuse(self, queue: Queue, class_index: int) -> None:
        """Have a queue asked about slots above that class only."""
        self._stand(queue, class_index)

    def refuse_until(self, queue: Queue, class_index: int, due_s: float) -> None:
        """Have a queue asked about slots above that class only, and its build again at `due_s`."""
        self._stand(queue, class_index)
        build = queue.build
        if due_s < build.alarm_s:  # one alarm is kept of each build
            build.alarm_s = due_s
            heappush(self._alarms, (due_s, build.key))

    def _stand(self, queue: Queue, refused: int) -> None:
        turns = self._turns.get(queue.reach)
        if turns is None:
            turns = self._turns[queue.reach] = Turns(queue.reach, self._serials)
        turns.stand(queue, refused)

    def note_time(self, now: float) -> None:
        """Handle the alarms that are due, and the requests whose patience has ended."""
        while self._alarms and self._alarms[0][0] <= now:
            due_s, key = heappop(self._alarms)
            build = self._builds.get(key)
            if build is not None and build.alarm_s == due_s:
                build.alarm_s = math.inf
                self.ask(build)
        if self._patience is not None:
            for waiting in self._patience.pop_ended(now):
                build_speed = self._builds.speed_for(waiting.build)
                if self._patience.end_if_over(waiting, build_speed, now):
                    turns = self._turns[waiting.queue.reach]
                    turns.overdue[waiting.request.id] = waiting.request

    def begin_patience(self) -> None:
        """Start the patience of new requests that were not granted at once."""
        if self._patience is not None:
            for waiting in self.fresh:
                if waiting.waits:
                    view, avoid = waiting.queue.reach
                    place = view.fastest_free(avoid)
                    at_once_speed = place.speed if place is not None else view.slowest_speed()
                    build_speed = self._builds.speed_for(waiting.build)
                    self._patience.begin(waiting, at_once_speed, build_speed)
        self.fresh.clear()

    def next_due_s(self) -> float:
        """Return when something is due, if nothing changes; infinite if nothing waits."""
        if not self.waiting:
            return math.inf
        due_s = self._patience.next_end_s() if self._patience is not None else math.inf
        return min(due_s, self._alarms[0][0]) if self._alarms else due_s
