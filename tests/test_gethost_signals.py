"""gethost and signals, and what else its child inherits.

tests/test_gethost_lease.py says how these tests talk with gethost.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from gethost_program import (
    LEASE,
    PATIENCE_S,
    SHOW_HOSTS,
    Gethost,
    Server,
    leased,
)

# ---- signals -------------------------------------------------------------------------------------

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_the_child_the_lease_and_gethost(
    gethost: Gethost, server: Server, number: signal.Signals
) -> None:
    name = number.name.removeprefix("SIG")
    process = gethost.start(
        "sh", "-c", f'trap "echo got {name}; exit 0" {name}; echo go; while :; do sleep 0.01; done'
    )
    connection = server.accept()
    connection.receive("request")
    connection.send(LEASE)
    assert gethost.first_line(process) == "go\n"
    process.send_signal(number)
    assert connection.at_end()
    assert process.communicate(timeout=PATIENCE_S)[0] == f"got {name}\n"
    assert process.returncode == -number


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_while_waiting_for_a_lease(
    gethost: Gethost, server: Server, number: signal.Signals
) -> None:
    process = gethost.start("true")
    connection = server.accept()
    connection.receive("request")
    connection.send("wait ahead=3")
    process.send_signal(number)
    assert connection.at_end()
    assert process.wait(PATIENCE_S) == -number


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGINT])
def test_a_child_that_a_signal_ends(
    gethost: Gethost, server: Server, number: signal.Signals
) -> None:
    process = gethost.start("sh", "-c", f"ulimit -c 0; kill -{int(number)} $$")
    connection = server.accept()
    connection.receive("request")
    connection.send(LEASE)
    assert connection.at_end()  # neither done nor failed
    assert process.wait(PATIENCE_S) == -number


@pytest.mark.slow
def test_a_child_that_ignores_the_signal_is_killed(gethost: Gethost, server: Server) -> None:
    process = gethost.start("sh", "-c", 'trap "" TERM; echo go; while :; do sleep 1; done')
    server.accept().send(LEASE)
    assert gethost.first_line(process) == "go\n"
    process.terminate()
    assert process.wait(PATIENCE_S) == -signal.SIGTERM


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux can do this")
def test_no_child_outlives_a_killed_gethost(gethost: Gethost, server: Server) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as held_by_child:
        process = gethost.start("sleep", "60", pass_fds=[write_end])
        connection = server.accept()
        connection.send(LEASE)
        os.close(write_end)
        gethost.wait_for_child(process, "sleep")
        process.kill()
        assert held_by_child.read() == ""  # the end comes when the last holder is gone
        assert process.wait(PATIENCE_S) == -signal.SIGKILL


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_the_child_gets_the_signals_that_gethost_got(gethost: Gethost, server: Server) -> None:
    show = ("grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status")

    def as_nohup_would() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGCHLD])

    plain = subprocess.run(
        show, capture_output=True, text=True, preexec_fn=as_nohup_would, check=True
    )
    process = gethost.start(*show, preexec_fn=as_nohup_would)
    connection = server.accept()
    connection.receive("request")
    connection.send(LEASE)
    assert connection.receive("done")["exit"] == "0"
    assert process.communicate(timeout=PATIENCE_S)[0] == plain.stdout


def test_an_ignored_signal_stays_ignored(gethost: Gethost, server: Server) -> None:
    process = gethost.start(
        "sh",
        "-c",
        "echo go; read answer; exit 3",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    server.accept().send(LEASE)
    assert gethost.first_line(process) == "go\n"
    process.send_signal(signal.SIGHUP)
    gethost.type_line(process, "end")
    assert process.wait(PATIENCE_S) == 3


# ---- what the child inherits ---------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
@pytest.mark.parametrize("name", ["other", "distcc"])
def test_the_child_gets_every_descriptor_but_gethosts_own(
    gethost: Gethost, server: Server, name: str
) -> None:
    gethost.program(name, "cd /proc/self/fd; for fd in *; do readlink $fd; done")
    jobserver, other_end = os.pipe()
    jobserver_link = Path(f"/proc/self/fd/{jobserver}").readlink()
    process = gethost.start(name, "cc", "-c", "main.c", pass_fds=[jobserver])
    server.accept().send(LEASE)
    links = process.communicate(timeout=PATIENCE_S)[0].split()
    os.close(jobserver)
    os.close(other_end)
    assert str(jobserver_link) in links
    assert not [link for link in links if link.startswith("socket:")]


def test_closed_standard_descriptors_stay_closed(gethost: Gethost, server: Server) -> None:
    status = gethost.directory / "status"
    script = f'test -e /dev/fd/0 -o -e /dev/fd/2 && echo open > "{status}"; echo ok >> "{status}"'
    process = gethost.start("sh", "-c", script, preexec_fn=lambda: os.closerange(0, 3))
    connection = server.accept()
    connection.receive("request")
    connection.send(LEASE)
    connection.receive("done")
    assert process.wait(PATIENCE_S) == 0
    assert "ok" in status.read_text()


def test_the_streams_of_another_command_are_untouched(gethost: Gethost, server: Server) -> None:
    process = gethost.start("sh", "-c", "cat; echo to-stderr >&2")
    server.accept().send(LEASE)
    output, errors = process.communicate("from stdin", timeout=PATIENCE_S)
    assert (output, errors) == ("from stdin", "to-stderr\n")


def test_gethost_inside_gethost_takes_no_second_lease(gethost: Gethost, server: Server) -> None:
    program = str(gethost.path)
    _, output = leased(gethost, server, program, program, "sh", "-c", SHOW_HOSTS)
    assert output.startswith("192.0.2.7:4001/3 ")
    assert server.nobody_came()


def test_gethost_under_distcc_takes_no_lease(gethost: Gethost, server: Server) -> None:
    result = gethost.run("sh", "-c", SHOW_HOSTS, _DISTCC_SAFEGUARD="1", DISTCC_HOSTS="mine")
    assert result.stdout == "mine\n"
    assert server.nobody_came()
