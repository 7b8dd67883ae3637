"""Dead peers: real network namespaces, and a cable that is pulled.

In each test, one side of a connection runs on a machine of its own: a namespace behind a pair of
virtual interfaces. Taking the interface down pulls the cable. As with a real cable, the connection
itself shows no sign of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.machines import ip
from farm_processes import HostServer
from proc_directory import ProcDirectory
from run_program import eventually, program_command, program_environment

from compilefarm.programs.dead_peer import GIVE_UP_AFTER_S, notice_dead_peer

NOTICED_WITHIN_S = 15.0
CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21


def test_accepted_connections_inherit_the_options() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        notice_dead_peer(listener)
        with socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"):
                    if not hasattr(socket, name):
                        continue
                    option = getattr(socket, name)
                    value = accepted.getsockopt(socket.IPPROTO_TCP, option)
                    assert value == listener.getsockopt(socket.IPPROTO_TCP, option)
                    assert value != client.getsockopt(socket.IPPROTO_TCP, option)
    assert GIVE_UP_AFTER_S < NOTICED_WITHIN_S


class Machine:
    """A network namespace, and the cable to it."""

    def __init__(self, number: int) -> None:
        self._name = f"compilefarm-{secrets.token_hex(3)}"
        self._cable = f"cf{secrets.token_hex(4)}"
        self.here, self.there = f"10.213.{number}.1", f"10.213.{number}.2"

    def __enter__(self) -> Machine:
        try:
            ip("netns", "add", self._name)
            ip("link", "add", self._cable, "type", "veth", "peer", "eth0", "netns", self._name)
            ip("address", "add", f"{self.here}/24", "dev", self._cable)
            ip("link", "set", self._cable, "up")
            for words in (
                ["address", "add", f"{self.there}/24", "dev", "eth0"],
                ["link", "set", "eth0", "up"],
                ["link", "set", "lo", "up"],
            ):
                ip("-n", self._name, *words)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for words in (["link", "delete", self._cable], ["netns", "delete", self._name]):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip(*words)

    def command(self, *words: str) -> list[str]:
        """Return the command that runs a command on the machine."""
        return ["ip", "netns", "exec", self._name, *words]

    def pull_the_cable(self) -> None:
        """Cut the connection without telling either side."""
        ip("-n", self._name, "link", "set", "eth0", "down")


@pytest.fixture
def machine() -> Iterator[Machine]:
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(Machine(1 + secrets.randbelow(250)))
        except subprocess.CalledProcessError as error:
            why = f"network namespaces cannot be made here: {error.stderr.decode().strip()}"
            if os.environ.get("CI") == "true" and _has_the_right():
                pytest.fail(why)
            pytest.skip(why)
        yield made


def _has_the_right() -> bool:
    """Return whether this process may make namespaces, even inside a container."""
    found = re.search(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    needed = 1 << CAP_NET_ADMIN | 1 << CAP_SYS_ADMIN
    return found is not None and int(found[1], 16) & needed == needed


@contextlib.contextmanager
def running_there(machine: Machine, *words: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        machine.command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=program_environment(),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def noticed_in_time(began_s: float) -> None:
    assert time.monotonic() - began_s < NOTICED_WITHIN_S + 2  # 2 s for a busy machine


@pytest.fixture
def server(tmp_path: Path, machine: Machine) -> Iterator[HostServer]:
    with HostServer(tmp_path, "--bind", machine.here) as server:
        yield server


HOLDS_A_LEASE = """
import socket, sys, time
client = socket.create_connection((sys.argv[1], int(sys.argv[2])))
client.sendall(b"request user=ada\\n")
print(client.recv(1000).decode(), flush=True)
time.sleep(1000)
"""


@pytest.mark.slow
@pytest.mark.needs("ip")
def test_a_builder_whose_cable_is_pulled_loses_its_lease(
    server: HostServer, machine: Machine
) -> None:
    assert server.ask("add host=127.0.0.1 slots=1").startswith("ok ")
    words = [sys.executable, "-c", HOLDS_A_LEASE, machine.here, str(server.base)]
    with running_there(machine, *words) as builder:
        assert builder.stdout
        assert builder.stdout.readline().startswith("lease ")
        began_s = time.monotonic()
        machine.pull_the_cable()
        eventually(lambda: server.farm()["totals"]["slots_in_use"] == 0)
        noticed_in_time(began_s)


@pytest.mark.slow
@pytest.mark.needs("ip")
def test_a_host_whose_cable_is_pulled_is_silent_and_its_reporter_notices(
    server: HostServer, machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "proc").mkdir()
    idle = ProcDirectory(tmp_path / "proc").path  # this machine may have other work
    where = ["--server", f"{machine.here}:{server.base}", "--host", machine.there]
    loadavg = program_command("loadavg", *where, "--register", "--procfs", idle)
    with running_there(machine, *loadavg) as reporter:
        eventually(lambda: server.host(machine.there).get("load"))
        with server.connect() as builder:
            builder.say("request user=ada")
            builder.hears("lease")
            began_s = time.monotonic()
            machine.pull_the_cable()
            builder.hears("revoked")
            noticed_in_time(began_s)
        assert server.host(machine.there)["state"] == "silent"
        assert reporter.stderr
        assert re.search("broke|does not answer", reporter.stderr.readline())
        noticed_in_time(began_s)


@pytest.mark.slow
@pytest.mark.needs("ip")
def test_a_gethost_whose_server_has_its_cable_pulled_attaches_to_another(
    server: HostServer,
    machine: Machine,
    tmp_path: Path,
    gethost_path: Path,
) -> None:
    """It holds a lease of a server on the machine, and nothing tells it that the server is gone."""
    there = [sys.executable, "-P", "-m", "compilefarm.server.main", "--port", "9714"]
    with running_there(machine, *there) as other:
        assert other.stdout
        assert "port 9714" in other.stdout.readline()
        with socket.create_connection((machine.there, 9716)) as status:
            status.sendall(f"add host={machine.here} port=4001 slots=1\n".encode())
            assert status.recv(1000).startswith(b"ok ")
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
        servers = f"{machine.there},{server.name}"
        with subprocess.Popen(
            [gethost_path, "--server", servers, "sh", "-c", "echo runs; read line"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        ) as holder:  # fmt: skip
            assert holder.stdout
            assert holder.stdin
            assert holder.stdout.readline() == "runs\n"
            machine.pull_the_cable()
            eventually(lambda: server.farm()["totals"]["leases_attached"] == 1, patience_s=40)
            assert holder.poll() is None
            holder.stdin.write("\n")
        assert holder.returncode == 0
