"""gethost and backups: the compile runs a second time, on another host, while the first goes on.

As in tests/test_gethost.py, the test is the server. The command is a script called `distcc` that
says when it runs, waits to be told how to end, and leaves an object, dependencies and a warning,
all with the name of the attempt that wrote them. No test may leave a process or a temporary file
behind. The last section has the real distcc.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gethost_program import PATIENCE_S, Connection, Gethost, Server
from test_gethost_distcc import Distccd

LEASE = "lease id=7 host=desk1 address=192.0.2.7 port=4001 slots=3"
BACKUP_DESK = "host=desk2 address=198.51.100.2 port=4002 slots=2"
WORDS = "-c main.c -o main.o -MD -MF main.d -MT main.o"
COMPILE = ("distcc", "cc", *WORDS.split())

# Not by a pipe: a signal that comes just before the shell reads one is seen when a line is there.
TOLD = """
told() {
    while [ ! -e told-$1 ]; do sleep 0.01; done
    mv told-$1 taken-$1
    read status < taken-$1
}
"""
DISTCC = f"""{TOLD}
case $DISTCC_HOSTS in 192*) attempt=first;; *) attempt=backup;; esac
for word; do
    case $previous in -o) object=$word;; -MF) dependencies=$word;; esac
    previous=$word
done
echo "main.o: $attempt.h" > "$dependencies"
echo "$attempt warns" >&2
[ ! -e before-$attempt ] || . ./before-$attempt
echo $attempt > says
told $attempt
[ $status != 0 ] || echo $attempt > "$object"
exit $status
"""


def backup_of(number: int) -> str:
    return f"backup id={number} {BACKUP_DESK}"


BACKUP = backup_of(8)


class NamedPipe:
    """A pipe of that name. The test has both its ends open, so that opening it takes no time."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._ends = os.open(path, os.O_RDWR)

    def read_line(self) -> str:
        assert select.select([self._ends], [], [], PATIENCE_S)[0], "nobody says anything"
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self._ends, 1)
        return line.decode().strip()

    def close(self) -> None:
        os.close(self._ends)


def eventually(happened: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline_s
        os.sched_yield()


class Compile:
    """A gethost that has a lease, and the compile under it."""

    def __init__(self, gethost: Gethost, server: Server) -> None:
        self.gethost = gethost
        self.server = server
        self.directory = gethost.directory
        gethost.program("distcc", DISTCC)
        self._says = NamedPipe(self.directory / "says")
        self._held_by_children, self._held = os.pipe()
        self.process: subprocess.Popen[str]
        self.connection: Connection
        self.request: dict[str, str]

    def start(self, *options: str, command: tuple[str, ...] = COMPILE) -> None:
        """Start it, give it a lease, and wait until the first attempt runs."""
        self.begin(*options, command=command)
        self.runs("first")

    def begin(self, *options: str, command: tuple[str, ...] = COMPILE) -> None:
        self.process = self.gethost.start(*options, *command, pass_fds=[self._held])
        self.connection = self.server.accept()
        self.request = self.connection.receive("request")
        self.connection.send(LEASE)

    def before(self, attempt: str, script: str) -> None:
        """Have the attempt do something before it says that it runs."""
        (self.directory / f"before-{attempt}").write_text(script + "\n")

    def runs(self, attempt: str) -> None:
        """Wait for what an attempt says."""
        assert self._says.read_line() == attempt

    def runs_at_last(self, attempt: str) -> None:
        """Wait for what an attempt says, after anything else."""
        while self._says.read_line() != attempt:
            pass

    def back_up(self, offer: str = BACKUP) -> None:
        self.connection.send(offer)
        self.runs("backup")

    def tell(self, attempt: str, status: int = 0) -> None:
        """Tell an attempt to end, and how."""
        order = self.directory / "order"
        order.write_text(f"{status}\n")
        order.rename(self.directory / f"told-{attempt}")

    def temporaries(self) -> list[str]:
        return [path.name for path in self.directory.glob("**/*.backup-*")]

    def result(self) -> tuple[int, str]:
        """Wait for the end of gethost; return its status, and what it wrote to stderr."""
        errors = self.process.communicate(timeout=PATIENCE_S)[1]
        self.nobody_is_left()
        return self.process.returncode, errors

    def nobody_is_left(self) -> None:
        os.close(self._held)
        self._held = -1
        assert select.select([self._held_by_children], [], [], PATIENCE_S)[0], "a process is left"
        assert self.temporaries() == []

    def written(self) -> tuple[str, str]:
        """Return who wrote the object, and who the dependencies."""
        object_ = (self.directory / "main.o").read_text().strip()
        dependencies = (self.directory / "main.d").read_text()
        return object_, dependencies.removeprefix("main.o: ").removesuffix(".h\n")

    def close(self) -> None:
        self._says.close()
        os.close(self._held_by_children)
        if self._held >= 0:
            os.close(self._held)


@pytest.fixture
def compile_(gethost: Gethost, server: Server) -> Iterator[Compile]:
    with contextlib.closing(Compile(gethost, server)) as compile_:
        yield compile_


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


# ---- the server ends the backup, or does not know how --------------------------------------------


def test_a_backup_that_is_taken_back(compile_: Compile) -> None:
    compile_.start()
    compile_.back_up()
    compile_.connection.send("drop id=8 reason=somebody%20waits")
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
    compile_.connection.send("drop id=10 reason=somebody%20waits")
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
        "gethost: backup 10 on desk2 stopped: somebody waits",
        "gethost: backup 11: desk2 (198.51.100.2 port 4002, 2 slots)",
        "gethost: backup 11 on desk2 finished first",
    ]


