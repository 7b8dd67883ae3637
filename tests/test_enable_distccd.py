"""enable-host and disable-host with the real distccd, run by root and by another user."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from desk import Desk
from run_program import eventually, program_environment, run
from scripted_server import ScriptedServer

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ANOTHER_USER = {"user": 65534, "group": 65534, "extra_groups": []}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as scripted:
        yield scripted


def python_for_all_users(environment: dict[str, str]) -> str:
    """Return a Python that a user other than root can run; skip the test without one."""
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            version = run(
                "addhost", "--version", environment=environment, python=python, **ANOTHER_USER
            )
            if version.returncode == 0:
                return python
    pytest.skip("no Python here can be run by another user")


@pytest.fixture(params=["root", "another user"])
def desk(request: pytest.FixtureRequest, server: ScriptedServer) -> Iterator[Desk]:
    """A host with the real distccd, enabled by root and by another user."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("this is not root")
    # Not in tmp_path, which another user cannot read.
    with tempfile.TemporaryDirectory() as name:
        options: dict[str, Any] = {}
        environment = program_environment()
        if request.param != "root" and os.geteuid() == 0:
            environment["HOME"] = name
            options = ANOTHER_USER | {"python": python_for_all_users(environment)}
            os.chown(name, 65534, 65534)
        made = Desk(Path(name), server.name, environment, **options)
        yield made
        made.disable("--grace", 0)
        assert made.clean


def distcc_environment(desk: Desk, directory: Path) -> dict[str, str]:
    """Return an environment in which distcc uses only this host, and never compiles locally."""
    return dict(os.environ) | {
        "DISTCC_HOSTS": f"{desk.name}/2",
        "DISTCC_FALLBACK": "0",
        "DISTCC_SKIP_LOCAL_RETRY": "1",
        "DISTCC_DIR": str(directory),
    }


def test_a_compile_runs_and_the_host_is_disabled(desk: Desk, tmp_path: Path) -> None:
    done = desk.enable("--slots", 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert stat.S_IMODE((desk.run_dir / desk.name).stat().st_mode) == 0o700
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    compiled = subprocess.run(
        ["distcc", "gcc", "-c", "main.c", "-o", "main.o"],
        cwd=tmp_path,
        env=distcc_environment(desk, tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (compiled.returncode, compiled.stderr) == (0, "")
    assert (tmp_path / "main.o").stat().st_size
    tree = desk.tree("distccd")
    done = desk.disable()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{desk.name} is disabled\n"
    assert desk.clean
    assert all(process.gone for process in tree.read().values())


def test_distccd_ends_with_its_compilers(desk: Desk, tmp_path: Path) -> None:
    desk.enable("--slots", 2)
    # It takes long enough to be seen, and ends at some time.
    lines = [f"int f{n}(int a) {{ return a * {n} % (a ^ {n + 1}); }}" for n in range(60_000)]
    (tmp_path / "long.c").write_text("\n".join(lines))
    tree = desk.tree("distccd")
    idle = len(tree.read())
    with subprocess.Popen(
        ["distcc", "gcc", "-O2", "-c", "long.c", "-o", "long.o"],
        cwd=tmp_path,
        env=distcc_environment(desk, tmp_path),
        stderr=subprocess.DEVNULL,
    ) as compile_:
        eventually(lambda: len(tree.read()) > idle + 1)
        eventually(lambda: sum(process.total_cpu_s for process in tree.read().values()) > 0)
        done = desk.disable("--grace", 0)
        assert (done.returncode, done.stderr) == (0, "")
        assert compile_.wait(timeout=60) >= 100
    assert all(process.gone for process in tree.read().values())
