"""Wayland's idle notification: the time since the last input, by swayidle.

A Wayland desktop does not show its input to programs, but it tells them when there was none for a
while. KDE, sway and others do so with ext-idle-notify or KDE's older protocol; GNOME has its own
way (Mutter, in bus.py). swayidle is the common client of these protocols. Our own implementation
was rejected: it would need XML, generated bindings and a C library for two words.

The two words are `idle`, one second after the last input, and `active`. The shell around swayidle
handles our own sudden end: its standard input closes, and it ends swayidle. swayidle gets an empty
configuration, so that it does not run the user's commands a second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time

from compilefarm.compile_host.desktop.presence import Reading
from compilefarm.compile_host.desktop.sources import Absent, Changed
from compilefarm.compile_host.processes import Unreadable

PROGRAM = "swayidle"
IDLE_AFTER_S = 1
# swayidle ends at once if it finds no desktop, or one that does not report idleness.
LIVES_S = 0.5
END_S = 2.0
_SHELL = (
    f"{PROGRAM} -C /dev/null -w timeout {IDLE_AFTER_S} 'echo idle' resume 'echo active' & "
    "exec >&-; read -r _; kill $!; wait"
)


class Wayland:
    """The time of the last input to the Wayland desktop."""

    def __init__(self) -> None:
        self._shell: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._idle = False
        self._input_s = 0.0
        self._ended = False

    async def open(self, changed: Changed) -> None:
        if not os.environ.get("WAYLAND_DISPLAY"):
            raise Absent("WAYLAND_DISPLAY is not set")
        if shutil.which(PROGRAM) is None:
            raise Absent(f"there is no {PROGRAM}")
        self._shell = await asyncio.create_subprocess_exec(
            *("sh", "-c", _SHELL),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self._task = asyncio.create_task(self._listen(self._shell, changed))
        await asyncio.wait([self._task], timeout=LIVES_S)
        if self._ended:
            raise Absent(f"this desktop does not tell {PROGRAM} about its input")

    async def read(self) -> Reading:
        if self._ended:
            raise Unreadable(f"{PROGRAM} ended")
        now_s = time.monotonic()
        return Reading("unused", "no input", self._input_s if self._idle else now_s)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._shell is not None:
            shell, self._shell = self._shell, None
            assert shell.stdin
            shell.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await shell.wait()
                return
            shell.kill()
            await shell.wait()

    async def _listen(self, shell: asyncio.subprocess.Process, changed: Changed) -> None:
        assert shell.stdout
        while line := await shell.stdout.readline():
            if line == b"idle\n" and not self._idle:
                self._input_s = time.monotonic() - IDLE_AFTER_S
                self._idle = True
            elif line == b"active\n":
                self._idle = False
            changed()
        self._ended = True
        changed()
