"""The placement rule, on situations that are drawn as tables; and that playing forward obeys it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compilefarm.core.placement.earliest.playing import Rest
from compilefarm.core.placement.earliest.rule import (
    STEADY,
    WAIT,
    Mode,
    Situation,
    choose,
    to_do_s,
)

HURRY = Mode(hurry=True, stretch=1.0)
TIGHT = Mode(hurry=False, stretch=0.5)
LOOSE = Mode(hurry=False, stretch=2.0)
NEVER_WAIT = Mode(hurry=False, stretch=math.inf)

# Slots are SPEED:END for a busy one and SPEED:- for a free one, of which the fastest is offered.
# The other columns are costs, what is to come in the order of asking. A file of cost 10 takes 1 s
# on a slot of speed 10. The time is 0.
TABLE = """
slots            | waiting | to come | starts | because
-----------------+---------+---------+--------+----------------------------------------------------
10:-             | 1 5 2   |         | 5      | the longest goes first
10:- 1:-         | 1 5 2   |         | 5      | and to the fastest slot
10:3  1:-        | 20 1    |         | 1      | it ends within the rest; the longest waits for 10
10:30 1:-        | 20 1    |         | 20     | waiting for 10 would take longer than 20 s here
10:3  1:-        | 20      |         | wait   | 3 s + 2 s there is less than 20 s here
10:19 1:-        | 20      |         | 20     | 19 s + 2 s there is more than 20 s here
1:-              | 20      |         | 20     | there is nothing to wait for
2:5   1:-        | 10      |         | 10     | 5 s + 5 s there is no sooner than 10 s here
2:5   1:-        | 11      |         | wait   | 5 s + 5.5 s there is less than 11 s here
2:5   1:-        | 9       |         | 9      | it ends before a wait and 4.5 s there would
10:1 10:1 1:-    | 4 4     |         | wait   | soon there are fast slots for both
10:1  1:-        | 4 4     | 90      | 4      | the rest takes 9 s: 4 s here delay nothing
10:1  1:-        | 4 12    | 90      | 4      | the longest that ends within the rest
10:1  1:- 1:-    | 4 4     | 90      | 4      | a slow slot is used in the middle of a build
10:1 5:2 1:-     | 12      |         | wait   | the fastest is worth the wait, whatever 5 does
10:9 5:2 1:-     | 12      |         | wait   | 5 is worth the wait, though 10 is not
10:99 5:99 1:-   | 12      |         | 12     | none is
"""


@dataclass(frozen=True)
class Line:
    slots: str
    waiting: list[float]
    coming: list[float]
    starts: str
    because: str


def lines() -> list[Line]:
    rows = [row.split("|") for row in TABLE.strip().splitlines()[2:]]
    return [
        Line(
            slots.strip(),
            [float(cost) for cost in waiting.split()],
            [float(cost) for cost in coming.split()],
            starts.strip(),
            because.strip(),
        )
        for slots, waiting, coming, starts, because in rows
    ]


def rest_of(slots: str, waiting: list[float], coming: list[float]) -> tuple[Rest, int]:
    """Return the rest of a build that may use all slots, and which class has the free one."""
    speeds: list[float] = []
    counts: list[int] = []
    running: list[tuple[float, int]] = []
    for slot in slots.split():
        speed, end_s = slot.split(":")
        if not speeds or speeds[-1] != float(speed):
            speeds.append(float(speed))
            counts.append(0)
        counts[-1] += 1
        if end_s != "-":
            running.append((float(end_s), len(speeds) - 1))
    busy = [sum(index == place for _, index in running) for place in range(len(speeds))]
    free = next(place for place, count in enumerate(counts) if busy[place] < count)
    build_speed = sum(speed * count for speed, count in zip(speeds, counts, strict=True))
    jobs = sum(counts)
    return Rest(0.0, speeds, counts, running, waiting, coming, jobs, build_speed), free


def started(
    slots: str, waiting: list[float], coming: list[float] | None = None, mode: Mode = STEADY
) -> float | None:
    """Return the cost of the file that starts; None: all wait."""
    rest, free = rest_of(slots, waiting, coming or [])
    situation = rest.situation(free, mode)
    picked = choose(situation, to_do_s(situation))
    return None if picked == WAIT else situation.waiting[picked]


@pytest.mark.parametrize("line", lines(), ids=lambda line: line.because)
def test_the_table(line: Line) -> None:
    cost = started(line.slots, line.waiting, line.coming)
    assert (f"{cost:g}" if cost is not None else "wait") == line.starts


def test_in_a_hurry_the_shortest_goes_first_while_a_long_file_is_to_come() -> None:
    assert started("1:- 1:4", [2, 1, 4], [9], HURRY) == 1
    assert started("1:- 1:4", [2, 1, 4], [9], STEADY) == 4
    assert started("1:- 1:4", [2, 1, 4], [2], HURRY) == 4, "the longest is here already"
    assert started("1:- 1:4", [2, 1, 4], [], HURRY) == 4, "nothing is to come"


def test_a_mode_stretches_what_one_file_may_take() -> None:
    slots, waiting = "10:1 1:-", [6.0, 80.0]
    assert started(slots, waiting) == 6
    assert started(slots, waiting, mode=TIGHT) is None
    assert started(slots, [12.0, 80.0]) is None
    assert started(slots, [12.0, 80.0], mode=LOOSE) == 12
    assert started(slots, [80.0]) is None
    assert started(slots, [80.0], mode=NEVER_WAIT) == 80


def test_what_runs_is_not_stretched() -> None:
    """Otherwise, each file on a slow slot would make room for one on a slower slot."""
    slots = "10:1 2:5 1:-"
    assert started(slots, [5.0]) == 5, "it ends when the last that runs does"
    assert started(slots, [8.0], mode=LOOSE) is None


def test_without_comparing_whatever_does_not_fit_waits() -> None:
    rest, free = rest_of("10:30 1:-", [32.0], [])
    situation = rest.situation(free, STEADY)
    assert choose(situation, 30.0) == 0
    situation.compares = False
    assert choose(situation, 30.0) == WAIT


def test_where_nothing_runs_a_file_starts_whatever_the_rest_is() -> None:
    rest, free = rest_of("1:-", [40.0, 2.0], [])
    situation = rest.situation(free, STEADY)
    situation.compares = False
    assert situation.waiting[choose(situation, 0.0)] == 40.0


def test_a_file_that_waits_for_other_slots_counts_for_the_rest() -> None:
    situation = Situation(
        now_s=0.0,
        free_speed=1.0,
        waiting=[3.0],
        busy_slots=[(10.0, 1.0)],
        runs=True,
        work=10.0,
        longest_coming=0.0,
        longest_beside=0.0,
        last_end_s=1.0,
        build_speed=11.0,
        top_speed=10.0,
    )
    assert choose(situation, to_do_s(situation)) == WAIT
    situation.longest_beside = 40.0
    assert to_do_s(situation) == pytest.approx(4.0)
    assert choose(situation, to_do_s(situation)) == 0


costs = st.lists(st.floats(0.01, 50.0), max_size=12)
classes = st.lists(
    st.tuples(st.integers(1, 20), st.integers(1, 3)),
    min_size=1,
    max_size=4,
    unique_by=lambda c: c[0],
)


@given(classes, costs, costs, st.integers(1, 8), st.booleans(), st.floats(0.5, 3.0))
def test_playing_forward_places_every_file(
    slots: list[tuple[int, int]],
    waiting: list[float],
    coming: list[float],
    jobs: int,
    hurry: bool,
    stretch: float,
) -> None:
    """It ends no sooner than the bound, and no later than on the slowest slot alone."""
    slots.sort(reverse=True)
    speeds, counts = [float(speed) for speed, _ in slots], [count for _, count in slots]
    all_speed = sum(speed * count for speed, count in slots)
    rest = Rest(0.0, speeds, counts, [], waiting, coming, jobs, all_speed)
    end_s = rest.play(Mode(hurry, stretch))
    files = waiting + coming
    assert end_s >= max(files, default=0.0) / speeds[0] - 1e-6
    assert end_s >= sum(files) / all_speed - 1e-6
    assert end_s <= sum(files) / speeds[-1] + 1e-6
    assert rest.play(Mode(hurry, stretch)) == end_s, "a play changes nothing"
    if files:
        assert rest.play(Mode(hurry, stretch), end_s / 2) >= end_s / 2
