"""gethost against a scripted host-server: each test is both sides of one conversation.

The test is the server. It starts gethost, accepts its connection, and says line by line what a
server would; nothing runs beside it, so nothing has to be waited for but the next line, with a time
limit that only a broken gethost reaches. The command behind gethost is a shell script, called
`distcc` where gethost is to take it for distcc. tests/test_gethost_distcc.py has the real one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest
from gethost_program import (
    PATIENCE_S,
    Connection,
    Gethost,
    Server,
    builder_cpus,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LEASE = "lease id=7 host=desk1 address=192.0.2.7 port=4001 slots=3"
CPUS = builder_cpus()
LOCAL = f"localhost/{CPUS} "
SHOW_HOSTS = 'echo "$DISTCC_HOSTS"'


def leased(gethost: Gethost, server: Server, *command: str) -> tuple[Connection, str]:
    """Run the command with a lease; return the connection and what the command printed."""
    process = gethost.start(*command)
    connection = server.accept()
    connection.receive("request")
    connection.send(LEASE)
    output, _ = process.communicate(timeout=PATIENCE_S)
    return connection, output


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
    runtime.chmod(0o777)  # anybody could put markers here
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


def test_the_marker_directory_is_private(gethost: Gethost, server: Server) -> None:
    process = gethost.start("true")
    server.accept().end()
    assert process.wait(PATIENCE_S) == 0
    directory = gethost.directory / "runtime" / "compilefarm"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
