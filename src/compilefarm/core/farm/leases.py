"""Leases of first attempts: they begin, end, and are revoked.

Revoking is here because several parts need it: hosts that are lost, drained or wanted back by their
owner, and hosts that do not answer. They are all above this part.

This part knows nothing of requests that wait, nor of why a host loses its leases.
"""

from __future__ import annotations

from compilefarm.core.events import LeaseEnded, RequestEnded, Revoke
from compilefarm.core.farm.backups import Backups
from compilefarm.core.farm.slots import Slots
from compilefarm.core.farm.totals import Totals
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Ending, Host, Lease, Outcome
from compilefarm.core.placement.policy import Policy

_OVERTAKEN = Outcome(reason="its backup finished first", ending=Ending.OVERTAKEN)


class Leases:
    """The leases of first attempts, by their ids."""

    def __init__(self, policy: Policy, slots: Slots, backups: Backups, totals: Totals) -> None:
        self.leases: dict[int, Lease] = {}
        self._policy = policy
        self._slots = slots
        self._backups = backups
        self._totals = totals

    def begin(self, lease: Lease, turn: Turn) -> None:
        """Begin a lease; its slot is taken already, and the policy knows its request."""
        self.leases[lease.request.id] = lease
        self._slots.occupy(lease, turn)
        self._policy.granted(lease, turn.now)

    def end(self, lease: Lease, outcome: Outcome, turn: Turn) -> None:
        """End a lease, and with it its backup."""
        if lease.had_backup:
            self._backups.first_attempt_ended(lease.request.id, turn)
        del self.leases[lease.request.id]
        self._slots.release(lease, outcome, turn)
        self._policy.ended(lease, outcome, turn.now)
        if not lease.host.leases:
            self._slots.last_lease_ended(lease.host, turn)

    def backup_finished_first(self, lease: Lease, event: RequestEnded, turn: Turn) -> None:
        """End a lease whose client reports the result of its backup."""
        backup = self._backups.take(event.id, event.attempt)
        if backup is not None:
            self._totals.overtaken += 1
            self.end(lease, _OVERTAKEN, turn)
            self._backups.end(backup, event.outcome, turn)
            return
        # The farm dropped the backup while its client reported the result.
        dropped = self._backups.dropped(event.id, event.attempt)
        self.end(lease, _OVERTAKEN, turn)
        if dropped is not None:
            turn.effects.append(LeaseEnded(dropped, event.outcome, turn.now))

    def revoke_all(self, host: Host, reason: str, turn: Turn) -> None:
        """Revoke all leases of a host, and drop the backups that run there."""
        for lease in list(host.leases.values()):
            self.revoke(lease, reason, turn)

    def revoke(self, lease: Lease, reason: str, turn: Turn) -> None:
        """Revoke a lease that has not ended, or drop it if it is a backup."""
        if lease.is_backup:
            self._backups.drop(lease, reason, turn)
            return
        self._totals.revoked += 1
        turn.effects.append(Revoke(lease.id, reason))
        self.end(lease, Outcome(reason=reason), turn)

    def revoke_without_door(self, host: Host, turn: Turn) -> None:
        """Revoke the leases that were granted for a compiler which the host has no more.

        The compile may have run with another one.
        """
        if not any(lease.door for lease in host.leases.values()):
            return
        doors = {compiler.door for compiler in host.agent_compilers or ()}
        for lease in list(host.leases.values()):
            if lease.door and lease.door not in doors:
                self.revoke(lease, f"{host.name} no longer has {lease.door}", turn)
