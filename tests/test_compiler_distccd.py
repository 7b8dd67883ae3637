"""The doors of a real distccd: which names it runs, and what a change does to its workers."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from compiler_host import KNOWS_IDS, HostList, install, install_variant, list_in
from desk import Desk
from run_program import eventually, program_environment
from scripted_server import ScriptedServer

from compilefarm.compile_host.processes import compiles

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.needs("gcc", "objcopy")]

SOURCE = "int main(void) { return 0; }\n"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(KNOWS_IDS) as scripted:
        yield scripted


class Host(Desk):
    """A host with the real distccd, the gethost under test, and an extra directory in PATH."""

    def __init__(self, directory: Path, server: ScriptedServer, gethost: Path) -> None:
        super().__init__(directory, server.name, program_environment())
        self.bin = directory / "bin"
        self.work = directory / "work"
        self.list = HostList(server)
        self._doors = directory / "builder"
        self._started = 0
        for each in (self.bin, self.work, self._doors):
            each.mkdir()
        (self.bin / "gethost").symlink_to(gethost)
        self.environment["PATH"] = f"{self.bin}:{os.environ['PATH']}"

    def found(self) -> dict[str, str]:
        """Return the list for distccd: the program that each name runs."""
        return list_in(Path((self.run_dir / self.name / "doors-folder").read_text()))

    def workers(self) -> set[int]:
        """Return distccd's workers."""
        tree = self.tree("distccd")
        return {each.pid for each in tree.read().values() if each.parent == tree.root_pid}

    def start(self, compiler: str) -> subprocess.Popen[str]:
        """Start a compile on the host under this name; the builder has the host's compiler."""
        self._started += 1
        file = self.work / f"{self._started}.c"
        file.write_text(SOURCE)
        file.with_suffix(".distcc").mkdir()
        link = self._doors / compiler
        if not link.is_symlink() and "/" not in compiler:
            found = self.found().get(compiler, "/usr/bin/gcc")
            # A script on the host stands for a compiler that the builder has.
            is_script = Path(found).read_bytes().startswith(b"#!")
            link.symlink_to("/usr/bin/gcc" if is_script else found)
        return subprocess.Popen(
            ["distcc", compiler, "-O2", "-c", file, "-o", file.with_suffix(".o")],
            env=dict(os.environ)
            | {
                "PATH": f"{self._doors}:{os.environ['PATH']}",
                "DISTCC_HOSTS": f"{self.name}/20",
                "DISTCC_FALLBACK": "0",
                "DISTCC_SKIP_LOCAL_RETRY": "1",
                "DISTCC_NO_REWRITE_CROSS": "1",
                # One for each compile: distcc would avoid the host for a time after a failure.
                "DISTCC_DIR": str(file.with_suffix(".distcc")),
            },
            stderr=subprocess.PIPE,
            text=True,
        )

    def compiles(self, compiler: str) -> int:
        """Compile on the host; return distcc's exit status."""
        with self.start(compiler) as process:
            process.communicate(timeout=60)
            return process.returncode


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for distccd's user, who cannot enter pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def host(place: Path, server: ScriptedServer, gethost_path: Path) -> Iterator[Host]:
    made = Host(place, server, gethost_path)
    yield made
    made.disable("--grace", 0)
    assert made.clean


