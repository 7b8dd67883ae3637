"""The state file: what survives a restart, in one SQLite file under --state-dir.

It holds the times of compiles, the memory that compiles need and the learned speeds of hosts. It
also holds which hosts are available or were removed by hand. `core/learning` works everything else
out again from the times.

Learning is worth a lot, and a lease is worth more. So a fault of the disk loses learning, with a
message, and never stops the server. A damaged file, another program's, or one of a newer version is
set aside under another name, and a new one is begun. A row that makes no sense is ignored. Only
faults that an administrator must put right keep the server from starting: for example, a directory
without permission to write.

SQLite, because a half-written file after a power cut is its problem, which it has solved.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from compilefarm.core.learning.host_speeds import SavedSpeed

FILE_NAME = "state.sqlite3"

# Each step makes the next version of the file; the first makes version 1 from an empty file.
_STEPS = (
    """
    CREATE TABLE compile (
        directory TEXT NOT NULL,
        source TEXT NOT NULL,
        host TEXT NOT NULL,
        took_s REAL NOT NULL,
        at REAL NOT NULL  -- seconds since the epoch
    );
    CREATE INDEX compile_file ON compile (directory, source);
    """,
    """
    -- of the host: 0 with at most half of its slots in use, 1 with all
    ALTER TABLE compile ADD COLUMN crowding REAL NOT NULL DEFAULT 0;
    """,
    """
    CREATE TABLE host (
        name TEXT PRIMARY KEY,
        declaration TEXT NOT NULL,  -- JSON
        address TEXT NOT NULL,
        available INTEGER NOT NULL,
        reported INTEGER NOT NULL
    );
    """,
    """
    CREATE TABLE memory (
        directory TEXT PRIMARY KEY,
        compile_mb REAL NOT NULL  -- for one compile
    );
    """,
    """
    -- as learned; logarithms are natural
    CREATE TABLE speed (
        host TEXT PRIMARY KEY,
        log_declared REAL NOT NULL,
        log_speed REAL NOT NULL,
        variance REAL NOT NULL,
        crowding_cost REAL NOT NULL,
        measured_at REAL NOT NULL  -- seconds since the epoch
    );
    """,
)
VERSION = len(_STEPS)

# A file of our version has these tables and columns. A file without them is another program's.
_TABLES = (
    "SELECT directory, source, host, took_s, at, crowding FROM compile LIMIT 0",
    "SELECT name, declaration, address, available, reported FROM host LIMIT 0",
    "SELECT directory, compile_mb FROM memory LIMIT 0",
    "SELECT host, log_declared, log_speed, variance, crowding_cost, measured_at FROM speed LIMIT 0",
)
# SQLite lets a column hold a value of any type. A time beyond the limit is damage.
_MAKES_SENSE = """
    typeof(directory) = 'text' AND typeof(source) = 'text' AND typeof(host) = 'text'
    AND typeof(took_s) = 'real' AND typeof(at) = 'real' AND abs(at) < 1e12
    AND typeof(crowding) = 'real' AND crowding BETWEEN 0 AND 1
"""
# A speed is between e^-12 and e^12: 1 / 160,000 and 160,000. Beyond is damage.
_SPEED_MAKES_SENSE = """
    typeof(host) = 'text' AND typeof(log_declared) = 'real' AND abs(log_declared) < 12
    AND typeof(log_speed) = 'real' AND abs(log_speed) < 12
    AND typeof(variance) = 'real' AND variance BETWEEN 0 AND 100
    AND typeof(crowding_cost) = 'real' AND crowding_cost BETWEEN 0 AND 2
    AND typeof(measured_at) = 'real' AND abs(measured_at) < 1e12
"""


class StateFileError(Exception):
    """The state cannot be saved or read; the text says what, where and what to do."""


class DiskError(StateFileError):
    """The state cannot be saved now, because the disk is full or fails; a later try may succeed."""


@dataclass(frozen=True, slots=True)
class SavedCompile:
    """One compile: its time `took_s`, and when it ended, in seconds since the epoch."""

    directory: str
    source: str
    host: str
    took_s: float
    at: float
    crowding: float = 0.0


@dataclass(frozen=True, slots=True)
class SavedHost:
    """A host's availability; `declaration` is JSON, the rest is as in `model.Availability`."""

    name: str
    declaration: str
    address: str
    available: bool
    reported: bool


