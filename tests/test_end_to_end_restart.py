"""Real builds while host-server is killed, started again, or replaced by another.

As in tests/test_end_to_end.py, compiles are held in the middle by a gate, so that each time it is
during a compile that the server dies. The hosts' own load reporters run, and see what distccd does
but nothing else of this machine, whose other work would be foreign load.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from farm_processes import DistccdHost, HostServer
from proc_directory import ProcDirectory
from run_program import eventually, running
from test_end_to_end import Farm, finished, objects_are_as_local, project

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FILES = 10
COMPILES = FILES + 1  # and main.c
JOBS = 8
SLOTS = 4  # of both hosts
TOLD_WITHIN_S = 0.1  # the server tells who waits before it does anything else


class QuietProc(ProcDirectory):
    """A /proc in which a process tree is alone on its machine."""

    def __init__(self, path: Path, root_pid: int) -> None:
        path.mkdir()
        super().__init__(path)
        self._root = psutil.Process(root_pid)
        self._ended = threading.Event()
        self._follow()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            self._follow()

    def _follow(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            now = {self._root.pid, *(each.pid for each in self._root.children(recursive=True))}
            there = {int(entry.name) for entry in self.path.iterdir() if entry.name.isdigit()}
            for pid in there - now:
                (self.path / str(pid)).unlink()
            for pid in now - there:
                (self.path / str(pid)).symlink_to(f"/proc/{pid}")

    def __enter__(self) -> Path:
        self._thread.start()
        return self.path

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@contextlib.contextmanager
def reporting(farm: Farm, host: DistccdHost, servers: str, power_index: float) -> Iterator[None]:
    """Have a host register and report, as enable-host has it."""
    where = ["--server", servers, "--host", host.name, "--register", "--slots", host.slots]
    with (
        QuietProc(farm.directory / f"proc-{host.address}", host.pid) as procfs,
        running("loadavg", *where, "--power-index", power_index, "--procfs", procfs,
                "--distccd-pid", host.pid),
    ):  # fmt: skip
        yield


@pytest.fixture
def farm(tmp_path: Path, gethost_path: Path) -> Iterator[Farm]:
    with Farm(tmp_path, gethost_path, "--policy", "tier").running() as farm:
        project(farm, files=FILES)
        for host in (farm.fast, farm.slow):
            farm.server.ask(f"remove host={host.address} port={host.port}")
            host.close_gate()
        yield farm


def both_report(farm: Farm, *servers: HostServer) -> contextlib.ExitStack:
    """Have both hosts report to these servers, and wait until they have."""
    names = ",".join(server.name for server in servers)
    stack = contextlib.ExitStack()
    for host, power_index in ((farm.fast, 9.0), (farm.slow, 1.0)):
        stack.enter_context(reporting(farm, host, names, power_index))
    for server in servers:
        eventually(partial(all_free, server))
    return stack


def all_free(server: HostServer) -> bool:
    return bool(server.farm()["totals"]["slots_free"] == SLOTS)


def build(farm: Farm, servers: str = "") -> subprocess.Popen[str]:
    """Start a build, and wait until every slot is in use and the rest waits."""
    servers = servers or farm.server.name
    building = farm.start_build("make", f"-j{JOBS}", "CC=gethost distcc gcc", HOST_SERVER=servers)
    every_slot_compiles(farm)
    eventually(partial(the_rest_waits, farm.server))
    return building


def the_rest_waits(server: HostServer) -> bool:
    """Whether all others wait, and have been told so.

    A gethost that asked and has not been answered when the server is killed compiles at home.
    """
    waited_s = [request["waited_s"] for request in server.farm()["requests"]]
    return len(waited_s) == JOBS - SLOTS and min(waited_s) > TOLD_WITHIN_S


def every_slot_compiles(farm: Farm) -> None:
    farm.fast.await_compiles(farm.fast.slots)
    farm.slow.await_compiles(farm.slow.slots)


def open_gates(farm: Farm) -> None:
    farm.fast.open_gate()
    farm.slow.open_gate()


def each_file_was_compiled_once(farm: Farm) -> None:
    """By the hosts' own logs: none twice, none on the builder."""
    logs = farm.fast.log.read_text() + farm.slow.log.read_text()
    compiled = re.findall(r"COMPILE_OK exit:0 .* (\w+\.c)$", logs, re.MULTILINE)
    assert Counter(compiled) == Counter(["main.c", *(f"f{number}.c" for number in range(FILES))])


