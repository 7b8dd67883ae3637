"""A desktop in the farm: what happens to its compiles when its owner comes, and when they leave.

A watcher calls `owner_came` and `owner_left`. host-server learns of it on a connection that lasts
as long as the watcher. The server grants leases on a host in idle mode only while that connection
says that the owner is away. So the machine leaves the farm with one message, after one round trip.
It also leaves if the watcher ends, however that happens.

distccd and loadavg start when the owner leaves for the first time, and then keep running. Ending
them each time the owner comes, as in 2004, was rejected. It would free a few megabytes. But distccd
starts only one worker per second, so a desktop with 16 CPUs would need 16 seconds to have all its
slots. Compiles that finish need distccd anyway. While the owner is present, nothing is started or
measured.

Each server has a thread, because `Connection` blocks, and a server that hangs must not delay the
messages to the others. Every server gets the messages, not only the first that answers, because
loadavg decides which servers have the host.

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

# How long a compile stays stopped before it runs elsewhere, if the owner does not leave again.
STOPPED_FOR_S = 60.0
# A compile whose lease was granted just before may still be preprocessed, and begin here later. So
# look for new compiles repeatedly, first at this interval, then more rarely.
SWEEP_S = 0.1
SWEEP_MAX_S = 2.0
# A compile whose lease was revoked may have been on its way to distccd.
ENDING_FOR_S = 5.0
# The interval at which the message is repeated, for a server that was restarted.
TELL_AGAIN_S = 2.0
# A server that does not answer within this time grants no leases either.
TOLD_WITHIN_S = 1.0
# The interval at which enable-host is tried again: distccd or loadavg may have died, or the reason
# for a failure may have gone.
LOOK_AFTER_S = 60.0
# The server does not accept an owner who has been present for longer than a year.
SINCE_MAX_S = 365 * 86_400.0
_COMPLAINTS_MAX = 100


def add_desktop_options(parser: Parser) -> None:
    """Add the options for a desktop: enable-host's, and `--reclaim`."""
    add_enable_options(parser)
    parser.add_argument(
        "--reclaim",
        choices=("finish", "stop", "now"),
        default="finish",
        help="what happens to running compiles when the owner comes. finish: they end at the "
        "lowest priority. stop: they are stopped, and run elsewhere after a minute. now: they are "
        "killed, and run elsewhere (default: finish)",
    )


class Desktop:
    """This machine, which is in the farm while its owner does not use it.

    `options` are those of `add_desktop_options`; `candidates` are the host-servers. `complain` gets
    one line per problem, once. Use it within a running event loop, one call at a time; a call may
    be cancelled. The programs that add the machine to the farm inherit the descriptors in
    `inherited_fds`. So a process that waits for their end of file knows when all those programs
    have ended.
    """

    inherited_fds: tuple[int, ...] = ()

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
        self._print_complaint = complain
        self._complaints: set[str] = set()
        self._loop = asyncio.get_running_loop()
        self._state = _OwnerState(self._host)
        self._notifiers = [_Notifier(each, self._state, self._answered) for each in candidates]
        self._answer_came = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._stopped = False

    async def owner_came(self, since: float) -> None:
        """Stop the leases on this machine, then reclaim its CPUs in the background.

        `since` is the time when the owner came, in seconds since the epoch. Returns when every
        server that answers has the message.
        """
        self._cancel_work()
        if await self._tell(present=True, since=since, revoke=self._reclaim == "now"):
            self._begin(self._take_back(since))

    async def owner_left(self) -> None:
        """Resume the stopped compiles, and add the machine to the farm in the background."""
        self._cancel_work()
        if self._stopped:
            self._on_compiles(Compiles.resume)
            self._stopped = False
        if await self._tell(present=False):
            self._begin(self._keep_enabled())

    async def leave(self) -> None:
        """Remove the machine from the farm, whatever its state; running compiles go elsewhere.

        Raises `RunError` if something stays behind.
        """
        self._cancel_work()
        for notifier in self._notifiers:
            notifier.end()
        arguments = ["--host", str(self._host), "--grace", "0"]
        if self._options.run_dir is not None:
            arguments += ["--run-dir", str(self._options.run_dir)]
        trouble = await self._run("disable_host", arguments)
        if trouble:
            raise RunError(trouble)

    # -- background work, one task at a time

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = self._loop.create_task(work)
        # An error in the task must be reported when it happens.
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

    async def _sweep(self, action: Callable[[Compiles], int], for_s: float) -> None:
        """Apply an action to the compiles, and for `for_s` seconds to those that begin.

        The pauses grow, because each look costs CPU time.
        """
        until_s = time.monotonic() + for_s
        pause_s = SWEEP_S
        while True:
            self._on_compiles(action)
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(1.5 * pause_s, SWEEP_MAX_S)

    def _on_compiles(self, action: Callable[[Compiles], int]) -> None:
        try:
            tree = started_tree(self._options.run_dir, str(self._host), "distccd", this_machine())
        except RunError as error:
            self._complain(str(error))
            return
        if tree is not None and tree.root() is not None:
            action(Compiles(tree, self._complain))

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
        """Run enable-host or disable-host; return its complaint if it fails, else ""."""
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
                pass_fds=self.inherited_fds,
            )  # fmt: skip
        except OSError as error:
            return f"cannot start {program.replace('_', '-')}: {error.strerror}"
        try:
            _, errors = await process.communicate()
        except asyncio.CancelledError:
            # enable-host undoes what it began. Do not wait for that: the owner is present.
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            raise
        said = errors.decode(errors="replace").strip()
        if process.returncode == 0:
            for line in said.splitlines():  # power-index says that it measures
                self._print_complaint(line)
            return ""
        words = said.rpartition("\n")[2].removeprefix(f"{program.replace('_', '-')}: ")
        return words or f"{program} ended with status {process.returncode}"

    # -- messages to the servers

    async def _tell(self, *, present: bool, since: float = 0.0, revoke: bool = False) -> bool:
        """Send the owner's state to every server, and wait for those that answer.

        Returns whether the state is still the same then.
        """
        number = self._state.set(present, since, revoke)
        for notifier in self._notifiers:
            notifier.send_now()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TOLD_WITHIN_S):
                while any(each.acknowledged < number for each in self._notifiers):
                    self._answer_came.clear()
                    await self._answer_came.wait()
        return number == self._state.number

    def _answered(self, notifier: _Notifier, number: int, mode: str, trouble: str) -> None:
        """Record that a server has answered, or cannot be reached; runs in a notifier's thread."""

        def record() -> None:
            notifier.acknowledged = number
            # hosts-info may set a mode that leaves the owner more than our own options.
            self._mode = mode or self._mode
            self._answer_came.set()
            if trouble:
                self._complain(trouble)

        with contextlib.suppress(RuntimeError):  # the event loop has ended with this program
            self._loop.call_soon_threadsafe(record)

    def _complain(self, text: str) -> None:
        if text and text not in self._complaints and len(self._complaints) < _COMPLAINTS_MAX:
            self._complaints.add(text)
            self._print_complaint(text)


