"""Hosts that one builder does not get, because its own compiles fail there.

At first, a failure concerns one builder, one host and one compiler. The builder's disk may be full,
or a firewall may be between the two. So the host is held back from this builder alone, briefly at
first. Each further failure doubles the time, until compiles have succeeded for a while.

A builder that has trouble on several hosts which the server can use is the cause itself. Nothing is
then held against these hosts for others. This part knows hosts only by name.
"""

from __future__ import annotations

from dataclasses import dataclass

from compilefarm.core.farm.commands import Command
from compilefarm.core.model import Request

HOLD_S = 5.0
HOLD_LIMIT_S = 300.0
# A success at least this many hold times after the failure ends the doubling.
PARDON_TIMES = 10.0
HOLDS_LIMIT = 10_000
HOSTS_TO_BLAME = 2
TROUBLE_FOR_S = 600.0
BUILDERS_LIMIT = 1000

_NONE: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Hold:
    since: float
    until: float
    times: int


class Holds:
    """The hosts that are held back from each builder, and the builders that are to blame."""

    def __init__(self) -> None:
        # By builder, and by host and compiler.
        self._of: dict[str, dict[tuple[str, str], _Hold]] = {}
        self._count = 0
        # How many holds were ended before their time.
        self.ended = 0
        # By builder and host: when the builder last had trouble there, in seconds, and with which
        # command.
        self._trouble: dict[str, dict[str, tuple[float, Command]]] = {}

    # -- holds

    def begin(
        self, request: Request, host: str, granted: float, now: float, least_s: float = HOLD_S
    ) -> None:
        """Hold a host back from a request's builder and compiler.

        Compiles that were granted before the last failure count with it.
        """
        # At the end: the builder that has had no failure for longest goes first.
        holds = self._of[request.builder] = self._of.pop(request.builder, {})
        key = (host, request.compiler)
        hold = holds.get(key)
        if hold is None:
            self._count += 1
            holds[key] = _Hold(now, now + least_s, 1)
            while self._count > HOLDS_LIMIT and len(self._of) > 1:
                self._count -= len(self._of.pop(next(iter(self._of))))
        elif granted >= hold.since:
            hold.times += 1
            hold.since, hold.until = now, now + max(least_s, _hold_s(hold.times))
        if len(holds) > HOLDS_LIMIT:
            del holds[next(iter(holds))]
            self._count -= 1

    def end(self, builder: str, host: str, compiler: str) -> None:
        """End a hold that turned out to have another cause."""
        holds = self._of.get(builder)
        if holds is not None and holds.pop((host, compiler), None) is not None:
            self._count -= 1
            self.ended += 1
            if not holds:
                del self._of[builder]

    def succeeded(self, request: Request, host: str, granted: float, now: float) -> None:
        """Forget a builder's failures on a host if the last one is long enough ago."""
        holds = self._of.get(request.builder)
        hold = holds.get((host, request.compiler)) if holds else None
        if hold is not None and granted >= hold.since:
            if now - hold.since >= PARDON_TIMES * _hold_s(hold.times):
                self.end(request.builder, host, request.compiler)
            self._trouble.get(request.builder, {}).pop(host, None)

    def held(self, request: Request, now: float) -> frozenset[str]:
        """Return the hosts that are held back from a request."""
        holds = self._of.get(request.builder)
        if not holds:
            return _NONE
        return frozenset(
            host
            for (host, compiler), hold in holds.items()
            if compiler == request.compiler and now < hold.until
        )

    def is_held(self, request: Request, host: str, now: float) -> bool:
        """Whether a host is held back from a request."""
        holds = self._of.get(request.builder)
        hold = holds.get((host, request.compiler)) if holds else None
        return hold is not None and now < hold.until

    def any(self, now: float) -> bool:
        """Whether any host is held back from any builder."""
        return any(now < hold.until for holds in self._of.values() for hold in holds.values())

    def pardon(self, host: str) -> None:
        """End all holds of a host."""
        for builder, holds in list(self._of.items()):
            for name, compiler in list(holds):
                if name == host:
                    self.end(builder, host, compiler)

    # -- builders

    def had_trouble(self, command: Command, host: str, now: float) -> None:
        """Record that a builder had trouble on a host that the server can use."""
        hosts = self._fresh(command.builder, now)
        hosts[host] = (now, command)
        self._trouble.pop(command.builder, None)
        self._trouble[command.builder] = hosts
        if len(self._trouble) > BUILDERS_LIMIT:
            del self._trouble[next(iter(self._trouble))]

    def is_to_blame(self, builder: str, now: float) -> bool:
        """Whether a builder had trouble on several hosts, and not with one command alone."""
        hosts = self._fresh(builder, now)
        commands = {command for _, command in hosts.values()}
        return len(hosts) >= HOSTS_TO_BLAME and len(commands) > 1

    def _fresh(self, builder: str, now: float) -> dict[str, tuple[float, Command]]:
        hosts = self._trouble.get(builder, {})
        return {name: each for name, each in hosts.items() if now - each[0] < TROUBLE_FOR_S}


def _hold_s(times: int) -> float:
    return min(HOLD_S * 2.0 ** min(times - 1, 10), HOLD_LIMIT_S)
