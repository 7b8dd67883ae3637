"""A real host-server that is killed and started again, and what its clients make of it.

The clients of the first half are typed by hand, one line at a time, as docs/protocol.md has them.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from farm_processes import LOADS, STATUS, Client, HostServer
from run_program import eventually

from compilefarm.server.storage.state_file import FILE_NAME

pytestmark = pytest.mark.slow

HOST = "add host=127.0.0.1 port=4001 slots=2"
NAME = "127.0.0.1:4001"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HostServer]:
    with HostServer(tmp_path) as server:
        yield server


@pytest.fixture
def clients(server: HostServer) -> Iterator[Clients]:
    with contextlib.ExitStack() as stack:
        yield Clients(server, stack)


class Clients:
    """Makes clients of a server that are closed in the end, if they did not close before."""

    def __init__(self, server: HostServer, stack: contextlib.ExitStack) -> None:
        self._server = server
        self._stack = stack

    def leased(self) -> tuple[Client, str]:
        """Return a client with a lease, and the lease's id."""
        client = self._stack.enter_context(self._server.connect())
        client.say("request user=ada source=main.c")
        return client, client.hears("lease").required("id")

    def attached(self, lease: str) -> tuple[Client, str]:
        """Return a client that attached a lease, and the id that it has now."""
        client = self._stack.enter_context(self._server.connect())
        client.say(f"attach id={lease} host={NAME} running_s=1.5 user=ada source=main.c")
        return client, client.hears("attached").required("id")


def test_leases_outlive_the_server(server: HostServer, clients: Clients) -> None:
    assert server.ask(HOST).startswith("ok ")
    first, first_id = clients.leased()
    second, second_id = clients.leased()
    assert re.fullmatch(r"[0-9a-f]{8}-1", first_id)
    server.kill()
    assert (first.line(), second.line()) == ("", "")

    server.start()
    first, now_id = clients.attached(first_id)
    assert now_id not in (first_id, second_id)
    with server.connect(LOADS) as host, server.connect() as waiting:
        waiting.say("request user=bob returning=yes")
        waiting.hears("wait")
        host.say(f"{HOST} returning=yes")
        host.hears("ok")
        host.say("load host=127.0.0.1 port=4001 compiles=2 returning=yes")
        host.hears("ok")
        second, _ = clients.attached(second_id)
        assert server.farm()["totals"]["leases_attached"] == 2
        assert server.host(NAME)["slots_free"] == 0
        first.say("done exit=0 wall_s=2")
        assert first.line() == ""
        waiting.hears("lease")
        second.close()
        waiting.say("done exit=0 wall_s=1")
    eventually(lambda: server.farm()["totals"]["slots_in_use"] == 0)


def test_what_nobody_attaches_is_in_use_until_the_host_says_otherwise(server: HostServer) -> None:
    load = "load host=127.0.0.1 port=4001 compiles="
    with server.connect(LOADS) as host, server.connect() as waiting:
        host.say(f"{HOST} returning=yes", f"{load}2 returning=yes")
        host.hears("ok")
        host.hears("ok")
        waiting.say("request user=bob")
        waiting.hears("wait")
        eventually(lambda: "2 compiles run there without" in server.host(NAME)["reason"])
        assert server.host(NAME)["strays"] == 2
        host.say(f"{load}1")
        waiting.hears("lease")
        host.say(f"{load}0")


def test_a_lease_whose_connection_broke_unseen_is_handed_over(
    server: HostServer, clients: Clients
) -> None:
    assert server.ask(HOST).startswith("ok ")
    broken, lease = clients.leased()
    with broken:
        heir, same = clients.attached(lease)
        assert same == lease
        assert broken.is_closed()
        assert server.farm()["totals"]["slots_in_use"] == 1
        heir.say("done exit=0 wall_s=2")
        assert heir.line() == ""
    eventually(lambda: server.farm()["totals"]["slots_in_use"] == 0)


def test_nobody_takes_a_lease_from_another_machine(server: HostServer, clients: Clients) -> None:
    assert server.ask(HOST).startswith("ok ")
    holder, lease = clients.leased()
    with holder, server.connect(sender="127.0.0.2") as thief:
        thief.say(f"attach id={lease} host={NAME} running_s=1")
        assert thief.hears("attached").required("id") != lease
        holder.say("done exit=0 wall_s=2")
        assert holder.line() == ""
        assert server.farm()["totals"]["slots_in_use"] > 0  # until the other ends
    eventually(lambda: server.farm()["totals"]["slots_in_use"] == 0)


