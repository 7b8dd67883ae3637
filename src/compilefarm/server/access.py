"""Who may use a port: the networks that it serves, and limits for each address.

An object file from a rogue host is code in a user's program. So a sender speaks for a host only if
it is that host, is on host-server's own machine, or proves the farm's key (`protocol/key.py`). This
module compares addresses and counts. It opens no connection and resolves no name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from compilefarm.protocol.address import Network
from compilefarm.protocol.compilers import COMPILERS_LIMIT
from compilefarm.protocol.ports import PORT_LABELS

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

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

# Limits for one address: enough for several `make -j500` behind one router, and too little to keep
# all others out.
CONNECTIONS_PER_ADDRESS = 16_384
WAITING_PER_ADDRESS = 4096
# Compilers that one address reports: enough for several hosts, and at most some 10 MB.
COMPILERS_PER_ADDRESS = 10 * COMPILERS_LIMIT

# Verdicts are kept for this many addresses, then all are dropped: a scan must not fill memory.
VERDICTS_LIMIT = 10_000


def parse_ip(text: str) -> IpAddress:
    """Return an address without its zone; an IPv4 address written as IPv6 becomes IPv4.

    Raises ValueError when the text is no address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_loopback(address: str) -> bool:
    """Whether an address means the machine on which it is used."""
    return address.startswith("127.") or address == "::1"


def is_own_machine(sender: str, sent_to: str) -> bool:
    """Whether a message from `sender` comes from the machine to whose address it was sent.

    Only this machine has 127.0.0.1 and ::1, and the address that a message was sent to. The rest of
    127.0.0.0/8 counts as other hosts, so that a farm can be tried on one machine.
    """
    address = parse_ip(sender)
    return str(address) in ("127.0.0.1", "::1") or address == parse_ip(sent_to)


class AllowedNetworks:
    """The networks from which a sender may come; its length is the number of kept verdicts."""

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
            if len(self._verdicts) >= VERDICTS_LIMIT:
                self._verdicts.clear()
            self._verdicts[sender] = verdict
        return verdict

    def __len__(self) -> int:
        return len(self._verdicts)


def networks_by_port(
    given: Iterable[tuple[str, Network]],
) -> dict[str, AllowedNetworks]:
    """Return the networks that each port serves, from pairs of a port's name and a network.

    An empty name stands for each port that is not named. These ports serve the private networks if
    no pair has an empty name.
    """
    named: dict[str, list[Network]] = {}
    for port, network in given:
        named.setdefault(port, []).append(network)
    for_all = named.get("") or PRIVATE_NETWORKS
    return {port: AllowedNetworks(named.get(port, for_all)) for port in PORT_LABELS}


class Counts:
    """A count for each address, with one limit that goes for every address."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._counts: dict[str, int] = {}

    def full(self, address: str) -> bool:
        """Whether an address has reached the limit."""
        return self._counts.get(address, 0) >= self.limit

    def add(self, address: str) -> None:
        """Count one more for an address."""
        self._counts[address] = self._counts.get(address, 0) + 1

    def drop(self, address: str, count: int = 1) -> None:
        """Count fewer for an address that has at least `count`; forget an address with none."""
        left = self._counts[address] - count
        if left:
            self._counts[address] = left
        else:
            del self._counts[address]

    def __len__(self) -> int:
        return len(self._counts)


class Complaints:
    """Which refusals are logged: one per sender and minute, and a limited number of senders.

    In a flood, only the first `AT_ONCE` senders are logged by name; the rest are counted.
    """

    AGAIN_S = 60.0
    AT_ONCE = 100

    def __init__(self) -> None:
        self._logged_at: dict[str, float] = {}  # the oldest first
        self._left_out = 0
        self._count_logged_at = float("-inf")

    def note(self, sender: str, now: float) -> bool:
        """Whether to log that a sender was refused at `now`, in seconds."""
        while self._logged_at:
            oldest, at = next(iter(self._logged_at.items()))
            if now - at < self.AGAIN_S:
                break
            del self._logged_at[oldest]
        if sender in self._logged_at:
            return False
        if len(self._logged_at) >= self.AT_ONCE:
            self._left_out += 1
            return False
        self._logged_at[sender] = now
        return True

    def left_out(self, now: float) -> int:
        """Return the number of refusals of other senders to log now; above 0 once a minute."""
        if not self._left_out or now - self._count_logged_at < self.AGAIN_S:
            return 0
        left_out, self._left_out = self._left_out, 0
        self._count_logged_at = now
        return left_out
