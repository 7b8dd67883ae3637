"""Running leases: each with its slot's speed and its expected end, and all those of a build."""

from __future__ import annotations

from dataclasses import dataclass

from compilefarm.core.model import Lease
from compilefarm.core.placement.earliest.ends import ENDED_S, Ends, Expected
from compilefarm.core.placement.earliest.rule import EPSILON_S
from compilefarm.core.placement.earliest.speed_classes import Place

# A lease past its expected end is expected to need this part of its age again. The longer it took,
# the longer it may still take. So its expected end is moved only O(log age) times.
PUT_OFF_BY_AGE = 0.35


@dataclass(slots=True, eq=False)
class Running(Expected):
    """A lease while it runs. Costs and work are in seconds at power index 1.

    `speed` and `class_index` are those of its slot when it began. `charged` is the work that its
    user was charged for it; `known` says that this is the file's cost as learned. `crowded_s` is
    its host's time integral of crowding when it began.
    """

    lease: Lease
    place: Place
    speed: float
    class_index: int
    start_s: float
    charged: float
    crowded_s: float
    known: bool

    def work(self, now: float) -> float:
        """Return the work done on it so far."""
        return (now - self.start_s) * self.speed


class RunningOfBuild:
    """The leases of one build, their expected ends, and sums over them that are kept up to date.

    Times in the sums count from `begun_s`: with a clock's large numbers they would drift.
    """

    def __init__(self, begun_s: float) -> None:
        self._begun_s = begun_s
        self.leases: dict[int, Running] = {}
        self._soonest: Ends[Running] = Ends()
        self._latest: Ends[Running] | None = None
        # Sums over the leases: of speed, of speed * start, and of speed * expected end.
        self._speed = self._speed_start = self._speed_end = 0.0

    def __len__(self) -> int:
        return len(self.leases)

    def start(self, running: Running) -> None:
        """Add a lease."""
        self.leases[running.lease.request.id] = running
        self._speed += running.speed
        self._speed_start += running.speed * (running.start_s - self._begun_s)
        self._speed_end += running.speed * (running.end_s - self._begun_s)

    def end(self, running: Running) -> None:
        """Remove a lease that ended."""
        del self.leases[running.lease.request.id]
        if self.leases:
            self._speed -= running.speed
            self._speed_start -= running.speed * (running.start_s - self._begun_s)
            self._speed_end -= running.speed * (running.end_s - self._begun_s)
        else:  # sums of floats drift; here they are known
            self._speed = self._speed_start = self._speed_end = 0.0
        running.end_s = ENDED_S

    def expect(self, running: Running, serial: int) -> None:
        """Enter when a lease is expected to end."""
        self._soonest.push(running, serial, len(self.leases))
        if self._latest is not None:
            self._latest.push(running, serial, len(self.leases))

    def keep_latest(self) -> None:
        """Keep the latest end as well; a first build has no use for it."""
        self._latest = Ends(latest_first=True)
        for serial, running in enumerate(self._soonest.all() if self.leases else ()):
            self._latest.push(running, -1 - serial, len(self.leases))

    def put_off_overdue(self, now: float) -> list[Running]:
        """Move expected ends that are past to a later time; return those leases, to enter again."""
        overdue: list[Running] = []
        while (running := self._soonest.first()) is not None and running.end_s <= now:
            self._soonest.pop_first()
            end_s = now + PUT_OFF_BY_AGE * (now - running.start_s) + EPSILON_S
            self._speed_end += running.speed * (end_s - running.end_s)
            running.end_s = end_s
            overdue.append(running)
        return overdue

    def soonest_end_s(self) -> float | None:
        """Return the soonest expected end; None where none was entered."""
        first = self._soonest.first()
        return None if first is None else first.end_s

    def last_end_s(self, now: float) -> float:
        """Return the latest expected end, or `now` where none was entered."""
        first = self._latest.first() if self._latest is not None else None
        return now if first is None else first.end_s

    def work_left(self, now: float) -> float:
        """Return the work that all leases are expected to take from now on."""
        return self._speed_end - (now - self._begun_s) * self._speed

    def work_done(self, now: float) -> float:
        """Return the work done on all leases so far."""
        return (now - self._begun_s) * self._speed - self._speed_start
