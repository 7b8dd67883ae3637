"""What happened lately, to find out why: the farm's own record.

People and tests read it; the farm decides nothing by it. A failing `Farm.check` prints its end. It
is taken from each turn's event and effects, so the other parts of the farm need not know it.

It must cost almost nothing for each event, and its memory is bounded:

  - The last `ATTEMPTS_KEPT` attempts at compiles that ended, and requests that left without a slot:
    about 12 MB. On a farm that does 100 compiles a second, these are three minutes.
  - For each host, the last `NOTES_KEPT` notes, mostly changes of its state. A note that repeats the
    one before only raises its count. So a host's day is there although thousands of hosts report
    their load all the time. At most `HOSTS_KEPT` hosts, 7 KB each if all notes are long.
  - The last `EVENTS_KEPT` events of any kind with their effects. More would cost time: Python is
    fast while it can use the memory of the last event again.

It keeps no host alive that the farm has forgotten. Effects refer to leases, and leases to hosts. So
when a host is forgotten, such effects become *facts*, tuples of plain values.

A sequence of events can be played again: `replay` gives recorded events to a fresh farm. Nothing
but events and times goes into a farm, so the effects must be the same. A defect that shows in a
replay is a defect of the farm; one that does not is a defect around it.

Rejected: one long list of events with their effects as facts. It answers the same questions, but
costs 2.5 µs for each compile, where this costs 1 µs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from compilefarm.core.events import (
    BackUp,
    CompilersReported,
    DropBackup,
    EarlierLife,
    Effect,
    Event,
    Grant,
    HostAdded,
    HostNoted,
    HostsListed,
    LeaseAttached,
    LeaseEnded,
    RequestArrived,
)
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Outcome

ATTEMPTS_KEPT = 20_000
NOTES_KEPT = 24
HOSTS_KEPT = 10_000
EVENTS_KEPT = 20

# The kind of an event or effect, the id or name that it is about, and its other values.
Fact = tuple[Any, ...]


class Attempt(NamedTuple):
    """An attempt at a compile that has ended, or a request that left without a slot.

    `attempt` is 0 for the first attempt, else the backup's number. Times are in seconds. A request
    that left without a slot has no host, and `granted` is None.
    """

    id: int
    attempt: int
    user: str
    builder: str
    directory: str
    source: str
    compiler: str
    arrived: float
    granted: float | None
    ended: float
    host: str
    exit: int | None
    failed: bool
    reason: str


class Note(NamedTuple):
    """A line about a host: when it was noted first and last, how often in a row, and the text."""

    first: float
    last: float
    times: int
    text: str


class Entry(NamedTuple):
    """An event: its number since the farm's start, its time in seconds, and its effects."""

    number: int
    now: float
    event: Event
    effects: Sequence[Effect | Fact]


class Played(NamedTuple):
    """An event that was handled, its time, and its effects as facts: what `replay` needs."""

    event: Event
    now: float
    effects: tuple[Fact, ...]


