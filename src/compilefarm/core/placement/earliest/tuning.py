"""Finds the best mode of the rule for one build, by playing its rest forward, on a budget.

A build has a budget of steps. To play one file takes one step, and each grant and each end earns
some. A round plays the rest in the present mode and then in each of the others, perhaps over
several decisions. The mode that ends first is taken, if it ends enough sooner (`SWITCH_GAIN`).
"""

from __future__ import annotations

import math

from compilefarm.core.placement.earliest.playing import Rest
from compilefarm.core.placement.earliest.rule import EPSILON_S, STEADY, Mode

# Modes that stretch R start more files at once than fit in R. They help because R is inexact: it
# ignores that a slot may be too slow for a file. Also, where many similar files wait, each counts
# on the same slot, which only one of them will get.
MODES = (
    STEADY,
    Mode(hurry=True, stretch=0.8),
    Mode(hurry=True, stretch=1.0),
    Mode(hurry=False, stretch=0.8),
    Mode(hurry=False, stretch=1.4),
    Mode(hurry=False, stretch=2.0),
    Mode(hurry=False, stretch=math.inf),
)
# Steps that each grant and each end earns, and the most that are saved.
STEPS_EARNED, STEPS_SAVED = 4, 2000
# Only a rest of at most this many files is played. To earn a round of modes for more files would
# take longer than the rest itself.
FILES_LIMIT = 400
# Steps that one decision spends, so that it stalls the server for half a millisecond at most.
STEPS_AT_ONCE = 400
# How many times sooner another mode must end, to be taken: estimates are no better than that.
SWITCH_GAIN = 1.02


class Tuning:
    """The mode of one build, and the trials of others; the first of `modes` is the plain rule's."""

    def __init__(self, modes: tuple[Mode, ...] = MODES) -> None:
        self.mode = modes[0]
        self._modes = modes
        self._steps = STEPS_SAVED
        # The current round: the modes that must still be tried, and the best so far.
        self._trials: list[Mode] = []
        self._best = self.mode
        self._best_end_s = math.inf

    def earn(self) -> None:
        """Earn some steps."""
        self._steps = min(self._steps + STEPS_EARNED, STEPS_SAVED)

    def stop(self) -> None:
        """Play as the plain rule says."""
        self.mode = self._modes[0]
        self._trials = []

    def affords_trial(self, files: int) -> bool:
        """Whether a trial of that many files can be paid; before the first one, a whole round."""
        trials = 1 if self._trials else len(self._modes)
        return len(self._modes) > 1 and self._steps >= files * trials

    def try_modes(self, rest: Rest, files: int) -> None:
        """Try modes on a rest of that many files, as far as the steps go, and take the best."""
        spent = 0
        while self._steps >= files and spent + files <= max(STEPS_AT_ONCE, files):
            if not self._trials:
                self._trials = [self.mode, *(mode for mode in self._modes if mode != self.mode)]
                self._best, self._best_end_s = self.mode, math.inf
            self._try(self._trials.pop(0), rest)
            self._steps -= files
            spent += files
            if not self._trials:
                self.mode = self._best
                return

    def _try(self, mode: Mode, rest: Rest) -> None:
        end_s = rest.play(mode, self._best_end_s)
        if mode == self.mode:
            self._best_end_s = rest.now_s + (end_s - rest.now_s) / SWITCH_GAIN
        elif end_s < self._best_end_s - EPSILON_S:
            self._best, self._best_end_s = mode, end_s
