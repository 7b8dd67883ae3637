"""A compile host as it really is, which the farm knows only by what the host reports.

A machine shares its CPUs evenly among its leases, less those that its owner uses.
"""

from __future__ import annotations

import heapq
import math

from compilefarm.core.model import Lease, Load
from compilefarm.protocol.declaration import Declaration

# The part of its CPUs that a fully used machine still leaves to compiles: a kernel starves none.
LEAST_PART = 0.05
# Of the three load averages that every Unix keeps.
AVERAGED_OVER_S = (60.0, 300.0, 900.0)


class Machine:
    """CPUs of one speed, and the leases that compile on them.

    `_done_s` is the work that each lease has had done since the beginning, in seconds at speed 1.
    It grows at the same rate for all leases. So a lease ends when `_done_s` reaches a figure that
    is known when the lease begins.
    """

    def __init__(self, declaration: Declaration) -> None:
        self.declaration = declaration
        self.foreign_cpus = 0.0
        self.version = 0  # changes with whatever changes `next_end`
        self._running: list[tuple[float, int, Lease]] = []  # by the work at which each ends
        self._speed = true_speed(declaration)
        self._cpus = declaration.slots or 1
        self._full_part = declaration.actual_full or 1.0
        self._done_s = 0.0
        self._at = 0.0
        self._foreign_averages = [0.0, 0.0, 0.0]
        self._own_averages = [0.0, 0.0, 0.0]
        self._reported_at = 0.0

    def set_foreign_cpus(self, foreign_cpus: float, now: float) -> None:
        """Change the number of CPUs that the owner uses."""
        self._advance(now)
        self.foreign_cpus = foreign_cpus
        self.version += 1

    def start(self, lease: Lease, cost_s: float, now: float) -> None:
        """Begin a compile that takes `cost_s` at speed 1."""
        self._advance(now)
        heapq.heappush(self._running, (self._done_s + cost_s, lease.id, lease))
        self.version += 1

    def give_up(self, lease: Lease, now: float) -> None:
        """End a compile before it is done; its work is lost."""
        self._advance(now)
        self._running = [entry for entry in self._running if entry[2] is not lease]
        heapq.heapify(self._running)
        self.version += 1

    def next_end(self) -> float | None:
        """Return when the next compile is done if nothing changes; None if none runs."""
        if not self._running:
            return None
        return self._at + max(0.0, self._running[0][0] - self._done_s) / self._rate()

    def end_next(self, now: float) -> Lease:
        """End the compile that `next_end` was about."""
        self._advance(now)
        done_s, _, lease = heapq.heappop(self._running)
        self._done_s = max(self._done_s, done_s)
        self.version += 1
        return lease

    def report(self, now: float) -> Load:
        """Return what loadavg reports."""
        self._advance(now)
        elapsed_s = now - self._reported_at
        self._reported_at = now
        own_cpus = min(float(len(self._running)), max(0.0, self._cpus - self.foreign_cpus))
        for index, period_s in enumerate(AVERAGED_OVER_S):
            keep = math.exp(-elapsed_s / period_s)
            for averages, value in (
                (self._own_averages, own_cpus),
                (self._foreign_averages, self.foreign_cpus),
            ):
                averages[index] = averages[index] * keep + value * (1.0 - keep)
        foreign, own = self._foreign_averages, self._own_averages
        return Load(
            load_averages=(foreign[0] + own[0], foreign[1] + own[1], foreign[2] + own[2]),
            own_averages=(own[0], own[1], own[2]),
            own_cpus=own_cpus,
            foreign_cpus=self.foreign_cpus,
            cpus=self._cpus,
        )

    def _advance(self, now: float) -> None:
        """Bring the work done up to date."""
        self._done_s += (now - self._at) * self._rate()
        self._at = now

    def _rate(self) -> float:
        """Return the work that each lease gets done in a second."""
        leases = max(1, len(self._running))
        left = max(self._cpus - self.foreign_cpus, LEAST_PART * self._cpus)
        in_use = min(float(self._cpus), leases + self.foreign_cpus)
        return self._speed * min(1.0, left / leases) * self._core_part(in_use)

    def _core_part(self, in_use: float) -> float:
        """Return the part of its speed that each CPU in use keeps, as CPUs share cores.

        The first half of the CPUs have a core to themselves. Each of the others adds what its core
        has left.
        """
        alone = self._cpus / 2.0
        if in_use <= alone:
            return 1.0
        return (alone + (in_use - alone) * (2.0 * self._full_part - 1.0)) / in_use


def true_speed(declaration: Declaration) -> float:
    """Return how fast a host really is, which may differ from what it declares."""
    return declaration.actual_power_index or declaration.power_index or 1.0
