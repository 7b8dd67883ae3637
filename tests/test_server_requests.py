"""Requests on a real host-server: leases and the connections that hold them, and backups."""

from __future__ import annotations

import csv
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from farm_processes import Client, HostServer
from run_program import eventually

from compilefarm.protocol.farm_json import HostSnapshot
from compilefarm.protocol.wire import Message

# It starts programs, many times.
pytestmark = pytest.mark.slow


# -- leases and connections


def test_a_lease_ends_with_its_connection(host_server: HostServer) -> None:
    clients = [host_server.connect() for _ in range(9)]
    for client in clients:
        client.say("request user=ada")
    for client in clients[:8]:
        client.hears("lease")
    assert clients[8].hears("wait").words["ahead"] == "0"
    clients[0].close()
    clients[8].hears("lease")
    # A reset ends a lease too.
    clients[1].socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    for client in clients[1:]:
        client.close()
    assert eventually(lambda: host_server.farm()["totals"]["slots_in_use"] == 0)


def test_a_compile_grows_older_even_without_events(host_server: HostServer) -> None:
    def running_s() -> list[float]:
        leases = [lease for host in host_server.farm()["hosts"] for lease in host["leases"]]
        return [lease["running_s"] for lease in leases]

    with host_server.connect() as client:
        client.say("request user=ada")
        client.hears("lease")
        [at_first_s] = running_s()
        assert eventually(lambda: running_s()[0] > at_first_s, patience_s=2.0)


def test_a_client_that_vanishes_waits_no_more(host_server: HostServer) -> None:
    holders = [host_server.connect() for _ in range(8)]
    for client in holders:
        client.say("request user=ada")
        client.hears("lease")
    for _ in range(10):
        client = host_server.connect()
        client.say("request user=bob")
        client.hears("wait")
        client.close()
    assert eventually(lambda: host_server.farm()["totals"]["requests_waiting"] == 0)
    assert host_server.farm()["totals"]["slots_in_use"] == 8
    for client in holders:
        client.say("done exit=0")
        client.close()
    host_server.serves()


def test_a_deadline_that_has_passed_already_does_no_harm(host_server: HostServer) -> None:
    """A timer of uvloop that is due at once has no time."""
    holders = [host_server.connect() for _ in range(8)]
    for client in holders:
        client.say("request user=ada")
        client.hears("lease")
    for wait_s in ("0.000001", "0.001") * 20:
        with host_server.connect() as client:
            client.say(f"request user=bob wait_s={wait_s}")
            reason = client.hears("refused").required("reason")
            assert reason == "no slot came free in the time given"
    for client in holders:
        client.say("done exit=0")
        client.close()
    host_server.serves()


# -- backups


@pytest.fixture
def backed_up(tmp_path: Path) -> Iterator[tuple[HostServer, Client, Message]]:
    """A server, a client whose compile runs on a slow host, and the backup that it got."""
    with HostServer(tmp_path, "--record", tmp_path / "record.csv") as server:
        server.ask("add host=127.0.0.1 port=4001 slots=1 power_index=1")
        with server.connect() as client:
            client.say("request user=ada source=giant.c backup=yes")
            assert client.hears("lease").words["port"] == "4001"
            server.ask("add host=127.0.0.1 port=4002 slots=1 power_index=20")
            backup = client.hears("backup")
            assert (backup.words["port"], backup.words["slots"]) == ("4002", "1")
            yield server, client, backup


def host_of(server: HostServer, port: int) -> HostSnapshot:
    return next(host for host in server.farm()["hosts"] if host["port"] == port)


def test_a_compile_is_done_by_its_backup(
    backed_up: tuple[HostServer, Client, Message], tmp_path: Path
) -> None:
    server, client, backup = backed_up
    assert [lease["backup"] for lease in host_of(server, 4002)["leases"]] == [True]
    client.say(f"done exit=0 wall_s=0.2 cpu_s=0.01 id={backup.words['id']}")
    assert client.line() == ""
    assert eventually(lambda: server.farm()["totals"]["slots_in_use"] == 0)
    totals = server.farm()["totals"]
    assert (totals["backups_begun"], totals["backups_first"]) == (1, 1)
    with (tmp_path / "record.csv").open(newline="") as file:
        rows = [(row["host"], row["ending"]) for row in csv.DictReader(file)]
    assert rows == [("127.0.0.1:4001", "dropped"), ("127.0.0.1:4002", "done")]


def test_a_backup_is_revoked_when_a_request_needs_its_slot(
    backed_up: tuple[HostServer, Client, Message],
) -> None:
    server, client, backup = backed_up
    with server.connect() as other:
        other.say("request user=bob source=b.c")
        assert other.hears("lease").words["port"] == "4002"
        assert client.hears("drop").words["id"] == backup.words["id"]
        # Lines may cross: a message about a backup that has ended changes nothing.
        client.say(f"failed exit=116 id={backup.words['id']}", f"dropped id={backup.words['id']}")
        other.say("done exit=0 wall_s=0.1")
    again = client.hears("backup")
    assert again.words["id"] != backup.words["id"]
    client.say(f"done exit=0 wall_s=0.2 id={backup.words['id']}")
    assert client.line() == ""
    assert host_of(server, 4002)["failures"] == 0


def test_a_backup_may_end_alone_and_only_a_failure_blames_its_host(
    backed_up: tuple[HostServer, Client, Message],
) -> None:
    server, client, backup = backed_up
    client.say(f"dropped id={backup.words['id']}")
    assert eventually(lambda: host_of(server, 4002)["slots_in_use"] == 0)
    backup = client.hears("backup")
    client.say(f"failed exit=116 id={backup.words['id']}")
    assert eventually(lambda: host_of(server, 4002)["failures"] == 1)
    assert host_of(server, 4001)["slots_in_use"] == 1
    client.say("done exit=0 wall_s=0.2")
    assert client.line() == ""


def test_attaching_a_lease_again_ends_its_backup(
    backed_up: tuple[HostServer, Client, Message],
) -> None:
    server, client, backup = backed_up
    lease_id = backup.words["id"].partition(".")[0]
    with server.connect() as again:
        again.say(f"attach id={lease_id} host=127.0.0.1 port=4001 backup=yes")
        assert again.hears("attached").words["id"] == lease_id
        assert again.hears("backup").words["id"] != backup.words["id"]
        assert client.line() == ""
        again.say("done exit=0 wall_s=0.2")
        assert again.line() == ""
