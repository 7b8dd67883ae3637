"""What is learned, on its way to the state file and back: behind the server, and off its loop.

`learning` knows the loop's times, which mean nothing to the next server, and `state` those of the
calendar; the two meet here. A disk that fails loses learning, with a message, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from compilefarm.learning import COMPILES_OF_FILE, Compile, Learning
from compilefarm.state import RememberedCompile, StateError, StateFile

WRITE_BEHIND_S = 5.0

log = logging.getLogger("host-server")


class WriteBehind:
    """Keeps what one `Learning` learns in a directory; opened with `recall`, ended with `close`."""

    def __init__(self, directory: Path, learning: Learning) -> None:
        self._directory = directory
        self._learning = learning
        self._state: StateFile
        self._epoch_offset_s = time.time() - asyncio.get_running_loop().time()
        self._failed = ""

    async def recall(self) -> None:
        """Open the state and learn again from what was kept; raises `StateError`."""
        self._state = await asyncio.to_thread(StateFile, self._directory)
        if self._state.set_aside is not None:
            log.warning("%s", self._state.set_aside)
        now = time.time()
        kept = self._state.load(COMPILES_OF_FILE)
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
            ]
        )
        log.info("%s: learned from %d compiles", self._state.path, len(kept))

    async def keep(self) -> None:
        """Write every few seconds, for ever."""
        while True:
            await asyncio.sleep(WRITE_BEHIND_S)
            await self._write()

    async def close(self) -> None:
        """Write what is left, and close."""
        await self._write()
        self._state.close()

    async def _write(self) -> None:
        """Write what is new; where that fails it is lost, and said once until it works again."""
        compiles, forgotten = self._learning.unsaved()
        if not compiles and not forgotten:
            return
        remembered = [
            RememberedCompile(*each._replace(at=each.at + self._epoch_offset_s))
            for each in compiles
        ]
        try:
            await asyncio.to_thread(self._state.save, remembered, forgotten, COMPILES_OF_FILE)
        except StateError as error:
            if self._failed != str(error):
                self._failed = str(error)
                log.error("what is learned is not kept: %s", error)
            return
        if self._failed:
            self._failed = ""
            log.info("what is learned is kept again")
