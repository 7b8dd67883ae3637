"""loadavg against a scripted host-server: what it says, how it comes back, how it ends."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from compile_host import (
    TICKS_PER_S,
    ProcDirectory,
    ScriptedServer,
    eventually,
    free_ports,
    run,
    running,
)

# It starts programs, many times.
pytestmark = pytest.mark.slow


def test_it_registers_first_and_then_reports(tmp_path: Path) -> None:
    ProcDirectory(tmp_path).cpus([0, 0, 0])
    with (
        ScriptedServer() as server,
        running("loadavg", "--server", server.name, "--host", "127.0.0.3:4000", "--procfs",
                tmp_path, "--register", "--slots", 2, "--power-index", 3, "--type", "a"),
    ):  # fmt: skip
        server.told("add")
        load = server.told("load")
        assert (load.text("host"), load.text("port")) == ("127.0.0.3", "4000")
        assert (load.integer("offset", 0), load.text("peer")) == (1, "127.0.0.3")
        assert load.integer("cpus", 0) == 3
        assert load.number("foreign_cpus", 9) == 0
        assert load.number("memory_total_mb", 0) == 2000
        assert load.number("cpu_pressure", 9) == 0
        server.hang_up()
        add = server.told("add")
        assert (add.text("slots"), add.text("power_index"), add.text("types")) == ("2", "3", "a")
        server.told("load")


def test_news_is_told_long_before_the_next_report_is_due(tmp_path: Path) -> None:
    proc = ProcDirectory(tmp_path)
    with (
        ScriptedServer() as server,
        running("loadavg", "--server", server.name, "--interval", 3600, "--procfs", tmp_path),
    ):
        server.told("load")
        proc.write("meminfo", "MemTotal: 2048000 kB\nMemAvailable: 102400 kB\n")
        assert server.told("load").number("memory_free_mb", 0) == 100
        proc.cpus([3600 * TICKS_PER_S, 0])
        assert server.told("load").number("foreign_cpus", 0) > 0.25


def test_the_state_of_distccd_is_told() -> None:
    with (
        ScriptedServer() as server,
        subprocess.Popen(["sleep", "600"]) as distccd,
        running("loadavg", "--server", server.name, "--distccd-pid", distccd.pid),
    ):
        try:
            assert server.told("load").text("distccd") == "running"
            distccd.send_signal(signal.SIGSTOP)
            while server.told("load").text("distccd") != "stopped":
                pass
            distccd.kill()
            while server.told("load").text("distccd") != "gone":
                pass
        finally:
            distccd.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("connected", [True, False])
def test_a_signal_ends_it_without_a_word(number: int, connected: bool) -> None:
    with ScriptedServer() as server:
        name = server.name if connected else f"127.0.0.1:{free_ports(4)}"
        with running("loadavg", "--server", name) as process:
            assert process.stderr is not None
            if connected:
                server.told("load")
            else:
                assert "connection refused" in process.stderr.readline()
            process.send_signal(number)
            assert process.wait(timeout=20) == 0
            assert process.communicate() == ("", "")


def test_it_comes_back_to_a_server_that_was_away_and_says_so() -> None:
    base = free_ports(4)
    with running("loadavg", "--server", f"127.0.0.1:{base}", "--register") as process:
        assert process.stderr is not None
        assert "connection refused" in process.stderr.readline()
        with ScriptedServer(base=base) as server:
            assert "returning" not in server.told("add").words
            assert "returning" not in server.told("load").words
            server.told("load")
        for _ in range(2):
            with ScriptedServer(base=base) as server:
                assert server.told("add").words["returning"] == "yes"
                assert server.told("load").words["returning"] == "yes"
                assert "returning" not in server.told("load").words
        assert process.poll() is None


def test_a_host_that_was_added_returns_though_it_never_reported() -> None:
    """It may have been given leases before its server was lost."""
    base = free_ports(4)
    options = ("--server", f"127.0.0.1:{base}", "--register", "--verbose")
    with running("loadavg", *options) as process:
        assert process.stdout is not None
        with ScriptedServer(base=base) as server:
            assert "returning" not in server.told("add").words
            assert any("registered" in line for line in process.stdout)
        with ScriptedServer(base=base) as server:
            assert server.told("add").words["returning"] == "yes"


@pytest.mark.slow
def test_it_is_back_within_two_seconds_however_long_the_server_was_away() -> None:
    """Its pauses have come to their longest by then; a loaded machine gets some time on top."""
    base = free_ports(4)
    with running("loadavg", "--server", f"127.0.0.1:{base}", "--interval", "60"):
        with ScriptedServer(base=base) as server:
            server.told("load")
        time.sleep(8)
        began_s = time.monotonic()
        with ScriptedServer(base=base) as server:
            server.told("load")
        assert time.monotonic() - began_s < 4


def test_it_reports_to_every_server_whatever_becomes_of_the_others() -> None:
    with ScriptedServer() as first, ScriptedServer() as second:
        names = f"127.0.0.1:{free_ports(4)},{first.name},{second.name}"
        with running("loadavg", "--server", names, "--interval", "0.2"):
            for server in (first, second, first, second):
                server.told("load")
            first.hang_up()
            assert first.told("load").words.get("returning", "yes") == "yes"
            second.told("load")


def test_a_refusal_is_told_once_and_concerns_that_server_alone() -> None:
    refusal = {"add": [b"error reason=not%20your%20host\n"]}
    with ScriptedServer(refusal) as first, ScriptedServer() as second:
        name = f"{first.name},{second.name}"
        with running("loadavg", "--server", name, "--register", "--host", "desk7") as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            second.told("load")
            second.hang_up()
            second.told("load")
            process.terminate()
            told = process.stderr.read()
    assert line == f"loadavg: 127.0.0.1:{first.base} refuses desk7:3632: not your host\n"
    assert "refuses" not in told


def test_a_server_that_leaves_the_host_out_is_told_of() -> None:
    out = {"add": [b"ok host=desk1 slots=0 available=no\n"]}
    with (
        ScriptedServer(out) as server,
        running("loadavg", "--server", server.name, "--register", "--host", "desk7") as process,
    ):
        assert process.stderr is not None
        assert "because it was removed; addhost brings it in again" in process.stderr.readline()
        server.told("load")


def test_once_reports_once() -> None:
    with ScriptedServer() as server:
        done = run("loadavg", "--server", server.name, "--once", "--register")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert [message.verb for message in server.all_told()] == ["add", "load"]
        server.answers["load"] = [b"error reason=no%20such%20host\n"]
        done = run("loadavg", "--server", server.name, "--once")
    assert done.returncode == 1
    assert done.stderr.endswith("no such host\n")
    assert done.stderr.count("\n") == 1


def test_files_that_cannot_be_read_are_named_once_and_mean_busy(tmp_path: Path) -> None:
    proc = ProcDirectory(tmp_path)
    proc.write("stat", b"\x00\xff")
    proc.remove("loadavg")
    with (
        ScriptedServer() as server,
        running("loadavg", "--server", server.name, "--procfs", tmp_path, "--slots", 4,
                "--interval", "0.1") as process,
    ):  # fmt: skip
        for _ in range(5):
            load = server.told("load")
        assert "cpus" not in load.words
        assert load.number("foreign_cpus", 0) == 4
        assert load.number("load1", 0) == 4
        assert load.number("memory_free_mb", 0) == 1000
        proc.cpus([0, 0])
        eventually(lambda: server.told("load").number("foreign_cpus", 9) == 0)
        process.terminate()
        _, told = process.communicate()
    assert sorted(told.splitlines()) == [
        f"loadavg: {tmp_path}/loadavg: no such file or directory",
        f"loadavg: {tmp_path}/stat has no line of a CPU",
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
def test_a_mistake_is_one_line(arguments: list[str]) -> None:
    done = run("loadavg", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
