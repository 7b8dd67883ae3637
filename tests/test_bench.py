"""Every section of the benchmarks runs and prints its table. Its figures are not tested."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_an_unknown_section_is_named() -> None:
    result = bench("nonesuch")
    assert result.returncode == 2
    assert "nonesuch" in result.stderr
