"""The shell around the farm: events in, effects out, and the loop's clock.

`connections/` turns bytes into events, and this class hands them to `Farm` and performs the
effects. There is one thread and one loop, and nothing awaits between an event and its effects.
This module must not decide where a compile runs, and must not know what the bytes look like.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import socket
from pathlib import Path
from typing import Protocol, assert_never

from compilefarm import __version__
from compilefarm.core.compilers import Sameness
from compilefarm.core.events import (
    AvailabilityChanged,
    BackUp,
    CompilerProbed,
    DrainEnded,
    DropBackup,
    Effect,
    Event,
    Grant,
    HostNoted,
    HostProbed,
    HostsListed,
    LeaseEnded,
    Probe,
    ProbeCompiler,
    Refuse,
    Revoke,
    TimePassed,
    Wait,
)
from compilefarm.core.farm.farm import Farm
from compilefarm.core.model import Lease
from compilefarm.core.placement.policy import Policy
from compilefarm.core.snapshot import snapshot_in_pieces
from compilefarm.protocol.farm_json import FarmSnapshot, Snapshot
from compilefarm.protocol.hosts_info import parse_hosts_info
from compilefarm.server.access import (
    COMPILERS_PER_ADDRESS,
    CONNECTIONS_PER_ADDRESS,
    WAITING_PER_ADDRESS,
    AllowedNetworks,
    Complaints,
    Counts,
    is_loopback,
)
from compilefarm.server.addresses import with_address
from compilefarm.server.probe import PROBE_WITHIN_S, probe
from compilefarm.server.storage.record import Recorder
from compilefarm.server.storage.write_behind import WriteBehind

# A waiting client gets a line this often. After three missing lines it gives the server up.
SIGN_OF_LIFE_S = 5.0
SWEEP_S = 1.0

log = logging.getLogger("host-server")


class Client(Protocol):
    """A connection that carries lines, as far as host-server uses it."""

    sender: str

    def sent_to(self) -> str:
        """Return the address that the client connected to."""

    def send_last(self, verb: str, **words: object) -> None:
        """Send one message and close."""

    def give_up(self, reason: str) -> None:
        """Tell the client its error, and close."""


class Requester(Client, Protocol):
    """A connection with a request: `connections/requests.py` says what each message means."""

    def grant(self, lease: Lease, address: str) -> None: ...

    def wait(self, ahead: int) -> None: ...

    def drop(self, backup: Lease, reason: str) -> None: ...

    def hand_over(self) -> None: ...


class HostServer:
    """One farm, its connections, and the loop's clock."""

    def __init__(
        self,
        policy: Policy,
        allowed: dict[str, AllowedNetworks],
        connections_per_address: int = CONNECTIONS_PER_ADDRESS,
        waiting_per_address: int = WAITING_PER_ADDRESS,
        sameness: Sameness = Sameness.SAME,
    ) -> None:
        self.sameness = sameness
        self.farm = Farm(policy)
        # Each start of the server is a life. A lease's id names the life that granted it.
        self.life = secrets.token_hex(4)
        self.base_port = 0

        self.allowed = allowed  # by the port's name
        self.keys: tuple[bytes, ...] = ()  # hosts must prove one of them; none: the farm has no key
        self.connections_of = Counts(connections_per_address)  # on all ports together
        self.waiting_of = Counts(waiting_per_address)  # requests that were told to wait
        self.compilers_of = Counts(COMPILERS_PER_ADDRESS)  # reported on connections that are open

        self.requests: dict[int, Requester] = {}  # by the request's id
        self.reporters: dict[str, Client] = {}  # by the host's name, its latest one
        # Connections that owe the end of a line, and when it must have come; in that order.
        self.overdue_at: dict[Client, float] = {}

        self.recorder: Recorder | None = None
        self.write_behind: WriteBehind | None = None

        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._request_id = 0
        self._watcher_id = 0
        self._timer: asyncio.Handle | None = None
        self._timer_due = math.inf
        self._drains: dict[str, list[asyncio.Future[DrainEnded]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._complaints = Complaints()

    # -- for connections

    def now(self) -> float:
        """Return the loop's time, in seconds."""
        return self._loop.time()

    def new_request_id(self) -> int:
        """Return a number not used before."""
        self._request_id += 1
        return self._request_id

    def new_watcher_id(self) -> int:
        """Return a number for a connection that watches hosts, not used before."""
        self._watcher_id += 1
        return self._watcher_id

    def happen(self, event: Event) -> None:
        """Hand an event to the farm and perform the effects."""
        effects: list[Effect] = self.farm.handle(event, self._loop.time())
        for effect in effects:
            self._perform(effect)
        deadline = self.farm.next_deadline()
        if deadline is not None and deadline < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_due = deadline
            # `_timer_due` repeats the handle's time: uvloop's handle has none once it is due.
            self._timer = self._loop.call_at(deadline, self._time_passed)

    async def availability_saved(self) -> None:
        """Wait until the changes of hosts' availability are on disk, if they are saved at all."""
        if self.write_behind is not None:
            await self.write_behind.written()

    def drain_end(self, name: str) -> asyncio.Future[DrainEnded]:
        """Return a future that is set when the drain of that host has ended."""
        end: asyncio.Future[DrainEnded] = self._loop.create_future()
        self._drains.setdefault(name, []).append(end)
        return end

    def refused(self, sender: str, reason: str) -> None:
        """Log that a sender was refused, once per sender and minute."""
        if self._complaints.note(sender, self._loop.time()):
            log.warning("refused %s: %s", sender, reason)

    # -- effects

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Grant() | BackUp():
                self._grant(effect.lease)
            case LeaseEnded():
                self._lease_ended(effect)
            case Wait() | Refuse() | Revoke() | DropBackup():
                self._answer(effect)
            case Probe() | ProbeCompiler():
                self._probe(effect)
            case DrainEnded():
                self._drain_ended(effect)
            case HostNoted():
                self._host_noted(effect)
            case AvailabilityChanged():
                self._availability_changed(effect)
            case _:
                assert_never(effect)

    def _grant(self, lease: Lease) -> None:
        connection = self.requests[lease.request.id]
        address = lease.host.address
        if is_loopback(address) and not is_loopback(connection.sender):
            # The host is this very machine. The client must use the address that it connected to.
            address = connection.sent_to()
        connection.grant(lease, address)

    def _answer(self, effect: Wait | Refuse | Revoke | DropBackup) -> None:
        match effect:
            case Wait():
                self.requests[effect.id].wait(effect.ahead)
            case Refuse():
                self.requests.pop(effect.id).send_last("refused", reason=effect.reason)
            case Revoke():
                if revoked := self.requests.pop(effect.id, None):
                    revoked.send_last("revoked", reason=effect.reason)
            case DropBackup():
                if holder := self.requests.get(effect.lease.id):
                    holder.drop(effect.lease, effect.reason)
            case _:
                assert_never(effect)

    def _lease_ended(self, effect: LeaseEnded) -> None:
        if self.recorder is None:
            return
        try:
            self.recorder.write(effect.lease, effect.outcome, effect.ended)
        except OSError as error:
            log.error("the record ends here: %s", error.strerror)
            self.recorder = None

    def _probe(self, effect: Probe | ProbeCompiler) -> None:
        task = self._loop.create_task(self._probe_host(effect))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _probe_host(self, asked: Probe | ProbeCompiler) -> None:
        found = await probe(asked.address, asked.port, asked.compiler)
        if found is None:
            self._loop.call_later(PROBE_WITHIN_S, self._probe, asked)
        elif isinstance(asked, ProbeCompiler):
            self.happen(CompilerProbed(asked.name, asked.compiler, found.compiler))
        else:
            self.happen(HostProbed(asked.name, found.answered, found.compiled))

    def _drain_ended(self, effect: DrainEnded) -> None:
        for end in self._drains.pop(effect.name, []):
            if not end.done():
                end.set_result(effect)

    def _host_noted(self, effect: HostNoted) -> None:
        log.info("host %s: %s", effect.name, effect.text)

    def _availability_changed(self, effect: AvailabilityChanged) -> None:
        if self.write_behind is not None:
            self.write_behind.availability_changed(effect.name)

    # -- time

    def _time_passed(self) -> None:
        self._timer = None
        self._timer_due = math.inf
        self.happen(TimePassed())

    async def keep_time(self) -> None:
        """Close overdue connections, and give waiting clients signs of life, for ever."""
        next_sign = self._loop.time() + SIGN_OF_LIFE_S
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self._loop.time()
            while self.overdue_at:
                connection, due = next(iter(self.overdue_at.items()))
                if due > now:
                    break
                del self.overdue_at[connection]
                connection.give_up("no whole line came in time")
            if left_out := self._complaints.left_out(now):
                log.warning("refused %d times: other senders, not logged by name", left_out)
            if now >= next_sign:
                next_sign = now + SIGN_OF_LIFE_S
                for number in list(self.farm.waiting):
                    self.requests[number].wait(self.farm.ahead(number))

    # -- hosts-info

    async def read_hosts_info(self, path: Path) -> int:
        """Read hosts-info and tell the farm; return the number of hosts in it.

        Raises `HostsInfoError` where a line is wrong, and OSError.
        """
        text = await asyncio.to_thread(path.read_text, errors="replace")
        declarations = parse_hosts_info(text, str(path))
        resolved = await asyncio.gather(*(with_address(each) for each in declarations))
        self.happen(HostsListed(tuple(resolved)))
        return len(resolved)

    # -- for monitors

    def may_look(self, sender: str) -> bool:
        """Whether a sender may read the monitor port; a refusal is logged."""
        allowed = bool(sender) and self.allowed["monitor"].allows(sender)
        if sender and not allowed:
            self.refused(sender, "its network is not allowed on the port monitor (--allow)")
        return allowed

    async def snapshot(self) -> Snapshot:
        """Return the farm's snapshot with the server's own figures.

        The loop runs between the pieces of it.
        """
        self.happen(TimePassed())  # without it, ages would be those of the latest event
        pieces = snapshot_in_pieces(self.farm)
        while True:
            try:
                next(pieces)
            except StopIteration as end:
                farm: FarmSnapshot = end.value
                break
            await asyncio.sleep(0)
        return {
            "server": {
                "version": __version__,
                "uptime_s": round(self._loop.time() - self._started, 1),
                "host": socket.gethostname(),
                "base_port": self.base_port,
            },
            **farm,
        }
