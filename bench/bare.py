"""The least that a Python server can do for a client: accept, read, reply, close, on uvloop.

host-server is measured against it. It has the same sockets, loop and garbage collection, and
nothing else: no lines, no farm. No server in Python is much faster.
"""

from __future__ import annotations

import asyncio
from typing import cast

import uvloop

from compilefarm.programs.garbage_collector import tune_garbage_collector
from compilefarm.server.listen import BACKLOG, open_ports

REPLY = b"lease id=1 host=host1 address=127.0.0.1 port=3632 slots=4\n"


class Bare(asyncio.Protocol):
    """A connection: one read, one reply, then closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Reply, whatever the request was."""
        self._transport.write(REPLY)
        self._transport.close()


async def serve() -> None:
    """Serve until the process is ended."""
    port, sockets = open_ports(["127.0.0.1"], 0)
    server = await asyncio.get_running_loop().create_server(
        Bare, sock=sockets[0][0], backlog=BACKLOG
    )
    print(f"bare: port {port}", flush=True)
    tune_garbage_collector()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
