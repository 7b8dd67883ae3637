"""Listening: four ports in a row, and which connection each of them makes.

Two measures are for speed. The requests' sockets are watched several times over
(`ACCEPTS_PER_TURN`), and keep-alive is set on the listening socket, from which each connection
inherits it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import resource
import socket
from collections.abc import Sequence
from functools import partial

from aiohttp import web

from compilefarm.programs.dead_peer import notice_dead_peer
from compilefarm.protocol.ports import Port
from compilefarm.server.connections.hosts import LoadConnection, StatusConnection
from compilefarm.server.connections.lines import LineConnection
from compilefarm.server.connections.monitor import MonitorConnection
from compilefarm.server.connections.requests import RequestConnection
from compilefarm.server.host_server import HostServer
from compilefarm.server.monitor.web import IDLE_S, application

BACKLOG = 4096
# libuv accepts one connection per listening socket in each turn of its loop. Under load, a turn
# costs half as much again as the lease. So the loop watches several duplicates of the requests'
# socket. Keep it small: for a single connection, all other watchers wake up for nothing.
ACCEPTS_PER_TURN = 8
# How often `open_ports` tries to find four free ports in a row.
ATTEMPTS = 200

LINE_PORTS: dict[Port, type[LineConnection]] = {
    Port.REQUESTS: RequestConnection,
    Port.REPORTS: LoadConnection,
    Port.STATUS: StatusConnection,
}


def open_ports(addresses: list[str], base: int) -> tuple[int, list[list[socket.socket]]]:
    """Return the base port and, for each of the four ports, a socket for each address.

    With base 0, take any four free ports in a row. Raises OSError if a port cannot be opened.
    """
    if base:
        return base, _open_in_a_row(addresses, base)
    for attempt in range(ATTEMPTS):
        # Outgoing connections take their ports from a range above these. On a machine that builds
        # all day, few ports of that range are free in a row.
        first = random.randrange(10_000, 32_000)
        try:
            return first, _open_in_a_row(addresses, first)
        except OSError:
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _open_in_a_row(addresses: list[str], first: int) -> list[list[socket.socket]]:
    ports: list[list[socket.socket]] = []
    try:
        for port in range(first, first + len(Port)):
            ports.append([])
            for address in addresses:
                ports[-1].append(_listening_socket(address, port))
    except OSError:
        for each in itertools.chain(*ports):
            each.close()
        raise
    return ports


def _listening_socket(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        notice_dead_peer(listener)
        listener.setblocking(False)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def all_addresses() -> list[str]:
    """Return the addresses for `--bind` by default: all of IPv4, and of IPv6 if it works."""
    try:
        _listening_socket("::", 0).close()
    except OSError:
        return ["0.0.0.0"]
    return ["0.0.0.0", "::"]


def raise_descriptor_limit() -> None:
    """Raise the limit of open connections as far as the system allows.

    The 2004 system ran out of descriptors, and its author had to reboot the machine.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve_lines(
    server: HostServer, ports: Sequence[list[socket.socket]], stack: contextlib.AsyncExitStack
) -> None:
    """Serve the three line ports until the stack is closed."""
    loop = asyncio.get_running_loop()
    for port, connection in LINE_PORTS.items():
        listeners = ports[port]
        if port is Port.REQUESTS:
            listeners = [each.dup() for each in listeners * (ACCEPTS_PER_TURN - 1)] + listeners
        for listener in listeners:
            listening = await loop.create_server(
                partial(connection, server), sock=listener, backlog=BACKLOG
            )
            stack.callback(listening.close)


async def serve_monitor(
    server: HostServer,
    listeners: list[socket.socket],
    names: list[str],
    stack: contextlib.AsyncExitStack,
) -> None:
    """Serve the monitor port until the stack is closed, under these names of the machine."""
    runner = web.AppRunner(
        application(server.snapshot, server.may_look, names),
        access_log=None,
        handle_signals=False,
        keepalive_timeout=IDLE_S,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    http = runner.server
    assert http is not None, "it was set up"
    loop = asyncio.get_running_loop()
    for listener in listeners:
        listening = await loop.create_server(
            lambda: MonitorConnection(server, http()), sock=listener, backlog=BACKLOG
        )
        stack.callback(listening.close)
