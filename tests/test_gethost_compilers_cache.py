"""The cache behind `gethost --compiler-ids`.

Most tests ask fakes, which are real programs with the answers that a test wants.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from compilers import (
    QUESTIONS,
    FakeCompiler,
    cache_of,
    entries_of,
    id_of,
    ids,
)
from gethost_program import Gethost

# ---- the cache -----------------------------------------------------------------------------------


def test_a_compiler_is_asked_once(gethost: Gethost, fake: FakeCompiler) -> None:
    first = id_of(gethost, fake.path)
    assert fake.asked() == QUESTIONS
    assert id_of(gethost, fake.path) == first
    assert fake.asked() == QUESTIONS


@pytest.mark.slow
def test_many_gethosts_at_once_ask_once(gethost: Gethost, fake: FakeCompiler) -> None:
    processes = [gethost.start("--compiler-ids", str(fake.path)) for _ in range(32)]
    answers = {process.communicate(timeout=60)[0] for process in processes}
    assert len(answers) == 1
    assert fake.asked() == QUESTIONS


def test_the_files_that_decide_the_answer_are_named(gethost: Gethost, fake: FakeCompiler) -> None:
    fake.forget_answer("as")
    fake.programs["as"].chmod(0o755)
    nowhere, scripts = gethost.directory / "nowhere", gethost.directory / "bin"
    gethost.program("gcc", "exit 1")
    path = f"{nowhere}:{scripts}:{fake.directory}"
    compiler, script = ids(gethost, fake.path, "gcc", PATH=path)
    assert compiler.files == {
        str(fake.path),
        *map(str, fake.programs.values()),
        f"{nowhere}/as",
        f"{scripts}/as",
    }
    assert script.files == {f"{nowhere}/gcc", f"{scripts}/gcc"}


def test_a_directory_in_path_may_have_spaces_and_more(gethost: Gethost, driver: Path) -> None:
    odd = FakeCompiler(driver, gethost.directory / "a b%\tc")
    first = id_of(gethost, odd.path)
    assert id_of(gethost, odd.path) == first
    assert odd.asked() == QUESTIONS


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda data: data[: len(data) // 2],
    "no newline": lambda data: data[:-1],
    "longer": lambda data: data + b"x\n",
    "another id": lambda data: data.replace(data[14:18], b"0000", 1),
    "another version": lambda data: data.replace(b"compiler-id 1", b"compiler-id 2"),
    "noise": lambda _: bytes(range(256)) * 8,
    "zeros": lambda data: bytes(len(data)),
    "huge": lambda data: data * 300,
    "only a sum": lambda data: data[-17:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_entry_counts_as_none(
    gethost: Gethost, fake: FakeCompiler, damage: Callable[[bytes], bytes]
) -> None:
    first = id_of(gethost, fake.path)
    (entry,) = entries_of(gethost)
    entry.write_bytes(damage(entry.read_bytes()))
    assert id_of(gethost, fake.path) == first
    assert fake.asked() == QUESTIONS * 2
    assert id_of(gethost, fake.path) == first
    assert fake.asked() == QUESTIONS * 2


def fnv(data: bytes) -> bytes:
    hash_ = 14695981039346656037
    for byte in data:
        hash_ = (hash_ ^ byte) * 1099511628211 % 2**64
    return b"%016x\n" % hash_


FORGED = [
    b"compiler-id 1\n",
    b"compiler-id 1",
    b"",
    b"compiler-id 9\nx\n",
    b"compiler-id 1\n0123456789abcdef\n",
    b"compiler-id 1\n" + b" ".join([b"x" * 5000] * 8) + b"\n",
    b"compiler-id 1\n0123456789abcdef gcc 1 t %zz  /p 0\n",
    b"compiler-id 1\n0123456789abcdef gcc 1 t x  /p 99999999999999999999999\n",
    b"compiler-id 1\n0123456789abcdef gcc 1 t x  /p 0 more\n",
    b"compiler-id 1\n0123456789abcdef gcc 1 t x  /p 0\n/ 1 2 3\n",
    b"compiler-id 1\n0123456789abcdef gcc 1 t x  /p 0\n/ 1 2 3 4 5 6\n",
    b"compiler-id 1\n0123456789abcdef gcc 1 t x  /p 0\n\n",
]


@pytest.mark.parametrize("text", FORGED)
def test_an_entry_with_a_right_sum_that_makes_no_sense(
    gethost: Gethost, fake: FakeCompiler, text: bytes
) -> None:
    first = id_of(gethost, fake.path)
    (entry,) = entries_of(gethost)
    assert entry.read_bytes().endswith(fnv(entry.read_bytes()[:-17]))
    entry.write_bytes(text + fnv(text))
    assert id_of(gethost, fake.path) == first
    assert fake.asked() == QUESTIONS * 2


def test_an_entry_that_is_not_a_file(gethost: Gethost, fake: FakeCompiler) -> None:
    first = id_of(gethost, fake.path)
    (entry,) = entries_of(gethost)
    elsewhere = gethost.directory / "entry"
    entry.rename(elsewhere)
    entry.symlink_to(elsewhere)
    assert id_of(gethost, fake.path) == first
    assert fake.asked() == QUESTIONS * 2
    entry.unlink()
    entry.mkdir()
    assert id_of(gethost, fake.path) == first  # each time anew


def test_a_cache_that_others_can_write_to_is_not_used(gethost: Gethost, fake: FakeCompiler) -> None:
    first = id_of(gethost, fake.path)
    cache_of(gethost).parent.chmod(0o777)
    assert id_of(gethost, fake.path) == first
    assert fake.asked() == QUESTIONS * 2
    assert (gethost.directory / "runtime" / "compilefarm" / "compilers").is_dir()


def test_the_cache_does_not_grow_without_end(gethost: Gethost, fake: FakeCompiler) -> None:
    id_of(gethost, fake.path)
    for number in range(1100):
        (cache_of(gethost) / f"{number:016x}").touch()
    id_of(gethost, fake.path, PATH="/usr/bin")
    assert len(entries_of(gethost)) == 1


def test_variables_that_gcc_obeys_are_told_apart(gethost: Gethost, fake: FakeCompiler) -> None:
    first = id_of(gethost, fake.path)
    fake.programs["cc1"].rename(fake.directory / "other")
    fake.answer("cc1", f"{fake.directory}/other\n")
    (fake.directory / "cc1").write_text("the cc1 of 12.2.0\n")
    assert id_of(gethost, fake.path, COMPILER_PATH="/elsewhere") == first
    assert fake.asked() == QUESTIONS * 2
