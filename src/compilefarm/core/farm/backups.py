"""Backups: second leases of compiles that run, on slots that no request wants at the moment.

The policy decides which compile gets a backup, and which backup is in the way of a request. A
client needs only the lease of its first attempt. A backup may therefore end at any time, on either
side, without harm.

This part knows nothing of requests that wait.
"""

from __future__ import annotations

from compilefarm.core.events import BackUp, BackupEnded, DropBackup
from compilefarm.core.farm.slots import Slots
from compilefarm.core.farm.totals import Totals
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Host, Lease, Outcome, State
from compilefarm.core.placement.policy import Policy


class Backups:
    """The backups that run, by their leases' ids: each compile has at most one."""

    def __init__(self, policy: Policy, slots: Slots, totals: Totals) -> None:
        self.backups: dict[int, Lease] = {}
        # The backup that was dropped last, of each compile that still runs. Its client may have
        # reported a result at the same moment.
        self._dropped: dict[int, Lease] = {}
        self._policy = policy
        self._slots = slots
        self._totals = totals

    def begin(self, first: Lease, host: Host, turn: Turn) -> None:
        """Begin a backup of a first attempt on a host with a free slot, in place of any other."""
        assert host.state is State.UP, "a backup on a host that is not up"
        running = self.backups.get(first.id)
        if running is not None:
            self.drop(running, "a faster slot is free", turn)
        self._totals.backed_up += 1
        request, slot = first.request, host.take_slot()
        door = request.door_on(host)
        backup = Lease(request, host, slot, turn.now, attempt=self._totals.backed_up, door=door)
        first.had_backup = True
        self.backups[first.id] = backup
        self._slots.occupy(backup, turn)
        self._policy.backup_began(backup, turn.now)
        turn.effects.append(BackUp(backup))

    def make_way(self, turn: Turn) -> None:
        """Drop the backups whose slots waiting requests need."""
        while (backup := self._policy.backup_in_the_way(turn.now)) is not None:
            self.drop(backup, "its slot is needed", turn)

    def drop(self, backup: Lease, reason: str, turn: Turn) -> None:
        """End a backup, and tell its client."""
        del self.backups[backup.id]
        self._dropped[backup.id] = backup
        turn.effects.append(DropBackup(backup, reason))
        self.end(backup, Outcome(reason=reason), turn)

    def ended(self, event: BackupEnded, turn: Turn) -> None:
        """End a backup that its client gave up; the first attempt goes on."""
        backup = self.backups.get(event.id)
        if backup is not None and backup.attempt == event.attempt:
            del self.backups[event.id]
            self.end(backup, event.outcome, turn)

    def first_attempt_ended(self, id: int, turn: Turn) -> None:
        """End the backup of a compile that has ended, if it has one."""
        backup = self.backups.pop(id, None)
        if backup is not None:
            self.end(backup, Outcome(reason="the first attempt ended"), turn)
        self._dropped.pop(id, None)

    def take(self, id: int, attempt: int) -> Lease | None:
        """Remove and return a backup that finished first; the caller must `end` it."""
        backup = self.backups.get(id)
        return self.backups.pop(id) if backup is not None and backup.attempt == attempt else None

    def dropped(self, id: int, attempt: int) -> Lease | None:
        """Return a backup that the farm dropped while its client reported a result, or None."""
        dropped = self._dropped.get(id)
        return dropped if dropped is not None and dropped.attempt == attempt else None

    def end(self, backup: Lease, outcome: Outcome, turn: Turn) -> None:
        """Free the slot of a backup that is no longer in `backups`."""
        self._slots.release(backup, outcome, turn)
        self._policy.backup_ended(backup, outcome, turn.now)
        if not backup.host.leases:
            self._slots.last_lease_ended(backup.host, turn)
