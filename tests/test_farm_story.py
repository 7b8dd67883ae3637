"""The farm's record of what happened: what it keeps, for how long, and that it can be played."""

from __future__ import annotations

import gc

import pytest
from farmyard import ADDRESS, FAILED, PORT, Farmyard, tier_yard

from compilefarm.core.events import (
    Effect,
    Event,
    HostAdded,
    HostNoted,
    HostRemoved,
    LoadReported,
    RequestArrived,
    TimePassed,
)
from compilefarm.core.farm import story as story_module
from compilefarm.core.farm.failures import QUARANTINE_S
from compilefarm.core.farm.farm import Farm
from compilefarm.core.farm.story import (
    ATTEMPTS_KEPT,
    EVENTS_KEPT,
    HOSTS_KEPT,
    NOTES_KEPT,
    Attempt,
    Played,
    Story,
    facts,
    replay,
)
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Host, Load, Outcome, Request
from compilefarm.core.placement.tier import TierPolicy
from compilefarm.protocol.declaration import Declaration


@pytest.fixture
def yard() -> Farmyard:
    return tier_yard()


def record(story: Story, event: Event, now: float, *effects: Effect) -> None:
    turn = Turn(now)
    turn.effects += effects
    story.record(event, turn)


# -- one request


def test_a_request_has_its_attempts_with_host_times_and_outcome(yard: Farmyard) -> None:
    yard.joins("desk1")
    first, second = yard.ask("a.c", user="ada"), yard.ask("b.c", user="bob", compiler="gcc")
    yard.passes(2.0)
    yard.end(first)
    yard.passes(3.0)
    yard.end(second, FAILED)
    [attempt] = yard.farm.story.about_request(second)
    assert attempt == Attempt(
        id=second,
        attempt=0,
        user="bob",
        builder="b",
        directory="/bob",
        source="b.c",
        compiler="gcc",
        arrived=100.0,
        granted=102.0,
        ended=105.0,
        host="desk1",
        exit=116,
        failed=True,
        reason="",
    )
    assert [each.source for each in yard.farm.story.attempts()] == ["a.c", "b.c"]


def test_a_request_that_leaves_without_a_slot_has_the_reason(yard: Farmyard) -> None:
    refused = yard.ask()
    yard.joins()
    yard.ask()
    impatient, left = yard.ask(wait_s=3.0), yard.ask()
    yard.passes(5.0)
    yard.end(left, Outcome())
    story = yard.farm.story
    for number, reason in (
        (refused, "no host is available"),
        (impatient, "no slot came free in the time given"),
        (left, "its client left"),
    ):
        [attempt] = story.about_request(number)
        assert (attempt.host, attempt.granted, attempt.reason) == ("", None, reason)
    assert story.about_request(impatient)[0].ended == 103.0


def test_both_attempts_of_a_compile_are_kept() -> None:
    yard = Farmyard()
    yard.joins("slow", power_index=1.0)
    number = yard.ask(can_back_up=True)
    yard.passes(60.0)
    yard.joins("fast", power_index=9.0)
    yard.passes(60.0)
    assert yard.backup_of(number) == "fast"
    yard.end_by_backup(number)
    attempts = yard.farm.story.about_request(number)
    assert [(each.host, each.attempt) for each in attempts] == [("slow", 0), ("fast", 1)]


# -- one host


def test_a_host_has_the_changes_of_its_state(yard: Farmyard) -> None:
    yard.joins()
    yard.passes(3600.0)
    yard.compiles(FAILED)
    yard.passes(QUARANTINE_S)
    yard.play(HostRemoved("desk1", PORT))
    notes = yard.farm.story.about_host("desk1")
    assert [(note.first - 100.0, note.text.split(",")[0]) for note in notes] == [
        (0.0, "up"),
        (3601.0, "a compile failed there: 116"),
        (3601.0, "quarantined"),
        (3601.0 + QUARANTINE_S, "away"),
    ]
    assert "desk1" not in yard.farm.hosts, "and still, it can be asked why"


def test_load_reports_do_not_push_out_a_hosts_notes(yard: Farmyard) -> None:
    yard.joins("desk1")
    before = yard.farm.story.about_host("desk1")
    yard.joins("desk2")
    for _ in range(1000):
        yard.now += 2.0
        yard.farm.handle(LoadReported("desk2", PORT, ADDRESS, Load(cpus=1)), yard.now)
    assert before
    assert yard.farm.story.about_host("desk1") == before


