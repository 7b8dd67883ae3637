"""What placement is measured on: a farm, a trace and a -j, played under a policy.

The standard cases are the recorded traces on the described farms; the others are drawn by chance
(`unlike`). Every build is played through the real core on a virtual clock, so that a figure is the
same on every machine.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench import unlike
from compilefarm.core.placement.policy import Policy
from compilefarm.protocol.declaration import Declaration
from compilefarm.protocol.hosts_info import parse_hosts_info
from compilefarm.simulate.simulation import Result, SimulatedBuild, Simulation
from compilefarm.simulate.trace import TracedFile, parse_trace

HERE = Path(__file__).parent
JOBS_PER_SLOT = (0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Case:
    """One make: `files` built with -j`jobs` on a farm of `hosts`."""

    name: str
    hosts: Sequence[Declaration]
    files: Sequence[TracedFile]
    jobs: int

    def play(
        self, policy: Policy, *, builds: int = 1, builders: int = 1, noise: float = 0.0
    ) -> list[Result]:
        """Play that many builds, one after the other, each by that many builders at once.

        `noise` is the standard deviation of the logarithm of a compile's time, from one build to
        the next. A compile takes the same time under every policy, so that policies compare.
        """
        simulation = Simulation(policy, self.hosts, chance=random.Random(1))
        return [
            simulation.play([self._build(number, builder, noise) for builder in range(builders)])
            for number in range(builds)
        ]

    def play_in(self, policy: Policy, directories: Sequence[str]) -> Result:
        """Play a build in each directory, one after the other; return the last one's result."""
        simulation = Simulation(policy, self.hosts, chance=random.Random(1))
        for directory in directories:
            result = simulation.play([SimulatedBuild("user", directory, self.files, self.jobs)])
        return result

    def by_one(self, builders: int) -> Case:
        """Return the case in which one builder does the work of that many, with all their jobs."""
        files = [
            TracedFile(f"{number}/{file.source}", file.cost_s)
            for file in self.files
            for number in range(builders)
        ]
        return replace(self, files=files, jobs=builders * self.jobs)

    def _build(self, number: int, builder: int, noise: float) -> SimulatedBuild:
        files = self.files
        if noise:
            chance = random.Random(f"{self.name}, build {number} of builder {builder}")
            files = [
                TracedFile(file.source, file.cost_s * math.exp(chance.gauss(0.0, noise)))
                for file in files
            ]
        return SimulatedBuild(f"user{builder}", f"/home/user{builder}", files, self.jobs)


def standard() -> Iterator[Case]:
    """Yield the 30 cases on which placement was tuned: every recorded trace on every farm here."""
    for trace in sorted((HERE / "traces").glob("*.csv")):
        for farm in sorted((HERE / "farms").glob("*.txt")):
            hosts = parse_hosts_info(farm.read_text(), str(farm))
            yield from _with_jobs(f"{trace.stem} on {farm.stem}", hosts, recorded(trace.stem))


def by_chance(seed: int) -> Iterator[Case]:
    """Yield 192 cases drawn by chance, on which nothing was tuned."""
    for trace, files in unlike.traces(seed).items():
        for farm, hosts in unlike.farms(seed).items():
            yield from _with_jobs(f"{trace} on {farm}, seed {seed}", hosts, files)


def recorded(trace: str) -> list[TracedFile]:
    """Return the files of a recorded trace."""
    path = HERE / "traces" / f"{trace}.csv"
    return parse_trace(path.read_text(), str(path))


def mean(ratios: Sequence[float]) -> float:
    """Return the geometric mean."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _with_jobs(
    name: str, hosts: Sequence[Declaration], files: Sequence[TracedFile]
) -> Iterator[Case]:
    slots = sum(host.slots or 1 for host in hosts)
    for part in JOBS_PER_SLOT:
        jobs = max(1, int(part * slots))
        yield Case(f"{name}, -j{jobs}", hosts, files, jobs)
