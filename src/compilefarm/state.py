"""What survives a restart: one SQLite file under --state-dir.

It holds what compiles took, from which `learning` works everything else out again, and whether
somebody said that a host is available, or is to be left out. Learning is
worth a lot and a lease is worth more: whatever goes wrong with the disk loses learning, with a
message, and never stops the server. A file that cannot be read, or that a newer version wrote, is
set aside under another name and a new one is begun.

SQLite, because a half-written file after a power cut is its problem, which it has solved.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
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
)
VERSION = len(_STEPS)


class StateError(Exception):
    """The state cannot be kept; the text says what, where and what to do."""


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
            raise StateError(f"cannot make {directory}: {error.strerror}") from None
        try:
            self._open()
        except _UnusableError as error:
            self._set_aside(str(error))
            self._open()

    def load(self, per_file: int) -> list[RememberedCompile]:
        """Return the compiles, oldest first; of each file at most the `per_file` latest."""
        query = """
            SELECT directory, source, host, took_s, at, crowding FROM (
                SELECT *, row_number() OVER (
                    PARTITION BY directory, source ORDER BY at DESC) AS place FROM compile)
            WHERE place <= ? ORDER BY at
        """
        try:
            return [RememberedCompile(*row) for row in self._database.execute(query, (per_file,))]
        except sqlite3.Error as error:
            raise StateError(f"cannot read {self.path}: {error}") from None

    def save(
        self,
        compiles: Iterable[RememberedCompile],
        forgotten: Iterable[tuple[str, str]],
        per_file: int,
    ) -> None:
        """Write new compiles, and drop those of forgotten files and all but a file's latest."""
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
                    " directory = ? AND source = ? ORDER BY at DESC LIMIT -1 OFFSET ?)",
                    ((*file, per_file) for file in files),
                )
                self._database.executemany(
                    "DELETE FROM compile WHERE directory = ? AND source = ?", forgotten
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
        """Close the file."""
        self._database.close()

    def _open(self) -> None:
        try:
            self._database = sqlite3.connect(
                self.path, timeout=1.0, check_same_thread=False, isolation_level="IMMEDIATE"
            )
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            self.begun = version == 0
            if version < VERSION:
                self._database.executescript(
                    f"BEGIN; {''.join(_STEPS[version:])} PRAGMA user_version = {VERSION}; COMMIT;"
                )
            elif version != VERSION:
                raise _UnusableError(f"version {version} of it is newer than ours, {VERSION}")
            elif self._database.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise _UnusableError("it is damaged")
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise StateError(f"cannot open {self.path}: {error}") from None
            raise _UnusableError(str(error)) from None

    def _set_aside(self, reason: str) -> None:
        self._database.close()
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
