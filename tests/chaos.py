"""Real chaos: make -j on a farm of real processes, which are killed, stopped and cut off.

    make chaos RUNS=20

A run has a seed, from which the faults come: what is done to whom, when, and for how long. A
machine of it is a network namespace, with its own addresses and a cable that can be pulled; where
nobody may make namespaces it is a loopback address, and then no cable is pulled. What runs on the
machines is the real thing: host-server, distccd, loadavg, make, gethost, distcc. Only that they
share one computer is hidden from loadavg, which would take each for the others' foreign load, and
that they are equally fast: a compiler waits for longer on a slower one. The project is built in
steps, at whose ends fast hosts are idle and slow ones are not, so that there are backups.

A run went well when make ended with 0, its objects are those of a build without a farm, and in the
end neither a lease nor a process is left. When it did not, what was done is told in order.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import IO, Any

import psutil
from gethost_program import gethost_under_test
from run_program import eventually, free_ports, program_environment

HOSTS = {"alder": 6.0, "birch": 3.0, "cedar": 1.5, "dogwood": 1.0}  # with their power indices
BUILDER_POWER_INDEX = 3.0
COMPILE_S = 0.9  # on one of power index 1
SERVER, BUILDER = "server", "desk"
SLOTS = 4
FILES = 240
STEP = 40  # files, before the next are begun
JOBS = 16
BUILD_WITHIN_S = 240.0
SETTLE_WITHIN_S = 40.0
LOG_SHOWN = 4000
DISTCCD_PORT = 3632
# loadavg with a machine on which nothing runs but its own distccd.
QUIET_LOADAVG = """
import sys
from compilefarm.compile_host import loadavg
from compilefarm.compile_host.load.machine import ProcMachine
ProcMachine.busy_cpu_s = lambda machine: {"cpu0": 0.0, "cpu1": 0.0}
ProcMachine.load_averages = lambda machine: (0.0, 0.0, 0.0)
ProcMachine.cpu_stalled_s = lambda machine: None
ProcMachine.memory_mb = lambda machine: (8000.0, 8000.0)
sys.exit(loadavg.main())
"""
# Every process of a run carries it, so that one that is left is found.
MARK = "COMPILEFARM_CHAOS"
CLONE_NEWNET = 0x40000000


class Machine:
    """A machine that is a loopback address."""

    can_be_cut = False

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be on it: what is started or connected in the block is."""
        yield

    def cut(self) -> None:
        """Pull its cable."""
        raise NotImplementedError

    def mend(self) -> None:
        """Plug its cable in again."""
        raise NotImplementedError


class Namespace(Machine):
    """A machine that is a network namespace, on the bridge of a `Switch`."""

    can_be_cut = True

    def __init__(self, name: str, address: str, switch: str, number: int) -> None:
        super().__init__(name, address)
        self.namespace = f"{switch}-{number}"
        self._switch = switch
        self._port = f"port{number}"
        ip("netns", "add", self.namespace)
        ip("-n", switch, "link", "add", self._port, "type", "veth", "peer", "name", "eth0",
           "netns", self.namespace)  # fmt: skip
        ip("-n", switch, "link", "set", self._port, "master", "bridge", "up")
        ip("-n", self.namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", self.namespace, "link", "set", "lo", "up")
        ip("-n", self.namespace, "link", "set", "eth0", "up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        with Path("/proc/thread-self/ns/net").open("rb") as ours:
            with Path("/run/netns", self.namespace).open("rb") as its:
                _set_namespace(its)
            try:
                yield
            finally:
                _set_namespace(ours)

    def cut(self) -> None:
        ip("-n", self._switch, "link", "set", self._port, "down")

    def mend(self) -> None:
        ip("-n", self._switch, "link", "set", self._port, "up")


def ip(*words: str) -> None:
    """Run ip; raises `CalledProcessError`."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _set_namespace(namespace: IO[bytes]) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def machines(names: Sequence[str]) -> Iterator[dict[str, Machine]]:
    """Make machines of these names, which are gone after the block."""
    switch = f"chaos{os.getpid()}"
    try:
        ip("netns", "add", switch)
    except (OSError, subprocess.CalledProcessError):
        yield {name: Machine(name, f"127.0.7.{n}") for n, name in enumerate(names, 1)}
        return
    made = [switch]
    try:
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        found: dict[str, Machine] = {}
        for number, name in enumerate(names, 1):
            made.append(f"{switch}-{number}")
            found[name] = Namespace(name, f"10.77.0.{number}", switch, number)
        yield found
    finally:
        for namespace in made:
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


class Program:
    """A program on a machine, with all that it has started."""

    def __init__(
        self, machine: Machine, command: Sequence[object], environment: dict[str, str], log: Path
    ) -> None:
        self.machine = machine
        self._command = [str(word) for word in command]
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id; it runs, or did."""
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, unless it runs."""
        if not self.runs:
            with self.machine.entered(), self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def kill(self) -> None:
        """Kill it and all that it has started."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait()

    def stop(self) -> None:
        """Let it and all that it has started not run."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def go_on(self) -> None:
        """Let it run again."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def _family(self) -> list[psutil.Process]:
        if not self.runs:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)]
        return []


