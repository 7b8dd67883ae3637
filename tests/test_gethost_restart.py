"""gethost and a host-server that goes away: a lease is attached, a request made again.

As in tests/test_gethost_lease.py, the test is the server, and says line by line what a server
would. tests/test_end_to_end_restart.py has the real one.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time

import pytest
from gethost_program import PATIENCE_S, Connection, Gethost, Server
from run_program import eventually

pytestmark = pytest.mark.slow  # a gethost that lost its server takes its time

LEASE = "lease id=5e1f90c2-7 host=desk1:4001 address=192.0.2.7 port=4001 slots=3"
SHOW_HOSTS = 'echo "$DISTCC_HOSTS"'
# It compiles until a line comes.
COMPILE = ("--", "distcc", "cc", "-c", "main.c")


@pytest.fixture
def gethost(gethost: Gethost) -> Gethost:
    gethost.program("distcc", "echo runs; read end; exit ${end:-9}")
    return gethost


def leased(gethost: Gethost, server: Server, *options: str) -> subprocess.Popen[str]:
    """Start a compile, and lose its connection once it runs."""
    process = gethost.start(*options, *COMPILE)
    connection = server.accept()
    connection.receive("request")
    connection.send(LEASE)
    assert gethost.first_line(process) == "runs\n"
    connection.end()
    return process


def attached(server: Server, name: str = "9a9a9a9a-1") -> Connection:
    connection = server.accept()
    connection.receive("attach")
    connection.send(f"attached id={name}")
    return connection


def ends(gethost: Gethost, process: subprocess.Popen[str], status: int = 0) -> None:
    gethost.type_line(process, str(status))
    assert process.wait(PATIENCE_S) == status


# ---- a lease -------------------------------------------------------------------------------------


def test_a_lease_is_attached_with_all_that_it_was_given_for(
    gethost: Gethost, server: Server
) -> None:
    gethost.environment["USER"] = "ada"
    process = leased(gethost, server, "--type", "arm", "--wait", "60")
    connection = server.accept()
    words = connection.receive("attach")
    assert float(words.pop("running_s")) >= 0
    for key in ("id", "name", "version", "target", "text"):
        assert words.pop(f"compiler_{key}")
    assert words == {
        "id": "5e1f90c2-7",
        "host": "desk1:4001",
        "port": "4001",
        "user": "ada",
        "builder": socket.gethostname(),
        "cpus": words["cpus"],
        "type": "arm",
        "source": "main.c",
        "compiler": "cc",
        "dir": str(gethost.directory),
    }
    connection.send("attached id=9a9a9a9a-1")
    ends(gethost, process, 3)
    done = connection.receive("done")
    assert done["exit"] == "3"
    assert connection.at_end()
    assert process.communicate(timeout=PATIENCE_S)[1] == ""


def test_a_lease_is_attached_as_often_as_need_be(gethost: Gethost, server: Server) -> None:
    process = leased(gethost, server)
    attached(server).end()
    connection = server.accept()
    assert connection.receive("attach")["id"] == "9a9a9a9a-1"
    connection.end()  # before it answers
    connection = attached(server)
    ends(gethost, process)
    connection.receive("done")


def test_its_time_is_counted_from_its_beginning(gethost: Gethost, server: Server) -> None:
    began_s = time.monotonic()
    process = leased(gethost, server)
    attached(server).end()
    connection = server.accept()
    running_s = float(connection.receive("attach")["running_s"])
    connection.send("attached id=9a9a9a9a-2")
    ends(gethost, process)
    assert running_s <= float(connection.receive("done")["wall_s"]) + 0.1
    assert running_s <= time.monotonic() - began_s


def test_a_compile_that_ends_while_it_is_attached_says_so(gethost: Gethost, server: Server) -> None:
    process = leased(gethost, server)
    connection = server.accept()
    connection.receive("attach")
    ends(gethost, process)
    assert connection.receive("done")["exit"] == "0"


@pytest.mark.parametrize("answer", ["error reason=attach%20makes%20no%20sense", "refused", "\0"])
def test_a_server_that_does_not_take_the_lease_is_left_alone(
    gethost: Gethost, server: Server, answer: str
) -> None:
    process = leased(gethost, server)
    connection = server.accept()
    connection.receive("attach")
    connection.send(answer)
    assert connection.at_end()
    ends(gethost, process, 4)
    assert server.nobody_came()
    assert process.communicate(timeout=PATIENCE_S)[1] == ""


def test_a_lease_may_be_revoked_instead_of_attached(gethost: Gethost, server: Server) -> None:
    process = leased(gethost, server)
    connection = server.accept()
    connection.receive("attach")
    connection.send("revoked reason=desk1%20is%20lost")
    connection.end()
    again = server.accept()
    assert again.receive("request")["avoid"] == "desk1:4001"
    again.send(LEASE.replace("desk1", "desk2"))
    assert gethost.first_line(process) == "runs\n"
    ends(gethost, process)
    assert again.receive("done")["exit"] == "0"
    assert server.nobody_came(), "a lease that was revoked is not attached"


def test_a_server_that_is_away_costs_the_compile_nothing(gethost: Gethost, server: Server) -> None:
    process = leased(gethost, server)
    server.go_away()
    ends(gethost, process, 1)
    assert process.communicate(timeout=PATIENCE_S)[1] == ""


def test_a_server_that_comes_back_is_found(gethost: Gethost, server: Server) -> None:
    process = leased(gethost, server, "--verbose")
    server.go_away()
    time.sleep(1)  # any time: it is tried for as long as the compile runs
    with Server(server.port) as again:
        connection = attached(again)
        ends(gethost, process)
        connection.receive("done")
    assert (
        f" on desk1:4001: attached to host-server {server.name}\n"
        in (process.communicate(timeout=PATIENCE_S)[1])
    )


def test_another_server_of_the_list_may_take_the_lease(gethost: Gethost, server: Server) -> None:
    with Server() as second:
        gethost.environment["HOST_SERVER"] = f"{server.name},x:y,,localhost:{second.port}"
        process = leased(gethost, server)
        server.go_away()
        attached(second).end()
        connection = attached(second)  # it is tried first now
        ends(gethost, process)
        connection.receive("done")


def test_attaching_makes_others_ask_again(gethost: Gethost, server: Server) -> None:
    """One that began while the server was away made the others leave it alone for ten seconds."""
    gethost.program("true", "exit 0")
    process = leased(gethost, server)
    server.go_away()
    assert "no host-server at" in gethost.run("true").stderr
    with Server(server.port) as again:
        connection = attached(again)
        eventually(lambda: not gethost.away_markers())
        other = gethost.start("true")
        again.accept().send(LEASE)
        assert other.wait(PATIENCE_S) == 0
        ends(gethost, process)
        connection.receive("done")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_its_lease_is_lost(
    gethost: Gethost, server: Server, number: int
) -> None:
    process = leased(gethost, server)
    server.go_away()
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == -number


# ---- a request -----------------------------------------------------------------------------------


def waiting(gethost: Gethost, server: Server) -> subprocess.Popen[str]:
    """Start a command, have it wait, and lose its connection."""
    process = gethost.start("sh", "-c", SHOW_HOSTS)
    connection = server.accept()
    assert "returning" not in connection.receive("request")
    connection.send("wait ahead=3")
    connection.end()
    return process


def test_who_waits_asks_again(gethost: Gethost, server: Server) -> None:
    process = waiting(gethost, server)
    for _ in range(2):
        connection = server.accept()
        assert connection.receive("request")["returning"] == "yes"
        connection.send("wait ahead=1")
        connection.end()
    server.accept().send(LEASE)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert (output[:14], errors) == ("192.0.2.7:4001", "")


def test_who_waits_asks_the_next_server(gethost: Gethost, server: Server) -> None:
    with Server() as second:
        gethost.environment["HOST_SERVER"] = f"{server.name},{second.name}"
        process = waiting(gethost, server)
        second.accept().send(LEASE)
        assert process.communicate(timeout=PATIENCE_S)[0].startswith("192.0.2.7")


def test_who_waits_survives_a_restart(gethost: Gethost, server: Server) -> None:
    process = waiting(gethost, server)
    server.go_away()
    time.sleep(1)  # any time below the five seconds for which it asks again
    with Server(server.port) as again:
        again.accept().send(LEASE)
        output, errors = process.communicate(timeout=PATIENCE_S)
        assert (output[:14], errors) == ("192.0.2.7:4001", "")


@pytest.mark.slow
def test_who_waits_compiles_here_in_the_end(gethost: Gethost, server: Server) -> None:
    process = waiting(gethost, server)
    server.go_away()
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert output.startswith("localhost/")
    assert re.fullmatch(r"gethost: compiling here: no host-server at [ -~]*\n", errors)


# ---- several servers -----------------------------------------------------------------------------


def test_the_second_is_used_while_the_first_is_away_and_then_the_first(
    gethost: Gethost, server: Server
) -> None:
    gethost.program("true", "exit 0")
    with Server() as second:
        gethost.environment["HOST_SERVER"] = f"{server.name},{second.name}"
        for number in range(3):
            process = gethost.start("true")
            if number == 0:
                server.accept().end()
            second.accept().send(LEASE)
            assert process.communicate(timeout=PATIENCE_S)[1] == ""
        assert server.nobody_came(), "the others know that it is away"

        [marker] = gethost.away_markers()
        os.utime(marker, (time.time() - 11,) * 2)
        for _ in range(2):
            process = gethost.start("true")
            server.accept().send(LEASE)
            assert process.communicate(timeout=PATIENCE_S)[1] == ""
        assert second.nobody_came()


def test_when_all_are_away_that_is_told_once(gethost: Gethost, server: Server) -> None:
    gethost.program("true", "exit 0")
    with Server() as second:
        gethost.environment["HOST_SERVER"] = f"{server.name},{second.name}"
        process = gethost.start("true")
        server.accept().end()
        second.accept().end()
        assert process.communicate(timeout=PATIENCE_S)[1].count("\n") == 1
        assert gethost.run("true").stderr == ""
        verbose = gethost.run("--verbose", "true").stderr
        assert "runs here: host-server was away a moment ago" in verbose
        assert server.nobody_came()
        assert second.nobody_came()
