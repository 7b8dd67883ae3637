"""watch-ssaver's sources on D-Bus, with mocked services on a private bus."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest
from desktop_session import (
    SCREEN_SAVERS,
    MockedLogind,
    MockedScreenSaver,
    MockedService,
    bus,
    leave_desktop,
)
from open_source import off_thread, opened
from run_program import PATIENCE_S

from compilefarm.compile_host.desktop.sources import Absent

# It starts programs, many times.
pytestmark = [pytest.mark.slow, pytest.mark.needs("dbus-daemon", "dbus-send", "dbusmock")]


@pytest.fixture(autouse=True)
def _no_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_desktop(monkeypatch)


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


@pytest.mark.parametrize("desktop", ["gnome", "kde", "freedesktop"])
def test_a_screen_saver_on_the_bus_goes_on_and_off(desktop: str, session_bus: str) -> None:
    async def scene() -> None:
        with MockedScreenSaver(session_bus, desktop) as saver:
            async with opened(desktop) as source:
                assert (await source.read()).state == "in use"
                for active, state in ((True, "unused"), (False, "in use")):
                    await off_thread(saver.activate, active)
                    await source.reports_at_once(state)
                saver.process.kill()
                assert "left the bus" in await source.is_lost()

    asyncio.run(scene())


def test_a_screen_saver_that_hangs_is_lost(session_bus: str) -> None:
    async def scene() -> None:
        with MockedScreenSaver(session_bus, "gnome") as saver:
            async with opened("gnome") as source:
                saver.process.send_signal(signal.SIGSTOP)
                assert "does not answer" in await source.is_lost()

    asyncio.run(scene())


def test_a_screen_saver_without_a_state_is_absent(session_bus: str) -> None:
    # gnome-settings-daemon does this: it owns the name only to inhibit screen savers.
    place = SCREEN_SAVERS["freedesktop"]
    arguments = ("--session", *place)

    async def scene() -> None:
        service = MockedService(session_bus, *arguments, name=place[0], path=place[1])
        with service, pytest.raises(Absent, match="does not say"):
            async with opened("freedesktop"):
                pass

    asyncio.run(scene())


def test_a_bus_that_ends_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        with bus() as (address, daemon):
            monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
            with MockedScreenSaver(address, "gnome"):
                async with opened("gnome") as source:
                    daemon.kill()
                    await source.is_lost()

    asyncio.run(scene())


def test_gnomes_idle_monitor_knows_the_time_of_the_last_input(session_bus: str) -> None:
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


def test_logind_knows_whether_the_seats_session_is_idle(logind: MockedLogind) -> None:
    async def scene() -> None:
        async with opened("logind") as source:
            assert (await source.says("unused")).why == "no user is logged in at the seat"
            await off_thread(logind.add_session, "c1")
            # No program has set a hint yet, so "not idle" means nothing.
            assert "no program tells logind" in (await source.says("silent")).why
            await off_thread(logind.hint, "c1", "IdleHint", True)
            await source.reports_at_once("unused")
            assert (await source.read()).input_s is None
            await off_thread(logind.hint, "c1", "IdleHint", False)
            await source.reports_at_once("in use")
            await off_thread(logind.hint, "c1", "LockedHint", True)
            await source.reports_at_once("unused")
            # The owner comes back to a screen that was locked, and then became idle.
            await off_thread(logind.hint, "c1", "IdleHint", True)
            await source.says("unused")
            before_s = time.monotonic()
            await off_thread(logind.hint, "c1", "IdleHint", False)
            await source.reports_at_once("unused")
            input_s = (await source.read()).input_s
            assert input_s is not None
            assert input_s >= before_s
            # Another user's session gets the seat.
            await off_thread(logind.add_session, "c2")
            await source.says("silent")

    asyncio.run(scene())


def test_logind_knows_that_the_machine_goes_to_sleep(logind: MockedLogind) -> None:
    async def scene() -> None:
        logind.add_session("c1")
        logind.hint("c1", "LockedHint", True)
        async with opened("logind") as source:
            await source.says("unused")
            await off_thread(logind.sleep, True)
            await source.reports_at_once("in use")
            await off_thread(logind.sleep, False)
            await source.reports_at_once("unused")
            # The wake-up counts as input.
            assert (await source.read()).input_s is not None

    asyncio.run(scene())


def test_logind_is_absent_without_a_seat(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        with bus() as (address, _), MockedLogind(address):
            monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
            with pytest.raises(Absent, match="seat0"):
                async with opened("logind"):
                    pass

    asyncio.run(scene())
