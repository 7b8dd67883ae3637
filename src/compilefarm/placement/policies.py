"""The policies by name: what `--policy` takes."""

from __future__ import annotations

import random
from collections.abc import Callable

from compilefarm.learning import Learning
from compilefarm.placement import Policy
from compilefarm.placement.earliest import EarliestPolicy
from compilefarm.placement.random_choice import RandomPolicy
from compilefarm.placement.tier import TierPolicy

POLICIES: dict[str, Callable[[Learning, random.Random], Policy]] = {
    "earliest": lambda learning, _: EarliestPolicy(learning),
    "tier": lambda *_: TierPolicy(),
    "random": lambda _, chance: RandomPolicy(chance),
}


def make_policy(name: str, learning: Learning, chance: random.Random) -> Policy:
    """Return a new policy of that name, for those that learn and those that leave it to chance."""
    return POLICIES[name](learning, chance)
