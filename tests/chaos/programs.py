"""The programs of a run: one with all that it has started, and the two of a compile host."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from .machines import Machine

if TYPE_CHECKING:
    from .farm import Farm

HOSTS = {"alder": 6.0, "birch": 3.0, "cedar": 1.5, "dogwood": 1.0}  # with their power indices
COMPILE_S = 0.9  # on one of power index 1
SLOTS = 4
DISTCCD_PORT = 3632
# loadavg, on a machine on which only its own distccd runs.
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


class Program:
    """A program on a machine, with all its child processes."""

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
        """Its process id; it must have been started."""
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
        """Kill it and its children."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait()

    def stop(self) -> None:
        """Stop it and its children, as SIGSTOP does."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Resume it and its children."""
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
        directory.chmod(0o777)  # root's distccd becomes another user
        self._log = directory / "log"
        self._log.touch()
        self._log.chmod(0o666)
        slow_compiler(directory / "bin", COMPILE_S / self.power_index)
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
        """Start the programs that do not run."""
        if not self.distccd.runs:
            self.distccd.start()
            self.kill_loadavg()  # it watches the distccd that has ended
        self.start_loadavg()

    def start_loadavg(self) -> None:
        """Start loadavg, unless it runs."""
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
        """Kill loadavg."""
        if self.loadavg is not None:
            self.loadavg.kill()

    def kill(self) -> None:
        """Kill all its programs."""
        self.distccd.kill()
        self.kill_loadavg()


def slow_compiler(directory: Path, takes_s: float) -> None:
    """Make a gcc that takes at least `takes_s`, so that faults happen during a compile."""
    directory.mkdir()
    for name in ("gcc", f"{os.uname().machine}-linux-gnu-gcc"):
        gcc = directory / name
        gcc.write_text(
            f'#!/bin/sh\ncase " $* " in *" -E "*) ;; *) sleep {takes_s} ;; esac\n'
            f'exec {shutil.which("gcc")} "$@"\n'
        )
        gcc.chmod(0o755)
