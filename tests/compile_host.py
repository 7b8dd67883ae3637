"""What the tests of a compile host stand on: a made-up /proc, a scripted host-server, the programs.

The scripted server says what a test tells it to say, so that a refusal or a silence needs no real
server in that mood. It keeps what it was told, and tests wait for that and never for time.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from compilefarm.protocol.wire import LineSplitter, Message, format_line, parse_line

SOURCES = Path(__file__).parent.parent / "src"
PATIENCE_S = 20.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ENTRY_POINTS = {
    "addhost": "compilefarm.client.addhost:addhost",
    "remhost": "compilefarm.client.addhost:remhost",
    "loadavg": "compilefarm.compile_host.loadavg:main",
    "enable-host": "compilefarm.compile_host.enable:enable_host",
    "disable-host": "compilefarm.compile_host.enable:disable_host",
    "power-index": "compilefarm.compile_host.power_index.power_index:main",
    "watch-ssaver": "compilefarm.compile_host.desktop.watch_ssaver:main",
}
T = TypeVar("T")


def eventually(what: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """Return the first true result of `what`; fail when there is none in time."""
    deadline_s = time.monotonic() + patience_s
    while True:
        if result := what():
            return result
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.01)


def free_ports(count: int = 1, address: str = "") -> int:
    """Return the first of `count` ports in a row that nobody listens on.

    They are below those that the kernel gives to outgoing connections: one of these, even when it
    is long closed, keeps a port from being listened on.
    """
    while True:
        first = random.randrange(10_000, 32_000 - count)
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            for port in range(first, first + count):
                probes.enter_context(socket.socket()).bind((address, port))
            return first


def program_command(name: str, *arguments: object, python: str = sys.executable) -> list[str]:
    """Return the command that runs one of the programs, installed or not."""
    module, _, function = ENTRY_POINTS[name].partition(":")
    code = f"import sys; from {module} import {function}; sys.exit({function}())"
    return [python, "-P", "-c", code, *map(str, arguments)]


def program_environment(**more: str) -> dict[str, str]:
    """Return an environment in which the programs are found and no farm is."""
    environment = {key: value for key, value in os.environ.items() if "HOST_SERVER" not in key}
    return environment | {"PYTHONPATH": str(SOURCES)} | more


def run(
    name: str,
    *arguments: object,
    environment: dict[str, str] | None = None,
    python: str = sys.executable,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run one of the programs to its end."""
    return subprocess.run(
        program_command(name, *arguments, python=python),
        env=environment or program_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


@contextlib.contextmanager
def running(name: str, *arguments: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run one of the programs for as long as the block does."""
    with subprocess.Popen(
        program_command(name, *arguments),
        env=program_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


class ProcDirectory:
    """A directory like /proc, whose numbers a test sets; times are in ticks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cpus([0, 0])
        self.write("loadavg", "0.00 0.00 0.00 1/100 1000\n")
        self.write("meminfo", "MemTotal: 2048000 kB\nMemFree: 1 kB\nMemAvailable: 1024000 kB\n")
        self.stalled(0.0)

    def write(self, name: str, text: str | bytes) -> None:
        """Write one file, at once as seen by a reader."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        new = self.path / ".new"
        new.write_bytes(text if isinstance(text, bytes) else text.encode())
        new.rename(file)

    def stalled(self, stalled_s: float) -> None:
        """Have some task wait for a CPU for so long since boot."""
        figures = f"avg10=99.00 avg60=99.00 avg300=99.00 total={int(1e6 * stalled_s)}"
        self.write("pressure/cpu", f"some {figures}\nfull {figures}\n")

    def remove(self, name: str) -> None:
        """Remove one file."""
        (self.path / name).unlink()

    def cpus(self, busy: Sequence[int]) -> None:
        """Set how many ticks each CPU has been busy."""
        lines = [f"cpu {sum(busy)} 0 0 0 0 0 0 0 0 0"]
        lines += [f"cpu{n} {ticks} 0 0 999 99 0 0 0 0 0" for n, ticks in enumerate(busy)]
        self.write("stat", "\n".join([*lines, "intr 1 2 3", "btime 1700000000"]) + "\n")

    def process(
        self,
        pid: int,
        parent: int,
        *,
        session: int = 1,
        state: str = "S",
        own: int = 0,
        waited: int = 0,
        started: int = 100,
        resident_pages: int | None = None,
    ) -> None:
        """Set one process; its name is as hostile as the kernel allows."""
        fields = [state, parent, pid, session, 0, -1, 0, 0, 0, 0, 0]
        fields += [own, 0, waited, 0, 20, 0, 1, 0, started, 0]
        if resident_pages is not None:
            fields.append(resident_pages)
        self.write(f"{pid}/stat", f"{pid} (cc1) R 1 (\n) {' '.join(map(str, fields))}\n")

    def end(self, pid: int) -> None:
        """Remove a process that was waited for."""
        self.remove(f"{pid}/stat")
        (self.path / str(pid)).rmdir()


class ScriptedServer:
    """A host-server that answers each verb with what a test scripted.

    `answers` maps a verb to the lines that answer it; a verb that is not there gets no answer.
    """

    def __init__(self, answers: dict[str, list[bytes]] | None = None, base: int | None = None):
        self.answers = {
            "add": [format_line("ok", host="desk1", slots=2, power_index=1.0)],
            "load": [b"ok\n"],
            "remove": [b"ok known=yes\n"],
            "drain": [b"draining leases=0\n", b"ok leases=0\n"],
            "networks": [b"ok networks=127.0.0.0/8\n"],
        } | (answers or {})
        self.base = base or free_ports(4)
        self._told: queue.Queue[Message] = queue.Queue()
        self._connections: list[socket.socket] = []
        self._listeners: list[socket.socket] = []

    @property
    def name(self) -> str:
        """What `--server` takes."""
        return f"127.0.0.1:{self.base}"

    def __enter__(self) -> Self:
        for offset in range(3):
            listener = socket.create_server(("127.0.0.1", self.base + offset))
            self._listeners.append(listener)
            threading.Thread(target=self._accept, args=[listener, offset], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Close all connections."""
        while self._connections:
            connection = self._connections.pop()
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def told(self, verb: str) -> Message:
        """Wait until a message with this verb came; return it, and forget those before it."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            message = self._told.get(timeout=max(0.01, deadline_s - time.monotonic()))
            if message.verb == verb:
                return message

    def all_told(self) -> list[Message]:
        """Return what came and was not asked for yet."""
        messages = []
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(self._told.get_nowait())
        return messages

    def _accept(self, listener: socket.socket, offset: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = listener.accept()
                self._connections.append(connection)
                threading.Thread(
                    target=self._serve, args=[connection, offset, peer[0]], daemon=True
                ).start()

    def _serve(self, connection: socket.socket, offset: int, peer: str) -> None:
        splitter = LineSplitter()
        confirmed = False
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                for line in splitter.feed(data):
                    message = parse_line(line)
                    message.words |= {"offset": str(offset), "peer": peer}
                    self._told.put(message)
                    if message.verb == "load" and confirmed:
                        continue
                    confirmed |= message.verb == "load"
                    for answer in self.answers.get(message.verb, []):
                        connection.sendall(answer)
                        if answer.startswith(b"error"):
                            return


class HostServer:
    """The real host-server, on ports of its own, for as long as the block runs."""

    def __init__(self) -> None:
        self.base = free_ports(4)

    @property
    def name(self) -> str:
        """What `--server` takes."""
        return f"127.0.0.1:{self.base}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "compilefarm.server.main", "--port", str(self.base)],
            env=program_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,  # it logs a few lines, far from what a pipe holds
            text=True,
        )
        eventually(lambda: self._process.poll() is not None or self._listens())
        if self._process.poll() is not None:
            raise AssertionError(f"host-server did not start: {self._process.communicate()[1]}")

    def stop(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.communicate()

    def host(self, name: str) -> dict[str, Any]:
        """Return what the monitor says of a host, empty where it knows none of that name."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.base + 3}/api/farm") as answer:
            hosts = json.load(answer)["hosts"]
        return next((host for host in hosts if host["name"] == name), {})

    def request(self) -> socket.socket:
        """Return a connection that asked for a slot."""
        builder = socket.create_connection(("127.0.0.1", self.base), timeout=PATIENCE_S)
        builder.sendall(b"request user=ada\n")
        return builder

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.base + 3), timeout=PATIENCE_S).close()
        except OSError:
            return False
        return True
