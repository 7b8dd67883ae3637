"""Hosts of a farm: they come, leave, shrink, and stop to report their load."""

from __future__ import annotations

import pytest
from farmyard import PORT, Farmyard, tier_yard

from compilefarm.core.events import (
    Event,
    HostAdded,
    HostDrained,
    HostRemoved,
    HostsListed,
    ReportsEnded,
)
from compilefarm.core.farm.hosts import SILENT_AFTER_S
from compilefarm.core.farm.roster import LOST_AFTER_S
from compilefarm.core.model import Load, State
from compilefarm.protocol.declaration import Declaration


@pytest.fixture
def yard() -> Farmyard:
    return tier_yard()


# -- hosts come and go


def test_a_removed_host_finishes_what_runs_there(yard: Farmyard) -> None:
    yard.joins()
    number = yard.ask()
    yard.play(HostRemoved("desk1", PORT))
    assert yard.ask() in yard.refused()
    yard.passes(1.0)
    yard.end(number)
    assert not yard.farm.hosts
    assert not yard.revoked()


def test_a_drain_ends_with_the_last_lease(yard: Farmyard) -> None:
    yard.joins(slots=2)
    first, second = yard.ask(), yard.ask()
    yard.play(HostDrained("desk1", PORT, 60.0))
    yard.end(first)
    assert not yard.drained()
    assert yard.ask() in yard.refused()
    yard.end(second)
    assert yard.drained() == [("desk1", 0, "")]
    assert not yard.farm.hosts


def test_a_drain_ends_after_its_grace(yard: Farmyard) -> None:
    yard.joins(slots=2)
    yard.ask()
    yard.play(HostDrained("desk1", PORT, 5.0))
    yard.passes(5.0)
    assert yard.drained() == [("desk1", 1, "")]
    assert list(yard.revoked().values()) == ["desk1 leaves the farm"]
    assert not yard.farm.hosts


def test_a_host_that_is_no_longer_listed_may_be_removed_during_its_drain(yard: Farmyard) -> None:
    yard.play(HostsListed((Declaration("desk1", slots=1, address="10.0.0.1", static=True),)))
    yard.ask()
    yard.play(HostDrained("desk1", PORT, 30.0))
    yard.play(HostsListed(()))
    yard.play(HostRemoved("desk1", PORT))
    assert [reason for _, _, reason in yard.drained()] == ["it was removed meanwhile"]
    assert yard.farm.hosts["desk1"].state is State.AWAY


def test_a_drain_without_leases_ends_at_once(yard: Farmyard) -> None:
    yard.joins()
    yard.play(HostDrained("desk1", PORT, 60.0))
    assert yard.drained() == [("desk1", 0, "")]


@pytest.mark.parametrize(
    "event", [HostAdded(Declaration("desk1"), "10.0.0.1"), HostRemoved("desk1", PORT)]
)
def test_a_drain_may_be_called_off(yard: Farmyard, event: Event) -> None:
    yard.joins()
    number = yard.ask()
    yard.play(HostDrained("desk1", PORT, 5.0))
    yard.play(event)
    [(_, revoked, reason)] = yard.drained()
    assert revoked == 0
    assert "meanwhile" in reason
    yard.passes(10.0)
    assert yard.host_of(number)


def test_a_host_that_is_added_again_while_leased_is_not_given_twice(yard: Farmyard) -> None:
    """DMUCS gave such a host out at its full count again."""
    yard.joins(slots=2)
    first, second = yard.ask(), yard.ask()
    for _ in range(3):
        yard.joins(slots=2)
    third = yard.ask()
    assert yard.waits(third)
    yard.end(first)
    assert yard.host_of(third)
    yard.end(second)
    yard.end(third)
    assert sorted(yard.farm.hosts["desk1"].free) == [0, 1]


def test_a_host_may_shrink_and_grow_while_leased(yard: Farmyard) -> None:
    desk = yard.joins(slots=3)
    leases = [yard.ask() for _ in range(3)]
    yard.joins(slots=1)
    waiting = yard.ask()
    for number in leases[1:]:
        yard.end(number)
    assert yard.waits(waiting)
    yard.end(leases[0])
    assert yard.farm.leases[waiting].slot == 0
    yard.joins(slots=2)
    assert desk.free == [1]


def test_slots_are_the_cpus_unless_declared(yard: Farmyard) -> None:
    yard.play(HostAdded(Declaration("desk1"), "10.0.0.1"))
    assert yard.farm.hosts["desk1"].slots == 1
    yard.reports("desk2", Load(cpus=6))
    yard.play(HostAdded(Declaration("desk2"), "10.0.0.2"))
    assert yard.farm.hosts["desk2"].slots == 6


