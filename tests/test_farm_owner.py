"""The farm and hosts' owners, who come first: modes, watchers, and what happens to compiles."""

from __future__ import annotations

import pytest
from farmyard import ADDRESS, DONE, FAILED, PORT, Farmyard

from compilefarm.core.events import HostAdded, HostsListed, OwnerReported, TimePassed, WatcherEnded
from compilefarm.core.farm.roster import LOST_AFTER_S
from compilefarm.core.farm.suspicion import UNKNOWN_S
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Host, Load, Outcome, State
from compilefarm.core.owner_share import CALM_S, RESERVE_CPUS
from compilefarm.core.placement.earliest.policy import EarliestPolicy
from compilefarm.core.placement.policy import Policy
from compilefarm.core.placement.tier import TierPolicy
from compilefarm.core.snapshot import take_snapshot
from compilefarm.protocol.declaration import Declaration, Mode


class OwnersYard(Farmyard):
    """A farm whose hosts have owners."""

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__(policy=policy or TierPolicy(), answers_probes=False)

    def joins_in(self, mode: Mode, slots: int = 2) -> Host:
        return self.joins(slots=slots, power_index=None, mode=mode)

    def owner_is_there(self, since_s: float = 0.0, watcher: int = 1, revoke: bool = False) -> None:
        self._says(since_s, watcher, revoke)

    def owner_is_away(self, watcher: int = 1) -> None:
        self._says(None, watcher, False)

    def watcher_ends(self, watcher: int = 1) -> None:
        self.play(WatcherEnded("desk1", watcher))

    def is_refused(self) -> bool:
        """Ask for a slot; return whether it was refused."""
        number = self.ask()
        return number in self.refused()

    def foreign(self, cpus: float, of: int = 8) -> int:
        """Let the host report `cpus` in foreign use; return the slots that it offers."""
        self.reports(load=Load(foreign_cpus=cpus, cpus=of))
        return self.farm.hosts["desk1"].slots

    def _says(self, since_s: float | None, watcher: int, revoke: bool) -> None:
        self.play(OwnerReported("desk1", PORT, ADDRESS, watcher, since_s, revoke))


@pytest.fixture
def yard() -> OwnersYard:
    return OwnersYard()


def shown(yard: Farmyard) -> tuple[str, str, float | None]:
    """Return what monitors show of the host: state, reason, and for how long its owner is there."""
    host = take_snapshot(yard.farm)["hosts"][0]
    return host["state"], host["reason"], host["owner_present_s"]


# -- idle mode


def test_an_idle_host_is_used_only_while_a_watcher_reports_it_unused(yard: OwnersYard) -> None:
    desk = yard.joins_in(Mode.IDLE)
    assert shown(yard) == ("owner", "idle mode: watch-ssaver is not running", None)
    assert yard.is_refused()
    yard.owner_is_away()
    assert yard.compiles() == "desk1"
    yard.owner_is_there(since_s=2.5)
    assert desk.state is State.OWNER
    yard.passes(10.0)
    yard.play(TimePassed())
    assert shown(yard) == ("owner", "owner present", 12.5)
    assert yard.is_refused()
    yard.owner_is_away()
    assert yard.compiles() == "desk1"
    yard.watcher_ends()
    assert desk.state is State.OWNER


def test_a_report_that_repeats_changes_nothing(yard: OwnersYard) -> None:
    yard.joins_in(Mode.IDLE)
    yard.owner_is_away()
    number = yard.ask()
    yard.owner_is_there(since_s=1.0)
    yard.look_away()
    yard.passes(2.0)
    yard.owner_is_there(since_s=3.0)
    assert not yard.has_effects()
    assert shown(yard)[2] == 3.0
    assert yard.host_of(number) == "desk1"


def test_the_owner_of_any_host_comes_first(yard: OwnersYard) -> None:
    yard.joins_in(Mode.DEDICATED)
    assert yard.compiles() == "desk1"
    yard.owner_is_there()
    assert shown(yard)[0] == "owner"
    yard.watcher_ends()
    assert yard.compiles() == "desk1"


def test_one_of_two_watchers_is_enough(yard: OwnersYard) -> None:
    yard.joins_in(Mode.IDLE)
    yard.owner_is_away(watcher=1)
    yard.owner_is_there(watcher=2)
    assert not yard.is_up()
    yard.watcher_ends(2)
    assert yard.is_up()
    yard.watcher_ends(1)
    assert not yard.is_up()


