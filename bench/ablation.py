"""What each mechanism of `earliest` is worth: builds played with each switched off, one at a time.

A mechanism that makes no figure worse by its absence is to go. Some have their worth in one kind of
case only, which has a column of its own in the last table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import Pool

from bench import placement
from bench.cases import Case, by_chance, mean, standard
from bench.table import Grid
from compilefarm.core.learning.learning import Learning
from compilefarm.core.placement.earliest.mechanisms import ALL, Mechanisms
from compilefarm.core.placement.earliest.policy import EarliestPolicy
from compilefarm.core.placement.earliest.rule import STEADY, Mode
from compilefarm.core.placement.policy import Policy
from compilefarm.core.placement.tier import TierPolicy

SEEDS = (placement.SEED, 21, 22)
NOISES = (0.0, 0.15)
BUILDERS = (1, placement.BUILDERS)
# Cases by chance that several builders play: one in this many, for they take four times as long.
EVERY = 3
PROCESSES = 2

TIER = "the 2004 rule (tier)"
WITH_ALL = "nothing"
WITHOUT_BACKUPS = "backups"
OFF: dict[str, Mechanisms] = {
    WITH_ALL: ALL,
    "waiting for a faster slot": replace(ALL, modes=(Mode(hurry=False, stretch=math.inf),)),
    "comparing with busy slots": replace(ALL, comparing=False),
    "playing forward": replace(ALL, modes=(STEADY,)),
    "hurrying": replace(ALL, modes=tuple(mode for mode in ALL.modes if not mode.hurry)),
    "stretching R": replace(ALL, modes=tuple(mode for mode in ALL.modes if mode.stretch <= 1.0)),
    "gathering": replace(ALL, gathering=False),
    "fairness": replace(ALL, fairness=False),
    "patience": replace(ALL, patience=False),
    "twins": replace(ALL, twins=False),
    "measuring": replace(ALL, measuring=False),
    "crowding": replace(ALL, crowding=False),
    WITHOUT_BACKUPS: ALL,
    "backups: the chance": replace(ALL, backup_chance=False),
    "backups: moving on": replace(ALL, backup_moves=False),
    "backups: the gap": replace(ALL, backup_gap=False),
    "backups: the back-off": replace(ALL, backup_back_off=False),
}

# Ratio and evenness (Jain's index) of each build of one case.
Played = list[tuple[float, float]]


def policy_without(name: str) -> Policy:
    """Return the policy with a mechanism switched off, or the one to compare with."""
    if name == TIER:
        return TierPolicy()
    return EarliestPolicy(Learning(), backups=name != WITHOUT_BACKUPS, mechanisms=OFF[name])


def measure(*, quick: bool) -> Iterator[Grid]:
    """Yield the tables, each when it has been measured."""
    with Pool(PROCESSES) as pool:
        for builders in BUILDERS:
            drawn = [case for seed in SEEDS for case in by_chance(seed)]
            sets = {
                "30 cases": list(standard()),
                "by chance": drawn[:: EVERY if builders > 1 else 1],
            }
            if quick:
                sets = {name: cases[::10] for name, cases in sets.items()}
            played: dict[tuple[str, str, float], list[Played]] = {}
            for name in (TIER, *OFF):
                for what, cases in sets.items():
                    for noise in NOISES:
                        play = partial(_play, name, builders, noise)
                        played[name, what, noise] = pool.map(play, cases, chunksize=4)
            for number, which in enumerate(("first", "second")):
                yield _grid(played, builders, number, which)
        names = [name for name in OFF if name != WITHOUT_BACKUPS]
        yield Grid(
            "Where one mechanism matters",
            ["clone", "wrong powers", "shared cores", "found again", "owners back"],
            dict(zip(names, pool.map(_special, names, chunksize=1), strict=True)),
            [
                "clone: first build in a directory of known files, to the bound, over the 30 cases",
                "wrong powers: third build with a third of the power indices wrong, to the bound",
                "shared cores, found again, owners back: seconds, as in `bench placement`",
            ],
        )


def _play(name: str, builders: int, noise: float, case: Case) -> Played:
    results = case.play(policy_without(name), builds=2, builders=builders, noise=noise)
    return [(result.ratio, result.jain) for result in results]


def _grid(
    played: dict[tuple[str, str, float], list[Played]], builders: int, number: int, which: str
) -> Grid:
    columns: list[str] = []
    rows: dict[str, list[str]] = {}
    for name in (TIER, *OFF):
        rows[name] = []
        for what in ("30 cases", "by chance"):
            for noise in NOISES:
                ratios = [case[number][0] for case in played[name, what, noise]]
                tier = [case[number][0] for case in played[TIER, what, noise]]
                rows[name].append(_figures(ratios, tier))
                if name == TIER:
                    columns.append(f"{what} ({len(ratios)}), noise {noise:g}")
        if builders > 1:
            shares = [case[number][1] for case in played[name, "30 cases", 0.0]]
            rows[name].append(f"{min(shares):.3f}")
    if builders > 1:
        columns.append("least even")
    return Grid(
        f"{which.capitalize()} build of {builders} at once, with switched off:",
        columns,
        rows,
        [
            "mean and worst ratio to the lower bound, and in how many cases it takes more than"
            f" {placement.NOT_WORSE:g} times as long as under tier",
        ],
    )


def _figures(ratios: Sequence[float], tier: Sequence[float]) -> str:
    worse = sum(ours > placement.NOT_WORSE * its for ours, its in zip(ratios, tier, strict=True))
    return f"{mean(ratios):.4f}  {max(ratios):5.2f}  {worse:3}"


def _special(name: str) -> list[str]:
    """Return the figures of the cases in which one mechanism matters."""
    make = partial(policy_without, name)
    cases = list(standard())
    wrong = [placement.with_wrong_powers(case).play(make(), builds=3)[-1] for case in cases]
    return [
        f"{mean([placement.clone(case, make()).ratio for case in cases]):.4f}",
        f"{mean([result.ratio for result in wrong]):.4f}",
        f"{placement.crowded_s(make()):.2f} s",
        f"{placement.found_again_s(partial(_on, name))[1]:.2f} s",
        f"{placement.owners_back_s(make()):.1f} s",
    ]


def _on(name: str, learning: Learning) -> Policy:
    return EarliestPolicy(learning, mechanisms=OFF[name])
