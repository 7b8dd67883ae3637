"""What survives a restart: one SQLite file under --state-dir.

It holds what compiles took, from which `learning` works everything else out again. Learning is
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
VERSION = 2

_SCHEMA = f"""
BEGIN;
CREATE TABLE compile (
    directory TEXT NOT NULL,
    source TEXT NOT NULL,
    host TEXT NOT NULL,
    took_s REAL NOT NULL,
    at REAL NOT NULL,  -- seconds since the epoch
    crowding REAL NOT NULL  -- of the host, as `learning.crowding` has it
);
CREATE INDEX compile_file ON compile (directory, source);
PRAGMA user_version = {VERSION};
COMMIT;
"""
_FROM_VERSION_1 = """
BEGIN;
ALTER TABLE compile ADD COLUMN crowding REAL NOT NULL DEFAULT 0;
PRAGMA user_version = 2;
COMMIT;
"""


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


class StateFile:
    """The open state file; methods raise `StateError` when the disk does not play along."""

    def __init__(self, directory: Path) -> None:
        """Open the state in a directory, which is made; set aside a file that cannot be used."""
        self.path = directory / FILE_NAME
        self.set_aside: str | None = None
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
            if version == 0:
                self._database.executescript(_SCHEMA)
            elif version == 1:
                self._database.executescript(_FROM_VERSION_1)
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
