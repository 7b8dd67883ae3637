"""Compiler ids on a real host-server: what hosts report, what requests name, and bad input.

127.0.0.1 is host-server's own machine, so it may speak for hosts of any port here.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from farm_processes import LOADS, STATUS, Client, DistccdHost, HostServer
from run_program import eventually

from compilefarm.client import mon_host_server
from compilefarm.protocol.compilers import COMPILERS_LIMIT, TEXT_LIMIT
from compilefarm.protocol.wire import Message
from compilefarm.server.access import COMPILERS_PER_ADDRESS

# It starts programs, many times.
pytestmark = pytest.mark.slow

GCC, OTHER_GCC = "3f9a11c2d4e5f607", "00c7f0b2a3d4e5fa"
TARGET = "x86_64-linux-gnu"
OTHERS = "127.0.0.2"


@pytest.fixture
def host_server(tmp_path: Path) -> Iterator[HostServer]:
    """A host-server without hosts, which must serve well-behaved clients after each test."""
    with HostServer(tmp_path) as server:
        yield server
        assert server.ask("add host=127.0.0.9 slots=1").startswith("ok ")
        server.serves()


def compiler(id: str = GCC, host: str = "desk1", text: str = "gcc%2012.2.0-14") -> str:
    """Return the line of a host that has a gcc with this id."""
    return f"compiler host={host} id={id} name=gcc version=12.2.0 target={TARGET} text={text}"


def request(id: str = GCC, text: str = "gcc%2012.2.0-14", verb: str = "request") -> str:
    """Return a client's line that names this compiler."""
    what = f"compiler_name=gcc compiler_version=12.2.0 compiler_target={TARGET}"
    return f"{verb} user=ada compiler=gcc compiler_id={id} {what} compiler_text={text}"


def agent(server: HostServer, *ids: str, host: str = "desk1") -> Client:
    """Return the connection of a host whose agent has reported these compilers."""
    client = server.connect(LOADS)
    client.say(f"add host={host} slots=2 compiler_ids=yes")
    client.hears("ok")
    client.say(f"load host={host} cpus=2 compiler_ids=yes")
    assert client.hears("ok").words == {"compiler_ids": "yes"}
    reports(client, *ids, host=host)
    assert eventually(lambda: server.host(host).get("compiler_ids") == len(ids))
    return client


def reports(client: Client, *ids: str, host: str = "desk1") -> None:
    client.say(*(compiler(id, host) for id in ids), f"compilers host={host} count={len(ids)}")


def lease(client: Client, *words: str) -> Message:
    """Let a client ask for its compiler; return its lease."""
    client.say(" ".join([request(), *words]))
    return client.hears("lease")


# -- hosts and requests


def test_a_request_goes_through_the_door_of_its_compiler(host_server: HostServer) -> None:
    with agent(host_server, OTHER_GCC, GCC), host_server.connect() as client:
        words = lease(client).words
        assert (words["host"], words["door"]) == ("desk1", f"gcc-{GCC}")
        client.say("done exit=0")


def test_a_list_replaces_the_one_before_at_once(host_server: HostServer) -> None:
    with agent(host_server, GCC) as host, host_server.connect() as client:
        lease(client)
        reports(host, OTHER_GCC)
        assert client.hears("revoked").words["reason"] == f"desk1 no longer has gcc-{GCC}"
        with host_server.connect() as again:
            again.say(request())
            reason = "no host has your gcc 12.2.0-14; 1 host has another build of it"
            assert again.hears("refused").words["reason"] == reason


def test_a_request_without_an_id_is_granted_without_a_door(host_server: HostServer) -> None:
    with agent(host_server, OTHER_GCC), host_server.connect() as client:
        client.say("request user=ada compiler=gcc")
        assert "door" not in client.hears("lease").words
        client.say("done exit=0")


def test_an_old_reporter_is_answered_as_before(host_server: HostServer) -> None:
    with host_server.connect(LOADS) as host:
        host.say("load host=desk1 cpus=2")
        assert host.hears("ok").words == {}
        assert eventually(lambda: host_server.host("desk1").get("compiler_ids", 0) is None)


