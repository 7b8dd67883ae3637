"""The farm: a state machine of hosts, slots, leases and waiting requests.

Events go in, each with the time at which it happened. Effects come out; the shell performs them,
and the results return as events. Nothing here awaits, so no other event can come between a decision
and its record. The farm has no sockets, clock, randomness or logs. So the same farm runs in the
server, in the simulator and in property tests.

`Farm` itself only gives each event to the part that it concerns, and answers questions. The parts,
from the top to the bottom; each knows only parts below it:

    hosts   requests     events: hosts come, report and go; requests come, wait and are granted
    returns              after a restart: leases are attached, compiles without a lease are counted
    leases               first attempts begin, end and are revoked
    backups              second attempts begin, and end at any time
    slots                what both kinds of lease do to their host
    failures suspicion   who is to blame for failures; hosts on which no compile ends
    commands holds       commands that fail everywhere; hosts held back from one builder
    quarantine closures  hosts that no builder may use; compilers that a host gets no compiles for
    compiler_probes      which compilers the hosts without an agent have
    demand               which compilers builders ask for, and why they do not get them
    doors                which compilers each host has, and which of them are of use
    roster               which hosts are known, and their state

One `Turn` carries the time and the effects of an event through the parts. docs/decisions/0011 says
why it is so. `check.py` has the promises that hold after each event, and `story.py` the record of
what happened.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from compilefarm.core.events import (
    BackupEnded,
    CompileJudged,
    CompilerProbed,
    CompilersReported,
    EarlierLife,
    Effect,
    Event,
    HostAdded,
    HostDrained,
    HostProbed,
    HostRemoved,
    HostsListed,
    LeaseAttached,
    LoadReported,
    OwnerReported,
    ReportsEnded,
    RequestArrived,
    RequestEnded,
    TimePassed,
    WatcherEnded,
)
from compilefarm.core.farm.backups import Backups
from compilefarm.core.farm.check import check_hosts, check_leases
from compilefarm.core.farm.closures import Closures
from compilefarm.core.farm.compiler_probes import CompilerProbes
from compilefarm.core.farm.demand import Demand
from compilefarm.core.farm.doors import Doors
from compilefarm.core.farm.failures import Failures
from compilefarm.core.farm.hosts import Hosts
from compilefarm.core.farm.leases import Leases
from compilefarm.core.farm.quarantine import Quarantine
from compilefarm.core.farm.requests import Requests
from compilefarm.core.farm.returns import Returns
from compilefarm.core.farm.roster import Roster
from compilefarm.core.farm.slots import Slots
from compilefarm.core.farm.story import Story
from compilefarm.core.farm.suspicion import Suspicion
from compilefarm.core.farm.totals import Totals
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Availability, Host, Lease, Request
from compilefarm.core.placement.policy import Policy
from compilefarm.core.timers import Timers
from compilefarm.protocol.declaration import Declaration


class Farm:
    """One compile farm.

    Give every event to `handle`, with the time in seconds; perform the effects that it returns, in
    order; and hand in `TimePassed` at `next_deadline`. A time before the latest one counts as the
    latest. The dictionaries are for reading.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.now = -math.inf  # the latest time handed in
        self.totals = totals = Totals()
        self.story = Story()
        timers = self._timers = Timers()
        roster = self._roster = Roster(policy, timers)
        self.doors = doors = Doors(roster)
        probes = self._probes = CompilerProbes(timers, roster, doors)
        self.demand = demand = Demand(roster)
        quarantine = Quarantine(roster, timers)
        closures = Closures(roster, timers, doors)
        self.failures = failures = Failures(roster, quarantine, closures, totals)
        suspicion = Suspicion(policy, timers)
        slots = Slots(roster, failures, suspicion)
        backups = self._backups = Backups(policy, slots, totals)
        leases = Leases(policy, slots, backups, totals)
        returns = Returns(policy, timers, roster, leases, totals)
        requests = self._requests = Requests(
            policy, timers, leases, backups, returns, probes, demand, failures, totals
        )
        hosts = Hosts(timers, roster, leases, doors, probes, failures, suspicion, returns)

        self.hosts: dict[str, Host] = roster.hosts
        self.removed: dict[str, Declaration] = roster.removed
        self.waiting: dict[int, Request] = requests.waiting
        self.leases: dict[int, Lease] = leases.leases
        self.backups: dict[int, Lease] = backups.backups  # of these, by the same ids

        # A dictionary, because a `match` would try up to 18 types, one after the other.
        self._handlers: dict[type, Callable[[Any, Turn], None]] = {
            HostsListed: hosts.listed,
            EarlierLife: returns.earlier_life,
            HostAdded: hosts.added,
            HostRemoved: hosts.removed,
            HostDrained: hosts.drained,
            LoadReported: hosts.load_reported,
            CompilersReported: hosts.compilers_reported,
            ReportsEnded: hosts.reports_ended,
            OwnerReported: hosts.owner_reported,
            WatcherEnded: hosts.watcher_ended,
            HostProbed: hosts.probed,
            CompilerProbed: probes.probed,
            RequestArrived: requests.arrived,
            LeaseAttached: returns.attached,
            RequestEnded: requests.ended,
            BackupEnded: backups.ended,
            CompileJudged: failures.judged,
            TimePassed: self._time_passed,
        }
        # By the first part of a timer's key; the second part is a host's name or a request's id.
        self._alarms: dict[str, Callable[[Any, Turn], None]] = {
            "silent": hosts.silent_for_too_long,
            "lost": hosts.lost,
            "drain": hosts.drain_over,
            "unwatched": hosts.unwatched_for_too_long,
            "suspect": hosts.maybe_suspect,
            "probation": quarantine.over,
            "lacks": closures.opening_due,
            "ask": probes.ask_again,
            "attach": returns.attach_time_over,
            "returns": returns.return_time_over,
            "tell": requests.long_enough_to_tell,
            "wait": requests.waited_enough,
        }

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Apply an event and everything that is due by `now`; return the effects, in order."""
        if now > self.now:
            self.now = now
        now, policy, timers = self.now, self.policy, self._timers
        turn = Turn(now)
        policy.advance(now)
        self._handlers[type(event)](event, turn)
        while timers.next_due <= now:
            kind, subject = timers.pop_next()
            self._alarms[kind](subject, turn)
        if self.waiting:
            self._requests.grant(turn)
            if self.waiting:
                self._requests.answer(turn)
        while (choice := policy.next_backup(now)) is not None:
            self._backups.begin(*choice, turn)
        self.story.record(event, turn)
        return turn.effects

    def _time_passed(self, event: TimePassed, turn: Turn) -> None:
        """Do nothing: everything that is due is done after any event."""

    # -- questions

    def next_deadline(self) -> float | None:
        """Return when `TimePassed` must be handed in if no event comes before; None: never."""
        due = self.policy.next_deadline()
        own = self._timers.next_due
        if due is not None and due <= own:
            return due
        return None if own == math.inf else own

    def find(self, host: str, port: int) -> Host | None:
        """Return the host with that name and distccd port; see `Roster.find`."""
        return self._roster.find(host, port)

    def availability(self, name: str) -> Availability | None:
        """Return whether people want a host to be used; None if no user has said so."""
        return self._roster.availability(name)

    def ahead(self, id: int) -> int:
        """Return about how many requests are served before a waiting one."""
        return self.policy.ahead(self.waiting[id])

    def jobs_worth_using(self, request: Request) -> int:
        """Return the -j worth using for a user with such requests.

        It is the user's even share among all users who compile now. Slots count if the policy uses
        them and they will do for the request. Hosts that have not said yet which compiler they have
        count, too. One job more for each CPU of the builder can preprocess meanwhile.
        """
        slots = sum(
            host.slots
            for host in self.hosts.values()
            if host.tier is not None
            and (request.may_use(host) or self._probes.undecided_on(host, request))
        )
        users = {lease.request.user for lease in self.leases.values()}
        users.update(request.user for request in self.waiting.values())
        users.add(request.user)
        return max(1, request.cpus) + -(-slots // len(users))

    def check(self) -> None:
        """Assert every promise; raises AssertionError, with the latest events in its text."""
        try:
            check_hosts(self.hosts, self.now)
            check_leases(self.hosts, self.waiting, self.leases, self.backups)
        except AssertionError as error:
            raise AssertionError(f"{error}\nThe latest events:\n{self.story.tell()}") from error
