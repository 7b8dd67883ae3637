"""Who may speak: networks, and what counts as host-server's own machine."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from compilefarm import access
from compilefarm.access import AllowedNetworks, is_loopback, is_own_machine, parse_address


@pytest.mark.parametrize(
    ("sender", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("10.1.2.3", True),
        ("172.16.0.1", True),
        ("172.32.0.1", False),
        ("192.168.255.255", True),
        ("169.254.1.1", True),
        ("8.8.8.8", False),
        ("::1", True),
        ("fd12::1", True),
        ("fe80::1%eth0", True),
        ("2001:db8::1", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:8.8.8.8", False),
    ],
)
def test_private_networks_are_served_unless_told_otherwise(sender: str, allowed: bool) -> None:
    networks = AllowedNetworks()
    assert networks.allows(sender) is allowed
    assert networks.allows(sender) is allowed, "the second time it is remembered"


def test_only_the_given_networks_are_served() -> None:
    networks = AllowedNetworks([ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")])
    assert networks.allows("192.0.2.200")
    assert networks.allows("2001:db8::1")
    assert not networks.allows("192.0.3.1")
    assert not networks.allows("127.0.0.1")


def test_a_scan_does_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_REMEMBERED", 10)
    networks = AllowedNetworks()
    for number in range(100):
        assert networks.allows(f"10.0.0.{number}")
        assert len(networks._verdicts) <= 10


@pytest.mark.parametrize(
    ("sender", "sent_to", "own"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("127.0.0.1", "10.0.0.5", True),
        ("10.0.0.5", "10.0.0.5", True),
        ("::ffff:10.0.0.5", "10.0.0.5", True),
        ("10.0.0.6", "10.0.0.5", False),
        ("127.0.0.2", "127.0.0.1", False),
        ("fd00::2", "fd00::1", False),
    ],
)
def test_who_is_the_servers_own_machine(sender: str, sent_to: str, own: bool) -> None:
    assert is_own_machine(sender, sent_to) is own


def test_addresses_in_other_clothes() -> None:
    assert str(parse_address("::ffff:10.0.0.5")) == "10.0.0.5"
    assert str(parse_address("fe80::1%eth0")) == "fe80::1"
    with pytest.raises(ValueError, match="desk1"):
        parse_address("desk1")


def test_loopback_is_this_machine_to_whoever_uses_it() -> None:
    assert is_loopback("127.0.0.2")
    assert is_loopback("::1")
    assert not is_loopback("10.0.0.1")
