"""How a peer that vanished without a word is noticed: a cable pulled, a machine without power.

TCP says nothing by itself. Keep-alive asks when nothing was heard for a while, and the user timeout
limits how long what was sent may stay unconfirmed; the kernel does both. A connection on which
something is said every few seconds, and a compile that is shorter, never costs a packet. Signs of
life of our own were rejected: they would cost each idle connection a packet and us a wake-up.

On Linux the sockets that a listening one accepts inherit all of it, so a server pays no system call
for a connection. Elsewhere an option may be missing: then a dead peer is noticed later. gethost has
the same in C (src/gethost/connection.c).
"""

from __future__ import annotations

import socket

# Silence before the first question, between questions, and until the peer is given up: with the
# last question's answer, that is below 15 s.
ASK_AFTER_S = 8
ASK_AGAIN_S = 2
ASK_TIMES = 3
GIVE_UP_AFTER_S = 12


def notice_dead_peer(connection: socket.socket) -> None:
    """Have the kernel end a TCP connection, or what is accepted here, when its peer is dead."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", ASK_AFTER_S),
        ("TCP_KEEPALIVE", ASK_AFTER_S),  # macOS's name for it
        ("TCP_KEEPINTVL", ASK_AGAIN_S),
        ("TCP_KEEPCNT", ASK_TIMES),
        ("TCP_USER_TIMEOUT", GIVE_UP_AFTER_S * 1000),
    ):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
