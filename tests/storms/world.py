"""A world: the machines of a plan, their faults, and the calm afterwards.

First the storm: builds run while faults come and are put right. Then the calm: every build must
come to its end, the farm must be whole again, and must show it with one more build, which is
compiled on the farm and nowhere else.
"""

from __future__ import annotations

import asyncio
import math
import random
from typing import TYPE_CHECKING

from compilefarm.core.farm.failures import LACKS_FOR_S
from compilefarm.core.model import State
from compilefarm.protocol.declaration import Declaration

from .builder import Builder, File
from .clock import Clock
from .compile_host import CompileHost
from .host_server import STATUS, ServerProgram
from .network import Endpoint, Machine, Network
from .plan import SERVER, BuilderPlan, Fault, Plan, final_build
from .programs import Bell, Line
from .watch import Broken, Watch

if TYPE_CHECKING:
    from .clock import Process

SERVER_ADDRESS = "10.0.0.1"
CALM_DELAY_S = (0.0001, 0.002)
SLOWEST_CALM_BUILD_S = 2000.0
# What lasts longest is that a host is taken to lack a compiler; then come the longest quarantine,
# and the pauses with which a host looks for its server.
# A host that reports does so every 2 s.
REPORTED_WITHIN_S = 2.5
WHOLE_WITHIN_S = LACKS_FOR_S + 45.0
COMPILER = "gcc"
LOOKS_AGAIN_S = 3.0


