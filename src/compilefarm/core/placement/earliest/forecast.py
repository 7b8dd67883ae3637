"""The known rest of a build, as a situation for the rule, on the farm as it is now."""

from __future__ import annotations

from compilefarm.core.placement.earliest.active_builds import ActiveBuilds
from compilefarm.core.placement.earliest.builds import Build
from compilefarm.core.placement.earliest.leases import Leases
from compilefarm.core.placement.earliest.places import Places
from compilefarm.core.placement.earliest.playing import Rest
from compilefarm.core.placement.earliest.queues import Queue
from compilefarm.core.placement.earliest.rule import EPSILON_S, Situation
from compilefarm.core.placement.earliest.speed_classes import Place
from compilefarm.core.placement.earliest.waitlist import Waitlist


class Forecast:
    """What is left of builds, from the outlook, from learned costs, and from what runs.

    `compares`: the rule compares slots at all.
    """

    def __init__(
        self,
        places: Places,
        builds: ActiveBuilds,
        leases: Leases,
        waitlist: Waitlist,
        *,
        compares: bool = True,
    ) -> None:
        self._places = places
        self._builds = builds
        self._leases = leases
        self._waitlist = waitlist
        self._compares = compares

    def situation(
        self, queue: Queue, place: Place, typical_cost: float, now: float, *, compares: bool = True
    ) -> Situation:
        """Return the situation for the rule when a queue may have a free place.

        A file of unknown cost counts as `typical_cost`. `compares`: that cost is known well enough
        for the rule to compare slots.
        """
        build, farm = queue.build, self._places.farm
        waiting, outlook = build.waiting, build.outlook
        work = build.running.work_left(now) + waiting.known_work + waiting.unknown * typical_cost
        longest_beside = 0.0
        if outlook.costs and build.still_expects(now):
            longest_beside = outlook.longest
            work += outlook.work
        for other in self._waitlist.queues_of(build):
            if other is not queue and other.costs and other.costs[-1] > longest_beside:
                longest_beside = other.costs[-1]
        return Situation(
            now,
            place.speed,
            queue.costs_with(typical_cost),
            queue.view.busy_above(place.class_index),
            bool(self._leases.running),
            work,
            outlook.longest,
            longest_beside,
            build.running.last_end_s(now),
            self._builds.speed_for(build),
            farm.top_speed(),
            build.tuning.mode,
            compares and self._compares,
        )

    def rest(self, build: Build, now: float) -> Rest:
        """Return the rest of a build that has the farm to itself, to be played forward."""
        farm = self._places.farm
        order = [index for index in reversed(farm.order) if farm.classes[index].slots > 0]
        position = {class_index: number for number, class_index in enumerate(order)}
        running = [
            (each.end_s, position[each.class_index])
            for each in build.running.leases.values()
            if each.class_index in position
        ]
        waiting = [cost for queue in self._waitlist.queues_of(build) for cost in queue.costs]
        if build.waiting.unknown:
            waiting += [build.typical_cost(now)] * build.waiting.unknown
        return Rest(
            now,
            [farm.classes[index].speed for index in order],
            [farm.classes[index].slots for index in order],
            running,
            waiting,
            list(build.outlook.costs.values()),
            build.jobs,
            max(EPSILON_S, farm.fastest_sum(build.jobs)),
            compares=self._compares,
        )
