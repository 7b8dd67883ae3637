"""The accounting of distccd's process tree: each tick counts once, whichever processes end."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proc_directory import ProcDirectory
from run_program import eventually

from compilefarm.compile_host.load.machine import Machine, ProcMachine, this_machine
from compilefarm.compile_host.processes import Process, ProcessTree, compiles, cpu_used_s

ROOT = 100


class MadeUpTree:
    """A process tree in memory with the accounting of a kernel."""

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
    made_up, chance = MadeUpTree(), random.Random(seed)
    tree = ProcessTree(made_up, ROOT)
    before, counted_s = tree.read(), 0.0
    for step in [*steps, "read"]:
        if step == "fork":
            made_up.fork(chance.choice(made_up.members()))
        elif step == "work":
            made_up.work(chance.choice(made_up.members()), chance.randint(1, 64) / 8)
        elif step == "end" and made_up.leaves():
            made_up.end(chance.choice(made_up.leaves()))
        elif step == "read":
            after = tree.read()
            counted_s += cpu_used_s(before, after)
            assert counted_s == made_up.used_s
            before = after


def test_a_compile_that_loses_its_parent_does_not_hide_the_others() -> None:
    made_up = MadeUpTree()
    for parent in (ROOT, ROOT, ROOT + 2, ROOT + 4):  # two workers; one has gcc, and gcc has cc1
        made_up.fork(parent)
    worker, other, gcc, cc1 = (ROOT + n for n in (2, 3, 4, 5))
    made_up.work(cc1, 30.0)
    before = ProcessTree(made_up, ROOT).read()
    made_up.work(other, 1.5)
    made_up.processes.pop(cc1)  # init waited for it
    made_up.end(gcc)
    assert worker in made_up.processes
    assert cpu_used_s(before, ProcessTree(made_up, ROOT).read()) == 1.5


def test_an_orphan_stays_in_the_tree_through_its_session() -> None:
    made_up = MadeUpTree()
    made_up.fork(ROOT)
    made_up.fork(ROOT + 2)
    tree = ProcessTree(made_up, ROOT)
    tree.read()
    made_up.processes.pop(ROOT + 2)
    made_up.processes[ROOT + 3] = replace(made_up.processes[ROOT + 3], parent=1)
    assert tree.read().keys() == {ROOT, ROOT + 3}


def test_compiles_are_the_children_that_have_a_child() -> None:
    made_up = MadeUpTree()
    tree = ProcessTree(made_up, ROOT)
    for _ in range(3):
        made_up.fork(ROOT)
    idle, busy, done = made_up.leaves()
    assert compiles(tree.read(), ROOT) == 0
    made_up.fork(busy)  # gcc
    gcc = made_up.leaves()[-1]
    made_up.fork(gcc)  # cc1
    made_up.fork(gcc)  # as, with -pipe
    made_up.fork(done)
    zombie = made_up.leaves()[-1]
    assert compiles(tree.read(), ROOT) == 2
    made_up.processes[zombie] = replace(made_up.processes[zombie], state="Z")
    assert compiles(tree.read(), ROOT) == 1
    assert idle in tree.read()


def test_a_recycled_pid_has_an_empty_tree() -> None:
    made_up = MadeUpTree()
    tree = ProcessTree(made_up, ROOT, started_s=0.5)
    made_up.fork(ROOT)
    assert tree.root() is None
    assert tree.read() == {}


class ReapsDuringReading(MadeUpTree):
    """The root waits for its child after the root was read, and before the child is."""

    def process(self, pid: int) -> Process | None:
        found = super().process(pid)
        if pid == ROOT and ROOT + 2 in self.processes:
            self.end(ROOT + 2)
        return found


def test_a_reading_that_missed_a_child_is_repeated() -> None:
    made_up = ReapsDuringReading()
    made_up.fork(ROOT)
    made_up.work(ROOT + 2, 3.0)
    before = {ROOT: made_up.processes[ROOT]}
    assert cpu_used_s(before, ProcessTree(made_up, ROOT).read()) == 3.0


def test_a_child_listed_before_its_parent_is_in_the_tree(tmp_path: Path) -> None:
    proc = ProcDirectory(tmp_path)
    proc.process(1, 0)
    proc.process(50, 300, session=9)
    proc.process(300, 20, session=9)
    proc.process(20, 1, session=9)
    proc.process(60, 1)
    assert ProcessTree(ProcMachine(tmp_path), 20).read().keys() == {20, 50, 300}


def test_an_unreadable_process_is_reported_and_left_out(tmp_path: Path) -> None:
    proc = ProcDirectory(tmp_path)
    proc.process(1, 0)
    proc.process(20, 1)
    proc.write("21/stat", b"\xff\x00 nonsense")
    complaints: list[str] = []
    tree = ProcessTree(ProcMachine(tmp_path), 20, complain=complaints.append)
    assert tree.read().keys() == {20}
    assert set(complaints) == {f"{tmp_path}/21/stat has an unknown format"}


def machines() -> list[Machine]:
    """Return this machine, read through /proc and through psutil."""
    from compilefarm.compile_host.load.other_unix import OtherUnix

    return [this_machine(), OtherUnix()]


# It runs 20 short-lived children, one after the other, each with a child of its own. Then it waits.
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
def test_short_lived_processes_are_counted_in_full(machine: Machine) -> None:
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
            # The kernel counts in ticks: each of the two columns may be off by a hundredth.
            assert abs(counted_s - float(said)) <= 0.1 * float(said) + 4 / 100
        finally:
            parent.kill()


def test_a_stopped_and_an_ended_process_are_recognised() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            tree = ProcessTree(this_machine(), sleeper.pid)
            assert tree.root() is not None
            sleeper.send_signal(19)
            eventually(lambda: tree.read()[sleeper.pid].stopped)
        finally:
            sleeper.kill()
        eventually(lambda: tree.root() is None)
