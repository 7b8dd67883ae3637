"""gethost and its lease, from the request to the end of the compile, or of the lease.

The test is the server: each test is both sides of one conversation. It starts gethost, accepts its
connection, and says line by line what a server would. Nothing runs beside it, so a test waits only
for the next line, with a time limit that only a broken gethost reaches. The command behind gethost
is a shell script, called `distcc` where gethost must take it for distcc.
tests/test_gethost_distcc.py has the real one.
"""

from __future__ import annotations

import socket

import pytest
from gethost_program import (
    CPUS,
    LEASE,
    PATIENCE_S,
    SHOW_HOSTS,
    Gethost,
    Server,
    leased,
)

# ---- a lease -------------------------------------------------------------------------------------


def test_a_lease_from_request_to_done(gethost: Gethost, server: Server) -> None:
    gethost.program("distcc", SHOW_HOSTS)
    process = gethost.start(
        "--type", "arm 64", "--wait", "2.5", "distcc", "cc", "-c", "a dir/50%.c", USER="ada"
    )
    connection = server.accept()
    request = connection.receive("request")
    for key in ("id", "name", "version", "target", "text"):  # tests/test_gethost_doors.py has more
        assert request.pop(f"compiler_{key}")
    assert request == {
        "user": "ada",
        "builder": socket.gethostname(),
        "cpus": str(CPUS),
        "dir": str(gethost.directory),
        "source": "a dir/50%.c",
        "compiler": "cc",
        "type": "arm 64",
        "wait_s": "2.5",
    }
    connection.send(LEASE)
    done = connection.receive("done")
    assert done["exit"] == "0"
    assert float(done["wall_s"]) >= 0
    assert float(done["cpu_s"]) >= 0
    assert connection.at_end()
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert output.startswith("192.0.2.7:4001/3 --localslots=")
    assert f"--localslots_cpp={CPUS}\n" in output
    assert errors == ""


def test_an_ipv6_host_is_in_brackets(gethost: Gethost, server: Server) -> None:
    process = gethost.start("sh", "-c", SHOW_HOSTS)
    server.accept().send("lease id=1 host=[2001:db8::7] address=2001:db8::7 port=3632 slots=1")
    assert process.communicate(timeout=PATIENCE_S)[0].startswith("[2001:db8::7]:3632/1 ")


def test_what_distcc_is_told(gethost: Gethost, server: Server) -> None:
    gethost.environment |= {"DISTCC_IO_TIMEOUT": "77", "DISTCC_FALLBACK": "1"}
    _, output = leased(gethost, server, "sh", "-c", "env | grep ^DISTCC_ | sort")
    told = dict(line.split("=", 1) for line in output.splitlines())
    assert told.pop("DISTCC_HOSTS").startswith("192.0.2.7:4001/3 ")
    assert told == {
        "DISTCC_BACKOFF_PERIOD": "1",
        "DISTCC_DIR": str(gethost.directory / "distcc-dir"),
        "DISTCC_FALLBACK": "0",
        "DISTCC_IO_TIMEOUT": "77",
        "DISTCC_LOG": "/dev/null",
        "DISTCC_PAUSE_TIME_MSEC": "20",
        "DISTCC_SKIP_LOCAL_RETRY": "1",
    }


def test_a_compile_may_take_longer_than_distcc_waits_by_itself(
    gethost: Gethost, server: Server
) -> None:
    _, output = leased(gethost, server, "sh", "-c", 'echo "$DISTCC_IO_TIMEOUT"')
    assert output == "3600\n"


def test_distccs_messages_are_for_those_who_want_them(gethost: Gethost, server: Server) -> None:
    show_log = ("sh", "-c", 'echo "$DISTCC_LOG"')
    gethost.environment["DISTCC_LOG"] = "/tmp/mine"
    assert leased(gethost, server, *show_log)[1] == "/tmp/mine\n"
    del gethost.environment["DISTCC_LOG"]
    assert leased(gethost, server, "--verbose", *show_log)[1] == "\n"


@pytest.mark.parametrize("status", [0, 1, 4, 99, 121, 126, 127, 130, 255])
def test_the_status_of_another_command_is_its_own(
    gethost: Gethost, server: Server, status: int
) -> None:
    process = gethost.start("sh", "-c", f"exit {status}")
    connection = server.accept()
    connection.send(LEASE)
    connection.receive("request")
    assert connection.receive("done")["exit"] == str(status)
    assert process.wait(PATIENCE_S) == status


def test_waiting_lasts_while_the_server_says_so(gethost: Gethost, server: Server) -> None:
    process = gethost.start("sh", "-c", SHOW_HOSTS)
    connection = server.accept()
    connection.send("wait ahead=12 new_key=1", "wait ahead=0", "wait")
    connection.send(LEASE)
    assert process.communicate(timeout=PATIENCE_S)[0].startswith("192.0.2.7")


def test_lines_may_arrive_in_any_pieces(gethost: Gethost, server: Server) -> None:
    process = gethost.start("sh", "-c", SHOW_HOSTS)
    connection = server.accept()
    for byte in f"wait ahead=1\r\n{LEASE}\r\n".encode():
        connection.send_bytes(bytes([byte]))
    assert process.communicate(timeout=PATIENCE_S)[0].startswith("192.0.2.7")


