"""What survives a restart: one SQLite file under --state-dir.

It holds what compiles took, from which `learning` works almost everything out again, the memory
that they need, and whether somebody said that a host is available, or is to be left out. Learning
is worth a lot and a lease is worth more: whatever goes wrong with the disk loses learning, with a
message, and never stops the server. A file that cannot be read, that a newer version wrote or
another program, is set aside under another name and a new one is begun. A row that makes no sense
is passed by. Only what an administrator has to put right, such as a directory that we may not
write to, keeps the server from starting.

SQLite, because a half-written file after a power cut is its problem, which it has solved.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "state.sqlite3"

# What makes each version of the file from the one before; the first, from none.
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
    -- of the host, as `learning.crowding` has it
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
        compile_mb REAL NOT NULL  -- that one compile there needs
    );
    """,
)
VERSION = len(_STEPS)

# What must be there, under these names, for a file of our version to be one of ours.
_TABLES = (
    "SELECT directory, source, host, took_s, at, crowding FROM compile LIMIT 0",
    "SELECT name, declaration, address, available, reported FROM host LIMIT 0",
    "SELECT directory, compile_mb FROM memory LIMIT 0",
)
# SQLite lets a column hold anything, and a time beyond these is no time.
_MAKES_SENSE = """
    typeof(directory) = 'text' AND typeof(source) = 'text' AND typeof(host) = 'text'
    AND typeof(took_s) = 'real' AND typeof(at) = 'real' AND abs(at) < 1e12
    AND typeof(crowding) = 'real' AND crowding BETWEEN 0 AND 1
"""


class StateError(Exception):
    """The state cannot be kept; the text says what, where and what to do."""


class DiskError(StateError):
    """It cannot be kept now, for the disk is full or fails; later it may be."""


@dataclass(frozen=True, slots=True)
class RememberedCompile:
    """One compile that took so long, at a time in seconds since the epoch."""

    directory: str
    source: str
    host: str
    took_s: float
    at: float
    crowding: float = 0.0


@dataclass(frozen=True, slots=True)
class RememberedHost:
    """A host's availability; `declaration` is JSON, the rest as in `model.Availability`."""

    name: str
    declaration: str
    address: str
    available: bool
    reported: bool


class StateFile:
    """The open state file; methods raise `StateError` when the disk does not play along."""

    def __init__(self, directory: Path) -> None:
        """Open the state in a directory, which is made; set aside a file that cannot be used."""
        self.path = directory / FILE_NAME
        self.set_aside: str | None = None
        self.begun = False  # there was none before
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            kind = DiskError if error.errno in (errno.ENOSPC, errno.EIO) else StateError
            raise kind(f"cannot make {directory}: {error.strerror}; see --state-dir") from None
        try:
            self._open()
        except _UnusableError as error:
            self.close()
            self._set_aside(str(error))
            self._open()
        except StateError:
            self.close()
            raise

    def load(self, per_file: int) -> list[RememberedCompile]:
        """Return the compiles, oldest first; of each file at most the `per_file` latest."""
        # The latest are those that were written last: a clock that was ahead for a day would
        # otherwise have us keep the compiles of that day for ever, and drop all that come.
        query = f"""
            SELECT directory, source, host, took_s, at, crowding FROM (
                SELECT *, rowid AS number, row_number() OVER (
                    PARTITION BY directory, source ORDER BY rowid DESC) AS place
                FROM compile WHERE {_MAKES_SENSE})
            WHERE place <= ? ORDER BY at, number
        """
        try:
            return [RememberedCompile(*row) for row in self._database.execute(query, (per_file,))]
        except sqlite3.Error as error:
            raise StateError(f"cannot read {self.path}: {error}") from None

    def memory_mb(self) -> dict[str, float]:
        """Return what one compile needs, by directory."""
        query = """
            SELECT directory, compile_mb FROM memory
            WHERE typeof(directory) = 'text' AND typeof(compile_mb) = 'real'
        """
        try:
            return dict(self._database.execute(query).fetchall())
        except sqlite3.Error as error:
            raise StateError(f"cannot read {self.path}: {error}") from None

    def save(
        self,
        compiles: Iterable[RememberedCompile],
        forgotten: Collection[tuple[str, str]],
        memory_mb: Mapping[str, float],
        per_file: int,
    ) -> None:
        """Write what is new; drop all but a file's latest compiles, and what was forgotten."""
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
                if forgotten:
                    self._database.execute(
                        "DELETE FROM memory WHERE directory NOT IN (SELECT directory FROM compile)"
                    )
        except sqlite3.Error as error:
            raise StateError(f"cannot write {self.path}: {error}") from None

    def hosts(self) -> list[RememberedHost]:
        """Return what is known of hosts' availability."""
        query = "SELECT name, declaration, address, available, reported FROM host ORDER BY name"
        try:
            rows = self._database.execute(query).fetchall()
        except sqlite3.Error as error:
            raise StateError(f"cannot read {self.path}: {error}") from None
        return [
            RememberedHost(name, declaration, address, bool(available), bool(reported))
            for name, declaration, address, available, reported in rows
        ]

    def save_hosts(self, hosts: Iterable[RememberedHost], forgotten: Iterable[str]) -> None:
        """Write what is new of hosts' availability; of the forgotten nothing is left."""
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
            raise StateError(f"cannot write {self.path}: {error}") from None

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
            self.begun = version == 0
            if 0 <= version < VERSION:
                self._database.executescript(
                    f"BEGIN; {''.join(_STEPS[version:])} PRAGMA user_version = {VERSION}; COMMIT;"
                )
            elif version < 0:
                raise _UnusableError("it is none of ours")
            elif version > VERSION:
                raise _UnusableError(f"version {version} of it is newer than ours, {VERSION}")
            elif self._database.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise _UnusableError("it is damaged")
            for query in _TABLES:
                self._database.execute(query)
        except sqlite3.DatabaseError as error:
            # Of an extended code, the low byte is the kind.
            kind = error.sqlite_errorcode & 0xFF
            if kind in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise DiskError(f"cannot open {self.path}: {error}") from None
            # Where a statement is wrong, it met somebody else's tables.
            if isinstance(error, sqlite3.OperationalError) and kind != sqlite3.SQLITE_ERROR:
                raise StateError(f"cannot open {self.path}: {error}; see --state-dir") from None
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
    """The file is there, and no use to us."""
