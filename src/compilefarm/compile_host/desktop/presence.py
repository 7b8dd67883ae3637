"""Whether a desktop is in use, decided from the readings of its sources. Pure; time is an argument.

Every doubt counts for the owner. The desktop is unused only while all of these hold:

- the time of day is within the hours, and the machine is not on battery if that counts as use;
- at least one source says *unused*, no source says *in use*, and every source can be read;
- the last input known to any source, and the last wake-up from sleep, are at least `idle_after_s`
  ago;
- all of this has held for the back-off.

A *silent* source neither agrees nor objects. It sees that there is a desktop, but not whether it is
used; an example is a logind whose hints no program sets. Then a source that sees the screen must
say *unused*. Terminals do not show whether someone reads a page in a browser.

The back-off is for a mouse that is nudged every minute. Leaving the farm is never delayed. Coming
back is delayed after a short stay, by half a minute at first. Each further short stay doubles the
delay, up to half an hour, and a stay of ten minutes ends it. A fixed delay was rejected: if it were
long enough for such a mouse, every lunch break would cost as much. Averaging the owner's habits was
rejected too: no user could see why a machine is not in the farm.

Idle times are on the monotonic clock, so setting the clock affects only the hours. That clock may
stand still while the machine sleeps. A wake-up therefore counts as input: someone sits at the
machine.

This module must not know what a source is, nor what follows from the verdict.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

IDLE_AFTER_S = 300.0
BACK_OFF_FIRST_S = 30.0
BACK_OFF_MAX_S = 1800.0
LONG_STAY_S = 600.0
# A system that counts its sleep counts exactly. On other systems sleep shows only as a jump of the
# wall clock, which is also set by some seconds now and then.
COUNTED_SLEEP_S = 1.0
GUESSED_SLEEP_S = 60.0

State = Literal["in use", "unused", "silent", "unreadable"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one source says.

    `input_s` is the last input that the source knows of, on the monotonic clock. `why` is part of a
    sentence, such as "the screen saver is off".
    """

    state: State
    why: str
    input_s: float | None = None
    sees_screen: bool = True


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment on every clock; `asleep_s` is the sleep since boot, None if nothing counts it."""

    monotonic_s: float
    wall_s: float
    minute_of_day: int
    asleep_s: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the desktop is in use, since when (wall clock), and why.

    `backing_off`: only the back-off keeps the desktop in use.
    """

    in_use: bool
    since_s: float
    why: str
    backing_off: bool = False


class Hours:
    """Spans of time in a day, such as `12:00-13:00,19:00-07:00`; raises `ValueError`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._spans = [_span(part.strip()) for part in text.split(",")]

    def __str__(self) -> str:
        return self._text

    def contain(self, minute_of_day: int) -> bool:
        """Return whether a minute, 0 to 1439, is in one of the spans."""
        return any(
            first <= minute_of_day < end
            if first < end
            else minute_of_day >= first or minute_of_day < end
            for first, end in self._spans
        )


def _span(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)", text, re.ASCII)
    if found:
        first, first_minute, end, end_minute = map(int, found.groups())
        begin = first * 60 + first_minute
        finish = end * 60 + end_minute
        minutes_fit = first_minute < 60 and end_minute < 60
        if minutes_fit and begin < 24 * 60 and finish <= 24 * 60 and begin != finish:
            return begin, finish
    raise ValueError(f"'{text}' is not a span of hours such as 19:00-07:00")


@dataclass(frozen=True, slots=True)
class Settings:
    """The owner's settings; `hours` None means all day."""

    idle_after_s: float = IDLE_AFTER_S
    hours: Hours | None = None
    battery_is_use: bool = True


