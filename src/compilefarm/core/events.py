"""What can happen to a farm, and what it can ask of its shell: the vocabulary of `Farm.handle`.

An event states a fact of the outside world; an effect asks for a deed there. Neither says how.
Named tuples, because one of each is made for every compile and nothing in Python that is immutable
is cheaper.
"""

from __future__ import annotations

from typing import NamedTuple

from compilefarm.core.model import Availability, Lease, Load, Outcome, Request
from compilefarm.protocol.declaration import Declaration


class HostsListed(NamedTuple):
    """hosts-info was read; it replaces what was read before."""

    declarations: tuple[Declaration, ...]


class EarlierLife(NamedTuple):
    """This server follows one that ended, and of whose leases some may still run.

    It comes once, after the first `HostsListed`; `hosts` is what that server knew.
    """

    hosts: tuple[Availability, ...]


class HostAdded(NamedTuple):
    """A host says that it is available, at that address.

    `returning`: it said so before, and now only comes back to a server that it lost.
    """

    declaration: Declaration
    address: str
    returning: bool = False


class HostRemoved(NamedTuple):
    """A host is no longer available; what runs there goes on."""

    host: str
    port: int


class HostDrained(NamedTuple):
    """A host is to leave when its leases have ended, or after `grace_s`."""

    host: str
    port: int
    grace_s: float


class LoadReported(NamedTuple):
    """A host reported its load; `returning` as in `HostAdded`."""

    host: str
    port: int
    address: str
    load: Load
    returning: bool = False


class ReportsEnded(NamedTuple):
    """The connection on which a host reported its load is gone."""

    name: str


class OwnerReported(NamedTuple):
    """Somebody who watches a host says whether its owner is there, and for how long.

    `watcher` is any number of his own, `since_s` None where the owner is not there. With `revoke`
    the compiles that run there are to run elsewhere.
    """

    host: str
    port: int
    address: str
    watcher: int
    since_s: float | None
    revoke: bool


class WatcherEnded(NamedTuple):
    """The connection of one who watched a host is gone."""

    name: str
    watcher: int


class HostProbed(NamedTuple):
    """What came of a `Probe`; `compiled`: it did the compile of nothing."""

    name: str
    answered: bool
    compiled: bool = False


class RequestArrived(NamedTuple):
    """A client wants a slot. Its id was never used before; ids grow in the order of arrival."""

    request: Request


class LeaseAttached(NamedTuple):
    """A client has a lease from another server or an earlier life of this, and runs already.

    The request is as in `RequestArrived`. `host` and `port` are where it runs, since `running_s`.
    """

    request: Request
    host: str
    port: int
    running_s: float


class RequestEnded(NamedTuple):
    """A client reported how its compile ended, or its connection is gone.

    `attempt` is the attempt that ended: 0 for the first, else the backup's number.
    """

    id: int
    outcome: Outcome
    attempt: int = 0


class BackupEnded(NamedTuple):
    """A client has ended a backup without a result; the first attempt goes on."""

    id: int
    attempt: int
    outcome: Outcome


class TimePassed(NamedTuple):
    """Nothing happened but that time went by."""


Event = (
    HostsListed
    | EarlierLife
    | HostAdded
    | HostRemoved
    | HostDrained
    | LoadReported
    | ReportsEnded
    | OwnerReported
    | WatcherEnded
    | HostProbed
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
    """Tell a client that its lease has ended from this side."""

    id: int
    reason: str


class BackUp(NamedTuple):
    """Tell a client that it has a second slot, for a backup of its compile."""

    lease: Lease


class DropBackup(NamedTuple):
    """Tell a client that its backup has ended from this side."""

    lease: Lease
    reason: str


class Probe(NamedTuple):
    """Find out whether a host does a compile of nothing; `HostProbed` is to follow.

    Where no compiler is named, it is enough that it takes a connection.
    """

    name: str
    address: str
    port: int
    compiler: str


class DrainEnded(NamedTuple):
    """A drain has come to its end; `reason` says why, if it was called off."""

    name: str
    revoked: int
    reason: str = ""


class HostNoted(NamedTuple):
    """Something about a host is worth a line in the log."""

    name: str
    text: str


class AvailabilityChanged(NamedTuple):
    """What somebody said of a host's availability is to be kept: `Farm.availability` has it."""

    name: str


class LeaseEnded(NamedTuple):
    """A lease ended, and so; for records."""

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
    | DrainEnded
    | HostNoted
    | AvailabilityChanged
    | LeaseEnded
)
