"""Who may speak: the networks that a port is open to, how much an address may have, and of whom.

An object file from a rogue host is code in somebody's program, so nobody may bring in a host but
the host itself, host-server's own machine, and who proves the farm's key (`key.py`). This module
compares addresses and counts; it opens and resolves nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from compilefarm.protocol.ports import PORT_LABELS

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


def parse_ip(text: str) -> Address:
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
    address = parse_ip(sender)
    return str(address) in ("127.0.0.1", "::1") or address == parse_ip(sent_to)


class AllowedNetworks:
    """The networks from which a sender may come."""

    def __init__(self, networks: Iterable[Network] = PRIVATE_NETWORKS) -> None:
        self.networks = tuple(networks)
        self._verdicts: dict[str, bool] = {}

    def allows(self, sender: str) -> bool:
        """Whether the sender's address is in one of the networks."""
        verdict = self._verdicts.get(sender)
        if verdict is None:
            address = parse_ip(sender)
            verdict = any(
                address in network
                for network in self.networks
                if network.version == address.version
            )
            if len(self._verdicts) >= _REMEMBERED:
                self._verdicts.clear()
            self._verdicts[sender] = verdict
        return verdict


def networks_by_port(
    given: Iterable[tuple[str, Network]],
) -> dict[str, AllowedNetworks]:
    """Return what each port is open to, from pairs of a port's name and a network.

    An empty name means all ports that have no network of their own, by default the private ones.
    """
    named: dict[str, list[Network]] = {}
    for port, network in given:
        named.setdefault(port, []).append(network)
    for_all = named.get("") or PRIVATE_NETWORKS
    return {port: AllowedNetworks(named.get(port, for_all)) for port in PORT_LABELS}


class Counts:
    """How much each address has of something, held against a limit that goes for each."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._counts: dict[str, int] = {}

    def full(self, address: str) -> bool:
        """Whether an address has as much as it may."""
        return self._counts.get(address, 0) >= self.limit

    def add(self, address: str) -> None:
        """Count one more for an address."""
        self._counts[address] = self._counts.get(address, 0) + 1

    def drop(self, address: str) -> None:
        """Count one less for an address that has at least one; one with none is forgotten."""
        left = self._counts[address] - 1
        if left:
            self._counts[address] = left
        else:
            del self._counts[address]

    def __len__(self) -> int:
        return len(self._counts)


class Complaints:
    """Which refusals are worth a line in the log: one a sender and minute, and so many in all.

    Of a flood of senders only the first have lines of their own; of the others there is a number.
    """

    AGAIN_S = 60.0
    AT_ONCE = 100

    def __init__(self) -> None:
        self._told_at: dict[str, float] = {}  # the oldest first
        self._left_out = 0
        self._number_told_at = float("-inf")

    def note(self, sender: str, now: float) -> bool:
        """Whether to log that a sender was refused, at that time in seconds."""
        while self._told_at:
            oldest, at = next(iter(self._told_at.items()))
            if now - at < self.AGAIN_S:
                break
            del self._told_at[oldest]
        if sender in self._told_at:
            return False
        if len(self._told_at) >= self.AT_ONCE:
            self._left_out += 1
            return False
        self._told_at[sender] = now
        return True

    def left_out(self, now: float) -> int:
        """Return how many refusals of further senders had no line; more than 0 once a minute."""
        if not self._left_out or now - self._number_told_at < self.AGAIN_S:
            return 0
        left_out, self._left_out = self._left_out, 0
        self._number_told_at = now
        return left_out