def test_a_note_that_repeats_is_counted() -> None:
    story = Story()
    for now in (1.0, 2.0, 3.0):
        record(story, TimePassed(), now, HostNoted("desk1", "does not answer"))
    record(story, TimePassed(), 4.0, HostNoted("desk1", "up"))
    assert [tuple(note) for note in story.about_host("desk1")] == [
        (1.0, 3.0, 3, "does not answer"),
        (4.0, 4.0, 1, "up"),
    ]


# -- bounds


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story_module, "HOSTS_KEPT", 10)
    monkeypatch.setattr(story_module, "ATTEMPTS_KEPT", 50)
    assert HOSTS_KEPT > 10
    assert ATTEMPTS_KEPT > 50
    story = Story()
    for number in range(200):
        noted = HostNoted(f"desk{number % 20}", f"note {number}")
        record(story, TimePassed(), float(number), noted)
        record(story, TimePassed(), float(number), HostNoted("busy", f"note {number}"))
        turn = Turn(float(number))
        turn.withdrawn.append((Request(number), "its client left"))
        story.record(TimePassed(), turn)
    assert len(story.latest()) == EVENTS_KEPT
    assert len(story.about_host("busy")) == NOTES_KEPT
    assert [each.id for each in story.attempts()] == list(range(150, 200))
    kept = [number for number in range(20) if story.about_host(f"desk{number}")]
    assert kept == list(range(11, 20)), "the hosts noted last"


def is_alive(name: str) -> bool:
    gc.collect()
    return any(type(each) is Host and each.name == name for each in gc.get_objects())


def test_a_forgotten_host_is_not_kept_alive(yard: Farmyard) -> None:
    yard.joins("ghost")
    yard.compiles()
    yard.look_away()
    assert is_alive("ghost")
    yard.play(HostRemoved("ghost", PORT))
    yard.look_away()
    assert not is_alive("ghost")
    assert "LeaseEnded 1 0 'ghost' 0" in yard.farm.story.tell()


# -- the latest events


def test_a_failing_check_tells_the_latest_events(yard: Farmyard) -> None:
    yard.joins("desk1", slots=2)
    number = yard.ask("main.c")
    yard.farm.hosts["desk1"].free.clear()
    with pytest.raises(AssertionError, match="desk1: a slot is lost") as caught:
        yard.farm.check()
    lines = str(caught.value).splitlines()
    assert lines[1] == "The latest events:"
    [asked] = [line for line in lines if "RequestArrived" in line]
    assert "'main.c'" in asked
    assert lines[lines.index(asked) + 1].strip() == f"Grant {number} 0 'desk1' 0"


# -- playing again


def story_of(yard: Farmyard, *events: Event) -> list[Played]:
    played = []
    for number, event in enumerate(events):
        now = 10.0 * number
        played.append(Played(event, now, facts(yard.farm.handle(event, now))))
    return played


EVENTS = (
    HostAdded(Declaration("desk1", slots=1), ADDRESS),
    RequestArrived(Request(1, "ada")),
    RequestArrived(Request(2, "bob")),
    HostRemoved("desk1", PORT),
)


def test_the_same_events_have_the_same_effects(yard: Farmyard) -> None:
    played = story_of(yard, *EVENTS)
    assert any(each.effects for each in played)
    assert replay(played, Farm(TierPolicy())) == ""


def test_a_replay_tells_the_first_event_with_other_effects(yard: Farmyard) -> None:
    played = story_of(yard, *EVENTS)
    told = replay(played[1:], Farm(TierPolicy())).splitlines()
    assert told[0].startswith("event 1 at 10.000 s, RequestArrived 1 'ada'")
    assert told[1:] == [
        "  then: Grant 1 0 'desk1' 0",
        "  now:  Refuse 1 'no host is available'",
    ]


def test_a_replay_tells_the_first_event_that_breaks_a_promise(
    yard: Farmyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = story_of(yard, *EVENTS)
    take = Host.take_slot

    def lose(host: Host) -> int:
        slot = take(host)
        host.slots += 1
        return slot

    monkeypatch.setattr(Host, "take_slot", lose)
    told = replay(played, Farm(TierPolicy()))
    assert told.startswith("event 2 at 10.000 s, RequestArrived 1")
    assert told.endswith("breaks a promise: desk1: a slot is lost, or free and in use")
