"""Real builds with backups: a compile on a slow host is begun again on a fast one.

As in test_end_to_end.py, a gate before a host's compiler holds compiles, so a host is as slow as
the test wants. Most tests begin with one host, which has the compile; then a faster one joins. So
the fast host has nothing but the backup.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from build_farm import COMPILE, WARNING_AND_ERROR, Farm, finished, project, reporting, went_well
from farm_processes import REQUESTS, DistccdHost
from run_program import eventually, processes_with

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FAST = 9.0  # power index; the slow host's is 1
DEPENDENCIES = ("-MD", "-MP", "-MF", "main.d", "-MT", "main.o")
# make replaces $@, so that each file has dependencies of its own.
MAKE = ("make", "-s", "CC=gethost distcc gcc", "CFLAGS=-O1 -MMD -MP -MF $(@:.o=.d) -MT $@")


@contextlib.contextmanager
def backup_farm(path: Path, gethost_path: Path, *options: str, slots: int = 1) -> Iterator[Farm]:
    """Run a farm, and assert that nothing is left behind."""
    with Farm(path, gethost_path, *options, slots=slots).running() as farm:
        yield farm
        eventually(lambda: not processes_with("HOME", str(farm.directory)))
        assert temporaries(farm) == []


@pytest.fixture
def farm(tmp_path: Path, gethost_path: Path) -> Iterator[Farm]:
    """A farm without its fast host, and whose slow host holds its compiles."""
    with backup_farm(tmp_path, gethost_path) as farm:
        only_the_slow_host(farm)
        yield farm


def only_the_slow_host(farm: Farm) -> None:
    farm.server.ask(f"remove host={farm.fast.address} port={farm.fast.port}")
    farm.fast.close_gate()
    farm.slow.close_gate()


def start_on_both(farm: Farm, *command: str, **environment: str) -> subprocess.Popen[str]:
    """Start a compile on the slow host, and wait until its backup compiles too."""
    compiling = farm.start_build(*(command or ("gethost", *COMPILE)), **environment)
    farm.slow.await_compiles()
    fast_joins(farm)
    farm.fast.await_compiles()
    return compiling


def fast_joins(farm: Farm) -> None:
    farm.fast.add_to(farm.server, FAST)


def leases(farm: Farm, host: DistccdHost) -> list[dict[str, Any]]:
    """Wait for leases on a host; return them, as the monitor shows them, with some delay."""
    return eventually(lambda: farm.server.host(host.name).get("leases") or [])


def totals_become(farm: Farm, **expected: int) -> bool:
    """Wait until the monitor shows these totals, with some delay."""
    return eventually(lambda: bool(expected.items() <= farm.server.farm()["totals"].items()))


def rows(farm: Farm, count: int) -> list[tuple[str, str]]:
    """Wait until there are at least `count` rows; return all rows."""
    eventually(lambda: len(farm.attempts()) >= count)
    return farm.attempts()


def temporaries(farm: Farm) -> list[Path]:
    return list(farm.directory.rglob("*.backup-*"))


def gave_up_compiling(host: DistccdHost) -> None:
    """Wait until no compile is held at a host's gate, because its distccd has ended them."""
    eventually(lambda: not any(map(runs, host.begun())))


