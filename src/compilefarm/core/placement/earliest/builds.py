"""A build as the policy sees it: what it asked for, what it holds, and what is still to come.

A build is one user's make in one directory of one builder. Nothing announces when one begins or
ends: it begins with the first request after a pause, and is over after the next pause. What it will
ask for (its outlook) is what the last build there asked for. All sums that a decision needs are
kept up to date here, so that no decision costs more for a larger build.
"""

from __future__ import annotations

import math

from compilefarm.core.learning.clones import SHARED_LEAST
from compilefarm.core.model import Request
from compilefarm.core.placement.earliest.done_files import DoneFiles
from compilefarm.core.placement.earliest.outlook import Outlook
from compilefarm.core.placement.earliest.rule import EPSILON_S
from compilefarm.core.placement.earliest.running import RunningOfBuild
from compilefarm.core.placement.earliest.tuning import Tuning

BuildKey = tuple[str, str, str]  # user, builder, directory

# A make -jN asks for its first N compiles within some milliseconds. Where they go is decided for
# all of them at once, when no more has come for this many of their own intervals, within the
# bounds.
GATHER_INTERVALS = 4.0
GATHER_AT_LEAST_S, GATHER_S = 0.0002, 0.002
GATHER_AT_MOST_S = 0.02  # after the first
# A build that has not asked for this long although it could is taken to have nothing more to come.
STALLED_AFTER_S = 1.0
LATEST_GAP_WEIGHT = 0.2  # of the mean time from a compile's end to the next request
PREPROCESSING_SAMPLES = 20  # files over which the mean CPU time of preprocessing goes
# A build that ends a compile asks for the next one; meanwhile it has fewer outstanding than its -j:
# one fewer, and one more for each of this many.
JOBS_PER_REFILL = 16
# The cost of a file while its build has done nothing from which to tell, about the least that a
# compile takes. Users are charged by it. Any value up to this one is as good, but with 0.02 to 1 s
# four first builds at once take 5 to 9 % longer: who has a giant must not seem to have got it all.
UNKNOWN_COST = 0.005


def key_of(request: Request) -> BuildKey:
    """Return which build a request belongs to."""
    return (request.user, request.builder, request.directory)


class User:
    """Who builds belong to, and the work that they got, in seconds at power index 1."""

    __slots__ = ("active", "builds", "served")

    def __init__(self) -> None:
        self.served = 0.0
        self.active = 0  # builds with a compile that waits or runs
        self.builds = 0


class Gathering:
    """Until when the first requests of a build wait for those that come with them."""

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


class Rhythm:
    """When a build asked and ended, and how long its builder takes between the two."""

    __slots__ = ("_ended_s", "gap_s", "last_arrival_s", "last_event_s", "preprocess_s")

    def __init__(self) -> None:
        self.last_arrival_s = 0.0
        self.last_event_s = 0.0
        self.gap_s = 0.0  # mean, from a compile's end to the next request
        self.preprocess_s = 0.0  # mean CPU time of the builder for one compile
        self._ended_s = math.inf  # the last end, if nothing was asked for since

    def arrived(self, now: float) -> None:
        """Count a request."""
        self.last_arrival_s = self.last_event_s = now
        if self._ended_s < now:
            self.gap_s += LATEST_GAP_WEIGHT * (now - self._ended_s - self.gap_s)
        self._ended_s = math.inf

    def ended(self, now: float) -> None:
        """Count the end of a lease."""
        self.last_event_s = self._ended_s = now

    def preprocessed(self, cpu_s: float, files: int) -> None:
        """Count the preprocessing of a file; that many have been done."""
        self.preprocess_s += (cpu_s - self.preprocess_s) / min(files, PREPROCESSING_SAMPLES)


class WaitingWork:
    """What a build has waiting, summed up."""

    __slots__ = ("files", "known_work", "unknown")

    def __init__(self) -> None:
        self.files = 0
        self.unknown = 0  # of these files, those of which no cost is known
        self.known_work = 0.0  # of the others, in seconds at power index 1

    def add(self, cost: float | None) -> None:
        """Count a file; `cost` is None where nothing is known of it."""
        self.files += 1
        if cost is None:
            self.unknown += 1
        else:
            self.known_work += cost

    def drop(self, cost: float | None) -> None:
        """Count a file out."""
        self.files -= 1
        if cost is None:
            self.unknown -= 1
        else:  # sums of floats drift; that of nothing is known
            self.known_work = self.known_work - cost if self.files else 0.0


class Build:
    """The books of one build. Costs and work are in seconds at power index 1.

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
        self.rhythm = Rhythm()
        self.gathering = Gathering(now)
        self.tuning = tuning
        self.seen: dict[str, None] = {}  # sources, in the order of asking
        self.alarm_s = math.inf  # when it is asked again, whatever happens
        self.measures_again_s = -math.inf  # sends no file to find a host's speed out before then
        # A first build looks for a twin of its directory when it has asked for this many files.
        self.twin_wanted_at: float = SHARED_LEAST
        self.outlook = outlook
        self.warm = False  # the outlook is known, so this is no first build
        if len(outlook):
            self._warm_up()

    def _warm_up(self) -> None:
        self.warm = True
        self.running.keep_latest()

    @property
    def outstanding(self) -> int:
        """Compiles that wait or run."""
        return self.waiting.files + len(self.running.leases)

    @property
    def refills(self) -> bool:
        """Whether what ends is followed by a new request, give or take those on their way."""
        return self.outstanding + 1 + self.jobs // JOBS_PER_REFILL >= self.jobs

    def still_expects(self, now: float) -> bool:
        """Whether what the outlook has is still to be counted on."""
        return self.refills or now - self.rhythm.last_arrival_s < STALLED_AFTER_S

    def go_by_twin(self, outlook: dict[str, float], jobs: int) -> None:
        """Go by another directory's last build from now on, instead of being a first build."""
        left = {source: cost for source, cost in outlook.items() if source not in self.seen}
        self.outlook = Outlook(left)
        self.jobs = max(self.jobs, jobs)
        self._warm_up()

    def arrived(self, source: str, now: float) -> None:
        """Count a file as asked for: it is no longer to come."""
        self.seen[source] = None
        self.rhythm.arrived(now)
        self.outlook.drop(source)

    def queued(self, cost: float | None) -> None:
        """Count a file as waiting."""
        self.waiting.add(cost)
        self.count_outstanding()

    def count_outstanding(self) -> None:
        """Learn the build's -j from what is outstanding."""
        outstanding = self.waiting.files + len(self.running.leases)
        if outstanding > self.most_outstanding:
            self.most_outstanding = outstanding
            self.jobs = max(self.jobs, outstanding)

    def ended(self, work: float, whole: bool, now: float) -> None:
        """Count the end of a lease; from a whole compile the typical file may be judged."""
        self.rhythm.ended(now)
        if whole:
            self.done.add(work)

    def typical_cost(self, now: float) -> float:
        """Return the cost of a file of which nothing is known: what this build took, by file.

        What runs counts with the work done on it: the files that have not ended are the long ones.
        """
        work = self.running.work_done(now)
        if self.done.count:
            return (self.done.work + work) / self.done.count
        if work > EPSILON_S:
            return 2.0 * work / len(self.running.leases)
        return UNKNOWN_COST
