"""The faults of a plan: each begins at its time, and is repaired when it is over."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from .administrator import Administrator
from .compile_host import CompileHost
from .host_server import STATUS
from .network import Machine
from .plan import SERVER, Fault
from .programs import Line

if TYPE_CHECKING:
    from .clock import Process
    from .world import World

CALM_DELAY_S = (0.0001, 0.002)
STRANGERS_WORDS = (
    b"request ",
    b"done exit=0\n",
    b"load host=10.0.1.1",
    b"\n",
    b"\xff",
    b"wait",
    b" user=x",
)


class Faults:
    """Begins the faults of a world's plan, and repairs each when its time is over."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._network = world.network
        self._chance = random.Random(f"{world.plan.seed}/faults")
        self._process = world.network.process("faults", world.server_machine)
        self._administrator = Administrator(world)
        self._begin_by_kind: dict[str, Callable[[Fault], None]] = {
            "kill-server": self._kill_server,
            "stop-server": self._stop_server,
            "kill-distccd": self._kill_distccd,
            "stop-distccd": self._stop_distccd,
            "kill-loadavg": self._kill_loadavg,
            "power-off": self._power_off,
            "cut": self._cut,
            "kill-gethost": self._kill_gethost,
            "break": self._break_connections,
            "stall": self._stall_connections,
            "slow": self._slow_network,
            "owner": self._owner_comes,
            "fails": self._fail_compiles,
            "drain": self._take_out,
            "remove": self._take_out,
            "stranger": self._stranger,
        }

    def schedule(self) -> None:
        """Let each fault of the plan begin at its time."""
        for fault in self._world.plan.faults:
            self._process.call_at(fault.at, self._begin, fault)

    def _begin(self, fault: Fault) -> None:
        self._world.tell(fault.text())
        self._begin_by_kind[fault.kind](fault)

    def _afterwards(self, fault: Fault, repair: Callable[..., None], *args: object) -> None:
        def end() -> None:
            if self._world.telling:
                self._world.tell(f"over: {fault.text()}")
            repair(*args)

        self._process.call_at(fault.over, end)

    # -- the server

    def _kill_server(self, fault: Fault) -> None:
        program = self._world.program
        if program.server is not None:
            program.kill()
            self._afterwards(fault, self._start_server)

    def _start_server(self) -> None:
        if self._world.program.server is None:
            self._world.program.start()

    def _stop_server(self, fault: Fault) -> None:
        world, process = self._world, self._world.program.process
        world.server_slow_until = max(world.server_slow_until, fault.over)
        process.stop()
        self._afterwards(fault, process.resume)

    # -- compile hosts and builders

    def _kill_distccd(self, fault: Fault) -> None:
        host = self._host(fault)
        if host.distccd.alive:
            host.kill_distccd()
            self._afterwards(fault, self._start_distccd, host, host.distccd)

    def _start_distccd(self, host: CompileHost, before: Process) -> None:
        if host.distccd is before and host.machine.has_power:
            host.start_distccd()

    def _stop_distccd(self, fault: Fault) -> None:
        host = self._host(fault)
        host.distccd.stop()
        self._afterwards(fault, host.distccd.resume)

    def _kill_loadavg(self, fault: Fault) -> None:
        host = self._host(fault)
        if host.loadavg is not None and host.loadavg.alive:
            host.kill_loadavg()
            self._afterwards(fault, self._start_loadavg, host, host.loadavg)

    def _start_loadavg(self, host: CompileHost, before: Process) -> None:
        if host.loadavg is before and host.machine.has_power:
            host.start_loadavg()

    def _power_off(self, fault: Fault) -> None:
        world = self._world
        target = world.hosts.get(fault.target) or world.builders[fault.target]
        if target.machine.has_power:
            target.power_off()
            self._afterwards(fault, target.power_on)

    def _kill_gethost(self, fault: Fault) -> None:
        self._world.builders[fault.target].kill_one(self._chance.randrange(1000))

    def _owner_comes(self, fault: Fault) -> None:
        host = self._host(fault)
        host.foreign_cpus = fault.amount
        self._afterwards(fault, self._owner_goes, host)

    def _owner_goes(self, host: CompileHost) -> None:
        host.foreign_cpus = 0.0

    def _fail_compiles(self, fault: Fault) -> None:
        host = self._host(fault)
        host.answers_with = int(fault.amount)
        self._afterwards(fault, self._compile_again, host)

    def _compile_again(self, host: CompileHost) -> None:
        host.answers_with = None

    def _take_out(self, fault: Fault) -> None:
        host = self._host(fault)
        self._administrator.type(fault.kind, host, f"grace_s={fault.amount * 10:.1f}")
        self._afterwards(fault, self._administrator.type, "add", host, "")

    # -- the network

    def _cut(self, fault: Fault) -> None:
        ends = self._machine(fault.target), self._machine(fault.other)
        self._network.cut(*ends)
        self._afterwards(fault, self._network.mend, *ends)

    def _break_connections(self, fault: Fault) -> None:
        for endpoint in list(self._machine(fault.target).endpoints):
            if self._chance.random() < fault.amount:
                self._network.break_connection(endpoint)

    def _stall_connections(self, fault: Fault) -> None:
        for endpoint in list(self._machine(fault.target).endpoints):
            if self._chance.random() < fault.amount:
                self._network.stall(endpoint, fault.for_s)

    def _slow_network(self, fault: Fault) -> None:
        self._network.delay_s = (0.001, fault.amount)
        self._afterwards(fault, self._fast_network)

    def _fast_network(self) -> None:
        self._network.delay_s = CALM_DELAY_S

    def _stranger(self, _: Fault) -> None:
        """Send random words to a port of the server, and hang up after a while."""
        world, chance = self._world, self._chance
        process = self._network.process("stranger", world.server_machine)
        text = b"".join(chance.choices(STRANGERS_WORDS, k=chance.randrange(8)))
        line = Line(self._network, process, world.server_machine, lambda: None)

        def talk() -> None:
            line.connect(world.server_address, STATUS - chance.randrange(3))

        def say() -> None:
            line.endpoint.write(text)

        def leave() -> None:
            line.close()
            world.watch.client_gone(line.endpoint)

        process.enter(talk)
        process.call_later(0.01, say)
        process.call_later(chance.uniform(0.02, 15.0), leave)

    # -- whom a fault is about

    def _host(self, fault: Fault) -> CompileHost:
        return self._world.hosts[fault.target]

    def _machine(self, name: str) -> Machine:
        world = self._world
        if name == SERVER:
            return world.server_machine
        if name in world.hosts:
            return world.hosts[name].machine
        return world.builders[name].machine