# ---- which compiles can have one -----------------------------------------------------------------

MAY_RUN_TWICE = [
    "-c main.c -o main.o",
    "-c main.c -omain.o",
    "-S main.c -o main.s",
    "-o old.o -c main.c",
    "-O2 -g -Wall -Wextra -Werror=format -std=gnu11 -fPIC -pthread -pipe -c main.c -o main.o",
    "-DX=1 -D Y -UZ -I. -I include -isystem . -include x.h -iquote . -c main.c -o main.o",
    "-m64 -mavx2 -fvisibility=hidden -fno-plt -flto=auto --param max-inline=5 -c main.c -o main.o",
    "-Wp,-D_FORTIFY_SOURCE=3 -Wp,-U_GNU_SOURCE -Wa,--noexecstack -c main.c -o main.o",
    "-fdiagnostics-color=always -fmodulo-sched -foptimize-strlen -c main.c -o main.o",
    "-c main.c -o main.o -MD -MF main.d -MT main.o",
    "-c main.c -o main.o -MMD -MFmain.d -MQmain.o",
    "-MT main.o -MD -MP -MF .deps/main.Tpo -c -o main.o main.c",
    "-MD -MT main.o -MF old.d -o main.o -c main.c",
    "-MD -MT a -MT b -MF main.d -c main.c -o main.o",
    "-c main.i -o main.o",
]
MAY_NOT = [
    # The object: not named, or not one that a file can be renamed over.
    "-c main.c",
    "-c main.c main.o",
    "-c main.c -o /dev/null",
    "-c main.c -o link.o",
    "-c main.c -o directory.o",
    "-c main.c -o old.o/main.o",
    # Dependencies: where they go, and of what they are, must be said.
    "-c main.c -o main.o -MD",
    "-c main.c -o main.o -MD -MT main.o",
    "-c main.c -o main.o -MD -MF main.d",
    "-c main.c -o main.o -MF main.d -MT main.o",
    "-c main.c -o main.o -MD -MF link.d -MT main.o",
    "-c main.c -o main.o -MD -MF /dev/null -MT main.o",
    "-c main.c -o main.o -MD -MF a.d -MF b.d -MT main.o",
    "-c main.i -o main.o -MD -MF main.d -MT main.o",
    "-c main.c -o main.o -MMD -MG -MF main.d -MT main.o",
    "-c main.c -o main.o -Wp,-MD,main.d",
    "-c main.c -o main.o -Wp,-MMD,main.d",
    "-c main.c -o main.o -Wp,-DX,-MD,main.d",
    "-c main.c -o main.o -Xpreprocessor -MD -MF main.d -MT main.o",
    # Other files, or who knows.
    "@args -o main.o",
    "-c main.c -o main.o @missing",
    "-c main.c -o main.o -save-temps",
    "-c main.c -o main.o -save-temps=obj",
    "-c main.c -o main.o --save-temps",
    "-c main.c -o main.o -g -gsplit-dwarf",
    "-c main.c -o main.o -fdump-tree-all",
    "-c main.c -o main.o -fdeps-format=p1689r5",
    "-c main.c -o main.o -fstack-usage",
    "-c main.c -o main.o -fcallgraph-info",
    "-c main.c -o main.o -fsave-optimization-record",
    "-c main.c -o main.o -fopt-info-vec=x",
    "-c main.c -o main.o -fdiagnostics-format=sarif-file",
    "-c main.c -o main.o -ftime-trace",
    "-c main.c -o main.o -fplugin=x",
    "-c main.c -o main.o -fmodules",
    "-c main.c -o main.o -fsyntax-only",
    "-c main.c -o main.o -fpreprocessed",
    "-c main.c -o main.o -aux-info x",
    "-c main.c -o main.o -dumpdir x",
    "-c main.c -o main.o -da",
    "-c main.c -o main.o -Wa,-o,x",
    "-c main.c -o main.o -mllvm -stats",
    "-c main.c -o main.o -Xclang -x",
    "-c main.c -o main.o -serialize-diagnostics x",
    "-x c -c main.c -o main.o",
    "-c main.c -o main.o --an-option-of-the-future",
]


