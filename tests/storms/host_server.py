"""host-server in the simulated world: the real one, from its connections to its timers.

It is `HostServer` with the real farm, policies and connections, as a process of the world. What
`server/main.py` adds on a real machine (sockets, signals, the monitor port, files) is not here. One
thing is: the hosts' availability is saved on a simulated disk.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import cast

from compilefarm.core.events import EarlierLife, Effect, Event, HostsListed
from compilefarm.core.farm.farm import Farm
from compilefarm.core.farm.story import Played, facts, replay
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Availability
from compilefarm.core.placement.policies import make_policy
from compilefarm.core.placement.policy import Policy
from compilefarm.protocol.declaration import Declaration
from compilefarm.protocol.ports import BASE_PORT
from compilefarm.server.access import networks_by_port
from compilefarm.server.connections.hosts import LoadConnection, StatusConnection
from compilefarm.server.connections.requests import RequestConnection
from compilefarm.server.host_server import HostServer
from compilefarm.server.storage.write_behind import WRITE_BEHIND_S, WriteBehind

from .network import Machine, Network

REQUESTS, LOADS, STATUS = range(BASE_PORT, BASE_PORT + 3)
CONNECTIONS = {REQUESTS: RequestConnection, LOADS: LoadConnection, STATUS: StatusConnection}


WRITING_TAKES_S = 0.003


class _Disk:
    """Replaces `WriteBehind`: the server's next life finds what this one has written."""

    def __init__(self, kept: dict[str, Availability], server: HostServer) -> None:
        self._kept = kept
        self._server = server
        self._changed: set[str] = set()

    def availability_changed(self, name: str) -> None:
        self._changed.add(name)

    async def written(self) -> None:
        if self._changed:
            names, self._changed = self._changed, set()
            await asyncio.sleep(WRITING_TAKES_S)
            for name in names:
                availability = self._server.farm.availability(name)
                if availability is None:
                    self._kept.pop(name, None)
                else:
                    self._kept[name] = availability

    async def keep(self) -> None:
        while True:
            await asyncio.sleep(WRITE_BEHIND_S)
            await self.written()


class _RecordedFarm(Farm):
    """A farm that remembers everything that happened to it."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.events: list[tuple[Event, float, list[Effect]]] = []

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects = super().handle(event, now)
        self.events.append((event, now, effects))
        return effects


class WatchedServer(HostServer):
    """A HostServer that calls a watcher after each event."""

    watcher: Callable[[], None] = staticmethod(lambda: None)

    def happen(self, event: Event) -> None:
        super().happen(event)
        self.watcher()


class ServerProgram:
    """The program host-server on its machine; it can be killed and started again."""

    def __init__(
        self,
        network: Network,
        machine: Machine,
        policy: str,
        listed: tuple[Declaration, ...],
        watcher: Callable[[], None],
    ) -> None:
        self.machine = machine
        self.starts = 0
        self.started_at = 0.0
        self.server: WatchedServer | None = None  # None while it does not run
        self._kept: dict[str, Availability] = {}
        self._network = network
        self._policy = policy
        self._listed = listed
        self._watcher = watcher

    def start(self) -> None:
        """Start it; it must not run."""
        assert self.server is None
        self.starts += 1
        self.started_at = self._network.clock.now
        self.process = self._network.process("host-server", self.machine)
        self.process.enter(self._begin)

    def kill(self) -> None:
        """End it as SIGKILL does."""
        self._network.end_process(self.process, self.machine)
        self.server = None

    def played_again(self) -> str:
        """Play everything since the last start into a fresh farm; return how that ends."""
        events = self._farm.events
        played = [Played(event, now, facts(effects)) for event, now, effects in events]
        return replay(played, Farm(self._new_policy())) or "nothing is wrong"

    def _new_policy(self) -> Policy:
        return make_policy(self._policy, Learning(), random.Random(self.starts))

    def _begin(self) -> None:
        server = self.server = WatchedServer(self._new_policy(), networks_by_port(()))
        server.farm = self._farm = _RecordedFarm(self._new_policy())
        server.life = f"life{self.starts}"  # a real one draws a random text
        disk = _Disk(self._kept, server)
        server.write_behind = cast(WriteBehind, disk)
        server.happen(HostsListed(self._listed))
        if self.starts > 1:
            server.happen(EarlierLife(tuple(self._kept.values())))
        server.watcher = self._watcher  # from now on clients can reach the server
        for port, connection in CONNECTIONS.items():
            self.machine.listeners[port] = (self.process, partial(connection, server))
        works = (server.keep_time(), disk.keep())
        self._works = [self.process.create_task(work) for work in works]
