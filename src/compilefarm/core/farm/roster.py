"""The hosts that the farm knows, and those that people took out of it.

The lowest part of the farm. It finds hosts, keeps their state in line with the facts, and forgets
them. All other parts change a host's facts and then call `refresh`, so the policy learns of every
change in one place.

It knows nothing of requests, and nothing of leases but whether a host has any.
"""

from __future__ import annotations

from compilefarm.core.events import AvailabilityChanged, DrainEnded, HostNoted
from compilefarm.core.farm.turn import Turn
from compilefarm.core.host_state import state_of, take_declarations
from compilefarm.core.model import Availability, Host, State
from compilefarm.core.placement.policy import Policy
from compilefarm.core.timers import Timers
from compilefarm.protocol.address import host_name
from compilefarm.protocol.declaration import Declaration

# Long enough to restart a load reporter, short enough that a build does not wait for a lost host.
LOST_AFTER_S = 5.0
REMOVED_LIMIT = 10_000

# All timers that belong to a host: they end with it.
HOST_TIMERS = (
    "silent", "lost", "drain", "probation", "suspect", "lacks", "unwatched", "attach",
    "ask",
)  # fmt: skip


class Roster:
    """The known hosts by name, and the declarations of removed ones.

    `removed` has hosts that people took out and did not add again. Such a host stays out when it
    only returns. At most `REMOVED_LIMIT` are kept.
    """

    def __init__(self, policy: Policy, timers: Timers) -> None:
        self.hosts: dict[str, Host] = {}
        self.removed: dict[str, Declaration] = {}
        self._policy = policy
        self._timers = timers

    # -- finding

    def find(self, host: str, port: int) -> Host | None:
        """Return the host with that name and distccd port, or None.

        A host that hosts-info lists without a port matches any port.
        """
        exact = self.hosts.get(host_name(host, port))
        if exact is not None:
            return exact
        bare = self.hosts.get(host)
        if bare is None or bare.listed is None or bare.listed.port is not None:
            return None
        return bare if bare.port == port or not bare.added else None

    def find_or_add(self, host: str, port: int, address: str) -> Host:
        """Return the host with that name and distccd port; a new one gets the address."""
        found = self.find(host, port)
        return found if found is not None else self.add(host_name(host, port), address, port)

    def add(self, name: str, address: str, port: int) -> Host:
        """Add a host that the farm does not know yet."""
        host = self.hosts[name] = Host(name, address, port)
        return host

    def availability(self, name: str) -> Availability | None:
        """Return whether people want a host to be used; None if no user has said so."""
        host = self.hosts.get(name)
        if host is not None and host.offered is not None and host.drain_until is None:
            reported = host.load_at is not None or host.silent
            return Availability(host.offered, host.address, True, reported)
        if host is not None and host.drain_until is not None:  # after a restart it would be gone
            return Availability(naming(host), host.address, False)
        removed = self.removed.get(name)
        return None if removed is None else Availability(removed, "", False)

    # -- a host's facts have changed

    def declared(self, host: Host, turn: Turn) -> None:
        """Apply a host's declarations, which have changed."""
        take_declarations(host)
        self.refresh(host, turn)
        turn.choice_narrowed = True
        self.forget_if_unneeded(host, turn)

    def refresh(self, host: Host, turn: Turn, reason: str = "") -> None:
        """Bring a host's state in line with its facts, and let the policy read the host again.

        `reason` says why the host is away, if it is.
        """
        state_before, tier_before = host.state, host.tier
        host.state, host.reason = state_of(host)
        if reason and host.state is State.AWAY:
            host.reason = reason
        self._policy.host_changed(host, turn.now)
        use = self._policy.use_of(host)
        host.tier = use.tier
        if host.state is state_before and host.tier == tier_before:
            return
        if host.tier is None and tier_before is not None:
            turn.choice_narrowed = True
        if host.state is not state_before or host.state is State.UP:
            why = host.reason or use.reason
            text = f"{host.state.value}, {why}" if why else host.state.value
            turn.effects.append(HostNoted(host.name, text))
        if host.state is State.MUTE and host.leases:
            self.give_time_to_return(host, turn)

    def give_time_to_return(self, host: Host, turn: Turn) -> None:
        """Let a host's leases be revoked after `LOST_AFTER_S`, unless it is back before."""
        self._timers.set(("lost", host.name), turn.now + LOST_AFTER_S)

    # -- a host leaves

    def last_lease_ended(self, host: Host, turn: Turn) -> None:
        """Do what had to wait until the host has no lease."""
        if host.drain_until is not None:
            self.drained(host, 0, turn)
        self.forget_if_unneeded(host, turn)

    def drained(self, host: Host, revoked: int, turn: Turn) -> None:
        """End a drain: the host has no lease any more, and leaves."""
        host.drain_until = None
        self._timers.clear(("drain", host.name))
        turn.effects.append(DrainEnded(host.name, revoked))
        self.leave(host, "left after its last compile", turn)

    def call_off_drain(self, host: Host, reason: str, turn: Turn) -> None:
        """End a drain, if there is one, and do not let the host leave."""
        if host.drain_until is not None:
            host.drain_until = None
            self._timers.clear(("drain", host.name))
            turn.effects.append(DrainEnded(host.name, 0, reason))

    def leave(self, host: Host, reason: str, turn: Turn) -> None:
        """Make a host unavailable; forget it once nothing is left to remember."""
        self.remember_removed(host.name, naming(host), turn)
        host.added = False
        host.offered = None
        host.quarantined = False
        self._timers.clear(("probation", host.name))
        self.refresh(host, turn, reason)
        self.forget_if_unneeded(host, turn)

    def remember_removed(self, name: str, declaration: Declaration, turn: Turn) -> None:
        """Keep a host out although it returns, or hosts-info lists it as static."""
        self.removed[name] = declaration
        if len(self.removed) > REMOVED_LIMIT:
            oldest = next(iter(self.removed))
            del self.removed[oldest]
            turn.effects.append(AvailabilityChanged(oldest))
        turn.effects.append(AvailabilityChanged(name))

    def forget_if_unneeded(self, host: Host, turn: Turn) -> None:
        """Forget a host that is neither available nor listed nor seen in any other way."""
        reports = host.load_at is not None and not host.silent
        if host.added or host.listed is not None or host.leases or reports or host.watchers:
            return
        if self.hosts.get(host.name) is host:
            del self.hosts[host.name]
            self._policy.host_forgotten(host)
            turn.host_forgotten = True
            for kind in HOST_TIMERS:
                self._timers.clear((kind, host.name))


def naming(host: Host) -> Declaration:
    """Return a declaration that only names the host."""
    declared = host.offered or host.listed
    return Declaration(declared.host if declared is not None else host.name, host.port)
