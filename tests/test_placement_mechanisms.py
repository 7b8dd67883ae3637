"""Each mechanism of the policy `earliest` at work, in a small story that fails without it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from farmyard import Farmyard, host

from bench import placement
from bench.cases import Case
from compilefarm.core.events import HostsListed
from compilefarm.core.farm.farm import Farm
from compilefarm.core.learning.learning import Learning
from compilefarm.core.placement.earliest.mechanisms import ALL, Mechanisms
from compilefarm.core.placement.earliest.policy import EarliestPolicy
from compilefarm.core.placement.earliest.rule import STEADY, Mode
from compilefarm.protocol.declaration import Declaration
from compilefarm.simulate.trace import TracedFile

NEVER_WAIT = Mode(hurry=False, stretch=math.inf)


def farmyard(
    mechanisms: Mechanisms, *declarations: Declaration, learning: Learning | None = None
) -> Farmyard:
    yard = Farmyard(learning=learning)
    yard.farm = Farm(EarliestPolicy(yard.learning, mechanisms=mechanisms))
    yard.play(HostsListed(declarations))
    return yard


def build_s(
    mechanisms: Mechanisms,
    slots: Sequence[tuple[int, float]],
    costs: Sequence[float],
    jobs: int,
    directories: Sequence[str] = ("/src", "/src"),
) -> float:
    """Return how long a build takes whose files are known from an earlier build."""
    hosts = [
        Declaration(f"host{number}", slots=count, power_index=speed)
        for number, (count, speed) in enumerate(slots)
    ]
    files = [TracedFile(f"{number}.c", cost) for number, cost in enumerate(costs)]
    policy = EarliestPolicy(Learning(), mechanisms=mechanisms)
    return Case("story", hosts, files, jobs).play_in(policy, directories).makespan_s


def test_hurrying_shows_a_giant_sooner() -> None:
    """A make -j5 asks for the last file, which takes 8 s, when one of the first five is done."""
    slots, costs, jobs = [(2, 1.0)], [4, 1, 2, 1, 2, 8], 5
    steady = replace(ALL, modes=tuple(mode for mode in ALL.modes if not mode.hurry))
    assert build_s(ALL, slots, costs, jobs) == pytest.approx(9.0, abs=0.01)
    assert build_s(steady, slots, costs, jobs) == pytest.approx(12.0, abs=0.01)


def test_a_stretched_rest_uses_slow_slots_for_files_that_are_alike() -> None:
    """Each would wait for the fast slot, which has time for three of them."""
    slots, costs, jobs = [(2, 1.0), (1, 4.0), (1, 1.0)], [1, 1, 1, 2], 5
    tight = replace(ALL, modes=tuple(mode for mode in ALL.modes if mode.stretch <= 1.0))
    assert build_s(ALL, slots, costs, jobs) == pytest.approx(1.0, abs=0.01)
    assert build_s(tight, slots, costs, jobs) == pytest.approx(1.25, abs=0.01)


def test_playing_forward_finds_the_better_mode() -> None:
    slots, costs, jobs = [(4, 2.0), (1, 4.0)], [1, 1, 1, 16, 16, 16, 1], 4
    plain = replace(ALL, modes=(STEADY,))
    assert build_s(ALL, slots, costs, jobs) == pytest.approx(8.25, abs=0.01)
    assert build_s(plain, slots, costs, jobs) == pytest.approx(12.0, abs=0.01)


def test_a_file_waits_for_a_faster_slot() -> None:
    slots, costs, jobs = [(4, 4.0), (1, 8.0)], [8, 2, 16, 1], 2
    never = replace(ALL, modes=(NEVER_WAIT,))
    assert build_s(ALL, slots, costs, jobs) == pytest.approx(2.25, abs=0.01)
    assert build_s(never, slots, costs, jobs) == pytest.approx(3.13, abs=0.01)


def test_beyond_the_rest_a_file_starts_if_no_busy_slot_ends_it_sooner() -> None:
    slots, costs, jobs = [(1, 8.0), (2, 4.0)], [1, 1, 2, 8, 1, 1, 16], 6
    blind = replace(ALL, comparing=False)
    assert build_s(ALL, slots, costs, jobs) == pytest.approx(2.25, abs=0.01)
    assert build_s(blind, slots, costs, jobs) == pytest.approx(3.0, abs=0.01)


def test_gathering_places_the_longest_of_the_first_files_first() -> None:
    slots, costs, jobs = [(2, 8.0)], [1, 1, 2], 3
    at_once = replace(ALL, gathering=False)
    assert build_s(ALL, slots, costs, jobs) == pytest.approx(0.25, abs=0.01)
    assert build_s(at_once, slots, costs, jobs) == pytest.approx(0.375, abs=0.01)


def test_a_new_directory_goes_by_its_twin() -> None:
    slots, costs, jobs = [(2, 1.0)], [4, 1, 2, 1, 2, 8], 5
    directories = ("/src", "/clone")
    assert build_s(ALL, slots, costs, jobs, directories) == pytest.approx(9.0, abs=0.01)
    alone = replace(ALL, twins=False)
    assert build_s(alone, slots, costs, jobs, directories) == pytest.approx(12.0, abs=0.01)


def test_measuring_finds_a_host_that_became_fast() -> None:
    def after_s(mechanisms: Mechanisms) -> float:
        def make(learning: Learning) -> EarliestPolicy:
            return EarliestPolicy(learning, mechanisms=mechanisms)

        before_s, after_s = placement.found_again_s(make)
        return after_s / before_s

    assert after_s(ALL) < 0.6
    assert after_s(replace(ALL, measuring=False)) > 0.9


def test_slots_that_share_cores_are_told_apart() -> None:
    learns_s = placement.crowded_s(EarliestPolicy(Learning()))
    blind = EarliestPolicy(Learning(), mechanisms=replace(ALL, crowding=False))
    assert learns_s < 0.9 * placement.crowded_s(blind)


# -- users


def test_users_get_equal_work() -> None:
    """From when both have files waiting, neither is ever ahead by more than a file on each slot."""
    assert farthest_ahead(ALL) <= 4
    assert farthest_ahead(replace(ALL, fairness=False)) >= 16


def farthest_ahead(mechanisms: Mechanisms) -> int:
    """Return by how many files of equal cost one user was ahead of another, at most."""
    yard = farmyard(mechanisms, host("a", 4, 2))
    owner = {yard.ask(f"{number}.c", "ann"): "ann" for number in range(40)}
    yard.until(yard.now + 0.1)
    owner |= {yard.ask(f"{number}.c", "bob"): "bob" for number in range(40)}
    done = {"ann": 0, "bob": 0}
    farthest = 0
    while len(yard.leases) == 4:
        yard.now += 1.0
        for number in sorted(yard.leases):
            done[owner[number]] += 1
            yard.end(number)
        if done["ann"] < 40 and done["bob"] < 40:
            farthest = max(farthest, abs(done["ann"] - done["bob"]))
    return farthest


def test_a_request_is_passed_over_for_a_bounded_time() -> None:
    """Ann got far more than Bob, but Ann's next file does not wait until Bob got as much."""
    assert waits_s(ALL) < 60.0
    assert waits_s(replace(ALL, patience=False)) > 400.0


