"""The farm as a whole: it knows every kind of event, and time does not run backwards."""

from __future__ import annotations

from typing import get_args

import pytest
from farmyard import ADDRESS, PORT, Farmyard, tier_yard

from compilefarm.core.events import (
    BackupEnded,
    CompilerProbed,
    CompilersReported,
    EarlierLife,
    Event,
    HostAdded,
    HostDrained,
    HostProbed,
    HostRemoved,
    HostsListed,
    LeaseAttached,
    LoadReported,
    OwnerReported,
    ReportsEnded,
    RequestArrived,
    RequestEnded,
    TimePassed,
    WatcherEnded,
)
from compilefarm.core.model import Availability, Load, Outcome, Request
from compilefarm.protocol.declaration import Declaration

DESK = Declaration("desk1", slots=1)
EVENTS: dict[type, Event] = {
    type(event): event
    for event in (
        HostsListed((DESK,)),
        EarlierLife((Availability(DESK, ADDRESS, True),)),
        HostAdded(DESK, ADDRESS),
        HostRemoved("desk1", PORT),
        HostDrained("desk1", PORT, 1.0),
        LoadReported("desk1", PORT, ADDRESS, Load()),
        CompilersReported("desk1", ()),
        ReportsEnded("desk1"),
        OwnerReported("desk1", PORT, ADDRESS, 1, None, False),
        WatcherEnded("desk1", 1),
        HostProbed("desk1", True),
        CompilerProbed("desk1", "gcc"),
        RequestArrived(Request(10)),
        LeaseAttached(Request(11), "desk1", PORT, 1.0),
        RequestEnded(1, Outcome()),
        BackupEnded(1, 1, Outcome()),
        TimePassed(),
    )
}


@pytest.fixture
def yard() -> Farmyard:
    return tier_yard()


def test_there_is_an_example_of_every_kind_of_event() -> None:
    assert EVENTS.keys() == set(get_args(Event))


@pytest.mark.parametrize("kind", get_args(Event))
def test_every_kind_of_event_is_handled(yard: Farmyard, kind: type) -> None:
    yard.joins(slots=2)
    yard.ask()
    yard.play(EVENTS[kind])
    yard.passes(1000.0)


def test_time_does_not_run_backwards(yard: Farmyard) -> None:
    yard.joins()
    number = yard.ask(wait_s=5.0)
    yard.now -= 50.0
    yard.end(number)
    assert yard.compiles() == "desk1"
