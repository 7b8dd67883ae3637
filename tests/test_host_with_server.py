"""The programs of a compile host with the real host-server: each knows what the other does."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from desk import Desk
from farm_processes import HostServer
from run_program import eventually, program_command, run

# It starts programs, many times.
pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HostServer]:
    with HostServer(tmp_path) as server:
        yield server


@pytest.fixture
def desk(tmp_path: Path, server: HostServer) -> Iterator[Desk]:
    made = Desk(tmp_path, server.name)
    made.use_fake_distccd()
    yield made
    made.disable("--grace", 0)


@pytest.fixture
def idle_desk(desk: Desk) -> Desk:
    """An enabled host that is idle however busy this machine is."""
    succeeds(desk.enable(*desk.idle_machine()))
    return desk


def succeeds(done: subprocess.CompletedProcess[str]) -> str:
    """Return the output of a program that succeeded without an error message."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_an_added_host_can_be_removed(server: HostServer) -> None:
    added = run("addhost", "--server", server.name, "127.0.0.9", "--slots", 3)
    assert added.stdout == "127.0.0.9 is available with 3 slots, power index 1\n"
    assert server.host("127.0.0.9")["slots"] == 3
    desktop = run("addhost", "--server", server.name, "127.0.0.8", "--slots", 1, "--mode", "idle")
    assert desktop.stdout.endswith(", while watch-ssaver reports it unused\n")
    eventually(lambda: server.host("127.0.0.8").get("state") == "owner")
    for words in ("is no longer available", "was not available"):
        removed = run("remhost", "--server", server.name, "127.0.0.9")
        assert (removed.returncode, removed.stdout) == (0, f"127.0.0.9:3632 {words}\n")


def test_the_server_knows_the_state_of_a_host(server: HostServer, desk: Desk) -> None:
    def state() -> tuple[str, str]:
        """Return the host's state and its distccd's, as the server sees them."""
        host = server.host(desk.name)
        # Whether it is busy depends on what else this machine does.
        state = host.get("state", "").replace("busy", "up")
        return state, (host.get("load") or {}).get("distccd", "")

    assert succeeds(desk.enable("--slots", 2, "--power-index", 3)) == (
        f"{desk.name} is available with 2 slots, power index 3\n"
    )
    eventually(lambda: state() == ("up", "running"))
    members = desk.tree("distccd").read()
    for pid in members:
        os.kill(pid, signal.SIGSTOP)
    eventually(lambda: state() == ("mute", "stopped"))
    for pid in members:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: state() == ("up", "running"))
    server.kill()
    server.start()
    eventually(lambda: state() == ("up", "running"))
    assert server.host(desk.name)["slots"] == 2
    assert succeeds(desk.disable()) == f"{desk.name} is disabled\n"
    eventually(lambda: state()[0] not in ("up", "draining"))


def test_disable_waits_for_the_last_compile(server: HostServer, idle_desk: Desk) -> None:
    with server.connect() as builder:
        builder.say("request user=ada")
        builder.hears("lease")
        with subprocess.Popen(
            program_command("disable-host", *idle_desk.arguments),
            env=idle_desk.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as disabling:
            eventually(lambda: server.host(idle_desk.name)["state"] == "draining")
            assert idle_desk.runs("distccd")
            assert disabling.poll() is None
            builder.say("done exit=0")
            assert disabling.communicate(timeout=20)[0] == f"{idle_desk.name} is disabled\n"


def test_disable_waits_no_longer_than_the_grace(server: HostServer, idle_desk: Desk) -> None:
    with server.connect() as builder:
        builder.say("request user=ada")
        builder.hears("lease")
        assert succeeds(idle_desk.disable("--grace", "0.2")) == (
            f"{idle_desk.name} is disabled; 1 compile did not end in time, and will run elsewhere\n"
        )
        builder.hears("revoked")
