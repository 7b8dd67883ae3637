"""What is to survive, on its way to the state file and back: behind the server, and off its loop.

`learning` knows the loop's times, which mean nothing to the next server, and `state` those of the
calendar; the two meet here. What is learned may be lost for some seconds; what somebody said of a
host's availability is on its way to the disk before he is answered, so that not even SIGKILL undoes
it. A disk that fails loses all of that, with a message, and nothing else.
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
    RememberedCompile,
    RememberedHost,
    StateError,
    StateFile,
)

WRITE_BEHIND_S = 5.0
# For a disk that hangs: nobody is to wait for it any longer.
WRITTEN_WITHIN_S = 1.0

# Of what is kept of a host, the kind of each number, the lowest and the highest.
_NUMBERS: dict[str, tuple[type[int] | type[float], float, float]] = {
    "port": (int, 1, 65_535),
    "slots": (int, 1, SLOTS_LIMIT),
    "power_index": (float, POWER_INDEX_LEAST, POWER_INDEX_LIMIT),
    "reserve_cpus": (float, 0, SLOTS_LIMIT),
}

log = logging.getLogger("host-server")


class WriteBehind:
    """Keeps what survives in a directory; opened with `recall`, ended with `close`.

    `availability` tells what is to be kept of a host; `earlier_life` is what was kept of all hosts,
    None where the directory is new.
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
        self._state: StateFile | None = None  # None until the disk lets us open it
        self._epoch_offset_s = time.time() - asyncio.get_running_loop().time()
        self._failed = ""

    async def recall(self) -> None:
        """Open the state and learn again from what was kept; raises `StateError`.

        A disk that is full or fails is not raised: there is nothing to recall then, and it is
        opened once there is room.
        """
        try:
            state = await self._opened()
        except DiskError as error:
            self._fail(error)
            return
        now = time.time()
        kept = state.load(COMPILES_OF_FILE)
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
                for each in kept
            ],
            state.memory_mb(),
        )
        log.info("%s: learned from %d compiles", state.path, len(kept))
        if not state.begun:
            known = [_recalled(each) for each in state.hosts()]
            self.earlier_life = tuple(each for each in known if each is not None)

    def availability_changed(self, name: str) -> None:
        """Take note that something is to be kept of a host."""
        self._changed.add(name)

    async def written(self) -> None:
        """Wait until what is to be kept of hosts is written, but not for long."""
        if self._changed or self._writing.locked():
            try:
                async with asyncio.timeout(WRITTEN_WITHIN_S):
                    await self._write()
            except TimeoutError:
                log.error("%s: writing takes too long", self._directory)

    async def keep(self) -> None:
        """Write every few seconds, for ever."""
        while True:
            await asyncio.sleep(WRITE_BEHIND_S)
            await self._write()

    async def close(self) -> None:
        """Write what is left, and close."""
        await self._write()
        if self._state is not None:
            self._state.close()

    async def _opened(self) -> StateFile:
        """Return the state, opened now where it was not yet; raises `StateError`."""
        if self._state is None:
            self._state = await asyncio.to_thread(StateFile, self._directory)
            if self._state.set_aside is not None:
                log.warning("%s", self._state.set_aside)
        return self._state

    def _fail(self, error: StateError) -> None:
        """Tell of a failure, once as long as it is the same."""
        if self._failed != str(error):
            self._failed = str(error)
            log.error("what is learned is not kept: %s", error)

    async def _write(self) -> None:
        """Write what is new; where that fails what was learned is lost, and said once."""
        async with self._writing:
            compiles, forgotten, memory_mb = self._learning.unsaved()
            names, self._changed = self._changed, set()
            if not (compiles or forgotten or memory_mb or names):
                return
            remembered = [
                RememberedCompile(*each._replace(at=each.at + self._epoch_offset_s))
                for each in compiles
            ]
            hosts = {name: self._availability(name) for name in names}
            known = [_remembered(name, each) for name, each in hosts.items() if each is not None]
            unknown = [name for name, each in hosts.items() if each is None]
            try:
                state = await self._opened()
                if names:
                    await asyncio.to_thread(state.save_hosts, known, unknown)
                await asyncio.to_thread(
                    state.save, remembered, forgotten, memory_mb, COMPILES_OF_FILE
                )
            except StateError as error:
                self._changed |= names
                self._fail(error)
                return
            if self._failed:
                self._failed = ""
                log.info("what is learned is kept again")


def _remembered(name: str, known: Availability) -> RememberedHost:
    declaration = {
        key: sorted(value) if isinstance(value, frozenset) else value
        for key, value in asdict(known.declaration).items()
    }
    declaration["mode"] = known.declaration.mode and known.declaration.mode.value
    return RememberedHost(
        name, json.dumps(declaration), known.address, known.available, known.reported
    )


def _recalled(known: RememberedHost) -> Availability | None:
    """Return what was kept of a host; None, and a message, where that makes no sense."""
    try:
        words = json.loads(known.declaration)
        words["types"] = frozenset(words["types"])
        words["compilers"] = frozenset(words["compilers"])
        words["mode"] = words["mode"] and Mode(words["mode"])
        split_host(words["host"])
        for key, (kind, low, high) in _NUMBERS.items():
            if words[key] is not None and not low <= kind(words[key]) == words[key] <= high:
                raise ValueError(f"{key} is {words[key]!r}")
        declaration = Declaration(**words)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.error("what was kept of %s makes no sense: %s", known.name, error)
        return None
    return Availability(declaration, known.address, known.available, known.reported)