def test_a_host_whose_agent_is_replaced_by_an_old_reporter_has_no_agent(
    host_server: HostServer,
) -> None:
    with agent(host_server, GCC):
        pass
    assert eventually(lambda: host_server.host("desk1")["state"] == "silent")
    with host_server.connect(LOADS) as host:
        host.say("load host=desk1 cpus=2")
        host.hears("ok")
        assert eventually(lambda: host_server.host("desk1")["compiler_ids"] is None)


def test_addhost_says_nothing_about_an_agent(host_server: HostServer) -> None:
    assert host_server.ask("add host=desk1 slots=1 compiler_ids=yes", port=STATUS).startswith("ok")
    assert eventually(lambda: host_server.host("desk1").get("compiler_ids", 0) is None)


def test_a_lease_that_is_attached_keeps_its_door(host_server: HostServer) -> None:
    with agent(host_server, GCC) as host, host_server.connect() as client:
        client.say(f"{request(verb='attach')} id=0-1 host=desk1 running_s=1 door=gcc-{GCC}")
        client.hears("attached")
        reports(host)
        client.hears("revoked")


def test_jobs_count_the_hosts_that_have_the_compiler(host_server: HostServer) -> None:
    with agent(host_server, GCC), agent(host_server, OTHER_GCC, host="desk2"):
        assert host_server.ask(f"{request(verb='jobs')} cpus=4", port=0) == "jobs count=6"
        assert host_server.ask("jobs user=ada cpus=4", port=0) == "jobs count=8"
        assert host_server.ask("jobs user=ada cpus=4 type=arm64", port=0) == "jobs count=4"


@pytest.mark.parametrize(("rule", "verb"), [("version", "refused"), ("any", "lease")])
def test_the_rule_says_what_counts_as_the_same(tmp_path: Path, rule: str, verb: str) -> None:
    with HostServer(tmp_path, "--compilers", rule) as server, agent(server, OTHER_GCC):
        with server.connect() as client:
            assert lease(client).words.get("door") == f"gcc-{OTHER_GCC}"
            client.say("done exit=0")
        with server.connect() as client:
            client.say(request().replace("12.2.0", "13.1.0"))
            assert "door" not in client.hears(verb).words


def test_the_monitor_shows_who_has_and_who_wants_a_compiler(
    host_server: HostServer, capfd: pytest.CaptureFixture[str]
) -> None:
    with agent(host_server, GCC), agent(host_server, GCC, host="desk2"):
        with host_server.connect() as client:
            lease(client)
            client.say("done exit=0")
        with host_server.connect() as client:
            client.say(request(OTHER_GCC, "gcc%2013"))
            client.hears("refused")
        assert eventually(lambda: host_server.farm()["totals"]["requests_refused"] == 1)
        assert mon_host_server.main(["--server", host_server.name, "--compilers"]) == 0
        lines = [line.split() for line in capfd.readouterr().out.splitlines()]
        assert ["gcc", "12.2.0-14", GCC, "2", "4", "1", "0"] in lines
        assert ["gcc", "13", OTHER_GCC, "0", "0", "0", "1"] in lines


# -- bad input


