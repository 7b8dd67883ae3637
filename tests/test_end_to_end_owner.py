"""Real builds during which the owner of a host comes back, in each of the three ways to reclaim it.

The host is brought in as watch-ssaver does it, with enable-host's own distccd and loadavg. Its
compiler has a gate, so that the owner comes in the midst of compiles, each time; and what is
asserted is what the build's user sees, what the record says, and what is left on the owner's CPUs.
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
from farm_processes import DistccdHost
from proc_directory import ProcDirectory
from test_agent_desktop import comes_true, play
from test_end_to_end import Farm, finished, objects_are_as_local, project

from compilefarm.compile_host.desktop import desktop
from compilefarm.compile_host.desktop.desktop import Desktop, add_desktop_options
from compilefarm.programs.options import Parser
from compilefarm.protocol.address import Address

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


class WatchedHost(DistccdHost):
    """A host that is not started by the test: enable-host starts its distccd."""

    def start(self) -> None:
        """Do nothing: its distccd starts when its owner leaves."""

    def kill(self) -> None:
        """Do nothing: whoever watches it has ended it."""


class OwnersFarm(Farm):
    """A farm whose fast host is somebody's desktop, and whose slow one is not."""

    complaints: list[str]

    def add_hosts(self) -> None:
        self.slow.add_to(self.server)
        (self.directory / "proc").mkdir(parents=True)
        ProcDirectory(self.directory / "proc")  # idle, however busy this machine is
        self.complaints = []

    @contextlib.asynccontextmanager
    async def desktop(self, *options: str) -> AsyncIterator[Desktop]:
        """Have the fast host watched, and its owner away; for as long as the block runs."""
        host = ["--host", self.fast.name, "--run-dir", str(self.directory / "run")]
        measured = ["--slots", "2", "--power-index", "9"]
        where = ["--server", self.server.name, "--procfs", str(self.directory / "proc")]
        parser = Parser("watch-ssaver", "")
        add_desktop_options(parser)
        parsed = parser.parse_args([*host, *measured, *where, *options])
        watched = Desktop(parsed, [Address("127.0.0.1", self.server.base)], self.complaints.append)
        os.environ["PATH"] = self.fast.environment()["PATH"]
        try:
            await watched.owner_left()
            await comes_true(lambda: self.state(self.fast) == "up")
            yield watched
        finally:
            await watched.leave()
        assert not self.complaints
        assert not [each for each in self.of_desk() if each.is_running()]

    def of_desk(self) -> list[psutil.Process]:
        """Return the desktop's compiles that stand before the gate."""
        found = []
        for pid in self.fast.begun():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                # distccd waits for a compile whose client is gone only when its worker ends.
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    async def build_until_both_hosts_compile(self) -> subprocess.Popen[str]:
        """Start a build; return it when two of its files are being compiled on the desktop."""
        project(self, files=12)
        self.fast.close_gate()
        building = self.start_build("make", "-s", "-j4", "CC=gethost distcc gcc")
        await comes_true(lambda: len(self.fast.begun()) == 2)
        return building

    async def built(self, building: subprocess.Popen[str]) -> Counter[tuple[str, str]]:
        """Wait for a build; return how many of its compiles ended how on the desktop."""
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
    monkeypatch.setenv("PATH", os.environ["PATH"])  # to be put back
    owners = OwnersFarm(tmp_path, gethost_path, "--policy", "tier")
    owners.fast = WatchedHost("127.0.0.2")
    with owners.running():
        yield owners


def test_compiles_finish_at_the_lowest_priority(farm: OwnersFarm) -> None:
    async def story() -> None:
        async with farm.desktop("--reclaim", "finish") as watched:
            building = await farm.build_until_both_hosts_compile()
            for compile in farm.of_desk():
                assert compile.nice() == 19
                assert os.sched_getscheduler(compile.pid) == os.SCHED_IDLE
                assert compile.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
            await watched.owner_came(time.time())
            farm.fast.open_gate()
            assert await farm.built(building) == {(farm.fast.name, "done"): 2}

    play(story)


def test_compiles_are_stopped_and_go_on_when_the_owner_leaves_again(farm: OwnersFarm) -> None:
    def are_stopped() -> bool:
        # A shell that was just starting a program sleeps until that, stopped too, has started.
        of_each = [[each, *each.children()] for each in farm.of_desk()]
        assert len(of_each) == 2
        return all(group[-1].status() == psutil.STATUS_STOPPED for group in of_each)

    async def story() -> None:
        async with farm.desktop("--reclaim", "stop") as watched:
            building = await farm.build_until_both_hosts_compile()
            await watched.owner_came(time.time())
            await comes_true(are_stopped)
            farm.fast.open_gate()
            # All that can be built without the two has been built: nothing goes to the desktop.
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
            await comes_true(lambda: not farm.of_desk())

    play(story)


def test_compiles_are_ended_now(farm: OwnersFarm) -> None:
    async def story() -> None:
        async with farm.desktop("--reclaim", "now") as watched:
            building = await farm.build_until_both_hosts_compile()
            await watched.owner_came(time.time())
            await comes_true(lambda: not farm.of_desk())
            assert await farm.built(building) == {(farm.fast.name, "revoked"): 2}

    play(story)
