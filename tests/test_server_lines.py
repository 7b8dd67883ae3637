"""Lines on a real host-server: clients that break the protocol, are slow, or are too many.

A client that breaks the protocol gets an error line or a close. All others are served meanwhile as
before: `HostServer.serves` is that "as before".
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import select
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from farm_processes import LOADS, REQUESTS, STATUS, Client, HostServer
from run_program import PATIENCE_S, eventually

from compilefarm.core.placement.tier import TierPolicy
from compilefarm.protocol.ports import Port
from compilefarm.protocol.wire import LINE_LIMIT_BYTES
from compilefarm.server import host_server as host_server_module
from compilefarm.server.access import networks_by_port
from compilefarm.server.connections import lines
from compilefarm.server.listen import LINE_PORTS as CONNECTIONS

# It starts programs, many times.
pytestmark = pytest.mark.slow

LINE_PORTS = (REQUESTS, LOADS, STATUS)
PORT_NAMES = ("requests", "loads", "status")


# -- lines that are no messages

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
def test_a_line_that_is_no_message_gets_an_error_and_a_close(
    host_server: HostServer, data: bytes, port: int
) -> None:
    with host_server.connect(port) as client:
        client.send(data)
        # The close may overtake the error if the client is still sending.
        lost = len(data) > LINE_LIMIT_BYTES and client.is_closed()
        assert lost or client.is_turned_away()


@pytest.mark.parametrize(
    ("port", "said"),
    [
        (REQUESTS, "done exit=0"),
        (REQUESTS, "load host=127.0.0.1"),
        (LOADS, "request user=ada"),
        (LOADS, "load load1=1"),
        (LOADS, "load host=127.0.0.1 distccd=asleep"),
        (STATUS, "jobs"),
        (STATUS, "add slots=4"),
        (STATUS, "add host=127.0.0.1 slots=0"),
        (STATUS, "add host=127.0.0.1 slots=5000"),
        (STATUS, "add host=127.0.0.1 power_index=nan"),
        (STATUS, "add host=127.0.0.1 port=70000"),
        (STATUS, "add host=a..b/c"),
    ],
)
def test_a_message_in_the_wrong_place_gets_an_error_and_a_close(
    host_server: HostServer, port: int, said: str
) -> None:
    with host_server.connect(port) as client:
        client.say(said)
        assert client.is_turned_away()


def test_a_second_request_on_a_connection_ends_the_first(host_server: HostServer) -> None:
    with host_server.connect() as client:
        client.say("request user=ada", "request user=ada")
        client.hears("lease")
        assert client.is_turned_away()
    assert eventually(lambda: host_server.farm()["totals"]["slots_in_use"] == 0)


def test_random_lines_harm_no_other_client(host_server: HostServer) -> None:
    chance = random.Random(2)
    words = [b"request ", b"add ", b"load ", b"host=desk", b"\n", b"=", b"%", b"\xff", b" ", b"\0"]
    for port in LINE_PORTS * 30:
        with host_server.connect(port) as client:
            client.send(b"".join(chance.choices(words, k=chance.randrange(200))))
    host_server.serves()
    assert [host["name"] for host in host_server.farm()["hosts"]] == ["127.0.0.1"]


def test_lines_may_come_in_any_pieces_and_at_once(host_server: HostServer) -> None:
    with host_server.connect(STATUS) as client:
        for byte in b"networks\r\nnetworks\n":
            client.send(bytes([byte]))
        client.hears("ok")
        client.hears("ok")
        client.say(*["networks"] * 2000)
        for _ in range(2000):
            client.hears("ok")
        client.say("networks")
        client.hears("ok")


def test_slow_answers_stay_in_order(host_server: HostServer) -> None:
    """`remove` looks a name up before it is answered; the lines behind it wait."""
    count = 2 * lines.QUEUED_LINES_LIMIT
    with host_server.connect(STATUS) as client:
        client.say(*["remove host=127.0.0.9", "networks"] * count)
        for _ in range(count):
            assert client.hears("ok").required("known") == "no"
            assert client.hears("ok").required("networks")


# -- slow clients, and many


def test_a_thousand_idle_connections_delay_no_other_client(host_server: HostServer) -> None:
    with contextlib.ExitStack() as idle:
        for number in range(1000):
            client = idle.enter_context(host_server.connect(number % 4))
            if number % 8 == 3:
                client.send(b"netw")
        host_server.serves()
    host_server.serves()


@pytest.mark.slow
def test_a_client_that_never_reads_is_disconnected(host_server: HostServer) -> None:
    """The server must not keep an unlimited number of unread answers."""
    with host_server.connect(STATUS) as client:

        def talk() -> None:
            while True:
                client.socket.sendall(b"networks\n" * 1000)

        with pytest.raises(ConnectionError):
            talk()
        host_server.serves()


@pytest.fixture
def line_ports(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The line ports, served by a thread of this process that sweeps often."""
    monkeypatch.setattr(host_server_module, "SWEEP_S", 0.02)
    monkeypatch.setattr(host_server_module, "SIGN_OF_LIFE_S", 0.05)
    ports: queue.Queue[int] = queue.Queue()
    stop = asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        server = host_server_module.HostServer(TierPolicy(), networks_by_port(()))
        async with contextlib.AsyncExitStack() as stack:
            for port in (Port.REQUESTS, Port.REPORTS, Port.STATUS):
                connection = partial(CONNECTIONS[port], server)
                listening = await loop.create_server(connection, "127.0.0.1", 0)
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
    """A function: from its call on, each line must come within a short time."""
    return partial(monkeypatch.setattr, lines, "LINE_WITHIN_S", 0.2)


@pytest.mark.parametrize("port", LINE_PORTS, ids=PORT_NAMES)
@pytest.mark.parametrize("begun", [b"", b"net"])
def test_a_client_that_sends_no_whole_line_is_disconnected(
    line_ports: list[int], impatience: Callable[[], None], begun: bytes, port: int
) -> None:
    impatience()
    with Client("127.0.0.1", line_ports[port]) as client:
        client.send(begun)
        assert "in time" in client.is_turned_away()


def test_a_line_must_end_in_time_even_if_bytes_keep_coming(
    line_ports: list[int], impatience: Callable[[], None]
) -> None:
    with Client("127.0.0.1", line_ports[STATUS]) as client:
        client.say("networks")
        client.hears("ok")
        impatience()
        while not select.select([client.socket], [], [], 0.05)[0]:
            client.send(b"a")


def test_waiting_clients_get_signs_of_life(line_ports: list[int]) -> None:
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
def test_the_server_survives_more_connections_than_descriptors(tmp_path: Path) -> None:
    """It takes no connection while there is no descriptor, but neither ends nor spins."""
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
            time.sleep(1.0)  # CPU use is measured over time
            busy_s = sum(process.cpu_times()[:2]) - before
            assert busy_s < 0.5 * (time.monotonic() - started)
            builder.say("done exit=0")
            assert builder.line() == ""
        eventually(lambda: process.num_fds() < 40)
        server.serves()
