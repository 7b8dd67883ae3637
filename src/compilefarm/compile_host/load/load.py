"""The load report: how busy a machine is, and how much of that is the farm's own work.

CPU use comes from /proc/stat and from the CPU time of distccd's process tree (processes.py). They
are read together, so they cover the same window, and the difference is foreign. Load averages
cannot be split this way: they lag, and they count tasks and not CPU time. So `own1`, `own5` and
`own15` follow the kernel's rule for the farm's tasks alone. The number of tasks that run or want to
run is damped with the kernel's constants. Using the CPU use in place of that number was rejected.
Eight compilers on two CPUs are a load of eight but use two CPUs, so six foreign tasks would be
reported.

If a source of load cannot be read, the machine counts as busy: "nothing there" and "nothing known"
must not look alike. Then all CPUs are foreign. This module must not know where a report goes, nor
when.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Literal, TypeVar

from compilefarm.compile_host.load.machine import Machine
from compilefarm.compile_host.processes import ProcessTree, Tree, Unreadable, compiles, cpu_used_s

_DAMPING_S = (60.0, 300.0, 900.0)

_T = TypeVar("_T")
Distccd = Literal["running", "stopped", "gone", ""]


@dataclass(frozen=True, slots=True)
class Report:
    """The content of a report; its fields are the keys of docs/protocol.md."""

    cpus: int | None
    load1: float
    load5: float
    load15: float
    own1: float
    own5: float
    own15: float
    own_cpus: float
    foreign_cpus: float
    memory_free_mb: int | None
    memory_total_mb: int | None
    compiles: int | None
    compile_memory_mb: float | None
    cpu_pressure: float | None
    distccd: Distccd

    def words(self) -> dict[str, object]:
        """Return the report as words of a message."""
        words: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            words[field.name] = round(value, 3) if isinstance(value, float) else value
        return words

    def news_since(self, last: Report) -> bool:
        """Return whether this differs enough from the `last` report to be sent at once.

        It does if the state of distccd or the number of CPUs has changed. It does if free memory
        has changed by more than a tenth of all memory. It does if the foreign CPUs have changed by
        more than a quarter of a CPU, and more than a tenth of all CPUs. A smaller change is noise,
        and would not change a scheduler's decision. Pressure waits for the next regular report,
        because each compile that begins raises it.
        """
        if (self.cpus, self.distccd) != (last.cpus, last.distccd):
            return True
        if abs(self.foreign_cpus - last.foreign_cpus) > max(0.25, 0.1 * (self.cpus or 1)):
            return True
        if self.memory_free_mb is None or last.memory_free_mb is None:
            return self.memory_free_mb is not last.memory_free_mb
        moved_mb = abs(self.memory_free_mb - last.memory_free_mb)
        return moved_mb > 0.1 * (self.memory_total_mb or 0)


class Meter:
    """Takes readings of a machine and turns them into reports.

    `tree` is distccd's; None if no distccd is known. `expected_cpus` is used if the CPUs cannot be
    counted. `complain` gets a line at each reading for each source that cannot be read.
    """

    def __init__(
        self,
        machine: Machine,
        tree: ProcessTree | None,
        *,
        expected_cpus: int,
        complain: Callable[[str], None],
    ) -> None:
        self._machine = machine
        self._tree = tree
        self._expected_cpus = expected_cpus
        self._complain = complain
        self._cpus: int | None = None
        self._damped = [0.0, 0.0, 0.0]
        self._at_s: float | None = None
        self._busy_s: Mapping[str, float] | None = None
        self._stalled_s: float | None = None
        self._members: Tree = {}
        self.begin_window()

    def begin_window(self) -> None:
        """Begin a new window at the last reading."""
        self._window_s = self._window_own_s = self._window_foreign_s = self._window_stalled_s = 0.0

    def read(self, now_s: float) -> Report:
        """Take a reading, and return the report on the window until now.

        `now_s` is any monotonic clock. The first reading has no window yet, so its CPU use is 0.
        """
        passed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        self._at_s = now_s
        members = self._or_complain(self._tree.read, self._members) if self._tree else {}
        own_s = cpu_used_s(self._members, members) if passed_s else 0.0
        self._members = members
        foreign_s, share = self._foreign(own_s, passed_s)
        self._window_s += passed_s
        self._window_own_s += own_s
        self._window_foreign_s += foreign_s
        pressure = self._pressure(passed_s)
        own = self._damp(passed_s)
        nothing_known = (own[0] + self._all_cpus, own[1] + self._all_cpus, own[2] + self._all_cpus)
        loads = self._or_complain(self._machine.load_averages, nothing_known)
        load1, load5, load15 = (
            o + max(0.0, load - o) * share for o, load in zip(own, loads, strict=True)
        )
        memory_mb = self._or_complain(self._machine.memory_mb, None)
        window_s = self._window_s or 1.0
        return Report(
            cpus=self._cpus,
            load1=load1,
            load5=load5,
            load15=load15,
            own1=min(own[0], load1),
            own5=min(own[1], load5),
            own15=min(own[2], load15),
            own_cpus=self._window_own_s / window_s,
            foreign_cpus=self._window_foreign_s / window_s,
            memory_free_mb=int(memory_mb[0]) if memory_mb else None,
            memory_total_mb=int(memory_mb[1]) if memory_mb else None,
            compiles=compiles(members, self._tree.root_pid) if self._tree else None,
            compile_memory_mb=self._compile_memory_mb(),
            cpu_pressure=pressure,
            distccd=self._distccd(),
        )

    @property
    def _all_cpus(self) -> int:
        return self._cpus or self._expected_cpus

    def _foreign(self, own_s: float, passed_s: float) -> tuple[float, float]:
        """Return the foreign CPU seconds in `passed_s`, and our share of the machine's CPUs."""
        before, self._busy_s = self._busy_s, self._or_complain(self._machine.busy_cpu_s, None)
        if self._busy_s is None:
            return self._all_cpus * passed_s, 1.0
        usable, all_cpus = self._machine.cpus(len(self._busy_s))
        self._cpus = usable
        if before is None:
            # There is no reading to compare with: this is the first one, or the first that works.
            return (usable * passed_s, usable / all_cpus)
        # A CPU that was added since the last reading counts from the next one on.
        busy_s = sum(
            min(passed_s, max(0.0, now_s - before.get(cpu, now_s)))
            for cpu, now_s in self._busy_s.items()
        )
        # With a quota below the number of CPUs, others take nothing from us until they use all CPUs
        # outside our quota.
        not_ours_s = (len(self._busy_s) - usable) * passed_s
        return max(0.0, busy_s - own_s - not_ours_s), usable / all_cpus

    def _pressure(self, passed_s: float) -> float | None:
        """Return the share of the window in which some task waited for a CPU; None if unknown."""
        before, self._stalled_s = (
            self._stalled_s,
            self._or_complain(self._machine.cpu_stalled_s, None),
        )
        if self._stalled_s is None:
            return None
        if before is not None:
            self._window_stalled_s += min(passed_s, max(0.0, self._stalled_s - before))
        return self._window_stalled_s / (self._window_s or 1.0)

    def _damp(self, passed_s: float) -> tuple[float, float, float]:
        wanting = sum(process.state in "RD" for process in self._members.values())
        self._damped = [
            wanting + (load - wanting) * math.exp(-passed_s / damping_s)
            for load, damping_s in zip(self._damped, _DAMPING_S, strict=True)
        ]
        return self._damped[0], self._damped[1], self._damped[2]

    def _compile_memory_mb(self) -> float | None:
        """Return the memory of the largest compile that runs now, in MiB; None if none runs."""
        root = self._tree.root_pid if self._tree else 0
        held = [each.resident_mb for pid, each in self._members.items() if pid != root]
        return max(held, default=0.0) or None

    def _distccd(self) -> Distccd:
        if self._tree is None:
            return ""
        if self._tree.root() is None:
            return "gone"
        # Compiles may be stopped because the owner is present. distccd and its workers must run.
        stopped = any(
            process.stopped
            for process in self._members.values()
            if self._tree.root_pid in (process.pid, process.parent)
        )
        return "stopped" if stopped else "running"

    def _or_complain(self, read: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return read()
        except Unreadable as error:
            self._complain(str(error))
            return otherwise
