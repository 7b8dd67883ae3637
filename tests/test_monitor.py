"""The monitor port over real HTTP, and mon-host-server against a scripted one.

The snapshots come from a real farm, so a change of their shape fails here and not in a browser.
"""

import asyncio
import http.server
import io
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp import ClientSession, web
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from compilefarm.client import mon_host_server as table
from compilefarm.core.events import (
    HostAdded,
    HostsListed,
    LoadReported,
    OwnerReported,
    RequestArrived,
)
from compilefarm.core.farm.farm import Farm
from compilefarm.core.model import Load, Request
from compilefarm.core.placement.policy import Policy
from compilefarm.core.placement.tier import TierPolicy
from compilefarm.core.snapshot import take_snapshot
from compilefarm.protocol.declaration import Declaration
from compilefarm.protocol.farm_json import Snapshot
from compilefarm.protocol.ports import Port
from compilefarm.server.monitor.web import REST_PER_COST, application

DAY_S = 86_400.0
HOSTILE = "\x1b[2J<script>alert(1)</script>[bold]\u202e\r\n"


def farm_with(
    *hosts: Declaration, requests: int = 0, source: str = "main.c", policy: Policy | None = None
) -> Farm:
    farm = Farm(policy or TierPolicy())
    farm.handle(HostsListed(hosts), 0.0)
    for host in hosts:
        farm.handle(HostAdded(host, "10.0.0.1"), 0.0)
    for number in range(requests):
        request = Request(number, user="ada", builder="desk9", source=source)
        farm.handle(RequestArrived(request), 1.0)
    return farm


def busy_farm() -> Farm:
    """Four hosts, one moved down and one away; four leases and two waiting requests."""
    farm = farm_with(Declaration("fast", slots=2, power_index=4.5), Declaration("slow", slots=1))
    hosts = (Declaration("moved", slots=1, power_index=4), Declaration("spare", slots=8))
    farm.handle(
        HostsListed((*(host.listed for host in farm.hosts.values() if host.listed), *hosts)), 0
    )
    farm.handle(HostAdded(hosts[0], "10.0.0.3"), 0)
    load = Load(load_averages=(1.3, 1.2, 0.5), foreign_cpus=1.25, cpus=1)
    farm.handle(LoadReported("moved", 3632, "10.0.0.3", load), 0.5)
    for number in range(6):
        farm.handle(RequestArrived(Request(number, "ada", "desk9", source=f"{number}.c")), 1.0)
    return farm


def snapshot_of(farm: Farm) -> Snapshot:
    return {
        "server": {"version": "9.9", "uptime_s": 61.0, "host": "farmhost", "base_port": 9714},
        **take_snapshot(farm),
    }


def small_farm() -> Snapshot:
    return snapshot_of(Farm(TierPolicy()))


def over_http(
    farm_snapshot: Callable[[], Snapshot],
    talk: Callable[[ClientSession, str], Awaitable[None]],
    allowed: Callable[[str], bool] = lambda _: True,
    names: Sequence[str] = (),
) -> None:
    """Run `talk` with the address of a monitor port."""

    async def snapshot() -> Snapshot:
        return farm_snapshot()

    async def run() -> None:
        runner = web.AppRunner(application(snapshot, allowed, names))
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            async with ClientSession() as session:
                await talk(session, f"http://{host}:{port}")
        finally:
            await runner.cleanup()

    asyncio.run(run())


# -- the monitor port


def test_the_snapshot_comes_back_whole() -> None:
    snapshot = snapshot_of(busy_farm())

    async def talk(session: ClientSession, url: str) -> None:
        async with session.get(f"{url}/api/farm") as answer:
            assert answer.content_type == "application/json"
            assert await answer.json() == snapshot
        async with session.head(f"{url}/api/farm") as answer:
            assert answer.status == 200
            assert await answer.read() == b""

    over_http(lambda: snapshot, talk)


@pytest.mark.parametrize("hosts", [0, 1, 99, 100, 101, 250])
def test_a_snapshot_of_any_size_comes_back_whole(hosts: int) -> None:
    snapshot = snapshot_of(farm_with(*(Declaration(f"h{n}", slots=1) for n in range(hosts))))

    async def talk(session: ClientSession, url: str) -> None:
        async with session.get(f"{url}/api/farm") as answer:
            assert await answer.json() == snapshot

    over_http(lambda: snapshot, talk)


def test_many_readers_cost_one_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    now = cpu_s = 100.0
    clock = SimpleNamespace(monotonic=lambda: now, thread_time=lambda: cpu_s)
    monkeypatch.setattr("compilefarm.server.monitor.web.time", clock)
    taken = 0

    def farm_snapshot() -> Snapshot:
        nonlocal taken, now, cpu_s
        taken += 1
        now += 3600.0  # the machine was suspended, which costs no CPU time
        cpu_s += 0.01
        return snapshot_of(busy_farm())

    async def talk(session: ClientSession, url: str) -> None:
        nonlocal now

        async def read(path: str) -> None:
            async with session.get(url + path) as answer:
                assert answer.status == 200

        await asyncio.gather(*(read("/api/farm") for _ in range(10)), read("/metrics"))
        assert taken == 1
        now += 0.0101 * REST_PER_COST
        await read("/api/farm")
        assert taken == 2

    over_http(farm_snapshot, talk)


def test_metrics_are_sums_without_names() -> None:
    snapshot = snapshot_of(busy_farm())

    async def talk(session: ClientSession, url: str) -> None:
        async with session.get(f"{url}/metrics") as answer:
            assert answer.content_type == "text/plain"
            lines = (await answer.text()).splitlines()
        for line in (
            'compilefarm_server_info{policy="tier",version="9.9"} 1.0',
            'compilefarm_hosts{state="up"} 3.0',
            'compilefarm_hosts{state="away"} 1.0',
            'compilefarm_hosts{state="mute"} 0.0',
            'compilefarm_hosts{state="owner"} 0.0',
            'compilefarm_slots{tier="4"} 2.0',
            'compilefarm_slots{tier="3"} 1.0',
            'compilefarm_slots{tier="none"} 8.0',
            'compilefarm_slots_in_use{tier="4"} 2.0',
            'compilefarm_slots_free{tier="1"} 0.0',
            "compilefarm_requests_waiting 2.0",
            "compilefarm_foreign_cpus 1.25",
            "compilefarm_leases_granted_total 4.0",
        ):
            assert line in lines
        assert not any(name in line for name in ("fast", "ada", "desk9") for line in lines)

    over_http(lambda: snapshot, talk)


def test_the_page_may_run_its_own_script_and_nothing_else() -> None:
    async def talk(session: ClientSession, url: str) -> None:
        async with session.get(url) as answer:
            assert answer.content_type == "text/html"
            policy = answer.headers["Content-Security-Policy"]
            page = await answer.text()
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.count("<script>") == page.count("<style>") == 1
        assert "http:" not in page
        assert "https:" not in page
        assert "innerHTML" not in page

    over_http(small_farm, talk)


def test_an_address_outside_the_networks_gets_the_reason() -> None:
    async def talk(session: ClientSession, url: str) -> None:
        for path in ("/", "/api/farm", "/metrics", "/nothing"):
            async with session.get(url + path) as answer:
                assert answer.status == 403
                text = await answer.text()
                assert text == "403: 127.0.0.1 is not in the networks of this port\n"

    over_http(small_farm, talk, allowed=lambda address: address != "127.0.0.1")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/etc/passwd", 404),
        ("GET", "/api", 404),
        ("POST", "/api/farm", 405),
        ("PUT", "/", 405),
    ],
)
def test_a_wrong_path_or_method_gets_one_line(method: str, path: str, status: int) -> None:
    async def talk(session: ClientSession, url: str) -> None:
        async with session.request(method, url + path) as answer:
            assert answer.status == status
            assert (await answer.text()).count("\n") == 1

    over_http(small_farm, talk)


