"""A host gets no compile that would make it swap, by what compiles were seen to need."""

from __future__ import annotations

from compilefarm.core.events import HostsListed, LoadReported, RequestArrived, RequestEnded
from compilefarm.core.farm.farm import Farm
from compilefarm.core.learning.build_history import MEMORY_MB
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Load, Outcome, Request
from compilefarm.core.placement.earliest.places import MEMORY_RESERVE_MB
from compilefarm.core.placement.earliest.policy import EarliestPolicy
from compilefarm.core.snapshot import take_snapshot
from compilefarm.protocol.declaration import Declaration
from compilefarm.protocol.ports import DISTCCD_PORT

DIRECTORY = "/home/ada/src"


class Yard:
    """A farm with one host of four slots, and one user's build on it."""

    def __init__(self) -> None:
        self.farm = Farm(EarliestPolicy(Learning()))
        self.now = 0.0
        host = Declaration("desk1", slots=4, power_index=1.0, address="10.0.0.1", static=True)
        self.farm.handle(HostsListed((host,)), self.now)
        self._last_id = 0

    def report(self, free_mb: float, compile_mb: float | None = None) -> None:
        load = Load(cpus=4, memory_free_mb=free_mb, compile_memory_mb=compile_mb)
        self.farm.handle(LoadReported("desk1", DISTCCD_PORT, "10.0.0.1", load), self.now)

    def ask(self, count: int) -> None:
        """Ask for slots, without the gathering of a build's first requests."""
        for _ in range(count):
            self._last_id += 1
            request = Request(
                self._last_id, "ada", directory=DIRECTORY, source=f"{self._last_id}.c"
            )
            self.farm.handle(RequestArrived(request), self.now)
        self.now += 0.05
        self.farm.handle(RequestEnded(0, Outcome()), self.now)

    @property
    def leased(self) -> int:
        self.farm.check()
        return len(self.farm.leases)


def test_no_more_compiles_than_the_memory_has_room_for() -> None:
    yard = Yard()
    yard.report(MEMORY_RESERVE_MB + 2.5 * MEMORY_MB)
    yard.ask(4)
    assert yard.leased == 2
    shown = take_snapshot(yard.farm)["hosts"][0]
    assert "memory for 2 compiles" in shown["reason"]
    assert (shown["slots_in_use"], shown["slots_free"]) == (2, 0)


def test_room_that_comes_free_is_used() -> None:
    yard = Yard()
    yard.report(MEMORY_RESERVE_MB + 1.5 * MEMORY_MB)
    yard.ask(4)
    assert yard.leased == 1
    yard.report(MEMORY_RESERVE_MB + 9 * MEMORY_MB)
    assert yard.leased == 4


def test_what_a_compile_needs_is_learned_from_the_report() -> None:
    yard = Yard()
    yard.report(100_000.0)
    yard.ask(1)
    number = next(iter(yard.farm.leases))
    yard.now += 1.0
    yard.farm.handle(RequestEnded(number, Outcome(exit=0, wall_s=1.0)), yard.now)
    yard.ask(1)
    yard.report(MEMORY_RESERVE_MB + 3000.0, compile_mb=2000.0)
    yard.ask(3)
    assert yard.leased == 2  # the one that ran, and one of 2,000 MB in 3,000
