"""The policies by name: what `--policy` takes."""

from __future__ import annotations

import random
from collections.abc import Callable

from compilefarm.learning import Learning
from compilefarm.placement import Policy
from compilefarm.placement.earliest import EarliestPolicy
from compilefarm.placement.random_choice import RandomPolicy
from compilefarm.placement.tier import TierPolicy

POLICIES: dict[str, Callable[[Learning, random.Random, bool], Policy]] = {
    "earliest": lambda learning, _, backups: EarliestPolicy(learning, backups=backups),
    "tier": lambda *_: TierPolicy(),
    "random": lambda _, chance, *__: RandomPolicy(chance),
}


def make_policy(
    name: str, learning: Learning, chance: random.Random, *, backups: bool = True
) -> Policy:
    """Return a new policy of that name, for those that learn and those that leave it to chance.

    `backups`: it may give compiles a second slot, if it is one that ever does.
    """
    return POLICIES[name](learning, chance, backups)
