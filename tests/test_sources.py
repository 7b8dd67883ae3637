"""watch-ssaver's sources with a real X server, xscreensaver and a Wayland desktop."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from desktop_session import (
    ScreenSaver,
    leave_desktop,
    move_mouse,
    press_key,
    wayland_desktop,
    x_server,
)
from open_source import OpenSource, off_thread, opened
from run_program import PATIENCE_S, eventually

from compilefarm.compile_host.desktop import sources
from compilefarm.compile_host.desktop.sources import Absent
from compilefarm.compile_host.desktop.sources.x11 import local_display

# It starts programs, many times.
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_desktop(monkeypatch)


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with x_server() as (name, _):
        monkeypatch.setenv("DISPLAY", name)
        yield name


@pytest.mark.parametrize("name", [name for name in sources.KNOWN if name not in ("tty", "input")])
def test_without_bus_and_display_a_source_is_absent(name: str) -> None:
    async def scene() -> None:
        with pytest.raises(Absent):
            async with opened(name):
                pass

    asyncio.run(scene())


@pytest.mark.needs("Xvfb")
@pytest.mark.parametrize("name", ["xscreensaver", "x11"])
def test_x_sources_are_absent_on_a_wayland_desktop(
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
def test_a_display_of_this_machine_has_a_number(
    name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", name)
    assert local_display() == number


@pytest.mark.parametrize("name", ["localhost:10.0", "desk7:0", "::1:0", ":x", "0", "[::1]:0"])
def test_a_display_of_another_machine_is_absent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", name)
    with pytest.raises(Absent, match="not a display of this machine"):
        local_display()


@pytest.mark.needs("Xvfb", "xdotool")
def test_x11_knows_the_time_of_the_last_input(display: str) -> None:
    async def scene() -> None:
        async with opened("x11") as x11:
            before_s = time.monotonic()
            await off_thread(move_mouse, display)
            after_s = time.monotonic()
            # Without new input, the time of the last one stays the same.
            for _ in range(4):
                asked_s = time.monotonic()
                reading = await x11.read()
                took_s = time.monotonic() - asked_s  # the reading may be off by this much
                assert reading.state == "unused"
                assert reading.input_s is not None
                # X11 counts in milliseconds.
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
def test_wayland_knows_the_time_of_the_last_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
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
                await source.reports_at_once("unused")
                reading = await source.read()
                assert reading.input_s is not None
                assert reading.input_s > first + 1
                assert await idles(source) > first
                sway.kill()
                sway.wait()
                assert "swayidle ended" in await source.is_lost()
        assert not children("sh")

    asyncio.run(scene())
    assert not (tmp_path / "done").exists(), "swayidle read the user's configuration"


async def idles(source: OpenSource) -> float:
    """Wait until the last input is in the past; return its time."""
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
def test_xscreensaver_goes_on_and_off(display: str) -> None:
    async def scene() -> None:
        with ScreenSaver(display) as saver:
            async with opened("xscreensaver") as source:
                assert (await source.read()).state == "in use"
                await off_thread(saver.command, "-activate")
                await source.reports_at_once("unused")
                # A source that is opened later knows the state too.
                async with opened("xscreensaver") as late:
                    assert (await late.read()).state == "unused"
                await off_thread(saver.command, "-deactivate")
                await source.reports_at_once("in use")

    asyncio.run(scene())


@pytest.mark.needs("Xvfb", "xscreensaver", "xscreensaver-command")
def test_an_xscreensaver_that_dies_is_lost(display: str) -> None:
    async def scene() -> None:
        with ScreenSaver(display) as saver:
            async with opened("xscreensaver") as source:
                await off_thread(saver.command, "-activate")
                await source.reports_at_once("unused")
                saver.process.kill()
                assert "not running" in await source.is_lost()
        with pytest.raises(Absent, match="not running"):
            async with opened("xscreensaver"):
                pass

    asyncio.run(scene())


@pytest.mark.needs("Xvfb", "xscreensaver", "xscreensaver-command")
def test_an_xscreensaver_command_that_dies_is_noticed(display: str) -> None:
    async def scene() -> None:
        with ScreenSaver(display):
            async with opened("xscreensaver") as source:
                for process in eventually(lambda: children("xscreensaver-command")):
                    os.kill(process, signal.SIGKILL)
                assert "-watch ended" in await source.is_lost()

    asyncio.run(scene())


def children(name: str) -> list[int]:
    """Return the process ids of this process's children with this name."""
    import psutil

    found = []
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith(name[:15]):
                found.append(process.pid)
    return found
