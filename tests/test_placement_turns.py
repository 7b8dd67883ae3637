"""Whose turn it is: the least served first, and no queue is offered what it refused."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from compilefarm.core.placement.earliest.builds import Build, User
from compilefarm.core.placement.earliest.outlook import Outlook
from compilefarm.core.placement.earliest.queues import Queue, Reach
from compilefarm.core.placement.earliest.speed_classes import View
from compilefarm.core.placement.earliest.tuning import Tuning
from compilefarm.core.placement.earliest.turns import REFUSED_NOTHING, Turns


def turns_of(builds: list[Build]) -> tuple[Turns, list[Queue]]:
    reach: Reach = (View(frozenset()), frozenset())
    return Turns(reach, count(1)), [Queue(build, reach) for build in builds]


def build(user: User, name: str) -> Build:
    return Build((name, "desk", "/src"), user, Outlook({}), 1, Tuning(), 0.0)


def charge(turns: Turns, queue: Queue, work: float) -> None:
    queue.build.served += work
    queue.build.user.served += work
    if work < 0.0:
        turns.reposition(queue.build.user, queue)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stand", "leave", "charge", "ask"]),
            st.integers(0, 5),
            st.integers(-3, 9),
        ),
        max_size=60,
    )
)
def test_the_first_is_always_the_least_served_of_those_that_may_be_asked(
    steps: list[tuple[str, int, int]],
) -> None:
    users = [User(), User(), User()]
    builds = [build(users[number % 3], str(number)) for number in range(6)]
    turns, queues = turns_of(builds)
    for act, number, value in steps:
        if act == "stand":
            turns.stand(queues[number], value)
        elif act == "leave":
            turns.leave(queues[number])
        elif act == "charge":
            charge(turns, queues[number], float(value))
        else:
            entry = turns.first(value)
            may = [each for each in queues if each.refused is not None and each.refused < value]
            if entry is None:
                assert not may
            else:
                least = min((each.build.user.served, each.build.served) for each in may)
                assert entry[:2] == least
                assert entry[-1] in may


def test_one_that_moves_again_and_again_leaves_no_trail() -> None:
    turns, (queue,) = turns_of([build(User(), "ann")])
    for _ in range(10_000):
        turns.stand(queue, 3)
        turns.stand(queue, REFUSED_NOTHING)
    assert len(turns) == 1
    assert turns.entries() < 400


def test_nothing_is_kept_of_a_user_with_nothing_waiting() -> None:
    ann, bob = User(), User()
    turns, (anns, bobs) = turns_of([build(ann, "ann"), build(bob, "bob")])
    for class_index in range(10):
        turns.stand(anns, class_index)
        turns.stand(bobs, class_index)
    turns.leave(anns)
    turns.leave(bobs)
    assert len(turns) == 0
    assert turns.entries() == 0


def test_giving_back_takes_as_long_however_many_builds_of_a_user_wait() -> None:
    ann, bob = User(), User()
    builds = [build(ann, str(number)) for number in range(1000)] + [build(bob, "bob")]
    turns, queues = turns_of(builds)
    for queue in queues:
        charge(turns, queue, 1.0)
        turns.stand(queue, REFUSED_NOTHING)
    stamps = [queue.stamp for queue in queues]
    charge(turns, queues[500], -0.5)
    entry = turns.first(0)
    assert entry is not None
    assert entry[-1] is queues[-1]  # Bob was served less
    charge(turns, queues[-1], 2000.0)
    entry = turns.first(0)
    assert entry is not None
    assert entry[-1] is queues[500]
    moved = [queue.stamp != stamp for queue, stamp in zip(queues, stamps, strict=True)]
    assert sum(moved) == 1
