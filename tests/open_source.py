"""An open source of watch-ssaver, and waiting for what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from run_program import PATIENCE_S

from compilefarm.compile_host.desktop import sources
from compilefarm.compile_host.desktop.presence import Reading
from compilefarm.compile_host.desktop.sources import Source
from compilefarm.compile_host.processes import Unreadable


class OpenSource:
    """An open source, and the loop that reads it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._changed = asyncio.Event()

    async def open(self) -> None:
        await self._source.open(self._changed.set)

    async def read(self) -> Reading:
        return await self._source.read()

    async def says(self, state: str) -> Reading:
        """Wait until it has this state, however it learns of the change; return the reading."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                reading = await self._source.read()
                if reading.state == state:
                    return reading
                await asyncio.sleep(0.02)

    async def reports_at_once(self, state: str) -> None:
        """Wait until it calls for being read and has this state then."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await self._changed.wait()
                self._changed.clear()
                if (await self._source.read()).state == state:
                    return

    async def is_lost(self) -> str:
        """Wait until it cannot be read; return the reason."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await self._source.read()
                except Unreadable as error:
                    return str(error)
                await asyncio.sleep(0.02)


@asynccontextmanager
async def opened(source: Source | str) -> AsyncIterator[OpenSource]:
    made = sources.make(source) if isinstance(source, str) else source
    try:
        open_source = OpenSource(made)
        await open_source.open()
        yield open_source
    finally:
        await made.close()


async def off_thread(call: Callable[..., object], *arguments: object) -> None:
    """Make a call that blocks, while the event loop runs."""
    await asyncio.to_thread(call, *arguments)
