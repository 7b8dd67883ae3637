"""Each compile where it finishes first: the policy `earliest`, and the default.

Where a file goes is decided by the rule (`rule`), a pure function of one situation. Around it
stand:

- knowledge: costs, speeds and the outlook (`learning`), and builds (`active_builds`, `builds`);
- running compiles (`leases`, `running`), and the forecast for the rest of a build (`forecast`);
- the slots, by speed (`places`, `speed_classes`);
- the fair order: whose turn it is (`turns`), and how long a request may be passed over
  (`patience`), both in the `waitlist`;
- playing forward: in which mode the rule is best for a build (`tuning`, `playing`);
- backups: a file that turns out to be long begins again on a faster slot (`backups`).

`decision` brings these together for one free slot. This file hands each event of the farm to the
parts that it concerns, and decides nothing.
"""

from __future__ import annotations

import math

from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Ending, Host, Lease, Outcome, Request
from compilefarm.core.placement.earliest.active_builds import ActiveBuilds
from compilefarm.core.placement.earliest.backups import Backups
from compilefarm.core.placement.earliest.builds import Build
from compilefarm.core.placement.earliest.decision import Decision
from compilefarm.core.placement.earliest.leases import Leases
from compilefarm.core.placement.earliest.measuring import Measuring
from compilefarm.core.placement.earliest.mechanisms import ALL, Mechanisms
from compilefarm.core.placement.earliest.places import Change, Places
from compilefarm.core.placement.earliest.rule import EPSILON_S
from compilefarm.core.placement.earliest.running import Running
from compilefarm.core.placement.earliest.speed_classes import Place
from compilefarm.core.placement.earliest.waitlist import Waitlist
from compilefarm.core.placement.policy import HostUse

# The clocks of builder and server differ, and a client sends its report a moment after the end.
CLOCKS_APART_S = 1.0
# CPU time is counted in ticks, so that it may be above the time by this.
CPU_TICKS_S = 0.1
# Preprocessing is subtracted from a compile's time, but for this part: the rest was the host's.
PREPROCESSING_PART = 0.9


