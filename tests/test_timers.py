"""Timers against the plainest model there is: a dictionary, searched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from compilefarm.core.timers import Key, Timers

keys = st.sampled_from([("wait", 1), ("wait", 2), ("silent", "desk1"), ("drain", "desk1")])
times = st.integers(0, 20).map(float)
sets = st.tuples(st.just("set"), keys, times)
clears = st.tuples(st.just("clear"), keys, st.just(0.0))
pops = st.tuples(st.just("pop"), keys, times)


@given(st.lists(sets | clears | pops, max_size=60))
def test_timers_are_a_dictionary_of_due_times(deeds: list[tuple[str, Key, float]]) -> None:
    timers, model = Timers(), dict[Key, float]()
    for deed, key, time in deeds:
        if deed == "set":
            timers.set(key, time)
            model[key] = time
        elif deed == "clear":
            timers.clear(key)
            model.pop(key, None)
        elif (popped := timers.pop_due(time)) is not None:
            due = model.pop(popped)
            assert due <= min([time, *model.values()])
        else:
            assert all(due > time for due in model.values())
        assert timers.next_due() == min(model.values(), default=None)


def test_due_keys_come_in_the_order_of_their_times() -> None:
    timers = Timers()
    for due in (3.0, 1.0, 2.0, 5.0):
        timers.set(("wait", due), due)
    timers.set(("wait", 1.0), 4.0)
    popped = [timers.pop_due(4.5) for _ in range(4)]
    assert popped == [("wait", 2.0), ("wait", 3.0), ("wait", 1.0), None]
    assert timers.next_due() == 5.0


def test_putting_off_costs_no_memory() -> None:
    """A host's silence is put off with each of its reports."""
    timers = Timers()
    for number in range(1000):
        timers.set(("silent", "desk1"), float(number))
    assert timers.next_due() == 999
    assert len(timers._heap) == 1


def test_setting_and_clearing_in_turns_costs_no_memory() -> None:
    """A host is watched while it has leases, which begin and end all day."""
    timers = Timers()
    for number in range(1000):
        timers.set(("watch", "desk1"), number + 10.0)
        assert timers.next_due() is not None
        timers.clear(("watch", "desk1"))
    assert len(timers._heap) == 1
    assert timers.next_due() is None
    assert timers.pop_due(2000.0) is None
