"""watch-ssaver's sources against the real parts: X, xscreensaver, and services on a private bus."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from desktop_session import (
    SCREEN_SAVERS,
    MockedLogind,
    MockedScreenSaver,
    MockedService,
    ScreenSaver,
    bare_environment,
    bus,
    move_mouse,
    press_key,
    wayland_desktop,
    x_server,
)
from run_program import PATIENCE_S, eventually

from compilefarm.compile_host.desktop import sources
from compilefarm.compile_host.desktop.presence import Reading
from compilefarm.compile_host.desktop.sources import Absent, Source
from compilefarm.compile_host.desktop.sources.devices import InputDevices, Terminals
from compilefarm.compile_host.desktop.sources.x11 import local_display
from compilefarm.compile_host.processes import Unreadable

# It starts programs, many times.
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in set(os.environ) - set(bare_environment()):
        monkeypatch.delenv(key)
    for key, text in bare_environment().items():
        monkeypatch.setenv(key, text)


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with x_server() as (name, _):
        monkeypatch.setenv("DISPLAY", name)
        yield name


@pytest.fixture
def session_bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with bus() as (address, _):
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        yield address


@pytest.fixture
def logind(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockedLogind]:
    with bus() as (address, _), MockedLogind(address) as mocked:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        mocked.call("org.freedesktop.DBus.Mock.AddSeat", "string:seat0")
        yield mocked


class Open:
    """A source that is open, and the loop that reads it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._changed = asyncio.Event()

    async def open(self) -> None:
        await self._source.open(self._changed.set)

    async def read(self) -> Reading:
        return await self._source.read()

    async def says(self, state: str) -> Reading:
        """Wait until it says so; how it hears of a change is its own business."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                reading = await self._source.read()
                if reading.state == state:
                    return reading
                await asyncio.sleep(0.02)

    async def tells_at_once(self, state: str) -> None:
        """Wait until it calls for being read, and read it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await self._changed.wait()
                self._changed.clear()
                if (await self._source.read()).state == state:
                    return

    async def is_lost(self) -> str:
        """Wait until it cannot be read; return why."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await self._source.read()
                except Unreadable as error:
                    return str(error)
                await asyncio.sleep(0.02)


@asynccontextmanager
async def opened(source: Source | str) -> AsyncIterator[Open]:
    made = sources.make(source) if isinstance(source, str) else source
    try:
        open_source = Open(made)
        await open_source.open()
        yield open_source
    finally:
        await made.close()


async def off_thread(what: object, *arguments: object) -> None:
    assert callable(what)
    await asyncio.to_thread(what, *arguments)


@pytest.mark.parametrize("name", [name for name in sources.KNOWN if name not in ("tty", "input")])
def test_without_bus_and_display_a_source_is_absent(name: str) -> None:
    async def scene() -> None:
        with pytest.raises(Absent):
            async with opened(name):
                pass

    asyncio.run(scene())


@pytest.mark.needs("Xvfb")
@pytest.mark.parametrize("name", ["xscreensaver", "x11"])
def test_a_wayland_desktop_is_not_asked_by_way_of_x(
    name: str, monkeypatch: pytest.MonkeyPatch, display: str
) -> None:
    assert display
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")

    async def scene() -> None:
        with pytest.raises(Absent, match="Wayland"):
            async with opened(name):
                pass

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("name", "number"), [(":0", 0), (":12.0", 12), ("unix:3", 3), ("unix/:1", 1)]
)
def test_a_display_of_this_machine(name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", name)
    assert local_display() == number


@pytest.mark.parametrize("name", ["localhost:10.0", "desk7:0", "::1:0", ":x", "0", "[::1]:0"])
def test_a_display_of_another_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", name)
    with pytest.raises(Absent, match="not a display of this machine"):
        local_display()


@pytest.mark.needs("Xvfb", "xdotool")
def test_x11_counts_since_real_input(display: str) -> None:
    async def scene() -> None:
        async with opened("x11") as x11:
            before_s = time.monotonic()
            await off_thread(move_mouse, display)
            after_s = time.monotonic()
            # Without input, the last one stays where it is.
            for _ in range(4):
                asked_s = time.monotonic()
                reading = await x11.read()
                took_s = time.monotonic() - asked_s  # by so much it may be taken for later
                assert reading.state == "unused"
                assert reading.input_s is not None
                # It counts in milliseconds.
                assert before_s - 0.01 <= reading.input_s <= after_s + took_s + 0.01

    asyncio.run(scene())


@pytest.mark.needs("Xvfb")
def test_an_x_server_that_ends_or_hangs_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        with x_server() as (name, process):
            monkeypatch.setenv("DISPLAY", name)
            async with opened("x11") as first, opened("x11") as second:
                process.send_signal(signal.SIGSTOP)
                assert "does not answer" in await first.is_lost()
                process.send_signal(signal.SIGCONT)
                assert (await second.read()).state == "unused"
                process.kill()
                process.wait()
                assert "lost" in await second.is_lost()

    asyncio.run(scene())


@pytest.mark.needs("sway", "swayidle", "wtype")
def test_wayland_tells_of_real_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "swayidle").mkdir()
    (tmp_path / "swayidle" / "config").write_text(f"timeout 1 'touch {tmp_path}/done'\n")

    async def scene() -> None:
        with wayland_desktop() as (desktop, sway):
            for key, text in desktop.items():
                monkeypatch.setenv(key, text)
            async with opened("wayland") as source:
                first = await idles(source)
                assert (await source.read()).input_s == first
                await off_thread(press_key, desktop)
                await source.tells_at_once("unused")
                reading = await source.read()
                assert reading.input_s is not None
                assert reading.input_s > first + 1
                assert await idles(source) > first
                sway.kill()
                sway.wait()
                assert "swayidle ended" in await source.is_lost()
        assert not children("sh")

    asyncio.run(scene())
    assert not (tmp_path / "done").exists(), "it did what its user configured, once more"


async def idles(source: Open) -> float:
    """Wait until the last input is not now; return when it was."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            first = (await source.read()).input_s
            await asyncio.sleep(0.02)
            if first is not None and first == (await source.read()).input_s:
                return first


