"""Requests: they come, wait, and are granted or refused.

A request gets one answer. It is refused if it may not wait, has waited for its `wait_s`, or cannot
be served by any host that the farm knows. The last reason must wait while hosts may return after a
restart, or have not said yet which compiler they have.

The policy chooses the request that is granted next, and its host. This part knows nothing of hosts
but whether they are up.
"""

from __future__ import annotations

from collections.abc import Hashable

from compilefarm.core.events import Grant, Refuse, RequestArrived, RequestEnded, Wait
from compilefarm.core.farm.backups import Backups
from compilefarm.core.farm.compiler_probes import CompilerProbes
from compilefarm.core.farm.demand import Demand
from compilefarm.core.farm.failures import Failures
from compilefarm.core.farm.leases import Leases
from compilefarm.core.farm.returns import Returns
from compilefarm.core.farm.totals import Totals
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Lease, Request, State
from compilefarm.core.placement.policy import Policy
from compilefarm.core.timers import Timers
from compilefarm.protocol.wire import printable

# A policy may gather requests for some milliseconds. A client is told that it waits only after
# this time, when it really waits.
TELL_WAIT_AFTER_S = 0.05


class Requests:
    """The waiting requests, by their ids."""

    def __init__(
        self,
        policy: Policy,
        timers: Timers,
        leases: Leases,
        backups: Backups,
        returns: Returns,
        probes: CompilerProbes,
        demand: Demand,
        failures: Failures,
        totals: Totals,
    ) -> None:
        self.waiting: dict[int, Request] = {}
        self._policy = policy
        self._timers = timers
        self._leases = leases
        self._backups = backups
        self._returns = returns
        self._probes = probes
        self._demand = demand
        self._failures = failures
        self._totals = totals
        # The hosts that waiting requests avoid only because of a hold, by request.
        self._held_back: dict[int, frozenset[str]] = {}
        self._holds_ended = 0

    # -- events

    def arrived(self, event: RequestArrived, turn: Turn) -> None:
        """Let a request wait; it is granted or answered in the same turn."""
        request = event.request
        assert request.id not in self.waiting, "a request's id was used before"
        assert request.id not in self._leases.leases, "a request's id was used before"
        request.arrived = turn.now
        if self._failures.commands.stays_home(request, turn.now):
            reason = f"{printable(request.source)} compiles only on its builder"
            turn.withdrawn.append((request, reason))
            self._answer_no(request, reason, turn)
            return
        self._hold_back(request, turn)
        self.waiting[request.id] = turn.arrived = request
        if request.returning:
            self._returns.expect(turn)
        if request.identity is not None:
            self._probes.want(request, turn)
        self._policy.arrived(request, turn.now)
        if request.wait_s:
            self._timers.set(("wait", request.id), turn.now + request.wait_s)

    def ended(self, event: RequestEnded, turn: Turn) -> None:
        """End the lease of a request, or withdraw the request if it still waits."""
        lease = self._leases.leases.get(event.id)
        if lease is None:
            request = self.waiting.get(event.id)
            if request is not None:
                self._withdraw(request, "its client left", turn)
        elif event.attempt:
            self._leases.backup_finished_first(lease, event, turn)
        else:
            self._leases.end(lease, event.outcome, turn)

    # -- time

    def long_enough_to_tell(self, id: int, turn: Turn) -> None:
        """Tell a client that its request waits, unless it is granted in this turn."""
        turn.kept_waiting.append(id)

    def waited_enough(self, id: int, turn: Turn) -> None:
        """Refuse a request that has waited for its `wait_s`."""
        self._refuse(self.waiting[id], "no slot came free in the time given", turn)

    # -- answers

    def grant(self, turn: Turn) -> None:
        """Grant what the policy wants to grant now."""
        waiting, now = self.waiting, turn.now
        if self._holds_ended != self._failures.holds.ended:
            self._holds_ended = self._failures.holds.ended
            self._let_go(turn)
        while waiting:
            if self._backups.backups:
                self._backups.make_way(turn)
            choice = self._policy.next_grant(now)
            if choice is None:
                return
            request, host = choice
            assert host.state is State.UP, "a lease on a host that is not up"
            if self._failures.holds.is_held(request, host.name, now):
                self._queue_anew(request, turn)
                continue
            lease = Lease(request, host, host.take_slot(), now, door=request.door_on(host))
            self._totals.granted += 1
            self._demand.granted(request)
            self._forget(request, turn)
            self._leases.begin(lease, turn)
            turn.effects.append(Grant(lease))

    def _queue_anew(self, request: Request, turn: Turn) -> None:
        """Queue a request anew that waited while hosts were held back from its builder."""
        self._policy.withdrawn(request, turn.now)
        request.avoid -= self._held_back.pop(request.id, frozenset())
        self._hold_back(request, turn)
        self._policy.arrived(request, turn.now)
        turn.choice_narrowed = True

    def _hold_back(self, request: Request, turn: Turn) -> None:
        """Make a request avoid the hosts that are held back from its builder now."""
        held = self._failures.holds.held(request, turn.now) - request.avoid
        if held:
            self._held_back[request.id] = held
            request.avoid |= held

    def _let_go(self, turn: Turn) -> bool:
        """Queue the requests anew that avoid a host which is no longer held back from them.

        Returns whether there were any. A request that came during a hold must not wait, or be
        refused, because of a hold that has ended.
        """
        freed = [
            self.waiting[id]
            for id, held in self._held_back.items()
            if not held <= self._failures.holds.held(self.waiting[id], turn.now)
        ]
        for request in freed:
            self._queue_anew(request, turn)
        return bool(freed)

    def answer(self, turn: Turn) -> None:
        """Refuse the requests that are left and cannot wait; tell others that they wait."""
        if turn.choice_narrowed:
            self._refuse_hopeless(turn)
        request = turn.arrived
        if request is not None and request.id in self.waiting:
            self._keep_or_refuse(request, turn)
        for id in turn.kept_waiting:
            if id in self.waiting:
                turn.effects.append(Wait(id, self._policy.ahead(self.waiting[id])))

    def _keep_or_refuse(self, request: Request, turn: Turn) -> None:
        """Let a new request wait that was not granted, or refuse it."""
        hopeless = self._hopeless(request, turn)
        if hopeless is not None and not self._returns.expected(turn.now):
            self._refuse(request, hopeless, turn)
        elif request.wait_s == 0:
            self._refuse(request, "no slot is free now", turn)
        else:
            self._timers.set(("tell", request.id), turn.now + TELL_WAIT_AFTER_S)

    def _refuse_hopeless(self, turn: Turn) -> None:
        """Refuse the requests that no host can serve; equal restrictions share a verdict."""
        if self._returns.expected(turn.now):
            return
        if self._held_back and self._let_go(turn):
            self.grant(turn)
        verdicts: dict[Hashable, str | None] = {}
        for request in list(self.waiting.values()):
            key = request.restriction
            if key not in verdicts:
                verdicts[key] = self._hopeless(request, turn)
            verdict = verdicts[key]
            if verdict is not None:
                self._refuse(request, verdict, turn)

    def _hopeless(self, request: Request, turn: Turn) -> str | None:
        """Return why no host will do for a request; None if one does, or may turn out to do."""
        reason = self._policy.hopeless(request)
        if reason is None or self._probes.undecided(request):
            return None
        return self._demand.reason(request, reason, turn.now)

    def _refuse(self, request: Request, reason: str, turn: Turn) -> None:
        self._withdraw(request, reason, turn)
        self._answer_no(request, reason, turn)

    def _answer_no(self, request: Request, reason: str, turn: Turn) -> None:
        self._totals.refused += 1
        self._demand.refused(request)
        turn.effects.append(Refuse(request.id, reason))

    def _withdraw(self, request: Request, reason: str, turn: Turn) -> None:
        self._forget(request, turn)
        turn.withdrawn.append((request, reason))
        self._policy.withdrawn(request, turn.now)

    def _forget(self, request: Request, turn: Turn) -> None:
        """Remove a request that waits no longer, and its timers."""
        del self.waiting[request.id]
        self._held_back.pop(request.id, None)
        if request is not turn.arrived:
            self._timers.clear(("tell", request.id))
        if request.wait_s:
            self._timers.clear(("wait", request.id))
