"""Whose turn it is: the least served first, and nobody is asked about what he refused."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from compilefarm.core.placement.earliest.builds import Build, Queue
from compilefarm.core.placement.earliest.speed_classes import View
from compilefarm.core.placement.earliest.turns import FIRST_LINE, Turns, User, serve

NONE: frozenset[str] = frozenset()


def turns_of(builds: list[Build]) -> tuple[Turns, list[Queue]]:
    turns = Turns(View(frozenset()), NONE, count(1), {})
    return turns, [Queue(build, turns) for build in builds]


def build(user: User, name: str) -> Build:
    return Build((name, "desk", "/src"), user, {}, 1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stand", "leave", "serve", "ask"]),
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
        elif act == "serve":
            serve(builds[number], float(value))
        else:
            entry = turns.first(value)
            may = [each for each in queues if each.line is not None and each.line < value]
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
        turns.stand(queue, FIRST_LINE)
    lines = turns._lines.values()
    assert sum(len(line._entries) for line in lines) < 200
    assert sum(len(own.queues) for line in lines for own in line._of.values()) < 200


def test_nothing_is_kept_of_a_user_who_no_longer_waits() -> None:
    ann, bob = User(), User()
    turns, (hers, his) = turns_of([build(ann, "ann"), build(bob, "bob")])
    for line in range(10):
        turns.stand(hers, line)
        turns.stand(his, line)
    turns.leave(hers)
    turns.leave(his)
    assert not ann.standing
    assert not bob.standing
    assert not turns._lines


def test_giving_back_takes_as_long_however_many_builds_of_a_user_wait() -> None:
    ann, bob = User(), User()
    builds = [build(ann, str(number)) for number in range(1000)] + [build(bob, "bob")]
    turns, queues = turns_of(builds)
    for each in builds:
        serve(each, 1.0)
    for queue in queues:
        turns.stand(queue, FIRST_LINE)
    stamps = [queue.stamp for queue in queues]
    serve(builds[500], -0.5)
    entry = turns.first(0)
    assert entry is not None
    assert entry[-1] is queues[-1]  # Bob was served less
    serve(builds[-1], 2000.0)
    entry = turns.first(0)
    assert entry is not None
    assert entry[-1] is queues[500]
    moved = [queue.stamp != stamp for queue, stamp in zip(queues, stamps, strict=True)]
    assert sum(moved) == 1


def test_only_turns_in_which_somebody_waits_are_contested() -> None:
    contested: dict[Turns, None] = {}
    turns = Turns(View(frozenset()), NONE, count(1), contested)
    queue = Queue(build(User(), "ann"), turns)
    turns.stand(queue, FIRST_LINE)
    assert list(contested) == [turns]
    turns.leave(queue)
    assert not contested
