"""Host names and addresses as people and programs write them: `HOST[:PORT]`, `[IPV6]:PORT`.

One parser serves hosts-info, every option and every line of the protocol, so a name that one of
them accepts is a name for all. Nothing here resolves a name.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from compilefarm.protocol.ports import DISTCCD_PORT, HIGHEST_PORT

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?\.?\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or IP address, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str, default_port: int) -> Address:
    """Return the address in `HOST`, `HOST:PORT`, `ADDRESS`, `[IPV6]` or `[IPV6]:PORT`.

    Raises `ValueError` as `split_host` does.
    """
    host, port = split_host(text.strip())
    return Address(host, default_port if port is None else port)


def split_host(text: str) -> tuple[str, int | None]:
    """Return the host and the port of `HOST`, `HOST:PORT`, `ADDRESS`, `[IPV6]` or `[IPV6]:PORT`.

    The host is in lower case, because name services ignore case. The port is None where the text
    has none. Raises `ValueError`, with a text for the user, where the text is no host.
    """
    host, colon, port = text, "", ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        if not bracket or colon not in ("", ":") or ":" not in host:
            raise ValueError(f"{text[:80]!r} is not a host; write an IPv6 one as [ADDRESS]:PORT")
    elif text.count(":") == 1:
        host, colon, port = text.partition(":")
    if colon and not is_port(port):
        raise ValueError(f"{text[:80]!r} has no port from 1 to {HIGHEST_PORT} after the colon")
    return _canonical(host), int(port) if colon else None


def _canonical(host: str) -> str:
    """Return a name or address in lower case, and an international name in its ASCII form."""
    try:
        name = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        name = ""
    if not _NAME.match(name):
        address, percent, zone = host.partition("%")
        if not _is_address(address) or (percent and not _NAME.match(zone)):
            raise ValueError(f"{host[:80]!r} is neither a host name nor an address")
        name = host
    return name.lower()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_port(text: str) -> bool:
    """Whether a text is the number of a TCP port, 1 to 65535."""
    return _PORT.match(text) is not None and 1 <= int(text) <= HIGHEST_PORT


def host_name(host: str, port: int | None) -> str:
    """Return the farm's name for a host: the bare name on distccd's usual port, else NAME:PORT."""
    return host if port in (None, DISTCCD_PORT) else str(Address(host, port))
