"""enable-host and disable-host: distccd and loadavg start and end together, and leave nothing.

distccd is a fake one, so that it can fail in chosen ways. test_enable_distccd.py has the real one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from desk import Desk
from run_program import eventually, free_ports, program_command, run
from scripted_server import ScriptedServer

# It starts programs, many times.
pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as scripted:
        yield scripted


@pytest.fixture
def desk(tmp_path: Path, server: ScriptedServer) -> Iterator[Desk]:
    """A host with the fake distccd; afterwards nothing of it may be left."""
    made = Desk(tmp_path, server.name)
    made.use_fake_distccd()
    yield made
    made.disable("--grace", 0)
    assert made.clean


def test_a_host_is_enabled_and_disabled(desk: Desk, server: ScriptedServer) -> None:
    done = desk.enable("--slots", 3, "--power-index", "2.5", "--type", "a", "--nice", 7)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "desk1 is available with 2 slots, power index 1\n"
    add = server.receives("add")
    assert (add.text("host"), add.integer("port", 0)) == ("127.0.0.3", desk.port)
    assert (add.text("slots"), add.text("power_index"), add.text("types")) == ("3", "2.5", "a")
    assert (add.text("offset"), add.text("peer")) == ("1", "127.0.0.3")
    load = server.receives("load")
    assert (load.text("distccd"), load.text("peer")) == ("running", "127.0.0.3")
    assert desk.listens
    words = " ".join(desk.command("distccd"))
    for option in ("--jobs 4", "--nice 7", "--allow 127.0.0.0/8", "--listen 127.0.0.3"):
        assert option in words

    distccd, loadavg = desk.tree("distccd"), desk.tree("loadavg")
    done = desk.disable("--grace", 7)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{desk.name} is disabled\n", "")
    assert server.receives("drain").text("grace_s") == "7"
    assert desk.clean
    for tree in (distccd, loadavg):
        assert all(process.gone for process in tree.read().values())


def priorities(desk: Desk) -> set[tuple[int, int]]:
    """Return the niceness and the scheduling class of each of distccd's processes."""
    return {
        (os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid))
        for pid in desk.tree("distccd").read()
    }


def test_a_desktop_has_the_lowest_priority(desk: Desk, server: ScriptedServer) -> None:
    done = desk.enable("--mode", "proportional", "--reserve", "1.5")
    assert (done.returncode, done.stderr) == (0, "")
    add = server.receives("add")
    assert (add.text("mode"), add.text("reserve_cpus")) == ("proportional", "1.5")
    assert "--nice 19" in " ".join(desk.command("distccd"))
    assert priorities(desk) == {(19, os.SCHED_IDLE)}


def test_a_host_that_only_hosts_info_makes_a_desktop_has_it_too(
    desk: Desk, server: ScriptedServer
) -> None:
    answer = b"ok host=desk1 slots=2 power_index=1 mode=idle\n"
    server.answers["add"] = [answer]
    done = desk.enable("--slots", 2)
    assert "power index 1, while watch-ssaver reports it unused\n" in done.stdout
    eventually(lambda: priorities(desk) == {(19, os.SCHED_IDLE)})


def test_a_dedicated_host_has_the_usual_priority(desk: Desk, server: ScriptedServer) -> None:
    assert desk.enable().returncode == 0
    server.receives("load")
    assert {scheduler for _, scheduler in priorities(desk)} == {os.SCHED_OTHER}


def test_more_slots_than_distccd_has_are_a_warning(desk: Desk) -> None:
    assert desk.enable("--slots", 1).stdout == (
        "desk1 is available with 2 slots, power index 1, but its distccd has 1: use --slots 2\n"
    )


def test_a_second_run_changes_nothing(desk: Desk) -> None:
    assert desk.enable().returncode == 0
    pids = desk.pid("distccd"), desk.pid("loadavg")
    done = desk.enable()
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"{desk.name} is already enabled\n",
        "",
    )
    assert (desk.pid("distccd"), desk.pid("loadavg")) == pids
    assert desk.disable().returncode == 0
    done = desk.disable()
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{desk.name} was not enabled\n", "")