def test_an_owner_is_shown_before_the_host_is_available(yard: OwnersYard) -> None:
    yard.owner_is_there(since_s=60.0)
    assert shown(yard) == ("owner", "owner present", 60.0)
    yard.owner_is_away()
    assert shown(yard)[:2] == ("away", "was not added")
    yard.watcher_ends()
    assert not yard.farm.hosts


def test_running_compiles_go_on_and_do_not_blame_the_host(yard: OwnersYard) -> None:
    desk = yard.joins_in(Mode.IDLE)
    yard.owner_is_away()
    well, badly = yard.ask(), yard.ask()
    yard.owner_is_there()
    yard.passes(UNKNOWN_S + 100.0)
    assert not yard.probed(), "a stopped compile looks like a host that is mute"
    assert not yard.revoked()
    yard.end(well, Outcome(exit=0, wall_s=120.0))
    yard.end(badly, FAILED)
    assert (desk.failures, desk.quarantined, yard.farm.totals.failed) == (0, False, 0)
    yard.owner_is_away()
    assert yard.compiles() == "desk1"


def test_compiles_that_are_revoked_run_elsewhere(yard: OwnersYard) -> None:
    desk = yard.joins_in(Mode.IDLE)
    yard.owner_is_away()
    first, second = yard.ask(), yard.ask()
    yard.owner_is_there(revoke=True)
    reason = "the owner of desk1 is back"
    assert yard.revoked() == {first: reason, second: reason}
    assert desk.failures == 0
    yard.owner_is_away()
    assert yard.compiles() == "desk1"


def test_leases_are_revoked_when_their_watcher_does_not_come_back(yard: OwnersYard) -> None:
    yard.joins_in(Mode.IDLE)
    yard.owner_is_away()
    number = yard.ask()
    yard.watcher_ends()
    yard.passes(LOST_AFTER_S - 0.1)
    yard.owner_is_away(watcher=2)
    yard.passes(LOST_AFTER_S)
    assert yard.host_of(number) == "desk1"
    yard.watcher_ends(2)
    yard.passes(LOST_AFTER_S)
    assert yard.revoked().keys() == {number}


def test_a_host_without_reports_is_silent_although_it_is_watched(yard: OwnersYard) -> None:
    yard.joins_in(Mode.IDLE)
    yard.reports()
    yard.owner_is_away()
    yard.passes(60.0)
    assert shown(yard)[0] == "silent"


def test_compiles_that_saw_the_owner_tell_nothing_of_speed(yard: OwnersYard) -> None:
    yard.joins_in(Mode.IDLE)
    yard.owner_is_away()
    yard.compiles(took_s=1.0)
    number = yard.ask()
    yard.owner_is_there()
    yard.passes(3000.0)
    yard.end(number, DONE)
    yard.owner_is_away()
    stuck = yard.ask()
    yard.passes(UNKNOWN_S)
    assert yard.probed() == ["desk1"], "one compile of 50 minutes must not teach patience"
    yard.end(stuck)


@pytest.mark.parametrize("disturbed", [False, True])
def test_the_time_of_a_disturbed_compile_is_not_learned(disturbed: bool) -> None:
    learning = Learning()
    yard = OwnersYard(EarliestPolicy(learning))
    yard.joins_in(Mode.IDLE)
    yard.owner_is_away()
    number = yard.ask(directory="/src", source="main.c")
    yard.passes(1.0)
    if disturbed:
        yard.owner_is_there()
        yard.owner_is_away()
    yard.passes(60.0)
    yard.end(number, Outcome(exit=0, wall_s=61.0))
    assert (learning.cost("/src", "main.c") is None) == disturbed


# -- whose word counts


@pytest.mark.parametrize(
    ("listed", "offered", "counts"),
    [
        (Mode.IDLE, Mode.DEDICATED, Mode.IDLE),
        (Mode.DEDICATED, Mode.IDLE, Mode.IDLE),
        (Mode.PROPORTIONAL, Mode.DEDICATED, Mode.PROPORTIONAL),
        (None, Mode.IDLE, Mode.IDLE),
        (None, None, Mode.DEDICATED),
    ],
)
def test_the_mode_that_leaves_more_to_the_owner_counts(
    yard: OwnersYard, listed: Mode | None, offered: Mode | None, counts: Mode
) -> None:
    yard.play(HostsListed((Declaration("desk1", slots=2, mode=listed),)))
    yard.play(HostAdded(Declaration("desk1", mode=offered), ADDRESS))
    assert yard.farm.hosts["desk1"].mode is counts


