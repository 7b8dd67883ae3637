"""gethost with the real distcc, compilers, ccache and CMake, against a scripted host-server.

The scripted server leases real distccd hosts on loopback addresses, which distcc treats as hosts
like any other. The other tests of gethost need no distcc.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distccd_program import Distccd, LeaseServer, unused_port
from gethost_program import PATIENCE_S, Gethost, Server, builder_cpus

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def distccd(tmp_path: Path) -> Iterator[Distccd]:
    with Distccd(tmp_path, 2) as distccd:
        yield distccd


@pytest.fixture
def server(distccd: Distccd) -> Iterator[LeaseServer]:
    with LeaseServer((distccd.address, distccd.port)) as server:
        yield server


Start = Callable[[Server], Gethost]


@pytest.fixture
def start(gethost_path: Path, tmp_path: Path) -> Iterator[Start]:
    """Return what makes a Gethost that asks a server."""
    with contextlib.ExitStack() as stack:

        def with_server(server: Server) -> Gethost:
            gethost = Gethost(gethost_path, tmp_path / "builder", server.name)
            shutil.rmtree(gethost.directory / "distcc-dir" / "lock")  # distcc makes its own
            return stack.enter_context(gethost)

        yield with_server


def write_sources(directory: Path, count: int) -> list[str]:
    names = [f"file{n}.c" for n in range(count)]
    for n, name in enumerate(names):
        (directory / name).write_text(f"#include <stddef.h>\nsize_t f{n}(void) {{ return {n}; }}\n")
    return names


# ---- one compile ---------------------------------------------------------------------------------


def test_a_compile_is_as_a_local_one(start: Start, server: LeaseServer) -> None:
    gethost = start(server)
    write_sources(gethost.directory, 1)
    result = gethost.run("distcc", "gcc", "-O2", "-c", "file0.c", "-o", "farm.o")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert server.summary() == {"request": 1, "done": 1}
    subprocess.run(["gcc", "-O2", "-c", "file0.c", "-o", "local.o"], cwd=gethost.directory)
    assert (gethost.directory / "farm.o").read_bytes() == (
        gethost.directory / "local.o"
    ).read_bytes()


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("int f(", "error: expected declaration specifiers"),
        ('#include "missing.h"', "fatal error: missing.h"),
        ("#error on purpose", "error: #error on purpose"),
    ],
)
def test_an_error_in_the_source_is_the_result(
    start: Start, server: LeaseServer, source: str, text: str
) -> None:
    gethost = start(server)
    (gethost.directory / "bad.c").write_text(source + "\n")
    result = gethost.run("distcc", "gcc", "-c", "bad.c")
    assert result.returncode == 1
    assert result.stderr.count(text) == 1
    assert "distcc" not in result.stderr
    assert server.summary() == {"request": 1, "done": 1}
    # And it has not made distcc shy of the host.
    (gethost.directory / "good.c").write_text("int f;\n")
    assert gethost.run("distcc", "gcc", "-c", "good.c").returncode == 0
    assert server.summary() == {"request": 1, "done": 1}


def test_a_dead_host_is_replaced_and_nothing_shows(start: Start, distccd: Distccd) -> None:
    dead = ("127.0.0.3", unused_port("127.0.0.3"))
    with LeaseServer(dead, (distccd.address, distccd.port)) as server:
        gethost = start(server)
        (gethost.directory / "warn.c").write_text("#warning once\nint f(void) { int x; return 1; }")
        result = gethost.run("distcc", "gcc", "-Wall", "-c", "warn.c")
        assert result.returncode == 0
        assert result.stderr.count("#warning once [") == 1
        assert result.stderr.count("unused variable") == 1
        assert "distcc" not in result.stderr
        assert server.summary() == {"request": 2, "failed": 1, "done": 1}


def test_with_dead_hosts_only_the_compile_is_local(start: Start) -> None:
    dead = [(f"127.0.0.{n}", unused_port(f"127.0.0.{n}")) for n in (3, 4, 5)]
    with LeaseServer(*dead) as server:
        gethost = start(server)
        write_sources(gethost.directory, 1)
        result = gethost.run("distcc", "gcc", "-c", "file0.c")
        assert (result.returncode, result.stderr) == (0, "")
        assert (gethost.directory / "file0.o").exists()
        assert server.summary() == {"request": 3, "failed": 3}


def test_a_mute_host_is_left_when_the_server_says_so(
    start: Start, distccd: Distccd, tmp_path: Path
) -> None:
    with Server() as server, Distccd(tmp_path, 3) as mute:
        mute.signal(signal.SIGSTOP)
        gethost = start(server)
        write_sources(gethost.directory, 1)
        process = gethost.start("distcc", "gcc", "-c", "file0.c")
        connection = server.accept()
        connection.send(f"lease id=1 host=mute address={mute.address} port={mute.port} slots=4")
        gethost.wait_for_child(process, "distcc")
        connection.send("revoked reason=silent")
        connection = server.accept()
        assert connection.receive("request")["avoid"] == "mute"
        connection.send(
            f"lease id=2 host=good address={distccd.address} port={distccd.port} slots=4"
        )
        assert connection.receive("done")["exit"] == "0"
        assert process.communicate(timeout=PATIENCE_S)[1] == ""
        assert process.returncode == 0


def test_a_killed_gethost_leaves_nothing_behind(start: Start, tmp_path: Path) -> None:
    with Server() as server, Distccd(tmp_path, 3) as mute:
        mute.signal(signal.SIGSTOP)
        gethost = start(server)
        write_sources(gethost.directory, 1)
        read_end, write_end = os.pipe()
        with os.fdopen(read_end) as held_by_children:
            process = gethost.start(
                "distcc", "gcc", "-c", "file0.c", pass_fds=[write_end], TMPDIR=str(tmp_path)
            )
            os.close(write_end)
            connection = server.accept()
            connection.receive("request")
            connection.send(f"lease id=1 host=m address={mute.address} port={mute.port} slots=4")
            gethost.wait_for_child(process, "distcc")
            process.terminate()
            assert connection.at_end()
            assert process.wait(PATIENCE_S) == -signal.SIGTERM
            assert held_by_children.read() == ""
        assert not (gethost.directory / "file0.o").exists()


def test_a_compiler_that_is_not_here_is_distccs_to_explain(
    start: Start, server: LeaseServer
) -> None:
    gethost = start(server)
    write_sources(gethost.directory, 1)
    result = gethost.run("distcc", "no-such-gcc", "-c", "file0.c")
    assert result.returncode == 110
    assert "failed to exec no-such-gcc" in result.stderr
    assert server.summary() == {}


# ---- many compiles, through the tools that people use --------------------------------------------


def test_make_with_more_jobs_than_slots(start: Start, server: LeaseServer) -> None:
    gethost = start(server)
    objects = [name.replace(".c", ".o") for name in write_sources(gethost.directory, 40)]
    (gethost.directory / "main.c").write_text("int main(void) { return 0; }\n")
    (gethost.directory / "Makefile").write_text(
        f"CC = {gethost.path} distcc gcc\nprog: main.o {' '.join(objects)}\n\t$(CC) -o $@ $^\n"
    )
    result = subprocess.run(
        ["make", "-j16"],
        cwd=gethost.directory,
        env=gethost.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert server.summary() == {"request": 41, "done": 41}  # and none for the link


COUNTING_COMPILER = """
case $1 in -v|-print-*) exec gcc "$@";; esac
echo + >> "$COUNT"
gcc "$@"
status=$?
echo - >> "$COUNT"
exit $status
"""


def test_two_makes_of_300_without_a_server(start: Start) -> None:
    """Each has its own DISTCC_DIR; together they compile no more at once than there are CPUs."""
    with Server() as server:
        server.name = f"127.0.0.1:{unused_port('127.0.0.1')}"
        gethost = start(server)
        gethost.compiler("counting-cc", COUNTING_COMPILER)
        count = gethost.directory / "count"
        makes = []
        for name in ("one", "other"):
            directory = gethost.directory / name
            (directory / "distcc").mkdir(parents=True)
            objects = [each.replace(".c", ".o") for each in write_sources(directory, 50)]
            (directory / "Makefile").write_text(
                f"CC = {gethost.path} distcc counting-cc\nall: {' '.join(objects)}\n"
            )
            own = {"COUNT": str(count), "DISTCC_DIR": str(directory / "distcc")}
            makes.append(
                subprocess.Popen(
                    ["make", "-j300"],
                    cwd=directory,
                    env=gethost.environment | own,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        errors = [make.communicate(timeout=120)[1] for make in makes]
        assert [make.returncode for make in makes] == [0, 0]
        assert "".join(errors).count("\n") == 1
        assert "gethost: compiling here: no host-server at" in "".join(errors)
        steps = [1 if line == "+" else -1 for line in count.read_text().split()]
        assert len(steps) == 200
        assert max(itertools.accumulate(steps)) == builder_cpus()


@pytest.mark.needs("ccache")
def test_ccache_prefix(start: Start, server: LeaseServer) -> None:
    gethost = start(server)
    gethost.environment |= {
        "CCACHE_DIR": str(gethost.directory / "ccache"),
        "CCACHE_PREFIX": f"{gethost.path} distcc",
    }
    (gethost.directory / "warn.c").write_text("int f(void) { int x; return 1; }\n")
    for expected in [{"request": 1, "done": 1}, {}]:  # the second time it is in the cache
        result = subprocess.run(
            ["ccache", "gcc", "-Wall", "-c", "warn.c"],
            cwd=gethost.directory,
            env=gethost.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0
        assert result.stderr.count("unused variable") == 1
        assert server.summary() == expected


@pytest.mark.needs("cmake", "ninja")
def test_cmake_compiler_launcher(start: Start, server: LeaseServer) -> None:
    gethost = start(server)
    names = write_sources(gethost.directory, 8)
    (gethost.directory / "main.c").write_text("int main(void) { return 0; }\n")
    (gethost.directory / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.10)\nproject(p C)\n"
        f"add_executable(prog main.c {' '.join(names)})\n"
    )
    for command in [
        [
            *["cmake", "-G", "Ninja", "-S", ".", "-B", "build"],
            f"-DCMAKE_C_COMPILER_LAUNCHER={gethost.path};distcc",
        ],
        ["cmake", "--build", "build", "--parallel", "8"],
    ]:
        server.summary()  # what cmake tries out does not count
        subprocess.run(
            command,
            cwd=gethost.directory,
            env=gethost.environment,
            check=True,
            timeout=120,
            capture_output=True,
        )
    assert server.summary() == {"request": 9, "done": 9}
    assert (gethost.directory / "build" / "prog").exists()


# ---- the rules for what runs here are distcc's ---------------------------------------------------

COMPILES = [
    "gcc -c a.c",
    "gcc -S a.c",
    "gcc -c a.c -o a.o",
    "gcc -ca.o -c a.c",
    "gcc -oa.o -c a.c",
    "gcc -c a.i",
    "gcc -c a.cc",
    "gcc -c a.cpp",
    "gcc -c a.cxx",
    "gcc -c a.C",
    "gcc -c a.ii",
    "gcc -c -MMD -MF a.d -MT a.o a.c",
    "gcc -c -MD -MP -MFa.d a.c",
    "gcc -c -Wp,-MD,a.d a.c",
    "gcc -c -Wp,-MMD,a.d,-DX=1 a.c",
    "gcc -c -Wp,-DX a.c",
    "gcc -x c -c a.c",
    "gcc -x c++ -c a.c",
    "gcc -flto=auto -c a.c",
    "gcc -march=x86-64 -c a.c",
    "gcc -Wa,--noexecstack -c a.c",
    "gcc -Wa,-I. -c a.c",
    "gcc -g -O2 -dA -c a.c",
    "gcc @args",
    "gcc @quoted",
    "gcc @outer",
    "gcc -c a.c @missing",
    "-c a.c",
    "/usr/bin/gcc -c a.c",
    "gcc -I x.c -c",
]
RUNS_HERE = [
    "gcc a.c",
    "gcc a.o -o prog",
    "gcc -E a.c",
    "gcc -c -E a.c",
    "gcc -M a.c",
    "gcc -MM -c a.c",
    "gcc -c -Wp,-M a.c",
    "gcc -c a.c b.c",
    "gcc -c a.c -o a.o -o b.o",
    "gcc -c a.c b.o -o a.o",
    "gcc -c -",
    "gcc -c",
    "gcc -c -xc a.c",
    "gcc -c -x c-header a.h",
    "gcc -c -x assembler a.c",
    "gcc -c a.s",
    "gcc -c a.S",
    "gcc -c a.f",
    "gcc -march=native -c a.c",
    "gcc -mtune=native -c a.c",
    "gcc -flto -c a.c",
    "gcc -Wa,-al -c a.c",
    "gcc -Wa,-adhln=x.lst -c a.c",
    "gcc -Wa,--MD,x.d -c a.c",
    "gcc -specs=nosys.specs -c a.c",
    "gcc -fprofile-arcs -c a.c",
    "gcc -ftest-coverage -c a.c",
    "gcc --coverage -c a.c",
    "gcc -fprofile-generate=x -c a.c",
    "gcc -fprofile-use -c a.c",
    "gcc -fauto-profile -c a.c",
    "gcc -fprofile-correction -c a.c",
    "gcc -drx -c a.c",
    "gcc -c conftest.c",
    "gcc -D x.c -c a.c",
    "gcc -c tmp.conftest.c",
    "gcc -c a.c -o -",
    "gcc --version",
    "gcc -c @missing",
    "gcc @linking",
    "--version",
    "--help",
    "--show-hosts",
    "-j",
    "a.c",
    "a.o",
]


@pytest.fixture
def dead_server() -> Iterator[LeaseServer]:
    with LeaseServer(("127.0.0.3", unused_port("127.0.0.3"))) as server:
        yield server


@pytest.mark.parametrize("words", [*COMPILES, *RUNS_HERE])
def test_gethost_knows_what_distcc_would_do(
    start: Start, dead_server: LeaseServer, words: str
) -> None:
    gethost = start(dead_server)
    for name in ["a.c", "b.c", "conftest.c", "tmp.conftest.c", "a.s", "a.S", "a.i", "a.h", "a.f"]:
        (gethost.directory / name).touch()
    for name in ["a.cc", "a.cpp", "a.cxx", "a.C", "a.ii", "x.c"]:
        (gethost.directory / name).touch()
    (gethost.directory / "args").write_text("-c a.c\n")
    (gethost.directory / "quoted").write_text("-c\n'a b.c' -DX=\"1 2\" -o a\\ b.o")
    (gethost.directory / "a b.c").touch()
    (gethost.directory / "outer").write_text("-c @inner")
    (gethost.directory / "inner").write_text("a.c")
    (gethost.directory / "linking").write_text("-o prog a.o b.o")

    # distcc with a host that is dead and no way back: it says 116 when it wanted to go there.
    address, port = "127.0.0.3", unused_port("127.0.0.3")
    told = {"DISTCC_HOSTS": f"{address}:{port}", "DISTCC_FALLBACK": "0"}
    plain = subprocess.run(
        ["distcc", *words.split()],
        cwd=gethost.directory,
        env=gethost.environment | told | {"DISTCC_BACKOFF_PERIOD": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    wanted_to_leave = plain.returncode == 116

    gethost.program("distcc", "exit 3")
    assert gethost.run("distcc", *words.split()).returncode == 3
    asked = dead_server.summary().get("request", 0)
    assert (asked == 1) == wanted_to_leave
    assert wanted_to_leave == (words in COMPILES)