@pytest.mark.needs("swayidle")
def test_swayidle_without_a_desktop_is_absent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    async def scene() -> None:
        with pytest.raises(Absent, match="does not tell swayidle"):
            async with opened("wayland"):
                pass

    asyncio.run(scene())


@pytest.mark.needs("Xvfb", "xscreensaver", "xscreensaver-command")
def test_xscreensaver_comes_on_and_goes_off(display: str) -> None:
    async def scene() -> None:
        with ScreenSaver(display) as saver:
            async with opened("xscreensaver") as source:
                assert (await source.read()).state == "in use"
                await off_thread(saver.command, "-activate")
                await source.tells_at_once("unused")
                # Whoever comes later is told of the state too.
                async with opened("xscreensaver") as late:
                    assert (await late.read()).state == "unused"
                await off_thread(saver.command, "-deactivate")
                await source.tells_at_once("in use")

    asyncio.run(scene())


@pytest.mark.needs("Xvfb", "xscreensaver", "xscreensaver-command")
def test_an_xscreensaver_that_dies_is_lost(display: str) -> None:
    async def scene() -> None:
        with ScreenSaver(display) as saver:
            async with opened("xscreensaver") as source:
                await off_thread(saver.command, "-activate")
                await source.tells_at_once("unused")
                saver.process.kill()
                assert "not running" in await source.is_lost()
        with pytest.raises(Absent, match="not running"):
            async with opened("xscreensaver"):
                pass

    asyncio.run(scene())


@pytest.mark.needs("Xvfb", "xscreensaver", "xscreensaver-command")
def test_a_helper_that_dies_is_noticed(display: str) -> None:
    async def scene() -> None:
        with ScreenSaver(display):
            async with opened("xscreensaver") as source:
                for process in eventually(lambda: children("xscreensaver-command")):
                    os.kill(process, signal.SIGKILL)
                assert "-watch ended" in await source.is_lost()

    asyncio.run(scene())


def children(name: str) -> list[int]:
    """Return the ids of this process's children with this name."""
    import psutil

    found = []
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith(name[:15]):
                found.append(process.pid)
    return found


