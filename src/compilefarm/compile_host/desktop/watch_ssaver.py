"""watch-ssaver: this machine is in the farm while its owner does not use it.

One loop reads all sources (sources/), lets presence.py decide, and calls desktop.py to act on the
decision. It runs at once when a source reports a change. The owner may come at any time, and some
sources have to be polled. So it runs four times a second while the desktop is unused. While the
desktop is in use, once in two seconds is enough, because coming back is slow anyway.

Slow work runs beside the loop: finding a source, and adding the machine to the farm. Adding is
cancelled if the owner comes back meanwhile; leaving never is.

Afterwards the machine is out of the farm, however this program ends. On a signal it leaves the farm
itself. If it is killed, its guard (guard.py) does that.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from compilefarm.compile_host.desktop import sources
from compilefarm.compile_host.desktop.battery import on_battery
from compilefarm.compile_host.desktop.desktop import Desktop, add_desktop_options
from compilefarm.compile_host.desktop.guard import Guard
from compilefarm.compile_host.desktop.presence import (
    IDLE_AFTER_S,
    Hours,
    Moment,
    Presence,
    Reading,
    Settings,
    Verdict,
)
from compilefarm.compile_host.enable import host_of
from compilefarm.compile_host.load.machine import this_machine
from compilefarm.compile_host.processes import Unreadable
from compilefarm.compile_host.run_directory import RunError, locked
from compilefarm.programs.connection import Refused, Unreachable
from compilefarm.programs.options import Parser, complain, ending_signals, seconds
from compilefarm.protocol.address import Address

PROGRAM = "watch-ssaver"
LOOK_UNUSED_S = 0.25
LOOK_IN_USE_S = 2.0
BATTERY_S = 5.0
# Time for a source to answer before it counts as unreadable. The machine must be out of the farm
# within a second, so this is half of it.
READ_S = 0.5
OPEN_S = 10.0
PAUSE_MIN_S = 1.0
PAUSE_MAX_S = 30.0
LEAVE_S = 20.0

Say = Callable[[str], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `watch-ssaver` with these arguments, by default the command line's; return its status."""
    parser = Parser(PROGRAM, "Keep this machine in the farm while its owner does not use it.")
    add_desktop_options(parser)
    parser.add_argument(
        "--source", type=_source_names, metavar="NAME[,NAME]",
        help="use only these sources (default: all that are found)",
    )  # fmt: skip
    parser.add_argument(
        "--list-sources", action="store_true", help="print what each source says now, and exit"
    )
    parser.add_argument(
        "--idle-after", type=seconds, default=IDLE_AFTER_S, metavar="SECONDS",
        help=f"time without input until the desktop is unused (default: {IDLE_AFTER_S:.0f})",
    )  # fmt: skip
    parser.add_argument(
        "--hours", type=_hours, metavar="HH:MM-HH:MM[,...]",
        help="be in the farm only at these hours, such as 19:00-07:00 (default: all day)",
    )  # fmt: skip
    parser.add_argument(
        "--on-battery", choices=["never", "always"], default="never",
        help="whether to be in the farm while on battery (default: never)",
    )  # fmt: skip
    parser.add_argument(
        "--print-unit", action="store_true",
        help="print a systemd user unit that runs it with the other options, and exit",
    )  # fmt: skip
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(words)
    if options.list_sources:
        return asyncio.run(_list_sources(options.source or list(sources.KNOWN)))
    candidates = parser.servers(options)
    if options.print_unit:
        print(unit(options, words, candidates), end="")
        return 0
    host = host_of(options)
    try:
        with locked(
            options.run_dir, f"{PROGRAM}-{host}", this_machine(), create=True, wait=False
        ) as lock:
            if lock is None:
                raise RunError(f"another {PROGRAM} already watches {host}")
            return asyncio.run(_watch(options, candidates))
    except RunError as error:
        return complain(PROGRAM, error)


