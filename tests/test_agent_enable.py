"""enable-host and disable-host: both halves come and go together, and nothing stays behind.

Most tests run them on a distccd that is faked (fake_distccd.py), to have it fail in chosen ways;
those at the end run the real one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compile_host import (
    ScriptedServer,
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


class Desk:
    """A compile host: 127.0.0.3, with a port and a run directory of its own."""

    def __init__(self, directory: Path, server: ScriptedServer) -> None:
        self.server = server
        self.run_dir = directory / "run"
        self.port = free_ports(address="127.0.0.3")
        self.environment = program_environment(HOST_SERVER=server.name)
        self.options: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return f"127.0.0.3:{self.port}"

    def arguments(self) -> list[object]:
        return ["--host", "127.0.0.3", "--port", self.port, "--run-dir", self.run_dir]

    def enable(self, *more: object) -> subprocess.CompletedProcess[str]:
        return self._run("enable-host", "--no-measure", *more)

    def disable(self, *more: object) -> subprocess.CompletedProcess[str]:
        return self._run("disable-host", *more)

    def _run(self, program: str, *more: object) -> subprocess.CompletedProcess[str]:
        return run(program, *self.arguments(), *more, environment=self.environment, **self.options)

    def pid(self, program: str) -> int:
        return int((self.run_dir / self.name / f"{program}.pid").read_text().split()[0])

    def tree(self, program: str) -> ProcessTree:
        tree = ProcessTree(this_machine(), self.pid(program))
        assert tree.root()
        return tree

    def command(self, program: str) -> list[str]:
        return Path(f"/proc/{self.pid(program)}/cmdline").read_text().split("\0")[:-1]

    @property
    def listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.3", self.port), timeout=5).close()
        except OSError:
            return False
        return True

    @property
    def clean(self) -> bool:
        """Whether no trace is left."""
        return not self.listens and not (self.run_dir.exists() and list(self.run_dir.iterdir()))


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as scripted:
        yield scripted


@pytest.fixture
def desk(tmp_path: Path, server: ScriptedServer) -> Iterator[Desk]:
    """A host whose distccd is the fake one; whatever happens, nothing of it is left running."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "distccd").write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{FAKE}" "$@"\n')
    (programs / "distccd").chmod(0o755)
    made = Desk(tmp_path, server)
    made.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
    yield made
    made.disable("--grace", 0)
    assert made.clean


def test_a_host_comes_and_goes(desk: Desk) -> None:
    done = desk.enable("--slots", 3, "--power-index", "2.5", "--type", "a", "--nice", 7)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "desk1 is available with 2 slots, power index 1\n"
    add = desk.server.told("add")
    assert (add.text("host"), add.integer("port", 0)) == ("127.0.0.3", desk.port)
    assert (add.text("slots"), add.text("power_index"), add.text("types")) == ("3", "2.5", "a")
    assert (add.text("offset"), add.text("peer")) == ("1", "127.0.0.3")
    load = desk.server.told("load")
    assert (load.text("distccd"), load.text("peer")) == ("running", "127.0.0.3")
    assert desk.listens
    words = " ".join(desk.command("distccd"))
    for option in ("--jobs 4", "--nice 7", "--allow 127.0.0.0/8", "--listen 127.0.0.3"):
        assert option in words

    distccd, loadavg = desk.tree("distccd"), desk.tree("loadavg")
    done = desk.disable("--grace", 7)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{desk.name} is disabled\n", "")
    assert desk.server.told("drain").text("grace_s") == "7"
    assert desk.clean
    for tree in (distccd, loadavg):
        assert all(process.gone for process in tree.read().values())


def priorities(desk: Desk) -> set[tuple[int, int]]:
    """Return the niceness and the scheduling class of each of distccd's processes."""
    return {
        (os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid))
        for pid in desk.tree("distccd").read()
    }


def test_a_desktop_has_the_lowest_priority(desk: Desk) -> None:
    done = desk.enable("--mode", "proportional", "--reserve", "1.5")
    assert (done.returncode, done.stderr) == (0, "")
    add = desk.server.told("add")
    assert (add.text("mode"), add.text("reserve_cpus")) == ("proportional", "1.5")
    assert "--nice 19" in " ".join(desk.command("distccd"))
    assert priorities(desk) == {(19, os.SCHED_IDLE)}


