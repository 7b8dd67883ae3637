"""Commands that ended badly on hosts: the first thing to blame, before builders and hosts.

A command is one builder's compile of one source in one directory. Some commands can never end well
on a host. They read a file that only the builder has, or their object cannot be written there. Such
a command ends badly wherever it is sent. Once it ended badly on two hosts that gave no other
reason, it compiles at home for an hour. No host is blamed for it.

This part knows hosts only by name. All its tables are bounded; the oldest entry goes first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from compilefarm.core.model import Request

HOSTS_TO_BLAME = 2
TROUBLE_FOR_S = 600.0
HOME_FOR_S = 3600.0
COMMANDS_LIMIT = 10_000


class Command(NamedTuple):
    """What identifies a command; without a source it identifies nothing."""

    builder: str
    directory: str
    source: str


def command_of(request: Request) -> Command:
    """Return the command that a request is for."""
    return Command(request.builder, request.directory, request.source)


class Commands:
    """Where each command ended badly, and which commands compile only on their builders."""

    def __init__(self) -> None:
        # By command and host: when it last ended badly there, in seconds.
        self._trouble: dict[Command, dict[str, float]] = {}
        self._home_until: dict[Command, float] = {}

    def ended_badly(self, command: Command, host: str, now: float) -> bool:
        """Record that a command ended badly on a host; return whether the command is to blame."""
        if not command.source:
            return False
        hosts = self._trouble.pop(command, {})
        hosts = {name: at for name, at in hosts.items() if now - at < TROUBLE_FOR_S}
        hosts[host] = now
        if len(hosts) < HOSTS_TO_BLAME:
            self._trouble[command] = hosts
            _limit(self._trouble)
            return False
        self._home_until.pop(command, None)
        self._home_until[command] = now + HOME_FOR_S
        _limit(self._home_until)
        return True

    def ended_well(self, command: Command) -> None:
        """Forget the trouble of a command that a host can compile."""
        if self._trouble:
            self._trouble.pop(command, None)

    def explained(self, commands: Iterable[Command], host: str) -> None:
        """Forget the trouble of commands on a host that was to blame itself."""
        for command in commands:
            hosts = self._trouble.get(command)
            if hosts is not None:
                hosts.pop(host, None)

    def stays_home(self, request: Request, now: float) -> bool:
        """Whether a request is for a command that compiles only on its builder."""
        if not self._home_until:
            return False
        command = command_of(request)
        until = self._home_until.get(command)
        if until is None:
            return False
        if now < until:
            return True
        del self._home_until[command]
        return False

    def any_stays_home(self, now: float) -> bool:
        """Whether any command compiles only on its builder."""
        return any(now < until for until in self._home_until.values())


def _limit(table: dict[Command, dict[str, float]] | dict[Command, float]) -> None:
    if len(table) > COMMANDS_LIMIT:
        del table[next(iter(table))]