class EarliestPolicy:
    """Earliest completion as a `Policy`, on what `learning` has learned."""

    name = "earliest"

    def __init__(
        self, learning: Learning, *, backups: bool = True, mechanisms: Mechanisms = ALL
    ) -> None:
        self.learning = learning
        self._places = Places(learning, crowding=mechanisms.crowding)
        self._builds = ActiveBuilds(learning, self._places, mechanisms)
        self._leases = Leases(self._places)
        self._waitlist = Waitlist(self._builds, self._leases, mechanisms)
        self._measuring = Measuring(learning, self._places) if mechanisms.measuring else None
        self._backups = Backups(self._leases, mechanisms) if backups else None
        self._decision = Decision(
            learning,
            self._places,
            self._builds,
            self._leases,
            self._waitlist,
            self._measuring,
            mechanisms,
            backups=backups,
        )

    # -- hosts

    def host_changed(self, host: Host, now: float) -> None:
        change = self._places.changed(
            host,
            self._builds.directories(),
            len(self._waitlist.waiting),
            len(self._leases.running),
            now,
        )
        if self._measuring is not None:
            self._measuring.add(host.name)
        if change is not Change.NOTHING and self._backups is not None:
            self._backups.host_changed(host, now)
        self._changed(change)

    def host_forgotten(self, host: Host) -> None:
        if self._measuring is not None:
            self._measuring.forget(host.name)
        self._changed(self._places.forgotten(host))

    def _changed(self, change: Change) -> None:
        """Update the waiting requests after a change of a host."""
        if change is Change.KINDS:
            self._waitlist.regroup()
            if self._backups is not None:
                self._backups.regroup()
        elif change is Change.SLOTS:
            self._waitlist.ask_all()

    # -- requests

    def arrived(self, request: Request, now: float) -> None:
        if self._builds.idle:
            for over in self._builds.over(now):
                self._builds.close(over)
                self._waitlist.forget(over)
        build = self._builds.arrived(request, now)
        cost = self.learning.cost(request.directory, request.source)
        self._waitlist.add(request, build, cost, now)

    def withdrawn(self, request: Request, now: float) -> None:
        build = self._waitlist.remove(request).build
        build.rhythm.last_event_s = now
        if not build.waiting.files and not build.running.leases:
            self._rest(build)

    def granted(self, lease: Lease, now: float) -> None:
        waiting = self._waitlist.remove(lease.request)
        build, cost = waiting.build, waiting.cost
        known = cost is not None
        charged = cost if cost is not None else build.typical_cost(now)
        running = self._leases.taken(lease, build, charged, known=known)
        self._leases.start(running, build)
        if self._backups is not None:
            self._backups.leased(running, build, waiting.queue.reach)
            if self._backups.postponed and not self._waitlist.waiting:
                self._backups.resume(now)
        self._waitlist.charge(build, charged)
        self._occupied(running.place, now)
        if build.waiting.files:
            self._waitlist.ask(build)
        build.tuning.earn()

    def ended(self, lease: Lease, outcome: Outcome, now: float) -> None:
        build = self._builds.of(lease.request)
        running = self._leases.end(lease.request.id, build)
        whole = outcome.is_success and not lease.disturbed
        work = running.work(now)
        build.ended(work, whole, now)
        # What was overtaken by its backup is not charged; the backup is.
        due = work if outcome.ending is not Ending.OVERTAKEN else 0.0
        self._waitlist.charge(build, due - running.charged)
        self._occupied(running.place, now)
        if self._backups is not None:
            self._backups.ended(running, build, self._places.farm.fastest_free(), now)
        if whole:
            self._learn(running, build, outcome, now)
        build.tuning.earn()
        if not self._leases.running:
            self._waitlist.ask_all()
        elif build.waiting.files:
            self._waitlist.ask(build)
        if not build.waiting.files and not build.running.leases:
            self._rest(build)

    def _learn(self, running: Running, build: Build, outcome: Outcome, now: float) -> None:
        """Learn from a compile that ran whole, on its first host, and as long as we saw it run."""
        lease = running.lease
        request, leased_s = lease.request, now - lease.granted
        if outcome.cpu_s is not None and 0.0 <= outcome.cpu_s <= leased_s:
            build.preprocessed(outcome.cpu_s)
        wall_s = outcome.wall_s if outcome.wall_s is not None else leased_s
        cpu_s = outcome.cpu_s or 0.0
        if request.avoid or not 0.0 < wall_s <= leased_s + CLOCKS_APART_S:
            return
        # Preprocessing is one process after the other: more CPU time than time is a wild report.
        if not 0.0 <= cpu_s <= wall_s + CPU_TICKS_S:
            return
        remote_s = wall_s - min(cpu_s, PREPROCESSING_PART * wall_s)
        crowded_s = running.place.crowded_s - running.crowded_s
        crowded_part = min(1.0, crowded_s / max(leased_s, EPSILON_S))
        for name in self.learning.observe(
            request.directory, request.source, lease.host.name, remote_s, now, crowded_part
        ):
            place = self._places.by_name.get(name)
            if place is not None:
                self.host_changed(place.host, now)

    def _occupied(self, place: Place, now: float) -> None:
        """Update a host after one of its slots was taken or came free."""
        waiting, leases = len(self._waitlist.waiting), len(self._leases.running)
        if self._places.occupied(place, waiting, leases, now):
            self.host_changed(place.host, now)

    def _rest(self, build: Build) -> None:
        if self._builds.rest(build):
            self._waitlist.ask_all()

    # -- the decision

    def next_grant(self, now: float) -> tuple[Request, Host] | None:
        """Ask queues in turn until one takes the slot that it is offered."""
        waitlist = self._waitlist
        if waitlist.lone is not None:
            turn = waitlist.lone_turn(now)
            if turn is not None:
                return turn[0], turn[1].host
        waitlist.note_time(now)
        if self._places.farm.fastest_free() is not None:
            turn = waitlist.overdue_turn()
            if turn is not None:
                return turn[0], turn[1].host
            while (offer := waitlist.next_turn()) is not None:
                choice = self._decision.choose(offer[0], offer[1], now)
                if choice is not None:
                    return choice[0].request, choice[1].host
        if waitlist.fresh:
            waitlist.begin_patience()
        return None

    def next_deadline(self) -> float | None:
        """Return when something is due.

        Where every slot is in use, no backup is: on a busy farm that would be after each compile.
        """
        due_s = self._waitlist.next_due_s()
        if not self._waitlist.waiting and self._backups is not None:
            due_s = self._backups.due_s
            if due_s < math.inf and self._places.farm.fastest_free() is None:
                due_s = math.inf
        return None if due_s == math.inf else due_s

    # -- backups

    def advance(self, now: float) -> None:
        """Drop a backup that was due while there was no slot for one; see `next_deadline`."""
        if self._backups is not None and self._backups.due_s < now:
            if self._waitlist.waiting:
                self._backups.postpone()
            elif self._places.farm.fastest_free() is None:
                self._backups.lapse()

    def next_backup(self, now: float) -> tuple[Lease, Host] | None:
        if self._backups is None or now < self._backups.due_s:
            return None
        if self._waitlist.waiting:
            self._backups.postpone()
            return None
        chosen = self._backups.choose(self._places.farm.fastest_free(), now)
        return None if chosen is None else (chosen[0], chosen[1].host)

    def backup_began(self, backup: Lease, now: float) -> None:
        assert self._backups is not None
        main = self._leases.running[backup.id]
        build = self._builds.of(backup.request)
        running = self._leases.taken(backup, build, main.charged, known=main.known)
        self._backups.began(running, now)
        self._occupied(running.place, now)

    def backup_ended(self, backup: Lease, outcome: Outcome, now: float) -> None:
        """Count a backup that ended; one that was done ends after its first attempt."""
        assert self._backups is not None
        running, build = self._backups.over(backup, now, refused=outcome.ending is Ending.GIVEN_UP)
        self._occupied(running.place, now)
        if outcome.is_success and not backup.disturbed:
            work = running.work(now)
            self._waitlist.charge(build, work)
            build.done.add(work)
            self._learn(running, build, outcome, now)

    def backup_in_the_way(self, now: float) -> Lease | None:
        if self._backups is None or not self._backups.having:
            return None
        self._waitlist.queue_lone(now)
        self._waitlist.note_time(now)
        return self._backups.in_the_way(self._waitlist.turns)

    # -- questions

    def hopeless(self, request: Request) -> str | None:
        waiting = self._waitlist.waiting.get(request.id)
        if waiting is not None and waiting.queue.view.slots and not request.avoid:
            return None
        return self._places.hopeless(request)

    def ahead(self, request: Request) -> int:
        return len(self._waitlist.waiting) - 1

    def expected_s(self, lease: Lease) -> float | None:
        request, running = lease.request, self._leases.running[lease.id]
        if lease.is_backup and self._backups is not None:
            running = self._backups.running(lease) or running
        cost = self.learning.cost(request.directory, request.source)
        if cost is None:
            return None
        return self._builds.of(request).rhythm.preprocess_s + cost / running.speed

    def use_of(self, host: Host) -> HostUse:
        return self._places.use_of(host)
