"""What is in a farm: hosts, slots, leases, requests, and what is known of each.

Plain records. They decide nothing: who may change them is the farm (`farm.py`), and who reads them
is a placement policy or a snapshot. Times are seconds on whatever clock the shell passes in; only
differences between them mean anything. Nothing here knows of sockets, clocks, or logs.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from enum import Enum
from itertools import count

from compilefarm.core.owner_share import Proportion
from compilefarm.protocol.declaration import Declaration, Mode

# A host's types, its compilers (empty: any), and the compilers that it was seen to be without.
Signature = tuple[frozenset[str], frozenset[str], frozenset[str]]


@dataclass(frozen=True, slots=True)
class Load:
    """One load report. CPU figures are in CPUs, averages as `uptime` shows them.

    `own_*` is the part of distccd's process tree, `foreign_cpus` all other CPU use over the same
    time. None means that the reporter could not know.
    """

    load_averages: tuple[float, float, float] = (0.0, 0.0, 0.0)
    own_averages: tuple[float, float, float] = (0.0, 0.0, 0.0)
    own_cpus: float = 0.0
    foreign_cpus: float = 0.0
    cpus: int | None = None
    memory_free_mb: float | None = None
    memory_total_mb: float | None = None
    compile_memory_mb: float | None = None  # of the largest compile that runs there
    compiles: int | None = None  # that run there now, whoever sent them
    cpu_pressure: float | None = None
    distccd: str = ""

    @property
    def foreign_averages(self) -> tuple[float, float, float]:
        """The load averages without the farm's own part, each at least 0."""
        whole, own = self.load_averages, self.own_averages
        return (
            max(0.0, whole[0] - own[0]),
            max(0.0, whole[1] - own[1]),
            max(0.0, whole[2] - own[2]),
        )


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a host is to be used, as somebody said: what one life of the server leaves the next.

    `declaration` names the host, and has what was said of it. `reported`: a load reporter spoke for
    it, so it is there only once that does so again.
    """

    declaration: Declaration
    address: str
    available: bool
    reported: bool = False


class State(Enum):
    """Whether a host can be given leases, and if not, what kind of reason there is."""

    UP = "up"
    OWNER = "owner"  # its owner is there, or nobody watches that he is not
    AWAY = "away"  # known, but not added, or removed again
    DRAINING = "draining"  # leaves when its last lease ends
    SILENT = "silent"  # it reported its load, and stopped
    MUTE = "mute"  # reachable, but its distccd does not get to run
    QUARANTINED = "quarantined"  # failed a compile, and has not yet shown that it is back


@dataclass(slots=True, eq=False)
class Host:
    """A compile host: what is said of it, what it reports, its slots, and how it stands.

    `capacity` is how many compiles it takes at most, `slots` how many of these it offers now, and
    `strays` how many compiles run there of which no lease is known. Free slots are numbers below
    `slots`, in a heap, so that low numbers are used first. There are as many as leases and strays
    leave: when `slots` shrinks, whatever is leased above it counts too.
    """

    name: str
    address: str
    port: int
    listed: Declaration | None = None  # by hosts-info
    offered: Declaration | None = None  # by itself, when it was added
    capacity: int = 0
    slots: int = 0
    power_index: float = 1.0
    mode: Mode = Mode.DEDICATED
    proportion: Proportion = field(default_factory=Proportion)
    types: frozenset[str] = frozenset()
    compilers: frozenset[str] = frozenset()  # empty: any
    free: list[int] = field(default_factory=list)
    strays: int = 0
    leases: dict[int, Lease] = field(default_factory=dict)

    state: State = State.AWAY
    reason: str = "was not added"
    tier: int | None = None  # where the policy has it; None while it gives it no leases
    added: bool = False
    drain_until: float | None = None
    silent: bool = False
    quarantined: bool = False

    load: Load | None = None
    load_at: float | None = None

    # By who watches: since when the owner is there, None where he is not.
    watchers: dict[int, float | None] = field(default_factory=dict)
    owner_left_at: float = -math.inf

    # It ran compiles before we knew it: until then, all that has no lease counts as in use.
    settles_at: float | None = None
    held_at: float = -math.inf  # when that began last
    most_leases: int = 0  # at once, since the last report
    unexplained: float = math.inf  # compiles beyond these, in the last report

    failures: int = 0  # not yet forgotten; those that came at once count as one
    failed_at: float = -math.inf
    failed_builder: str = ""  # whose compile was the last that failed and counted
    well_for_others: bool = False  # since then, compiles of other builders went well
    vouched_at: float = -math.inf  # when it last answered a probe although nothing ended there
    failed_compiler: str = ""  # the compiler of the last failure
    doubts: dict[str, int] = field(
        default_factory=dict
    )  # compiler: failures of a host that answers
    lacks: frozenset[str] = frozenset()  # compilers that it was seen to be without
    compiles: int = 0
    last_end: float = -math.inf

    @property
    def up(self) -> bool:
        """Whether the farm has nothing against new leases here; the policy may still have."""
        return self.state is State.UP

    @property
    def owner_since(self) -> float | None:
        """Since when its owner is there; None where nobody who watches it sees him."""
        return min((since for since in self.watchers.values() if since is not None), default=None)

    @property
    def signature(self) -> Signature:
        """What decides which requests may use the host, their `avoid` apart."""
        return (self.types, self.compilers, self.lacks)

    @property
    def in_use(self) -> int:
        """How many of its slots are in use, by leases and by strays."""
        return len(self.leases) + self.strays

    def set_slots(self, slots: int) -> None:
        """Have so many slots from now on; running leases keep theirs."""
        self.slots = slots
        self._free_what_is_left()

    def set_strays(self, strays: int) -> None:
        """Count so many slots as in use without a lease."""
        strays = max(0, strays)
        if strays != self.strays:
            self.strays = strays
            self._free_what_is_left()

    def take_slot(self) -> int:
        """Take the lowest free slot; raises IndexError where there is none."""
        return heapq.heappop(self.free)

    def take_slot_in_use(self) -> int:
        """Take a slot for a compile that runs already: a stray's, a free one, or one too many."""
        if self.strays:
            self.strays -= 1
        elif self.free:
            return heapq.heappop(self.free)
        return self._unused_slot()

    def give_back(self, slot: int) -> None:
        """Make a slot free again that no lease has any more, unless the host has shrunk."""
        if len(self.free) + self.in_use >= self.slots:
            return
        if slot >= self.slots:
            slot = self._unused_slot()
        heapq.heappush(self.free, slot)

    def _unused_slot(self) -> int:
        """Return the lowest number that is neither leased nor free, perhaps one above `slots`."""
        taken = {lease.slot for lease in self.leases.values()}.union(self.free)
        return next(number for number in count() if number not in taken)

    def _free_what_is_left(self) -> None:
        leased = {lease.slot for lease in self.leases.values()}
        unleased = [slot for slot in range(self.slots) if slot not in leased]
        self.free = unleased[: max(0, self.slots - self.in_use)]


