"""The farm's hosts as `earliest` sees them: how many slots of what speed, for which requests.

What a host is good for follows from what was learned of its speed, and from what it reports. CPUs
in foreign use and memory that the next compile would lack take slots away; pressure without load
takes speed away. Where slots share cores, the second half of them brings only what the cores have
left. The rest of the policy sees places, gathered in views, and no hosts.

A host that the waiting requests are about to fill counts as full, so the caller says how many wait.
The `Change` that is returned says what the caller must update.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from compilefarm.core.learning.learning import Learning
from compilefarm.core.learning.observations import crowdedness
from compilefarm.core.model import Host, Load, Request, Signature
from compilefarm.core.placement.earliest.speed_classes import Place, View, class_of
from compilefarm.core.placement.policy import HostUse
from compilefarm.core.placement.tiers import tier_of

# Foreign CPU use below this is the noise of any living desktop.
FOREIGN_NOISE_CPUS = 0.3
# Memory that stays free, so that the owner's next click does not swap.
MEMORY_RESERVE_MB = 256.0
# The part of the time for which tasks wait for a CPU on a healthy host whose CPUs are not all in
# use. What is more takes the same part of the speed.
PRESSURE_NORMAL = 0.2
# A host counts as filled when its crowding, the waiting requests included, reaches FILLED_FROM. It
# stops to count below FILLED_UNTIL. Without the gap, that could change with each compile.
FILLED_FROM, FILLED_UNTIL = 0.6, 0.2
# The least that a slot brings on a core that is in use already, as a part of its speed alone.
LEAST_LATER_PART = 0.05
# A speed that moved by a smaller part is not worth a look at every waiting build.
SPEED_MOVED = 0.01


class Change(Enum):
    """What a change of a host means for the waiting requests."""

    NOTHING = "nothing"
    SPEED = "speed"  # of one place; on a large farm, one moves with every compile
    SLOTS = "slots"
    KINDS = "kinds"  # other kinds of hosts are here now: every view is another one


@dataclass(slots=True, eq=False)
class _Group:
    """Hosts that the same requests may use."""

    places: dict[str, Place] = field(default_factory=dict)
    views: list[View] = field(default_factory=list)


class Places:
    """All hosts of the farm by what they are good for; `farm` is the view of all of them.

    `by_name` has the place of each host. `crowding`: slots that share cores are told apart.
    """

    def __init__(self, learning: Learning, *, crowding: bool = True) -> None:
        self.farm = View(frozenset())
        self._learning = learning
        self._crowding = crowding
        self.by_name: dict[str, Place] = {}
        self._groups: dict[Signature, _Group] = {}
        self._signature_of: dict[str, Signature] = {}
        self._uses: dict[str, HostUse] = {}
        self._leases_at_report: dict[str, tuple[Load, int]] = {}
        self._views: dict[frozenset[Signature], View] = {}

    # -- what is asked of them

    def use_of(self, host: Host) -> HostUse:
        """Return the tier that a host's speed now puts it in, and why it is not its own."""
        return self._uses.get(host.name) or HostUse(None, host.reason)

    def admitting(self, request: Request) -> frozenset[Signature]:
        """Return the kinds of hosts that will do for a request."""
        return frozenset(signature for signature in self._groups if request.admits(signature))

    def hopeless(self, request: Request) -> str | None:
        """Return why no host will do for a request, whatever comes free; else None."""
        only_avoided = False
        for signature in self.admitting(request):
            for place in self._groups[signature].places.values():
                if any(part.slots for part in place.parts()):
                    if place.host.name not in request.avoid:
                        return None
                    only_avoided = True
        if not self.farm.slots:
            return "no host is available"
        if only_avoided:
            return "no host is left that was not to be avoided"
        if request.type:
            return f"no host of type {request.type}"
        return f"no host with compiler {request.compiler}"

    def view(self, signatures: frozenset[Signature]) -> View:
        """Return the view of these kinds of hosts; a new one has no expected ends yet."""
        view = self._views.get(signatures)
        if view is None:
            view = self._views[signatures] = View(signatures)
            # In the order of the groups: that of a set depends on addresses, and a story that is
            # played again must come out the same.
            for signature, group in self._groups.items():
                if signature not in signatures:
                    continue
                group.views.append(view)
                for place in group.places.values():
                    for part in place.parts():
                        part.views = group.views
                        view.count(part, +1)
                        view.offer(part)
        return view

    # -- hosts change

    def changed(
        self, host: Host, directories: Iterator[str], waiting: int, leases: int, now: float
    ) -> Change:
        """Read a host anew.

        `directories` are those of the builds of now; `waiting` and `leases` are how many requests
        wait and how many run on the whole farm.
        """
        listed = host.listed
        self._learning.declare(
            host.name, host.power_index, pinned=listed is not None and listed.pinned
        )
        change = Change.NOTHING
        if self._signature_of.get(host.name) != host.signature:
            change = self._move_group(host)
        place = self.by_name[host.name]
        speed, slots, reason = self._usable(host, directories)
        self._uses[host.name] = HostUse(tier_of(speed) if slots else None, reason, slots)
        if self._crowding:
            place.full_part = self._learning.full_part(host.name)
        self._crowd(place, host.in_use, waiting, leases, now)
        parts = self._parts(place, speed, slots)
        if change is Change.NOTHING and _is(place, parts):
            return change
        only_speed = [slots for _, slots in parts] == [part.slots for part in place.parts()]
        self._put(place, parts)
        if change is Change.NOTHING:
            change = Change.SPEED if only_speed else Change.SLOTS
        return change

    def forgotten(self, host: Host) -> Change:
        """Drop a host."""
        change = self._leave_group(host.name)
        del self.by_name[host.name], self._uses[host.name]
        self._leases_at_report.pop(host.name, None)
        return change

    def occupied(self, place: Place, waiting: int, leases: int, now: float) -> bool:
        """Update a place after one of its slots was taken or came free.

        Return whether the host must be read anew: it is filled now and was not, or the other way
        round.
        """
        filled = place.filled
        in_use = place.host.in_use
        self._crowd(place, in_use, waiting, leases, now)
        place.occupy(in_use)
        for view in place.views:
            view.offer(place)
        if place.later is not None:
            for view in place.views:
                view.offer(place.later)
        return place.filled != filled

    def _put(self, place: Place, parts: list[tuple[float, int]]) -> None:
        """Give a place slots of these speeds and numbers, in every view that shows it."""
        views = place.views
        for view in views:
            for part in place.parts():
                view.count(part, -1)
        if place.later is not None:
            place.later.stamp += 1
            place.later = None
        if len(parts) == 2:
            place.later = Place(place.host, views=views)
        for part, (part.speed, part.slots) in zip(place.parts(), parts, strict=True):
            part.class_index = class_of(part.speed)
        place.occupy(place.host.in_use)
        for view in views:
            for part in place.parts():
                view.count(part, +1)
                view.offer(part)

    def _usable(self, host: Host, directories: Iterator[str]) -> tuple[float, int, str]:
        """Return a host's speed now, its slots that may be used, and why not all of them."""
        speed = self._learning.speed(host.name)
        if not host.up:
            return speed, 0, host.reason
        load = host.load
        if load is None:
            return speed, host.slots, ""
        slots, reasons = host.slots, []
        cpus = load.cpus or host.capacity
        if load.foreign_cpus > FOREIGN_NOISE_CPUS:
            left = int(max(0.0, cpus - load.foreign_cpus + 0.5))
            if left < slots:
                slots = left
                reasons.append(f"{load.foreign_cpus:.1f} of {cpus} CPUs are in foreign use")
        room = self._memory_room(host, load, directories)
        if room is not None and room < slots:
            slots = room
            reasons.append(f"memory for {room} compiles: {load.memory_free_mb:.0f} MB are free")
        if load.cpu_pressure is not None and load.own_cpus + load.foreign_cpus < cpus - 0.5:
            stalled = max(0.0, min(load.cpu_pressure, 1.0) - PRESSURE_NORMAL)
            if stalled > 0.0:
                speed *= 1.0 - stalled
                reasons.append(f"tasks wait for a CPU {100 * load.cpu_pressure:.0f} % of the time")
        if slots == 0:
            reasons.insert(0, "out of use")
        return speed, slots, "; ".join(reasons)

    def _memory_room(self, host: Host, load: Load, directories: Iterator[str]) -> int | None:
        """Return how many compiles fit a host's memory, those counted that ran when it reported."""
        if load.memory_free_mb is None or not math.isfinite(load.memory_free_mb):
            return None
        learning = self._learning
        report = self._leases_at_report.get(host.name)
        if report is None or report[0] is not load:
            report = self._leases_at_report[host.name] = (load, len(host.leases))
            if load.compile_memory_mb is not None:
                for directory in {lease.request.directory for lease in host.leases.values()}:
                    learning.observe_memory(directory, load.compile_memory_mb)
        needs_mb = max(
            (learning.memory_mb(directory) for directory in directories),
            default=learning.memory_mb(""),
        )
        return report[1] + max(0, int((load.memory_free_mb - MEMORY_RESERVE_MB) / needs_mb))

    def _parts(self, place: Place, speed: float, slots: int) -> list[tuple[float, int]]:
        """Return a host's slots by what each brings, the fastest first, as (speed, slots).

        Where slots share cores, those used last add only the rest of the cores' speed. Take n slots
        that keep a part p of their speed when all are in use: they bring n * p together. The first
        half bring n / 2, since each has a core to itself. The others bring n * p - n / 2. While all
        are in use, each brings p.
        """
        host, part = place.host, place.full_part
        if part == 1.0:
            return [(speed, slots)]
        if place.filled:
            return [(speed * part, slots)]
        first = (host.slots + 1) // 2
        if host.load is not None:
            first -= round(min(max(0.0, host.load.foreign_cpus), float(first)))
        if slots <= first:
            return [(speed, slots)]
        return [(speed, first), (speed * max(LEAST_LATER_PART, 2.0 * part - 1.0), slots - first)]

    def _crowd(self, place: Place, in_use: float, waiting: int, leases: int, now: float) -> None:
        """Update how crowded a host is, by the farm, which has `in_use` slots, and by its owner."""
        host = place.host
        if host.load is not None:
            in_use += host.load.foreign_cpus
        if place.crowding or 2.0 * in_use > host.slots:  # else it was and is not crowded
            place.crowd(crowdedness(in_use, host.slots), now)
        if place.full_part == 1.0:
            place.filled = False
            return
        # What waits is about to take this part of the farm's free slots.
        wanted_part = min(1.0, waiting / max(1, self.farm.slots - leases))
        in_use += max(0.0, host.slots - in_use) * wanted_part
        soon = crowdedness(in_use, host.slots)
        place.filled = soon >= (FILLED_UNTIL if place.filled else FILLED_FROM)

    # -- kinds of hosts

    def _move_group(self, host: Host) -> Change:
        """Move a host to those that the same requests may use."""
        left = Change.NOTHING
        if host.name in self._signature_of:
            left = self._leave_group(host.name)
        place = self.by_name.get(host.name)
        if place is None:
            place = self.by_name[host.name] = Place(host)
        signature = self._signature_of[host.name] = host.signature
        group = self._groups.get(signature)
        if group is None:
            group = self._groups[signature] = _Group()
            group.places[host.name] = place
            return self._regroup()
        group.places[host.name] = place
        for part in place.parts():
            part.views = group.views
            for view in group.views:
                view.count(part, +1)
                view.offer(part)
        return left

    def _leave_group(self, name: str) -> Change:
        signature = self._signature_of.pop(name)
        group = self._groups[signature]
        place = group.places.pop(name)
        for part in place.parts():
            part.stamp += 1
            part.views = ()
            for view in group.views:
                view.count(part, -1)
        if group.places:
            return Change.SLOTS
        del self._groups[signature]
        return self._regroup()

    def _regroup(self) -> Change:
        self._views = {}
        for group in self._groups.values():
            group.views = []
        self.farm = self.view(frozenset(self._groups))
        return Change.KINDS


def _is(place: Place, wanted: list[tuple[float, int]]) -> bool:
    """Whether a place's slots are as wanted, within what is worth a change."""
    parts = list(place.parts())
    return (
        len(parts) == len(wanted)
        and all(
            abs(speed - part.speed) <= SPEED_MOVED * part.speed and slots == part.slots
            for (speed, slots), part in zip(wanted, parts, strict=True)
        )
        and place.host.in_use == sum(part.busy for part in parts)
    )