@pytest.mark.needs("dbus-daemon", "dbus-send", "dbusmock")
@pytest.mark.parametrize("desktop", ["gnome", "kde", "freedesktop"])
def test_a_screen_saver_on_the_bus(desktop: str, session_bus: str) -> None:
    async def scene() -> None:
        with MockedScreenSaver(session_bus, desktop) as saver:
            async with opened(desktop) as source:
                assert (await source.read()).state == "in use"
                for active, state in ((True, "unused"), (False, "in use")):
                    await off_thread(saver.activate, active)
                    await source.tells_at_once(state)
                saver.process.kill()
                assert "left the bus" in await source.is_lost()

    asyncio.run(scene())


@pytest.mark.needs("dbus-daemon", "dbus-send", "dbusmock")
def test_a_screen_saver_that_hangs_is_lost(session_bus: str) -> None:
    async def scene() -> None:
        with MockedScreenSaver(session_bus, "gnome") as saver:
            async with opened("gnome") as source:
                saver.process.send_signal(signal.SIGSTOP)
                assert "does not answer" in await source.is_lost()

    asyncio.run(scene())


@pytest.mark.needs("dbus-daemon", "dbus-send", "dbusmock")
def test_one_who_does_not_tell_is_absent(session_bus: str) -> None:
    # So does gnome-settings-daemon, which has the name for inhibiting only.
    place = SCREEN_SAVERS["freedesktop"]
    arguments = ("--session", *place)

    async def scene() -> None:
        service = MockedService(session_bus, *arguments, name=place[0], path=place[1])
        with service, pytest.raises(Absent, match="does not tell"):
            async with opened("freedesktop"):
                pass

    asyncio.run(scene())


@pytest.mark.needs("dbus-daemon", "dbus-send", "dbusmock")
def test_a_bus_that_ends_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        with bus() as (address, daemon):
            monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
            with MockedScreenSaver(address, "gnome"):
                async with opened("gnome") as source:
                    daemon.kill()
                    await source.is_lost()

    asyncio.run(scene())


@pytest.mark.needs("dbus-daemon", "dbus-send", "dbusmock")
def test_gnomes_idle_monitor(session_bus: str) -> None:
    name, path = "org.gnome.Mutter.IdleMonitor", "/org/gnome/Mutter/IdleMonitor/Core"
    words = (name, "GetIdletime", "", "t", "ret = 60000")

    async def scene() -> None:
        with MockedService(session_bus, "--session", name, path, name, name=name, path=path) as it:
            it.call("org.freedesktop.DBus.Mock.AddMethod", *(f"string:{word}" for word in words))
            async with opened("mutter") as source:
                reading = await source.read()
                assert reading.input_s == pytest.approx(time.monotonic() - 60, abs=PATIENCE_S)
                assert reading.state == "unused"
                it.process.kill()
                await source.is_lost()

    asyncio.run(scene())


@pytest.mark.needs("dbus-daemon", "dbus-send", "dbusmock")
def test_logind_tells_of_the_seats_session(logind: MockedLogind) -> None:
    async def scene() -> None:
        async with opened("logind") as source:
            assert (await source.says("unused")).why == "nobody is logged in at the seat"
            await off_thread(logind.add_session, "c1")
            # Nobody ever set a hint: "not idle" means nothing.
            assert "nobody tells logind" in (await source.says("silent")).why
            await off_thread(logind.hint, "c1", "IdleHint", True)
            await source.tells_at_once("unused")
            assert (await source.read()).input_s is None
            await off_thread(logind.hint, "c1", "IdleHint", False)
            await source.tells_at_once("in use")
            await off_thread(logind.hint, "c1", "LockedHint", True)
            await source.tells_at_once("unused")
            # The owner comes back to a screen that is locked and went to sleep over it.
            await off_thread(logind.hint, "c1", "IdleHint", True)
            await source.says("unused")
            before_s = time.monotonic()
            await off_thread(logind.hint, "c1", "IdleHint", False)
            await source.tells_at_once("unused")
            input_s = (await source.read()).input_s
            assert input_s is not None
            assert input_s >= before_s
            # Another user's session gets the seat.
            await off_thread(logind.add_session, "c2")
            await source.says("silent")

    asyncio.run(scene())


