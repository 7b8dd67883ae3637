"""xscreensaver, through its own command.

`xscreensaver-command -watch` prints a line whenever the screen blanks, locks or unblanks. It prints
nothing when it starts, and nothing when xscreensaver dies, because the property that it watches
stays on the root window. So `xscreensaver-command -time` asks for the state at first, and then
regularly. Reading the property ourselves was rejected, although it would save these processes: its
format is private to xscreensaver and has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil

from compilefarm.compile_host.desktop.presence import Reading
from compilefarm.compile_host.desktop.sources import Absent, Changed
from compilefarm.compile_host.desktop.sources.x11 import local_display
from compilefarm.compile_host.processes import Unreadable

PROGRAM = "xscreensaver-command"
ANSWER_S = 3.0
CHECK_S = 5.0
ON = Reading("unused", "the screen saver is on")
OFF = Reading("in use", "the screen saver is off")


class XScreenSaver:
    """Unused while the screen is blanked or locked."""

    def __init__(self) -> None:
        self._watcher: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._state: Reading | Unreadable = OFF

    async def open(self, changed: Changed) -> None:
        local_display()
        if shutil.which(PROGRAM) is None:
            raise Absent(f"there is no {PROGRAM}")
        # Watch first, then ask: a change in between is in the pipe.
        self._watcher = await _started("-watch")
        try:
            self._state = await _asked()
        except Unreadable as error:
            raise Absent(str(error)) from None
        self._tasks = [
            asyncio.create_task(self._listen(self._watcher, changed)),
            asyncio.create_task(self._check(changed)),
        ]

    async def read(self) -> Reading:
        if isinstance(self._state, Unreadable):
            raise self._state
        return self._state

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        if self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            with contextlib.suppress(ProcessLookupError):
                watcher.kill()
            await watcher.wait()

    async def _listen(self, watcher: asyncio.subprocess.Process, changed: Changed) -> None:
        assert watcher.stdout
        while line := await watcher.stdout.readline():
            word = line.split(maxsplit=1)[0] if line.strip() else b""
            if word in (b"BLANK", b"LOCK", b"UNBLANK"):
                self._state = OFF if word == b"UNBLANK" else ON
                changed()
        self._state = Unreadable(f"{PROGRAM} -watch ended")
        changed()

    async def _check(self, changed: Changed) -> None:
        """Ask regularly, while it answers."""
        while True:
            await asyncio.sleep(CHECK_S)
            before = self._state
            try:
                now = await _asked()
            except Unreadable as error:
                self._state = error
                changed()
                return
            # A line from the watcher that came meanwhile is newer than the answer.
            if self._state is before and now is not before:
                self._state = now
                changed()


async def _asked() -> Reading:
    """Ask xscreensaver for its state; raises `Unreadable`."""
    process = await _started("-time")
    try:
        async with asyncio.timeout(ANSWER_S):
            answer, _ = await process.communicate()
    except TimeoutError:
        raise Unreadable(f"xscreensaver does not answer within {ANSWER_S:.0f} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if b"non-blanked since" in answer:
        return OFF
    if b" blanked since" in answer or b" locked since" in answer:
        return ON
    raise Unreadable("xscreensaver is not running")


async def _started(word: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        PROGRAM,
        word,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
