"""Hosts that may be mute: no compile ends there for far longer than compiles take.

The kernel accepts connections for a distccd that is stopped, so a compile there neither fails nor
ends. A host is a suspect if nothing has ended there for too long. The measure is the time that its
leases were expected to take, or a typical compile if the file is unknown. A suspect is probed. If
it does not answer, `Hosts` quarantines it and revokes its leases.

A host that reports CPU use of its own is at work, and never a suspect. Nor is a host whose owner is
present: the owner's programs may have stopped the compiles.

This part only reads hosts and leases, and keeps one number: the time of a typical compile.
"""

from __future__ import annotations

from compilefarm.core.events import Probe
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Host, Lease, State
from compilefarm.core.placement.policy import Policy
from compilefarm.core.timers import Timers

# With an expected time: suspect after this many times that, and after this long at least.
TIMES_EXPECTED = 3.0
EXPECTED_LEAST_S = 3.0
# Without: suspect after this many typical compiles; or if none was seen yet, after UNKNOWN_S.
TIMES_TYPICAL = 20.0
TYPICAL_LEAST_S = 10.0
UNKNOWN_S = 20.0
# How much one compile changes the typical time.
TYPICAL_STEP = 0.05
# CPU use that shows a distccd to be at work.
AT_WORK_CPUS = 0.1


class Suspicion:
    """Watches hosts that have leases, and probes those on which nothing ends."""

    def __init__(self, policy: Policy, timers: Timers) -> None:
        self._policy = policy
        self._timers = timers
        self._typical_s: float | None = None

    def first_lease_began(self, host: Host, turn: Turn) -> None:
        """Watch a host that had no lease before."""
        self._timers.set(("suspect", host.name), turn.now + EXPECTED_LEAST_S)

    def last_lease_ended(self, host: Host) -> None:
        """Stop watching a host that has no lease any more."""
        self._timers.clear(("suspect", host.name))

    def compile_ended(self, lease: Lease, turn: Turn) -> None:
        """Learn the typical time from a compile that a host did."""
        lease.host.last_end = turn.now
        took_s = turn.now - lease.granted
        if self._typical_s is None:
            self._typical_s = took_s
        elif not lease.disturbed:
            self._typical_s += TYPICAL_STEP * (took_s - self._typical_s)

    def look(self, host: Host, turn: Turn) -> None:
        """Probe a host if it is a suspect, and look again when it may be."""
        if not host.leases:
            return
        if host.address and self.suspects(host, turn.now):
            compiler = next(iter(host.leases.values())).request.compiler
            turn.effects.append(Probe(host.name, host.address, host.port, compiler))
            again = turn.now + TYPICAL_LEAST_S
        else:
            again = min(self._suspect_from(host, turn.now), turn.now + TYPICAL_LEAST_S)
        self._timers.set(("suspect", host.name), max(again, turn.now + EXPECTED_LEAST_S / 2))

    def suspects(self, host: Host, now: float) -> bool:
        """Whether a host that is not seen at work has ended no compile for too long."""
        if not host.leases or (host.load is not None and host.load.own_cpus > AT_WORK_CPUS):
            return False
        if host.state is State.OWNER:
            return False
        return self._suspect_from(host, now) <= now

    def _suspect_from(self, host: Host, now: float) -> float:
        """Return when a host with leases becomes a suspect, if none of them ends before."""
        since = max(host.last_end, host.owner_left_at, host.vouched_at)
        if now - since < EXPECTED_LEAST_S:
            return since + EXPECTED_LEAST_S  # the earliest possible time; it is worked out then
        return min(
            max(lease.granted, since) + self._longest_s(lease) for lease in host.leases.values()
        )

    def _longest_s(self, lease: Lease) -> float:
        """Return the longest time without an end on its host that a lease can explain."""
        expected_s = self._policy.expected_s(lease)
        if expected_s is not None:
            return max(EXPECTED_LEAST_S, TIMES_EXPECTED * expected_s)
        if self._typical_s is None:
            return UNKNOWN_S
        return max(TYPICAL_LEAST_S, TIMES_TYPICAL * self._typical_s)