class FollowedSource:
    """One source, opened when possible, and opened again after it was lost.

    `named` says that the user named it, so it counts even if it was never there.
    """

    def __init__(self, name: str, changed: sources.Changed, say: Say, *, named: bool) -> None:
        self.name = name
        self._changed = changed
        self._say = say
        self._source: sources.Source | None = None
        self._opening: asyncio.Task[None] | None = None
        # A source that was named, or was there once, counts while it is away.
        self._counts = named
        self._missed = False
        self._trouble = "not found yet"
        self._pause_s = PAUSE_MIN_S
        self._next_try_s = 0.0

    @property
    def there(self) -> bool:
        """Whether the source can be read."""
        return self._source is not None

    @property
    def trouble(self) -> str:
        """Why the source cannot be read."""
        return self._trouble

    async def try_to_open(self) -> None:
        """Open the source if possible; else remember why not, and when to try again."""
        source = sources.make(self.name)
        try:
            async with asyncio.timeout(OPEN_S):
                await source.open(self._changed)
                await source.read()
        except BaseException as error:
            await source.close()
            if not isinstance(error, sources.Absent | Unreadable | OSError):
                raise
            self._next_try_s = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
            self._trouble = str(error) or "it does not answer"
            self._missed = True
            return
        if self._missed:
            self._say(f"{self.name} can be read now")
            self._missed = False
        self._source = source
        self._counts = True
        self._pause_s = PAUSE_MIN_S
        self._changed()

    async def read(self) -> Reading | None:
        """Return what the source says; None if it does not count."""
        if self._source is None:
            if self._opening is not None and self._opening.done():
                self._opening.result()  # an unexpected error ends the program, not only the source
                self._opening = None
            if self._opening is None and time.monotonic() >= self._next_try_s:
                self._opening = asyncio.create_task(self.try_to_open())
            return Reading("unreadable", self._trouble) if self._counts else None
        try:
            async with asyncio.timeout(READ_S):
                return await self._source.read()
        except (Unreadable, TimeoutError) as error:
            self._trouble = str(error) or "it does not answer"
            self._missed = True
            self._say(f"{self.name} cannot be read: {self._trouble}")
            lost, self._source = self._source, None
            self._opening = asyncio.create_task(lost.close())
            return Reading("unreadable", self._trouble)

    async def close(self) -> None:
        """Close the source."""
        if self._opening is not None:
            self._opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._opening
        if self._source is not None:
            await self._source.close()


class Watcher:
    """The loop: it reads the sources, decides, and acts."""

    def __init__(
        self,
        followed: Callable[[sources.Changed], Sequence[FollowedSource]],
        presence: Presence,
        desktop: Desktop,
        guard: Guard,
        say: Say,
    ) -> None:
        self._guard = guard
        self._news = asyncio.Event()
        self._followed = followed(self._news.set)
        self._presence = presence
        self._desktop = desktop
        self._say = say
        self._on_battery = False
        self._battery_read_s = -BATTERY_S
        self._verdict: Verdict | None = None
        # The presence that the desktop has acted on; None at first, and after a failure.
        self._acted_on: bool | None = None
        self._action: asyncio.Task[None] | None = None
        self._action_in_use = True
        self._pause_s = PAUSE_MIN_S
        self._next_try_s = 0.0

    async def run(self) -> None:
        """Watch until cancelled."""
        await asyncio.gather(*(each.try_to_open() for each in self._followed))
        self._say_sources()
        while True:
            self._news.clear()
            self._guard.ensure_running()
            verdict = await self._decide()
            self._act(verdict)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_IN_USE_S if verdict.in_use else LOOK_UNUSED_S):
                    await self._news.wait()

    async def close(self) -> None:
        """Cancel the current action, and close the sources."""
        if self._action is not None:
            self._action.cancel()
            await asyncio.wait([self._action])
        await asyncio.gather(*(each.close() for each in self._followed))

    def _say_sources(self) -> None:
        found = [each.name for each in self._followed if each.there]
        self._say(f"sources: {', '.join(found) or 'none'}")
        for each in self._followed:
            if not each.there:
                self._say(f"no {each.name}: {each.trouble}")

    async def _decide(self) -> Verdict:
        readings = await asyncio.gather(*(each.read() for each in self._followed))
        now = moment()
        if now.monotonic_s - self._battery_read_s >= BATTERY_S:
            self._battery_read_s = now.monotonic_s
            self._on_battery = on_battery()
        by_name = {
            each.name: reading
            for each, reading in zip(self._followed, readings, strict=True)
            if reading is not None
        }
        verdict = self._presence.decide(now, by_name, on_battery=self._on_battery)
        before = self._verdict
        if before is None or before.in_use != verdict.in_use:
            self._say(f"{'in use' if verdict.in_use else 'unused'}: {verdict.why}")
        elif verdict.backing_off and not before.backing_off:
            self._say(f"still in use: {verdict.why}")
        self._verdict = verdict
        return verdict

    def _act(self, verdict: Verdict) -> None:
        if self._action is not None and not self._action.done():
            if verdict.in_use and not self._action_in_use:
                self._action.cancel()
            return
        if self._action is not None:
            self._finish(self._action)
            self._action = None
        if self._acted_on is verdict.in_use:
            return
        if time.monotonic() < self._next_try_s and self._action_in_use == verdict.in_use:
            return
        self._action_in_use = verdict.in_use
        action = self._desktop.owner_came(verdict.since_s) if verdict.in_use else None
        self._action = asyncio.create_task(action or self._desktop.owner_left())
        self._action.add_done_callback(lambda _: self._news.set())

    def _finish(self, action: asyncio.Task[None]) -> None:
        """Record the result of an action; raises an error that is not expected."""
        error = None if action.cancelled() else action.exception()
        if error is None:
            self._acted_on = None if action.cancelled() else self._action_in_use
            self._pause_s = PAUSE_MIN_S
            return
        if not isinstance(error, RunError | Refused | Unreachable | OSError):
            raise error
        complain(PROGRAM, error)
        self._acted_on = None
        self._next_try_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)


