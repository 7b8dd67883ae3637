"""What experience says: how costly a file is, how fast a host is, and what a build will ask for.

The model is log(time) = cost of the file - speed of the host + how crowded it was x what crowding
costs it + noise, where crowding goes from 0, with half of its slots in use, to 1, with all: the
later slots of an SMT machine are threads of cores that are taken already. A file compiled on two
hosts compares the hosts without anything being known of its cost, so every file keeps its last
few compiles, every host refers to its own last ones, and a host's speed is fitted to what *other*
hosts say of the same files. (Were a host's own compiles counted too, a file seen on one host only
would confirm whatever that host was believed to be; a Kalman filter over costs and speeds fails
in this way, and was dropped for it.)

The fit is a robust mean: the median first, then Huber's weights about it, with the declared power
index as one more observation, `PRIOR_SD` wide. A file that was seen on one host only says nothing
of that host. (To compare it with the typical file, as a stand-in, misleads: a good placement gives
the slow hosts the short files.) Each compile refits its own host and one other in turn, so that
corrections travel round the farm at a bounded cost. The scale that costs and speeds share cannot
be known from times: pinned hosts hold it, or that on average hosts are about what is declared of
them. Only ratios matter, until a host is added of which nothing but its declaration is known; left
to itself, the scale runs away over some weeks of builds, as each host follows the others.

It forgets slowly: only the latest compiles count. What is older than a day beside them counts
together as one observation, the less sure the longer ago, because whatever changed a host since
changed it for all of them; so a few compiles now outvote many of last month. In the same way a
host that has not been used for long becomes uncertain again (`confidence`), which is when it is
worth measuring. Wild times (`wild`) change nothing.

Pure: times come in as arguments, nothing is opened, and what is to be kept is handed out by
`unsaved`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from compilefarm.core.learning.clones import AT_LEAST, NAMES, PART, Twins, name_in

# Standard deviations of natural logarithms: 0.1 is 10 %.
NOISE_SD = 0.12  # of one compile about its file's cost
PRIOR_SD = 1.0  # of a declared power index: factors of 3 do occur
HUBER = 2.0  # deviations beyond which a surprise counts for less
COMPILES_OF_FILE = 5
COMPILES_OF_HOST = 48
FAR_OFF = 0.5  # of one compile of a file from the middle one: 65 %
CROWDING_SD = 0.3  # of what crowding costs a host of which nothing is known
CROWDING_LIMIT = math.log(4.0)
# Compiles of one file on one host say what crowding costs when they differ in it by this much; what
# two of them say, of all slots instead of half, is not believed beyond the limit.
CROWDING_APART = 0.2
LONGER_LIMIT = 2.0
# Crowding that costs less than this is not worth telling two kinds of slots apart.
CROWDING_FROM = 0.1
DAY_S = 86_400.0
AGEING_PER_S = 0.3**2 / DAY_S  # variance that a host gains while it is not used: 30 % after a day
# How far hosts may be off what is declared of them on average, which harms nobody, and which part
# of what is more is put right with each fit. A host that is off by a lot counts as if by less.
SCALE_SLACK = 0.5
OFF_LIMIT = 1.0
SCALE_PULL = 0.1
# The weight of a host that is only remembered: until it is declared, it says next to nothing, for
# its scale is unknown.
UNDECLARED = 1e-9
# A speed that moved less than this is not worth telling.
TOLD_FROM = 0.02
# Shorter, and the network's time is all that was measured; longer, and a clock jumped.
SHORTEST_S, LONGEST_S = 1e-4, 86_400.0
FILES_LIMIT = 100_000
UNSAVED_LIMIT = 10_000
# A host is fitted again when one in so many of its compiles is new.
FIT_PART = 8
# A build that asked for less of what its predecessor had was not a whole one.
WHOLE_BUILD = 0.5
# What one compile may need until it has been seen: an ordinary C++ file.
MEMORY_MB = 200.0


class Compile(NamedTuple):
    """One compile as it is kept: what, where, how long it took there, and when it ended."""

    directory: str
    source: str
    host: str
    took_s: float
    at: float
    crowding: float = 0.0  # of the host, on average over the compile


class Unsaved(NamedTuple):
    """What was learned, and which files were forgotten, since this was asked for before."""

    compiles: list[Compile]
    forgotten: list[tuple[str, str]]  # directory and source
    memory_mb: dict[str, float]  # that one compile needs, by directory


@dataclass(slots=True, eq=False)
class _Seen:
    """A compile's part in the model, tied to its file and host."""

    file: _File
    host: _Host
    log_s: float
    at: float
    crowding: float

    @property
    def alone_log_s(self) -> float:
        """What it would have taken on a host with slots to spare."""
        return self.log_s - self.host.crowding * self.crowding