def runs(pid: int) -> bool:
    """Return whether a process runs; distccd may leave a killed one as a zombie for a while."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def contents(directory: Path, *names: str) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in names}


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def is_as_local(farm: Farm, *written: str) -> bool:
    """Compile without a farm, and compare the written files."""
    made = contents(farm.directory, *written)
    assert went_well(farm.build(*COMPILE[1:], *DEPENDENCIES))
    assert contents(farm.directory, *written) == made
    return True


# -- a build


def test_a_fast_host_compiles_the_file_that_a_slow_host_has(
    tmp_path: Path, gethost_path: Path
) -> None:
    with backup_farm(tmp_path, gethost_path, slots=2) as farm:
        project(farm, files=2)
        farm.fast.close_gate()
        farm.slow.close_gate()
        building = farm.start_build(*MAKE, "-j3")
        farm.fast.await_compiles(2)
        farm.slow.await_compiles()
        [slow_one] = leases(farm, farm.slow)
        assert not slow_one["backup"]
        farm.fast.open_gate()
        built = finished(building)
        assert (built.returncode, built.stdout, built.stderr) == (0, "", "")
        gave_up_compiling(farm.slow)
        assert rows(farm, 4) == [
            (farm.fast.name, "done"),
            (farm.fast.name, "done"),
            (farm.slow.name, "dropped"),
            (farm.fast.name, "done"),
        ]
        assert totals_become(farm, leases_granted=3, backups_begun=1, backups_first=1)
        assert totals_become(farm, leases_failed=0, leases_revoked=0, slots_in_use=0)

        printed = farm.build("farm/program").stdout
        out = farm.directory / "farm"
        made = contents(out, *names_in(out))
        assert {path.suffix for path in map(Path, made)} == {"", ".o", ".d"}
        shutil.rmtree(out)
        assert farm.build(*MAKE, "CC=gcc").returncode == 0
        assert contents(out, *names_in(out)) == made
        assert farm.build("farm/program").stdout == printed != ""


# -- a compile


def test_the_backup_ends_first(farm: Farm) -> None:
    compiling = start_on_both(farm, "gethost", *COMPILE, *DEPENDENCIES)
    [slow_one], [fast_one] = leases(farm, farm.slow), leases(farm, farm.fast)
    assert (slow_one["backup"], fast_one["backup"]) == (False, True)
    assert (slow_one["id"], slow_one["source"]) == (fast_one["id"], fast_one["source"])
    assert {path.name.partition(".backup-")[0] for path in temporaries(farm)} <= {
        "main.o",
        "main.d",
    }
    farm.fast.open_gate()
    assert went_well(finished(compiling))
    gave_up_compiling(farm.slow)
    assert rows(farm, 2) == [(farm.slow.name, "dropped"), (farm.fast.name, "done")]
    assert totals_become(farm, backups_begun=1, backups_first=1)
    assert is_as_local(farm, "main.o", "main.d")


def test_the_first_attempt_ends_first(farm: Farm) -> None:
    compiling = start_on_both(farm, "gethost", *COMPILE, *DEPENDENCIES)
    farm.slow.open_gate()
    assert went_well(finished(compiling))
    gave_up_compiling(farm.fast)
    assert rows(farm, 2) == [(farm.fast.name, "dropped"), (farm.slow.name, "done")]
    assert totals_become(farm, backups_begun=1, backups_first=0)
    assert is_as_local(farm, "main.o", "main.d")


def test_the_backups_host_is_killed(farm: Farm) -> None:
    compiling = start_on_both(farm)
    farm.fast.kill()
    eventually(lambda: farm.state(farm.fast) == "quarantined")
    assert compiling.poll() is None
    assert temporaries(farm) == []
    farm.slow.open_gate()
    assert went_well(finished(compiling))
    # A backup that fails at once does not count against its host; a second failure does.
    eventually(lambda: len(farm.rows()) >= 2)
    assert farm.rows() == [(farm.fast.name, "failed"), (farm.slow.name, "done")]
    assert farm.state(farm.slow) == "up"


def test_the_first_attempts_host_is_killed(farm: Farm) -> None:
    """The compile is begun again, on the host that has the backup."""
    compiling = start_on_both(farm)
    farm.slow.kill()
    eventually(lambda: farm.state(farm.slow) == "quarantined")
    farm.fast.open_gate()
    assert went_well(finished(compiling))
    eventually(lambda: len(farm.rows()) >= 2)
    assert farm.rows() == [(farm.slow.name, "failed"), (farm.fast.name, "done")]
    assert (farm.fast.name, "dropped") in farm.attempts()
    assert farm.state(farm.fast) == "up"


def test_another_users_request_gets_the_backups_slot(farm: Farm) -> None:
    compiling = start_on_both(farm)
    with farm.server.connect(REQUESTS) as bob:
        bob.say("request user=bob")
        assert bob.hears("lease").words["host"] == farm.fast.name
        gave_up_compiling(farm.fast)
        eventually(lambda: temporaries(farm) == [])
        eventually(lambda: [each["user"] for each in leases(farm, farm.fast)] == ["bob"])
        farm.slow.open_gate()
        assert went_well(finished(compiling))
        bob.say("done exit=0 wall_s=0.1")
        assert bob.is_closed()
    assert rows(farm, 3) == [
        (farm.fast.name, "dropped"),
        (farm.slow.name, "done"),
        (farm.fast.name, "done"),
    ]
    assert totals_become(farm, backups_begun=1, backups_first=0)


def test_an_error_in_the_source_is_shown_once_and_blames_no_host(farm: Farm) -> None:
    farm.write("main.c", WARNING_AND_ERROR)
    local = farm.build("gcc", "-O1", "-c", "main.c").stderr
    compiling = start_on_both(farm)
    farm.fast.open_gate()
    eventually(lambda: (farm.fast.name, "dropped") in farm.attempts())
    farm.slow.open_gate()
    result = finished(compiling)
    assert result.returncode == 1
    for words in ("seen once", "undeclared"):
        assert result.stderr.count(words) == local.count(words), result.stderr
    eventually(lambda: Counter(farm.attempts())[farm.slow.name, "done"] == 1)
    for host in (farm.fast, farm.slow):
        assert (farm.state(host), farm.server.host(host.name)["failures"]) == ("up", 0)


def test_no_backups_begins_none(tmp_path: Path, gethost_path: Path) -> None:
    with backup_farm(tmp_path, gethost_path, "--no-backups") as farm:
        only_the_slow_host(farm)
        compiling = farm.start(*COMPILE)
        farm.slow.await_compiles()
        farm.fast.open_gate()
        fast_joins(farm)
        for number in range(3):  # after each compile the fast host is idle
            assert went_well(farm.compile("distcc", "gcc", "-c", "main.c", "-o", f"{number}.o"))
        assert compiling.poll() is None
        farm.slow.open_gate()
        assert went_well(finished(compiling))
        assert rows(farm, 4) == [*[(farm.fast.name, "done")] * 3, (farm.slow.name, "done")]
        assert totals_become(farm, backups_begun=0, backups_first=0)


# -- Other programs before gethost. They name the compiler by its path, so there is no gate before
# it. Instead the slow host's distccd is stopped; the kernel still accepts its connections.


@pytest.mark.needs("cmake", "ninja")
def test_cmake_and_ninja_get_backups(farm: Farm) -> None:
    project(farm, files=2)
    farm.write(
        "CMakeLists.txt",
        "cmake_minimum_required(VERSION 3.10)\nproject(small C)\n"
        "file(GLOB sources *.c)\nadd_executable(program ${sources})\n",
    )
    launcher = "-DCMAKE_C_COMPILER_LAUNCHER=gethost;distcc"
    settings = ["-G", "Ninja", "-B", "out", "-DCMAKE_C_COMPILER=gcc", launcher]
    assert farm.build("cmake", *settings).returncode == 0
    farm.slow.stop()
    building = farm.start_build("ninja", "-C", "out", "-j2")
    assert leases(farm, farm.slow)
    fast_joins(farm)
    built = finished(building)
    assert built.returncode == 0, built.stdout
    eventually(lambda: Counter(farm.attempts())[farm.fast.name, "done"] == 3)
    assert (farm.slow.name, "dropped") in farm.attempts()
    assert farm.build("out/program").stdout
    # ninja's dependencies are right too: every object depends on the header.
    assert "no work to do" in farm.build("ninja", "-C", "out").stdout
    (farm.directory / "all.h").touch()
    assert farm.build("ninja", "-C", "out", "-n").stdout.count("Building C object") == 3
    farm.slow.resume()


@pytest.mark.needs("ccache")
def test_ccache_gets_backups(farm: Farm) -> None:
    settings = {"CCACHE_PREFIX": "gethost distcc", "CCACHE_DIR": str(farm.directory / "ccache")}
    command = ("ccache", "gcc", *COMPILE[2:], *DEPENDENCIES)
    farm.slow.stop()
    compiling = farm.start_build(*command, **settings)
    assert leases(farm, farm.slow)
    fast_joins(farm)
    assert went_well(finished(compiling))
    assert totals_become(farm, backups_begun=1, backups_first=1)
    made = contents(farm.directory, "main.o", "main.d")
    for name in made:
        (farm.directory / name).unlink()
    assert went_well(farm.build(*command, **settings))
    assert contents(farm.directory, *made) == made
    assert rows(farm, 2) == [(farm.slow.name, "dropped"), (farm.fast.name, "done")]
    assert is_as_local(farm, *made)
    farm.slow.resume()


# -- host-server is killed


def test_the_server_is_killed_while_a_backup_runs(farm: Farm) -> None:
    """The backup ends and the first attempt goes on; the next server begins another backup."""
    servers = farm.server.name
    farm.server.ask(f"remove host={farm.slow.address} port={farm.slow.port}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(reporting(farm, farm.slow, servers, 1.0))
        eventually(lambda: farm.state(farm.slow) == "up")
        compiling = farm.start(*COMPILE)
        farm.slow.await_compiles()
        stack.enter_context(reporting(farm, farm.fast, servers, FAST))
        farm.fast.await_compiles()
        eventually(lambda: farm.server.host(farm.fast.name).get("load"))
        farm.server.kill()
        gave_up_compiling(farm.fast)
        eventually(lambda: temporaries(farm) == [])
        farm.server.start()
        assert totals_become(farm, leases_attached=1)
        farm.fast.await_compiles(2)
        # Another user gets one slot, because the backup gives way.
        asking = [stack.enter_context(farm.server.connect(REQUESTS)) for _ in range(2)]
        asking[0].say("request user=bob")
        assert asking[0].hears("lease").words["host"] == farm.fast.name
        asking[1].say("request user=bob")
        asking[1].hears("wait")
        gave_up_compiling(farm.fast)
        assert totals_become(
            farm, requests_waiting=1, leases_granted=1, slots_in_use=2, slots_free=0, strays=0
        )
        assert [each["backup"] for each in leases(farm, farm.slow)] == [False]
        for other in reversed(asking):
            other.close()
        farm.fast.await_compiles(3)
        farm.fast.open_gate()
        assert went_well(finished(compiling))
        eventually(lambda: (farm.fast.name, "done") in farm.attempts())
        assert (farm.slow.name, "dropped") in farm.attempts()
        gave_up_compiling(farm.slow)
