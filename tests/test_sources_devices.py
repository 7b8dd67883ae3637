"""watch-ssaver's sources that read terminals and input devices."""

from __future__ import annotations

import asyncio
import os
import pty
from pathlib import Path

import pytest
from desktop_session import (
    leave_desktop,
)
from open_source import opened

from compilefarm.compile_host.desktop.sources import Absent
from compilefarm.compile_host.desktop.sources.devices import InputDevices, Terminals


@pytest.fixture(autouse=True)
def _no_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_desktop(monkeypatch)


def test_typing_on_a_terminal_is_input(tmp_path: Path) -> None:
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
            # A change of the time counts, so a clock that was set back makes no difference.
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


def test_terminals_alone_are_silent_on_a_machine_with_a_display(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")

    async def scene() -> None:
        (tmp_path / "tty1").touch()
        async with opened(Terminals(tmp_path)) as source:
            assert (await source.read()).state == "silent"

    asyncio.run(scene())


def test_typing_on_a_real_terminal_is_input() -> None:
    async def scene() -> None:
        typist, terminal = pty.openpty()
        try:
            # Linux rounds to eight seconds, so the last input must be long ago.
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


def test_an_event_of_an_input_device_is_input(tmp_path: Path) -> None:
    for name in ("event0", "event1", "mouse0"):
        os.mkfifo(tmp_path / name)

    async def scene() -> None:
        async with opened(InputDevices(tmp_path)) as source:
            # A pipe without a writer would look like an unplugged device.
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


def test_devices_are_absent_if_one_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "event0")
    # Even root cannot open this.
    (tmp_path / "event1").symlink_to("nowhere")

    async def scene() -> None:
        with pytest.raises(Absent, match=r"event1: No such file"):
            async with opened(InputDevices(tmp_path)):
                pass

    asyncio.run(scene())
