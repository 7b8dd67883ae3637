"""The readings of machine.py on a Unix without /proc, by psutil.

The interface is the same, and so is the accounting above it. But some systems report less: macOS
does not keep the CPU time of children that were waited for. There, short compilers count as foreign
load, which errs on the side of "too busy".
"""

from __future__ import annotations

import os

import psutil

from compilefarm.compile_host.processes import Process, Unreadable
from compilefarm.programs.cpus import available_cpus

_STATES = {psutil.STATUS_ZOMBIE: "Z", psutil.STATUS_DEAD: "X", psutil.STATUS_STOPPED: "T"}
_STATES |= {psutil.STATUS_RUNNING: "R", psutil.STATUS_DISK_SLEEP: "D"}


class OtherUnix:
    """A machine read through psutil."""

    def pids(self) -> list[int]:
        """Return the ids of all processes."""
        return psutil.pids()

    def process(self, pid: int) -> Process | None:
        """Return one process, or None if it does not exist or may not be read."""
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                cpu = process.cpu_times()
                return Process(
                    pid=pid,
                    parent=process.ppid(),
                    session=os.getsid(pid),
                    state=_STATES.get(process.status(), "S"),
                    started_s=process.create_time(),
                    own_cpu_s=cpu.user + cpu.system,
                    waited_cpu_s=cpu.children_user + cpu.children_system,
                    resident_mb=process.memory_info().rss / 2**20,
                )
        except (psutil.Error, OSError):
            return None

    def busy_cpu_s(self) -> dict[str, float]:
        """Return the busy seconds since boot of each CPU, by name."""
        try:
            cpus = psutil.cpu_times(percpu=True)
        except (psutil.Error, OSError, RuntimeError) as error:
            raise Unreadable(f"CPU times: {error}") from None
        waiting = ("idle", "iowait", "guest", "guest_nice")  # guests are in user and nice already
        return {
            f"cpu{number}": sum(s for name, s in times._asdict().items() if name not in waiting)
            for number, times in enumerate(cpus)
        }

    def cpus(self, counted: int) -> tuple[int, int]:
        """Return the number of CPUs that this process may use, and of all CPUs."""
        return min(counted, available_cpus()), counted

    def load_averages(self) -> tuple[float, float, float]:
        """Return the load averages over 1, 5 and 15 minutes."""
        try:
            return os.getloadavg()
        except OSError as error:
            raise Unreadable(f"load averages: {error}") from None

    def memory_mb(self) -> tuple[float, float]:
        """Return the memory that a program can get without swapping, and all memory, in MiB."""
        try:
            memory = psutil.virtual_memory()
        except (psutil.Error, OSError, RuntimeError) as error:
            raise Unreadable(f"memory: {error}") from None
        return memory.available / 2**20, memory.total / 2**20

    def cpu_stalled_s(self) -> float | None:
        """Return None: no other system reports it."""
        return None
