"""simulate-farm: the figures that placement promises, and the errors for bad files."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import unlike
from compilefarm.core.learning.learning import Learning
from compilefarm.core.placement.policies import make_policy
from compilefarm.protocol.declaration import Declaration
from compilefarm.protocol.hosts_info import parse_hosts_info
from compilefarm.simulate.bounds import jain_index, lower_bound_s
from compilefarm.simulate.simulation import Result, SimulatedBuild, Simulation
from compilefarm.simulate.trace import ForeignLoad, TracedFile, parse_trace

BENCH = Path(__file__).parent.parent / "bench"
TRACES = {path.stem: path for path in sorted((BENCH / "traces").glob("*.csv"))}
FARMS = {path.stem: path for path in sorted((BENCH / "farms").glob("*.txt"))}


def play(
    policy: str,
    hosts: Sequence[Declaration],
    files: list[TracedFile],
    jobs: int,
    *,
    builds: int = 1,
    builders: int = 1,
    load: tuple[ForeignLoad, ...] = (),
) -> list[Result]:
    chance = random.Random(1)
    simulation = Simulation(make_policy(policy, Learning(), chance), hosts, load, 0.0, chance)
    made = [SimulatedBuild(f"user{n}", f"/home/user{n}", files, jobs) for n in range(builders)]
    return [simulation.play(made) for _ in range(builds)]


def mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def cases() -> list[tuple[Sequence[Declaration], list[TracedFile], int]]:
    found: list[tuple[Sequence[Declaration], list[TracedFile], int]] = []
    for trace in TRACES.values():
        for farm in FARMS.values():
            hosts = parse_hosts_info(farm.read_text(), str(farm))
            slots = sum(host.slots or 1 for host in hosts)
            files = parse_trace(trace.read_text(), str(trace))
            found += [(hosts, files, max(1, int(part * slots))) for part in (0.5, 1, 2)]
    return found


@pytest.mark.slow
def test_builds_are_as_good_as_promised() -> None:
    first, second, tier = [], [], []
    for hosts, files, jobs in cases():
        tier.append(play("tier", hosts, files, jobs)[0].ratio)
        cold, warm = play("earliest", hosts, files, jobs, builds=2)
        first.append(cold.ratio)
        second.append(warm.ratio)
    assert mean(first) <= 1.45
    assert max(first) <= 2.2
    assert mean(second) <= 1.12
    assert max(second) <= 1.65
    for ours in (first, second):
        assert all(one <= 1.03 * theirs for one, theirs in zip(ours, tier, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_no_first_build_is_worse_than_the_fastest_free_cpu(seed: int) -> None:
    """Its costs are unknown, and backups take only slots that would be idle."""
    for hosts in unlike.farms(seed).values():
        slots = sum(host.slots or 1 for host in hosts)
        for files in unlike.traces(seed).values():
            for jobs in (max(1, slots // 2), slots):
                first = play("earliest", hosts, files, jobs)[0].makespan_s
                assert first <= 1.03 * play("tier", hosts, files, jobs)[0].makespan_s


@pytest.mark.slow
def test_users_share_the_farm_evenly_and_lose_nothing_by_it() -> None:
    """Four builders are compared with one that has the same work and as many compiles at once."""
    slower: list[list[float]] = [[], []]
    for hosts, files, jobs in cases():
        four = play("earliest", hosts, files, jobs, builders=4, builds=2)
        all_files = [
            TracedFile(f"{n}/{file.source}", file.cost_s) for file in files for n in range(4)
        ]
        one = play("earliest", hosts, all_files, 4 * jobs, builds=2)
        for number in (0, 1):
            assert four[number].jain >= 0.98
            slower[number].append(four[number].makespan_s / one[number].makespan_s)
    assert mean(slower[0]) <= 1.05
    assert mean(slower[1]) <= 1.05


@pytest.mark.slow
def test_wrong_power_indices_hardly_matter_from_the_third_build_on() -> None:
    chance = random.Random(5)
    right, wrong = [], []
    for hosts, files, jobs in cases():
        odd = chance.sample(range(len(hosts)), len(hosts) // 3)
        said = []
        for number, host in enumerate(hosts):
            power_index = host.power_index or 1.0
            factor = chance.choice((3.0, 1 / 3)) if number in odd else 1.0
            said.append(
                Declaration(
                    host.host,
                    slots=host.slots,
                    power_index=power_index * factor,
                    actual_power_index=power_index,
                )
            )
        right.append(play("earliest", hosts, files, jobs, builds=3)[-1].ratio)
        wrong.append(play("earliest", said, files, jobs, builds=3)[-1].ratio)
    assert mean(wrong) <= 1.10 * mean(right)


def test_no_file_waits_for_a_slot_that_no_lease_will_free() -> None:
    """A file that fits nowhere in time starts on the fastest free slot, if none faster is busy."""
    chance = random.Random(2)
    speeds = [8.0 ** chance.random() for _ in range(200)]
    hosts = [Declaration(f"h{n}", slots=2, power_index=speed) for n, speed in enumerate(speeds)]
    files = [TracedFile(f"{n}.c", chance.choice((0.05, 0.05, 0.05, 2.0))) for n in range(120)]
    assert play("earliest", hosts, files, 400, builds=2)[-1].ratio <= 1.2


def test_like_files_do_not_all_wait_for_the_same_fast_slot() -> None:
    speeds = [(2, 16.0), (8, 8.0), (16, 4.0), (32, 1.0)]
    hosts = [
        Declaration(f"h{n}", slots=slots, power_index=speed)
        for n, (slots, speed) in enumerate(speeds)
    ]
    files = [TracedFile(f"{n}.c", 2.0 if n % 4 == 0 else 0.05) for n in range(120)]
    assert play("earliest", hosts, files, 58, builds=2)[-1].ratio <= 1.6


def test_a_file_on_a_slow_slot_does_not_justify_a_slower_one() -> None:
    """Best is: three files on each fast slot, and the last four on slots half as fast."""
    speeds = [(32, 5.0), (8, 2.0), (8, 1.8), (8, 1.6), (8, 1.4), (8, 1.2), (8, 1.0)]
    hosts = [
        Declaration(f"h{n}", slots=slots, power_index=speed)
        for n, (slots, speed) in enumerate(speeds)
    ]
    files = [TracedFile(f"{n}.c", 0.4) for n in range(100)]
    assert play("earliest", hosts, files, 80, builds=2)[-1].makespan_s <= 0.26


def test_a_host_gets_no_files_two_seconds_after_its_owner_is_back() -> None:
    hosts = [
        Declaration("desk", slots=4, power_index=8.0),
        Declaration("other", slots=4, power_index=2.0),
    ]
    files = [TracedFile(f"{n}.c", 2.0) for n in range(400)]
    load = (ForeignLoad(5.0, "desk", 4.0), ForeignLoad(25.0, "desk", 0.0))
    free = play("earliest", hosts, files, 8)[0].makespan_s
    without = play("earliest", hosts[1:], files, 8)[0].makespan_s
    loaded = play("earliest", hosts, files, 8, load=load)[0].makespan_s
    # For 20 s only the other host works. Noticing takes 2 s at most, at the beginning and the end.
    lost_s = 20.0 * (1 - free / without)
    assert free + lost_s - 1.0 <= loaded <= free + lost_s + 4.0


def test_a_long_first_build_uses_slots_that_a_short_one_leaves_alone() -> None:
    hosts = [Declaration("a", slots=1, power_index=3.0), Declaration("b", slots=1, power_index=1.0)]
    files = [TracedFile(f"{n}.c", 0.4) for n in range(200)]
    assert play("earliest", hosts, files, 2)[0].ratio <= 1.05
    assert play("earliest", hosts, files[:4], 2)[0].ratio <= 1.35


def test_a_host_that_became_fast_is_found_again() -> None:
    """It was slow, so it is not used. A short file is sent there to measure it."""
    files = parse_trace(TRACES["redis"].read_text(), "redis")
    learning = Learning()
    builds = [SimulatedBuild("user", "/home/user", files, 8)]

    def farm(speed: float, now: float) -> Simulation:
        hosts = [
            Declaration("a", slots=4, power_index=4.0),
            Declaration("b", slots=4, power_index=4.0),
            Declaration("c", slots=4, power_index=1.0, actual_power_index=speed),
        ]
        return Simulation(make_policy("earliest", learning, random.Random(1)), hosts, now=now)

    before = farm(1.0, 0.0)
    was = [before.play(builds).makespan_s for _ in range(3)]
    assert learning.speed("c") == pytest.approx(1.0, rel=0.1)
    assert was[2] <= 1.01 * was[0]  # measuring costs next to nothing
    after = farm(12.0, 7 * 86_400.0)
    now = [after.play(builds).makespan_s for _ in range(2)]
    assert learning.speed("c") == pytest.approx(12.0, rel=0.1)
    assert now[1] <= 0.5 * was[2]


def test_slots_that_share_cores_are_used_last_once_this_is_learned() -> None:
    """With one compile for two slots, other hosts are better than these hosts' later slots."""
    said = [("a", 16, 4.0, 0.55), ("b", 16, 3.0, None), ("c", 8, 2.0, 0.7)]
    files = parse_trace(TRACES["redis"].read_text(), "redis")
    ratios = {}
    for pinned in (True, False):  # of a pinned host nothing is learned
        hosts = [
            Declaration(name, slots=slots, power_index=speed, actual_full=full, pinned=pinned)
            for name, slots, speed, full in said
        ]
        ratios[pinned] = play("earliest", hosts, files, 20, builds=5)[-1].ratio
    assert ratios[False] <= 0.9 * ratios[True]


