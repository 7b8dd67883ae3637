"""Fake compilers that say of themselves what a test wants, and what gethost says of compilers."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from gethost_program import Gethost

GCC_SAYS = """Using built-in specs.
COLLECT_GCC=gcc
Target: x86_64-linux-gnu
Configured with: ../src/configure -v --with-pkgversion='Debian 12.2.0-14+deb12u1'
Thread model: posix
gcc version 12.2.0 (Debian 12.2.0-14+deb12u1)
"""

UNKNOWN = "is not a compiler that the farm knows"
QUESTIONS = ["-v", "-print-prog-name=cc1", "-print-prog-name=as", "-print-prog-name=cc1plus"]


@dataclass(frozen=True)
class Row:
    """A line of `gethost --compiler-ids`."""

    id: str
    name: str
    version: str
    target: str
    path: str
    text: str
    files: frozenset[str]


def ids(gethost: Gethost, *words: str | Path, **environment: str) -> list[Row]:
    """Return what gethost says of these compilers."""
    result = gethost.run("--compiler-ids", *map(str, words), **environment)
    assert (result.returncode, result.stderr) == (0, "")
    rows = [list(map(unquote, line.split("\t"))) for line in result.stdout.splitlines()]
    assert len(rows) == len(words)
    return [Row(*row[:6], files=frozenset(row[6:])) for row in rows]  # type: ignore[arg-type,misc]


def id_of(gethost: Gethost, word: str | Path, **environment: str) -> str:
    """Return a compiler's id; it must have one."""
    (row,) = ids(gethost, word, **environment)
    assert len(row.id) == 16, row
    return row.id


def reason_of(gethost: Gethost, word: str | Path, **environment: str) -> str:
    """Return why a compiler has no id."""
    (row,) = ids(gethost, word, **environment)
    assert (row.id, row.name, row.version, row.target, row.path) == ("-", "-", "-", "-", str(word))
    return row.text


def build_driver(directory: Path, *flags: str) -> Path:
    """Compile the driver of all fakes."""
    driver = directory / "driver"
    source = Path(__file__).parent / "fake_compiler.c"
    subprocess.run(["cc", "-O1", *flags, "-o", driver, source], check=True, capture_output=True)
    return driver


class FakeCompiler:
    """A directory with a driver, its programs, and its answers."""

    def __init__(self, driver: Path, directory: Path, name: str = "gcc") -> None:
        self.directory = directory
        self.answers = directory / "answers"
        self.answers.mkdir(parents=True)
        self.path = directory / name
        shutil.copy(driver, self.path)
        self.says(GCC_SAYS)
        self.programs = {}
        for program in ("cc1", "cc1plus", "as"):
            path = self.programs[program] = directory / program
            path.write_text(f"the {program} of 12.2.0\n")
            self.answer(program, f"{path}\n")

    def says(self, text: str) -> None:
        """Set what it says with -v."""
        self.answer("-v", text)

    def answer(self, question: str, text: str = "") -> None:
        """Set an answer."""
        (self.answers / question).write_text(text)

    def forget_answer(self, question: str) -> None:
        (self.answers / question).unlink()

    def asked(self) -> list[str]:
        """Return the questions that it was asked so far."""
        path = self.answers / "asked"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split(" ", 1)[1] for line in lines]

    def askers(self) -> list[int]:
        """Return the process ids under which it was asked."""
        return [int(line.split()[0]) for line in (self.answers / "asked").read_text().splitlines()]


def replace_file(path: Path, data: bytes, like: os.stat_result | None = None) -> None:
    """Replace a file as a package manager does; `like` sets its times."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(data)
    new.chmod(0o755)
    if like:
        os.utime(new, ns=(like.st_atime_ns, like.st_mtime_ns))
    new.rename(path)


def cache_of(gethost: Gethost) -> Path:
    return gethost.directory / ".cache" / "compilefarm" / "compilers"


def entries_of(gethost: Gethost) -> list[Path]:
    return [path for path in cache_of(gethost).iterdir() if path.name != "lock"]