def asks_for_backups(gethost: Gethost, server: Server, *words: str, **environment: str) -> bool:
    gethost.environment |= environment
    process = gethost.start(*words)
    connection = server.accept()
    request = connection.receive("request")
    connection.send("refused reason=x")
    process.wait(PATIENCE_S)
    assert request.get("backup") in (None, "yes")
    return "backup" in request


@pytest.mark.parametrize("words", [*MAY_RUN_TWICE, *MAY_NOT])
def test_what_may_run_twice(gethost: Gethost, server: Server, words: str) -> None:
    gethost.program("distcc", "exit 0")
    for name in ("old.o", "old.d"):
        (gethost.directory / name).touch()
        (gethost.directory / name.replace("old", "link")).symlink_to(name)
    (gethost.directory / "directory.o").mkdir()
    (gethost.directory / "args").write_text("-c main.c")
    asks = asks_for_backups(gethost, server, "distcc", "cc", *words.split())
    assert asks == (words in MAY_RUN_TWICE)


def test_only_what_distcc_compiles_may_run_twice(gethost: Gethost, server: Server) -> None:
    gethost.program("distcc", "exit 0")
    assert asks_for_backups(gethost, server, *COMPILE)
    assert not asks_for_backups(gethost, server, "env", *COMPILE)
    for variable in ("INCLUDE_SERVER_PORT", "DEPENDENCIES_OUTPUT", "SUNPRO_DEPENDENCIES"):
        assert not asks_for_backups(gethost, server, *COMPILE, **{variable: "x"})
        del gethost.environment[variable]


# ---- the real distcc -----------------------------------------------------------------------------

REAL_COMPILE = (
    *("distcc", "gcc", "-O2", "-g", "-Wall", "-c", "real.c", "-o", "real.o"),
    *("-MD", "-MP", "-MF", "real.d", "-MT", "real.o"),
)
REAL_SOURCE = """#include "real.h"
#include <stdio.h>
int real(void) { int unused; return printf("%d\\n", REAL); }
"""


def lease_of(host: Distccd, verb: str = "lease", number: int = 1) -> str:
    name = f"{host.address}:{host.port}"
    return f"{verb} id={number} host={name} address={host.address} port={host.port} slots=4"


@pytest.fixture
def builder(gethost_path: Path, server: Server, tmp_path: Path) -> Iterator[Gethost]:
    with Gethost(gethost_path, tmp_path / "builder", server.name) as gethost:
        (gethost.directory / "real.c").write_text(REAL_SOURCE)
        (gethost.directory / "real.h").write_text("#define REAL 4\n")
        yield gethost


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Distccd, Distccd]]:
    with Distccd(tmp_path, 2) as first, Distccd(tmp_path, 3) as second:
        yield first, second


def backup_has_begun(gethost: Gethost) -> bool:
    """Whether its preprocessor is done: the dependencies are written at its end."""
    return any(path.stat().st_size for path in gethost.directory.glob("real.d.backup-*"))


