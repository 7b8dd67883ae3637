"""The farm's slots by speed: what `earliest` looks at instead of the farm.

Hosts whose speeds differ by less than 3 % are one class. So a farm of any size has a few dozen
classes at most, and every question about speeds costs as much as there are classes. Within a class
one heap has the hosts with a free slot, and another the expected ends of the busy slots. Both may
have entries that are out of date, which are dropped when they come up.

A `View` shows the hosts that one kind of request may use. Almost always that is all of them.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace

from compilefarm.core.model import Host, Signature
from compilefarm.core.placement.earliest.ends import Ends, Expected

CLASS_RATIO = 1.03
_LOG_RATIO = math.log(CLASS_RATIO)
# A bit for each class says whether it may have something free; this is the bit of power index 1.
_BIT_OF_SPEED_1 = 400
ANY_CLASS = -_BIT_OF_SPEED_1 - 1  # below every class


@dataclass(slots=True, eq=False)
class Place:
    """A host's slots of one speed: `slots` of `speed`; `busy` of them are in use.

    `class_index` is the class of its speed. `stamp` goes up with every change; heap entries with an
    older stamp are out of date. `views` are those that show it. `later` are slower slots that are
    used only when these are taken. On a machine where two slots share a core, they bring only the
    rest of the core's speed.
    """

    host: Host
    speed: float = 1.0
    class_index: int = 0
    slots: int = 0
    busy: int = 0
    stamp: int = 0
    views: Sequence[View] = ()
    later: Place | None = None
    full_part: float = 1.0  # of its speed, which a slot keeps when all of the host's are in use
    filled: bool = False  # all of them are in use, or as good as
    # How crowded the host is, since when, and the time integral of it up to then.
    crowding: float = 0.0
    crowding_since_s: float = 0.0
    crowded_s: float = 0.0

    def parts(self) -> Iterator[Place]:
        """Yield the host's slots by speed, the fastest first."""
        place: Place | None = self
        while place is not None:
            yield place
            place = place.later

    def occupy(self, leases: int) -> None:
        """Have that many of the host's slots in use, the fastest first."""
        self.stamp += 1
        if self.later is None:
            self.busy = leases
        else:
            self.busy = min(leases, self.slots)
            self.later.occupy(leases - self.busy)

    def crowd(self, crowding: float, now: float) -> None:
        """Set how crowded the host is from now on."""
        self.crowded_s += self.crowding * max(0.0, now - self.crowding_since_s)
        self.crowding_since_s = now
        self.crowding = crowding


class SpeedClass:
    """Places of near-equal speed, within one view."""

    __slots__ = ("ends", "free", "index", "power", "slots", "speed")

    def __init__(self, index: int) -> None:
        self.index = index
        self.slots = 0
        self.power = 0.0  # the summed speed of the slots
        self.speed = CLASS_RATIO**index  # of a slot, on average
        self.free: list[tuple[float, float, int, int, Place]] = []
        self.ends: Ends[Expected] = Ends()


def class_of(speed: float) -> int:
    """Return the class of a speed; the higher, the faster."""
    return max(-_BIT_OF_SPEED_1, round(math.log(speed) / _LOG_RATIO))


