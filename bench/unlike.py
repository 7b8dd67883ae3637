"""Farms and traces by chance, unlike each other and unlike those on which placement was tuned.

A rule that is good on the few real traces here may owe that to them. These are drawn anew for each
seed. Farms go from one fast machine with many slow ones to two hundred hosts. Traces go from equal
files to a giant at the end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from compilefarm.protocol.declaration import Declaration
from compilefarm.simulate.trace import TracedFile


def farms(seed: int) -> dict[str, list[Declaration]]:
    """Return farms by what is peculiar about them."""
    chance = random.Random(f"farms {seed}")

    def speed(highest: float) -> float:
        return math.exp(chance.uniform(0.0, math.log(highest)))

    return {
        "two slots": _hosts((1, 3.0), (1, 1.0)),
        "equal": _hosts(*[(4, 1.0)] * 6),
        "one fast": _hosts((8, 10.0), *[(1, 1.0)] * 48),
        "server and desktops": _hosts((32, 5.0), *[(8, speed(3.0)) for _ in range(6)]),
        "laptops": _hosts(*[(8, speed(2.5)) for _ in range(10)]),
        "steps": _hosts((2, 16.0), *[(4, 8.0)] * 2, *[(8, 4.0)] * 2, *[(8, 1.0)] * 4),
        "any speed": _hosts(*[(4, speed(30.0)) for _ in range(12)]),
        "many": _hosts(*[(2, speed(8.0)) for _ in range(200)]),
    }


def traces(seed: int) -> dict[str, list[TracedFile]]:
    """Return traces by what is peculiar about them."""
    chance = random.Random(f"traces {seed}")

    def files(count: int, spread: float, typical_s: float = 0.3) -> list[float]:
        return [typical_s * math.exp(chance.gauss(0.0, spread)) for _ in range(count)]

    return {
        "few": _files(files(10, 1.2)),
        "ordinary": _files(files(150, 1.0)),
        "heavy tail": _files([min(60.0, 0.1 * chance.paretovariate(1.3)) for _ in range(200)]),
        "equal": _files([0.4] * 100),
        "long": _files(files(120, 0.6, 4.0)),
        "two kinds": _files([chance.choice((0.05, 0.05, 0.05, 2.0)) for _ in range(120)]),
        "giant early": _files([*files(5, 0.7), 25.0, *files(60, 0.7)]),
        "giant late": _files([*files(110, 0.8), 8.0, *files(6, 0.8)]),
    }


def _hosts(*hosts: tuple[int, float]) -> list[Declaration]:
    return [
        Declaration(f"host{number}", slots=slots, power_index=round(speed, 2))
        for number, (slots, speed) in enumerate(hosts)
    ]


def _files(costs_s: Sequence[float]) -> list[TracedFile]:
    return [TracedFile(f"{number}.c", cost_s) for number, cost_s in enumerate(costs_s)]
