"""watch-ssaver: this machine is in the farm while nobody uses it, and out when its owner is back.

One loop reads all sources (sources/), has presence.py decide, and tells desktop.py, which does what
follows. It goes round when a source hears of a change, and four times a second while the desktop is
unused: the owner may come at any time, and some sources have to be looked at for that. While the
desktop is in use nothing hurries, for coming back is slow anyway, and it looks once in two seconds.

What takes long (finding a source, bringing the machine in) happens beside the loop. Coming in is
broken off when the owner is back meanwhile; leaving never is.

However it ends, the machine is out of the farm afterwards: on a signal it leaves by itself, and
when it is killed its guard (guard.py) does that.
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
# A source has so long to answer before it counts as unreadable: less than what a second leaves.
READ_S = 0.5
OPEN_S = 10.0
PAUSE_MIN_S = 1.0
PAUSE_MAX_S = 30.0
LEAVE_S = 20.0

Say = Callable[[str], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `watch-ssaver` with these arguments, by default the command line's; return its status."""
    parser = Parser(PROGRAM, "Have this machine in the farm while nobody uses it.")
    add_desktop_options(parser)
    parser.add_argument(
        "--source", type=_source_names, metavar="NAME[,NAME]",
        help="ask these sources only (default: all that are found)",
    )  # fmt: skip
    parser.add_argument(
        "--list-sources", action="store_true", help="print what each source says now, and end"
    )
    parser.add_argument(
        "--idle-after", type=seconds, default=IDLE_AFTER_S, metavar="SECONDS",
        help=f"time without input after which nobody is there (default: {IDLE_AFTER_S:.0f})",
    )  # fmt: skip
    parser.add_argument(
        "--hours", type=_hours, metavar="HH:MM-HH:MM[,...]",
        help="be in the farm at these hours only, such as 19:00-07:00 (default: all day)",
    )  # fmt: skip
    parser.add_argument(
        "--on-battery", choices=["never", "always"], default="never",
        help="whether to be in the farm while on battery (default: never)",
    )  # fmt: skip
    parser.add_argument(
        "--print-unit", action="store_true",
        help="print a systemd user unit that runs it with the other options given, and end",
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
                raise RunError(f"{host} is watched already, by another {PROGRAM}")
            return asyncio.run(_watch(options, candidates))
    except RunError as error:
        return complain(PROGRAM, error)


class Followed:
    """One source, through its absences: opened when it can be, and again when it was lost."""

    def __init__(self, name: str, changed: sources.Changed, say: Say, *, named: bool) -> None:
        self.name = name
        self._changed = changed
        self._say = say
        self._source: sources.Source | None = None
        self._opening: asyncio.Task[None] | None = None
        # One that was named, or that was there once, counts while it is away.
        self._counts = named
        self._missed = False
        self._trouble = "not found yet"
        self._pause_s = PAUSE_MIN_S
        self._next_try_s = 0.0

    @property
    def there(self) -> bool:
        """Whether it can be read."""
        return self._source is not None

    @property
    def trouble(self) -> str:
        """Why it cannot be read."""
        return self._trouble

    async def try_to_open(self) -> None:
        """Open it, if that can be done."""
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
        """Return what it says, None where it has no say."""
        if self._source is None:
            if self._opening is not None and self._opening.done():
                self._opening.result()  # what is not foreseen must end the program, not a source
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
        """Let go of it."""
        if self._opening is not None:
            self._opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._opening
        if self._source is not None:
            await self._source.close()


class Watcher:
    """The loop: readings, verdict, deed."""

    def __init__(
        self,
        followed: Callable[[sources.Changed], Sequence[Followed]],
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
        # What the desktop was told last: whether the owner is there; None where that failed.
        self._told: bool | None = None
        self._deed: asyncio.Task[None] | None = None
        self._deed_in_use = True
        self._pause_s = PAUSE_MIN_S
        self._next_try_s = 0.0

    async def run(self) -> None:
        """Watch until cancelled."""
        await asyncio.gather(*(each.try_to_open() for each in self._followed))
        self._say_which()
        while True:
            self._news.clear()
            self._guard.stand()
            verdict = await self._decide()
            self._act(verdict)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_IN_USE_S if verdict.in_use else LOOK_UNUSED_S):
                    await self._news.wait()

    async def close(self) -> None:
        """Break off what is being done, and let go of the sources."""
        if self._deed is not None:
            self._deed.cancel()
            await asyncio.wait([self._deed])
        await asyncio.gather(*(each.close() for each in self._followed))

    def _say_which(self) -> None:
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
        said = {
            each.name: reading
            for each, reading in zip(self._followed, readings, strict=True)
            if reading is not None
        }
        verdict = self._presence.decide(now, said, on_battery=self._on_battery)
        before = self._verdict
        if before is None or before.in_use != verdict.in_use:
            self._say(f"{'in use' if verdict.in_use else 'unused'}: {verdict.why}")
        elif verdict.settling and not before.settling:
            self._say(f"still in use: {verdict.why}")
        self._verdict = verdict
        return verdict

    def _act(self, verdict: Verdict) -> None:
        if self._deed is not None and not self._deed.done():
            if verdict.in_use and not self._deed_in_use:
                self._deed.cancel()
            return
        if self._deed is not None:
            self._judge(self._deed)
            self._deed = None
        if self._told is verdict.in_use:
            return
        if time.monotonic() < self._next_try_s and self._deed_in_use == verdict.in_use:
            return
        self._deed_in_use = verdict.in_use
        deed = self._desktop.owner_came(verdict.since_s) if verdict.in_use else None
        self._deed = asyncio.create_task(deed or self._desktop.owner_left())
        self._deed.add_done_callback(lambda _: self._news.set())

    def _judge(self, deed: asyncio.Task[None]) -> None:
        """Note what came of a deed."""
        error = None if deed.cancelled() else deed.exception()
        if error is None:
            self._told = None if deed.cancelled() else self._deed_in_use
            self._pause_s = PAUSE_MIN_S
            return
        if not isinstance(error, RunError | Refused | Unreachable | OSError):
            raise error
        complain(PROGRAM, error)
        self._told = None
        self._next_try_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)


