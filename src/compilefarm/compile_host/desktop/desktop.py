"""A desktop in the farm: what is done about its compiles when its owner comes, and when he leaves.

Whoever watches the owner calls `owner_came` and `owner_left`; host-server is told on a connection
that lasts as long as the watcher does. The server gives a host in idle mode leases only while that
connection says that the owner is away. So the machine is out of the farm from one message on,
which takes a round trip, and however the watcher ends.

distccd and loadavg are started when the owner leaves for the first time, and stay. To end them
each time, as was done in 2004, would free a few megabytes; but distccd starts its workers one a
second, so that a desktop with 16 CPUs would be whole again after 16 seconds only, and compiles
that are to finish need it anyway. Nothing is started, nor measured, while the owner is there.

A thread for each server keeps it told: the connection that every program of a compile host uses
blocks, and a server that hangs must keep nobody from telling the others. All of them are told, not
the first that answers, since it is loadavg that chooses which server has the host.

This module must not know how the owner's presence is found out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, cast

from compilefarm.compile_host.compiles import Compiles
from compilefarm.compile_host.enable import add_enable_options, enable_arguments, host_of
from compilefarm.compile_host.load.machine import this_machine
from compilefarm.compile_host.run_directory import RunError, started_tree
from compilefarm.programs.connection import Connection, Refused, Unreachable
from compilefarm.programs.options import Parser
from compilefarm.protocol.address import Address
from compilefarm.protocol.ports import Port

Reclaim = Literal["finish", "stop", "now"]

# How long a stopped compile waits for its owner to leave again; then it runs elsewhere.
STOPPED_FOR_S = 60.0
# A compile that was granted just before may still be preprocessed on its builder, and begin later.
SWEEP_S = 0.1
SWEEP_MAX_S = 2.0
# One whose lease was revoked may have been under way to distccd.
ENDING_FOR_S = 5.0
# A server is told again so often, so that one that was started again knows.
TELL_AGAIN_S = 2.0
# A server that has not answered by now gives no leases either.
TOLD_WITHIN_S = 1.0
# distccd or loadavg may have died, or what kept them from starting may be gone.
LOOK_AFTER_S = 60.0
# The server takes no word of an owner who is there for longer than a year.
SINCE_MAX_S = 365 * 86_400.0
_COMPLAINTS_MAX = 100


def add_desktop_options(parser: Parser) -> None:
    """Add the options that say how a desktop is in the farm: enable-host's, and `--reclaim`."""
    add_enable_options(parser)
    parser.add_argument(
        "--reclaim",
        choices=("finish", "stop", "now"),
        default="finish",
        help="what becomes of running compiles when the owner is back: they end at the lowest "
        "priority, are stopped and run elsewhere after a minute, or are ended now (default: "
        "finish)",
    )


