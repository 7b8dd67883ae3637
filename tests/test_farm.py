"""The farm's promises, one story each: who comes, what happens, what the farm does about it.

A story is played against the farm alone, on a clock that the story sets. Where a number matters
(how long a quarantine lasts) it is taken from the farm, so that a test says what the promise is and
not what the number happens to be. tests/test_farm_properties.py has what must hold in every story.
"""

from __future__ import annotations

from typing import Any

import pytest

from compilefarm.core.events import (
    DrainEnded,
    Effect,
    Event,
    Grant,
    HostAdded,
    HostDrained,
    HostNoted,
    HostProbed,
    HostRemoved,
    HostsListed,
    LoadReported,
    Probe,
    Refuse,
    ReportsEnded,
    RequestArrived,
    RequestEnded,
    Revoke,
    TimePassed,
    Wait,
)
from compilefarm.core.farm.farm import (
    DOUBTS_TO_LACK,
    EXIT_COMPILER_MISSING,
    LACKS_FOR_S,
    LOST_AFTER_S,
    PARDON_TIMES,
    PATIENCE_KNOWN,
    PATIENCE_KNOWN_LEAST_S,
    PATIENCE_LEAST_S,
    PATIENCE_TYPICAL,
    PATIENCE_UNKNOWN_S,
    QUARANTINE_LIMIT_S,
    QUARANTINE_S,
    SILENT_AFTER_S,
    Farm,
)
from compilefarm.core.model import Host, Lease, Load, Outcome, Request, State
from compilefarm.core.placement.tier import TierPolicy
from compilefarm.core.snapshot import PIECE, snapshot_in_pieces, take_snapshot, whole
from compilefarm.protocol.declaration import Declaration

PORT = 3632
DONE = Outcome(exit=0)
FAILED = Outcome(exit=116, failed=True)
IDLE = Load()


class Story:
    """A farm, the time, and what the farm asked for since anybody looked."""

    def __init__(self) -> None:
        self.farm = Farm(TierPolicy())
        self.now = 1000.0
        self.effects: list[Effect] = []
        self._last_id = 0

    def happens(self, event: Event) -> None:
        self.effects += self.farm.handle(event, self.now)
        self.farm.check()

    def passes(self, seconds: float) -> None:
        """Let time pass, and call the farm whenever it wants to be called."""
        until = self.now + seconds
        while (deadline := self.farm.next_deadline()) is not None and deadline <= until:
            self.now = deadline
            self.happens(TimePassed())
        self.now = until

    def joins(
        self,
        name: str = "desk1",
        slots: int = 1,
        power_index: float = 1.0,
        types: str = "",
        compilers: str = "",
    ) -> Host:
        listed = frozenset(types.split()), frozenset(compilers.split())
        declaration = Declaration(name, None, slots, power_index, *listed)
        self.happens(HostAdded(declaration, "10.0.0.1"))
        return self.farm.hosts[name]

    def reports(self, name: str = "desk1", load: Load = IDLE) -> None:
        self.happens(LoadReported(name, PORT, "10.0.0.1", load))

    def asks(self, user: str = "ada", **restrictions: Any) -> int:
        """Have somebody ask for a slot; return the request's id."""
        self._last_id += 1
        self.happens(RequestArrived(Request(self._last_id, user, **restrictions)))
        return self._last_id

    def ends(self, number: int, outcome: Outcome = DONE) -> None:
        self.happens(RequestEnded(number, outcome))

    def compiles(self, outcome: Outcome = DONE, took_s: float = 1.0, **restrictions: Any) -> str:
        """Ask, be given a slot, and end; return the host's name."""
        number = self.asks(**restrictions)
        name = self.runs_on(number)
        self.passes(took_s)
        self.ends(number, outcome)
        return name

    def runs_on(self, number: int) -> str:
        """Return the name of the host on which a request has its lease."""
        return self.farm.leases[number].host.name

    def is_up(self, name: str = "desk1") -> bool:
        return self.farm.hosts[name].up

    def waits(self, number: int) -> bool:
        return number in self.farm.waiting

    def probed(self) -> list[str]:
        return [effect.name for effect in self._taken(Probe)]

    def refused(self) -> dict[int, str]:
        return {effect.id: effect.reason for effect in self._taken(Refuse)}

    def revoked(self) -> dict[int, str]:
        return {effect.id: effect.reason for effect in self._taken(Revoke)}

    def drained(self) -> list[tuple[str, int, str]]:
        return [tuple(effect) for effect in self._taken(DrainEnded)]

    def noted(self) -> str:
        return "\n".join(f"{effect.name}: {effect.text}" for effect in self._taken(HostNoted))

    def told_to_wait(self) -> list[int]:
        return [effect.id for effect in self._taken(Wait)]

    def _taken(self, kind: type) -> list:  # type: ignore[type-arg]
        taken = [effect for effect in self.effects if type(effect) is kind]
        self.effects = [effect for effect in self.effects if type(effect) is not kind]
        return taken


