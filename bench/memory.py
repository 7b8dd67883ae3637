"""host-server's memory over a million leases: it must not grow with the number of leases.

Ten users compile the same hundred files again and again. In the first quarter the server learns
the files, and its allocator reaches its size. After that, memory must not grow.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from bench import programs
from bench.programs import Server
from bench.server import CLIENTS, DONE, SLOTS
from bench.table import Row, Table

QUARTERS = 4
USERS, FILES_OF_USER = 10, 10
GROWTH_MB = 2.0


def measure(*, quick: bool) -> Table:
    """Return the section's table."""
    leases = 2_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        load = programs.build(directory, "load", [Path(__file__).with_name("load.c")])
        hosts_info = directory / "hosts-info"
        hosts_info.write_text(f"localhost {SLOTS} 2 address=127.0.0.1 static\n")
        with programs.host_server("--hosts-info", hosts_info) as server:
            sizes_mb = [_size_mb(server)]
            for _ in range(QUARTERS):
                _compile(load, server, leases // QUARTERS)
                sizes_mb.append(_size_mb(server))
    growth_mb = max(sizes_mb[2:]) - sizes_mb[1]
    return Table(
        f"host-server's memory over {leases:,} leases",
        [
            Row("at the start", f"{sizes_mb[0]:.1f} MB"),
            *(
                Row(f"after {number * leases // QUARTERS:,} leases", f"{size_mb:.1f} MB")
                for number, size_mb in enumerate(sizes_mb[1:], 1)
            ),
            Row(
                "growth after the first quarter",
                f"{growth_mb:.1f} MB",
                bound=f"< {GROWTH_MB:.0f} MB",
                within=growth_mb < GROWTH_MB,
            ),
        ],
    )


def _compile(load: Path, server: Server, leases: int) -> None:
    for user in range(USERS):
        for file in range(FILES_OF_USER):
            question = f"request user=user{user} builder=desk{user} cpus=4 dir=/src{user}"
            question += rf" source=file{file}.c compiler=gcc\n"
            requests = leases // (USERS * FILES_OF_USER)
            command = [load, "127.0.0.1", server.port, CLIENTS, requests, question, "lease ", DONE]
            output = subprocess.run(
                [str(word) for word in command], check=True, capture_output=True, text=True
            ).stdout
            if json.loads(output)["failed"]:
                raise RuntimeError("a request got no lease")


def _size_mb(server: Server) -> float:
    return float(server.process.memory_info().rss / 2**20)
