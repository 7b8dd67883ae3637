"""What gethost does with a compiler's id: the request, the door of the lease, and compiles without.

The first part has a script for distcc, and a fake compiler. The second part has the real distcc, a
distccd that runs only what is in its list, and real compilers.
"""

from __future__ import annotations

import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from compilers import FakeCompiler, build_driver, id_of, ids, replace_file
from distccd_program import Distccd
from gethost_program import PATIENCE_S, Connection, Gethost, Server

LEASE = "lease id=7 host=desk1 address=192.0.2.7 port=4001 slots=3"
OTHER_ID = "0123456789abcdef"
SHOW = """
echo "word=$1"
echo "hosts=${DISTCC_HOSTS%% *}"
echo "path=${PATH%%:*}"
echo "rewrite=$DISTCC_NO_REWRITE_CROSS"
echo "door=$GETHOST_DOOR"
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def fake(gethost: Gethost, driver: Path) -> FakeCompiler:
    """The gcc that is first in PATH; distcc is a script that shows what it is told."""
    fake = FakeCompiler(driver, gethost.directory / "fake")
    gethost.environment["PATH"] = f"{fake.directory}:{gethost.environment['PATH']}"
    gethost.program("distcc", SHOW)
    return fake


def doors_of(gethost: Gethost, kind: str = "doors") -> Path:
    return gethost.directory / ".cache" / "compilefarm" / kind


def shown(output: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in output.splitlines())


def leased(gethost: Gethost, server: Server, lease: str, *command: str) -> dict[str, str]:
    """Return what distcc shows under this lease."""
    process = gethost.start("distcc", *(command or ("gcc", "-c", "main.c")))
    connection = server.accept()
    connection.receive("request")
    connection.send(lease)
    assert connection.receive("done")["exit"] == "0"
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")
    return shown(output)


# ---- the request ---------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["gcc", "path"])
def test_a_request_says_which_compiler_it_is(
    gethost: Gethost, server: Server, fake: FakeCompiler, verb: str
) -> None:
    word = "gcc" if verb == "gcc" else str(fake.path)
    process = gethost.start("distcc", word, "-c", "main.c")
    connection = server.accept()
    request = connection.receive("request")
    assert {key: value for key, value in request.items() if key.startswith("compiler")} == {
        "compiler": "gcc",
        "compiler_id": id_of(gethost, fake.path),
        "compiler_name": "gcc",
        "compiler_version": "12.2.0",
        "compiler_target": "x86_64-linux-gnu",
        "compiler_text": "gcc 12.2.0-14+deb12u1 (x86_64-linux-gnu)",
    }
    connection.send(LEASE)
    process.communicate(timeout=PATIENCE_S)


def test_an_upgrade_counts_for_the_next_compile(
    gethost: Gethost, server: Server, fake: FakeCompiler
) -> None:
    found = []
    for version in ("12.2.0", "12.3.0", "12.2.0"):
        replace_file(fake.programs["cc1"], f"the cc1 of {version}\n".encode())
        process = gethost.start("distcc", "gcc", "-c", "main.c")
        connection = server.accept()
        found.append(connection.receive("request")["compiler_id"])
        connection.send(LEASE)
        process.communicate(timeout=PATIENCE_S)
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("command", ["sh -c true", "distcc -c main.c"])
def test_a_command_whose_compiler_is_not_named_says_none(
    gethost: Gethost, server: Server, fake: FakeCompiler, command: str
) -> None:
    process = gethost.start(*command.split())
    connection = server.accept()
    request = connection.receive("request")
    assert not [key for key in request if key.startswith("compiler_")]
    connection.send(f"{LEASE} door=gcc-{OTHER_ID}")
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert fake.asked() == []


# ---- the door ------------------------------------------------------------------------------------


def test_a_compile_goes_through_the_door_of_its_lease(
    gethost: Gethost, server: Server, fake: FakeCompiler
) -> None:
    door = f"gcc-{id_of(gethost, fake.path)}"
    doors = doors_of(gethost)
    assert leased(gethost, server, f"{LEASE} door={door}") == {
        "word": door,
        "hosts": "192.0.2.7:4001/3",
        "path": str(doors),
        "rewrite": "1",
        "door": "",
    }
    assert (doors / door).readlink() == fake.path
    assert stat.S_IMODE(doors.stat().st_mode) == 0o700


def test_without_a_door_a_compile_is_sent_as_it_is(
    gethost: Gethost, server: Server, fake: FakeCompiler
) -> None:
    told = leased(gethost, server, LEASE)
    assert (told["word"], told["path"], told["rewrite"]) == ("gcc", str(fake.directory), "")


def test_the_door_may_be_that_of_an_equal_version(
    gethost: Gethost, server: Server, fake: FakeCompiler
) -> None:
    door = f"gcc-{OTHER_ID}"
    assert leased(gethost, server, f"{LEASE} door={door}")["word"] == door
    assert (doors_of(gethost) / door).readlink() == fake.path


def test_a_door_leads_to_the_compiler_of_now(
    gethost: Gethost, server: Server, fake: FakeCompiler
) -> None:
    door = f"gcc-{id_of(gethost, fake.path)}"
    link = doors_of(gethost) / door
    link.parent.mkdir(parents=True, mode=0o700)
    link.parent.parent.chmod(0o700)
    link.symlink_to("/nowhere")
    assert leased(gethost, server, f"{LEASE} door={door}")["word"] == door
    assert link.readlink() == fake.path
    assert list(link.parent.iterdir()) == [link]


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    "door", ["as", "gcc", "../gcc-ID", "gcc-ID/x", "gcc-ID0", "-gcc-ID", ".gcc-ID", "gcc%20-ID"]
)
def test_a_lease_with_an_unsafe_door_is_no_lease(
    gethost: Gethost, server: Server, door: str
) -> None:
    process = gethost.start("distcc", "gcc", "-c", "main.c")
    server.accept().send(f"{LEASE} door={door.replace('ID', OTHER_ID)}")
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert shown(output)["hosts"].startswith("localhost")
    assert "the server's answer is not valid" in errors
    assert not doors_of(gethost).exists()


@pytest.mark.usefixtures("fake")
def test_a_door_to_another_compiler_is_not_made(gethost: Gethost, server: Server) -> None:
    process = gethost.start("--verbose", "distcc", "gcc", "-c", "main.c")
    connection = server.accept()
    connection.receive("request")
    connection.send(f"{LEASE} door=g++-{OTHER_ID}")
    assert connection.at_end()
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert shown(output)["hosts"].startswith("localhost")
    assert "cannot make a link to the compiler" in errors
    assert not doors_of(gethost).exists()


def test_a_backup_has_a_door_of_its_own(
    gethost: Gethost, server: Server, fake: FakeCompiler
) -> None:
    gethost.program(
        "distcc",
        "case $DISTCC_HOSTS in 192*) exec sleep 60;; esac\n"
        'echo "$1" > word; : > main.o.backup-$PPID',
    )
    process = gethost.start("distcc", "gcc", "-c", "main.c", "-o", "main.o")
    connection = server.accept()
    assert connection.receive("request")["backup"] == "yes"
    connection.send(f"{LEASE} door=gcc-{id_of(gethost, fake.path)}")
    gethost.wait_for_child(process, "sleep")
    connection.send(
        f"backup id=8 host=desk2 address=198.51.100.2 port=4002 slots=2 door=gcc-{OTHER_ID}"
    )
    assert connection.receive("done")["id"] == "8"
    assert process.communicate(timeout=PATIENCE_S) == ("", "")
    assert (gethost.directory / "word").read_text() == f"gcc-{OTHER_ID}\n"


def clang(driver: Path, directory: Path, name: str = "clang") -> FakeCompiler:
    fake = FakeCompiler(driver, directory, name)
    fake.says("clang version 16.0.6\nTarget: x86_64-pc-linux-gnu\n")
    return fake


@pytest.mark.usefixtures("fake")
def test_a_compiler_that_minds_its_place_is_called_by_its_own_name(
    gethost: Gethost, server: Server, driver: Path
) -> None:
    other = clang(driver, gethost.directory / "llvm", "clang-16")
    gethost.environment["PATH"] += f":{other.directory}"
    door = f"clang-{OTHER_ID}"
    told = leased(gethost, server, f"{LEASE} door={door}", "clang-16", "-c", "main.c")
    assert told["word"] == door
    assert (told["path"], told["door"]) == (
        str(doors_of(gethost, "doors-by-name")),
        str(other.path),
    )
    link = doors_of(gethost, "doors-by-name") / door
    assert link.readlink() == gethost.path
    result = subprocess.run(
        [link, "-print-prog-name=cc1"],
        env=gethost.environment | {"GETHOST_DOOR": str(other.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == f"{other.programs['cc1']}\n"


@pytest.mark.usefixtures("fake")
def test_a_gcc_that_minds_its_place_runs_here(gethost: Gethost, server: Server) -> None:
    result = gethost.run("distcc", "gcc", "-no-canonical-prefixes", "-c", "main.c")
    assert shown(result.stdout)["hosts"].startswith("localhost")
    assert result.stderr == ""
    assert server.nobody_came()


def test_a_lease_is_attached_with_its_door(
    gethost: Gethost, server: Server, fake: FakeCompiler
) -> None:
    gethost.program("distcc", "exec sleep 60")
    door = f"gcc-{id_of(gethost, fake.path)}"
    process = gethost.start("distcc", "gcc", "-c", "main.c")
    connection = server.accept()
    connection.send(f"{LEASE} door={door}")
    gethost.wait_for_child(process, "sleep")
    connection.end()
    assert server.accept().receive("attach")["door"] == door
    process.terminate()
    process.communicate(timeout=PATIENCE_S)


def test_a_door_whose_compiler_is_gone_says_so(gethost: Gethost, tmp_path: Path) -> None:
    door = tmp_path / f"clang-{OTHER_ID}"
    door.symlink_to(gethost.path)
    environment = gethost.environment | {"GETHOST_DOOR": "/nowhere/clang"}
    result = subprocess.run([door], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 126
    assert result.stderr == "gethost: cannot run /nowhere/clang: No such file or directory\n"


# ---- without an id -------------------------------------------------------------------------------


def test_a_compiler_without_an_id_runs_here_and_one_line_says_so(
    gethost: Gethost, server: Server
) -> None:
    gethost.program("distcc", SHOW)
    gethost.program("my-cc", "exec gcc")
    lines = []
    for word in ("my-cc", "my-cc", "ccache", "ccache"):
        gethost.program("ccache", "exit 1")
        result = gethost.run("distcc", word, "-c", "main.c")
        assert shown(result.stdout)["hosts"].startswith("localhost")
        lines.append(result.stderr)
    assert lines[0].endswith("my-cc is a script, of which the farm knows nothing; compiling here\n")
    assert lines[2] == ("gethost: ccache is not a compiler that the farm knows; compiling here\n")
    assert (lines[1], lines[3]) == ("", "")
    assert server.nobody_came()


def test_a_masquerade_in_front_is_no_obstacle(
    gethost: Gethost, server: Server, fake: FakeCompiler, driver: Path
) -> None:
    masquerade = gethost.directory / "masquerade"
    masquerade.mkdir()
    shutil.copy(driver, masquerade / "ccache")
    (masquerade / "gcc").symlink_to("ccache")
    gethost.environment["PATH"] = f"{masquerade}:{gethost.environment['PATH']}"
    door = f"gcc-{OTHER_ID}"
    assert leased(gethost, server, f"{LEASE} door={door}")["word"] == door
    assert (doors_of(gethost) / door).readlink() == fake.path


@pytest.mark.usefixtures("fake")
def test_without_a_place_for_the_cache_a_compile_runs_here(
    gethost: Gethost, server: Server
) -> None:
    compilers = doors_of(gethost, "compilers")
    compilers.parent.mkdir(parents=True, mode=0o700)
    compilers.write_text("in its place")
    result = gethost.run("distcc", "gcc", "-c", "main.c")
    assert shown(result.stdout)["hosts"].startswith("localhost")
    assert "cannot write to" in result.stderr
    assert result.stderr.endswith("Not a directory; compiling here\n")
    assert server.nobody_came()
    (row,) = ids(gethost, "gcc")
    assert len(row.id) == 16


# ---- with distcc, distccd and compilers ----------------------------------------------------------


@dataclass
class Farm:
    """A host that runs only what is in its list, and a builder."""

    gethost: Gethost
    server: Server
    distccd: Distccd
    doors: dict[str, str]  # by the compiler's name

    def accept(self, door: str) -> Connection:
        connection = self.server.accept()
        connection.receive("request")
        connection.send(
            f"lease id=1 host=desk1 address={self.distccd.address} port={self.distccd.port}"
            f" slots=4 door={door}"
        )
        return connection

    def compile(self, *command: str) -> None:
        """Compile on the host, and see that it went well."""
        process = self.gethost.start("distcc", *command)
        connection = self.accept(self.doors[Path(command[0]).name])
        done = connection.receive("done")
        output, errors = process.communicate(timeout=PATIENCE_S)
        assert (done["exit"], process.returncode, output, errors) == ("0", 0, "", "")

    def compile_with_plain_distcc(self, *command: str) -> None:
        host = f"{self.distccd.address}:{self.distccd.port}"
        environment = self.gethost.environment | {
            "DISTCC_HOSTS": host,
            "DISTCC_FALLBACK": "0",
            "DISTCC_NO_REWRITE_CROSS": "1",
        }
        self.run("distcc", *command, environment=environment)

    def compile_here(self, *command: str) -> None:
        self.run(*command, environment=self.gethost.environment)

    def run(self, *command: str, environment: dict[str, str]) -> None:
        subprocess.run(command, cwd=self.gethost.directory, env=environment, check=True)

    def files(self, *names: str) -> list[bytes]:
        """Return what is in these files, and remove them."""
        paths = [self.gethost.directory / name for name in names]
        contents = [path.read_bytes() for path in paths]
        for path in paths:
            path.unlink()
        return contents


@pytest.fixture
def farm(
    gethost: Gethost, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Farm]:
    """A farm whose host has doors to every compiler that there is."""
    names = [name for name in ("gcc", "g++", "clang", "clang++") if shutil.which(name)]
    list_file, links = tmp_path / "list", tmp_path / "links"
    links.mkdir()
    doors, listed = {}, []
    for name in names:
        (row,) = ids(gethost, name)
        door = doors[name] = f"{row.name}-{row.id}"
        (links / door).symlink_to(Path(row.path).resolve())
        listed += [str(links / door), row.path]
    list_file.write_text("".join(f"{path}\n" for path in listed))
    shutil.rmtree(gethost.directory / "distcc-dir" / "lock")  # distcc makes its own
    monkeypatch.setenv("DISTCC_CMDLIST", str(list_file))
    with Distccd(tmp_path, 4) as distccd:
        yield Farm(gethost, server, distccd, doors)


SOURCE = """#include <stdio.h>
#include <stddef.h>
#ifdef __cplusplus
#include <vector>
int count(std::vector<int> &v) { return (int)v.size(); }
#endif
int main(void) { printf("%d\\n", __LINE__); return 0; }
"""


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("options", [["-O2"], ["-O1", "-g"], ["-no-canonical-prefixes", "-g"]])
@pytest.mark.parametrize("name", ["gcc", "g++", "clang", "clang++"])
def test_objects_and_dependencies_are_those_of_the_compilers_own_name(
    farm: Farm, name: str, options: list[str]
) -> None:
    if name not in farm.doors:
        pytest.skip(f"there is no {name}")
    if "-no-canonical-prefixes" in options and "clang" not in name:
        pytest.skip("it runs here")
    source = "main.cc" if "++" in name else "main.c"
    (farm.gethost.directory / source).write_text(SOURCE)
    command = [name, *options, "-MD", "-MF", "main.d", "-c", source, "-o", "main.o"]
    farm.compile(*command)
    object_, dependencies = farm.files("main.o", "main.d")
    farm.compile_with_plain_distcc(*command)
    assert farm.files("main.o", "main.d") == [object_, dependencies]
    farm.compile_here(*command)
    assert farm.files("main.d") == [dependencies]
    if "-g" not in options:  # preprocessing first changes the columns of debug information
        assert farm.files("main.o") == [object_]


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.needs("clang")
def test_clang_makes_an_object_for_another_architecture(farm: Farm) -> None:
    (farm.gethost.directory / "main.c").write_text("int f(void) { return 1; }\n")
    command = ["clang", "--target=aarch64-linux-gnu", "-c", "main.c", "-o", "main.o"]
    farm.compile(*command)
    (object_,) = farm.files("main.o")
    assert struct.unpack_from("<H", object_, 18) == (183,)  # EM_AARCH64
    farm.compile_here(*command)
    assert farm.files("main.o") == [object_]


@pytest.mark.e2e
@pytest.mark.slow
def test_a_host_refuses_a_door_that_it_has_not(farm: Farm) -> None:
    (farm.gethost.directory / "main.c").write_text("int f(void) { return 1; }\n")
    process = farm.gethost.start("distcc", "gcc", "-c", "main.c")
    connection = farm.accept(f"gcc-{OTHER_ID}")
    assert int(connection.receive("failed")["exit"]) >= 100
    process.terminate()
    process.communicate(timeout=PATIENCE_S)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.needs("ccache")
def test_behind_ccache(farm: Farm) -> None:
    (farm.gethost.directory / "main.c").write_text("int f(void) { return 1; }\n")
    environment = farm.gethost.environment | {
        "CCACHE_DIR": str(farm.gethost.directory / "ccache"),
        "CCACHE_PREFIX": f"{farm.gethost.path} distcc",
    }
    command = ["ccache", "gcc", "-c", "main.c", "-o", "main.o"]
    directory = farm.gethost.directory
    with subprocess.Popen(command, cwd=directory, env=environment) as process:
        assert farm.accept(farm.doors["gcc"]).receive("done")["exit"] == "0"
        assert process.wait(PATIENCE_S) == 0
    (object_,) = farm.files("main.o")
    farm.compile_here("gcc", "-c", "main.c", "-o", "main.o")
    assert farm.files("main.o") == [object_]
