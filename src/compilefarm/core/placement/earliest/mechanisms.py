"""The mechanisms of `earliest` besides its rule, each switched on or off.

In a farm all are on. `python -m bench placement --ablate` switches them off one at a time, to
measure the effect of each. Tests do so to show that each has an effect.
"""

from __future__ import annotations

from dataclasses import dataclass

from compilefarm.core.placement.earliest.rule import Mode
from compilefarm.core.placement.earliest.tuning import MODES


@dataclass(frozen=True, slots=True)
class Mechanisms:
    """Which mechanisms are on.

    `modes` are the modes of the rule that are played forward; a single mode is not played.
    """

    modes: tuple[Mode, ...] = MODES
    comparing: bool = True  # beyond R, a file may start if no busy slot ends it sooner
    gathering: bool = True  # the first requests of a build are placed together
    fairness: bool = True  # the least served user goes first
    patience: bool = True  # a request that was passed over for long goes before all others
    twins: bool = True  # a new directory uses the outlook of one with the same files
    measuring: bool = True  # a short file finds out how fast a neglected host is
    crowding: bool = True  # slots that share cores are told apart
    backup_chance: bool = True  # an unlikely backup is begun, too
    backup_moves: bool = True  # a backup moves on to a faster slot
    backup_gap: bool = True  # a slot whose build may ask again at once is not idle
    backup_back_off: bool = True  # backups that were taken back make the next ones wait longer


ALL = Mechanisms()
