"""Access to a real host-server: networks by port, the farm's key, and limits by address.

The programs are the real ones; loopback addresses stand for machines. tests/test_key.py and
tests/test_access.py have the rules themselves.
"""

from __future__ import annotations

import contextlib
import hmac
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from farm_processes import LOADS, MONITOR, REQUESTS, STATUS, Client, HostServer
from run_program import eventually, free_ports, program_environment, run, running

from compilefarm.programs.connection import Connection, NotProven
from compilefarm.protocol.address import Address
from compilefarm.protocol.ports import Port

pytestmark = pytest.mark.slow

KEY, NEW_KEY, WRONG_KEY = (
    "the-key-of-the-farm",
    "the-next-key-of-the-farm",
    "of-another-farm-altogether",
)
OTHERS = "127.0.0.2"
NAMES = {LOADS: "reports", STATUS: "status"}


def key_file(directory: Path, name: str, *keys: str) -> Path:
    path = directory / name
    path.touch(mode=0o600)
    path.write_text("".join(f"{key}\n" for key in keys))
    return path


def host_server(*options: object) -> subprocess.CompletedProcess[str]:
    """Run a host-server that ends by itself."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "compilefarm.server.main", "--port", "0", *map(str, options)],
        env=program_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[HostServer]:
    with HostServer(tmp_path, "--key-file", key_file(tmp_path, "servers", KEY)) as server:
        yield server


def prove(client: Client, port: str, key: str) -> None:
    """Prove the key as docs/protocol.md says, without the code under test."""
    client.say("challenge")
    nonce = client.hears("challenge").required("nonce")
    text = f"compilefarm client {port} {nonce} mine1234mine1234"
    proof = hmac.new(key.encode(), text.encode(), "sha256").hexdigest()
    client.say(f"prove nonce=mine1234mine1234 proof={proof}")


# -- the key


@pytest.mark.parametrize(
    ("port", "line"),
    [
        (STATUS, "add host=127.0.0.1 slots=4"),
        (STATUS, "remove host=127.0.0.1"),
        (STATUS, "drain host=127.0.0.1"),
        (STATUS, "owner host=127.0.0.1 state=present"),
        (LOADS, "load host=127.0.0.1"),
        (LOADS, "add host=127.0.0.1 slots=4"),
    ],
)
def test_no_sender_speaks_for_a_host_without_the_key(
    farm: HostServer, port: int, line: str
) -> None:
    """Not for itself, and not on host-server's own machine."""
    for sender in ("127.0.0.1", OTHERS):
        with farm.connect(port, sender=sender) as client:
            client.say(line)
            assert "use --key-file" in client.is_turned_away()
    assert farm.farm()["hosts"] == []


@pytest.mark.parametrize("port", [STATUS, LOADS])
def test_a_sender_that_proves_the_key_speaks_for_any_host(farm: HostServer, port: int) -> None:
    with farm.connect(port, sender=OTHERS) as client:
        prove(client, NAMES[port], KEY)
        client.hears("ok")
        client.say("add host=127.0.0.3 slots=4")
        assert client.hears("ok").required("host") == "127.0.0.3"
        client.say("add host=127.0.0.4 slots=4")
        client.hears("ok")
    assert farm.host("127.0.0.3")["address"] == "127.0.0.3"


def test_a_wrong_proof_ends_the_connection_and_is_logged(farm: HostServer) -> None:
    for _ in range(3):
        with farm.connect(STATUS, sender=OTHERS) as client:
            prove(client, "status", WRONG_KEY)
            client.say("add host=127.0.0.2")
            assert "the proof is wrong" in client.is_turned_away()
    assert farm.log.read_text().count(f"refused {OTHERS}") == 1


def test_a_proof_cannot_be_used_elsewhere(farm: HostServer) -> None:
    with farm.connect(STATUS) as client:
        prove(client, "reports", KEY)
        assert "the proof is wrong" in client.is_turned_away()
    with farm.connect(STATUS) as client:
        prove(client, "status", KEY)
        client.hears("ok")
        client.say("prove nonce=mine1234mine1234 proof=00")
        assert "no sense" in client.is_turned_away()
    with farm.connect(STATUS) as client:
        client.say("prove nonce=mine1234mine1234 proof=00")
        client.is_turned_away()
    with farm.connect(STATUS) as client:
        client.say("challenge")
        client.hears("challenge")
        client.say("prove nonce=short proof=00")
        assert "nonce=" in client.is_turned_away()


def test_builders_and_readers_need_no_key(farm: HostServer) -> None:
    with farm.connect(STATUS) as client:
        prove(client, "status", KEY)
        client.hears("ok")
        client.say("add host=127.0.0.1 slots=4")
        client.hears("ok")
    farm.serves()


