"""A stand-in for R, the rest of the build, for first builds whose compiles can have no backup.

The length of the rest of such a build is unknown, and so is which of its files are long. A file
that started on a slow slot stays there. So slow slots are not used where they bring little: a file
may take at most this stand-in for R there. The stand-in grows with the typical cost so far, and
with the number of outstanding compiles of all builders. It is smaller for a slot that, together
with all slower ones, brings a small part of the build's total speed.

Where compiles can have backups, none of this is needed: any free slot will do.
"""

from __future__ import annotations

import math

from compilefarm.core.placement.earliest.builds import Build
from compilefarm.core.placement.earliest.rule import EPSILON_S
from compilefarm.core.placement.earliest.speed_classes import Place, View

# The constants were tuned on the recorded traces (`python -m bench placement`, the row without
# backups).
# Where all slots are alike, the rest takes this part of the farm's time for all outstanding
# compiles.
OUTSTANDING_PART = 0.25
# The exponent of the part of the speed that a slot and all slower ones bring. With the sixth root,
# only slots that bring almost nothing are left unused.
BROUGHT_EXPONENT = 1.0 / 6.0
# A slot up to this many times slower than the fastest may always have a typical file.
ALWAYS_GOOD_TIMES = 1.35
# Any slot up to this many times slower than the fastest is good in two cases. Either there are
# slots to spare, or the build has done LONG_BUILD_FILES_PER_SLOT files for each slot, and so is
# likely to go on.
SPARE_GOOD_TIMES = 4.0
LONG_BUILD_FILES_PER_SLOT = 8.0
# Files after which the typical one is known.
TYPICAL_KNOWN_FILES = 16


def stand_in_s(
    build: Build, place: Place, farm: View, builds: int, outstanding: int, typical_cost: float
) -> float:
    """Return a stand-in for R, for a free place; infinite: it is good for any file.

    `builds` is how many builds are active, and `outstanding` how many compiles they have together.
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
