"""The monitor port's connections: counted for their sender's limit, then left to aiohttp.

aiohttp has the HTTP (`server/monitor/web.py`). It knows no limit by address, so this stands before
it. A monitor's connection must not be able to change the farm.
"""

from __future__ import annotations

import asyncio

from compilefarm.server.host_server import HostServer


class MonitorConnection(asyncio.Protocol):
    """A connection to the monitor port, which passes everything on to an HTTP protocol."""

    def __init__(self, server: HostServer, http: asyncio.Protocol) -> None:
        self._connections_of = server.connections_of
        self._refused = server.refused
        self._http = http
        self._sender = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. A sender with too many connections is disconnected."""
        peer = transport.get_extra_info("peername")
        if not peer:  # the client has gone already
            transport.close()
            return
        count = self._connections_of
        if count.full(peer[0]):
            self._refused(
                peer[0], f"it has {count.limit} connections already (--connections-per-address)"
            )
            transport.close()
            return
        self._sender = peer[0]
        count.add(self._sender)
        self._http.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End, whichever side closed."""
        if self._sender:
            self._connections_of.drop(self._sender)
            self._http.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass data on."""
        if self._sender:
            self._http.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on that the client sends nothing more."""
        return self._http.eof_received() if self._sender else None

    def pause_writing(self) -> None:
        """Pass on that the client reads too slowly."""
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client has read."""
        self._http.resume_writing()
