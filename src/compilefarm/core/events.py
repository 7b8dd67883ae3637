"""Everything that can happen to a farm, and everything that it can ask of its shell.

An event states a fact about the outside world. An effect asks for an action there, without saying
how. Both are named tuples: each compile makes several, and nothing immutable in Python is cheaper.
"""

from __future__ import annotations

from typing import NamedTuple

from compilefarm.core.compilers import ProbedCompiler
from compilefarm.core.model import Availability, Lease, Load, Outcome, Request
from compilefarm.protocol.compilers import CompilerInfo
from compilefarm.protocol.declaration import Declaration


class HostsListed(NamedTuple):
    """hosts-info was read; its declarations replace those read before."""

    declarations: tuple[Declaration, ...]


class EarlierLife(NamedTuple):
    """A server ran before this one, and some of its leases may still run.

    It comes once, after the first `HostsListed`; `hosts` are the hosts that server knew.
    """

    hosts: tuple[Availability, ...]


class HostAdded(NamedTuple):
    """A host is available, at that address.

    `returning`: the host was available before, and now only comes back after it lost its server.
    `has_agent`: the host will report its compilers.
    """

    declaration: Declaration
    address: str
    returning: bool = False
    has_agent: bool = False


class HostRemoved(NamedTuple):
    """A host is no longer available; running compiles go on."""

    host: str
    port: int


class HostDrained(NamedTuple):
    """A host must leave when its leases have ended, or after `grace_s`."""

    host: str
    port: int
    grace_s: float


class LoadReported(NamedTuple):
    """A host reported its load; `returning` and `has_agent` mean the same as in `HostAdded`.

    Only the first report of a connection sets them.
    """

    host: str
    port: int
    address: str
    load: Load
    returning: bool = False
    has_agent: bool = False


class ReportsEnded(NamedTuple):
    """The connection that brought a host's load reports is gone."""

    name: str


class CompilersReported(NamedTuple):
    """A host's agent reported all compilers there; None: the host has no agent any more."""

    name: str
    compilers: tuple[CompilerInfo, ...] | None


class OwnerReported(NamedTuple):
    """A watcher of a host reports whether the owner is present, and for how long.

    `watcher` is a number that identifies the watcher. `since_s` is None while the owner is absent.
    With `revoke`, the compiles that run there must run elsewhere.
    """

    host: str
    port: int
    address: str
    watcher: int
    since_s: float | None
    revoke: bool


class WatcherEnded(NamedTuple):
    """A watcher's connection is gone."""

    name: str
    watcher: int


class HostProbed(NamedTuple):
    """The result of a `Probe`. `compiled`: the host compiled an empty file."""

    name: str
    answered: bool
    compiled: bool = False


class CompilerProbed(NamedTuple):
    """The result of a `ProbeCompiler`. `found` is None if the host compiled nothing."""

    name: str
    compiler: str
    found: ProbedCompiler | None = None


class RequestArrived(NamedTuple):
    """A client wants a slot. The request's id is new; ids grow in the order of arrival."""

    request: Request


class LeaseAttached(NamedTuple):
    """A client has a lease from another server, or from before a restart; its compile runs.

    The request is as in `RequestArrived`. The compile has run on `host` for `running_s` seconds.
    `door` is the name under which it was sent; empty for its plain name, or if it is not known.
    """

    request: Request
    host: str
    port: int
    running_s: float
    door: str = ""


class RequestEnded(NamedTuple):
    """A client reported how its compile ended, or its connection is gone.

    `attempt` is the attempt that ended: 0 for the first, else the backup's number.
    """

    id: int
    outcome: Outcome
    attempt: int = 0


class BackupEnded(NamedTuple):
    """A client ended a backup without a result; the first attempt goes on."""

    id: int
    attempt: int
    outcome: Outcome


class TimePassed(NamedTuple):
    """Time passed, and nothing else happened."""


Event = (
    HostsListed
    | EarlierLife
    | HostAdded
    | HostRemoved
    | HostDrained
    | LoadReported
    | CompilersReported
    | ReportsEnded
    | OwnerReported
    | WatcherEnded
    | HostProbed
    | CompilerProbed
    | RequestArrived
    | LeaseAttached
    | RequestEnded
    | BackupEnded
    | TimePassed
)


class Grant(NamedTuple):
    """Tell a client that it has a slot."""

    lease: Lease


class Wait(NamedTuple):
    """Tell a client that it waits, behind about `ahead` other requests."""

    id: int
    ahead: int


class Refuse(NamedTuple):
    """Tell a client that it gets no slot."""

    id: int
    reason: str


class Revoke(NamedTuple):
    """Tell a client that the farm ended its lease."""

    id: int
    reason: str


class BackUp(NamedTuple):
    """Tell a client that it has a second slot, for a backup of its compile."""

    lease: Lease


class DropBackup(NamedTuple):
    """Tell a client that the farm ended its backup."""

    lease: Lease
    reason: str


class Probe(NamedTuple):
    """Find out whether a host can compile an empty file; `HostProbed` must follow.

    If no compiler is named, a host that accepts a connection is enough.
    """

    name: str
    address: str
    port: int
    compiler: str


class ProbeCompiler(NamedTuple):
    """Find out which compiler a host runs under a name; `CompilerProbed` must follow."""

    name: str
    address: str
    port: int
    compiler: str


class DrainEnded(NamedTuple):
    """A drain ended, after `revoked` leases were revoked; `reason` says why it was called off."""

    name: str
    revoked: int
    reason: str = ""


class HostNoted(NamedTuple):
    """Something about a host is worth a line in the log."""

    name: str
    text: str


class AvailabilityChanged(NamedTuple):
    """Save a host's availability, which `Farm.availability` returns."""

    name: str


class LeaseEnded(NamedTuple):
    """A lease ended at `ended` with that outcome; for records."""

    lease: Lease
    outcome: Outcome
    ended: float


Effect = (
    Grant
    | Wait
    | Refuse
    | Revoke
    | BackUp
    | DropBackup
    | Probe
    | ProbeCompiler
    | DrainEnded
    | HostNoted
    | AvailabilityChanged
    | LeaseEnded
)
