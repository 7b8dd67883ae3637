"""How many CPUs of a proportional host are the farm's: those that its owner leaves, less a reserve.

CPU use is jumpy, and so must slots not be: each change has waiting requests looked at, and a slot
that comes and goes with a browser's tab is worth nothing. So what the owner takes is given up with
the report that says so, and what he leaves is taken only when every report for `CALM_S` left it.

It is host-server that decides, of what the host reports. The host could as well, and offer other
slots each time; but then its rule would be as old as the oldest agent in the farm, and the report,
which the server needs anyway, would be sent twice in other words.

This module knows numbers alone.
"""

from __future__ import annotations

from dataclasses import dataclass

RESERVE_CPUS = 1.0
# An owner who reads uses next to nothing between two clicks; he is there all the same.
CALM_S = 10.0


@dataclass(slots=True)
class Proportion:
    """What a proportional host offers; nothing before the first report."""

    reserve_cpus: float = RESERVE_CPUS
    offered: int = 0
    _calm_since: float | None = None
    _least: int = 0  # that was left since then

    @property
    def calm(self) -> bool:
        """Whether the owner leaves more than is offered, and has not done so for long enough."""
        return self._calm_since is not None

    def report(self, cpus: int, foreign_cpus: float, now: float) -> None:
        """Take a load report in: of so many CPUs, so many are in use by others than the farm."""
        left = int(max(0.0, cpus - foreign_cpus - self.reserve_cpus + 0.5))
        if left <= self.offered:
            self.offered, self._calm_since = left, None
        elif self._calm_since is None:
            self._calm_since, self._least = now, left
        else:
            self._least = min(self._least, left)
            if now - self._calm_since >= CALM_S:
                self.offered, self._calm_since = self._least, None
