"""What gethost says of compilers: `gethost --compiler-ids`, and the cache behind it.

Most tests ask fakes, which are real programs with the answers that a test wants.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compilers import (
    GCC_SAYS,
    FakeCompiler,
    build_driver,
    id_of,
    ids,
    reason_of,
    replace_file,
)
from gethost_program import PATIENCE_S, SOURCES, Gethost

UNKNOWN = "is not a compiler that the farm knows"
QUESTIONS = ["-v", "-print-prog-name=cc1", "-print-prog-name=as", "-print-prog-name=cc1plus"]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that all fakes are copies of."""
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def fake(driver: Path, tmp_path: Path) -> FakeCompiler:
    """A gcc."""
    return FakeCompiler(driver, tmp_path / "fake")


def cache_of(gethost: Gethost) -> Path:
    return gethost.directory / ".cache" / "compilefarm" / "compilers"


def entries_of(gethost: Gethost) -> list[Path]:
    return [path for path in cache_of(gethost).iterdir() if path.name != "lock"]


# ---- the digest ----------------------------------------------------------------------------------

DIGEST = r"""
#include <stdio.h>
#include "sha256.h"
int main(void)
{
    static char data[1 << 21];
    struct sha256 sum;
    char text[SHA256_TEXT_SIZE];
    size_t length, size = fread(data, 1, sizeof data, stdin);
    for (size_t step = 1; step <= 130; step += 43) { /* in parts of several lengths */
        sha256_start(&sum);
        for (size_t at = 0; at < size; at += length) {
            length = size - at < step ? size - at : step;
            sha256_add(&sum, data + at, length);
        }
        sha256_end(&sum, text);
        puts(text);
    }
    return 0;
}
"""


