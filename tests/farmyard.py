"""A farm, the time in it, and a few words to tell stories about it.

A story is played against the farm alone, on a clock that the test sets. Where a number matters (how
long a quarantine lasts) a test takes it from the farm. So it says what the promise is, and not what
the number happens to be. tests/farm_model.py has what must hold in every story.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypedDict, TypeVar, Unpack

from compilefarm.core.compilers import Sameness
from compilefarm.core.events import (
    BackUp,
    CompilersReported,
    DrainEnded,
    DropBackup,
    Effect,
    Event,
    Grant,
    HostAdded,
    HostNoted,
    HostProbed,
    HostsListed,
    LoadReported,
    Probe,
    ProbeCompiler,
    Refuse,
    RequestArrived,
    RequestEnded,
    Revoke,
    TimePassed,
    Wait,
)
from compilefarm.core.farm.farm import Farm
from compilefarm.core.farm.turn import Turn
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Host, Lease, Load, Outcome, Request
from compilefarm.core.placement.earliest.policy import EarliestPolicy
from compilefarm.core.placement.policy import Policy
from compilefarm.core.placement.tier import TierPolicy
from compilefarm.protocol.compilers import CompilerInfo
from compilefarm.protocol.declaration import Declaration, Mode

PORT = 3632
ADDRESS = "10.0.0.1"
DONE = Outcome(exit=0)
FAILED = Outcome(exit=116, failed=True)
IDLE = Load()
NONE: frozenset[str] = frozenset()
# Long stories need not keep effects that no test looks at.
EFFECTS_KEPT = 10_000

_Kind = TypeVar("_Kind", bound=tuple[object, ...])


class Wanted(TypedDict, total=False):
    """What a request may say besides its user and its source; see `Request`."""

    builder: str
    cpus: int
    directory: str
    compiler: str
    type: str
    avoid: frozenset[str]
    wait_s: float | None
    returning: bool
    can_back_up: bool
    identity: CompilerInfo | None
    sameness: Sameness


class Farmyard:
    """A farm, the time in it, the leases that it gave, and its effects since the last look."""

    def __init__(
        self,
        *declarations: Declaration,
        policy: Policy | None = None,
        learning: Learning | None = None,
        backups: bool = True,
        answers_probes: bool = True,
    ) -> None:
        self.learning = learning or Learning()
        self.farm = Farm(policy or EarliestPolicy(self.learning, backups=backups))
        self.now = 100.0
        self.leases: dict[int, Lease] = {}
        self.backups: dict[int, Lease] = {}
        self.last_id = 0
        self._answers_probes = answers_probes
        self._effects: deque[Effect] = deque(maxlen=EFFECTS_KEPT)
        if declarations:
            self.play(HostsListed(declarations))

    # -- what happens

    def play(self, event: Event) -> list[Effect]:
        """Give an event to the farm, do what its effects ask for, and check its promises."""
        effects = self.farm.handle(event, self.now)
        self._effects += effects
        for effect in effects:
            match effect:
                case Grant(lease):
                    self.leases[lease.id] = lease
                case Revoke(number, _):
                    del self.leases[number]
                    self.backups.pop(number, None)
                case BackUp(lease):
                    self.backups[lease.id] = lease
                case DropBackup(lease, _):
                    del self.backups[lease.id]
                case Probe(name, _, _) if self._answers_probes:
                    self.play(HostProbed(name, answered=True))
        self.farm.check()
        return effects

    def until(self, at: float) -> None:
        """Let time pass, ringing at every deadline; a deadline that does not move is an error."""
        rung_at, rings = -1.0, 0
        while (deadline := self.farm.next_deadline()) is not None and deadline <= at:
            rings = rings + 1 if deadline <= rung_at else 0
            assert rings < 50, "the same deadline again and again"
            rung_at = self.now = max(self.now, deadline)
            self.play(TimePassed())
        self.now = max(self.now, at)

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.until(self.now + seconds)

    def joins(
        self,
        name: str = "desk1",
        slots: int | None = 1,
        power_index: float | None = 1.0,
        *,
        types: str = "",
        compilers: str = "",
        mode: Mode | None = None,
    ) -> Host:
        """Add a host; return it."""
        declaration = Declaration(
            name,
            slots=slots,
            power_index=power_index,
            types=frozenset(types.split()),
            compilers=frozenset(compilers.split()),
            mode=mode,
        )
        self.play(HostAdded(declaration, ADDRESS))
        return self.farm.hosts[name]

    def reports(self, name: str = "desk1", load: Load = IDLE, *, returning: bool = False) -> None:
        """Let a host report its load."""
        self.play(LoadReported(name, PORT, ADDRESS, load, returning))

    def has_compilers(self, name: str, *compilers: CompilerInfo) -> None:
        """Let a host's agent report its compilers."""
        self.play(CompilersReported(name, compilers))

    def closes(self, host: Host, compiler: CompilerInfo) -> None:
        """Let the farm close a host's door, as it does when compiles through it fail."""
        self._change_door(host, compiler, self.farm.doors.close)

    def opens(self, host: Host, compiler: CompilerInfo) -> None:
        """Let the farm open a host's door again."""
        self._change_door(host, compiler, self.farm.doors.open)

    def _change_door(
        self, host: Host, compiler: CompilerInfo, change: Callable[[Host, str, Turn], None]
    ) -> None:
        change(host, compiler.id, Turn(self.now))
        self.play(TimePassed())

    def request(self, source: str = "a.c", user: str = "ann", **wanted: Unpack[Wanted]) -> Request:
        """Return a new request, which the farm does not know yet."""
        self.last_id += 1
        words: Wanted = {"builder": "b", "directory": f"/{user}", **wanted}
        return Request(self.last_id, user=user, source=source, **words)

    def ask(self, source: str = "a.c", user: str = "ann", **wanted: Unpack[Wanted]) -> int:
        """Let a client ask for a slot; return the request's id."""
        self.play(RequestArrived(self.request(source, user, **wanted)))
        return self.last_id

    def end(self, number: int, outcome: Outcome = DONE) -> None:
        """Let a client report how its compile ended, or leave while it waits."""
        self.leases.pop(number, None)
        self.backups.pop(number, None)
        self.play(RequestEnded(number, outcome))

    def end_by_backup(self, number: int, outcome: Outcome = DONE) -> None:
        """Let a client report how its backup ended."""
        del self.leases[number]
        self.play(RequestEnded(number, outcome, self.backups.pop(number).attempt))

    def compiles(
        self,
        outcome: Outcome = DONE,
        took_s: float = 1.0,
        source: str = "a.c",
        **wanted: Unpack[Wanted],
    ) -> str:
        """Ask, be granted a slot, and end; return the host's name."""
        number = self.ask(source, **wanted)
        name = self.leases[number].host.name
        self.passes(took_s)
        self.end(number, outcome)
        return name

    # -- how the farm is

    def host_of(self, number: int) -> str | None:
        """Return the name of the host on which a request has its lease."""
        lease = self.leases.get(number)
        return lease.host.name if lease else None

    def backup_of(self, number: int) -> str | None:
        """Return the name of the host on which a request has its backup."""
        backup = self.backups.get(number)
        return backup.host.name if backup else None

    def is_up(self, name: str = "desk1") -> bool:
        """Whether a host may have leases."""
        return self.farm.hosts[name].up

    def waits(self, number: int) -> bool:
        """Whether a request waits."""
        return number in self.farm.waiting

    # -- what the farm asked for since the last look

    def take(self, kind: type[_Kind]) -> list[_Kind]:
        """Return the effects of a kind since the last look at this kind."""
        taken: list[_Kind] = []
        for _ in range(len(self._effects)):
            effect = self._effects.popleft()
            if isinstance(effect, kind):
                taken.append(effect)
            else:
                self._effects.append(effect)
        return taken

    def has_effects(self) -> bool:
        """Whether there is any effect that no look has taken."""
        return bool(self._effects)

    def look_away(self) -> None:
        """Forget the effects so far."""
        self._effects.clear()

    def probed(self) -> list[str]:
        """Return the names of hosts that had to be probed."""
        return [effect.name for effect in self.take(Probe)]

    def probed_for_compilers(self) -> list[tuple[str, str]]:
        """Return the hosts that had to be probed for a compiler, and the name to send there."""
        return [(effect.name, effect.compiler) for effect in self.take(ProbeCompiler)]

    def refused(self) -> dict[int, str]:
        """Return the requests that were refused, and why."""
        return {effect.id: effect.reason for effect in self.take(Refuse)}

    def revoked(self) -> dict[int, str]:
        """Return the leases that were revoked, and why."""
        return {effect.id: effect.reason for effect in self.take(Revoke)}

    def drained(self) -> list[tuple[str, int, str]]:
        """Return the drains that ended: the host, its revoked leases, why it was called off."""
        return [(name, revoked, reason) for name, revoked, reason in self.take(DrainEnded)]

    def noted(self) -> str:
        """Return what the log would say about hosts."""
        return "\n".join(f"{effect.name}: {effect.text}" for effect in self.take(HostNoted))

    def told_to_wait(self) -> list[int]:
        """Return the requests whose clients were told that they wait."""
        return [effect.id for effect in self.take(Wait)]


def tier_yard() -> Farmyard:
    """Return a farm under the plain policy `tier`, without hosts; the test answers its probes."""
    return Farmyard(policy=TierPolicy(), answers_probes=False)


def host(
    name: str,
    slots: int,
    power_index: float,
    types: frozenset[str] = NONE,
    compilers: frozenset[str] = NONE,
) -> Declaration:
    """Return the declaration of a host that hosts-info lists as available."""
    return Declaration(
        name,
        slots=slots,
        power_index=power_index,
        address=name,
        static=True,
        types=types,
        compilers=compilers,
    )
