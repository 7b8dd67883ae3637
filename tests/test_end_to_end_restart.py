"""Real builds while host-server is killed, started again, or replaced by another.

As in test_end_to_end.py, a gate holds the compiles, so the server always dies during one. The
hosts' own load reporters run. They see distccd and nothing else of this machine, whose other work
would be foreign load.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from build_farm import Farm, finished, objects_are_as_local, project, reporting
from farm_processes import HostServer
from run_program import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FILES = 10
COMPILES = FILES + 1  # and main.c
JOBS = 8
SLOTS = 4  # of both hosts
TOLD_WITHIN_S = 0.1  # the server sends `wait` before it does anything else


@pytest.fixture
def farm(tmp_path: Path, gethost_path: Path) -> Iterator[Farm]:
    with Farm(tmp_path, gethost_path, "--policy", "tier").running() as farm:
        project(farm, files=FILES)
        for host in (farm.fast, farm.slow):
            farm.server.ask(f"remove host={host.address} port={host.port}")
            host.close_gate()
        yield farm


def both_report(farm: Farm, *servers: HostServer) -> contextlib.ExitStack:
    """Let both hosts report to these servers, and wait until they have."""
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
    """Start a build, and wait until every slot is in use and the other requests wait."""
    servers = servers or farm.server.name
    building = farm.start_build("make", f"-j{JOBS}", "CC=gethost distcc gcc", HOST_SERVER=servers)
    every_slot_compiles(farm)
    eventually(partial(the_rest_waits, farm.server))
    return building


def the_rest_waits(server: HostServer) -> bool:
    """Return whether all other requests wait, and have heard so.

    A gethost without an answer when the server is killed compiles locally.
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
    """Assert, from the hosts' logs, that none was compiled twice or on the builder."""
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
        # Wait until the hosts are no longer held: a lease granted now would be a second one.
        eventually(lambda: farm.server.farm()["totals"]["strays"] == 0)
        time.sleep(3)
        assert farm.server.farm()["totals"]["leases_granted"] == 0
        open_gates(farm)
        ends_well(farm, building)
        eventually(lambda: len(farm.rows()) == COMPILES)
        assert {ending for _, ending in farm.rows()} == {"done"}


def test_a_slot_is_in_use_while_a_compile_runs_whose_lease_is_not_attached(farm: Farm) -> None:
    """A gethost is stopped, as on a builder that hangs, while the server is restarted."""
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
        # The second server sees compiles without leases of its own.
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
