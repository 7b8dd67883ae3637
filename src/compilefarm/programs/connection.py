"""Where host-server is, and one connection to one of its ports.

The sockets are plain and blocking. Each of these programs holds a single connection, and asyncio
would cost more start-up time than the rest of `addhost`. Every caller treats "no answer" and
"refused" differently, so they are two exceptions: the first is worth another try, the second is an
answer. This module must not know what the messages mean, nor when to try again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Self

from compilefarm.programs.dead_peer import notice_dead_peer
from compilefarm.programs.error_text import error_text
from compilefarm.protocol.address import Address, parse_address
from compilefarm.protocol.ports import BASE_PORT, HIGHEST_BASE_PORT, Port
from compilefarm.protocol.wire import LineSplitter, Message, WireError, format_line, parse_line

KEY_FILE_VARIABLE = "HOST_SERVER_KEY_FILE"

CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 10.0


class Unreachable(Exception):
    """No server answers, or the connection is lost; the text names the server and the reason."""


class Refused(Exception):
    """The server answered `error`; the text is its reason."""


class NotProven(Refused):
    """One side did not prove that it has the farm's key; the text says which side."""


def servers(option: str | None) -> list[Address]:
    """Return the host-servers to try, in order: from `--server`, else from `HOST_SERVER`.

    Raises `ValueError`, with a text for the user, if there is none or if one is malformed.
    """
    text = option or os.environ.get("HOST_SERVER", "")
    found = [parse_address(item, BASE_PORT) for item in text.split(",") if item.strip()]
    if not found:
        raise ValueError("no host-server is named; set HOST_SERVER=HOST or use --server HOST")
    for server in found:
        if server.port > HIGHEST_BASE_PORT:
            raise ValueError(f"{server} leaves no room for the four ports of host-server")
    return found


def is_this_machine(host: str) -> bool:
    """Return whether a host name or address is one of this machine's."""
    if host == socket.gethostname().lower():
        return True
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    # The system lets a socket bind only to an address of this machine.
    for family, kind, _, _, address in found:
        try:
            with socket.socket(family, kind) as probe:
                probe.bind(address)
                return True
        except OSError:
            continue
    return False


class Connection:
    """A connection to one port of the first server that accepts one.

    `speaking_for` is the host that the messages are about. If it is an address such as 127.0.0.3
    and the server is on loopback too, the connection comes from that address. So the hosts of a
    farm on one machine each speak for themselves.

    With a key file, both sides prove that they have the farm's key before the first message. The
    default file is the one in the environment variable HOST_SERVER_KEY_FILE.

    Raises `Unreachable`, `NotProven` or `Refused`.
    """

    server: Address

    def __init__(
        self,
        candidates: Sequence[Address],
        port: Port,
        *,
        speaking_for: str = "",
        key_file: str = "",
    ) -> None:
        failures = []
        for server in candidates:
            self.server = Address(server.host, server.port + port)
            try:
                self._socket = _connected(self.server, speaking_for)
                break
            except (OSError, UnicodeError) as error:
                failures.append(f"{self.server} ({error_text(error)})")
        else:
            raise Unreachable(f"no host-server answers at {', '.join(failures)}")
        self._splitter = LineSplitter()
        self._messages: deque[Message] = deque()
        key_file = key_file or os.environ.get(KEY_FILE_VARIABLE, "")
        if key_file:
            try:
                self._prove(Path(key_file), port.label)
            except BaseException:
                self._socket.close()
                raise

    def _prove(self, key_file: Path, port: str) -> None:
        # Imported only if there is a key: the import takes some milliseconds.
        from compilefarm.programs.key_file import KeyFileError, read_keys
        from compilefarm.protocol.key import proof, proves

        try:
            key = read_keys(key_file)[0]
        except KeyFileError as error:
            raise NotProven(str(error)) from None
        try:
            server_nonce = self.ask("challenge").text("nonce")
            nonce = secrets.token_hex(16)
            proven = proof(key, "client", port, server_nonce, nonce)
            answer = self.ask("prove", nonce=nonce, proof=proven).text("proof")
        except Refused as error:
            raise NotProven(str(error)) from None
        if not proves(answer, proof(key, "server", port, server_nonce, nonce)):
            raise NotProven(f"the server at {self.server} does not have this farm's key")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def send(self, verb: str, **words: object) -> None:
        """Send one message.

        An error here is not reported. If the server has closed the connection, its last message
        explains why; `receive` returns that message, or raises.
        """
        try:
            self._socket.settimeout(ANSWER_TIMEOUT_S)
            self._socket.sendall(format_line(verb, **words))
        except OSError:
            # A server that reads nothing for ANSWER_TIMEOUT_S is treated as closed.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def receive(self, timeout_s: float) -> Message | None:
        """Return the next message, or None if none comes within `timeout_s` seconds.

        Raises `Refused` for an `error` message, and `Unreachable` if the connection ends.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self._messages:
            left_s = max(0.0, deadline_s - time.monotonic())
            poll = select.poll()  # select() fails on descriptors of 1024 and up
            poll.register(self._socket, select.POLLIN)
            if not poll.poll(left_s * 1000):
                return None
            try:
                data = self._socket.recv(65536)
                if not data:
                    raise Unreachable(f"host-server at {self.server} closed the connection")
                self._messages.extend(map(parse_line, self._splitter.feed(data)))
            except OSError as error:
                raise Unreachable(
                    f"the connection to host-server at {self.server} broke ({error_text(error)})"
                ) from None
            except WireError as error:
                raise Unreachable(
                    f"the server at {self.server} is not a host-server ({error})"
                ) from None
        message = self._messages.popleft()
        if message.verb == "error":
            raise Refused(message.text("reason", "no reason given"))
        return message

    def ask(self, verb: str, *, timeout_s: float = ANSWER_TIMEOUT_S, **words: object) -> Message:
        """Send one message and return its answer; raises `Refused` or `Unreachable`."""
        self.send(verb, **words)
        return self.answer(timeout_s)

    def answer(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Message:
        """Return the next message; raises `Unreachable` if none comes in time, or `Refused`."""
        message = self.receive(timeout_s)
        if message is None:
            raise Unreachable(f"host-server at {self.server} does not answer")
        return message


def _connected(server: Address, speaking_for: str) -> socket.socket:
    failure: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(
        server.host, server.port, type=socket.SOCK_STREAM
    ):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(CONNECT_TIMEOUT_S)
            _speak_for(connection, str(address[0]), speaking_for)
            notice_dead_peer(connection)
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure or OSError("the name has no address")


def _speak_for(connection: socket.socket, server_address: str, host: str) -> None:
    try:
        if ip_address(host).is_loopback and ip_address(server_address).is_loopback:
            connection.bind((host, 0))
    except (ValueError, OSError):
        # Any source address will do: the host is a name, it has an address of the other family, or
        # this system has only 127.0.0.1.
        pass