@dataclass(slots=True, eq=False)
class _File:
    seen: deque[_Seen] = field(default_factory=lambda: deque(maxlen=COMPILES_OF_FILE))


@dataclass(slots=True, eq=False)
class _Host:
    name: str
    declared: float  # logarithm of the power index
    mean: float
    variance: float
    weight: float  # of what it says of a file's cost: less, the less sure its speed is
    pinned: bool = False
    crowding: float = 0.0  # log time gained when all slots are in use instead of half of them
    off: float = 0.0  # what is counted of the mean as off the declared one
    told: float = 0.0  # the mean when the speed was last told
    told_crowding: float = 0.0
    measured_at: float = -math.inf  # when a compile last said something of its speed
    unfitted: int = 0  # compiles since the last fit
    unsettled: bool = (
        False  # a host that says something of this one was declared since the last fit
    )
    seen: deque[_Seen] = field(default_factory=lambda: deque(maxlen=COMPILES_OF_HOST))


@dataclass(slots=True, eq=False)
class _Directory:
    """What is remembered of the builds in one directory."""

    name: str
    files: dict[str, _File] = field(default_factory=dict)  # the least recently compiled first
    last_build: dict[str, None] = field(default_factory=dict)  # sources, in the order of asking
    jobs: int = 0
    memory_mb: float = 0.0
    # From which directory we know what is not known of this one. By name: it may be forgotten.
    twin: str = ""


def crowding(in_use: float, slots: int) -> float:
    """Return how crowded a host is: 0 up to half of its slots in use, 1 with all of them.

    In between it is the part of the work that shares a core, were each core two slots.
    """
    if in_use <= 1.0:
        return 0.0
    return 1.0 if in_use >= slots else max(0.0, 2.0 - slots / in_use)


def wild(took_s: float) -> bool:
    """Whether a time is one that no compile takes."""
    return not SHORTEST_S <= took_s <= LONGEST_S


