"""addhost and remhost as a user runs them."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

import pytest
from run_program import free_ports, program_environment, run
from scripted_server import ScriptedServer

from compilefarm.programs.cpus import available_cpus


def test_addhost_prints_what_the_server_answers() -> None:
    with ScriptedServer() as server:
        words = ["--slots", "3", "--power-index", "2.5", "--type", "a/b", "--type", "c"]
        words += ["--compiler", "gcc-12"]
        done = run("addhost", "--server", server.name, "desk7:4000", *words)
        message = server.receives("add")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "desk1 is available with 2 slots, power index 1\n"
    assert message.integer("offset", 0) == 2
    assert (message.text("host"), message.text("port")) == ("desk7", "4000")
    assert (message.text("slots"), message.text("power_index")) == ("3", "2.5")
    assert message.items("types") == {"a/b", "c"}
    assert message.items("compilers") == {"gcc-12"}


def test_addhost_counts_cpus_only_of_this_machine() -> None:
    with ScriptedServer() as server:
        run("addhost", "--server", server.name)
        message = server.receives("add")
        assert message.text("host") == socket.gethostname()
        assert message.integer("slots", 0) == available_cpus()
        run("addhost", "--server", server.name, "192.0.2.1")
        assert "slots" not in server.receives("add").words


def test_a_loopback_host_speaks_from_its_own_address() -> None:
    with ScriptedServer() as server:
        run("addhost", "--server", server.name, "127.0.0.3:4000")
        assert server.receives("add").text("peer") == "127.0.0.3"


def test_remhost_says_whether_the_host_was_available() -> None:
    with ScriptedServer() as server:
        done = run("remhost", "--server", server.name, "desk7")
        assert (done.returncode, done.stdout) == (0, "desk7:3632 is no longer available\n")
        server.answers["remove"] = [b"ok known=no\n"]
        done = run("remhost", "--server", server.name, "desk7")
        assert (done.returncode, done.stdout) == (0, "desk7:3632 was not available\n")


@pytest.mark.parametrize("program", ["addhost", "remhost"])
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"error reason=not%20your%20host\n", "not your host"),
        (b"\xff\x00garbage\n", "is not a host-server"),
        (b"x" * 9000, "is not a host-server"),
    ],
)
def test_a_refusal_is_one_line(program: str, answer: bytes, words: str) -> None:
    with ScriptedServer({"add": [answer], "remove": [answer]}) as server:
        done = run(program, "--server", server.name, "desk7")
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.startswith(f"{program}: desk7:3632 was not ")
    assert done.stderr.count("\n") == 1


def test_every_server_is_told() -> None:
    silent = f"127.0.0.1:{free_ports(4)}"
    with ScriptedServer() as first, ScriptedServer() as second:
        names = f"{first.name},{silent},{second.name}"
        for program, verb in (("addhost", "add"), ("remhost", "remove")):
            done = run(program, "--server", names, "desk7")
            assert (done.returncode, done.stdout.count("\n")) == (0, 1)
            assert re.fullmatch(rf"{program}: desk7:3632 was not .* everywhere: .*\n", done.stderr)
            first.receives(verb)
            second.receives(verb)
        second.answers["add"] = [b"error reason=not%20your%20host\n"]
        assert run("addhost", "--server", names, "desk7").returncode == 1
    done = run("addhost", "--server", f"{silent},{first.name}", "desk7")
    assert done.returncode == 1
    assert done.stderr.count("connection refused") == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--server", "a:b"],
        ["--server", "a:65533"],
        ["--server", "a", "--slots", "0"],
        ["--server", "a", "--slots", "many"],
        ["--server", "a", "--power-index", "nan"],
        ["--server", "a", "--power-index", "0"],
        ["--server", "a", "b/c"],
        ["--server", "a", "b", "c"],
    ],
)
def test_a_user_error_is_one_line(arguments: list[str]) -> None:
    done = run("addhost", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("addhost: ")
    assert done.stderr.count("\n") == 1


def test_addhost_imports_little() -> None:
    code = "import sys, compilefarm.client.addhost; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=program_environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"psutil", "asyncio", "compilefarm.compile_host.load.load", "subprocess"} & set(
        loaded
    )