@pytest.fixture
def story() -> Story:
    return Story()


# -- requests


def test_a_request_gets_a_free_slot_at_once(story: Story) -> None:
    desk = story.joins()
    number = story.asks()
    [grant] = [effect for effect in story.effects if isinstance(effect, Grant)]
    assert (grant.lease.id, grant.lease.host, grant.lease.slot) == (number, desk, 0)
    assert not desk.free


def test_a_request_waits_for_a_slot_and_is_told(story: Story) -> None:
    story.joins()
    first, second, third = story.asks(), story.asks(), story.asks()
    story.passes(0.1)
    assert story.told_to_wait() == [second, third]
    story.ends(first)
    assert story.runs_on(second)
    assert story.waits(third)
    story.ends(second, Outcome())
    assert story.runs_on(third)


def test_a_request_that_is_served_in_a_moment_is_not_told_to_wait(story: Story) -> None:
    story.joins()
    first, second = story.asks(), story.asks()
    story.passes(0.01)
    story.ends(first)
    story.passes(1.0)
    assert story.runs_on(second)
    assert story.told_to_wait() == []


def test_without_any_host_a_request_is_refused(story: Story) -> None:
    number = story.asks()
    assert story.refused() == {number: "no host is available"}


def test_a_request_that_ends_while_it_waits_is_forgotten(story: Story) -> None:
    story.joins()
    first, second = story.asks(), story.asks()
    story.ends(second, Outcome())
    story.ends(first)
    assert not story.farm.leases
    assert story.farm.hosts["desk1"].free == [0]


def test_wait_s_bounds_the_waiting(story: Story) -> None:
    story.joins()
    story.asks()
    at_once, later, patient = story.asks(wait_s=0.0), story.asks(wait_s=3.0), story.asks()
    assert story.refused().keys() == {at_once}
    story.passes(2.9)
    assert story.waits(later)
    story.passes(0.2)
    assert story.refused().keys() == {later}
    assert story.waits(patient)


def test_wait_s_does_not_end_a_lease(story: Story) -> None:
    story.joins()
    first, second = story.asks(), story.asks(wait_s=3.0)
    story.ends(first)
    story.passes(10.0)
    assert story.runs_on(second)
    assert not story.refused()


def test_a_type_is_looked_for_among_the_hosts_of_that_type(story: Story) -> None:
    story.joins("desk1", power_index=9.0)
    story.joins("desk2", types="arm64 fast")
    assert story.compiles(type="arm64") == "desk2"
    number = story.asks(type="sparc")
    assert story.refused() == {number: "no host of type sparc"}


def test_a_compiler_is_looked_for_where_it_may_be(story: Story) -> None:
    story.joins("desk1", power_index=9.0, compilers="clang")
    story.joins("desk2")
    assert story.compiles(compiler="gcc") == "desk2"
    assert story.compiles(compiler="clang") == "desk1"
    assert story.compiles() == "desk1"


def test_hosts_to_be_avoided_are_avoided(story: Story) -> None:
    story.joins("desk1", power_index=9.0)
    story.joins("desk2")
    assert story.compiles(avoid=frozenset({"desk1"})) == "desk2"
    number = story.asks(avoid=frozenset({"desk1", "desk2"}))
    assert "avoided" in story.refused()[number]


