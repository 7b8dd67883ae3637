"""A compile host: distccd, loadavg, and the user at the desk.

distccd accepts connections, runs a limited number of compiles at once while the others wait, and
answers with an exit status. While it is stopped, connections are still accepted, and nothing comes
back. loadavg follows docs/protocol.md: it registers the host, reports every two seconds and after a
change, and reconnects when it has lost the server. A compile takes its cost divided by the host's
power. Compiles do not slow each other down: that is for simulate-farm, which is about speed.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import TYPE_CHECKING

from compilefarm.protocol.ports import DISTCCD_PORT

from .clock import Process
from .host_server import LOADS
from .programs import Bell, Line

if TYPE_CHECKING:
    from .plan import HostPlan
    from .world import World

REPORT_EVERY_S = 2.0
LOOK_EVERY_S = 0.5
CONNECT_WITHIN_S = 3.0
ANSWER_WITHIN_S = 10.0
PAUSE_S = (0.5, 1.2)
EXIT_REMOTE_FAILED, EXIT_NO_COMPILER = 116, 110


class CompileHost:
    """A machine that compiles for others, and its faults."""

    def __init__(self, world: World, plan: HostPlan) -> None:
        self.world = world
        self.plan = plan
        self.machine = world.network.machine(plan.name, plan.address)
        self.foreign_cpus = 0.0
        self.off_since = 0.0
        self.answers_with: int | None = None  # an exit status instead of a compile
        self.distccd: Process
        self.loadavg: Process | None = None
        self.returns = False  # its loadavg has reported before, and will say so
        self.running: set[_Compile] = set()
        self.waiting: deque[_Compile] = deque()
        self._chance = random.Random(f"{world.plan.seed}/{plan.name}")

    @property
    def name(self) -> str:
        """The farm's name for it."""
        return self.plan.address

    def start(self) -> None:
        """Start its programs."""
        self.start_distccd()
        self.start_loadavg()

    def start_distccd(self) -> None:
        """Start distccd."""
        self.running.clear()
        self.waiting.clear()
        self.distccd = self.world.network.process(f"distccd of {self.plan.name}", self.machine)
        self.machine.listeners[DISTCCD_PORT] = (self.distccd, lambda: _Compile(self))

    def start_loadavg(self) -> None:
        """Start loadavg, if this host has one."""
        self.returns = False
        if self.plan.reports:
            self.world.removed_by_hand.discard(self)  # a new loadavg adds the host again
            self.loadavg = self.world.network.process(f"loadavg of {self.plan.name}", self.machine)
            self.loadavg.enter(self._begin_reports)

    def kill_distccd(self) -> None:
        """Kill distccd and its compiles."""
        self.world.network.end_process(self.distccd, self.machine)

    def kill_loadavg(self) -> None:
        """Kill loadavg."""
        if self.loadavg is not None:
            self.world.network.end_process(self.loadavg, self.machine)

    def power_off(self) -> None:
        """Lose power."""
        self.distccd.kill()
        if self.loadavg is not None:
            self.loadavg.kill()
        self.world.network.power_off(self.machine)
        self.off_since = self.world.clock.now
        self.world.without_power.append(self)

    def power_on(self) -> None:
        """Boot the machine."""
        self.world.without_power.remove(self)
        self.world.network.power_on(self.machine)
        self.start()

    def take_time(self, cost_s: float) -> float:
        """Return the time in seconds that a compile of this cost takes here, now."""
        busy = min(self.foreign_cpus, self.plan.slots - 0.5)
        share = (self.plan.slots - busy) / self.plan.slots
        return cost_s / (self.plan.power * share) * self._chance.uniform(0.8, 1.25)

    # -- loadavg

    def _begin_reports(self) -> None:
        assert self.loadavg is not None
        self._reports = self.loadavg.create_task(self._report())

    async def _report(self) -> None:
        assert self.loadavg is not None
        bell = Bell(self.loadavg)
        pause_s = PAUSE_S[0]
        while True:
            line = Line(self.world.network, self.loadavg, self.machine, bell.ring)
            pause_s = PAUSE_S[0] if await self._report_on(line, bell) else pause_s
            line.close()
            await asyncio.sleep(pause_s * self._chance.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, PAUSE_S[1])

    async def _report_on(self, line: Line, bell: Bell) -> bool:
        """Report on one connection until it ends; return whether it ever worked."""
        line.connect(self.world.server_address, LOADS)
        if not await self._comes(line, bell, CONNECT_WITHIN_S, lambda: line.opened):
            return False
        plan = self.plan
        words = {"returning": "yes"} if self.returns else {}
        line.say("add", host=plan.address, slots=plan.slots, power_index=plan.power, **words)
        if not await self._is_answered(line, bell):
            return False
        last = self._load()
        line.say("load", **last, **words)
        if not await self._is_answered(line, bell):
            return False
        self.returns = True
        clock, sent = self.world.clock, self.world.clock.now
        while not line.closed:
            await bell.wait(clock.now + LOOK_EVERY_S)
            load = self._load()
            if load != last or clock.now - sent >= REPORT_EVERY_S - LOOK_EVERY_S / 2:
                line.say("load", **load)
                last, sent = load, clock.now
        return True

    async def _is_answered(self, line: Line, bell: Bell) -> bool:
        if not await self._comes(line, bell, ANSWER_WITHIN_S, line.has_heard):
            return False
        message = line.hear()
        return message is not None and message.verb == "ok"

    async def _comes(self, line: Line, bell: Bell, within_s: float, what: object) -> bool:
        assert callable(what)
        until = self.world.clock.now + within_s
        while not what():
            if line.closed or self.world.clock.now >= until:
                return False
            await bell.wait(until)
        return True

    def _load(self) -> dict[str, object]:
        state = "running"
        if not self.distccd.alive:
            state = "gone"
        elif self.distccd.stopped:
            state = "stopped"
        return {
            "host": self.plan.address,
            "cpus": self.plan.slots,
            "foreign_cpus": self.foreign_cpus,
            "own_cpus": 0.0 if state == "stopped" else float(len(self.running)),
            "compiles": 0 if state == "gone" else len(self.running) + len(self.waiting),
            "distccd": state,
        }


class _Compile(asyncio.Protocol):
    """distccd's side of one connection: `compile cost_s=… exit=…`, answered by `exit status=…`."""

    def __init__(self, host: CompileHost) -> None:
        self._host = host
        self._heard = b""
        self._cost_s = self._exit = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if self._heard.startswith(b"DIST"):  # a probe; distccd has a process more than slots
            if self._host.answers_with is None:
                self._transport.write(b"DONE%08xSTAT%08x" % (1, 0))
            self._transport.close()
            return
        if not self._heard.endswith(b"\n"):
            return
        cost, status = self._heard.split()
        self._cost_s, self._exit = float(cost), int(status)
        host = self._host
        if host.answers_with is not None:
            host.distccd.call_later(0.02, self._answer, host.answers_with)
        elif len(host.running) < host.plan.slots:
            self._begin()
        else:
            host.waiting.append(self)

    def _begin(self) -> None:
        host = self._host
        host.running.add(self)
        host.distccd.call_later(host.take_time(self._cost_s), self._end)

    def _end(self) -> None:
        host = self._host
        host.running.discard(self)
        self._answer(int(self._exit))
        while host.waiting and len(host.running) < host.plan.slots:
            host.waiting.popleft()._begin()

    def _answer(self, status: int) -> None:
        self._transport.write(b"%d\n" % status)
        self._transport.close()
