"""A real host-server that is killed and started again, and what its clients make of it.

The clients of the first half are typed by hand, one line at a time, as docs/protocol.md has them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from compile_host import eventually
from farm_processes import LOADS, Client, HostServer

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
        assert server.farm()["totals"]["slots_in_use"] > 0  # the other's, which ends with him
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