@pytest.mark.e2e
@pytest.mark.slow
def test_a_real_backup_gives_what_a_lone_compile_gives(
    builder: Gethost, server: Server, hosts: tuple[Distccd, Distccd]
) -> None:
    mute, good = hosts
    process = builder.start(*REAL_COMPILE)
    connection = server.accept()
    connection.send(lease_of(good))
    lone_errors = process.communicate(timeout=PATIENCE_S)[1]
    assert lone_errors.count("unused variable") == 1
    written = ("real.o", "real.d")
    lone = [(builder.directory / name).read_bytes() for name in written]
    assert lone[1].startswith(b"real.o: real.c ")
    assert lone[1].endswith(b"real.h:\n") or b"\nreal.h:\n" in lone[1]
    for name in written:
        (builder.directory / name).unlink()

    mute.signal(signal.SIGSTOP)
    process = builder.start(*REAL_COMPILE)
    connection = server.accept()
    connection.receive("request")
    connection.send(lease_of(mute))
    builder.wait_for_child(process, "distcc")
    connection.send(lease_of(good, "backup", 2))
    done = connection.receive("done")
    assert (done["exit"], done["id"]) == ("0", "2")
    assert process.communicate(timeout=PATIENCE_S) == ("", lone_errors)
    assert process.returncode == 0
    assert [(builder.directory / name).read_bytes() for name in written] == lone
    assert list(builder.directory.glob("*.backup-*")) == []


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("end", ["first", "drop", "signal"])
def test_a_real_backup_that_is_ended_leaves_nothing(
    builder: Gethost, server: Server, hosts: tuple[Distccd, Distccd], tmp_path: Path, end: str
) -> None:
    for host in hosts:
        host.signal(signal.SIGSTOP)
    held_by_children, held = os.pipe()
    process = builder.start(*REAL_COMPILE, pass_fds=[held], TMPDIR=str(tmp_path))
    os.close(held)
    connection = server.accept()
    connection.receive("request")
    connection.send(lease_of(hosts[0]))
    builder.wait_for_child(process, "distcc")
    connection.send(lease_of(hosts[1], "backup", 2))
    eventually(lambda: backup_has_begun(builder))
    if end == "signal":
        process.terminate()
    elif end == "drop":
        connection.send("drop id=2 reason=x")
        eventually(lambda: not list(builder.directory.glob("*.backup-*")))
    if end != "signal":
        hosts[0].signal(signal.SIGCONT)
        done = connection.receive("done")
        assert (done["exit"], "id" in done) == ("0", False)
    errors = process.communicate(timeout=PATIENCE_S)[1]
    with os.fdopen(held_by_children) as held_by_nobody:
        assert held_by_nobody.read() == ""
    assert process.returncode == (-signal.SIGTERM if end == "signal" else 0)
    assert errors.count("unused variable") == (end != "signal")
    assert list(builder.directory.glob("*.backup-*")) == []


@pytest.mark.e2e
@pytest.mark.slow
def test_a_real_backup_that_is_ended_takes_its_preprocessor_with_it(
    builder: Gethost, server: Server, hosts: tuple[Distccd, Distccd]
) -> None:
    """The second of two preprocessors never ends by itself."""
    for host in hosts:
        host.signal(signal.SIGSTOP)
    builder.compiler(
        "slow-cc",
        'case "$*" in *real.d.backup-*) echo begun > says; read x < never;; esac; exec gcc "$@"',
    )
    says, never = (NamedPipe(builder.directory / name) for name in ("says", "never"))
    held_by_children, held = os.pipe()
    with contextlib.closing(says), contextlib.closing(never):
        process = builder.start("distcc", "slow-cc", *REAL_COMPILE[2:], pass_fds=[held])
        os.close(held)
        connection = server.accept()
        connection.receive("request")
        connection.send(lease_of(hosts[0]))
        builder.wait_for_child(process, "distcc")
        connection.send(lease_of(hosts[1], "backup", 2))
        assert says.read_line() == "begun"
        process.terminate()
        with os.fdopen(held_by_children) as held_by_nobody:
            assert held_by_nobody.read() == ""
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGTERM
    assert list(builder.directory.glob("*.backup-*")) == []
