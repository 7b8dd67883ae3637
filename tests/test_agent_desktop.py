"""A desktop in the farm, with the real host-server: who is told what, and what runs on the machine.

distccd is faked where nothing is compiled; the builds are in tests/test_end_to_end_owner.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from compile_host import (
    PATIENCE_S,
    HostServer,
    ProcDirectory,
    ScriptedServer,
    eventually,
    free_ports,
    program_environment,
)

from compilefarm.compile_host.desktop.desktop import Desktop, add_desktop_options
from compilefarm.compile_host.load.machine import this_machine
from compilefarm.compile_host.run_directory import started_tree
from compilefarm.programs.options import Parser
from compilefarm.protocol.address import Address

# It starts programs, many times.
pytestmark = pytest.mark.slow

FAKE = Path(__file__).parent / "fake_distccd.py"
MINUTE_S = 60.0


class Desk:
    """127.0.0.3 with a /proc of its own, so that it is idle however busy this machine is."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        programs = directory / "bin"
        programs.mkdir()
        (programs / "distccd").write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{FAKE}" "$@"\n')
        (programs / "distccd").chmod(0o755)
        (directory / "proc").mkdir()
        ProcDirectory(directory / "proc")
        environment = program_environment(PATH=f"{programs}:{os.environ['PATH']}")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        self.run_dir = directory / "run"
        self.name = f"127.0.0.3:{free_ports(address='127.0.0.3')}"
        self.arguments = ["--host", self.name, "--run-dir", str(self.run_dir), "--slots", "2"]
        self.arguments += ["--procfs", str(directory / "proc")]
        self.complaints: list[str] = []

    def options(self, *more: str) -> argparse.Namespace:
        """Return the options of a watch-ssaver on this machine."""
        parser = Parser("watch-ssaver", "")
        add_desktop_options(parser)
        return parser.parse_args([*self.arguments, *more])

    @contextlib.asynccontextmanager
    async def watched(self, *servers: str, more: tuple[str, ...] = ()) -> AsyncIterator[Desktop]:
        """Watch it for as long as the block runs."""
        options = self.options("--server", ",".join(servers), *more)
        candidates = [Address(name, int(port)) for name, port in (s.split(":") for s in servers)]
        desktop = Desktop(options, candidates, self.complaints.append)
        try:
            yield desktop
        finally:
            await desktop.leave()

    def runs(self, program: str) -> bool:
        tree = started_tree(self.run_dir, self.name, program, this_machine())
        return tree is not None and tree.root() is not None


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


@pytest.fixture
def server() -> Iterator[HostServer]:
    with HostServer() as real:
        yield real


async def comes_true(what: Callable[[], Any]) -> Any:
    """Wait as `eventually` does, and let the desktop work meanwhile."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (result := what()):
        assert time.monotonic() < deadline_s, "it did not come true in time"
        await asyncio.sleep(0.01)
    return result


def gives_leases(server: HostServer) -> bool:
    """Ask for a slot that is free now; whether there is one."""
    with socket.create_connection(("127.0.0.1", server.base), PATIENCE_S) as builder:
        builder.sendall(b"request wait_s=0\n")
        return builder.recv(4096).startswith(b"lease ")


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 3 * PATIENCE_S))


def test_a_desktop_is_in_while_its_owner_is_away(desk: Desk, server: HostServer) -> None:
    def state() -> str:
        return str(server.host(desk.name).get("state"))

    async def story() -> None:
        async with desk.watched(server.name) as desktop:
            await desktop.owner_came(time.time() - MINUTE_S)
            assert state() == "owner"
            assert MINUTE_S <= server.host(desk.name)["owner_present_s"] < MINUTE_S + PATIENCE_S
            assert not desk.runs("distccd"), "nothing is started while the owner is there"
            await desktop.owner_left()
            await comes_true(lambda: state() == "up")
            assert server.host(desk.name)["mode"] == "idle"
            assert gives_leases(server)
            await desktop.owner_came(time.time())
            assert not gives_leases(server), "the server knew before we went on"
            await comes_true(lambda: state() == "owner")
            assert server.host(desk.name)["owner_present_s"] < MINUTE_S
            assert desk.runs("distccd")
            await desktop.owner_left()
            assert gives_leases(server)
        await comes_true(lambda: state() == "None")
        assert not desk.runs("distccd")
        assert not desk.runs("loadavg")

    play(story)
    assert not desk.complaints


def test_the_server_is_told_again_when_it_comes_back(desk: Desk, server: HostServer) -> None:
    async def story() -> None:
        async with desk.watched(server.name) as desktop:
            await desktop.owner_came(time.time() - MINUTE_S)
            server.stop()
            server.start()
            host = await comes_true(lambda: server.host(desk.name))
            assert host["state"] == "owner"
            assert MINUTE_S <= host["owner_present_s"] < MINUTE_S + PATIENCE_S

    play(story)


def test_every_server_that_answers_is_told_and_no_other_is_waited_for(
    desk: Desk, server: HostServer
) -> None:
    async def story() -> None:
        with ScriptedServer({"owner": []}) as hung:
            away = f"127.0.0.1:{free_ports(4)}"
            async with desk.watched(away, hung.name, server.name) as desktop:
                await desktop.owner_came(time.time())
                assert server.host(desk.name)["state"] == "owner"
                assert hung.told("owner").words["state"] == "present"

    play(story)
    complaint = desk.complaints[0]
    assert "is not told of the owner: no host-server answers at 127.0.0.1:" in complaint


def test_an_owner_who_comes_while_the_machine_is_brought_in_comes_first(
    desk: Desk, server: HostServer
) -> None:
    async def story() -> None:
        async with desk.watched(server.name) as desktop:
            for _ in range(3):
                await desktop.owner_left()
                await asyncio.sleep(0)
                await desktop.owner_came(time.time())
                assert not gives_leases(server)
            await desktop.owner_left()
            await comes_true(lambda: server.host(desk.name)["state"] == "up")

    play(story)
    assert not desk.complaints


@pytest.mark.parametrize("since", [0.0, 1e12], ids=["1970", "the future"])
def test_an_owner_whose_clock_is_wrong_is_there_all_the_same(
    desk: Desk, server: HostServer, since: float
) -> None:
    async def story() -> None:
        async with desk.watched(server.name) as desktop:
            await desktop.owner_came(since)
            assert server.host(desk.name)["state"] == "owner"

    play(story)
    assert not desk.complaints


def test_what_keeps_the_machine_out_is_told_once(desk: Desk, server: HostServer) -> None:
    async def story() -> None:
        async with desk.watched(server.name, more=("--allow", "192.0.2.0/24")) as desktop:
            for _ in range(2):
                await desktop.owner_left()
                await comes_true(lambda: desk.complaints)
                await desktop.owner_came(time.time())

    play(story)
    [complaint] = desk.complaints
    assert "--allow leaves out all of the farm's networks" in complaint


def test_a_watcher_that_is_killed_leaves_the_machine_out(desk: Desk, server: HostServer) -> None:
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
    command = [sys.executable, "-c", code, "--server", server.name, *desk.arguments]

    def reason() -> str:
        return str(server.host(desk.name).get("reason"))

    with subprocess.Popen(command) as watcher:
        eventually(lambda: server.host(desk.name).get("state") == "up")
        watcher.send_signal(signal.SIGKILL)
    try:
        eventually(lambda: reason() == "idle mode: watch-ssaver is not running")
    finally:
        play_leave(desk, server)
    assert not desk.runs("distccd")


def play_leave(desk: Desk, server: HostServer) -> None:
    async def story() -> None:
        async with desk.watched(server.name):
            pass

    play(story)
