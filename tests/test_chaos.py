"""Two runs of real chaos; `make chaos` plays more."""

from pathlib import Path

import pytest
from chaos import play
from gethost_program import gethost_under_test


@pytest.mark.e2e
@pytest.mark.parametrize("seed", [1, 2])
def test_a_build_survives(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory: Path = tmp_path_factory.getbasetemp()
    assert play(seed, gethost_under_test(directory), files=120)
