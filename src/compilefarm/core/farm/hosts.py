"""Hosts come, report their load, answer probes, and go; their owners come and go, too.

A host is lost in two steps, so that a load reporter may be restarted without harm. At once the host
gets no new leases. If it is not back after `LOST_AFTER_S`, its leases are revoked, and the compiles
run elsewhere.

A host's owner comes first. watch-ssaver has its own connection, on which it reports whether the
owner is present. In idle mode, a host without a watcher counts as in use: so it is out of the farm
however its watcher ended.

This part turns events about hosts into calls of the parts below it. It knows nothing of requests.
"""

from __future__ import annotations

import math

from compilefarm.core.events import (
    AvailabilityChanged,
    CompilersReported,
    HostAdded,
    HostDrained,
    HostProbed,
    HostRemoved,
    HostsListed,
    LoadReported,
    OwnerReported,
    ReportsEnded,
    WatcherEnded,
)
from compilefarm.core.farm.compiler_probes import CompilerProbes
from compilefarm.core.farm.doors import Doors
from compilefarm.core.farm.failures import Failures
from compilefarm.core.farm.leases import Leases
from compilefarm.core.farm.returns import Returns
from compilefarm.core.farm.roster import LOST_AFTER_S, Roster, naming
from compilefarm.core.farm.suspicion import Suspicion
from compilefarm.core.farm.turn import Turn
from compilefarm.core.host_state import offer_slots
from compilefarm.core.model import Host, State
from compilefarm.core.timers import Timers
from compilefarm.protocol.address import host_name
from compilefarm.protocol.declaration import Declaration, Mode
from compilefarm.protocol.ports import DISTCCD_PORT

# A host reports every 2 s. Three lost reports in a row are no accident.
SILENT_AFTER_S = 6.0


