"""A directory like /proc, for a machine that a test makes up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ProcDirectory:
    """A directory like /proc whose numbers a test sets; times are in ticks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cpus([0, 0])
        self.write("loadavg", "0.00 0.00 0.00 1/100 1000\n")
        self.write("meminfo", "MemTotal: 2048000 kB\nMemFree: 1 kB\nMemAvailable: 1024000 kB\n")
        self.stalled(0.0)

    def write(self, name: str, text: str | bytes) -> None:
        """Write one file; a reader sees the old text or the new one."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        new = self.path / ".new"
        new.write_bytes(text if isinstance(text, bytes) else text.encode())
        new.rename(file)

    def stalled(self, stalled_s: float) -> None:
        """Set the time since boot during which some task waited for a CPU."""
        figures = f"avg10=99.00 avg60=99.00 avg300=99.00 total={int(1e6 * stalled_s)}"
        self.write("pressure/cpu", f"some {figures}\nfull {figures}\n")

    def remove(self, name: str) -> None:
        """Remove one file."""
        (self.path / name).unlink()

    def cpus(self, busy: Sequence[int]) -> None:
        """Set the number of ticks that each CPU has been busy."""
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
        """Remove a process whose parent has waited for it."""
        self.remove(f"{pid}/stat")
        (self.path / str(pid)).rmdir()
