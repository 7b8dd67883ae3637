"""What is learned from compiles: costs, speeds, builds; and what must not be believed."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest

from compilefarm.core.learning import learning as learning_module
from compilefarm.core.learning.learning import COMPILES_OF_HOST, Learning, crowding, wild
from compilefarm.core.placement.policies import make_policy
from compilefarm.protocol.declaration import Declaration
from compilefarm.simulate.main import Build, Simulation
from compilefarm.simulate.trace import parse_trace

TRACE = Path(__file__).parent.parent / "bench" / "traces" / "redis.csv"
WILD = [0.0, -1.0, math.nan, math.inf, 365 * 86_400.0, 1e-9]


def learned(learning: Learning, files: int) -> list[float | None]:
    return [learning.cost("/d", f"{n}.c") for n in range(files)]


def test_a_file_costs_what_it_took_times_the_speed() -> None:
    learning = Learning()
    learning.declare("h", 4.0)
    assert learning.cost("/d", "a.c") is None
    learning.observe("/d", "a.c", "h", 0.5, 1.0)
    assert learning.cost("/d", "a.c") == pytest.approx(2.0)
    assert learning.cost("/elsewhere", "a.c") is None


@pytest.mark.parametrize("took_s", WILD)
def test_a_wild_time_changes_nothing(took_s: float) -> None:
    learning = Learning()
    learning.declare("h", 4.0)
    learning.observe("/d", "a.c", "h", 0.5, 1.0)
    before = (learning.cost("/d", "a.c"), learning.speed("h"), learning.confidence("h", 2.0))
    learning.unsaved()
    for source in ("a.c", "new.c"):
        assert wild(took_s)
        assert learning.observe("/d", source, "h", took_s, 2.0) == []
    assert (
        learning.cost("/d", "a.c"),
        learning.speed("h"),
        learning.confidence("h", 2.0),
    ) == before
    assert learning.cost("/d", "new.c") is None
    assert learning.unsaved() == ([], [], {})


def test_a_clock_that_jumped_changes_nothing_that_was_learned() -> None:
    learning = Learning()
    for host in ("h", "i"):
        learning.declare(host, 2.0)
        for n in range(30):
            learning.observe("/d", f"{n}.c", host, 1.0, float(n))
    before = learning.cost("/d", "0.c")
    for now in (1e12, -1e12, 0.0):
        learning.observe("/d", "0.c", "h", 1.0, now)
    assert learning.cost("/d", "0.c") == pytest.approx(before)
    assert learning.speed("h") == pytest.approx(2.0, rel=0.05)


def wrong_power(noise: float, declared: float, pinned: bool = False) -> Learning:
    """Three hosts of power index 2 compile 60 files in turn; one was declared otherwise."""
    chance = random.Random(3)
    learning = Learning()
    learning.declare("a", 2.0)
    learning.declare("b", 2.0)
    learning.declare("odd", declared, pinned)
    costs = [math.exp(chance.gauss(0.0, 1.0)) for _ in range(60)]
    for build in range(4):
        for n, cost_s in enumerate(costs):
            host = ("a", "b", "odd")[(n + build) % 3]
            took_s = cost_s / 2.0 * math.exp(chance.gauss(0.0, noise))
            learning.observe("/d", f"{n}.c", host, took_s, build * 100.0 + n)
    return learning


@pytest.mark.parametrize("declared", [2.0 / 3.0, 6.0])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_wrong_power_index_is_found_out(declared: float, noise: float) -> None:
    learning = wrong_power(noise, declared)
    ratio = learning.speed("odd") / learning.speed("a")
    assert ratio == pytest.approx(1.0, rel=0.15)
    assert learning.confidence("odd", 400.0) > 0.5


def test_a_host_that_changed_while_it_was_not_used_is_believed_soon() -> None:
    learning = wrong_power(0.05, 2.0)
    assert learning.speed("odd") == pytest.approx(2.0, rel=0.1)
    for n in range(3):
        cost_s = learning.cost("/d", f"{n}.c")
        assert cost_s is not None
        learning.observe("/d", f"{n}.c", "odd", cost_s / 8.0, 30 * 86_400.0 + n)
    assert learning.speed("odd") == pytest.approx(8.0, rel=0.15)


def test_a_speed_that_nothing_confirms_becomes_unsure() -> None:
    learning = wrong_power(0.05, 2.0)
    at_once, later = (learning.confidence("odd", now) for now in (400.0, 400.0 + 7 * 86_400.0))
    assert at_once > 0.9
    assert later < 0.5
    assert wrong_power(0.05, 2.0, pinned=True).confidence("odd", 1e9) == 1.0


def test_a_pinned_power_index_stays() -> None:
    assert wrong_power(0.0, 6.0, pinned=True).speed("odd") == pytest.approx(6.0)


def test_one_compile_that_went_wrong_is_outvoted() -> None:
    learning = wrong_power(0.05, 2.0)
    before = learning.speed("odd")
    learning.observe("/d", "0.c", "odd", 3000.0, 500.0)
    for n in range(1, COMPILES_OF_HOST // 8):
        learning.observe("/d", f"{n}.c", "a", 1.0, 500.0 + n)
    assert learning.speed("odd") == pytest.approx(before, rel=0.1)


@pytest.mark.parametrize("took_s", [0.003, 300.0])
def test_one_compile_out_of_a_cache_hardly_changes_a_cost(took_s: float) -> None:
    learning = Learning()
    learning.declare("h", 1.0)
    for n in range(5):
        learning.observe("/d", "a.c", "h", 1.0, float(n))
    learning.observe("/d", "a.c", "h", took_s, 5.0)
    assert learning.cost("/d", "a.c") == pytest.approx(1.0, rel=0.15)


def test_a_build_is_remembered_in_its_order() -> None:
    learning = Learning()
    learning.declare("h", 1.0)
    for source in ("b.c", "a.c", "c.c"):
        learning.observe("/d", source, "h", 1.0, 1.0)
    learning.build_ended("/d", dict.fromkeys(("b.c", "a.c", "c.c")), 3)
    assert list(learning.outlook("/d")) == ["b.c", "a.c", "c.c"]
    assert learning.jobs("/d") == 3
    learning.build_ended("/d", {"a.c": None}, 1)  # a partial build is not the next one's outlook
    assert set(learning.outlook("/d")) == {"a.c", "b.c", "c.c"}
    assert learning.jobs("/d") == 3


def test_what_was_kept_is_learned_again() -> None:
    first = wrong_power(0.0, 6.0)
    first.observe_memory("/d", 900.0)
    compiles, forgotten, memory_mb = first.unsaved()
    assert forgotten == []
    again = Learning()
    again.restore(compiles, memory_mb | {"/gone": 5.0, "/d2": math.nan})
    assert again.unsaved() == ([], [], {})
    assert again.memory_mb("/d") == 900.0
    assert again.memory_mb("/gone") == again.memory_mb("/d2") == again.memory_mb("")
    again.declare("a", 2.0)
    again.declare("b", 2.0)
    again.declare("odd", 6.0)
    assert learned(again, 60) == pytest.approx(learned(first, 60), rel=0.3)
    assert len(again.outlook("/d")) == 60


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_module, "FILES_LIMIT", 10)
    learning = Learning()
    learning.declare("h", 1.0)
    for n in range(5):
        learning.observe("/rests", f"{n}.c", "h", 1.0, float(n))
    for n in range(9):
        learning.observe("/d", f"{n}.c", "h", 1.0, 10.0 + n)
    assert learning.outlook("/rests") == {}
    learning.build_ended("/d", dict.fromkeys(f"{n}.c" for n in range(9)), 1)
    learning.observe("/d", "0.c", "h", 1.0, 20.0)
    for n in range(9, 12):
        learning.observe("/d", f"{n}.c", "h", 1.0, 20.0 + n)
    assert learning.cost("/d", "0.c") is not None
    assert learning.cost("/d", "2.c") is None
    assert list(learning.outlook("/d")) == ["0.c", *(f"{n}.c" for n in range(3, 9))]
    forgotten = learning.unsaved().forgotten
    assert forgotten == [*(("/rests", f"{n}.c") for n in range(5)), ("/d", "1.c"), ("/d", "2.c")]


def test_speeds_are_learned_again_whichever_host_comes_first() -> None:
    """A pinned host holds the scale, and where it comes last it puts right those before it."""
    said = {"a": (1.0, False), "b": (1.0, False), "pinned": (3.0, True)}
    real = {"a": 6.0, "b": 2.0, "pinned": 3.0}
    chance = random.Random(6)
    first = Learning()
    for host, (power_index, pinned) in said.items():
        first.declare(host, power_index, pinned)
    for build in range(12):
        for n in range(60):
            host = list(real)[(n + build) % 3]
            took_s = (n + 1) / real[host] * math.exp(chance.gauss(0.0, 0.05))
            first.observe("/d", f"{n}.c", host, took_s, build * 100.0 + n)
    compiles = first.unsaved().compiles
    for order in itertools.permutations(said):
        again = Learning()
        again.restore(compiles, {})
        for host in order:
            again.declare(host, *said[host])
        for _ in range(3):  # as often as each host reports its load in six seconds
            speeds = {host: again.speed(host) for host in said}
        assert speeds == pytest.approx(real, rel=0.1)


def test_the_scale_of_speeds_does_not_run_away() -> None:
    """Each host follows the other, and what crowding costs one of them is not known well."""
    said = [("shared", 16, 4.0, 0.55), ("other", 16, 3.0, None)]
    files = parse_trace(TRACE.read_text(), str(TRACE))
    hosts = [
        Declaration(name, slots=slots, power_index=speed, actual_full=full)
        for name, slots, speed, full in said
    ]
    learning = Learning()
    simulation = Simulation(make_policy("earliest", learning, random.Random(1)), hosts)
    for _ in range(30):
        simulation.play([Build("user", "/home/user", files, 20)])
    for name, _, speed, _ in said:
        assert speed / 2.5 <= learning.speed(name) <= speed * 2.5


def test_memory_is_believed_at_once_when_it_is_more() -> None:
    learning = Learning()
    learning.declare("h", 1.0)
    learning.observe("/d", "a.c", "h", 1.0, 1.0)
    learning.observe_memory("/d", 900.0)
    assert learning.memory_mb("/d") == 900.0
    for memory_mb in (0.0, -5.0, math.nan, math.inf):
        learning.observe_memory("/d", memory_mb)
    assert learning.memory_mb("/d") == 900.0
    learning.observe_memory("/d", 100.0)
    assert 800.0 < learning.memory_mb("/d") < 900.0


def crowded(costs: float, noise: float, builds: int = 8) -> Learning:
    """Two quiet hosts and one that takes `costs` times as long when all its slots are in use."""
    chance = random.Random(4)
    learning = Learning()
    for host in ("a", "b", "shared"):
        learning.declare(host, 2.0)
    files = [math.exp(chance.gauss(0.0, 1.0)) for _ in range(60)]
    for build in range(builds):
        for n, cost_s in enumerate(files):
            host = ("a", "b", "shared")[(n + build) % 3]
            part = chance.random() if host == "shared" else 0.0
            took_s = cost_s / 2.0 * costs**part * math.exp(chance.gauss(0.0, noise))
            learning.observe("/d", f"{n}.c", host, took_s, build * 100.0 + n, part)
    return learning


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_what_crowding_costs_a_host_is_learned_and_not_taken_for_its_speed(noise: float) -> None:
    learning = crowded(1 / 0.6, noise)
    assert learning.full_part("shared") == pytest.approx(0.6, rel=0.1)
    assert learning.speed("shared") / learning.speed("a") == pytest.approx(1.0, rel=0.1)
    assert learning.cost("/d", "0.c") == pytest.approx(crowded(1.0, 0.0).cost("/d", "0.c"), rel=0.3)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_host_with_a_core_for_each_slot_is_not_taken_for_one_that_shares_them(
    noise: float,
) -> None:
    learning = crowded(1.0, noise)
    assert [learning.full_part(host) for host in ("a", "b", "shared")] == [1.0, 1.0, 1.0]


def test_one_host_alone_tells_what_crowding_costs_it() -> None:
    learning = Learning()
    learning.declare("alone", 4.0)
    for build in range(4):
        for n in range(12):
            took_s = 1.5 if build % 2 else 1.0
            learning.observe("/d", f"{n}.c", "alone", took_s, build * 60.0 + n, float(build % 2))
    assert learning.full_part("alone") == pytest.approx(1 / 1.5, rel=0.1)


def test_how_crowded_a_host_is() -> None:
    assert [crowding(in_use, 8) for in_use in (0, 4, 8, 12)] == [0.0, 0.0, 1.0, 1.0]
    assert 0.5 < crowding(6, 8) < 0.8
    assert crowding(1, 1) == crowding(0, 0) == 0.0
