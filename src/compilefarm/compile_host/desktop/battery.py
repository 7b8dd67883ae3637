"""Whether this machine runs on battery.

Linux lists power supplies in /sys/class/power_supply, the batteries of mice and headsets among
them. psutil mistakes one of those for the machine's own, so Linux is read here, and psutil serves
the other systems. A battery whose state cannot be read counts as in use.
"""

from __future__ import annotations

from pathlib import Path

SUPPLIES = Path("/sys/class/power_supply")
STORES = ("Battery", "UPS")


def on_battery(supplies: Path = SUPPLIES) -> bool:
    """Return whether the machine runs on a battery now."""
    try:
        found = list(supplies.iterdir())
    except OSError:
        return _psutil_says_so()
    drawn = False
    for supply in found:
        if _read(supply / "type") not in STORES:
            if _read(supply / "online") not in ("0", ""):
                return False
        elif _read(supply / "scope") != "Device":
            drawn |= _read(supply / "status") not in ("Charging", "Full", "Not charging")
    return drawn


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


def _psutil_says_so() -> bool:
    import psutil

    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return battery is not None and battery.power_plugged is False
