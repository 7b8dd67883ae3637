"""The policies by name: what `--policy` takes."""

from __future__ import annotations

import random
from collections.abc import Callable

from compilefarm.learning import Learning
from compilefarm.placement import Policy
from compilefarm.placement.earliest import EarliestPolicy
from compilefarm.placement.random_choice import RandomPolicy
from compilefarm.placement.tier import TierPolicy

POLICIES: dict[str, Callable[[random.Random], Policy]] = {
    "earliest": lambda _: EarliestPolicy(Learning()),
    "tier": lambda _: TierPolicy(),
    "random": RandomPolicy,
}


def make_policy(name: str, chance: random.Random) -> Policy:
    """Return a new policy of that name; `chance` is for those that leave something to it."""
    return POLICIES[name](chance)
