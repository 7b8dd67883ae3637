"""The policy `earliest`: where a compile goes, and that no request waits for ever."""

from __future__ import annotations

import math
import random
from heapq import heappop, heappush

import pytest
from farmyard import DONE, Farmyard, host

from compilefarm.core.events import (
    HostAdded,
    HostRemoved,
    LoadReported,
    RequestEnded,
)
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Load, Outcome
from compilefarm.core.placement.earliest.builds import GATHER_AT_MOST_S, GATHER_S
from compilefarm.protocol.declaration import Declaration
from compilefarm.protocol.ports import DISTCCD_PORT


def taught(costs: dict[str, float], directory: str = "/ann", jobs: int = 4) -> Learning:
    learning = Learning()
    learning.declare("teacher", 1.0, pinned=True)
    for source, cost_s in costs.items():
        learning.observe(directory, source, "teacher", cost_s, 0.0)
    learning.build_ended(directory, dict.fromkeys(costs), jobs)
    return learning


def test_the_first_requests_of_a_build_are_placed_together() -> None:
    yard = Farmyard(
        host("fast", 1, 10), host("slow", 1, 1), learning=taught({"s.c": 0.1, "l.c": 5})
    )
    short, long = yard.ask("s.c"), yard.ask("l.c")
    assert not yard.leases
    yard.until(yard.now + GATHER_S + 0.001)
    assert yard.host_of(long) == "fast"
    assert yard.host_of(short) in ("slow", None)


def test_gathering_ends_however_many_come() -> None:
    yard = Farmyard(host("fast", 8, 10))
    began = yard.now
    while not yard.leases:
        yard.ask()
        yard.until(yard.now + 0.001)
    assert yard.now <= began + GATHER_AT_MOST_S + 0.0011


def test_who_may_not_wait_is_answered_at_once() -> None:
    yard = Farmyard(host("fast", 1, 10))
    assert yard.host_of(yard.ask(wait_s=0.0)) == "fast"
    assert yard.ask(wait_s=0.0) in yard.refused()


def test_only_the_beginning_of_a_build_is_gathered() -> None:
    yard = Farmyard(host("fast", 4, 10))
    yard.ask()
    yard.until(yard.now + 0.1)
    assert yard.host_of(yard.ask()) == "fast"


def test_a_long_file_waits_for_the_fast_slot_and_a_short_one_uses_the_slow_one() -> None:
    yard = Farmyard(
        host("fast", 1, 10),
        host("slow", 1, 1),
        learning=taught({"a.c": 1.0, "l.c": 20.0, "s.c": 0.01}),
    )
    yard.ask("a.c")
    yard.until(yard.now + 0.01)
    long, short = yard.ask("l.c"), yard.ask("s.c")
    assert yard.host_of(short) == "slow"
    assert yard.host_of(long) is None
    yard.now += 0.1
    yard.end(1)
    assert yard.host_of(long) == "fast"


def test_a_request_is_not_blocked_by_one_that_has_nowhere_to_go_now() -> None:
    yard = Farmyard(
        host("a", 1, 5, types=frozenset({"big"})), host("b", 1, 5, compilers=frozenset({"gcc"}))
    )
    yard.ask(type="big")
    yard.until(yard.now + 0.1)
    waits, avoids = yard.ask(type="big"), yard.ask(compiler="gcc", avoid=frozenset({"a"}))
    assert yard.host_of(waits) is None
    assert yard.host_of(avoids) == "b"


def test_users_get_equal_work() -> None:
    yard = Farmyard(host("a", 4, 2))
    for _ in range(20):
        yard.ask(user="ann")
    yard.until(yard.now + 0.1)
    for _ in range(20):
        yard.ask(user="bob")
    granted = {"ann": 0, "bob": 0}
    for _ in range(24):
        yard.until(yard.now + 0.5)
        yard.end(min(yard.leases, key=lambda number: (yard.leases[number].granted, number)))
        newest = max(yard.leases.values(), key=lambda lease: (lease.granted, lease.id))
        granted[newest.request.user] += 1
    assert abs(granted["ann"] - granted["bob"]) <= 6


