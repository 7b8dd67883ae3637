"""Whose turn it is: the builds that wait for the same slots, the least served first.

A queue is asked whether it wants the fastest free slot, and may refuse it to wait for a faster one.
It is not asked about such a slot again until something changed its mind. So queues stand in lines,
by the class of slots that they refused, each line a heap; a free slot is offered along the lines
below its class. To find the next to ask costs as much as there are classes, and the logarithm of
those that wait, however many builds that is.

The order is by what users got, then by what their builds got. Mostly that grows, so an entry that
is out of date stands too far in front, and is put right when it comes up. Who was charged too much
is given back (`serve`), and then his queues take their places anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compilefarm.placement.builds import Build, Queue, Waiting
    from compilefarm.placement.speed_classes import Place, View

# A queue in the first of these lines refused nothing; in the second, it is not to be asked at all.
FIRST_LINE, LAST_LINE = -(10**6), 10**6

# What its user and its build were served; first to come; the queue's stamp of then; the queue.
Entry = tuple[float, float, int, int, "Queue"]


@dataclass(slots=True, eq=False)
class User:
    """Whose builds they are, and the work that they got, in seconds at power index 1."""

    served: float = 0.0
    active: int = 0  # builds with anything outstanding
    builds: int = 0
    standing: dict[Queue, None] = field(default_factory=dict)  # queues with something waiting


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
        self._lines: dict[int, list[Entry]] = {}
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
            queue.build.user.standing[queue] = None
        queue.line = line
        queue.stamp += 1
        heap = self._lines.setdefault(line, [])
        heappush(heap, _entry(queue, next(self._serials)))
        if len(heap) > 64 and len(heap) > 4 * self._standing:
            heap[:] = [entry for entry in heap if entry[3] == entry[4].stamp]
            heapify(heap)

    def stand_anew(self, queue: Queue) -> None:
        """Have a queue take the place that it has in its line now."""
        if queue.line is not None:
            self._stand(queue, queue.line)

    def leave(self, queue: Queue) -> None:
        """Take a queue out that has nothing waiting."""
        if queue.line is not None:
            self._standing -= 1
            del queue.build.user.standing[queue]
            if not self._standing:
                self._contested.pop(self, None)
            queue.line = None
            queue.stamp += 1

    def first(self, index: int) -> Entry | None:
        """Return the least served queue that did not refuse a slot of that class; the user first.

        Entries compare in the order of asking; the last of an entry is its queue.
        """
        heads = [self._head(line) for line in tuple(self._lines) if line < index]
        return min((entry for entry in heads if entry is not None), default=None)

    def _head(self, line: int) -> Entry | None:
        heap = self._lines[line]
        while heap:
            user_served, build_served, serial, stamp, queue = heap[0]
            build = queue.build
            if stamp != queue.stamp:
                heappop(heap)
            elif (user_served, build_served) != (build.user.served, build.served):
                heapreplace(heap, _entry(queue, serial))
            else:
                return heap[0]
        del self._lines[line]
        return None


def _entry(queue: Queue, serial: int) -> Entry:
    build = queue.build
    return (build.user.served, build.served, serial, queue.stamp, queue)


def serve(build: Build, work: float) -> None:
    """Take note of work that a build got, or (below 0) that it got less than it was charged."""
    build.served += work
    build.user.served += work
    if work < 0.0:
        for queue in build.user.standing:
            queue.turns.stand_anew(queue)
