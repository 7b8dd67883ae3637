"""How long builds take under `earliest`, beside the 2004 rule, over all traces and farms here.

Every build is played through the real core on a virtual clock, so these figures are the same on
every machine. A ratio is makespan to the lower bound that no schedule can beat.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.table import Row, Table
from compilefarm.hosts_info import parse_hosts_info
from compilefarm.learning import Learning
from compilefarm.model import Declaration
from compilefarm.placement.policies import make_policy
from compilefarm.simulate import Build, Result, Simulation
from compilefarm.trace import TracedFile, parse_trace

HERE = Path(__file__).parent
JOBS_PER_SLOT = (0.5, 1.0, 2.0)
BUILDERS = 4
# Of a third of the hosts, for the rows on wrong power indices.
WRONG_BY = 3.0
NOT_WORSE = 1.03


@dataclass(frozen=True, slots=True)
class _Case:
    hosts: Sequence[Declaration]
    files: Sequence[TracedFile]
    jobs: int

    def play(
        self, policy: str, builds: int = 1, builders: int = 1, *, wrong: bool = False
    ) -> list[Result]:
        chance = random.Random(1)
        hosts = _with_wrong_powers(self.hosts, chance) if wrong else self.hosts
        simulation = Simulation(make_policy(policy, Learning(), chance), hosts, chance=chance)
        made = [Build(f"user{n}", f"/home/user{n}", self.files, self.jobs) for n in range(builders)]
        return [simulation.play(made) for _ in range(builds)]


def measure(*, quick: bool) -> Table:
    """Return the section's table."""
    cases = list(_cases())[:: 5 if quick else 1]
    tier = [case.play("tier")[0].ratio for case in cases]
    builds = [[result.ratio for result in case.play("earliest", 3)] for case in cases]
    wrong = [case.play("earliest", 3, wrong=True)[-1].ratio for case in cases]
    together = [case.play("earliest", 2, BUILDERS)[-1].jain for case in cases]
    rows = [Row("the 2004 rule (tier)", _figures(tier))]
    for number, what, mean_limit, worst_limit in (
        (0, "first build", 1.45, 2.2),
        (1, "second build", 1.12, 1.65),
    ):
        ratios = [ratios[number] for ratios in builds]
        worse = sum(ours > NOT_WORSE * theirs for ours, theirs in zip(ratios, tier, strict=True))
        rows.append(
            Row(
                f"earliest, {what}",
                _figures(ratios),
                f"worse than tier in {worse}",
                _mean(ratios) / _mean(tier),
                f"mean {mean_limit}, worst {worst_limit}",
                _mean(ratios) <= mean_limit and max(ratios) <= worst_limit and not worse,
            )
        )
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
    rows.append(
        Row(
            f"{BUILDERS} builders at once: the least even share of the farm",
            f"{min(together):.4f}",
            "Jain's index, 1 is even",
            bound="at least 0.98",
            within=min(together) >= 0.98,
        )
    )
    return Table(
        "How long a build takes, to the time that no schedule can beat",
        rows,
        [f"{len(cases)} cases: traces x farms x -j of half, one and two times the slots"],
    )


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
