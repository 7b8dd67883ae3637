"""Which compilers each host has, and which of its doors are open.

An agent reports all compilers of its host. A door may be closed: compiles through it failed, and
the compiler is of no use there although the host has it. The rest of the host goes on.

Hosts with equal compilers and doors share one `Offer`, however many hosts there are: a policy tells
kinds of hosts apart by it. This part changes a host's offer, and nothing else does. It knows
nothing of requests or leases.
"""

from __future__ import annotations

from collections.abc import Hashable

from compilefarm.core.compilers import NO_OFFER, Offer, ProbedCompiler
from compilefarm.core.events import HostNoted
from compilefarm.core.farm.roster import Roster
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Host
from compilefarm.protocol.compilers import CompilerInfo


class Doors:
    """The offers of hosts."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        # Those in use, and at most as many that no host has any more.
        self._offers: dict[Hashable, Offer] = {}

    def report(self, host: Host, compilers: tuple[CompilerInfo, ...] | None, turn: Turn) -> None:
        """Apply the list of compilers that a host's agent sent; None: there is no agent."""
        had = len(host.agent_compilers or ())
        host.agent_compilers = compilers
        host.compilers_awaited = False
        host.closed_doors &= {compiler.id for compiler in compilers or ()}
        host.probed.clear()
        if compilers is not None and len(compilers) != had:
            turn.effects.append(HostNoted(host.name, f"has {len(compilers)} compilers"))
        self._offer(host, turn)

    def await_report(self, host: Host, turn: Turn) -> None:
        """Give a host no new leases for its compilers until its agent has reported them.

        The caller refreshes the host.
        """
        host.compilers_awaited = True
        if host.agent_compilers is None:
            host.agent_compilers = ()
            host.probed.clear()
        self._set_offer(host, turn)

    def forget(self, host: Host, turn: Turn) -> None:
        """Forget the compilers of a host that is gone; its agent reports them when it is back."""
        if host.agent_compilers and self._roster.hosts.get(host.name) is host:
            host.agent_compilers = ()
            self.await_report(host, turn)
            self._roster.refresh(host, turn)

    def close(self, host: Host, id: str, turn: Turn) -> None:
        """Give no more leases for this compiler of a host; leases that run go on."""
        if id not in host.closed_doors and any(
            id == each.id for each in host.agent_compilers or ()
        ):
            host.closed_doors |= {id}
            self._offer(host, turn)

    def open(self, host: Host, id: str, turn: Turn) -> None:
        """Give leases for this compiler of a host again."""
        if id in host.closed_doors:
            host.closed_doors -= {id}
            self._offer(host, turn)

    def probed(self, host: Host, sent: str, found: ProbedCompiler | None, turn: Turn) -> None:
        """Note what a host without an agent runs under the name that distcc sends."""
        if sent not in host.probed or host.probed[sent] != found:
            host.probed[sent] = found
            self._offer(host, turn)
        turn.choice_narrowed = True  # requests that waited for this may have no host now

    def forget_probes(self, host: Host, turn: Turn) -> None:
        """Forget what probes found on a host."""
        if host.probed:
            host.probed.clear()
            self._offer(host, turn)

    def _offer(self, host: Host, turn: Turn) -> None:
        if self._set_offer(host, turn):
            self._roster.refresh(host, turn)

    def _set_offer(self, host: Host, turn: Turn) -> bool:
        """Bring a host's offer in line with its facts; return whether it has changed."""
        offer = self._shared(host)
        if offer is host.offer:
            return False
        host.offer = offer
        turn.choice_narrowed = True
        return True

    def _shared(self, host: Host) -> Offer:
        """Return the offer that all hosts with these compilers and doors share."""
        if host.agent_compilers is None and not host.probed:
            return NO_OFFER
        key: Hashable
        if host.agent_compilers is None:
            key = frozenset(host.probed.items())
        elif host.compilers_awaited:
            key = "awaited"
        else:
            key = (frozenset(host.agent_compilers), host.closed_doors)
        offer = self._offers.get(key)
        if offer is None:
            self._drop_unused()
            offer = self._offers[key] = _offer_of(host)
        return offer

    def _drop_unused(self) -> None:
        hosts = self._roster.hosts
        if len(self._offers) > 2 * len(hosts):
            used = {id(host.offer) for host in hosts.values()}
            self._offers = {key: each for key, each in self._offers.items() if id(each) in used}


def _offer_of(host: Host) -> Offer:
    if host.agent_compilers is None:
        return Offer(probed=dict(host.probed))
    if host.compilers_awaited:
        return Offer(has_agent=True)
    doors = {each.id: each for each in host.agent_compilers if each.id not in host.closed_doors}
    versions = {(each.name, each.version, each.target): each for each in doors.values()}
    return Offer(True, doors, host.closed_doors, versions)
