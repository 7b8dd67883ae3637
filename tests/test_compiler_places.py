"""Which files may be compilers, and which names distccd accepts by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from compilefarm.compile_host.compilers import places
from compilefarm.compile_host.compilers.places import (
    Places,
    candidates,
    places_of,
    plain_names,
)


def program(path: Path) -> Path:
    """Make an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("compiler")
    path.chmod(0o755)
    return path


def found(*directories: Path) -> dict[str, tuple[str, ...]]:
    """Return the candidates in these directories, by the names of their files."""
    return {
        Path(path).name: names
        for path, names in candidates(Places(tuple(map(str, directories)))).items()
    }


@pytest.mark.parametrize(
    "name",
    [
        *("gcc", "g++", "cc", "c++", "clang", "clang++", "gcc-12", "clang++-16", "gcc-4.9"),
        *("x86_64-linux-gnu-gcc", "aarch64-linux-gnu-g++-12", "avr-gcc", "arm-none-eabi-gcc"),
        *("x86_64-w64-mingw32-gcc-posix", "x86_64-w64-mingw32-g++-12-win32", "i686-clang"),
    ],
)
def test_a_program_with_the_name_of_a_compiler_is_a_candidate(tmp_path: Path, name: str) -> None:
    program(tmp_path / name)
    assert found(tmp_path) == {name: (name,)}


@pytest.mark.parametrize(
    "name",
    [
        *("gcc-ar-12", "x86_64-linux-gnu-gcc-nm", "clang-cpp-14", "clang-format", "gccgo", "cpp"),
        *("clang-tidy-14", "gcc.real", "distcc", "ccache", "cc1", "g++~", "gcc-12\n", "tcc"),
    ],
)
def test_other_programs_are_not(tmp_path: Path, name: str) -> None:
    program(tmp_path / name)
    assert found(tmp_path) == {}


def test_a_masquerade_is_passed_over(tmp_path: Path) -> None:
    real = program(tmp_path / "usr" / "gcc")
    links = tmp_path / "links"
    links.mkdir()
    for name, masquerade in (("gcc", "ccache"), ("g++", "distcc"), ("cc", "gethost")):
        (links / name).symlink_to(program(tmp_path / masquerade))
    assert candidates(Places((str(links), str(real.parent)))) == {str(real): ("gcc",)}


def test_what_is_no_program_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "gcc").mkdir()
    (tmp_path / "g++").symlink_to(tmp_path / "nowhere")
    (tmp_path / "clang").write_text("it may not be run")
    assert found(tmp_path, tmp_path / "missing") == {}


def test_links_that_differ_in_version_or_directory_are_one_candidate(tmp_path: Path) -> None:
    real = program(tmp_path / "x86_64-linux-gnu-gcc-12")
    for name in ("gcc", "gcc-12", "x86_64-linux-gnu-gcc"):
        (tmp_path / name).symlink_to(real.name)
    (tmp_path / "bin").symlink_to(tmp_path)
    assert found(tmp_path, tmp_path / "bin") == {
        "gcc": ("gcc", "gcc-12"),
        "x86_64-linux-gnu-gcc": ("x86_64-linux-gnu-gcc", "x86_64-linux-gnu-gcc-12"),
    }


def test_a_compiler_that_minds_its_name_is_one_candidate_for_each(tmp_path: Path) -> None:
    clang = program(tmp_path / "clang")
    (tmp_path / "clang++").symlink_to(clang)
    (tmp_path / "arm-linux-gnueabi-clang").symlink_to(clang)
    assert set(found(tmp_path)) == {"clang", "clang++", "arm-linux-gnueabi-clang"}


def test_their_number_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "CANDIDATES_MAX", 3)
    for number in range(1, 6):
        program(tmp_path / "first" / f"m{number}-gcc")
    program(tmp_path / "second" / "gcc")
    assert set(found(tmp_path / "first", tmp_path / "second")) == {"m1-gcc", "m2-gcc", "m3-gcc"}


def test_distccds_own_path_counts(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:.::relative:/bin:/usr/bin"}
    found = places_of(environment, "/usr/local/bin/distccd", [tmp_path])
    assert found.path == ("/usr/bin", "/bin")
    assert found.others == (str(tmp_path),)
    assert found.allowed[0] == "/usr/lib/distcc"
    assert "/usr/local/lib/distcc" in found.allowed
    own = places_of(environment | {"DISTCCD_PATH": "/opt/bin"}, "/usr/bin/distccd", [])
    assert own.path == ("/opt/bin",)


def test_a_plain_name_runs_the_first_compiler_in_path(tmp_path: Path) -> None:
    allowed, bin_ = tmp_path / "lib" / "distcc", tmp_path / "bin"
    for name in ("gcc", "clang"):
        program(allowed / name)
    (allowed / "g++").symlink_to(tmp_path / "nowhere")
    masquerade = tmp_path / "masquerade"
    masquerade.mkdir()
    (masquerade / "gcc").symlink_to(program(tmp_path / "distcc"))
    program(bin_ / "gcc")
    program(bin_ / "gcc-12")
    where = Places((str(masquerade), str(bin_)), allowed=(str(allowed), str(tmp_path / "none")))
    assert plain_names(where) == {"clang": None, "gcc": str(bin_ / "gcc")}