@pytest.mark.parametrize(
    "line",
    [
        "attach host=desk1",
        "attach id=1-1",
        "attach id=1-1 host=desk1 running_s=-1",
        "attach id=1-1 host=desk1 running_s=1e9",
        "attach id=1-1 host=desk1 returning=perhaps",
        "attach id=1-1 host=a%20b",
    ],
)
def test_an_attachment_without_sense(server: HostServer, line: str) -> None:
    with server.connect() as client:
        client.say(line)
        client.is_turned_away()
    server.ask(HOST)
    with server.connect() as client:
        client.say("attach id=%E2%82%AC-%C2%B2 host=desk1", "attach id=1-1 host=desk1")
        client.hears("attached")
        client.is_turned_away()
    eventually(lambda: server.farm()["totals"]["slots_in_use"] == 0)


# -- availability survives


@pytest.fixture
def remembering(tmp_path: Path) -> Iterator[HostServer]:
    options = "--state-dir", tmp_path / "state", "--hosts-info", tmp_path / "hosts-info"
    (tmp_path / "hosts-info").write_text("static1 1 1 address=127.0.0.1 static\n")
    with HostServer(tmp_path, *options) as server:
        yield server


def restart(server: HostServer) -> None:
    server.kill()
    server.start()


def is_free(server: HostServer, name: str) -> bool:
    host = server.host(name)
    return bool(host["slots_free"] == host["slots"])


def test_what_was_said_by_hand_survives_sigkill(remembering: HostServer) -> None:
    server = remembering
    added = "add host=127.0.0.1 port=4001 slots=3 power_index=2.5 types=a,b compilers=gcc"
    assert server.ask(f"{added} mode=proportional reserve_cpus=0.5").startswith("ok ")
    assert server.ask("add host=127.0.0.1 port=4002 slots=2").startswith("ok ")
    assert server.ask("remove host=static1") == "ok known=yes"
    assert server.ask("remove host=127.0.0.1 port=4002") == "ok known=yes"
    before = server.host(NAME)
    for _ in range(2):
        restart(server)
        after = eventually(lambda: (now := server.host(NAME))["slots_in_use"] == 0 and now)
        for key in ("state", "slots", "power_index", "types", "compilers", "mode", "address"):
            assert after[key] == before[key], key
        assert server.host("static1")["state"] == "away"
        assert server.host("127.0.0.1:4002") == {}
        # A reporter that only returns does not undo it; a user's `add` does.
        again = "add host=127.0.0.1 port=4002 slots=2 returning=yes"
        assert server.ask(again, port=LOADS) == "ok host=127.0.0.1:4002 slots=0 available=no"
    server.ask("add host=static1")
    server.ask("add host=127.0.0.1 port=4002 slots=2")
    restart(server)
    for name in ("static1", NAME, "127.0.0.1:4002"):
        eventually(partial(is_free, server, name))


def test_a_drain_that_was_under_way_stays_begun(remembering: HostServer) -> None:
    server = remembering
    assert server.ask("remove host=static1") == "ok known=yes"
    assert server.ask(HOST).startswith("ok ")
    with server.connect() as client, server.connect(STATUS) as leaving:
        client.say("request user=ada")
        client.hears("lease")
        leaving.say("drain host=127.0.0.1 port=4001 grace_s=60")
        leaving.hears("draining")
        assert server.ask("remove host=static1") == "ok known=no"  # it writes what is not yet
        restart(server)
    assert server.ask(HOST + " returning=yes", port=LOADS).endswith("available=no")


def test_a_host_that_reported_is_awaited(remembering: HostServer) -> None:
    server = remembering
    with server.connect(LOADS) as reporter:
        reporter.say(HOST, "load host=127.0.0.1 port=4001")
        reporter.hears("ok")
        reporter.hears("ok")
        assert server.ask("remove host=static1") == "ok known=yes"
    restart(server)
    assert server.host(NAME)["state"] == "silent"
    with server.connect() as client:
        client.say("request user=ada")
        client.hears("wait")
        with server.connect(LOADS) as reporter:
            reporter.say(f"{HOST} returning=yes", "load host=127.0.0.1 port=4001 returning=yes")
            client.hears("lease")


def test_what_makes_no_sense_is_left_out(remembering: HostServer, tmp_path: Path) -> None:
    server = remembering
    assert server.ask(HOST).startswith("ok ")
    server.kill()
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / FILE_NAME)) as database, database:
        for name, text in (("a", "{"), ("b", "[]"), ("c", '{"host": 1}'), ("d", "null")):
            database.execute("INSERT INTO host VALUES (?, ?, '', 1, 0)", (name, text))
    server.start()
    assert server.log.read_text().count("makes no sense") == 4
    assert server.host(NAME)["state"] == "up"
