"""Where watch-ssaver learns whether a desktop is used: the sources, and what each of them can do.

A source is opened, read whenever somebody wants to know, and closed. Reading is asked for and not
pushed, so that one loop decides on readings of one moment; a source that hears of a change at
once says `changed()`, and is then read at once. A push of values was rejected: a helper that hangs
pushes nothing, which looks like a desktop that nobody uses.

Two ways of failing are told apart. *Absent* is what this machine does not have, such as a screen
saver that is not installed: it has no say until it appears. *Unreadable* is what was there and no
longer answers: that counts as in use.

The sources must not know of each other, nor of the farm, nor what follows from what they say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from compilefarm.compile_host.desktop.presence import Reading

Changed = Callable[[], None]


class Absent(Exception):
    """This machine has no such source; the text says what is missing."""


class Source(Protocol):
    """One source, which is opened once; both `open` and `read` may be cancelled."""

    async def open(self, changed: Changed) -> None:
        """Begin; `changed` is called when it is worth reading at once. Raises `Absent`."""

    async def read(self) -> Reading:
        """Return what the source says now; raises `Unreadable`, for good."""

    async def close(self) -> None:
        """End, also what was opened in part only."""


# The names that users know, in the order in which they are told.
KNOWN = {
    "xscreensaver": "xscreensaver, by xscreensaver-command -watch",
    "gnome": "GNOME's screen saver, on the session bus",
    "kde": "KDE's screen locker, on the session bus",
    "freedesktop": "org.freedesktop.ScreenSaver, on the session bus",
    "logind": "the idle and locked hints of the seat's session, on the system bus",
    "x11": "time since the last input to the X display",
    "mutter": "time since the last input to a GNOME desktop",
    "wayland": "time since the last input to another Wayland desktop, by swayidle",
    "input": "time since the last event of /dev/input, where that may be read",
    "tty": "time since somebody typed on a terminal",
}


def make(name: str) -> Source:
    """Return a new source of a known name."""
    # Imported by need: the D-Bus library costs more than all else here.
    match name:
        case "xscreensaver":
            from compilefarm.compile_host.desktop.sources.xscreensaver import XScreenSaver

            return XScreenSaver()
        case "x11":
            from compilefarm.compile_host.desktop.sources.x11 import X11

            return X11()
        case "wayland":
            from compilefarm.compile_host.desktop.sources.wayland import Wayland

            return Wayland()
        case "input" | "tty":
            from compilefarm.compile_host.desktop.sources.devices import InputDevices, Terminals

            return Terminals() if name == "tty" else InputDevices()
        case "logind" | "mutter":
            from compilefarm.compile_host.desktop.sources.bus import Logind, Mutter

            return Logind() if name == "logind" else Mutter()
        case _:
            from compilefarm.compile_host.desktop.sources.bus import ScreenSaver

            return ScreenSaver(name)
