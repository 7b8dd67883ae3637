"""A short run of `make fuzz`."""

import logging
from collections.abc import Iterator

import pytest
from fuzz import TARGETS, Target

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep the servers under test from logging each refusal."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_input_does_harm(target: Target) -> None:
    target.play(300, seed=1)
