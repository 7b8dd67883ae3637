"""Timers against the plainest model there is: a dictionary, searched."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from compilefarm.core.timers import Key, Timers

keys = st.sampled_from([("wait", 1), ("wait", 2), ("silent", "desk1"), ("drain", "desk1")])
times = st.integers(0, 20).map(float)
sets = st.tuples(st.just("set"), keys, times)
clears = st.tuples(st.just("clear"), keys, st.just(0.0))
pops = st.tuples(st.just("pop"), keys, times)


@given(st.lists(sets | clears | pops, max_size=60))
def test_timers_are_a_dictionary_of_due_times(calls: list[tuple[str, Key, float]]) -> None:
    timers, model = Timers(), dict[Key, float]()
    for call, key, time in calls:
        if call == "set":
            timers.set(key, time)
            model[key] = time
        elif call == "clear":
            timers.clear(key)
            model.pop(key, None)
        elif timers.next_due <= time:
            popped = timers.pop_next()
            due = model.pop(popped)
            assert due <= min([time, *model.values()])
        else:
            assert all(due > time for due in model.values())
        assert timers.next_due == min(model.values(), default=math.inf)


def test_due_keys_come_in_the_order_of_their_times() -> None:
    timers = Timers()
    for due in (3.0, 1.0, 2.0, 5.0):
        timers.set(("wait", due), due)
    timers.set(("wait", 1.0), 4.0)
    popped = [timers.pop_next() for _ in range(3)]
    assert popped == [("wait", 2.0), ("wait", 3.0), ("wait", 1.0)]
    assert timers.next_due == 5.0


def test_moving_a_deadline_costs_no_memory() -> None:
    """A host's silence is due later with each of its reports."""
    timers = Timers()
    for number in range(1000):
        timers.set(("silent", "desk1"), float(number))
    assert timers.next_due == 999
    assert len(timers) == 1


def test_setting_and_clearing_in_turns_costs_no_memory() -> None:
    """A host has this timer while it has leases, and leases begin and end all day."""
    timers = Timers()
    for number in range(1000):
        timers.set(("suspect", "desk1"), number + 10.0)
        assert timers.next_due == number + 10.0
        timers.clear(("suspect", "desk1"))
    assert len(timers) <= 1
    assert timers.next_due == math.inf


def test_deadlines_that_move_in_turn_cost_no_memory() -> None:
    timers = Timers()
    for report in range(5000):
        timers.set(("silent", report % 50), report + 150.0)
        assert timers.next_due == max(0, report - 49) + 150.0
    assert len(timers) == 50
