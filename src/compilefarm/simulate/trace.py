"""Traces and load files: recorded builds and recorded owners, as the simulator reads them.

A trace is a CSV file with one row per source file, in the order in which make asked for them;
`compile_s` is the time that the file takes on a machine of power index 1. A record of host-server
(--record) is a trace with more columns. This module turns text into rows, and its errors name
file, line and column. It opens nothing.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from compilefarm.protocol.hosts_info import POWER_INDEX_LIMIT

# No compile takes longer than a day: a clock jumped.
LONGEST_S = 86_400.0
# In a record, the cost of a compile is its time multiplied by the power index of its host.
LONGEST_RECORDED_S = LONGEST_S * POWER_INDEX_LIMIT
SHORTEST_S = 1e-4  # in place of 0: a record has four decimals
LEAST_S = 1e-6  # with lower costs, ratios of times mean nothing

# `float` also accepts 1_000, and the digits of all scripts.
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")
# Spreadsheets put this before the text of a file.
_BYTE_ORDER_MARK = "\ufeff"


class TraceError(ValueError):
    """A file has an error; the text is `FILE:LINE: column NAME: reason`."""


@dataclass(frozen=True, slots=True)
class TracedFile:
    """One source file: its name, and its cost in seconds at power index 1."""

    source: str
    cost_s: float


@dataclass(frozen=True, slots=True)
class TracedLease(TracedFile):
    """One lease of a record: its user, its directory, and its times in seconds."""

    user: str
    directory: str
    arrived_s: float
    granted_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class ForeignLoad:
    """From `at_s` on, the owner of a host uses this number of its CPUs."""

    at_s: float
    host: str
    foreign_cpus: float


def parse_trace(text: str, file: str) -> list[TracedFile]:
    """Return the files of a trace in its order; of a record, only those whose compile was done.

    Raises `TraceError` if there are none, a column is missing, or a cost is no number above 0.
    """
    rows = [
        TracedFile(row.reported("source"), row.cost_s())
        for row in _rows(text, file, ("source", "compile_s"))
        if row.is_done()
    ]
    if not rows:
        raise TraceError(f"{file}:1: the trace has no files")
    return rows


def parse_record(text: str, file: str) -> list[TracedLease]:
    """Return the leases of a record whose compile was done, in the order of arrival.

    Raises `TraceError` as `parse_trace` does.
    """
    columns = ("source", "compile_s", "user", "dir", "arrived_s", "granted_s", "ended_s")
    leases = [
        TracedLease(
            row.reported("source"),
            row.cost_s(),
            row.text("user"),
            row.reported("dir"),
            row.number("arrived_s"),
            row.number("granted_s"),
            row.number("ended_s"),
        )
        for row in _rows(text, file, columns)
        if row.is_done()
    ]
    if not leases:
        raise TraceError(f"{file}:1: the record has no finished compile")
    return sorted(leases, key=lambda lease: lease.arrived_s)


def parse_load(text: str, file: str, hosts: Collection[str]) -> list[ForeignLoad]:
    """Return the changes of a load file (`time_s,host,foreign_cpus`), in the order of time.

    `hosts` are those of the farm. Raises `TraceError` as `parse_trace` does, and for other hosts.
    """
    changes = [
        ForeignLoad(row.number("time_s"), row.one_of("host", hosts), row.number("foreign_cpus"))
        for row in _rows(text, file, ("time_s", "host", "foreign_cpus"))
    ]
    return sorted(changes, key=lambda change: change.at_s)


@dataclass(frozen=True, slots=True)
class _Row:
    where: str
    values: dict[str, str]

    @property
    def _recorded(self) -> bool:
        return "ending" in self.values

    def reported(self, column: str) -> str:
        """Return a text that in a record comes from a client, which may leave it out."""
        return self.values[column] if self._recorded else self.text(column)

    def text(self, column: str) -> str:
        value = self.values[column]
        if not value:
            raise TraceError(f"{self.where}: column {column}: is empty")
        return value

    def one_of(self, column: str, known: Collection[str]) -> str:
        value = self.text(column)
        if value not in known:
            raise TraceError(f"{self.where}: column {column}: {value[:40]} is not in the farm")
        return value

    def number(self, column: str, above: float | None = None) -> float:
        value = self.values[column]
        number = float(value) if _NUMBER.match(value) else math.nan
        if not math.isfinite(number):
            raise TraceError(f"{self.where}: column {column}: {value[:40]!r} is not a number")
        if number < 0 or (above is not None and number <= above):
            least = "0 or more" if above is None else f"above {above:g}"
            raise TraceError(f"{self.where}: column {column}: {value[:40]} is not {least}")
        return number

    def cost_s(self) -> float:
        if self._recorded and self.number("compile_s") == 0.0:
            return SHORTEST_S
        cost_s = self.number("compile_s", above=0.0)
        error = ""
        if cost_s > (LONGEST_RECORDED_S if self._recorded else LONGEST_S):
            error = "over a day"
        elif cost_s < LEAST_S:
            error = "below a microsecond"
        if error:
            value = self.values["compile_s"]
            raise TraceError(f"{self.where}: column compile_s: {value[:40]} is {error}")
        return cost_s

    def is_done(self) -> bool:
        return self.values.get("ending", "done") == "done"


def _rows(text: str, file: str, columns: tuple[str, ...]) -> Iterator[_Row]:
    # Not splitlines(): it ends a line at a form feed, which a name may contain.
    lines = io.StringIO(text.removeprefix(_BYTE_ORDER_MARK), newline="")
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, None)
        if not header or not any(header):
            raise TraceError(f"{file}:1: the file is empty")
        for column in columns:
            if column not in header:
                raise TraceError(f"{file}:1: column {column}: is missing")
            if header.count(column) > 1:
                raise TraceError(f"{file}:1: column {column}: comes twice")
        for values in reader:
            if not values:
                continue
            where = f"{file}:{reader.line_num}"
            if len(values) != len(header):
                raise TraceError(f"{where}: {len(values)} columns where {len(header)} are named")
            yield _Row(where, dict(zip(header, (value.strip() for value in values), strict=True)))
    except csv.Error as error:
        raise TraceError(f"{file}:{reader.line_num}: {error}") from None