def test_a_restricted_request_does_not_hold_up_the_others(story: Story) -> None:
    story.joins("desk1", types="arm64")
    story.joins("desk2")
    story.asks(type="arm64")
    waiting, other = story.asks(type="arm64"), story.asks()
    assert story.waits(waiting)
    assert story.runs_on(other) == "desk2"


def test_who_waits_is_refused_when_the_last_hope_goes(story: Story) -> None:
    story.joins("desk1", types="arm64")
    story.joins("desk2")
    holder, waiting = story.asks(type="arm64"), story.asks(type="arm64")
    story.happens(HostRemoved("desk1", PORT))
    assert story.refused() == {waiting: "no host of type arm64"}
    assert story.runs_on(holder) == "desk1"


# -- which host


def test_the_fastest_free_host_is_taken(story: Story) -> None:
    story.joins("slow", power_index=1.0)
    story.joins("fast", power_index=9.0)
    story.joins("middle", power_index=3.0)
    assert [story.runs_on(story.asks()) for _ in range(3)] == ["fast", "middle", "slow"]


def test_among_equals_the_one_least_in_use_is_taken(story: Story) -> None:
    for name in ("desk1", "desk2"):
        story.joins(name, slots=2)
    assert sorted(story.runs_on(story.asks()) for _ in range(2)) == ["desk1", "desk2"]


def busy(one: float, five: float, fifteen: float, own: float = 0.0) -> Load:
    return Load(load_averages=(one, five, fifteen), own_averages=(own, own, own), cpus=1)


@pytest.mark.parametrize(
    ("load", "tier"),
    [
        (busy(0.5, 0.5, 0.5), 9),
        (busy(2.0, 0.5, 0.5), 9),  # for a moment only
        (busy(2.0, 2.0, 0.5), 8),
        (busy(2.0, 2.0, 2.0), None),
        (busy(2.0, 2.0, 2.0, own=1.5), 9),  # the farm's own doing
    ],
)
def test_a_host_that_is_busy_is_moved_down(story: Story, load: Load, tier: int | None) -> None:
    desk = story.joins(power_index=9.0)
    story.reports(load=load)
    assert desk.tier == tier
    [shown] = take_snapshot(story.farm)["hosts"]
    assert shown["state"] == ("busy" if tier is None else "up")
    assert bool(shown["reason"]) == (tier != 9)


def test_a_host_that_was_moved_down_comes_after_its_new_equals(story: Story) -> None:
    story.joins("desk1", power_index=3.0)
    story.joins("desk2", power_index=3.0)
    story.reports("desk1", busy(2.0, 2.0, 0.5))
    assert story.compiles() == "desk2"
    story.reports("desk1", busy(2.0, 2.0, 2.0))
    story.asks()
    waiting = story.asks()
    assert story.waits(waiting)
    story.reports("desk1", busy(0.1, 0.1, 2.0))
    assert story.runs_on(waiting) == "desk1"


# -- hosts come and go


def test_a_removed_host_finishes_what_runs_there(story: Story) -> None:
    story.joins()
    number = story.asks()
    story.happens(HostRemoved("desk1", PORT))
    assert story.asks() in story.refused()
    story.passes(1.0)
    story.ends(number)
    assert not story.farm.hosts
    assert not story.revoked()


def test_a_drain_ends_with_the_last_lease(story: Story) -> None:
    story.joins(slots=2)
    first, second = story.asks(), story.asks()
    story.happens(HostDrained("desk1", PORT, 60.0))
    story.ends(first)
    assert not story.drained()
    assert story.asks() in story.refused()
    story.ends(second)
    assert story.drained() == [("desk1", 0, "")]
    assert not story.farm.hosts


def test_a_drain_ends_after_its_grace(story: Story) -> None:
    story.joins(slots=2)
    story.asks()
    story.happens(HostDrained("desk1", PORT, 5.0))
    story.passes(5.0)
    assert story.drained() == [("desk1", 1, "")]
    assert list(story.revoked().values()) == ["desk1 leaves the farm"]
    assert not story.farm.hosts


