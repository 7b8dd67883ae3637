"""The decision about a free slot: which file of a queue starts there, or that none does.

The rule (`rule`) decides, on the forecast for the build (`forecast`), in the mode that is best for
it (`tuning`). A first build has no outlook, so its files take any free slot. A file that turns out
to be long begins again on a faster slot (`backups`). Where a file can have no backup, the rule uses
a stand-in for R (`first_build`).
"""

from __future__ import annotations

from compilefarm.core.learning.learning import Learning
from compilefarm.core.placement.earliest import first_build
from compilefarm.core.placement.earliest.active_builds import ActiveBuilds
from compilefarm.core.placement.earliest.builds import Build
from compilefarm.core.placement.earliest.forecast import Forecast
from compilefarm.core.placement.earliest.leases import Leases
from compilefarm.core.placement.earliest.measuring import Measuring
from compilefarm.core.placement.earliest.mechanisms import Mechanisms
from compilefarm.core.placement.earliest.places import Places
from compilefarm.core.placement.earliest.queues import Queue, Waiting
from compilefarm.core.placement.earliest.rule import EPSILON_S, WAIT, choose, to_do_s
from compilefarm.core.placement.earliest.speed_classes import Place
from compilefarm.core.placement.earliest.tuning import FILES_LIMIT
from compilefarm.core.placement.earliest.turns import REFUSES_ALL
from compilefarm.core.placement.earliest.waitlist import Waitlist

# A build that refused a slot is asked again when its own next compile is expected to end, but not
# sooner than this. On a large farm, some compile is expected to end at every moment.
ASK_AGAIN_S = 0.01


class Decision:
    """Decides about one queue and one free place at a time.

    `backups`: a compile whose client can run a backup may get one.
    """

    def __init__(
        self,
        learning: Learning,
        places: Places,
        builds: ActiveBuilds,
        leases: Leases,
        waitlist: Waitlist,
        measuring: Measuring | None,
        mechanisms: Mechanisms,
        *,
        backups: bool,
    ) -> None:
        self._learning = learning
        self._places = places
        self._builds = builds
        self._leases = leases
        self._waitlist = waitlist
        self._measuring = measuring
        self._forecast = Forecast(places, builds, leases, waitlist, compares=mechanisms.comparing)
        self._twins = mechanisms.twins
        self._backups = backups

    def choose(self, queue: Queue, place: Place, now: float) -> tuple[Waiting, Place] | None:
        """Return which request of a queue starts now, and where; None: it refuses the place."""
        build = queue.build
        if now < build.gathering.until_s:
            self._waitlist.refuse_until(queue, REFUSES_ALL, build.gathering.until_s)
            return None
        if not build.warm and self._twins and len(build.seen) >= build.twin_wanted_at:
            self._find_twin(build)
        if len(queue.costs) + len(queue.unknown) == 1 and queue.view.is_fastest(place):
            # There is no faster slot to wait for, and nothing to choose from.
            return queue.oldest(), place
        if not build.warm:
            return self._choose_in_first_build(queue, place, now)
        self._leases.enter_ends()
        self._leases.put_off_overdue(build, now)
        typical_cost = build.typical_cost(now) if build.waiting.unknown else 0.0
        situation = self._forecast.situation(queue, place, typical_cost, now)
        least_s = to_do_s(situation)
        if self._measuring is not None and self._measuring.worth_it(queue, now):
            measured = self._measuring.choose(queue, place, least_s, now)
            if measured is not None:
                return measured
        self._tune(build, now)
        situation.mode = build.tuning.mode
        index = choose(situation, least_s)
        return self._picked(queue, place, index, typical_cost, now)

    def _choose_in_first_build(
        self, queue: Queue, place: Place, now: float
    ) -> tuple[Waiting, Place] | None:
        build = queue.build
        first = queue.oldest()
        if not len(build.running) or (self._backups and first.request.can_back_up):
            return first, place
        # Overdue ends are not moved to a later time before the choice. They may come at any moment,
        # and a file that waits for one does not start on a slow slot.
        self._leases.enter_ends()
        typical_cost = build.typical_cost(now)
        situation = self._forecast.situation(
            queue, place, typical_cost, now, compares=first_build.knows_typical(build)
        )
        outstanding = len(self._waitlist.waiting) + len(self._leases.running)
        stand_in_s = first_build.stand_in_s(
            build, place, self._places.farm, self._builds.active, outstanding, typical_cost
        )
        return self._picked(queue, place, choose(situation, stand_in_s), typical_cost, now)

    def _picked(
        self, queue: Queue, place: Place, index: int, typical_cost: float, now: float
    ) -> tuple[Waiting, Place] | None:
        """Return the request that the rule picked; if none, have the queue asked again in time."""
        if index != WAIT:
            return queue.picked(index, typical_cost), place
        build = queue.build
        self._leases.put_off_overdue(build, now)
        end_s = build.running.soonest_end_s()
        if end_s is None:
            self._waitlist.refuse(queue, place.class_index)
        else:
            again_s = max(end_s + EPSILON_S, now + ASK_AGAIN_S)
            self._waitlist.refuse_until(queue, place.class_index, again_s)
        return None

    def _find_twin(self, build: Build) -> None:
        """Give a first build the outlook of another directory, if that had the same files."""
        if self._builds.find_twin(build):
            for waiting in self._waitlist.unknown_of(build):
                cost = self._learning.cost(build.key[2], waiting.request.source)
                self._waitlist.learn_cost(waiting, cost)

    def _tune(self, build: Build, now: float) -> None:
        """Try modes of the rule on a build that is alone on the farm, as its budget allows."""
        tuning = build.tuning
        files = build.waiting.files + len(build.running.leases) + len(build.outlook.costs)
        if self._builds.active > 1 or files > FILES_LIMIT:
            tuning.stop()
        elif tuning.affords_trial(files):
            tuning.try_modes(self._forecast.rest(build, now), files)