class View:
    """The places that requests of one kind may use: those of the hosts with one of `signatures`."""

    def __init__(self, signatures: frozenset[Signature]) -> None:
        self.signatures = signatures
        self.classes: dict[int, SpeedClass] = {}
        self.order: list[int] = []  # indices of classes, slowest first
        self.version = 0  # of places, not of leases
        self.expects = False  # the ends of all leases have been entered
        self.slots = 0
        self.power = 0.0
        self._maybe_free = 0
        self._serial = 0
        self._top_speed = 1.0
        self._top_version = -1
        # Sums of version `_sums_version`, by the number of jobs and the class above which they go.
        self._sums: dict[tuple[int, int], float] = {}
        self._sums_version = -1

    def class_at(self, index: int) -> SpeedClass:
        """Return the class of that index."""
        found = self.classes.get(index)
        if found is None:
            found = self.classes[index] = SpeedClass(index)
            insort(self.order, index)
        return found

    def count(self, place: Place, sign: int) -> None:
        """Count a place's slots in (1) or out (-1); it must be as it was when counted in."""
        speed_class = self.class_at(place.class_index)
        speed_class.slots += sign * place.slots
        speed_class.power += sign * place.slots * place.speed
        if speed_class.slots > 0:
            speed_class.speed = speed_class.power / speed_class.slots
        else:
            speed_class.power = 0.0
        self.slots += sign * place.slots
        self.power += sign * place.slots * place.speed
        self.version += 1

    def offer(self, place: Place) -> None:
        """Offer what a place has free, as of now; what was offered before is out of date."""
        if place.busy >= place.slots:
            return
        index = place.class_index
        speed_class = self.classes.get(index) or self.class_at(index)
        free = speed_class.free
        self._serial += 1
        in_use = place.busy / place.slots
        entry = (-place.speed, in_use, self._serial, place.stamp, place)
        if free and free[0][4] is place:
            heapreplace(free, entry)  # as nearly always when a slot was taken
        else:
            heappush(free, entry)
        self._maybe_free |= 1 << (index + _BIT_OF_SPEED_1)
        if len(free) > 64 and len(free) > 4 * speed_class.slots:
            free[:] = [entry for entry in free if entry[3] == entry[4].stamp]
            heapify(free)

    def fastest_free(self, avoid: frozenset[str] = frozenset()) -> Place | None:
        """Return the fastest place with a free slot; among equals the one least in use."""
        maybe_free = self._maybe_free
        while maybe_free:
            bit = maybe_free.bit_length() - 1
            free = self.classes[bit - _BIT_OF_SPEED_1].free
            aside = []
            found = None
            while free and found is None:
                place = free[0][4]
                if free[0][3] != place.stamp:
                    heappop(free)
                elif place.host.name in avoid:
                    aside.append(heappop(free))
                else:
                    found = place
            for entry in aside:
                heappush(free, entry)
            if found is not None:
                return found
            maybe_free ^= 1 << bit
            if not free:
                self._maybe_free ^= 1 << bit
        return None

    def fastest_sum(self, jobs: int, above: int = ANY_CLASS) -> float:
        """Return the summed speed of those of the `jobs` fastest slots that are above a class."""
        if self._sums_version != self.version:
            self._sums_version = self.version
            self._sums.clear()
        power = self._sums.get((jobs, above))
        if power is None:
            power = self._sums[jobs, above] = self._fastest_sum(jobs, above)
        return power

    def _fastest_sum(self, jobs: int, above: int) -> float:
        left, power = jobs, 0.0
        for index in reversed(self.order):
            if index <= above:
                break
            speed_class = self.classes[index]
            if speed_class.slots >= left:
                return power + left * speed_class.speed
            power += speed_class.power
            left -= speed_class.slots
        return power

    def is_fastest(self, place: Place) -> bool:
        """Whether no class above a place's has slots, busy or not."""
        for index in reversed(self.order):
            if index <= place.class_index:
                return True
            if self.classes[index].slots > 0:
                return False
        return True

    def top_speed(self) -> float:
        """Return the speed of the fastest class that has slots, busy or not; 1 if there is none."""
        if self._top_version != self.version:
            self._top_version = self.version
            with_slots = (index for index in reversed(self.order) if self.classes[index].slots > 0)
            index = next(with_slots, None)
            self._top_speed = 1.0 if index is None else self.classes[index].speed
        return self._top_speed

    def slowest_speed(self) -> float:
        """Return the speed of the slowest class that has slots; 1 if there is none."""
        for index in self.order:
            if self.classes[index].slots > 0:
                return self.classes[index].speed
        return 1.0

    def expect(self, expected: Expected, class_index: int, serial: int) -> None:
        """Enter when a busy slot of a class is expected to come free."""
        speed_class = self.classes.get(class_index) or self.class_at(class_index)
        speed_class.ends.push(expected, serial, speed_class.slots)

    def busy_above(self, class_index: int) -> Iterator[tuple[float, float]]:
        """Yield speed and soonest expected end of the faster, busy classes, the fastest first."""
        for index in reversed(self.order):
            if index <= class_index:
                return
            speed_class = self.classes[index]
            first = speed_class.ends.first()
            if first is not None:
                yield speed_class.speed, first.end_s
