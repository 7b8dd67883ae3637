"""Requests at a farm: who gets a slot, on which host, and who is refused."""

from __future__ import annotations

import pytest
from farmyard import PORT, Farmyard, tier_yard

from compilefarm.core.events import Grant, HostRemoved
from compilefarm.core.model import Load, Outcome
from compilefarm.core.snapshot import take_snapshot


@pytest.fixture
def yard() -> Farmyard:
    return tier_yard()


# -- requests


def test_a_request_gets_a_free_slot_at_once(yard: Farmyard) -> None:
    desk = yard.joins()
    number = yard.ask()
    [grant] = yard.take(Grant)
    assert (grant.lease.id, grant.lease.host, grant.lease.slot) == (number, desk, 0)
    assert not desk.free


def test_a_request_waits_for_a_slot_and_is_told(yard: Farmyard) -> None:
    yard.joins()
    first, second, third = yard.ask(), yard.ask(), yard.ask()
    yard.passes(0.1)
    assert yard.told_to_wait() == [second, third]
    yard.end(first)
    assert yard.host_of(second)
    assert yard.waits(third)
    yard.end(second, Outcome())
    assert yard.host_of(third)


def test_a_request_that_is_served_in_a_moment_is_not_told_to_wait(yard: Farmyard) -> None:
    yard.joins()
    first, second = yard.ask(), yard.ask()
    yard.passes(0.01)
    yard.end(first)
    yard.passes(1.0)
    assert yard.host_of(second)
    assert yard.told_to_wait() == []


def test_without_any_host_a_request_is_refused(yard: Farmyard) -> None:
    number = yard.ask()
    assert yard.refused() == {number: "no host is available"}


def test_a_request_that_ends_while_it_waits_is_forgotten(yard: Farmyard) -> None:
    yard.joins()
    first, second = yard.ask(), yard.ask()
    yard.end(second, Outcome())
    yard.end(first)
    assert not yard.farm.leases
    assert yard.farm.hosts["desk1"].free == [0]


def test_wait_s_bounds_the_waiting(yard: Farmyard) -> None:
    yard.joins()
    yard.ask()
    at_once, later, patient = yard.ask(wait_s=0.0), yard.ask(wait_s=3.0), yard.ask()
    assert yard.refused().keys() == {at_once}
    yard.passes(2.9)
    assert yard.waits(later)
    yard.passes(0.2)
    assert yard.refused().keys() == {later}
    assert yard.waits(patient)


def test_wait_s_does_not_end_a_lease(yard: Farmyard) -> None:
    yard.joins()
    first, second = yard.ask(), yard.ask(wait_s=3.0)
    yard.end(first)
    yard.passes(10.0)
    assert yard.host_of(second)
    assert not yard.refused()


def test_a_type_is_served_by_hosts_of_that_type(yard: Farmyard) -> None:
    yard.joins("desk1", power_index=9.0)
    yard.joins("desk2", types="arm64 fast")
    assert yard.compiles(type="arm64") == "desk2"
    number = yard.ask(type="sparc")
    assert yard.refused() == {number: "no host of type sparc"}


def test_a_compiler_is_served_by_hosts_that_may_have_it(yard: Farmyard) -> None:
    yard.joins("desk1", power_index=9.0, compilers="clang")
    yard.joins("desk2")
    assert yard.compiles(compiler="gcc") == "desk2"
    assert yard.compiles(compiler="clang") == "desk1"
    assert yard.compiles() == "desk1"


def test_avoided_hosts_are_not_used(yard: Farmyard) -> None:
    yard.joins("desk1", power_index=9.0)
    yard.joins("desk2")
    assert yard.compiles(avoid=frozenset({"desk1"})) == "desk2"
    number = yard.ask(avoid=frozenset({"desk1", "desk2"}))
    assert "avoided" in yard.refused()[number]


def test_a_restricted_request_does_not_hold_up_the_others(yard: Farmyard) -> None:
    yard.joins("desk1", types="arm64")
    yard.joins("desk2")
    yard.ask(type="arm64")
    waiting, other = yard.ask(type="arm64"), yard.ask()
    assert yard.waits(waiting)
    assert yard.host_of(other) == "desk2"


def test_waiting_requests_are_refused_when_their_last_host_leaves(yard: Farmyard) -> None:
    yard.joins("desk1", types="arm64")
    yard.joins("desk2")
    holder, waiting = yard.ask(type="arm64"), yard.ask(type="arm64")
    yard.play(HostRemoved("desk1", PORT))
    assert yard.refused() == {waiting: "no host of type arm64"}
    assert yard.host_of(holder) == "desk1"


# -- which host


def test_the_fastest_free_host_is_used(yard: Farmyard) -> None:
    yard.joins("slow", power_index=1.0)
    yard.joins("fast", power_index=9.0)
    yard.joins("middle", power_index=3.0)
    assert [yard.host_of(yard.ask()) for _ in range(3)] == ["fast", "middle", "slow"]


def test_among_equals_the_least_used_host_is_used(yard: Farmyard) -> None:
    for name in ("desk1", "desk2"):
        yard.joins(name, slots=2)
    assert {yard.host_of(yard.ask()) for _ in range(2)} == {"desk1", "desk2"}


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
def test_a_host_that_is_busy_is_moved_down(yard: Farmyard, load: Load, tier: int | None) -> None:
    desk = yard.joins(power_index=9.0)
    yard.reports(load=load)
    assert desk.tier == tier
    [shown] = take_snapshot(yard.farm)["hosts"]
    assert shown["state"] == ("busy" if tier is None else "up")
    assert bool(shown["reason"]) == (tier != 9)


def test_a_host_that_was_moved_down_comes_after_its_new_equals(yard: Farmyard) -> None:
    yard.joins("desk1", power_index=3.0)
    yard.joins("desk2", power_index=3.0)
    yard.reports("desk1", busy(2.0, 2.0, 0.5))
    assert yard.compiles() == "desk2"
    yard.reports("desk1", busy(2.0, 2.0, 2.0))
    yard.ask()
    waiting = yard.ask()
    assert yard.waits(waiting)
    yard.reports("desk1", busy(0.1, 0.1, 2.0))
    assert yard.host_of(waiting) == "desk1"
