"""What the simulated programs share: the client's end of a connection, and a way to sleep."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from compilefarm.protocol.wire import Message, format_line, parse_line

from .clock import Handle, Process
from .network import Endpoint, Machine, Network


class Bell:
    """A program sleeps on its bell, and everything that it waits for rings it."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._sleep: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake the program if it sleeps."""
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)

    async def wait(self, until: float | None = None) -> None:
        """Sleep until the bell rings or the time has come; a ring may mean nothing."""
        if until is not None and until <= self.process.clock.now:
            return
        alarm: Handle | None = None
        self._sleep = self.process.create_future()
        if until is not None:
            alarm = self.process.call_at(until, self.ring)
        await self._sleep
        self._sleep = None
        if alarm is not None:
            alarm.cancel()


class Line(asyncio.Protocol):
    """The client's side of a connection that carries lines; every event rings the bell."""

    def __init__(
        self, network: Network, process: Process, machine: Machine, ring: Callable[[], None]
    ) -> None:
        self.opened = False
        self.closed = False
        self.refused = False
        self._network = network
        self._process = process
        self._machine = machine
        self._ring = ring
        self._heard: deque[bytes] = deque()
        self._rest = b""
        self.endpoint: Endpoint

    def connect(self, address: str, port: int) -> None:
        """Begin to connect."""
        self.endpoint = self._network.connect(self._process, self._machine, address, port, self)

    def say(self, verb: str, **words: object) -> None:
        """Send a message."""
        self.endpoint.write(format_line(verb, **words))

    def hear(self) -> Message | None:
        """Return the next message, or None."""
        return parse_line(self._heard.popleft()) if self._heard else None

    def hear_raw(self) -> bytes | None:
        """Return the next line as it came, or None."""
        return self._heard.popleft() if self._heard else None

    def has_heard(self) -> bool:
        """Return whether there is a line."""
        return bool(self._heard)

    def close(self) -> None:
        """Close; data that was sent still arrives."""
        self.closed = True
        self.endpoint.close()

    # -- for the network

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.opened = True
        self._ring()

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if lines:
            self._heard.extend(lines)
            self._ring()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.refused = isinstance(exc, ConnectionRefusedError)
        self._ring()