def test_the_lower_bound() -> None:
    assert lower_bound_s([6.0, 1.0, 1.0], [2.0, 1.0], 2) == pytest.approx(3.0)
    assert lower_bound_s([1.0] * 9, [2.0, 1.0, 1.0], 2) == pytest.approx(3.0)
    assert jain_index([1.0, 1.0, 1.0]) == pytest.approx(1.0)
    assert jain_index([1.0, 0.0]) == pytest.approx(0.5)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "compilefarm.simulate.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_program_prints_json() -> None:
    done = run(
        *("--hosts-info", FARMS["office"], "--trace", TRACES["lua"], "--jobs", 8),
        *("--builders", 2, "--builds", 2, "--json"),
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert len(figures["builds"]) == 2
    build = figures["builds"][1]
    assert build["ratio"] == pytest.approx(build["makespan_s"] / build["lower_bound_s"], rel=1e-3)
    assert [user["user"] for user in build["users"]] == ["user1", "user2"]


def test_errors_in_files_name_file_line_and_column(tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("source,compile_s\na.c,0\n")
    done = run("--hosts-info", FARMS["office"], "--trace", bad, "--jobs", 8)
    assert done.returncode == 1
    assert f"{bad}:2: column compile_s" in done.stderr
    assert run("--hosts-info", FARMS["office"], "--trace", tmp_path, "--jobs", 8).returncode == 1
    assert run("--hosts-info", FARMS["office"], "--trace", bad).returncode == 2
    bad.write_text("time_s,host,foreign_cpus\n1,nobody,1\n")
    files = ("--hosts-info", FARMS["office"], "--trace", TRACES["lua"], "--load", bad)
    done = run(*files, "--jobs", 8)
    assert f"{bad}:2: column host: nobody is not in the farm" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--jobs", "0"),
        ("--jobs", "9" * 5000),
        ("--jobs", "8", "--noise", "nan"),
        ("--jobs", "8", "--replay"),
        ("--replay", "--builders", "2"),
        ("--jobs", "8", "--policy", "best"),
    ],
)
def test_a_wrong_option_is_one_line(arguments: tuple[str, ...]) -> None:
    done = run("--hosts-info", FARMS["office"], "--trace", TRACES["lua"], *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_a_trace_need_not_be_utf_8(tmp_path: Path) -> None:
    latin = tmp_path / "latin.csv"
    latin.write_bytes("source,compile_s\nMüller.c,1\n".encode("latin-1"))
    assert run("--hosts-info", FARMS["office"], "--trace", latin, "--jobs", 8).returncode == 0


def test_a_reader_that_stops_reading_causes_no_message() -> None:
    command = [
        sys.executable,
        "-m",
        "compilefarm.simulate.main",
        "--hosts-info",
        str(FARMS["office"]),
    ]
    with subprocess.Popen(
        [*command, "--trace", str(TRACES["lua"]), "--jobs", "8"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE
