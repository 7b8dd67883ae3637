"""A real host-server process, and clients that mean no good, or are merely confused.

The rule under test is always the same: whoever breaks the protocol gets an error line or a close,
and everybody else is served meanwhile as before. `HostServer.serves` is that "as before".
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import queue
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from farm_processes import LOADS, MONITOR, REQUESTS, STATUS, Client, HostServer
from run_program import PATIENCE_S, eventually, program_environment

from compilefarm.core.placement.tier import TierPolicy
from compilefarm.protocol.wire import LINE_LIMIT_BYTES, Message
from compilefarm.server import connections
from compilefarm.server import main as server_module
from compilefarm.server.access import networks_by_port
from compilefarm.server.connections import LoadConnection, RequestConnection, StatusConnection

# It starts programs, many times.
pytestmark = pytest.mark.slow

LINE_PORTS = (REQUESTS, LOADS, STATUS)
PORT_NAMES = ("requests", "loads", "status")
OTHERS = "127.0.0.2"  # a machine that may speak for itself only


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostServer]:
    with HostServer(tmp_path_factory.mktemp("server")) as server:
        assert server.ask("add host=127.0.0.1 slots=8").startswith("ok ")
        yield server


@pytest.fixture
def server(shared: HostServer) -> Iterator[HostServer]:
    """A server with one host, which has survived every test before this one, and this one."""
    yield shared
    shared.serves()


# -- what is no message

NO_MESSAGES = {
    "a malformed line": b"request user=ada please\n",
    "an unknown verb": b"fetch\n",
    "a verb in capitals": b"REQUEST\n",
    "a browser": b"GET / HTTP/1.1\r\nHost: farm\r\n\r\n",
    "an empty line": b"\n",
    "a key twice": b"request user=ada user=bob\n",
    "a wrong number": b"request cpus=lots\n",
    "a long line": b"request user=" + b"a" * LINE_LIMIT_BYTES + b"\n",
    "a line without end": b"a" * 100_000,
    "binary garbage": random.Random(1).randbytes(5000) + b"\n",
    "NULs": bytes(5000) + b"\n",
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\n",
}


@pytest.mark.parametrize("port", LINE_PORTS, ids=PORT_NAMES)
@pytest.mark.parametrize("data", NO_MESSAGES.values(), ids=NO_MESSAGES.keys())
def test_what_is_no_message_gets_an_error_and_a_close(
    server: HostServer, data: bytes, port: int
) -> None:
    with server.connect(port) as client:
        client.send(data)
        # Of a client that goes on talking, the close may overtake the error.
        lost = len(data) > LINE_LIMIT_BYTES and client.is_closed()
        assert lost or client.is_turned_away()


@pytest.mark.parametrize(
    ("port", "lines"),
    [
        (REQUESTS, ["done exit=0"]),
        (REQUESTS, ["load host=127.0.0.1"]),
        (LOADS, ["request user=ada"]),
        (LOADS, ["load load1=1"]),
        (LOADS, ["load host=127.0.0.1 distccd=asleep"]),
        (STATUS, ["jobs"]),
        (STATUS, ["add slots=4"]),
        (STATUS, ["add host=127.0.0.1 slots=0"]),
        (STATUS, ["add host=127.0.0.1 slots=5000"]),
        (STATUS, ["add host=127.0.0.1 power_index=nan"]),
        (STATUS, ["add host=127.0.0.1 port=70000"]),
        (STATUS, ["add host=a..b/c"]),
    ],
)
def test_a_message_without_sense_gets_an_error_and_a_close(
    server: HostServer, port: int, lines: list[str]
) -> None:
    with server.connect(port) as client:
        client.say(*lines)
        assert client.is_turned_away()


def test_a_second_request_on_a_connection_ends_the_first(server: HostServer) -> None:
    with server.connect() as client:
        client.say("request user=ada", "request user=ada")
        client.hears("lease")
        assert client.is_turned_away()
    assert eventually(lambda: server.farm()["totals"]["slots_in_use"] == 0)


def test_garbage_of_every_kind(server: HostServer) -> None:
    chance = random.Random(2)
    words = [b"request ", b"add ", b"load ", b"host=desk", b"\n", b"=", b"%", b"\xff", b" ", b"\0"]
    for port in LINE_PORTS * 30:
        with server.connect(port) as client:
            client.send(b"".join(chance.choices(words, k=chance.randrange(200))))
    server.serves()


def test_lines_may_come_in_any_pieces_and_at_once(server: HostServer) -> None:
    with server.connect(STATUS) as client:
        for byte in b"networks\r\nnetworks\n":
            client.send(bytes([byte]))
        client.hears("ok")
        client.hears("ok")
        client.say(*["networks"] * 2000)
        for _ in range(2000):
            client.hears("ok")
        client.say("networks")
        client.hears("ok")


def test_slow_answers_stay_in_order(server: HostServer) -> None:
    """A name must be looked up before `add` is answered; what comes behind it waits."""
    count = 2 * connections.WAITING_LINES_LIMIT
    with server.connect(STATUS) as client:
        client.say(*["remove host=127.0.0.9", "networks"] * count)
        for _ in range(count):
            assert client.hears("ok").required("known") == "no"
            assert client.hears("ok").required("networks")


# -- who is in no hurry


def test_a_thousand_idle_connections(server: HostServer) -> None:
    with contextlib.ExitStack() as idle:
        for number in range(1000):
            client = idle.enter_context(server.connect(number % 4))
            if number % 8 == 3:
                client.send(b"netw")
        server.serves()
    server.serves()


@pytest.mark.slow
def test_a_client_that_never_reads(server: HostServer) -> None:
    """What it does not read must not pile up: it is dropped."""
    with server.connect(STATUS) as client:

        def talk() -> None:
            while True:
                client.socket.sendall(b"networks\n" * 1000)

        with pytest.raises(ConnectionError):
            talk()
        server.serves()


@pytest.fixture
def line_ports(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The line ports, served by a thread of this process that looks at its clients often."""
    monkeypatch.setattr(server_module, "SWEEP_S", 0.02)
    monkeypatch.setattr(server_module, "SIGN_OF_LIFE_S", 0.05)
    ports: queue.Queue[int] = queue.Queue()
    stop = asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        server = server_module.HostServer(TierPolicy(), networks_by_port(()))
        async with contextlib.AsyncExitStack() as stack:
            for protocol in (RequestConnection, LoadConnection, StatusConnection):
                listening = await loop.create_server(partial(protocol, server), "127.0.0.1", 0)
                stack.callback(listening.close)
                ports.put(listening.sockets[0].getsockname()[1])
            time_keeper = loop.create_task(server.keep_time())
            stack.callback(time_keeper.cancel)
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    yield [ports.get(timeout=PATIENCE_S) for _ in LINE_PORTS]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What makes lines that begin from then on be waited for only shortly."""
    return partial(monkeypatch.setattr, connections, "LINE_WITHIN_S", 0.2)


@pytest.mark.parametrize("port", LINE_PORTS, ids=PORT_NAMES)
@pytest.mark.parametrize("begun", [b"", b"net"])
def test_half_a_line_and_silence(
    line_ports: list[int], impatience: Callable[[], None], begun: bytes, port: int
) -> None:
    impatience()
    with Client("127.0.0.1", line_ports[port]) as client:
        client.send(begun)
        assert "in time" in client.is_turned_away()


def test_a_line_must_end_however_it_drips(
    line_ports: list[int], impatience: Callable[[], None]
) -> None:
    with Client("127.0.0.1", line_ports[STATUS]) as client:
        client.say("networks")
        client.hears("ok")
        impatience()
        while not select.select([client.socket], [], [], 0.05)[0]:
            client.send(b"a")


def test_waiting_clients_hear_that_the_server_lives(line_ports: list[int]) -> None:
    holder, waiting = (Client("127.0.0.1", line_ports[REQUESTS]) for _ in range(2))
    with Client("127.0.0.1", line_ports[STATUS]) as status, holder, waiting:
        status.say("add host=127.0.0.1 slots=1")
        status.hears("ok")
        holder.say("request")
        holder.hears("lease")
        waiting.say("request")
        for _ in range(3):
            assert waiting.hears("wait").words["ahead"] == "0"
        holder.close()
        while not waiting.line().startswith("lease "):
            pass


@pytest.mark.slow
def test_more_connections_than_descriptors(tmp_path: Path) -> None:
    """Nobody gets in while there are none left, but the server neither ends nor spins."""
    with HostServer(tmp_path, descriptors=64) as server:
        server.ask("add host=127.0.0.1 slots=8")
        process = psutil.Process(server.process.pid)
        with server.connect() as builder, contextlib.ExitStack() as stack:
            builder.say("request user=ada")
            builder.hears("lease")
            crowd = [stack.enter_context(server.connect(number % 4)) for number in range(200)]

            def is_full() -> bool:
                crowd.append(stack.enter_context(server.connect(STATUS)))
                return process.num_fds() == 64

            eventually(is_full)
            assert any(client.is_closed() for client in crowd[-2:])
            before, started = sum(process.cpu_times()[:2]), time.monotonic()
            time.sleep(1.0)  # what is measured is CPU use over time
            busy_s = sum(process.cpu_times()[:2]) - before
            assert busy_s < 0.5 * (time.monotonic() - started)
            builder.say("done exit=0")
            assert builder.line() == ""
        eventually(lambda: process.num_fds() < 40)
        server.serves()


# -- who may speak, and for whom


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
def test_a_host_speaks_for_itself_only(server: HostServer, port: int, line: str) -> None:
    with server.connect(port, sender=OTHERS) as client:
        client.say(line)
        assert f"{OTHERS} may not speak for" in client.is_turned_away()
    server.serves()
    assert server.ask("remove host=127.0.0.3") == "ok known=no"


def test_a_host_speaks_for_itself(server: HostServer) -> None:
    with server.connect(LOADS, sender=OTHERS) as client:
        client.say(f"add host={OTHERS} port=4001 slots=1")
        client.hears("ok")
        client.say(f"load host={OTHERS} port=4001 cpus=1", f"load host={OTHERS} port=4001 cpus=1")
        client.hears("ok")
        # A report for somebody else, behind some that were taken.
        client.say("load host=127.0.0.3")
        assert client.is_turned_away()
    assert server.ask(f"remove host={OTHERS} port=4001", sender=OTHERS) == "ok known=yes"


def test_a_name_that_nobody_knows_is_the_senders(server: HostServer) -> None:
    assert server.ask("add host=desk7.invalid slots=1", sender=OTHERS).startswith("ok ")
    assert eventually(lambda: server.host("desk7.invalid").get("address") == OTHERS)
    assert server.ask("remove host=desk7.invalid") == "ok known=yes"


def test_the_servers_own_machine_speaks_for_all(server: HostServer) -> None:
    assert server.ask("add host=127.0.0.3 slots=1").startswith("ok ")
    assert server.ask("remove host=127.0.0.3") == "ok known=yes"


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


def test_ipv6(tmp_path: Path) -> None:
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


# -- silence and the end of connections


def test_a_lease_ends_with_its_connection(server: HostServer) -> None:
    clients = [server.connect() for _ in range(9)]
    for client in clients:
        client.say("request user=ada")
    for client in clients[:8]:
        client.hears("lease")
    assert clients[8].hears("wait").words["ahead"] == "0"
    clients[0].close()
    clients[8].hears("lease")
    # A reset is an end, too.
    clients[1].socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    for client in clients[1:]:
        client.close()
    assert eventually(lambda: server.farm()["totals"]["slots_in_use"] == 0)


# -- backups


@pytest.fixture
def backed_up(tmp_path: Path) -> Iterator[tuple[HostServer, Client, Message]]:
    """A server, a client whose compile runs on a slow host, and the backup that it was offered."""
    with HostServer(tmp_path, "--record", tmp_path / "record.csv") as server:
        server.ask("add host=127.0.0.1 port=4001 slots=1 power_index=1")
        with server.connect() as client:
            client.say("request user=ada source=giant.c backup=yes")
            assert client.hears("lease").words["port"] == "4001"
            server.ask("add host=127.0.0.1 port=4002 slots=1 power_index=20")
            backup = client.hears("backup")
            assert (backup.words["port"], backup.words["slots"]) == ("4002", "1")
            yield server, client, backup


def host_of(server: HostServer, port: int) -> dict[str, Any]:
    hosts: list[dict[str, Any]] = server.farm()["hosts"]
    return next(host for host in hosts if host["port"] == port)


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


def test_a_backup_is_taken_back_when_somebody_wants_its_slot(
    backed_up: tuple[HostServer, Client, Message],
) -> None:
    server, client, backup = backed_up
    with server.connect() as other:
        other.say("request user=bob source=b.c")
        assert other.hears("lease").words["port"] == "4002"
        assert client.hears("drop").words["id"] == backup.words["id"]
        # Lines may cross: what is said of a backup that is over is no error, and changes nothing.
        client.say(f"failed exit=116 id={backup.words['id']}", f"dropped id={backup.words['id']}")
        other.say("done exit=0 wall_s=0.1")
    again = client.hears("backup")
    assert again.words["id"] != backup.words["id"]
    client.say(f"done exit=0 wall_s=0.2 id={backup.words['id']}")
    assert client.line() == ""
    assert host_of(server, 4002)["failures"] == 0


def test_a_backup_ends_alone_with_blame_or_without(
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


def test_who_attaches_a_lease_anew_has_given_its_backup_up(
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


def test_a_compile_grows_older_also_where_nothing_else_happens(server: HostServer) -> None:
    def running_s() -> list[float]:
        leases = [lease for host in server.farm()["hosts"] for lease in host["leases"]]
        return [lease["running_s"] for lease in leases]

    with server.connect() as client:
        client.say("request user=ada")
        client.hears("lease")
        [at_first_s] = running_s()
        assert eventually(lambda: running_s()[0] > at_first_s, patience_s=2.0)


def test_clients_that_vanish_while_they_wait(server: HostServer) -> None:
    holders = [server.connect() for _ in range(8)]
    for client in holders:
        client.say("request user=ada")
        client.hears("lease")
    for _ in range(10):
        client = server.connect()
        client.say("request user=bob")
        client.hears("wait")
        client.close()
    for client in holders:
        client.say("done exit=0")
        client.close()


def test_a_deadline_that_is_over_already_does_no_harm(server: HostServer) -> None:
    """The timers of uvloop know no time where they are due at once."""
    holders = [server.connect() for _ in range(8)]
    for client in holders:
        client.say("request user=ada")
        client.hears("lease")
    for wait_s in ("0.000001", "0.001") * 20:
        with server.connect() as client:
            client.say(f"request user=bob wait_s={wait_s}")
            client.hears("refused")
    for client in holders:
        client.say("done exit=0")
        client.close()


def test_a_lost_reporter_makes_its_host_silent(server: HostServer) -> None:
    with server.connect(LOADS) as reporter:
        reporter.say("add host=127.0.0.4 slots=1", "load host=127.0.0.4 cpus=1")
        reporter.hears("ok")
        reporter.hears("ok")
        with server.connect(LOADS) as newer:
            newer.say("load host=127.0.0.4 cpus=1")
            newer.hears("ok")
            reporter.close()
            server.serves()
            assert eventually(lambda: server.host("127.0.0.4").get("state") == "up")
    assert eventually(lambda: server.host("127.0.0.4")["state"] == "silent")
    assert server.ask("remove host=127.0.0.4") == "ok known=yes"


def test_drain_answers_when_the_last_lease_has_ended(server: HostServer) -> None:
    server.ask("add host=127.0.0.5 slots=1 types=five")
    with server.connect() as builder, server.connect(STATUS) as leaving:
        builder.say("request type=five")
        builder.hears("lease")
        leaving.say("drain host=127.0.0.5 grace_s=60", "networks")
        assert leaving.hears("draining").words["leases"] == "1"
        builder.say("done exit=0")
        assert leaving.hears("ok").words["leases"] == "0"
        assert leaving.hears("ok").words["networks"]


def test_drain_revokes_what_is_left_after_its_grace(server: HostServer) -> None:
    server.ask("add host=127.0.0.5 slots=1 types=five")
    with server.connect() as builder, server.connect(STATUS) as leaving:
        builder.say("request type=five")
        builder.hears("lease")
        leaving.say("drain host=127.0.0.5 grace_s=0.1")
        assert leaving.hears("draining").words["leases"] == "1"
        assert leaving.hears("ok").words["leases"] == "1"
        assert "leaves" in builder.hears("revoked").required("reason")
        assert builder.line() == ""


def test_a_drain_that_is_called_off_says_so(server: HostServer) -> None:
    server.ask("add host=127.0.0.5 slots=1 types=five")
    with server.connect() as builder, server.connect(STATUS) as leaving:
        builder.say("request type=five")
        builder.hears("lease")
        leaving.say("drain host=127.0.0.5")
        leaving.hears("draining")
        server.ask("add host=127.0.0.5 slots=1 types=five")
        assert "added again" in leaving.is_turned_away()
    assert server.ask("remove host=127.0.0.5") == "ok known=yes"


# -- files


@pytest.mark.slow
def test_hosts_info_is_read_again_on_sighup(tmp_path: Path) -> None:
    path = tmp_path / "hosts-info"
    path.write_text("127.0.0.2 2 4 static\n# a comment\n")
    with HostServer(tmp_path, "--hosts-info", path) as server:

        def slots() -> dict[str, int]:
            return {host["name"]: host["slots"] for host in server.farm()["hosts"]}

        def reread(text: str, log: str) -> None:
            path.write_text(text)
            server.process.send_signal(signal.SIGHUP)
            eventually(lambda: server.logs(log))

        assert slots() == {"127.0.0.2": 2}
        with server.connect() as builder:
            builder.say("request user=ada")
            assert builder.hears("lease").words["host"] == "127.0.0.2"
            reread("127.0.0.2 3 4 static\n127.0.0.3 1 9 static\n", "read again: 2 hosts")
            eventually(lambda: slots() == {"127.0.0.2": 3, "127.0.0.3": 1})
            reread("127.0.0.4 1 1\n127.0.0.2 three 4\n", f"{path}:2: number of CPUs is 'three'")
            path.unlink()
            server.process.send_signal(signal.SIGHUP)
            eventually(lambda: server.logs("No such file"))
            server.serves()
            assert slots() == {"127.0.0.2": 3, "127.0.0.3": 1}
            # A host that is no longer listed keeps its lease, and gets no other.
            reread("127.0.0.3 1 9 static\n", "read again: 1 hosts")
            eventually(lambda: server.host("127.0.0.2")["state"] == "away")
            builder.say("done exit=0")
        eventually(lambda: slots() == {"127.0.0.3": 1})
        server.serves()


def test_sighup_without_hosts_info_does_no_harm(server: HostServer) -> None:
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: server.logs("there is no hosts-info"))


def test_every_compile_is_a_row_of_the_record(tmp_path: Path) -> None:
    path = tmp_path / "record.csv"
    with HostServer(tmp_path, "--record", path) as server:
        server.ask("add host=127.0.0.1 slots=1")
        for source, farewell in (("a b.c", "done exit=0 wall_s=0.5 cpu_s=0.1"), ("b,c.c", "")):
            with server.connect() as builder:
                builder.say(f"request user=ada source={source.replace(' ', '%20')}")
                builder.hears("lease")
                if farewell:
                    builder.say(farewell)
                    builder.line()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["source"], row["ending"]) for row in rows] == [
        ("a b.c", "done"),
        ("b,c.c", "gone"),
    ]


@pytest.mark.slow
def test_a_full_disk_ends_the_record_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "record.csv"
    with HostServer(tmp_path, "--record", path) as server:
        server.ask("add host=127.0.0.1 slots=1")
        psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_FSIZE, (200, 200))
        # The log has the same limit, so nothing is to be found there.
        for _ in range(3):
            server.serves()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0


def test_a_disk_that_is_full_at_the_start_costs_the_record_and_nothing_else(tmp_path: Path) -> None:
    with HostServer(tmp_path, "--record", "/dev/full") as server:
        server.ask("add host=127.0.0.1 slots=1")
        server.serves()
        log = server.log.read_text()
    assert "no record is kept: cannot write /dev/full: No space left on device" in log


# -- start and end


def attempt(*options: object, port: object = 0) -> subprocess.CompletedProcess[str]:
    """Run a host-server that is to refuse to start."""
    python = [sys.executable, "-P", "-m", "compilefarm.server.main"]
    return subprocess.run(
        [*python, "--port", str(port), *map(str, options)],
        env=program_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return the one line with which a program refused."""
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    line = result.stderr.splitlines()[-1]
    assert line.startswith("host-server: ")
    return line


