"""The effect of the farm on a desktop's owner: how soon it lets go, and how much CPU it takes.

The first is the time from a key that xdotool presses to the last lease that host-server grants,
with the real watch-ssaver, X server, host-server and distccd between them. A try takes seconds, so
several machines are watched at once, on one display. Each try needs a new watch-ssaver: one that
let go a moment ago waits longer before its machine comes back.

The second is the CPU time of a program that counts as fast as it can, on one CPU that a compiler
wants too. With and without the compiler take turns; shown is the median of the turns' ratios.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from bench import programs
from bench.table import Row, Table
from compilefarm.compile_host.load.machine import this_machine
from compilefarm.compile_host.priority import lower
from compilefarm.compile_host.processes import ProcessTree

LAST_LEASE_LIMIT_S = 1.0
LOSS_LIMIT = 0.05
WATCHED = 5
# A desktop that still gives leases at the end of this time did not notice the key.
OVER_S = 3.0
PATIENCE_S = 60.0
COUNTING_S = 1.0
# A pause between requests, or the rate of our requests would be the limit.
ASK_EVERY_S = 0.005

_COUNT = """
import sys, time
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    pass
print(time.process_time())
"""


def measure(*, quick: bool) -> Table:
    """Return the section's table."""
    turns, rounds = (1, 1) if quick else (9, 20)
    with tempfile.TemporaryDirectory() as name:
        rows = _cpu_rows(Path(name), turns)
        rows.insert(0, _last_lease_row(Path(name), rounds, 2 if quick else WATCHED))
    return Table("owner: what the owner of a desktop notices", rows)


# -- from the first key to the last lease


