"""Hosts on a real host-server: who may speak for a host, load reporters, and drains.

Loopback addresses stand for machines: 127.0.0.1 is host-server's own.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from farm_processes import LOADS, MONITOR, REQUESTS, STATUS, Client, HostServer
from run_program import eventually

# It starts programs, many times.
pytestmark = pytest.mark.slow

LINE_PORTS = (REQUESTS, LOADS, STATUS)
OTHERS = "127.0.0.2"  # a machine that may speak only for itself


# -- who speaks for a host


@pytest.mark.parametrize(
    ("port", "line"),
    [
        (STATUS, "add host=127.0.0.3 slots=4"),
        (STATUS, "add host=127.0.0.1 slots=4"),
        (STATUS, "remove host=127.0.0.1"),
        (STATUS, "drain host=127.0.0.1"),
        (LOADS, "load host=127.0.0.3 load1=0"),
        (LOADS, "load host=127.0.0.1 distccd=gone"),
        (LOADS, "add host=127.0.0.3 slots=4"),
        (LOADS, "add host=localhost slots=4"),
    ],
)
def test_a_host_speaks_only_for_itself(host_server: HostServer, port: int, line: str) -> None:
    with host_server.connect(port, sender=OTHERS) as client:
        client.say(line)
        assert f"{OTHERS} may not speak for" in client.is_turned_away()
    host_server.serves()
    assert host_server.ask("remove host=127.0.0.3") == "ok known=no"


def test_a_host_speaks_for_itself(host_server: HostServer) -> None:
    with host_server.connect(LOADS, sender=OTHERS) as client:
        client.say(f"add host={OTHERS} port=4001 slots=1")
        client.hears("ok")
        client.say(f"load host={OTHERS} port=4001 cpus=1", f"load host={OTHERS} port=4001 cpus=1")
        client.hears("ok")
        # A report for another host, after some that were accepted.
        client.say("load host=127.0.0.3")
        assert client.is_turned_away()
    assert host_server.ask(f"remove host={OTHERS} port=4001", sender=OTHERS) == "ok known=yes"


def test_a_name_that_does_not_resolve_belongs_to_its_sender(host_server: HostServer) -> None:
    assert host_server.ask("add host=desk7.invalid slots=1", sender=OTHERS).startswith("ok ")
    assert eventually(lambda: host_server.host("desk7.invalid").get("address") == OTHERS)
    assert host_server.ask("remove host=desk7.invalid") == "ok known=yes"


def test_the_servers_own_machine_speaks_for_all(host_server: HostServer) -> None:
    assert host_server.ask("add host=127.0.0.3 slots=1").startswith("ok ")
    assert host_server.ask("remove host=127.0.0.3") == "ok known=yes"


def test_only_allowed_networks_are_served(tmp_path: Path) -> None:
    with HostServer(tmp_path, "--allow", "127.0.0.1/32", "--allow", "10.0.0.0/8") as server:
        assert server.ask("networks") == "ok networks=127.0.0.1/32,10.0.0.0/8"
        for _ in range(3):
            for port in LINE_PORTS:
                with server.connect(port, sender=OTHERS) as client:
                    assert OTHERS in client.is_turned_away()
        with server.connect(MONITOR, sender=OTHERS) as client:
            client.send(b"GET /api/farm HTTP/1.0\r\n\r\n")
            assert " 403 " in client.line()
        assert server.ask("add host=127.0.0.1").startswith("ok ")
        server.serves()
        assert server.log.read_text().count(f"refused {OTHERS}") == 1


def test_a_farm_works_with_ipv6(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with HostServer(tmp_path, "--bind", "::1") as server:
        with Client("::1", server.base + STATUS) as client:
            client.say("add host=::1 port=4001 slots=2")
            assert client.hears("ok").required("host") == "[::1]:4001"
        for address in ("::1", "127.0.0.1"):
            with Client(address, server.base) as builder:
                builder.say("request user=ada")
                lease = builder.hears("lease")
                assert (lease.words["address"], lease.words["port"]) == ("::1", "4001")


# -- reporters and drains


def test_a_host_without_its_reporter_is_silent(host_server: HostServer) -> None:
    with host_server.connect(LOADS) as reporter:
        reporter.say("add host=127.0.0.4 slots=1", "load host=127.0.0.4 cpus=1")
        reporter.hears("ok")
        reporter.hears("ok")
        with host_server.connect(LOADS) as newer:
            newer.say("load host=127.0.0.4 cpus=1")
            newer.hears("ok")
            reporter.close()
            host_server.serves()
            assert eventually(lambda: host_server.host("127.0.0.4").get("state") == "up")
    assert eventually(lambda: host_server.host("127.0.0.4")["state"] == "silent")
    assert host_server.ask("remove host=127.0.0.4") == "ok known=yes"


def test_drain_answers_when_the_last_lease_has_ended(host_server: HostServer) -> None:
    host_server.ask("add host=127.0.0.5 slots=1 types=five")
    with host_server.connect() as builder, host_server.connect(STATUS) as leaving:
        builder.say("request type=five")
        builder.hears("lease")
        leaving.say("drain host=127.0.0.5 grace_s=60", "networks")
        assert leaving.hears("draining").words["leases"] == "1"
        builder.say("done exit=0")
        assert leaving.hears("ok").words["leases"] == "0"
        assert leaving.hears("ok").words["networks"]


def test_drain_revokes_the_remaining_leases_after_its_grace(host_server: HostServer) -> None:
    host_server.ask("add host=127.0.0.5 slots=1 types=five")
    with host_server.connect() as builder, host_server.connect(STATUS) as leaving:
        builder.say("request type=five")
        builder.hears("lease")
        leaving.say("drain host=127.0.0.5 grace_s=0.1")
        assert leaving.hears("draining").words["leases"] == "1"
        assert leaving.hears("ok").words["leases"] == "1"
        assert "leaves" in builder.hears("revoked").required("reason")
        assert builder.line() == ""


def test_a_drain_that_is_cancelled_says_so(host_server: HostServer) -> None:
    host_server.ask("add host=127.0.0.5 slots=1 types=five")
    with host_server.connect() as builder, host_server.connect(STATUS) as leaving:
        builder.say("request type=five")
        builder.hears("lease")
        leaving.say("drain host=127.0.0.5")
        leaving.hears("draining")
        host_server.ask("add host=127.0.0.5 slots=1 types=five")
        assert "added again" in leaving.is_turned_away()
    assert host_server.ask("remove host=127.0.0.5") == "ok known=yes"
