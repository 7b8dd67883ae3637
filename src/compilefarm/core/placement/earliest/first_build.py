"""A first build whose compiles can have no backup: what may start on a slow slot.

Nothing says how long the rest of such a build is, nor which of its files are the long ones; and
what was put on a slow slot stays there. So slow slots are left alone where they bring little: a
file may take as long there as a stand-in for the rest of the build. That grows with the typical
file so far and with what is outstanding of all builders, and is smaller for the slots that, with
all that are slower, bring little of what the build can have.

Where compiles can have backups, none of this is needed: any free slot will do.
"""

from __future__ import annotations

import math

from compilefarm.core.placement.earliest.builds import EPSILON_S, Build, Queue
from compilefarm.core.placement.earliest.speed_classes import Place, View

# The rest is at least this part of the time that the farm takes for what is outstanding.
QUEUE = 0.25
BRINGS = 1.0 / 6.0
FASTEST = 1.35  # a slot this much slower than the fastest is always good
TYPICAL_FILES = 16  # after so many, a typical file is known well enough to compare ends
# With slots to spare, any slot within this factor of the fastest is good; so it is in a build that
# has had so many files for each slot, for it will go on.
SPREAD = 4.0
ROUNDS = 8.0


def limit(
    queue: Queue, place: Place, farm: View, builds: int, outstanding: int, now: float
) -> float:
    """Return the largest cost that may start on a free place, in seconds at power index 1.

    `builds` compile at the same time, with so many compiles outstanding between them.
    """
    build: Build = queue.build
    speed, top, typical = place.speed, farm.top_speed(), build.typical(now)
    jobs = build.jobs * builds
    roomy = jobs < farm.slots or build.done >= ROUNDS * farm.slots
    if roomy and build.refills and speed * SPREAD >= top:
        return math.inf
    power = max(EPSILON_S, farm.fastest_sum(jobs))
    brings = max(0.0, 1.0 - farm.fastest_sum(jobs, place.index) / power)
    queued_s = outstanding / max(EPSILON_S, farm.power)
    rest_s = typical * (QUEUE * math.pow(brings, BRINGS) * queued_s + FASTEST / top)
    within_rest = rest_s * speed
    if typical > within_rest and build.done >= TYPICAL_FILES:
        return queue.turns.view.no_sooner_elsewhere(place, now, at_least=within_rest)
    return within_rest