class Host:
    """A compile host: distccd, and the loadavg that watches it."""

    def __init__(self, farm: Farm, machine: Machine) -> None:
        self.name = machine.name
        self.machine = machine
        self.power_index = HOSTS[machine.name]
        self._farm = farm
        directory = farm.directory / machine.name
        directory.mkdir()
        directory.chmod(0o777)  # root's distccd becomes a user who is nobody in particular
        self._log = directory / "log"
        self._log.touch()
        self._log.chmod(0o666)
        _slow_compiler(directory / "bin", COMPILE_S / self.power_index)
        environment = farm.environment | {"PATH": f"{directory / 'bin'}:{farm.environment['PATH']}"}
        environment.pop("TMPDIR", None)
        self.distccd = Program(
            machine,
            f"distccd --no-detach --daemon --listen {machine.address} --port {DISTCCD_PORT}"
            f" --nice 0 --allow 0.0.0.0/0 --jobs {SLOTS} --log-stderr --log-level warning".split(),
            environment,
            self._log,
        )
        self.loadavg: Program | None = None

    def start(self) -> None:
        """Start what does not run."""
        if not self.distccd.runs:
            self.distccd.start()
            self.kill_loadavg()  # it watches the distccd of before
        self.start_loadavg()

    def start_loadavg(self) -> None:
        """Report, and register."""
        if self.loadavg is None or not self.loadavg.runs:
            options = {
                "server": self._farm.server_name,
                "host": f"{self.machine.address}:{DISTCCD_PORT}",
                "slots": SLOTS,
                "power-index": self.power_index,
                "distccd-pid": self.distccd.pid,
            }
            command = [sys.executable, "-P", "-c", QUIET_LOADAVG, "--register"]
            command += [f"--{name}={value}" for name, value in options.items()]
            self.loadavg = Program(self.machine, command, self._farm.environment, self._log)
            self.loadavg.start()

    def kill_loadavg(self) -> None:
        """End the reports."""
        if self.loadavg is not None:
            self.loadavg.kill()

    def kill(self) -> None:
        """End all."""
        self.distccd.kill()
        self.kill_loadavg()


def _slow_compiler(directory: Path, takes_s: float) -> None:
    """Put a gcc there that takes its time, so that what happens does so during a compile."""
    directory.mkdir()
    for name in ("gcc", f"{os.uname().machine}-linux-gnu-gcc"):
        gcc = directory / name
        gcc.write_text(
            f'#!/bin/sh\ncase " $* " in *" -E "*) ;; *) sleep {takes_s} ;; esac\n'
            f'exec {shutil.which("gcc")} "$@"\n'
        )
        gcc.chmod(0o755)


@dataclass(order=True)
class _Deed:
    due: float
    text: str = field(compare=False)
    what: Callable[[], None] = field(compare=False)