@pytest.mark.parametrize("path", ["/", "/api/farm", "/metrics", "/nothing"])
def test_every_answer_protects_its_reader(path: str) -> None:
    snapshot = snapshot_of(busy_farm())

    async def talk(session: ClientSession, url: str) -> None:
        async with session.get(url + path) as answer:
            headers = answer.headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers
        assert "aiohttp" not in headers["Server"]

    over_http(lambda: snapshot, talk)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9717", 200),
        ("[::1]:9717", 200),
        ("localhost", 200),
        ("farmserver:9717", 200),
        ("Farm.Example.COM:9717", 200),
        ("farm.example.com.", 200),
        ("", 200),
        ("evil.example.com:9717", 403),
        ("farm.example.com.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
def test_only_the_servers_own_names_are_answered(host: str, status: int) -> None:
    """A page from elsewhere may have a name that was made to mean this machine."""

    async def talk(session: ClientSession, url: str) -> None:
        async with session.get(f"{url}/", headers={"Host": host}) as answer:
            assert answer.status == status
            if status == 403:
                assert "see host-server --name" in await answer.text()

    over_http(small_farm, talk, names=["farm.example.com"])


# -- mon-host-server


def from_other_version(**parts: list[dict[str, object]]) -> Snapshot:
    """Return a snapshot without all the keys that this version has."""
    return cast(Snapshot, parts)


def shown(snapshot: Snapshot, width: int, show: table.View = table.view) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with console.capture() as captured:
        console.print(show(snapshot, width))
    return captured.get()


def test_the_table_shows_each_host_with_its_reason() -> None:
    text = shown(snapshot_of(busy_farm()), 160)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    why = "moved down from tier 4: foreign load 1.30 per CPU over the last minute"
    assert "fast 4 2 of 2 0 up 4.5 - -" in lines
    assert f"moved 3 1 of 1 0 up 4.0 1.30 1.25 {why}" in lines
    assert "spare - 0 of 8 0 away 1.0 - - was not added" in lines
    assert "ada desk9 4.c 0.0 s" in lines
    assert "now: 3 of 4 hosts up; 4 slots: 4 in use, 0 free; 2 requests waiting" in lines
    assert "host-server 9.9 on farmhost, base port 9714, up 61.0 s, policy tier" in lines


def test_the_compilers_are_one_a_line() -> None:
    compiler = {"id": "3f9a11c2d4e5f607", "text": f"gcc {HOSTILE}", "hosts": 3, "hosts_closed": 1}
    snapshot = from_other_version(hosts=[], compilers=[compiler])
    [line] = [
        line for line in shown(snapshot, 160, table.compilers_view).splitlines() if "gcc" in line
    ]
    assert line.split()[-5:] == ["(1", "failed)", "?", "?", "?"]
    assert "3f9a11c2d4e5f607" in line
    assert "\x1b" not in line
    assert "3f9a11c2d4e5f607" not in shown(snapshot, 60, table.compilers_view)
    for empty in (from_other_version(hosts=[]), from_other_version(hosts=[], compilers=[])):
        assert "No compilers" in shown(empty, 80, table.compilers_view)


def test_slots_in_use_by_backups_are_counted() -> None:
    snapshot = snapshot_of(busy_farm())
    snapshot["hosts"][0]["leases"][0]["backup"] = True
    assert "4 slots: 4 in use (1 backup), 0 free;" in shown(snapshot, 160)
    snapshot["hosts"][0]["leases"][1]["backup"] = True
    assert "4 slots: 4 in use (2 backups), 0 free;" in shown(snapshot, 160)


@pytest.mark.parametrize("width", [40, 79, 200])
def test_an_owners_arrival_is_a_time_of_day(width: int) -> None:
    farm = farm_with(Declaration("desk1", slots=2))
    farm.handle(OwnerReported("desk1", 3632, "10.0.0.1", 1, 90.0, False), 0.0)
    text = " ".join(shown(snapshot_of(farm), width).split())
    # The minute may change between the two looks at the clock.
    came = [datetime.now() - timedelta(seconds=90.0 + late_s) for late_s in (0.0, 2.0)]
    assert any(f"owner present since {at:%H:%M}" in text for at in came) or came[0].hour == 0
    assert " owner " in text
    assert " away " not in text


def test_an_owners_arrival_on_another_day_has_the_day() -> None:
    host: dict[str, object] = {"name": "desk1", "state": "owner", "reason": "owner present"}
    came = datetime.now() - timedelta(seconds=3 * DAY_S)
    text = shown(from_other_version(hosts=[host | {"owner_present_s": 3 * DAY_S}]), 200)
    assert f"owner present since {came:%a %d %b} " in text
    for wrong in (-1.0, 1e300, "long", None):
        text = shown(from_other_version(hosts=[host | {"owner_present_s": wrong}]), 200)
        assert "owner present" in text


@pytest.mark.parametrize("width", [20, 40, 60, 80, 110, 200])
def test_no_width_loses_a_reason(width: int) -> None:
    words = "".join(shown(snapshot_of(busy_farm()), width).split())
    assert "foreignload1.30perCPU" in words
    assert "wasnotadded" in words


def test_an_empty_farm_says_what_to_do() -> None:
    assert "enable-host" in shown(small_farm(), 80)


@given(name=st.text(max_size=40), width=st.integers(20, 200))
def test_names_reach_the_terminal_only_as_text(name: str, width: int) -> None:
    snapshot = snapshot_of(farm_with(Declaration(name, slots=1), requests=2, source=name + HOSTILE))
    snapshot["hosts"][0]["reason"] = HOSTILE + name
    snapshot["hosts"][0]["state"] = name
    text = shown(snapshot, width)
    assert all(character.isprintable() or character == "\n" for character in text)


@given(value=st.none() | st.text(max_size=3) | st.integers(-999, 999))
def test_a_key_that_another_version_leaves_out_stays_empty(value: object) -> None:
    hosts: list[dict[str, object]] = [{"name": "fast"}, {"tier": value}]
    text = shown(from_other_version(hosts=hosts, requests=[{"user": value}]), 80)
    assert text.splitlines()[1].split() == ["fast", "-", "?", "of", "?", "?", "?", "-", "-", "-"]


@contextmanager
def scripted_server(status: int, body: bytes) -> Iterator[str]:
    """Yield the address, for --server, of a server that always gives this answer."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port - Port.MONITOR}"
        finally:
            server.shutdown()
            thread.join()


def address_without_server() -> str:
    import socket

    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        return f"127.0.0.1:{unused.getsockname()[1] - Port.MONITOR}"


def test_json_is_printed_unchanged(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    body = b'{"hosts": [],   "future": "\\u001b"}\n'
    with scripted_server(200, body) as server:
        assert table.main(["--server", server, "--json"]) == 0
    assert capfdbinary.readouterr().out == body


def test_a_pipe_gets_whole_lines_and_no_colours(capfd: pytest.CaptureFixture[str]) -> None:
    snapshot = snapshot_of(busy_farm())
    snapshot["hosts"][0]["reason"] = "because " * 60 + "of that"
    with scripted_server(200, json.dumps(snapshot).encode()) as server:
        assert table.main(["--server", server]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert "because of that" in lines[1]
    assert not any("\x1b" in line or line != line.rstrip() for line in lines)


def test_servers_are_tried_in_order(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted_server(200, b'{"hosts": []}') as server:
        monkeypatch.setenv("HOST_SERVER", f"{address_without_server()},{server}")
        assert table.main([]) == 0
    assert "No hosts" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (403, b"403: 127.0.0.1 is not \x1b[31min the networks\n", "not \ufffd[31min the networks"),
        (200, b"<html>", "not a host-server"),
        (200, b"[" * 100_000, "not a host-server"),
        (200, b'{"hosts": 3}', "not a host-server"),
    ],
)
def test_an_answer_that_is_no_farm_is_one_line(
    status: int, body: bytes, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with scripted_server(status, body) as server:
        assert table.main(["--server", server]) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert why in captured.err


def test_no_server_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    for option in ([], ["--json"], ["--watch"]):
        assert table.main(["--server", address_without_server(), *option]) == 1
        error = capfd.readouterr().err
        assert error.startswith("mon-host-server: no host-server answers at 127.0.0.1:")
        assert error.count("\n") == 1


def test_a_bad_address_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        table.main(["--server", "host:port"])
    assert ended.value.code == 2
    assert "host:port" in capfd.readouterr().err
