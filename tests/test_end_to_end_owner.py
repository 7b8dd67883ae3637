"""Real builds during which a host's owner comes back, with each of the three `--reclaim` options.

The host is in the farm as with watch-ssaver, with enable-host's own distccd and loadavg. A gate
before its compiler holds the compiles, so the owner always comes during one. The tests assert what
the user of the build sees, what the record says, and what is left on the owner's CPUs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from build_farm import Farm, finished, objects_are_as_local, project
from desk import comes_true, play, watched_desktop
from farm_processes import DistccdHost
from proc_directory import ProcDirectory

from compilefarm.compile_host.desktop import desktop
from compilefarm.compile_host.desktop.desktop import Desktop

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


class WatchedHost(DistccdHost):
    """A host whose distccd is started by enable-host and not by the test."""

    def start(self) -> None:
        """Do nothing: distccd starts when the owner leaves."""

    def kill(self) -> None:
        """Do nothing: the watcher has ended distccd."""


class OwnersFarm(Farm):
    """A farm whose fast host is a desktop, and whose slow host is not."""

    complaints: list[str]

    def add_hosts(self) -> None:
        self.slow.add_to(self.server)
        (self.directory / "proc").mkdir(parents=True)
        ProcDirectory(self.directory / "proc")  # idle, however busy this machine is
        self.complaints = []

    @contextlib.asynccontextmanager
    async def desktop(self, *options: str) -> AsyncIterator[Desktop]:
        """Watch the fast host, whose owner is away, while the block runs."""
        host = ["--host", self.fast.name, "--run-dir", str(self.directory / "run")]
        measured = ["--slots", "2", "--power-index", "9"]
        where = ["--procfs", str(self.directory / "proc")]
        arguments = [*host, *measured, *where, *options]
        os.environ["PATH"] = self.fast.environment()["PATH"]
        async with watched_desktop(
            arguments, [self.server.name], self.complaints.append
        ) as watched:
            await watched.owner_left()
            await comes_true(lambda: self.state(self.fast) == "up")
            yield watched
        assert not self.complaints
        assert not [each for each in self.held_compiles() if each.is_running()]

    def held_compiles(self) -> list[psutil.Process]:
        """Return the desktop's compiles that are held at the gate."""
        found = []
        for pid in self.fast.begun():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                # distccd reaps a compile without a client only when the worker ends.
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    async def build_until_both_hosts_compile(self) -> subprocess.Popen[str]:
        """Start a build; return it when the desktop compiles two of its files."""
        project(self, files=12)
        self.fast.close_gate()
        building = self.start_build("make", "-s", "-j4", "CC=gethost distcc gcc")
        await comes_true(lambda: len(self.fast.begun()) == 2)
        return building

    async def built(self, building: subprocess.Popen[str]) -> Counter[tuple[str, str]]:
        """Wait for a build; return the number of its compiles on the desktop, by ending."""
        built = await asyncio.to_thread(finished, building)
        assert (built.returncode, built.stderr) == (0, "")
        assert objects_are_as_local(self)
        rows = self.rows()
        assert sum(ending == "done" for _, ending in rows) == 13, "none was compiled elsewhere"
        host = self.server.host(self.fast.name)
        assert (host["failures"], self.server.farm()["totals"]["leases_failed"]) == (0, 0)
        return Counter(row for row in rows if row[0] == self.fast.name)


@pytest.fixture
def farm(
    tmp_path: Path,
    gethost_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[OwnersFarm]:
    monkeypatch.setenv("PATH", os.environ["PATH"])  # so that it is restored afterwards
    owners = OwnersFarm(tmp_path, gethost_path, "--policy", "tier")
    owners.fast = WatchedHost("127.0.0.2")
    with owners.running():
        yield owners


def test_compiles_finish_at_the_lowest_priority(farm: OwnersFarm) -> None:
    async def story() -> None:
        async with farm.desktop("--reclaim", "finish") as watched:
            building = await farm.build_until_both_hosts_compile()
            for compile in farm.held_compiles():
                assert compile.nice() == 19
                assert os.sched_getscheduler(compile.pid) == os.SCHED_IDLE
                assert compile.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
            await watched.owner_came(time.time())
            farm.fast.open_gate()
            assert await farm.built(building) == {(farm.fast.name, "done"): 2}

    play(story)


def test_compiles_are_stopped_and_go_on_when_the_owner_leaves_again(farm: OwnersFarm) -> None:
    def are_stopped() -> bool:
        # A shell that is starting a program sleeps until the stopped program has started.
        # A shell that starts a program has a child for a moment only.
        try:
            of_each = [[each, *each.children()] for each in farm.held_compiles()]
            assert len(of_each) == 2
            return all(group[-1].status() == psutil.STATUS_STOPPED for group in of_each)
        except psutil.NoSuchProcess:
            return False

    async def story() -> None:
        async with farm.desktop("--reclaim", "stop") as watched:
            building = await farm.build_until_both_hosts_compile()
            await watched.owner_came(time.time())
            await comes_true(are_stopped)
            farm.fast.open_gate()
            # All files but those two have been built, and none of them on the desktop.
            await comes_true(lambda: len(farm.rows()) == 11)
            await comes_true(lambda: farm.state(farm.fast) == "owner")  # monitors lag a little
            assert are_stopped()
            await watched.owner_left()
            assert (await farm.built(building))[farm.fast.name, "done"] >= 2

    play(story)


def test_compiles_that_stay_stopped_run_elsewhere(
    farm: OwnersFarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desktop, "STOPPED_FOR_S", 0.5)

    async def story() -> None:
        async with farm.desktop("--reclaim", "stop") as watched:
            building = await farm.build_until_both_hosts_compile()
            await watched.owner_came(time.time())
            assert await farm.built(building) == {(farm.fast.name, "revoked"): 2}
            await comes_true(lambda: not farm.held_compiles())

    play(story)


def test_compiles_are_ended_now(farm: OwnersFarm) -> None:
    async def story() -> None:
        async with farm.desktop("--reclaim", "now") as watched:
            building = await farm.build_until_both_hosts_compile()
            await watched.owner_came(time.time())
            await comes_true(lambda: not farm.held_compiles())
            assert await farm.built(building) == {(farm.fast.name, "revoked"): 2}

    play(story)
