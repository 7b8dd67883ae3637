"""What the watch notices, and when it asks gethost again. Time is an argument.

Files get their times from the real clock, so `Host.now_ns` is that clock plus the time that passed.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from compilefarm.compile_host.compilers.identify import Answer, Compiler
from compilefarm.compile_host.compilers.places import Places
from compilefarm.compile_host.compilers.watch import (
    BATCH,
    NAMED_FILES_S,
    NO_ID_FIRST_S,
    NO_ID_LAST_S,
    SETTLED_S,
    UNNAMED_FILES_S,
    CompilerWatch,
)


class Host:
    """A directory of compilers, a watch, and a gethost that identifies them by their contents."""

    def __init__(self, directory: Path, *wanted: str) -> None:
        self.directory = directory
        self.watch = CompilerWatch(Places((str(directory),)), wanted)
        self.passed_s = 0.0
        self.files: tuple[str, ...] = ()
        self.asked: list[str] = []

    def has(self, name: str, contents: str = "compiler 1") -> Path:
        """Install a compiler, or copy another over it."""
        path = self.directory / name
        path.write_text(contents)
        path.chmod(0o755)
        return path

    def answer(self, path: str) -> Answer:
        """Return gethost's answer about a path."""
        contents = Path(path).read_bytes() if Path(path).is_file() else b""
        if not contents.startswith(b"compiler"):
            return Answer(path, None, "it is no compiler", self.files)
        digest = hashlib.sha256(contents).hexdigest()[:16]
        return Answer(path, Compiler(digest, "gcc", "1", "fake", "", path), "", self.files)

    def looks(self) -> set[str]:
        """Look once; return the contents of the compilers that are offered then."""
        self.watch.look(self.passed_s, time.time_ns() + int(self.passed_s * 1e9))
        offered = self.watch.offered()
        return {Path(compiler.path).read_text() for compiler in offered}

    def asks(self) -> set[str]:
        """Look, ask gethost about all that is due, and look at the answers."""
        self.looks()
        self.asked = self.watch.due(self.passed_s)
        # Questions come later than the last change by more than the clock's granularity.
        self.watch.asking(self.asked, time.time_ns() + 1_000_000_000)
        for path in self.asked:
            self.watch.learn(self.answer(path), self.passed_s)
        return self.looks()

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.passed_s += seconds


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_compiler_is_offered_when_its_file_has_settled(host: Host) -> None:
    host.has("gcc")
    assert host.asks() == set()
    assert not host.watch.complete
    host.passes(SETTLED_S)
    assert host.asks() == {"compiler 1"}
    assert host.watch.complete


def test_an_installed_compiler_is_offered_too(host: Host) -> None:
    assert host.asks() == set()
    host.passes(60)
    host.has("gcc")
    host.asks()
    host.passes(SETTLED_S)
    assert host.asks() == {"compiler 1"}


def settled(host: Host, *names: str) -> None:
    """Let these compilers be offered, each with contents of its own."""
    for name in names:
        host.has(name, f"compiler {name}")
    host.asks()
    host.passes(SETTLED_S)
    assert host.asks() == {f"compiler {name}" for name in names}


def test_a_changed_compiler_is_withdrawn_at_once_and_offered_again_later(host: Host) -> None:
    settled(host, "gcc", "clang")
    host.has("gcc", "compiler 2, copied over it")
    host.watch.look(host.passed_s, time.time_ns())
    assert host.watch.due(host.passed_s) == []  # its file may still be written
    assert host.looks() == {"compiler clang"}
    host.passes(2 * SETTLED_S)
    assert host.asks() == {"compiler clang", "compiler 2, copied over it"}


def test_a_removed_compiler_is_withdrawn_at_once(host: Host) -> None:
    settled(host, "gcc", "clang")
    (host.directory / "gcc").unlink()
    assert host.looks() == {"compiler clang"}
    assert host.watch.complete


def test_a_link_that_leads_elsewhere_is_a_change(host: Host, tmp_path: Path) -> None:
    other = host.has("other", "compiler other")
    settled(host, "gcc")
    (tmp_path / "gcc").unlink()
    (tmp_path / "gcc").symlink_to(other)
    assert host.looks() == set()
    host.passes(2 * SETTLED_S)
    assert host.asks() == {"compiler other"}