@pytest.fixture(scope="session")
def digest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that prints the digests of its input."""
    directory = tmp_path_factory.mktemp("digest")
    (directory / "digest.c").write_text(DIGEST)
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}"]
    sources = [directory / "digest.c", SOURCES / "sha256.c"]
    program = directory / "digest"
    subprocess.run(["cc", *flags, "-o", program, *sources], check=True)
    return program


def digests(program: Path, data: bytes) -> set[str]:
    result = subprocess.run([program], input=data, capture_output=True, check=True)
    lines = result.stdout.decode().split()
    assert len(lines) == 4
    return set(lines)


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # from NIST's examples for FIPS 180-4
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ],
)
def test_sha256_gives_the_standards_examples(digest: Path, data: bytes, expected: str) -> None:
    assert digests(digest, data) == {expected}


@pytest.mark.slow
def test_sha256_is_right_for_every_length_around_a_block(digest: Path) -> None:
    for length in [*range(50, 70), *range(115, 132), 1023, 1024]:
        data = bytes(range(256)) * 4
        assert digests(digest, data[:length]) == {hashlib.sha256(data[:length]).hexdigest()}


# ---- equal and unequal compilers -----------------------------------------------------------------


def test_the_facts_about_a_compiler(gethost: Gethost, fake: FakeCompiler) -> None:
    (row,) = ids(gethost, fake.path)
    assert (row.name, row.version, row.target) == ("gcc", "12.2.0", "x86_64-linux-gnu")
    assert row.path == str(fake.path)
    assert row.text == "gcc 12.2.0-14+deb12u1 (x86_64-linux-gnu)"
    # clang would misread a door's name with another end.
    assert set(row.id) <= set("0123456789abcdef")
    assert row.id[-1] in "abdef"


@pytest.mark.needs("gcc")
def test_a_compiler_has_one_id_under_all_its_names(gethost: Gethost, tmp_path: Path) -> None:
    found = shutil.which("gcc", path="/usr/bin")
    if found is None:
        pytest.skip("there is no /usr/bin/gcc")
    real = Path(found).resolve()
    names: list[str | Path] = [
        path for path in Path("/usr/bin").iterdir() if path.resolve() == real
    ]
    assert Path("/usr/bin/gcc") in names
    elsewhere = tmp_path / "elsewhere" / "my-gcc"
    elsewhere.parent.mkdir()
    elsewhere.symlink_to(real)
    names += [elsewhere, "gcc"]
    assert len({row.id for row in ids(gethost, *names)}) == 1
    assert {row.name for row in ids(gethost, *names)} == {"gcc"}


@pytest.mark.needs("gcc", "g++")
def test_gcc_and_gxx_are_different(gethost: Gethost) -> None:
    gcc, gxx = ids(gethost, "gcc", "g++")
    assert (gcc.name, gxx.name) == ("gcc", "g++")
    assert gcc.id != gxx.id


@pytest.mark.slow
@pytest.mark.needs("gcc", "clang", "clang++")
def test_clang_is_another_compiler_and_so_is_clangxx(gethost: Gethost) -> None:
    rows = ids(gethost, "gcc", "clang", "clang++")
    assert [row.name for row in rows] == ["gcc", "clang", "clang++"]
    assert len({row.id for row in rows}) == 3


@pytest.mark.slow
@pytest.mark.needs("clang")
def test_the_name_of_clang_decides_what_it_does(gethost: Gethost, tmp_path: Path) -> None:
    names = [
        "clang",
        "cc",
        "my-clang",
        "clang-14.0",
        "clang++",
        "c++",
        "aarch64-linux-gnu-clang",
        "aarch64-linux-gnu-clang++-14",
        "clang-cl",
    ]
    clang = shutil.which("clang")
    assert clang
    for name in names:
        (tmp_path / name).symlink_to(Path(clang).resolve())
    rows = ids(gethost, *(tmp_path / name for name in names))
    assert [row.name for row in rows] == [
        *["clang"] * 4,
        *["clang++"] * 2,
        "aarch64-linux-gnu-clang",
        "aarch64-linux-gnu-clang++",
        "-",
    ]
    assert len({row.id for row in rows}) == 5
    assert [row.target.partition("-")[0] for row in rows[6:8]] == ["aarch64"] * 2
    assert "is not called as a compiler of C or C++" in rows[8].text


@pytest.mark.needs("aarch64-linux-gnu-gcc")
def test_a_cross_compiler_has_another_target(gethost: Gethost) -> None:
    (row,) = ids(gethost, "aarch64-linux-gnu-gcc")
    assert (row.name, row.target) == ("gcc", "aarch64-linux-gnu")


@pytest.mark.parametrize("program", ["cc1", "cc1plus", "as"])
def test_a_changed_program_makes_another_compiler(
    gethost: Gethost, fake: FakeCompiler, program: str
) -> None:
    before = id_of(gethost, fake.path)
    path = fake.programs[program]
    replace_file(path, path.read_bytes().replace(b"12.2.0", b"12.2.1"), like=path.stat())
    after = id_of(gethost, fake.path)
    assert after != before
    replace_file(path, path.read_bytes().replace(b"12.2.1", b"12.2.0"))
    assert id_of(gethost, fake.path) == before


def test_the_build_id_stands_for_the_contents_of_a_program(
    gethost: Gethost, fake: FakeCompiler, driver: Path
) -> None:
    replace_file(fake.programs["cc1"], driver.read_bytes())
    before = id_of(gethost, fake.path)
    replace_file(fake.programs["cc1"], driver.read_bytes() + b"what a packager's tool added")
    assert id_of(gethost, fake.path) == before


def test_the_contents_count_without_a_build_id(
    gethost: Gethost, fake: FakeCompiler, tmp_path: Path
) -> None:
    bare = build_driver(tmp_path, "-Wl,--build-id=none")
    replace_file(fake.path, bare.read_bytes())
    before = id_of(gethost, fake.path)
    replace_file(fake.path, bare.read_bytes() + b"!")
    assert id_of(gethost, fake.path) != before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("12.2.0-14+deb12u1)", "12.2.0-15)"),
        ("Target: x86_64", "Target: i686"),
        ("configure -v", "configure -v --disable-default-pie"),
        ("posix", "single"),
    ],
)
def test_what_a_driver_says_of_itself_counts(
    gethost: Gethost, fake: FakeCompiler, driver: Path, old: str, new: str
) -> None:
    before = id_of(gethost, fake.path)
    fake.says(GCC_SAYS.replace(old, new))
    replace_file(fake.path, driver.read_bytes())  # as an upgrade does
    assert id_of(gethost, fake.path) != before


def test_paths_do_not_count(gethost: Gethost, fake: FakeCompiler, driver: Path) -> None:
    other = FakeCompiler(driver, gethost.directory / "other", "x86_64-linux-gnu-gcc-12")
    other.says(GCC_SAYS.replace("COLLECT_GCC=gcc", "COLLECT_GCC=/elsewhere/gcc"))
    assert id_of(gethost, other.path) == id_of(gethost, fake.path)


def test_a_specs_file_counts_with_its_contents(gethost: Gethost, fake: FakeCompiler) -> None:
    specs = gethost.directory / "specs"
    specs.write_text("*cc1:\n-O0\n")
    fake.says(GCC_SAYS.replace("Using built-in specs.", f"Reading specs from {specs}"))
    before = id_of(gethost, fake.path)
    specs.write_text("*cc1:\n-O1\n")
    assert id_of(gethost, fake.path) != before


def test_a_configuration_file_of_clang_counts(gethost: Gethost, driver: Path) -> None:
    clang = FakeCompiler(driver, gethost.directory / "llvm", "clang")
    settings = gethost.directory / "clang.cfg"
    settings.write_text("-march=x86-64-v2\n")
    clang.says(
        f"clang version 16.0.6\nTarget: x86_64-pc-linux-gnu\nConfiguration file: {settings}\n"
    )
    before = id_of(gethost, clang.path)
    settings.write_text("-march=x86-64-v3\n")
    assert id_of(gethost, clang.path) != before
    settings.write_text("-march=x86-64-v3\n@more.cfg\n")
    assert "includes other files" in reason_of(gethost, clang.path)


def test_a_gcc_without_cc1plus_is_another_one(gethost: Gethost, fake: FakeCompiler) -> None:
    before = id_of(gethost, fake.path)
    fake.forget_answer("cc1plus")
    fake.programs["cc1plus"].unlink()
    without = id_of(gethost, fake.path)
    assert without != before
    fake.programs["cc1plus"].write_text("the cc1plus of 12.2.0\n")
    fake.answer("cc1plus", f"{fake.programs['cc1plus']}\n")
    assert id_of(gethost, fake.path) == before


def test_the_assembler_is_looked_up_in_path(gethost: Gethost, fake: FakeCompiler) -> None:
    fake.forget_answer("as")
    gethost.program("gas", "true")
    first, second = gethost.directory / "first", gethost.directory / "second"
    for directory in (first, second):
        directory.mkdir()
    replace_file(second / "as", b"one")
    path = f"{first}:{second}:/usr/bin"
    before = id_of(gethost, fake.path, PATH=path)
    assert id_of(gethost, fake.path, PATH=path) == before
    replace_file(first / "as", b"other")
    assert id_of(gethost, fake.path, PATH=path) != before


# ---- finding the driver --------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["ccache", "distcc", "icecc", "sccache", "gethost"])
def test_a_masquerade_is_passed_over(
    gethost: Gethost, fake: FakeCompiler, driver: Path, wrapper: str
) -> None:
    masquerade = gethost.directory / "masquerade"
    masquerade.mkdir()
    shutil.copy(driver, masquerade / wrapper)
    (masquerade / "gcc").symlink_to(wrapper)
    path = f"{masquerade}:{fake.directory}:/usr/bin"
    (row,) = ids(gethost, "gcc", PATH=path)
    assert (row.id, row.path) == (id_of(gethost, fake.path), str(fake.path))
    # It is no compiler by its own name, or by its path, either.
    assert reason_of(gethost, wrapper, PATH=path).endswith(UNKNOWN)
    assert reason_of(gethost, masquerade / "gcc").endswith(UNKNOWN)


def test_gethost_itself_is_passed_over(gethost: Gethost, fake: FakeCompiler) -> None:
    masquerade = gethost.directory / "masquerade"
    masquerade.mkdir()
    (masquerade / "gcc").symlink_to(gethost.path)
    assert id_of(gethost, "gcc", PATH=f"{masquerade}:{fake.directory}:/usr/bin")


def test_a_compiler_that_is_installed_before_another_counts_at_once(
    gethost: Gethost, fake: FakeCompiler, driver: Path
) -> None:
    first = gethost.directory / "first"
    path = f"{first}:{fake.directory}:/usr/bin"
    before = id_of(gethost, "gcc", PATH=path)
    newer = FakeCompiler(driver, first)
    newer.says(GCC_SAYS.replace("12.2.0", "13.1.0"))
    (row,) = ids(gethost, "gcc", PATH=path)
    assert (row.version, row.path) == ("13.1.0", str(newer.path))
    newer.path.unlink()
    assert id_of(gethost, "gcc", PATH=path) == before


def test_a_word_with_a_relative_path(gethost: Gethost, fake: FakeCompiler) -> None:
    (row,) = ids(gethost, "fake/gcc")
    assert (row.id, row.path) == (id_of(gethost, fake.path), f"{gethost.directory}/fake/gcc")


def test_a_relative_directory_in_path_depends_on_where_one_is(
    gethost: Gethost, fake: FakeCompiler, tmp_path: Path
) -> None:
    path = "fake:/nowhere"
    assert id_of(gethost, "gcc", PATH=path) == id_of(gethost, fake.path)
    gethost.directory = tmp_path / "elsewhere"
    gethost.directory.mkdir()
    assert reason_of(gethost, "gcc", PATH=path) == "gcc is not in PATH"


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
