"""How long builds take under `earliest`, beside the 2004 rule, over all traces and farms here.

And over some that are drawn by chance (`unlike`), on which nothing was tuned.

Every build is played through the real core on a virtual clock, so these figures are the same on
every machine. A ratio is makespan to the lower bound that no schedule can beat.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench.cases import Case, by_chance, mean, recorded, standard
from bench.table import Row, Table
from compilefarm.core.learning.learning import Learning
from compilefarm.core.placement.earliest.policy import EarliestPolicy
from compilefarm.core.placement.policy import Policy
from compilefarm.core.placement.tier import TierPolicy
from compilefarm.protocol.declaration import Declaration
from compilefarm.protocol.hosts_info import parse_hosts_info
from compilefarm.simulate.simulation import Result, SimulatedBuild, Simulation
from compilefarm.simulate.trace import ForeignLoad, TracedFile

HERE = Path(__file__).parent
BUILDERS = 4
SEED = 11  # of farms and traces by chance: another one than any that placement was tuned on
WEEK_S = 7 * 86_400.0
# Of a third of the hosts, for the rows on wrong power indices.
WRONG_BY = 3.0
NOT_WORSE = 1.03


def measure(*, quick: bool) -> Table:
    """Return the section's table."""
    cases = list(standard())[:: 5 if quick else 1]
    tier = [case.play(TierPolicy())[0].ratio for case in cases]
    builds = [[result.ratio for result in case.play(_earliest(), builds=3)] for case in cases]
    wrong = [with_wrong_powers(case).play(_earliest(), builds=3)[-1].ratio for case in cases]
    rows = [
        Row("the 2004 rule (tier)", _figures(tier)),
        _build("first build", [each[0] for each in builds], tier, (1.45, 2.2)),
        _build(
            "first build, without backups",
            [case.play(EarliestPolicy(Learning(), backups=False))[0].ratio for case in cases],
            tier,
        ),
        _build("second build", [each[1] for each in builds], tier, (1.12, 1.65)),
        _build("first build in a clone", [clone(case, _earliest()).ratio for case in cases], tier),
    ]
    right = [ratios[2] for ratios in builds]
    against = mean(wrong) / mean(right)
    rows.append(
        Row(
            f"third build, a third of the power indices wrong by {WRONG_BY:g}",
            _figures(wrong),
            f"with true ones {mean(right):.3f}",
            against,
            "at most 1.10",
            against <= 1.10,
        )
    )
    rows += _together(cases)
    rows.append(_crowded())
    rows.append(_found_again())
    rows.append(_owners_back())
    unlike_cases = list(by_chance(SEED))[:: 40 if quick else 1]
    unlike_tier = [case.play(TierPolicy())[0].ratio for case in unlike_cases]
    unlike_builds = [
        [result.ratio for result in case.play(_earliest(), builds=2)] for case in unlike_cases
    ]
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
        within = mean(ratios) <= limits[0] and max(ratios) <= limits[1] and not worse
    return Row(
        f"earliest, {what}",
        _figures(ratios),
        f"worse than tier in {worse} of {len(ratios)}",
        mean(ratios) / mean(tier),
        f"mean {limits[0]}, worst {limits[1]}, none worse" if limits is not None else "",
        within,
    )


def _together(cases: Sequence[Case]) -> Iterator[Row]:
    """Yield rows on several builders at once, beside one who does all their work."""
    least = 1.0
    slower: tuple[list[float], list[float]] = ([], [])
    for case in cases:
        together = case.play(_earliest(), builds=2, builders=BUILDERS)
        alone = case.by_one(BUILDERS).play(_earliest(), builds=2)
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
            mean(figures),
            "at most 1.05",
            mean(figures) <= 1.05,
        )


def _crowded() -> Row:
    learned_s = crowded_s(_earliest())
    blind_s = crowded_s(_earliest(), pinned=True)
    return Row(
        "slots that share cores, fifth build",
        f"{learned_s:.2f} s",
        f"not learned {blind_s:.2f} s",
        learned_s / blind_s,
    )


def crowded_s(policy: Policy, *, pinned: bool = False) -> float:
    """Return how long a fifth build takes where slots share cores; if `pinned`, none is learned."""
    hosts = [
        Declaration(name, slots=slots, power_index=speed, actual_full=full, pinned=pinned)
        for name, slots, speed, full in (
            ("a", 16, 4.0, 0.55),
            ("b", 16, 3.0, None),
            ("c", 8, 2.0, 0.7),
        )
    ]
    case = Case("slots that share cores", hosts, recorded("redis"), 20)
    return case.play(policy, builds=5)[-1].makespan_s


def _found_again() -> Row:
    before_s, after_s = found_again_s(EarliestPolicy)
    return Row(
        "a slow host became 12 times as fast: second build",
        f"{after_s:.2f} s",
        f"before {before_s:.2f} s",
        after_s / before_s,
    )


def found_again_s(make: Callable[[Learning], Policy]) -> tuple[float, float]:
    """Return how long second builds take: while a host is slow, and when it has become fast.

    In between is a week in which nothing was compiled. `make` returns a policy that learns there.
    """
    learning = Learning()
    build = [SimulatedBuild("user", "/home/user", recorded("redis"), 8)]
    times_s = []
    for actual, now in ((1.0, 0.0), (12.0, WEEK_S)):
        hosts = [Declaration(name, slots=4, power_index=4.0) for name in ("a", "b")]
        hosts.append(Declaration("c", slots=4, power_index=1.0, actual_power_index=actual))
        simulation = Simulation(make(learning), hosts, chance=random.Random(1), now=now)
        times_s.append([simulation.play(build).makespan_s for _ in range(2)][-1])
    return times_s[0], times_s[1]


def _owners_back() -> Row:
    with_s = owners_back_s(_earliest())
    without_s = owners_back_s(EarliestPolicy(Learning(), backups=False))
    return Row(
        "two owners came back in the middle of a first build",
        f"{with_s:.1f} s",
        f"no backups {without_s:.1f} s",
        with_s / without_s,
    )


def owners_back_s(policy: Policy) -> float:
    """Return how long a first build takes in which the owners of two hosts come back to work."""
    chance = random.Random(7)
    files = [TracedFile(f"{number}.c", 5.0 + 20.0 * chance.random()) for number in range(300)]
    path = HERE / "farms" / "office.txt"
    hosts = parse_hosts_info(path.read_text(), str(path))
    load = [ForeignLoad(10.0, "server1", 16.0), ForeignLoad(12.0, "desk1", 8.0)]
    simulation = Simulation(policy, hosts, load, chance=random.Random(1))
    return simulation.play([SimulatedBuild("user", "/home/user", files, 96)]).makespan_s


def _earliest() -> EarliestPolicy:
    return EarliestPolicy(Learning())


def clone(case: Case, policy: Policy) -> Result:
    """Return the first build in another directory than the one in which the files are known."""
    return case.play_in(policy, ["/home/user", "/ci/job-1"])


def with_wrong_powers(case: Case) -> Case:
    """Return a case in which a third of the hosts are declared wrongly."""
    chance = random.Random(1)
    odd = set(chance.sample(range(len(case.hosts)), len(case.hosts) // 3))
    said = []
    for number, host in enumerate(case.hosts):
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
    return replace(case, hosts=said)


def _figures(ratios: Sequence[float]) -> str:
    return f"mean {mean(ratios):.3f}, worst {max(ratios):.2f}"
