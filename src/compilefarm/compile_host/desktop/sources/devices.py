"""The terminals and the input devices: times since last input that need no desktop's help.

A terminal's access time is when somebody typed there; Linux rounds it down to eight seconds, so
that nobody can measure keystrokes, but the first key after a pause is seen at once. Only that it
changed is used and not the time itself: a clock that is set would make everybody look away, or
present for ever.

The files in /dev/input do not keep such times. Where their events may be read, by root and by
members of the group `input`, they are drained and what they say is thrown away: that something came
is all that is looked at. Where only some of them may be read (a game pad's, say), the keyboard is
not seen and so the source is absent. It works on every kind of desktop, Wayland's too.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from compilefarm.compile_host.desktop.presence import Reading
from compilefarm.compile_host.desktop.sources import Absent, Changed
from compilefarm.compile_host.processes import Unreadable

# Enough for what a mouse says in a second.
DRAIN_BYTES = 65536
NEW_DEVICES_S = 5.0


class Terminals:
    """Says when somebody last typed on a terminal of this machine, a remote login's included.

    Where there is a graphical desktop it is silent otherwise: a mouse is not seen here.
    """

    def __init__(self, devices: Path = Path("/dev")) -> None:
        self._devices = devices
        self._times: dict[str, float] = {}
        self._input_s = 0.0

    async def open(self, changed: Changed) -> None:
        self._times = self._look()
        if not self._times:
            raise Absent(f"there is no terminal in {self._devices}")
        self._input_s = time.monotonic()

    async def read(self) -> Reading:
        times = self._look()
        # Who logs out does not type, so a terminal that went away is no input.
        if any(self._times.get(name) != when for name, when in times.items()):
            self._input_s = time.monotonic()
        self._times = times
        if _graphical():
            return Reading("silent", "there is a screen too", self._input_s, sees_screen=False)
        return Reading("unused", "nobody types", self._input_s, sees_screen=False)

    async def close(self) -> None:
        self._times = {}

    def _look(self) -> dict[str, float]:
        times = {}
        for directory, pattern in (("", r"tty\d+"), ("pts", r"\d+")):
            try:
                names = os.listdir(self._devices / directory)  # noqa: PTH208 - names are enough
            except FileNotFoundError:
                continue
            except OSError as error:
                raise Unreadable(f"{self._devices / directory}: {error.strerror}") from None
            for name in names:
                if re.fullmatch(pattern, name):
                    with contextlib.suppress(OSError):  # closed meanwhile
                        path = os.path.join(self._devices, directory, name)  # noqa: PTH118
                        times[path] = os.stat(path).st_atime  # noqa: PTH116 - four times a second
        return times


class InputDevices:
    """Says when an input device last said something."""

    def __init__(self, directory: Path = Path("/dev/input")) -> None:
        self._directory = directory
        self._open: dict[Path, int] = {}
        self._input_s = 0.0
        self._looked_s = 0.0

    async def open(self, changed: Changed) -> None:
        self._input_s = time.monotonic()
        try:
            self._look()
        except Unreadable as error:
            raise Absent(str(error)) from None
        if not self._open:
            raise Absent(f"there is no input device in {self._directory}")

    async def read(self) -> Reading:
        now_s = time.monotonic()
        for path, descriptor in list(self._open.items()):
            try:
                while os.read(descriptor, DRAIN_BYTES):
                    self._input_s = now_s
            except BlockingIOError:
                pass
            except OSError:  # unplugged, by somebody
                os.close(self._open.pop(path))
                self._input_s = now_s
        if now_s - self._looked_s >= NEW_DEVICES_S:
            self._look()
        if not self._open:
            raise Unreadable("no input device is left")
        return Reading("unused", "no input", self._input_s)

    async def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def _look(self) -> None:
        self._looked_s = time.monotonic()
        for path in sorted(self._directory.glob("event*")):
            if path not in self._open:
                try:
                    self._open[path] = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                except OSError as error:
                    raise Unreadable(f"{path}: {error.strerror}") from None
                self._input_s = self._looked_s


def _graphical() -> bool:
    """Whether something here shows more than terminals."""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return True
    with contextlib.suppress(OSError):
        return any(Path("/tmp/.X11-unix").iterdir())
    return False
