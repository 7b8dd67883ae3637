"""The shortest story of a failure: a plan without everything that the failure does not need.

Faults are left out first, by halves, then builders, hosts and files. Anything without which the
same promise still breaks stays out. The story is what happens in the smallest world that fails.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace

from .plan import Plan
from .watch import Broken
from .world import World

LINES_SHOWN = 150
TRIES = 300


def failure_of(plan: Plan, story: list[str] | None = None) -> str:
    """Play a plan; return the failure, or ""."""
    world = World(plan, story)
    listener = _Listener(world) if story is not None else contextlib.nullcontext()
    with listener:
        try:
            world.play()
        except Broken as broken:
            return str(broken)
        except Exception as error:
            return f"an exception: {type(error).__name__}: {error}"
    return ""


def kind_of(failure: str) -> str:
    """Return the part that failures of one kind share: the words before names and numbers."""
    words = []
    for word in failure.split():
        if not word.isalpha():
            break
        words.append(word)
    return " ".join(words[:6])


def shortest(plan: Plan, failure: str) -> Plan:
    """Return the smallest plan that was found to fail in the same way."""
    kind = kind_of(failure)
    tries = TRIES
    smaller = True
    while smaller and tries > 0:
        smaller = False
        for candidate in _smaller(plan):
            tries -= 1
            if tries < 0:
                break
            failure = failure_of(candidate)
            if failure and kind_of(failure) == kind:
                plan = candidate
                smaller = True
                break
    return plan


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Yield plans from which something is left out, the most first."""
    yield from _with_fewer_faults(plan)
    yield from _with_fewer_builders(plan)
    yield from _with_fewer_hosts(plan)
    yield from _with_fewer_files(plan)


def _with_fewer_faults(plan: Plan) -> Iterator[Plan]:
    faults = plan.faults
    size = len(faults)
    while size:
        for start in range(0, len(faults), size):
            yield replace(plan, faults=faults[:start] + faults[start + size :])
        size //= 2


def _with_fewer_builders(plan: Plan) -> Iterator[Plan]:
    for each in plan.builders:
        if len(plan.builders) > 1 and not _named(plan, each.name):
            left = tuple(builder for builder in plan.builders if builder is not each)
            yield replace(plan, builders=left)


def _with_fewer_hosts(plan: Plan) -> Iterator[Plan]:
    for each in plan.hosts:
        if len(plan.hosts) > 1 and not _named(plan, each.name):
            yield replace(plan, hosts=tuple(host for host in plan.hosts if host is not each))


def _with_fewer_files(plan: Plan) -> Iterator[Plan]:
    for number, builder in enumerate(plan.builders):
        for files in (1, builder.files // 4, builder.files // 2, builder.files - 1):
            if 0 < files < builder.files:
                fewer = replace(builder, files=files, jobs=min(builder.jobs, files))
                builders = (*plan.builders[:number], fewer, *plan.builders[number + 1 :])
                yield replace(plan, builders=builders)


def _named(plan: Plan, name: str) -> bool:
    return any(name in (fault.target, fault.other) for fault in plan.faults)


def tell(plan: Plan) -> str:
    """Return the shortest story of a plan that fails."""
    failure = failure_of(plan)
    if not failure:
        return f"seed {plan.seed}: nothing is wrong"
    plan = shortest(plan, failure)
    story: list[str] = []
    failure = failure_of(plan, story)
    left_out = len(story) - LINES_SHOWN
    if left_out > 0:
        story = [f"           ... {left_out} lines before ...", *story[left_out:]]
    return "\n".join([f"seed {plan.seed}: {failure}", plan.words(), *story, f"BROKEN: {failure}"])


class _Listener(logging.Handler):
    """Adds host-server's log to a world's story, while the block runs."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world
        self._log = logging.getLogger("host-server")

    def emit(self, record: logging.LogRecord) -> None:
        self._world.tell(f"host-server: {record.getMessage()}")

    def __enter__(self) -> None:
        self._before = self._log.level, self._log.propagate, self._log.manager.disable
        logging.disable(logging.NOTSET)
        self._log.setLevel(logging.INFO)
        self._log.propagate = False
        self._log.addHandler(self)

    def __exit__(self, *_: object) -> None:
        self._log.removeHandler(self)
        level, self._log.propagate, disabled = self._before
        self._log.setLevel(level)
        logging.disable(disabled)