def test_a_host_that_is_no_longer_listed_is_removed_in_the_midst_of_its_drain(story: Story) -> None:
    story.happens(HostsListed((Declaration("desk1", slots=1, address="10.0.0.1", static=True),)))
    story.asks()
    story.happens(HostDrained("desk1", PORT, 30.0))
    story.happens(HostsListed(()))
    story.happens(HostRemoved("desk1", PORT))
    assert [reason for _, _, reason in story.drained()] == ["it was removed meanwhile"]
    assert story.farm.hosts["desk1"].state is State.AWAY


def test_a_drain_without_leases_ends_at_once(story: Story) -> None:
    story.joins()
    story.happens(HostDrained("desk1", PORT, 60.0))
    assert story.drained() == [("desk1", 0, "")]


@pytest.mark.parametrize(
    "event", [HostAdded(Declaration("desk1"), "10.0.0.1"), HostRemoved("desk1", PORT)]
)
def test_a_drain_may_be_called_off(story: Story, event: Event) -> None:
    story.joins()
    number = story.asks()
    story.happens(HostDrained("desk1", PORT, 5.0))
    story.happens(event)
    [(_, revoked, reason)] = story.drained()
    assert revoked == 0
    assert "meanwhile" in reason
    story.passes(10.0)
    assert story.runs_on(number)


def test_a_host_that_is_added_again_while_leased_is_not_given_twice(story: Story) -> None:
    """DMUCS gave such a host out at its full count again."""
    story.joins(slots=2)
    first, second = story.asks(), story.asks()
    for _ in range(3):
        story.joins(slots=2)
    third = story.asks()
    assert story.waits(third)
    story.ends(first)
    assert story.runs_on(third)
    story.ends(second)
    story.ends(third)
    assert sorted(story.farm.hosts["desk1"].free) == [0, 1]


def test_a_host_may_shrink_and_grow_while_leased(story: Story) -> None:
    desk = story.joins(slots=3)
    leases = [story.asks() for _ in range(3)]
    story.joins(slots=1)
    waiting = story.asks()
    for number in leases[1:]:
        story.ends(number)
    assert story.waits(waiting)
    story.ends(leases[0])
    assert story.farm.leases[waiting].slot == 0
    story.joins(slots=2)
    assert desk.free == [1]


def test_slots_are_the_cpus_where_nothing_is_said(story: Story) -> None:
    story.happens(HostAdded(Declaration("desk1"), "10.0.0.1"))
    assert story.farm.hosts["desk1"].slots == 1
    story.reports("desk2", Load(cpus=6))
    story.happens(HostAdded(Declaration("desk2"), "10.0.0.2"))
    assert story.farm.hosts["desk2"].slots == 6


def test_hosts_info_goes_before_what_a_host_says(story: Story) -> None:
    story.happens(HostsListed((Declaration("desk1", None, 4, 15.0),)))
    assert story.asks() in story.refused(), "a listed host is not there until it is added"
    desk = story.joins("desk1", slots=64, power_index=99.0)
    assert (desk.slots, desk.power_index) == (4, 15.0)
    story.joins("desk1", slots=2)
    assert desk.slots == 2, "a host may offer less than it has"
    story.happens(HostsListed((Declaration("desk1", None, 1, 3.0),)))
    assert (desk.slots, desk.power_index) == (1, 3.0)
    story.happens(HostsListed(()))
    assert (desk.slots, desk.up) == (2, True)


def test_a_static_host_is_there_while_it_is_listed(story: Story) -> None:
    listed = Declaration("desk1", None, 1, 1.0, address="10.0.0.7", static=True)
    story.happens(HostsListed((listed,)))
    number = story.asks()
    assert story.farm.leases[number].host.address == "10.0.0.7"
    story.happens(HostsListed(()))
    story.ends(number)
    assert not story.farm.hosts


def test_one_name_may_have_several_distccds(story: Story) -> None:
    for port in (PORT, 4001, 4002):
        story.happens(HostAdded(Declaration("desk1", port, slots=1), "10.0.0.1"))
    assert set(story.farm.hosts) == {"desk1", "desk1:4001", "desk1:4002"}
    assert {story.runs_on(story.asks()) for _ in range(3)} == set(story.farm.hosts)


