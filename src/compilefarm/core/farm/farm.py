"""The farm: a state machine that keeps the books of hosts, slots, leases and waiting requests.

Events go in with the time at which they happened, effects come out; the shell performs them, and
what comes of an effect returns as an event. Nothing here awaits, so between deciding and recording
there is no gap into which another event could fall. That, and the absence of sockets, clocks,
randomness and logs, is what lets the same farm run in the server, in a simulation and in a
property test.

What the books promise (`Farm.check` asserts it):

  - A slot is free, or has exactly one lease, or is in use by a stray; a lease has exactly one slot.
  - A backup is a second lease of a request that has one, on another host; it ends with the first.
  - Nothing is free on a host that has as many leases and strays as slots.
  - A request waits, or has a lease, or is unknown; it has had one answer at most.
  - No lease is granted on a host that is not up.

How a host stands follows from facts, in one place (`host_state.py`).

Losing a host takes two steps, so that a load reporter may be restarted without harm: at once it
gets no new leases; if it is not back after `LOST_AFTER_S`, its leases are revoked, and the
compiles run elsewhere. A host that fails a compile is quarantined, briefly at first, and then
probed: only a host that does a compile of nothing, or at least closes the connection, comes back.
A host is probed, too, where its leases run far longer than they were expected to: a distccd that is
stopped still has its connections accepted by the kernel.

A backup has a slot that nobody wants at the moment: the policy says of which compile, and which
backup is in the way of a request. It is the first attempt's lease that a client lives by, so a
backup may end at any time, from either side, and nothing is lost.

A host's owner comes first. Whoever watches the host for him has a connection of his own, and says
on it that the owner is there or is not. In idle mode a host that nobody watches is as good as in
use: so it is out of the farm however its watcher ended.

A server may follow one that was killed, or stand in for another. Then compiles run of which it
knows nothing: strays. Their clients attach the leases that they hold, some sooner, some later; and
hosts report how many compiles run there. So a host that returns is held: for `SETTLE_S` every slot
without a lease counts as in use, and after that as many as its reports have compiles beyond our
leases. Nothing is kept of leases from one life to the next: they change by the thousand in a
second, and those who hold them know best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

from compilefarm.core.events import (
    AvailabilityChanged,
    BackUp,
    BackupEnded,
    DrainEnded,
    DropBackup,
    EarlierLife,
    Effect,
    Event,
    Grant,
    HostAdded,
    HostDrained,
    HostNoted,
    HostProbed,
    HostRemoved,
    HostsListed,
    LeaseAttached,
    LeaseEnded,
    LoadReported,
    OwnerReported,
    Probe,
    Refuse,
    ReportsEnded,
    RequestArrived,
    RequestEnded,
    Revoke,
    TimePassed,
    Wait,
    WatcherEnded,
)
from compilefarm.core.host_state import offer_slots, state_of, take_declarations
from compilefarm.core.model import Availability, Ending, Host, Lease, Outcome, Request, State
from compilefarm.core.placement.policy import Policy
from compilefarm.core.timers import Timers
from compilefarm.protocol.address import host_name
from compilefarm.protocol.declaration import Declaration, Mode
from compilefarm.protocol.ports import DISTCCD_PORT

# A report comes every 2 s: three lost ones in a row are no accident.
SILENT_AFTER_S = 6.0
# Long enough to restart a load reporter, short enough that a build does not wait for a lost host.
LOST_AFTER_S = 5.0
QUARANTINE_S = 5.0
QUARANTINE_LIMIT_S = 300.0
PROBE_AGAIN_S = 30.0
# A compiler that a host failed with twice, while it answered, is taken to be missing there for so
# long.
LACKS_FOR_S = 600.0
DOUBTS_TO_LACK = 2
# distcc's exit status where the other side could not execute the compiler.
EXIT_COMPILER_MISSING = 110

# A policy may gather requests for some milliseconds: a client is told that it waits when it really
# does.
TELL_WAIT_AFTER_S = 0.05

# A failure is forgotten when a compile goes well after so many times its quarantine: one lucky
# compile, or probe, says little of a host that comes and goes.
PARDON_TIMES = 10.0

# A host is suspected to be mute when no compile ended there for so long, counted in the time that a
# lease was expected to take; where nothing is known of its file, in typical compile times.
PATIENCE_KNOWN = 3.0
PATIENCE_KNOWN_LEAST_S = 3.0
PATIENCE_TYPICAL = 20.0
PATIENCE_LEAST_S = 10.0
PATIENCE_UNKNOWN_S = 20.0
# CPU use that shows a distccd to be at work.
AT_WORK_CPUS = 0.1

# Within this time of a server's start, or of its standing in for another, hosts return and clients
# attach their leases: both try at least every second or so.
SETTLE_S = 2.0
# Stragglers do not have everybody wait for more stragglers.
SETTLE_AGAIN_S = 30.0
REMOVED_LIMIT = 10_000

_OVERTAKEN = Outcome(reason="its backup was done first", ending=Ending.OVERTAKEN)

TIMERS_OF_A_HOST = (
    "silent", "lost", "drain", "probation", "watch", "lacks", "unwatched", "settle",
)  # fmt: skip


class Farm:
    """The books of one compile farm.

    Give every event to `handle`, with the time in seconds; perform the effects that it returns, in
    order; and hand in `TimePassed` at `next_deadline`. A time before the latest one counts as the
    latest.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.hosts: dict[str, Host] = {}
        self.waiting: dict[int, Request] = {}
        self.leases: dict[int, Lease] = {}
        self.backups: dict[int, Lease] = {}  # of these, by the same ids
        # Hosts taken out by somebody, and not brought in again: one that only returns stays out.
        self.removed: dict[str, Declaration] = {}
        self.granted = 0
        self.attached = 0
        self.refused = 0
        self.revoked = 0
        self.failed = 0
        self.backed_up = 0
        self.overtaken = 0  # first attempts, by their backups
        self.now = -math.inf  # the latest time handed in
        self._timers = Timers()
        self._typical_s: float | None = None
        self._effects: list[Effect] = []
        self._choice_narrowed = False
        self._hopes_until = -math.inf  # until then no request is refused for want of hosts
        # Waiting for long enough to be told so, unless they are granted in the same moment.
        self._to_tell: list[int] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            HostsListed: self._hosts_listed,
            EarlierLife: self._earlier_life,
            HostAdded: self._host_added,
            HostRemoved: self._host_removed,
            HostDrained: self._host_drained,
            LoadReported: self._load_reported,
            ReportsEnded: self._reports_ended,
            OwnerReported: self._owner_reported,
            WatcherEnded: self._watcher_ended,
            HostProbed: self._host_probed,
            RequestArrived: self._request_arrived,
            LeaseAttached: self._lease_attached,
            RequestEnded: self._request_ended,
            BackupEnded: self._backup_ended,
            TimePassed: self._time_passed,
        }

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event in and return what is to be done about it, in order."""
        self.now = max(now, self.now)
        effects = self._effects = []
        self._choice_narrowed = False
        self.policy.advance(self.now)
        self._handlers[type(event)](event)
        self._ring()
        if self.waiting:
            self._grant()
            if self._choice_narrowed:
                self._refuse_hopeless()
            if type(event) is RequestArrived and event.request.id in self.waiting:
                self._still_waiting(event.request)
            effects += [
                Wait(number, self.ahead(number))
                for number in self._to_tell
                if number in self.waiting
            ]
        self._to_tell.clear()
        self._back_up()
        return effects

    def next_deadline(self, before: float = math.inf) -> float | None:
        """Return when `TimePassed` is to be handed in, if nothing comes before.

        None: never, or not `before` that time, which is less work to find out.
        """
        due = self.policy.next_deadline()
        if due is not None:
            before = min(before, due)
        own = self._timers.next_due(before)
        return due if own is None else own

    def find(self, host: str, port: int) -> Host | None:
        """Return the host of that name and distccd port; one listed without a port has any port."""
        exact = self.hosts.get(host_name(host, port))
        if exact is not None:
            return exact
        bare = self.hosts.get(host)
        if bare is None or bare.listed is None or bare.listed.port is not None:
            return None
        return bare if bare.port == port or not bare.added else None

    def availability(self, name: str) -> Availability | None:
        """Return what somebody said of a host's availability; None where that is nothing."""
        host = self.hosts.get(name)
        if host is not None and host.offered is not None and host.drain_until is None:
            reported = host.load_at is not None or host.silent
            return Availability(host.offered, host.address, True, reported)
        if host is not None and host.drain_until is not None:  # it would be gone by then
            return Availability(_naming(host), host.address, False)
        removed = self.removed.get(name)
        return None if removed is None else Availability(removed, "", False)

    def ahead(self, id: int) -> int:
        """Return about how many requests are served before a waiting one."""
        return self.policy.ahead(self.waiting[id])

    def jobs_worth_using(self, user: str, cpus: int) -> int:
        """Return the -j worth using for a user whose builder has so many CPUs.

        It is the user's even share of the slots in use by the policy, among all who compile now,
        and one more for each CPU of the builder, which can be preprocessing meanwhile.
        """
        slots = sum(host.slots for host in self.hosts.values() if host.tier is not None)
        users = {lease.request.user for lease in self.leases.values()}
        users.update(request.user for request in self.waiting.values())
        users.add(user)
        return max(1, cpus) + -(-slots // len(users))

    def check(self) -> None:
        """Assert every invariant; raises AssertionError. Costs as much as the farm is large."""
        assert not self.waiting.keys() & self.leases.keys(), "a request waits and has a lease"
        on_hosts: list[Lease] = []
        for name, host in self.hosts.items():
            assert host.name == name
            taken = [lease.slot for lease in host.leases.values()]
            assert len(set(taken)) == len(taken), f"{name}: a slot has two leases"
            assert not set(taken) & set(host.free), f"{name}: a leased slot is free"
            assert set(host.free) <= set(range(host.slots)), f"{name}: too high a slot is free"
            left = max(0, host.slots - host.in_use)
            assert len(host.free) == left, f"{name}: a slot is lost, or free and in use"
            assert len(host.free) == len(set(host.free)), f"{name}: a slot is free twice"
            reported = (host.load.compiles if host.load is not None else None) or 0
            if host.settles_at is None:
                assert host.strays <= reported, f"{name}: strays that nobody reported"
            else:
                assert self.now <= host.settles_at, f"{name} settles for too long"
            assert (host.state, host.reason) == state_of(host), f"{name}: state"
            assert all(lease.id == number for number, lease in host.leases.items())
            on_hosts += host.leases.values()
        leases = [*self.leases.values(), *self.backups.values()]
        assert sorted(map(id, on_hosts)) == sorted(map(id, leases)), "hosts' leases are not ours"
        for number, lease in self.leases.items():
            assert lease.id == number
            assert not lease.is_backup
        for number, backup in self.backups.items():
            assert backup.id == number
            assert backup.is_backup
            assert backup.host is not self.leases[number].host, "both attempts on one host"

    # -- hosts come, report, and go

    def _hosts_listed(self, event: HostsListed) -> None:
        listed = {declaration.name: declaration for declaration in event.declarations}
        for host in list(self.hosts.values()):
            if host.listed is not None and host.name not in listed:
                host.listed = None
                host.added = host.offered is not None
                self._apply_declarations(host)
        for name, declaration in listed.items():
            host = self.hosts.get(name) or self._new_host(
                name, declaration.address or declaration.host, declaration.port or DISTCCD_PORT
            )
            host.listed = declaration
            host.address = declaration.address or host.address
            static = declaration.static and name not in self.removed
            host.added = host.offered is not None or static
            self._apply_declarations(host)

    def _host_added(self, event: HostAdded) -> None:
        declaration = event.declaration
        port = declaration.port or DISTCCD_PORT
        host = self.find(declaration.host, port)
        name = host_name(declaration.host, port) if host is None else host.name
        leaves = host is not None and host.drain_until is not None
        if event.returning and (leaves or name in self.removed):
            return
        if host is None:
            host = self._new_host(name, event.address, port)
        if event.returning and not host.added and host.load_at is None:
            self._hold(host)
        removed = self.removed.pop(host.name, None) is not None
        if leaves or removed or (host.offered, host.address) != (declaration, event.address):
            self._effects.append(AvailabilityChanged(host.name))
        host.address = event.address
        host.port = port
        host.offered = declaration
        host.added = True
        host.failures = 0
        host.failed_at = self.now  # what began before tells nothing about the host of now
        host.doubts.clear()
        host.lacks = frozenset()
        host.quarantined = False
        self._timers.clear(("probation", host.name))
        if host.silent:  # whoever adds a host without reports takes it at its declared power
            host.silent, host.load, host.load_at = False, None, None
            if host.settles_at is None:
                host.set_strays(0)
            self._timers.clear(("lost", host.name))
        self._end_drain(host, "it was added again meanwhile")
        self._apply_declarations(host)

    def _host_removed(self, event: HostRemoved) -> None:
        host = self.find(event.host, event.port)
        if host is None:
            # It may be yet to return, from an earlier life of the server: then it stays out.
            name = host_name(event.host, event.port)
            self._remember_removed(name, Declaration(event.host, event.port))
            return
        if not (host.added or host.drain_until is not None):
            self._remember_removed(host.name, _naming(host))
            return
        self._end_drain(host, "it was removed meanwhile")
        self._leave(host, "was removed")

    def _host_drained(self, event: HostDrained) -> None:
        host = self.find(event.host, event.port)
        if host is None or not host.added:
            return
        host.drain_until = self.now + event.grace_s
        self._timers.set(("drain", host.name), host.drain_until)
        self._effects.append(AvailabilityChanged(host.name))
        self._settle(host)
        if not host.leases:
            self._end_drain(host)

    def _end_drain(self, host: Host, reason: str = "") -> None:
        """End a drain that is under way: as it should, or called off for `reason`."""
        if host.drain_until is None:
            return
        host.drain_until = None
        self._timers.clear(("drain", host.name))
        if reason:
            self._effects.append(DrainEnded(host.name, 0, reason))
            return
        left = len(host.leases)
        self._revoke_leases(host, f"{host.name} leaves the farm")
        self._effects.append(DrainEnded(host.name, left))
        self._leave(host, "left after its last compile")

    def _leave(self, host: Host, reason: str) -> None:
        """Make a host unavailable; forget it once nothing is left to remember."""
        self._remember_removed(host.name, _naming(host))
        host.added = False
        host.offered = None
        host.quarantined = False
        self._timers.clear(("probation", host.name))
        self._settle(host, reason)
        self._forget_if_nothing_left(host)

    def _remember_removed(self, name: str, declaration: Declaration) -> None:
        """Keep a host out that says it is returning, and one that hosts-info lists as available."""
        self.removed[name] = declaration
        if len(self.removed) > REMOVED_LIMIT:
            oldest = next(iter(self.removed))
            del self.removed[oldest]
            self._effects.append(AvailabilityChanged(oldest))
        self._effects.append(AvailabilityChanged(name))

    def _forget_if_nothing_left(self, host: Host) -> None:
        reports = host.load_at is not None and not host.silent
        if host.added or host.listed is not None or host.leases or reports or host.watchers:
            return
        if self.hosts.get(host.name) is host:
            del self.hosts[host.name]
            self.policy.host_forgotten(host)
            for kind in TIMERS_OF_A_HOST:
                self._timers.clear((kind, host.name))

    def _load_reported(self, event: LoadReported) -> None:
        host = self.find(event.host, event.port)
        if host is None:
            name = host_name(event.host, event.port)
            host = self._new_host(name, event.address, event.port)
        host.address = host.address or event.address
        if host.load_at is None:
            if event.returning:
                self._hold(host)
            if host.offered is not None:
                self._effects.append(AvailabilityChanged(host.name))
        host.load = event.load
        host.load_at = self.now
        host.silent = False
        self._count_strays(host)
        self._timers.set(("silent", host.name), self.now + SILENT_AFTER_S)
        if event.load.distccd in ("", "running"):
            self._timers.clear(("lost", host.name))
        if host.mode is Mode.PROPORTIONAL:
            cpus = event.load.cpus or host.capacity
            host.proportion.report(cpus, event.load.foreign_cpus, self.now)
        if host.capacity == 0 and event.load.cpus:
            self._apply_declarations(host)
        else:
            offer_slots(host)
            self._settle(host)

    def _reports_ended(self, event: ReportsEnded) -> None:
        host = self.hosts.get(event.name)
        if host is None or host.load_at is None or host.silent:
            return
        self._fall_silent(host)
        if host.leases:
            self._timers.set(("lost", host.name), self.now + LOST_AFTER_S)

    def _fall_silent(self, host: Host) -> None:
        host.silent = True
        host.unexplained = math.inf
        self._timers.clear(("silent", host.name))
        self._settle(host)
        self._forget_if_nothing_left(host)

    def _owner_reported(self, event: OwnerReported) -> None:
        host = self.find(event.host, event.port)
        if host is None:
            name = host_name(event.host, event.port)
            host = self._new_host(name, event.address, event.port)
        was_there = host.owner_since is not None
        host.watchers[event.watcher] = None if event.since_s is None else self.now - event.since_s
        self._timers.clear(("unwatched", host.name))
        if host.owner_since is not None:
            for lease in host.leases.values():
                lease.disturbed = True
        elif was_there:
            host.owner_left_at = self.now
        offer_slots(host)
        self._settle(host)
        if event.revoke and host.state is State.OWNER:
            self._revoke_leases(host, f"the owner of {host.name} is back")

    def _watcher_ended(self, event: WatcherEnded) -> None:
        host = self.hosts.get(event.name)
        if host is None or event.watcher not in host.watchers:
            return
        del host.watchers[event.watcher]
        offer_slots(host)
        self._settle(host)
        if host.leases and host.state is State.OWNER:
            # What it may have stopped, nobody continues.
            self._timers.set(("unwatched", host.name), self.now + LOST_AFTER_S)
        self._forget_if_nothing_left(host)

    def _new_host(self, name: str, address: str, port: int) -> Host:
        host = self.hosts[name] = Host(name, address, port)
        return host

    def _apply_declarations(self, host: Host) -> None:
        """Work out anew what a host is, and how it stands."""
        take_declarations(host)
        self._settle(host)
        self._choice_narrowed = True
        self._forget_if_nothing_left(host)

    def _settle(self, host: Host, reason: str = "") -> None:
        """Bring a host's state in line with the facts, and tell the policy to read it anew."""
        before = (host.state, host.tier)
        host.state, host.reason = state_of(host)
        if reason and host.state is State.AWAY:
            host.reason = reason
        self.policy.host_changed(host, self.now)
        use = self.policy.use_of(host)
        host.tier = use.tier
        if (host.state, host.tier) == before:
            return
        if host.tier is None and before[1] is not None:
            self._choice_narrowed = True
        if host.state is not before[0] or host.up:
            why = host.reason or use.reason
            self._effects.append(
                HostNoted(host.name, f"{host.state.value}{', ' if why else ''}{why}")
            )
        if host.state is State.MUTE and host.leases:
            self._timers.set(("lost", host.name), self.now + LOST_AFTER_S)

    # -- what another server, or an earlier life of this one, left behind

    def _earlier_life(self, event: EarlierLife) -> None:
        self._await_returns()
        for known in event.hosts:
            declaration = known.declaration
            port = declaration.port or DISTCCD_PORT
            host = self.find(declaration.host, port)
            name = host_name(declaration.host, port) if host is None else host.name
            if not known.available:
                self.removed[name] = declaration
                if host is not None and host.added:
                    self._leave(host, "was removed")
                continue
            if host is None:
                host = self._new_host(name, known.address, port)
            host.address, host.port = known.address, port
            host.offered = declaration
            host.added = True
            host.silent = known.reported
        for host in self.hosts.values():
            if host.added:
                self._hold(host)
                self._apply_declarations(host)

    def _await_returns(self) -> None:
        """There are hosts and leases yet to return, so nothing is hopeless for the moment."""
        if self.now - self._hopes_until >= SETTLE_AGAIN_S:
            self._hopes_until = self.now + SETTLE_S
            self._timers.set(("hope", None), self._hopes_until)

    def _hold(self, host: Host) -> None:
        """Count as in use what has no lease, until those who hold some had time to attach them."""
        self._await_returns()
        host.settles_at = self.now + SETTLE_S
        host.held_at = self.now
        host.set_strays(host.slots - len(host.leases))
        self._timers.set(("settle", host.name), host.settles_at)

    def _count_strays(self, host: Host) -> None:
        """Count as in use what a host's last report has beyond our leases.

        A report may be late: so it is compared with the most leases since the one before, and what
        only one of two reports has does not count.
        """
        before = host.unexplained
        compiles = host.load.compiles if host.load is not None else None
        host.unexplained = max(0, (compiles or 0) - host.most_leases)
        host.most_leases = len(host.leases)
        if host.settles_at is None:
            host.set_strays(int(min(before, host.unexplained)))

    def _settled(self, host: Host) -> None:
        """End a host's time of being held."""
        host.settles_at = None
        compiles = host.load.compiles if host.load is not None and not host.silent else None
        host.set_strays(max(0, (compiles or 0) - len(host.leases)))
        host.unexplained = math.inf
        self._settle(host)

    def _lease_attached(self, event: LeaseAttached) -> None:
        request = event.request
        assert request.id not in self.waiting, "a request's id was used before"
        assert request.id not in self.leases, "a request's id was used before"
        request.arrived = self.now - event.running_s
        host = self.find(event.host, event.port)
        if host is None:
            name = host_name(event.host, event.port)
            # Its address is for itself to say: what a client says is not connected to.
            host = self._new_host(name, "", event.port)
            self._settle(host, "a compile runs there, but it has not come back yet")
        self._await_returns()
        if self.now - host.held_at >= SETTLE_AGAIN_S:
            self._hold(host)
        lease = Lease(request, host, host.take_slot_in_use(), request.arrived)
        lease.disturbed = host.owner_since is not None
        self.attached += 1
        self.policy.arrived(request, self.now)
        self._begin_lease(lease)
        self._settle(host)
        if host.silent or host.state is State.MUTE:
            self._timers.set(("lost", host.name), self.now + LOST_AFTER_S)

    # -- hosts fail

    def _host_failed(self, lease: Lease, outcome: Outcome) -> None:
        """Take note of a compile that a host did not do; those failing at once count once."""
        host, compiler = lease.host, lease.request.compiler
        self.failed += 1
        if outcome.exit == EXIT_COMPILER_MISSING and compiler:
            self._take_as_lacking(host, compiler)
            return
        builder = lease.request.builder
        if builder == host.failed_builder and host.well_for_others:
            # It cannot reach the host, say. One such builder must not idle the farm.
            self._effects.append(HostNoted(host.name, f"fails for {builder}, and not for others"))
            return
        host.failed_compiler = compiler
        if lease.granted >= host.failed_at:
            host.failed_builder, host.well_for_others = builder, False
            self._quarantine(host, f"a compile failed there: {outcome.reason or outcome.exit}")

    def _quarantine(self, host: Host, reason: str) -> None:
        host.failures += 1
        host.failed_at = self.now
        host.quarantined = True
        self._timers.set(("probation", host.name), self.now + _quarantine_s(host))
        self._effects.append(HostNoted(host.name, reason))
        self._settle(host)

    def _take_as_lacking(self, host: Host, compiler: str) -> None:
        host.lacks |= {compiler}
        self._timers.set(("lacks", host.name), self.now + LACKS_FOR_S)
        self._effects.append(HostNoted(host.name, f"is taken to have no {compiler} for now"))
        self._settle(host)
        self._choice_narrowed = True

    def _host_probed(self, event: HostProbed) -> None:
        host = self.hosts.get(event.name)
        if host is None:
            return
        if host.quarantined:
            if not event.answered:
                self._quarantine(host, "does not answer")
                return
            host.quarantined = False
            self._timers.clear(("probation", host.name))
            if not event.compiled:
                self._doubt(host)
            self._settle(host)
        elif event.answered:
            host.vouched_at = self.now
        elif self._suspected(host):
            self._quarantine(host, "its compiles do not end, and it does not answer")
            self._revoke_leases(host, f"{host.name} does not answer")

    def _doubt(self, host: Host) -> None:
        """A host that answers failed a compile: perhaps it is the compiler, not the host."""
        compiler, host.failed_compiler = host.failed_compiler, ""
        if not compiler:
            return
        host.doubts[compiler] = host.doubts.get(compiler, 0) + 1
        if host.doubts[compiler] >= DOUBTS_TO_LACK:
            del host.doubts[compiler]
            self._take_as_lacking(host, compiler)

    def _patience_s(self, lease: Lease) -> float:
        """Return for how long nothing may end on a lease's host before that is suspicious."""
        expected_s = self.policy.expected_s(lease)
        if expected_s is not None:
            return max(PATIENCE_KNOWN_LEAST_S, PATIENCE_KNOWN * expected_s)
        if self._typical_s is None:
            return PATIENCE_UNKNOWN_S
        return max(PATIENCE_LEAST_S, PATIENCE_TYPICAL * self._typical_s)

    def _suspect_at(self, host: Host) -> float:
        """Return when a host with leases becomes suspicious if none of them ends before."""
        since = max(host.last_end, host.owner_left_at, host.vouched_at)
        if self.now - since < PATIENCE_KNOWN_LEAST_S:
            return since + PATIENCE_KNOWN_LEAST_S  # at the soonest; to be asked again then
        return min(
            max(lease.granted, since) + self._patience_s(lease) for lease in host.leases.values()
        )

    def _suspected(self, host: Host) -> bool:
        """Whether a host, not seen at work, ended no compile for far longer than compiles take."""
        if not host.leases or (host.load is not None and host.load.own_cpus > AT_WORK_CPUS):
            return False
        if host.state is State.OWNER:  # he may have had them stopped
            return False
        return self._suspect_at(host) <= self.now

    def _watch(self, host: Host) -> None:
        """Look whether a host with leases is mute, and again when it may be."""
        if host.address and self._suspected(host):
            self._probe(host, next(iter(host.leases.values())).request.compiler)
            again = self.now + PATIENCE_LEAST_S
        else:
            again = min(self._suspect_at(host), self.now + PATIENCE_LEAST_S)
        self._timers.set(("watch", host.name), max(again, self.now + PATIENCE_KNOWN_LEAST_S / 2))

    def _probe(self, host: Host, compiler: str) -> None:
        self._effects.append(Probe(host.name, host.address, host.port, compiler))

    def _revoke_leases(self, host: Host, reason: str) -> None:
        for lease in list(host.leases.values()):
            if lease.is_backup:
                self._drop_backup(lease, reason)
                continue
            self.revoked += 1
            self._effects.append(Revoke(lease.id, reason))
            self._end_lease(lease, Outcome(reason=reason))

    # -- requests come, are granted, and end

    def _request_arrived(self, event: RequestArrived) -> None:
        request = event.request
        assert request.id not in self.waiting, "a request's id was used before"
        assert request.id not in self.leases, "a request's id was used before"
        request.arrived = self.now
        self.waiting[request.id] = request
        if request.returning:
            self._await_returns()
        self.policy.arrived(request, self.now)
        if request.wait_s:
            self._timers.set(("wait", request.id), self.now + request.wait_s)

    def _still_waiting(self, request: Request) -> None:
        """Tell a request that has just come and was not granted what it may expect."""
        hopeless = self.policy.hopeless(request)
        if hopeless is not None and self.now >= self._hopes_until:
            self._refuse(request, hopeless)
        elif request.wait_s == 0:
            self._refuse(request, "no slot is free now")
        else:
            self._timers.set(("tell", request.id), self.now + TELL_WAIT_AFTER_S)

    def _refuse(self, request: Request, reason: str) -> None:
        self._withdraw(request)
        self.refused += 1
        self._effects.append(Refuse(request.id, reason))

    def _refuse_hopeless(self) -> None:
        """Refuse the requests for which no host is left; like restrictions share a verdict."""
        if self.now < self._hopes_until:
            return
        verdicts: dict[Hashable, str | None] = {}
        for request in list(self.waiting.values()):
            key = request.restriction
            if key not in verdicts:
                verdicts[key] = self.policy.hopeless(request)
            verdict = verdicts[key]
            if verdict is not None:
                self._refuse(request, verdict)

    def _withdraw(self, request: Request) -> None:
        del self.waiting[request.id]
        self._clear_timers(request)
        self.policy.withdrawn(request, self.now)

    def _clear_timers(self, request: Request) -> None:
        self._timers.clear(("tell", request.id))
        if request.wait_s:
            self._timers.clear(("wait", request.id))

    def _grant(self) -> None:
        while self.waiting:
            if self.backups:
                self._make_way()
            choice = self.policy.next_grant(self.now)
            if choice is None:
                return
            request, host = choice
            assert host.up, "a lease on a host that is not up"
            lease = Lease(request, host, host.take_slot(), self.now)
            del self.waiting[request.id]
            self._clear_timers(request)
            self.granted += 1
            self._begin_lease(lease)
            self._effects.append(Grant(lease))

    def _begin_lease(self, lease: Lease) -> None:
        self.leases[lease.request.id] = lease
        self._take_up(lease)
        self.policy.granted(lease, self.now)

    def _take_up(self, lease: Lease) -> None:
        """Enter a lease into the books of its host."""
        host = lease.host
        leases = host.leases
        if not leases:
            self._timers.set(("watch", host.name), self.now + PATIENCE_KNOWN_LEAST_S)
        leases[lease.request.id] = lease
        if len(leases) > host.most_leases:
            host.most_leases = len(leases)

    def _request_ended(self, event: RequestEnded) -> None:
        lease = self.leases.get(event.id)
        if lease is not None:
            backup = self.backups.get(event.id)
            if not event.attempt:
                self._end_lease(lease, event.outcome)
            elif backup is None or backup.attempt != event.attempt:
                # We took it back while the client told us that it was done.
                self._end_lease(lease, _OVERTAKEN)
                last = lease.last_backup
                if last is not None and last.attempt == event.attempt:
                    self._effects.append(LeaseEnded(last, event.outcome, self.now))
            else:
                self.overtaken += 1
                del self.backups[event.id]
                self._end_lease(lease, _OVERTAKEN)
                self._end_backup(backup, event.outcome)
            return
        request = self.waiting.get(event.id)
        if request is not None:
            self._withdraw(request)

    def _end_lease(self, lease: Lease, outcome: Outcome) -> None:
        backup = self.backups.pop(lease.request.id, None)
        if backup is not None:
            self._end_backup(backup, Outcome(reason="the first attempt ended"))
        del self.leases[lease.request.id]
        self._put_down(lease, outcome)
        self.policy.ended(lease, outcome, self.now)
        self._leave_if_last(lease.host)

    def _put_down(self, lease: Lease, outcome: Outcome) -> None:
        """Take a lease out of the books of its host, and judge the host by how it ended."""
        host = lease.host
        del host.leases[lease.request.id]
        host.give_back(lease.slot)
        self._effects.append(LeaseEnded(lease, outcome, self.now))
        if outcome.failed and not lease.disturbed:
            self._host_failed(lease, outcome)
        elif outcome.exit is not None:
            self._compile_went_well(lease)

    def _leave_if_last(self, host: Host) -> None:
        """Do what was put off until a host's last lease ends."""
        if not host.leases:
            self._timers.clear(("watch", host.name))
            if host.drain_until is not None:
                self._end_drain(host)
            self._forget_if_nothing_left(host)

    def _compile_went_well(self, lease: Lease) -> None:
        """Take note that a host did a compile; that the source had an error in it makes no odds."""
        host = lease.host
        took_s = self.now - lease.granted
        host.compiles += 1
        host.last_end = self.now
        if self._typical_s is None:
            self._typical_s = took_s
        elif not lease.disturbed:
            self._typical_s += 0.05 * (took_s - self._typical_s)
        host.doubts.pop(lease.request.compiler, None)
        if not host.failures or lease.granted < host.failed_at or host.quarantined:
            return
        host.well_for_others |= lease.request.builder != host.failed_builder
        if self.now - host.failed_at >= PARDON_TIMES * _quarantine_s(host):
            host.failures = 0

    # -- backups

    def _back_up(self) -> None:
        """Begin the backups that the policy wants, on slots that are free."""
        while (choice := self.policy.next_backup(self.now)) is not None:
            lease, host = choice
            assert host.up, "a backup on a host that is not up"
            before = self.backups.get(lease.id)
            if before is not None:
                self._drop_backup(before, "a faster slot is free")
            self.backed_up += 1
            backup = Lease(lease.request, host, host.take_slot(), self.now, attempt=self.backed_up)
            self.backups[lease.id] = backup
            self._take_up(backup)
            self.policy.backup_began(backup, self.now)
            self._effects.append(BackUp(backup))

    def _make_way(self) -> None:
        """Take the slots back that requests are to have which wait."""
        while (backup := self.policy.backup_in_the_way(self.now)) is not None:
            self._drop_backup(backup, "its slot is needed")

    def _drop_backup(self, backup: Lease, reason: str) -> None:
        del self.backups[backup.id]
        self.leases[backup.id].last_backup = backup
        self._effects.append(DropBackup(backup, reason))
        self._end_backup(backup, Outcome(reason=reason))

    def _end_backup(self, backup: Lease, outcome: Outcome) -> None:
        """Put a backup down that is no longer among ours."""
        self._put_down(backup, outcome)
        self.policy.backup_ended(backup, outcome, self.now)
        self._leave_if_last(backup.host)

    def _backup_ended(self, event: BackupEnded) -> None:
        backup = self.backups.get(event.id)
        if backup is not None and backup.attempt == event.attempt:
            del self.backups[event.id]
            self._end_backup(backup, event.outcome)

    # -- time passes

    def _time_passed(self, event: TimePassed) -> None:
        """Do nothing: what is due is done after any event."""

    def _ring(self) -> None:
        if not self._timers.may_be_due(self.now):
            return
        while (key := self._timers.pop_due(self.now)) is not None:
            kind, subject = key
            if kind == "tell":
                self._to_tell.append(subject)
            elif kind == "hope":
                self._choice_narrowed = True
            elif kind == "wait":
                self._refuse(self.waiting[subject], "no slot was found in the time given")
            else:
                self._ring_for_host(kind, self.hosts[subject])

    def _ring_for_host(self, kind: str, host: Host) -> None:
        if kind == "silent":
            self._fall_silent(host)
            self._revoke_leases(host, f"{host.name} fell silent")
        elif kind == "lost":
            self._revoke_leases(host, f"{host.name} is lost: {host.reason}")
        elif kind == "unwatched":
            self._revoke_leases(host, f"{host.name} may be in use: its watch-ssaver ended")
        elif kind == "drain":
            self._end_drain(host)
        elif kind == "settle":
            self._settled(host)
        elif kind == "lacks":
            host.lacks = frozenset()
            self._settle(host)
        elif kind == "probation":
            self._timers.set(("probation", host.name), self.now + PROBE_AGAIN_S)
            self._probe(host, host.failed_compiler)
        elif kind == "watch" and host.leases:
            self._watch(host)


def _quarantine_s(host: Host) -> float:
    """Return how long a host that failed so often is left alone."""
    return min(QUARANTINE_S * 2.0 ** min(host.failures - 1, 10), QUARANTINE_LIMIT_S)


def _naming(host: Host) -> Declaration:
    """Return a declaration that says no more than which host is meant."""
    said = host.offered or host.listed
    return Declaration(said.host if said is not None else host.name, host.port)
