"""gethost without a lease: it is refused one, or the server makes no sense or is away.

tests/test_gethost_lease.py says how these tests talk with gethost.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from pathlib import Path

import pytest
from gethost_program import (
    LEASE,
    LOCAL,
    PATIENCE_S,
    SHOW_HOSTS,
    Gethost,
    Server,
    leased,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# ---- no lease ------------------------------------------------------------------------------------


def test_refused_is_local_and_one_message(gethost: Gethost, server: Server) -> None:
    messages = ""
    for _ in range(3):
        process = gethost.start("sh", "-c", f"{SHOW_HOSTS}; exit 3")
        server.accept().send("refused reason=no%20host%20of%20type%20x%1b[31m")
        output, errors = process.communicate(timeout=PATIENCE_S)
        assert output.startswith(LOCAL)
        assert process.returncode == 3
        messages += errors
    assert messages.count("\n") == 1
    assert "no host of type x?[31m" in messages


def test_refused_after_wait_is_no_news(gethost: Gethost, server: Server) -> None:
    process = gethost.start("--wait", "0", "sh", "-c", SHOW_HOSTS)
    connection = server.accept()
    assert connection.receive("request")["wait_s"] == "0"
    connection.send("refused reason=busy")
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert output.startswith(LOCAL)
    assert errors == ""


@pytest.mark.slow
def test_wait_holds_even_when_the_server_forgets_it(gethost: Gethost, server: Server) -> None:
    process = gethost.start("--wait", "0", "sh", "-c", SHOW_HOSTS)
    server.accept().send("wait ahead=1")
    assert process.communicate(timeout=PATIENCE_S)[0].startswith(LOCAL)


def test_the_local_environment_lets_distcc_fall_back(gethost: Gethost, server: Server) -> None:
    process = gethost.start("sh", "-c", "env | grep ^DISTCC_ | cut -d= -f1 | sort")
    server.accept().send("refused reason=x")
    assert process.communicate(timeout=PATIENCE_S)[0].split() == [
        "DISTCC_DIR",
        "DISTCC_HOSTS",
        "DISTCC_PAUSE_TIME_MSEC",
    ]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\n",
        b"hello\n",
        b"\x00\n",
        b"\xff\xfe\x00\x01",
        b"lease\n",
        b"x" * 9000,
        b"wait ahead=" + b"1" * 8190 + b"\n",
        b"lease id=1 host=desk1 address=192.0.2.7 port=4001 slots=3",
        b"lease  id=1 host=desk1 address=192.0.2.7 port=4001 slots=3\n",
        b"lease id=1 host=desk1 host=desk1 address=192.0.2.7 port=4001 slots=3\n",
        b"lease id=1 host=desk1 address=192.0.2.7 port=0 slots=3\n",
        b"lease id=1 host=desk1 address=192.0.2.7 port=65536 slots=3\n",
        b"lease id=1 host=desk1 address=192.0.2.7 port=4001 slots=0\n",
        b"lease id=1 host=desk1 address=192.0.2.7 port=4001 slots=4097\n",
        b"lease id=1 host=desk1 address=192.0.2.7 port=4001 slots=-1\n",
        b"lease id=1 host=desk1 address=192.0.2.7 port=4001\n",
        b"lease id=1 host=desk1 port=4001 slots=3\n",
        b"lease id=1 host=desk1 address=localhost port=4001 slots=3\n",
        b"lease id=1 host=desk1 address=--randomize port=4001 slots=3\n",
        b"lease id=1 host=desk1 address=@192.0.2.7 port=4001 slots=3\n",
        b"lease id=1 host=desk1 address=192.0.2.7%20evil port=4001 slots=3\n",
        b"lease id=1 host=desk1 address=192.0.2.7,lzo port=4001 slots=3\n",
        b"lease id=1 host=a,b address=192.0.2.7 port=4001 slots=3\n",
        b"lease id=1 host=desk1 address=192.0.2.7%00 port=4001 slots=3\n",
        b"lease id=1 host=desk1 address=192.0.2.7%zz port=4001 slots=3\n",
        b"lease " + b" ".join(b"k%d=" % n for n in range(65)) + b"\n",
        b"jobs count=4\n",
        b"revoked reason=x\n",
    ],
)
def test_an_answer_without_sense_is_no_server(
    gethost: Gethost, server: Server, answer: bytes
) -> None:
    process = gethost.start("sh", "-c", f"{SHOW_HOSTS}; exit 5")
    connection = server.accept()
    connection.send_bytes(answer)
    connection.end()
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 5
    assert output.startswith(LOCAL)
    assert re.fullmatch(r"gethost: compiling here: no host-server at [ -~]*\n", errors)


@pytest.mark.parametrize("nonsense", ["127.0.0.1:x", "127.0.0.1:99999", "[::1", ":1", "no.invalid"])
def test_a_server_that_cannot_be_asked(gethost: Gethost, server: Server, nonsense: str) -> None:
    result = gethost.run("--server", nonsense, "sh", "-c", f"{SHOW_HOSTS}; exit 5")
    assert result.returncode == 5
    assert result.stdout.startswith(LOCAL)
    assert result.stderr.count("\n") == 1
    # One of them in a list does not spoil the others.
    process = gethost.start("--server", f"{nonsense},{server.name}", "sh", "-c", SHOW_HOSTS)
    server.accept().send(LEASE)
    assert process.communicate(timeout=PATIENCE_S)[0].startswith("192.0.2.7")


def test_servers_are_tried_in_order(gethost: Gethost, server: Server) -> None:
    with Server() as silent, Server() as closing, Server() as never:
        names = f"{silent.name},{closing.name},,{server.name},{never.name}"
        process = gethost.start("--server", names, "sh", "-c", SHOW_HOSTS)
        closing.accept().end()
        server.accept().send(LEASE)
        assert process.communicate(timeout=PATIENCE_S)[0].startswith("192.0.2.7")
        assert never.nobody_came()


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from([LEASE.encode() + b"\n", b"wait ahead=1\n", b"lease ", b"\n", b" "]),
            st.from_regex(r"(id|host|address|port|slots|reason)=[ -~]{0,20} ?", fullmatch=True).map(
                str.encode
            ),
        ),
        max_size=12,
    )
)
def test_no_bytes_from_a_server_do_harm(
    gethost: Gethost, server: Server, pieces: list[bytes]
) -> None:
    gethost.forget()
    process = gethost.start("sh", "-c", f"{SHOW_HOSTS}; exit 5")
    connection = server.accept()
    with contextlib.suppress(OSError):  # it may have given up already
        for piece in pieces:
            connection.send_bytes(piece)
    connection.end()
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 5
    assert re.fullmatch(r"(localhost|192\.0\.2\.7:4001)/\d+( --localslots(_cpp)?=\d+){2}\n", output)
    assert re.fullmatch(r"(gethost: [ -~]*\n)?", errors)


# ---- the server is away --------------------------------------------------------------------------


def away_marker(gethost: Gethost) -> Path:
    (marker,) = gethost.away_markers()
    return marker


def make_older(path: Path, age_s: float) -> None:
    os.utime(path, (time.time() - age_s,) * 2)


def test_an_absence_is_remembered_and_told_once(gethost: Gethost, server: Server) -> None:
    process = gethost.start("true")
    server.accept().end()
    assert "no host-server at" in process.communicate(timeout=PATIENCE_S)[1]

    for _ in range(3):
        assert gethost.run("true").stderr == ""
    assert server.nobody_came()

    # Stale: one asks again, and the absence goes on.
    make_older(away_marker(gethost), 11)
    process = gethost.start("true")
    connection = server.accept()
    assert gethost.run("true").stderr == ""  # meanwhile the others do not ask
    assert server.nobody_came()
    connection.end()
    assert process.communicate(timeout=PATIENCE_S)[1] == ""

    # Another server's absence is another one.
    with Server() as second:
        other = gethost.start("--server", f"{server.name},{second.name}", "true")
        second.accept().send(LEASE)
        assert other.wait(PATIENCE_S) == 0
    assert server.nobody_came()


def test_success_ends_the_absence(gethost: Gethost, server: Server) -> None:
    for _ in range(2):
        process = gethost.start("true")
        server.accept().end()
        assert "no host-server at" in process.communicate(timeout=PATIENCE_S)[1]
        make_older(away_marker(gethost), 11)
        leased(gethost, server, "true")
        assert not list((gethost.directory / "runtime" / "compilefarm").iterdir())


@pytest.mark.parametrize("age_s", [1000, -1000])
def test_an_old_absence_is_told_again(gethost: Gethost, server: Server, age_s: float) -> None:
    for _ in range(2):
        process = gethost.start("true")
        server.accept().end()
        assert "no host-server at" in process.communicate(timeout=PATIENCE_S)[1]
        make_older(away_marker(gethost), age_s)


def test_an_absence_is_remembered_by_a_clock_that_is_a_moment_behind(
    gethost: Gethost, server: Server
) -> None:
    """As time() is behind a file's time at the end of each second, on Linux by a tick."""
    process = gethost.start("true")
    server.accept().end()
    assert "no host-server at" in process.communicate(timeout=PATIENCE_S)[1]
    make_older(away_marker(gethost), -2)
    assert gethost.run("true").stderr == ""
    assert server.nobody_came()


