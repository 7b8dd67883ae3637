"""What is in a farm: hosts, slots, leases, requests, and the known facts about each.

Plain records that decide nothing. The farm (`core/farm`) changes them; placement policies and
snapshots read them. Times are seconds on the clock that the shell passes in: only differences
between them mean anything. Nothing here knows sockets, clocks or logs.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from enum import Enum
from itertools import count

from compilefarm.core.compilers import NO_OFFER, Offer, ProbedCompiler, Sameness
from compilefarm.core.owner_share import OwnerShare
from compilefarm.protocol.compilers import CompilerInfo
from compilefarm.protocol.declaration import Declaration, Mode

# A host's types, the names of its compilers (empty: any), those that it was found to lack, and its
# offer of compilers with ids.
Signature = tuple[frozenset[str], frozenset[str], frozenset[str], Offer]
# A request's type, the name and the record of its compiler, and the hosts that it avoids.
Restriction = tuple[str, str, CompilerInfo | None, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Load:
    """One load report. CPU figures are in CPUs, averages as `uptime` shows them.

    `own_*` is the part of distccd's process tree; `foreign_cpus` is all other CPU use in the same
    time. None means that the reporter could not measure it.
    """

    load_averages: tuple[float, float, float] = (0.0, 0.0, 0.0)
    own_averages: tuple[float, float, float] = (0.0, 0.0, 0.0)
    own_cpus: float = 0.0
    foreign_cpus: float = 0.0
    cpus: int | None = None
    memory_free_mb: float | None = None
    memory_total_mb: float | None = None
    compile_memory_mb: float | None = None  # of the largest running compile
    compiles: int | None = None  # running now, with or without a lease
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
    """Whether people want a host to be used: the one fact that outlives the server.

    `declaration` names the host and describes it. `reported` says that a load reporter ran there;
    such a host is used again only once its reporter is back.
    """

    declaration: Declaration
    address: str
    available: bool
    reported: bool = False


class State(Enum):
    """Whether a host can have leases, and if not, the kind of reason."""

    UP = "up"
    OWNER = "owner"  # its owner is present, or may be
    AWAY = "away"  # known, but not added or removed again
    DRAINING = "draining"  # leaves when its last lease ends
    SILENT = "silent"  # its load reports stopped
    MUTE = "mute"  # reachable, but its distccd does not run
    QUARANTINED = "quarantined"  # failed a compile; its next probe decides


@dataclass(slots=True, eq=False)
class Host:
    """A compile host: its declarations, its reports, its slots and its state.

    `capacity` is the most compiles that it takes, and `slots` the number that it offers now.
    `strays` is the number of compiles that run there without a known lease. `free` has the numbers
    of free slots, all below `slots`, in a heap, so that low numbers are used first. There are
    `slots - in_use` of them: when `slots` shrinks, a lease on a higher slot still counts.
    """

    name: str
    address: str
    port: int
    listed: Declaration | None = None  # by hosts-info
    offered: Declaration | None = None  # by the host itself, when it was added
    capacity: int = 0
    slots: int = 0
    power_index: float = 1.0
    mode: Mode = Mode.DEDICATED
    owner_share: OwnerShare = field(default_factory=OwnerShare)
    types: frozenset[str] = frozenset()
    compilers: frozenset[str] = frozenset()  # empty: any
    free: list[int] = field(default_factory=list)
    strays: int = 0
    leases: dict[int, Lease] = field(default_factory=dict)

    state: State = State.AWAY
    reason: str = "was not added"
    tier: int | None = None  # None while the policy gives the host no leases
    added: bool = False
    drain_until: float | None = None
    silent: bool = False
    quarantined: bool = False

    load: Load | None = None
    load_at: float | None = None

    # By watcher: since when the owner is present; None while the owner is absent.
    watchers: dict[int, float | None] = field(default_factory=dict)
    owner_left_at: float = -math.inf

    # The host is back, and clients attach their leases. Until then, each slot without a lease
    # counts as in use.
    attach_until: float | None = None
    attach_began: float = -math.inf  # when that time began, the last time
    most_leases: int = 0  # at once, since the last report
    unexplained: float = math.inf  # compiles in the last report, beyond these

    failures: int = 0  # not yet forgotten; failures at the same time count as one
    failed_at: float = -math.inf
    failed_builder: str = ""  # of the last failure that counted
    well_for_others: bool = False  # since then, compiles of other builders succeeded
    vouched_at: float = -math.inf  # when it last answered a probe although no compile ended
    failed_compiler: str = ""  # of the last failure
    # By compiler: how often a compile failed although the host then answered its probe.
    doubts: dict[str, int] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()  # compilers that it was found to lack

    # The compilers that its agent reported; None: it has no agent.
    agent_compilers: tuple[CompilerInfo, ...] | None = None
    # A new connection of its agent has not reported yet. Until then the host has no compiler for
    # new leases, and those that run go on.
    compilers_awaited: bool = False
    closed_doors: frozenset[str] = frozenset()  # ids of compilers that it gets no more leases for
    # Without an agent: what probes found, by the name that distcc sends; None: it did not compile.
    probed: dict[str, ProbedCompiler | None] = field(default_factory=dict)
    offer: Offer = NO_OFFER  # all of that; hosts with equal compilers share one

    compiles: int = 0
    last_end: float = -math.inf

    @property
    def up(self) -> bool:
        """Whether the host may have new leases; the policy may still give it none."""
        return self.state is State.UP

    @property
    def owner_since(self) -> float | None:
        """Since when the owner is present; None while no watcher sees them."""
        if not self.watchers:
            return None
        return min((since for since in self.watchers.values() if since is not None), default=None)

    @property
    def signature(self) -> Signature:
        """The facts that decide which requests may use the host, apart from their `avoid`."""
        return (self.types, self.compilers, self.lacks, self.offer)

    @property
    def in_use(self) -> int:
        """The number of slots in use, by leases and by strays."""
        return len(self.leases) + self.strays

    def set_slots(self, slots: int) -> None:
        """Change the number of slots; running leases keep theirs."""
        self.slots = slots
        self._free_what_is_left()

    def set_strays(self, strays: int) -> None:
        """Change the number of slots in use without a lease; a negative number counts as 0."""
        strays = max(0, strays)
        if strays != self.strays:
            self.strays = strays
            self._free_what_is_left()

    def take_slot(self) -> int:
        """Take the lowest free slot and return it; raises IndexError if there is none."""
        return heapq.heappop(self.free)

    def take_slot_in_use(self) -> int:
        """Return a slot for a compile that already runs: a stray's, a free one, or an extra one."""
        if self.strays:
            self.strays -= 1
        elif self.free:
            return heapq.heappop(self.free)
        return self._unused_slot()

    def give_back(self, slot: int) -> None:
        """Free the slot of a lease that ended, unless the host has shrunk meanwhile."""
        if len(self.free) + len(self.leases) + self.strays >= self.slots:
            return
        if slot >= self.slots:
            slot = self._unused_slot()
        heapq.heappush(self.free, slot)

    def _unused_slot(self) -> int:
        """Return the lowest number that is neither leased nor free; it may be above `slots`."""
        taken = {lease.slot for lease in self.leases.values()}.union(self.free)
        return next(number for number in count() if number not in taken)

    def _free_what_is_left(self) -> None:
        leased = {lease.slot for lease in self.leases.values()}
        unleased = [slot for slot in range(self.slots) if slot not in leased]
        self.free = unleased[: max(0, self.slots - self.in_use)]


