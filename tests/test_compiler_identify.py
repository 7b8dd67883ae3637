"""Asking gethost for ids: whatever it prints, or does not print, an inquiry ends."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from run_program import PATIENCE_S

from compilefarm.compile_host.compilers import identify
from compilefarm.compile_host.compilers.identify import Answer, Compiler, Inquiry, gethost_program

ID = "3f9a11c2d4e5f60a"


def gethost(directory: Path, body: str) -> str:
    """Make a program that does what the lines of shell say."""
    path = directory / "gethost"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def prints(directory: Path, *fields: str, then: str = "") -> str:
    """Make a program that prints these fields as one line."""
    (directory / "said").write_text("\t".join(fields) + "\n")
    return gethost(directory, f"cat {directory}/said\n{then}")


def ask(program: str, *paths: str) -> list[Answer]:
    """Ask until there is an answer for each path."""
    inquiry = Inquiry(program, paths, os.environ)
    answers: list[Answer] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while not inquiry.ended:
        answers += inquiry.answers(1.0)
        assert time.monotonic() < deadline_s
    return answers


def test_a_compiler_is_identified(tmp_path: Path) -> None:
    text = "gcc%2012.2.0-14%20(x86_64-linux-gnu)"
    program = prints(tmp_path, ID, "gcc", "12.2.0", "x86_64-linux-gnu", "/opt/a%20b/gcc", text)
    (answer,) = ask(program, "/opt/a b/gcc")
    assert answer.compiler == Compiler(
        ID,
        "gcc",
        "12.2.0",
        "x86_64-linux-gnu",
        "gcc 12.2.0-14 (x86_64-linux-gnu)",
        "/opt/a b/gcc",
    )
    assert answer.compiler.door == f"gcc-{ID}"
    assert answer.files == ()


def test_further_fields_are_the_files_that_it_depends_on(tmp_path: Path) -> None:
    fields = (ID, "gcc", "12", "x-linux", "/gcc", "gcc", "/usr/lib/cc1", "/usr/bin/a%09s")
    (answer,) = ask(prints(tmp_path, *fields), "/gcc")
    assert answer.files == ("/usr/lib/cc1", "/usr/bin/a\ts")


def test_a_program_without_an_id_has_a_reason(tmp_path: Path) -> None:
    program = prints(tmp_path, "-", "-", "-", "-", "/gcc", "/gcc%20is%20a%20script")
    assert ask(program, "/gcc") == [Answer("/gcc", None, "/gcc is a script")]


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("gcc",),
        (ID, "gcc", "12", "x-linux", "/another/path", "gcc"),
        ("short", "gcc", "12", "x-linux", "/gcc", "gcc"),
        (ID.upper(), "gcc", "12", "x-linux", "/gcc", "gcc"),
        (ID, "../gcc", "12", "x-linux", "/gcc", "gcc"),
        (ID, "gcc%0A", "12", "x-linux", "/gcc", "gcc"),
        (ID, "gcc", "1%202", "x-linux", "/gcc", "gcc"),
        (ID, "gcc", "12", "", "/gcc", "gcc"),
        (ID, "gcc", "12", "%FF", "/gcc", "gcc"),
    ],
)
def test_an_odd_line_is_no_answer(tmp_path: Path, fields: tuple[str, ...]) -> None:
    (answer,) = ask(prints(tmp_path, *fields), "/gcc")
    assert answer.compiler is None
    assert "cannot be read" in answer.reason


@pytest.mark.parametrize(
    "body", ["exit 2", "", "kill -9 $$", "cat /dev/zero", "yes ''", "while :; do cat $0; done"]
)
def test_a_gethost_that_fails_is_no_answer(
    tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identify, "ANSWER_LIMIT_BYTES", 100_000)
    answers = ask(gethost(tmp_path, body), "/one", "/two")
    assert [answer.path for answer in answers] == ["/one", "/two"]
    assert {answer.compiler for answer in answers} == {None}


def test_a_gethost_that_hangs_is_killed_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identify, "PATIENCE_S", 0.3)
    monkeypatch.setattr(identify, "PATIENCE_PER_COMPILER_S", 0.0)
    fields = (ID, "gcc", "12", "x-linux", "/one", "gcc")
    program = prints(tmp_path, *fields, then=f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    one, two = ask(program, "/one", "/two")
    assert one.compiler is not None
    assert two.reason == "gethost does not answer"
    pid = int((tmp_path / "pid").read_text())
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_gethost_that_cannot_be_run_is_no_answer(tmp_path: Path) -> None:
    (answer,) = ask(str(tmp_path / "missing"), "/gcc")
    assert answer == Answer("/gcc", None, "gethost cannot be run")


def test_gethost_is_looked_for_beside_the_program_and_then_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("beside", "path", "empty"):
        (tmp_path / name).mkdir()
    answer = r"printf -- '-\t-\t-\t-\t/dev/null\tno\n'"
    beside, on_path = (gethost(tmp_path / name, answer) for name in ("beside", "path"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "beside" / "enable-host")])
    assert gethost_program() == beside
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "empty" / "enable-host")])
    assert gethost_program() == on_path
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert gethost_program() is None


@pytest.mark.parametrize("body", ["exit 2", "exit 0", "echo usage", "exec sleep 600"])
def test_an_older_gethost_or_another_program_of_this_name_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr(identify, "FIRST_PATIENCE_S", 0.5)
    gethost(tmp_path, body)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert gethost_program() is None
