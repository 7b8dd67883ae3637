"""Saving and restoring: a disk that fails loses what was learned, and nothing else."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Availability
from compilefarm.protocol.declaration import Declaration
from compilefarm.server.storage import write_behind
from compilefarm.server.storage.state_file import DiskError, SavedHost, StateFile
from compilefarm.server.storage.write_behind import WriteBehind


def behind(directory: Path, learning: Learning) -> WriteBehind:
    return WriteBehind(directory, learning, lambda _: None)


def learned(source: str) -> Learning:
    learning = Learning()
    learning.declare("h", 1.0)
    learning.observe("/d", source, "h", 1.0, 1.0)
    return learning


def test_a_disk_that_was_full_at_the_start_is_used_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: Path) -> StateFile:
        raise DiskError("cannot open it: database or disk is full")

    async def live() -> None:
        learning = learned("lost.c")
        keeper = behind(tmp_path, learning)
        with monkeypatch.context() as patched:
            patched.setattr(write_behind, "StateFile", full)
            await keeper.restore()
            keeper.availability_changed("h")
            await keeper.written()
        assert caplog.text.count("disk is full") == 1
        learning.observe("/d", "kept.c", "h", 1.0, 2.0)
        learning.observe_memory("/d", 900.0)
        await keeper.close()

    async def live_again() -> None:
        learning = Learning()
        keeper = behind(tmp_path, learning)
        await keeper.restore()
        learning.declare("h", 1.0)
        assert learning.cost("/d", "kept.c") is not None
        assert learning.memory_mb("/d") == 900.0
        await keeper.close()

    asyncio.run(live())
    asyncio.run(live_again())


@pytest.mark.parametrize(
    "spoilt",
    [
        {"host": 5},
        {"host": ""},
        {"port": 70_000},
        {"slots": "many"},
        {"slots": 2.5},
        {"slots": 0},
        {"power_index": 0.0},
        {"power_index": "fast"},
        {"mode": "lazy"},
        {"colour": "blue"},
    ],
)
def test_a_saved_host_that_makes_no_sense_is_ignored(
    tmp_path: Path, spoilt: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    words = asdict(Declaration("desk1", slots=4)) | {"types": [], "compilers": [], "mode": None}
    state = StateFile(tmp_path)
    state.save_hosts(
        [
            SavedHost("desk1", json.dumps(words), "10.0.0.1", True, False),
            SavedHost("desk2", json.dumps(words | spoilt), "10.0.0.2", True, False),
        ],
        [],
    )
    state.close()

    async def restored() -> tuple[Availability, ...] | None:
        keeper = behind(tmp_path, Learning())
        await keeper.restore()
        await keeper.close()
        return keeper.earlier_life

    assert asyncio.run(restored()) == (
        Availability(Declaration("desk1", slots=4), "10.0.0.1", True, False),
    )
    assert "what was saved for desk2 makes no sense" in caplog.text


def test_learned_speeds_survive_as_they_were(tmp_path: Path) -> None:
    async def live(builds: int) -> list[float]:
        learning = Learning()
        keeper = behind(tmp_path, learning)
        await keeper.restore()
        for host in ("h", "i"):
            learning.declare(host, 1.0)
        for build in range(builds):
            for n in range(20):
                host, speed = (("h", 1.0), ("i", 3.0))[(n + build) % 2]
                learning.observe("/d", f"{n}.c", host, (n + 1.0) / speed, build * 50.0 + n)
        await keeper.close()
        return [learning.speed(host) for host in ("h", "i")]

    before = asyncio.run(live(builds=6))
    assert before[1] > 2.0 * before[0]
    assert asyncio.run(live(builds=0)) == pytest.approx(before)
