"""host-server under 64 clients at once, beside a bare loop and beside DMUCS's server.

A request here is what gethost does for a compile: connect, ask, take the lease, close. A second
kind also sends the `done` line that gethost sends. The bare loop (bare.py) is the limit for any
server in Python, and DMUCS's server, in C++, is the peer. All of them run for the whole section,
and take turns.

DMUCS may refuse requests in some turns. Its refusals are a figure in the table, and only its leases
count. A request that host-server does not grant ends the section: it must grant all of them.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import programs
from bench.programs import Server
from bench.table import Row, Table

CLIENTS = 64
# More slots than clients: a slot is free again only when the server has seen its client close.
SLOTS = 4 * CLIENTS

REQUEST = (
    r"request user=ada builder=desk9 cpus=4 dir=/home/ada/src/project/build source=../lib/main.c"
    r" compiler=gcc\n"
)
DONE = r"done exit=0 wall_s=0.812 cpu_s=0.031\n"
TYPE = "bench"


@dataclass(slots=True)
class Contestant:
    """A server, the conversation that clients have with it, and the figures of its turns."""

    server: Server
    conversation: tuple[str, ...]
    may_refuse: bool = False
    turns: list[dict[str, float]] = field(default_factory=list)

    def take_turn(self, load: Path, requests: int) -> dict[str, float]:
        """Serve `requests`; return the load generator's figures, and the server's CPU time.

        `per_s` counts the leases. Raises RuntimeError for a request without a lease, unless the
        server may refuse.
        """
        before_s = self.server.cpu_s()
        command = [load, "127.0.0.1", self.server.port, CLIENTS, requests, *self.conversation]
        output = subprocess.run(
            [str(word) for word in command], check=True, capture_output=True, text=True
        ).stdout
        turn: dict[str, float] = json.loads(output)
        if turn["failed"] > 0 and not self.may_refuse:
            raise RuntimeError(f"{turn['failed']:.0f} of {requests} requests got no lease")
        turn["per_s"] *= 1.0 - turn["failed"] / requests
        turn["cpu_us"] = (self.server.cpu_s() - before_s) / requests * 1e6
        return turn

    def median(self, figure: str) -> float:
        """Return the median of a figure over the turns."""
        return statistics.median(turn[figure] for turn in self.turns)

    def total(self, figure: str) -> float:
        """Return the sum of a figure over the turns."""
        return sum(turn[figure] for turn in self.turns)

    def worst(self, figure: str) -> float:
        """Return the largest of a figure over the turns."""
        return max(turn[figure] for turn in self.turns)


def measure(*, quick: bool) -> Table:
    """Return the section's table."""
    # Fewer would be over within a tick of the clock by which the kernel counts CPU time.
    rounds, requests = (1, 1000) if quick else (9, 3000)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        load = programs.build(directory, "load", [Path(__file__).with_name("load.c")])
        hosts_info = directory / "hosts-info"
        hosts_info.write_text(f"localhost {SLOTS} 2 address=127.0.0.1 static\n")
        ours, tier = (
            stack.enter_context(
                programs.host_server("--hosts-info", hosts_info, "--policy", policy)
            )
            for policy in ("earliest", "tier")
        )
        bare = stack.enter_context(programs.python_server("bench.bare"))
        contestants = {
            "ours": Contestant(ours, (REQUEST, "lease ")),
            "bare": Contestant(bare, (REQUEST, "lease ")),
            "ours with done": Contestant(ours, (REQUEST, "lease ", DONE)),
            "tier": Contestant(tier, (REQUEST, "lease ")),
        }
        if dmucs := programs.find("dmucs"):
            peer = stack.enter_context(_dmucs(dmucs, directory))
            question = rf"host 127.0.0.1 {TYPE}\0"
            contestants["dmucs"] = Contestant(peer, (question, "127.0.0.1"), may_refuse=True)
        order = deque(contestants.values())
        for turn in range(rounds + 1):
            for contestant in order:
                # DMUCS stalls for seconds, and idle CPUs sleep: this wakes them for the next one.
                contestant.take_turn(load, requests // 10)
                result = contestant.take_turn(load, requests)
                if turn > 0:  # the first one warms up
                    contestant.turns.append(result)
            order.rotate()
    return _table(contestants, rounds, requests)


@contextlib.contextmanager
def _dmucs(program: str, directory: Path) -> Iterator[Server]:
    """Run DMUCS's server with one host, which it knows by name only."""
    hosts_info = directory / "dmucs-hosts-info"
    hosts_info.write_text(f"localhost {SLOTS} 2\n")
    port = programs.free_port()
    command = [program, "-p", str(port), "-H", str(hosts_info)]
    with programs.daemon(command, "127.0.0.1", port) as server:
        _tell_dmucs(port, f"status 127.0.0.1 up {TYPE}\0")
        yield server


def _tell_dmucs(port: int, message: str) -> None:
    """Send a message that DMUCS does not answer, and check that it had its effect."""
    with programs.connection(port) as connection:
        connection.sendall(message.encode())
    with programs.connection(port) as connection:
        connection.sendall(b"monitor\0")
        if b"127.0.0.1" not in connection.recv(4096):
            raise RuntimeError("dmucs does not take its host")


def _table(contestants: dict[str, Contestant], rounds: int, requests: int) -> Table:
    ours, bare, tier = contestants["ours"], contestants["bare"], contestants["tier"]
    done, dmucs = contestants["ours with done"], contestants.get("dmucs")

    def rate(what: str, one: Contestant, other: Contestant | None, name: str, **more: Any) -> Row:
        if other is None:
            return Row(what, _per_s(one), f"{name}: not on this machine", bound=more["bound"])
        ratio = _paired_ratio(one, other, "per_s")
        within = ratio >= more["least"] if "least" in more else None
        return Row(what, _per_s(one), f"{name} {_per_s(other)}", ratio, more["bound"], within)

    p99_ms, stall_ms = ours.median("p99_ms"), ours.worst("max_ms")
    stalls = [f"bare loop {bare.worst('max_ms'):.0f} ms"]
    if dmucs:
        stalls.append(f"dmucs {dmucs.worst('max_ms'):.0f} ms")
    refusals = "dmucs: not on this machine"
    if dmucs:
        refusals = (
            f"dmucs {dmucs.total('failed'):,.0f} of {rounds * requests:,},"
            f" most in a turn {dmucs.worst('failed'):,.0f}"
        )
    generator = max(each.median("cpu_share") for each in contestants.values())
    return Table(
        f"host-server, {CLIENTS} clients at once",
        [
            rate("leases", ours, bare, "bare loop", bound="ratio >= 0.60", least=0.6),
            rate("leases", ours, dmucs, "dmucs", bound="ratio > 1", least=1.0),
            rate(
                "leases, --policy tier", tier, bare, "bare loop", bound="ratio >= 0.60", least=0.6
            ),
            rate("leases, with done", done, bare, "bare loop", bound=""),
            rate("leases, with done", done, dmucs, "dmucs", bound=""),
            Row(
                "CPU of a lease",
                f"{ours.median('cpu_us'):.0f} µs",
                f"bare loop {bare.median('cpu_us'):.0f} µs",
                _paired_ratio(ours, bare, "cpu_us"),
            ),
            Row(
                "CPU of a lease, --policy tier",
                f"{tier.median('cpu_us'):.0f} µs",
                f"bare loop {bare.median('cpu_us'):.0f} µs",
                _paired_ratio(tier, bare, "cpu_us"),
            ),
            Row(
                "time to the lease, p99",
                f"{p99_ms:.1f} ms",
                f"bare loop {bare.median('p99_ms'):.1f} ms",
                _paired_ratio(ours, bare, "p99_ms"),
                "< 20 ms",
                p99_ms < 20,
            ),
            Row(
                "time to the lease, longest of all",
                f"{stall_ms:.0f} ms",
                ", ".join(stalls),
                None,
                "< 100 ms",
                stall_ms < 100,
            ),
            Row(
                "requests without a lease", f"{ours.total('failed'):.0f}", refusals, None, "0", True
            ),
        ],
        [
            f"medians of {rounds} turns of {requests} requests each; "
            "a ratio is the median of the turns' own ratios",
            f"the load generator kept at most {generator:.0%} of one CPU busy",
        ],
    )


def _per_s(contestant: Contestant) -> str:
    return f"{contestant.median('per_s'):,.0f}/s"


def _paired_ratio(one: Contestant, other: Contestant, figure: str) -> float:
    pairs = zip(one.turns, other.turns, strict=True)
    # In a turn in which DMUCS refuses everything, it has no lease to compare with.
    return statistics.median(a[figure] / b[figure] if b[figure] else math.inf for a, b in pairs)
