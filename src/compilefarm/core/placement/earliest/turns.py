"""Whose turn it is: the builds that wait for the same slots, the least served first.

A queue is asked whether it wants the fastest free slot, and may refuse it to wait for a faster one.
It is not asked about such a slot again until something changed its mind. So queues stand in lines,
by the class of slots that they refused, each line a heap; a free slot is offered along the lines
below its class. To find the next to ask costs as much as there are classes, and the logarithm of
those that wait, however many builds that is.

The order is by what users got, then by what their builds got. So in a line stands each user once,
for the first of his queues, and these are a heap of their own. Mostly what they got grows, so an
entry that is out of date stands too far in front, and is put right when it comes up. Who was
charged too much is given back (`serve`); then he takes his places anew, in as many lines as he
stands, and none of his other builds has to be touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compilefarm.core.placement.earliest.builds import Build, Queue, Waiting
    from compilefarm.core.placement.earliest.speed_classes import Place, View

# A queue in the first of these lines refused nothing; in the second, it is not to be asked at all.
FIRST_LINE, LAST_LINE = -(10**6), 10**6

# What its user and its build were served; first to come; a number that is no other entry's; the
# first queue of that user.
Entry = tuple[float, float, int, int, "Queue"]
# What its build was served; first to come; the queue's stamp of then; the queue.
OwnEntry = tuple[float, int, int, "Queue"]


@dataclass(slots=True, eq=False)
class User:
    """Whose builds they are, and the work that they got, in seconds at power index 1."""

    served: float = 0.0
    active: int = 0  # builds with anything outstanding
    builds: int = 0
    standing: dict[_Standing, _Line] = field(default_factory=dict)  # where any of his queues may


@dataclass(slots=True, eq=False)
class _Standing:
    """One user's queues in one line, of which `entry` is the one entry of the line that counts."""

    queues: list[OwnEntry] = field(default_factory=list)
    entry: Entry | None = None

    def head(self) -> OwnEntry | None:
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
    """Queues that refused the same slots; it knows of some more that have left."""

    def __init__(self, serials: Iterator[int]) -> None:
        self._serials = serials
        self._entries: list[Entry] = []
        self._of: dict[User, _Standing] = {}

    def enter(self, queue: Queue, standing: int) -> None:
        """Have a queue stand here, one of so many in all lines together."""
        user = queue.build.user
        own = self._of.get(user)
        if own is None:
            own = self._of[user] = _Standing()
            user.standing[own] = self
        entry = (queue.build.served, next(self._serials), queue.stamp, queue)
        heappush(own.queues, entry)
        if own.queues[0] is entry:
            self.stand_anew(user, own)
        if len(own.queues) > 64 and len(own.queues) > 4 * standing:
            own.queues[:] = [entry for entry in own.queues if entry[2] == entry[3].stamp]
            heapify(own.queues)

    def stand_anew(self, user: User, own: _Standing) -> None:
        """Have a user take the place that he has in this line now."""
        if own.queues:
            own.entry = self._entry(user, own.queues[0])
            heappush(self._entries, own.entry)
            if len(self._entries) > 64 and len(self._entries) > 4 * len(self._of):
                self._entries = [each.entry for each in self._of.values() if each.entry is not None]
                heapify(self._entries)

    def _entry(self, user: User, first: OwnEntry) -> Entry:
        served, serial, _, queue = first
        return (user.served, served, serial, next(self._serials), queue)

    def head(self) -> Entry | None:
        """Return the least served queue that stands here."""
        entries = self._entries
        while entries:
            entry = entries[0]
            user = entry[4].build.user
            own = self._of.get(user)
            if own is None or own.entry is not entry:
                heappop(entries)
                continue
            first = own.head()
            if first is None:
                heappop(entries)
                del self._of[user], user.standing[own]
            elif (user.served, first[0], first[1]) == entry[:3]:
                return entry
            else:
                own.entry = self._entry(user, first)
                heapreplace(entries, own.entry)
        return None

    def clear(self) -> None:
        """Forget the queues that stood here, all of which have left."""
        for user, own in self._of.items():
            del user.standing[own]


class Turns:
    """The queues that wait for the slots of one view, the same hosts to be avoided."""

    def __init__(
        self,
        view: View,
        avoid: frozenset[str],
        serials: Iterator[int],
        contested: dict[Turns, None],
    ) -> None:
        self.view = view
        self.avoid = avoid
        self.overdue: dict[int, Waiting] = {}  # were passed over for long enough
        self._serials = serials  # no two entries of any turns have the same
        self._contested = contested  # all turns in which somebody waits
        self._lines: dict[int, _Line] = {}
        self._standing = 0

    def free(self) -> Place | None:
        """Return the fastest free place for all that wait here."""
        return self.view.fastest_free(self.avoid)

    def stand(self, queue: Queue, line: int) -> None:
        """Have a queue stand in a line: it refused slots of that class and below."""
        if queue.line == line:
            return
        self._stand(queue, line)

    def _stand(self, queue: Queue, line: int) -> None:
        if queue.line is None:
            self._standing += 1
            self._contested[self] = None
            queue.build.standing[queue] = None
        queue.line = line
        queue.stamp += 1
        if line not in self._lines:
            self._lines[line] = _Line(self._serials)
        self._lines[line].enter(queue, self._standing)

    def stand_anew(self, queue: Queue) -> None:
        """Have a queue take the place that it has in its line now."""
        if queue.line is not None:
            self._stand(queue, queue.line)

    def leave(self, queue: Queue) -> None:
        """Take a queue out that has nothing waiting."""
        if queue.line is not None:
            self._standing -= 1
            del queue.build.standing[queue]
            queue.line = None
            queue.stamp += 1
            if not self._standing:
                self._contested.pop(self, None)
                for line in self._lines.values():
                    line.clear()
                self._lines.clear()

    def first(self, index: int) -> Entry | None:
        """Return the least served queue that did not refuse a slot of that class; the user first.

        Entries compare in the order of asking; the last of an entry is its queue.
        """
        best: Entry | None = None
        for refused, line in self._lines.items():
            if refused < index:
                entry = line.head()
                if entry is not None and (best is None or entry < best):
                    best = entry
        return best


def serve(build: Build, work: float) -> None:
    """Take note of work that a build got, or (below 0) that it got less than it was charged."""
    build.served += work
    build.user.served += work
    if work < 0.0:
        for queue in build.standing:
            queue.turns.stand_anew(queue)
        for own, line in build.user.standing.items():
            line.stand_anew(build.user, own)
