"""How long builds take under `earliest`, beside the 2004 rule, over all traces and farms here.

And over some that are drawn by chance (`unlike`), on which nothing was tuned.

Every build is played through the real core on a virtual clock, so these figures are the same on
every machine. A ratio is makespan to the lower bound that no schedule can beat.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import unlike
from bench.table import Row, Table
from compilefarm.core.learning.learning import Learning
from compilefarm.core.placement.policies import make_policy
from compilefarm.protocol.declaration import Declaration
from compilefarm.protocol.hosts_info import parse_hosts_info
from compilefarm.simulate.simulation import Result, SimulatedBuild, Simulation
from compilefarm.simulate.trace import ForeignLoad, TracedFile, parse_trace

HERE = Path(__file__).parent
JOBS_PER_SLOT = (0.5, 1.0, 2.0)
BUILDERS = 4
SEED = 11  # of farms and traces by chance: another one than any that placement was tuned on
WEEK_S = 7 * 86_400.0
# Of a third of the hosts, for the rows on wrong power indices.
WRONG_BY = 3.0
NOT_WORSE = 1.03


@dataclass(frozen=True, slots=True)
class _Case:
    hosts: Sequence[Declaration]
    files: Sequence[TracedFile]
    jobs: int

    def play(
        self,
        policy: str,
        builds: int = 1,
        builders: int = 1,
        *,
        wrong: bool = False,
        backups: bool = True,
    ) -> list[Result]:
        chance = random.Random(1)
        hosts = _with_wrong_powers(self.hosts, chance) if wrong else self.hosts
        made_policy = make_policy(policy, Learning(), chance, backups=backups)
        simulation = Simulation(made_policy, hosts, chance=chance)
        made = [
            SimulatedBuild(f"user{n}", f"/home/user{n}", self.files, self.jobs)
            for n in range(builders)
        ]
        return [simulation.play(made) for _ in range(builds)]

    def play_clone(self) -> Result:
        """Play a first build in another directory than the one in which the files are known."""
        chance = random.Random(1)
        simulation = Simulation(
            make_policy("earliest", Learning(), chance), self.hosts, chance=chance
        )
        for directory in ("/home/user", "/ci/job-1"):
            result = simulation.play([SimulatedBuild("user", directory, self.files, self.jobs)])
        return result


def measure(*, quick: bool) -> Table:
    """Return the section's table."""
    cases = list(_cases())[:: 5 if quick else 1]
    tier = [case.play("tier")[0].ratio for case in cases]
    builds = [[result.ratio for result in case.play("earliest", 3)] for case in cases]
    wrong = [case.play("earliest", 3, wrong=True)[-1].ratio for case in cases]
    rows = [
        Row("the 2004 rule (tier)", _figures(tier)),
        _build("first build", [each[0] for each in builds], tier, (1.45, 2.2)),
        _build(
            "first build, without backups",
            [case.play("earliest", backups=False)[0].ratio for case in cases],
            tier,
        ),
        _build("second build", [each[1] for each in builds], tier, (1.12, 1.65)),
        _build("first build in a clone", [case.play_clone().ratio for case in cases], tier),
    ]
    right = [ratios[2] for ratios in builds]
    against = _mean(wrong) / _mean(right)
    rows.append(
        Row(
            f"third build, a third of the power indices wrong by {WRONG_BY:g}",
            _figures(wrong),
            f"with true ones {_mean(right):.3f}",
            against,
            "at most 1.10",
            against <= 1.10,
        )
    )
    rows += _together(cases)
    rows.append(_crowded())
    rows.append(_found_again())
    rows.append(_owner_back())
    unlike_cases = list(_unlike_cases())[:: 40 if quick else 1]
    unlike_tier = [case.play("tier")[0].ratio for case in unlike_cases]
    unlike_builds = [[result.ratio for result in case.play("earliest", 2)] for case in unlike_cases]
    rows.append(Row(f"{len(unlike_cases)} cases by chance: tier", _figures(unlike_tier)))
    for number, what in enumerate(("first build", "second build")):
        rows.append(
            _build(f"by chance, {what}", [each[number] for each in unlike_builds], unlike_tier)
        )
    return Table(
        "How long a build takes, to the time that no schedule can beat",
        rows,
        [f"{len(cases)} cases: traces x farms x -j of half, one and two times the slots"],
    )


def _build(
    what: str,
    ratios: Sequence[float],
    tier: Sequence[float],
    limits: tuple[float, float] | None = None,
) -> Row:
    """Return a row that holds ratios against tier's; `limits` are for the mean and the worst."""
    worse = sum(ours > NOT_WORSE * theirs for ours, theirs in zip(ratios, tier, strict=True))
    within = None
    if limits is not None:
        within = _mean(ratios) <= limits[0] and max(ratios) <= limits[1] and not worse
    return Row(
        f"earliest, {what}",
        _figures(ratios),
        f"worse than tier in {worse} of {len(ratios)}",
        _mean(ratios) / _mean(tier),
        f"mean {limits[0]}, worst {limits[1]}, none worse" if limits is not None else "",
        within,
    )