@dataclass(slots=True, eq=False)
class Request:
    """A compile that wants a slot: whose it is, what it compiles, and the hosts that it may use.

    `wait_s` is the longest that it may wait; None means no limit. `returning`: it waited at a
    server that went away meanwhile. `can_back_up`: its client can run a backup. `arrived` is set by
    the farm, and `id` by the shell.

    `compiler` is the compiler's name as it was called. `identity` says which compiler that is; None
    if the client does not know. `sameness` says what counts as the same compiler.
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
    identity: CompilerInfo | None = None
    sameness: Sameness = Sameness.SAME

    @property
    def restriction(self) -> Restriction:
        """The limits on its hosts; equal for requests that may use the same hosts."""
        return (self.type, self.compiler, self.identity, self.avoid)

    def admits(self, signature: Signature) -> bool:
        """Whether the request may use hosts of that signature; `avoid` is not considered."""
        types, compilers, lacks, offer = signature
        if (self.type and self.type not in types) or self.compiler in lacks:
            return False
        if self.identity is not None:
            verdict = offer.admits(self.identity, self.compiler, self.sameness)
            if verdict is not None:
                return verdict
        return not self.compiler or not compilers or self.compiler in compilers

    def door_on(self, host: Host) -> str:
        """Return the door for it on a host that it may use; empty: its plain name is sent."""
        return "" if self.identity is None else host.offer.door(self.identity, self.sameness)

    def may_use(self, host: Host) -> bool:
        """Whether the request's restrictions permit this host, whatever the host's state."""
        return host.name not in self.avoid and self.admits(host.signature)


@dataclass(slots=True, eq=False)
class Lease:
    """A slot in use by one compile. Its id is that of its request.

    `door` is the name under which the compile is sent; empty: the compiler's plain name.

    `attempt` is 0 for a compile's first attempt, and a different number for each backup. A compile
    has at most one backup at a time, on another host.
    """

    request: Request
    host: Host
    slot: int
    granted: float
    # The host's owner came meanwhile, so its time says nothing about the file or the host.
    disturbed: bool = False
    attempt: int = 0
    door: str = ""
    had_backup: bool = False  # a first attempt: it has or had a backup

    @property
    def id(self) -> int:
        """The id of the lease's request."""
        return self.request.id

    @property
    def is_backup(self) -> bool:
        """Whether this is a backup's lease, and not a first attempt's."""
        return self.attempt != 0


class Ending(Enum):
    """Why an attempt at a compile ended."""

    BY_ITSELF = "by itself"  # it succeeded or failed, or its connection closed
    OVERTAKEN = "overtaken"  # a first attempt: its backup finished before it
    GIVEN_UP = "given up"  # a backup: its client ended it


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a lease ended, as the client reported.

    `exit` is the exit status; None if the connection closed without a message. `failed` says that
    the host did not do its work. `wall_s` is the compile's time, `cpu_s` the builder's CPU time.
    """

    exit: int | None = None
    failed: bool = False
    wall_s: float | None = None
    cpu_s: float | None = None
    reason: str = ""
    ending: Ending = Ending.BY_ITSELF
