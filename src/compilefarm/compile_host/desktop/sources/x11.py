"""X11's idle counter: the time since the last input, by the MIT-SCREEN-SAVER extension.

It takes one request of eight bytes on a Unix socket, cheap enough for four times a second. The
protocol has not changed since 1987, and the part needed is below. Three alternatives were rejected.
Xlib and libXss through ctypes: Xlib ends the process when the X server goes away, and is not
installed everywhere. python-xlib: it blocks when the server hangs, and watch-ssaver must not.
xprintidle: it needs a process for each look.

A display of another machine (ssh -X) says nothing about who sits here. Neither does Xwayland, which
sees only the input to its own windows.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
import time
from pathlib import Path

from compilefarm.compile_host.desktop.presence import Reading
from compilefarm.compile_host.desktop.sources import Absent, Changed
from compilefarm.compile_host.processes import Unreadable

ANSWER_S = 1.0
SOCKETS = Path("/tmp/.X11-unix")
COOKIE = b"MIT-MAGIC-COOKIE-1"
QUERY_EXTENSION = 98
SCREEN_SAVER_QUERY_INFO = 1
ERROR, REPLY = 0, 1
FAMILY_LOCAL, FAMILY_ANY = 256, 65535


def local_display() -> int:
    """Return the number of this machine's own X display; raises `Absent`."""
    name = os.environ.get("DISPLAY", "")
    if os.environ.get("WAYLAND_DISPLAY") or os.environ.get("XDG_SESSION_TYPE") == "wayland":
        raise Absent("the desktop is a Wayland one, so X11 sees only part of its input")
    if not name:
        raise Absent("DISPLAY is not set")
    found = re.fullmatch(r"(?:unix)?/?:(\d{1,5})(?:\.\d+)?", name, re.ASCII)
    if not found:
        raise Absent(f"DISPLAY={name} is not a display of this machine")
    return int(found[1])


class X11:
    """The time of the last input to the X display."""

    def __init__(self) -> None:
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._root = 0
        self._extension = 0

    async def open(self, changed: Changed) -> None:
        number = local_display()
        try:
            async with asyncio.timeout(ANSWER_S):
                self._streams = await _connected(number)
                self._root = await self._set_up(_cookie(number))
                if await self._extension_code(b"XWAYLAND"):
                    raise Absent(
                        f"display :{number} is Xwayland, which sees only part of the input"
                    )
                self._extension = await self._extension_code(b"MIT-SCREEN-SAVER")
        except (OSError, EOFError, IndexError, struct.error) as error:
            raise Absent(f"cannot connect to display :{number}: {error}") from None
        if not self._extension:
            raise Absent(f"display :{number} has no MIT-SCREEN-SAVER extension")

    async def read(self) -> Reading:
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._ask(
                    struct.pack("=BBHI", self._extension, SCREEN_SAVER_QUERY_INFO, 2, self._root)
                )
        except TimeoutError:
            raise Unreadable("the X server does not answer") from None
        except (OSError, EOFError) as error:
            raise Unreadable(f"the connection to the X server is lost ({error})") from None
        (idle_ms,) = struct.unpack_from("=I", answer, 16)
        return Reading("unused", "no input", input_s=time.monotonic() - idle_ms / 1000)

    async def close(self) -> None:
        if self._streams is not None:
            (_, writer), self._streams = self._streams, None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _set_up(self, cookie: bytes) -> int:
        """Open the X connection; return the root window of the first screen."""
        assert self._streams
        reader, writer = self._streams
        name = COOKIE if cookie else b""
        order = b"l" if struct.pack("=H", 1)[0] else b"B"
        writer.write(
            struct.pack("=cxHHHHxx", order, 11, 0, len(name), len(cookie))
            + _padded(name)
            + _padded(cookie)
        )
        status, reason_size, size = struct.unpack("=BBxxxxH", await reader.readexactly(8))
        body = await reader.readexactly(4 * size)
        if status != 1:
            reason = body[:reason_size].decode(errors="replace").strip()
            raise ConnectionRefusedError(reason or "authorization is required")
        (vendor_size,) = struct.unpack_from("=H", body, 16)
        formats = body[21]
        (root,) = struct.unpack_from(
            "=I", body, 32 + len(_padded(bytes(vendor_size))) + 8 * formats
        )
        return int(root)

    async def _extension_code(self, name: bytes) -> int:
        """Return the major opcode of an extension, or 0 if the server does not have it."""
        size = 2 + len(_padded(name)) // 4
        request = struct.pack("=BxHHxx", QUERY_EXTENSION, size, len(name)) + _padded(name)
        answer = await self._ask(request)
        present, code = answer[8], answer[9]
        return code if present else 0

    async def _ask(self, request: bytes) -> bytes:
        """Return the answer to a request whose answer has 32 bytes; skip events."""
        if self._streams is None:
            raise EOFError("it is closed")
        reader, writer = self._streams
        writer.write(request)
        while True:
            packet = await reader.readexactly(32)
            if packet[0] == ERROR:
                raise ConnectionAbortedError(f"X error {packet[1]}")
            if packet[0] == REPLY:
                return packet


async def _connected(number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    path = SOCKETS / f"X{number}"
    try:
        return await asyncio.open_unix_connection(path)
    except OSError:
        # Linux's abstract sockets have no file, so a private /tmp does not hide them.
        with contextlib.suppress(OSError):
            return await asyncio.open_unix_connection(f"\0{path}")
        raise


def _cookie(number: int) -> bytes:
    """Return the cookie for the X server; empty if there is none."""
    path = os.environ.get("XAUTHORITY") or Path.home() / ".Xauthority"
    try:
        data = Path(path).read_bytes()
    except (OSError, RuntimeError):
        return b""
    here = socket.gethostname().encode()
    found: dict[bool, bytes] = {}
    offset = 0
    try:
        while offset < len(data):
            (family,) = struct.unpack_from(">H", data, offset)
            offset += 2
            fields = []
            for _ in range(4):
                (size,) = struct.unpack_from(">H", data, offset)
                fields.append(data[offset + 2 : offset + 2 + size])
                offset += 2 + size
            address, display, name, cookie = fields
            if name == COOKIE and display in (b"", str(number).encode()):
                if family == FAMILY_ANY or (family == FAMILY_LOCAL and address == here):
                    found.setdefault(True, cookie)
                elif family == FAMILY_LOCAL:
                    found.setdefault(False, cookie)  # the machine had another name
    except struct.error:
        pass  # a file that is being written may end anywhere
    return found.get(True, found.get(False, b""))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