def test_a_host_listed_without_a_port_has_any_port(story: Story) -> None:
    story.happens(HostsListed((Declaration("desk1", None, 4, 15.0),)))
    story.happens(HostAdded(Declaration("desk1", 4001), "10.0.0.1"))
    assert (story.farm.hosts["desk1"].port, story.farm.hosts["desk1"].slots) == (4001, 4)
    story.happens(HostRemoved("desk1", 4001))
    assert not story.farm.hosts["desk1"].up


# -- hosts fall silent


def test_a_host_without_reports_is_taken_at_its_word(story: Story) -> None:
    story.joins()
    story.passes(10_000.0)
    assert story.compiles() == "desk1"


def test_a_host_whose_reporter_went_gets_no_new_leases(story: Story) -> None:
    desk = story.joins(slots=2)
    story.reports()
    number = story.asks()
    story.happens(ReportsEnded("desk1"))
    assert story.asks() in story.refused()
    story.passes(LOST_AFTER_S - 0.1)
    assert story.runs_on(number)
    story.passes(0.2)
    assert story.revoked().keys() == {number}
    assert sorted(desk.free) == [0, 1]


def test_a_load_reporter_may_be_restarted(story: Story) -> None:
    story.joins()
    story.reports()
    number = story.asks()
    story.happens(ReportsEnded("desk1"))
    story.passes(LOST_AFTER_S - 1.0)
    story.joins()
    story.reports()
    story.passes(SILENT_AFTER_S - 1.0)
    assert story.runs_on(number)
    assert not story.revoked()


def test_a_host_added_again_without_reports_keeps_its_leases(story: Story) -> None:
    story.joins()
    story.reports()
    number = story.asks()
    story.happens(ReportsEnded("desk1"))
    story.joins()
    story.passes(LOST_AFTER_S + 1.0)
    assert story.runs_on(number)
    assert not story.revoked()


def test_a_host_that_reports_no_more_is_lost_at_once(story: Story) -> None:
    story.joins()
    story.reports()
    number = story.asks()
    story.passes(SILENT_AFTER_S - 0.1)
    assert story.runs_on(number)
    story.passes(0.2)
    assert story.revoked() == {number: "desk1 fell silent"}
    assert story.asks() in story.refused()
    story.reports()
    assert story.compiles() == "desk1"


@pytest.mark.parametrize("distccd", ["stopped", "gone"])
def test_a_host_whose_distccd_does_not_run_is_mute(story: Story, distccd: str) -> None:
    desk = story.joins()
    story.reports()
    number = story.asks()
    story.reports(load=Load(distccd=distccd))
    assert not desk.up
    assert desk.reason == f"its distccd is {distccd}"
    for _ in range(4):
        story.passes(LOST_AFTER_S / 4)
        story.reports(load=Load(distccd=distccd))
    assert story.revoked().keys() == {number}
    story.reports(load=Load(distccd="running"))
    assert story.compiles() == "desk1"


def test_a_distccd_that_is_stopped_for_a_moment_loses_nothing(story: Story) -> None:
    story.joins()
    number = story.asks()
    story.reports(load=Load(distccd="stopped"))
    story.passes(LOST_AFTER_S - 1.0)
    story.reports(load=Load(distccd="running"))
    story.passes(LOST_AFTER_S)
    assert story.runs_on(number)


# -- hosts fail


def test_a_failed_host_is_quarantined_and_comes_back_when_it_answers(story: Story) -> None:
    story.joins("desk1", power_index=9.0)
    story.joins("desk2")
    assert story.compiles(FAILED) == "desk1"
    assert story.compiles(took_s=0) == "desk2"
    assert "desk1: quarantined" in story.noted()
    story.passes(QUARANTINE_S)
    assert story.probed() == ["desk1"]
    assert story.compiles(took_s=0) == "desk2"
    story.happens(HostProbed("desk1", True))
    assert story.compiles() == "desk1"


