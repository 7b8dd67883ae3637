"""What is learned stays true: over restarts, over months of few builds, and when hosts join.

Speeds that follow each other without new compiles ran away by factors of thousands. So these tests
play the histories in which that happened: a few hosts, noise, crowding, and days without a build.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compilefarm.core.learning.learning import Compile, Learning

DECLARED = 2.0
FILES = 24
MINUTE_S, DAY_S = 60.0, 86_400.0


def play(
    learning: Learning, seed: int, hosts: Iterable[str], pauses_s: Iterable[float]
) -> list[Compile]:
    """Play one build of 24 files after each pause, on equal hosts; return every compile."""
    chance, names = random.Random(seed), list(hosts)
    costs_s = [math.exp(chance.gauss(0.0, 1.0)) for _ in range(FILES)]
    compiles: list[Compile] = []
    now = 0.0
    for pause_s in pauses_s:
        now += pause_s
        for n, cost_s in enumerate(costs_s):
            crowdedness = chance.random()
            stalls = 10.0 if chance.random() < 0.03 else 1.0
            took_s = stalls * cost_s / DECLARED * math.exp(chance.gauss(0.3 * crowdedness, 0.1))
            now += took_s
            host = chance.choice(names)
            learning.observe("/d", f"{n}.c", host, took_s, now, crowdedness)
            compiles.append(Compile("/d", f"{n}.c", host, took_s, now, crowdedness))
    return compiles


def farm(*hosts: str) -> Learning:
    learning = Learning()
    declare(learning, hosts)
    return learning


def declare(learning: Learning, hosts: Iterable[str]) -> None:
    """Declare these hosts, as host-server does whenever it looks at them."""
    for host in hosts:
        learning.declare(host, DECLARED)


def speeds(learning: Learning, hosts: Iterable[str]) -> list[float]:
    return [learning.speed(host) for host in hosts]


@pytest.mark.parametrize("seed", range(8))
def test_a_restart_changes_no_speed(seed: int) -> None:
    hosts = ["h1", "h2", "h3"][: 2 + seed % 2]
    first = farm(*hosts)
    play(first, seed, hosts, [MINUTE_S] * 5)
    before = speeds(first, hosts)
    compiles, _, memory_mb, saved = first.unsaved()
    again = Learning()
    again.restore(compiles, memory_mb, saved)
    for _ in range(300):  # ten minutes of load reports
        declare(again, reversed(hosts))
    assert speeds(again, hosts) == pytest.approx(before)
    assert again.unsaved().compiles == []


@pytest.mark.parametrize("seed", range(8))
def test_speeds_that_were_not_saved_come_to_rest_near_what_they_were(seed: int) -> None:
    """An older server saved compiles alone."""
    hosts = ["h1", "h2", "h3"][: 2 + seed % 2]
    first = farm(*hosts)
    compiles = play(first, seed, hosts, [MINUTE_S] * 5)
    again = Learning()
    again.restore(compiles, {})
    for _ in range(30):
        declare(again, hosts)
    at_rest = speeds(again, hosts)
    for _ in range(300):
        declare(again, hosts)
    assert speeds(again, hosts) == at_rest
    for before, now in zip(speeds(first, hosts), at_rest, strict=True):
        assert 0.5 < now / before < 2.0


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.sampled_from([MINUTE_S, 3_600.0, 1.5 * DAY_S, 30.0 * DAY_S]), min_size=60),
    st.integers(2, 4),
)
def test_speeds_stay_near_what_is_declared_for_years(
    seed: int, pauses_s: list[float], count: int
) -> None:
    hosts = [f"h{n}" for n in range(count)]
    learning = farm(*hosts, "away1", "away2", "away3", "away4")
    play(learning, seed, hosts, [*pauses_s, MINUTE_S, MINUTE_S])
    found = speeds(learning, hosts)
    assert max(found) < 2.0 * min(found), "the hosts are equal"
    mean = math.exp(sum(map(math.log, found)) / count)
    assert 0.5 < mean / DECLARED < 2.0


def test_a_host_that_joins_is_on_the_scale_of_those_that_are_there() -> None:
    """All hosts are 1.5 times as fast as declared, as their times are to each other's."""
    learning = Learning()
    learning.declare("pinned", 3.0, pinned=True)
    declare(learning, ["h1", "h2"])
    for build in range(8):
        for n in range(FILES):
            host = ("pinned", "h1", "h2")[(n + build) % 3]
            learning.observe("/d", f"{n}.c", host, (n + 1.0) / 3.0, build * 100.0 + n)
    learning.declare("pinned", 2.0)  # pinned no more, and as wrong as the others
    learning.declare("new", 2.0)
    assert learning.speed("new") == pytest.approx(learning.speed("h1"), rel=0.2)


def test_speeds_move_together_when_the_scale_is_corrected() -> None:
    """The pinned host leaves the declarations, which are 30 times too low, to hold the scale."""
    learning = Learning()
    real = {"pinned": 30.0, "h1": 60.0, "h2": 120.0}
    learning.declare("pinned", 30.0, pinned=True)
    learning.declare("h1", 2.0)
    learning.declare("h2", 4.0)
    for build in range(12):
        for n in range(FILES):
            host = list(real)[(n + build) % 3]
            learning.observe("/d", f"{n}.c", host, (n + 1.0) / real[host], build * 100.0 + n)
    assert learning.speed("h2") == pytest.approx(120.0, rel=0.1)
    learning.declare("pinned", 1.0)
    for build in range(12, 40):
        for n in range(FILES):
            host = list(real)[(n + build) % 3]
            learning.observe("/d", f"{n}.c", host, (n + 1.0) / real[host], build * 100.0 + n)
    assert learning.speed("h1") < 2.0 * math.exp(0.6)
    assert learning.speed("h2") / learning.speed("h1") == pytest.approx(2.0, rel=0.1)
