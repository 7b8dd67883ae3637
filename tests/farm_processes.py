"""A farm of real processes on loopback: host-server, distccd hosts, and clients typed by hand.

Each process gets free ports and a directory of its own, is waited for until it serves, and is ended
by its process id. When host-server ends, its log is checked: a lease that is left, a traceback or
an error fails the test, whatever the test was about.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import psutil
from run_program import PATIENCE_S, eventually, free_ports, program_environment
from typed_json import checked_snapshot

from compilefarm.protocol.farm_json import Snapshot
from compilefarm.protocol.wire import Message, parse_line

REQUESTS, LOADS, STATUS, MONITOR = range(4)


class Client:
    """A client of one of host-server's ports, typed by hand."""

    def __init__(self, address: str, port: int, sender: str = "") -> None:
        source = (sender, 0) if sender else None
        self.socket = socket.create_connection((address, port), PATIENCE_S, source_address=source)
        self._lines = self.socket.makefile("rb")

    def say(self, *lines: str) -> None:
        """Send these lines."""
        self.send("".join(f"{line}\n" for line in lines).encode())

    def send(self, data: bytes) -> None:
        """Send these bytes; it is no error if the server has closed the connection."""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            self.socket.sendall(data)

    def line(self) -> str:
        """Wait for a line; return it without its newline, or "" if the server has closed."""
        try:
            return self._lines.readline().decode().removesuffix("\n")
        except ConnectionResetError:
            return ""

    def hears(self, verb: str) -> Message:
        """Wait for a message, which must have this verb; a `wait` may come before it."""
        line = self.line()
        while verb != "wait" and line.startswith("wait "):
            line = self.line()
        assert line, f"the server closed the connection without {verb}"
        message = parse_line(line.encode())
        assert message.verb == verb, line
        return message

    def is_turned_away(self) -> str:
        """Wait for an error and the end of the connection; return the error's reason."""
        reason = self.hears("error").required("reason")
        assert self.line() == ""
        return reason

    def is_closed(self) -> bool:
        """Wait for a line or the end; return whether it is the end. The line stays unread."""
        try:
            return not self._lines.peek(1)
        except ConnectionResetError:
            return True

    def close(self) -> None:
        """Close the connection without a message."""
        self._lines.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HostServer:
    """A real host-server, on any free ports; after a restart it has the same ports."""

    def __init__(self, directory: Path, *options: object, descriptors: int = 0) -> None:
        self.base = 0
        self.log = directory / "host-server.log"
        self._options = options
        self._limits = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"]
        if not descriptors:
            self._limits = []
        self.process: subprocess.Popen[str]

    @property
    def name(self) -> str:
        """The value for `--server`."""
        return f"127.0.0.1:{self.base}"

    def command(self) -> list[str]:
        """Return the command that starts it."""
        ports = ["--port", str(self.base), "--bind", "127.0.0.1"]
        python = [sys.executable, "-P", "-m", "compilefarm.server.main"]
        return [*self._limits, *python, *ports, *map(str, self._options)]

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command(),
                env=program_environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout
        ready = self.process.stdout.readline()
        self.process.stdout.close()
        found = re.search(r" port (\d+)$", ready)
        assert found, self.log.read_text()
        self.base = int(found[1])

    def connect(self, port: int = REQUESTS, sender: str = "") -> Client:
        """Return a connection to one of the four ports."""
        return Client("127.0.0.1", self.base + port, sender)

    def ask(self, *lines: str, port: int = STATUS, sender: str = "") -> str:
        """Send lines; return the first line of the answer."""
        with self.connect(port, sender) as client:
            client.say(*lines)
            return client.line()

    def serves(self) -> None:
        """Assert that it serves well-behaved clients on each port at this moment."""
        assert self.ask("networks").startswith("ok ")
        with self.connect(REQUESTS) as builder:
            builder.say("request user=ada source=main.c")
            builder.hears("lease")
            builder.say("done exit=0 wall_s=0.1")
            assert builder.line() == ""
        assert self.farm()["server"]["version"]

    def farm(self) -> Snapshot:
        """Return the snapshot of `/api/farm`, checked against its types."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.base + MONITOR}/api/farm") as answer:
            return checked_snapshot(json.load(answer))

    def host(self, name: str) -> dict[str, Any]:
        """Return the monitor's snapshot of a host; empty if it does not know the host."""
        return next((dict(host) for host in self.farm()["hosts"] if host["name"] == name), {})

    def logs(self, words: str) -> bool:
        """Return whether these words are in its log."""
        return words in self.log.read_text()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End it with SIGTERM, and check its exit status and its log."""
        if self.process.poll() is not None:
            return
        try:
            eventually(lambda: self.farm()["totals"]["slots_in_use"] == 0)
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(PATIENCE_S) == 0
        finally:
            self.kill()
        log = self.log.read_text()
        assert "ends: 0 compiles were running" in log
        assert "Traceback" not in log, log
        assert "Error" not in log, log

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.end() if kind is None else self.kill()


class DistccdHost:
    """A real distccd on a loopback address, which stands for a machine.

    A gate before its gcc can be closed. Then compiles start and do not end, so a test can act
    during a compile.
    """

    def __init__(self, address: str, slots: int = 2) -> None:
        self.address = address
        self.slots = slots
        self.port = free_ports(address=address)
        # Not pytest's directory: a distccd that root starts becomes a user who cannot read it.
        self._directory = Path(tempfile.mkdtemp(prefix="compilefarm-host-"))
        self._gate = self._directory / "closed"
        self._begun = self._directory / "begun"
        self._holds_probes = self._directory / "holds-probes"
        self.log = self._directory / "distccd.log"
        self._process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start distccd, and wait until it listens."""
        environment = self.environment()
        while not self._serves_as(environment):
            self.port = free_ports(address=self.address)

    def environment(self) -> dict[str, str]:
        """Make the compiler with the gate; return an environment in which distccd finds it."""
        bin_directory = self._directory / "bin"
        self._directory.chmod(0o777)
        bin_directory.mkdir(exist_ok=True)
        for name in ("gcc", f"{os.uname().machine}-linux-gnu-gcc"):  # distcc may ask for either
            gcc = bin_directory / name
            if gcc.exists():  # made for a distccd that was killed; its compiles may still use it
                continue
            gcc.write_text(
                "#!/bin/sh\n"
                # A probe is an empty file: it passes the gate, unless probes are held too.
                'for word; do case "$word" in *.i) [ -s "$word" ] || '
                f'[ -e {self._holds_probes} ] || exec {shutil.which("gcc")} "$@" ;; esac; done\n'
                f"[ -e {self._gate} ] && echo $$ >> {self._begun}\n"
                f"while [ -e {self._gate} ]; do sleep 0.05; done\n"
                f'exec {shutil.which("gcc")} "$@"\n'
            )
            gcc.chmod(0o755)
        bin_directory.chmod(0o755)
        environment = {key: value for key, value in os.environ.items() if "DISTCC" not in key}
        environment["PATH"] = f"{bin_directory}:{os.environ['PATH']}"
        environment.pop("TMPDIR", None)
        return environment

    def _serves_as(self, environment: dict[str, str]) -> bool:
        """Start distccd; return False if another program has taken its port."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                f"distccd --no-detach --daemon --listen {self.address} --port {self.port} --nice 0 "
                f"--allow 127.0.0.0/8 --jobs {self.slots} --log-stderr --log-level info".split(),
                env=environment,
                stderr=log,
                start_new_session=True,
            )
        while self._process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection((self.address, self.port), PATIENCE_S).close()
                return True
        assert "in use" in self.log.read_text(), self.log.read_text()
        return False

    @property
    def name(self) -> str:
        """The farm's name for it."""
        return f"{self.address}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the distccd that listens, the parent of the others."""
        return self._process.pid

    def pids(self) -> list[int]:
        """Return the process ids of all its processes."""
        return [process.pid for process in self._processes()]

    def add_to(self, server: HostServer, power_index: float = 1.0) -> None:
        """Add the host to a server's farm."""
        answer = server.ask(
            f"add host={self.address} port={self.port} slots={self.slots} power_index={power_index}"
        )
        assert answer.startswith("ok "), answer

    def close_gate(self) -> None:
        """Hold all compiles from now on."""
        self._begun.write_text("")
        self._begun.chmod(0o666)
        self._gate.touch()

    def hold_probes_too(self) -> None:
        """Hold all compiles from now on, even probes."""
        self._holds_probes.touch()
        self.close_gate()

    def open_gate(self) -> None:
        """Let all compiles end."""
        self._holds_probes.unlink(missing_ok=True)
        self._gate.unlink()

    def await_compiles(self, count: int = 1) -> None:
        """Wait until at least `count` compiles are held at the gate."""
        eventually(lambda: len(self.begun()) >= count)

    def begun(self) -> list[int]:
        """Return the process ids of the compiles that came to the gate since it was closed."""
        return list(map(int, self._begun.read_text().split()))

    def stop(self) -> None:
        """Stop all its processes, as SIGSTOP does; the kernel still accepts connections."""
        for process in self._processes():
            process.suspend()

    def resume(self) -> None:
        """Resume all its processes."""
        for process in self._processes():
            process.resume()

    def kill(self) -> None:
        """Kill all its processes."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def _processes(self) -> Sequence[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._directory)