def waits_s(mechanisms: Mechanisms) -> float:
    learning = Learning()
    learning.declare("a", 1.0, pinned=True)
    learning.observe("/ann", "b.c", "a", 1.0, 0.0)
    yard = farmyard(mechanisms, host("a", 1, 1), learning=learning)
    first = yard.ask("a.c", "ann")
    bobs = [yard.ask(f"{number}.c", "bob") for number in range(2)]
    yard.until(yard.now + 1000.0)
    yard.end(first)
    asked, began_s = yard.ask("b.c", "ann"), yard.now
    for number in range(2, 500):
        yard.until(yard.now + 1.0)
        if yard.host_of(asked) is not None:
            break
        yard.end(bobs.pop(0))
        bobs.append(yard.ask(f"{number}.c", "bob"))
    return yard.now - began_s


# -- backups


def test_a_backup_is_begun_for_a_fair_chance_that_it_ends_first() -> None:
    """By the mean of what was done, a file that has run for 0.9 s ends sooner where it is."""
    assert backed_up_by_chance(ALL)
    assert not backed_up_by_chance(replace(ALL, backup_chance=False))


def backed_up_by_chance(mechanisms: Mechanisms) -> bool:
    yard = farmyard(mechanisms, host("fast", 1, 2), host("slow", 1, 1))
    for number, cost in enumerate([1.0] * 7 + [2.5] * 3):
        one = yard.ask(f"{number}.c", can_back_up=True)
        yard.until(yard.now + cost / 2)
        yard.end(one)
    one, other = yard.ask("x.c", can_back_up=True), yard.ask("y.c", can_back_up=True)
    yard.until(yard.now + 0.9)
    assert (yard.host_of(one), yard.host_of(other)) == ("fast", "slow")
    yard.end(one)
    yard.until(yard.now + 0.05)
    return yard.backup_of(other) == "fast"