def test_hosts_info_goes_before_what_a_host_says(yard: Farmyard) -> None:
    yard.play(HostsListed((Declaration("desk1", None, 4, 15.0),)))
    assert yard.ask() in yard.refused(), "a listed host is not there until it is added"
    desk = yard.joins("desk1", slots=64, power_index=99.0)
    assert (desk.slots, desk.power_index) == (4, 15.0)
    yard.joins("desk1", slots=2)
    assert desk.slots == 2, "a host may offer less than it has"
    yard.play(HostsListed((Declaration("desk1", None, 1, 3.0),)))
    assert (desk.slots, desk.power_index) == (1, 3.0)
    yard.play(HostsListed(()))
    assert (desk.slots, desk.up) == (2, True)


def test_a_static_host_is_there_while_it_is_listed(yard: Farmyard) -> None:
    listed = Declaration("desk1", None, 1, 1.0, address="10.0.0.7", static=True)
    yard.play(HostsListed((listed,)))
    number = yard.ask()
    assert yard.farm.leases[number].host.address == "10.0.0.7"
    yard.play(HostsListed(()))
    yard.end(number)
    assert not yard.farm.hosts


def test_one_name_may_have_several_distccds(yard: Farmyard) -> None:
    for port in (PORT, 4001, 4002):
        yard.play(HostAdded(Declaration("desk1", port, slots=1), "10.0.0.1"))
    assert set(yard.farm.hosts) == {"desk1", "desk1:4001", "desk1:4002"}
    assert {yard.host_of(yard.ask()) for _ in range(3)} == set(yard.farm.hosts)


def test_a_host_listed_without_a_port_has_any_port(yard: Farmyard) -> None:
    yard.play(HostsListed((Declaration("desk1", None, 4, 15.0),)))
    yard.play(HostAdded(Declaration("desk1", 4001), "10.0.0.1"))
    assert (yard.farm.hosts["desk1"].port, yard.farm.hosts["desk1"].slots) == (4001, 4)
    yard.play(HostRemoved("desk1", 4001))
    assert not yard.farm.hosts["desk1"].up


# -- hosts fall silent


def test_a_host_without_reports_stays_available(yard: Farmyard) -> None:
    yard.joins()
    yard.passes(10_000.0)
    assert yard.compiles() == "desk1"


def test_a_host_whose_reporter_went_gets_no_new_leases(yard: Farmyard) -> None:
    desk = yard.joins(slots=2)
    yard.reports()
    number = yard.ask()
    yard.play(ReportsEnded("desk1"))
    assert yard.ask() in yard.refused()
    yard.passes(LOST_AFTER_S - 0.1)
    assert yard.host_of(number)
    yard.passes(0.2)
    assert yard.revoked().keys() == {number}
    assert sorted(desk.free) == [0, 1]


def test_a_load_reporter_may_be_restarted(yard: Farmyard) -> None:
    yard.joins()
    yard.reports()
    number = yard.ask()
    yard.play(ReportsEnded("desk1"))
    yard.passes(LOST_AFTER_S - 1.0)
    yard.joins()
    yard.reports()
    yard.passes(SILENT_AFTER_S - 1.0)
    assert yard.host_of(number)
    assert not yard.revoked()


def test_a_host_added_again_without_reports_keeps_its_leases(yard: Farmyard) -> None:
    yard.joins()
    yard.reports()
    number = yard.ask()
    yard.play(ReportsEnded("desk1"))
    yard.joins()
    yard.passes(LOST_AFTER_S + 1.0)
    assert yard.host_of(number)
    assert not yard.revoked()


def test_a_host_that_reports_no_more_is_lost_at_once(yard: Farmyard) -> None:
    yard.joins()
    yard.reports()
    number = yard.ask()
    yard.passes(SILENT_AFTER_S - 0.1)
    assert yard.host_of(number)
    yard.passes(0.2)
    assert yard.revoked() == {number: "desk1 fell silent"}
    assert yard.ask() in yard.refused()
    yard.reports()
    assert yard.compiles() == "desk1"


@pytest.mark.parametrize("distccd", ["stopped", "gone"])
def test_a_host_whose_distccd_does_not_run_is_mute(yard: Farmyard, distccd: str) -> None:
    desk = yard.joins()
    yard.reports()
    number = yard.ask()
    yard.reports(load=Load(distccd=distccd))
    assert not desk.up
    assert desk.reason == f"its distccd is {distccd}"
    for _ in range(4):
        yard.passes(LOST_AFTER_S / 4)
        yard.reports(load=Load(distccd=distccd))
    assert yard.revoked().keys() == {number}
    yard.reports(load=Load(distccd="running"))
    assert yard.compiles() == "desk1"


def test_a_distccd_that_is_stopped_for_a_moment_loses_nothing(yard: Farmyard) -> None:
    yard.joins()
    number = yard.ask()
    yard.reports(load=Load(distccd="stopped"))
    yard.passes(LOST_AFTER_S - 1.0)
    yard.reports(load=Load(distccd="running"))
    yard.passes(LOST_AFTER_S)
    assert yard.host_of(number)
