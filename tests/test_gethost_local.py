"""What gethost compiles here: no more at once than the machine has CPUs, for all users together.

The compiles are scripts that say when they run and end when they are told to, so every test knows
who has a CPU. tests/test_gethost_distcc.py has a real make -j300 with the real distcc.
"""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from gethost_program import PATIENCE_S, Gethost, Server, builder_cpus

CPUS = builder_cpus()
COMPILE = ("sh", "-c", "echo runs; read word")
WAITS = f"gethost: all {CPUS} CPUs of this machine are compiling: waiting for one\n"


@pytest.fixture
def gethost(gethost_path: Path, tmp_path: Path) -> Iterator[Gethost]:
    """A gethost without a server, the absence noted already."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and never listens
        name = f"127.0.0.1:{nobody.getsockname()[1]}"
        with Gethost(gethost_path, tmp_path, name) as gethost:
            assert "no host-server" in gethost.run("true").stderr
            yield gethost


def busy(gethost: Gethost) -> list[subprocess.Popen[str]]:
    """Give every CPU a compile that lasts until it is told to end."""
    compiles = [gethost.start(*COMPILE) for _ in range(CPUS)]
    for compiling in compiles:
        assert gethost.first_line(compiling) == "runs\n"
    return compiles


def waiting(gethost: Gethost) -> subprocess.Popen[str]:
    """Start one more compile, and see that it waits."""
    process = gethost.start("--verbose", *COMPILE)
    assert process.stderr
    while (line := process.stderr.readline()) != WAITS:
        assert line, "it did not wait"
    return process


def runs(gethost: Gethost, process: subprocess.Popen[str]) -> None:
    """See that the one that waited runs now."""
    assert gethost.first_line(process) == "runs\n"


def test_one_that_ends_makes_room_for_one(gethost: Gethost) -> None:
    compiles = busy(gethost)
    first = waiting(gethost)
    gethost.type_line(compiles[0], "end")
    runs(gethost, first)
    waiting(gethost)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_that_is_killed_makes_room(gethost: Gethost, number: signal.Signals) -> None:
    compiles = busy(gethost)
    next_one = waiting(gethost)
    compiles[-1].send_signal(number)
    runs(gethost, next_one)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_one_that_is_killed_while_it_waits_is_not_waited_for(
    gethost: Gethost, number: signal.Signals
) -> None:
    compiles = busy(gethost)
    first, second = waiting(gethost), waiting(gethost)
    first.send_signal(number)
    assert first.wait(PATIENCE_S) == -number
    gethost.type_line(compiles[0], "end")
    runs(gethost, second)


def test_all_of_the_machine_are_counted_together(gethost: Gethost) -> None:
    """Users have different homes, runtime directories and distcc directories."""
    compiles = busy(gethost)
    gethost.environment["DISTCC_DIR"] = gethost.environment["HOME"] = str(gethost.directory / "bin")
    gethost.environment["XDG_RUNTIME_DIR"] = "/nowhere"
    other = waiting(gethost)
    gethost.type_line(compiles[0], "end")
    runs(gethost, other)


def test_a_compile_that_a_host_failed_is_counted(gethost: Gethost) -> None:
    gethost.program("distcc", "case $DISTCC_HOSTS in 192*) exit 103;; esac; echo runs; read word")
    compiles = busy(gethost)
    with Server() as server:
        process = gethost.start(
            "--verbose", "distcc", "cc", "-c", "main.c", HOST_SERVER=server.name
        )
        server.accept().send("lease id=7 host=desk1 address=192.0.2.7 port=4001 slots=3")
        connection = server.accept()
        connection.receive("request")
        connection.send("refused reason=no%20other%20host")
        assert connection.at_end()  # no lease is held by one that waits here
    assert process.stderr
    while (line := process.stderr.readline()) != WAITS:
        assert line, "it did not wait"
    gethost.type_line(compiles[0], "end")
    runs(gethost, process)


@pytest.mark.parametrize(
    "words",
    [
        ["sh", "-o", "prog", "main.o"],
        ["sh", "-E", "main.c"],
        ["sh", "-c", "conftest.c"],
        ["--version"],
    ],
)
def test_what_is_no_compile_does_not_wait(gethost: Gethost, words: list[str]) -> None:
    gethost.program("distcc", "echo ran")
    busy(gethost)
    assert gethost.run("distcc", *words).stdout == "ran\n"


def test_a_compile_that_distcc_keeps_here_is_counted(gethost: Gethost) -> None:
    gethost.program("distcc", "echo runs")
    compiles = busy(gethost)
    process = gethost.start("--verbose", "distcc", "sh", "-march=native", "-c", "main.c")
    assert process.stderr
    assert process.stderr.readline() == WAITS
    gethost.type_line(compiles[0], "end")
    runs(gethost, process)


def test_a_gethost_within_a_compile_is_part_of_it(gethost: Gethost) -> None:
    script = f"{gethost.path} sh -c 'echo inner'; echo runs; read word"
    compiles = [gethost.start("sh", "-c", script) for _ in range(CPUS)]
    for compiling in compiles:
        assert gethost.first_line(compiling) == "inner\n"
        runs(gethost, compiling)


def test_what_a_compile_leaves_behind_is_not_counted(gethost: Gethost) -> None:
    """A compiler may start a daemon, as sccache does, which inherits every descriptor."""
    words = [f"cat {gethost.directory}/fifo >&2 & echo runs"] * CPUS
    assert gethost.run("mkfifo", str(gethost.directory / "fifo")).returncode == 0
    started = [gethost.start("sh", "-c", word) for word in words]
    for process in started:
        runs(gethost, process)
        assert process.wait(PATIENCE_S) == 0
    compiles = busy(gethost)
    with (gethost.directory / "fifo").open("w"):
        for process in compiles:
            gethost.type_line(process, "end")


def test_a_lock_file_that_is_none_is_not_used(gethost: Gethost) -> None:
    """Any user can put something there before us; then each user counts their own compiles."""
    lock, target = gethost.directory / "cpus", gethost.directory / "target"
    lock.unlink()
    lock.symlink_to(target)
    compiles = busy(gethost)
    assert not target.exists()
    lock.unlink()
    lock.mkdir()
    next_one = waiting(gethost)
    gethost.type_line(compiles[0], "end")
    runs(gethost, next_one)


def test_without_a_place_for_locks_all_compile(gethost: Gethost) -> None:
    for name in ("GETHOST_LOCK_FILE", "XDG_RUNTIME_DIR", "DISTCC_DIR", "HOME"):
        gethost.environment[name] = "/proc/none"
    for process in busy(gethost):
        gethost.type_line(process, "end")
        assert process.wait(PATIENCE_S) == 0