def test_a_file_that_gethost_names_is_watched(host: Host, tmp_path: Path) -> None:
    part = tmp_path / "cc1"
    part.write_text("the part")
    host.files = (str(part),)
    settled(host, "gcc")
    part.write_text("another part")
    assert host.looks() == set()
    host.passes(2 * SETTLED_S)
    assert host.asks() == {"compiler gcc"}


def test_gethost_is_asked_again_often_only_if_it_names_no_files(host: Host, tmp_path: Path) -> None:
    settled(host, "gcc")
    host.passes(UNNAMED_FILES_S)
    host.files = (str(tmp_path / "gcc"),)
    assert host.asks() == {"compiler gcc"}
    assert len(host.asked) == 1
    host.passes(UNNAMED_FILES_S)
    host.asks()
    assert host.asked == []
    host.passes(NAMED_FILES_S)
    host.asks()
    assert len(host.asked) == 1


def test_an_answer_about_a_file_that_changed_meanwhile_is_dropped(host: Host) -> None:
    path = str(host.has("gcc"))
    host.asks()
    host.passes(SETTLED_S)
    host.looks()
    host.watch.asking(host.watch.due(host.passed_s), time.time_ns() - 1_000_000_000)
    answer = host.answer(path)
    host.has("gcc", "compiler 2")
    host.watch.learn(answer, host.passed_s)
    assert host.looks() == set()
    host.passes(2 * SETTLED_S)
    assert host.asks() == {"compiler 2"}


def test_an_answer_about_a_file_that_is_gone_is_dropped(host: Host) -> None:
    path = host.has("gcc")
    host.asks()
    host.passes(SETTLED_S)
    host.looks()
    host.watch.asking(host.watch.due(host.passed_s), time.time_ns() + 1_000_000_000)
    answer = host.answer(str(path))
    path.unlink()
    host.looks()
    host.watch.learn(answer, host.passed_s)
    assert host.watch.offered() == ()


def test_a_program_without_an_id_is_asked_about_less_and_less_often(host: Host) -> None:
    host.has("gcc", "#!/bin/sh")
    host.asks()
    host.passes(SETTLED_S)
    pause_s, pauses = NO_ID_FIRST_S, 0
    while pause_s < NO_ID_LAST_S:
        host.asks()
        assert len(host.asked) == 1
        host.passes(0.9 * pause_s)
        host.asks()
        assert host.asked == []
        host.passes(0.1 * pause_s + 0.001)
        pause_s, pauses = 2 * pause_s, pauses + 1
    assert pauses == 5
    host.has("gcc")
    host.looks()
    host.passes(2 * SETTLED_S)
    assert host.asks() == {"compiler 1"}


def test_changes_are_asked_about_before_programs_that_may_hang(host: Host) -> None:
    for number in range(3):
        host.has(f"m{number}-gcc", f"no compiler {number}")
    settled(host, "gcc")
    host.has("clang")
    host.passes(UNNAMED_FILES_S + SETTLED_S)
    host.asks()
    assert [Path(path).name for path in host.asked] == ["clang"]
    host.asks()
    assert [Path(path).name for path in host.asked] == ["gcc"]
    for _ in range(3):
        host.asks()
        assert len(host.asked) == 1


def test_five_hundred_compilers_are_asked_about_in_batches(host: Host) -> None:
    for number in range(500):
        host.has(f"machine{number}-gcc", f"compiler {number}")
    host.asks()
    host.passes(SETTLED_S)
    batches = 0
    while not host.watch.complete:
        host.asks()
        assert 0 < len(host.asked) <= BATCH
        batches += 1
        assert batches <= 500
    assert len(host.watch.offered()) == 500


def test_only_wanted_compilers_are_offered(tmp_path: Path) -> None:
    host = Host(tmp_path, "gcc-12", "clang")
    for name in ("gcc", "gcc-12", "g++", "clang"):
        host.has(name, f"compiler {name}")
    host.asks()
    host.passes(SETTLED_S)
    assert host.asks() == {"compiler gcc-12", "compiler clang"}


def test_one_id_is_offered_once_and_has_all_its_names(tmp_path: Path) -> None:
    host = Host(tmp_path, "x-gcc")
    for name in ("gcc", "x-gcc", "y-gcc"):
        host.has(name, "compiler of all")
    host.asks()
    host.passes(SETTLED_S)
    host.asks()
    assert [Path(each.path).name for each in host.watch.offered()] == ["gcc"]
