"""A build as the scheduler sees it: what it asked for, what it holds, what is still to come.

A build is one user's make in one directory of one builder. Nobody says when one begins or ends,
so it begins with the first request after a pause and is over after the next one; what it is
expected to ask for (its outlook) is what the last build there asked for. All sums that a decision
needs are kept up to date, so that none has to be worked out.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

from compilefarm.core.learning.clones import SHARED_LEAST
from compilefarm.core.model import Request
from compilefarm.core.placement.earliest.speed_classes import Running, View, drop_untrue
from compilefarm.core.placement.earliest.turns import Turns, User

BuildKey = tuple[str, str, str]  # user, builder, directory

# After so long without a request and a lease, the next request begins another build.
OVER_AFTER_S = 10.0
# A make -jN asks for its first N compiles within some milliseconds. Which of them goes first, and
# where, is settled only when no more has come for some of their own intervals, within these bounds.
GATHER_INTERVALS = 4.0
GATHER_AT_LEAST_S, GATHER_S = 0.0002, 0.002
GATHER_AT_MOST_S = 0.02  # after the first
# A build that no longer refills, for so long, is taken to have nothing more to come.
STALLED_AFTER_S = 1.0
# A lease past its expected end is taken to need this part of its age again: the longer it took, the
# longer it may take, and the expectation is put off only O(log) times.
OVERRUN = 0.35
GAP_WEIGHT = 0.2  # of the latest
COSTS_LIMIT = 1000
EPSILON_S = 1e-9
# Steps of looking ahead: by each grant and each end; and saved, at most.
STEPS_EARNED, STEPS_SAVED = 4, 2000


class Mode(NamedTuple):
    """One way to play a build.

    `hurry`: short files go first while a long one is still to come. `limit`: which part of the rest
    of the build one file may take; infinite: never wait.
    """

    hurry: bool
    limit: float


STEADY = Mode(False, 1.0)


@dataclass(slots=True, eq=False)
class Waiting:
    """A request that waits. `cost` is None where nothing is known of its file."""

    request: Request
    build: Build
    queue: Queue
    cost: float | None
    number: int
    arrived: float
    at_once_speed: float = 1.0  # of the slot that it could have had when it came


class Queue:
    """What one build has waiting that may use the same hosts."""

    def __init__(self, build: Build, turns: Turns) -> None:
        self.build = build
        self.turns = turns
        self.line: int | None = None  # of these turns, where it stands; None: nothing waits
        self.stamp = 0  # goes up when it moves
        # Cheapest first, and of equal ones the latest first, so that the oldest is found from
        # behind.
        self.known: list[tuple[float, int, Waiting]] = []
        self.unknown: dict[int, Waiting] = {}  # in the order of arrival

    def __len__(self) -> int:
        return len(self.known) + len(self.unknown)

    def all(self) -> list[Waiting]:
        """Return all that waits here."""
        return [entry[2] for entry in self.known] + list(self.unknown.values())

    def put(self, waiting: Waiting) -> None:
        """Queue a request."""
        if waiting.cost is None:
            self.unknown[waiting.number] = waiting
        else:
            insort(self.known, (waiting.cost, -waiting.number, waiting))

    def drop(self, waiting: Waiting) -> None:
        """Take a request out."""
        if waiting.cost is None:
            del self.unknown[waiting.number]
        else:
            del self.known[bisect_left(self.known, (waiting.cost, -waiting.number))]

    def oldest_unknown(self) -> Waiting:
        """Return the request that has waited longest among those of unknown cost."""
        return next(iter(self.unknown.values()))

    def longest_within(self, limit: float) -> Waiting:
        """Return the costliest request of a cost of at most `limit`; there must be one."""
        return self.known[bisect_right(self.known, (limit, 1)) - 1][2]


class Build:
    """The books of one build. Costs and work are seconds at power index 1."""

    def __init__(self, key: BuildKey, user: User, outlook: dict[str, float], jobs: int) -> None:
        self.key = key
        self.user = user
        self.served = 0.0
        self.queue_of: dict[tuple[str, str, frozenset[str]], Queue] = {}  # by restriction
        self.queues: dict[tuple[View, frozenset[str]], Queue] = {}
        self.standing: dict[Queue, None] = {}  # of these, those with something waiting
        self.waiting = 0
        self.unknown = 0
        self.waiting_work = 0.0
        self.held: dict[int, Running] = {}
        self.jobs = max(
            1, jobs
        )  # most outstanding at once, now or in the last build: its -j, as seen
        self.most_outstanding = 0
        self.alarm = math.inf  # when it is asked again, whatever happens
        self.begun: float | None = None
        self.gathers_until = -math.inf
        self.measures_again = -math.inf  # sends no file to find a host's speed out before then
        self.last_arrival = 0.0
        self.last_event = 0.0
        self.seen: dict[str, None] = {}  # sources, in the order of asking
        # Over running leases: the sums of speed, start * speed and end * speed, and the ends, two
        # ways.
        self.power = self.start_power = self.end_power = 0.0
        self.soonest: list[tuple[float, int, Running]] = []
        self.latest: list[tuple[float, int, Running]] = []
        self._take_outlook(outlook)
        # Of a first build: whether its files are another directory's is asked when it has asked for
        # so many.
        self.twin_wanted_at: float = SHARED_LEAST
        self.preprocess_s = 0.0  # on the builder, of a compile, on average
        self.gap_s = 0.0  # from a compile's end to the next request, on average
        self._ended_at = math.inf  # the last end, if nothing was asked for since
        # What was done in this build.
        self.done = 0
        self.costs: list[float] = []  # of these files, the cheapest first; of some, if many
        self.done_work = 0.0
        # How it is played, the steps it has earned to find out, and the trials of the current
        # round.
        self.mode = STEADY
        self.credit = float(STEPS_SAVED)
        self.trials: list[Mode] = []
        self.best = STEADY
        self.best_end_s = 0.0
        self.share_cache = (-1, -1, 0.0)

    @property
    def outstanding(self) -> int:
        """Compiles that wait or run."""
        return self.waiting + len(self.held)

    @property
    def refills(self) -> bool:
        """Whether what ends is followed by a new request, give or take those on their way."""
        return self.outstanding + 1 + self.jobs // 16 >= self.jobs

    def still_expects(self, now: float) -> bool:
        """Whether what the outlook has is still to be counted on."""
        return self.refills or now - self.last_arrival < STALLED_AFTER_S

    def _take_outlook(self, outlook: dict[str, float]) -> None:
        """Take what is still to come, as the last build had it; nothing, in a first build."""
        self.outlook = outlook
        self.warm = bool(outlook)
        self.outlook_sorted = sorted(outlook.values())
        self.outlook_work = sum(self.outlook_sorted)

    def go_by_twin(self, outlook: dict[str, float], jobs: int) -> None:
        """Be no first build any more, as far as another directory's last one tells."""
        self._take_outlook({name: cost for name, cost in outlook.items() if name not in self.seen})
        self.warm = True
        self.jobs = max(self.jobs, jobs)
        for _, serial, running in self.soonest:
            heappush(self.latest, (-running.end_s, serial, running))

    def arrive(self, source: str, now: float) -> None:
        """Take note that a file was asked for: it is no longer to come."""
        self.seen[source] = None
        self.last_arrival = self.last_event = now
        if self.begun is None:
            self.begun = self.gathers_until = now
        if self._ended_at < now:
            self.gap_s += GAP_WEIGHT * (now - self._ended_at - self.gap_s)
        self._ended_at = math.inf
        cost = self.outlook.pop(source, None)
        if cost is not None:
            del self.outlook_sorted[bisect_left(self.outlook_sorted, cost)]
            self.outlook_work = self.outlook_work - cost if self.outlook_sorted else 0.0

    def put(self, waiting: Waiting) -> None:
        """Queue a request."""
        self.waiting += 1
        if waiting.cost is None:
            self.unknown += 1
        else:
            self.waiting_work += waiting.cost
        waiting.queue.put(waiting)
        self._count_outstanding()

    def _count_outstanding(self) -> None:
        outstanding = self.waiting + len(self.held)
        if outstanding > self.most_outstanding:
            self.most_outstanding = outstanding
            self.jobs = max(self.jobs, outstanding)

    def gather(self, request: Request, now: float) -> None:
        """Settle until when the build's first requests wait for those that come with them."""
        if self.begun is None or now > self.gathers_until:
            return
        if request.wait_s == 0:  # it is refused if it is not granted now
            self.gathers_until = -math.inf
        else:
            gather_s = GATHER_S
            if self.outstanding > 2:
                interval_s = (now - self.begun) / (self.outstanding - 1)
                gather_s = min(max(GATHER_INTERVALS * interval_s, GATHER_AT_LEAST_S), GATHER_S)
            self.gathers_until = min(now + gather_s, self.begun + GATHER_AT_MOST_S)

    def drop(self, waiting: Waiting) -> None:
        """Take a request out of its queue."""
        self.waiting -= 1
        if waiting.cost is None:
            self.unknown -= 1
        else:
            self.waiting_work = self.waiting_work - waiting.cost if self.waiting else 0.0
        waiting.queue.drop(waiting)

    def start(self, running: Running) -> None:
        """Take a lease up."""
        self.held[running.lease.request.id] = running
        self._count_outstanding()
        self.power += running.speed
        self.start_power += running.speed * running.start_s
        self.end_power += running.speed * running.end_s

    def end(self, running: Running, now: float, counts: bool) -> float:
        """Put a lease down and return the work that was done under it.

        `counts` says that it was a whole compile, from which the typical file may be judged.
        """
        del self.held[running.lease.request.id]
        self.last_event = now
        work = (now - running.start_s) * running.speed
        if self.held:
            self.power -= running.speed
            self.start_power -= running.speed * running.start_s
            self.end_power -= running.speed * running.end_s
        else:  # sums of floats drift; here they are known
            self.power = self.start_power = self.end_power = 0.0
        self._ended_at = now
        if counts:
            self.count(work)
        return work

    def count(self, work: float) -> None:
        """Take note of what a file took that was done."""
        self.done += 1
        self.done_work += work
        insort(self.costs, work)
        if len(self.costs) > COSTS_LIMIT:
            del self.costs[::2]

    def earn_steps(self) -> None:
        """Earn steps of looking ahead, with each grant and each end."""
        self.credit = min(self.credit + STEPS_EARNED, STEPS_SAVED)

    def preprocessed(self, cpu_s: float) -> None:
        """Take note of how long preprocessing took for one file."""
        self.preprocess_s += (cpu_s - self.preprocess_s) / min(self.done, 20)

    def typical(self, now: float) -> float:
        """Return the cost of a file of which nothing is known: what this build took, by file.

        What runs counts with the time that it has run: the files that have not ended are the long
        ones.
        """
        age = now * self.power - self.start_power
        if self.done:
            return (self.done_work + age) / self.done
        if self.held and age > 0.0:
            return 2.0 * age / len(self.held)
        return 1.0

    def overdue_leases(self, now: float) -> list[Running]:
        """Put off, and return, the leases that are past their expected ends."""
        late: list[Running] = []
        soonest = self.soonest
        while soonest and (soonest[0][0] <= now or soonest[0][0] != soonest[0][2].end_s):
            end_s, _, running = heappop(soonest)
            if end_s == running.end_s:
                later = now + OVERRUN * (now - running.start_s) + EPSILON_S
                self.end_power += running.speed * (later - end_s)
                running.end_s = later
                late.append(running)
        return late

    def expect(self, running: Running, serial: int) -> None:
        """Take note of when a lease is expected to end."""
        heappush(self.soonest, (running.end_s, serial, running))
        drop_untrue(self.soonest, len(self.held))
        if self.warm:  # a first build has no use for its latest end
            heappush(self.latest, (-running.end_s, serial, running))
            drop_untrue(self.latest, len(self.held))
