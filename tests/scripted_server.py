"""A host-server that gives the answers of a test's script.

So a test of a refusal or of silence needs no real server in that state. The server keeps the
messages that it gets, and a test waits for these messages and never for time to pass.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from typing import Self

from run_program import PATIENCE_S, free_ports

from compilefarm.protocol.wire import LineSplitter, Message, format_line, parse_line


class ScriptedServer:
    """A host-server that answers each verb with the lines in `answers`; others get no answer.

    A connection gets an answer to its first `load` only, as from a real server.
    """

    def __init__(self, answers: dict[str, list[bytes]] | None = None, base: int | None = None):
        self.answers = {
            "add": [format_line("ok", host="desk1", slots=2, power_index=1.0)],
            "load": [b"ok\n"],
            "remove": [b"ok known=yes\n"],
            "drain": [b"draining leases=0\n", b"ok leases=0\n"],
            "networks": [b"ok networks=127.0.0.0/8\n"],
        } | (answers or {})
        self.base = base or free_ports(4)
        self._received: queue.Queue[Message] = queue.Queue()
        self._connections: list[socket.socket] = []
        self._listeners: list[socket.socket] = []

    @property
    def name(self) -> str:
        """What `--server` takes."""
        return f"127.0.0.1:{self.base}"

    def __enter__(self) -> Self:
        for offset in range(3):
            listener = socket.create_server(("127.0.0.1", self.base + offset))
            self._listeners.append(listener)
            threading.Thread(target=self._accept, args=[listener, offset], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Close all connections."""
        while self._connections:
            connection = self._connections.pop()
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def receives(self, verb: str) -> Message:
        """Wait for a message with this verb; return it, and drop those before it."""
        deadline_s = time.monotonic() + PATIENCE_S
        while (message := self.receives_any(deadline_s)).verb != verb:
            pass
        return message

    def receives_any(self, deadline_s: float | None = None) -> Message:
        """Wait for a message; return it."""
        deadline_s = time.monotonic() + PATIENCE_S if deadline_s is None else deadline_s
        return self._received.get(timeout=max(0.01, deadline_s - time.monotonic()))

    def all_received(self) -> list[Message]:
        """Return the messages that came and have not been returned yet."""
        messages = []
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(self._received.get_nowait())
        return messages

    def _accept(self, listener: socket.socket, offset: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = listener.accept()
                self._connections.append(connection)
                threading.Thread(
                    target=self._serve, args=[connection, offset, peer[0]], daemon=True
                ).start()

    def _serve(self, connection: socket.socket, offset: int, peer: str) -> None:
        splitter = LineSplitter()
        confirmed = False
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                for line in splitter.feed(data):
                    message = parse_line(line)
                    message.words |= {"offset": str(offset), "peer": peer}
                    self._received.put(message)
                    if message.verb == "load" and confirmed:
                        continue
                    confirmed |= message.verb == "load"
                    for answer in self.answers.get(message.verb, []):
                        connection.sendall(answer)
                        if answer.startswith(b"error"):
                            return
