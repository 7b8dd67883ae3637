"""Readings of a machine from made-up files: correct or refused, never wrong."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proc_directory import TICKS_PER_S, ProcDirectory

from compilefarm.compile_host.load.machine import ProcMachine, this_machine
from compilefarm.compile_host.load.other_unix import OtherUnix
from compilefarm.compile_host.processes import Unreadable
from compilefarm.programs import cpus as cpus_module
from compilefarm.programs.cpus import available_cpus


@pytest.fixture
def proc(tmp_path: Path) -> ProcDirectory:
    return ProcDirectory(tmp_path)


def test_a_made_up_machine_is_read(proc: ProcDirectory) -> None:
    machine = ProcMachine(proc.path)
    proc.cpus([TICKS_PER_S, 3 * TICKS_PER_S])
    proc.write("loadavg", "1.50 0.25 0.10 2/345 6789\n")
    assert machine.busy_cpu_s() == {"cpu0": 1.0, "cpu1": 3.0}
    assert machine.cpus(2) == (2, 2)
    assert machine.load_averages() == (1.5, 0.25, 0.1)
    assert machine.memory_mb() == (1000.0, 2000.0)
    proc.stalled(1.25)
    assert machine.cpu_stalled_s() == 1.25


def test_waiting_for_a_disk_is_idle_and_stolen_time_is_busy(proc: ProcDirectory) -> None:
    #                            user nice system idle iowait irq softirq steal guest guest_nice
    proc.write("stat", "cpu 0\ncpu0 1000 200 30 7 7000000 400 50 6 900 90\n")
    assert ProcMachine(proc.path).busy_cpu_s() == {"cpu0": 1686 / TICKS_PER_S}


def test_a_process_is_read_whatever_its_name(proc: ProcDirectory) -> None:
    proc.process(7, 3, session=5, state="T", own=TICKS_PER_S, waited=2 * TICKS_PER_S)
    process = ProcMachine(proc.path).process(7)
    assert process is not None
    assert (process.parent, process.session, process.state) == (3, 5, "T")
    assert (process.own_cpu_s, process.waited_cpu_s) == (1.0, 2.0)
    assert ProcMachine(proc.path).process(8) is None
    assert ProcMachine(proc.path).pids() == [7]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("stat", ""),
        ("stat", "cpu0 1 2 x 4 5 6 7 8\n"),
        ("stat", "cpu0 1 2 3\n"),
        ("loadavg", "nan 0 0\n"),
        ("loadavg", "0.1 0.2\n"),
        ("loadavg", "-1 0 0\n"),
        ("meminfo", "MemTotal: 10 kB\n"),
        ("meminfo", "MemTotal: 10 kB\nMemAvailable: many kB\n"),
        ("pressure/cpu", "some avg10=1 total=1.5\n"),
        ("pressure/cpu", "full avg10=1 total=1\n"),
    ],
)
def test_a_garbled_file_is_named(proc: ProcDirectory, name: str, text: str) -> None:
    proc.write(name, text)
    with pytest.raises(Unreadable, match=name):
        read_all(ProcMachine(proc.path))


@pytest.mark.parametrize("name", ["stat", "loadavg", "meminfo"])
def test_a_missing_file_is_named(proc: ProcDirectory, name: str) -> None:
    proc.remove(name)
    with pytest.raises(Unreadable, match=f"{name}: no such file"):
        read_all(ProcMachine(proc.path))


def test_a_kernel_without_pressure_is_not_an_error(proc: ProcDirectory) -> None:
    proc.remove("pressure/cpu")
    assert ProcMachine(proc.path).cpu_stalled_s() is None


@given(
    name=st.sampled_from(["stat", "loadavg", "meminfo", "pressure/cpu", "9/stat"]),
    text=st.binary() | st.from_regex(r"(cpu0|some|MemTotal:|9 \(x\))( [0-9a-z=.-]{0,4}){0,24}\n?"),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_read_or_unreadable(proc: ProcDirectory, name: str, text: bytes | str) -> None:
    proc.write(name, text)
    with contextlib.suppress(Unreadable):
        read_all(ProcMachine(proc.path))


def read_all(machine: ProcMachine) -> None:
    machine.pids()
    machine.process(9)
    machine.busy_cpu_s()
    machine.load_averages()
    machine.memory_mb()
    machine.cpu_stalled_s()


def test_proc_and_psutil_agree_about_this_machine() -> None:
    files, library = this_machine(), OtherUnix()
    pid = os.getpid()
    one, other = files.process(pid), library.process(pid)
    assert one is not None
    assert other is not None
    assert (one.parent, one.session) == (other.parent, other.session)
    assert abs(one.own_cpu_s - other.own_cpu_s) < 1
    assert files.memory_mb()[1] == pytest.approx(library.memory_mb()[1])
    assert files.busy_cpu_s().keys() <= library.busy_cpu_s().keys()
    assert pid in library.pids()
    assert library.process(2**22 + 1) is None
    assert library.cpu_stalled_s() is None
    assert len(library.load_averages()) == 3
    assert library.cpus(3) == (min(3, available_cpus()), 3)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a system without CPU affinity")
def test_only_usable_cpus_count() -> None:
    before = os.sched_getaffinity(0)
    cpu = min(before)
    try:
        os.sched_setaffinity(0, {cpu})
        assert available_cpus() == 1
        assert this_machine().busy_cpu_s().keys() == {f"cpu{cpu}"}
        assert this_machine().cpus(1) == (1, os.cpu_count())
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("limits", "quota"),
    [
        ({}, 1e9),
        ({"a/b": "max 100000"}, 1e9),
        ({"a/b": "250000 100000"}, 2.5),
        ({"a": "100000 100000", "a/b": "250000 100000"}, 1.0),
        ({"a/b": "garbled"}, 1e9),
    ],
)
def test_the_smallest_quota_of_the_control_groups_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, str], quota: float
) -> None:
    for group, limit in limits.items():
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "cpu.max").write_text(limit + "\n")
    (tmp_path / "own").write_text("1:name=systemd:/x\n0::/a/b\n")
    monkeypatch.setattr(cpus_module, "_CGROUPS", tmp_path)
    monkeypatch.setattr(cpus_module, "_OWN_CGROUP", tmp_path / "own")
    assert cpus_module._cpu_quota() == quota