class Desktop:
    """This machine, which is in the farm while its owner does not use it.

    `options` are those of `add_desktop_options`, `candidates` the host-servers. `complain` is told,
    once, of each thing that does not work. To be used within a running event loop, one call at a
    time; a call may be cancelled. Descriptors in `held` stay open as long as any program that
    brings the machine in, so that who waits for their end can take it out again.
    """

    held: tuple[int, ...] = ()

    def __init__(
        self,
        options: argparse.Namespace,
        candidates: Sequence[Address],
        complain: Callable[[str], None],
    ) -> None:
        if options.mode is None:
            options.mode = "idle"
        self._options = options
        self._host = host_of(options)
        self._reclaim = cast(Reclaim, options.reclaim)
        self._mode: str = options.mode
        self._tell_user = complain
        self._complaints: set[str] = set()
        self._loop = asyncio.get_running_loop()
        self._state = _State(self._host)
        self._lines = [_Line(server, self._state, self._heard) for server in candidates]
        self._news = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._stopped = False

    async def owner_came(self, since: float) -> None:
        """Have no more leases given here, then reclaim what runs, in the background.

        `since` is when the owner came, in seconds since the epoch. Returns when every server that
        answers knows.
        """
        self._cancel_work()
        if await self._tell(present=True, since=since, revoke=self._reclaim == "now"):
            self._begin(self._take_back(since))

    async def owner_left(self) -> None:
        """Wake what was stopped, and bring the machine in, in the background."""
        self._cancel_work()
        if self._stopped:
            self._on_compiles(Compiles.go_on)
            self._stopped = False
        if await self._tell(present=False):
            self._begin(self._keep_enabled())

    async def leave(self) -> None:
        """Take the machine out of the farm, whatever its state; running compiles go elsewhere.

        Raises `RunError` where something stays.
        """
        self._cancel_work()
        for line in self._lines:
            line.end()
        arguments = ["--host", str(self._host), "--grace", "0"]
        if self._options.run_dir is not None:
            arguments += ["--run-dir", str(self._options.run_dir)]
        trouble = await self._run("disable_host", arguments)
        if trouble:
            raise RunError(trouble)

    # -- what is done in the background, one thing at a time

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = self._loop.create_task(work)
        # An error there is to be heard of when it happens.
        self._work.add_done_callback(lambda done: done.cancelled() or done.result())

    def _cancel_work(self) -> None:
        if self._work is not None:
            self._work.cancel()
            self._work = None

    async def _keep_enabled(self) -> None:
        while True:
            if not self._enabled():
                trouble = await self._run("enable_host", enable_arguments(self._options))
                self._complain(trouble)
            await asyncio.sleep(LOOK_AFTER_S)

    async def _take_back(self, since: float) -> None:
        if self._reclaim == "finish" or self._mode == "proportional":
            return
        if self._reclaim == "stop":
            self._stopped = True
            await self._sweep(Compiles.stop, STOPPED_FOR_S)
            await self._tell(present=True, since=since, revoke=True)
            self._stopped = False
        await self._sweep(Compiles.end, ENDING_FOR_S)

    async def _sweep(self, deed: Callable[[Compiles], int], for_s: float) -> None:
        """Do it to what runs, and for so long to what begins; ever less often, for it costs."""
        until_s = time.monotonic() + for_s
        pause_s = SWEEP_S
        while True:
            self._on_compiles(deed)
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(1.5 * pause_s, SWEEP_MAX_S)

    def _on_compiles(self, deed: Callable[[Compiles], int]) -> None:
        try:
            tree = started_tree(self._options.run_dir, str(self._host), "distccd", this_machine())
        except RunError as error:
            self._complain(str(error))
            return
        if tree is not None and tree.root() is not None:
            deed(Compiles(tree, self._complain))

    def _enabled(self) -> bool:
        machine = this_machine()
        with contextlib.suppress(RunError):
            trees = [
                started_tree(self._options.run_dir, str(self._host), program, machine)
                for program in ("distccd", "loadavg")
            ]
            return all(tree is not None and tree.root() is not None for tree in trees)
        return False

    async def _run(self, program: str, arguments: Sequence[str]) -> str:
        """Run enable-host or disable-host; return what it complains of where it fails."""
        code = (
            f"import sys; from compilefarm.compile_host.enable import {program} as run; "
            "sys.exit(run())"
        )
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-c", code, *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=self.held,
            )  # fmt: skip
        except OSError as error:
            return f"{program.replace('_', '-')} cannot be started: {error.strerror}"
        try:
            _, errors = await process.communicate()
        except asyncio.CancelledError:
            # It takes back what it began. Nobody waits for that: the owner is here.
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            raise
        said = errors.decode(errors="replace").strip()
        if process.returncode == 0:
            for line in said.splitlines():  # power-index tells what it measures
                self._tell_user(line)
            return ""
        words = said.rpartition("\n")[2].removeprefix(f"{program.replace('_', '-')}: ")
        return words or f"{program} ended with status {process.returncode}"

    # -- what the servers are told

    async def _tell(self, *, present: bool, since: float = 0.0, revoke: bool = False) -> bool:
        """Tell every server, and wait for those that answer; whether it is still true then."""
        number = self._state.set(present, since, revoke)
        for line in self._lines:
            line.hurry()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TOLD_WITHIN_S):
                while any(line.told < number for line in self._lines):
                    self._news.clear()
                    await self._news.wait()
        return number == self._state.number

    def _heard(self, line: _Line, number: int, mode: str, trouble: str) -> None:
        """Take note, in a line's thread, of what its server answered, or that it cannot be told."""

        def note() -> None:
            line.told = number
            # hosts-info may leave the owner more than we would.
            self._mode = mode or self._mode
            self._news.set()
            if trouble:
                self._complain(trouble)

        with contextlib.suppress(RuntimeError):  # the loop has ended, and we with it
            self._loop.call_soon_threadsafe(note)

    def _complain(self, text: str) -> None:
        if text and text not in self._complaints and len(self._complaints) < _COMPLAINTS_MAX:
            self._complaints.add(text)
            self._tell_user(text)


class _State:
    """What is to be told, and how many times it has changed; read by the lines' threads."""

    def __init__(self, host: Address) -> None:
        self._host = host
        self._words: dict[str, Any] = {}
        self._since_s = 0.0  # on the clock that nobody sets
        self._present = False
        self._since = 0.0
        self.number = 0
        self._lock = threading.Lock()

    def set(self, present: bool, since: float, revoke: bool) -> int:
        """Have this told from now on; return its number."""
        with self._lock:
            if present and (not self._present or since != self._since):
                self._since = since
                # Later changes of the wall clock are not to change the owner's story.
                self._since_s = time.monotonic() - max(0.0, time.time() - since)
            self._present = present
            self._words = {"host": self._host.host, "port": self._host.port}
            self._words["state"] = "present" if present else "absent"
            if revoke:
                self._words["revoke"] = "yes"
            self.number += 1
            return self.number

    def words(self) -> tuple[int, dict[str, Any]]:
        """Return what is to be told, and its number."""
        with self._lock:
            if not self._present:
                return self.number, self._words
            since_s = min(time.monotonic() - self._since_s, SINCE_MAX_S)
            return self.number, {**self._words, "since_s": since_s}

    @property
    def host(self) -> str:
        """The host that it is about."""
        return self._host.host


class _Line:
    """A thread that keeps one server told, for as long as the watcher lives."""

    def __init__(
        self, server: Address, state: _State, heard: Callable[[_Line, int, str, str], None]
    ) -> None:
        self.told = 0
        self._server = server
        self._state = state
        self._heard = heard
        self._news = threading.Event()
        self._ended = False
        threading.Thread(target=self._run, daemon=True).start()

    def hurry(self) -> None:
        """Tell the server now."""
        self._news.set()

    def end(self) -> None:
        """Tell it no more, and hang up."""
        self._ended = True
        self._news.set()

    def _run(self) -> None:
        connection: Connection | None = None
        self._news.wait()
        while not self._ended:
            self._news.clear()
            number, words = self._state.words()
            mode = trouble = ""
            was_open = connection is not None
            try:
                connection = connection or Connection(
                    [self._server], Port.STATUS, speaking_for=self._state.host
                )
                mode = connection.ask("owner", **words).text("mode")
            except (Refused, Unreachable) as error:
                if connection is not None:
                    connection.close()
                    connection = None
                if was_open:  # perhaps it was started again
                    self._news.set()
                    continue
                trouble = f"{self._server} is not told of the owner: {error}"
            self._heard(self, number, mode, trouble)
            self._news.wait(TELL_AGAIN_S)
        if connection is not None:
            connection.close()
