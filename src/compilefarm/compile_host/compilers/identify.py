"""Asking gethost which compilers the programs of this host are.

Builders get their ids from gethost too. So builder and host cannot disagree about the meaning of an
id. gethost keeps a cache, and answers for a known compiler in microseconds.

A compiler may hang when it is asked for its version. gethost ends it after two seconds. Whatever
gethost itself does, an inquiry ends in bounded time and reads a bounded number of bytes. It does
not block its caller meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

# gethost needs two seconds for a compiler that hangs, and milliseconds for others.
FIRST_PATIENCE_S = 5.0
PATIENCE_S = 10.0
PATIENCE_PER_COMPILER_S = 3.0
ANSWER_LIMIT_BYTES = 1_000_000

_ID = re.compile(r"[0-9a-f]{16}\Z")
# What a server accepts as a name, a version or a target; the name becomes a file's name.
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.~-]{0,99}\Z")


@dataclass(frozen=True, slots=True)
class Compiler:
    """A compiler of this host.

    `name` is its canonical name, such as `g++`, `version` the full one, `target` its triple, and
    `text` describes it to people. `path` is the driver.
    """

    id: str
    name: str
    version: str
    target: str
    text: str
    path: str

    @property
    def door(self) -> str:
        """The name under which a compile with exactly this compiler is sent."""
        return f"{self.name}-{self.id}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What gethost says about one path: the compiler, or None and the reason.

    `files` are the files that the compiler's id depends on; empty if gethost does not say.
    """

    path: str
    compiler: Compiler | None
    reason: str = ""
    files: tuple[str, ...] = ()


def gethost_program() -> str | None:
    """Return the path of gethost: beside the running program, else on PATH.

    None if there is none, or only one that does not know `--compiler-ids`. DMUCS has a program of
    this name too.
    """
    beside = Path(sys.argv[0]).absolute().parent
    for path in (str(beside), None):
        if found := shutil.which("gethost", path=path):
            gethost = str(Path(found).absolute())
            return gethost if _knows_ids(gethost) else None
    return None


def _knows_ids(gethost: str) -> bool:
    try:
        asked = subprocess.run(
            [gethost, "--compiler-ids", "/dev/null"],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=FIRST_PATIENCE_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0 and asked.stdout.startswith(b"-\t-\t-\t-\t/dev/null\t")


class Inquiry:
    """One run of `gethost --compiler-ids`.

    `environment` is distccd's, because its PATH decides which assembler a compiler runs.
    """

    def __init__(self, gethost: str, paths: Sequence[str], environment: Mapping[str, str]) -> None:
        self._unanswered = list(paths)
        self._deadline_s = time.monotonic() + PATIENCE_S + PATIENCE_PER_COMPILER_S * len(paths)
        self._rest, self._read_bytes = b"", 0
        self._process: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [gethost, "--compiler-ids", *paths],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(environment),
                cwd="/",
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        """Whether there is an answer for each path."""
        return self._process is None and not self._unanswered

    def answers(self, timeout_s: float) -> list[Answer]:
        """Return new answers; wait for the first of them for at most `timeout_s` seconds.

        A path for which gethost prints nothing in time gets an answer with a reason.
        """
        if self._process is None or self._process.stdout is None:
            return self._give_up("gethost cannot be run")
        left_s = max(0.0, min(timeout_s, self._deadline_s - time.monotonic()))
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        if not poll.poll(left_s * 1000):
            if time.monotonic() < self._deadline_s:
                return []
            return self._give_up("gethost does not answer")
        data = os.read(self._process.stdout.fileno(), 65536)
        self._read_bytes += len(data)
        if not data or self._read_bytes > ANSWER_LIMIT_BYTES:
            return self._give_up("gethost does not know --compiler-ids, or failed")
        *lines, self._rest = (self._rest + data).split(b"\n")
        answers = [answer for line in lines if (answer := self._answer(line))]
        if not self._unanswered:
            self.end()
        return answers

    def end(self) -> None:
        """End gethost, and the compilers that it asks."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._process:
            self._process = None

    def _give_up(self, reason: str) -> list[Answer]:
        self.end()
        given_up = [Answer(path, None, reason) for path in self._unanswered]
        self._unanswered.clear()
        return given_up

    def _answer(self, line: bytes) -> Answer | None:
        """Return the answer on one line. gethost answers in the order of the paths."""
        if not self._unanswered:
            return None
        asked = self._unanswered.pop(0)
        fields = [unquote(field, errors="surrogateescape") for field in _text(line).split("\t")]
        if len(fields) < 6 or fields[4] != asked:
            return Answer(asked, None, "gethost gave an answer that cannot be read")
        id_, name, version, target, path, text, *files = fields
        if id_ == "-":
            return Answer(asked, None, text, tuple(files))
        if not _ID.match(id_) or not all(map(_WORD.match, (name, version, target))):
            return Answer(asked, None, "gethost gave an answer that cannot be read")
        return Answer(asked, Compiler(id_, name, version, target, text, path), "", tuple(files))


def _text(line: bytes) -> str:
    return line.decode(errors="surrogateescape")
