"""A farm under the policy `earliest`, for stories about who is given what."""

from __future__ import annotations

from compilefarm.core.events import (
    BackUp,
    DropBackup,
    Effect,
    Event,
    Grant,
    HostProbed,
    HostsListed,
    Probe,
    Refuse,
    RequestArrived,
    RequestEnded,
    Revoke,
    TimePassed,
)
from compilefarm.core.farm.farm import Farm
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Lease, Outcome, Request
from compilefarm.core.placement.earliest.policy import EarliestPolicy
from compilefarm.protocol.declaration import Declaration

DONE = Outcome(exit=0)
NONE: frozenset[str] = frozenset()


class Farmyard:
    """A farm, the time in it, and the leases that it gave."""

    def __init__(
        self, *declarations: Declaration, learning: Learning | None = None, backups: bool = True
    ) -> None:
        self.learning = learning or Learning()
        self.farm = Farm(EarliestPolicy(self.learning, backups=backups))
        self.now = 100.0
        self.leases: dict[int, Lease] = {}
        self.backups: dict[int, Lease] = {}
        self.refused: set[int] = set()
        self.last_id = 0
        self.play(HostsListed(declarations))

    def play(self, event: Event) -> list[Effect]:
        effects = self.farm.handle(event, self.now)
        for effect in effects:
            match effect:
                case Grant(lease):
                    self.leases[lease.id] = lease
                case Refuse(number, _):
                    self.refused.add(number)
                case Revoke(number, _):
                    del self.leases[number]
                    self.backups.pop(number, None)
                case BackUp(lease):
                    self.backups[lease.id] = lease
                case DropBackup(lease, _):
                    del self.backups[lease.id]
                case Probe(name, _, _):
                    self.play(HostProbed(name, answered=True))
        self.farm.check()
        return effects

    def ask(self, source: str = "a.c", user: str = "ann", **more: object) -> int:
        self.last_id += 1
        request = Request(self.last_id, user=user, builder="b", directory=f"/{user}", source=source)
        for name, value in more.items():
            setattr(request, name, value)
        self.play(RequestArrived(request))
        return self.last_id

    def end(self, number: int, outcome: Outcome = DONE) -> None:
        del self.leases[number]
        self.backups.pop(number, None)
        self.play(RequestEnded(number, outcome))

    def end_by_backup(self, number: int, outcome: Outcome = DONE) -> None:
        del self.leases[number]
        self.play(RequestEnded(number, outcome, self.backups.pop(number).attempt))

    def until(self, at: float) -> None:
        """Let time pass, ringing at every deadline; a deadline that does not move is an error."""
        rung_at, rings = -1.0, 0
        while (deadline := self.farm.next_deadline()) is not None and deadline <= at:
            rings = rings + 1 if deadline <= rung_at else 0
            assert rings < 50, "the same deadline again and again"
            rung_at = self.now = max(self.now, deadline)
            self.play(TimePassed())
        self.now = max(self.now, at)

    def host_of(self, number: int) -> str | None:
        lease = self.leases.get(number)
        return lease.host.name if lease else None

    def backup_of(self, number: int) -> str | None:
        backup = self.backups.get(number)
        return backup.host.name if backup else None


def host(
    name: str,
    slots: int,
    power_index: float,
    types: frozenset[str] = NONE,
    compilers: frozenset[str] = NONE,
) -> Declaration:
    return Declaration(
        name,
        slots=slots,
        power_index=power_index,
        address=name,
        static=True,
        types=types,
        compilers=compilers,
    )
