"""Programs that the sections run: C programs are built, servers are started, measured and ended.

Each started program is a context. It is ended by its process id when the context ends, also after
an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

TOP = Path(__file__).parent.parent
START_WITHIN_S = 20.0
STOP_WITHIN_S = 10.0
# Daemons are in directories that an ordinary user's PATH leaves out.
SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin:/usr/sbin"))


class Missing(Exception):
    """A program that a section needs is not on this machine."""


def find(program: str) -> str | None:
    """Return the path of a program, or None."""
    return shutil.which(program, path=SEARCH_PATH)


def need(program: str) -> str:
    """Return the path of a program; raises `Missing`."""
    path = find(program)
    if path is None:
        raise Missing(f"{program} is not on this machine (`make setup` installs what it can)")
    return path


def build(directory: Path, name: str, sources: Sequence[Path], *options: str) -> Path:
    """Compile a C program into `directory` with a release's options; return its path."""
    program = directory / name
    flags = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", *options)
    subprocess.run([need("cc"), *flags, "-o", program, *sources], check=True)
    return program


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its port, and its process."""

    port: int
    process: psutil.Process

    def cpu_s(self) -> float:
        """Return the CPU time used so far."""
        used = self.process.cpu_times()
        return used.user + used.system


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """End a process when the context ends."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


@contextlib.contextmanager
def python_server(module: str, *arguments: object) -> Iterator[Server]:
    """Run a Python module that prints a line which ends in its port.

    Its log goes to a file, because it may have a line for each of 5,000 hosts. The log is shown
    only if the module does not start.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(TOP / "src"), str(TOP)))}
    with (
        tempfile.TemporaryFile("w+") as log,
        ended(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        ) as process,
    ):
        assert process.stdout is not None
        found = re.search(r"port (\d+)$", process.stdout.readline())
        if found is None:
            log.seek(0)
            raise RuntimeError(f"{module} did not start: {log.read()[-2000:]}")
        yield Server(int(found[1]), psutil.Process(process.pid))


@contextlib.contextmanager
def host_server(*arguments: object) -> Iterator[Server]:
    """Run host-server on loopback."""
    with python_server(
        "compilefarm.server.main", "--port", 0, "--bind", "127.0.0.1", *arguments
    ) as server:
        yield server


def leases_granted(server: Server) -> int:
    """Return the number of leases that a host-server has granted."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port + 3}/api/farm") as answer:
        return int(json.load(answer)["totals"]["leases_granted"])


@contextlib.contextmanager
def daemon(command: Sequence[str], address: str, port: int) -> Iterator[Server]:
    """Run a server that does not say when it is ready: wait until it accepts a connection."""
    with ended(
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    ) as process:
        deadline_s = time.monotonic() + START_WITHIN_S
        while not _answers(address, port):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{command[0]} did not start")
            time.sleep(0.02)
        yield Server(port, psutil.Process(process.pid))


def _answers(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), connection(port, address):
        return True
    return False


def connection(port: int, address: str = "127.0.0.1") -> socket.socket:
    """Connect to a server."""
    return socket.create_connection((address, port), timeout=START_WITHIN_S)


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port on which no program listens."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
