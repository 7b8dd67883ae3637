"""What gethost says of compilers: `gethost --compiler-ids`.

Most tests ask fakes, which are real programs with the answers that a test wants.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from compilers import (
    GCC_SAYS,
    UNKNOWN,
    FakeCompiler,
    build_driver,
    id_of,
    ids,
    reason_of,
    replace_file,
)
from gethost_program import Gethost

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
