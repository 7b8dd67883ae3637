"""The accounting of distccd's process tree: every tick counted once, whoever died meanwhile."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from compile_host import ProcDirectory, eventually
from hypothesis import given, settings
from hypothesis import strategies as st

from compilefarm.compile_host.load.machine import Machine, ProcMachine, this_machine
from compilefarm.compile_host.processes import Process, ProcessTree, compiles, cpu_used_s

ROOT = 100


class Village:
    """A process tree in memory that keeps books as a kernel does."""

    def __init__(self) -> None:
        self.processes = {
            1: Process(1, 0, 1, "S", 0.0, 0.0, 0.0),
            ROOT: Process(ROOT, 1, ROOT, "S", 1.0, 5.0, 7.0),
        }
        self.births = 1
        self.used_s = 0.0

    def pids(self) -> list[int]:
        return list(self.processes)

    def process(self, pid: int) -> Process | None:
        return self.processes.get(pid)

    def fork(self, parent: int) -> None:
        self.births += 1
        pid = ROOT + self.births
        session = self.processes[parent].session
        self.processes[pid] = Process(pid, parent, session, "R", float(self.births), 0.0, 0.0)

    def work(self, pid: int, cpu_s: float) -> None:
        process = self.processes[pid]
        self.processes[pid] = replace(process, own_cpu_s=process.own_cpu_s + cpu_s)
        self.used_s += cpu_s

    def end(self, pid: int) -> None:
        """End a childless process and let its parent wait for it."""
        process = self.processes.pop(pid)
        parent = self.processes[process.parent]
        waited_s = parent.waited_cpu_s + process.total_cpu_s
        self.processes[parent.pid] = replace(parent, waited_cpu_s=waited_s)

    def leaves(self) -> list[int]:
        parents = {process.parent for process in self.processes.values()}
        return [pid for pid in self.processes if pid > ROOT and pid not in parents]

    def members(self) -> list[int]:
        return [pid for pid in self.processes if pid >= ROOT]


@given(
    seed=st.integers(0, 2**32),
    steps=st.lists(st.sampled_from(["fork", "work", "work", "end", "read"]), max_size=120),
)
@settings(max_examples=300, deadline=None)
def test_every_second_is_counted_once(seed: int, steps: list[str]) -> None:
    village, chance = Village(), random.Random(seed)
    tree = ProcessTree(village, ROOT)
    before, counted_s = tree.read(), 0.0
    for step in [*steps, "read"]:
        if step == "fork":
            village.fork(chance.choice(village.members()))
        elif step == "work":
            village.work(chance.choice(village.members()), chance.randint(1, 64) / 8)
        elif step == "end" and village.leaves():
            village.end(chance.choice(village.leaves()))
        elif step == "read":
            after = tree.read()
            counted_s += cpu_used_s(before, after)
            assert counted_s == village.used_s
            before = after


def test_a_compile_that_loses_its_parent_takes_nothing_from_the_others() -> None:
    village = Village()
    for parent in (ROOT, ROOT, ROOT + 2, ROOT + 4):  # two workers; one has gcc, and gcc has cc1
        village.fork(parent)
    worker, other, gcc, cc1 = (ROOT + n for n in (2, 3, 4, 5))
    village.work(cc1, 30.0)
    before = ProcessTree(village, ROOT).read()
    village.work(other, 1.5)
    village.processes.pop(cc1)  # init waited for it
    village.end(gcc)
    assert worker in village.processes
    assert cpu_used_s(before, ProcessTree(village, ROOT).read()) == 1.5


def test_an_orphan_stays_in_the_tree_through_its_session() -> None:
    village = Village()
    village.fork(ROOT)
    village.fork(ROOT + 2)
    tree = ProcessTree(village, ROOT)
    tree.read()
    village.processes.pop(ROOT + 2)
    village.processes[ROOT + 3] = replace(village.processes[ROOT + 3], parent=1)
    assert tree.read().keys() == {ROOT, ROOT + 3}


def test_compiles_are_the_children_that_have_a_child() -> None:
    village = Village()
    tree = ProcessTree(village, ROOT)
    for _ in range(3):
        village.fork(ROOT)
    idle, busy, done = village.leaves()
    assert compiles(tree.read(), ROOT) == 0
    village.fork(busy)  # gcc
    gcc = village.leaves()[-1]
    village.fork(gcc)  # cc1
    village.fork(gcc)  # as, with -pipe
    village.fork(done)
    zombie = village.leaves()[-1]
    assert compiles(tree.read(), ROOT) == 2
    village.processes[zombie] = replace(village.processes[zombie], state="Z")
    assert compiles(tree.read(), ROOT) == 1
    assert idle in tree.read()


def test_a_recycled_pid_is_nobody_of_ours() -> None:
    village = Village()
    tree = ProcessTree(village, ROOT, started_s=0.5)
    village.fork(ROOT)
    assert tree.root() is None
    assert tree.read() == {}


class Overtaken(Village):
    """The root waits for its child just when the root was read and the child was not."""

    def process(self, pid: int) -> Process | None:
        found = super().process(pid)
        if pid == ROOT and ROOT + 2 in self.processes:
            self.end(ROOT + 2)
        return found


def test_a_reading_that_was_overtaken_is_taken_again() -> None:
    village = Overtaken()
    village.fork(ROOT)
    village.work(ROOT + 2, 3.0)
    before = {ROOT: village.processes[ROOT]}
    assert cpu_used_s(before, ProcessTree(village, ROOT).read()) == 3.0


def test_a_child_listed_before_its_parent_belongs_all_the_same(tmp_path: Path) -> None:
    proc = ProcDirectory(tmp_path)
    proc.process(1, 0)
    proc.process(50, 300, session=9)
    proc.process(300, 20, session=9)
    proc.process(20, 1, session=9)
    proc.process(60, 1)
    assert ProcessTree(ProcMachine(tmp_path), 20).read().keys() == {20, 50, 300}


def test_an_unreadable_process_is_told_of_and_left_out(tmp_path: Path) -> None:
    proc = ProcDirectory(tmp_path)
    proc.process(1, 0)
    proc.process(20, 1)
    proc.write("21/stat", b"\xff\x00 nonsense")
    complaints: list[str] = []
    tree = ProcessTree(ProcMachine(tmp_path), 20, complain=complaints.append)
    assert tree.read().keys() == {20}
    assert set(complaints) == {f"{tmp_path}/21/stat is not a process's line"}


def machines() -> list[Machine]:
    """Both ways to read this very machine."""
    from compilefarm.compile_host.load.other_unix import OtherUnix

    return [this_machine(), OtherUnix()]


# Runs 20 short children, one after the other, each with children of its own; then waits to be
# read.
SHORT_LIVES = """
import resource, subprocess, sys
burn = "sum(range(300000))"
life = f"import os; os.fork() or exit({burn} < 0); os.wait(); {burn}"
for _ in range(20):
    subprocess.run([sys.executable, "-S", "-c", life])
