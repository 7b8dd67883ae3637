"""The program host-server: its options, its files, its start and its end."""

from __future__ import annotations

import contextlib
import csv
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from farm_processes import LOADS, REQUESTS, STATUS, HostServer
from run_program import PATIENCE_S, eventually, program_environment

# It starts programs, many times.
pytestmark = pytest.mark.slow


# -- files


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


def test_sighup_without_hosts_info_does_no_harm(host_server: HostServer) -> None:
    host_server.process.send_signal(signal.SIGHUP)
    eventually(lambda: host_server.logs("there is no hosts-info"))
    host_server.serves()


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


def test_a_full_disk_ends_the_record_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "record.csv"
    with HostServer(tmp_path, "--record", path) as server:
        server.ask("add host=127.0.0.1 slots=1")
        psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_FSIZE, (200, 200))
        # The log has the same limit, so it says nothing.
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
    """Run a host-server that must refuse to start."""
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
    """Return the one line of a program that refused to start."""
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    line = result.stderr.splitlines()[-1]
    assert line.startswith("host-server: ")
    return line


def test_a_port_in_use_is_named(host_server: HostServer) -> None:
    line = one_line(attempt("--bind", "127.0.0.1", port=host_server.base))
    assert f"port {host_server.base} to {host_server.base + 3}" in line
    assert "in use" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bind", "192.0.2.1"], "192.0.2.1"),
        (["--bind", "desk1"], "not an IP address"),
        (["--allow", "10.0.0.0/99"], "not a network"),
        (["--policy", "best"], "invalid choice: 'best'"),
        (["--port", "65534"], "not a port from 0 to 65532, where four in a row can start"),
        (["--port", "x"], "not a port"),
        (["--hosts-info", "/does/not/exist"], "cannot read /does/not/exist: No such file"),
        (["--hosts-info", "/"], "cannot read /: Is a directory"),
        (["--record", "/does/not/exist"], "cannot write /does/not/exist: No such file"),
        (["--colour"], "--colour"),
    ],
)
def test_wrong_options_are_one_line(options: list[str], words: str) -> None:
    assert words in one_line(attempt(*options))


def test_the_line_of_a_mistake_in_hosts_info_is_named(tmp_path: Path) -> None:
    path = tmp_path / "hosts-info"
    path.write_text("desk1 4 15\n\ndesk2 4 fast\n")
    assert f"{path}:3: power index is 'fast'" in one_line(attempt("--hosts-info", path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_while_clients_are_connected(tmp_path: Path, number: int) -> None:
    server = HostServer(tmp_path)
    server.start()
    server.ask("add host=127.0.0.1 slots=1")
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(server.connect(port)) for port in (REQUESTS, LOADS, STATUS) * 3
        ]
        for client in clients:
            client.say("request user=ada")
        clients[0].hears("lease")
        server.process.send_signal(number)
        assert server.process.wait(PATIENCE_S) == 0
        assert clients[0].line() == ""
    assert server.logs("ends: 1 compiles were running")
    assert not server.logs("Traceback")