@pytest.mark.parametrize("program", ["enable-host", "disable-host"])
def test_two_runs_at_the_same_time_act_as_one(desk: Desk, program: str) -> None:
    if program == "disable-host":
        desk.enable()
    quickly = ["--no-measure"] if program == "enable-host" else []
    both = [
        subprocess.Popen(
            program_command(program, *desk.arguments, *quickly),
            env=desk.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [errors for _, errors in said] == ["", ""]
    lines = {line for line, _ in said}
    if program == "enable-host":
        assert f"{desk.name} is already enabled\n" in lines
        assert len(lines) == 2
    else:
        assert lines == {f"{desk.name} is disabled\n", f"{desk.name} was not enabled\n"}


@pytest.mark.parametrize("dead", ["distccd", "loadavg"])
def test_half_a_host_is_repaired(desk: Desk, dead: str) -> None:
    desk.enable()
    tree = desk.tree(dead)
    for pid in tree.read():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: tree.root() is None)
    done = desk.enable()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("repaired: desk1 is available")
    assert desk.listens
    assert desk.tree("loadavg").root()


@pytest.mark.parametrize("dead", ["distccd", "loadavg"])
def test_half_a_host_is_disabled(desk: Desk, dead: str) -> None:
    desk.enable()
    for pid in desk.tree(dead).read():
        os.kill(pid, signal.SIGKILL)
    assert desk.disable().stdout == f"{desk.name} is disabled\n"
    assert desk.clean


def test_a_host_is_enabled_without_a_server_and_registers_later(desk: Desk) -> None:
    base = free_ports(4)
    desk.environment["HOST_SERVER"] = f"127.0.0.1:{base}"
    done = desk.enable()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{desk.name} is enabled, but not registered yet: no ")
    assert done.stdout.count("\n") == 1
    assert "--allow-private" in desk.command("distccd")
    with ScriptedServer(base=base) as server:
        server.receives("add")
        server.receives("load")
    done = desk.disable()
    assert done.returncode == 0
    assert done.stdout.startswith(f"{desk.name} is disabled, without waiting for its compiles: ")
    assert desk.clean


def test_disable_finds_the_server_that_enable_used(desk: Desk, server: ScriptedServer) -> None:
    desk.enable()
    del desk.environment["HOST_SERVER"]
    assert desk.disable().stdout == f"{desk.name} is disabled\n"
    server.receives("drain")


def test_a_refused_host_leaves_nothing_running(desk: Desk, server: ScriptedServer) -> None:
    server.answers["add"] = [b"error reason=not%20your%20host\n"]
    done = desk.enable()
    assert done.returncode == 1
    assert done.stderr == f"enable-host: {desk.name} was refused: not your host\n"
    assert desk.clean


def test_a_port_in_use_is_named(desk: Desk) -> None:
    with socket.create_server(("127.0.0.3", desk.port)):
        done = desk.enable()
    assert done.returncode == 1
    assert done.stderr == (
        f"enable-host: port {desk.port} is in use, perhaps by another distccd; "
        "stop that program, or choose another port with --port\n"
    )
    assert desk.clean


def test_the_error_of_a_distccd_that_dies_is_shown(desk: Desk) -> None:
    desk.environment["FAKE_DISTCCD"] = "dies"
    done = desk.enable()
    assert done.returncode == 1
    assert done.stderr == (
        "enable-host: distccd did not start: distccd[1] (dcc_main) ERROR: it was told to die\n"
    )
    assert desk.clean


def test_a_missing_distccd_names_its_package(desk: Desk) -> None:
    code = (
        "import sys; from compilefarm.compile_host import enable; "
        "from compilefarm.programs import daemon_path; daemon_path.DAEMON_DIRECTORIES = (); "
        "sys.exit(enable.enable_host())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *desk.arguments],
        env=desk.environment | {"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "install the package distcc" in done.stderr
    assert done.stderr.count("\n") == 1
    assert desk.clean


def test_an_interrupted_enable_leaves_nothing(desk: Desk) -> None:
    desk.environment["FAKE_DISTCCD"] = "mute"
    with subprocess.Popen(
        program_command("enable-host", "--no-measure", *desk.arguments),
        env=desk.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        eventually((desk.run_dir / desk.name / "distccd.pid").exists)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + signal.SIGINT, "")
    assert desk.clean


def test_an_interrupted_disable_still_ends_the_host(desk: Desk, server: ScriptedServer) -> None:
    desk.enable()
    server.answers["drain"] = [b"draining leases=1\n"]
    with subprocess.Popen(
        program_command("disable-host", *desk.arguments),
        env=desk.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        server.receives("drain")
        assert desk.listens, "it keeps running for its compiles"
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert errors == ""
    assert desk.clean


def test_a_distccd_that_ignores_sigterm_is_killed(desk: Desk) -> None:
    desk.environment["FAKE_DISTCCD"] = "deaf"
    desk.enable()
    tree = desk.tree("distccd")
    assert desk.disable().returncode == 0
    assert all(process.gone for process in tree.read().values())


def test_a_stopped_distccd_is_ended(desk: Desk) -> None:
    desk.enable()
    for pid in desk.tree("distccd").read():
        os.kill(pid, signal.SIGSTOP)
    assert desk.disable().returncode == 0
    assert desk.clean


def test_compiles_that_did_not_end_in_time_are_counted(desk: Desk, server: ScriptedServer) -> None:
    desk.enable()
    server.answers["drain"] = [b"draining leases=3\n", b"ok leases=2\n"]
    done = desk.disable("--grace", 1)
    assert (
        done.stdout == f"{desk.name} is disabled; 2 compiles did not end in time, and will run "
        "elsewhere\n"
    )
    desk.enable()
    server.answers["drain"] = [b"error reason=no\n"]
    assert "the server refused: no" in desk.disable().stdout


def test_a_recycled_pid_is_not_killed(desk: Desk) -> None:
    desk.enable()
    for program in ("distccd", "loadavg"):
        for pid in desk.tree(program).read():
            os.kill(pid, signal.SIGKILL)
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            for program in ("distccd", "loadavg"):
                (desk.run_dir / desk.name / f"{program}.pid").write_text(f"{stranger.pid} 1.5\n")
            assert desk.disable().stdout == f"{desk.name} was not enabled any more\n"
            assert stranger.poll() is None
        finally:
            stranger.kill()
    assert desk.clean


@pytest.mark.parametrize(
    ("allow", "opened"),
    [
        (["10.1.0.0/16"], ["10.1.0.0/16"]),
        (["0.0.0.0/0"], ["10.0.0.0/8", "127.0.0.0/8"]),
        (["127.0.0.1", "10.0.0.5/32"], ["10.0.0.5/32", "127.0.0.1/32"]),
    ],
)
def test_allow_restricts_the_farms_networks(
    desk: Desk, server: ScriptedServer, allow: list[str], opened: list[str]
) -> None:
    server.answers["networks"] = [b"ok networks=127.0.0.0/8,10.0.0.0/8,::1/128\n"]
    desk.enable(*(word for network in allow for word in ("--allow", network)))
    command = desk.command("distccd")
    assert [command[n + 1] for n, word in enumerate(command) if word == "--allow"] == opened


def test_allow_outside_the_farms_networks_is_refused(desk: Desk) -> None:
    done = desk.enable("--allow", "192.0.2.0/24")
    assert done.returncode == 1
    assert "--allow excludes all of the farm's networks, which are 127.0.0.0/8" in done.stderr
    assert desk.clean


def test_a_run_directory_that_others_can_write_to_is_not_used(desk: Desk, tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    for place in (open_to_all, link, tmp_path / "programs" / "distccd"):
        for done in (desk.enable("--run-dir", place), desk.disable("--run-dir", place)):
            assert done.returncode == 1
            assert done.stderr.count("\n") == 1
            assert "choose another with --run-dir" in done.stderr
    assert not list(open_to_all.iterdir())


@pytest.mark.parametrize("program", ["enable-host", "disable-host"])
@pytest.mark.parametrize(
    "arguments", [["--port", "0"], ["--nice", "20"], ["--grace", "-1"], ["--allow", "x"], ["more"]]
)
def test_a_user_error_is_one_line(program: str, arguments: list[str]) -> None:
    done = run(program, "--server", "a", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
