"""A short part of `make fuzz`."""

import logging
from collections.abc import Iterator

import pytest
from fuzz import TARGETS, Target

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Let the servers under test not log each refusal."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_comes_in_does_no_harm(target: Target) -> None:
    target.play(300, seed=1)
