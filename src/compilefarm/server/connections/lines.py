"""A connection that carries lines of the protocol: the part that all line ports share.

A connection splits bytes into lines and gives each line to its subclass. To prevent abuse, it
limits the length of a line and the time until its end. It also limits the number of queued lines
and of bytes that a client leaves unread. It must not know what a message means.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, cast

from compilefarm.protocol.wire import (
    LINE_LIMIT_BYTES,
    LineSplitter,
    Message,
    WireError,
    format_line,
    parse_line,
)
from compilefarm.server.host_server import HostServer

LINE_WITHIN_S = 10.0
UNREAD_LIMIT_BYTES = 64 * 1024
QUEUED_LINES_LIMIT = 256


class LineConnection(asyncio.Protocol):
    """A connection that carries lines; a subclass says in `take` what each message does.

    `take` may return a coroutine, for an answer that needs time. The next lines are queued until
    the coroutine has ended.
    """

    port: str
    """The port's name, as `--allow` takes it."""

    def __init__(self, server: HostServer) -> None:
        self._server = server
        self._lines = LineSplitter()
        self._queued: deque[bytes] = deque()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport
        self.sender = ""

    def sent_to(self) -> str:
        """Return the address that the client connected to."""
        return str(self._transport.get_extra_info("sockname")[0])

    def take(self, message: Message) -> Coroutine[Any, Any, None] | None:
        """Act on one message; raises `WireError` where it breaks the protocol."""
        raise NotImplementedError

    def ended(self) -> None:
        """Act on the connection's end."""

    def send(self, verb: str, **words: object) -> None:
        """Send one message. A client that leaves too much unread is disconnected."""
        self._write(format_line(verb, **words))

    def _write(self, line: bytes) -> None:
        self._transport.write(line)
        if self._transport.get_write_buffer_size() > UNREAD_LIMIT_BYTES:
            self._transport.abort()

    def send_last(self, verb: str, **words: object) -> None:
        """Send one message and close."""
        if not self._transport.is_closing():
            self._transport.write(format_line(verb, **words))
            self._transport.close()

    def close(self) -> None:
        """Close once everything is sent."""
        self._transport.close()

    def give_up(self, reason: str) -> None:
        """Tell the client its error, and close."""
        self._queued.clear()
        self.send_last("error", reason=reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. A sender that is not allowed, or has too many connections, gets an error."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if not peer:  # the client has gone already
            self._transport.abort()
            return
        server, sender = self._server, peer[0]
        if not server.allowed[self.port].allows(sender):
            server.refused(sender, f"its network is not allowed on the port {self.port} (--allow)")
            self.give_up(f"{sender} is not in a network that this farm is open to")
            return
        if server.connections_of.full(sender):
            why = f"{sender} has {server.connections_of.limit} connections already"
            server.refused(sender, f"{why} (--connections-per-address)")
            self.give_up(why)
            return
        self.sender = sender
        server.connections_of.add(sender)
        self._expect_line()

    def data_received(self, data: bytes) -> None:
        """Split the data into lines and act on them."""
        if self._transport.is_closing():
            return
        length = len(data)
        if (
            data.find(b"\n") == length - 1
            and length <= LINE_LIMIT_BYTES
            and not (self._queued or self._lines.pending or self._task)
        ):
            # A fast path: nearly always the data is exactly one line.
            self._server.overdue_at.pop(self, None)
            self._take_line(data[:-1])
            return
        queued = len(self._queued)
        try:
            for line in self._lines.feed(data):
                self._queued.append(line)
        except WireError as error:
            self._work()
            self._complain(error)
            return
        if len(self._queued) > queued:
            self._server.overdue_at.pop(self, None)
        if self._lines.pending:
            self._expect_line()
        self._work()
        if len(self._queued) > QUEUED_LINES_LIMIT and not self._transport.is_closing():
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, whichever side closed."""
        self._server.overdue_at.pop(self, None)
        self._queued.clear()
        if self._task is not None:
            self._task.cancel()
        if self.sender:
            self._server.connections_of.drop(self.sender)
            self.ended()

    def _expect_line(self) -> None:
        """Start the time within which a whole line must come, unless it runs already."""
        self._server.overdue_at.setdefault(self, self._server.now() + LINE_WITHIN_S)

    def _complain(self, error: WireError) -> None:
        self._server.refused(self.sender, str(error))
        self.give_up(str(error))

    def _work(self) -> None:
        while self._queued and self._task is None and not self._transport.is_closing():
            self._take_line(self._queued.popleft())

    def _take_line(self, line: bytes) -> None:
        try:
            slow = self.take(parse_line(line))
        except WireError as error:
            self._complain(error)
            return
        if slow is not None:
            self._task = asyncio.ensure_future(self._work_slowly(slow))

    async def _work_slowly(self, slow: Coroutine[Any, Any, None]) -> None:
        try:
            await slow
        except WireError as error:
            self._complain(error)
        self._task = None
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._work()
