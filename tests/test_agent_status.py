"""addhost and remhost as a user meets them, and how they find host-server."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys

import pytest
from compile_host import ScriptedServer, free_ports, program_environment, run
from hypothesis import given
from hypothesis import strategies as st

from compilefarm.programs.connection import is_this_machine, servers
from compilefarm.programs.cpus import available_cpus
from compilefarm.programs.options import ending_signals
from compilefarm.protocol.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("desk1", Address("desk1", 3632)),
        ("desk1:4000", Address("desk1", 4000)),
        (" 10.0.0.1:1 ", Address("10.0.0.1", 1)),
        ("[::1]", Address("::1", 3632)),
        ("[::1]:4000", Address("::1", 4000)),
        ("fd00::12:3", Address("fd00::12:3", 3632)),
        ("bücher.example", Address("xn--bcher-kva.example", 3632)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text, 3632) == address
    assert parse_address(str(address), 1) == address


@pytest.mark.parametrize(
    "text", ["", ":", ":80", "a:", "a:0", "a:65536", "a:x", "a:²", "a b", "../x", "a\n:1", "[]:1"]
)
def test_what_is_no_address_is_refused_with_a_reason(text: str) -> None:
    reasons = r"is not a host|neither a host name nor an address|no port from 1"
    with pytest.raises(ValueError, match=reasons):
        parse_address(text, 3632)


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = parse_address(text, 3632)
    except ValueError:
        return
    assert "/" not in address.host
    assert parse_address(str(address), 1) == address


def test_the_option_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SERVER", "one,two:2000,")
    assert servers(None) == [Address("one", 9714), Address("two", 2000)]
    assert servers("[::1]:3") == [Address("::1", 3)]
    monkeypatch.delenv("HOST_SERVER")
    with pytest.raises(ValueError, match="set HOST_SERVER=HOST or use --server HOST"):
        servers(None)


def test_this_machine_is_known_by_name_and_address() -> None:
    assert is_this_machine(socket.gethostname())
    assert is_this_machine("127.0.0.1")
    assert not is_this_machine("192.0.2.1")
    assert not is_this_machine("no-such-host.invalid")


def test_addhost_says_what_the_server_made_of_it() -> None:
    with ScriptedServer() as server:
        words = [
            "--slots",
            "3",
            "--power-index",
            "2.5",
            "--type",
            "a/b",
            "--type",
            "c",
            "--compiler",
            "gcc-12",
        ]
        done = run("addhost", "--server", server.name, "desk7:4000", *words)
        message = server.told("add")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "desk1 is available with 2 slots, power index 1\n"
    assert message.integer("offset", 0) == 2
    assert (message.text("host"), message.text("port")) == ("desk7", "4000")
    assert (message.text("slots"), message.text("power_index")) == ("3", "2.5")
    assert message.items("types") == {"a/b", "c"}
    assert message.items("compilers") == {"gcc-12"}


def test_addhost_counts_the_cpus_of_this_machine_only() -> None:
    with ScriptedServer() as server:
        run("addhost", "--server", server.name)
        message = server.told("add")
        assert message.text("host") == socket.gethostname()
        assert message.integer("slots", 0) == available_cpus()
        run("addhost", "--server", server.name, "192.0.2.1")
        assert "slots" not in server.told("add").words


def test_an_emulated_host_speaks_for_itself() -> None:
    with ScriptedServer() as server:
        run("addhost", "--server", server.name, "127.0.0.3:4000")
        assert server.told("add").text("peer") == "127.0.0.3"


def test_remhost_says_whether_the_host_was_there() -> None:
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
    nobody = f"127.0.0.1:{free_ports(4)}"
    with ScriptedServer() as first, ScriptedServer() as second:
        names = f"{first.name},{nobody},{second.name}"
        for program, verb in (("addhost", "add"), ("remhost", "remove")):
            done = run(program, "--server", names, "desk7")
            assert (done.returncode, done.stdout.count("\n")) == (0, 1)
            assert re.fullmatch(rf"{program}: desk7:3632 was not .* everywhere: .*\n", done.stderr)
            first.told(verb)
            second.told(verb)
        second.answers["add"] = [b"error reason=not%20your%20host\n"]
        assert run("addhost", "--server", names, "desk7").returncode == 1
    done = run("addhost", "--server", f"{nobody},{first.name}", "desk7")
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
def test_a_mistake_is_one_line(arguments: list[str]) -> None:
    done = run("addhost", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("addhost: ")
    assert done.stderr.count("\n") == 1


def test_a_short_program_imports_little() -> None:
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


def test_a_program_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert ending_signals() == [signal.SIGTERM, signal.SIGINT]
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.SIGHUP in ending_signals()