@dataclass(slots=True, eq=False)
class Request:
    """A compile that wants a slot: who asks, for what, and where it must not go.

    `wait_s` is how long it may wait (None: no limit). `returning`: it waited at a server that went
    away meanwhile. `can_back_up`: its client can run a backup. `arrived` and `id` are the farm's.
    """

    id: int
    user: str = ""
    builder: str = ""
    cpus: int = 1
    directory: str = ""
    source: str = ""
    compiler: str = ""
    type: str = ""
    avoid: frozenset[str] = frozenset()
    wait_s: float | None = None
    returning: bool = False
    can_back_up: bool = False
    arrived: float = 0.0

    @property
    def restriction(self) -> tuple[str, str, frozenset[str]]:
        """What limits the hosts it may use; equal for requests that may use the same hosts."""
        return (self.type, self.compiler, self.avoid)

    def admits(self, signature: Signature) -> bool:
        """Whether hosts of that signature will do, the hosts to be avoided apart."""
        types, compilers, lacks = signature
        return (
            (not self.type or self.type in types)
            and (not self.compiler or not compilers or self.compiler in compilers)
            and self.compiler not in lacks
        )

    def may_use(self, host: Host) -> bool:
        """Whether the request's restrictions leave it this host, whatever the host's state is."""
        return host.name not in self.avoid and self.admits(host.signature)


@dataclass(slots=True, eq=False)
class Lease:
    """A slot in use by one compile. Its id is its request's.

    `attempt` is 0 for a compile's first attempt, and a number of its own for each backup. A compile
    has at most one backup at a time, on another host.
    """

    request: Request
    host: Host
    slot: int
    granted: float
    # Its host's owner came meanwhile, so that its time tells nothing of the file nor of the host.
    disturbed: bool = False
    attempt: int = 0
    last_backup: Lease | None = None  # of a first attempt: the one that was dropped last

    @property
    def id(self) -> int:
        """The lease's id, which is its request's."""
        return self.request.id

    @property
    def is_backup(self) -> bool:
        """Whether this is a backup's lease, and not a first attempt's."""
        return self.attempt != 0


class Ending(Enum):
    """Why an attempt at a compile ended."""

    BY_ITSELF = "by itself"  # it was done or failed, or its connection closed
    OVERTAKEN = "overtaken"  # a first attempt, whose backup was done before it
    GIVEN_UP = "given up"  # a backup, which its client ended


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a lease ended, as the client reported.

    `exit` is the exit status; None where the connection closed without a message. `failed` says
    that the host did not do its work. `wall_s` is the time of the compile, and `cpu_s` the CPU time
    of the builder.
    """

    exit: int | None = None
    failed: bool = False
    wall_s: float | None = None
    cpu_s: float | None = None
    reason: str = ""
    ending: Ending = Ending.BY_ITSELF