async def _watch(options: argparse.Namespace, candidates: list[Address]) -> int:
    names = options.source or list(sources.KNOWN)
    guard = Guard(_disable_command(options, candidates))
    desktop = Desktop(options, candidates, _complain)
    desktop.inherited_fds = (guard.descriptor,)

    def followed(changed: sources.Changed) -> list[FollowedSource]:
        return [FollowedSource(name, changed, _say, named=bool(options.source)) for name in names]

    settings = Settings(options.idle_after, options.hours, options.on_battery == "never")
    watcher = Watcher(followed, Presence(settings), desktop, guard, _say)
    try:
        await _until_a_signal(watcher.run())
    finally:
        await watcher.close()
        try:
            async with asyncio.timeout(LEAVE_S):
                await desktop.leave()
            guard.dismiss()
        except (RunError, Refused, Unreachable, OSError) as error:
            complain(PROGRAM, f"{str(error) or 'leaving takes too long'}; running disable-host")
            guard.run_now()
    return 0


async def _until_a_signal(work: Coroutine[Any, Any, None]) -> None:
    """Do the work until a signal ends it; raises what the work raises."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(work)
    for number in ending_signals():
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _list_sources(names: Sequence[str]) -> int:
    """Print each source's name, its state, and why."""

    async def line(name: str) -> str:
        followed = FollowedSource(name, lambda: None, lambda _: None, named=True)
        await followed.try_to_open()
        reading = await followed.read() if followed.there else None
        await followed.close()
        if reading is None:
            return f"{name:<12} {'absent':<10} {followed.trouble}"
        why = reading.why
        if reading.input_s is not None:
            why = f"last input {time.monotonic() - reading.input_s:.0f} s ago; {why}"
        return f"{name:<12} {reading.state:<10} {why}"

    for text in await asyncio.gather(*map(line, names)):
        print(text)
    return 0


def moment() -> Moment:
    """Return the present moment on every clock."""
    monotonic_s, wall_s = time.monotonic(), time.time()
    asleep_s = None
    if hasattr(time, "CLOCK_BOOTTIME"):
        asleep_s = time.clock_gettime(time.CLOCK_BOOTTIME) - monotonic_s
    local = time.localtime(wall_s)
    return Moment(monotonic_s, wall_s, local.tm_hour * 60 + local.tm_min, asleep_s)


def unit(options: argparse.Namespace, words: Sequence[str], candidates: Sequence[Address]) -> str:
    """Return a systemd user unit that runs watch-ssaver with these words of its command line."""
    command = _program(PROGRAM, "watch_ssaver", "main")
    command += [word for word in words if word != "--print-unit"]
    if not options.server:
        command += ["--server", ",".join(map(str, candidates))]
    return f"""\
# ~/.config/systemd/user/watch-ssaver.service
[Unit]
Description=Compile for others while this desktop is unused
PartOf=graphical-session.target
After=graphical-session.target

[Service]
ExecStart={_systemd_words(command)}
# For the case that systemd kills watch-ssaver and its guard.
ExecStopPost=-{_systemd_words(_disable_command(options, candidates))}
KillMode=mixed
Restart=on-failure
RestartSec=5
# Weights of control groups count before priorities. This group, with distccd in it, comes after all
# others of the session. A systemd before 252 does not know "idle".
Slice=-.slice
CPUWeight=1
CPUWeight=idle

[Install]
WantedBy=graphical-session.target
"""


def _systemd_words(command: Sequence[str]) -> str:
    return " ".join(
        word
        if re.fullmatch(r"[\w@:,./=+-]+", word)
        else '"' + re.sub(r'(["\\])', r"\\\1", word).replace("%", "%%").replace("$", "$$") + '"'
        for word in command
    )


def _disable_command(options: argparse.Namespace, candidates: Sequence[Address]) -> list[str]:
    host = host_of(options)
    command = _program("disable-host", "enable", "disable_host")
    command += ["--host", host.host, "--port", str(host.port), "--grace", "0"]
    command += ["--server", ",".join(map(str, candidates))]
    if options.run_dir is not None:
        command += ["--run-dir", str(options.run_dir.absolute())]
    return command


def _program(name: str, module: str, function: str) -> list[str]:
    """Return the command that runs one of our programs, installed or not."""
    script = Path(sys.executable).with_name(name)
    if os.access(script, os.X_OK):
        return [str(script)]
    code = (
        f"import sys; from compilefarm.compile_host.{module} import {function} as f; sys.exit(f())"
    )
    return [sys.executable, "-P", "-c", code]


def _source_names(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in sources.KNOWN:
            known = ", ".join(sources.KNOWN)
            raise argparse.ArgumentTypeError(f"there is no source '{name}'; choose from {known}")
    return names


def _hours(text: str) -> Hours:
    try:
        return Hours(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _complain(text: str) -> None:
    complain(PROGRAM, text)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