def test_a_busy_host_is_left_alone_and_comes_back() -> None:
    yard = Farmyard(host("desk", 4, 8), host("other", 4, 2))
    yard.ask()
    yard.until(yard.now + 0.1)
    assert yard.host_of(1) == "desk"
    yard.play(LoadReported("desk", DISTCCD_PORT, "desk", Load(foreign_cpus=4.0, cpus=4)))
    assert yard.host_of(yard.ask()) != "desk"
    yard.now += 2.0
    yard.play(LoadReported("desk", DISTCCD_PORT, "desk", Load(foreign_cpus=0.1, cpus=4)))
    assert yard.host_of(yard.ask()) == "desk"


def test_a_host_without_memory_gets_no_compile() -> None:
    yard = Farmyard(host("small", 8, 8), host("other", 8, 2))
    load = Load(cpus=8, memory_free_mb=300.0, memory_total_mb=4000.0)
    yard.play(LoadReported("small", DISTCCD_PORT, "small", load))
    assert yard.farm.hosts["small"].tier is None
    yard.ask()
    yard.until(yard.now + 0.1)
    assert yard.host_of(1) == "other"


def test_a_host_is_measured_once_and_only_while_its_speed_is_unsure() -> None:
    files = {f"{n}.c": 1.0 + n / 100 for n in range(400)}
    yard = Farmyard(host("fast", 4, 10), host("slow", 4, 1), learning=taught(files))
    speeds = {"fast": 10.0, "slow": 1.0}
    ends: list[tuple[float, int]] = []
    on_slow = 0

    def run(number: int, source: str) -> None:
        nonlocal on_slow
        name = yard.host_of(number)
        assert name is not None
        on_slow += name == "slow"
        heappush(ends, (yard.now + files[source] / speeds[name], number))

    asked = {yard.ask(source): source for source in list(files)[:4]}
    yard.until(yard.now + 0.1)
    for number, source in asked.items():
        run(number, source)
    for source in list(files)[4:200]:
        yard.now, number = heappop(ends)
        yard.end(number)
        run(yard.ask(source), source)
    assert on_slow == 1
    assert yard.learning.confidence("slow", yard.now) > 0.7
    assert yard.learning.confidence("slow", yard.now + 7 * 86_400) < 0.7


def test_with_nothing_running_a_request_is_granted_at_the_next_deadline() -> None:
    for cost_s in (0.01, 1.0, 1000.0):
        yard = Farmyard(host("fast", 1, 100), host("slow", 1, 1), learning=taught({"a.c": cost_s}))
        number = yard.ask("a.c", avoid=frozenset({"fast"}))
        deadline = yard.farm.next_deadline()
        assert deadline is not None
        yard.until(deadline)
        assert yard.host_of(number) == "slow"


def test_a_wait_behind_a_lease_that_never_ends_is_bounded() -> None:
    yard = Farmyard(host("fast", 1, 10), host("slow", 1, 1), learning=taught({"a.c": 3.0}, jobs=1))
    yard.ask("a.c")
    yard.until(yard.now + 0.01)
    assert yard.host_of(1) == "fast"
    number = yard.ask("a.c")
    assert yard.host_of(number) is None
    yard.until(yard.now + 60.0)
    assert yard.host_of(number) == "slow"


