"""gethost and backups: the compile runs a second time, on another host, while the first goes on.

The test is the server. tests/gethost_backups.py has the compile. No test may leave a process or a
temporary file behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

import pytest
from gethost_backups import BACKUP, DISTCC, TOLD, Compile, NamedPipe, backup_of, eventually
from gethost_program import LEASE

# ---- the backup ends first -----------------------------------------------------------------------


def test_a_backup_that_ends_first_is_the_compile(compile_: Compile) -> None:
    compile_.start()
    assert compile_.request["backup"] == "yes"
    compile_.back_up()
    compile_.tell("backup")
    done = compile_.connection.receive("done")
    assert (done["exit"], done["id"]) == ("0", "8")
    assert compile_.connection.at_end()
    assert compile_.result() == (0, "backup warns\n")
    assert compile_.written() == ("backup", "backup")


def test_without_dependencies_there_is_only_the_object(compile_: Compile) -> None:
    (compile_.directory / "main.o").write_text("an old one")
    command = ("distcc", "cc", "-c", "main.c", "-o", "main.o")
    compile_.gethost.program("distcc", "dependencies=/dev/null" + DISTCC)
    compile_.start(command=command)
    compile_.back_up()
    compile_.tell("backup")
    assert compile_.result() == (0, "backup warns\n")
    assert (compile_.directory / "main.o").read_text() == "backup\n"


def test_the_files_are_beside_the_real_ones(compile_: Compile) -> None:
    (compile_.directory / "out").mkdir()
    compile_.gethost.program(
        "distcc",
        'echo "$*" >> words; case $DISTCC_HOSTS in 192*) ;; *) exit 1;; esac\n'
        f"{TOLD} echo first > says; told first",
    )
    words = "-c main.c -oout/a.o -MMD -MFa.d -MQa.o"
    compile_.start(command=("distcc", "cc", *words.split()))
    compile_.connection.send(BACKUP)
    compile_.connection.receive("dropped")
    compile_.tell("first")
    assert compile_.result() == (0, "")
    first, backup = (compile_.directory / "words").read_text().splitlines()
    assert first == f"cc {words}"
    suffix = f".backup-{compile_.process.pid}"
    assert backup == f"cc -c main.c -oout/a.o{suffix} -MMD -MFa.d{suffix} -MQa.o"


@pytest.mark.parametrize("attempt", ["first", "backup"])
def test_the_times_are_those_of_the_attempt_that_counts(compile_: Compile, attempt: str) -> None:
    other = "backup" if attempt == "first" else "first"
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    compile_.before(other, f"'{sys.executable}' -c '{burn}'")
    compile_.start()
    offered_s = time.monotonic()
    compile_.back_up()
    compile_.tell(attempt)
    done = compile_.connection.receive("done")
    assert float(done["cpu_s"]) < 0.2
    if attempt == "backup":
        assert float(done["wall_s"]) <= time.monotonic() - offered_s + 0.01
    else:
        assert float(done["wall_s"]) >= 0.2
    assert compile_.result()[0] == 0


def test_a_first_attempt_that_ended_well_in_the_same_moment_counts(compile_: Compile) -> None:
    compile_.before("first", "trap 'echo first > \"$object\"; exit 0' TERM")
    compile_.start()
    compile_.back_up()
    compile_.tell("backup")
    done = compile_.connection.receive("done")
    assert (done["exit"], "id" in done) == ("0", False)
    assert compile_.result() == (0, "first warns\n")
    assert compile_.written() == ("first", "first")


@pytest.mark.parametrize("status", [1, 116])
def test_a_first_attempt_that_ended_otherwise_when_asked_to_does_not(
    compile_: Compile, status: int
) -> None:
    compile_.before("first", f"trap 'exit {status}' TERM")
    compile_.start()
    compile_.back_up()
    compile_.tell("backup")
    assert compile_.connection.receive("done")["id"] == "8"
    assert compile_.result() == (0, "backup warns\n")
    assert compile_.written() == ("backup", "backup")


@pytest.mark.slow
def test_a_first_attempt_that_will_not_end_is_killed(compile_: Compile) -> None:
    compile_.before("first", "trap '' TERM")
    compile_.start()
    compile_.back_up()
    compile_.tell("backup")
    assert compile_.connection.receive("done")["id"] == "8"
    assert compile_.result() == (0, "backup warns\n")


@pytest.mark.parametrize("line", ["drop id=8 reason=x", "revoked reason=x", "\0"])
def test_a_backup_that_has_ended_well_counts_whatever_the_server_says(
    compile_: Compile, line: str
) -> None:
    """The server speaks while the first attempt is being ended."""
    compile_.before("first", "trap 'echo asked > says; told first; exit 1' TERM")
    compile_.start()
    compile_.back_up()
    compile_.tell("backup")
    compile_.runs("asked")
    compile_.connection.send(line)
    compile_.tell("first")
    assert compile_.result() == (0, "backup warns\n")
    assert compile_.written() == ("backup", "backup")


def test_files_that_cannot_be_put_in_place(compile_: Compile) -> None:
    compile_.start("--verbose")
    compile_.back_up()
    (compile_.directory / "main.o").mkdir()
    compile_.tell("backup")
    assert compile_.connection.at_end()
    (compile_.directory / "main.o").rmdir()
    again = compile_.server.accept()
    request = again.receive("request")
    assert request["avoid"] == "desk1"
    assert "backup" not in request, "the next one would end in the same way"
    again.send(LEASE.replace("desk1", "desk3"))
    compile_.runs("first")
    compile_.tell("first")
    assert "id" not in again.receive("done")
    status, errors = compile_.result()
    assert status == 0
    assert "gethost: no result from desk1: cannot rename the files of its backup: " in errors
    assert compile_.written() == ("first", "first")


# ---- the first attempt ends first ----------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1])
def test_a_first_attempt_that_ends_first_is_the_compile(compile_: Compile, status: int) -> None:
    compile_.start()
    compile_.back_up()
    compile_.tell("first", status)
    done = compile_.connection.receive("done")
    assert (done["exit"], "id" in done) == (str(status), False)
    assert compile_.connection.at_end()
    assert compile_.result() == (status, "first warns\n")
    if status == 0:
        assert compile_.written() == ("first", "first")


def test_a_first_attempt_whose_host_fails_ends_the_backup(compile_: Compile) -> None:
    compile_.start()
    compile_.back_up()
    compile_.tell("first", 116)
    failed = compile_.connection.receive("failed")
    assert (failed["exit"], "id" in failed) == ("116", False)
    again = compile_.server.accept()
    request = again.receive("request")
    assert (request["avoid"], request["backup"]) == ("desk1", "yes")
    again.send("refused reason=x")
    compile_.runs("backup")  # not the backup: it is here, and with the real names
    compile_.tell("backup", 3)
    assert compile_.result()[0] == 3


def test_a_first_attempt_that_a_signal_ends(compile_: Compile) -> None:
    compile_.before("first", "echo $$ > process")
    compile_.start()
    compile_.back_up()
    os.kill(int((compile_.directory / "process").read_text()), signal.SIGKILL)
    assert compile_.connection.at_end()
    assert compile_.result() == (-signal.SIGKILL, "first warns\n")


@pytest.mark.slow
def test_a_backup_that_will_not_end_is_killed(compile_: Compile) -> None:
    compile_.before("backup", "trap '' TERM")
    compile_.start()
    compile_.back_up()
    compile_.tell("first")
    assert compile_.result() == (0, "first warns\n")


# ---- the backup ends otherwise -------------------------------------------------------------------


def test_a_backup_whose_host_fails(compile_: Compile) -> None:
    compile_.start()
    compile_.back_up()
    compile_.tell("backup", 116)
    failed = compile_.connection.receive("failed")
    assert (failed["id"], failed["exit"]) == ("8", "116")
    assert failed["reason"]
    assert compile_.temporaries() == []
    compile_.back_up(backup_of(9))
    compile_.tell("backup")
    assert compile_.connection.receive("done")["id"] == "9"
    assert compile_.result() == (0, "backup warns\n")


@pytest.mark.parametrize("status", [1, 99, 101, 127])
def test_a_backup_that_fails_otherwise_says_nothing_about_its_host(
    compile_: Compile, status: int
) -> None:
    compile_.start()
    compile_.back_up()
    compile_.tell("backup", status)
    assert compile_.connection.receive("dropped") == {"id": "8"}
    assert compile_.temporaries() == []
    compile_.tell("first", 1)
    done = compile_.connection.receive("done")
    assert (done["exit"], "id" in done) == ("1", False)
    assert compile_.result() == (1, "first warns\n")


def test_a_backup_that_a_signal_ends(compile_: Compile) -> None:
    compile_.before("backup", "kill -9 $$")
    compile_.start()
    compile_.connection.send(BACKUP)
    assert compile_.connection.receive("dropped") == {"id": "8"}
    compile_.tell("first")
    assert compile_.result() == (0, "first warns\n")


PREPROCESSOR = """
import os, sys
os.setpgid(0, 0)
open("says", "w").write("backup\\n")
open("never").readline()
open(sys.argv[1], "w").write("too late")
"""


@pytest.mark.parametrize("end", ["failed", "drop", "first", "signal"])
def test_what_a_backup_leaves_running_is_ended(compile_: Compile, end: str) -> None:
    """The real one does not wait for its preprocessor, which has a process group of its own."""
    preprocessor = f"{sys.executable} -c '{PREPROCESSOR}' \"$dependencies\""
    with contextlib.closing(NamedPipe(compile_.directory / "never")):
        compile_.before("backup", f"{preprocessor} & told backup; exit 116")
        compile_.start()
        compile_.back_up()
        if end == "failed":
            compile_.tell("backup")
            compile_.connection.receive("failed")
            assert compile_.temporaries() == []
        elif end == "drop":
            compile_.connection.send("drop id=8 reason=x")
            eventually(lambda: compile_.temporaries() == [])
        elif end == "signal":
            compile_.process.terminate()
        compile_.tell("first")
        compile_.result()


def test_a_backup_with_too_much_to_say_is_given_up(compile_: Compile) -> None:
    compile_.before("backup", "yes warning | head -c 600000 >&2")
    compile_.start()
    compile_.connection.send(BACKUP)
    assert compile_.connection.receive("dropped") == {"id": "8"}
    compile_.tell("first")
    assert compile_.result() == (0, "first warns\n")


def test_there_is_no_backup_once_the_first_attempts_text_is_shown(compile_: Compile) -> None:
    compile_.before("first", "yes warning | head -c 600000 >&2")
    compile_.begin()
    assert compile_.process.stderr
    shown = compile_.process.stderr.read(500_000)
    compile_.runs("first")
    compile_.connection.send(BACKUP)
    assert compile_.connection.receive("dropped") == {"id": "8"}
    compile_.tell("first")
    status, errors = compile_.result()
    assert (status, len(shown + errors)) == (0, len("first warns\n") + 600_000)
