"""Addresses as people write them: what is accepted, and what is refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compilefarm.protocol.address import Address, parse_address, split_host


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("desk1", Address("desk1", 3632)),
        ("desk1:4000", Address("desk1", 4000)),
        (" 10.0.0.1:1 ", Address("10.0.0.1", 1)),
        ("[::1]", Address("::1", 3632)),
        ("[::1]:4000", Address("::1", 4000)),
        ("fd00::12:3", Address("fd00::12:3", 3632)),
        ("bücher.example", Address("xn--bcher-kva.example", 3632)),
    ],
)
def test_an_address_is_read_and_written(text: str, address: Address) -> None:
    assert parse_address(text, 3632) == address
    assert parse_address(str(address), 1) == address


@pytest.mark.parametrize(
    "text", ["", ":", ":80", "a:", "a:0", "a:65536", "a:x", "a:²", "a b", "../x", "a\n:1", "[]:1"]
)
def test_a_text_that_is_not_an_address_is_refused_with_a_reason(text: str) -> None:
    reasons = r"is not a host|neither a host name nor an address|no port from 1"
    with pytest.raises(ValueError, match=reasons):
        parse_address(text, 3632)


@given(st.text())
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    try:
        address = parse_address(text, 3632)
    except ValueError:
        return
    assert "/" not in address.host
    assert parse_address(str(address), 1) == address


@given(st.text(st.sampled_from("desk14.:[]%-")) | st.text())
def test_any_text_is_a_host_or_an_error(text: str) -> None:
    try:
        host, port = split_host(text)
    except ValueError as error:
        reason = str(error)
        assert reason
    else:
        assert host
        assert port is None or 0 < port < 65536


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("desk1", "desk1", None),
        ("desk1.example.org.", "desk1.example.org.", None),
        ("Desk1.Example.ORG", "desk1.example.org", None),
        ("desk1:4001", "desk1", 4001),
        ("10.0.0.1:4001", "10.0.0.1", 4001),
        ("fd00::1", "fd00::1", None),
        ("[fd00::1]", "fd00::1", None),
        ("[FD00::1]:4001", "fd00::1", 4001),
    ],
)
def test_a_host_is_split_from_its_port(text: str, host: str, port: int | None) -> None:
    assert split_host(text) == (host, port)
