"""host-server: the farm on its four ports.

The thin shell around `farm.Farm`: it turns bytes and timers into events (`connections.py` does the
bytes) and performs effects. There is one thread and one loop, and nothing awaits between an event
and its effects. What this module must not do is decide where a compile runs; it does not even
look.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import ipaddress
import itertools
import logging
import math
import random
import resource
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

from compilefarm import __version__
from compilefarm.core.events import (
    AvailabilityChanged,
    BackUp,
    DrainEnded,
    DropBackup,
    EarlierLife,
    Effect,
    Event,
    Grant,
    HostNoted,
    HostProbed,
    HostsListed,
    LeaseEnded,
    Probe,
    Refuse,
    Revoke,
    TimePassed,
    Wait,
)
from compilefarm.core.farm.farm import Farm
from compilefarm.core.learning.learning import Learning
from compilefarm.core.placement.policies import POLICIES, make_policy
from compilefarm.core.placement.policy import Policy
from compilefarm.core.snapshot import Snapshot, snapshot_in_pieces
from compilefarm.programs.collector import settle_collector
from compilefarm.programs.command_line import OneLineParser
from compilefarm.programs.dead_peer import notice_dead_peer
from compilefarm.programs.key_file import KeyFileError, read_keys
from compilefarm.protocol.declaration import Declaration
from compilefarm.protocol.hosts_info import HostsInfoError, parse_hosts_info
from compilefarm.protocol.ports import BASE_PORT, HIGHEST_BASE_PORT, PORT_LABELS, Port
from compilefarm.protocol.wire import WireError
from compilefarm.server.access import (
    AllowedNetworks,
    Complaints,
    Counts,
    Network,
    is_loopback,
    is_own_machine,
    networks_by_port,
    parse_ip,
)
from compilefarm.server.connections import (
    LineConnection,
    LoadConnection,
    MonitorConnection,
    RequestConnection,
    StatusConnection,
)
from compilefarm.server.monitor.web import IDLE_S, application
from compilefarm.server.probe import PROBE_WITHIN_S, probe
from compilefarm.server.storage.record import Recorder, mend, recorded_until_s
from compilefarm.server.storage.state_file import StateError
from compilefarm.server.storage.write_behind import WriteBehind

# A waiting client hears from us this often, and takes three missed signs for our end.
SIGN_OF_LIFE_S = 5.0
SWEEP_S = 1.0
RESOLVE_WITHIN_S = 3.0
BACKLOG = 4096
# libuv accepts one connection of a listening socket in a turn of its loop, and under load a turn
# costs half as much again as the lease: so the loop watches the socket of the host requests several
# times over. Not many times: of a lone client's connection, all but one of them hear in vain.
ACCEPTS_PER_TURN = 8
ATTEMPTS = 200
# What one address may have: more than some make -j500 behind one router, and too little to keep all
# others out.
CONNECTIONS_PER_ADDRESS = 16_384
WAITING_PER_ADDRESS = 4096

log = logging.getLogger("host-server")


class HostServer:
    """One farm, its connections, and the loop's clock."""

    def __init__(
        self,
        policy: Policy,
        allowed: dict[str, AllowedNetworks],
        connections_per_address: int = CONNECTIONS_PER_ADDRESS,
        waiting_per_address: int = WAITING_PER_ADDRESS,
    ) -> None:
        self.farm = Farm(policy)
        self.allowed = allowed
        self.connections_of = Counts(connections_per_address)
        self.waiting_of = Counts(waiting_per_address)
        self.keys: tuple[bytes, ...] = ()
        self.requests: dict[int, RequestConnection] = {}
        self.reporters: dict[str, LoadConnection] = {}
        self.overdue_at: dict[LineConnection, float] = {}
        self.recorder: Recorder | None = None
        self.behind: WriteBehind | None = None
        self.base_port = 0
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self.life = secrets.token_hex(4)
        self._request_id = 0
        self._watcher_id = 0
        self._timer: asyncio.Handle | None = None
        self._timer_due = math.inf
        self._drains: dict[str, list[asyncio.Future[DrainEnded]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._complaints = Complaints()
        self._perform: dict[type, Callable[[Any], None]] = {
            Grant: self._grant,
            Wait: self._wait,
            Refuse: self._refuse,
            Revoke: self._revoke,
            BackUp: self._grant,
            DropBackup: self._drop_backup,
            Probe: self._probe,
            DrainEnded: self._drain_ended,
            HostNoted: self._host_noted,
            AvailabilityChanged: self._availability_changed,
            LeaseEnded: self._lease_ended,
        }

    # -- what connections use

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
            self._perform[type(effect)](effect)
        deadline = self.farm.next_deadline()
        if deadline is not None and deadline < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_due = deadline
            # A handle without a time where the deadline is over already, so it is kept apart.
            self._timer = self._loop.call_at(deadline, self._time_passed)

    async def address_of(
        self, host: str, port: int, sender: str, sent_to: str, proven: bool
    ) -> str:
        """Return the host's address if the sender may speak for it, else raise `WireError`."""
        known = self.farm.find(host, port)
        listed = known.listed if known is not None else None
        if listed is not None and listed.address is not None:
            addresses = [listed.address]
        else:
            addresses = await self._resolve(host)
        if sender in addresses:
            return sender
        if proven or is_own_machine(sender, sent_to):
            return addresses[0] if addresses else sender
        if not addresses:
            if listed is None:
                return sender
            why = f"the name {host}, listed in hosts-info, does not resolve; give it address="
        else:
            why = f"{sender} may not speak for {host}, which is {', '.join(addresses[:4])}"
        self.refused(sender, why)
        raise WireError(why)

    async def availability_is_kept(self) -> None:
        """Wait until what was said of hosts' availability survives us, if it is to."""
        if self.behind is not None:
            await self.behind.written()

    def drain_end(self, name: str) -> asyncio.Future[DrainEnded]:
        """Return what will be set when the drain of that host has ended."""
        end: asyncio.Future[DrainEnded] = self._loop.create_future()
        self._drains.setdefault(name, []).append(end)
        return end

    def refused(self, sender: str, what: str) -> None:
        """Log that a sender was refused, once per sender and minute."""
        if self._complaints.note(sender, self._loop.time()):
            log.warning("refused %s: %s", sender, what)

    # -- effects

    def _grant(self, effect: Grant | BackUp) -> None:
        lease = effect.lease
        connection = self.requests[lease.request.id]
        address = lease.host.address
        if is_loopback(address) and not is_loopback(connection.sender):
            # The host is this very machine: elsewhere it goes by the address that was connected to.
            address = connection.sent_to()
        connection.grant(lease, address)

    def _wait(self, effect: Wait) -> None:
        self.requests[effect.id].wait(effect.ahead)

    def _refuse(self, effect: Refuse) -> None:
        self.requests.pop(effect.id).send_last("refused", reason=effect.reason)

    def _revoke(self, effect: Revoke) -> None:
        connection = self.requests.pop(effect.id, None)
        if connection is not None:
            connection.send_last("revoked", reason=effect.reason)

    def _drop_backup(self, effect: DropBackup) -> None:
        connection = self.requests.get(effect.lease.id)
        if connection is not None:
            connection.drop(effect.lease, effect.reason)

    def _probe(self, effect: Probe) -> None:
        task = self._loop.create_task(self._probe_host(effect))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _drain_ended(self, effect: DrainEnded) -> None:
        for end in self._drains.pop(effect.name, []):
            if not end.done():
                end.set_result(effect)

    def _host_noted(self, effect: HostNoted) -> None:
        log.info("host %s: %s", effect.name, effect.text)

    def _availability_changed(self, effect: AvailabilityChanged) -> None:
        if self.behind is not None:
            self.behind.availability_changed(effect.name)

    def _lease_ended(self, effect: LeaseEnded) -> None:
        if self.recorder is None:
            return
        try:
            self.recorder.write(effect.lease, effect.outcome, effect.ended)
        except OSError as error:
            log.error("the record ends here: %s", error.strerror)
            self.recorder = None

    async def _probe_host(self, asked: Probe) -> None:
        found = await probe(asked.address, asked.port, asked.compiler)
        if found is None:
            self._loop.call_later(PROBE_WITHIN_S, self._probe, asked)
        else:
            self.happen(HostProbed(asked.name, found.answered, found.compiled))

    # -- time

    def _time_passed(self) -> None:
        self._timer = None
        self._timer_due = math.inf
        self.happen(TimePassed())

    async def keep_time(self) -> None:
        """Close what owes a line for too long, and give waiting clients signs of life; for ever."""
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
                log.warning("refused others, too: %d times", left_out)
            if now >= next_sign:
                next_sign = now + SIGN_OF_LIFE_S
                for number in list(self.farm.waiting):
                    self.requests[number].wait(self.farm.ahead(number))

    # -- hosts-info

    async def read_hosts_info(self, path: Path) -> int:
        """Read hosts-info and tell the farm; return how many hosts it lists.

        Raises `HostsInfoError` where a line is wrong, and OSError.
        """
        text = await asyncio.to_thread(path.read_text, errors="replace")
        declarations = parse_hosts_info(text, str(path))
        resolved = await asyncio.gather(*(self._with_address(each) for each in declarations))
        self.happen(HostsListed(tuple(resolved)))
        return len(resolved)

    async def _with_address(self, declaration: Declaration) -> Declaration:
        """Find the address of a host that is available from the start; others bring theirs."""
        if declaration.address is not None or not declaration.static:
            return declaration
        addresses = await self._resolve(declaration.host)
        if not addresses:
            log.warning("hosts-info: %s does not resolve; it is not used", declaration.host)
            return replace(declaration, static=False)
        return replace(declaration, address=addresses[0])

    async def _resolve(self, host: str) -> list[str]:
        with contextlib.suppress(ValueError):
            return [str(parse_ip(host))]
        try:
            async with asyncio.timeout(RESOLVE_WITHIN_S):
                found = await self._loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, UnicodeError):
            return []
        return list(dict.fromkeys(str(parse_ip(str(entry[4][0]))) for entry in found))

    # -- what monitors see

    def may_look(self, sender: str) -> bool:
        """Whether a sender may read the monitor port; who may not is logged."""
        allowed = bool(sender) and self.allowed["monitor"].allows(sender)
        if sender and not allowed:
            self.refused(sender, "its network is not allowed on the port monitor (--allow)")
        return allowed

    async def own_names(self) -> list[str]:
        """Return this machine's names as the name service has them."""
        own = socket.gethostname()
        try:
            async with asyncio.timeout(RESOLVE_WITHIN_S):
                found = await self._loop.getaddrinfo(own, None, flags=socket.AI_CANONNAME)
        except (OSError, TimeoutError, UnicodeError):
            return [own]
        return [own, *(entry[3] for entry in found if entry[3])]

    async def snapshot(self) -> Snapshot:
        """Return the farm's snapshot, with the server's own figures; the loop runs meanwhile."""
        self.happen(TimePassed())  # or ages would end with the latest event
        pieces = snapshot_in_pieces(self.farm)
        while True:
            try:
                next(pieces)
            except StopIteration as end:
                farm: Snapshot = end.value
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


def listening_sockets(addresses: list[str], base: int) -> tuple[int, list[list[socket.socket]]]:
    """Return the base port and, for each of the four ports, a socket for each address.

    A base of 0 is any at which four ports in a row are free. Raises OSError when a port is not.
    """
    if base:
        return base, _in_a_row(addresses, base)
    for attempt in range(ATTEMPTS):
        # Below the range from which systems take the ports of outgoing connections: there, on a
        # machine that builds all day, four in a row are hard to find.
        first = random.randrange(10_000, 32_000)
        try:
            return first, _in_a_row(addresses, first)
        except OSError:
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _in_a_row(addresses: list[str], first: int) -> list[list[socket.socket]]:
    ports: list[list[socket.socket]] = []
    try:
        for port in range(first, first + len(Port)):
            ports.append([])
            for address in addresses:
                ports[-1].append(_listening_socket(address, port))
    except OSError:
        for each in itertools.chain(*ports):
            each.close()
        raise
    return ports


def _listening_socket(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        notice_dead_peer(listener)
        listener.setblocking(False)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def all_addresses() -> list[str]:
    """Return what to bind to when nothing is said: all of IPv4, and of IPv6 where there is any."""
    try:
        _listening_socket("::", 0).close()
    except OSError:
        return ["0.0.0.0"]
    return ["0.0.0.0", "::"]


def raise_descriptor_limit() -> None:
    """Allow ourselves as many open connections as the system lets us have.

    The author of the 2004 system had to reboot his machine for want of this.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _network(text: str) -> tuple[str, Network]:
    port, equals, network = text.rpartition("=")
    if equals and port not in PORT_LABELS:
        raise argparse.ArgumentTypeError(f"{port!r} is none of the ports {', '.join(PORT_LABELS)}")
    try:
        return port, ipaddress.ip_network(network, strict=False)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{network!r} is no network such as 10.0.0.0/8") from None


def _at_least_one(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 10**9:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")


def _bind_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no IP address of this machine") from None


def _base_port(text: str) -> int:
    if text.isdecimal() and int(text) <= HIGHEST_BASE_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port at which four in a row can begin")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = OneLineParser(
        prog="host-server",
        description="Knows every CPU of a compile farm, and gives each compile one.",
    )
    parser.add_argument(
        "--port",
        type=_base_port,
        default=BASE_PORT,
        metavar="BASE",
        help="first of four ports in a row (default %(default)s; 0: any that are free)",
    )
    parser.add_argument(
        "--bind",
        type=_bind_address,
        action="append",
        metavar="ADDRESS",
        help="listen on this address; repeatable (default: all)",
    )
    parser.add_argument(
        "--hosts-info",
        type=Path,
        metavar="FILE",
        help="the list of machines; SIGHUP reads it again",
    )
    parser.add_argument(
        "--allow",
        type=_network,
        action="append",
        default=[],
        metavar="[PORT=]CIDR",
        help="serve this network, on all ports or on one alone: requests, reports, status or "
        "monitor; repeatable (default: loopback and private networks)",
    )
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="hosts must prove one of the keys in it, one a line; SIGHUP reads it again",
    )
    parser.add_argument(
        "--connections-per-address",
        type=_at_least_one,
        default=CONNECTIONS_PER_ADDRESS,
        metavar="N",
        help="what one address may have open at once (default %(default)s)",
    )
    parser.add_argument(
        "--waiting-per-address",
        type=_at_least_one,
        default=WAITING_PER_ADDRESS,
        metavar="N",
        help="requests of one address that may wait at once (default %(default)s)",
    )
    parser.add_argument(
        "--policy",
        choices=sorted(POLICIES),
        default="earliest",
        help="how a compile gets its CPU (default %(default)s)",
    )
    parser.add_argument(
        "--no-backups",
        dest="backups",
        action="store_false",
        help="begin no compile a second time on a faster CPU that has become idle",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="keep what is learned there (default: it is lost with the server)",
    )
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="write a CSV row for each compile, as it ends"
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="NAME",
        help="a name, with a dot in it, by which browsers may ask the monitor port; repeatable "
        "(default: this machine's own names)",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser.parse_args(arguments)


class StartError(Exception):
    """The server cannot start; the text says what, where, and what to do."""


async def serve(options: argparse.Namespace) -> None:
    """Run the server until SIGTERM or SIGINT; raises `StartError`."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    learning = Learning()
    policy = make_policy(options.policy, learning, random.Random(), backups=options.backups)
    server = HostServer(
        policy,
        networks_by_port(options.allow),
        options.connections_per_address,
        options.waiting_per_address,
    )
    if options.key_file is not None:
        try:
            server.keys = read_keys(options.key_file)
        except KeyFileError as error:
            raise StartError(str(error)) from None
    reload = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    async with contextlib.AsyncExitStack() as stack:
        if options.state_dir is not None:
            server.behind = await _recall(options.state_dir, learning, server.farm, stack)
        if options.hosts_info is not None:
            await _read_first(server, options.hosts_info)
        if server.behind is not None and server.behind.earlier_life is not None:
            server.happen(EarlierLife(server.behind.earlier_life))
        if options.record is not None:
            server.recorder = _recorder(options.record, server.now(), stack)
        base = server.base_port = await _listen(server, options, stack)
        works = [server.keep_time(), _reload_on_demand(server, options, reload)]
        if server.behind is not None:
            works.append(server.behind.keep())
        for work in works:
            stack.callback(loop.create_task(work).cancel)
        where = ", ".join(options.bind or ["all addresses"])
        print(f"host-server {__version__} listening on {where} port {base}", flush=True)
        settle_collector()
        await stop.wait()
        log.info("ends: %d compiles were running", len(server.farm.leases))


async def _listen(
    server: HostServer, options: argparse.Namespace, stack: contextlib.AsyncExitStack
) -> int:
    try:
        base, sockets = listening_sockets(options.bind or all_addresses(), options.port)
    except OSError as error:
        ports = f"port {options.port} to {options.port + max(Port)}" if options.port else "any port"
        where = f"{ports} of {', '.join(options.bind or ['all addresses'])}"
        raise StartError(
            f"cannot listen on {where}: {error.strerror}; see --port and --bind"
        ) from None
    loop = asyncio.get_running_loop()
    for protocol, listeners in zip(
        (RequestConnection, LoadConnection, StatusConnection), sockets[:3], strict=True
    ):
        if protocol is RequestConnection:
            listeners = [each.dup() for each in listeners * (ACCEPTS_PER_TURN - 1)] + listeners
        for listener in listeners:
            listening = await loop.create_server(
                partial(protocol, server), sock=listener, backlog=BACKLOG
            )
            stack.callback(listening.close)
    names = [*options.name, *await server.own_names()]
    runner = web.AppRunner(
        application(server.snapshot, server.may_look, names),
        access_log=None,
        handle_signals=False,
        keepalive_timeout=IDLE_S,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    http = runner.server
    assert http is not None, "it was set up"
    for listener in sockets[3]:
        listening = await loop.create_server(
            lambda: MonitorConnection(server, http()), sock=listener, backlog=BACKLOG
        )
        stack.callback(listening.close)
    return base


async def _read_first(server: HostServer, path: Path) -> None:
    try:
        count = await server.read_hosts_info(path)
    except HostsInfoError as error:
        raise StartError(str(error)) from None
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror}") from None
    log.info("%s lists %d hosts", path, count)


async def _recall(
    directory: Path, learning: Learning, farm: Farm, stack: contextlib.AsyncExitStack
) -> WriteBehind:
    """Learn again from what was kept; return what is to go on keeping it."""
    behind = WriteBehind(directory, learning, farm.availability)
    try:
        await behind.recall()
    except StateError as error:
        raise StartError(str(error)) from None
    stack.push_async_callback(behind.close)
    return behind


async def _reload_on_demand(
    server: HostServer, options: argparse.Namespace, demand: asyncio.Event
) -> None:
    path: Path | None = options.hosts_info
    while True:
        await demand.wait()
        demand.clear()
        if path is None and options.key_file is None:
            log.warning("SIGHUP: there is no hosts-info and no key file to read again")
        if options.key_file is not None:
            try:
                server.keys = read_keys(options.key_file)
                log.info("%s read again: %d keys", options.key_file, len(server.keys))
            except KeyFileError as error:
                log.error("the keys are kept as they were: %s", error)
        if path is not None:
            try:
                log.info("%s read again: %d hosts", path, await server.read_hosts_info(path))
            except HostsInfoError as error:
                log.error("hosts-info is kept as it was: %s", error)
            except OSError as error:
                log.error("hosts-info is kept as it was: cannot read %s: %s", path, error.strerror)


def _recorder(path: Path, started: float, stack: contextlib.AsyncExitStack) -> Recorder | None:
    """Return what writes the record; None, and a message, where the disk is full."""

    def close() -> None:
        # A row that finds no room was complained of when it was lost.
        with contextlib.suppress(OSError):
            file.close()

    try:
        mend(path)
        file = path.open("a", newline="", encoding="utf-8")
        stack.callback(close)
        return Recorder(file, started - recorded_until_s(path))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # as it is when the disk fills later
            log.error("no record is kept: cannot write %s: %s", path, error.strerror)
            return None
        raise StartError(f"cannot write {path}: {error.strerror}; see --record") from None


def main() -> int:
    """Run host-server; return its exit status."""
    options = parse_arguments()
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    raise_descriptor_limit()
    try:
        uvloop.run(serve(options))
    except StartError as error:
        print(f"host-server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
