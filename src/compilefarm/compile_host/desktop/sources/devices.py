"""Terminals and input devices: the time since the last input, without help from a desktop.

The access time of a terminal is the time of the last typing there. Linux rounds it down to eight
seconds, so that keystrokes cannot be timed, but the first key after a pause shows at once. Only a
change of the access time counts, and not the time itself. Otherwise a clock that is set would make
everyone look absent, or present for ever.

The files in /dev/input have no such times. Root and members of the group `input` may read their
events. They are read and thrown away: only that one came is used. If only some devices may be read
(a game pad, say), the keyboard is not seen, so the source is absent. It works on every kind of
desktop, Wayland included.
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

# Enough for the events of a mouse in a second.
DRAIN_BYTES = 65536
NEW_DEVICES_S = 5.0


class Terminals:
    """The time of the last typing on a terminal of this machine, remote logins included.

    On a machine with a graphical desktop it is silent about absence, because it does not see a
    mouse.
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
        # A terminal that vanished is a logout, and not input.
        if any(self._times.get(name) != when for name, when in times.items()):
            self._input_s = time.monotonic()
        self._times = times
        if _graphical():
            return Reading("silent", "there is a screen too", self._input_s, sees_screen=False)
        return Reading("unused", "no typing", self._input_s, sees_screen=False)

    async def close(self) -> None:
        self._times = {}

    def _look(self) -> dict[str, float]:
        times = {}
        for directory, pattern in (("", r"tty\d+"), ("pts", r"\d+")):
            try:
                names = os.listdir(self._devices / directory)  # noqa: PTH208 - only names needed
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
    """The time of the last event of an input device."""

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
            except OSError:  # it was unplugged, which counts as input
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
    """Return whether this machine has a graphical desktop."""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return True
    with contextlib.suppress(OSError):
        return any(Path("/tmp/.X11-unix").iterdir())
    return False
