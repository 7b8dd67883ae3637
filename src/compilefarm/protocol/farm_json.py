"""The JSON that `/api/farm` answers: every key and its type, for the server and for its readers.

The core makes a `FarmSnapshot`, and host-server adds its own figures. The page, the metrics,
mon-host-server and `docs/monitor.md` read these keys; tests check each of them against these types.
New keys may be added. A key that is here stays, with its meaning.

`slots` differs from the line protocol: there it is the most compiles that a host takes at once,
which is `capacity` here. Here, `slots` is the number that the host offers now.

Ages and times are in seconds. An age counts back from the moment of the snapshot.
"""

from __future__ import annotations

from typing import TypedDict


class LoadSnapshot(TypedDict):
    """A host's latest load report. None is a value that the host cannot measure."""

    age_s: float
    cpus: int | None
    load_averages: list[float]  # over 1, 5 and 15 minutes
    foreign_averages: list[float]  # the same without the farm's part
    own_cpus: float  # CPUs in use by the farm
    foreign_cpus: float  # CPUs in use by all other work
    memory_free_mb: float | None
    memory_total_mb: float | None
    cpu_pressure: float | None  # 0 to 1
    distccd: str  # running, stopped or gone; empty if unknown


class LeaseSnapshot(TypedDict):
    """A slot in use by one compile."""

    id: int  # a backup has that of the first attempt
    slot: int
    user: str
    builder: str
    source: str
    backup: bool
    running_s: float


class HostSnapshot(TypedDict):
    """A compile host."""

    name: str
    address: str
    port: int
    capacity: int  # the most compiles that it takes at once
    slots: int  # that it offers now
    slots_in_use: int
    strays: int  # slots in use without a lease
    slots_free: int  # that a compile could have now
    power_index: float
    types: list[str]
    compilers: list[str]  # that it declares; none means any
    lacks: list[str]  # compilers that it turned out to lack
    compiler_ids: int | None  # the number of compilers that it reports; None: it has no agent
    closed_doors: list[str]  # reported compilers that it gets no compiles for
    state: str  # one of STATES
    tier: int | None  # None while it gets no leases
    reason: str  # for people; empty if there is nothing to explain
    mode: str
    owner_present_s: float | None  # None where no watcher reports an owner
    compiles: int  # that ended there
    failures: int  # not yet forgotten
    load: LoadSnapshot | None  # None where loadavg does not run
    leases: list[LeaseSnapshot]


class CompilerSnapshot(TypedDict):
    """A compiler that hosts have, or that builders asked for."""

    id: str
    name: str
    version: str
    target: str
    text: str  # for people
    hosts: int  # that have it
    slots: int  # on those of them that are up and whose door to it is open
    hosts_closed: int  # that have it, but compiles with it failed there
    requests_granted: int
    requests_refused: int


class RequestSnapshot(TypedDict):
    """A waiting request."""

    id: int
    user: str
    builder: str
    source: str
    type: str
    compiler: str
    compiler_id: str  # empty if its client does not know it
    avoid: list[str]  # hosts that it may not use
    waited_s: float


class Totals(TypedDict):
    """Sums over the farm: those of now, and those since the server's start."""

    hosts: int
    hosts_up: int
    slots: int  # of the hosts that are up
    slots_in_use: int
    slots_free: int
    requests_waiting: int
    strays: int
    leases_granted: int
    leases_attached: int
    requests_refused: int
    leases_revoked: int
    leases_failed: int
    backups_begun: int
    backups_first: int  # under which the compile was done


class ServerSnapshot(TypedDict):
    """host-server itself."""

    version: str
    uptime_s: float
    host: str  # its machine's name
    base_port: int


class FarmSnapshot(TypedDict):
    """The farm, as the core knows it."""

    policy: str
    hosts: list[HostSnapshot]
    requests: list[RequestSnapshot]
    compilers: list[CompilerSnapshot]  # with ids; hosts without an agent do not report any
    totals: Totals


class Snapshot(FarmSnapshot):
    """The whole answer of `/api/farm`."""

    server: ServerSnapshot


# Every value of a host's `state`.
STATES = ("up", "busy", "owner", "away", "draining", "silent", "mute", "quarantined")
