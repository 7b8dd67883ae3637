"""The state file: what it saves, and what happens to an old or damaged one."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from compilefarm.core.learning.host_speeds import SavedSpeed
from compilefarm.server.storage.state_file import (
    FILE_NAME,
    SavedCompile,
    SavedHost,
    StateFile,
    StateFileError,
)

COMPILES = [
    SavedCompile("/d", "a.c", "fast", 1.5, 1000.0, 0.25),
    SavedCompile("/d", "b.c", "slow", 3.0, 1001.0),
]


def test_compiles_come_back_as_they_were(tmp_path: Path) -> None:
    with closing(StateFile(tmp_path)) as state:
        state.save_learning(COMPILES, [], {}, [], 5)
    with closing(StateFile(tmp_path)) as state:
        assert state.compiles(5) == COMPILES
        assert state.set_aside is None


def test_a_file_without_crowding_is_converted(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database:
        database.executescript("""
            CREATE TABLE compile (directory TEXT NOT NULL, source TEXT NOT NULL,
                                  host TEXT NOT NULL, took_s REAL NOT NULL, at REAL NOT NULL);
            INSERT INTO compile VALUES ('/d', 'b.c', 'slow', 3.0, 1001.0);
            PRAGMA user_version = 1;
        """)
    with closing(StateFile(tmp_path)) as state:
        assert state.set_aside is None
        state.save_learning(COMPILES[:1], [], {}, [], 5)
    with closing(StateFile(tmp_path)) as state:
        assert state.compiles(5) == COMPILES
        assert not state.is_new
        assert state.hosts() == []


def test_the_memory_of_compiles_comes_back_until_their_files_are_forgotten(
    tmp_path: Path,
) -> None:
    with closing(StateFile(tmp_path)) as state:
        state.save_learning(COMPILES, [], {"/d": 300.0, "/gone": 900.0}, [], 5)
        state.save_learning([], [], {"/d": 700.5}, [], 5)
    with closing(StateFile(tmp_path)) as state:
        assert state.memory_mb() == {"/d": 700.5, "/gone": 900.0}
        state.save_learning([], [("/gone", "c.c")], {}, [], 5)
        assert state.memory_mb() == {"/d": 700.5}


def test_hosts_come_back_as_they_were(tmp_path: Path) -> None:
    hosts = [
        SavedHost("desk1", '{"host": "desk1"}', "10.0.0.1", True, False),
        SavedHost("desk2", '{"host": "desk2"}', "", False, True),
    ]
    with closing(StateFile(tmp_path)) as state:
        assert state.is_new
        state.save_hosts([*hosts, hosts[0]], [])
        assert state.hosts() == hosts
        state.save_hosts([], ["desk2", "desk3"])
    with closing(StateFile(tmp_path)) as state:
        assert not state.is_new
        assert state.hosts() == hosts[:1]


def test_compiles_from_a_clock_that_was_ahead_are_replaced_by_later_ones(tmp_path: Path) -> None:
    def compiled(at: float) -> SavedCompile:
        return SavedCompile("/d", "a.c", "fast", 1.5, at)

    with closing(StateFile(tmp_path)) as state:
        for at in (9e9, 9e9 + 1, 1000.0, 1001.0):
            state.save_learning([compiled(at)], [], {}, [], 2)
    with closing(StateFile(tmp_path)) as state:
        assert state.compiles(2) == [compiled(1000.0), compiled(1001.0)]


def written(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def made_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_text("no database"), "not a database"),
        (cut, "malformed"),
        (made_a_directory, "it is a directory"),
        (lambda path: written(path, "PRAGMA user_version = 99"), "its version 99 is newer"),
        (lambda path: written(path, "PRAGMA user_version = -1"), "not one of ours"),
        (lambda path: written(path, "PRAGMA user_version = 1"), "duplicate column"),
        (lambda path: written(path, "DROP TABLE host"), "no such table"),
        (lambda path: written(path, "ALTER TABLE compile RENAME at TO x"), "no such column"),
    ],
)
def test_a_file_that_cannot_be_used_is_set_aside(
    tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    with closing(StateFile(tmp_path)) as state:
        state.save_learning(COMPILES, [], {}, [], 5)
    spoil(tmp_path / FILE_NAME)
    with closing(StateFile(tmp_path)) as state:
        assert state.set_aside is not None
        assert reason in state.set_aside
        assert state.compiles(5) == []
        state.save_learning(COMPILES, [], {}, [], 5)
    assert (tmp_path / f"{FILE_NAME}.aside-1").exists()
    with closing(StateFile(tmp_path)) as state:
        assert state.set_aside is None
        assert state.compiles(5) == COMPILES


def test_a_row_that_makes_no_sense_is_ignored(tmp_path: Path) -> None:
    with closing(StateFile(tmp_path)) as state:
        state.save_learning(COMPILES, [], {}, [], 5)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database, database:
        database.executemany(
            "INSERT INTO compile VALUES ('/d', ?, ?, ?, ?, ?)",
            [
                ("a.c", "fast", "soon", 1.0, 0.0),
                ("a.c", "fast", 1.0, "then", 0.0),
                ("a.c", "fast", 1.0, float("-inf"), 0.0),
                ("a.c", "fast", 1.0, 1.0, 9.0),
                ("a.c", b"\xff", 1.0, 1.0, 0.0),
            ],
        )
        database.execute("INSERT INTO memory VALUES ('/d', 'much')")
    with closing(StateFile(tmp_path)) as state:
        assert state.compiles(5) == COMPILES
        assert state.memory_mb() == {}


def test_a_fault_that_an_administrator_must_put_right_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateFileError, match=r"cannot make .*file: File exists; see --state-dir"):
        StateFile(tmp_path / "file")


def test_speeds_come_back_and_nonsense_does_not(tmp_path: Path) -> None:
    speeds = [SavedSpeed("fast", 0.7, 1.1, 0.02, 0.3, 1000.0)]
    nonsense = [
        SavedSpeed("endless", 0.7, math.inf, 0.02, 0.3, 1000.0),
        SavedSpeed("negative", 0.7, 1.1, -1.0, 0.3, 1000.0),
    ]
    with closing(StateFile(tmp_path)) as state:
        state.save_learning([], [], {}, [SavedSpeed("fast", 0.7, 0.9, 0.5, 0.0, 1.0)], 5)
        state.save_learning([], [], {}, [*speeds, *nonsense], 5)
    with closing(StateFile(tmp_path)) as state:
        assert state.speeds() == speeds
