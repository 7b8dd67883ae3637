"""The programs of a compile host with the real host-server: what one says, the other knows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from compile_host import (
    HostServer,
    ProcDirectory,
    eventually,
    free_ports,
    program_command,
    program_environment,
    run,
)

from compilefarm.compile_host.load.machine import this_machine
from compilefarm.compile_host.processes import ProcessTree

# It starts programs, many times.
pytestmark = pytest.mark.slow

FAKE = Path(__file__).parent / "fake_distccd.py"


@pytest.fixture
def server() -> Iterator[HostServer]:
    with HostServer() as real:
        yield real


class Desk:
    """127.0.0.3, enabled with a distccd that is faked."""

    def __init__(self, directory: Path, server: HostServer) -> None:
        (directory / "distccd").write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{FAKE}" "$@"\n')
        (directory / "distccd").chmod(0o755)
        self.run_dir = directory / "run"
        self.environment = program_environment(HOST_SERVER=server.name)
        self.environment["PATH"] = f"{directory}:{os.environ['PATH']}"
        port = free_ports(address="127.0.0.3")
        self.name = f"127.0.0.3:{port}"
        self.arguments = ["--host", self.name, "--run-dir", self.run_dir]

    def run(self, program: str, *more: object) -> str:
        done = run(program, *self.arguments, *more, environment=self.environment)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def distccd(self) -> ProcessTree:
        pid = (self.run_dir / self.name / "distccd.pid").read_text().split()[0]
        return ProcessTree(this_machine(), int(pid))


@pytest.fixture
def desk(tmp_path: Path, server: HostServer) -> Iterator[Desk]:
    made = Desk(tmp_path, server)
    yield made
    made.run("disable-host", "--grace", 0)


@pytest.fixture
def idle_desk(desk: Desk, tmp_path: Path) -> Desk:
    """A host that is enabled, and idle however busy this machine is."""
    (tmp_path / "proc").mkdir()
    ProcDirectory(tmp_path / "proc")
    desk.run("enable-host", "--slots", 2, "--procfs", tmp_path / "proc")
    return desk


def test_hosts_that_were_added_can_be_removed(server: HostServer) -> None:
    added = run("addhost", "--server", server.name, "127.0.0.9", "--slots", 3)
    assert added.stdout == "127.0.0.9 is available with 3 slots, power index 1\n"
    assert server.host("127.0.0.9")["slots"] == 3
    desktop = run("addhost", "--server", server.name, "127.0.0.8", "--slots", 1, "--mode", "idle")
    assert desktop.stdout.endswith(", while watch-ssaver says that it is unused\n")
    eventually(lambda: server.host("127.0.0.8").get("state") == "owner")
    for words in ("is no longer available", "was not available"):
        removed = run("remhost", "--server", server.name, "127.0.0.9")
        assert (removed.returncode, removed.stdout) == (0, f"127.0.0.9:3632 {words}\n")


def test_the_server_knows_what_becomes_of_a_host(server: HostServer, desk: Desk) -> None:
    def state() -> tuple[str, str]:
        """Whether the host is there, and its distccd's state, as the server sees them."""
        host = server.host(desk.name)
        # Whether it is busy depends on what else this machine does.
        state = host.get("state", "").replace("busy", "up")
        return state, (host.get("load") or {}).get("distccd", "")

    assert desk.run("enable-host", "--slots", 2, "--power-index", 3) == (
        f"{desk.name} is available with 2 slots, power index 3\n"
    )
    eventually(lambda: state() == ("up", "running"))
    members = desk.distccd().read()
    for pid in members:
        os.kill(pid, signal.SIGSTOP)
    eventually(lambda: state() == ("mute", "stopped"))
    for pid in members:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: state() == ("up", "running"))
    server.stop()
    server.start()
    eventually(lambda: state() == ("up", "running"))
    assert server.host(desk.name)["slots"] == 2
    assert desk.run("disable-host") == f"{desk.name} is disabled\n"
    eventually(lambda: state()[0] not in ("up", "draining"))


def test_disable_waits_for_the_last_compile(server: HostServer, idle_desk: Desk) -> None:
    with server.request() as builder:
        assert b"lease" in builder.recv(4096)
        with subprocess.Popen(
            program_command("disable-host", *idle_desk.arguments),
            env=idle_desk.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as disabling:
            eventually(lambda: server.host(idle_desk.name)["state"] == "draining")
            assert idle_desk.distccd().root()
            assert disabling.poll() is None
            builder.sendall(b"done exit=0\n")
            assert disabling.communicate(timeout=20)[0] == f"{idle_desk.name} is disabled\n"


def test_disable_waits_no_longer_than_the_grace(server: HostServer, idle_desk: Desk) -> None:
    with server.request() as builder:
        assert b"lease" in builder.recv(4096)
        said = idle_desk.run("disable-host", "--grace", "0.2")
        assert (
            said
            == f"{idle_desk.name} is disabled; a compile that ran for too long goes elsewhere\n"
        )
        assert b"revoked" in builder.recv(4096)