@pytest.mark.parametrize("seed", range(12))
def test_nobody_starves_whatever_happens(seed: int) -> None:
    chance = random.Random(seed)
    yard = Farmyard(
        host("a", 2, 12),
        host("b", 3, 3, compilers=frozenset({"gcc", "cc"})),
        host("c", 1, 1, types=frozenset({"big"})),
    )
    asked: dict[int, float] = {}
    longest_s = 0.0

    for _ in range(150):
        what = chance.random()
        if what < 0.5:
            number = yard.ask(
                source=f"{chance.randrange(12)}.c",
                user=chance.choice(("ann", "bob")),
                compiler=chance.choice(("", "gcc", "cc")),
                avoid=chance.choice((frozenset(), frozenset({"a"}))),
            )
            asked[number] = yard.now
        elif what < 0.9 and yard.leases:
            failed = chance.random() < 0.05
            number = chance.choice(sorted(yard.leases))
            yard.end(number, Outcome(exit=104, failed=True) if failed else DONE)
        elif what < 0.93 and yard.farm.waiting:
            number = chance.choice(sorted(yard.farm.waiting))
            yard.play(RequestEnded(number, Outcome()))
        elif what < 0.96:
            yard.play(HostRemoved("d", DISTCCD_PORT))
        else:
            slots = chance.randrange(1, 4)
            power_index = chance.choice((0.5, 30.0))
            types = chance.choice((frozenset(), frozenset({"big"})))
            declaration = Declaration("d", slots=slots, power_index=power_index, types=types)
            yard.play(HostAdded(declaration, "d"))
        yard.until(yard.now + chance.choice((0.0, 0.01, 1.0)))
    for _ in range(1000):
        if not yard.farm.waiting:
            break
        waits = max(yard.now - asked[number] for number in yard.farm.waiting)
        longest_s = max(longest_s, waits)
        yard.until(yard.now + 1.0)
        if yard.leases:
            yard.end(min(yard.leases))
    assert not yard.farm.waiting
    assert longest_s < 300.0


@pytest.mark.parametrize("wild", [0.0, -1.0, math.nan, math.inf, 365 * 86_400.0])
def test_a_wild_report_changes_nothing(wild: float) -> None:
    yard = Farmyard(host("a", 2, 4))
    yard.ask()
    yard.until(yard.now + 1.0)
    yard.end(1, Outcome(exit=0, wall_s=wild, cpu_s=wild))
    assert yard.learning.cost("/ann", "a.c") is None
    load = Load(memory_free_mb=wild, cpu_pressure=wild, foreign_cpus=max(0.0, wild), cpus=2)
    yard.play(LoadReported("a", DISTCCD_PORT, "a", load))
    yard.play(LoadReported("a", DISTCCD_PORT, "a", Load(cpus=2)))
    number = yard.ask()
    yard.until(yard.now + 0.1)
    assert yard.host_of(number) == "a"


def test_the_one_slot_that_a_request_may_have_is_given_to_it_when_it_comes_free() -> None:
    linux, arm = frozenset({"linux"}), frozenset({"arm"})
    yard = Farmyard(host("here", 1, 2, types=linux), host("there", 4, 2, types=arm))
    holds = yard.ask("a.c", "ann", type="linux")
    for user in ("ann", "bob"):  # others go on, so that no share of the farm changes
        yard.ask("b.c", user, type="arm")
    yard.until(yard.now + 0.1)
    wants = yard.ask("c.c", "cat", type="linux")
    yard.until(yard.now + 0.1)
    assert yard.host_of(holds) == "here"
    assert yard.host_of(wants) is None
    yard.end(holds)
    assert yard.host_of(wants) == "here"


def test_what_is_expected_of_a_lease_is_what_was_learned_of_its_file_and_host() -> None:
    yard = Farmyard(host("desk", 2, 4.0), learning=taught({"l.c": 20.0}))
    known, unknown = yard.ask("l.c"), yard.ask("new.c")
    yard.until(yard.now + 0.1)
    policy = yard.farm.policy
    expected_s = policy.expected_s(yard.leases[known])
    assert expected_s == pytest.approx(20.0 / 4.0, rel=0.1)
    assert policy.expected_s(yard.leases[unknown]) is None


def test_more_cpu_time_than_time_is_a_wild_report() -> None:
    yard = Farmyard(host("a", 1, 1), learning=taught({"a.c": 1.0}))
    compiled = yard.ask("a.c")
    yard.until(yard.now + 5.0)
    yard.end(compiled, Outcome(exit=0, wall_s=0.02, cpu_s=5.0))
    assert yard.learning.cost("/ann", "a.c") == pytest.approx(1.0)
