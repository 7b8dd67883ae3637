"""A farm in virtual time: the real core, and around it a world small enough to compute.

The scheduler is `Farm`, the very one that host-server runs. Simulated are the builders, which keep
a number of compiles going, and the machines, which take their time for each (`machine`). A backup
is a second attempt, which starts from the beginning. Network and preprocessing take no time, so
that a result can be compared with the lower bound, which ignores them too.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from compilefarm.core.events import (
    BackUp,
    DropBackup,
    Event,
    Grant,
    HostProbed,
    HostsListed,
    LoadReported,
    Probe,
    Refuse,
    RequestArrived,
    RequestEnded,
    Revoke,
    TimePassed,
)
from compilefarm.core.farm.farm import Farm
from compilefarm.core.model import Lease, Outcome, Request
from compilefarm.core.placement.policy import Policy
from compilefarm.protocol.declaration import Declaration
from compilefarm.protocol.ports import DISTCCD_PORT
from compilefarm.simulate.bounds import jain_index, lower_bound_s, slot_speeds
from compilefarm.simulate.machine import Machine
from compilefarm.simulate.trace import ForeignLoad, TracedFile

REPORT_EVERY_S = 2.0  # as loadavg does
# loadavg looks at its host twice a second, and reports a change at once.
REPORT_CHANGE_AFTER_S = 0.5
BETWEEN_BUILDS_S = 60.0
# The shortest time that a compile is said to take: a time of 0 would say nothing.
LEAST_WALL_S = 1e-6


@dataclass(slots=True)
class SimulatedBuild:
    """A make to play: by which user, where, of which files, and how many compiles at once."""

    user: str
    directory: str
    files: Sequence[TracedFile]
    jobs: int
    starts_s: float = 0.0  # after the beginning of `Simulation.play`


@dataclass(slots=True)
class _Builder:
    """A make that plays."""

    build: SimulatedBuild
    next_file: int = 0
    outstanding: int = 0
    done_s: float = 0.0  # the summed cost of the compiles that are done
    done_at_first_end_s: float = 0.0  # the same, when the first of all builds ended
    ended: float = math.inf
    local: int = 0


@dataclass(slots=True)
class _Compile:
    """A compile that was asked for, and its attempts: one, and perhaps a backup."""

    builder: _Builder
    file: TracedFile
    cost_s: float = 0.0  # this time, with noise
    attempts: list[Lease] = field(default_factory=list)


@dataclass(slots=True)
class Result:
    """The figures of one round of builds that played together."""

    makespan_s: float
    lower_bound_s: float
    users: list[dict[str, Any]]
    jain: float
    decisions: int
    decision_us: dict[str, float]
    local: int
    backups: int
    backups_first: int

    @property
    def ratio(self) -> float:
        """The makespan as a multiple of the lower bound."""
        return self.makespan_s / self.lower_bound_s

    def as_json(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        return {
            "makespan_s": round(self.makespan_s, 6),
            "lower_bound_s": round(self.lower_bound_s, 6),
            "ratio": round(self.ratio, 6),
            "users": self.users,
            "jain": round(self.jain, 6),
            "decisions": self.decisions,
            "decision_us": {name: round(value, 2) for name, value in self.decision_us.items()},
            "local": self.local,
            "backups": self.backups,
            "backups_first": self.backups_first,
        }


@dataclass(slots=True)
class Simulation:
    """A farm, its machines, and the virtual clock; `play` may be called again, as farms learn.

    `noise` is the standard deviation of the logarithm of a compile's time. `load` changes foreign
    load; its times count from the beginning of the first play.
    """

    policy: Policy
    declarations: Sequence[Declaration]
    load: Sequence[ForeignLoad] = ()
    noise: float = 0.0
    chance: random.Random = field(default_factory=random.Random)
    now: float = 0.0
    farm: Farm = field(init=False)
    _machines: dict[str, Machine] = field(init=False)
    # What happens next in the world: when, a serial number that keeps the order, and what.
    _queue: list[tuple[float, int, Callable[[], None]]] = field(init=False, default_factory=list)
    _serial: int = field(init=False, default=0)
    _request_id: int = field(init=False, default=0)
    _compiles: dict[int, _Compile] = field(init=False, default_factory=dict)
    _decision_ns: list[int] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Set the farm up, with every host in it."""
        self.farm = Farm(self.policy)
        self._machines = {each.name: Machine(each) for each in self.declarations}
        self._handle(HostsListed(tuple(_as_declared(each) for each in self.declarations)))
        for change in self.load:
            machine = self._machines[change.host]
            self._at(change.at_s, partial(self._change_load, machine, change.foreign_cpus))
        for machine in {self._machines[change.host] for change in self.load}:
            self._at(0.0, partial(self._report_regularly, machine))

    def play(self, builds: Sequence[SimulatedBuild]) -> Result:
        """Play builds together, from now on, until the last of them ends."""
        began = self.now
        self._decision_ns = []
        farm = self.farm
        before = (farm.totals.granted, farm.totals.backed_up, farm.totals.overtaken)
        builders = [_Builder(build) for build in builds]
        for builder in builders:
            self._at(began + builder.build.starts_s, partial(self._begin, builder))
        unfinished = len(builders)
        while unfinished:
            self._step()
            if any(builder.ended == self.now for builder in builders):
                unfinished = sum(each.ended is math.inf for each in builders)
                if unfinished == len(builders) - 1:
                    for each in builders:
                        each.done_at_first_end_s = each.done_s
        after = (farm.totals.granted, farm.totals.backed_up, farm.totals.overtaken)
        counted = [now - then for now, then in zip(after, before, strict=True)]
        result = self._result(builders, began, *counted)
        self.now += BETWEEN_BUILDS_S
        return result

    # -- the world's events

    def _step(self) -> None:
        """Have the next thing happen: the farm's own deadline, or what the world has queued."""
        deadline = self.farm.next_deadline()
        if deadline is not None and (not self._queue or deadline < self._queue[0][0]):
            self.now = max(self.now, deadline)
            self._handle(TimePassed())
            return
        self.now, _, act = heapq.heappop(self._queue)
        act()

    def _at(self, at: float, act: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (at, self._serial, act))

    def _begin(self, builder: _Builder) -> None:
        while builder.outstanding < builder.build.jobs and self._ask(builder):
            pass

    def _ask(self, builder: _Builder) -> bool:
        """Ask for a builder's next file, as make does; return whether there was one."""
        build = builder.build
        if builder.next_file == len(build.files):
            return False
        file = build.files[builder.next_file]
        builder.next_file += 1
        builder.outstanding += 1
        self._request_id += 1
        self._compiles[self._request_id] = _Compile(builder, file)
        self._handle(
            RequestArrived(
                Request(
                    self._request_id,
                    user=build.user,
                    builder=f"{build.user}'s builder",
                    directory=build.directory,
                    source=file.source,
                    can_back_up=True,
                )
            )
        )
        return True

    def _start(self, lease: Lease) -> None:
        """Begin an attempt at a compile."""
        compiled = self._compiles[lease.id]
        compiled.attempts.append(lease)
        machine = self._machines[lease.host.name]
        machine.start(lease, compiled.cost_s, self.now)
        self._expect_end(machine)

    def _give_up(self, lease: Lease) -> None:
        """End an attempt at a compile of which another one is done, or goes on."""
        machine = self._machines[lease.host.name]
        machine.give_up(lease, self.now)
        self._expect_end(machine)

    def _expect_end(self, machine: Machine) -> None:
        end = machine.next_end()
        if end is not None:
            self._at(end, partial(self._end_next, machine, machine.version))

    def _end_next(self, machine: Machine, version: int) -> None:
        """End a machine's next compile, unless the machine has changed since that was expected."""
        if machine.version != version:
            return
        lease = machine.end_next(self.now)
        self._expect_end(machine)
        compiled = self._compiles.pop(lease.id)
        for attempt in compiled.attempts:
            if attempt is not lease:
                self._give_up(attempt)
        wall_s = max(LEAST_WALL_S, self.now - lease.granted)
        outcome = Outcome(exit=0, wall_s=wall_s, cpu_s=0.0)
        compiled.builder.done_s += compiled.file.cost_s
        self._handle(RequestEnded(lease.id, outcome, lease.attempt))
        self._go_on(compiled.builder)

    def _end_local(self, compiled: _Compile) -> None:
        """End a compile that the farm refused, and that ran on its builder at speed 1."""
        compiled.builder.done_s += compiled.file.cost_s
        compiled.builder.local += 1
        self._go_on(compiled.builder)

    def _go_on(self, builder: _Builder) -> None:
        """Ask for the next file after a compile has ended; without one, the build ends."""
        builder.outstanding -= 1
        if not self._ask(builder) and not builder.outstanding:
            builder.ended = self.now

    def _change_load(self, machine: Machine, foreign_cpus: float) -> None:
        machine.set_foreign_cpus(foreign_cpus, self.now)
        self._expect_end(machine)
        self._at(self.now + REPORT_CHANGE_AFTER_S, partial(self._report, machine))

    def _report_regularly(self, machine: Machine) -> None:
        self._report(machine)
        self._at(self.now + REPORT_EVERY_S, partial(self._report_regularly, machine))

    def _report(self, machine: Machine) -> None:
        host, port = machine.declaration.host, machine.declaration.port or DISTCCD_PORT
        self._handle(LoadReported(host, port, host, machine.report(self.now)))

    def _answer_probe(self, host: str) -> None:
        self._handle(HostProbed(host, True))

    # -- the farm's effects

    def _handle(self, event: Event) -> None:
        before = time.thread_time_ns()
        effects = self.farm.handle(event, self.now)
        self._decision_ns.append(time.thread_time_ns() - before)
        for effect in effects:
            match effect:
                case Grant(lease):
                    compiled = self._compiles[lease.id]
                    compiled.cost_s = compiled.file.cost_s
                    if self.noise:
                        compiled.cost_s *= math.exp(self.chance.gauss(0.0, self.noise))
                    self._start(lease)
                case BackUp(lease):
                    self._start(lease)
                case DropBackup(lease, _):
                    self._compiles[lease.id].attempts.remove(lease)
                    self._give_up(lease)
                case Refuse(number, _):
                    compiled = self._compiles.pop(number)
                    self._at(self.now + compiled.file.cost_s, partial(self._end_local, compiled))
                case Probe(name, _, _):
                    self._at(self.now, partial(self._answer_probe, name))
                case Revoke(number, reason):
                    raise AssertionError(f"no host is lost here, but {number}: {reason}")

    # -- the figures

    def _result(
        self, builders: list[_Builder], began: float, granted: int, backups: int, first: int
    ) -> Result:
        makespan_s = max(builder.ended for builder in builders) - began
        shares = [builder.done_at_first_end_s for builder in builders]
        decisions_us = sorted(ns / 1000.0 for ns in self._decision_ns)
        return Result(
            makespan_s=makespan_s,
            lower_bound_s=lower_bound_s(
                [file.cost_s for builder in builders for file in builder.build.files],
                slot_speeds(self.declarations),
                sum(builder.build.jobs for builder in builders),
            ),
            users=[
                {
                    "user": builder.build.user,
                    "files": len(builder.build.files),
                    "makespan_s": round(builder.ended - began - builder.build.starts_s, 6),
                    "work_until_first_end_s": round(builder.done_at_first_end_s, 6),
                    "share": round(share / (sum(shares) or 1.0), 6),
                    "local": builder.local,
                }
                for builder, share in zip(builders, shares, strict=True)
            ],
            jain=jain_index(shares),
            decisions=granted,
            decision_us={
                "mean": sum(decisions_us) / max(1, granted),
                "p99": decisions_us[int(0.99 * (len(decisions_us) - 1))],
                "max": decisions_us[-1],
            },
            local=sum(builder.local for builder in builders),
            backups=backups,
            backups_first=first,
        )


def _as_declared(declaration: Declaration) -> Declaration:
    """Return what the farm may know of a host: not how fast it really is.

    Its mode is left out, too: all hosts are in the farm, as no owner is simulated but by load.
    """
    return replace(
        declaration,
        address=declaration.host,
        static=True,
        mode=None,
        reserve_cpus=None,
        actual_power_index=None,
        actual_full=None,
    )
