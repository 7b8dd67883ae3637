"""How the kernel notices a dead peer: a pulled cable, or a machine without power.

TCP itself does not notice. Keep-alive probes a silent connection, and the user timeout limits how
long sent data may stay unacknowledged. The kernel does both. A connection that carries a message
every few seconds costs no extra packet, and neither does a short compile. Heartbeats of our own
were rejected: each idle connection would cost a packet and wake us up.

On Linux, accepted sockets inherit these options from the listening socket, so the server needs no
system call per connection. Other systems may lack an option; then a dead peer is noticed later.
gethost has the same options in C (src/gethost/connection.c).
"""

from __future__ import annotations

import socket

# The silence before the first probe, the time between probes, and the number of unanswered probes
# that end a connection. Together they take less than 15 s.
ASK_AFTER_S = 8
ASK_AGAIN_S = 2
ASK_TIMES = 3
GIVE_UP_AFTER_S = 12


def notice_dead_peer(connection: socket.socket) -> None:
    """Let the kernel end a TCP connection, or those accepted here, when the peer is dead."""
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
