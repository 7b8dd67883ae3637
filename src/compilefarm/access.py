"""Who may speak: the networks a port is open to, and the hosts a sender may speak for.

An object file from a rogue host is code in somebody's program, so nobody may bring in a host but
the host itself and host-server's own machine. This module compares addresses; it opens and
resolves nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Loopback and private ranges, as distccd's --allow-private has them.
PRIVATE_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)

# Verdicts are remembered for so many addresses, then forgotten all at once: a scan must not fill
# memory.
_REMEMBERED = 10_000


def parse_address(text: str) -> Address:
    """Return the address, without a zone, and as IPv4 where it is an IPv4 one in IPv6 clothes.

    Raises ValueError when the text is no address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_loopback(address: str) -> bool:
    """Whether an address means this machine to whoever uses it."""
    return address.startswith("127.") or address == "::1"


def is_own_machine(sender: str, sent_to: str) -> bool:
    """Whether a message from `sender` comes from the machine that it was sent to.

    127.0.0.1 and ::1 are nobody else, and no other machine has the address that a message went to.
    The rest of 127.0.0.0/8 stands for other hosts, so that a farm can be tried on one machine.
    """
    address = parse_address(sender)
    return str(address) in ("127.0.0.1", "::1") or address == parse_address(sent_to)


class AllowedNetworks:
    """The networks from which a sender may come."""

    def __init__(self, networks: Iterable[Network] = PRIVATE_NETWORKS) -> None:
        self.networks = tuple(networks)
        self._verdicts: dict[str, bool] = {}

    def allows(self, sender: str) -> bool:
        """Whether the sender's address is in one of the networks."""
        verdict = self._verdicts.get(sender)
        if verdict is None:
            address = parse_address(sender)
            verdict = any(
                address in network
                for network in self.networks
                if network.version == address.version
            )
            if len(self._verdicts) >= _REMEMBERED:
                self._verdicts.clear()
            self._verdicts[sender] = verdict
        return verdict
