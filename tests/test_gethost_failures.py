"""gethost and hosts that fail: which failures blame the host, and what follows.

tests/test_gethost_lease.py says how these tests talk with gethost.
"""

from __future__ import annotations

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

# ---- hosts that fail -----------------------------------------------------------------------------


def test_a_failed_host_is_replaced(gethost: Gethost, server: Server) -> None:
    gethost.program(
        "distcc",
        f"echo a warning >&2; {SHOW_HOSTS}; case $DISTCC_HOSTS in 192*) exit 116;; esac",
    )
    process = gethost.start("distcc", "cc", "-c", "main.c")
    connection = server.accept()
    assert "avoid" not in connection.receive("request")
    connection.send(LEASE)
    failed = connection.receive("failed")
    assert failed["exit"] == "116"
    assert failed["reason"]
    assert connection.at_end()

    connection = server.accept()
    assert connection.receive("request")["avoid"] == "desk1"
    connection.send("lease id=8 host=desk2:4002 address=198.51.100.2 port=4002 slots=1")
    assert connection.receive("done")["exit"] == "0"
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert [line.split("/")[0] for line in output.splitlines()] == [
        "192.0.2.7:4001",
        "198.51.100.2:4002",
    ]
    assert errors == "a warning\n"  # once, though two attempts wrote it


def test_after_three_hosts_the_compile_is_local(gethost: Gethost, server: Server) -> None:
    gethost.program("distcc", f"{SHOW_HOSTS}; case $DISTCC_HOSTS in 192*) exit 103;; esac")
    process = gethost.start("distcc", "cc", "-c", "main.c")
    for avoid in ["", "host0", "host0,host1"]:
        connection = server.accept()
        assert connection.receive("request").get("avoid", "") == avoid
        number = len(avoid.split(",")) if avoid else 0
        connection.send(f"lease id=1 host=host{number} address=192.0.2.7 port=1 slots=1")
        connection.receive("failed")
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert output.splitlines()[3].startswith(LOCAL)
    assert errors == ""
    assert server.nobody_came()


def test_no_second_host_is_local_without_a_word(gethost: Gethost, server: Server) -> None:
    gethost.program("distcc", f"{SHOW_HOSTS}; case $DISTCC_HOSTS in 192*) exit 103;; esac")
    process = gethost.start("distcc", "cc", "-c", "main.c")
    server.accept().send(LEASE)
    server.accept().send("refused reason=no%20other%20host")
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert output.splitlines()[1].startswith(LOCAL)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("status", [101, 106, 111])
def test_what_is_distccs_own_fault_blames_no_host(
    gethost: Gethost, server: Server, status: int
) -> None:
    gethost.program("distcc", f"case $DISTCC_HOSTS in 192*) exit {status};; esac; exit 3")
    process = gethost.start("distcc", "cc", "-c", "main.c")
    connection = server.accept()
    connection.receive("request")
    connection.send(LEASE)
    assert connection.at_end()  # neither done nor failed
    assert process.wait(PATIENCE_S) == 3
    assert server.nobody_came()


def test_a_compiler_killed_on_the_host_is_tried_elsewhere(gethost: Gethost, server: Server) -> None:
    gethost.program("distcc", "case $DISTCC_HOSTS in 192*) exit 137;; esac; exit 3")
    process = gethost.start("distcc", "cc", "-c", "main.c")
    connection = server.accept()
    connection.receive("request")
    connection.send(LEASE)
    assert connection.receive("failed")["exit"] == "137"
    server.accept().send("refused reason=x")
    assert process.wait(PATIENCE_S) == 3


@pytest.mark.parametrize("status", [0, 1, 99])
def test_the_compilers_text_comes_once_and_unchanged(
    gethost: Gethost, server: Server, status: int
) -> None:
    text = "main.c:1: error: \N{LEFT SINGLE QUOTATION MARK}x\N{RIGHT SINGLE QUOTATION MARK}\n"
    (gethost.directory / "text").write_text(text * 30_000)  # more than is kept back
    gethost.program("distcc", f"cat text >&2; exit {status}")
    process = gethost.start("distcc", "cc", "-c", "main.c")
    server.accept().send(LEASE)
    assert process.communicate(timeout=PATIENCE_S)[1] == text * 30_000
    assert process.returncode == status


def test_a_stale_backoff_mark_does_not_veto_the_server(gethost: Gethost, server: Server) -> None:
    mark = gethost.directory / "distcc-dir" / "lock" / "backoff_tcp_192.0.2.7_4001_0"
    mark.touch()
    leased(gethost, server, "true")
    assert not mark.exists()


@pytest.mark.parametrize("stands_still_s", [0, 0.5])
def test_a_mark_that_another_distcc_left_meanwhile_is_no_reason_to_blame_the_host(
    gethost: Gethost, server: Server, stands_still_s: float
) -> None:
    """The first try finds a mark and gives up; the second one, on the same lease, does not.

    It gives up at once, but the machine may have stood still meanwhile.
    """
    mark = gethost.directory / "distcc-dir" / "lock" / "backoff_tcp_192.0.2.7_4001_0"
    gives_up = f"touch tried '{mark}'; sleep {stands_still_s}; exit 116"
    gethost.program("distcc", f"test -e tried && exit 0; {gives_up}")
    process = gethost.start("distcc", "cc", "-c", "main.c")
    connection = server.accept()
    connection.receive("request")
    connection.send(LEASE)
    connection.receive("done")
    assert process.wait(timeout=PATIENCE_S) == 0


def test_a_host_that_fails_at_once_again_is_blamed(gethost: Gethost, server: Server) -> None:
    mark = gethost.directory / "distcc-dir" / "lock" / "backoff_tcp_192.0.2.7_4001_0"
    gethost.program("distcc", f"echo once >> tries; touch '{mark}'; exit 116")
    process = gethost.start("distcc", "cc", "-c", "main.c")
    connection = server.accept()
    connection.receive("request")
    connection.send(LEASE)
    connection.receive("failed")
    assert (gethost.directory / "tries").read_text() == "once\n" * 2
    process.kill()
    process.wait()
