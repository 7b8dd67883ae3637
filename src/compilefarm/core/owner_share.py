"""How many CPUs a proportional host gives to the farm: what its owner leaves, less a reserve.

CPU use is jumpy, and slots must not be. Each change makes the farm look at the waiting requests
again, and a slot that comes and goes with a browser tab is worth nothing. So the farm gives CPUs
back with the first report that shows the owner using them. It takes more only when every report
for `CALM_S` seconds left more.

host-server decides this from the host's reports. The host could decide too, and offer a different
number of slots each time. But then the rule would be as old as the oldest agent in the farm.

This module knows only numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

RESERVE_CPUS = 1.0
# An owner who reads uses almost no CPU between two clicks, but is still present.
CALM_S = 10.0


@dataclass(slots=True)
class OwnerShare:
    """How a proportional host's CPUs are shared with its owner.

    `farm_cpus` is the farm's part, a whole number; 0 before the first report. `reserve_cpus` stays
    unused at all times.
    """

    reserve_cpus: float = RESERVE_CPUS
    farm_cpus: int = 0
    _calm_since: float | None = None
    _least_left: int = 0  # since then

    @property
    def calm(self) -> bool:
        """Whether the owner leaves more than the farm has, but not yet for `CALM_S`."""
        return self._calm_since is not None

    def report(self, cpus: int, foreign_cpus: float, now: float) -> None:
        """Update the share from a load report: of `cpus`, others than the farm use `foreign_cpus`.

        `now` is in seconds.
        """
        left = int(max(0.0, cpus - foreign_cpus - self.reserve_cpus + 0.5))
        if left <= self.farm_cpus:
            self.farm_cpus, self._calm_since = left, None
        elif self._calm_since is None:
            self._calm_since, self._least_left = now, left
        else:
            self._least_left = min(self._least_left, left)
            if now - self._calm_since >= CALM_S:
                self.farm_cpus, self._calm_since = self._least_left, None