def test_doors_and_plain_names_are_run_and_others_are_refused(host: Host) -> None:
    done = host.enable("--slots", 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nit offers " in done.stdout
    doors = host.list.next()
    assert {door.rpartition("-")[0] for door in doors} >= {"gcc", "g++"}
    plain = {"gcc", "/usr/bin/gcc", "cc"} & {*host.found(), "/usr/bin/gcc"}
    assert {name: host.compiles(name) for name in (*doors, *plain)} == dict.fromkeys(
        (*doors, *plain), 0
    )
    some_door = next(iter(doors))
    other = some_door[:-4] + ("beef" if not some_door.endswith("beef") else "feed")
    for name in (other, "gcc-nothing"):
        assert host.compiles(name) >= 100


def test_a_compiler_that_comes_changes_and_goes_counts_and_idle_workers_are_replaced(
    host: Host,
) -> None:
    host.enable("--slots", 2)
    before = host.list.next()
    # Each worker reads the list at its first compile.
    for _ in range(6):
        assert host.compiles("gcc") == 0
    workers = host.workers()
    gcc = install_variant(host.bin / "gcc-99", 1)
    with_first = host.list.next()
    (first,) = with_first - before
    eventually(lambda: not host.workers() & workers)
    for _ in range(6):
        assert host.compiles(first) == 0

    install_variant(gcc, 2)
    assert host.list.next() == before
    (second,) = host.list.next() - before
    assert host.compiles(first) >= 100
    for _ in range(6):
        assert host.compiles(second) == 0

    gcc.unlink()
    assert host.list.next() == before
    assert host.compiles(second) >= 100
    assert host.compiles("gcc") == 0


def test_a_worker_that_compiles_is_left_alone_and_replaced_when_it_is_idle(
    host: Host, place: Path
) -> None:
    wait = f"while ! [ -e {place}/go ]; do sleep 0.01; done"
    install(host.bin / "cc", f'#!/bin/sh\n{wait}\nexec gcc "$@"\n')
    host.enable("--slots", 2)
    before = host.list.next()
    tree = host.tree("distccd")
    with host.start("cc") as long:
        eventually(lambda: compiles(tree.read(), tree.root_pid))
        at_work = {each.parent for each in tree.read().values()} & host.workers()
        assert len(at_work) == 1
        idle = host.workers() - at_work
        install_variant(host.bin / "gcc-99", 1)
        assert host.list.next() > before
        eventually(lambda: not host.workers() & idle)
        assert host.workers() > at_work
        (place / "go").touch()
        assert long.wait(timeout=60) == 0
        assert long.stderr is not None
        assert long.stderr.read() == ""
    eventually(lambda: not host.workers() & at_work)


def test_no_compile_fails_while_the_list_changes_all_the_time(host: Host) -> None:
    host.enable("--slots", 4)
    host.list.next()
    gcc = host.bin / "gcc-99"
    failed = []
    for number in range(6):
        changed = len(host.list.doors)
        running = [host.start("gcc") for _ in range(4)]
        gcc.unlink() if number % 2 else install_variant(gcc, number)
        while running or len(host.list.next()) == changed:
            for process in running:
                failed += [errors] if (errors := process.communicate(timeout=60)[1]) else []
                process.wait()
            running = []
    assert failed == []


def test_a_compiler_with_many_names_has_one_door(host: Host) -> None:
    (host.bin / "another-name-gcc-12").symlink_to("/usr/bin/gcc")
    host.enable("--slots", 2)
    doors = host.list.next()
    gcc = os.path.realpath("/usr/bin/gcc")
    found = host.found()
    assert len([door for door in doors if found[door] == gcc]) == 1


@pytest.mark.parametrize("contents", ['#!/bin/sh\nexec gcc "$@"\n', "#!/bin/sh\nsleep 600\n"])
def test_a_script_is_not_offered(host: Host, contents: str) -> None:
    install(host.bin / "gcc-99", contents)
    host.enable("--slots", 2, "--compiler", "gcc-99")
    assert host.list.next() == set()
    assert host.compiles("gcc") == 0


@pytest.mark.needs("clang", "aarch64-linux-gnu-gcc")
def test_clang_and_cross_compilers_make_the_builders_objects(host: Host) -> None:
    host.enable("--slots", 2)
    doors = host.list.next()
    by_target = {
        (each.text("name"), each.text("target").partition("-")[0]): each
        for each in host.list.compilers
    }
    for name, machine, local in (
        ("clang", "x86_64", "clang"),
        ("gcc", "aarch64", "aarch64-linux-gnu-gcc"),
    ):
        message = by_target[name, machine]
        door = f"{name}-{message.text('id')}"
        assert door in doors
        with host.start(door) as process:
            assert process.wait(timeout=60) == 0
        source = max(host.work.glob("*.c"), key=lambda path: path.stat().st_mtime_ns)
        theirs = source.with_suffix(".o").read_bytes()
        own = source.with_suffix(".own.o")
        subprocess.run([local, "-O2", "-c", source, "-o", own], check=True)
        assert theirs == own.read_bytes()
