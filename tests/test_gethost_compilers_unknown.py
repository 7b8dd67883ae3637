"""Compilers that get no id from gethost, and programs with damaged or missing build ids.

Most tests ask fakes, which are real programs with the answers that a test wants.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from compilers import (
    UNKNOWN,
    FakeCompiler,
    cache_of,
    entries_of,
    id_of,
    reason_of,
    replace_file,
)
from gethost_program import PATIENCE_S, Gethost

# ---- what has no id ------------------------------------------------------------------------------


def test_a_script_is_not_asked(gethost: Gethost) -> None:
    gethost.program("gcc", f"touch {gethost.directory}/ran\necho gcc version 12.2.0")
    assert "is a script" in reason_of(gethost, "gcc")
    assert not (gethost.directory / "ran").exists()


def test_what_is_not_a_compiler(gethost: Gethost, fake: FakeCompiler) -> None:
    for text in ("", "gcc version 12.2.0\n", "Target: x86_64-linux-gnu\n", "my tool 1.0\n"):
        fake.says(text)
        gethost.run("--compiler-ids", "gcc")
        shutil.rmtree(cache_of(gethost), ignore_errors=True)
        assert reason_of(gethost, fake.path).endswith(UNKNOWN)


def test_paths_at_which_there_is_no_program(gethost: Gethost, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "plain").write_text("text")
    (tmp_path / "empty").touch(mode=0o755)
    for name in ("dangling", "loop", "plain", "nothing", "plain/gcc", "."):
        assert reason_of(gethost, tmp_path / name).endswith("is not an executable file")
    assert "is a script" in reason_of(gethost, tmp_path / "empty")
    assert reason_of(gethost, "no-such-compiler") == "no-such-compiler is not in PATH"
    assert reason_of(gethost, "") == " is not in PATH"


def test_a_gcc_that_is_being_installed(gethost: Gethost, fake: FakeCompiler) -> None:
    fake.programs["cc1"].unlink()
    assert "cannot be read (No such file or directory)" in reason_of(gethost, fake.path)
    fake.programs["cc1"].write_text("the cc1 of 12.2.0\n")
    assert id_of(gethost, fake.path)


def test_a_compiler_that_changes_while_it_is_asked(gethost: Gethost, fake: FakeCompiler) -> None:
    fake.answer("upgrades", str(fake.programs["cc1"]))
    for _ in range(2):
        assert "changes at this moment" in reason_of(gethost, fake.path)
    assert entries_of(gethost) == []
    fake.forget_answer("upgrades")
    assert id_of(gethost, fake.path)


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def members_of_group(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_alive(int(entry.name)):
            try:
                if os.getpgid(int(entry.name)) == group:
                    found.append(int(entry.name))
            except ProcessLookupError:
                pass
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("hangs", "does not say its version in time"),
        ("floods", "does not stop saying its version"),
    ],
)
def test_a_compiler_that_gives_no_answer_is_killed_and_remembered(
    gethost: Gethost, fake: FakeCompiler, behaviour: str, reason: str
) -> None:
    fake.answer(behaviour)
    started_s = time.monotonic()
    assert reason_of(gethost, fake.path).endswith(reason)
    assert time.monotonic() - started_s < PATIENCE_S / 2
    assert fake.asked() == ["-v"]
    assert members_of_group(fake.askers()[0]) == []
    reason_of(gethost, fake.path)  # at once
    assert fake.asked() == ["-v"]


@pytest.mark.slow
def test_a_process_that_a_compiler_leaves_behind_is_killed(
    gethost: Gethost, fake: FakeCompiler
) -> None:
    fake.answer("stays")
    assert reason_of(gethost, fake.path)
    assert members_of_group(fake.askers()[0]) == []


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users can get at."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to become another user")
def test_a_compiler_that_may_be_run_but_not_read(
    gethost_path: Path, driver: Path, open_directory: Path
) -> None:
    fake = FakeCompiler(driver, open_directory / "fake")
    fake.path.chmod(0o711)
    program, home = open_directory / "gethost", open_directory / "home"
    shutil.copy(gethost_path, program)
    home.mkdir()
    home.chmod(0o777)
    result = subprocess.run(
        [program, "--compiler-ids", fake.path],
        user=65534,
        group=65534,
        extra_groups=[],
        env={"PATH": "/usr/bin", "HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("-\t-\t-\t-\t")
    assert "cannot%20be%20read%20(Permission%20denied)" in result.stdout


# ---- damaged programs ----------------------------------------------------------------------------

HEADER_SIZE, ENTRY_SIZE, NOTE = 64, 56, 4


def program_with_notes(notes: bytes, **changed: int) -> bytes:
    """Return an ELF file for 64-bit machines, with one segment of notes."""
    numbers = {
        "table": HEADER_SIZE,
        "entry_size": ENTRY_SIZE,
        "entries": 1,
        "offset": HEADER_SIZE + ENTRY_SIZE,
        "size": len(notes),
        "class": 2,
        "data": 1,
    } | changed
    ident = b"\x7fELF" + bytes([numbers["class"], numbers["data"], 1]) + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, numbers["table"], 0, 0, 64,
                                 numbers["entry_size"], numbers["entries"], 0, 0, 0)  # fmt: skip
    entry = struct.pack(
        "<IIQQQQQQ", NOTE, 4, numbers["offset"], 0, 0, numbers["size"], numbers["size"], 4
    )
    return header + entry + notes


def note(
    owner: bytes,
    value: bytes,
    kind: int = 3,
    owner_size: int | None = None,
    value_size: int | None = None,
) -> bytes:
    """Return a note; its sizes may be wrong."""
    sizes = (
        len(owner) if owner_size is None else owner_size,
        len(value) if value_size is None else value_size,
    )
    head = struct.pack("<III", *sizes, kind)
    return head + owner + bytes(-len(owner) % 4) + value + bytes(-len(value) % 4)


BUILD_ID = note(b"GNU\0", bytes(range(20)))
BROKEN = {
    "nothing after the magic": b"\x7fELF",
    "half a header": program_with_notes(BUILD_ID)[:40],
    "no table": program_with_notes(BUILD_ID)[:64],
    "half a table": program_with_notes(BUILD_ID)[:100],
    "half a note": program_with_notes(BUILD_ID)[:-10],
    "an unknown class": program_with_notes(BUILD_ID, **{"class": 3}),
    "another order of bytes": program_with_notes(BUILD_ID, data=2),
    "entries of another size": program_with_notes(BUILD_ID, entry_size=1),
    "a table far away": program_with_notes(BUILD_ID, table=2**64 - 8),
    "a table beyond the end": program_with_notes(BUILD_ID, table=1 << 20),
    "notes far away": program_with_notes(BUILD_ID, offset=2**63),
    "notes beyond the end": program_with_notes(BUILD_ID, offset=2**64 - 1),
    "huge notes": program_with_notes(BUILD_ID, size=2**64 - 1),
    "large notes": program_with_notes(BUILD_ID, size=16 * 1024),
    "no notes": program_with_notes(b""),
    "a huge name": program_with_notes(note(b"GNU\0", b"1234", owner_size=2**32 - 1)),
    "a huge value": program_with_notes(note(b"GNU\0", b"1234", value_size=2**32 - 1)),
    "a value of one byte too many": program_with_notes(note(b"GNU\0", b"1234", value_size=5)),
    "a long build id": program_with_notes(note(b"GNU\0", bytes(65))),
    "an empty build id": program_with_notes(note(b"GNU\0", b"")),
    "another owner": program_with_notes(note(b"GNX\0", b"1234")),
    "another note": program_with_notes(note(b"GNU\0", b"1234", kind=1)),
    "an end within a note's head": program_with_notes(note(b"GNU\0", b"1234", kind=1) + b"12345"),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_the_contents_of_a_damaged_program_count(
    gethost: Gethost, fake: FakeCompiler, data: bytes
) -> None:
    cc1 = fake.programs["cc1"]
    replace_file(cc1, data)
    before = id_of(gethost, fake.path)
    replace_file(cc1, data + b"!")
    assert id_of(gethost, fake.path) != before


@pytest.mark.parametrize(
    "notes",
    [BUILD_ID, note(b"stapsdt\0", b"12345", kind=3) + BUILD_ID, note(b"", b"") + BUILD_ID],
    ids=["alone", "second", "after an empty one"],
)
def test_a_build_id_among_notes(gethost: Gethost, fake: FakeCompiler, notes: bytes) -> None:
    cc1 = fake.programs["cc1"]
    data = program_with_notes(notes, entries=65535)
    replace_file(cc1, data)
    before = id_of(gethost, fake.path)
    replace_file(cc1, data + b"!")
    assert id_of(gethost, fake.path) == before
    replace_file(cc1, data.replace(bytes(range(20)), bytes(range(1, 21))))
    assert id_of(gethost, fake.path) != before
