"""gethost and backups that the server or a signal ends, and what a backup inherits.

The test is the server. tests/gethost_backups.py has the compile. No test may leave a process or a
temporary file behind.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from gethost_backups import BACKUP, COMPILE, Compile, backup_of, eventually
from gethost_program import LEASE, PATIENCE_S

# ---- the server ends the backup, or does not know how --------------------------------------------


def test_a_backup_that_is_taken_back(compile_: Compile) -> None:
    compile_.start()
    compile_.back_up()
    compile_.connection.send("drop id=8 reason=a%20build%20waits")
    eventually(lambda: compile_.temporaries() == [])
    compile_.tell("first")
    done = compile_.connection.receive("done")  # and nothing before it
    assert (done["exit"], "id" in done) == ("0", False)
    assert compile_.result() == (0, "first warns\n")
    assert compile_.written() == ("first", "first")


def test_there_is_one_backup_at_most(compile_: Compile) -> None:
    compile_.before("backup", "trap 'echo asked > says; told backup; exit 0' TERM")
    compile_.start()
    compile_.back_up()
    second = backup_of(9)
    compile_.connection.send(second)
    assert compile_.connection.receive("dropped") == {"id": "9"}
    compile_.connection.send("drop id=9 reason=x")  # the lines crossed
    compile_.connection.send("drop id=8 reason=x")
    compile_.runs("asked")
    compile_.before("backup", "")
    compile_.connection.send(second)  # it is begun when the one before it is over
    compile_.tell("backup")  # it is too late to end well
    compile_.runs("backup")
    compile_.tell("backup")
    assert compile_.connection.receive("done")["id"] == "9"
    assert compile_.result() == (0, "backup warns\n")


def test_a_backup_that_waits_for_the_one_before_may_be_taken_back(compile_: Compile) -> None:
    compile_.before("backup", "trap 'echo asked > says; told backup; exit 0' TERM")
    compile_.start()
    compile_.back_up()
    compile_.connection.send(f"drop id=8 reason=x\n{backup_of(9)}\ndrop id=9 reason=x")
    compile_.runs("asked")
    compile_.tell("backup")
    eventually(lambda: compile_.temporaries() == [])
    compile_.tell("first")
    assert compile_.result() == (0, "first warns\n")


def test_events_that_arrive_together(compile_: Compile) -> None:
    compile_.start()
    lines = [BACKUP, "drop id=8 reason=x", backup_of(9), "hint x=y", ""]
    compile_.connection.send_bytes("\n".join(lines).encode())
    compile_.runs("backup")  # the second of them
    compile_.connection.send_bytes(f"drop id=9 reason=x\n{BACKUP}\nrevoked reason=x\n".encode())
    compile_.server.accept().send(LEASE)
    compile_.runs_at_last("first")  # a backup may have come as far as that, too
    compile_.tell("first")
    assert compile_.result() == (0, "first warns\n")


@pytest.mark.parametrize(
    "offer",
    [
        "backup id=8",
        "backup id=8 host=desk2 address=desk2 port=4002 slots=2",
        "backup id=8 host=a,b address=198.51.100.2 port=4002 slots=2",
        "backup id=8 host=desk2 address=198.51.100.2 port=0 slots=2",
        "backup id=8 host=desk2 address=198.51.100.2 port=1",
    ],
)
def test_an_offer_without_sense_is_declined(compile_: Compile, offer: str) -> None:
    compile_.start()
    compile_.connection.send(offer)
    assert compile_.connection.receive("dropped") == {"id": "8"}
    compile_.tell("first")
    compile_.connection.receive("done")
    assert compile_.result() == (0, "first warns\n")


def test_an_offer_that_nobody_asked_for_is_declined(compile_: Compile) -> None:
    compile_.start(command=(*COMPILE, "-save-temps"))
    assert "backup" not in compile_.request
    compile_.connection.send(BACKUP)
    assert compile_.connection.receive("dropped") == {"id": "8"}
    compile_.tell("first")
    assert compile_.result() == (0, "first warns\n")


def test_revoked_ends_both(compile_: Compile) -> None:
    compile_.start()
    compile_.back_up()
    compile_.connection.send("revoked reason=host%20lost")
    assert compile_.connection.at_end()
    again = compile_.server.accept()
    request = again.receive("request")
    assert (request["avoid"], request["backup"]) == ("desk1", "yes")
    assert compile_.temporaries() == []
    again.send(LEASE)
    compile_.runs("first")
    compile_.tell("first")
    assert "id" not in again.receive("done")
    assert compile_.result() == (0, "first warns\n")


@pytest.mark.parametrize("farewell", [b"", b"\xff\n"])
def test_a_lost_server_ends_the_backup_alone(compile_: Compile, farewell: bytes) -> None:
    compile_.start()
    compile_.back_up()
    compile_.connection.send_bytes(farewell)
    compile_.connection.end()
    eventually(lambda: compile_.temporaries() == [])
    if not farewell:
        compile_.connection = compile_.server.accept()
        attach = compile_.connection.receive("attach")
        assert (attach["id"], attach["backup"]) == ("7", "yes")
        compile_.connection.send("attached id=70")
        compile_.back_up(backup_of(9))  # another one, of the new server
        compile_.tell("backup")
        assert compile_.connection.receive("done")["id"] == "9"
        assert compile_.result() == (0, "backup warns\n")
    else:
        compile_.tell("first")
        assert compile_.result() == (0, "first warns\n")


# ---- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_both_and_gethost(compile_: Compile, number: signal.Signals) -> None:
    compile_.before("first", "ulimit -c 0")
    compile_.before("backup", "ulimit -c 0")
    compile_.start()
    compile_.back_up()
    compile_.process.send_signal(number)
    assert compile_.connection.at_end()  # neither done nor failed
    assert compile_.result()[0] == -number


def test_a_signal_while_the_first_attempt_is_being_ended(compile_: Compile) -> None:
    compile_.before("first", "trap 'echo asked > says; told first; exit 1' TERM")
    compile_.start()
    compile_.back_up()
    compile_.tell("backup")
    compile_.runs("asked")
    compile_.process.send_signal(signal.SIGHUP)
    compile_.tell("first")
    assert compile_.connection.at_end()
    assert compile_.result()[0] == -signal.SIGHUP
    assert not (compile_.directory / "main.o").exists()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux can do this")
def test_no_backup_outlives_a_killed_gethost(compile_: Compile) -> None:
    compile_.start()
    compile_.back_up()
    compile_.process.kill()
    compile_.process.communicate(timeout=PATIENCE_S)
    for path in compile_.directory.glob("**/*.backup-*"):
        path.unlink()
    compile_.nobody_is_left()


# ---- what the backup inherits, and what is seen of it --------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_a_backup_has_nothing_to_read_from_or_to_write_to(compile_: Compile) -> None:
    compile_.before("backup", 'export streams="$(echo $(readlink /proc/$$/fd/[01]))"; env > told')
    mark = compile_.directory / "distcc-dir" / "lock" / "backoff_tcp_198.51.100.2_4002_0"
    mark.touch()
    compile_.start()
    compile_.back_up()
    assert not mark.exists()
    compile_.tell("backup")
    assert compile_.result()[0] == 0
    told = (compile_.directory / "told").read_text().splitlines()
    assert "streams=/dev/null /dev/null" in told
    assert "DISTCC_FALLBACK=0" in told
    assert "DISTCC_SKIP_LOCAL_RETRY=1" in told
    assert "DISTCC_BACKOFF_PERIOD=1" in told
    assert [line for line in told if line.startswith("DISTCC_HOSTS=198.51.100.2:4002/2 ")]


def test_verbose_says_what_becomes_of_backups(compile_: Compile) -> None:
    compile_.start("--verbose")
    compile_.back_up()
    compile_.tell("backup", 116)
    compile_.connection.receive("failed")
    compile_.back_up(backup_of(9))
    compile_.tell("backup", 1)
    compile_.connection.receive("dropped")
    compile_.back_up(backup_of(10))
    compile_.connection.send("drop id=10 reason=a%20build%20waits")
    eventually(lambda: compile_.temporaries() == [])
    compile_.back_up(backup_of(11))
    compile_.connection.send(backup_of(12))
    compile_.connection.receive("dropped")
    compile_.tell("backup")
    errors = compile_.result()[1]
    lines = [line for line in errors.splitlines() if line.startswith("gethost: backup ")]
    assert lines == [
        "gethost: backup 8: desk2 (198.51.100.2 port 4002, 2 slots)",
        "gethost: backup 8 on desk2 failed: distcc exit status 116",
        "gethost: backup 9: desk2 (198.51.100.2 port 4002, 2 slots)",
        "gethost: backup 9 on desk2 failed: distcc exit status 1",
        "gethost: backup 10: desk2 (198.51.100.2 port 4002, 2 slots)",
        "gethost: backup 10 on desk2 stopped: a build waits",
        "gethost: backup 11: desk2 (198.51.100.2 port 4002, 2 slots)",
        "gethost: backup 11 on desk2 finished first",
    ]