class Learning:
    """Costs, speeds and builds, as learned so far."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}
        self._turns: list[_Host] = []
        self._pinned: set[str] = set()
        self._off = 0.0  # by how much the hosts are off what is declared of them, all together
        self._turn = 0
        # The least recently used directory first.
        self._directories: dict[str, _Directory] = {}
        self._files = 0
        # Bounded, for a shell that does not ask for them.
        self._unsaved: deque[Compile] = deque(maxlen=UNSAVED_LIMIT)
        self._forgotten: deque[tuple[str, str]] = deque(maxlen=FILES_LIMIT)
        self._unsaved_memory: set[str] = set()  # directories
        self._twins = Twins()

    # -- hosts

    def declare(self, host: str, power_index: float, pinned: bool = False) -> None:
        """Take note of what a host is said to be; `pinned`: it is that, whatever is measured."""
        declared = math.log(power_index)
        known = self._hosts.get(host)
        if known is None:
            known = self._hosts[host] = _Host(
                host, declared, declared, PRIOR_SD**2, _weight(PRIOR_SD**2), told=declared
            )
            self._turns.append(known)
        elif known.weight == UNDECLARED:
            known.mean, known.weight = declared, _weight(PRIOR_SD**2)
            self._unsettle_others(known)
        elif (known.declared, known.pinned) == (declared, pinned):
            return
        known.declared, known.pinned = declared, pinned
        (self._pinned.add if pinned else self._pinned.discard)(host)
        if pinned:
            known.mean = known.told = declared
            known.crowding = known.told_crowding = 0.0
            known.variance, known.weight = 0.0, _weight(0.0)
        else:
            self._fit(known, max((seen.at for seen in known.seen), default=0.0))
            known.told, known.told_crowding = known.mean, known.crowding
        self._count_off(known)

    def speed(self, host: str) -> float:
        """Return a declared host's speed with slots to spare; the slowest machine's is about 1."""
        known = self._hosts[host]
        if known.unsettled:
            self._settle(known)
        return math.exp(known.told)

    def full_part(self, host: str) -> float:
        """Return the part of its speed that a slot of a host keeps when all slots are in use."""
        crowding = self._hosts[host].told_crowding
        return math.exp(-crowding) if crowding >= CROWDING_FROM else 1.0

    def confidence(self, host: str, now: float) -> float:
        """Return how sure a speed is: 0 when only declared, towards 1 as compiles agree.

        It falls again while a host is not used.
        """
        known = self._hosts[host]
        if known.pinned:
            return 1.0
        return 1.0 - min(1.0, math.sqrt(known.variance + _aged(now - known.measured_at)) / PRIOR_SD)

    # -- files and builds

    def cost(self, directory: str, source: str) -> float | None:
        """Return a file's cost in seconds at power index 1; None where it was never compiled."""
        known = self._directories.get(directory)
        file = known.files.get(source) if known is not None else None
        if file is None and (twin := self._twin_of(known)) is not None:
            file = twin.files.get(name_in(twin.name, source, directory))
        return None if file is None else _cost_of(file)

    def outlook(self, directory: str) -> dict[str, float]:
        """Return what a build there will ask for, in order, with costs; empty if unknown."""
        known = self._directories.get(directory)
        if known is not None and known.last_build:
            return _outlook_of(known)
        twin = self._twin_of(known)
        if twin is None:
            return {}
        return {
            name_in(directory, source, twin.name): cost
            for source, cost in _outlook_of(twin).items()
        }

    def jobs(self, directory: str) -> int:
        """Return how many compiles the last build there had outstanding at once; 0 if unknown."""
        known = self._directories.get(directory)
        if known is None or not known.jobs:
            known = self._twin_of(known)
        return known.jobs if known is not None else 0

    def find_twin(self, directory: str, sources: Iterable[str]) -> bool:
        """Look for another directory with these files; return whether there is one.

        What is not known of this directory is then known from the last build in that one.
        """
        asked_for = list(islice(sources, NAMES))
        for candidate in self._twins.candidates(directory, asked_for):
            other = self._directories[candidate]
            if not other.last_build:  # in its first build, which may have a twin itself
                other = self._twin_of(other) or other
            known = sum(name_in(other.name, each, directory) in other.files for each in asked_for)
            if other.last_build and known >= max(AT_LEAST, PART * len(asked_for)):
                self._directory(directory).twin = other.name
                return True
        return False

    def build_ended(self, directory: str, sources: dict[str, None], jobs: int) -> None:
        """Take note of what a build asked for; one that made only a part adds to the outlook."""
        known = self._directories.get(directory)
        if known is None or not sources:
            return
        before = known.last_build
        if len(sources) >= WHOLE_BUILD * len(before):
            known.last_build = dict(sources)
            known.jobs = jobs
        else:
            known.last_build = {**before, **sources}
        self._use(directory, known)

    # -- memory

    def memory_mb(self, directory: str) -> float:
        """Return what one compile in that directory needs, in MB."""
        known = self._directories.get(directory)
        if known is None or not known.memory_mb:
            known = self._twin_of(known)
        return (known.memory_mb if known is not None else 0.0) or MEMORY_MB

    def observe_memory(self, directory: str, memory_mb: float) -> None:
        """Take note that compiles of a directory needed so much each.

        It is believed at once when it is more than before, and slowly when it is less.
        """
        known = self._directories.get(directory)
        if known is None or not 0.0 < memory_mb < 1e7:
            return
        if memory_mb >= known.memory_mb:
            known.memory_mb = memory_mb
        else:
            known.memory_mb += 0.02 * (memory_mb - known.memory_mb)
        self._unsaved_memory.add(directory)

    # -- compiles

    def observe(
        self,
        directory: str,
        source: str,
        host: str,
        took_s: float,
        now: float,
        crowding: float = 0.0,
    ) -> list[str]:
        """Learn from one whole compile; return the hosts whose speed has moved.

        `crowding` is how crowded the host was, on average over the compile. Nothing is learned from
        a wild time, nor where the host was never declared.
        """
        if wild(took_s) or host not in self._hosts or not source:
            return []
        compiled = Compile(directory, source, host, took_s, now, crowding)
        self._unsaved.append(compiled)
        self._record(compiled)
        self._turn = (self._turn + 1) % len(self._turns)
        return self._told([self._hosts[host], self._turns[self._turn]], now)

    # -- what survives

    def unsaved(self) -> Unsaved:
        """Return, once, what is new since the last call."""
        known = self._directories
        memory_mb = {
            directory: known[directory].memory_mb
            for directory in self._unsaved_memory
            if directory in known
        }
        unsaved = Unsaved(list(self._unsaved), list(self._forgotten), memory_mb)
        self._unsaved.clear()
        self._forgotten.clear()
        self._unsaved_memory.clear()
        return unsaved

    def restore(self, compiles: list[Compile], memory_mb: dict[str, float]) -> None:
        """Learn again from what was kept, oldest first; hosts may be declared later."""
        for each in compiles:
            if not wild(each.took_s):
                if each.host not in self._hosts:
                    self.declare(each.host, 1.0)
                    self._hosts[each.host].weight = UNDECLARED
                self._record(each)
                self._directories[each.directory].last_build[each.source] = None
        for directory, needed_mb in memory_mb.items():
            self.observe_memory(directory, needed_mb)
        self._unsaved_memory.clear()  # they are kept already

    def _record(self, compiled: Compile) -> None:
        """Enter a compile into the books of its file and its host."""
        directory = self._directory(compiled.directory)
        self._use(compiled.directory, directory)
        host = self._hosts[compiled.host]
        log_s = math.log(compiled.took_s)
        file = directory.files.pop(compiled.source, None)
        if file is None:
            file = _File()
            self._files += 1
            self._twins.came_up(compiled.directory, compiled.source)
        directory.files[compiled.source] = file
        self._forget_oldest()
        seen = _Seen(file, host, log_s, compiled.at, compiled.crowding)
        if host.seen and compiled.at - host.seen[-1].at > DAY_S:
            host.unfitted = COMPILES_OF_HOST  # what it says now counts for more than all before
        file.seen.append(seen)
        host.seen.append(seen)
        host.unfitted += 1

    def _directory(self, name: str) -> _Directory:
        directory = self._directories.get(name)
        if directory is None:
            directory = self._directories[name] = _Directory(name)
        return directory

    def _twin_of(self, known: _Directory | None) -> _Directory | None:
        """Return a directory's twin, unless that was forgotten."""
        return self._directories.get(known.twin) if known is not None and known.twin else None

    def _use(self, name: str, directory: _Directory) -> None:
        """Make a directory the most recently used."""
        if next(reversed(self._directories)) != name:
            del self._directories[name]
            self._directories[name] = directory

    def _forget_oldest(self) -> None:
        """Keep within the limit: forget the directory that rested longest, of an only one files."""
        while self._files > FILES_LIMIT:
            name, oldest = next(iter(self._directories.items()))
            if len(self._directories) > 1:
                del self._directories[name]
                self._unsaved_memory.discard(name)
                sources = list(oldest.files)
            else:
                sources = [next(iter(oldest.files))]
                del oldest.files[sources[0]]
                oldest.last_build.pop(sources[0], None)
            for source in sources:
                self._twins.forget(name, source)
            self._files -= len(sources)
            self._forgotten.extend((name, source) for source in sources)

    def _told(self, hosts: list[_Host], now: float) -> list[str]:
        """Fit those of the hosts that are worth it; return the names of those whose speed moved."""
        moved = []
        for host in hosts:
            # A fit costs as much as a host remembers compiles; one new one in eight is worth it.
            if host.pinned or host.unfitted * FIT_PART < len(host.seen) or not host.seen:
                continue
            self._fit(host, now)
            if (
                abs(host.mean - host.told) >= TOLD_FROM
                or abs(host.crowding - host.told_crowding) >= TOLD_FROM
            ):
                host.told, host.told_crowding = host.mean, host.crowding
                moved.append(host.name)
        return moved

    def _unsettle_others(self, host: _Host) -> None:
        """Have the hosts that compiled the same files fitted again when next somebody asks.

        After a restart hosts are declared one by one. Those that come first are fitted to the few
        that are there, which may be wrong by a factor: a pinned one that comes last puts it right.
        """
        for seen in host.seen:
            for other in seen.file.seen:
                if other.host is not host and other.host.weight != UNDECLARED:
                    other.host.unsettled = True
                    other.host.unfitted = COMPILES_OF_HOST

    def _settle(self, host: _Host) -> None:
        """Fit a host anew to what is known by now; a move has the others fitted again in turn."""
        self._fit(host, max((seen.at for seen in host.seen), default=0.0))
        if abs(host.mean - host.told) >= TOLD_FROM:
            self._unsettle_others(host)
        host.told, host.told_crowding = host.mean, host.crowding

    def _fit(self, host: _Host, now: float) -> None:
        """Fit a host's speed, and what crowding costs it, to what others say of its files."""
        host.unfitted = 0
        host.unsettled = False
        if host.pinned:
            return
        says: list[_Said] = []
        before: list[_Said] = []
        # What the host says itself of one file, when it was crowded and when it was not.
        own = own_weight = 0.0
        recently = max([seen.at for seen in host.seen], default=0.0) - DAY_S
        for seen in host.seen:
            total = weights = 0.0
            for other in seen.file.seen:
                on = other.host
                if on is not host:
                    # `alone_log_s` in full: this is the loop that learning spends its time in.
                    weight = on.weight
                    total += weight * (other.log_s - on.crowding * other.crowding + on.mean)
                    weights += weight
                elif (
                    other is not seen
                    and abs(more := seen.crowding - other.crowding) > CROWDING_APART
                ):
                    longer = min(
                        max(-LONGER_LIMIT, (seen.log_s - other.log_s) / more), LONGER_LIMIT
                    )
                    own += more * more * longer
                    own_weight += more * more
            if weights > len(seen.file.seen) * UNDECLARED:
                speed, variance = total / weights - seen.log_s, NOISE_SD**2 + 1.0 / weights
                said = (speed, variance, seen.crowding)
                (says if seen.at >= recently else before).append(said)
        mean, variance = host.declared, PRIOR_SD**2
        # Each pair was met twice, and each of its two compiles is noisy.
        crowding = _Crowding(
            host.crowding,
            own / (4.0 * NOISE_SD**2),
            own_weight / (4.0 * NOISE_SD**2) + 1.0 / CROWDING_SD**2,
        )
        if before:
            mean, variance, _ = _fitted(before, mean, variance, crowding)
            variance += _aged(now - recently)
            if says:  # and less sure still where it is not what is seen now
                off = _median(says, host.crowding) - mean
                variance = max(variance, (off / HUBER) ** 2)
        if says:
            host.measured_at = recently + DAY_S
        mean, variance, crowding = _fitted(says, mean, variance, crowding)
        if not self._pinned:
            off = self._off / len(self._hosts)
            mean -= SCALE_PULL * (off - min(max(-SCALE_SLACK, off), SCALE_SLACK))
        host.mean, host.variance, host.crowding = mean, variance, crowding.costs
        host.weight = _weight(host.variance)
        self._count_off(host)

    def _count_off(self, host: _Host) -> None:
        """Bring up to date by how much the hosts are off what is declared of them."""
        off = min(max(-OFF_LIMIT, host.mean - host.declared), OFF_LIMIT)
        self._off += off - host.off
        host.off = off