def test_verbose_says_where_and_why(gethost: Gethost, server: Server) -> None:
    assert "it does not compile" in gethost.run("--verbose", "distcc", "sh", "x.o").stderr
    process = gethost.start("--verbose", "true")
    server.accept().send(LEASE)
    assert "lease 7: desk1 (192.0.2.7 port 4001" in process.communicate(timeout=PATIENCE_S)[1]
    process = gethost.start("--verbose", "true")
    server.accept().end()
    assert "runs here: the server closed" in process.communicate(timeout=PATIENCE_S)[1]
    assert "away a moment ago" in gethost.run("--verbose", "true").stderr


def test_a_place_that_is_not_private_is_not_used(gethost: Gethost, server: Server) -> None:
    runtime = gethost.directory / "runtime" / "compilefarm"
    runtime.mkdir(mode=0o700)
    runtime.chmod(0o777)  # any user could put markers here
    process = gethost.start("true")
    server.accept().end()
    assert process.wait(PATIENCE_S) == 0
    assert not list(runtime.iterdir())
    assert list((gethost.directory / "distcc-dir" / "compilefarm").iterdir())


def test_a_symbolic_link_is_not_followed(gethost: Gethost, server: Server) -> None:
    target = gethost.directory / "target"
    target.mkdir()
    (gethost.directory / "runtime" / "compilefarm").symlink_to(target)
    process = gethost.start("true")
    server.accept().end()
    assert process.wait(PATIENCE_S) == 0
    assert not list(target.iterdir())


def test_a_marker_that_cannot_be_written_is_no_error(gethost: Gethost, server: Server) -> None:
    marker = gethost.directory / "runtime" / "compilefarm"
    process = gethost.start("true")
    server.accept().end()
    assert process.wait(PATIENCE_S) == 0
    name = away_marker(gethost).name
    shutil.rmtree(marker)
    (marker / name).mkdir(parents=True)  # in the marker's place, and older than any absence
    marker.chmod(0o700)
    make_older(marker / name, 1000)
    process = gethost.start("sh", "-c", "exit 5")
    server.accept().end()
    assert process.wait(PATIENCE_S) == 5


def test_ccache_does_not_store_what_is_true_only_now(gethost: Gethost, server: Server) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as uncached:
        process = gethost.start("true", UNCACHED_ERR_FD=str(write_end), pass_fds=[write_end])
        os.close(write_end)
        server.accept().end()
        assert process.communicate(timeout=PATIENCE_S)[1] == ""
        assert "no host-server at" in uncached.read()


def test_the_marker_directory_is_private(gethost: Gethost, server: Server) -> None:
    process = gethost.start("true")
    server.accept().end()
    assert process.wait(PATIENCE_S) == 0
    directory = gethost.directory / "runtime" / "compilefarm"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
