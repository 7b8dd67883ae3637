"""What another server, or this one before a restart, left behind: compiles that run already.

A server may follow one that was killed, or stand in for another. It then knows nothing of the
compiles that run. Their clients attach the leases that they hold, some sooner, some later. Hosts
report how many compiles run there.

So when a host returns, clients have `ATTACH_WITHIN_S` to attach their leases on it. Until then each
slot without a lease counts as in use. After that, its load reports decide: compiles beyond our
leases are *strays*, and each takes a slot.

No lease is saved from one life of the server to the next. Leases change by the thousand in a
second, and their holders know them best.
"""

from __future__ import annotations

import math

from compilefarm.core.events import EarlierLife, LeaseAttached
from compilefarm.core.farm.leases import Leases
from compilefarm.core.farm.roster import Roster
from compilefarm.core.farm.totals import Totals
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Host, Lease, State
from compilefarm.core.placement.policy import Policy
from compilefarm.core.timers import Timers
from compilefarm.protocol.address import host_name
from compilefarm.protocol.declaration import Declaration
from compilefarm.protocol.ports import DISTCCD_PORT

# After a server's start, hosts return and clients attach their leases within this time: both try
# at least every second or so.
ATTACH_WITHIN_S = 2.0
# A late host or client does not make everyone wait again.
ATTACH_AGAIN_AFTER_S = 30.0


class Returns:
    """Brings back hosts and leases that this server did not see begin."""

    def __init__(
        self, policy: Policy, timers: Timers, roster: Roster, leases: Leases, totals: Totals
    ) -> None:
        self._policy = policy
        self._timers = timers
        self._roster = roster
        self._leases = leases
        self._totals = totals
        self._expected_until = -math.inf

    # -- events

    def earlier_life(self, event: EarlierLife, turn: Turn) -> None:
        """Restore the hosts that an earlier life of the server knew."""
        self.expect(turn)
        roster = self._roster
        for known in event.hosts:
            declaration = known.declaration
            port = declaration.port or DISTCCD_PORT
            if not known.available:
                self._stay_removed(declaration, port, turn)
                continue
            host = roster.find_or_add(declaration.host, port, known.address)
            host.address, host.port = known.address, port
            host.offered = declaration
            host.added = True
            host.silent = known.reported
        for host in roster.hosts.values():
            if host.added:
                self.await_leases(host, turn)
                roster.declared(host, turn)

    def _stay_removed(self, declaration: Declaration, port: int, turn: Turn) -> None:
        host = self._roster.find(declaration.host, port)
        name = host_name(declaration.host, port) if host is None else host.name
        self._roster.removed[name] = declaration
        if host is not None and host.added:
            self._roster.leave(host, "was removed", turn)

    def attached(self, event: LeaseAttached, turn: Turn) -> None:
        """Take over a lease that a client already has, perhaps on a host that is not back yet."""
        request = event.request
        assert request.id not in self._leases.leases, "a request's id was used before"
        request.arrived = turn.now - event.running_s
        roster = self._roster
        host = roster.find(event.host, event.port)
        if host is None:
            # Only the host itself gives its address: the server never connects to an address that
            # a client gave.
            host = roster.find_or_add(event.host, event.port, "")
            reason = "a compile runs there, but the host has not returned yet"
            roster.refresh(host, turn, reason)
        self.expect(turn)
        if turn.now - host.attach_began >= ATTACH_AGAIN_AFTER_S:
            self.await_leases(host, turn)
        lease = Lease(request, host, host.take_slot_in_use(), request.arrived)
        lease.disturbed = host.owner_since is not None
        lease.door = event.door
        self._totals.attached += 1
        self._policy.arrived(request, turn.now)
        self._leases.begin(lease, turn)
        roster.refresh(host, turn)
        if host.silent or host.state is State.MUTE:
            roster.give_time_to_return(host, turn)
        if host.agent_compilers is not None and not host.compilers_awaited:
            self._leases.revoke_without_door(host, turn)

    # -- hosts and leases that may still return

    def expect(self, turn: Turn) -> None:
        """Expect hosts and leases to return: for now, no request is hopeless."""
        if turn.now - self._expected_until >= ATTACH_AGAIN_AFTER_S:
            self._expected_until = turn.now + ATTACH_WITHIN_S
            self._timers.set(("returns", ""), self._expected_until)

    def expected(self, now: float) -> bool:
        """Whether hosts and leases may still return."""
        return now < self._expected_until

    def return_time_over(self, _: str, turn: Turn) -> None:
        """Let requests be refused that no returned host can serve."""
        turn.choice_narrowed = True

    # -- slots in use without a lease

    def await_leases(self, host: Host, turn: Turn) -> None:
        """Count a host's slots without a lease as in use, until clients had time to attach."""
        self.expect(turn)
        host.attach_until = turn.now + ATTACH_WITHIN_S
        host.attach_began = turn.now
        host.set_strays(host.slots - len(host.leases))
        self._timers.set(("attach", host.name), host.attach_until)

    def attach_time_over(self, name: str, turn: Turn) -> None:
        """Count only those slots as in use that the host's last report shows to be."""
        host = self._roster.hosts[name]
        host.attach_until = None
        compiles = host.load.compiles if host.load is not None and not host.silent else None
        host.set_strays(max(0, (compiles or 0) - len(host.leases)))
        host.unexplained = math.inf
        self._roster.refresh(host, turn)

    def count_strays(self, host: Host) -> None:
        """Count a host's strays from its new load report.

        A report may be older than the last lease that ended. So it is compared with the most leases
        since the report before, and a compile counts only if two reports in a row show it.
        """
        before = host.unexplained
        compiles = host.load.compiles if host.load is not None else None
        host.unexplained = max(0, (compiles or 0) - host.most_leases)
        host.most_leases = len(host.leases)
        if host.attach_until is None:
            host.set_strays(int(min(before, host.unexplained)))
