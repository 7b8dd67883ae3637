"""Every section of the benchmarks runs and prints its table. Its figures are not tested."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench.programs import Server
from bench.server import Contestant

TOP = Path(__file__).parent.parent


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(TOP / "src")}
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=TOP,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "row"),
    [
        pytest.param("server", "dmucs", marks=pytest.mark.needs("cc", "dmucs")),
        pytest.param("decision", "every slot in use", marks=pytest.mark.needs("cc")),
        pytest.param(
            "owner",
            "to the last lease",
            marks=pytest.mark.needs("gcc", "distccd", "Xvfb", "xdotool"),
        ),
        pytest.param("placement", "by chance"),
        pytest.param("idle", "memory of host-server", marks=pytest.mark.needs("cc")),
        pytest.param("memory", "after 2,000 leases", marks=pytest.mark.needs("cc")),
        pytest.param("gethost", "peak memory", marks=pytest.mark.needs("cc", "distcc", "distccd")),
    ],
)
def test_a_section_prints_its_table(section: str, row: str) -> None:
    result = bench("--quick", section)
    assert result.returncode == 0, result.stderr
    assert "what is measured" in result.stdout
    assert row in result.stdout


@pytest.fixture
def refused_half(tmp_path: Path) -> Path:
    """A load generator, half of whose 1,000 requests got no lease."""
    load = tmp_path / "load"
    load.write_text("""#!/bin/sh\necho '{"per_s": 200.0, "failed": 500, "max_ms": 9.0}'\n""")
    load.chmod(0o755)
    return load


def test_a_peers_refusals_are_a_figure(refused_half: Path) -> None:
    peer = Contestant(Server(9, psutil.Process()), ("ask", "answer"), may_refuse=True)
    peer.turns = [peer.take_turn(refused_half, 1000) for _ in range(2)]
    assert peer.median("per_s") == 100.0, "only leases count"
    assert (peer.total("failed"), peer.worst("failed")) == (1000, 500)


def test_a_refusal_of_host_server_is_an_error(refused_half: Path) -> None:
    ours = Contestant(Server(9, psutil.Process()), ("ask", "answer"))
    with pytest.raises(RuntimeError, match="500 of 1000 requests got no lease"):
        ours.take_turn(refused_half, 1000)


def test_an_unknown_section_is_named() -> None:
    result = bench("nonesuch")
    assert result.returncode == 2
    assert "nonesuch" in result.stderr