def _last_lease_row(directory: Path, rounds: int, watched: int) -> Row:
    for program in ("Xvfb", "xdotool", "distccd"):
        programs.need(program)
    after_s: list[float] = []
    with _display() as display, programs.host_server() as server:
        for number in range(rounds):
            where = directory / f"round{number}"
            where.mkdir()
            after_s += _let_go(where, server.port, display, watched)
    p99_s = sorted(after_s)[max(0, -(-99 * len(after_s) // 100) - 1)]
    return Row(
        f"from a key to the last lease, p99 of {len(after_s)}",
        f"{p99_s:.2f} s",
        f"median {statistics.median(after_s):.2f} s, longest {max(after_s):.2f} s",
        bound=f"under {LAST_LEASE_LIMIT_S:.0f} s",
        within=p99_s < LAST_LEASE_LIMIT_S,
    )


def _let_go(directory: Path, port: int, display: str, watched: int) -> list[float]:
    """Wait until some machines are in the farm, press a key, and return the time to the last lease.

    One figure for each machine, in seconds after the key.
    """
    with contextlib.ExitStack() as stack:
        askers = []
        for number in range(watched):
            host = f"127.0.0.{number + 10}"
            stack.enter_context(_watch_ssaver(directory, port, display, host))
            askers.append(stack.enter_context(_Asker(port, host)))
        for asker in askers:
            asker.await_lease()
        time.sleep(random.uniform(0.0, 0.5))  # no watcher may run in step with us
        pressed = time.monotonic()
        subprocess.run(
            ["xdotool", "key", "space"], env=os.environ | {"DISPLAY": display}, check=True
        )
        time.sleep(OVER_S)
        for asker in askers:
            asker.raise_if_leased_after(pressed + OVER_S - 0.5)
        return [max(0.0, asker.last_lease - pressed) for asker in askers]


class _Asker(threading.Thread):
    """Asks for slots of one host again and again, and remembers when it got the last one."""

    def __init__(self, port: int, host: str) -> None:
        super().__init__(daemon=True)
        self.last_lease = 0.0
        self._port = port
        self._line = f"request type={host} wait_s=0\n".encode()
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(ASK_EVERY_S):
            with contextlib.suppress(OSError), programs.connection(self._port) as connection:
                connection.sendall(self._line)
                if connection.recv(4096).startswith(b"lease "):
                    self.last_lease = time.monotonic()
                connection.shutdown(socket.SHUT_RDWR)

    def await_lease(self) -> None:
        """Wait for a lease; raises RuntimeError if none comes."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not self.last_lease:
            if time.monotonic() > deadline_s:
                raise RuntimeError("a desktop did not come into the farm")
            time.sleep(0.01)

    def raise_if_leased_after(self, moment: float) -> None:
        """Raise RuntimeError if a lease came so late that the key cannot have been noticed."""
        if self.last_lease > moment:
            raise RuntimeError("a desktop did not let go")

    def __enter__(self) -> _Asker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


@contextlib.contextmanager
def _watch_ssaver(directory: Path, port: int, display: str, host: str) -> Iterator[None]:
    command = [sys.executable, "-m", "compilefarm.compile_host.desktop.watch_ssaver"]
    command += ["--server", f"127.0.0.1:{port}", "--host", host, "--type", host, "--slots", "2"]
    command += ["--port", str(programs.free_port(host)), "--power-index", "1"]
    command += ["--run-dir", str(directory / "run"), "--source", "x11", "--idle-after", "1"]
    # A /proc of its own, so that it is idle whatever else this machine does.
    proc = directory / f"proc-{host}"
    proc.mkdir()
    for name, text in {
        "stat": "cpu0 0 0 0 9 0 0 0 0\ncpu1 0 0 0 9 0 0 0 0\n",
        "loadavg": "0 0 0 1/1 1\n",
        "meminfo": "MemTotal: 8000000 kB\nMemAvailable: 8000000 kB\n",
    }.items():
        (proc / name).write_text(text)
    command += ["--procfs", str(proc)]
    environment = os.environ | {
        "DISPLAY": display,
        "PYTHONPATH": str(programs.TOP / "src"),
        "PATH": programs.SEARCH_PATH,
    }
    log = (directory / f"{host}.log").open("w")
    with (
        log,
        programs.ended(
            subprocess.Popen(command, env=environment, stdout=log, stderr=log, text=True)
        ),
    ):
        yield


@contextlib.contextmanager
def _display() -> Iterator[str]:
    """Run an X server; yields its display."""
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "640x480x8", "-nolisten", "tcp"]
    with (
        os.fdopen(reading) as answer,
        programs.ended(
            subprocess.Popen(
                command,
                pass_fds=[writing],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        ),
    ):
        os.close(writing)
        number = answer.readline().strip()
        if not re.fullmatch(r"\d+", number):
            raise RuntimeError("Xvfb did not start")
        yield f":{number}"


# -- the CPU that the owner's program loses


def _cpu_rows(directory: Path, turns: int) -> list[Row]:
    """Compare counting beside a compile with counting alone, for two ways to lower priority."""
    cpu = sorted(os.sched_getaffinity(0))[0]
    source = directory / "long.c"
    # A compile that outlasts the turn: `gcc -O2` takes seconds for this number of functions.
    source.write_text("".join(_FUNCTION.format(number=number) for number in range(2000)))

    def nice_alone(process: psutil.Process) -> None:
        process.nice(10)

    def lowest(process: psutil.Process) -> None:
        lower(ProcessTree(this_machine(), process.pid))

    ways: dict[str, Callable[[psutil.Process], None]] = {"lowest": lowest, "nice 10": nice_alone}
    shares: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, apply in ways.items():
            alone = _counted(cpu)
            with _compiling(cpu, source, directory, apply):
                beside = _counted(cpu)
            shares[way].append(beside / alone)
    lost = {way: 1.0 - statistics.median(each) for way, each in shares.items()}
    return [
        Row(
            "CPU that a program loses beside a compile",
            f"{100 * max(0.0, lost['lowest']):.1f} %",
            f"distccd with nice 10 alone: {100 * lost['nice 10']:.0f} %",
            bound=f"under {100 * LOSS_LIMIT:.0f} %",
            within=lost["lowest"] < LOSS_LIMIT,
        )
    ]


_FUNCTION = """
int f{number}(int *a, int n) {{
    int s = {number};
    for (int i = 0; i < n; i++) for (int j = 0; j < n; j++) s += a[i] * a[j] % (s | 1);
    return s;
}}
"""


def _counted(cpu: int) -> float:
    """Return the CPU time that a counting program gets on a CPU, in its own session."""
    ran = _run_on(cpu, [sys.executable, "-c", _COUNT, str(COUNTING_S)])
    with ran:
        output = ran.communicate()[0]
    return float(output)


@contextlib.contextmanager
def _compiling(
    cpu: int, source: Path, directory: Path, apply: Callable[[psutil.Process], None]
) -> Iterator[None]:
    """Compile again and again on a CPU, in one session of that priority, as a distccd does."""
    gcc = f"while :; do {programs.need('gcc')} -O2 -c {source} -o {directory}/long.o; done"
    with _run_on(cpu, ["sh", "-c", gcc]) as compiling:
        try:
            process = psutil.Process(compiling.pid)
            apply(process)
            while not any(each.name() == "cc1" for each in process.children(recursive=True)):
                time.sleep(0.01)
            yield
        finally:
            for each in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()


def _run_on(cpu: int, command: Sequence[str]) -> subprocess.Popen[str]:
    code = f"import os, sys; os.sched_setaffinity(0, [{cpu}]); os.execvp(sys.argv[1], sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