def test_each_failure_in_a_row_doubles_the_quarantine(story: Story) -> None:
    story.joins()
    story.joins("desk2")
    story.compiles(FAILED)
    pauses = []
    for _ in range(9):
        began = story.now
        while not (probed := story.probed()):
            deadline = story.farm.next_deadline()
            assert deadline
            story.passes(deadline - story.now)
        pauses.append(round(story.now - began, 3))
        story.happens(HostProbed(probed[0], False))
    assert pauses[:3] == [QUARANTINE_S, 2 * QUARANTINE_S, 4 * QUARANTINE_S]
    assert pauses[-1] == QUARANTINE_LIMIT_S


def test_compiles_that_fail_together_count_as_one_failure(story: Story) -> None:
    desk = story.joins(slots=4)
    numbers = [story.asks() for _ in range(4)]
    story.passes(1.0)
    for number in numbers:
        story.ends(number, FAILED)
        story.passes(0.1)
    assert desk.failures == 1


def test_compiles_that_go_well_for_a_time_clear_the_name(story: Story) -> None:
    desk = story.joins()
    story.compiles(FAILED)
    story.passes(QUARANTINE_S)
    story.happens(HostProbed("desk1", True))
    story.compiles(Outcome(exit=0))
    assert desk.failures == 1, "one compile says little"
    story.passes(PARDON_TIMES * QUARANTINE_S)
    assert desk.failures == 1, "and the time alone says nothing"
    story.compiles(Outcome(exit=1))  # an error in the source is the compiler's good work
    assert desk.failures == 0


def test_a_host_that_comes_and_goes_is_left_alone_for_ever_longer(story: Story) -> None:
    """Between its failures it answers each probe, and even compiles something."""
    desk = story.joins()
    pauses = []
    for _ in range(8):
        began = story.now
        story.compiles(FAILED, took_s=0)
        while not (probed := story.probed()):
            deadline = story.farm.next_deadline()
            assert deadline
            story.passes(deadline - story.now)
        pauses.append(round(story.now - began, 3))
        story.happens(HostProbed(probed[0], True, compiled=True))
        story.compiles(DONE)
    assert pauses[:3] == [QUARANTINE_S, 2 * QUARANTINE_S, 4 * QUARANTINE_S]
    assert pauses[-1] == QUARANTINE_LIMIT_S
    assert desk.lacks == frozenset()


def test_a_builder_that_reaches_no_host_does_not_idle_the_farm(story: Story) -> None:
    desk = story.joins(slots=2)
    story.compiles(FAILED, builder="cut-off")
    story.passes(QUARANTINE_S)
    story.happens(HostProbed("desk1", True, compiled=True))
    story.compiles(builder="desk9")
    for _ in range(3):
        story.compiles(FAILED, builder="cut-off")
        assert story.is_up()
    assert "fails for cut-off, and not for others" in story.noted()
    assert desk.failures == 1
    story.compiles(FAILED, builder="desk9")
    assert not story.is_up()


@pytest.mark.parametrize("outcome", [Outcome(exit=1), Outcome(exit=0), Outcome()])
def test_what_is_not_the_hosts_fault_does_not_count(story: Story, outcome: Outcome) -> None:
    story.joins()
    for _ in range(10):
        assert story.compiles(outcome) == "desk1"


def test_who_is_added_again_is_believed(story: Story) -> None:
    """Distccd was restarted: what fails of the time before is not the new one's fault."""
    story.joins(slots=3)
    old = [story.asks() for _ in range(3)]
    story.passes(1.0)
    story.ends(old[0], FAILED)
    assert not story.is_up()
    story.joins(slots=3)
    story.ends(old[1], FAILED)
    assert story.is_up()
    story.passes(1.0)
    story.joins(slots=3)
    story.ends(old[2], FAILED)
    assert story.is_up()


def test_a_host_without_a_compiler_is_spared_that_compiler(story: Story) -> None:
    desk = story.joins("desk1", power_index=9.0)
    story.joins("desk2")
    missing = Outcome(exit=EXIT_COMPILER_MISSING, failed=True)
    assert story.compiles(missing, compiler="clang") == "desk1"
    assert desk.lacks == {"clang"}
    assert story.compiles(compiler="clang") == "desk2"
    assert story.compiles(compiler="gcc") == "desk1"
    story.passes(LACKS_FOR_S)
    assert story.compiles(compiler="clang") == "desk1"