class World:
    """A plan, being played."""

    def __init__(self, plan: Plan, story: list[str] | None = None) -> None:
        self.plan = plan
        self.clock = Clock()
        self.network = Network(self.clock, random.Random(f"{plan.seed}/network"))
        self.server_address = SERVER_ADDRESS
        self.server_machine = self.network.machine(SERVER, SERVER_ADDRESS)
        self.watch = Watch(self)
        listed = tuple(
            Declaration(host.address, slots=host.slots, power_index=host.power,
                        address=host.address, static=True)
            for host in plan.hosts
            if not host.reports
        )  # fmt: skip
        self.program = ServerProgram(
            self.network, self.server_machine, plan.policy, listed, self.watch.look
        )
        self.hosts = {host.name: CompileHost(self, host) for host in plan.hosts}
        self.builders = {builder.name: Builder(self, builder) for builder in plan.builders}
        self.without_power: list[CompileHost] = []
        self.taken_out: set[CompileHost] = set()  # by hand, and not brought in again
        self.leases = 0
        self.server_slow_until = 0.0
        self._story = story
        self._chance = random.Random(f"{plan.seed}/faults")
        self._files = random.Random(f"{plan.seed}/files")
        self._fate = self.network.process("fate", self.server_machine)
        self._administrators: dict[str, Process] = {}
        self._tasks: list[object] = []

    # -- telling

    @property
    def telling(self) -> bool:
        """Whether somebody listens."""
        return self._story is not None

    def tell(self, text: str) -> None:
        """Add a line to the story."""
        if self._story is not None:
            self._story.append(f"{self.clock.now:9.3f} s  {text}")

    def owner_gone(self, endpoint: Endpoint) -> None:
        """See `Watch`."""
        self.watch.owner_gone(endpoint)

    # -- playing

    def play(self) -> None:
        """Play the plan to its end; raises `Broken`."""
        self.program.start()
        for host in self.hosts.values():
            host.start()
        for builder in self.builders.values():
            builder.start(self._files_of(builder.plan))
        for fault in self.plan.faults:
            self._fate.call_at(fault.at, self._begin, fault)
        calm = self.plan.calm_from
        self._until(lambda: self.clock.now >= calm, calm + 30.0, "time stands still")
        self.tell("calm")
        self._until(self._all_built, calm + SLOWEST_CALM_BUILD_S, self._what_is_not_built)
        self._until(
            self._is_whole, max(self.clock.now, calm + WHOLE_WITHIN_S) + 10.0, self._what_is_missing
        )
        self.tell("the farm is whole; one more build")
        slots = sum(host.slots for host in self.plan.hosts)
        for builder in self.builders.values():
            builder.start(self._files_of(final_build(builder.plan, slots)))
        self._until(self._all_built, self.clock.now + SLOWEST_CALM_BUILD_S, self._what_is_not_built)
        self._until(self._is_quiet, self.clock.now + 5.0, "a lease is left when all have ended")
        self._all_ended_once()

    def _until(self, what: object, limit: float, complaint: object) -> None:
        assert callable(what)
        clock, watch = self.clock, self.watch
        while not what():
            for _ in range(16):
                if not clock.step():
                    raise Broken("nothing will ever happen again")
                watch.books_have_connections()
            if clock.now > limit and not what():
                raise Broken(complaint() if callable(complaint) else str(complaint))

    def _files_of(self, plan: BuilderPlan) -> list[File]:
        chance = self._files
        return [
            File(
                source=f"file{number}.c",
                cost_s=min(20.0, chance.lognormvariate(-1.0, 1.1)),
                exit=int(chance.random() < 0.02),
                compiler=COMPILER,
            )
            for number in range(plan.files)
        ]

    # -- the end

    def _all_built(self) -> bool:
        return all(builder.done for builder in self.builders.values())

    def _what_is_not_built(self) -> str:
        left = [
            f"{builder.plan.name} has {len(builder.to_do)} files to do, runs {[*builder.running]}"
            for builder in self.builders.values()
            if not builder.done
        ]
        return f"a build does not end: {'; '.join(left)}"

    def _is_whole(self) -> bool:
        return not self._what_is_missing()

    def _what_is_missing(self) -> str:
        server = self.program.server
        if server is None:
            return "the farm is not whole: there is no server"
        for plan in self.plan.hosts:
            host = server.farm.hosts.get(plan.address)
            if host is None:
                return f"the farm is not whole: {plan.name} is unknown"
            if host.state is not State.UP or host.tier is None:
                return f"the farm is not whole: {plan.name} is {host.state.value} ({host.reason})"
            since_s = self.clock.now - (host.load_at or -math.inf)
            if plan.reports and since_s > REPORTED_WITHIN_S:  # its connection may be about to break
                return f"the farm is not whole: {plan.name} last reported {since_s:.1f} s ago"
            if len(host.free) != plan.slots or host.leases or host.strays:
                return f"the farm is not whole: {plan.name} has slots {sorted(host.free)} free"
            if host.lacks:
                return f"the farm is not whole: {plan.name} is taken to lack {set(host.lacks)}"
        return ""

    def _is_quiet(self) -> bool:
        server = self.program.server
        return server is not None and not server.farm.leases and not server.requests

    def _all_ended_once(self) -> None:
        for builder in self.builders.values():
            for file in builder.files:
                self.leases += file.begun
                if len(file.endings) != 1:
                    raise Broken(
                        f"a compile ended {len(file.endings)} times: {file.source} of "
                        f"{builder.plan.name}: {file.endings}"
                    )
                if file.excuses and self.plan.restarts_only:
                    raise Broken(
                        f"a compile was lost in a restart: {file.source} of {builder.plan.name}"
                    )
                if file.begun > 1 + file.excuses + file.backups:
                    raise Broken(
                        f"a compile was begun {file.begun} times, with {file.excuses} reasons to"
                        f" begin it again: {file.source} of {builder.plan.name}"
                    )
            slots = sum(host.slots for host in self.plan.hosts)
            for file in builder.files[-2 * slots :]:
                if file.endings == ["here"]:
                    raise Broken(
                        f"the last build was not compiled on the farm alone: {file.source} of"
                        f" {builder.plan.name}"
                    )

    # -- faults

    def _begin(self, fault: Fault) -> None:
        self.tell(fault.words()[13:])
        whom, other = self._machine(fault.whom), self._machine(fault.other)
        host, builder = self.hosts.get(fault.whom), self.builders.get(fault.whom)
        chance, network = self._chance, self.network
        match fault.kind:
            case "kill-server":
                if self.program.server is not None:
                    self.program.kill()
                    self._later(fault, self._start_server)
            case "stop-server":
                process = self.program.process
                self.server_slow_until = max(self.server_slow_until, fault.over)
                process.stop()
                self._later(fault, process.go_on)
            case "kill-distccd" if host:
                if host.distccd.alive:
                    host.kill_distccd()
                    process = host.distccd
                    self._later(fault, self._start_distccd, host, process)
            case "stop-distccd" if host:
                host.distccd.stop()
                self._later(fault, host.distccd.go_on)
            case "kill-loadavg" if host:
                if host.loadavg is not None and host.loadavg.alive:
                    host.kill_loadavg()
                    self._later(fault, self._start_loadavg, host, host.loadavg)
            case "power-off":
                subject = host or builder
                if subject is not None and subject.machine.has_power:
                    subject.power_off()
                    self._later(fault, subject.power_on)
            case "cut":
                assert whom
                assert other
                network.cut(whom, other)
                self._later(fault, network.mend, whom, other)
            case "kill-gethost" if builder:
                builder.kill_one(chance.randrange(1000))
            case "break" | "stall":
                assert whom
                for endpoint in list(whom.endpoints):
                    if chance.random() < fault.amount:
                        if fault.kind == "break":
                            network.break_connection(endpoint)
                        else:
                            network.stall(endpoint, fault.for_s)
            case "slow":
                network.delay_s = (0.001, fault.amount)
                self._later(fault, self._fast_network)
            case "owner" if host:
                host.foreign_cpus = fault.amount
                self._later(fault, self._owner_goes, host)
            case "fails" if host:
                host.answers_with = int(fault.amount)
                self._later(fault, self._works_again, host)
            case "drain" | "remove" if host:
                self._by_hand(fault.kind, host, f"grace_s={fault.amount * 10:.1f}")
                self._later(fault, self._by_hand, "add", host, "")
            case "stranger":
                self._stranger()

    def _later(self, fault: Fault, what: object, *args: object) -> None:
        assert callable(what)

        def put_right() -> None:
            if self.telling:
                self.tell(f"over: {fault.words()[13:]}")
            what(*args)

        self._fate.call_at(fault.over, put_right)

    def _machine(self, name: str) -> Machine | None:
        if name == SERVER:
            return self.server_machine
        if name in self.hosts:
            return self.hosts[name].machine
        return self.builders[name].machine if name in self.builders else None

    def _start_server(self) -> None:
        if self.program.server is None:
            self.program.start()

    def _start_distccd(self, host: CompileHost, before: Process) -> None:
        if host.distccd is before and host.machine.has_power:
            host.start_distccd()

    def _start_loadavg(self, host: CompileHost, before: Process) -> None:
        if host.loadavg is before and host.machine.has_power:
            host.start_loadavg()

    def _fast_network(self) -> None:
        self.network.delay_s = CALM_DELAY_S

    def _owner_goes(self, host: CompileHost) -> None:
        host.foreign_cpus = 0.0

    def _works_again(self, host: CompileHost) -> None:
        host.answers_with = None

    def _by_hand(self, verb: str, host: CompileHost, words: str) -> None:
        """Have somebody at the server's machine type a status message, until it has worked.

        Whoever adds a host looks whether it is there: what was typed before may have come later.
        """
        before = self._administrators.pop(host.plan.name, None)
        if before is not None:
            self.network.end_process(before, self.server_machine)
        process = self.network.process("administrator", self.server_machine)
        self._administrators[host.plan.name] = process
        bell = Bell(process)
        plan = host.plan
        self.taken_out.discard(host)
        if verb == "add":
            words = f"slots={plan.slots} power_index={plan.power:g}"

        text = f"{verb} host={plan.address} {words}".strip()

        async def type_it() -> None:
            loadavg = host.loadavg
            out = verb != "add" and (host.returns or not host.plan.reports)
            worked = await self._types(process, bell, text)
            if worked and out and host.loadavg is loadavg:  # a new one brings it in again
                self.taken_out.add(host)
            await asyncio.sleep(LOOKS_AGAIN_S)
            if not worked or (verb == "add" and not self._is_available(host)):
                self._by_hand(verb, host, words)

        process.enter(lambda: self._tasks.append(process.create_task(type_it())))

    async def _types(self, process: Process, bell: Bell, text: str) -> bool:
        """Type one message; return whether it was answered by `ok`."""
        line = Line(self.network, process, self.server_machine, bell.ring)
        line.connect(self.server_address, STATUS)
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
        server = self.program.server
        known = server and server.farm.hosts.get(host.plan.address)
        return bool(known and known.added and known.drain_until is None)

    def _stranger(self) -> None:
        process = self.network.process("stranger", self.server_machine)
        words = [
            b"request ",
            b"done exit=0\n",
            b"load host=10.0.1.1",
            b"\n",
            b"\xff",
            b"wait",
            b" user=x",
        ]
        text = b"".join(self._chance.choices(words, k=self._chance.randrange(8)))
        line = Line(self.network, process, self.server_machine, lambda: None)

        def talk() -> None:
            line.connect(self.server_address, STATUS - self._chance.randrange(3))

        def say() -> None:
            line.endpoint.write(text)

        def leave() -> None:
            line.close()
            self.owner_gone(line.endpoint)

        process.enter(talk)
        process.call_later(0.01, say)
        process.call_later(self._chance.uniform(0.02, 15.0), leave)
