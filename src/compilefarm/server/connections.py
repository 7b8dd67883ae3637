"""The ports, one class of connection each: bytes to farm events, and answers to bytes.

A connection turns lines into calls of its `Server` (below, what it needs of host-server) and
nothing more: it decides nothing about hosts or slots. What can be abused is bounded here: the
length of a line, the time to send it, the lines that wait to be worked on, and the bytes that a
client does not read.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Coroutine
from typing import Any, Protocol, cast

from compilefarm.core.events import (
    BackupEnded,
    DrainEnded,
    Event,
    HostAdded,
    HostDrained,
    HostRemoved,
    LeaseAttached,
    LoadReported,
    OwnerReported,
    ReportsEnded,
    RequestArrived,
    RequestEnded,
    WatcherEnded,
)
from compilefarm.core.farm.farm import Farm
from compilefarm.core.model import Ending, Lease, Load, Outcome, Request
from compilefarm.protocol.address import host_name, split_host
from compilefarm.protocol.declaration import Declaration, Mode
from compilefarm.protocol.hosts_info import POWER_INDEX_LIMIT, SLOTS_LIMIT
from compilefarm.protocol.key import NONCE, key_proven, proof
from compilefarm.protocol.ports import DISTCCD_PORT
from compilefarm.protocol.wire import (
    LINE_LIMIT_BYTES,
    LineSplitter,
    Message,
    WireError,
    encoded,
    format_line,
    parse_line,
)
from compilefarm.server.access import AllowedNetworks, Counts

LINE_WITHIN_S = 10.0
UNREAD_LIMIT_BYTES = 64 * 1024
WAITING_LINES_LIMIT = 256
DAY_S = 86_400.0
YEAR_S = 366 * DAY_S

SAID_NOTHING = Outcome()


class Server(Protocol):
    """What a connection needs of host-server."""

    farm: Farm
    # This life of the server: a lease's id names the life in which it was given.
    life: str
    allowed: dict[str, AllowedNetworks]  # by the port's name
    connections_of: Counts  # by address, on all ports together
    waiting_of: Counts  # requests that were told to wait
    keys: tuple[bytes, ...]  # who proves one of them speaks for hosts; none: the farm has no key
    requests: dict[int, RequestConnection]
    reporters: dict[str, LoadConnection]
    # Connections that owe the end of a line, with the time by which it must come; in that order.
    overdue_at: dict[LineConnection, float]

    def now(self) -> float: ...

    def happen(self, event: Event) -> None:
        """Hand an event to the farm and perform the effects."""

    def new_request_id(self) -> int: ...

    def new_watcher_id(self) -> int: ...

    async def address_of(
        self, host: str, port: int, sender: str, sent_to: str, proven: bool
    ) -> str:
        """Return the host's address if the sender may speak for it, else raise `WireError`."""

    async def availability_is_kept(self) -> None:
        """Wait until what was said of hosts' availability survives the server, if it is to."""

    def drain_end(self, name: str) -> asyncio.Future[DrainEnded]:
        """Return what will be set when the drain of that host has ended."""

    def refused(self, sender: str, what: str) -> None:
        """Log that a sender was refused, once per sender and minute."""


_GIVEN_UP = Outcome(reason="the client gave it up", ending=Ending.GIVEN_UP)


