"""What all programs share: how they find host-server, and which signals end them."""

from __future__ import annotations

import signal
import socket

import pytest

from compilefarm.programs.connection import is_this_machine, servers
from compilefarm.programs.options import ending_signals
from compilefarm.protocol.address import Address


def test_the_server_option_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SERVER", "one,two:2000,")
    assert servers(None) == [Address("one", 9714), Address("two", 2000)]
    assert servers("[::1]:3") == [Address("::1", 3)]
    monkeypatch.delenv("HOST_SERVER")
    with pytest.raises(ValueError, match="set HOST_SERVER=HOST or use --server HOST"):
        servers(None)


def test_this_machine_is_recognised_by_name_and_address() -> None:
    assert is_this_machine(socket.gethostname())
    assert is_this_machine("127.0.0.1")
    assert not is_this_machine("192.0.2.1")
    assert not is_this_machine("no-such-host.invalid")


def test_a_program_under_nohup_ignores_the_end_of_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert ending_signals() == [signal.SIGTERM, signal.SIGINT]
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.SIGHUP in ending_signals()