class Presence:
    """Decides at each moment anew, and remembers what the next decision needs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._verdict: Verdict | None = None
        self._last: Moment | None = None
        self._woke_s: float | None = None
        self._quiet_since_s: float | None = None
        self._came_in_s = 0.0
        self.back_off_s = 0.0

    def decide(
        self, now: Moment, readings: Mapping[str, Reading], *, on_battery: bool = False
    ) -> Verdict:
        """Return the verdict at this moment; `readings` are those of the sources, by name."""
        self._notice_sleep(now)
        backing_off = False
        why = self._why_in_use(now, readings, on_battery=on_battery)
        if why:
            self._quiet_since_s = None
            if self._verdict and not self._verdict.in_use:
                self._back_off(now.monotonic_s - self._came_in_s)
        else:
            if self._quiet_since_s is None:
                self._quiet_since_s = now.monotonic_s
            left_s = self._quiet_since_s + self.back_off_s - now.monotonic_s
            if left_s > 0:
                backing_off = True
                why = (
                    f"the last stay was short; it comes back after {_duration(left_s)} without use"
                )
        in_use = bool(why)
        if self._verdict is None or self._verdict.in_use != in_use:
            self._came_in_s = now.monotonic_s
            since_s = now.wall_s
        else:
            since_s = self._verdict.since_s
        self._verdict = Verdict(in_use, since_s, why or _agreement(readings), backing_off)
        return self._verdict

    def _why_in_use(self, now: Moment, readings: Mapping[str, Reading], *, on_battery: bool) -> str:
        """Return why the desktop counts as in use, or ""."""
        settings = self._settings
        if settings.hours and not settings.hours.contain(now.minute_of_day):
            return f"it is not within {settings.hours}"
        if on_battery and settings.battery_is_use:
            return "it runs on battery"
        return (
            _objection(readings)
            or self._recent_input(now.monotonic_s, readings)
            or self._recent_wake_up(now.monotonic_s)
            or _lack_of_agreement(readings)
        )

    def _recent_input(self, now_s: float, readings: Mapping[str, Reading]) -> str:
        for name, reading in readings.items():
            if reading.input_s is not None:
                idle_s = max(0.0, now_s - reading.input_s)
                if idle_s < self._settings.idle_after_s:
                    return f"{name}: input {_duration(idle_s)} ago"
        return ""

    def _recent_wake_up(self, now_s: float) -> str:
        if self._woke_s is None:
            return ""
        awake_s = now_s - self._woke_s
        if awake_s >= self._settings.idle_after_s:
            return ""
        return f"the machine woke up {_duration(awake_s)} ago"

    def _back_off(self, stay_s: float) -> None:
        if stay_s >= LONG_STAY_S:
            self.back_off_s = 0.0
        else:
            self.back_off_s = min(max(BACK_OFF_FIRST_S, 2 * self.back_off_s), BACK_OFF_MAX_S)

    def _notice_sleep(self, now: Moment) -> None:
        before, self._last = self._last, now
        if before is None:
            return
        if now.asleep_s is None or before.asleep_s is None:
            passed_s = now.monotonic_s - before.monotonic_s
            asleep = now.wall_s - before.wall_s - passed_s >= GUESSED_SLEEP_S
        else:
            asleep = now.asleep_s - before.asleep_s >= COUNTED_SLEEP_S
        if asleep:
            self._woke_s = now.monotonic_s


def _objection(readings: Mapping[str, Reading]) -> str:
    """Return why a source says that the desktop is in use, or cannot be read; else ""."""
    for state in ("in use", "unreadable"):
        for name, reading in readings.items():
            if reading.state == state:
                return f"{name}: {reading.why}"
    return ""


def _lack_of_agreement(readings: Mapping[str, Reading]) -> str:
    """Return why no source can say that the desktop is unused; "" if one can."""
    agreeing = [reading for reading in readings.values() if reading.state == "unused"]
    silent = [f"{name}: {r.why}" for name, r in readings.items() if r.state == "silent"]
    if silent and not any(reading.sees_screen for reading in agreeing):
        return silent[0]
    return "" if agreeing else "no source can tell whether it is used"


def _agreement(readings: Mapping[str, Reading]) -> str:
    return ", ".join(
        f"{name}: {reading.why}" for name, reading in readings.items() if reading.state == "unused"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