class LineConnection(asyncio.Protocol):
    """A connection that carries lines; subclasses say what a message does.

    `take` may return a coroutine where an answer needs time; the lines behind it wait until it is
    done.
    """

    port: str
    """The port's name, as `--allow` takes it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lines = LineSplitter()
        self._waiting: deque[bytes] = deque()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport
        self.sender = ""

    def sent_to(self) -> str:
        """Return the address that the client connected to."""
        return str(self._transport.get_extra_info("sockname")[0])

    def take(self, message: Message) -> Coroutine[Any, Any, None] | None:
        """Act on one message; raises `WireError` where it breaks the protocol."""
        raise NotImplementedError

    def ended(self) -> None:
        """Act on the connection's end."""

    def send(self, verb: str, **words: object) -> None:
        """Send one message; a client that does not read what it is sent is dropped."""
        self._write(format_line(verb, **words))

    def _write(self, line: bytes) -> None:
        self._transport.write(line)
        if self._transport.get_write_buffer_size() > UNREAD_LIMIT_BYTES:
            self._transport.abort()

    def send_last(self, verb: str, **words: object) -> None:
        """Send one message and close."""
        if not self._transport.is_closing():
            self._transport.write(format_line(verb, **words))
            self._transport.close()

    def close(self) -> None:
        """Close when all that was sent is out."""
        self._transport.close()

    def give_up(self, reason: str) -> None:
        """Tell the client what is wrong with it, and close."""
        self._waiting.clear()
        self.send_last("error", reason=reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; who may not, or has too many already, is told so and closed."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if not peer:  # gone before we looked
            self._transport.abort()
            return
        server, sender = self._server, peer[0]
        if not server.allowed[self.port].allows(sender):
            server.refused(sender, f"its network is not allowed on the port {self.port} (--allow)")
            self.give_up(f"{sender} is not in the networks that this farm is open to")
            return
        if server.connections_of.full(sender):
            why = f"{sender} has {server.connections_of.limit} connections already"
            server.refused(sender, f"{why} (--connections-per-address)")
            self.give_up(why)
            return
        self.sender = sender
        server.connections_of.add(sender)
        self._owes_a_line()

    def data_received(self, data: bytes) -> None:
        """Split into lines and work on them."""
        if self._transport.is_closing():
            return
        length = len(data)
        if (
            data.find(b"\n") == length - 1
            and length <= LINE_LIMIT_BYTES
            and not (self._waiting or self._lines.pending or self._task)
        ):
            # One whole line and nothing else: almost always so, and less work.
            self._server.overdue_at.pop(self, None)
            self._take_line(data[:-1])
            return
        waiting = len(self._waiting)
        try:
            for line in self._lines.feed(data):
                self._waiting.append(line)
        except WireError as error:
            self._work()
            self._complain(error)
            return
        if len(self._waiting) > waiting:
            self._server.overdue_at.pop(self, None)
        if self._lines.pending:
            self._owes_a_line()
        self._work()
        if len(self._waiting) > WAITING_LINES_LIMIT and not self._transport.is_closing():
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, whichever side wanted it."""
        self._server.overdue_at.pop(self, None)
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
        if self.sender:
            self._server.connections_of.drop(self.sender)
            self.ended()

    def _owes_a_line(self) -> None:
        self._server.overdue_at.setdefault(self, self._server.now() + LINE_WITHIN_S)

    def _complain(self, error: WireError) -> None:
        self._server.refused(self.sender, str(error))
        self.give_up(str(error))

    def _work(self) -> None:
        while self._waiting and self._task is None and not self._transport.is_closing():
            self._take_line(self._waiting.popleft())

    def _take_line(self, line: bytes) -> None:
        try:
            slow = self.take(parse_line(line))
        except WireError as error:
            self._complain(error)
            return
        if slow is not None:
            self._task = asyncio.ensure_future(self._work_slowly(slow))

    async def _work_slowly(self, slow: Coroutine[Any, Any, None]) -> None:
        try:
            await slow
        except WireError as error:
            self._complain(error)
        self._task = None
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._work()


class RequestConnection(LineConnection):
    """A client on the base port: one request, one lease, held until the connection closes.

    The compile may have a backup meanwhile, whose lines name it by its id.
    """

    port = "requests"

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._id = 0
        self._waits = False

    def take(self, message: Message) -> None:
        """See `LineConnection`."""
        if message.verb == "request" and not self._id:
            self._ask(message)
        elif message.verb in ("done", "failed", "dropped") and self._id:
            self._ended(message)
        elif message.verb == "attach" and not self._id:
            self._attach(message)
        elif message.verb == "jobs" and not self._id:
            count = self._server.farm.jobs_worth_using(
                message.text("user", self.sender), message.integer("cpus", 1, low=1)
            )
            self.send_last("jobs", count=count)
        else:
            raise WireError(f"{message.verb} makes no sense here; see docs/protocol.md")

    def wait(self, ahead: int) -> None:
        """Tell the client that it waits, behind so many others."""
        if not self._waits:
            self._waits = True
            self._server.waiting_of.add(self.sender)
        self.send("wait", ahead=ahead)

    def _ended(self, message: Message) -> None:
        """Take note of how an attempt at the compile ended, by its own lease or a backup."""
        backup = self._backup_of(message.text("id"))
        if message.verb == "done" or (message.verb == "failed" and not backup):
            self._end(_outcome(message), backup)
            self.close()
            return
        if not backup:
            raise WireError("dropped needs id=, the id of a backup")
        outcome = _outcome(message) if message.verb == "failed" else _GIVEN_UP
        self._server.happen(BackupEnded(self._id, backup, outcome))

    def _backup_of(self, lease_id: str) -> int:
        """Return the number of the backup that an id names; 0: the lease itself."""
        _, _, number = lease_id.rpartition(".")
        return int(number) if number != lease_id and number.isdecimal() else 0

    def _waits_no_more(self) -> None:
        self._waits = False
        self._server.waiting_of.drop(self.sender)

    def grant(self, lease: Lease, address: str) -> None:
        """Tell the client which slot it has, for its compile or for a backup of it."""
        if self._waits:
            self._waits_no_more()
        host = lease.host
        verb = "backup" if lease.is_backup else "lease"
        # The one line of every compile: `format_line` takes four times as long for it.
        self._write(
            f"{verb} id={self._lease_id(lease)} host={encoded(host.name)} address={address}"
            f" port={host.port} slots={host.capacity}\n".encode()
        )

    def drop(self, backup: Lease, reason: str) -> None:
        """Tell the client to give a backup up."""
        self.send("drop", id=self._lease_id(backup), reason=reason)

    def _lease_id(self, lease: Lease) -> str:
        first = f"{self._server.life}-{self._id}"
        return f"{first}.{lease.attempt}" if lease.is_backup else first

    def ended(self) -> None:
        """See `LineConnection`."""
        if self._waits:
            self._waits_no_more()
        self._end(SAID_NOTHING)

    def _ask(self, message: Message) -> None:
        if self._server.waiting_of.full(self.sender):
            why = f"{self._server.waiting_of.limit} requests of {self.sender} wait already"
            self._server.refused(self.sender, f"{why} (--waiting-per-address)")
            self.send_last("refused", reason=why)
            return
        request = self._request(message)
        self._server.happen(RequestArrived(request))

    def _attach(self, message: Message) -> None:
        life, _, number = message.required("id").rpartition("-")
        host, port = _host_and_port(message)
        running_s = message.number("running_s", 0.0, high=DAY_S)
        known = int(number) if number.isdecimal() and life == self._server.life else 0
        holder = self._server.requests.get(known)
        if known in self._server.farm.leases and holder and holder.sender == self.sender:
            # We have not noticed yet that the connection which held it is gone.
            holder.hand_over(self)
        else:
            request = self._request(message)
            self._server.happen(LeaseAttached(request, host, port, running_s))
        if self._id in self._server.farm.leases:
            self.send("attached", id=f"{self._server.life}-{self._id}")

    def hand_over(self, heir: RequestConnection) -> None:
        """Let another connection of the same client hold the lease; it has given up a backup."""
        backup = self._server.farm.backups.get(self._id)
        self._server.requests[self._id] = heir
        heir._id, self._id = self._id, 0
        if backup is not None:
            self._server.happen(BackupEnded(heir._id, backup.attempt, _GIVEN_UP))
        self._transport.abort()

    def _request(self, message: Message) -> Request:
        """Return what a message asks for, under a new id, which is this connection's now."""
        # Read by hand, as the one message that comes with every compile.
        said = message.words.get
        number = self._id = self._server.new_request_id()
        self._server.requests[number] = self
        return Request(
            number,
            said("user") or self.sender,
            said("builder") or self.sender,
            message.integer("cpus", 1, low=1),
            said("dir", ""),
            said("source", ""),
            said("compiler", ""),
            said("type", ""),
            message.items("avoid"),
            message.optional_number("wait_s", high=DAY_S),
            returning=_is_yes(message, "returning"),
            can_back_up=_is_yes(message, "backup"),
        )

    def _end(self, outcome: Outcome, backup: int = 0) -> None:
        if self._server.requests.pop(self._id, None) is not None:
            self._server.happen(RequestEnded(self._id, outcome, backup))


class HostConnection(LineConnection):
    """A connection that speaks for hosts: where the farm has a key, only who proves it may.

    See `key.py` for the proof. There is one try: after a wrong one the connection is closed.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._nonce = ""
        self._proven = False

    def act(self, message: Message) -> Coroutine[Any, Any, None] | None:
        """Act on one message of a sender who may speak; see `LineConnection.take`."""
        raise NotImplementedError

    def take(self, message: Message) -> Coroutine[Any, Any, None] | None:
        """See `LineConnection`."""
        if message.verb == "challenge" and not self._nonce:
            if not self._server.keys:
                raise WireError("this farm has no key: start host-server with --key-file")
            self._nonce = secrets.token_hex(16)
            self.send("challenge", nonce=self._nonce)
            return None
        if message.verb == "prove" and self._nonce and not self._proven:
            self._prove(message)
            return None
        if self._server.keys and not self._proven and message.verb != "networks":
            raise WireError("this farm has a key, and its proof comes first: use --key-file")
        return self.act(message)

    def _prove(self, message: Message) -> None:
        nonce, given = message.required("nonce"), message.required("proof")
        if not NONCE.match(nonce):
            raise WireError("nonce= is not 16 to 128 letters and digits")
        key = key_proven(self._server.keys, given, self.port, self._nonce, nonce)
        if key is None:
            raise WireError("the proof is wrong: the key is not this farm's")
        self._proven = True
        self.send("ok", proof=proof(key, "server", self.port, self._nonce, nonce))

    async def address_of(self, host: str, port: int) -> str:
        """Return the host's address if the client may speak for it, else raise `WireError`."""
        return await self._server.address_of(host, port, self.sender, self.sent_to(), self._proven)


class LoadConnection(HostConnection):
    """A load reporter; it is the connection's end that tells of a host's."""

    port = "reports"

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._names: set[str] = set()
        self._addresses: dict[tuple[str, int], str] = {}

    def act(self, message: Message) -> Coroutine[Any, Any, None] | None:
        """See `HostConnection`."""
        if message.verb == "add":
            return _add(self, self._server, message)
        if message.verb != "load":
            raise WireError(f"{message.verb} makes no sense here; see docs/protocol.md")
        host, port = _host_and_port(message)
        load = _load(message)
        address = self._addresses.get((host, port))
        if address is None:
            return self._begin(host, port, load, _is_yes(message, "returning"))
        self._report(host, port, address, load)
        return None

    def ended(self) -> None:
        """See `LineConnection`; a host that has a newer reporter is not concerned."""
        for name in self._names:
            if self._server.reporters.get(name) is self:
                del self._server.reporters[name]
                self._server.happen(ReportsEnded(name))

    async def _begin(self, host: str, port: int, load: Load, returning: bool) -> None:
        if len(self._addresses) >= SLOTS_LIMIT:
            raise WireError("too many hosts on one connection")
        address = await self.address_of(host, port)
        self._addresses[host, port] = address
        self._report(host, port, address, load, returning)
        self.send("ok")

    def _report(
        self, host: str, port: int, address: str, load: Load, returning: bool = False
    ) -> None:
        self._server.happen(LoadReported(host, port, address, load, returning))
        known = self._server.farm.find(host, port)
        if known is not None and self._server.reporters.get(known.name) is not self:
            self._server.reporters[known.name] = self
            self._names.add(known.name)


class StatusConnection(HostConnection):
    """A client with something to say about a host's availability; a watcher's lasts."""

    port = "status"

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._watcher_id = server.new_watcher_id()
        self._watched: dict[tuple[str, int], tuple[str, str]] = {}  # name and address

    def act(self, message: Message) -> Coroutine[Any, Any, None] | None:
        """See `HostConnection`."""
        match message.verb:
            case "add":
                return _add(self, self._server, message)
            case "remove":
                return self._remove(message)
            case "drain":
                return self._drain(message)
            case "owner":
                return self._owner(message)
            case "networks":
                self.send("ok", networks=self._server.allowed["requests"].networks)
                return None
        raise WireError(f"{message.verb} makes no sense here; see docs/protocol.md")

    async def _remove(self, message: Message) -> None:
        host, port = _host_and_port(message)
        await self.address_of(host, port)
        known = self._server.farm.find(host, port)
        was_available = known is not None and known.added
        self._server.happen(HostRemoved(host, port))
        await self._server.availability_is_kept()
        self.send("ok", known="yes" if was_available else "no")

    async def _drain(self, message: Message) -> None:
        host, port = _host_and_port(message)
        grace_s = message.number("grace_s", 60.0, high=DAY_S)
        await self.address_of(host, port)
        known = self._server.farm.find(host, port)
        if known is None or not known.added:
            # Nothing is to be waited for, but one that has not returned yet must not come back.
            self._server.happen(HostRemoved(host, port))
            await self._server.availability_is_kept()
            self.send("ok", leases=0)
            return
        self.send("draining", leases=len(known.leases))
        end = self._server.drain_end(known.name)
        self._server.happen(HostDrained(host, port, grace_s))
        await self._server.availability_is_kept()
        drain = await end
        if drain.reason:
            raise WireError(f"{known.name} is not drained: {drain.reason}")
        self.send("ok", leases=drain.revoked)

    async def _owner(self, message: Message) -> None:
        host, port = _host_and_port(message)
        present = _one_of(message, "state", ("present", "absent"), required=True) == "present"
        since_s = message.number("since_s", 0.0, high=YEAR_S)
        revoke = _one_of(message, "revoke", ("no", "yes")) == "yes"
        address = self._watched.get((host, port), ("", ""))[1]
        if not address:
            if len(self._watched) >= SLOTS_LIMIT:
                raise WireError("too many hosts on one connection")
            address = await self.address_of(host, port)
        self._server.happen(
            OwnerReported(
                host, port, address, self._watcher_id, since_s if present else None, revoke
            )
        )
        known = self._server.farm.find(host, port)
        assert known is not None, "a host that is watched is known"
        self._watched[host, port] = (known.name, address)
        self.send("ok", leases=len(known.leases), mode=known.mode.value)

    def ended(self) -> None:
        """See `LineConnection`."""
        for name, _ in self._watched.values():
            self._server.happen(WatcherEnded(name, self._watcher_id))


class MonitorConnection(asyncio.Protocol):
    """A connection to the monitor port: counted here, and otherwise a matter of HTTP."""

    def __init__(self, server: Server, http: asyncio.Protocol) -> None:
        self._server = server
        self._http = http
        self._sender = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless the sender has too many already."""
        peer = transport.get_extra_info("peername")
        if not peer:  # gone before we looked
            transport.close()
            return
        count = self._server.connections_of
        if count.full(peer[0]):
            self._server.refused(
                peer[0], f"it has {count.limit} connections already (--connections-per-address)"
            )
            transport.close()
            return
        self._sender = peer[0]
        count.add(self._sender)
        self._http.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End, whichever side wanted it."""
        if self._sender:
            self._server.connections_of.drop(self._sender)
            self._http.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hand on what came."""
        if self._sender:
            self._http.data_received(data)

    def eof_received(self) -> bool | None:
        """Hand on that nothing more comes."""
        return self._http.eof_received() if self._sender else None

    def pause_writing(self) -> None:
        """Hand on that the client reads too slowly."""
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """Hand on that the client has read."""
        self._http.resume_writing()


async def _add(connection: HostConnection, server: Server, message: Message) -> None:
    host, port = _host_and_port(message)
    mode = _one_of(message, "mode", tuple(each.value for each in Mode))
    declaration = Declaration(
        host=host,
        port=port,
        slots=message.integer("slots", 0, low=1, high=SLOTS_LIMIT) or None,
        power_index=message.number("power_index", 0.0, low=0.001, high=POWER_INDEX_LIMIT) or None,
        types=message.items("types"),
        compilers=message.items("compilers"),
        mode=Mode(mode) if mode else None,
        reserve_cpus=message.optional_number("reserve_cpus", high=SLOTS_LIMIT),
    )
    address = await connection.address_of(host, port)
    server.happen(HostAdded(declaration, address, _is_yes(message, "returning")))
    if isinstance(connection, StatusConnection):  # somebody said so; a reporter will say it again
        await server.availability_is_kept()
    known = server.farm.find(host, port)
    if known is None or not known.added or known.drain_until is not None:
        name = host_name(host, port) if known is None else known.name
        connection.send("ok", host=name, slots=0, available="no")
        return
    connection.send(
        "ok",
        host=known.name,
        slots=known.capacity,
        power_index=float(known.power_index),
        mode=known.mode.value,
    )


def _host_and_port(message: Message) -> tuple[str, int]:
    text = message.required("host")
    try:
        host, port = split_host(text)
    except ValueError as error:
        raise WireError(f"host= is wrong: {error}") from None
    return host, port or message.integer("port", DISTCCD_PORT, low=1, high=65535)


def _is_yes(message: Message, key: str) -> bool:
    """Whether a word that is `no` unless it is there says `yes`."""
    return _one_of(message, key, ("no", "yes")) == "yes"


def _one_of(message: Message, key: str, words: tuple[str, ...], *, required: bool = False) -> str:
    """Return a word's value, which is one of these, or empty where it is missing."""
    value = message.required(key) if required else message.text(key)
    if value and value not in words:
        raise WireError(f"{key}={value[:20]} is none of {', '.join(words)}")
    return value


def _load(message: Message) -> Load:
    distccd = _one_of(message, "distccd", ("running", "stopped", "gone"))
    number = message.number
    return Load(
        load_averages=(number("load1", 0.0), number("load5", 0.0), number("load15", 0.0)),
        own_averages=(number("own1", 0.0), number("own5", 0.0), number("own15", 0.0)),
        own_cpus=number("own_cpus", 0.0),
        foreign_cpus=number("foreign_cpus", 0.0),
        cpus=message.integer("cpus", 0, low=1, high=SLOTS_LIMIT) or None,
        memory_free_mb=message.optional_number("memory_free_mb"),
        memory_total_mb=message.optional_number("memory_total_mb"),
        compile_memory_mb=message.optional_number("compile_memory_mb"),
        compiles=_optional_integer(message, "compiles"),
        cpu_pressure=message.optional_number("cpu_pressure", high=1.0),
        distccd=distccd,
    )


def _optional_integer(message: Message, key: str) -> int | None:
    return message.integer(key, 0, high=SLOTS_LIMIT) if message.text(key) else None


def _outcome(message: Message) -> Outcome:
    return Outcome(
        exit=message.integer("exit", 0, high=255),
        failed=message.verb == "failed",
        wall_s=message.optional_number("wall_s", high=DAY_S),
        cpu_s=message.optional_number("cpu_s", high=DAY_S),
        reason=message.text("reason")[:200],
    )