def _together(cases: Sequence[_Case]) -> Iterator[Row]:
    """Yield rows on several builders at once, beside one who does all their work."""
    least = 1.0
    slower: tuple[list[float], list[float]] = ([], [])
    for case in cases:
        together = case.play("earliest", 2, BUILDERS)
        all_files = [
            TracedFile(f"{number}/{file.source}", file.cost_s)
            for file in case.files
            for number in range(BUILDERS)
        ]
        alone = _Case(case.hosts, all_files, BUILDERS * case.jobs).play("earliest", 2)
        for number in (0, 1):
            least = min(least, together[number].jain)
            slower[number].append(together[number].makespan_s / alone[number].makespan_s)
    yield Row(
        f"{BUILDERS} builders at once: the least even share of the farm",
        f"{least:.4f}",
        "Jain's index, 1 is even",
        bound="at least 0.98",
        within=least >= 0.98,
    )
    for figures, what in zip(slower, ("first", "second"), strict=True):
        yield Row(
            f"{BUILDERS} builders' {what} builds, to one of the same work",
            _figures(figures),
            f"one with {BUILDERS} times the -j",
            _mean(figures),
            "at most 1.05",
            _mean(figures) <= 1.05,
        )


def _crowded() -> Row:
    """Return a row on slots that share cores, beside the same where nothing may be learned."""
    files = _trace("redis")
    times_s = []
    for pinned in (False, True):
        hosts = [
            Declaration(name, slots=slots, power_index=speed, actual_full=full, pinned=pinned)
            for name, slots, speed, full in (
                ("a", 16, 4.0, 0.55),
                ("b", 16, 3.0, None),
                ("c", 8, 2.0, 0.7),
            )
        ]
        times_s.append(_Case(hosts, files, 20).play("earliest", 5)[-1].makespan_s)
    learned_s, blind_s = times_s
    return Row(
        "slots that share cores, fifth build",
        f"{learned_s:.2f} s",
        f"not learned {blind_s:.2f} s",
        learned_s / blind_s,
    )


def _found_again() -> Row:
    """Return a row on a host that was slow, and is fast after a week in which nobody used it."""
    learning, chance = Learning(), random.Random(1)
    build = [SimulatedBuild("user", "/home/user", _trace("redis"), 8)]
    times_s = []
    for actual, now in ((1.0, 0.0), (12.0, WEEK_S)):
        hosts = [Declaration(name, slots=4, power_index=4.0) for name in ("a", "b")]
        hosts.append(Declaration("c", slots=4, power_index=1.0, actual_power_index=actual))
        policy = make_policy("earliest", learning, chance)
        simulation = Simulation(policy, hosts, chance=chance, now=now)
        times_s.append([simulation.play(build).makespan_s for _ in range(2)][-1])
    return Row(
        "a slow host became 12 times as fast: second build",
        f"{times_s[1]:.2f} s",
        f"before {times_s[0]:.2f} s",
        times_s[1] / times_s[0],
    )


def _owner_back() -> Row:
    """Return a row on a first build during which the owners of two hosts came back to work."""
    chance = random.Random(7)
    files = [TracedFile(f"{number}.c", 5.0 + 20.0 * chance.random()) for number in range(300)]
    path = HERE / "farms" / "office.txt"
    hosts = parse_hosts_info(path.read_text(), str(path))
    load = [ForeignLoad(10.0, "server1", 16.0), ForeignLoad(12.0, "desk1", 8.0)]
    times_s = []
    for backups in (True, False):
        policy = make_policy("earliest", Learning(), random.Random(1), backups=backups)
        simulation = Simulation(policy, hosts, load, chance=random.Random(1))
        build = SimulatedBuild("user", "/home/user", files, 96)
        times_s.append(simulation.play([build]).makespan_s)
    return Row(
        "two owners came back in the middle of a first build",
        f"{times_s[0]:.1f} s",
        f"no backups {times_s[1]:.1f} s",
        times_s[0] / times_s[1],
    )


def _unlike_cases() -> Iterator[_Case]:
    for files in unlike.traces(SEED).values():
        for hosts in unlike.farms(SEED).values():
            slots = sum(host.slots or 1 for host in hosts)
            for part in JOBS_PER_SLOT:
                yield _Case(hosts, files, max(1, int(part * slots)))


def _trace(name: str) -> list[TracedFile]:
    path = HERE / "traces" / f"{name}.csv"
    return parse_trace(path.read_text(), str(path))


def _cases() -> Iterator[_Case]:
    for trace in sorted((HERE / "traces").glob("*.csv")):
        files = parse_trace(trace.read_text(), str(trace))
        for farm in sorted((HERE / "farms").glob("*.txt")):
            hosts = parse_hosts_info(farm.read_text(), str(farm))
            slots = sum(host.slots or 1 for host in hosts)
            for part in JOBS_PER_SLOT:
                yield _Case(hosts, files, max(1, int(part * slots)))


def _with_wrong_powers(hosts: Sequence[Declaration], chance: random.Random) -> list[Declaration]:
    odd = set(chance.sample(range(len(hosts)), len(hosts) // 3))
    said = []
    for number, host in enumerate(hosts):
        power_index = host.power_index or 1.0
        factor = chance.choice((WRONG_BY, 1 / WRONG_BY)) if number in odd else 1.0
        said.append(
            Declaration(
                host.host,
                slots=host.slots,
                power_index=power_index * factor,
                actual_power_index=power_index,
            )
        )
    return said


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _figures(ratios: Sequence[float]) -> str:
    return f"mean {_mean(ratios):.3f}, worst {max(ratios):.2f}"
