"""The state file: what it keeps, and what becomes of one that an older version wrote."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from compilefarm.state import FILE_NAME, RememberedCompile, RememberedHost, StateFile

COMPILES = [
    RememberedCompile("/d", "a.c", "fast", 1.5, 1000.0, 0.25),
    RememberedCompile("/d", "b.c", "slow", 3.0, 1001.0),
]


def test_compiles_come_back_as_they_were(tmp_path: Path) -> None:
    with closing(StateFile(tmp_path)) as state:
        state.save(COMPILES, [], 5)
    with closing(StateFile(tmp_path)) as state:
        assert state.load(5) == COMPILES
        assert state.set_aside is None


def test_a_file_without_crowding_is_carried_over(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database:
        database.executescript("""
            CREATE TABLE compile (directory TEXT NOT NULL, source TEXT NOT NULL,
                                  host TEXT NOT NULL, took_s REAL NOT NULL, at REAL NOT NULL);
            INSERT INTO compile VALUES ('/d', 'b.c', 'slow', 3.0, 1001.0);
            PRAGMA user_version = 1;
        """)
    with closing(StateFile(tmp_path)) as state:
        assert state.set_aside is None
        state.save(COMPILES[:1], [], 5)
    with closing(StateFile(tmp_path)) as state:
        assert state.load(5) == COMPILES
        assert not state.begun
        assert state.hosts() == []


def test_hosts_come_back_as_they_were(tmp_path: Path) -> None:
    hosts = [
        RememberedHost("desk1", '{"host": "desk1"}', "10.0.0.1", True, False),
        RememberedHost("desk2", '{"host": "desk2"}', "", False, True),
    ]
    with closing(StateFile(tmp_path)) as state:
        assert state.begun
        state.save_hosts([*hosts, hosts[0]], [])
        assert state.hosts() == hosts
        state.save_hosts([], ["desk2", "desk3"])
    with closing(StateFile(tmp_path)) as state:
        assert not state.begun
        assert state.hosts() == hosts[:1]
