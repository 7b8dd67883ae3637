"""Whose turn it is: the queues that wait for the same slots, the least served first.

A queue is offered the fastest free slot, and may refuse it to wait for a faster one. It is offered
no such slot again until something changes. So queues stand in lines, one for each class of slots
that was refused, and a free slot is offered along the lines below its class. Each line is a heap.
To find the queue that is asked next costs as much as there are lines, and the logarithm of what
waits.

Queues are ordered by the work that their user got, then by the work that their build got. A line
has one entry for each user, for the first of that user's queues, which are a heap of their own. As
a rule the work only grows; so an entry that is out of date is too far in front, and is put right
when it comes up. When work is taken back (`reposition`), the user takes a new place in each line,
and none of the user's other queues is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace

from compilefarm.core.model import Request
from compilefarm.core.placement.earliest.builds import User
from compilefarm.core.placement.earliest.queues import Queue, Reach
from compilefarm.core.placement.earliest.speed_classes import Place

# Below every class: the queue refused nothing. Above every class: it is not to be asked at all.
REFUSED_NOTHING, REFUSES_ALL = -(10**6), 10**6
# A heap is cleared of entries that are out of date when it is this long, and this many times as
# long as there are queues or users.
CLEAR_FROM, CLEAR_TIMES = 64, 4

# Work that its user got; work that its build got; order of coming; a number that is no other
# entry's; the first queue of that user.
Entry = tuple[float, float, int, int, Queue]
# Work that its build got; order of coming; the queue's stamp then; the queue.
OwnEntry = tuple[float, int, int, Queue]


class _QueuesOfUser:
    """One user's queues in one line, of which `entry` is the one entry of the line that counts."""

    __slots__ = ("entry", "queues")

    def __init__(self) -> None:
        self.queues: list[OwnEntry] = []
        self.entry: Entry | None = None

    def first(self) -> OwnEntry | None:
        """Return the first of the queues, if any of them still stands here."""
        queues = self.queues
        while queues:
            served, serial, stamp, queue = queues[0]
            if stamp != queue.stamp:
                heappop(queues)
            elif served != queue.build.served:
                heapreplace(queues, (queue.build.served, serial, stamp, queue))
            else:
                return queues[0]
        return None


class _Line:
    """Queues that refused the same slots, and some that have left."""

    def __init__(self, serials: Iterator[int]) -> None:
        self._serials = serials
        self._entries: list[Entry] = []
        self._of: dict[User, _QueuesOfUser] = {}

    def __len__(self) -> int:
        return len(self._entries) + sum(len(own.queues) for own in self._of.values())

    def enter(self, queue: Queue, queues: int) -> None:
        """Add a queue; `queues` is how many stand in all lines together."""
        user = queue.build.user
        own = self._of.get(user)
        if own is None:
            own = self._of[user] = _QueuesOfUser()
        entry = (queue.build.served, next(self._serials), queue.stamp, queue)
        heappush(own.queues, entry)
        if own.queues[0] is entry:
            self._enter_user(user, own)
        if len(own.queues) > CLEAR_FROM and len(own.queues) > CLEAR_TIMES * queues:
            own.queues[:] = [each for each in own.queues if each[2] == each[3].stamp]
            heapify(own.queues)

    def reposition(self, user: User) -> None:
        """Give a user the place that is the user's now, if the user has one."""
        own = self._of.get(user)
        if own is not None and own.queues:
            self._enter_user(user, own)

    def _enter_user(self, user: User, own: _QueuesOfUser) -> None:
        own.entry = self._entry(user, own.queues[0])
        heappush(self._entries, own.entry)
        if len(self._entries) > CLEAR_FROM and len(self._entries) > CLEAR_TIMES * len(self._of):
            self._entries = [each.entry for each in self._of.values() if each.entry is not None]
            heapify(self._entries)

    def _entry(self, user: User, first: OwnEntry) -> Entry:
        served, serial, _, queue = first
        return (user.served, served, serial, next(self._serials), queue)

    def first(self) -> Entry | None:
        """Return the entry of the least served queue that stands here."""
        entries = self._entries
        while entries:
            entry = entries[0]
            user = entry[4].build.user
            own = self._of.get(user)
            if own is None or own.entry is not entry:
                heappop(entries)
                continue
            first = own.first()
            if first is None:
                heappop(entries)
                del self._of[user]
            elif user.served == entry[0] and first[0] == entry[1] and first[1] == entry[2]:
                return entry
            else:
                own.entry = self._entry(user, first)
                heapreplace(entries, own.entry)
        return None


class Turns:
    """The queues that wait for the same slots: those of one view, the same hosts avoided."""

    def __init__(self, reach: Reach, serials: Iterator[int]) -> None:
        self.view, self.avoid = reach
        self.overdue: dict[int, Request] = {}  # were passed over for as long as they may be
        self._serials = serials  # no two entries of any turns have the same
        self._lines: dict[int, _Line] = {}
        self._queues = 0

    def __len__(self) -> int:
        return self._queues

    def entries(self) -> int:
        """Return how many entries are kept, some of them out of date: what this costs in memory."""
        return sum(map(len, self._lines.values()))

    def free_place(self) -> Place | None:
        """Return the fastest free place for all that wait here."""
        return self.view.fastest_free(self.avoid)

    def stand(self, queue: Queue, refused: int) -> None:
        """Have a queue stand in the line of those that refused slots of that class."""
        if queue.refused != refused:
            self._enter(queue, refused)

    def reposition(self, user: User, queue: Queue | None) -> None:
        """Give a user, and one of the user's queues, the places that are theirs now."""
        if queue is not None and queue.refused is not None:
            self._enter(queue, queue.refused)
        for line in self._lines.values():
            line.reposition(user)

    def _enter(self, queue: Queue, refused: int) -> None:
        if queue.refused is None:
            self._queues += 1
        queue.refused = refused
        queue.stamp += 1
        line = self._lines.get(refused)
        if line is None:
            line = self._lines[refused] = _Line(self._serials)
        line.enter(queue, self._queues)

    def leave(self, queue: Queue) -> None:
        """Take a queue out in which nothing waits any more."""
        if queue.refused is not None:
            self._queues -= 1
            queue.refused = None
            queue.stamp += 1
            if not self._queues:
                self._lines.clear()

    def first(self, class_index: int) -> Entry | None:
        """Return the entry of the least served queue that did not refuse a slot of that class.

        Entries compare in the order of asking; the last of an entry is its queue.
        """
        best: Entry | None = None
        for refused, line in self._lines.items():
            if refused < class_index:
                entry = line.first()
                if entry is not None and (best is None or entry < best):
                    best = entry
        return best
