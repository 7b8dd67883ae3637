"""Which compilers builders ask for, how often they get them, and why they do not.

A builder whose compiler no host has compiles everything itself. So its user is told once a build
what is missing, and what is nearest to it. The counts are for people; the farm decides nothing by
them. This part reads hosts and changes none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from compilefarm.core.farm.roster import Roster
from compilefarm.core.model import Host, Request, Restriction
from compilefarm.protocol.compilers import CompilerInfo, architecture_of, sent_name

ASKED_LIMIT = 1000
# A reason looks at every host. A build without a host asks for it hundreds of times in a second.
REASONS_FOR_S = 1.0


@dataclass(slots=True)
class Asked:
    """A compiler that builders asked for, and how many requests were granted and refused."""

    compiler: CompilerInfo
    granted: int = 0
    refused: int = 0


class Demand:
    """The compilers that builders asked for, by their ids; the latest `ASKED_LIMIT`."""

    def __init__(self, roster: Roster) -> None:
        self.asked: dict[str, Asked] = {}
        self._roster = roster
        self._reasons: dict[Restriction, str] = {}
        self._reasons_until = 0.0

    def granted(self, request: Request) -> None:
        """Count a request that was granted."""
        if request.identity is not None:
            self._of(request.identity).granted += 1

    def refused(self, request: Request) -> None:
        """Count a request that was refused."""
        if request.identity is not None:
            self._of(request.identity).refused += 1

    def _of(self, compiler: CompilerInfo) -> Asked:
        asked = self.asked.get(compiler.id)
        if asked is None:
            if len(self.asked) >= ASKED_LIMIT:
                del self.asked[next(iter(self.asked))]
            asked = self.asked[compiler.id] = Asked(compiler)
        return asked

    # -- why there is no host

    def reason(self, request: Request, policys: str, now: float) -> str:
        """Return why no host will do for a request; `policys` is the policy's own reason.

        The policy's reason holds unless the compiler is what the hosts lack.
        """
        if request.identity is None:
            return policys
        if now >= self._reasons_until or len(self._reasons) >= ASKED_LIMIT:
            self._reasons.clear()
            self._reasons_until = now + REASONS_FOR_S
        reason = self._reasons.get(request.restriction)
        if reason is None:
            lack = self._lack_of(request, request.identity)
            reason = self._reasons[request.restriction] = lack or policys
        return reason

    def _lack_of(self, request: Request, wanted: CompilerInfo) -> str:
        """Return the reason if the compiler is what the hosts lack, else an empty text."""
        hosts = [host for host in self._roster.hosts.values() if host.added]
        if request.type:
            hosts = [host for host in hosts if request.type in host.types]
        used = [host for host in hosts if host.tier is not None]
        if not used or any(request.admits(host.signature) for host in used):
            return ""
        having = sum(request.admits(host.signature) for host in hosts)
        if having:
            return f"{_hosts(having)} your {wanted.text}, but cannot be used now"
        if closed := sum(wanted.id in host.closed_doors for host in hosts):
            return f"{_hosts(closed)} your {wanted.text}, but compiles with it failed there"
        return f"no host has your {wanted.text}{_nearest(hosts, request, wanted)}"


def _nearest(hosts: list[Host], request: Request, wanted: CompilerInfo) -> str:
    """Return the end of the reason: what is nearest to the compiler, and how many hosts have it."""
    counts: Counter[tuple[bool, bool, str]] = Counter()
    for host in hosts:
        counts.update(set(_alike(host, request, wanted)))
    if not counts:
        return ""
    nearest = max(counts, key=lambda each: (each[0], each[1], counts[each], each[2]))
    if nearest[2] == wanted.full_version:
        return f"; {_hosts(counts[nearest])} another build of it"
    return f"; {_hosts(counts[nearest])} {nearest[2]}"


def _alike(host: Host, request: Request, wanted: CompilerInfo) -> Iterator[tuple[bool, bool, str]]:
    """Yield a host's compilers of the wanted name.

    Each is whether the target is the wanted one, whether the version is, and its text.
    """
    for each in host.agent_compilers or ():
        if each.name == wanted.name:
            right = each.target == wanted.target
            text = each.full_version if right else f"{each.full_version} ({each.target})"
            yield right, each.version == wanted.version, text
    found = host.probed.get(sent_name(request.compiler, wanted.target))
    if found is not None and found.family == wanted.family:
        right = found.architecture == architecture_of(wanted.target)
        text = found.full_version if right else f"{found.full_version} ({found.architecture})"
        yield right, found.version == wanted.version, text


def _hosts(count: int) -> str:
    return "1 host has" if count == 1 else f"{count} hosts have"