class _Crowding(NamedTuple):
    """What crowding costs a host, as last fitted, and what is known of it from elsewhere.

    That is a normal distribution of mean `total / precision`.
    """

    costs: float
    total: float
    precision: float


# What others say of a host's speed, by one of its compiles: the speed, its variance, and the
# crowding that made the compile slower.
_Said = tuple[float, float, float]


def _median(says: list[_Said], costs: float) -> float:
    return sorted([speed + costs * crowding for speed, _, crowding in says])[len(says) // 2]


def _fitted(
    says: list[_Said], prior: float, prior_variance: float, crowding: _Crowding
) -> tuple[float, float, _Crowding]:
    """Return a host's speed, its variance, and what crowding costs.

    A weighted line through what was said, over crowding. It is held by what was known before, and
    those far from where it was count for less.
    """
    costs = crowding.costs
    median = _median(says, costs) if says else prior
    precision = 1.0 / prior_variance
    total = prior * precision
    sum_x = sum_xx = sum_xy = 0.0
    for speed, variance, x in says:
        off = abs(speed + costs * x - median) / math.sqrt(variance)
        weight = (1.0 if off <= HUBER else HUBER / off) / variance
        total += weight * speed
        precision += weight
        weight_x = weight * x
        sum_x += weight_x
        sum_xx += weight_x * x
        sum_xy += weight_x * speed
    spread = sum_xx - sum_x * sum_x / precision + crowding.precision
    costs = (sum_x * total / precision - sum_xy + crowding.total) / spread
    costs = min(max(0.0, costs), CROWDING_LIMIT)
    fitted = _Crowding(costs, costs * spread, spread)
    return (total + costs * sum_x) / precision, 1.0 / precision, fitted


def _aged(unused_s: float) -> float:
    """Return the variance that a host gains in a time without compiles."""
    return AGEING_PER_S * max(0.0, unused_s)


def _weight(variance: float) -> float:
    return 1.0 / (NOISE_SD**2 + variance)


def _outlook_of(known: _Directory) -> dict[str, float]:
    """Return what the last build in a directory asked for, in order, with costs."""
    return {
        source: _cost_of(file)
        for source in known.last_build
        if (file := known.files.get(source)) is not None
    }


def _cost_of(file: _File) -> float:
    """Return what a file costs: the mean of its compiles, each as sure as its host is.

    One that is far from the middle one of them counts as if it were less far: it came out of a
    cache, or its machine stood still meanwhile.
    """
    total = weights = 0.0
    least, most = math.inf, -math.inf
    for seen in file.seen:
        host = seen.host
        log_s = seen.log_s - host.crowding * seen.crowding + host.mean
        total += host.weight * log_s
        weights += host.weight
        if log_s < least:
            least = log_s
        if log_s > most:
            most = log_s
    if most - least > FAR_OFF and len(file.seen) > 2:  # seldom
        said = [(seen.alone_log_s + seen.host.mean, seen.host.weight) for seen in file.seen]
        middle = sorted(said)[len(said) // 2][0]
        total = sum(
            weight * min(max(middle - FAR_OFF, log_s), middle + FAR_OFF) for log_s, weight in said
        )
    return math.exp(total / weights)
