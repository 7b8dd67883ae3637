"""A first build whose compiles can have no backup: a stand-in for R.

Nothing says how long the rest of such a build is, nor which of its files are the long ones; and
what was put on a slow slot stays there. So slow slots are left alone where they bring little: a
file may take as long there as this stand-in for the rest of the build. It grows with the typical
file so far and with what is outstanding of all builders. It is smaller for the slots that, with all
slower ones, bring little of what the build can have.

Where compiles can have backups, none of this is needed: any free slot will do.
"""

from __future__ import annotations

import math

from compilefarm.core.placement.earliest.builds import Build
from compilefarm.core.placement.earliest.rule import EPSILON_S
from compilefarm.core.placement.earliest.speed_classes import Place, View

# The constants were tuned on the recorded traces (`python -m bench placement`, the row without
# backups).
# The rest takes this part of the time that the farm takes for what is outstanding, where all slots
# are alike.
OUTSTANDING_PART = 0.25
# How fast that falls with what a slot and all slower ones bring: with the sixth root, so that only
# slots which bring next to nothing are left alone.
BROUGHT_EXPONENT = 1.0 / 6.0
# A slot this many times slower than the fastest is good for a typical file, whatever is
# outstanding.
ALWAYS_GOOD_TIMES = 1.35
# With slots to spare, or once the build has had this many files for each slot and so will go on,
# any slot this many times slower than the fastest is good.
SPARE_GOOD_TIMES = 4.0
LONG_BUILD_FILES_PER_SLOT = 8.0
# Files after which the typical one is known.
TYPICAL_KNOWN_FILES = 16


def stand_in_s(
    build: Build, place: Place, farm: View, builds: int, outstanding: int, typical_cost: float
) -> float:
    """Return a stand-in for R, for a free place; infinite: it is good for any file.

    That many `builds` compile at the same time, with so many compiles outstanding between them.
    """
    speed, top_speed = place.speed, farm.top_speed()
    jobs = build.jobs * builds
    spare = jobs < farm.slots or build.done.count >= LONG_BUILD_FILES_PER_SLOT * farm.slots
    if spare and build.refills and speed * SPARE_GOOD_TIMES >= top_speed:
        return math.inf
    power = max(EPSILON_S, farm.fastest_sum(jobs))
    brought = max(0.0, 1.0 - farm.fastest_sum(jobs, place.class_index) / power)
    outstanding_s = outstanding / max(EPSILON_S, farm.power)
    part = OUTSTANDING_PART * math.pow(brought, BROUGHT_EXPONENT)
    return typical_cost * (part * outstanding_s + ALWAYS_GOOD_TIMES / top_speed)


def knows_typical(build: Build) -> bool:
    """Whether the build's typical file is known well enough to compare its ends on two slots."""
    return build.done.count >= TYPICAL_KNOWN_FILES
