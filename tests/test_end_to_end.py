"""Real builds: make, gethost, distcc, host-server and distccd, each as it is installed.

The tests assert what a user sees (exit status, text, object files) and what the farm's record says
of it. A gate before a host's compiler holds a compile, so that an event happens during it each
time. Tests of single compiles use the policy `tier`, the only one whose choice of host is known in
advance. Tests of builds use the server's default policy.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from build_farm import (
    WARNING_AND_ERROR,
    Farm,
    finished,
    local_object,
    objects_are_as_local,
    project,
    went_well,
)
from farm_processes import REQUESTS
from run_program import eventually

pytestmark = pytest.mark.e2e


@pytest.fixture
def farm(tmp_path: Path, gethost_path: Path) -> Iterator[Farm]:
    with Farm(tmp_path, gethost_path, "--policy", "tier").running() as farm:
        yield farm


@pytest.fixture
def default_farm(tmp_path: Path, gethost_path: Path) -> Iterator[Farm]:
    with Farm(tmp_path, gethost_path).running() as farm:
        yield farm


# -- one compile


def test_a_compile_runs_on_the_fastest_host(farm: Farm) -> None:
    assert went_well(farm.compile())
    assert (farm.directory / "main.o").read_bytes() == local_object(farm)
    assert farm.rows() == [(farm.fast.name, "done")]
    assert "main.c" in farm.fast.log.read_text()


def test_an_error_in_the_source_is_shown_once_and_blames_no_host(farm: Farm) -> None:
    farm.write("main.c", WARNING_AND_ERROR)
    local = farm.build("gcc", "-O1", "-c", "main.c").stderr
    for _ in range(3):
        result = farm.compile()
        assert result.returncode == 1
        for words in ("seen once", "undeclared"):
            assert result.stderr.count(words) == local.count(words), result.stderr
    assert farm.rows() == [(farm.fast.name, "done")] * 3
    assert farm.state(farm.fast) == "up"
    assert farm.server.host(farm.fast.name)["failures"] == 0


def test_a_command_that_distcc_runs_locally_takes_no_lease(farm: Farm) -> None:
    assert farm.compile("distcc", "gcc", "-E", "main.c").stdout
    assert went_well(farm.compile("distcc", "gcc", "main.c", "-o", "main"))
    assert went_well(farm.compile("distcc", "gcc", "-march=native", "-c", "main.c"))
    assert farm.compile("distcc", "--version").returncode == 0
    assert farm.compile("distcc", "gcc", "-c", "missing.c").returncode == 1
    assert farm.server.farm()["totals"]["leases_granted"] <= 1  # the missing source's
    assert farm.compile("does-not-exist").returncode == 127


def test_the_users_own_distcc_settings_are_kept(farm: Farm) -> None:
    own = {"DISTCC_IO_TIMEOUT": "77", "DISTCC_PAUSE_TIME_MSEC": "55", "DISTCC_SSH": "x"}
    text = farm.compile("env", **own, DISTCC_HOSTS="elsewhere").stdout.splitlines()
    assert {f"{name}={value}" for name, value in own.items()} <= set(text)
    [hosts] = [line for line in text if line.startswith("DISTCC_HOSTS=")]
    assert f"={farm.fast.name}/2 " in hosts
    log = farm.directory / "distcc.log"
    assert went_well(farm.compile(DISTCC_LOG=str(log), DISTCC_VERBOSE="1"))
    assert farm.fast.address in log.read_text()


# -- builds


def done_once_each(farm: Farm) -> int:
    """Return the number of compiles that are done; all others had a backup or were one."""
    endings = Counter(ending for _, ending in farm.attempts())
    begun = farm.server.farm()["totals"]["backups_begun"]
    assert endings.total() - endings["done"] == endings["dropped"] <= begun
    return endings["done"]


def test_make_builds_a_project_on_the_farm(default_farm: Farm) -> None:
    farm = default_farm
    project(farm, files=20)
    built = farm.build("make", "-s", "-j6", "CC=gethost distcc gcc")
    assert (built.returncode, built.stderr) == (0, "")
    assert done_once_each(farm) == 21
    assert objects_are_as_local(farm)


@pytest.mark.slow
def test_make_builds_400_files_with_40_jobs(default_farm: Farm) -> None:
    farm = default_farm
    project(farm, files=400)
    built = farm.build("make", "-s", "-j40", "CC=gethost distcc gcc")
    assert (built.returncode, built.stderr) == (0, "")
    assert done_once_each(farm) == 401
    totals = farm.server.farm()["totals"]
    assert (totals["slots_in_use"], totals["requests_waiting"]) == (0, 0)
    assert objects_are_as_local(farm)


@pytest.mark.slow
def test_a_build_whose_hosts_come_and_go(default_farm: Farm) -> None:
    farm = default_farm
    project(farm, files=60)
    building = farm.start_build("make", "-s", "-j8", "CC=gethost distcc gcc")
    for host in (farm.fast, farm.slow) * 2:
        enough = len(farm.rows()) + 3
        eventually(lambda: len(farm.rows()) >= enough or building.poll() is not None)  # noqa: B023
        host.kill()
        # A real machine does not start this fast: compiles that fail now would count against it.
        eventually(lambda: not farm.server.host(host.name).get("leases"))  # noqa: B023
        host.start()
        host.add_to(farm.server)
    built = finished(building)
    assert (built.returncode, built.stderr) == (0, ""), farm.server.log.read_text()
    assert objects_are_as_local(farm)


@pytest.mark.needs("ccache")
def test_ccache_works_with_gethost(default_farm: Farm) -> None:
    farm = default_farm
    settings = {"CCACHE_PREFIX": "gethost distcc", "CCACHE_DIR": str(farm.directory / "ccache")}
    for _ in range(2):
        command = ("ccache", "gcc", "-O1", "-c", "main.c", "-o", "main.o")
        assert went_well(farm.build(*command, **settings))
        assert (farm.directory / "main.o").read_bytes() == local_object(farm)
    assert farm.rows() == [(farm.fast.name, "done")]


@pytest.mark.slow
@pytest.mark.needs("cmake", "ninja")
def test_cmake_and_ninja_work_with_gethost(default_farm: Farm) -> None:
    farm = default_farm
    project(farm, files=10)
    farm.write(
        "CMakeLists.txt",
        "cmake_minimum_required(VERSION 3.10)\nproject(small C)\n"
        "file(GLOB sources *.c)\nadd_executable(program ${sources})\n",
    )
    options = ["-DCMAKE_C_COMPILER=gcc", "-DCMAKE_C_COMPILER_LAUNCHER=gethost;distcc"]
    configured = farm.build("cmake", "-G", "Ninja", "-B", "out", *options)
    assert configured.returncode == 0, configured.stderr
    built = farm.build("ninja", "-C", "out", "-j6")
    assert built.returncode == 0, built.stderr
    assert done_once_each(farm) >= 11
    assert (farm.directory / "out" / "program").exists()


def test_gethost_jobs_prints_the_slots_of_the_farm_and_the_builder(farm: Farm) -> None:
    count = int(farm.compile("--jobs").stdout)
    assert count == 4 + len(os.sched_getaffinity(0))
    with farm.server.connect(REQUESTS) as other:
        other.say("request user=bob")
        other.hears("lease")
        assert int(farm.compile("--jobs").stdout) == count - 2
