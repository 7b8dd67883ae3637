"""host-server with 10,000 idle connections, while it serves a thousand leases a second.

The idle connections are those of a real farm: clients that hold a lease, clients that wait for
one, and connections to the other ports. They come from many addresses, as from many machines. The
requests come at a fixed rate, and the time of each counts from when it was due. The comparison is
the same server without the idle connections.
"""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from bench import programs
from bench.programs import Server
from bench.server import CLIENTS, DONE, REQUEST, SLOTS
from bench.table import Row, Table

HOLD, WAIT, STATUS = 4000, 2000, 4000
PER_S = 1000
BOUND_MS = 20.0
SLOTS_OF_FULL = 40
BUILDERS = 25
CONNECTIONS_AT_ONCE = 250
STATUS_OFFSET = 2


def measure(*, quick: bool) -> Table:
    """Return the section's table."""
    share, seconds = (0.04, 1) if quick else (1.0, 20)
    held, waiting, silent = (int(count * share) for count in (HOLD, WAIT, STATUS))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < held + waiting + silent + 100:
        raise programs.Missing(f"a limit of more than {hard} open files (ulimit -Hn)")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        load = programs.build(directory, "load", [Path(__file__).with_name("load.c")])
        hosts_info = directory / "hosts-info"
        port = stack.enter_context(_distccd())
        hosts_info.write_text(
            f"fast {SLOTS} 2 address=127.0.0.1 static\n"
            + "".join(
                f"full{number} {SLOTS_OF_FULL} 1 address=127.0.0.1 port={port} static types=full\n"
                for number in range(held // SLOTS_OF_FULL)
            )
        )
        server = stack.enter_context(programs.host_server("--hosts-info", hosts_info))
        _serve(load, server, PER_S)  # the first requests take longer
        alone = _serve(load, server, PER_S * seconds)
        idle = stack.enter_context(contextlib.ExitStack())
        request = "request user=bob builder=desk{} type=full source=main.c\n"
        _connect(idle, server.port, held, request, b"lease ")
        _connect(idle, server.port, waiting, request, b"wait ")
        _connect(idle, server.port + STATUS_OFFSET, silent, "networks\n", b"ok ")
        ours = _serve(load, server, PER_S * seconds)
        memory_mb = server.process.memory_info().rss / 2**20
    count = held + waiting + silent
    return Table(
        f"host-server with {count:,} idle connections, {PER_S:,} leases a second",
        [
            Row(
                f"time to the lease, {what}",
                f"{ours[figure]:.1f} ms",
                f"without {alone[figure]:.1f} ms",
                ours[figure] / alone[figure],
                f"< {BOUND_MS:.0f} ms" if figure == "p99_ms" else "",
                ours[figure] < BOUND_MS if figure == "p99_ms" else None,
            )
            for what, figure in (("median", "p50_ms"), ("p99", "p99_ms"), ("longest", "max_ms"))
        ]
        + [
            Row(
                "leases a second",
                f"{ours['per_s']:,.0f}",
                f"without {alone['per_s']:,.0f}",
                ours["per_s"] / alone["per_s"],
            ),
            Row(
                "CPU time of a lease, and its share of all other work",
                f"{ours['cpu_us']:.0f} µs",
                f"without {alone['cpu_us']:.0f} µs",
                ours["cpu_us"] / alone["cpu_us"],
            ),
            Row("memory of host-server", f"{memory_mb:.0f} MB"),
        ],
        [
            f"{held:,} hold a lease, {waiting:,} wait for one, {silent:,} are status connections;"
            " compared with the same server without them",
            f"{seconds} seconds each; a request counts from when it was due",
        ],
    )


@contextlib.contextmanager
def _distccd() -> Iterator[int]:
    """Answer the server's probes as a distccd does; yields the port.

    host-server probes a host on which no compile has ended for a long time. Without an answer, it
    would take the host out of use.
    """

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(1)

    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        threading.Thread(target=answer, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _serve(load: Path, server: Server, requests: int) -> dict[str, float]:
    command = [load, "127.0.0.1", server.port, CLIENTS, requests, REQUEST, "lease ", DONE, PER_S]
    before_s = server.cpu_s()
    output = subprocess.run(
        [str(word) for word in command], check=True, capture_output=True, text=True
    ).stdout
    figures: dict[str, float] = json.loads(output)
    figures["cpu_us"] = (server.cpu_s() - before_s) / requests * 1e6
    if figures["failed"] > 0:
        raise RuntimeError(f"{figures['failed']:.0f} of {requests} requests got no lease")
    return figures


def _connect(
    stack: contextlib.ExitStack, port: int, count: int, question: str, answer: bytes
) -> None:
    """Open `count` connections, ask on each, wait for the answers, and hold them."""
    for first in range(0, count, CONNECTIONS_AT_ONCE):
        group = [
            stack.enter_context(
                socket.create_connection(
                    ("127.0.0.1", port),
                    programs.START_WITHIN_S,
                    source_address=(f"127.3.{number // 250}.{number % 250 + 1}", 0),
                )
            )
            for number in range(first, min(first + CONNECTIONS_AT_ONCE, count))
        ]
        for number, connection in enumerate(group):
            connection.sendall(question.format(number % BUILDERS).encode())
        for connection in group:
            heard = connection.recv(4096)
            while heard.startswith(b"wait ") and not heard.startswith(answer):
                heard = heard.partition(b"\n")[2] or connection.recv(4096)
            if not heard.startswith(answer):
                raise RuntimeError(f"an idle connection got {heard[:100]!r}")
