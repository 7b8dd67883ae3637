"""Learning from compiles: costs, speeds, crowding, builds, memory; and what it does not believe."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest

from compilefarm.core.learning.learning import Compile, Learning
from compilefarm.core.learning.observations import crowdedness
from compilefarm.core.placement.policies import make_policy
from compilefarm.protocol.declaration import Declaration
from compilefarm.simulate.simulation import SimulatedBuild, Simulation
from compilefarm.simulate.trace import parse_trace

TRACE = Path(__file__).parent.parent / "bench" / "traces" / "redis.csv"
DAY_S = 86_400.0
# Times that no compile takes.
IMPLAUSIBLE_S = [0.0, -1.0, math.nan, math.inf, 365 * DAY_S, 1e-9]


def costs(learning: Learning, files: int) -> list[float | None]:
    return [learning.cost("/d", f"{n}.c") for n in range(files)]


def test_a_file_costs_what_it_took_times_the_speed() -> None:
    learning = Learning()
    learning.declare("h", 4.0)
    assert learning.cost("/d", "a.c") is None
    learning.observe("/d", "a.c", "h", 0.5, 1.0)
    assert learning.cost("/d", "a.c") == pytest.approx(2.0)
    assert learning.cost("/elsewhere", "a.c") is None


@pytest.mark.parametrize("took_s", IMPLAUSIBLE_S)
def test_a_time_that_no_compile_takes_changes_nothing(took_s: float) -> None:
    learning = Learning()
    learning.declare("h", 4.0)
    learning.observe("/d", "a.c", "h", 0.5, 1.0)
    before = (learning.cost("/d", "a.c"), learning.speed("h"), learning.confidence("h", 2.0))
    learning.unsaved()
    for source in ("a.c", "new.c"):
        assert learning.observe("/d", source, "h", took_s, 2.0) == []
    assert (
        learning.cost("/d", "a.c"),
        learning.speed("h"),
        learning.confidence("h", 2.0),
    ) == before
    assert learning.cost("/d", "new.c") is None
    assert learning.unsaved() == ([], [], {}, [])


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
def test_a_wrong_power_index_is_corrected(declared: float, noise: float) -> None:
    learning = wrong_power(noise, declared)
    ratio = learning.speed("odd") / learning.speed("a")
    assert ratio == pytest.approx(1.0, rel=0.15)
    assert learning.confidence("odd", 400.0) > 0.5


def test_a_few_compiles_tell_that_a_host_changed_while_it_was_not_used() -> None:
    learning = wrong_power(0.05, 2.0)
    assert learning.speed("odd") == pytest.approx(2.0, rel=0.1)
    moved = []
    for n in range(3):
        cost_s = learning.cost("/d", f"{n}.c")
        assert cost_s is not None
        moved.append(learning.observe("/d", f"{n}.c", "odd", cost_s / 8.0, 30 * DAY_S + n))
    assert moved[0] == ["odd"]
    assert learning.speed("odd") == pytest.approx(8.0, rel=0.15)


def test_old_compiles_count_where_new_ones_say_nothing() -> None:
    learning = wrong_power(0.05, 6.0)
    learning.observe("/d", "of-no-other-host.c", "odd", 1.0, 30 * DAY_S)
    assert learning.speed("odd") == pytest.approx(learning.speed("a"), rel=0.1)


def test_a_speed_that_nothing_confirms_becomes_unsure() -> None:
    learning = wrong_power(0.05, 2.0)
    at_once, later = (learning.confidence("odd", now) for now in (400.0, 400.0 + 7 * DAY_S))
    assert at_once > 0.9
    assert later < 0.5
    assert wrong_power(0.05, 2.0, pinned=True).confidence("odd", 1e9) == 1.0


def test_a_pinned_power_index_stays() -> None:
    assert wrong_power(0.0, 6.0, pinned=True).speed("odd") == pytest.approx(6.0)


def test_one_compile_with_an_odd_time_is_outvoted() -> None:
    learning = wrong_power(0.05, 2.0)
    before = learning.speed("odd")
    learning.observe("/d", "0.c", "odd", 3000.0, 500.0)
    for n in range(1, 6):
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


def test_everything_is_learned_again_from_what_was_saved() -> None:
    first = wrong_power(0.0, 6.0)
    first.observe_memory("/d", 900.0)
    compiles, forgotten, memory_mb, _ = first.unsaved()
    assert forgotten == []
    again = Learning()
    again.restore(compiles, memory_mb | {"/gone": 5.0, "/d2": math.nan})
    assert again.unsaved() == ([], [], {}, [])
    assert again.memory_mb("/d") == 900.0
    assert again.memory_mb("/gone") == again.memory_mb("/d2") == again.memory_mb("")
    again.declare("a", 2.0)
    again.declare("b", 2.0)
    again.declare("odd", 6.0)
    assert costs(again, 60) == pytest.approx(costs(first, 60), rel=0.3)
    assert len(again.outlook("/d")) == 60


def test_the_number_of_files_is_bounded() -> None:
    learning = Learning(files_limit=10)
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


def test_the_directory_that_was_used_last_is_kept() -> None:
    learning = Learning(files_limit=4)
    learning.declare("h", 1.0)
    for directory in ("/used", "/rests"):
        for source in ("a.c", "b.c"):
            learning.observe(directory, source, "h", 1.0, 1.0)
    learning.build_ended("/used", {"a.c": None, "b.c": None}, 1)
    learning.observe("/new", "a.c", "h", 1.0, 2.0)
    known = {each for each in ("/used", "/rests") if learning.cost(each, "a.c") is not None}
    assert known == {"/used"}


def test_saved_nonsense_is_not_learned() -> None:
    learning = Learning()
    compiles = [Compile("/d", "a.c", "h", took_s, 1.0) for took_s in IMPLAUSIBLE_S]
    learning.restore(compiles, {"/d": math.nan})
    assert learning.cost("/d", "a.c") is None


def test_speeds_are_learned_again_whichever_host_comes_first() -> None:
    """A pinned host holds the scale. If it comes last, it corrects those before it."""
    declared = {"a": (1.0, False), "b": (1.0, False), "pinned": (3.0, True)}
    real = {"a": 6.0, "b": 2.0, "pinned": 3.0}
    chance = random.Random(6)
    first = Learning()
    for host, (power_index, pinned) in declared.items():
        first.declare(host, power_index, pinned)
    for build in range(12):
        for n in range(60):
            host = list(real)[(n + build) % 3]
            took_s = (n + 1) / real[host] * math.exp(chance.gauss(0.0, 0.05))
            first.observe("/d", f"{n}.c", host, took_s, build * 100.0 + n)
    compiles = first.unsaved().compiles
    for order in itertools.permutations(declared):
        again = Learning()
        again.restore(compiles, {})
        for host in order:
            again.declare(host, *declared[host])
        for _ in range(3):  # as often as each host reports its load in six seconds
            for host in declared:
                again.declare(host, *declared[host])
        speeds = {host: again.speed(host) for host in declared}
        assert speeds == pytest.approx(real, rel=0.1)


def test_hosts_that_are_declared_only_once_are_corrected_by_compiles_elsewhere() -> None:
    """Static hosts without load reports are. The pinned one comes last, and corrects them."""
    first = Learning()
    real = {"a": 6.0, "b": 2.0, "pinned": 1.0}
    for host in real:
        first.declare(host, 1.0, pinned=host == "pinned")
    for build in range(12):
        for n in range(60):
            host = list(real)[(n + build) % 3]
            first.observe("/d", f"{n}.c", host, (n + 1) / real[host], build * 100.0 + n)
    again = Learning()
    again.restore(first.unsaved().compiles, {})
    for host in real:
        again.declare(host, 1.0, pinned=host == "pinned")
    assert again.speed("a") == pytest.approx(1.0)  # as it was declared
    moved = {
        host
        for n in range(60)
        for host in again.observe("/d", f"{n}.c", "pinned", n + 1.0, 2000.0 + n)
    }
    assert moved == {"a", "b"}
    assert again.speed("a") > 3.0


def test_a_pinned_host_holds_the_scale_of_the_others() -> None:
    """They are all declared 30 times too fast. Without it, the declarations would hold it."""
    learning = Learning()
    real = {"pinned": 1.0, "a": 2.0, "b": 3.0, "c": 4.0}
    learning.declare("pinned", 1.0, pinned=True)
    for host in ("a", "b", "c"):
        learning.declare(host, 30.0 * real[host])
    for build in range(20):
        for n in range(40):
            host = list(real)[(n + build) % len(real)]
            learning.observe("/d", f"{n}.c", host, (n + 1) / real[host], build * 100.0 + n)
    assert {host: learning.speed(host) for host in real} == pytest.approx(real, rel=0.1)


def test_a_host_that_is_not_declared_says_nothing_of_costs() -> None:
    """After a restart its compiles are known, but not on which scale they were measured."""
    first = Learning()
    for host in ("gone", "here"):
        first.declare(host, 8.0 if host == "gone" else 1.0)
        first.observe("/d", "a.c", host, 1.0, 1.0)
    again = Learning()
    again.restore(first.unsaved().compiles, {})
    again.declare("here", 1.0)
    for n in range(20):
        again.observe("/d", f"{n}.c", "here", 1.5, 2.0 + n)
    again.observe("/d", "a.c", "here", 1.5, 30.0)
    # "here" compiled it in 1 and 1.5 seconds. At speed 1, "gone" would say 1 second, too.
    assert again.cost("/d", "a.c") == pytest.approx(math.sqrt(1.5), rel=0.01)


def test_a_speed_that_hardly_moves_is_not_reported_as_moved() -> None:
    learning = wrong_power(0.0, 2.0)
    assert learning.observe("/d", "0.c", "odd", 1e-3, 500.0) == []  # one compile of many
    times = {n: learning.cost("/d", f"{n}.c") for n in range(60)}
    moved: list[str] = []
    for n, cost_s in times.items():
        assert cost_s is not None
        moved += learning.observe("/d", f"{n}.c", "odd", cost_s / 2.0, 600.0 + n)
    assert moved == []
    for n, cost_s in times.items():
        assert cost_s is not None
        moved += learning.observe("/d", f"{n}.c", "odd", cost_s, 700.0 + n)
    assert "odd" in moved


def test_what_is_asked_changes_nothing() -> None:
    learning = wrong_power(0.05, 6.0)

    def answers() -> tuple[object, ...]:
        return (
            [(learning.speed(host), learning.full_part(host)) for host in ("a", "b", "odd")],
            [learning.confidence(host, 500.0) for host in ("a", "b", "odd")],
            costs(learning, 60),
            learning.outlook("/d"),
            learning.jobs("/d"),
            learning.memory_mb("/d"),
        )

    assert answers() == answers()


def test_the_scale_of_speeds_does_not_run_away() -> None:
    """Each host follows the other, and the crowding cost of one of them is not known well."""
    declared = [("shared", 16, 4.0, 0.55), ("other", 16, 3.0, None)]
    files = parse_trace(TRACE.read_text(), str(TRACE))
    hosts = [
        Declaration(name, slots=slots, power_index=speed, actual_full=full)
        for name, slots, speed, full in declared
    ]
    learning = Learning()
    simulation = Simulation(make_policy("earliest", learning, random.Random(1)), hosts)
    for _ in range(30):
        simulation.play([SimulatedBuild("user", "/home/user", files, 20)])
    for name, _, speed, _ in declared:
        assert speed / 2.5 <= learning.speed(name) <= speed * 2.5


def test_more_memory_is_believed_at_once_and_less_slowly() -> None:
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


def crowded(times: float, noise: float, builds: int = 8) -> Learning:
    """Two quiet hosts and one that takes `times` as long when all its slots are in use."""
    chance = random.Random(4)
    learning = Learning()
    for host in ("a", "b", "shared"):
        learning.declare(host, 2.0)
    files = [math.exp(chance.gauss(0.0, 1.0)) for _ in range(60)]
    for build in range(builds):
        for n, cost_s in enumerate(files):
            host = ("a", "b", "shared")[(n + build) % 3]
            part = chance.random() if host == "shared" else 0.0
            took_s = cost_s / 2.0 * times**part * math.exp(chance.gauss(0.0, noise))
            learning.observe("/d", f"{n}.c", host, took_s, build * 100.0 + n, part)
    return learning


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_crowding_cost_is_learned_and_not_mistaken_for_speed(noise: float) -> None:
    learning = crowded(1 / 0.6, noise)
    assert learning.full_part("shared") == pytest.approx(0.6, rel=0.1)
    assert learning.speed("shared") / learning.speed("a") == pytest.approx(1.0, rel=0.1)
    assert learning.cost("/d", "0.c") == pytest.approx(crowded(1.0, 0.0).cost("/d", "0.c"), rel=0.3)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_host_with_a_core_for_each_slot_has_no_crowding_cost(
    noise: float,
) -> None:
    learning = crowded(1.0, noise)
    assert [learning.full_part(host) for host in ("a", "b", "shared")] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("times", [1.02, 1.07])
def test_all_slots_count_alike_where_crowding_costs_little(times: float) -> None:
    assert crowded(times, 0.0).full_part("shared") == 1.0


def test_a_cost_is_that_of_a_host_with_slots_to_spare() -> None:
    learning = crowded(2.0, 0.0)
    learning.observe("/d", "new.c", "shared", 2.0, 1000.0, 1.0)
    assert learning.cost("/d", "new.c") == pytest.approx(learning.speed("shared"), rel=0.1)


def test_a_host_that_is_alone_tells_its_crowding_cost() -> None:
    learning = Learning()
    learning.declare("alone", 4.0)
    for build in range(4):
        for n in range(12):
            took_s = 1.5 if build % 2 else 1.0
            learning.observe("/d", f"{n}.c", "alone", took_s, build * 60.0 + n, float(build % 2))
    assert learning.full_part("alone") == pytest.approx(1 / 1.5, rel=0.1)


def test_crowdedness_grows_from_half_of_the_slots_to_all() -> None:
    assert [crowdedness(in_use, 8) for in_use in (0, 4, 8, 12)] == [0.0, 0.0, 1.0, 1.0]
    assert 0.5 < crowdedness(6, 8) < 0.8
    assert crowdedness(1, 1) == crowdedness(0, 0) == 0.0
