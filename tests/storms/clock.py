"""A virtual clock, and asyncio on it: time in a simulated world, and the processes that live in it.

There is one queue for the whole world, so that what happens and in which order depends on nothing
but the seed. A process is an asyncio loop on that queue: what the real server hands to its loop
(tasks, timers, sleeps, connections) goes there without knowing. To kill a process is to forget its
entries, as a kernel would; to stop it is to keep them back. No thread and no real clock is here.

A selector that lets asyncio's own loop skip its waits would do for the time; but of what runs on
one loop, one cannot kill half.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections.abc import Awaitable, Callable
from typing import Any, cast


class Handle:
    """Something that is to happen; may be cancelled."""

    __slots__ = ("args", "callback", "process", "when")

    def __init__(
        self, when: float, process: Process, callback: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        self.when = when
        self.process = process
        self.callback: Callable[..., Any] | None = callback
        self.args = args

    def cancel(self) -> None:
        """Have it not happen."""
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        """Whether it is not to happen any more."""
        return self.callback is None


class Clock:
    """The world's time, and everything that is still to happen in it, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.error: BaseException | None = None  # what nobody caught, to be raised at the next step
        self._queue: list[tuple[float, int, Handle]] = []
        self._serial = 0

    def put(self, handle: Handle) -> None:
        """Have something happen at its time; what is put first happens first."""
        self._serial += 1
        heapq.heappush(self._queue, (handle.when, self._serial, handle))

    def step(self) -> bool:
        """Let the next thing happen; False where nothing is to happen any more."""
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


# What a process may ask of the world around it: its network's connections.
Connect = Callable[["Process", Callable[[], asyncio.BaseProtocol], str, int], Awaitable[Any]]


class Process:
    """One process of the world, as the loop that its code runs on.

    It has what asyncio and the server use of a loop, and nothing more: whatever else somebody may
    come to use is missed at once.
    """

    def __init__(self, clock: Clock, name: str, connect: Connect | None = None) -> None:
        self.clock = clock
        self.name = name
        self.alive = True
        self.stopped = False
        self.kept_back: list[Handle] = []
        self._connect = connect

    # -- what a kernel does with it

    def kill(self) -> None:
        """End it at once, whatever it was doing: nothing of it runs any more."""
        self.alive = False
        self.kept_back.clear()

    def stop(self) -> None:
        """Let it not run, as SIGSTOP does."""
        self.stopped = True

    def resume(self) -> None:
        """Let it run again, with all that it missed, in order."""
        self.stopped = False
        kept_back, self.kept_back = self.kept_back, []
        for handle in kept_back:
            self.clock.put(handle)

    def enter(self, callback: Callable[..., Any], *args: Any) -> None:
        """Have the process do something now, or as soon as it runs again."""
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

    # -- what asyncio wants of a loop

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
        """Let no error be nobody's; that the tasks of a killed process never end is none."""
        if self.alive and "exception" in context:
            self.clock.error = context["exception"]

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        """No name resolves: a world's hosts are addresses."""
        raise OSError(f"{host} does not resolve")

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Do at once what a thread would do beside us."""
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
