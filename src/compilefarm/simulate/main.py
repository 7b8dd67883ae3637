"""simulate-farm: a recorded build on a described farm, through the real core on a virtual clock.

The scheduler is `farm.Farm`, the very one that host-server runs; what is simulated is the rest of
the world, which is small: builders that keep so many compiles going, and machines that take so
long for each. A machine shares its CPUs among its leases, less what its owner uses (`_Machine`).
A backup is a second attempt, which begins with nothing done. The network and preprocessing take no
time here, so that a result can be held against the lower bound, which does not know of them either.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import math
import random
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from compilefarm import __version__
from compilefarm.core.events import (
    BackUp,
    DropBackup,
    Effect,
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
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Lease, Load, Outcome, Request
from compilefarm.core.placement.policies import POLICIES, make_policy
from compilefarm.core.placement.policy import Policy
from compilefarm.programs.collector import settle_collector
from compilefarm.programs.command_line import OneLineParser, print_result
from compilefarm.protocol.declaration import Declaration
from compilefarm.protocol.hosts_info import HostsInfoError, parse_hosts_info
from compilefarm.protocol.ports import DISTCCD_PORT
from compilefarm.simulate.trace import (
    ForeignLoad,
    TracedFile,
    TracedLease,
    TraceError,
    parse_load,
    parse_record,
    parse_trace,
)

REPORT_EVERY_S = 2.0
# loadavg looks twice a second and tells of a change at once.
REPORT_CHANGE_AFTER_S = 0.5
BETWEEN_BUILDS_S = 60.0
# A pause of a user's compiles in one directory that parts two builds of a record.
PARTS_BUILDS_S = 30.0
# What a fully used machine still leaves to a compile: the kernel starves nobody.
LEAST_SHARE = 0.05


@dataclass(slots=True)
class Build:
    """A make to be played: whose, of what, and how many compiles at once."""

    user: str
    directory: str
    files: Sequence[TracedFile]
    jobs: int
    starts_s: float = 0.0


@dataclass(slots=True)
class _Builder:
    build: Build
    next_file: int = 0
    outstanding: int = 0
    done_s: float = 0.0  # work done, in seconds at power index 1
    done_at_first_end_s: float = 0.0
    ended: float = math.inf
    local: int = 0


class _Machine:
    """A compile host as it really is: CPUs of one speed, shared evenly among its leases.

    `_work` counts what one lease has got done since the beginning, in seconds at power index 1; it
    grows
    at the same rate for all leases, so each lease is done when `_work` reaches a figure that is
    known when it starts.
    """

    def __init__(self, declaration: Declaration) -> None:
        self.declaration = declaration
        self.foreign_cpus = 0.0
        self.version = 0  # of what `next_end` said
        self.running: list[tuple[float, int, Lease]] = []
        self._power = declaration.actual_power_index or declaration.power_index or 1.0
        self._cpus = declaration.slots or 1
        self._full = declaration.actual_full or 1.0
        self._work = 0.0
        self._at = 0.0
        self._foreign_averages = [0.0, 0.0, 0.0]
        self._own_averages = [0.0, 0.0, 0.0]
        self._reported_at = 0.0

    def advance(self, now: float) -> None:
        """Bring the work done up to date."""
        self._work += (now - self._at) * self._rate()
        self._at = now

    def start(self, lease: Lease, cost_s: float, now: float) -> None:
        """Begin a compile of that cost."""
        self.advance(now)
        heapq.heappush(self.running, (self._work + cost_s, lease.id, lease))
        self.version += 1

    def give_up(self, lease: Lease, now: float) -> None:
        """End a compile that is not done; what was done of it is lost."""
        self.advance(now)
        self.running = [entry for entry in self.running if entry[2] is not lease]
        heapq.heapify(self.running)
        self.version += 1

    def next_end(self) -> float | None:
        """Return when the next compile is done, if nothing changes."""
        if not self.running:
            return None
        return self._at + max(0.0, self.running[0][0] - self._work) / self._rate()

    def end_next(self, now: float) -> Lease:
        """End the compile that is done."""
        self.advance(now)
        work, _, lease = heapq.heappop(self.running)
        self._work = max(self._work, work)
        self.version += 1
        return lease

    def report(self, now: float) -> Load:
        """Return what loadavg would report."""
        elapsed_s = now - self._reported_at
        self._reported_at = now
        own_cpus = min(float(len(self.running)), max(0.0, self._cpus - self.foreign_cpus))
        for index, period_s in enumerate((60.0, 300.0, 900.0)):
            keep = math.exp(-elapsed_s / period_s)
            for averages, value in (
                (self._own_averages, own_cpus),
                (self._foreign_averages, self.foreign_cpus),
            ):
                averages[index] = averages[index] * keep + value * (1.0 - keep)
        foreign, own = self._foreign_averages, self._own_averages
        return Load(
            load_averages=(foreign[0] + own[0], foreign[1] + own[1], foreign[2] + own[2]),
            own_averages=(own[0], own[1], own[2]),
            own_cpus=own_cpus,
            foreign_cpus=self.foreign_cpus,
            cpus=self._cpus,
        )

    def _rate(self) -> float:
        leases = max(1, len(self.running))
        left = max(self._cpus - self.foreign_cpus, LEAST_SHARE * self._cpus)
        in_use = min(float(self._cpus), leases + self.foreign_cpus)
        return self._power * min(1.0, left / leases) * self._core_part(in_use)

    def _core_part(self, in_use: float) -> float:
        """Return the part of its speed that a CPU in use keeps, beside those that share its core.

        The first half of the CPUs have a core for themselves; each of the others adds what is left
        of one.
        """
        alone = self._cpus / 2.0
        if in_use <= alone:
            return 1.0
        return (alone + (in_use - alone) * (2.0 * self._full - 1.0)) / in_use


@dataclass(slots=True)
class Result:
    """What came of one round of builds played together."""

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
        """How many times the lower bound it took."""
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

    `noise` is the standard deviation of the logarithm of a compile's time; `load` moves foreign
    load, its times counted from the beginning of the first play.
    """

    policy: Policy
    declarations: Sequence[Declaration]
    load: Sequence[ForeignLoad] = ()
    noise: float = 0.0
    chance: random.Random = field(default_factory=random.Random)
    now: float = 0.0
    farm: Farm = field(init=False)
    _machines: dict[str, _Machine] = field(init=False)
    _queue: list[tuple[float, int, Any]] = field(init=False, default_factory=list)
    _serial: int = field(init=False, default=0)
    _request_id: int = field(init=False, default=0)
    _of: dict[int, tuple[_Builder, TracedFile]] = field(init=False, default_factory=dict)
    # Of each compile that runs: what it costs this time, and its attempts.
    _cost_s: dict[int, float] = field(init=False, default_factory=dict)
    _attempts: dict[int, list[Lease]] = field(init=False, default_factory=dict)
    _cost_ns: list[int] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Set the farm up, with every host in it."""
        self.farm = Farm(self.policy)
        self._machines = {each.name: _Machine(each) for each in self.declarations}
        static = tuple(_in_farm(each) for each in self.declarations)
        self._handle(HostsListed(static))
        for change in self.load:
            machine = self._machines[change.host]
            self._at(change.at_s, (self._change_load, machine, change.foreign_cpus))
        for machine in {self._machines[change.host] for change in self.load}:
            self._at(0.0, (self._report_regularly, machine, None))

    def play(self, builds: Sequence[Build]) -> Result:
        """Play builds together, from now on, until the last of them ends."""
        began = self.now
        self._cost_ns = []
        farm = self.farm
        before = (farm.totals.granted, farm.totals.backed_up, farm.totals.overtaken)
        builders = [_Builder(build) for build in builds]
        for builder in builders:
            self._at(began + builder.build.starts_s, (self._begin, builder, None))
        unfinished = len(builders)
        while unfinished:
            self._step()
            for builder in builders:
                if builder.ended is not math.inf and builder.ended == self.now:
                    unfinished = sum(each.ended is math.inf for each in builders)
                    if unfinished == len(builders) - 1:
                        for each in builders:
                            each.done_at_first_end_s = each.done_s
                    break
        after = (farm.totals.granted, farm.totals.backed_up, farm.totals.overtaken)
        counted = [now - then for now, then in zip(after, before, strict=True)]
        result = self._result(builders, began, *counted)
        self.now += BETWEEN_BUILDS_S
        return result

    # -- the world's events

    def _step(self) -> None:
        deadline = self.farm.next_deadline()
        if deadline is not None and (not self._queue or deadline < self._queue[0][0]):
            self.now = max(self.now, deadline)
            self._handle(TimePassed())
            return
        self.now, _, (act, subject, value) = heapq.heappop(self._queue)
        act(subject, value)

    def _at(self, at: float, what: Any) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (at, self._serial, what))

    def _begin(self, builder: _Builder, _: None) -> None:
        while builder.outstanding < builder.build.jobs and self._ask(builder):
            pass

    def _ask(self, builder: _Builder) -> bool:
        """Have a builder ask for its next file, as make does; return whether there was one."""
        build = builder.build
        if builder.next_file == len(build.files):
            return False
        file = build.files[builder.next_file]
        builder.next_file += 1
        builder.outstanding += 1
        self._request_id += 1
        self._of[self._request_id] = (builder, file)
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

    def _end_next(self, machine: _Machine, version: int) -> None:
        if machine.version != version:
            return
        lease = machine.end_next(self.now)
        self._expect_end(machine)
        builder, file = self._of.pop(lease.id)
        builder.done_s += file.cost_s
        for attempt in self._attempts.pop(lease.id):
            if attempt is not lease:
                self._give_up(attempt)
        outcome = Outcome(exit=0, wall_s=max(1e-6, self.now - lease.granted), cpu_s=0.0)
        self._handle(RequestEnded(lease.id, outcome, lease.attempt))
        self._one_less(builder)

    def _start(self, lease: Lease) -> None:
        """Begin an attempt at a compile."""
        self._attempts.setdefault(lease.id, []).append(lease)
        machine = self._machines[lease.host.name]
        machine.start(lease, self._cost_s[lease.id], self.now)
        self._expect_end(machine)

    def _give_up(self, lease: Lease) -> None:
        """End an attempt at a compile of which another is done, or goes on."""
        machine = self._machines[lease.host.name]
        machine.give_up(lease, self.now)
        self._expect_end(machine)

    def _end_local(self, builder: _Builder, file: TracedFile) -> None:
        builder.done_s += file.cost_s
        builder.local += 1
        self._one_less(builder)

    def _one_less(self, builder: _Builder) -> None:
        builder.outstanding -= 1
        if not self._ask(builder) and not builder.outstanding:
            builder.ended = self.now

    def _change_load(self, machine: _Machine, foreign_cpus: float) -> None:
        machine.advance(self.now)
        machine.foreign_cpus = foreign_cpus
        machine.version += 1
        self._expect_end(machine)
        self._at(self.now + REPORT_CHANGE_AFTER_S, (self._report, machine, None))

    def _report_regularly(self, machine: _Machine, _: None) -> None:
        self._report(machine, None)
        self._at(self.now + REPORT_EVERY_S, (self._report_regularly, machine, None))

    def _report(self, machine: _Machine, _: None) -> None:
        machine.advance(self.now)
        host, port = machine.declaration.host, machine.declaration.port or DISTCCD_PORT
        self._handle(LoadReported(host, port, host, machine.report(self.now)))

    def _expect_end(self, machine: _Machine) -> None:
        end = machine.next_end()
        if end is not None:
            self._at(end, (self._end_next, machine, machine.version))

    # -- the farm's effects

    def _handle(self, event: Event) -> None:
        before = time.thread_time_ns()
        effects: Iterable[Effect] = self.farm.handle(event, self.now)
        self._cost_ns.append(time.thread_time_ns() - before)
        for effect in effects:
            match effect:
                case Grant(lease):
                    _, file = self._of[lease.id]
                    cost_s = file.cost_s
                    if self.noise:
                        cost_s *= math.exp(self.chance.gauss(0.0, self.noise))
                    self._cost_s[lease.id] = cost_s
                    self._start(lease)
                case BackUp(lease):
                    self._start(lease)
                case DropBackup(lease, _):
                    self._attempts[lease.id].remove(lease)
                    self._give_up(lease)
                case Refuse(number, _):
                    builder, file = self._of.pop(number)
                    self._at(self.now + file.cost_s, (self._end_local, builder, file))
                case Probe(name, _, _):
                    self._at(self.now, (self._answer_probe, name, None))
                case Revoke(number, reason):
                    raise AssertionError(f"no host is lost here, but {number}: {reason}")

    def _answer_probe(self, name: str, _: None) -> None:
        self._handle(HostProbed(name, True))

    # -- the figures

    def _result(
        self, builders: list[_Builder], began: float, granted: int, backups: int, first: int
    ) -> Result:
        makespan_s = max(builder.ended for builder in builders) - began
        shares = [builder.done_at_first_end_s for builder in builders]
        costs_us = sorted(cost_ns / 1000.0 for cost_ns in self._cost_ns)
        return Result(
            makespan_s=makespan_s,
            lower_bound_s=lower_bound_s(
                [file.cost_s for builder in builders for file in builder.build.files],
                self.speeds(),
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
                "mean": sum(costs_us) / max(1, granted),
                "p99": costs_us[int(0.99 * (len(costs_us) - 1))],
                "max": costs_us[-1],
            },
            local=sum(builder.local for builder in builders),
            backups=backups,
            backups_first=first,
        )

    def speeds(self) -> Iterator[float]:
        """Yield what every slot of the farm truly adds, be it as part of a shared core."""
        for each in self.declarations:
            power = each.actual_power_index or each.power_index or 1.0
            slots, full = each.slots or 1, each.actual_full or 1.0
            later = slots // 2 if full < 1.0 else 0
            yield from [power] * (slots - later)
            yield from [power * (2.0 * full - 1.0)] * later


def lower_bound_s(works_s: Iterable[float], speeds: Iterable[float], jobs: int) -> float:
    """Return a time that no schedule can beat, for works at power index 1, with `jobs` at once.

    The larger of all work over the speed of the fastest slots that can be in use, and, for every k,
    the k largest works over the k fastest slots. Were it free to move a work from slot to slot at
    any time, that would be the optimum (Horvath, Lam and Sethi, 1977). None runs on two at once.
    """
    works = sorted(works_s, reverse=True)
    fastest = sorted(speeds, reverse=True)[:jobs]
    speed_sums = list(accumulate(fastest))
    work_sums = accumulate(works)
    bound = sum(works) / speed_sums[-1]
    for work, speed in zip(work_sums, speed_sums, strict=False):
        bound = max(bound, work / speed)
    return bound


def jain_index(shares: Sequence[float]) -> float:
    """Return Jain's fairness index: 1 when all shares are equal, 1/n when one has all."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def builds_of_record(leases: Sequence[TracedLease]) -> list[Build]:
    """Return the builds of a record: per user and directory, parted by pauses.

    A build's `jobs` is how many of its compiles were outstanding at once.
    """
    builds: list[Build] = []
    open_builds: dict[tuple[str, str], list[TracedLease]] = {}
    first_s = min(lease.arrived_s for lease in leases)

    def close(key: tuple[str, str]) -> None:
        own = open_builds.pop(key)
        steps = sorted([(each.arrived_s, 1) for each in own] + [(each.ended_s, -1) for each in own])
        jobs = max(accumulate(step for _, step in steps))
        builds.append(Build(*key, own, max(1, jobs), own[0].arrived_s - first_s))

    for lease in leases:
        key = (lease.user, lease.directory)
        before = open_builds.get(key)
        if before and lease.arrived_s - max(each.ended_s for each in before) > PARTS_BUILDS_S:
            close(key)
        open_builds.setdefault(key, []).append(lease)
    for key in list(open_builds):
        close(key)
    return sorted(builds, key=lambda build: build.starts_s)


