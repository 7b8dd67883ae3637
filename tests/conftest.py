"""What a test needs from the machine, in one rule for all tests; and gethost, as many use it.

A newcomer's machine may lack distccd or another program: a test that needs it is skipped, and says
what is missing. In CI (CI=true) the same test fails, because there a skipped test would never be
run at all.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from compilers import FakeCompiler, build_driver
from farm_processes import HostServer
from gethost_backups import Compile
from gethost_program import Gethost, Server, gethost_under_test

E2E_PROGRAMS = ("distcc", "distccd", "cc")
# python-dbusmock comes for the system's Python, which need not be the one on PATH.
DBUSMOCK_PYTHON = os.environ.get("SYSTEM_PYTHON", "/usr/bin/python3")

# A shell that starts the tests in the background, or nohup, makes them ignore signals. So would
# every program that they start, and it would be deaf to the signals that are tested.
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        default = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the test, or fail it in CI, when a program that it needs is not on PATH."""
    needed = [program for mark in item.iter_markers("needs") for program in mark.args]
    if item.get_closest_marker("e2e"):
        needed += E2E_PROGRAMS
    missing = sorted({program for program in needed if not _there(program)})
    if not missing:
        return
    reason = f"not on PATH: {', '.join(missing)} (`make setup` installs what it can)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@cache
def _there(program: str) -> bool:
    if program != "dbusmock":
        return shutil.which(program) is not None
    command = ["env", DBUSMOCK_PYTHON, "-c", "import dbusmock"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The programs keep what they remember in a directory of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def gethost_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gethost to be tested."""
    return gethost_under_test(tmp_path_factory.getbasetemp())


@pytest.fixture
def server() -> Iterator[Server]:
    """A host-server that says what the test says."""
    with Server() as server:
        yield server


@pytest.fixture
def gethost(gethost_path: Path, server: Server, tmp_path: Path) -> Iterator[Gethost]:
    """A gethost that asks such a server."""
    with Gethost(gethost_path, tmp_path, server.name) as gethost:
        yield gethost


@pytest.fixture
def compile_(gethost: Gethost, server: Server) -> Iterator[Compile]:
    """A compile that can have a backup, under such a gethost."""
    with contextlib.closing(Compile(gethost, server)) as compile_:
        yield compile_


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that all fakes are copies of."""
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def fake(driver: Path, tmp_path: Path) -> FakeCompiler:
    """A gcc."""
    return FakeCompiler(driver, tmp_path / "fake")


@pytest.fixture(scope="session")
def shared_host_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostServer]:
    """A real host-server with one host of 8 slots, for tests that leave it as it was."""
    with HostServer(tmp_path_factory.mktemp("server")) as server:
        assert server.ask("add host=127.0.0.1 slots=8").startswith("ok ")
        yield server


@pytest.fixture
def host_server(shared_host_server: HostServer) -> Iterator[HostServer]:
    """The shared host-server, which must serve well-behaved clients after each test."""
    yield shared_host_server
    shared_host_server.serves()
