"""The load report: which CPU use is the farm's own, and what is reported if that is unknown."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from proc_directory import TICKS_PER_S, ProcDirectory

from compilefarm.compile_host.load.load import Meter
from compilefarm.compile_host.load.machine import ProcMachine
from compilefarm.compile_host.processes import ProcessTree

DISTCCD = 20


class Rig:
    """A meter on a made-up machine."""

    def __init__(self, path: Path, machine: ProcMachine | None = None) -> None:
        self.proc = ProcDirectory(path)
        self.proc.process(1, 0)
        self.proc.process(DISTCCD, 1, session=DISTCCD)
        self.complaints: list[str] = []
        machine = machine or ProcMachine(path)
        self.meter = Meter(
            machine, ProcessTree(machine, DISTCCD), expected_cpus=4, complain=self.complaints.append
        )
        self.read = self.meter.read
        self.read(0.0)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_cpu_use_outside_distccds_tree_is_foreign(rig: Rig) -> None:
    rig.proc.cpus([TICKS_PER_S, TICKS_PER_S // 2])
    rig.proc.process(DISTCCD, 1, session=DISTCCD, own=TICKS_PER_S // 4, waited=TICKS_PER_S)
    report = rig.read(1.0)
    assert (report.cpus, report.own_cpus, report.foreign_cpus) == (2, 1.25, 0.25)
    assert report.distccd == "running"
    assert (report.memory_free_mb, report.memory_total_mb) == (1000, 2000)


def test_the_memory_of_the_largest_compile_is_reported(rig: Rig) -> None:
    pages_of_a_mb = 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert rig.read(1.0).compile_memory_mb is None
    rig.proc.process(DISTCCD, 1, session=DISTCCD, resident_pages=900 * pages_of_a_mb)
    for pid, resident_mb in ((21, 40), (22, 310)):
        rig.proc.process(pid, DISTCCD, session=DISTCCD, resident_pages=resident_mb * pages_of_a_mb)
    assert rig.read(2.0).compile_memory_mb == 310.0


def test_a_window_lasts_from_report_to_report(rig: Rig) -> None:
    rig.proc.cpus([TICKS_PER_S, 0])
    assert rig.read(1.0).foreign_cpus == 1.0
    assert rig.read(2.0).foreign_cpus == 0.5
    rig.meter.begin_window()
    assert rig.read(3.0).foreign_cpus == 0.0


def test_pressure_covers_the_window(rig: Rig) -> None:
    rig.proc.stalled(0.5)
    assert rig.read(2.0).cpu_pressure == 0.25
    rig.proc.stalled(9.0)  # more than the time that passed, so it is capped
    assert rig.read(4.0).cpu_pressure == 0.625
    rig.meter.begin_window()
    assert rig.read(6.0).cpu_pressure == 0.0
    rig.proc.remove("pressure/cpu")
    assert rig.read(8.0).cpu_pressure is None


def test_without_distccd_all_cpu_use_is_foreign(tmp_path: Path) -> None:
    proc = ProcDirectory(tmp_path)
    meter = Meter(ProcMachine(tmp_path), None, expected_cpus=2, complain=pytest.fail)
    meter.read(0.0)
    proc.cpus([TICKS_PER_S, 0])
    report = meter.read(1.0)
    assert (report.own_cpus, report.foreign_cpus, report.distccd) == (0.0, 1.0, "")


def test_a_stopped_or_ended_distccd_is_reported(rig: Rig) -> None:
    rig.proc.process(21, DISTCCD, session=DISTCCD, state="T")
    assert rig.read(1.0).distccd == "stopped"
    rig.proc.end(21)
    assert rig.read(2.0).distccd == "running"
    rig.proc.process(DISTCCD, 1, session=DISTCCD, started=999)
    assert rig.read(3.0).distccd == "gone"
    rig.proc.end(DISTCCD)
    assert rig.read(4.0).distccd == "gone"


def test_own_load_averages_follow_the_kernels_rule(rig: Rig) -> None:
    for pid in range(30, 38):
        rig.proc.process(pid, DISTCCD, session=DISTCCD, state="R" if pid % 2 else "D")
    rig.proc.write("loadavg", "9.00 9.00 9.00 1/1 1\n")
    for second in range(1, 121):
        report = rig.read(float(second))
    assert report.own1 == pytest.approx(8 * (1 - math.exp(-120 / 60)))
    assert report.own5 == pytest.approx(8 * (1 - math.exp(-120 / 300)))
    assert report.own15 == pytest.approx(8 * (1 - math.exp(-120 / 900)))
    assert report.load1 == 9.0


def test_own_load_never_exceeds_the_whole_load(rig: Rig) -> None:
    rig.proc.process(30, DISTCCD, session=DISTCCD, state="R")
    report = rig.read(1000.0)
    assert report.load1 >= report.own1 > 0.9


@pytest.mark.parametrize("garbled", [False, True])
def test_unreadable_cpus_count_as_busy(rig: Rig, garbled: bool) -> None:
    if garbled:
        rig.proc.write("stat", "cpu0 garbled\n")
    else:
        rig.proc.remove("stat")
    report = rig.read(1.0)
    assert report.foreign_cpus == report.cpus == 2
    assert "stat" in rig.complaints[0]
    rig.meter.begin_window()
    rig.proc.cpus([5, 5])
    assert rig.read(2.0).foreign_cpus == 2, "there is nothing to compare with yet"
    rig.meter.begin_window()
    assert rig.read(3.0).foreign_cpus == 0


def test_an_unreadable_machine_counts_as_busy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    complaints: list[str] = []
    machine = ProcMachine(tmp_path / "empty")
    meter = Meter(machine, None, expected_cpus=4, complain=complaints.append)
    meter.read(0.0)
    report = meter.read(1.0)
    assert (report.cpus, report.foreign_cpus, report.load1) == (None, 4, 4)
    assert report.memory_free_mb is None
    assert {Path(text.split(":")[0]).name for text in complaints} == {"stat", "loadavg", "meminfo"}


def test_an_unreadable_load_average_counts_as_high(rig: Rig) -> None:
    rig.proc.write("loadavg", "idle\n")
    assert rig.read(1.0).load1 == 2


def test_a_cpu_that_appears_is_not_a_burst(rig: Rig) -> None:
    rig.proc.cpus([0, 0, 10_000_000])
    assert rig.read(1.0).foreign_cpus == 0
    rig.proc.cpus([0])
    assert rig.read(2.0).foreign_cpus == 0


class Container(ProcMachine):
    """A quota of two CPUs on a machine with eight, all of which are visible."""

    def cpus(self, counted: int) -> tuple[int, int]:
        return 2, counted


@pytest.mark.parametrize(("others", "foreign"), [(0, 0), (6, 0), (7, 1), (8, 2)])
def test_foreign_load_counts_against_a_quota_only_beyond_the_other_cpus(
    tmp_path: Path, others: int, foreign: int
) -> None:
    proc = ProcDirectory(tmp_path)
    proc.cpus([0] * 8)
    meter = Meter(Container(tmp_path), None, expected_cpus=2, complain=pytest.fail)
    meter.read(0.0)
    proc.cpus([TICKS_PER_S] * others + [0] * (8 - others))
    proc.write("loadavg", f"{others}.0 0 0 1/1 1\n")
    report = meter.read(1.0)
    assert (report.cpus, report.foreign_cpus) == (2, foreign)
    assert report.load1 == others * 2 / 8


def test_a_small_change_is_not_news(rig: Rig) -> None:
    last = replace(rig.read(1.0), cpus=4)
    assert not last.news_since(last)
    assert not replace(last, foreign_cpus=0.25).news_since(last)
    assert replace(last, foreign_cpus=0.5).news_since(last)
    assert not replace(last, foreign_cpus=0.5, cpus=64).news_since(replace(last, cpus=64))
    assert replace(last, distccd="stopped").news_since(last)
    assert not replace(last, memory_free_mb=900).news_since(last)
    assert replace(last, memory_free_mb=700).news_since(last)
    assert replace(last, memory_free_mb=None).news_since(last)
    assert not replace(last, own_cpus=4.0, load1=3.0).news_since(last)
