"""Battery power: the machine's own battery counts, a mouse's does not, and doubt counts as yes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from compilefarm.compile_host.desktop.battery import on_battery

Supply = dict[str, str]
MAINS_ON: Supply = {"type": "Mains", "online": "1"}
MAINS_OFF: Supply = {"type": "Mains", "online": "0"}
USB_OFF: Supply = {"type": "USB", "online": "0"}
USB_ON: Supply = {"type": "USB", "online": "1"}
MOUSE: Supply = {"type": "Battery", "scope": "Device", "status": "Discharging"}


def battery(status: str) -> Supply:
    return {"type": "Battery", "status": status}


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ([], False),
        ([MAINS_ON, battery("Charging")], False),
        ([MAINS_ON, battery("Discharging")], False),  # calibrating, or a weak charger
        ([MAINS_OFF, battery("Discharging")], True),
        ([MAINS_OFF, battery("Unknown")], True),
        ([MAINS_OFF, {"type": "Battery"}], True),
        ([battery("Full")], False),
        ([battery("Not charging")], False),
        ([battery("Full"), battery("Discharging")], True),
        ([MAINS_OFF, USB_ON, battery("Charging")], False),
        ([USB_OFF, battery("Discharging")], True),
        ([MOUSE], False),
        ([MAINS_ON, MOUSE], False),
        ([{"type": "UPS", "status": "Discharging"}], True),
    ],
)
def test_batteries_on_linux(supplies: list[Supply], expected: bool, tmp_path: Path) -> None:
    for number, supply in enumerate(supplies):
        directory = tmp_path / f"supply{number}"
        directory.mkdir()
        for name, text in supply.items():
            (directory / name).write_text(f"{text}\n")
    assert on_battery(tmp_path) is expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, False),
        (SimpleNamespace(power_plugged=True), False),
        (SimpleNamespace(power_plugged=False), True),
    ],
)
def test_batteries_on_other_systems(
    said: SimpleNamespace | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: said, raising=False)
    assert on_battery(tmp_path / "nothing") is expected