class Farm:
    """A server, four hosts and a builder, with somebody who wishes them ill."""

    def __init__(self, directory: Path, machines: dict[str, Machine], seed: int) -> None:
        self.directory = directory
        self.told: list[str] = []
        self.faults: Counter[str] = Counter()
        self._chance = random.Random(seed)
        # A server that is gone is left alone for ten seconds: with many such faults the farm is
        # hardly used, and with few the hosts' faults meet many compiles.
        self._share_of_server = self._chance.choice((0.05, 0.05, 0.3))
        self._began = time.monotonic()
        self._due: list[_Deed] = []
        self._machines = machines
        self._busy: set[str] = set()  # what is out of order now
        base = free_ports(4)
        address = machines[SERVER].address
        self.server_name = f"{address}:{base}"
        self.environment = program_environment(**{MARK: directory.name})
        self.server = Program(
            machines[SERVER],
            [
                *(
                    sys.executable,
                    "-P",
                    "-m",
                    "compilefarm.server.main",
                    "--bind",
                    address,
                    "--port",
                ),
                *(base, "--state-dir", directory / "state", "--record", directory / "record.csv"),
            ],
            self.environment,
            directory / "server.log",
        )
        self._monitor = f"http://{address}:{base + 3}/api/farm"
        self.hosts = [Host(self, machines[name]) for name in HOSTS]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run it for as long as the block does."""
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
        """Return the monitor's totals; empty where nobody answers."""
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
        _slow_compiler(home / "bin", COMPILE_S / BUILDER_POWER_INDEX)
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
        # No fault begins any more; what began is put right, in `build`.
        self._due = [deed for deed in self._due if deed.text]
        return make.returncode

    def _next_fault(self) -> None:
        self._later(self._chance.uniform(0.3, 2.0), "", self._next_fault)
        for_s = self._chance.choice((0.2, 1.0, 4.0)) * self._chance.uniform(0.5, 1.5)
        host = self._chance.choice(self.hosts)
        kinds: list[tuple[str, str, Callable[[], None], Callable[[], None]]] = [
            (host.name, "kill distccd of", host.distccd.kill, host.start),
            (host.name, "stop distccd of", host.distccd.stop, host.distccd.go_on),
            (host.name, "kill loadavg of", host.kill_loadavg, host.start_loadavg),
            (host.name, "kill all of", host.kill, host.start),
        ]
        ends = [host.name]
        if self._chance.random() < self._share_of_server:
            kinds = [
                (SERVER, "kill", self.server.kill, self.server.start),
                (SERVER, "kill", self.server.kill, self.server.start),
                (SERVER, "stop", self.server.stop, self.server.go_on),
            ]
            ends = [SERVER, BUILDER]
        for machine in (self._machines[end] for end in ends):
            if machine.can_be_cut:
                kinds.append((machine.name, "pull the cable of", machine.cut, machine.mend))
        whom, what, break_it, mend_it = self._chance.choice(kinds)
        if whom in self._busy:  # one thing at a time to each
            return
        self._busy.add(whom)
        self.faults[what] += 1
        self._tell(f"{what} {whom}, for {for_s:.1f} s")
        break_it()

        def put_right() -> None:
            self._busy.discard(whom)
            mend_it()

        self._later(for_s, f"over: {what} {whom}", put_right)

    def _later(self, after_s: float, text: str, what: Callable[[], None]) -> None:
        heappush(self._due, _Deed(time.monotonic() + after_s, text, what))

    def _do(self, deed: _Deed) -> None:
        if deed.text:
            self._tell(deed.text)
        deed.what()

    def _tell(self, text: str) -> None:
        self.told.append(f"{time.monotonic() - self._began:7.2f} s  {text}")

    def story(self) -> str:
        """Return what was done, and how the logs end."""
        story = list(self.told)
        for log in ("make.log", "server.log"):
            path = self.directory / log
            if path.exists():
                story += [f"-- the end of {log}:", path.read_text(errors="replace")[-LOG_SHOWN:]]
        return "\n".join(story)

    def is_quiet(self) -> bool:
        """Whether no lease is left, nor anything that counts as one."""
        totals = self.totals()
        return bool(totals) and not (
            totals["slots_in_use"] or totals["strays"] or totals["requests_waiting"]
        )

    def record(self) -> list[dict[str, str]]:
        """Return how the leases ended, as the servers' record has it."""
        with (self.directory / "record.csv").open(newline="") as file:
            return list(csv.DictReader(file))


