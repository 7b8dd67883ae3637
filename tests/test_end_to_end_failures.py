"""Real builds while hosts, clients and servers fail.

As in test_end_to_end.py, a gate before a host's compiler holds compiles, so each failure happens
during a compile.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from build_farm import (
    COMPILE,
    Farm,
    finished,
    local_object,
    objects_are_as_local,
    project,
    went_well,
)
from proc_directory import ProcDirectory
from run_program import eventually, free_ports, running

pytestmark = pytest.mark.e2e


@pytest.fixture
def farm(tmp_path: Path, gethost_path: Path) -> Iterator[Farm]:
    with Farm(tmp_path, gethost_path, "--policy", "tier").running() as farm:
        yield farm


# -- hosts fail


def test_a_dead_host_is_replaced_and_comes_back(farm: Farm) -> None:
    farm.fast.kill()
    assert went_well(farm.compile())
    assert farm.rows() == [(farm.fast.name, "failed"), (farm.slow.name, "done")]
    assert eventually(lambda: farm.state(farm.fast) == "quarantined")
    assert went_well(farm.compile())
    assert farm.rows()[2:] == [(farm.slow.name, "done")]
    farm.fast.start()
    farm.fast.add_to(farm.server, power_index=9.0)
    assert went_well(farm.compile())
    assert farm.rows()[3:] == [(farm.fast.name, "done")]


def test_a_host_is_killed_during_a_compile(farm: Farm) -> None:
    farm.fast.close_gate()
    compiling = farm.start(*COMPILE)
    farm.fast.await_compiles()
    farm.fast.kill()
    assert went_well(finished(compiling))
    assert farm.rows() == [(farm.fast.name, "failed"), (farm.slow.name, "done")]


def test_a_compile_is_local_if_all_hosts_are_dead(farm: Farm) -> None:
    farm.fast.kill()
    farm.slow.kill()
    for _ in range(3):
        assert farm.compile().returncode == 0
        assert (farm.directory / "main.o").read_bytes() == local_object(farm)
    assert farm.rows() == [(farm.fast.name, "failed"), (farm.slow.name, "failed")]


def test_a_compile_is_local_without_hosts(farm: Farm) -> None:
    for host in (farm.fast, farm.slow):
        farm.server.ask(f"remove host={host.address} port={host.port}")
    assert "no host is available" in farm.compile().stderr
    assert went_well(farm.compile())
    assert farm.rows() == []


@pytest.mark.slow
def test_a_stopped_distccd_with_load_reports_is_noticed(farm: Farm) -> None:
    """The kernel accepts connections for a stopped distccd; its load reporter sees the state.

    The reporter reads a /proc with only distccd's processes, because other work on this machine
    would be foreign load.
    """
    where = ["--server", farm.server.name, "--host", farm.fast.name]
    quiet = ProcDirectory(farm.directory / "proc")
    for pid in farm.fast.pids():
        (quiet.path / str(pid)).symlink_to(f"/proc/{pid}")
    which = ["--procfs", quiet.path, "--distccd-pid", farm.fast.pid]
    with running("loadavg", *where, *which):
        eventually(lambda: farm.server.host(farm.fast.name).get("load"))
        farm.fast.close_gate()
        compiling = farm.start(*COMPILE)
        farm.fast.await_compiles()
        farm.fast.stop()
        eventually(lambda: farm.state(farm.fast) == "mute")
        assert went_well(farm.compile("distcc", "gcc", "-c", "main.c", "-o", "other.o"))
        assert went_well(finished(compiling))
        assert farm.rows() == [
            (farm.slow.name, "done"),
            (farm.fast.name, "revoked"),
            (farm.slow.name, "done"),
        ]
        farm.fast.open_gate()
        farm.fast.resume()
        eventually(lambda: farm.state(farm.fast) == "up")
        assert went_well(farm.compile())
        assert farm.rows()[3:] == [(farm.fast.name, "done")]


@pytest.mark.slow
def test_a_stopped_distccd_without_load_reports_is_noticed(farm: Farm) -> None:
    """Its compiles take far too long for this farm, and its connections stay open."""
    assert went_well(farm.compile())
    farm.fast.stop()
    assert went_well(farm.compile())
    assert farm.rows()[1:] == [(farm.fast.name, "revoked"), (farm.slow.name, "done")]
    farm.fast.resume()
    eventually(lambda: farm.state(farm.fast) == "up", patience_s=60)
    assert went_well(farm.compile())
    assert farm.rows()[3:] == [(farm.fast.name, "done")]


@pytest.mark.slow
def test_a_host_whose_compiles_never_end_is_noticed(farm: Farm) -> None:
    """It serves connections, but its compiles take far longer than expected."""
    assert went_well(farm.compile())
    farm.fast.hold_probes_too()
    assert went_well(farm.compile())
    assert farm.rows()[1:] == [(farm.fast.name, "revoked"), (farm.slow.name, "done")]
    assert farm.state(farm.fast) == "quarantined"
    farm.fast.open_gate()
    eventually(lambda: farm.state(farm.fast) == "up", patience_s=60)
    assert went_well(farm.compile())
    assert farm.rows()[3:] == [(farm.fast.name, "done")]


@pytest.mark.slow
def test_a_slow_host_keeps_its_compiles(farm: Farm) -> None:
    """Its compile takes far longer than usual, but a probe succeeds."""
    assert went_well(farm.compile())
    farm.fast.close_gate()
    compiling = farm.start(*COMPILE)
    farm.fast.await_compiles()
    eventually(lambda: "probe.i" in farm.fast.log.read_text(), patience_s=60)
    farm.fast.open_gate()
    assert went_well(finished(compiling))
    assert farm.rows()[1:] == [(farm.fast.name, "done")]


def test_a_drained_host_finishes_its_compiles(farm: Farm) -> None:
    farm.fast.close_gate()
    compiling = farm.start(*COMPILE)
    farm.fast.await_compiles()
    with farm.server.connect(2) as leaving:
        leaving.say(f"drain host={farm.fast.address} port={farm.fast.port} grace_s=60")
        leaving.hears("draining")
        assert went_well(farm.compile("distcc", "gcc", "-c", "main.c", "-o", "other.o"))
        farm.fast.open_gate()
        assert leaving.hears("ok").words["leases"] == "0"
    assert went_well(finished(compiling))
    assert farm.rows() == [(farm.slow.name, "done"), (farm.fast.name, "done")]


# -- clients and servers fail


def test_a_killed_client_frees_its_slot(farm: Farm) -> None:
    farm.fast.close_gate()
    compiling = farm.start(*COMPILE)
    farm.fast.await_compiles()
    compiling.kill()
    assert finished(compiling).returncode == -signal.SIGKILL
    eventually(lambda: farm.rows() == [(farm.fast.name, "gone")])
    farm.fast.open_gate()
    assert went_well(farm.compile())


def test_an_interrupted_client_frees_its_slot(farm: Farm) -> None:
    farm.fast.close_gate()
    compiling = farm.start(*COMPILE)
    farm.fast.await_compiles()
    compiling.send_signal(signal.SIGINT)
    assert finished(compiling).returncode == -signal.SIGINT
    eventually(lambda: farm.rows() == [(farm.fast.name, "gone")])
    farm.fast.open_gate()


def test_a_compile_is_local_without_a_server(farm: Farm) -> None:
    nowhere = f"127.0.0.1:{free_ports(4)}"
    first = farm.compile(HOST_SERVER=nowhere)
    assert (first.returncode, first.stderr.count("no host-server")) == (0, 1)
    assert went_well(farm.compile(HOST_SERVER=nowhere))
    assert (farm.directory / "main.o").read_bytes() == local_object(farm)
    assert farm.rows() == []


def test_the_server_is_killed_during_a_build(farm: Farm) -> None:
    project(farm, files=12)
    farm.fast.close_gate()
    farm.slow.close_gate()
    building = farm.start_build("make", "-j8", "CC=gethost distcc gcc")
    farm.fast.await_compiles(2)
    farm.slow.await_compiles(2)
    farm.server.kill()
    farm.fast.open_gate()
    farm.slow.open_gate()
    built = finished(building)
    assert built.returncode == 0, built.stderr
    assert objects_are_as_local(farm)
    farm.server.start()
    farm.add_hosts()
    farm.builder.forget()
    assert went_well(farm.compile())