def test_a_host_that_answers_and_fails_lacks_the_compiler(story: Story) -> None:
    """A distccd that may not run a compiler fails as a dead one does, but it answers."""
    desk = story.joins()
    story.joins("desk2", power_index=0.5)
    for _ in range(DOUBTS_TO_LACK):
        assert story.compiles(FAILED, compiler="clang") == "desk1"
        story.passes(QUARANTINE_LIMIT_S)
        assert set(story.probed()) == {"desk1"}
        story.happens(HostProbed("desk1", True))
    assert desk.lacks == {"clang"}
    assert story.compiles(compiler="gcc") == "desk1"
    assert story.compiles(compiler="clang") == "desk2"


def test_who_wants_a_compiler_that_nobody_has_is_refused(story: Story) -> None:
    story.joins(slots=2)
    missing = Outcome(exit=EXIT_COMPILER_MISSING, failed=True)
    story.compiles(missing, compiler="clang")
    number = story.asks(compiler="clang")
    assert story.refused() == {number: "no host with compiler clang"}


# -- hosts that say nothing and do nothing


def grow_used_to(story: Story, took_s: float) -> None:
    """Let the farm see how long compiles take."""
    for _ in range(200):
        story.compiles(took_s=took_s)


def test_a_mute_host_is_suspected_probed_and_left(story: Story) -> None:
    story.joins()
    grow_used_to(story, 0.1)
    number = story.asks()
    story.passes(2 * PATIENCE_LEAST_S)
    assert set(story.probed()) == {"desk1"}
    assert story.runs_on(number)
    story.happens(HostProbed("desk1", False))
    assert story.revoked() == {number: "desk1 does not answer"}
    assert story.asks() in story.refused()
    story.passes(QUARANTINE_S)
    assert story.probed() == ["desk1"]
    story.happens(HostProbed("desk1", True))
    assert story.compiles() == "desk1"


def test_a_suspect_that_answers_keeps_its_leases(story: Story) -> None:
    story.joins()
    grow_used_to(story, 0.1)
    number = story.asks()
    for _ in range(5):
        story.passes(2 * PATIENCE_LEAST_S)
        story.happens(HostProbed("desk1", True))
    assert story.runs_on(number)
    assert story.farm.hosts["desk1"].up


def test_a_probe_is_a_compile_with_the_compiler_in_question(story: Story) -> None:
    story.joins()
    story.asks(compiler="gcc-12")
    story.passes(PATIENCE_UNKNOWN_S + 1.0)
    probes = [effect for effect in story.effects if type(effect) is Probe]
    assert probes == [Probe("desk1", "10.0.0.1", PORT, "gcc-12")]


def test_a_suspect_that_answered_is_believed_for_a_whole_patience(story: Story) -> None:
    story.joins()
    grow_used_to(story, 5.0)
    story.asks()
    story.passes(PATIENCE_TYPICAL * 5.0 + 1.0)
    assert story.probed()
    story.happens(HostProbed("desk1", True))
    story.passes(PATIENCE_TYPICAL * 5.0 - 1.0)
    assert not story.probed()
    story.passes(2.0)
    assert story.probed()


class Expecting(TierPolicy):
    """The 2004 rule, with an expectation for files whose names are numbers."""

    def expected_s(self, lease: Lease) -> float | None:
        source = lease.request.source
        return float(source) if source else None


@pytest.fixture
def expecting() -> Story:
    story = Story()
    story.farm = Farm(Expecting())
    return story


def test_a_mute_host_is_found_out_by_what_was_expected(expecting: Story) -> None:
    story = expecting
    story.joins(slots=2)
    story.asks(source="0.2")
    story.asks(source="1000")
    story.passes(PATIENCE_KNOWN_LEAST_S)
    assert story.probed() == ["desk1"]
    story.happens(HostProbed("desk1", False))
    assert len(story.revoked()) == 2


def test_a_compile_of_many_minutes_is_none_that_was_swallowed(expecting: Story) -> None:
    """A host without reports, all of whose slots run far longer than is usual here."""
    story = expecting
    desk = story.joins(slots=2)
    grow_used_to(story, 0.5)
    for _ in range(2):
        story.asks(source="900")
    story.passes(PATIENCE_KNOWN * 900 - 1.0)
    assert not story.probed()
    assert desk.up
    story.passes(2.0)
    assert story.probed()


