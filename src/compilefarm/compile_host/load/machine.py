"""Reads a machine's CPU use, load averages, memory, pressure and processes from /proc.

The directory may be another one that looks like /proc: tests and emulated hosts use that. The files
are read directly and not through psutil, because this runs twice a second on someone's desktop.
psutil takes eight times as long per process, 128 µs instead of 16. On a system without /proc,
other_unix.py reads the same facts through psutil. The modules above do not notice the difference.

A missing or garbled file raises `Unreadable`, never anything else. This module must not know what
follows from that, nor which processes matter.
"""

from __future__ import annotations

import math
import os
from io import FileIO
from pathlib import Path
from typing import Protocol

from compilefarm.compile_host.processes import Process, ProcessSource, Unreadable
from compilefarm.programs.cpus import available_cpus
from compilefarm.programs.error_text import error_text

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


class Machine(ProcessSource, Protocol):
    """A machine whose state can be read; every method raises `Unreadable`."""

    def busy_cpu_s(self) -> dict[str, float]:
        """Return the busy seconds since boot of each CPU that this process may use, by name."""

    def cpus(self, counted: int) -> tuple[int, int]:
        """Return the number of CPUs that this process may use, and of all CPUs.

        `counted` is the number of CPUs in the result of `busy_cpu_s`.
        """

    def load_averages(self) -> tuple[float, float, float]:
        """Return the load averages over 1, 5 and 15 minutes."""

    def memory_mb(self) -> tuple[float, float]:
        """Return the memory that a program can get without swapping, and all memory, in MiB."""

    def cpu_stalled_s(self) -> float | None:
        """Return the seconds since boot in which some task waited for a CPU; None if unknown."""


def this_machine(procfs: Path | None = None) -> Machine:
    """Return the machine in the directory `procfs`, by default the one this runs on."""
    if procfs is not None or Path("/proc/stat").exists():
        return ProcMachine(procfs)
    from compilefarm.compile_host.load.other_unix import OtherUnix

    return OtherUnix()


class ProcMachine:
    """A machine read from a directory with the files of Linux's /proc."""

    def __init__(self, procfs: Path | None = None) -> None:
        self._real = procfs is None
        self._directory = str(procfs or "/proc")

    def pids(self) -> list[int]:
        """Return the ids of all processes."""
        try:
            with os.scandir(self._directory) as entries:
                return [int(entry.name) for entry in entries if entry.name.isdecimal()]
        except OSError as error:
            raise Unreadable(f"{self._directory}: {error_text(error)}") from None

    def process(self, pid: int) -> Process | None:
        """Return one process, or None if it does not exist."""
        try:
            with FileIO(f"{self._directory}/{pid}/stat") as file:
                # The command's name may contain any character, even a closing parenthesis.
                fields = file.read().rpartition(b")")[2].split()
            return Process(
                pid=pid,
                parent=int(fields[1]),
                session=int(fields[3]),
                state=fields[0].decode("ascii"),
                started_s=int(fields[19]) / _TICKS_PER_S,
                own_cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
                waited_cpu_s=(int(fields[13]) + int(fields[14])) / _TICKS_PER_S,
                resident_mb=int(fields[21]) * _PAGE_MB if len(fields) > 21 else 0.0,
            )
        except OSError:
            return None  # it ended before the file was opened or read
        except (ValueError, IndexError):
            raise Unreadable(f"{self._directory}/{pid}/stat has an unknown format") from None

    def busy_cpu_s(self) -> dict[str, float]:
        """Return the busy seconds since boot of each CPU that this process may use, by name.

        Waiting for I/O counts as idle, because the CPU is available. Time stolen by a hypervisor
        counts as busy, because the CPU is not.
        """
        busy_s = {}
        open_cpus = {f"cpu{number}" for number in os.sched_getaffinity(0)} if self._real else None
        for line in self._read("stat").splitlines():
            name, *fields = line.split()[:9] or [""]
            if not name.startswith("cpu") or name == "cpu":
                continue
            if open_cpus is not None and name not in open_cpus:
                continue
            try:
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
            except ValueError:
                raise Unreadable(f"{self._directory}/stat: the line of {name} is garbled") from None
            ticks = user + nice + system + irq + softirq + steal
            busy_s[name] = ticks / _TICKS_PER_S
        if not busy_s:
            raise Unreadable(f"{self._directory}/stat has no line for a CPU")
        return busy_s

    def cpus(self, counted: int) -> tuple[int, int]:
        """Return the number of CPUs that this process may use, and of all CPUs."""
        # The limits of this process say nothing about another machine.
        if not self._real:
            return counted, counted
        return min(counted, available_cpus()), max(counted, os.cpu_count() or 1)

    def load_averages(self) -> tuple[float, float, float]:
        """Return the load averages over 1, 5 and 15 minutes."""
        try:
            one, five, fifteen = map(float, self._read("loadavg").split()[:3])
        except ValueError:
            raise Unreadable(f"{self._directory}/loadavg does not have three numbers") from None
        if not all(0 <= load < math.inf for load in (one, five, fifteen)):
            raise Unreadable(f"{self._directory}/loadavg has a number that is not a load")
        return one, five, fifteen

    def memory_mb(self) -> tuple[float, float]:
        """Return the memory that a program can get without swapping, and all memory, in MiB."""
        sizes_kb = {}
        for line in self._read("meminfo").splitlines():
            name, _, size = line.partition(":")
            if name in ("MemAvailable", "MemTotal"):
                number = size.removesuffix("kB").strip()
                if number.isascii() and number.isdecimal():
                    sizes_kb[name] = int(number)
        try:
            return sizes_kb["MemAvailable"] / 1024, sizes_kb["MemTotal"] / 1024
        except KeyError as missing:
            name = missing.args[0]
            raise Unreadable(f"{self._directory}/meminfo has no size for {name}") from None

    def cpu_stalled_s(self) -> float | None:
        """Return the seconds since boot in which some task waited for a CPU; None if unknown.

        The kernel's averages were rejected: even the shortest still shows a stall 10 s later.
        """
        try:
            text = self._read("pressure/cpu")
        except Unreadable:
            return None  # the kernel is built without pressure, which is no error
        try:
            words = next(line for line in text.splitlines() if line.startswith("some ")).split()
            total_us = dict(word.split("=") for word in words[1:])["total"]
        except (ValueError, KeyError, StopIteration):
            total_us = ""
        if not (total_us.isascii() and total_us.isdecimal() and len(total_us) < 20):
            raise Unreadable(
                f"{self._directory}/pressure/cpu has no 'some … total=' with a whole number"
            )
        return int(total_us) / 1e6

    def _read(self, name: str) -> str:
        try:
            with FileIO(f"{self._directory}/{name}") as file:
                return file.read().decode("ascii", errors="replace")
        except OSError as error:
            raise Unreadable(f"{self._directory}/{name}: {error_text(error)}") from None
