"""Two runs of real chaos; `make chaos` plays more."""

from pathlib import Path

import pytest
from chaos import play


@pytest.mark.e2e
@pytest.mark.parametrize("seed", [1, 2])
def test_a_build_survives(seed: int, gethost_path: Path) -> None:
    assert play(seed, gethost_path, files=120)
