"""The agent in loadavg: what it tells a server, and what it lets distccd run. gethost is a fake.

test_compiler_distccd.py has the real distccd, gethost and compilers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from compiler_host import KNOWS_IDS, HostList, fake_gethost, install, list_in
from desk import Desk
from run_program import eventually, running
from scripted_server import ScriptedServer

from compilefarm.compile_host.compilers.agent import STALE_S

# It starts programs, many times.
pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(KNOWS_IDS) as scripted:
        yield scripted


@contextlib.contextmanager
def agent(
    directory: Path, server: ScriptedServer, *more: object
) -> Iterator[subprocess.Popen[str]]:
    """Run a loadavg whose agent knows the fake compilers in `directory`/bin."""
    (directory / "bin").mkdir(exist_ok=True)
    gethost = fake_gethost(directory / "programs")
    options = ["--doors", directory / "doors", "--gethost", gethost]
    options += ["--compiler-dir", directory / "bin"]
    (directory / "doors").mkdir(exist_ok=True)
    with running("loadavg", "--server", server.name, *options, *more) as process:
        yield process


def fake_doors(directory: Path) -> set[str]:
    """Return the doors in the list for distccd, without the plain names."""
    found = list_in(directory / "doors") if (directory / "doors" / "list").exists() else {}
    return {name for name in found if (directory / "doors" / "links" / name).is_symlink()}


def test_the_list_comes_after_the_first_load(tmp_path: Path, server: ScriptedServer) -> None:
    install(tmp_path / "bin" / "gcc", "compiler 12.1")
    install(tmp_path / "bin" / "clang++", "compiler 14.0")
    with agent(tmp_path, server, "--register", "--host", "127.0.0.3:4000"):
        assert server.receives("add").text("compiler_ids") == "yes"
        assert server.receives("load").text("compiler_ids") == "yes"
        compilers = [server.receives("compiler") for _ in range(2)]
        complete = server.receives("compilers")
    assert complete.text("count") == "2"
    for message in (*compilers, complete):
        assert (message.text("host"), message.text("port")) == ("127.0.0.3", "4000")
    clang, gcc = compilers
    assert (gcc.text("name"), gcc.text("version"), gcc.text("target")) == (
        "gcc",
        "12.1",
        "fake-linux",
    )
    assert clang.text("text") == "clang++ 14.0 (fake-linux)"
    assert fake_doors(tmp_path) == {
        f"{each.text('name')}-{each.text('id')}" for each in (gcc, clang)
    }


def test_an_older_server_gets_no_list(tmp_path: Path, server: ScriptedServer) -> None:
    """It would close the connection."""
    server.answers["load"] = [b"ok\n"]
    install(tmp_path / "bin" / "gcc")
    with agent(tmp_path, server, "--interval", "0.1"):
        server.receives("load")
        eventually(lambda: fake_doors(tmp_path))
        for _ in range(10):
            assert server.receives_any().verb == "load"


def test_a_loadavg_without_an_agent_says_nothing_of_ids(server: ScriptedServer) -> None:
    with running("loadavg", "--server", server.name, "--register", "--interval", "0.1"):
        assert "compiler_ids" not in server.receives("add").words
        assert "compiler_ids" not in server.receives("load").words
        for _ in range(5):
            assert server.receives_any().verb == "load"


def test_a_new_connection_gets_the_whole_list(tmp_path: Path, server: ScriptedServer) -> None:
    install(tmp_path / "bin" / "gcc")
    host = HostList(server)
    with agent(tmp_path, server):
        before = host.next()
        server.hang_up()
        assert host.next() == before


def test_every_change_is_reported(tmp_path: Path, server: ScriptedServer) -> None:
    host = HostList(server)
    with agent(tmp_path, server):
        assert host.next() == set()
        gcc = install(tmp_path / "bin" / "gcc")
        one = host.next()
        assert fake_doors(tmp_path) == one
        install(tmp_path / "bin" / "gcc-12", "compiler 2")
        both = host.next()
        assert len(both) == 2
        assert one < both
        gcc.write_text("compiler 3")  # copied over
        assert host.next() == both - one
        assert fake_doors(tmp_path) == both - one
        changed = host.next()
        assert len(changed - both) == 1
        gcc.unlink()
        assert host.next() == both - one
        assert fake_doors(tmp_path) == both - one


def test_a_compiler_that_hangs_does_not_hold_the_others_up_for_ever(
    tmp_path: Path, server: ScriptedServer
) -> None:
    """The real gethost ends such a compiler after two seconds; this one never does."""
    install(tmp_path / "bin" / "clang")
    host = HostList(server)
    with agent(tmp_path, server, "--interval", "0.1"):
        assert len(host.next()) == 1
        install(tmp_path / "bin" / "gcc", "hang")
        install(tmp_path / "bin" / "clang", "compiler 2")
        assert host.next() == set()
        # Loads are reported meanwhile, and a change of files still counts.
        assert server.receives("load").text("cpus")


def test_five_hundred_compilers_are_reported(tmp_path: Path, server: ScriptedServer) -> None:
    for number in range(500):
        install(tmp_path / "bin" / f"machine{number}-gcc", f"compiler {number}")
    host = HostList(server)
    with agent(tmp_path, server):
        doors = host.until(500)
    assert fake_doors(tmp_path) == doors


def test_what_gethost_does_not_know_is_not_reported(tmp_path: Path, server: ScriptedServer) -> None:
    install(tmp_path / "bin" / "gcc", "#!/bin/sh")
    install(tmp_path / "bin" / "clang", "compiler 7")
    install(tmp_path / "bin" / "g++").chmod(0o600)
    with agent(tmp_path, server):
        (door,) = HostList(server).next()
    assert door.startswith("clang-")


def test_a_stopped_loadavg_withdraws_before_it_reports_again(
    tmp_path: Path, server: ScriptedServer
) -> None:
    gcc = install(tmp_path / "bin" / "gcc")
    host = HostList(server)
    with agent(tmp_path, server, "--interval", "0.01") as process:
        (old,) = host.next()
        process.send_signal(signal.SIGSTOP)
        stopped_s = time.monotonic()
        gcc.write_text("compiler 2")
        eventually(lambda: time.monotonic() > stopped_s + STALE_S)
        server.all_received()
        process.send_signal(signal.SIGCONT)
        first = server.receives_any()
        assert (first.verb, first.text("count")) == ("compilers", "0")
        (new,) = host.next()
    assert new != old


def test_a_new_loadavg_does_not_trust_the_old_doors(tmp_path: Path, server: ScriptedServer) -> None:
    gcc = install(tmp_path / "bin" / "gcc")
    host = HostList(server)
    with agent(tmp_path, server) as process:
        old = host.next()
        process.kill()
    gcc.write_text("compiler 2")
    with agent(tmp_path, server):
        new = host.until(1)
    assert new != old
    assert fake_doors(tmp_path) == new


def test_doors_that_cannot_be_made_are_not_published(
    tmp_path: Path, server: ScriptedServer
) -> None:
    gcc = install(tmp_path / "bin" / "gcc")
    host = HostList(server)
    with agent(tmp_path, server) as process:
        host.next()
        # The list cannot be written, even if root runs the test.
        (tmp_path / "doors" / "list.new").mkdir()
        gcc.write_text("compiler 2")
        assert host.next() == set()
        assert process.stderr is not None
        assert "cannot change doors to compilers" in process.stderr.readline()
        (tmp_path / "doors" / "list.new").rmdir()
        assert len(host.next()) == 1


@pytest.fixture
def desk(tmp_path: Path, server: ScriptedServer) -> Iterator[Desk]:
    """A host with a fake distccd and a fake gethost; afterwards nothing of it may be left."""
    made = Desk(tmp_path, server.name)
    made.use_fake_distccd()
    fake_gethost(tmp_path / "programs")
    install(tmp_path / "bin" / "gcc", "compiler 12")
    install(tmp_path / "bin" / "clang", "compiler 14")
    yield made
    made.disable("--grace", 0)
    assert made.clean


def folder_of(desk: Desk) -> Path:
    """Return the folder with the doors of an enabled host."""
    return Path((desk.run_dir / desk.name / "doors-folder").read_text())


def test_enable_host_says_what_it_found(desk: Desk, tmp_path: Path, server: ScriptedServer) -> None:
    done = desk.enable("--slots", 2, "--compiler-dir", tmp_path / "bin")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "desk1 is available with 2 slots, power index 1\nit offers clang 14, gcc 12 (fake-linux)\n"
    )
    folder = folder_of(desk)
    environment = Path(f"/proc/{desk.pid('distccd')}/environ").read_text().split("\0")
    assert f"DISTCC_CMDLIST={folder}/list" in environment
    assert HostList(server).next() == {
        name for name in list_in(folder) if (folder / "links" / name).is_symlink()
    }
    desk.disable()
    assert not folder.exists()


def test_only_named_compilers_are_offered(
    desk: Desk, tmp_path: Path, server: ScriptedServer
) -> None:
    done = desk.enable("--compiler", "gcc", "--compiler-dir", tmp_path / "bin")
    assert done.stdout.endswith("it offers gcc 12 (fake-linux)\n")
    (door,) = HostList(server).next()
    assert door.startswith("gcc-")


def test_the_owners_own_list_for_distccd_stays_in_force(desk: Desk, server: ScriptedServer) -> None:
    desk.environment["DISTCC_CMDLIST"] = "/etc/my-list"
    done = desk.enable("--slots", 2)
    assert done.stdout == "desk1 is available with 2 slots, power index 1\n"
    environment = Path(f"/proc/{desk.pid('distccd')}/environ").read_text().split("\0")
    assert "DISTCC_CMDLIST=/etc/my-list" in environment
    assert "compiler_ids" not in server.receives("load").words


@pytest.mark.parametrize("dead", ["distccd", "loadavg"])
def test_a_repaired_host_has_new_doors(desk: Desk, tmp_path: Path, dead: str) -> None:
    desk.enable("--compiler-dir", tmp_path / "bin")
    before = folder_of(desk)
    for pid in desk.tree(dead).read():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not desk.runs(dead))
    assert desk.enable("--compiler-dir", tmp_path / "bin").stdout.startswith("repaired: ")
    after = folder_of(desk)
    assert after == before or not before.exists()
    assert list_in(after)
