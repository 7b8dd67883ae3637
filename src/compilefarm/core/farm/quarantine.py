"""Quarantine: a host that no builder may use, until it has answered a probe.

It is short at first. Each failure doubles the next one, until compiles have succeeded for a while.
A host that is not in the farm is not probed.

This part does not judge; `failures` and `hosts` say which host to quarantine, and why.
"""

from __future__ import annotations

from compilefarm.core.events import HostNoted, Probe
from compilefarm.core.farm.roster import Roster
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Host
from compilefarm.core.timers import Timers

QUARANTINE_S = 5.0
QUARANTINE_LIMIT_S = 300.0
PROBE_AGAIN_S = 30.0
# Forget a failure once a compile succeeds at least this many quarantine periods later. One lucky
# compile, or probe, says little about a host that comes and goes.
PARDON_TIMES = 10.0


class Quarantine:
    """Begins and ends the quarantine of hosts."""

    def __init__(self, roster: Roster, timers: Timers) -> None:
        self._roster = roster
        self._timers = timers

    def begin(self, host: Host, reason: str, turn: Turn) -> None:
        """Give a host no leases until it has answered a probe."""
        host.failures += 1
        host.failed_at = turn.now
        host.quarantined = True
        self._timers.set(("probation", host.name), turn.now + _quarantine_s(host))
        turn.effects.append(HostNoted(host.name, reason))
        self._roster.refresh(host, turn)

    def over(self, name: str, turn: Turn) -> None:
        """Probe a host whose quarantine is over, and again if no result comes."""
        host = self._roster.hosts[name]
        if not host.added:
            self.end(host, turn)
            return
        self._timers.set(("probation", name), turn.now + PROBE_AGAIN_S)
        turn.effects.append(Probe(name, host.address, host.port, host.probe_with[0]))

    def end(self, host: Host, turn: Turn) -> None:
        """Let a host have leases again."""
        host.quarantined = False
        self._timers.clear(("probation", host.name))
        self._roster.refresh(host, turn)

    def succeeded(self, host: Host, granted: float, now: float) -> None:
        """Forget the host's failures if the last one is long enough before a success."""
        if not host.failures or granted < host.failed_at or host.quarantined:
            return
        if now - host.failed_at >= PARDON_TIMES * _quarantine_s(host):
            host.failures = 0

    def pardon(self, host: Host, turn: Turn) -> None:
        """Forget all failures of a host; the caller refreshes it."""
        host.failures = 0
        host.failed_at = turn.now
        host.quarantined = False
        self._timers.clear(("probation", host.name))


def _quarantine_s(host: Host) -> float:
    """Return how long the host's next quarantine lasts, after that many failures."""
    return min(QUARANTINE_S * 2.0 ** min(host.failures - 1, 10), QUARANTINE_LIMIT_S)
