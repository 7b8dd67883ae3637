"""A world: the machines of a plan, their faults, and the calm afterwards.

First comes the storm: builds run while faults happen and are repaired. Then comes the calm: every
build must end, the farm must become whole again, and one more build must run on the farm alone.
"""

from __future__ import annotations

import math
import random

from compilefarm.core.farm.commands import HOME_FOR_S
from compilefarm.core.model import State
from compilefarm.protocol.declaration import Declaration

from .builder import Builder, File
from .clock import Clock
from .compile_host import CompileHost
from .faults import Faults
from .host_server import ServerProgram
from .network import Network
from .plan import SERVER, BuilderPlan, Plan, final_build
from .watch import Broken, Watch

SERVER_ADDRESS = "10.0.0.1"
SLOWEST_CALM_BUILD_S = 2000.0
# A host reports every 2 s.
REPORTED_WITHIN_S = 2.5
# The longest effect of a fault is that a command compiles only on its builder. After that comes the
# longest quarantine, and the pauses before a host connects to its server again.
WHOLE_WITHIN_S = HOME_FOR_S + 45.0
COMPILER = "gcc"


class World:
    """A world that plays a plan."""

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
        self.removed_by_hand: set[CompileHost] = set()  # and not added again
        self.leases = 0
        self.server_slow_until = 0.0
        self._story = story
        self._files = random.Random(f"{plan.seed}/files")
        self._faults = Faults(self)

    # -- the story

    @property
    def telling(self) -> bool:
        """Whether the world writes a story."""
        return self._story is not None

    def tell(self, text: str) -> None:
        """Add a line to the story."""
        if self._story is not None:
            self._story.append(f"{self.clock.now:9.3f} s  {text}")

    # -- playing

    def play(self) -> None:
        """Play the plan to its end; raises `Broken`."""
        self.program.start()
        for host in self.hosts.values():
            host.start()
        for builder in self.builders.values():
            builder.start(self._files_of(builder.plan))
        self._faults.schedule()
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
            if plan.reports and since_s > REPORTED_WITHIN_S:  # perhaps its connection is dead
                return f"the farm is not whole: {plan.name} last reported {since_s:.1f} s ago"
            if len(host.free) != plan.slots or host.leases or host.strays:
                return f"the farm is not whole: {plan.name} has slots {sorted(host.free)} free"
            if host.lacks:
                return f"the farm is not whole: {plan.name} is taken to lack {set(host.lacks)}"
        failures, now = server.farm.failures, server.farm.now
        if failures.holds.any(now):
            return "the farm is not whole: a host is held back from a builder"
        if failures.commands.any_stays_home(now):
            return "the farm is not whole: a command compiles only on its builder"
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
