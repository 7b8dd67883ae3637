"""All leases that run, and when their slots are expected to come free.

Expected ends are entered where the rule looks for them: in the lease's build, and in every view
that shows its host. While nothing waits, the rule is not asked, and most leases end before it is.
So a new lease's end is only stored, and entered when a decision needs it (`enter_ends`).
"""

from __future__ import annotations

from itertools import count

from compilefarm.core.model import Lease, Request
from compilefarm.core.placement.earliest.builds import Build
from compilefarm.core.placement.earliest.places import Places
from compilefarm.core.placement.earliest.queues import Reach
from compilefarm.core.placement.earliest.running import Running

# The most ends that are stored but not entered. To enter more at once would stall the decision that
# needs them.
NOTED_LIMIT = 256


class Leases:
    """The leases of first attempts; `running` has them by id."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.running: dict[int, Running] = {}
        self._noted: list[tuple[Build, Running]] = []
        self._serials = count(1)

    def taken(self, lease: Lease, build: Build, cost: float, *, known: bool) -> Running:
        """Return the record of a new lease, whose slot is taken: its speed and expected end.

        On a host whose slots share cores, the lease is one of the slots that still have a core, or
        one of the others.
        """
        place = self._places.by_name.get(lease.host.name)
        assert place is not None, "a lease on a host that the policy was not told of"
        part, speed = place, place.speed
        if place.later is not None:
            part = next((each for each in place.parts() if each.busy < each.slots), place)
            speed *= place.full_part**place.crowding
        end_s = lease.granted + build.rhythm.preprocess_s + cost / speed
        return Running(
            end_s,
            lease,
            place,
            speed,
            part.class_index,
            lease.granted,
            cost,
            place.crowded_s,
            known,
        )

    def start(self, running: Running, build: Build) -> None:
        """Add a lease."""
        self.running[running.lease.request.id] = running
        build.running.start(running)
        build.count_outstanding()
        self._noted.append((build, running))
        if len(self._noted) > NOTED_LIMIT:
            self._drop_ended()

    def end(self, id: int, build: Build) -> Running:
        """Take a lease out that ended, and return its books."""
        running = self.running.pop(id)
        build.running.end(running)
        return running

    def enter_ends(self) -> None:
        """Enter the expected ends that were only noted."""
        for build, running in self._noted:
            if running.end_s >= 0.0:
                self._enter(build, running)
        self._noted.clear()

    def put_off_overdue(self, build: Build, now: float) -> None:
        """Put the ends of a build's leases off that are past."""
        for running in build.running.put_off_overdue(now):
            self._enter(build, running)

    def reach_of(self, request: Request) -> Reach:
        """Return which hosts a request may use."""
        view = self._places.view(self._places.admitting(request))
        if not view.expects:
            view.expects = True
            for running in self.running.values():
                if running.lease.host.signature in view.signatures:
                    view.expect(running, running.class_index, next(self._serials))
        return (view, request.avoid)

    def _enter(self, build: Build, running: Running) -> None:
        serial = next(self._serials)
        for view in running.place.views:
            view.expect(running, running.class_index, serial)
        build.running.expect(running, serial)

    def _drop_ended(self) -> None:
        """Make room among the noted ends; where most leases still run, enter them."""
        self._noted = [each for each in self._noted if each[1].end_s >= 0.0]
        if len(self._noted) > NOTED_LIMIT / 2:
            self.enter_ends()
