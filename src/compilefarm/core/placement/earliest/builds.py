"""A build as the policy sees it: its waiting files, its leases, and the files still to come.

A build is one user's make in one directory of one builder. Nothing announces its begin or its end.
It begins with the first request after a pause, and is over after the next pause. Its outlook, the
files that it will ask for, is what the last build there asked for. All sums that a decision needs
are kept up to date here, so that no decision costs more for a larger build.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass

from compilefarm.core.learning.clones import SHARED_LEAST
from compilefarm.core.placement.earliest.rule import EPSILON_S
from compilefarm.core.placement.earliest.running import RunningOfBuild
from compilefarm.core.placement.earliest.tuning import Tuning

BuildKey = tuple[str, str, str]  # user, builder, directory

# A make -jN asks for its first N compiles within some milliseconds. They are gathered, and placed
# together. The gathering ends after a pause of this many of their own mean intervals. The pause is
# limited by GATHER_AT_LEAST_S and GATHER_S.
GATHER_INTERVALS = 4.0
GATHER_AT_LEAST_S, GATHER_S = 0.0002, 0.002
GATHER_AT_MOST_S = 0.02  # after the first
# A build that could ask, but has not done so for this time, is expected to ask for nothing more.
STALLED_AFTER_S = 1.0
LATEST_GAP_WEIGHT = 0.2  # of the mean time from a compile's end to the next request
PREPROCESSING_SAMPLES = 20  # files over which the mean CPU time of preprocessing goes
# A build that ends a compile asks for the next one. Until then it has fewer compiles outstanding
# than its -j: one fewer, and one more for each JOBS_PER_REFILL jobs.
JOBS_PER_REFILL = 16
# The assumed cost of a file while its build has done no work: about the least that a compile takes.
# Users are charged by it. Lower values do as well. With 0.02 to 1 s, four first builds at once take
# 5 to 9 % longer. A user with a very long file would count as served before the file got its work.
UNKNOWN_COST = 0.005
# The most costs kept of one build. Beyond it, every second one is dropped, which keeps their
# distribution.
COSTS_LIMIT = 1000
# An estimate always includes one file that has not been seen yet. That file costs this many times
# the work done so far. A value that is too high loses nothing: a backup takes an idle slot.
UNSEEN_COSTS_TIMES = 5.0


class User:
    """The owner of builds; `served` is the work that they got, in seconds at power index 1."""

    __slots__ = ("active", "builds", "served")

    def __init__(self) -> None:
        self.served = 0.0
        self.active = 0  # builds with a compile that waits or runs
        self.builds = 0


class Gathering:
    """Keeps the first requests of a build waiting, until `until_s`, to place them together."""

    __slots__ = ("_begun_s", "until_s")

    def __init__(self, now: float) -> None:
        self._begun_s = now
        self.until_s = now

    def extend(self, outstanding: int, now: float) -> None:
        """Wait for more, after another request has come in time."""
        gather_s = GATHER_S
        if outstanding > 2:
            interval_s = (now - self._begun_s) / (outstanding - 1)
            gather_s = min(max(GATHER_INTERVALS * interval_s, GATHER_AT_LEAST_S), GATHER_S)
        self.until_s = min(now + gather_s, self._begun_s + GATHER_AT_MOST_S)

    def stop(self) -> None:
        """Wait no longer."""
        self.until_s = -math.inf


@dataclass(slots=True)
class Rhythm:
    """When a build asked and ended, and how long its builder takes between the two, in seconds."""

    last_arrival_s: float
    last_event_s: float
    gap_s: float = 0.0  # mean, from a compile's end to the next request
    preprocess_s: float = 0.0  # mean CPU time of the builder for one compile
    ended_s: float = math.inf  # the last end, if nothing was asked for since


@dataclass(slots=True)
class WaitingWork:
    """What a build has waiting, summed up."""

    files: int = 0
    unknown: int = 0  # those of the files whose cost is unknown
    known_work: float = 0.0  # the cost of the others, in seconds at power index 1


class Outlook:
    """Files still to come: their `costs` by source, in the order of asking; none in a first build.

    Costs and work are in seconds at power index 1. `longest` is the highest cost, or 0.
    """

    def __init__(self, costs: dict[str, float]) -> None:
        self.costs = costs
        self._sorted = sorted(costs.values())
        self.work = sum(self._sorted)
        self.longest = self._sorted[-1] if self._sorted else 0.0

    def drop(self, source: str) -> None:
        """Drop a file, if it is here: it is no longer to come."""
        cost = self.costs.pop(source, None)
        if cost is not None:
            del self._sorted[bisect_left(self._sorted, cost)]
            # Sums of floats drift; the sum of no costs is exactly 0.
            self.work = self.work - cost if self._sorted else 0.0
            self.longest = self._sorted[-1] if self._sorted else 0.0


class DoneFiles:
    """The files done in one build. Costs and work are in seconds at power index 1."""

    def __init__(self) -> None:
        self.count = 0
        self.work = 0.0
        self._costs: list[float] = []  # the cheapest first

    def add(self, work: float) -> None:
        """Count a file that took that work."""
        self.count += 1
        self.work += work
        insort(self._costs, work)
        if len(self._costs) > COSTS_LIMIT:
            del self._costs[::2]

    def above(self, work: float) -> int:
        """Return how many of the files kept cost more than that."""
        return len(self._costs) - bisect_right(self._costs, work)

    def expected_cost(self, work: float) -> float:
        """Return the expected cost of a file that got `work` and has not ended.

        That is the mean over the done files that cost more, and one file that was not seen yet.
        """
        above = self._costs[bisect_right(self._costs, work) :]
        return (sum(above) + work * UNSEEN_COSTS_TIMES) / (len(above) + 1)


class Build:
    """The state of one build. Costs and work are in seconds at power index 1.

    `jobs` is the most that it had outstanding at once, now or in the last build: its -j, as seen.
    """

    def __init__(
        self, key: BuildKey, user: User, outlook: Outlook, jobs: int, tuning: Tuning, now: float
    ) -> None:
        self.key = key
        self.user = user
        self.served = 0.0  # work that it got
        self.jobs = max(1, jobs)
        self.most_outstanding = 0
        self.waiting = WaitingWork()
        self.running = RunningOfBuild(now)
        self.done = DoneFiles()
        self.rhythm = Rhythm(now, now)
        self.gathering = Gathering(now)
        self.tuning = tuning
        self.seen: dict[str, None] = {}  # sources, in the order of asking
        self.alarm_s = math.inf  # when it is asked again, whatever happens
        self.measures_again_s = -math.inf  # sends no file to measure a host before then
        # A first build looks for a twin of its directory when it has asked for this many files.
        self.twin_wanted_at: float = SHARED_LEAST
        self.outlook = outlook
        self.warm = False  # the outlook is known, so this is no first build
        if outlook.costs:
            self.warm = True
            self.running.keep_latest()

    @property
    def outstanding(self) -> int:
        """Compiles that wait or run."""
        return self.waiting.files + len(self.running.leases)

    @property
    def refills(self) -> bool:
        """Whether a new request follows each ended compile; some may still be on their way."""
        outstanding = self.waiting.files + len(self.running.leases)
        return outstanding + 1 + self.jobs // JOBS_PER_REFILL >= self.jobs

    def still_expects(self, now: float) -> bool:
        """Whether the build is still expected to ask for the files of its outlook."""
        return self.refills or now - self.rhythm.last_arrival_s < STALLED_AFTER_S

    def go_by_twin(self, outlook: dict[str, float], jobs: int) -> None:
        """Go by another directory's last build from now on, instead of being a first build."""
        left = {source: cost for source, cost in outlook.items() if source not in self.seen}
        self.outlook = Outlook(left)
        self.jobs = max(self.jobs, jobs)
        self.warm = True
        self.running.keep_latest()

    def arrived(self, source: str, now: float) -> None:
        """Count a file as asked for: it is no longer to come."""
        self.seen[source] = None
        if self.outlook.costs:
            self.outlook.drop(source)
        rhythm = self.rhythm
        rhythm.last_arrival_s = rhythm.last_event_s = now
        if rhythm.ended_s < now:
            rhythm.gap_s += LATEST_GAP_WEIGHT * (now - rhythm.ended_s - rhythm.gap_s)
        rhythm.ended_s = math.inf

    def queued(self, cost: float | None) -> None:
        """Count a file as waiting; `cost` is None where it is unknown."""
        self.waiting.files += 1
        if cost is None:
            self.waiting.unknown += 1
        else:
            self.waiting.known_work += cost
        self.count_outstanding()

    def unqueued(self, cost: float | None) -> None:
        """Count a file as waiting no more."""
        waiting = self.waiting
        waiting.files -= 1
        if cost is None:
            waiting.unknown -= 1
        else:  # sums of floats drift; the sum of no costs is exactly 0
            waiting.known_work = waiting.known_work - cost if waiting.files else 0.0

    def count_outstanding(self) -> None:
        """Learn the build's -j from what is outstanding."""
        outstanding = self.waiting.files + len(self.running.leases)
        if outstanding > self.most_outstanding:
            self.most_outstanding = outstanding
            self.jobs = max(self.jobs, outstanding)

    def ended(self, work: float, whole: bool, now: float) -> None:
        """Count the end of a lease; from a whole compile the typical file may be judged."""
        self.rhythm.last_event_s = self.rhythm.ended_s = now
        if whole:
            self.done.add(work)

    def preprocessed(self, cpu_s: float) -> None:
        """Count the preprocessing of a file that is done."""
        files = min(self.done.count, PREPROCESSING_SAMPLES)
        self.rhythm.preprocess_s += (cpu_s - self.rhythm.preprocess_s) / files

    def typical_cost(self, now: float) -> float:
        """Return the cost assumed for a file of unknown cost: the mean of this build's files.

        Running files count with the work done on them, since the long files end last.
        """
        work = self.running.work_done(now)
        if self.done.count:
            return (self.done.work + work) / self.done.count
        if work > EPSILON_S:
            return 2.0 * work / len(self.running.leases)
        return UNKNOWN_COST
