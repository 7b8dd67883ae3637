"""The sources on D-Bus: screen savers, GNOME's idle monitor, and logind.

Each source has its own connection. A shared one would save a socket, but the end of one source
would affect the others. A signal only means that it is worth asking again; the answer decides. A
desktop that hangs answers late or not at all. Between questions the last answer holds for some
seconds, because asking four times a second would keep the desktop awake for nothing.

Asking does not start a service: a service that does not run is absent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Any

from dbus_fast import Message, MessageFlag, MessageType
from dbus_fast.aio import MessageBus

from compilefarm.compile_host.desktop.presence import Reading
from compilefarm.compile_host.desktop.sources import Absent, Changed
from compilefarm.compile_host.processes import Unreadable

ANSWER_S = 1.0
CHECK_S = 5.0
DBUS = "org.freedesktop.DBus"
PROPERTIES = "org.freedesktop.DBus.Properties"
LOGIN = "org.freedesktop.login1"

# The library logs a lost bus with a traceback; we print one line instead.
logging.getLogger("dbus_fast").setLevel(logging.CRITICAL)


def session_bus() -> str:
    """Return the address of the user's own bus; raises `Absent`."""
    if address := os.environ.get("DBUS_SESSION_BUS_ADDRESS"):
        return address
    path = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}", "bus")
    if path.is_socket():
        return f"unix:path={path}"
    raise Absent("there is no session bus")


def system_bus() -> str:
    """Return the address of the system bus."""
    default = "unix:path=/var/run/dbus/system_bus_socket"
    return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or default


# The bus name of each screen saver, and the objects that may answer. KDE has two interfaces, and
# the common name has several paths.
SCREEN_SAVERS = {
    "gnome": ("org.gnome.ScreenSaver", [("/org/gnome/ScreenSaver", "org.gnome.ScreenSaver")]),
    "kde": (
        "org.kde.screensaver",
        [("/ScreenSaver", "org.freedesktop.ScreenSaver"), ("/ScreenSaver", "org.kde.screensaver")],
    ),
    "freedesktop": (
        "org.freedesktop.ScreenSaver",
        [
            ("/org/freedesktop/ScreenSaver", "org.freedesktop.ScreenSaver"),
            ("/ScreenSaver", "org.freedesktop.ScreenSaver"),
        ],
    ),
}


class Refusal(Exception):
    """The service answered with an error."""