async def _watch(options: argparse.Namespace, candidates: list[Address]) -> int:
    names = options.source or list(sources.KNOWN)
    guard = Guard(_disable_command(options, candidates))
    desktop = Desktop(options, candidates, _complain)
    desktop.held = (guard.descriptor,)

    def followed(changed: sources.Changed) -> list[Followed]:
        return [Followed(name, changed, _say, named=bool(options.source)) for name in names]

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
            complain(
                PROGRAM, f"{str(error) or 'leaving takes too long'}; disable-host is run instead"
            )
            guard.release()
    return 0


async def _until_a_signal(work: Coroutine[Any, Any, None]) -> None:
    """Do the work until a signal asks for the end; raises what the work raises."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(work)
    for number in ending_signals():
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _list_sources(names: Sequence[str]) -> int:
    """Print each source's name, what it says, and what it is."""

    async def line(name: str) -> str:
        followed = Followed(name, lambda: None, lambda _: None, named=True)
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
    """Return what all clocks say."""
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
Description=Compile for others while nobody uses this desktop
PartOf=graphical-session.target
After=graphical-session.target

[Service]
ExecStart={_systemd_words(command)}
# Where it is killed, and its guard with it.
ExecStopPost=-{_systemd_words(_disable_command(options, candidates))}
KillMode=mixed
Restart=on-failure
RestartSec=5
# Control groups share the CPU before priorities do: this one, with distccd in it, comes after all
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
    """Return the words that run one of our programs, installed or not."""
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
            raise argparse.ArgumentTypeError(f"there is no source '{name}'; there are {known}")
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