@pytest.mark.needs("dbus-daemon", "dbus-send", "dbusmock")
def test_logind_tells_that_the_machine_goes_to_sleep(logind: MockedLogind) -> None:
    async def scene() -> None:
        logind.add_session("c1")
        logind.hint("c1", "LockedHint", True)
        async with opened("logind") as source:
            await source.says("unused")
            await off_thread(logind.sleep, True)
            await source.tells_at_once("in use")
            await off_thread(logind.sleep, False)
            await source.tells_at_once("unused")
            # Who woke it is here.
            assert (await source.read()).input_s is not None

    asyncio.run(scene())


@pytest.mark.needs("dbus-daemon", "dbus-send", "dbusmock")
def test_a_machine_without_a_seat_has_no_logind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        with bus() as (address, _), MockedLogind(address):
            monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
            with pytest.raises(Absent, match="seat0"):
                async with opened("logind"):
                    pass

    asyncio.run(scene())


def test_typing_on_a_terminal(tmp_path: Path) -> None:
    async def scene() -> None:
        (tmp_path / "pts").mkdir()
        terminal = tmp_path / "pts" / "0"
        terminal.touch()
        (tmp_path / "pts" / "ptmx").touch()
        async with opened(Terminals(tmp_path)) as source:
            first = await source.read()
            assert first.state in ("unused", "silent")  # silent where X runs
            assert not first.sees_screen
            assert (await source.read()).input_s == first.input_s
            # Not the time but its change counts, so a clock that was set back is no matter.
            os.utime(terminal, (0, 0))
            second = await source.read()
            assert second.input_s is not None
            assert first.input_s is not None
            assert second.input_s > first.input_s
            (tmp_path / "tty1").touch()
            third = await source.read()
            assert third.input_s is not None
            assert third.input_s > second.input_s
            terminal.unlink()
            assert (await source.read()).input_s == third.input_s

    asyncio.run(scene())


def test_a_machine_with_a_display_is_not_unused_for_want_of_typing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")

    async def scene() -> None:
        (tmp_path / "tty1").touch()
        async with opened(Terminals(tmp_path)) as source:
            assert (await source.read()).state == "silent"

    asyncio.run(scene())


def test_a_real_terminal_tells_when_somebody_typed() -> None:
    async def scene() -> None:
        typist, terminal = pty.openpty()
        try:
            # Linux rounds to eight seconds; a time long ago stands for a long pause.
            os.utime(os.ttyname(terminal), (0, 0))
            async with opened(Terminals()) as source:
                first = await source.read()
                os.write(typist, b"hello\n")
                os.read(terminal, 100)
                second = await source.read()
                assert first.input_s is not None
                assert second.input_s is not None
                assert second.input_s > first.input_s
        finally:
            os.close(typist)
            os.close(terminal)

    asyncio.run(scene())


def test_events_of_an_input_device(tmp_path: Path) -> None:
    for name in ("event0", "event1", "mouse0"):
        os.mkfifo(tmp_path / name)

    async def scene() -> None:
        async with opened(InputDevices(tmp_path)) as source:
            # A pipe with nobody at its other end would be an unplugged device.
            keyboard = os.open(tmp_path / "event0", os.O_WRONLY)
            mouse = os.open(tmp_path / "event1", os.O_WRONLY)
            first = await source.read()
            assert (await source.read()).input_s == first.input_s
            os.write(keyboard, bytes(24))
            second = await source.read()
            assert second.input_s is not None
            assert first.input_s is not None
            assert second.input_s > first.input_s
            assert (await source.read()).input_s == second.input_s
            os.close(keyboard)
            os.close(mouse)

    asyncio.run(scene())


def test_devices_of_which_not_all_may_be_read_are_absent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "event0")
    # Nobody can open this, not even root.
    (tmp_path / "event1").symlink_to("nowhere")

    async def scene() -> None:
        with pytest.raises(Absent, match=r"event1: No such file"):
            async with opened(InputDevices(tmp_path)):
                pass

    asyncio.run(scene())
