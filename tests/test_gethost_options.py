"""gethost's command line: its options, --jobs, and the commands that ask for no lease.

tests/test_gethost_lease.py says how these tests talk with gethost.
"""

from __future__ import annotations

import re
import socket

import pytest
from gethost_program import (
    CPUS,
    LEASE,
    LOCAL,
    PATIENCE_S,
    SHOW_HOSTS,
    Gethost,
    Server,
    leased,
)

# ---- options -------------------------------------------------------------------------------------


def test_help_and_version_are_on_stdout(gethost: Gethost) -> None:
    assert gethost.run("--help").stdout.startswith("usage: gethost ")
    assert re.fullmatch(r"gethost \S+\n", gethost.run("--version").stdout)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--"],
        ["--nonsense", "true"],
        ["--wait"],
        ["--wait", "soon", "true"],
        ["--wait", "5.", "true"],
        ["--wait", "-1", "true"],
        ["--wait=1e3", "true"],
        ["--type", "", "true"],
        ["--jobs", "true"],
        ["--serve", "x", "true"],
    ],
)
def test_a_wrong_option_is_one_line(gethost: Gethost, server: Server, words: list[str]) -> None:
    result = gethost.run(*words)
    assert result.returncode == 2
    assert re.fullmatch(r"gethost: .*see gethost --help\n", result.stderr)
    assert server.nobody_came()


@pytest.mark.parametrize("options", [[], ["--"], ["--verbose", "--"], ["--type=fast"]])
def test_options_end_at_the_first_other_word(
    gethost: Gethost, server: Server, options: list[str]
) -> None:
    _, output = leased(gethost, server, *options, "echo", "--version", "--", "--server")
    assert output == "--version -- --server\n"


@pytest.mark.parametrize(
    ("program", "status"), [("no-such-program", 127), ("/no/such/program", 127), ("/etc", 126)]
)
def test_a_command_that_cannot_run(
    gethost: Gethost, server: Server, program: str, status: int
) -> None:
    result = gethost.run(program, "-c", "main.c")
    assert result.returncode == status
    assert re.fullmatch(rf"gethost: cannot run {program}: .*\n", result.stderr)
    assert server.nobody_came()


def test_a_file_that_is_not_executable_is_126(gethost: Gethost) -> None:
    plain = gethost.directory / "plain"
    plain.write_text("text")
    assert gethost.run(str(plain)).returncode == 126


# ---- what asks for no lease ----------------------------------------------------------------------


def test_a_link_runs_at_once(gethost: Gethost, server: Server) -> None:
    gethost.program("distcc", f'{SHOW_HOSTS}; echo "$@"; exit 3')
    result = gethost.run("distcc", "sh", "-o", "prog", "a.o")
    assert result.returncode == 3
    assert result.stdout.startswith(LOCAL)
    assert result.stdout.endswith("\nsh -o prog a.o\n")
    assert server.nobody_came()


def test_a_missing_compiler_blames_no_host(gethost: Gethost, server: Server) -> None:
    gethost.program("distcc", "exit 110")
    for compiler in ["no-such-gcc", "/no/such-gcc"]:
        assert gethost.run("distcc", compiler, "-c", "main.c").returncode == 110
    assert server.nobody_came()


def test_distcc_without_a_place_for_locks_blames_no_host(gethost: Gethost, server: Server) -> None:
    gethost.program("distcc", "exit 3")
    away = str(gethost.directory / "missing")
    assert gethost.run("distcc", "cc", "-c", "main.c", DISTCC_DIR=away).returncode == 3
    assert server.nobody_came()


# ---- --jobs --------------------------------------------------------------------------------------


def test_jobs_prints_the_servers_count(gethost: Gethost, server: Server) -> None:
    process = gethost.start("--jobs", USER="ada")
    connection = server.accept()
    assert connection.receive("jobs") == {
        "user": "ada",
        "builder": socket.gethostname(),
        "cpus": str(CPUS),
    }
    connection.send("jobs count=42")
    assert process.communicate(timeout=PATIENCE_S) == ("42\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize(
    "answer", ["", "jobs count=0", "jobs count=many", "refused reason=x", LEASE]
)
def test_jobs_without_a_count_is_the_builders_cpus(
    gethost: Gethost, server: Server, answer: str
) -> None:
    process = gethost.start("--jobs")
    connection = server.accept()
    connection.send(answer)
    connection.end()
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert output == f"{CPUS}\n"
    assert errors.startswith("gethost: no number of jobs from ")
    assert process.returncode == 0
