"""The record of a farm's leases: one CSV row for each lease that ends.

The first columns are those of a trace, so that simulate-farm can simulate a recorded day. The
others say where and when each compile ran, for a picture. Columns that host-server cannot know
(sizes) stay empty. When a later server continues a record, its times continue too. Otherwise
compiles that ran at different times would look as if they had run at once.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TextIO

from compilefarm.core.model import Ending, Lease, Outcome

LAST_ROWS_BYTES = 65_536
END_OF_ROW = b"\r\n"  # as csv has it

COLUMNS = (
    "source",
    "preprocess_s",
    "compile_s",
    "wall_s",
    "preprocessed_bytes",
    "object_bytes",
    "user",
    "builder",
    "dir",
    "host",
    "slot",
    "arrived_s",
    "granted_s",
    "ended_s",
    "exit",
    "ending",
)


class Recorder:
    """Writes leases to a text file opened with `newline=""`; times count from `started`."""

    def __init__(self, file: TextIO, started: float) -> None:
        self._file = file
        self._writer = csv.writer(file)
        self._started = started
        if file.tell() == 0:
            self._writer.writerow(COLUMNS)
            file.flush()

    def _since(self, time_s: float) -> str:
        """Return a time for a row; 0 for a lease that another server granted before we started."""
        return f"{max(0.0, time_s - self._started):.4f}"

    def write(self, lease: Lease, outcome: Outcome, ended: float) -> None:
        """Write one lease's row, and flush; raises OSError where the disk is full.

        `compile_s` is the remote part, scaled to a machine of power index 1. It is the wall time
        without the builder's own CPU time, which is preprocessing, times the host's power index. A
        client's wall time counts up to the lease's own time, because its clock may have jumped.
        """
        request, host = lease.request, lease.host
        preprocess_s = outcome.cpu_s or 0.0
        wall_s = leased_s = ended - lease.granted
        if outcome.wall_s is not None:
            wall_s = min(outcome.wall_s, leased_s)
        compile_s = max(0.0, wall_s - preprocess_s) * host.power_index
        self._writer.writerow(
            (
                request.source,
                f"{preprocess_s:.4f}",
                f"{compile_s:.4f}",
                f"{wall_s:.4f}",
                "",
                "",
                request.user,
                request.builder,
                request.directory,
                host.name,
                lease.slot,
                self._since(request.arrived),
                self._since(lease.granted),
                self._since(ended),
                "" if outcome.exit is None else outcome.exit,
                _ending(lease, outcome),
            )
        )
        self._file.flush()


def mend(path: Path) -> None:
    """Cut off an incomplete last row, left by a full disk; raises OSError.

    Otherwise the next row would continue it, and the record could not be simulated.
    """
    if not path.is_file():
        return
    with path.open("rb+") as file:
        begins = max(0, path.stat().st_size - LAST_ROWS_BYTES)
        file.seek(begins)
        rows, end, rest = file.read().rpartition(END_OF_ROW)
        if end and rest:
            file.truncate(begins + len(rows) + len(end))


def recorded_until_s(path: Path) -> float:
    """Return when the last compile of a record ended, 0 without one; raises OSError."""
    if not path.is_file():
        return 0.0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LAST_ROWS_BYTES))
        rows = list(csv.reader(file.read().decode(errors="replace").splitlines()))
    ends = [row[COLUMNS.index("ended_s")] for row in rows if len(row) == len(COLUMNS)]
    try:
        return float(ends[-1]) if ends else 0.0
    except ValueError:  # the header, or another program's line
        return 0.0


def _ending(lease: Lease, outcome: Outcome) -> str:
    if outcome.failed:
        return "failed"
    if outcome.exit is not None:
        return "done"
    if lease.is_backup or outcome.ending is Ending.OVERTAKEN:
        return "dropped"  # another attempt at the same compile went on
    return "revoked" if outcome.reason else "gone"
