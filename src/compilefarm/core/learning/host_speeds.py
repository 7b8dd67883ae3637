"""Host speeds: the declared power index of each host, corrected by its compiles.

A host is fitted again when enough of its compiles are new. Each fit uses what other hosts are
believed to be now, so corrections travel round the farm at a bounded cost. Without new compiles no
speed changes: fits that only follow each other could go on for ever, and away from every time that
was measured. So speeds are saved as they are, and a restart restores them.

Times fix only the ratios of speeds and costs. The absolute scale comes from pinned hosts. Without
any, it is held near the average declared power index. Left to itself, the scale drifts away over
some weeks of builds, as each host follows the others. If it drifts too far, all speeds move
together, so no ratio changes. A host that joins is put on the scale of the hosts that are there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from compilefarm.core.learning.observations import (
    COMPILES_OF_HOST,
    LearnedHost,
    Observation,
)
from compilefarm.core.learning.speed_fit import (
    DAY_S,
    DECLARED_SD,
    UNDECLARED_WEIGHT,
    aged_variance,
    fit,
    weight_of,
)

# Halved or doubled, none of these changes the third builds of `bench placement` by more than
# 1.4 % on average (see `speed_fit`).
#
# A fit costs as much as a host has compiles, so a host is fitted when one in this many is new.
FIT_EVERY = 8
# Changes of log speed or crowding cost below this are not worth a look at what waits: 2 %.
PUBLISH_FROM = 0.02
# With a crowding cost below this, 10 %, all slots of a host count as alike.
CROWDING_COST_FROM = 0.1
# In log speed: the farm's average may be this far from what is declared, which harms nothing.
SCALE_SLACK = 0.5
# In log speed: a host further from its declaration counts as this far in that average.
SCALE_OFFSET_LIMIT = 1.0
# Fits of a host without a new compile, after a neighbour was declared. These are enough for
# corrections to travel round the farm after a restart from compiles alone.
REFITS = 8


class SavedSpeed(NamedTuple):
    """A host's speed as it is saved. Logarithms are natural; `measured_at` is in seconds."""

    host: str
    log_declared: float
    log_speed: float
    variance: float
    crowding_cost: float
    measured_at: float