def ends_well(farm: Farm, building: subprocess.Popen[str]) -> None:
    built = finished(building)
    assert (built.returncode, built.stderr) == (0, "")
    assert objects_are_as_local(farm)
    each_file_was_compiled_once(farm)


def test_the_server_is_killed_and_started_again_twice(farm: Farm) -> None:
    with both_report(farm, farm.server):
        building = build(farm)
        for _ in range(2):
            farm.server.kill()
            farm.server.start()
            eventually(lambda: farm.server.farm()["totals"]["leases_attached"] == SLOTS)
            eventually(lambda: farm.server.farm()["totals"]["hosts_up"] == 2)
            eventually(partial(the_rest_waits, farm.server))
            assert farm.server.farm()["totals"]["slots_free"] == 0
        # Past the time for which hosts are held: whatever is granted now would be granted twice.
        eventually(lambda: farm.server.farm()["totals"]["strays"] == 0)
        time.sleep(3)
        assert farm.server.farm()["totals"]["leases_granted"] == 0
        open_gates(farm)
        ends_well(farm, building)
        eventually(lambda: len(farm.rows()) == COMPILES)
        assert {ending for _, ending in farm.rows()} == {"done"}


def test_a_lease_that_nobody_attaches_is_in_use_while_its_compile_runs(farm: Farm) -> None:
    """A gethost is stopped, as on a builder that hangs, while the server is started again."""
    with both_report(farm, farm.server):
        compiling = farm.start("distcc", "gcc", "-c", "f0.c", HOST_SERVER=farm.server.name)
        farm.fast.await_compiles()
        psutil.Process(compiling.pid).suspend()
        farm.server.kill()
        farm.server.start()
        eventually(
            lambda: (
                farm.server.host(farm.fast.name).get("strays") == 1
                and "1 compiles run there without" in farm.server.host(farm.fast.name)["reason"]
            )
        )
        psutil.Process(compiling.pid).resume()
        eventually(lambda: farm.server.host(farm.fast.name)["leases"])
        assert farm.server.host(farm.fast.name)["strays"] == 0
        open_gates(farm)
        assert finished(compiling).returncode == 0


def test_another_server_takes_over_and_the_first_comes_back(
    farm: Farm, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other_path = tmp_path_factory.mktemp("other")
    with HostServer(other_path, "--policy", "tier") as other, both_report(farm, farm.server, other):
        servers = f"{farm.server.name},{other.name}"
        building = build(farm, servers)
        # The second sees what runs, and that it is none of its own.
        eventually(lambda: other.farm()["totals"]["strays"] == SLOTS)
        farm.server.kill()
        eventually(lambda: other.farm()["totals"]["leases_attached"] == SLOTS)
        eventually(partial(the_rest_waits, other))
        assert other.farm()["totals"]["slots_free"] == 0
        open_gates(farm)
        ends_well(farm, building)
        eventually(lambda: other.farm()["totals"]["leases_granted"] == COMPILES - SLOTS)

        farm.server.start()
        eventually(partial(all_free, farm.server))
        [marker] = (farm.directory / "runtime" / "compilefarm").glob("away-*")
        os.utime(marker, (time.time() - 11,) * 2)
        again = ("distcc", "gcc", "-c", "main.c", "-o", "again.o")
        compiled = farm.compile(*again, HOST_SERVER=servers)
        assert compiled.returncode == 0
        eventually(lambda: farm.server.farm()["totals"]["leases_granted"] == 1)