class Hosts:
    """Handles the events that are about hosts, and the timers of hosts."""

    def __init__(
        self,
        timers: Timers,
        roster: Roster,
        leases: Leases,
        doors: Doors,
        probes: CompilerProbes,
        failures: Failures,
        suspicion: Suspicion,
        returns: Returns,
    ) -> None:
        self._timers = timers
        self._roster = roster
        self._leases = leases
        self._doors = doors
        self._probes = probes
        self._failures = failures
        self._suspicion = suspicion
        self._returns = returns

    # -- hosts come

    def listed(self, event: HostsListed, turn: Turn) -> None:
        """Apply hosts-info, which was read again."""
        roster = self._roster
        listed = {declaration.name: declaration for declaration in event.declarations}
        for host in list(roster.hosts.values()):
            if host.listed is not None and host.name not in listed:
                host.listed = None
                host.added = host.offered is not None
                roster.declared(host, turn)
        for name, declaration in listed.items():
            host = roster.hosts.get(name) or roster.add(
                name, declaration.address or declaration.host, declaration.port or DISTCCD_PORT
            )
            host.listed = declaration
            host.address = declaration.address or host.address
            static = declaration.static and name not in roster.removed
            host.added = host.offered is not None or static
            roster.declared(host, turn)
            self._probes.ask(host, turn)

    def added(self, event: HostAdded, turn: Turn) -> None:
        """Make a host available, unless it only returns and people took it out before."""
        roster, declaration = self._roster, event.declaration
        port = declaration.port or DISTCCD_PORT
        host = roster.find(declaration.host, port)
        name = host_name(declaration.host, port) if host is None else host.name
        leaves = host is not None and host.drain_until is not None
        if event.returning and (leaves or name in roster.removed):
            return
        if host is None:
            host = roster.add(name, event.address, port)
        if event.returning and not host.added and host.load_at is None:
            self._returns.await_leases(host, turn)
        removed = roster.removed.pop(host.name, None) is not None
        if leaves or removed or (host.offered, host.address) != (declaration, event.address):
            turn.effects.append(AvailabilityChanged(host.name))
        host.address = event.address
        host.port = port
        host.offered = declaration
        host.added = True
        if event.has_agent:
            self._doors.await_report(host, turn)
        self._failures.pardon(host, turn)
        if host.silent:
            self._go_without_reports(host)
        roster.call_off_drain(host, "it was added again meanwhile", turn)
        roster.declared(host, turn)
        self._probes.ask_anew(host, turn)

    def _go_without_reports(self, host: Host) -> None:
        """Take a silent host at its declared power: it was added, and does not report."""
        host.silent, host.load, host.load_at = False, None, None
        if host.attach_until is None:
            host.set_strays(0)
        self._timers.clear(("lost", host.name))

    # -- hosts go

    def removed(self, event: HostRemoved, turn: Turn) -> None:
        """Make a host unavailable; its leases go on."""
        roster = self._roster
        host = roster.find(event.host, event.port)
        if host is None:
            # It may return later, after a restart of the server. Then it must stay out.
            name = host_name(event.host, event.port)
            roster.remember_removed(name, Declaration(event.host, event.port), turn)
        elif host.added or host.drain_until is not None:
            roster.call_off_drain(host, "it was removed meanwhile", turn)
            roster.leave(host, "was removed", turn)
        else:
            roster.remember_removed(host.name, naming(host), turn)

    def drained(self, event: HostDrained, turn: Turn) -> None:
        """Begin a drain, which ends with the host's last lease or after `grace_s`."""
        host = self._roster.find(event.host, event.port)
        if host is None or not host.added:
            return
        host.drain_until = turn.now + event.grace_s
        self._timers.set(("drain", host.name), host.drain_until)
        turn.effects.append(AvailabilityChanged(host.name))
        self._roster.refresh(host, turn)
        if not host.leases:
            self._roster.drained(host, 0, turn)

    def drain_over(self, name: str, turn: Turn) -> None:
        """Revoke the leases of a host whose drain took too long, and let it leave."""
        host = self._roster.hosts[name]
        left = len(host.leases)
        host.drain_until = None  # or the last lease's end would end the drain before we do
        self._leases.revoke_all(host, f"{name} leaves the farm", turn)
        self._roster.drained(host, left, turn)

    # -- load reports

    def load_reported(self, event: LoadReported, turn: Turn) -> None:
        """Apply a load report, which may change the host's slots and its state."""
        host = self._roster.find_or_add(event.host, event.port, event.address)
        host.address = host.address or event.address
        if host.load_at is None:
            if event.returning:
                self._returns.await_leases(host, turn)
            if host.offered is not None:
                turn.effects.append(AvailabilityChanged(host.name))
        host.load = event.load
        host.load_at = turn.now
        host.silent = False
        if event.has_agent:
            self._doors.await_report(host, turn)
        self._returns.count_strays(host)
        self._timers.set(("silent", host.name), turn.now + SILENT_AFTER_S)
        if event.load.distccd in ("", "running"):
            self._timers.clear(("lost", host.name))
        if host.mode is Mode.PROPORTIONAL:
            cpus = event.load.cpus or host.capacity
            host.owner_share.report(cpus, event.load.foreign_cpus, turn.now)
        if host.capacity == 0 and event.load.cpus:
            self._roster.declared(host, turn)
        else:
            offer_slots(host)
            self._roster.refresh(host, turn)
        self._probes.ask(host, turn)

    def compilers_reported(self, event: CompilersReported, turn: Turn) -> None:
        """Apply the list of a host's compilers, which counts at once."""
        host = self._roster.hosts.get(event.name)
        if host is not None:
            self._doors.report(host, event.compilers, turn)
            self._leases.revoke_without_door(host, turn)

    def reports_ended(self, event: ReportsEnded, turn: Turn) -> None:
        """Give the host no leases while its load reporter is away, and revoke them if it stays."""
        host = self._roster.hosts.get(event.name)
        if host is None or host.load_at is None or host.silent:
            return
        self._fall_silent(host, turn)
        if not host.leases:
            self._doors.forget(host, turn)
        else:
            self._roster.give_time_to_return(host, turn)

    def silent_for_too_long(self, name: str, turn: Turn) -> None:
        """Revoke the leases of a host whose reports stopped although its connection is open."""
        host = self._roster.hosts[name]
        self._fall_silent(host, turn)
        self._leases.revoke_all(host, f"{name} fell silent", turn)
        self._doors.forget(host, turn)

    def lost(self, name: str, turn: Turn) -> None:
        """Revoke the leases of a host that is not back in time."""
        host = self._roster.hosts[name]
        self._leases.revoke_all(host, f"{name} is lost: {host.reason}", turn)
        if host.silent:
            self._doors.forget(host, turn)

    def _fall_silent(self, host: Host, turn: Turn) -> None:
        host.silent = True
        host.unexplained = math.inf
        self._timers.clear(("silent", host.name))
        self._roster.refresh(host, turn)
        self._roster.forget_if_unneeded(host, turn)

    # -- owners

    def owner_reported(self, event: OwnerReported, turn: Turn) -> None:
        """Apply a watcher's report that the owner is present or absent."""
        host = self._roster.find_or_add(event.host, event.port, event.address)
        was_present = host.owner_since is not None
        host.watchers[event.watcher] = None if event.since_s is None else turn.now - event.since_s
        self._timers.clear(("unwatched", host.name))
        if host.owner_since is not None:
            for lease in host.leases.values():
                lease.disturbed = True
        elif was_present:
            host.owner_left_at = turn.now
        offer_slots(host)
        self._roster.refresh(host, turn)
        if event.revoke and host.state is State.OWNER:
            self._leases.revoke_all(host, f"the owner of {host.name} is back", turn)

    def watcher_ended(self, event: WatcherEnded, turn: Turn) -> None:
        """Go on without a watcher."""
        host = self._roster.hosts.get(event.name)
        if host is None or event.watcher not in host.watchers:
            return
        del host.watchers[event.watcher]
        offer_slots(host)
        self._roster.refresh(host, turn)
        if host.leases and host.state is State.OWNER:
            # The watcher may have sent SIGSTOP to compiles; now nothing resumes them.
            self._timers.set(("unwatched", host.name), turn.now + LOST_AFTER_S)
        self._roster.forget_if_unneeded(host, turn)

    def unwatched_for_too_long(self, name: str, turn: Turn) -> None:
        """Revoke the leases of a host whose compiles may be stopped for good."""
        host = self._roster.hosts[name]
        reason = f"{name} may be in use: its watch-ssaver ended"
        self._leases.revoke_all(host, reason, turn)

    # -- probes

    def probed(self, event: HostProbed, turn: Turn) -> None:
        """Apply a probe's result, to a quarantined host or to a suspect."""
        host = self._roster.hosts.get(event.name)
        if host is None:
            return
        if host.quarantined:
            self._failures.quarantined_host_probed(host, event, turn)
            self._probes.ask(host, turn)
        elif event.answered:
            host.vouched_at = turn.now
        elif self._suspicion.suspects(host, turn.now):
            reason = "its compiles do not end, and it does not answer"
            self._failures.quarantine(host, reason, turn)
            self._leases.revoke_all(host, f"{host.name} does not answer", turn)

    def maybe_suspect(self, name: str, turn: Turn) -> None:
        """Look whether compiles still end on a host with leases."""
        self._suspicion.look(self._roster.hosts[name], turn)