def test_a_port_in_use_is_named(server: HostServer) -> None:
    line = one_line(attempt("--bind", "127.0.0.1", port=server.base))
    assert f"port {server.base} to {server.base + 3}" in line
    assert "in use" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bind", "192.0.2.1"], "192.0.2.1"),
        (["--bind", "desk1"], "no IP address"),
        (["--allow", "10.0.0.0/99"], "no network"),
        (["--policy", "best"], "invalid choice: 'best'"),
        (["--port", "65534"], "no port at which four in a row can begin"),
        (["--port", "x"], "no port"),
        (["--hosts-info", "/does/not/exist"], "cannot read /does/not/exist: No such file"),
        (["--hosts-info", "/"], "cannot read /: Is a directory"),
        (["--record", "/does/not/exist"], "cannot write /does/not/exist: No such file"),
        (["--colour"], "--colour"),
    ],
)
def test_wrong_options_are_one_line(options: list[str], words: str) -> None:
    assert words in one_line(attempt(*options))


def test_a_wrong_line_of_hosts_info_is_named(tmp_path: Path) -> None:
    path = tmp_path / "hosts-info"
    path.write_text("desk1 4 15\n\ndesk2 4 fast\n")
    assert f"{path}:3: power index is 'fast'" in one_line(attempt("--hosts-info", path))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_whoever_is_connected(tmp_path: Path, number: int) -> None:
    server = HostServer(tmp_path)
    server.start()
    server.ask("add host=127.0.0.1 slots=1")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect(port)) for port in LINE_PORTS * 3]
        for client in clients:
            client.say("request user=ada")
        clients[0].hears("lease")
        server.process.send_signal(number)
        assert server.process.wait(PATIENCE_S) == 0
        assert clients[0].line() == ""
    assert server.logs("ends: 1 compiles were running")
    assert not server.logs("Traceback")