def test_a_host_with_500_compilers(host_server: HostServer) -> None:
    ids = [f"{number:016x}" for number in range(500)]
    with agent(host_server, *ids), host_server.connect() as client:
        client.say(request(ids[-1]))
        assert client.hears("lease").words["door"] == f"gcc-{ids[-1]}"
        client.say("done exit=0")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([compiler("gcc-12")], "id=gcc-12 is not 16 digits of 0 to 9 and a to f"),
        ([compiler(GCC.upper())], f"id={GCC.upper()} is not 16 digits of 0 to 9 and a to f"),
        ([compiler(), compiler()], f"id={GCC} is given twice"),
        ([compiler().replace("name=gcc", "name=../../gcc")], "name=../../gcc has other characters"),
        ([compiler().replace(f"target={TARGET}", "target=a%20b")], "target=a b has other char"),
        ([compiler().replace("version=12.2.0", f"version={'1' * 101}")], "or more than 100"),
        ([compiler().replace(f" id={GCC}", "")], "compiler needs id="),
        ([compiler(), "compilers host=desk1 count=2"], "count=2, but 1 compilers came before it"),
        (["compilers host=desk1"], "compilers needs count="),
        ([compiler(host="desk7")], "compiler must come after the host's first load"),
        (["compilers host=desk7 count=0"], "compilers must come after the host's first load"),
        (
            [compiler(f"{number:016x}") for number in range(COMPILERS_LIMIT + 1)],
            f"a host has at most {COMPILERS_LIMIT} compilers",
        ),
    ],
)
def test_a_list_with_a_mistake_is_one_error(
    host_server: HostServer, lines: list[str], reason: str
) -> None:
    with agent(host_server, OTHER_GCC) as client:
        client.say(*lines)
        assert reason in client.is_turned_away()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((f"compiler_id={GCC}", "compiler_id=x"), "compiler_id=x is not 16 digits"),
        ((" compiler_name=gcc", ""), "request needs compiler_name="),
        ((" compiler_version=12.2.0", ""), "request needs compiler_version="),
        ((f"compiler_target={TARGET}", "compiler_target=/"), "compiler_target=/ has other"),
    ],
)
def test_a_request_with_a_mistake_is_an_error(
    host_server: HostServer, change: tuple[str, str], reason: str
) -> None:
    with host_server.connect() as client:
        client.say(request().replace(*change))
        assert reason in client.is_turned_away()


def test_what_one_address_reports_is_bounded(host_server: HostServer) -> None:
    """Hosts on one connection, each with compilers, and a list that never ends."""
    with host_server.connect(LOADS) as client:
        for number in range(COMPILERS_PER_ADDRESS // COMPILERS_LIMIT + 1):
            host = f"desk{number}"
            client.say(f"load host={host} compiler_ids=yes")
            client.hears("ok")
            client.say(*(compiler(f"{each:016x}", host) for each in range(COMPILERS_LIMIT)))
        reason = f"127.0.0.1 has reported {COMPILERS_PER_ADDRESS} compilers already"
        assert client.is_turned_away() == reason
    with agent(host_server, GCC):
        pass  # the end of the connection made room


def test_odd_characters_in_a_text_are_shown_as_such(host_server: HostServer) -> None:
    text = "%1B%5B2J%0A%E2%80%AE" + "x" * TEXT_LIMIT
    with agent(host_server) as client:
        client.say(compiler(text=text), "compilers host=desk1 count=1")
        assert eventually(lambda: host_server.host("desk1")["compiler_ids"] == 1)
        [shown] = host_server.farm()["compilers"]
        assert shown["text"] == "\ufffd[2J\ufffd\ufffd" + "x" * (TEXT_LIMIT - 6)
        assert "\x1b" not in json.dumps(shown, ensure_ascii=False)


# -- hosts without an agent


@pytest.mark.e2e
def test_a_host_without_an_agent_is_asked_by_a_probe(host_server: HostServer) -> None:
    version, target = (
        subprocess.run(["gcc", option], capture_output=True, text=True, check=True).stdout.strip()
        for option in ("-dumpfullversion", "-dumpmachine")
    )
    said = subprocess.run(["gcc", "-v"], capture_output=True, text=True, check=True).stderr
    words = [word.strip("()") for word in said.splitlines()[-1].split()]
    full_version = max((word for word in words if word.startswith(version)), key=len)
    mine = (
        f"request user=ada compiler=gcc compiler_id={GCC} compiler_name=gcc "
        f"compiler_version={version} compiler_target={target} "
        f"compiler_text=gcc%20{full_version}%20({target})"
    )
    with DistccdHost("127.0.0.4") as host:
        assert host_server.ask(f"add host={host.address} port={host.port} slots=2").startswith("ok")
        with host_server.connect() as client:
            client.say(mine)
            assert "door" not in client.hears("lease").words
            client.say("done exit=0")
        with host_server.connect() as client:
            client.say(mine.replace(f"gcc%20{full_version}", f"gcc%20{version}-0"))
            reason = client.hears("refused").required("reason")
            assert reason.endswith(f"; 1 host has {full_version}")
        host_server.ask(f"remove host={host.address} port={host.port}")