class HostSpeeds:
    """All hosts that were declared, or that kept compiles ran on."""

    def __init__(self) -> None:
        self._hosts: dict[str, LearnedHost] = {}
        self._pinned: set[str] = set()
        # Hosts with a neighbour that was declared, or moved, since their last fit; in that order.
        self._waiting: dict[str, LearnedHost] = {}
        # Over all hosts that were measured: the sum of their offsets, and their number.
        self._offsets, self._measured = 0.0, 0
        self._unsaved: dict[str, None] = {}  # hosts whose speed has changed

    # -- estimates

    def is_declared(self, name: str) -> bool:
        """Whether a host was declared, and so has a speed."""
        host = self._hosts.get(name)
        return host is not None and host.is_declared

    def speed(self, name: str) -> float:
        """Return a host's speed with slots to spare."""
        return math.exp(self._hosts[name].published_log_speed)

    def full_part(self, name: str) -> float:
        """Return the part of its speed that a slot keeps when all slots are in use."""
        cost = self._hosts[name].published_crowding_cost
        return math.exp(-cost) if cost >= CROWDING_COST_FROM else 1.0

    def confidence(self, name: str, now: float) -> float:
        """Return how sure a speed is, 0 to 1."""
        host = self._hosts[name]
        if host.pinned:
            return 1.0
        variance = host.variance + aged_variance(now - host.measured_at)
        return 1.0 - min(1.0, math.sqrt(variance) / DECLARED_SD)

    # -- declarations

    def declare(self, name: str, power_index: float, pinned: bool) -> None:
        """Enter a host's declaration; also fit the host if it waits for that."""
        log_declared = math.log(power_index)
        host = self._hosts.get(name)
        if host is None:
            host = self._add(name, log_declared)
        elif not host.is_declared:
            host.is_declared = True
            if _is_measured(host):  # its speed was saved
                if host.log_declared == log_declared and not pinned:
                    self._publish(host)
                    self._count_offset(host)
                    return
            else:
                host.log_speed = log_declared + self._scale_offset()
                host.weight = weight_of(DECLARED_SD**2)
                self._ask_neighbours_to_fit(host)
        elif (host.log_declared, host.pinned) == (log_declared, pinned):
            if name in self._waiting:
                self._refit(host)
            return
        host.log_declared, host.pinned = log_declared, pinned
        if pinned:
            self._pinned.add(name)
            self._waiting.pop(name, None)
            host.log_speed, host.crowding_cost = log_declared, 0.0
            host.variance, host.weight = 0.0, weight_of(0.0)
        else:
            self._pinned.discard(name)
            if host.observations:
                self._fit(host, _newest_at(host))
            else:
                host.log_speed = log_declared + self._scale_offset()
                host.variance, host.weight = DECLARED_SD**2, weight_of(DECLARED_SD**2)
        self._publish(host)
        self._count_offset(host)

    def remember(self, name: str) -> None:
        """Add a host that kept compiles ran on, unless it is known; it may be declared later."""
        if name not in self._hosts:
            host = self._add(name, 0.0)
            host.is_declared = False
            host.weight = UNDECLARED_WEIGHT

    def _add(self, name: str, log_declared: float) -> LearnedHost:
        variance, log_speed = DECLARED_SD**2, log_declared + self._scale_offset()
        host = LearnedHost(
            name,
            log_declared,
            log_speed,
            variance,
            weight_of(variance),
            published_log_speed=log_speed,
        )
        self._hosts[name] = host
        return host

    def _ask_neighbours_to_fit(self, host: LearnedHost) -> None:
        """Mark the declared hosts that compiled the same files: they need another fit.

        After a restart hosts are declared one by one. The first ones are fitted to the few that are
        there, which may be wrong by a factor. A pinned host that comes last corrects that.
        """
        for own in host.observations:
            for other in own.file.observations:
                neighbour = other.host
                if neighbour is not host and neighbour.is_declared and not neighbour.pinned:
                    neighbour.refits_left = REFITS
                    self._wait(neighbour)

    def _wait(self, host: LearnedHost) -> None:
        self._waiting[host.name] = host
        host.unfitted = COMPILES_OF_HOST

    def _refit(self, host: LearnedHost) -> None:
        """Fit a host to what others say now; again later, if it moved and may be fitted again."""
        host.refits_left -= 1
        self._fit(host, _newest_at(host))
        if abs(host.log_speed - host.published_log_speed) >= PUBLISH_FROM and host.refits_left > 0:
            self._wait(host)
        self._publish(host)

    # -- compiles

    def host(self, name: str) -> LearnedHost:
        """Return a host that is known."""
        return self._hosts[name]

    def add(self, observation: Observation) -> None:
        """Enter one more compile of a host."""
        host = observation.host
        if host.observations and observation.at - host.observations[-1].at > DAY_S:
            host.unfitted = COMPILES_OF_HOST  # one compile now outvotes all before
        host.observations.append(observation)
        host.unfitted += 1

    def fit_after(self, host: LearnedHost, now: float) -> list[str]:
        """Fit a host after a compile there; return the names of hosts whose speed moved.

        One host that waits for a fit is fitted, too. A host with a wrong speed may not be used, and
        then it is not declared again either.
        """
        moved = [host.name] if self._fit_if_due(host, now) else []
        moved += self._hold_scale()
        if self._waiting:
            waiting = next(iter(self._waiting.values()))
            if self._fit_if_due(waiting, now):
                moved.append(waiting.name)
        return moved

    def _fit_if_due(self, host: LearnedHost, now: float) -> bool:
        """Fit a host if enough of its compiles are new; return whether its speed moved."""
        if host.pinned or host.unfitted * FIT_EVERY < len(host.observations):
            return False
        self._fit(host, now)
        if (
            abs(host.log_speed - host.published_log_speed) < PUBLISH_FROM
            and abs(host.crowding_cost - host.published_crowding_cost) < PUBLISH_FROM
        ):
            return False
        self._publish(host)
        return True

    def _fit(self, host: LearnedHost, now: float) -> None:
        """Fit a host that is not pinned."""
        host.unfitted = 0
        self._waiting.pop(host.name, None)
        host.log_speed, host.variance, host.crowding_cost, host.measured_at = fit(host, now)
        host.weight = weight_of(host.variance)
        self._count_offset(host)

    def _publish(self, host: LearnedHost) -> None:
        """Tell others a host's speed as it is now."""
        host.published_log_speed, host.published_crowding_cost = host.log_speed, host.crowding_cost
        if _is_measured(host):
            self._unsaved[host.name] = None

    # -- the scale

    def _scale_offset(self) -> float:
        """Return how far, in log speed, the measured hosts are from what is declared of them."""
        return 0.0 if self._pinned or not self._measured else self._offsets / self._measured

    def _count_offset(self, host: LearnedHost) -> None:
        """Count a host in the farm's average, as it is now."""
        if host.scale_offset is not None:
            self._offsets -= host.scale_offset
            self._measured -= 1
            host.scale_offset = None
        if host.is_declared and _is_measured(host):
            offset = host.log_speed - host.log_declared
            host.scale_offset = min(max(-SCALE_OFFSET_LIMIT, offset), SCALE_OFFSET_LIMIT)
            self._offsets += host.scale_offset
            self._measured += 1

    def _hold_scale(self) -> list[str]:
        """Move all speeds together if they are too far from what is declared; return the hosts."""
        offset = self._scale_offset()
        excess = offset - min(max(-SCALE_SLACK, offset), SCALE_SLACK)
        if not excess:
            return []
        for host in self._hosts.values():
            host.log_speed -= excess
            self._count_offset(host)
            self._publish(host)
        return list(self._hosts)

    # -- what survives

    def unsaved(self) -> list[SavedSpeed]:
        """Return the measured speeds that were published since the last call."""
        changed = [self._hosts[name] for name in self._unsaved]
        self._unsaved.clear()
        return [
            SavedSpeed(
                host.name,
                host.log_declared,
                host.published_log_speed,
                host.variance,
                host.published_crowding_cost,
                host.measured_at,
            )
            for host in changed
        ]

    def restore(self, saved: SavedSpeed) -> None:
        """Remember a saved speed; the host counts from its declaration on."""
        self.remember(saved.host)
        host = self._hosts[saved.host]
        host.log_declared, host.log_speed = saved.log_declared, saved.log_speed
        host.variance, host.crowding_cost = saved.variance, saved.crowding_cost
        host.measured_at = saved.measured_at
        host.weight = weight_of(saved.variance)
        host.unfitted = 0


def _is_measured(host: LearnedHost) -> bool:
    return host.measured_at > -math.inf


def _newest_at(host: LearnedHost) -> float:
    return max((each.at for each in host.observations), default=0.0)