own, waited = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
print(own.ru_utime + own.ru_stime + waited.ru_utime + waited.ru_stime, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("machine", machines(), ids=["proc", "psutil"])
def test_short_lives_are_counted_in_full(machine: Machine) -> None:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", SHORT_LIVES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        try:
            assert parent.stdin is not None
            assert parent.stdout is not None
            tree = ProcessTree(machine, parent.pid)
            before, counted_s = tree.read(), 0.0
            counted_s += sum(process.total_cpu_s for process in before.values())
            os.set_blocking(parent.stdout.fileno(), False)
            while not (said := parent.stdout.readline()):
                after = tree.read()
                counted_s += cpu_used_s(before, after)
                before = after
            after = tree.read()
            counted_s += cpu_used_s(before, after)
            # The kernel's clock ticks: a hundredth of a second for each of the two columns.
            assert abs(counted_s - float(said)) <= 0.1 * float(said) + 4 / 100
        finally:
            parent.kill()


def test_what_is_stopped_and_what_is_gone_is_seen() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            tree = ProcessTree(this_machine(), sleeper.pid)
            assert tree.root() is not None
            sleeper.send_signal(19)
            eventually(lambda: tree.read()[sleeper.pid].stopped)
        finally:
            sleeper.kill()
        eventually(lambda: tree.root() is None)
