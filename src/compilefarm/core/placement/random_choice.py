"""A free slot at random: what a farm does that knows nothing, to compare with.

It differs from the 2004 rule in one thing, the rank of a host. The randomness is the caller's, so
that a simulation can be repeated.
"""

from __future__ import annotations

from typing import Protocol

from compilefarm.core.model import Host
from compilefarm.core.placement.tier import Rank, TierPolicy


class Chance(Protocol):
    """The part of `random.Random` that this policy uses."""

    def expovariate(self, lambd: float, /) -> float:
        """Return an exponential variable of rate `lambd`."""


class RandomPolicy(TierPolicy):
    """Hands each request a free slot at random, as a `Policy`."""

    name = "random"

    def __init__(self, chance: Chance) -> None:
        super().__init__()
        self._chance = chance

    def rank_of(self, host: Host) -> Rank:
        """Rank a host so that each of its free slots is as likely to come first as any other.

        The least of n exponential variables, each of rate 1, is one of rate n.
        """
        return (0, self._chance.expovariate(len(host.free)), 0.0, self.next_serial())