def test_the_programs_prove_it(farm: HostServer, tmp_path: Path) -> None:
    mine, wrong = key_file(tmp_path, "mine", KEY), key_file(tmp_path, "wrong", WRONG_KEY)
    server = ["--server", farm.name]
    done = run("addhost", "127.0.0.9", "--slots", 2, *server)
    assert done.returncode == 1
    assert "use --key-file" in done.stderr
    done = run("addhost", "127.0.0.9", "--slots", 2, *server, "--key-file", wrong)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "the key is not this farm's" in done.stderr
    environment = program_environment(HOST_SERVER_KEY_FILE=str(mine), HOST_SERVER=farm.name)
    done = run("addhost", "127.0.0.9", "--slots", 2, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    done = run("remhost", "127.0.0.9", "--key-file", "mine", *server, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    mine.chmod(0o644)
    done = run("remhost", "127.0.0.9", environment=environment)
    assert done.returncode == 1
    assert done.stderr.endswith(f"open to others: chmod 600 {mine}\n")
    assert done.stderr.count("\n") == 1


def test_loadavg_proves_it_and_uses_a_new_key(farm: HostServer, tmp_path: Path) -> None:
    mine = key_file(tmp_path, "mine", WRONG_KEY)
    host = f"127.0.0.2:{free_ports(address='127.0.0.2')}"
    options = ["--server", farm.name, "--register", "--host", host, "--slots", 2]
    with running("loadavg", *options, "--key-file", mine) as loadavg:
        assert loadavg.stderr
        assert "the key is not this farm's" in loadavg.stderr.readline()
        loadavg.kill()
    key_file(tmp_path, "mine", KEY)
    with running("loadavg", *options, "--key-file", mine):
        eventually(lambda: farm.host(host).get("state") in ("up", "busy"))
        # The server gets another key, and accepts the old one until that is removed.
        key_file(tmp_path, "servers", NEW_KEY, KEY)
        farm.process.send_signal(signal.SIGHUP)
        eventually(lambda: farm.logs("servers read again: 2 keys"))
        for name in (KEY, NEW_KEY):
            done = run(
                "addhost", "127.0.0.9", "--server", farm.name,
                "--key-file", key_file(tmp_path, "mine", name),
            )  # fmt: skip
            assert (done.returncode, done.stderr) == (0, "")
        key_file(tmp_path, "servers", "# none")
        farm.process.send_signal(signal.SIGHUP)
        eventually(lambda: farm.logs("the keys stay as they were: key file"))
        key_file(tmp_path, "servers", NEW_KEY)
        farm.process.send_signal(signal.SIGHUP)
        eventually(lambda: farm.logs("servers read again: 1 keys"))
        assert farm.host(host)["state"] in ("up", "busy"), "a connection with a proof stays proven"


def test_a_farm_without_a_key_says_so_to_a_client_with_one(tmp_path: Path) -> None:
    mine = key_file(tmp_path, "mine", KEY)
    with HostServer(tmp_path) as server:
        done = run("addhost", "127.0.0.1", "--server", server.name, "--key-file", mine)
        assert done.returncode == 1
        assert "this farm has no key" in done.stderr
        with server.connect(STATUS) as client:
            client.say("prove nonce=mine1234mine1234 proof=00")
            client.is_turned_away()


def test_a_host_does_not_believe_a_server_without_the_key(tmp_path: Path) -> None:
    """Such a server could tell the host to compile for other machines."""
    mine = key_file(tmp_path, "mine", KEY)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        base = listener.getsockname()[1] - Port.STATUS
        impostor = ["enable-host", "--no-measure", "--server", f"127.0.0.1:{base}"]
        port = free_ports(address="127.0.0.3")
        with running(
            *impostor,
            "--host",
            f"127.0.0.3:{port}",
            "--run-dir",
            tmp_path / "run",
            "--key-file",
            mine,
        ) as enabling:
            connected, _ = listener.accept()
            with connected, connected.makefile("rwb") as lines:
                assert lines.readline() == b"challenge\n"
                lines.write(b"challenge nonce=0123456789abcdef0123456789abcdef\n")
                lines.flush()
                assert lines.readline().startswith(b"prove ")
                lines.write(b"ok proof=" + b"0" * 64 + b"\n")
                lines.flush()
                _, errors = enabling.communicate(timeout=60)
        assert enabling.returncode == 1
        assert "does not have this farm's key" in errors
        assert errors.count("\n") == 1
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.3", port), timeout=5)


def test_a_key_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    path = key_file(tmp_path, "servers", KEY)
    path.chmod(0o640)
    done = host_server("--key-file", path)
    assert done.returncode == 1
    assert done.stderr == f"host-server: key file {path} is open to others: chmod 600 {path}\n"


def test_a_wrong_key_closes_the_connection(tmp_path: Path, farm: HostServer) -> None:
    wrong = key_file(tmp_path, "wrong", WRONG_KEY)
    _, _, base = farm.name.rpartition(":")
    with pytest.raises(NotProven):
        Connection([Address("127.0.0.1", int(base))], Port.STATUS, key_file=str(wrong))


# -- networks by port


def test_each_port_can_serve_other_networks(tmp_path: Path) -> None:
    allow = [
        "--allow",
        "127.0.0.0/8",
        "--allow",
        "status=127.0.0.1",
        "--allow",
        "monitor=127.0.0.1",
    ]
    with HostServer(tmp_path, *allow) as server:
        assert server.ask("networks") == "ok networks=127.0.0.0/8"
        with server.connect(REQUESTS, sender=OTHERS) as client:
            client.say("jobs")
            client.hears("jobs")
        with server.connect(LOADS, sender=OTHERS) as client:
            client.say(f"add host={OTHERS} port=4001 slots=1")
            client.hears("ok")
        with server.connect(STATUS, sender=OTHERS) as client:
            assert OTHERS in client.is_turned_away()
        with server.connect(MONITOR, sender="127.0.0.3") as client:
            client.send(b"GET /api/farm HTTP/1.0\r\n\r\n")
            assert " 403 " in client.line()
        refused = "its network is not allowed on the port"
        assert server.logs(f"refused {OTHERS}: {refused} status")
        assert server.logs(f"refused 127.0.0.3: {refused} monitor")


@pytest.mark.parametrize(
    "allow", ["monitors=10.0.0.0/8", "=", "status=", "10.0.0.0/40", "status=x"]
)
def test_a_wrong_network_is_one_line(allow: str) -> None:
    done = host_server("--allow", allow)
    assert done.returncode == 2
    assert "--allow" in done.stderr.splitlines()[-1]


# -- limits by address


def test_connections_of_one_address_are_limited(tmp_path: Path) -> None:
    with (
        HostServer(tmp_path, "--connections-per-address", 12) as server,
        contextlib.ExitStack() as s,
    ):
        crowd = [s.enter_context(server.connect(STATUS, OTHERS)) for _ in range(12)]
        for client in crowd:
            client.say("networks")
            client.hears("ok")
        for port in (REQUESTS, LOADS, STATUS):
            with server.connect(port, sender=OTHERS) as client:
                assert client.is_turned_away() == f"{OTHERS} has 12 connections already"
        with server.connect(MONITOR, sender=OTHERS) as client:
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert client.line() == ""
        assert server.ask("add host=127.0.0.1 slots=8").startswith("ok ")
        server.serves()  # other addresses are served as before
        for client in crowd[:2]:
            client.close()
        eventually(lambda: server.ask("networks", sender=OTHERS).startswith("ok "))
        assert server.log.read_text().count(f"refused {OTHERS}") == 1


def test_waiting_requests_of_one_address_are_limited(tmp_path: Path) -> None:
    with (
        HostServer(tmp_path, "--waiting-per-address", 3) as server,
        contextlib.ExitStack() as stack,
    ):
        server.ask("add host=127.0.0.1 slots=1")

        def request(sender: str, hears: str) -> Client:
            client = stack.enter_context(server.connect(REQUESTS, sender))
            client.say("request")
            client.hears(hears)
            return client

        holder = request("127.0.0.1", "lease")
        waiting = [request(OTHERS, "wait") for _ in range(3)]
        with server.connect(REQUESTS, sender=OTHERS) as client:
            client.say("request")
            assert client.hears("refused").words["reason"] == f"3 requests of {OTHERS} wait already"
            assert client.line() == ""
        request("127.0.0.3", "wait").close()
        waiting.pop().close()  # a client that ends makes room, and so does one that is served
        eventually(lambda: server.farm()["totals"]["requests_waiting"] == 2)
        request(OTHERS, "wait")
        holder.close()
        eventually(lambda: server.farm()["totals"]["requests_waiting"] == 2)
        request(OTHERS, "wait")


# -- the monitor port


def test_a_monitor_connection_without_a_request_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import compilefarm.server.monitor.web as web; web.IDLE_S = 0.2; "
        "import compilefarm.server.main as s"
    )
    with HostServer(tmp_path) as server:
        command = server.command()
    at = command.index("-m")
    quick = [*command[:at], "-c", f"{code}; s.main()", *command[at + 2 :]]
    monkeypatch.setattr(HostServer, "command", lambda _: quick)
    with HostServer(tmp_path) as server:
        for begun in (b"", b"GET / HTTP/1.1\r\nHost:"):
            with server.connect(MONITOR) as client:
                client.send(begun)
                assert client.is_closed()
        server.ask("add host=127.0.0.1")
        server.serves()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"remove host=127.0.0.1\n", "400"),
        (b"POST /api/farm HTTP/1.0\r\n\r\n", "405"),
        (b"PUT /api/farm HTTP/1.0\r\n\r\n", "405"),
        (b"DELETE / HTTP/1.0\r\n\r\n", "405"),
        (b"GET /api/farm/remove?host=127.0.0.1 HTTP/1.0\r\n\r\n", "404"),
    ],
)
def test_the_monitor_changes_nothing(host_server: HostServer, sent: bytes, status: str) -> None:
    before = host_server.host("127.0.0.1")
    with host_server.connect(MONITOR) as client:
        client.send(sent)
        assert client.line().split()[1] == status
    assert host_server.host("127.0.0.1") == before