def test_a_lease_that_came_later_is_expected_to_end_later(expecting: Story) -> None:
    story = expecting
    story.joins(slots=3)
    story.asks(source="100")
    story.passes(60.0)
    story.asks(source="10")
    story.passes(PATIENCE_KNOWN * 10 - 1.0)
    assert not story.probed()
    story.passes(PATIENCE_LEAST_S)
    assert story.probed()


def test_patience_is_as_long_as_compiles_are(story: Story) -> None:
    story.joins()
    grow_used_to(story, 10.0)
    story.asks()
    story.passes(PATIENCE_TYPICAL * 10.0 - 1.0)
    assert not story.probed()
    story.passes(PATIENCE_LEAST_S)
    assert story.probed()


def test_of_a_new_farm_nothing_is_known_and_patience_is_long(story: Story) -> None:
    story.joins()
    story.asks()
    story.passes(PATIENCE_UNKNOWN_S - 1.0)
    assert not story.probed()
    story.passes(PATIENCE_LEAST_S)
    assert story.probed()


def test_a_host_whose_compiles_end_is_not_suspected(story: Story) -> None:
    story.joins(slots=2)
    grow_used_to(story, 0.1)
    long = story.asks()
    for _ in range(30):
        assert story.compiles(took_s=1.0)
    assert not story.probed()
    assert story.runs_on(long)


def test_a_host_that_is_seen_at_work_is_not_suspected(story: Story) -> None:
    story.joins()
    grow_used_to(story, 0.1)
    story.asks()
    for _ in range(60):
        story.reports(load=Load(own_cpus=1.0))
        story.passes(2.0)
    assert not story.probed()
    assert not story.revoked()


def test_a_probe_of_a_host_that_is_gone_changes_nothing(story: Story) -> None:
    story.happens(HostProbed("desk1", False))
    assert not story.farm.hosts


# -- what people see


def test_jobs_worth_using_is_a_fair_share_and_the_builders_cpus(story: Story) -> None:
    assert story.farm.jobs_worth_using("ada", 4) == 4
    story.joins("desk1", slots=10)
    story.joins("desk2", slots=6)
    story.joins("desk3", slots=8)
    story.happens(HostRemoved("desk3", PORT))
    assert story.farm.jobs_worth_using("ada", 4) == 4 + 16
    story.asks("bob")
    assert story.farm.jobs_worth_using("ada", 4) == 4 + 8
    assert story.farm.jobs_worth_using("bob", 0) == 1 + 16


def test_the_snapshot_has_the_totals(story: Story) -> None:
    story.joins(slots=2)
    story.asks()
    story.ends(story.asks(), FAILED)
    story.asks()
    story.asks(avoid=frozenset({"desk1"}))
    totals = take_snapshot(story.farm)["totals"]
    assert totals["leases_granted"] == 2
    assert totals["leases_failed"] == 1
    assert totals["requests_refused"] == 2
    assert totals["slots_in_use"] == 1


def test_time_does_not_run_backwards(story: Story) -> None:
    story.joins()
    number = story.asks(wait_s=5.0)
    story.now -= 500.0
    story.ends(number)
    assert story.compiles() == "desk1"


# -- what monitors see


def test_a_snapshot_in_pieces_bears_a_farm_that_changes_meanwhile() -> None:
    farm = Farm(TierPolicy())
    listed = [Declaration(f"h{n}", slots=1, static=True, address="10.0.0.1") for n in range(PIECE)]
    farm.handle(HostsListed((*listed, Declaration("last", slots=1, static=True))), 0.0)
    pieces = snapshot_in_pieces(farm)
    next(pieces)
    farm.handle(HostsListed(()), 1.0)
    farm.handle(HostAdded(Declaration("late", slots=3), "10.0.0.9"), 1.0)
    assert [host["name"] for host in whole(pieces)["hosts"]] == [each.name for each in listed]
    assert [host["name"] for host in take_snapshot(farm)["hosts"]] == ["late"]
