"""What a grant costs: in Python calls, and in time on a farm of 10,000 hosts, beside one of 10.

The time is taken three times: in the core alone, where the CPU time of a grant is all there is;
through a running host-server, in the CPU time of its process; and while somebody looks at the
monitor, which must not hold up the compiles. In the core both ways of working are measured: with
slots to choose from, and with every slot in use, where each end makes room for a waiting request.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import calls, programs
from bench.server import REQUEST, Contestant
from bench.table import Row, Table
from compilefarm.core.events import HostsListed, RequestArrived, RequestEnded
from compilefarm.core.farm.farm import Farm
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Outcome, Request
from compilefarm.core.placement.earliest.policy import EarliestPolicy
from compilefarm.core.placement.policy import Policy
from compilefarm.core.placement.tier import TierPolicy
from compilefarm.programs.collector import settle_collector
from compilefarm.protocol.hosts_info import parse_hosts_info

FEW_HOSTS, MANY_HOSTS = 10, 10_000
AT_ONCE = 64
SLOTS = 32  # of a host: more than are used at once on the small farm, too
BUSY_SLOTS = 10  # of a host, where all are to be in use
RATIO_LIMIT = 1.5
STALL_LIMIT_MS = 100.0
POLICIES: dict[str, Callable[[], Policy]] = {
    "earliest": lambda: EarliestPolicy(Learning()),
    "tier": TierPolicy,
}


def measure(*, quick: bool) -> Table:
    """Return the section's table."""
    rounds, grants, requests = (1, 50, 1000) if quick else (7, 1000, 4000)
    many = 100 if quick else MANY_HOSTS
    rows = calls.rows()
    for name, policy in POLICIES.items():
        for busy in (False, True):
            small, large = (_Work(policy(), hosts, busy) for hosts in (FEW_HOSTS, many))
            settle_collector()
            turns = [(large.grant_us(grants), small.grant_us(grants)) for _ in range(rounds + 1)]
            slots = "every slot in use" if busy else "slots free"
            rows.append(_row(f"core, {name}, {slots}", turns[1:]))
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        load = programs.build(Path(directory), "load", [Path(__file__).with_name("load.c")])
        few_server, many_server = (
            stack.enter_context(_server(Path(directory), hosts)) for hosts in (FEW_HOSTS, many)
        )
        turns = []
        for _ in range(rounds + 1):
            large_turn = many_server.take_turn(load, requests)
            turns.append((large_turn["cpu_us"], few_server.take_turn(load, requests)["cpu_us"]))
        rows.append(_row("host-server, slots free", turns[1:]))
        rows.append(_watched(many_server, load, rounds, requests))
    return Table(
        f"A grant with {many:,} hosts, beside {FEW_HOSTS}",
        rows,
        [f"CPU time; medians of {rounds} turns, a ratio is the median of the turns' own ratios"],
    )


def _row(what: str, turns: list[tuple[float, float]]) -> Row:
    many, few = (statistics.median(figures) for figures in zip(*turns, strict=True))
    ratio = statistics.median(many / few for many, few in turns)
    return Row(
        what,
        f"{many:.1f} µs",
        f"{FEW_HOSTS} hosts {few:.1f} µs",
        ratio,
        f"ratio <= {RATIO_LIMIT}",
        ratio <= RATIO_LIMIT,
    )


def _hosts_info(hosts: int, slots: int = SLOTS) -> str:
    """Return a farm with the same number of slots a host and 20 speeds, whatever its size."""
    return "".join(
        f"host{number} {slots} {1 + number % 20} address=127.0.0.1 static\n"
        for number in range(hosts)
    )


class _Work:
    """A farm on which compiles come and go, on a clock of its own."""

    def __init__(self, policy: Policy, hosts: int, busy: bool) -> None:
        self._farm = Farm(policy)
        per_host = BUSY_SLOTS if busy else SLOTS
        hosts_info = parse_hosts_info(_hosts_info(hosts, per_host), "bench")
        self._farm.handle(HostsListed(hosts_info), 0.0)
        self._now = 0.0
        self._ids = itertools.count(1)
        self._running: deque[int] = deque()
        at_once = hosts * per_host + AT_ONCE if busy else AT_ONCE
        # A compile takes about a second: the more run, the more of them end in that time.
        self._step_s = 1.0 / at_once
        for _ in range(at_once):
            self._now += self._step_s
            self._arrive()

    def grant_us(self, grants: int) -> float:
        """Return the CPU time of a compile's coming and going, over so many of them."""
        started_s = time.process_time()
        for _ in range(grants):
            self._now += self._step_s
            number = self._running.popleft()
            lease = self._farm.leases.get(number)
            # Hosts are as fast as they are declared to be: what is measured is no relearning.
            wall_s = 1.0 / lease.host.power_index if lease else None
            ended = RequestEnded(number, Outcome(exit=0, wall_s=wall_s))
            self._farm.handle(ended, self._now)
            self._farm.next_deadline()
            self._arrive()
        return (time.process_time() - started_s) / grants * 1e6

    def _arrive(self) -> None:
        number = next(self._ids)
        request = Request(
            id=number,
            user=f"user{number % 8}",
            builder=f"desk{number % 8}",
            cpus=4,
            directory="/home/user/project",
            source=f"source{number % 400}.c",
            compiler="gcc",
            can_back_up=True,  # as gethost says of most compiles
        )
        self._running.append(number)
        self._farm.handle(RequestArrived(request), self._now)
        self._farm.next_deadline()


@contextlib.contextmanager
def _server(directory: Path, hosts: int) -> Iterator[Contestant]:
    hosts_info = directory / f"hosts-info-{hosts}"
    hosts_info.write_text(_hosts_info(hosts))
    with programs.host_server("--hosts-info", hosts_info) as server:
        yield Contestant(server, (REQUEST, "lease "))


def _watched(contestant: Contestant, load: Path, rounds: int, requests: int) -> Row:
    """Measure the longest time to a lease while a monitor asks for the whole farm all the time."""
    stop = threading.Event()
    address = f"http://127.0.0.1:{contestant.server.port + 3}/api/farm"

    def watch() -> None:
        while not stop.wait(0.1):
            with urllib.request.urlopen(address) as answer:
                answer.read()

    def longest_ms() -> float:
        turns = (contestant.take_turn(load, requests) for _ in range(rounds))
        return max(turn["max_ms"] for turn in turns)

    unwatched_ms = longest_ms()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        watched_ms = longest_ms()
    finally:
        stop.set()
        watcher.join()
    return Row(
        "longest time to a lease, watched",
        f"{watched_ms:.0f} ms",
        f"not watched {unwatched_ms:.0f} ms",
        None,
        f"< {STALL_LIMIT_MS:.0f} ms",
        watched_ms < STALL_LIMIT_MS,
    )