class _OwnerState:
    """The owner's state for the servers, and a number that grows with each change.

    The notifiers' threads read it.
    """

    def __init__(self, host: Address) -> None:
        self._host = host
        self._words: dict[str, Any] = {}
        self._since_s = 0.0  # when the owner came, on the monotonic clock
        self._present = False
        self._since = 0.0
        self.number = 0
        self._lock = threading.Lock()

    def set(self, present: bool, since: float, revoke: bool) -> int:
        """Set the state that the servers get from now on; return its number."""
        with self._lock:
            if present and (not self._present or since != self._since):
                self._since = since
                # Setting the wall clock later must not change how long the owner has been present.
                self._since_s = time.monotonic() - max(0.0, time.time() - since)
            self._present = present
            self._words = {"host": self._host.host, "port": self._host.port}
            self._words["state"] = "present" if present else "absent"
            if revoke:
                self._words["revoke"] = "yes"
            self.number += 1
            return self.number

    def words(self) -> tuple[int, dict[str, Any]]:
        """Return the state's number, and the words of the message."""
        with self._lock:
            if not self._present:
                return self.number, self._words
            since_s = min(time.monotonic() - self._since_s, SINCE_MAX_S)
            return self.number, {**self._words, "since_s": since_s}

    @property
    def host(self) -> str:
        """The host that the state is about."""
        return self._host.host


class _Notifier:
    """A thread that keeps one server informed of the owner's state, while the watcher lives.

    `acknowledged` is the number of the last state that the server has answered.
    """

    def __init__(
        self,
        server: Address,
        state: _OwnerState,
        answered: Callable[[_Notifier, int, str, str], None],
    ) -> None:
        self.acknowledged = 0
        self._server = server
        self._state = state
        self._answered = answered
        self._wake = threading.Event()
        self._ended = False
        threading.Thread(target=self._run, daemon=True).start()

    def send_now(self) -> None:
        """Send the state now, and do not wait for the next regular time."""
        self._wake.set()

    def end(self) -> None:
        """Send nothing more, and close the connection."""
        self._ended = True
        self._wake.set()

    def _run(self) -> None:
        connection: Connection | None = None
        self._wake.wait()
        while not self._ended:
            self._wake.clear()
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
                if was_open:  # the server may have been restarted, so connect again at once
                    self._wake.set()
                    continue
                trouble = f"cannot tell {self._server} about the owner: {error}"
            self._answered(self, number, mode, trouble)
            self._wake.wait(TELL_AGAIN_S)
        if connection is not None:
            connection.close()