def test_the_larger_reserve_counts(yard: OwnersYard) -> None:
    desk = yard.joins_in(Mode.PROPORTIONAL)
    assert desk.owner_share.reserve_cpus == RESERVE_CPUS
    yard.play(HostsListed((Declaration("desk1", slots=8, reserve_cpus=2.0),)))
    assert desk.owner_share.reserve_cpus == 2.0
    own = Declaration("desk1", mode=Mode.PROPORTIONAL, reserve_cpus=3.0)
    yard.play(HostAdded(own, ADDRESS))
    assert desk.owner_share.reserve_cpus == 3.0


# -- proportional mode


def test_a_proportional_host_offers_what_its_owner_leaves(yard: OwnersYard) -> None:
    desk = yard.joins_in(Mode.PROPORTIONAL, slots=8)
    assert desk.slots == 0
    assert shown(yard)[1] == "offers 0 of 8 slots: its owner's CPU use is not known yet"
    yard.foreign(0.2)
    assert shown(yard)[1].endswith("0.2 CPUs are in foreign use, 1 kept free; more if this lasts")
    yard.passes(CALM_S / 2)
    yard.foreign(0.2)
    assert desk.slots == 0
    yard.passes(CALM_S / 2)
    assert yard.foreign(0.2) == 7
    assert yard.foreign(4.0) == 3
    assert shown(yard)[:2] == (
        "up",
        "offers 3 of 8 slots: 4.0 CPUs are in foreign use, 1 kept free",
    )
    assert yard.foreign(9.0) == 0
    assert shown(yard)[0] == "busy"


def test_cpus_that_the_owner_leaves_for_a_moment_are_not_used(yard: OwnersYard) -> None:
    yard.joins_in(Mode.PROPORTIONAL, slots=8)
    for _ in range(6):
        yard.foreign(3.0)
        yard.passes(2.0)
    assert yard.foreign(3.0) == 4
    for cpus in (0.0, 3.0) * 10:
        yard.passes(2.0)
        assert yard.foreign(cpus) == 4
    for cpus in (0.0, 2.0, 0.0, 0.0, 0.0):
        yard.passes(2.0)
        yard.foreign(cpus)
    yard.passes(2.0)
    assert yard.foreign(0.0) == 5, "of what was left in the time, the least"


def test_compiles_beyond_what_is_offered_end_and_are_not_replaced(yard: OwnersYard) -> None:
    desk = yard.joins_in(Mode.PROPORTIONAL, slots=4)
    yard.foreign(0.0, of=4)
    yard.passes(CALM_S)
    assert yard.foreign(0.0, of=4) == 3
    numbers = [yard.ask() for _ in range(4)]
    assert [yard.waits(number) for number in numbers] == [False, False, False, True]
    yard.foreign(2.0, of=4)
    yard.end(numbers[0])
    yard.end(numbers[1])
    assert yard.waits(numbers[3])
    yard.end(numbers[2])
    assert yard.host_of(numbers[3]) == "desk1"
    assert desk.leases[numbers[3]].slot == 0
    yard.end(numbers[3])
    assert desk.free == [0]


def test_an_unused_proportional_host_offers_all_slots(yard: OwnersYard) -> None:
    desk = yard.joins_in(Mode.PROPORTIONAL, slots=8)
    yard.owner_is_away()
    for _ in range(2):
        assert yard.foreign(3.0) == 8
        yard.passes(CALM_S / 2)
    assert yard.foreign(3.0) == 8
    yard.owner_is_there()
    assert (desk.state, desk.slots) == (State.UP, 4)
    yard.owner_is_away()
    yard.watcher_ends()
    assert desk.slots == 4


def test_compiles_on_a_proportional_host_go_on_although_its_owner_is_back(yard: OwnersYard) -> None:
    yard.joins_in(Mode.PROPORTIONAL, slots=8)
    yard.owner_is_away()
    number = yard.ask()
    yard.owner_is_there(revoke=True)
    assert yard.host_of(number) == "desk1"
