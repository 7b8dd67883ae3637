"""Hosts on which no compile ends, although they say nothing of a failure."""

from __future__ import annotations

import pytest
from farmyard import PORT, Farmyard, tier_yard

from compilefarm.core.events import HostProbed, Probe
from compilefarm.core.farm.failures import QUARANTINE_S
from compilefarm.core.farm.suspicion import (
    EXPECTED_LEAST_S,
    TIMES_EXPECTED,
    TIMES_TYPICAL,
    TYPICAL_LEAST_S,
    UNKNOWN_S,
)
from compilefarm.core.model import Lease, Load
from compilefarm.core.placement.tier import TierPolicy


@pytest.fixture
def yard() -> Farmyard:
    return tier_yard()


def grow_used_to(yard: Farmyard, took_s: float) -> None:
    """Let the farm see how long compiles take."""
    for _ in range(200):
        yard.compiles(took_s=took_s)


def test_a_mute_host_is_suspected_probed_and_left(yard: Farmyard) -> None:
    yard.joins()
    grow_used_to(yard, 0.1)
    number = yard.ask()
    yard.passes(2 * TYPICAL_LEAST_S)
    assert set(yard.probed()) == {"desk1"}
    assert yard.host_of(number)
    yard.play(HostProbed("desk1", False))
    assert yard.revoked() == {number: "desk1 does not answer"}
    assert yard.ask() in yard.refused()
    yard.passes(QUARANTINE_S)
    assert yard.probed() == ["desk1"]
    yard.play(HostProbed("desk1", True))
    assert yard.compiles() == "desk1"


def test_a_suspect_that_answers_keeps_its_leases(yard: Farmyard) -> None:
    yard.joins()
    grow_used_to(yard, 0.1)
    number = yard.ask()
    for _ in range(5):
        yard.passes(2 * TYPICAL_LEAST_S)
        yard.play(HostProbed("desk1", True))
    assert yard.host_of(number)
    assert yard.farm.hosts["desk1"].up


def test_a_probe_is_a_compile_with_the_compiler_in_question(yard: Farmyard) -> None:
    yard.joins()
    yard.ask(compiler="gcc-12")
    yard.passes(UNKNOWN_S + 1.0)
    assert yard.take(Probe) == [Probe("desk1", "10.0.0.1", PORT, "gcc-12")]


def test_a_suspect_that_answered_is_believed_for_as_long_again(yard: Farmyard) -> None:
    yard.joins()
    grow_used_to(yard, 5.0)
    yard.ask()
    yard.passes(TIMES_TYPICAL * 5.0 + 1.0)
    assert yard.probed()
    yard.play(HostProbed("desk1", True))
    yard.passes(TIMES_TYPICAL * 5.0 - 1.0)
    assert not yard.probed()
    yard.passes(2.0)
    assert yard.probed()


class Expecting(TierPolicy):
    """The 2004 rule, with an expectation for files whose names are numbers."""

    def expected_s(self, lease: Lease) -> float | None:
        source = lease.request.source
        return float(source) if source[0].isdigit() else None


@pytest.fixture
def expecting() -> Farmyard:
    return Farmyard(policy=Expecting(), answers_probes=False)


def test_a_mute_host_is_found_out_by_what_was_expected(expecting: Farmyard) -> None:
    yard = expecting
    yard.joins(slots=2)
    yard.ask(source="0.2")
    yard.ask(source="1000")
    yard.passes(EXPECTED_LEAST_S)
    assert yard.probed() == ["desk1"]
    yard.play(HostProbed("desk1", False))
    assert len(yard.revoked()) == 2


def test_a_host_is_no_suspect_while_its_compiles_are_expected_to_run(expecting: Farmyard) -> None:
    """A host without reports, all of whose slots run far longer than is usual here."""
    yard = expecting
    desk = yard.joins(slots=2)
    grow_used_to(yard, 0.5)
    for _ in range(2):
        yard.ask(source="900")
    yard.passes(TIMES_EXPECTED * 900 - 1.0)
    assert not yard.probed()
    assert desk.up
    yard.passes(2.0)
    assert yard.probed()


def test_a_lease_that_came_later_is_expected_to_end_later(expecting: Farmyard) -> None:
    yard = expecting
    yard.joins(slots=3)
    yard.ask(source="100")
    yard.passes(60.0)
    yard.ask(source="10")
    yard.passes(TIMES_EXPECTED * 10 - 1.0)
    assert not yard.probed()
    yard.passes(TYPICAL_LEAST_S)
    assert yard.probed()


def test_a_host_is_a_suspect_after_many_typical_compiles(yard: Farmyard) -> None:
    yard.joins()
    grow_used_to(yard, 10.0)
    yard.ask()
    yard.passes(TIMES_TYPICAL * 10.0 - 1.0)
    assert not yard.probed()
    yard.passes(TYPICAL_LEAST_S)
    assert yard.probed()


def test_a_new_farm_suspects_late(yard: Farmyard) -> None:
    yard.joins()
    yard.ask()
    yard.passes(UNKNOWN_S - 1.0)
    assert not yard.probed()
    yard.passes(TYPICAL_LEAST_S)
    assert yard.probed()


def test_a_host_whose_compiles_end_is_not_suspected(yard: Farmyard) -> None:
    yard.joins(slots=2)
    grow_used_to(yard, 0.1)
    long = yard.ask()
    for _ in range(30):
        assert yard.compiles(took_s=1.0)
    assert not yard.probed()
    assert yard.host_of(long)


def test_a_host_that_is_seen_at_work_is_not_suspected(yard: Farmyard) -> None:
    yard.joins()
    grow_used_to(yard, 0.1)
    yard.ask()
    for _ in range(60):
        yard.reports(load=Load(own_cpus=1.0))
        yard.passes(2.0)
    assert not yard.probed()
    assert not yard.revoked()


def test_a_probe_of_a_host_that_is_gone_changes_nothing(yard: Farmyard) -> None:
    yard.play(HostProbed("desk1", False))
    assert not yard.farm.hosts
