"""Runs the Python programs for a test, and waits until they have done something.

A test waits for a condition and never for time to pass, and uses any free port.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil

SOURCES = Path(__file__).parent.parent / "src"
PATIENCE_S = 20.0
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


def eventually(condition: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """Return the first true result of `condition`; fail if there is none within `patience_s`."""
    deadline_s = time.monotonic() + patience_s
    while True:
        if result := condition():
            return result
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.01)


def processes_with(variable: str, value: str) -> list[psutil.Process]:
    """Return the processes with this variable in their environment, which children inherit."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            inherited = process.environ().get(variable) == value
            if inherited and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def free_ports(count: int = 1, address: str = "") -> int:
    """Return the first of `count` consecutive free ports.

    They are below the ports that the kernel gives to outgoing connections. Such a connection blocks
    its port for a listener, even long after it was closed.
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
    """Return an environment that finds the programs, and no farm."""
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
    """Run one of the programs while the block runs."""
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