class Service:
    """A name on a bus, while the program that owns it now keeps it."""

    def __init__(self, name: str, *signals: str) -> None:
        self._name = name
        self._signals = signals
        self._bus: MessageBus | None = None
        self._owner = ""
        self._lost = ""
        self._changed: Changed = lambda: None
        self._stale = True
        self._asked_s = 0.0
        self._end: asyncio.Task[None] | None = None

    async def open(self, address: str, changed: Changed) -> None:
        """Connect, and subscribe to the service's signals; raises `Absent`."""
        self._changed = changed
        asyncio.get_running_loop().set_exception_handler(_leave_out_lost_buses)
        try:
            async with asyncio.timeout(ANSWER_S):
                self._bus = await MessageBus(bus_address=address).connect()
        except Exception as error:  # the library raises its own, the system's, and EOFError
            raise Absent(f"no bus at {address}: {error}") from None
        self._end = asyncio.create_task(self._await_end(self._bus))
        self._bus.add_message_handler(self._hear)
        try:
            for rule in (
                f"sender='{DBUS}',member='NameOwnerChanged',arg0='{self._name}'",
                *(f"sender='{self._name}',member='{signal}'" for signal in self._signals),
            ):
                rule = f"type='signal',{rule}"
                await self._call(DBUS, "/org/freedesktop/DBus", DBUS, "AddMatch", "s", rule)
            owner = await self._call(
                DBUS, "/org/freedesktop/DBus", DBUS, "GetNameOwner", "s", self._name
            )
        except (Refusal, Unreadable):
            raise Absent(f"{self._name} is not on the bus") from None
        self._owner = owner

    async def close(self) -> None:
        """Disconnect."""
        if self._end is not None:
            self._end.cancel()
        if self._bus is not None:
            self._bus.disconnect()
            self._bus = None

    def worth_asking(self, check_s: float = CHECK_S) -> bool:
        """Return whether the last answer is old or the service sent a signal since; resets both.

        Raises `Unreadable`.
        """
        if self._lost:
            raise Unreadable(self._lost)
        now_s = time.monotonic()
        if self._stale or now_s - self._asked_s >= check_s:
            self._stale = False
            self._asked_s = now_s
            return True
        return False

    async def ask(
        self, path: str, interface: str, method: str, signature: str = "", *words: str
    ) -> Any:
        """Call a method; return the first value of its answer; raises `Unreadable`, `Refusal`."""
        if self._lost:
            raise Unreadable(self._lost)
        return await self._call(self._owner, path, interface, method, signature, *words)

    async def _call(
        self, to: str, path: str, interface: str, method: str, signature: str, *words: str
    ) -> Any:
        assert self._bus
        message = Message(
            destination=to,
            path=path,
            interface=interface,
            member=method,
            signature=signature,
            body=list(words),
            flags=MessageFlag.NO_AUTOSTART,
        )
        try:
            async with asyncio.timeout(ANSWER_S):
                answer: Message | None = await self._bus.call(message)
        except TimeoutError:
            raise Unreadable(f"{self._name} does not answer") from None
        except (OSError, EOFError) as error:
            raise Unreadable(f"the bus is lost ({error})") from None
        if answer is None:
            raise Unreadable("the bus is lost")
        if answer.message_type is MessageType.ERROR:
            raise Refusal(str(answer.body[0]) if answer.body else answer.error_name)
        return answer.body[0] if answer.body else None

    def _hear(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL or not self._owner:
            return
        if message.member == "NameOwnerChanged" and message.sender == DBUS:
            if message.body[0] == self._name:
                self._lose(f"{self._name} left the bus")
        elif message.sender == self._owner and message.member in self._signals:
            self._stale = True
            self._changed()

    async def _await_end(self, bus: MessageBus) -> None:
        with contextlib.suppress(OSError, EOFError):
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        self._lose("the bus is lost")

    def _lose(self, why: str) -> None:
        self._lost = self._lost or why
        self._changed()


def _leave_out_lost_buses(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Ignore the error that the library raises in the background when it sends to a lost bus."""
    if not isinstance(context.get("exception"), OSError) or "future" not in context:
        loop.default_exception_handler(context)


class ScreenSaver:
    """A desktop's screen saver or locker, which says whether it is active."""

    def __init__(self, desktop: str) -> None:
        self._name, self._places = SCREEN_SAVERS[desktop]
        self._service = Service(self._name, "ActiveChanged")
        self._reading = Reading("in use", "the screen saver is off")

    async def open(self, changed: Changed) -> None:
        await self._service.open(session_bus(), changed)
        for place in self._places:
            with contextlib.suppress(Refusal, Unreadable):
                if isinstance(await self._service.ask(*place, "GetActive"), bool):
                    self._places = [place]
                    return
        raise Absent(f"{self._name} does not say whether it is active")

    async def read(self) -> Reading:
        if self._service.worth_asking():
            try:
                active = await self._service.ask(*self._places[0], "GetActive")
            except Refusal as error:
                raise Unreadable(f"{self._name}: {error}") from None
            on = active is True
            self._reading = Reading(
                "unused" if on else "in use", f"the screen saver is {'on' if on else 'off'}"
            )
        return self._reading

    async def close(self) -> None:
        await self._service.close()


class Mutter:
    """GNOME's idle monitor: the time since the last input, on Wayland too."""

    NAME = "org.gnome.Mutter.IdleMonitor"
    PLACE = ("/org/gnome/Mutter/IdleMonitor/Core", "org.gnome.Mutter.IdleMonitor")

    def __init__(self) -> None:
        self._service = Service(self.NAME)

    async def open(self, changed: Changed) -> None:
        await self._service.open(session_bus(), changed)
        try:
            await self.read()
        except Unreadable as error:
            raise Absent(str(error)) from None

    async def read(self) -> Reading:
        try:
            idle_ms = await self._service.ask(*self.PLACE, "GetIdletime")
        except Refusal as error:
            raise Unreadable(f"{self.NAME}: {error}") from None
        if not isinstance(idle_ms, int):
            raise Unreadable(f"{self.NAME} returns no time")
        return Reading("unused", "no input", input_s=time.monotonic() - idle_ms / 1000)

    async def close(self) -> None:
        await self._service.close()


class Logind:
    """logind's hints about the session that has the seat (idle, locked), and the machine's sleep.

    logind does not look at the input of a graphical session; the desktop tells it. If no desktop
    has ever told it, the hint stays "not idle", so this source is silent. If the idle hint is
    withdrawn while the screen is locked, that counts as input: someone is about to unlock it.
    """

    CHECK_S = 2.0

    def __init__(self) -> None:
        self._service = Service(LOGIN, "PropertiesChanged", "PrepareForSleep")
        self._seat = ""
        self._session = ""
        self._hints_set = False  # by any program, for this session
        self._idle = False
        self._input_s: float | None = None
        self._reading = Reading("silent", "not asked yet")

    async def open(self, changed: Changed) -> None:
        await self._service.open(system_bus(), changed)
        seat = os.environ.get("XDG_SEAT") or "seat0"
        try:
            self._seat = await self._service.ask(
                "/org/freedesktop/login1", f"{LOGIN}.Manager", "GetSeat", "s", seat
            )
            await self._read()
        except (Refusal, Unreadable) as error:
            raise Absent(f"logind does not know {seat}: {error}") from None

    async def read(self) -> Reading:
        if self._service.worth_asking(self.CHECK_S):
            try:
                await self._read()
            except Refusal as error:
                raise Unreadable(f"logind: {error}") from None
        return self._reading

    async def close(self) -> None:
        await self._service.close()

    async def _read(self) -> None:
        if await self._property("/org/freedesktop/login1", "Manager", "PreparingForSleep"):
            self._input_s = time.monotonic()
            self._reading = Reading("in use", "the machine is going to sleep", self._input_s)
            return
        name, path = await self._property(self._seat, "Seat", "ActiveSession")
        if not name:
            self._reading = Reading("unused", "no user is logged in at the seat", self._input_s)
            return
        answer = await self._service.ask(path, PROPERTIES, "GetAll", "s", f"{LOGIN}.Session")
        session = {key: variant.value for key, variant in answer.items()}
        idle, locked = session.get("IdleHint") is True, session.get("LockedHint") is True
        if path != self._session:
            self._session = path
            self._hints_set = session.get("Type") == "tty"  # logind itself watches a terminal
            self._idle = idle
        if self._idle and not idle:
            self._input_s = time.monotonic()
        self._idle = idle
        self._hints_set |= idle or locked or bool(session.get("IdleSinceHint"))
        if session.get("Class") == "greeter":
            self._reading = Reading("unused", "the login screen is shown", self._input_s)
        elif idle or locked:
            why = f"session {name} is {'idle' if idle else 'locked'}"
            self._reading = Reading("unused", why, self._input_s)
        elif self._hints_set:
            self._reading = Reading("in use", f"session {name} is not idle", self._input_s)
        else:
            why = f"no program tells logind whether session {name} is idle"
            self._reading = Reading("silent", why)

    async def _property(self, path: str, interface: str, name: str) -> Any:
        variant = await self._service.ask(
            path, PROPERTIES, "Get", "ss", f"{LOGIN}.{interface}", name
        )
        return variant.value
