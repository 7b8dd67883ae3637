"""How a lease takes its slot and gives it back: the same for first attempts and for backups.

`Leases` and `Backups` both need these three verbs, and each keeps its own leases. So the verbs are
here, below both. The host is also judged here by a lease's outcome: a backup that fails is as much
the host's fault as a first attempt.
"""

from __future__ import annotations

from compilefarm.core.events import LeaseEnded
from compilefarm.core.farm.failures import Failures
from compilefarm.core.farm.roster import Roster
from compilefarm.core.farm.suspicion import Suspicion
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Host, Lease, Outcome


class Slots:
    """Enters leases with their hosts and removes them again."""

    def __init__(self, roster: Roster, failures: Failures, suspicion: Suspicion) -> None:
        self._roster = roster
        self._failures = failures
        self._suspicion = suspicion

    def occupy(self, lease: Lease, turn: Turn) -> None:
        """Enter a lease with its host; its slot is taken already."""
        host = lease.host
        leases = host.leases
        if not leases:
            self._suspicion.first_lease_began(host, turn)
        leases[lease.request.id] = lease
        if len(leases) > host.most_leases:
            host.most_leases = len(leases)

    def release(self, lease: Lease, outcome: Outcome, turn: Turn) -> None:
        """Free a lease's slot, and judge the host by the outcome.

        The caller tells the policy, and after that calls `last_lease_ended` if this was the last.
        """
        host = lease.host
        del host.leases[lease.request.id]
        host.give_back(lease.slot)
        turn.effects.append(LeaseEnded(lease, outcome, turn.now))
        if outcome.failed and not lease.disturbed:
            self._failures.compile_failed(lease, outcome, turn)
        elif outcome.exit is not None:  # a source error also counts: the host did its work
            host.compiles += 1
            self._suspicion.compile_ended(lease, turn)
            if host.failures or host.doubts:
                self._failures.compile_succeeded(lease, turn)

    def last_lease_ended(self, host: Host, turn: Turn) -> None:
        """Do what had to wait until a host has no lease."""
        self._suspicion.last_lease_ended(host)
        if host.drain_until is not None or not host.added:
            self._roster.last_lease_ended(host, turn)
