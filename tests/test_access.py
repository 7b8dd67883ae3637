"""Who may use a port: networks, limits, and what counts as host-server's own machine."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from compilefarm.protocol.ports import PORT_LABELS
from compilefarm.server import access
from compilefarm.server.access import (
    AllowedNetworks,
    Complaints,
    Counts,
    is_loopback,
    is_own_machine,
    networks_by_port,
    parse_ip,
)


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
def test_private_networks_are_served_by_default(sender: str, allowed: bool) -> None:
    networks = AllowedNetworks()
    assert networks.allows(sender) is allowed
    assert networks.allows(sender) is allowed, "the second verdict is the kept one"


def test_only_the_given_networks_are_served() -> None:
    networks = AllowedNetworks([ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")])
    assert networks.allows("192.0.2.200")
    assert networks.allows("2001:db8::1")
    assert not networks.allows("192.0.3.1")
    assert not networks.allows("127.0.0.1")


def test_a_scan_does_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "VERDICTS_LIMIT", 10)
    networks = AllowedNetworks()
    for number in range(100):
        assert networks.allows(f"10.0.0.{number}")
        assert 1 <= len(networks) <= 10


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
def test_the_servers_own_machine_is_recognised(sender: str, sent_to: str, own: bool) -> None:
    assert is_own_machine(sender, sent_to) is own


def test_an_address_is_read_in_each_of_its_forms() -> None:
    assert str(parse_ip("::ffff:10.0.0.5")) == "10.0.0.5"
    assert str(parse_ip("fe80::1%eth0")) == "fe80::1"
    with pytest.raises(ValueError, match="desk1"):
        parse_ip("desk1")


def test_a_loopback_address_means_the_machine_that_uses_it() -> None:
    assert is_loopback("127.0.0.2")
    assert is_loopback("::1")
    assert not is_loopback("10.0.0.1")


def test_each_port_has_its_own_networks_or_the_common_ones() -> None:
    office, admins = ip_network("10.0.0.0/8"), ip_network("10.9.0.0/16")
    assert all(each.allows("127.0.0.1") for each in networks_by_port(()).values())
    by_port = networks_by_port([("", office), ("status", admins)])
    assert list(by_port) == list(PORT_LABELS)
    assert {port for port, each in by_port.items() if each.allows("10.1.1.1")} == {
        "requests",
        "reports",
        "monitor",
    }
    assert by_port["status"].allows("10.9.1.1")
    assert not by_port["requests"].allows("127.0.0.1")
    alone = networks_by_port([("monitor", admins)])
    assert alone["requests"].allows("127.0.0.1")
    assert not alone["monitor"].allows("127.0.0.1")


def test_an_address_is_full_at_the_limit() -> None:
    counts = Counts(2)
    counts.add("10.0.0.1")
    assert not counts.full("10.0.0.1")
    counts.add("10.0.0.1")
    assert counts.full("10.0.0.1")
    assert not counts.full("10.0.0.2")
    counts.drop("10.0.0.1")
    assert not counts.full("10.0.0.1")
    counts.drop("10.0.0.1")
    assert len(counts) == 0, "an address with none takes no memory"


def test_a_sender_is_logged_once_a_minute() -> None:
    complaints = Complaints()
    assert complaints.note("10.0.0.1", 0.0)
    assert not complaints.note("10.0.0.1", 59.0)
    assert complaints.note("10.0.0.2", 59.0)
    assert complaints.note("10.0.0.1", 60.0)
    assert not complaints.note("10.0.0.2", 118.0)
    assert complaints.left_out(118.0) == 0


def test_a_flood_of_senders_is_counted() -> None:
    complaints = Complaints()
    logged = sum(complaints.note(f"2001:db8::{number:x}", 1.0) for number in range(5000))
    assert logged == Complaints.AT_ONCE
    assert complaints.left_out(1.0) == 5000 - logged
    assert not complaints.note("10.0.0.1", 2.0)
    assert complaints.left_out(2.0) == 0, "not again within the minute"
    assert complaints.left_out(61.0) == 1
    assert complaints.note("10.0.0.1", 62.0), "the first ones are older than a minute"
