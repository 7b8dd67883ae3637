"""Saving what must survive: between the farm and the state file, and off the server's loop.

Learning uses the loop's times, which mean nothing to the next server, and the state file has the
calendar's. They are converted here. Up to `WRITE_BEHIND_S` of learning may be lost in a crash. A
change of a host's availability is written before its sender is answered, so not even SIGKILL undoes
it. A disk that fails loses all of this, with a message, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from compilefarm.core.learning.learning import Compile, Learning
from compilefarm.core.learning.observations import COMPILES_OF_FILE
from compilefarm.core.model import Availability
from compilefarm.protocol.address import split_host
from compilefarm.protocol.declaration import Declaration, Mode
from compilefarm.protocol.hosts_info import POWER_INDEX_LEAST, POWER_INDEX_LIMIT, SLOTS_LIMIT
from compilefarm.server.storage.state_file import (
    DiskError,
    SavedCompile,
    SavedHost,
    StateFile,
    StateFileError,
)

WRITE_BEHIND_S = 5.0
# A sender waits no longer than this for a disk that hangs.
WRITTEN_WITHIN_S = 1.0

# The numbers in a saved host: the type of each, its lowest and its highest value.
_NUMBERS: dict[str, tuple[type[int] | type[float], float, float]] = {
    "port": (int, 1, 65_535),
    "slots": (int, 1, SLOTS_LIMIT),
    "power_index": (float, POWER_INDEX_LEAST, POWER_INDEX_LIMIT),
    "reserve_cpus": (float, 0, SLOTS_LIMIT),
}

log = logging.getLogger("host-server")


class WriteBehind:
    """Saves learning and availability in a directory; opened with `restore`, ended with `close`.

    `availability` returns a host's availability to save, or None. `earlier_life` is the saved
    availability of all hosts, None where the directory is new.
    """

    def __init__(
        self,
        directory: Path,
        learning: Learning,
        availability: Callable[[str], Availability | None],
    ) -> None:
        self.earlier_life: tuple[Availability, ...] | None = None
        self._directory = directory
        self._learning = learning
        self._availability = availability
        self._changed: set[str] = set()
        self._writing = asyncio.Lock()
        self._state: StateFile | None = None  # None until it could be opened
        self._epoch_offset_s = time.time() - asyncio.get_running_loop().time()
        self._failed = ""

    async def restore(self) -> None:
        """Open the state and learn from the saved compiles; raises `StateFileError`.

        A disk that is full or fails does not raise. Then nothing is restored, and the state is
        opened as soon as the disk allows it.
        """
        try:
            state = await self._opened()
        except DiskError as error:
            self._fail(error)
            return
        now = time.time()
        saved = state.compiles(COMPILES_OF_FILE)
        self._learning.restore(
            [
                Compile(
                    each.directory,
                    each.source,
                    each.host,
                    each.took_s,
                    min(each.at, now) - self._epoch_offset_s,
                    each.crowding,
                )
                for each in saved
            ],
            state.memory_mb(),
            [
                each._replace(measured_at=min(each.measured_at, now) - self._epoch_offset_s)
                for each in state.speeds()
            ],
        )
        log.info("%s: learned from %d compiles", state.path, len(saved))
        if not state.is_new:
            known = [_restored(each) for each in state.hosts()]
            self.earlier_life = tuple(each for each in known if each is not None)

    def availability_changed(self, name: str) -> None:
        """Remember that a host's availability must be saved."""
        self._changed.add(name)

    async def written(self) -> None:
        """Wait until the hosts' availability is saved, at most `WRITTEN_WITHIN_S`."""
        if self._changed or self._writing.locked():
            try:
                async with asyncio.timeout(WRITTEN_WITHIN_S):
                    await self._write()
            except TimeoutError:
                log.error("%s: writing takes too long", self._directory)

    async def keep(self) -> None:
        """Write every `WRITE_BEHIND_S`, for ever."""
        while True:
            await asyncio.sleep(WRITE_BEHIND_S)
            await self._write()

    async def close(self) -> None:
        """Write what is not saved yet, and close."""
        await self._write()
        if self._state is not None:
            self._state.close()

    async def _opened(self) -> StateFile:
        """Return the state, and open it if needed; raises `StateFileError`."""
        if self._state is None:
            self._state = await asyncio.to_thread(StateFile, self._directory)
            if self._state.set_aside is not None:
                log.warning("%s", self._state.set_aside)
        return self._state

    def _fail(self, error: StateFileError) -> None:
        """Log a failure, unless it is the same as the last one."""
        if self._failed != str(error):
            self._failed = str(error)
            log.error("what is learned is not saved: %s", error)

    async def _write(self) -> None:
        """Write what is new. If that fails, what was learned is lost, and the log says so."""
        async with self._writing:
            compiles, forgotten, memory_mb, speeds = self._learning.unsaved()
            names, self._changed = self._changed, set()
            if not (compiles or forgotten or memory_mb or speeds or names):
                return
            saved_compiles = [
                SavedCompile(*each._replace(at=each.at + self._epoch_offset_s)) for each in compiles
            ]
            saved_speeds = [
                each._replace(measured_at=each.measured_at + self._epoch_offset_s)
                for each in speeds
            ]
            hosts = {name: self._availability(name) for name in names}
            saved_hosts = [_saved(name, each) for name, each in hosts.items() if each is not None]
            forgotten_hosts = [name for name, each in hosts.items() if each is None]
            try:
                state = await self._opened()
                if names:
                    await asyncio.to_thread(state.save_hosts, saved_hosts, forgotten_hosts)
                await asyncio.to_thread(
                    state.save_learning,
                    saved_compiles,
                    forgotten,
                    memory_mb,
                    saved_speeds,
                    COMPILES_OF_FILE,
                )
            except StateFileError as error:
                self._changed |= names
                self._fail(error)
                return
            if self._failed:
                self._failed = ""
                log.info("what is learned is saved again")


def _saved(name: str, known: Availability) -> SavedHost:
    declaration = {
        key: sorted(value) if isinstance(value, frozenset) else value
        for key, value in asdict(known.declaration).items()
    }
    declaration["mode"] = known.declaration.mode and known.declaration.mode.value
    return SavedHost(name, json.dumps(declaration), known.address, known.available, known.reported)


def _restored(saved: SavedHost) -> Availability | None:
    """Return a host's saved availability; None, and a line in the log, if it makes no sense."""
    try:
        words = json.loads(saved.declaration)
        words["types"] = frozenset(words["types"])
        words["compilers"] = frozenset(words["compilers"])
        words["mode"] = words["mode"] and Mode(words["mode"])
        split_host(words["host"])
        for key, (kind, low, high) in _NUMBERS.items():
            if words[key] is not None and not low <= kind(words[key]) == words[key] <= high:
                raise ValueError(f"{key} is {words[key]!r}")
        declaration = Declaration(**words)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.error("what was saved for %s makes no sense: %s", saved.name, error)
        return None
    return Availability(declaration, saved.address, saved.available, saved.reported)
