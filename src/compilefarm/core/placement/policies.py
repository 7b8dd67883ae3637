"""The policies by name: what `--policy` takes."""

from __future__ import annotations

from collections.abc import Callable

from compilefarm.core.learning.learning import Learning
from compilefarm.core.placement.earliest.policy import EarliestPolicy
from compilefarm.core.placement.policy import Policy
from compilefarm.core.placement.random_choice import Chance, RandomPolicy
from compilefarm.core.placement.tier import TierPolicy

POLICIES: dict[str, Callable[[Learning, Chance, bool], Policy]] = {
    "earliest": lambda learning, _, backups: EarliestPolicy(learning, backups=backups),
    "tier": lambda *_: TierPolicy(),
    "random": lambda _, chance, *__: RandomPolicy(chance),
}


def make_policy(name: str, learning: Learning, chance: Chance, *, backups: bool = True) -> Policy:
    """Return a new policy of that name, for those that learn and those that leave it to chance.

    `backups`: it may give compiles a second slot, if it is one that ever does.
    """
    return POLICIES[name](learning, chance, backups)
