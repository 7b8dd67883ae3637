"""Whose turn it is: the queues that wait for the same slots, the least served first.

A queue is offered the fastest free slot, and may refuse it to wait for a faster one. It is offered
no such slot again until something changes. So queues stand in lines, one for each refused class of
slots. A free slot is offered to the lines below its class. Each line is a heap. To find the next
queue takes time in proportion to the number of lines, and to the logarithm of the number of queues.

Queues are ordered by the work that their user got, then by the work that their build got. A line
has one entry for each user, for the first of that user's queues, which are a heap of their own.
Usually the work only grows. So an entry that is out of date is too far in front, and is corrected
when it comes first. When work is taken back (`reposition`), the user gets a new place in each line,
and none of the user's other queues is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace

from compilefarm.core.model import Request
from compilefarm.core.placement.earliest.builds import User
from compilefarm.core.placement.earliest.queues import Queue, Reach
from compilefarm.core.placement.earliest.speed_classes import Place

# Below every class: the queue refused nothing. Above every class: it must not be asked at all.
REFUSED_NOTHING, REFUSES_ALL = -(10**6), 10**6
# A heap drops its outdated entries when it is longer than CLEAR_FROM, and longer than CLEAR_TIMES
# the number of queues or users.
CLEAR_FROM, CLEAR_TIMES = 64, 4

# The user's work so far; the build's work so far; a serial number, by arrival; a number unique to
# this entry; the user's first queue.
Entry = tuple[float, float, int, int, Queue]
# The build's work so far; a serial number, by arrival; the queue's stamp then; the queue.
OwnEntry = tuple[float, int, int, Queue]


class _QueuesOfUser:
    """One user's queues in one line; `entry` is the only entry of theirs that counts."""

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
        self.overdue: dict[int, Request] = {}  # passed over for the longest time allowed
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
        """Remove a queue that is empty now."""
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