def backups(record: Sequence[dict[str, str]]) -> tuple[int, int]:
    """Return how many leases were backups, and how many of these were first.

    The servers' own figures end with them. A backup is a lease that was given while another of the
    same file lasted: what is tried again is tried when the other is over.
    """
    begun = first = 0
    for row in record:
        granted_s = float(row["granted_s"])
        if any(
            other["source"] == row["source"]
            and float(other["granted_s"]) < granted_s < float(other["ended_s"])
            for other in record
        ):
            begun += 1
            first += row["ending"] == "done"
    return begun, first


def write_project(directory: Path, files: int) -> None:
    """Write a project of so many small files, to be built in steps."""
    directory.mkdir()
    for number in range(files):
        functions = "\n".join(
            f"int f{number}_{each}(int x) {{ return x * {each + number} + {each}; }}"
            for each in range(5 + number % 40)
        )
        (directory / f"file{number}.c").write_text(f"#include <stdio.h>\n{functions}\n")
    makefile = [
        f"all: {_objects(range(files))}",
        "%.o: %.c",
        "\t$(CC) -O1 -MMD -MF $*.d -MT $@ -c $< -o $@",
    ]
    for begins in range(STEP, files, STEP):
        after = _objects(range(begins, min(begins + STEP, files)))
        makefile.append(f"{after}: | {_objects(range(begins - STEP, begins))}")
    (directory / "Makefile").write_text("".join(f"{line}\n" for line in makefile))


def _objects(numbers: range) -> str:
    return " ".join(f"file{number}.o" for number in numbers)


def objects_of(project: Path) -> dict[str, bytes]:
    """Return the objects of a built project, and the dependencies, and what else is not to be."""
    beside = [path for path in project.iterdir() if path.suffix != ".c"]
    return {path.name: path.read_bytes() for path in beside}


def marked(mark: str) -> list[str]:
    """Return the processes that carry a mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:100]}")
    return found


def play(seed: int, gethost: Path, files: int = FILES) -> str:
    """Play one run; return what to say of it. Raises AssertionError with its story."""
    # Not pytest's directory: root's distccd becomes a user who may not look there.
    with tempfile.TemporaryDirectory(prefix="compilefarm-chaos-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        alone, project = directory / "alone", directory / "project"
        write_project(alone, files)
        write_project(project, files)
        subprocess.run(
            ["make", f"-j{os.cpu_count()}", "CC=gcc"], cwd=alone, check=True, capture_output=True
        )
        with machines((SERVER, BUILDER, *HOSTS)) as found:
            farm = Farm(directory, found, seed)
            try:
                with farm.running():
                    began_s = time.monotonic()
                    status = farm.build(gethost, project)
                    took_s = time.monotonic() - began_s
                    assert status == 0, f"make ended with {status}"
                    expected, built = objects_of(alone), objects_of(project)
                    names = sorted(expected.keys() | built.keys())
                    differ = [each for each in names if built.get(each) != expected.get(each)]
                    assert not differ, f"objects differ: {differ}"
                    eventually(farm.is_quiet, SETTLE_WITHIN_S)
                left = marked(directory.name)
                assert not left, f"processes are left: {left}"
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}\n{farm.story()}") from error
            faults = ", ".join(f"{what} {count}" for what, count in sorted(farm.faults.items()))
            record = farm.record()
            how_they_ended = Counter(row["ending"] for row in record).most_common()
            endings = ", ".join(f"{count} {how}" for how, count in how_they_ended)
            begun, first = backups(record)
            where = "namespaces" if found[SERVER].can_be_cut else "loopback addresses"
            return (
                f"seed {seed}: {files} files in {took_s:.0f} s on {where}; leases: {endings};"
                f" backups: {begun}, {first} of them first;"
                f" faults: {farm.faults.total()} ({faults})"
            )


def main() -> int:
    """Play as many runs as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description="Real chaos.")
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        gethost = gethost_under_test(Path(name))
        for seed in range(options.seed, options.seed + options.runs):
            try:
                print(play(seed, gethost), flush=True)
            except AssertionError as error:
                print(error)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
