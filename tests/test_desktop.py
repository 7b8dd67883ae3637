"""A desktop in the farm, with the real host-server: the messages, and the programs that run.

distccd is a fake one, because nothing is compiled here; test_end_to_end_owner.py has real builds.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from desk import Desk, comes_true, play, watched_desktop
from farm_processes import REQUESTS, HostServer
from run_program import PATIENCE_S, eventually, free_ports
from scripted_server import ScriptedServer

from compilefarm.compile_host.desktop.desktop import Desktop

# It starts programs, many times.
pytestmark = pytest.mark.slow

MINUTE_S = 60.0


class WatchedDesk(Desk):
    """127.0.0.3, in the farm as a desktop; the programs run in this process's environment."""

    def __init__(self, directory: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(directory, server)
        self.use_fake_distccd()
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        self.options = [*self.arguments, *self.idle_machine()]
        self.complaints: list[str] = []

    def watched(
        self, *servers: str, more: tuple[str, ...] = ()
    ) -> contextlib.AbstractAsyncContextManager[Desktop]:
        """Watch it while the block runs."""
        return watched_desktop([*self.options, *more], servers, self.complaints.append)


@pytest.fixture
def desk(tmp_path: Path, server: HostServer, monkeypatch: pytest.MonkeyPatch) -> WatchedDesk:
    return WatchedDesk(tmp_path, server.name, monkeypatch)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HostServer]:
    with HostServer(tmp_path) as server:
        yield server


def grants_leases(server: HostServer) -> bool:
    """Return whether a request for a slot that is free now gets a lease."""
    return server.ask("request wait_s=0", port=REQUESTS).startswith("lease ")


def test_a_desktop_is_in_the_farm_while_its_owner_is_away(
    desk: WatchedDesk, server: HostServer
) -> None:
    def state() -> str:
        return str(server.host(desk.name).get("state"))

    async def story() -> None:
        async with desk.watched(server.name) as desktop:
            await desktop.owner_came(time.time() - MINUTE_S)
            assert state() == "owner"
            assert MINUTE_S <= server.host(desk.name)["owner_present_s"] < MINUTE_S + PATIENCE_S
            assert not desk.runs("distccd"), "nothing is started while the owner is present"
            await desktop.owner_left()
            await comes_true(lambda: state() == "up")
            assert server.host(desk.name)["mode"] == "idle"
            assert grants_leases(server)
            await desktop.owner_came(time.time())
            assert not grants_leases(server), "owner_came returned before the server knew"
            await comes_true(lambda: state() == "owner")
            assert server.host(desk.name)["owner_present_s"] < MINUTE_S
            assert desk.runs("distccd")
            await desktop.owner_left()
            assert grants_leases(server)
        await comes_true(lambda: state() == "None")
        assert not desk.runs("distccd")
        assert not desk.runs("loadavg")

    play(story)
    assert not desk.complaints


def test_a_restarted_server_is_told_again(desk: WatchedDesk, server: HostServer) -> None:
    async def story() -> None:
        async with desk.watched(server.name) as desktop:
            await desktop.owner_came(time.time() - MINUTE_S)
            server.kill()
            server.start()
            host = await comes_true(lambda: server.host(desk.name))
            assert host["state"] == "owner"
            assert MINUTE_S <= host["owner_present_s"] < MINUTE_S + PATIENCE_S

    play(story)


def test_every_server_that_answers_is_told_and_the_others_cause_no_delay(
    desk: WatchedDesk, server: HostServer
) -> None:
    async def story() -> None:
        with ScriptedServer({"owner": []}) as hung:
            away = f"127.0.0.1:{free_ports(4)}"
            async with desk.watched(away, hung.name, server.name) as desktop:
                await desktop.owner_came(time.time())
                assert server.host(desk.name)["state"] == "owner"
                assert hung.receives("owner").words["state"] == "present"

    play(story)
    complaint = desk.complaints[0]
    assert "cannot tell 127.0.0.1:" in complaint
    assert "about the owner: no host-server answers at 127.0.0.1:" in complaint


def test_an_owner_who_comes_while_the_machine_is_added_comes_first(
    desk: WatchedDesk, server: HostServer
) -> None:
    async def story() -> None:
        async with desk.watched(server.name) as desktop:
            for _ in range(3):
                await desktop.owner_left()
                await asyncio.sleep(0)
                await desktop.owner_came(time.time())
                assert not grants_leases(server)
            await desktop.owner_left()
            await comes_true(lambda: server.host(desk.name)["state"] == "up")

    play(story)
    assert not desk.complaints


@pytest.mark.parametrize("since", [0.0, 1e12], ids=["1970", "the future"])
def test_an_owner_whose_clock_is_wrong_is_still_present(
    desk: WatchedDesk, server: HostServer, since: float
) -> None:
    async def story() -> None:
        async with desk.watched(server.name) as desktop:
            await desktop.owner_came(since)
            assert server.host(desk.name)["state"] == "owner"

    play(story)
    assert not desk.complaints


def test_the_reason_that_keeps_the_machine_out_is_printed_once(
    desk: WatchedDesk, server: HostServer
) -> None:
    async def story() -> None:
        async with desk.watched(server.name, more=("--allow", "192.0.2.0/24")) as desktop:
            for _ in range(2):
                await desktop.owner_left()
                await comes_true(lambda: desk.complaints)
                await desktop.owner_came(time.time())

    play(story)
    [complaint] = desk.complaints
    assert "--allow excludes all of the farm's networks" in complaint


def test_a_killed_watcher_takes_the_machine_out(desk: WatchedDesk, server: HostServer) -> None:
    code = """
import asyncio, sys
from compilefarm.compile_host.desktop.desktop import Desktop, add_desktop_options
from compilefarm.programs.options import Parser
parser = Parser("watch-ssaver", "")
add_desktop_options(parser)
options = parser.parse_args()
async def main():
    await Desktop(options, parser.servers(options), print).owner_left()
    await asyncio.sleep(1000)
asyncio.run(main())
"""
    command = [sys.executable, "-c", code, "--server", server.name, *desk.options]

    def reason() -> str:
        return str(server.host(desk.name).get("reason"))

    with subprocess.Popen(command) as watcher:
        eventually(lambda: server.host(desk.name).get("state") == "up")
        watcher.send_signal(signal.SIGKILL)
    try:
        eventually(lambda: "watch-ssaver" in reason())
    finally:
        play_leave(desk, server)
    assert not desk.runs("distccd")


def play_leave(desk: WatchedDesk, server: HostServer) -> None:
    async def story() -> None:
        async with desk.watched(server.name):
            pass

    play(story)
