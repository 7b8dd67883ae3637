"""The sources that tell watch-ssaver whether a desktop is used, and their common interface.

A source is opened, read whenever the loop decides, and closed. Reading is a request and not a
notification, so that one loop decides on readings of one moment. A source that notices a change at
once calls `changed()`, and is then read at once. Sources that push values were rejected: a helper
program that hangs pushes nothing, which looks like an unused desktop.

A source can fail in two ways. It is *absent* if this machine does not have it, such as a screen
saver that is not installed. An absent source does not count until it appears. It is *unreadable* if
it was there and does not answer any more. That counts as in use.

Sources must not know each other, nor the farm, nor what follows from their readings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from compilefarm.compile_host.desktop.presence import Reading

Changed = Callable[[], None]


class Absent(Exception):
    """This machine has no such source; the text says what is missing."""


class Source(Protocol):
    """One source, which is opened once; `open` and `read` may be cancelled."""

    async def open(self, changed: Changed) -> None:
        """Start; it calls `changed` when it should be read at once. Raises `Absent`."""

    async def read(self) -> Reading:
        """Return what the source says now; after `Unreadable` it stays unreadable."""

    async def close(self) -> None:
        """Close the source, even if `open` failed half-way."""


# The names for users, in the order in which they are printed.
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
    "tty": "time since the last typing on a terminal",
}


def make(name: str) -> Source:
    """Return a new source of a known name."""
    # Imported when needed: the D-Bus library takes longer to import than all the rest.
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
