"""An administrator who types status messages by hand, at the server's machine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .clock import Process
from .compile_host import CompileHost
from .host_server import STATUS
from .programs import Bell, Line

if TYPE_CHECKING:
    from .world import World

LOOKS_AGAIN_S = 3.0


class Administrator:
    """Repeats each message until it has worked, also over restarts of the server.

    After adding a host, the administrator looks whether the host is available: an older message may
    have arrived later.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._typing: dict[str, Process] = {}  # by the name of the host
        self._tasks: list[object] = []

    def type(self, verb: str, host: CompileHost, words: str) -> None:
        """Type a message about a host; a message about it that has not worked yet is dropped."""
        world, plan = self._world, host.plan
        before = self._typing.pop(plan.name, None)
        if before is not None:
            world.network.end_process(before, world.server_machine)
        process = world.network.process("administrator", world.server_machine)
        self._typing[plan.name] = process
        world.removed_by_hand.discard(host)
        if verb == "add":
            words = f"slots={plan.slots} power_index={plan.power:g}"
        process.enter(
            lambda: self._tasks.append(
                process.create_task(self._type_until_it_works(process, verb, host, words))
            )
        )

    async def _type_until_it_works(
        self, process: Process, verb: str, host: CompileHost, words: str
    ) -> None:
        loadavg = host.loadavg
        removes = verb != "add" and (host.returns or not host.plan.reports)
        text = f"{verb} host={host.plan.address} {words}".strip()
        worked = await self._type_once(process, text)
        if worked and removes and host.loadavg is loadavg:  # a new loadavg adds the host again
            self._world.removed_by_hand.add(host)
        await asyncio.sleep(LOOKS_AGAIN_S)
        if not worked or (verb == "add" and not self._is_available(host)):
            self.type(verb, host, words)

    async def _type_once(self, process: Process, text: str) -> bool:
        """Type one message; return whether the answer is `ok`."""
        world, bell = self._world, Bell(process)
        line = Line(world.network, process, world.server_machine, bell.ring)
        line.connect(world.server_address, STATUS)
        while not line.opened and not line.closed:
            await bell.wait()
        line.endpoint.write(text.encode() + b"\n")
        while not line.closed or line.has_heard():
            message = line.hear()
            if message is None:
                await bell.wait()
            elif message.verb in ("ok", "error"):
                line.close()
                return message.verb == "ok"
        return False

    def _is_available(self, host: CompileHost) -> bool:
        server = self._world.program.server
        known = server and server.farm.hosts.get(host.plan.address)
        return bool(known and known.added and known.drain_until is None)
