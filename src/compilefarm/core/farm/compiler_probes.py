"""Probes that find out which compilers the hosts without an agent have.

Such a host says nothing of its compilers. When the first request names one, each of these hosts
compiles an empty file with it, and the object says which compiler made it. The result holds until
the host registers again. A host that did not answer or compile is asked again after a time, because
the cause may pass.

No request is refused for lack of a host while a host still has to answer for the first time. This
part knows requests only by the compiler that they want.
"""

from __future__ import annotations

import re

from compilefarm.core.compilers import Sameness
from compilefarm.core.events import CompilerProbed, ProbeCompiler
from compilefarm.core.farm.doors import Doors
from compilefarm.core.farm.roster import Roster
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Host, Request
from compilefarm.core.timers import Timers
from compilefarm.protocol.compilers import sent_name

ASK_AGAIN_S = 60.0
# The server asks for this many names. A name makes room for another if no builder has wanted it for
# `UNWANTED_S`. So a builder that sends many names cannot cause many probes.
NAMES_LIMIT = 64
UNWANTED_S = 600.0
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.-]{0,199}\Z")


class CompilerProbes:
    """Which names are wanted, and which hosts still have to answer for one."""

    def __init__(self, timers: Timers, roster: Roster, doors: Doors) -> None:
        self._timers = timers
        self._roster = roster
        self._doors = doors
        self._wanted: dict[str, float] = {}  # when last, in seconds, by the name that distcc sends
        self._asked: dict[str, set[str]] = {}  # names of hosts that have to answer, by that name

    # -- requests

    def want(self, request: Request, turn: Turn) -> None:
        """Find out which hosts without an agent have a request's compiler, if that matters."""
        sent = self._sent(request)
        if not sent:
            return
        if sent in self._wanted:
            self._wanted[sent] = turn.now
            return
        if len(self._wanted) >= NAMES_LIMIT:
            oldest = min(self._wanted, key=self._wanted.__getitem__)
            if turn.now - self._wanted[oldest] < UNWANTED_S:
                return
            del self._wanted[oldest]
        self._wanted[sent] = turn.now
        for host in self._roster.hosts.values():
            self._ask(host, sent, turn)

    def undecided(self, request: Request) -> bool:
        """Whether a host that may have a request's compiler has not answered yet."""
        return any(
            self.undecided_on(host, request) for host in self._asked_for(self._sent(request))
        )

    def undecided_on(self, host: Host, request: Request) -> bool:
        """Whether a host may turn out to have a request's compiler."""
        sent = self._sent(request)
        return bool(sent) and host.agent_compilers is None and sent not in host.probed

    def _sent(self, request: Request) -> str:
        """Return the name to probe for a request; empty if no probe helps."""
        if request.identity is None or request.sameness is Sameness.ANY:
            return ""
        sent = sent_name(request.compiler, request.identity.target)
        return sent if _NAME.match(sent) else ""

    def _asked_for(self, sent: str) -> list[Host]:
        hosts = self._roster.hosts
        return [hosts[name] for name in self._asked.get(sent, ()) if name in hosts]

    # -- hosts

    def ask(self, host: Host, turn: Turn) -> None:
        """Ask a host that may be up now for each wanted compiler that it was not asked for."""
        if self._wanted and host.agent_compilers is None and host.up:
            for sent in self._wanted:
                self._ask(host, sent, turn)

    def ask_anew(self, host: Host, turn: Turn) -> None:
        """Forget what a host answered, because it registered again, and ask again."""
        self._doors.forget_probes(host, turn)
        self.ask(host, turn)

    def ask_again(self, name: str, turn: Turn) -> None:
        """Ask a host again for the compilers that it failed to compile with."""
        host = self._roster.hosts[name]
        for sent in [sent for sent, found in host.probed.items() if found is None]:
            if sent in self._wanted:
                self._ask(host, sent, turn, again=True)

    def probed(self, event: CompilerProbed, turn: Turn) -> None:
        """Apply a probe's result."""
        asked = self._asked.get(event.compiler)
        if asked is not None:
            asked.discard(event.name)
            if not asked:
                del self._asked[event.compiler]
        host = self._roster.hosts.get(event.name)
        if host is None or host.agent_compilers is not None:
            turn.choice_narrowed = True
            return
        self._doors.probed(host, event.compiler, event.found, turn)
        if event.found is None:
            self._timers.set(("ask", host.name), turn.now + ASK_AGAIN_S)

    def _ask(self, host: Host, sent: str, turn: Turn, *, again: bool = False) -> None:
        if host.agent_compilers is not None or not host.up or (sent in host.probed and not again):
            return
        asked = self._asked.setdefault(sent, set())
        if host.name not in asked:
            asked.add(host.name)
            turn.effects.append(ProbeCompiler(host.name, host.address, host.port, sent))
