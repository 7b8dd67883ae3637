"""The links and the list that distccd gets, and the folder in which they are."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from compilefarm.compile_host.compilers.doors import Doors
from compilefarm.compile_host.compilers.enabling import offer_line
from compilefarm.compile_host.compilers.folder import make_folder, remove_folder
from compilefarm.compile_host.compilers.identify import Compiler
from compilefarm.compile_host.load.machine import this_machine
from compilefarm.compile_host.run_directory import RunDirectory


def compiler(digit: str, path: Path | str = "/usr/bin/true", name: str = "gcc") -> Compiler:
    text = f"{name} 1.2-{digit} (fake-linux)"
    return Compiler(16 * digit, name, "1.2", "fake-linux", text, str(path))


def test_a_door_leads_to_its_compiler(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("")
    (tmp_path / "cc").symlink_to(tmp_path / "real")
    doors = Doors(tmp_path / "doors")
    (tmp_path / "doors").mkdir()
    assert doors.open([compiler("a", tmp_path / "cc"), compiler("b", name="clang++")], {})
    lines = doors.list_file.read_text().splitlines()
    assert [Path(line).name for line in lines] == [f"gcc-{16 * 'a'}", f"clang++-{16 * 'b'}"]
    # Not to the link, which may lead to another compiler at any time.
    assert Path(lines[0]).readlink() == tmp_path / "real"


def test_a_closed_door_leads_nowhere(tmp_path: Path) -> None:
    doors = Doors(tmp_path)
    doors.open([compiler("a"), compiler("b")], {})
    gone, stays = map(Path, doors.list_file.read_text().splitlines())
    assert doors.open([compiler("b")], {})
    assert not gone.is_symlink()
    assert stays.is_symlink()
    assert doors.list_file.read_text() == f"{stays}\n"


def test_the_same_list_is_not_written_again(tmp_path: Path) -> None:
    doors = Doors(tmp_path)
    assert doors.open([compiler("a")], {"gcc": "/usr/bin/gcc"})
    written = doors.list_file.stat()
    assert not doors.open([compiler("a")], {"gcc": "/usr/bin/gcc"})
    assert doors.list_file.stat().st_ino == written.st_ino


def test_a_compiler_that_moved_gets_a_new_link(tmp_path: Path) -> None:
    doors = Doors(tmp_path)
    doors.open([compiler("a", "/nowhere/one")], {})
    doors.open([compiler("a", "/nowhere/two")], {})
    assert str(Path(doors.list_file.read_text().strip()).readlink()) == "/nowhere/two"


def test_plain_names_are_in_the_list_as_programs(tmp_path: Path) -> None:
    doors = Doors(tmp_path)
    doors.open([compiler("a")], {"gcc": "/usr/bin/gcc", "clang": None})
    _, gcc, clang = doors.list_file.read_text().splitlines()
    assert gcc == "/usr/bin/gcc"
    # distccd finds the name and cannot run it, as without a list.
    assert Path(clang).name == "clang"
    assert not Path(clang).exists()


def test_distccds_user_can_read_it_whatever_the_umask(tmp_path: Path) -> None:
    import os

    before = os.umask(0o077)
    try:
        doors = Doors(tmp_path)
        doors.open([compiler("a")], {})
    finally:
        os.umask(before)
    assert stat.S_IMODE(doors.list_file.stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "links").stat().st_mode) == 0o755


@pytest.mark.parametrize("root", [True, False])
def test_the_folder_is_made_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: bool
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: _made(tmp_path / "elsewhere"))
    (tmp_path / "run").mkdir()
    run = RunDirectory(tmp_path / "run", this_machine())
    folder = make_folder(run)
    assert folder == (tmp_path / "elsewhere" if root else tmp_path / "run" / "doors")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    Doors(folder).open([compiler("a")], {})
    make_folder(run)  # as after a host that was killed
    assert not list(folder.iterdir())
    remove_folder(run)
    assert not folder.exists()
    assert not list((tmp_path / "run").iterdir())


def _made(path: Path) -> str:
    path.mkdir(mode=0o700)
    return str(path)


def test_the_offer_names_a_target_once_and_the_first_six() -> None:
    assert offer_line(()) == "it offers no compiler"
    assert offer_line((compiler("a"),)) == "it offers gcc 1.2-a (fake-linux)"
    many = tuple(compiler(digit) for digit in "12345678")
    assert offer_line(many[:2]) == "it offers gcc 1.2-1, gcc 1.2-2 (fake-linux)"
    assert offer_line(many).endswith("gcc 1.2-6 (fake-linux) and 2 more")
