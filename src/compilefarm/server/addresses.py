"""Names to addresses, and whether a sender may speak for the host of a name.

An object file from a rogue host is code in a user's program, so the server asks the name service,
not the sender. A look-up runs beside the event loop, and has a limit of time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from dataclasses import replace

from compilefarm.protocol.declaration import Declaration
from compilefarm.protocol.wire import WireError
from compilefarm.server.access import is_own_machine, parse_ip

RESOLVE_WITHIN_S = 3.0

log = logging.getLogger("host-server")


async def address_spoken_for(
    host: str, listed: Declaration | None, *, sender: str, sent_to: str, proven: bool
) -> str:
    """Return the address of a host; raises `WireError` if the sender may not speak for it.

    `listed` is the host's entry in hosts-info, None without one. `sent_to` is the address that the
    sender connected to. `proven` says that it has proved the farm's key.
    """
    if listed is not None and listed.address is not None:
        addresses = [listed.address]
    else:
        addresses = await resolved(host)
    if sender in addresses:
        return sender
    if proven or is_own_machine(sender, sent_to):
        return addresses[0] if addresses else sender
    if addresses:
        raise WireError(f"{sender} may not speak for {host}, which is {', '.join(addresses[:4])}")
    if listed is not None:
        raise WireError(
            f"the name {host}, listed in hosts-info, does not resolve; give it address="
        )
    return sender  # the name means no other machine


async def resolved(host: str) -> list[str]:
    """Return the addresses of a host; none where its name does not resolve in time."""
    with contextlib.suppress(ValueError):
        return [str(parse_ip(host))]
    try:
        async with asyncio.timeout(RESOLVE_WITHIN_S):
            found = await asyncio.get_running_loop().getaddrinfo(
                host, None, type=socket.SOCK_STREAM
            )
    except (OSError, TimeoutError, UnicodeError):
        return []
    return list(dict.fromkeys(str(parse_ip(str(entry[4][0]))) for entry in found))


async def with_address(declaration: Declaration) -> Declaration:
    """Return a hosts-info entry with its host's address, where the entry needs one.

    A host that is available from the start needs one; other hosts are added with theirs. A host
    whose name does not resolve is not available from the start.
    """
    if declaration.address is not None or not declaration.static:
        return declaration
    addresses = await resolved(declaration.host)
    if not addresses:
        log.warning("hosts-info: %s does not resolve, so it is not used", declaration.host)
        return replace(declaration, static=False)
    return replace(declaration, address=addresses[0])


async def own_names() -> list[str]:
    """Return this machine's names: its own one, and its full ones from the name service."""
    own = socket.gethostname()
    try:
        async with asyncio.timeout(RESOLVE_WITHIN_S):
            found = await asyncio.get_running_loop().getaddrinfo(
                own, None, flags=socket.AI_CANONNAME
            )
    except (OSError, TimeoutError, UnicodeError):
        return [own]
    return [own, *(entry[3] for entry in found if entry[3])]
