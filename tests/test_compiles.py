"""distccd's processes on a desktop: their priority, and stopping, resuming and ending compiles."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from run_program import eventually

from compilefarm.compile_host.compiles import Compiles
from compilefarm.compile_host.load.machine import this_machine
from compilefarm.compile_host.priority import lower
from compilefarm.compile_host.processes import ProcessTree

# It starts programs.
pytestmark = pytest.mark.slow

# A distccd with two workers. Below each is a compiler that leads a process group and has a child.
# As with gcc, the compiler reports an error in the source if its child dies.
PROCESSES = """
import os, signal, sys, time
def compiler():
    os.setpgid(0, 0)
    if os.fork() == 0:
        time.sleep(1000)
    os.wait()
    os.write(1, b"fatal error\\n")
    os._exit(1)
def worker():
    if os.fork() == 0:
        compiler()
    status = os.wait()[1]
    os.write(1, b"killed\\n" if os.WIFSIGNALED(status) else b"exit 1\\n")
    time.sleep(1000)
for _ in range(2):
    if os.fork() == 0:
        worker()
time.sleep(1000)
"""


class Distccd:
    """A stand-in for distccd, with two compiles."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.tree = ProcessTree(this_machine(), process.pid)
        self.complaints: list[str] = []
        self.compiles = Compiles(self.tree, self.complaints.append)
        root = psutil.Process(process.pid)
        eventually(lambda: len(root.children(recursive=True)) == 6)
        self.all = [root, *root.children(recursive=True)]
        self.workers = root.children()
        self.compilers = [one for worker in self.workers for one in worker.children(recursive=True)]

    def states(self) -> set[str]:
        return {process.status() for process in self.compilers}


def ended(process: psutil.Process) -> bool:
    """Return whether a process has ended, perhaps without being waited for."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


@pytest.fixture
def distccd() -> Iterator[Distccd]:
    command = [sys.executable, "-S", "-c", PROCESSES]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        made = Distccd(process)
        try:
            yield made
        finally:
            for each in reversed(made.all):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()


def test_compiles_are_stopped_and_resumed(distccd: Distccd) -> None:
    assert distccd.compiles.stop() == 2
    eventually(lambda: distccd.states() == {psutil.STATUS_STOPPED})
    # When a child stops, its waiting parent wakes for a moment.
    eventually(lambda: {each.status() for each in distccd.workers} == {psutil.STATUS_SLEEPING})
    assert distccd.compiles.stop() == 0
    assert distccd.compiles.resume() == 2
    eventually(lambda: distccd.states() == {psutil.STATUS_SLEEPING})
    assert distccd.compiles.resume() == 0
    assert not distccd.complaints


@pytest.mark.parametrize("stopped", [False, True])
def test_compiles_are_ended_as_a_whole(distccd: Distccd, stopped: bool) -> None:
    if stopped:
        distccd.compiles.stop()
    assert distccd.compiles.end() == 2
    assert distccd.process.stdout
    said = [distccd.process.stdout.readline() for _ in range(2)]
    assert said == [b"killed\n"] * 2, "a compiler had time to report an error in the source"
    assert all(worker.is_running() for worker in distccd.workers)
    # The group is killed at once, but its members end one by one.
    eventually(lambda: all(map(ended, distccd.compilers)))
    assert distccd.compiles.end() == 0


def test_all_processes_of_distccd_get_the_lowest_priority(distccd: Distccd) -> None:
    lower(distccd.tree)
    for process in distccd.all:
        assert process.nice() == 19
        assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
        assert process.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
    group = Path(f"/proc/{distccd.compilers[0].pid}/autogroup")
    if group.exists():
        assert group.read_text().endswith(" nice 19\n")
    assert psutil.Process().nice() < 19, "our own priority could not be restored"


def test_a_distccd_that_has_ended_is_no_error() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    tree = ProcessTree(this_machine(), ended.pid)
    lower(tree)
    assert Compiles(tree, pytest.fail).end() == 0