class StateFile:
    """The open state file; each method raises `StateFileError` when the disk fails.

    `is_new` says that there was no file before. `set_aside` is a message about a file that could
    not be used and was set aside, else None.
    """

    def __init__(self, directory: Path) -> None:
        """Open the state in a directory; make the directory and the file if needed."""
        self.path = directory / FILE_NAME
        self.set_aside: str | None = None
        self.is_new = False
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            kind = DiskError if error.errno in (errno.ENOSPC, errno.EIO) else StateFileError
            raise kind(f"cannot make {directory}: {error.strerror}; see --state-dir") from None
        try:
            self._open()
        except _UnusableError as error:
            self.close()
            self._set_aside(str(error))
            self._open()
        except StateFileError:
            self.close()
            raise

    def compiles(self, per_file: int) -> list[SavedCompile]:
        """Return the latest `per_file` compiles of each file, all of them oldest first."""
        # The latest ones are those written last, whatever their time. The clock may have been
        # ahead for a day: by time, that day's compiles would stay, and new ones would be lost.
        query = f"""
            SELECT directory, source, host, took_s, at, crowding FROM (
                SELECT *, rowid AS number, row_number() OVER (
                    PARTITION BY directory, source ORDER BY rowid DESC) AS place
                FROM compile WHERE {_MAKES_SENSE})
            WHERE place <= ? ORDER BY at, number
        """
        try:
            return [SavedCompile(*row) for row in self._database.execute(query, (per_file,))]
        except sqlite3.Error as error:
            raise StateFileError(f"cannot read {self.path}: {error}") from None

    def memory_mb(self) -> dict[str, float]:
        """Return the memory that one compile needs, by directory."""
        query = """
            SELECT directory, compile_mb FROM memory
            WHERE typeof(directory) = 'text' AND typeof(compile_mb) = 'real'
        """
        try:
            return dict(self._database.execute(query).fetchall())
        except sqlite3.Error as error:
            raise StateFileError(f"cannot read {self.path}: {error}") from None

    def speeds(self) -> list[SavedSpeed]:
        """Return the saved speeds of hosts, measured in seconds since the epoch."""
        query = f"""
            SELECT host, log_declared, log_speed, variance, crowding_cost, measured_at
            FROM speed WHERE {_SPEED_MAKES_SENSE}
        """
        try:
            return [SavedSpeed(*row) for row in self._database.execute(query)]
        except sqlite3.Error as error:
            raise StateFileError(f"cannot read {self.path}: {error}") from None

    def save_learning(
        self,
        compiles: Iterable[SavedCompile],
        forgotten: Collection[tuple[str, str]],
        memory_mb: Mapping[str, float],
        speeds: Iterable[SavedSpeed],
        per_file: int,
    ) -> None:
        """Save what is new; drop older compiles of these files, and forgotten files.

        A file is a directory and a source. `per_file` compiles of each file stay.
        """
        compiles = list(compiles)
        files = {(each.directory, each.source) for each in compiles}
        try:
            with self._database:
                self._database.executemany(
                    "INSERT INTO compile VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        (
                            each.directory,
                            each.source,
                            each.host,
                            each.took_s,
                            each.at,
                            each.crowding,
                        )
                        for each in compiles
                    ),
                )
                self._database.executemany(
                    "DELETE FROM compile WHERE rowid IN (SELECT rowid FROM compile WHERE"
                    " directory = ? AND source = ? ORDER BY rowid DESC LIMIT -1 OFFSET ?)",
                    ((*file, per_file) for file in files),
                )
                self._database.executemany(
                    "DELETE FROM compile WHERE directory = ? AND source = ?", forgotten
                )
                self._database.executemany(
                    "INSERT OR REPLACE INTO memory VALUES (?, ?)", memory_mb.items()
                )
                self._database.executemany(
                    "INSERT OR REPLACE INTO speed VALUES (?, ?, ?, ?, ?, ?)", speeds
                )
                if forgotten:
                    self._database.execute(
                        "DELETE FROM memory WHERE directory NOT IN (SELECT directory FROM compile)"
                    )
        except sqlite3.Error as error:
            raise StateFileError(f"cannot write {self.path}: {error}") from None

    def hosts(self) -> list[SavedHost]:
        """Return the saved availability of hosts."""
        query = "SELECT name, declaration, address, available, reported FROM host ORDER BY name"
        try:
            rows = self._database.execute(query).fetchall()
        except sqlite3.Error as error:
            raise StateFileError(f"cannot read {self.path}: {error}") from None
        return [
            SavedHost(name, declaration, address, bool(available), bool(reported))
            for name, declaration, address, available, reported in rows
        ]

    def save_hosts(self, hosts: Iterable[SavedHost], forgotten: Iterable[str]) -> None:
        """Save hosts' availability, and delete what is saved about the `forgotten` ones."""
        try:
            with self._database:
                self._database.executemany(
                    "INSERT OR REPLACE INTO host VALUES (?, ?, ?, ?, ?)",
                    (
                        (each.name, each.declaration, each.address, each.available, each.reported)
                        for each in hosts
                    ),
                )
                self._database.executemany(
                    "DELETE FROM host WHERE name = ?", ((name,) for name in forgotten)
                )
        except sqlite3.Error as error:
            raise StateFileError(f"cannot write {self.path}: {error}") from None

    def close(self) -> None:
        """Close the file, if it was opened."""
        if hasattr(self, "_database"):
            self._database.close()

    def _open(self) -> None:
        if self.path.is_dir():
            raise _UnusableError("it is a directory")
        try:
            self._database = sqlite3.connect(
                self.path, timeout=1.0, check_same_thread=False, isolation_level="IMMEDIATE"
            )
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            self.is_new = version == 0
            if 0 <= version < VERSION:
                self._database.executescript(
                    f"BEGIN; {''.join(_STEPS[version:])} PRAGMA user_version = {VERSION}; COMMIT;"
                )
            elif version < 0:
                raise _UnusableError("it is not one of ours")
            elif version > VERSION:
                raise _UnusableError(f"its version {version} is newer than ours, {VERSION}")
            elif self._database.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise _UnusableError("it is damaged")
            for query in _TABLES:
                self._database.execute(query)
        except sqlite3.DatabaseError as error:
            # The low byte of an extended error code is the kind of error.
            kind = error.sqlite_errorcode & 0xFF
            if kind in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise DiskError(f"cannot open {self.path}: {error}") from None
            # A plain SQLITE_ERROR is a statement that failed: the tables are another program's.
            if isinstance(error, sqlite3.OperationalError) and kind != sqlite3.SQLITE_ERROR:
                raise StateFileError(f"cannot open {self.path}: {error}; see --state-dir") from None
            raise _UnusableError(str(error)) from None

    def _set_aside(self, reason: str) -> None:
        number = 1
        while (aside := self.path.with_name(f"{FILE_NAME}.aside-{number}")).exists():
            number += 1
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        self.set_aside = f"{self.path} is not used: {reason}; it is kept as {aside.name}"


class _UnusableError(Exception):
    """The file exists but cannot be used; the text says why."""