class Story:
    """The bounded record of one farm."""

    def __init__(self) -> None:
        self._count = 0
        # Plain tuples of plain values: the garbage collector need not look at them again.
        self._attempts: deque[tuple[Any, ...]] = deque(maxlen=ATTEMPTS_KEPT)
        self._notes: dict[str, deque[Note]] = {}
        self._events: deque[tuple[float, Event, Sequence[Effect | Fact]]] = deque(
            maxlen=EVENTS_KEPT
        )

    def record(self, event: Event, turn: Turn) -> None:
        """Record an event and its turn, which has ended."""
        self._count += 1
        now = turn.now
        self._events.append((now, event, turn.effects))
        for effect in turn.effects:
            if isinstance(effect, LeaseEnded):
                lease, outcome, _ = effect
                request = lease.request
                self._attempts.append((
                    request.id, lease.attempt, request.user, request.builder, request.directory,
                    request.source, request.compiler, request.arrived, lease.granted, now,
                    lease.host.name, outcome.exit, outcome.failed, outcome.reason,
                ))  # fmt: skip
            elif isinstance(effect, HostNoted):
                self._note(effect.name, now, effect.text)
        for request, reason in turn.withdrawn:
            self._attempts.append((
                request.id, 0, request.user, request.builder, request.directory,
                request.source, request.compiler, request.arrived, None, now,
                "", None, False, reason,
            ))  # fmt: skip
        if turn.host_forgotten:
            self._let_go()

    def _let_go(self) -> None:
        """Refer to no lease any more, so that a host which was forgotten can go."""
        events = [(now, event, facts(effects)) for now, event, effects in self._events]
        self._events.clear()
        self._events.extend(events)

    def _note(self, name: str, now: float, text: str) -> None:
        notes = self._notes.pop(name, None)
        if notes is None:
            notes = deque(maxlen=NOTES_KEPT)
            if len(self._notes) >= HOSTS_KEPT:
                del self._notes[next(iter(self._notes))]
        self._notes[name] = notes  # at the end: the host without notes for longest goes first
        if notes and notes[-1].text == text:
            same = notes.pop()
            notes.append(Note(same.first, now, same.times + 1, text))
        else:
            notes.append(Note(now, now, 1, text))

    # -- questions

    def attempts(self) -> list[Attempt]:
        """Return the attempts that have ended, and the requests that left; the oldest first."""
        return [Attempt._make(each) for each in self._attempts]

    def about_request(self, id: int) -> list[Attempt]:
        """Return the attempts of one request that have ended, the oldest first."""
        return [Attempt._make(each) for each in self._attempts if each[0] == id]

    def about_host(self, name: str) -> list[Note]:
        """Return the notes about a host, the oldest first; it may have left meanwhile."""
        return list(self._notes.get(name, ()))

    def latest(self) -> list[Entry]:
        """Return the latest events, the oldest first."""
        first = self._count - len(self._events) + 1
        return [Entry(number, *kept) for number, kept in enumerate(self._events, first)]

    def tell(self) -> str:
        """Return the latest events as text, a line for each event and each effect."""
        lines = []
        for number, now, event, effects in self.latest():
            lines.append(f"{number:6} {now:12.3f} s  {_words(event)}")
            lines += [f"{'':21}    {_words(effect)}" for effect in effects]
        return "\n".join(lines)


# -- facts


def facts(effects: Iterable[Effect | Fact]) -> tuple[Fact, ...]:
    """Return effects as facts."""
    return tuple(map(fact, effects))


def fact(what: Event | Effect | Fact) -> Fact:
    """Return an event or effect as a tuple of plain values, which refers to no host or lease."""
    if isinstance(what, Grant | BackUp | DropBackup | LeaseEnded):
        lease = what.lease
        of_lease = (lease.id, lease.attempt, lease.host.name, lease.slot)
        return (type(what).__name__, *of_lease, *what[1:])
    if isinstance(what, RequestArrived | LeaseAttached):
        request = what.request
        source = (request.user, request.builder, request.directory, request.source)
        id = "" if request.identity is None else request.identity.id
        limits = (request.compiler, id, request.type, ",".join(sorted(request.avoid)))
        return (type(what).__name__, request.id, *source, *limits, *what[1:])
    if isinstance(what, HostAdded):
        return ("HostAdded", what.declaration.name, what.address, what.returning)
    if isinstance(what, CompilersReported):
        ids = () if what.compilers is None else tuple(each.id for each in what.compilers)
        return ("CompilersReported", what.name, what.compilers is not None, ids)
    if isinstance(what, HostsListed | EarlierLife):
        return (type(what).__name__, len(what[0]))
    return what if type(what) is tuple else (type(what).__name__, *what)


def _words(what: Event | Effect | Fact) -> str:
    kind, *values = fact(what)
    return " ".join([kind, *map(_value, values)])


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, Outcome):
        failed = " failed" if value.failed else ""
        return f"({value.ending.value}, exit {value.exit}{failed} {value.reason!r})"
    return repr(value)


# -- playing again


class Replayed(Protocol):
    """A fresh farm, for `replay`: its policy is fresh too, and has the same chance if any."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        """See `Farm`."""

    def check(self) -> None:
        """See `Farm`."""


def replay(played: Iterable[Played], farm: Replayed) -> str:
    """Give recorded events to a fresh farm, compare the effects, and check the farm.

    Return "" if all effects are the same and no promise is broken, else a text about the first
    event at which that is not so.
    """
    for number, (event, now, before) in enumerate(played, 1):
        where = f"event {number} at {now:.3f} s, {_words(event)},"
        again = facts(farm.handle(event, now))
        if again != before:
            lines = [f"{where} has other effects"]
            lines += [f"  then: {_words(effect)}" for effect in before]
            lines += [f"  now:  {_words(effect)}" for effect in again]
            return "\n".join(lines)
        try:
            farm.check()
        except AssertionError as error:
            return f"{where} breaks a promise: {str(error).splitlines()[0]}"
    return ""
