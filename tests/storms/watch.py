"""The promises that hold after every step, whatever has gone wrong.

  - The farm is consistent (`Farm.check`): a slot is free or has one lease, and so on.
  - Each waiting request and each lease has its connection, and each such connection has one of
    them. They outlive their client by at most `CLIENTLESS_WITHIN_S`.
  - A lease outlives its host, if that reports, by at most `LOST_WITHIN_S`.
  - A host that was removed by hand stays out, even over restarts of the server, until a person or a
    new loadavg adds it.
  - No request waits while a slot that it may use is free. That always holds for `tier` and
    `random`. `earliest` may wait for a better slot, but only while something runs, and not for
    ever.

If the only faults are that the server is killed and started again:

  - No host that reports runs more compiles under leases than it has slots. A slot that was granted
    before a restart is not granted again after it.

`world` checks what must hold at the end, or for some time.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from compilefarm.core.farm.hosts import SILENT_AFTER_S
from compilefarm.core.farm.roster import LOST_AFTER_S
from compilefarm.core.model import Host, Request, State
from compilefarm.server.connections.requests import RequestConnection

from .host_server import WatchedServer
from .network import NOTICED_WITHIN_S, SENT_AGAIN_WITHIN_S, Endpoint
from .plan import STALL_AT_MOST_S

if TYPE_CHECKING:
    from .world import World

# Keep-alive, retransmission, stalled data, and the delay of a slow network.
CLIENTLESS_WITHIN_S = NOTICED_WITHIN_S + SENT_AGAIN_WITHIN_S + STALL_AT_MOST_S + 3.0
# The silence of a host without power, the time that it has to come back, and stalled data.
LOST_WITHIN_S = SILENT_AFTER_S + LOST_AFTER_S + STALL_AT_MOST_S + 3.0
# `earliest` gathers the first requests of a build for some milliseconds.
GATHERS_S = 0.05
# A file takes up to 20 s at power 1, and a stopped host makes a file seem more costly.
PASSED_OVER_WITHIN_S = 240.0


class Broken(AssertionError):
    """A promise does not hold; the text says which."""


class Watch:
    """Checks a server whenever its farm has changed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._clients_gone: deque[tuple[float, Endpoint]] = deque()
        self._free_since: dict[int, float] = {}
        self._busy_at = 0.0
        self._server: WatchedServer | None = None

    def client_gone(self, endpoint: Endpoint) -> None:
        """Remember that the client of this connection is gone."""
        self._clients_gone.append((self._world.clock.now + CLIENTLESS_WITHIN_S, endpoint))

    def look(self) -> None:
        """Check everything that a change of the farm can break; raises `Broken`."""
        server = self._world.program.server
        assert server is not None
        if server is not self._server:
            self._server = server
            self._free_since.clear()
        try:
            server.farm.check()
        except AssertionError as error:
            again = self._world.program.played_again()
            raise Broken(f"the books are wrong: {error}\nPlayed again: {again}") from error
        self._no_request_waits_for_nothing(server)
        self._no_lease_without_host(server)
        self._a_removed_host_stays_out(server)
        if self._world.plan.restarts_only:
            self._no_slot_granted_twice()
        if self._clients_gone and self._clients_gone[0][0] < self._world.clock.now:
            self._no_lease_without_client(server)

    def books_have_connections(self) -> None:
        """Check, between two steps, that each request and lease has its connection."""
        server = self._world.program.server
        if server is None:
            return
        farm = server.farm
        if len(server.requests) != len(farm.waiting) + len(farm.leases):
            known = farm.waiting.keys() | farm.leases.keys()
            raise Broken(f"connections and books differ: {known ^ server.requests.keys()}")

    def _no_lease_without_client(self, server: WatchedServer) -> None:
        now = self._world.clock.now
        if now < self._world.server_slow_until + CLIENTLESS_WITHIN_S:
            return
        while self._clients_gone and self._clients_gone[0][0] < now:
            _, endpoint = self._clients_gone.popleft()
            protocol = endpoint.peer.protocol
            if isinstance(protocol, RequestConnection) and protocol in server.requests.values():
                raise Broken(f"a request or lease outlives its client by {CLIENTLESS_WITHIN_S:g} s")

    def _no_lease_without_host(self, server: WatchedServer) -> None:
        world = self._world
        for host in world.without_power:
            since = max(host.off_since, world.program.started_at, world.server_slow_until)
            known = server.farm.hosts.get(host.plan.address)
            lost = host.plan.reports and world.clock.now - since > LOST_WITHIN_S
            # A host that was added by hand counts as up until it fails.
            if lost and known is not None and known.leases and known.load_at is not None:
                raise Broken(f"a lease outlives its host by {LOST_WITHIN_S:g} s: {host.plan.name}")

    def _a_removed_host_stays_out(self, server: WatchedServer) -> None:
        for host in self._world.removed_by_hand:
            known = server.farm.hosts.get(host.plan.address)
            if known is not None and known.state is State.UP:
                raise Broken(f"a host that was taken out by hand is back: {host.plan.name}")

    def _no_slot_granted_twice(self) -> None:
        world = self._world
        compiles = Counter(
            gethost.on_host
            for builder in world.builders.values()
            for gethost in builder.running
            if gethost.on_host
        )
        for host in world.plan.hosts:
            if host.reports and compiles[host.address] > host.slots:
                raise Broken(
                    f"a slot was granted twice: {host.name} with {host.slots} slots runs"
                    f" {compiles[host.address]} compiles under leases"
                )

    def _no_request_waits_for_nothing(self, server: WatchedServer) -> None:
        farm, now = server.farm, self._world.clock.now
        if not farm.waiting:
            self._free_since.clear()
            return
        usable = [
            host
            for host in farm.hosts.values()
            if host.free and host.state is State.UP and _takes_more(farm.policy.name, host)
        ]
        if not usable:
            self._free_since.clear()
            return
        patient = farm.policy.name == "earliest"
        if farm.leases:
            self._busy_at = now
        verdicts: dict[object, Host | None] = {}
        for number, request in farm.waiting.items():
            free = _first_for(request, usable, verdicts)
            if free is None:
                self._free_since.pop(number, None)
                continue
            since = self._free_since.setdefault(number, now)
            if patient and now - max(since, self._busy_at) <= GATHERS_S:
                continue
            if patient and farm.leases and now - since <= PASSED_OVER_WITHIN_S:
                continue
            raise Broken(
                f"a request waits while a slot that it may have is free: {request.source}"
                f" of {request.builder} for {now - since:.3f} s, on {free.name}"
            )


def _takes_more(policy: str, host: Host) -> bool:
    """Return whether the policy would grant one more lease on the host."""
    if host.tier is None:
        return False
    if policy != "earliest" or host.load is None:
        return True
    # On a host with foreign load, `earliest` leaves some slots free on purpose.
    cpus = host.load.cpus or host.slots
    return host.in_use < int(max(0.0, cpus - host.load.foreign_cpus))


def _first_for(
    request: Request, usable: list[Host], verdicts: dict[object, Host | None]
) -> Host | None:
    key = request.restriction
    if key not in verdicts:
        verdicts[key] = next((host for host in usable if request.may_use(host)), None)
    return verdicts[key]
