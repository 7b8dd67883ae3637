"""Hosts that fail compiles: quarantine, probes, and compilers that a host lacks."""

from __future__ import annotations

import pytest
from farmyard import DONE, FAILED, Farmyard, tier_yard

from compilefarm.core.events import HostProbed
from compilefarm.core.farm.failures import (
    DOUBTS_TO_LACK,
    EXIT_COMPILER_MISSING,
    LACKS_FOR_S,
    PARDON_TIMES,
    QUARANTINE_LIMIT_S,
    QUARANTINE_S,
)
from compilefarm.core.model import Outcome


@pytest.fixture
def yard() -> Farmyard:
    return tier_yard()


def test_a_failed_host_is_quarantined_and_comes_back_when_it_answers(yard: Farmyard) -> None:
    yard.joins("desk1", power_index=9.0)
    yard.joins("desk2")
    assert yard.compiles(FAILED) == "desk1"
    assert yard.compiles(took_s=0) == "desk2"
    assert "desk1: quarantined" in yard.noted()
    yard.passes(QUARANTINE_S)
    assert yard.probed() == ["desk1"]
    assert yard.compiles(took_s=0) == "desk2"
    yard.play(HostProbed("desk1", True))
    assert yard.compiles() == "desk1"


def test_each_failure_in_a_row_doubles_the_quarantine(yard: Farmyard) -> None:
    yard.joins()
    yard.joins("desk2")
    yard.compiles(FAILED)
    pauses = []
    for _ in range(9):
        began = yard.now
        while not (probed := yard.probed()):
            deadline = yard.farm.next_deadline()
            assert deadline
            yard.passes(deadline - yard.now)
        pauses.append(round(yard.now - began, 3))
        yard.play(HostProbed(probed[0], False))
    assert pauses[:3] == [QUARANTINE_S, 2 * QUARANTINE_S, 4 * QUARANTINE_S]
    assert pauses[-1] == QUARANTINE_LIMIT_S


def test_compiles_that_fail_together_count_as_one_failure(yard: Farmyard) -> None:
    desk = yard.joins(slots=4)
    numbers = [yard.ask() for _ in range(4)]
    yard.passes(1.0)
    for number in numbers:
        yard.end(number, FAILED)
        yard.passes(0.1)
    assert desk.failures == 1


def test_successes_over_a_time_pardon_a_failure(yard: Farmyard) -> None:
    desk = yard.joins()
    yard.compiles(FAILED)
    yard.passes(QUARANTINE_S)
    yard.play(HostProbed("desk1", True))
    yard.compiles(Outcome(exit=0))
    assert desk.failures == 1, "one compile says little"
    yard.passes(PARDON_TIMES * QUARANTINE_S)
    assert desk.failures == 1, "and the time alone says nothing"
    yard.compiles(Outcome(exit=1))  # an error in the source is the compiler's good work
    assert desk.failures == 0


def test_a_host_that_comes_and_goes_is_quarantined_longer_each_time(yard: Farmyard) -> None:
    """Between its failures it answers each probe, and even compiles something."""
    desk = yard.joins()
    pauses = []
    for _ in range(8):
        began = yard.now
        yard.compiles(FAILED, took_s=0)
        while not (probed := yard.probed()):
            deadline = yard.farm.next_deadline()
            assert deadline
            yard.passes(deadline - yard.now)
        pauses.append(round(yard.now - began, 3))
        yard.play(HostProbed(probed[0], True, compiled=True))
        yard.compiles(DONE)
    assert pauses[:3] == [QUARANTINE_S, 2 * QUARANTINE_S, 4 * QUARANTINE_S]
    assert pauses[-1] == QUARANTINE_LIMIT_S
    assert desk.lacks == frozenset()


def test_a_builder_that_reaches_no_host_does_not_idle_the_farm(yard: Farmyard) -> None:
    desk = yard.joins(slots=2)
    yard.compiles(FAILED, builder="cut-off")
    yard.passes(QUARANTINE_S)
    yard.play(HostProbed("desk1", True, compiled=True))
    yard.compiles(builder="desk9")
    for _ in range(3):
        yard.compiles(FAILED, builder="cut-off")
        assert yard.is_up()
    assert "fails for builder cut-off, but not for others" in yard.noted()
    assert desk.failures == 1
    yard.compiles(FAILED, builder="desk9")
    assert not yard.is_up()


@pytest.mark.parametrize("outcome", [Outcome(exit=1), Outcome(exit=0), Outcome()])
def test_outcomes_that_are_not_the_hosts_fault_do_not_count(
    yard: Farmyard, outcome: Outcome
) -> None:
    yard.joins()
    for _ in range(10):
        assert yard.compiles(outcome) == "desk1"


def test_a_host_that_is_added_again_is_believed(yard: Farmyard) -> None:
    """Distccd was restarted: what fails of the time before is not the new one's fault."""
    yard.joins(slots=3)
    old = [yard.ask() for _ in range(3)]
    yard.passes(1.0)
    yard.end(old[0], FAILED)
    assert not yard.is_up()
    yard.joins(slots=3)
    yard.end(old[1], FAILED)
    assert yard.is_up()
    yard.passes(1.0)
    yard.joins(slots=3)
    yard.end(old[2], FAILED)
    assert yard.is_up()


def test_a_host_without_a_compiler_is_spared_that_compiler(yard: Farmyard) -> None:
    desk = yard.joins("desk1", power_index=9.0)
    yard.joins("desk2")
    missing = Outcome(exit=EXIT_COMPILER_MISSING, failed=True)
    assert yard.compiles(missing, compiler="clang") == "desk1"
    assert desk.lacks == {"clang"}
    assert yard.compiles(compiler="clang") == "desk2"
    assert yard.compiles(compiler="gcc") == "desk1"
    yard.passes(LACKS_FOR_S)
    assert yard.compiles(compiler="clang") == "desk1"


def test_a_host_that_answers_and_fails_lacks_the_compiler(yard: Farmyard) -> None:
    """A distccd that may not run a compiler fails as a dead one does, but it answers."""
    desk = yard.joins()
    yard.joins("desk2", power_index=0.5)
    for _ in range(DOUBTS_TO_LACK):
        assert yard.compiles(FAILED, compiler="clang") == "desk1"
        yard.passes(QUARANTINE_LIMIT_S)
        assert set(yard.probed()) == {"desk1"}
        yard.play(HostProbed("desk1", True))
    assert desk.lacks == {"clang"}
    assert yard.compiles(compiler="gcc") == "desk1"
    assert yard.compiles(compiler="clang") == "desk2"


def test_a_request_for_a_compiler_that_no_host_has_is_refused(yard: Farmyard) -> None:
    yard.joins(slots=2)
    missing = Outcome(exit=EXIT_COMPILER_MISSING, failed=True)
    yard.compiles(missing, compiler="clang")
    number = yard.ask(compiler="clang")
    assert yard.refused() == {number: "no host with compiler clang"}