def test_a_backup_moves_on_to_a_faster_slot() -> None:
    assert moved_to(ALL) == "fast"
    assert moved_to(replace(ALL, backup_moves=False)) == "medium"


def moved_to(mechanisms: Mechanisms) -> str | None:
    yard = farmyard(mechanisms, host("fast", 1, 10), host("medium", 1, 3), host("slow", 1, 1))
    first, second, giant = (yard.ask(source, can_back_up=True) for source in ("a.c", "b.c", "c.c"))
    yard.until(yard.now + 0.1)
    yard.end(second)
    yard.until(yard.now + 2.0)
    assert yard.backup_of(giant) == "medium"
    yard.end(first)
    yard.until(yard.now + 2.0)
    return yard.backup_of(giant)


def test_a_slot_is_not_idle_while_its_builder_is_about_to_ask_again() -> None:
    """It asks 50 ms after each end; the first time, nothing says so."""
    no_back_off = replace(ALL, backup_back_off=False)
    assert backed_up_in_gaps(no_back_off) < 3
    assert backed_up_in_gaps(replace(no_back_off, backup_gap=False)) > 15


def backed_up_in_gaps(mechanisms: Mechanisms) -> int:
    """Return how many backups were begun in 19 pauses of the builder."""
    yard = farmyard(mechanisms, host("fast", 1, 10), host("slow", 1, 1))
    one, giant = yard.ask("0.c", can_back_up=True), yard.ask("giant.c", can_back_up=True)
    yard.until(yard.now + 0.1)
    assert (yard.host_of(one), yard.host_of(giant)) == ("fast", "slow")
    for number in range(1, 20):
        yard.until(yard.now + 0.2)
        yard.end(one)
        yard.until(yard.now + 0.05)
        one = yard.ask(f"{number}.c", can_back_up=True)
    return yard.farm.totals.backed_up


def test_backups_that_are_taken_back_make_the_next_ones_wait_longer() -> None:
    """A slot that other users' requests leave idle for 100 ms is worth no attempt."""
    assert taken_back(ALL) <= 12
    assert taken_back(replace(ALL, backup_back_off=False)) == 20


def taken_back(mechanisms: Mechanisms) -> int:
    """Return how many backups were begun in 20 pauses of other users' requests."""
    yard = farmyard(mechanisms, host("fast", 1, 10), host("slow", 1, 1))
    first = yard.ask("a.c", "bob")
    yard.until(yard.now + 0.1)
    giant = yard.ask("giant.c", can_back_up=True)
    yard.until(yard.now + 0.1)
    assert (yard.host_of(first), yard.host_of(giant)) == ("fast", "slow")
    yard.end(first)
    for number in range(20):
        yard.until(yard.now + 0.1)
        one = yard.ask("b.c", f"user{number}")
        yard.until(yard.now + 0.1)
        assert yard.host_of(one) == "fast"
        yard.end(one)
    return yard.farm.totals.backed_up


# -- first builds without backups


def test_where_no_backup_can_follow_a_slot_that_brings_little_is_left_alone() -> None:
    assert started_on_slow(can_back_up=True)
    assert not started_on_slow(can_back_up=False)


def started_on_slow(*, can_back_up: bool) -> bool:
    yard = Farmyard(host("fast", 8, 10), host("slow", 1, 1))
    asked = [yard.ask(f"{number}.c", can_back_up=can_back_up) for number in range(10)]
    yard.until(yard.now + 0.1)
    return "slow" in {yard.host_of(number) for number in asked}


def test_every_story_is_about_a_mechanism_that_exists() -> None:
    """Every mechanism has a test here: with a new one, this list is too short."""
    told: dict[str, Callable[[], None]] = {
        "modes": test_playing_forward_finds_the_better_mode,
        "comparing": test_beyond_the_rest_a_file_starts_if_no_busy_slot_ends_it_sooner,
        "gathering": test_gathering_places_the_longest_of_the_first_files_first,
        "fairness": test_users_get_equal_work,
        "patience": test_a_request_is_passed_over_for_a_bounded_time,
        "twins": test_a_new_directory_goes_by_its_twin,
        "measuring": test_measuring_finds_a_host_that_became_fast,
        "crowding": test_slots_that_share_cores_are_told_apart,
        "backup_chance": test_a_backup_is_begun_for_a_fair_chance_that_it_ends_first,
        "backup_moves": test_a_backup_moves_on_to_a_faster_slot,
        "backup_gap": test_a_slot_is_not_idle_while_its_builder_is_about_to_ask_again,
        "backup_back_off": test_backups_that_are_taken_back_make_the_next_ones_wait_longer,
    }
    assert set(told) == set(Mechanisms.__dataclass_fields__)
