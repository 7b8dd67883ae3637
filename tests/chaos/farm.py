"""A farm of real processes, and the faults that happen to it."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from run_program import eventually, free_ports, program_environment

from .machines import Machine
from .programs import COMPILE_S, HOSTS, Host, Program, slow_compiler

SERVER, BUILDER = "server", "desk"
BUILDER_POWER_INDEX = 3.0
JOBS = 16
BUILD_WITHIN_S = 240.0
LOG_SHOWN = 4000
# Every process of a run has this environment variable, so that one that is left is found.
MARK = "COMPILEFARM_CHAOS"


@dataclass(order=True)
class _Action:
    due: float
    text: str = field(compare=False)
    act: Callable[[], None] = field(compare=False)


class Farm:
    """A server, four hosts and a builder, and the faults of one seed."""

    def __init__(self, directory: Path, machines: dict[str, Machine], seed: int) -> None:
        self.directory = directory
        self._events: list[str] = []
        self.faults: Counter[str] = Counter()
        self._chance = random.Random(seed)
        # gethost does not ask a server for ten seconds after it was away. So with many server
        # faults the farm is hardly used; with few, the hosts' faults hit many compiles.
        self._share_of_server = self._chance.choice((0.05, 0.05, 0.3))
        self._began = time.monotonic()
        self._due: list[_Action] = []
        self._machines = machines
        self._broken: set[str] = set()  # machines with a fault now
        base = free_ports(4)
        address = machines[SERVER].address
        self.server_name = f"{address}:{base}"
        self.environment = program_environment(**{MARK: directory.name})
        self.server = Program(
            machines[SERVER],
            [
                *(sys.executable, "-P", "-m", "compilefarm.server.main"),
                *("--bind", address, "--port", base),
                *("--state-dir", directory / "state", "--record", directory / "record.csv"),
            ],
            self.environment,
            directory / "server.log",
        )
        self._monitor = f"http://{address}:{base + 3}/api/farm"
        self.hosts = [Host(self, machines[name]) for name in HOSTS]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the farm while the block runs."""
        try:
            self.server.start()
            for host in self.hosts:
                host.start()
            eventually(lambda: self.totals().get("hosts_up") == len(self.hosts))
            yield
        finally:
            for host in self.hosts:
                host.kill()
            self.server.kill()

    def totals(self) -> dict[str, Any]:
        """Return the monitor's totals; empty if it does not answer."""
        with self._machines[SERVER].entered(), contextlib.suppress(OSError):
            with urllib.request.urlopen(self._monitor, timeout=5.0) as answer:
                totals: dict[str, Any] = json.load(answer)["totals"]
            return totals
        return {}

    def build(self, gethost: Path, project: Path) -> int:
        """Run make while faults come; return its exit status."""
        builder = self._machines[BUILDER]
        home = self.directory / "home"
        for made in (home / "runtime", home / "distcc" / "lock"):
            made.mkdir(parents=True)
        (home / "runtime").chmod(0o700)
        slow_compiler(home / "bin", COMPILE_S / BUILDER_POWER_INDEX)
        environment = {
            "PATH": f"{home / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home / "runtime"),
            "DISTCC_DIR": str(home / "distcc"),
            "HOST_SERVER": self.server_name,
            "GETHOST_LOCK_FILE": str(home / "cpus"),
            MARK: self.directory.name,
        }
        with builder.entered(), (self.directory / "make.log").open("wb") as log:
            make = subprocess.Popen(
                ["make", f"-j{JOBS}", f"CC={gethost} distcc gcc"],
                cwd=project,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            return self._storm(make)
        finally:
            if make.poll() is None:
                os.killpg(make.pid, signal.SIGKILL)
                make.wait()
            while self._due:
                self._do(heappop(self._due))

    def _storm(self, make: subprocess.Popen[bytes]) -> int:
        limit = time.monotonic() + BUILD_WITHIN_S
        self._later(self._chance.uniform(0.5, 2.0), "", self._next_fault)
        while make.poll() is None:
            now = time.monotonic()
            if now > limit:
                raise AssertionError(f"make did not end within {BUILD_WITHIN_S:g} s")
            while self._due and self._due[0].due <= now:
                self._do(heappop(self._due))
            with contextlib.suppress(subprocess.TimeoutExpired):
                make.wait(max(0.0, min(self._due[0].due, limit) - now))
        self._tell(f"make ends with {make.returncode}")
        # No new fault begins; `build` ends those that have begun.
        self._due = [action for action in self._due if action.text]
        return make.returncode

    def _next_fault(self) -> None:
        self._later(self._chance.uniform(0.3, 2.0), "", self._next_fault)
        for_s = self._chance.choice((0.2, 1.0, 4.0)) * self._chance.uniform(0.5, 1.5)
        host = self._chance.choice(self.hosts)
        kinds: list[tuple[str, str, Callable[[], None], Callable[[], None]]] = [
            (host.name, "kill distccd of", host.distccd.kill, host.start),
            (host.name, "stop distccd of", host.distccd.stop, host.distccd.resume),
            (host.name, "kill loadavg of", host.kill_loadavg, host.start_loadavg),
            (host.name, "kill all of", host.kill, host.start),
        ]
        ends = [host.name]
        if self._chance.random() < self._share_of_server:
            kinds = [
                (SERVER, "kill", self.server.kill, self.server.start),
                (SERVER, "kill", self.server.kill, self.server.start),
                (SERVER, "stop", self.server.stop, self.server.resume),
            ]
            ends = [SERVER, BUILDER]
        for machine in (self._machines[each] for each in ends):
            if machine.can_be_cut:
                kinds.append((machine.name, "pull the cable of", machine.cut, machine.mend))
        target, fault, begin, end = self._chance.choice(kinds)
        if target in self._broken:  # one fault at a time on each machine
            return
        self._broken.add(target)
        self.faults[fault] += 1
        self._tell(f"{fault} {target}, for {for_s:.1f} s")
        begin()

        def repair() -> None:
            self._broken.discard(target)
            end()

        self._later(for_s, f"over: {fault} {target}", repair)

    def _later(self, after_s: float, text: str, act: Callable[[], None]) -> None:
        heappush(self._due, _Action(time.monotonic() + after_s, text, act))

    def _do(self, action: _Action) -> None:
        if action.text:
            self._tell(action.text)
        action.act()

    def _tell(self, text: str) -> None:
        self._events.append(f"{time.monotonic() - self._began:7.2f} s  {text}")

    def story(self) -> str:
        """Return the faults in order, and the ends of the logs."""
        story = list(self._events)
        for log in ("make.log", "server.log"):
            path = self.directory / log
            if path.exists():
                story += [f"-- the end of {log}:", path.read_text(errors="replace")[-LOG_SHOWN:]]
        return "\n".join(story)

    def is_quiet(self) -> bool:
        """Return whether no lease, stray compile or request is left."""
        totals = self.totals()
        return bool(totals) and not (
            totals["slots_in_use"] or totals["strays"] or totals["requests_waiting"]
        )

    def record(self) -> list[dict[str, str]]:
        """Return the record of leases, which all lives of the server share."""
        with (self.directory / "record.csv").open(newline="") as file:
            return list(csv.DictReader(file))