def test_a_host_that_hosts_info_alone_calls_a_desktop_has_it_too(desk: Desk) -> None:
    answer = b"ok host=desk1 slots=2 power_index=1 mode=idle\n"
    desk.server.answers["add"] = [answer]
    done = desk.enable("--slots", 2)
    assert "power index 1, while watch-ssaver says that it is unused\n" in done.stdout
    eventually(lambda: priorities(desk) == {(19, os.SCHED_IDLE)})


def test_a_dedicated_host_has_not(desk: Desk) -> None:
    assert desk.enable().returncode == 0
    desk.server.told("load")
    assert {scheduler for _, scheduler in priorities(desk)} == {os.SCHED_OTHER}


def test_more_slots_than_distccd_has_are_told_of(desk: Desk) -> None:
    assert desk.enable("--slots", 1).stdout == (
        "desk1 is available with 2 slots, power index 1, but its distccd has 1: use --slots 2\n"
    )


def test_twice_is_once(desk: Desk) -> None:
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
def test_at_the_same_time_twice_is_once(desk: Desk, program: str) -> None:
    if program == "disable-host":
        desk.enable()
    quickly = ["--no-measure"] if program == "enable-host" else []
    both = [
        subprocess.Popen(
            program_command(program, *desk.arguments(), *quickly),
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


def test_without_a_server_it_is_enabled_and_registers_later(desk: Desk) -> None:
    base = free_ports(4)
    desk.environment["HOST_SERVER"] = f"127.0.0.1:{base}"
    done = desk.enable()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{desk.name} is enabled, and registers itself once it can: no ")
    assert done.stdout.count("\n") == 1
    assert "--allow-private" in desk.command("distccd")
    with ScriptedServer(base=base) as server:
        server.told("add")
        server.told("load")
    done = desk.disable()
    assert done.returncode == 0
    assert done.stdout.startswith(f"{desk.name} is disabled, without waiting for its compiles: ")
    assert desk.clean


def test_disable_finds_the_server_that_enable_used(desk: Desk) -> None:
    desk.enable()
    del desk.environment["HOST_SERVER"]
    assert desk.disable().stdout == f"{desk.name} is disabled\n"
    desk.server.told("drain")


def test_a_refused_host_leaves_nothing_running(desk: Desk) -> None:
    desk.server.answers["add"] = [b"error reason=not%20your%20host\n"]
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
        "stop that, or choose another port with --port\n"
    )
    assert desk.clean


def test_a_distccd_that_dies_is_quoted(desk: Desk) -> None:
    desk.environment["FAKE_DISTCCD"] = "dies"
    done = desk.enable()
    assert done.returncode == 1
    assert done.stderr == (
        "enable-host: distccd did not start: distccd[1] (dcc_main) ERROR: it was told to die\n"
    )
    assert desk.clean


def test_a_missing_distccd_names_the_package(desk: Desk) -> None:
    code = (
        "import sys; from compilefarm.compile_host import enable; enable.SBIN = ''; "
        "sys.exit(enable.enable_host())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, desk.arguments())],
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
        program_command("enable-host", "--no-measure", *desk.arguments()),
        env=desk.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        eventually((desk.run_dir / desk.name / "distccd.pid").exists)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + signal.SIGINT, "")
    assert desk.clean


def test_an_interrupted_disable_stops_the_host_all_the_same(desk: Desk) -> None:
    desk.enable()
    desk.server.answers["drain"] = [b"draining leases=1\n"]
    with subprocess.Popen(
        program_command("disable-host", *desk.arguments()),
        env=desk.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        desk.server.told("drain")
        assert desk.listens, "it goes on for its running compiles"
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert errors == ""
    assert desk.clean


def test_a_deaf_distccd_is_killed(desk: Desk) -> None:
    desk.environment["FAKE_DISTCCD"] = "deaf"
    desk.enable()
    tree = desk.tree("distccd")
    assert desk.disable().returncode == 0
    assert all(process.gone for process in tree.read().values())


def test_a_stopped_distccd_ends(desk: Desk) -> None:
    desk.enable()
    for pid in desk.tree("distccd").read():
        os.kill(pid, signal.SIGSTOP)
    assert desk.disable().returncode == 0
    assert desk.clean


def test_compiles_that_did_not_end_are_told_of(desk: Desk) -> None:
    desk.enable()
    desk.server.answers["drain"] = [b"draining leases=3\n", b"ok leases=2\n"]
    done = desk.disable("--grace", 1)
    assert (
        done.stdout == f"{desk.name} is disabled; 2 compiles that ran for too long go elsewhere\n"
    )
    desk.enable()
    desk.server.answers["drain"] = [b"error reason=no\n"]
    assert "the server refused that: no" in desk.disable().stdout


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
def test_allow_narrows_the_farms_networks(desk: Desk, allow: list[str], opened: list[str]) -> None:
    desk.server.answers["networks"] = [b"ok networks=127.0.0.0/8,10.0.0.0/8,::1/128\n"]
    desk.enable(*(word for network in allow for word in ("--allow", network)))
    command = desk.command("distccd")
    assert [command[n + 1] for n, word in enumerate(command) if word == "--allow"] == opened


def test_allow_outside_of_the_farms_networks_is_refused(desk: Desk) -> None:
    done = desk.enable("--allow", "192.0.2.0/24")
    assert done.returncode == 1
    assert "--allow leaves out all of the farm's networks, which are 127.0.0.0/8" in done.stderr
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
def test_a_mistake_is_one_line(program: str, arguments: list[str]) -> None:
    done = run(program, "--server", "a", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


# With a real distccd.


def somebodys_python(environment: dict[str, str], identity: dict[str, Any]) -> str:
    """Return a Python that a user who is not root can run; skip the test where there is none."""
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            if not run("addhost", "--version", environment=environment, python=python,
                       **identity).returncode:  # fmt: skip
                return python
    pytest.skip("no Python here can be run by another user")


@pytest.fixture(params=["root", "somebody"])
def real_desk(request: pytest.FixtureRequest, server: ScriptedServer) -> Iterator[Desk]:
    """A host with the real distccd, enabled by root and by somebody who is not."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("this is not root")
    # Not in tmp_path, into which another user cannot look.
    with tempfile.TemporaryDirectory() as name:
        made = Desk(Path(name), server)
        if request.param == "somebody" and os.geteuid() == 0:
            made.options = {"user": 65534, "group": 65534, "extra_groups": []}
            made.environment["HOME"] = name
            made.options["python"] = somebodys_python(made.environment, made.options)
            os.chown(name, 65534, 65534)
        yield made
        made.disable("--grace", 0)
        assert made.clean


def distcc_environment(desk: Desk, directory: Path) -> dict[str, str]:
    """Return what makes distcc use this host and no other, and never compile here instead."""
    return dict(os.environ) | {
        "DISTCC_HOSTS": f"{desk.name}/2",
        "DISTCC_FALLBACK": "0",
        "DISTCC_SKIP_LOCAL_RETRY": "1",
        "DISTCC_DIR": str(directory),
    }


@pytest.mark.e2e
def test_a_real_distccd_compiles_and_goes(real_desk: Desk, tmp_path: Path) -> None:
    done = real_desk.enable("--slots", 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert stat.S_IMODE((real_desk.run_dir / real_desk.name).stat().st_mode) == 0o700
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    compiled = subprocess.run(
        ["distcc", "gcc", "-c", "main.c", "-o", "main.o"],
        cwd=tmp_path,
        env=distcc_environment(real_desk, tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (compiled.returncode, compiled.stderr) == (0, "")
    assert (tmp_path / "main.o").stat().st_size
    tree = real_desk.tree("distccd")
    done = real_desk.disable()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{real_desk.name} is disabled\n"
    assert real_desk.clean
    assert all(process.gone for process in tree.read().values())


@pytest.mark.e2e
def test_a_real_distccd_ends_with_its_compilers(real_desk: Desk, tmp_path: Path) -> None:
    real_desk.enable("--slots", 2)
    # Long enough to be caught at it, and bounded.
    lines = [f"int f{n}(int a) {{ return a * {n} % (a ^ {n + 1}); }}" for n in range(60_000)]
    (tmp_path / "long.c").write_text("\n".join(lines))
    tree = real_desk.tree("distccd")
    idle = len(tree.read())
    with subprocess.Popen(
        ["distcc", "gcc", "-O2", "-c", "long.c", "-o", "long.o"],
        cwd=tmp_path,
        env=distcc_environment(real_desk, tmp_path),
        stderr=subprocess.DEVNULL,
    ) as compile_:
        eventually(lambda: len(tree.read()) > idle + 1)
        eventually(lambda: sum(process.total_cpu_s for process in tree.read().values()) > 0)
        done = real_desk.disable("--grace", 0)
        assert (done.returncode, done.stderr) == (0, "")
        assert compile_.wait(timeout=60) >= 100
    assert all(process.gone for process in tree.read().values())
