"""A virtual clock, and asyncio on it: the time of a simulated world, and its processes.

The whole world has one queue, so only the seed decides what happens and in which order. A process
is an asyncio event loop on that queue. What the real server gives to its loop (tasks, timers,
sleeps, connections) goes there, and the server does not notice. Killing a process drops its
entries, as a kernel would; stopping it keeps them back. There is no thread and no real clock.

A selector that skips the waits of asyncio's own loop was rejected. It would virtualise the time,
but half of the work on one loop cannot be killed.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections.abc import Awaitable, Callable
from typing import Any, cast


class Handle:
    """An event in the future; it may be cancelled."""

    __slots__ = ("args", "callback", "process", "when")

    def __init__(
        self, when: float, process: Process, callback: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        self.when = when
        self.process = process
        self.callback: Callable[..., Any] | None = callback
        self.args = args

    def cancel(self) -> None:
        """Cancel the event."""
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        """Return whether the event is cancelled."""
        return self.callback is None


class Clock:
    """The world's time, and all future events, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.error: BaseException | None = None  # an error nothing caught; the next step raises it
        self._queue: list[tuple[float, int, Handle]] = []
        self._serial = 0

    def put(self, handle: Handle) -> None:
        """Add an event; of events at the same time, the one added first happens first."""
        self._serial += 1
        heapq.heappush(self._queue, (handle.when, self._serial, handle))

    def step(self) -> bool:
        """Let the next event happen; return False if there is none."""
        queue = self._queue
        while queue:
            when, _, handle = heapq.heappop(queue)
            callback, process = handle.callback, handle.process
            if callback is None or not process.alive:
                continue
            if when > self.now:
                self.now = when
            if process.stopped:
                process.kept_back.append(handle)
                continue
            events._set_running_loop(cast(Any, process))
            try:
                callback(*handle.args)
            finally:
                events._set_running_loop(None)
            if self.error is not None:
                raise self.error
            return True
        return False


# How a process connects over the world's network.
Connect = Callable[["Process", Callable[[], asyncio.BaseProtocol], str, int], Awaitable[Any]]


class Process:
    """One process of the world, as the event loop of its code.

    It has the parts of a loop that asyncio and the server use, and no more. Any other use fails at
    once.
    """

    def __init__(self, clock: Clock, name: str, connect: Connect | None = None) -> None:
        self.clock = clock
        self.name = name
        self.alive = True
        self.stopped = False
        self.kept_back: list[Handle] = []
        self._connect = connect

    # -- for the kernel

    def kill(self) -> None:
        """Kill it, as SIGKILL does: none of its code runs any more."""
        self.alive = False
        self.kept_back.clear()

    def stop(self) -> None:
        """Stop it, as SIGSTOP does."""
        self.stopped = True

    def resume(self) -> None:
        """Resume it; the events that it missed come in order."""
        self.stopped = False
        kept_back, self.kept_back = self.kept_back, []
        for handle in kept_back:
            self.clock.put(handle)

    def enter(self, callback: Callable[..., Any], *args: Any) -> None:
        """Call something in the process now, or as soon as it runs again."""
        if not self.alive:
            return
        if self.stopped:
            self.kept_back.append(Handle(self.clock.now, self, callback, args))
            return
        before = events._get_running_loop()
        events._set_running_loop(cast(Any, self))
        try:
            callback(*args)
        finally:
            events._set_running_loop(before)

    # -- for asyncio

    def time(self) -> float:
        return self.clock.now

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        handle = Handle(self.clock.now, self, callback, args)
        self.clock.put(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> Any:
        handle = Handle(when, self, callback, args)
        self.clock.put(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> Any:
        return self.call_at(self.clock.now + delay, callback, *args)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=cast(Any, self))

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=cast(Any, self), name=name)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report an error that nothing caught; ignore the unfinished tasks of a killed process."""
        if self.alive and "exception" in context:
            self.clock.error = context["exception"]

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        """No name resolves: a world's hosts are addresses."""
        raise OSError(f"{host} does not resolve")

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Call the function at once, and not in a thread."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        """Connect over the world's network."""
        assert self._connect is not None, f"{self.name} has no network"
        return await self._connect(self, protocol_factory, host, port)