def _in_farm(declaration: Declaration) -> Declaration:
    return Declaration(
        host=declaration.host,
        port=declaration.port,
        slots=declaration.slots,
        power_index=declaration.power_index,
        types=declaration.types,
        compilers=declaration.compilers,
        address=declaration.host,
        pinned=declaration.pinned,
        static=True,
    )


def _whole(text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) < 8 and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number, 1 to 9999999")


def _noise(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.0 <= float(text) <= 2.0:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number from 0 to 2")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = OneLineParser(
        prog="simulate-farm",
        description="Plays a recorded build on a farm, through the real scheduler.",
    )
    parser.add_argument("--hosts-info", type=Path, required=True, metavar="FILE", help="the farm")
    parser.add_argument("--trace", type=Path, required=True, metavar="FILE", help="the build")
    parser.add_argument("--jobs", type=_whole, metavar="J", help="compiles at once, a builder")
    parser.add_argument(
        "--replay",
        action="store_true",
        help="the trace is a record: play its builds as they came, each with its own user and jobs",
    )
    parser.add_argument(
        "--builders", type=_whole, default=1, metavar="N", help="users who build it at once"
    )
    parser.add_argument(
        "--builds", type=_whole, default=1, metavar="K", help="times it is built in a row"
    )
    parser.add_argument("--policy", choices=sorted(POLICIES), default="earliest")
    parser.add_argument(
        "--load", type=Path, metavar="FILE", help="foreign load: CSV of time_s,host,foreign_cpus"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="for what is random")
    parser.add_argument(
        "--noise",
        type=_noise,
        default=0.0,
        metavar="X",
        help="how much compile times vary: 0.1 is 10 %% (default 0)",
    )
    parser.add_argument(
        "--no-backups",
        dest="backups",
        action="store_false",
        help="begin no compile a second time on a faster CPU that has become idle",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(arguments)
    if options.replay == (options.jobs is not None):
        parser.error("give either --jobs J or --replay")
    if options.replay and options.builders > 1:
        parser.error("--builders does not go with --replay: the record says who builds")
    return options


def simulate(options: argparse.Namespace) -> dict[str, Any]:
    """Play what the options say and return it as `--json` prints it.

    Raises HostsInfoError and TraceError.
    """
    declarations = parse_hosts_info(_text(options.hosts_info), str(options.hosts_info))
    if not declarations:
        raise HostsInfoError(f"{options.hosts_info}:1: lists no host")
    text, file = _text(options.trace), str(options.trace)
    if options.replay:
        builds = builds_of_record(parse_record(text, file))
    else:
        files = parse_trace(text, file)
        builds = [
            Build(f"user{number}", f"/home/user{number}/project", files, options.jobs)
            for number in range(1, options.builders + 1)
        ]
    load: list[ForeignLoad] = []
    if options.load is not None:
        known = {each.name for each in declarations}
        load = parse_load(_text(options.load), str(options.load), known)
    chance = random.Random(options.seed)
    policy = make_policy(options.policy, Learning(), chance, backups=options.backups)
    simulation = Simulation(policy, declarations, load, options.noise, chance)
    settle_collector()
    results = [simulation.play(builds) for _ in range(options.builds)]
    return {
        "policy": options.policy,
        "hosts": len(declarations),
        "slots": sum(each.slots or 1 for each in declarations),
        "builds": [{"build": n, **each.as_json()} for n, each in enumerate(results, 1)],
    }


def _text(path: Path) -> str:
    """Return a file's text; a byte that is none becomes U+FFFD, for names may have any."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror}") from None


def _table(figures: dict[str, Any]) -> str:
    lines = [
        f"{figures['hosts']} hosts, {figures['slots']} slots, policy {figures['policy']}",
        "build  makespan_s  lower_bound_s  ratio  fairness  decisions  us_each  backups",
    ]
    lines += [
        f"{build['build']:5}  {build['makespan_s']:10.2f}  {build['lower_bound_s']:13.2f}"
        f"  {build['ratio']:5.2f}  {build['jain']:8.3f}  {build['decisions']:9}"
        f"  {build['decision_us']['mean']:7.1f}  {build['backups']:7}"
        for build in figures["builds"]
    ]
    return "\n".join(lines)


def main() -> int:
    """Run simulate-farm; return its exit status."""
    options = parse_arguments()
    try:
        figures = simulate(options)
    except (HostsInfoError, TraceError) as error:
        print(f"simulate-farm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    text = json.dumps(figures, indent=1) if options.json else _table(figures)
    return print_result("simulate-farm", text)


if __name__ == "__main__":
    sys.exit(main())