def test_a_long_directory_does_not_lose_the_request(gethost: Gethost, server: Server) -> None:
    deep = gethost.directory
    for _ in range(12):
        deep = deep / ("\N{EURO SIGN}" * 80)  # nine bytes each on the wire
    deep.mkdir(parents=True)
    gethost.directory = deep
    _, output = leased(gethost, server, "--type", "t", "sh", "-c", SHOW_HOSTS)
    assert output.startswith("192.0.2.7")


# ---- the lease ends early ------------------------------------------------------------------------


def test_revoked_ends_the_child_and_asks_anew(gethost: Gethost, server: Server) -> None:
    gethost.program("distcc", "case $DISTCC_HOSTS in 192*) echo go; exec sleep 60;; esac; exit 3")
    process = gethost.start("distcc", "cc", "-c", "main.c")
    connection = server.accept()
    connection.receive("request")
    connection.send(LEASE)
    assert gethost.first_line(process) == "go\n"
    connection.send("revoked reason=host%20lost")
    assert connection.at_end()  # nothing is said about the host
    connection = server.accept()
    assert connection.receive("request")["avoid"] == "desk1"
    connection.send("lease id=8 host=desk2 address=198.51.100.2 port=1 slots=1")
    assert connection.receive("done")["exit"] == "3"
    assert process.wait(PATIENCE_S) == 3


def test_a_host_that_is_taken_away_is_no_bad_one(gethost: Gethost, server: Server) -> None:
    """Three bad hosts are enough; but four owners who come back are none."""
    gethost.program("distcc", "case $DISTCC_HOSTS in 192*) echo go; exec sleep 60;; esac; exit 3")
    process = gethost.start("distcc", "cc", "-c", "main.c")
    for number in range(4):
        connection = server.accept()
        connection.receive("request")
        connection.send(LEASE.replace("desk1", f"desk{number}"))
        assert gethost.first_line(process) == "go\n"
        connection.send("revoked reason=its%20owner%20is%20back")
    connection = server.accept()
    assert connection.receive("request")["avoid"] == "desk0,desk1,desk2,desk3"
    connection.send("lease id=8 host=desk9 address=198.51.100.2 port=1 slots=1")
    assert connection.receive("done")["exit"] == "3"
    assert process.wait(PATIENCE_S) == 3


@pytest.mark.slow
def test_revoked_ends_even_a_stubborn_child(gethost: Gethost, server: Server) -> None:
    gethost.program(
        "distcc",
        'case $DISTCC_HOSTS in 192*) trap "" TERM; echo go; while :; do sleep 1; done;; esac',
    )
    process = gethost.start("distcc", "cc", "-c", "main.c")
    connection = server.accept()
    connection.send(LEASE)
    assert gethost.first_line(process) == "go\n"
    connection.send("revoked reason=x")
    server.accept().send("refused reason=x")
    assert process.wait(PATIENCE_S) == 0


def test_a_compile_that_ended_in_time_counts(gethost: Gethost, server: Server) -> None:
    gethost.program(
        "distcc", 'trap "echo done; exit 0" TERM; echo go; while :; do sleep 0.01; done'
    )
    process = gethost.start("distcc", "cc", "-c", "main.c")
    connection = server.accept()
    connection.send(LEASE)
    assert gethost.first_line(process) == "go\n"
    connection.send("revoked reason=x")
    assert process.wait(PATIENCE_S) == 0
    assert server.nobody_came()


@pytest.mark.parametrize("farewell", [b"", b"\xff\n", b"x" * 9000])
def test_a_lost_server_does_not_end_the_compile(
    gethost: Gethost, server: Server, farewell: bytes
) -> None:
    process = gethost.start("sh", "-c", "echo go; read answer; exit 3")
    connection = server.accept()
    connection.send(LEASE)
    assert gethost.first_line(process) == "go\n"
    connection.send_bytes(farewell)
    connection.end()
    gethost.type_line(process, "end")
    assert process.wait(PATIENCE_S) == 3
    assert server.nobody_came()


def test_after_a_lost_server_a_failure_asks_again(gethost: Gethost, server: Server) -> None:
    gethost.program(
        "distcc", "case $DISTCC_HOSTS in 192*) echo go; read x; exit 116;; esac; exit 3"
    )
    process = gethost.start("distcc", "cc", "-c", "main.c")
    connection = server.accept()
    connection.send(LEASE)
    assert gethost.first_line(process) == "go\n"
    connection.end()
    gethost.type_line(process, "end")
    connection = server.accept()
    assert connection.receive("request")["avoid"] == "desk1"
    connection.send("lease id=8 host=desk2 address=198.51.100.2 port=1 slots=1")
    assert process.wait(PATIENCE_S) == 3


def test_unknown_lines_during_a_lease_are_for_later_versions(
    gethost: Gethost, server: Server
) -> None:
    process = gethost.start("sh", "-c", "echo go; read answer; exit 3")
    connection = server.accept()
    connection.receive("request")
    connection.send(LEASE)
    assert gethost.first_line(process) == "go\n"
    connection.send("hint faster=yes", "wait ahead=0")
    gethost.type_line(process, "end")
    assert connection.receive("done")["exit"] == "3"
    assert process.wait(PATIENCE_S) == 3
