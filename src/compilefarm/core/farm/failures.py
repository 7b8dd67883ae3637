"""Hosts that fail compiles: who is to blame, quarantine, probes, and compilers that a host lacks.

A host that fails a compile is quarantined, briefly at first, and then probed. It comes back if it
compiles an empty file, or at least accepts the connection. Each failure doubles the next
quarantine, until compiles have succeeded for a while.

Two kinds of failure are not the host's fault as a whole. A host may lack one compiler: then it only
gets no compiles with that compiler for a time. And one builder may not reach the host, although
others do: one such builder must not idle the farm.

This part knows nothing of requests, and of a lease only how it ended.
"""

from __future__ import annotations

from compilefarm.core.events import HostNoted, HostProbed, Probe
from compilefarm.core.farm.roster import Roster
from compilefarm.core.farm.totals import Totals
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Host, Lease, Outcome
from compilefarm.core.timers import Timers

QUARANTINE_S = 5.0
QUARANTINE_LIMIT_S = 300.0
PROBE_AGAIN_S = 30.0
# Forget a failure once a compile succeeds at least this many quarantine periods later. One lucky
# compile, or probe, says little about a host that comes and goes.
PARDON_TIMES = 10.0

# A host lacks a compiler if compiles with it failed this often and the host then answered its
# probe. It is tried again after LACKS_FOR_S.
DOUBTS_TO_LACK = 2
LACKS_FOR_S = 600.0
# distcc's exit status if the other side could not execute the compiler.
EXIT_COMPILER_MISSING = 110


class Failures:
    """Blames hosts for failed compiles, and lets them come back."""

    def __init__(self, roster: Roster, timers: Timers, totals: Totals) -> None:
        self._roster = roster
        self._timers = timers
        self._totals = totals

    def compile_failed(self, lease: Lease, outcome: Outcome, turn: Turn) -> None:
        """Blame a host for a compile that it did not do; failures at one time count once."""
        host, compiler = lease.host, lease.request.compiler
        self._totals.failed += 1
        if outcome.exit == EXIT_COMPILER_MISSING and compiler:
            self._take_as_lacking(host, compiler, turn)
            return
        builder = lease.request.builder
        if builder == host.failed_builder and host.well_for_others:
            text = f"fails for builder {builder}, but not for others"
            turn.effects.append(HostNoted(host.name, text))
            return
        host.failed_compiler = compiler
        if lease.granted >= host.failed_at:
            host.failed_builder, host.well_for_others = builder, False
            why = outcome.reason or outcome.exit
            self.quarantine(host, f"a compile failed there: {why}", turn)

    def compile_succeeded(self, lease: Lease, turn: Turn) -> None:
        """Count a success; forget the host's failures if the last one is long enough ago."""
        host = lease.host
        host.doubts.pop(lease.request.compiler, None)
        if not host.failures or lease.granted < host.failed_at or host.quarantined:
            return
        host.well_for_others |= lease.request.builder != host.failed_builder
        if turn.now - host.failed_at >= PARDON_TIMES * _quarantine_s(host):
            host.failures = 0

    def pardon(self, host: Host, turn: Turn) -> None:
        """Forget all failures of a host that is added again; older leases blame it no more."""
        host.failures = 0
        host.failed_at = turn.now
        host.doubts.clear()
        host.lacks = frozenset()
        host.quarantined = False
        self._timers.clear(("probation", host.name))

    def quarantine(self, host: Host, reason: str, turn: Turn) -> None:
        """Give a host no leases until it has answered a probe."""
        host.failures += 1
        host.failed_at = turn.now
        host.quarantined = True
        self._timers.set(("probation", host.name), turn.now + _quarantine_s(host))
        turn.effects.append(HostNoted(host.name, reason))
        self._roster.refresh(host, turn)

    def probation_over(self, name: str, turn: Turn) -> None:
        """Probe a host whose quarantine is over, and again if no result comes."""
        self._timers.set(("probation", name), turn.now + PROBE_AGAIN_S)
        host = self._roster.hosts[name]
        turn.effects.append(Probe(name, host.address, host.port, host.failed_compiler))

    def quarantined_host_probed(self, host: Host, event: HostProbed, turn: Turn) -> None:
        """Let a host come back that answered its probe; quarantine it for longer if it did not."""
        if not event.answered:
            self.quarantine(host, "does not answer", turn)
            return
        host.quarantined = False
        self._timers.clear(("probation", host.name))
        if not event.compiled:
            self._doubt(host, turn)
        self._roster.refresh(host, turn)

    def lacks_over(self, name: str, turn: Turn) -> None:
        """Try a host again with the compilers that it lacked."""
        host = self._roster.hosts[name]
        host.lacks = frozenset()
        self._roster.refresh(host, turn)

    def _doubt(self, host: Host, turn: Turn) -> None:
        """Count that a host answers although a compile failed: perhaps it lacks the compiler."""
        compiler, host.failed_compiler = host.failed_compiler, ""
        if not compiler:
            return
        host.doubts[compiler] = host.doubts.get(compiler, 0) + 1
        if host.doubts[compiler] >= DOUBTS_TO_LACK:
            del host.doubts[compiler]
            self._take_as_lacking(host, compiler, turn)

    def _take_as_lacking(self, host: Host, compiler: str, turn: Turn) -> None:
        host.lacks |= {compiler}
        self._timers.set(("lacks", host.name), turn.now + LACKS_FOR_S)
        text = f"seems to lack {compiler}; it is tried again in {LACKS_FOR_S / 60:.0f} minutes"
        turn.effects.append(HostNoted(host.name, text))
        self._roster.refresh(host, turn)
        turn.choice_narrowed = True


def _quarantine_s(host: Host) -> float:
    """Return how long the host's next quarantine lasts, after that many failures."""
    return min(QUARANTINE_S * 2.0 ** min(host.failures - 1, 10), QUARANTINE_LIMIT_S)
