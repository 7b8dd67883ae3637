"""loadavg with a scripted host-server: what it sends, how it reconnects, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from proc_directory import TICKS_PER_S, ProcDirectory
from run_program import eventually, free_ports, run, running
from scripted_server import ScriptedServer

# It starts programs, many times.
pytestmark = pytest.mark.slow


def test_it_registers_first_and_then_reports(tmp_path: Path) -> None:
    ProcDirectory(tmp_path).cpus([0, 0, 0])
    with (
        ScriptedServer() as server,
        running("loadavg", "--server", server.name, "--host", "127.0.0.3:4000", "--procfs",
                tmp_path, "--register", "--slots", 2, "--power-index", 3, "--type", "a"),
    ):  # fmt: skip
        server.receives("add")
        load = server.receives("load")
        assert (load.text("host"), load.text("port")) == ("127.0.0.3", "4000")
        assert (load.integer("offset", 0), load.text("peer")) == (1, "127.0.0.3")
        assert load.integer("cpus", 0) == 3
        assert load.number("foreign_cpus", 9) == 0
        assert load.number("memory_total_mb", 0) == 2000
        assert load.number("cpu_pressure", 9) == 0
        server.hang_up()
        add = server.receives("add")
        assert (add.text("slots"), add.text("power_index"), add.text("types")) == ("2", "3", "a")
        server.receives("load")


def test_a_change_is_reported_long_before_the_next_report_is_due(tmp_path: Path) -> None:
    proc = ProcDirectory(tmp_path)
    with (
        ScriptedServer() as server,
        running("loadavg", "--server", server.name, "--interval", 3600, "--procfs", tmp_path),
    ):
        server.receives("load")
        proc.write("meminfo", "MemTotal: 2048000 kB\nMemAvailable: 102400 kB\n")
        assert server.receives("load").number("memory_free_mb", 0) == 100
        proc.cpus([3600 * TICKS_PER_S, 0])
        assert server.receives("load").number("foreign_cpus", 0) > 0.25


def test_the_state_of_distccd_is_reported() -> None:
    with (
        ScriptedServer() as server,
        subprocess.Popen(["sleep", "600"]) as distccd,
        running("loadavg", "--server", server.name, "--distccd-pid", distccd.pid),
    ):
        try:
            assert server.receives("load").text("distccd") == "running"
            distccd.send_signal(signal.SIGSTOP)
            while server.receives("load").text("distccd") != "stopped":
                pass
            distccd.kill()
            while server.receives("load").text("distccd") != "gone":
                pass
        finally:
            distccd.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("connected", [True, False])
def test_a_signal_ends_it_without_a_message(number: int, connected: bool) -> None:
    with ScriptedServer() as server:
        name = server.name if connected else f"127.0.0.1:{free_ports(4)}"
        with running("loadavg", "--server", name) as process:
            assert process.stderr is not None
            if connected:
                server.receives("load")
            else:
                assert "connection refused" in process.stderr.readline()
            process.send_signal(number)
            assert process.wait(timeout=20) == 0
            assert process.communicate() == ("", "")


def test_it_reconnects_to_a_server_that_was_away_and_says_that_it_returns() -> None:
    base = free_ports(4)
    with running("loadavg", "--server", f"127.0.0.1:{base}", "--register") as process:
        assert process.stderr is not None
        assert "connection refused" in process.stderr.readline()
        with ScriptedServer(base=base) as server:
            assert "returning" not in server.receives("add").words
            assert "returning" not in server.receives("load").words
            server.receives("load")
        for _ in range(2):
            with ScriptedServer(base=base) as server:
                assert server.receives("add").words["returning"] == "yes"
                assert server.receives("load").words["returning"] == "yes"
                assert "returning" not in server.receives("load").words
        assert process.poll() is None


def test_a_host_that_was_added_returns_even_if_it_never_reported() -> None:
    """It may have had leases when its server was lost."""
    base = free_ports(4)
    options = ("--server", f"127.0.0.1:{base}", "--register", "--verbose")
    with running("loadavg", *options) as process:
        assert process.stdout is not None
        with ScriptedServer(base=base) as server:
            assert "returning" not in server.receives("add").words
            assert any("registered" in line for line in process.stdout)
        with ScriptedServer(base=base) as server:
            assert server.receives("add").words["returning"] == "yes"


@pytest.mark.slow
def test_it_is_back_within_two_seconds_however_long_the_server_was_away() -> None:
    """By then its pauses are the longest; a busy machine gets some extra time."""
    base = free_ports(4)
    with running("loadavg", "--server", f"127.0.0.1:{base}", "--interval", "60"):
        with ScriptedServer(base=base) as server:
            server.receives("load")
        time.sleep(8)
        began_s = time.monotonic()
        with ScriptedServer(base=base) as server:
            server.receives("load")
        assert time.monotonic() - began_s < 4


def test_it_reports_to_every_server_independently() -> None:
    with ScriptedServer() as first, ScriptedServer() as second:
        names = f"127.0.0.1:{free_ports(4)},{first.name},{second.name}"
        with running("loadavg", "--server", names, "--interval", "0.2"):
            for server in (first, second, first, second):
                server.receives("load")
            first.hang_up()
            assert first.receives("load").words.get("returning", "yes") == "yes"
            second.receives("load")


def test_a_refusal_is_printed_once_and_affects_only_that_server() -> None:
    refusal = {"add": [b"error reason=not%20your%20host\n"]}
    with ScriptedServer(refusal) as first, ScriptedServer() as second:
        name = f"{first.name},{second.name}"
        with running("loadavg", "--server", name, "--register", "--host", "desk7") as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            second.receives("load")
            second.hang_up()
            second.receives("load")
            process.terminate()
            rest = process.stderr.read()
    assert line == f"loadavg: 127.0.0.1:{first.base} refuses desk7:3632: not your host\n"
    assert "refuses" not in rest


def test_a_removed_host_is_a_warning() -> None:
    out = {"add": [b"ok host=desk1 slots=0 available=no\n"]}
    with (
        ScriptedServer(out) as server,
        running("loadavg", "--server", server.name, "--register", "--host", "desk7") as process,
    ):
        assert process.stderr is not None
        assert "because it was removed; run addhost to add it" in process.stderr.readline()
        server.receives("load")


def test_once_reports_once() -> None:
    with ScriptedServer() as server:
        done = run("loadavg", "--server", server.name, "--once", "--register")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert [message.verb for message in server.all_received()] == ["add", "load"]
        server.answers["load"] = [b"error reason=no%20such%20host\n"]
        done = run("loadavg", "--server", server.name, "--once")
    assert done.returncode == 1
    assert done.stderr.endswith("no such host\n")
    assert done.stderr.count("\n") == 1


def test_unreadable_files_are_named_once_and_count_as_busy(tmp_path: Path) -> None:
    proc = ProcDirectory(tmp_path)
    proc.write("stat", b"\x00\xff")
    proc.remove("loadavg")
    with (
        ScriptedServer() as server,
        running("loadavg", "--server", server.name, "--procfs", tmp_path, "--slots", 4,
                "--interval", "0.1") as process,
    ):  # fmt: skip
        for _ in range(5):
            load = server.receives("load")
        assert "cpus" not in load.words
        assert load.number("foreign_cpus", 0) == 4
        assert load.number("load1", 0) == 4
        assert load.number("memory_free_mb", 0) == 1000
        proc.cpus([0, 0])
        eventually(lambda: server.receives("load").number("foreign_cpus", 9) == 0)
        process.terminate()
        _, errors = process.communicate()
    assert sorted(errors.splitlines()) == [
        f"loadavg: {tmp_path}/loadavg: no such file or directory",
        f"loadavg: {tmp_path}/stat has no line for a CPU",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--server", "a", "--procfs", "/no/such/directory"],
        ["--server", "a", "--interval", "0"],
        ["--server", "a", "--distccd-pid", "1"],
        ["--server", "a", "--host", "a:b:c:d]"],
    ],
)
def test_a_user_error_is_one_line(arguments: list[str]) -> None:
    done = run("loadavg", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
