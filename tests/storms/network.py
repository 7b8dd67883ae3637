"""The network: machines, the paths between them, and TCP connections that carry bytes.

As in the real world:

- The bytes of one connection arrive in order, but cut into other pieces than they were written in.
  Different connections overtake each other.
- When a process ends, the kernel closes its connections. A stopped process still has its
  connections accepted. A port without a listener refuses.
- A machine without power sends nothing. When it is back, it resets connections that it does not
  know.
- A path that is cut carries nothing. Once mended it delivers what was sent meanwhile, unless an end
  has given up by then (`NOTICED_WITHIN_S`, keep-alive and user timeout).

Not modelled are windows, full buffers (a client that never reads has its own test), routes and
names.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from .clock import Clock, Process

# Both ends notice a dead path within this time, and not before the next one.
NOTICED_WITHIN_S = 15.0
NOTICED_AFTER_S = 8.0
# The time within which lost data is sent again, after a path is mended.
SENT_AGAIN_WITHIN_S = 1.5
SPLIT_SHARE = 0.03
PORT_OF_CLIENTS = 40000

Factory = Callable[[], asyncio.Protocol]


class Machine:
    """A machine: an address, listening ports, and whether it has power."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.has_power = True
        self.listeners: dict[int, tuple[Process, Factory]] = {}
        self.endpoints: dict[Endpoint, None] = {}


class Endpoint(asyncio.Transport):
    """One end of a connection: the transport that a protocol writes to.

    `protocol` is None until the process has accepted the connection. `closed` is the process's
    view; data that was written before is still on its way. `vanished` means that the machine lost
    power, so nothing knows this end any more.
    """

    def __init__(self, network: Network, machine: Machine, process: Process, port: int) -> None:
        super().__init__()
        self.network = network
        self.machine = machine
        self.process = process
        self.port = port
        self.peer: Endpoint
        self.protocol: asyncio.Protocol | None = None
        self.established = False
        self.closed = False
        self.vanished = False
        self.stalled = False  # the data that it sends is held back
        self.held: list[tuple[str, bytes]] = []
        self.last_arrival = 0.0
        self._paused: list[tuple[str, bytes]] | None = None
        machine.endpoints[self] = None

    # -- asyncio's interface of a transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peername":
            return (self.peer.machine.address, self.peer.port)
        if name == "sockname":
            return (self.machine.address, self.port)
        return default

    def write(self, data: Any) -> None:
        if self.closed or not self.process.alive:
            return
        if self.network.splits(len(data)):
            half = len(data) // 2
            self.network.carry(self, "data", bytes(data[:half]))
            data = data[half:]
        self.network.carry(self, "data", bytes(data))

    def close(self) -> None:
        self._end("fin")

    def abort(self) -> None:
        self._end("reset")

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self.closed and self.process.alive:
            self.network.carry(self, "fin", b"")

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        if self._paused is None:
            self._paused = []

    def resume_reading(self) -> None:
        paused, self._paused = self._paused, None
        for kind, data in paused or ():
            self.receive(kind, data)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self.protocol is not None
        return self.protocol

    # -- for the network and the kernel

    def receive(self, kind: str, data: bytes) -> None:
        """Receive data, in the process that has this end."""
        if self.closed or self.protocol is None:
            return
        if kind == "reset":
            self.lose(ConnectionResetError())
        elif self._paused is not None:
            self._paused.append((kind, data))
        elif kind == "data":
            self.protocol.data_received(data)
        elif not self.protocol.eof_received():
            self.close()

    def lose(self, error: Exception) -> None:
        """Lose the connection, in the process that has this end."""
        if not self.closed:
            self._close()
            if self.protocol is not None:
                self.protocol.connection_lost(error)

    def vanish(self) -> None:
        """Disappear, with all data on its way."""
        self.closed = self.vanished = True
        self.held.clear()
        self.machine.endpoints.pop(self, None)

    def hang_up(self) -> None:
        """Be closed by the kernel, because the program has ended."""
        if not self.closed:
            self._close()
            self.network.carry(self, "fin", b"")

    def _end(self, kind: str) -> None:
        if not self.closed and self.process.alive:
            self._close()
            self.network.carry(self, kind, b"")
            if self.protocol is not None:
                self.process.call_soon(self.protocol.connection_lost, None)

    def _close(self) -> None:
        self.closed = True
        if not self.held:
            self.machine.endpoints.pop(self, None)


class Network:
    """All machines, and the state of every path between two of them."""

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        self.clock = clock
        self.chance = chance
        self.machines: dict[str, Machine] = {}  # by address
        self.delay_s = (0.0001, 0.002)
        self._cut: dict[frozenset[str], int] = {}  # number of cuts, by the addresses of both ends
        self._kernel = Process(clock, "network")
        self._ports = PORT_OF_CLIENTS

    def machine(self, name: str, address: str) -> Machine:
        """Return a new machine."""
        machine = self.machines[address] = Machine(name, address)
        return machine

    def process(self, name: str, machine: Machine) -> Process:
        """Return a new process on a machine, which can connect from there."""

        async def connect(
            process: Process, factory: Callable[[], Any], address: str, port: int
        ) -> tuple[Endpoint, asyncio.BaseProtocol]:
            opened: asyncio.Future[None] = process.create_future()
            protocol = factory()
            endpoint = self.connect(process, machine, address, port, _Opening(protocol, opened))
            try:
                await opened
            except asyncio.CancelledError:
                endpoint.abort()
                raise
            endpoint.set_protocol(protocol)
            protocol.connection_made(endpoint)
            return endpoint, protocol

        return Process(self.clock, name, connect)

    # -- connections

    def connect(
        self,
        process: Process,
        machine: Machine,
        address: str,
        port: int,
        protocol: asyncio.Protocol,
    ) -> Endpoint:
        """Begin to connect; the protocol gets `connection_made` or `connection_lost`."""
        self._ports = PORT_OF_CLIENTS + (self._ports + 1 - PORT_OF_CLIENTS) % 20000
        near = Endpoint(self, machine, process, self._ports)
        far = Endpoint(self, self.machines[address], self._kernel, port)
        near.peer, far.peer = far, near
        near.protocol = protocol
        self.carry(near, "syn", b"")
        return near

    def splits(self, length: int) -> bool:
        """Return whether to split data of this length in two pieces."""
        return length > 1 and self.chance.random() < SPLIT_SHARE

    def carry(self, source: Endpoint, kind: str, data: bytes) -> None:
        """Send something; what one end sends arrives in order."""
        least_s, most_s = self.delay_s
        skewed = self.chance.random() ** 3  # mostly near 0
        arrival = max(source.last_arrival, self.clock.now + least_s + (most_s - least_s) * skewed)
        source.last_arrival = arrival
        self._kernel.call_at(arrival, self._arrive, source, kind, data)

    def _arrive(self, source: Endpoint, kind: str, data: bytes) -> None:
        if source.vanished:
            return
        dest = source.peer
        if source.held or source.stalled or self.is_dead(source.machine, dest.machine):
            source.held.append((kind, data))
            source.machine.endpoints[source] = None
        elif kind == "syn":
            self._accept(dest)
        elif kind == "syn-ack":
            if not dest.closed and dest.protocol is not None:
                dest.established = True
                dest.process.enter(dest.protocol.connection_made, dest)
        elif not dest.closed and dest.process.alive:
            dest.process.enter(dest.receive, kind, data)
        elif kind == "data":
            self._reset(source)

    def _accept(self, far: Endpoint) -> None:
        """Let a kernel accept a connection for a process that listens."""
        process, factory = far.machine.listeners.get(far.port, (None, None))
        if process is None or factory is None or far.vanished:
            far.vanish()
            self._reset(far.peer, ConnectionRefusedError())
            return
        far.process = process
        far.established = True
        self.carry(far, "syn-ack", b"")
        process.enter(self._begin, far, factory)

    def _begin(self, far: Endpoint, factory: Factory) -> None:
        if not far.closed:
            far.protocol = factory()
            far.protocol.connection_made(far)

    def _reset(self, endpoint: Endpoint, error: Exception | None = None) -> None:
        """Reset an end, because the other does not know the connection."""
        endpoint.process.enter(endpoint.lose, error or ConnectionResetError())

    # -- faults

    def is_dead(self, one: Machine, other: Machine) -> bool:
        """Return whether nothing gets from one machine to the other."""
        if not (one.has_power and other.has_power):
            return True
        return bool(self._cut) and frozenset((one.address, other.address)) in self._cut

    def end_process(self, process: Process, machine: Machine) -> None:
        """Kill a process; the kernel closes its connections and ports."""
        process.kill()
        for port in [port for port, (owner, _) in machine.listeners.items() if owner is process]:
            del machine.listeners[port]
        for endpoint in list(machine.endpoints):
            if endpoint.process is process:
                endpoint.hang_up()

    def power_off(self, machine: Machine) -> None:
        """Cut a machine's power: it sends nothing, and forgets everything.

        The caller must kill its processes.
        """
        machine.has_power = False
        machine.listeners.clear()
        for endpoint in list(machine.endpoints):
            endpoint.vanish()
            self._expect_notice(endpoint.peer)

    def power_on(self, machine: Machine) -> None:
        """Restore a machine's power."""
        machine.has_power = True
        self._send_again()

    def cut(self, one: Machine, other: Machine) -> None:
        """Let nothing pass between two machines."""
        path = frozenset((one.address, other.address))
        self._cut[path] = self._cut.get(path, 0) + 1
        for endpoint in list(one.endpoints):
            if endpoint.peer.machine is other:
                self._expect_notice(endpoint)
                self._expect_notice(endpoint.peer)

    def mend(self, one: Machine, other: Machine) -> None:
        """Undo one cut."""
        path = frozenset((one.address, other.address))
        self._cut[path] -= 1
        if not self._cut[path]:
            del self._cut[path]
            self._send_again()

    def stall(self, endpoint: Endpoint, for_s: float) -> None:
        """Hold back the data that one end sends, for a time."""
        endpoint.stalled = True
        self._kernel.call_later(for_s, self._resume, endpoint)

    def break_connection(self, endpoint: Endpoint) -> None:
        """Reset a connection at both ends, as a middlebox does that lost its state."""
        for end in (endpoint, endpoint.peer):
            self._reset(end)

    def _resume(self, endpoint: Endpoint) -> None:
        endpoint.stalled = False
        self._send_again_from(endpoint)

    def _expect_notice(self, endpoint: Endpoint) -> None:
        if not endpoint.closed:
            wait_s = self.chance.uniform(NOTICED_AFTER_S, NOTICED_WITHIN_S)
            self._kernel.call_later(wait_s, self._notice, endpoint)

    def _notice(self, endpoint: Endpoint) -> None:
        """Act on keep-alive's result: the peer is dead, or does not know the connection."""
        if self.is_dead(endpoint.machine, endpoint.peer.machine):
            endpoint.process.enter(endpoint.lose, TimeoutError())
        elif endpoint.peer.vanished and endpoint.established:
            self._reset(endpoint)

    def _send_again(self) -> None:
        for machine in self.machines.values():
            for endpoint in list(machine.endpoints):
                if endpoint.held and not endpoint.stalled:
                    wait_s = self.chance.uniform(0.0, SENT_AGAIN_WITHIN_S)
                    self._kernel.call_later(wait_s, self._send_again_from, endpoint)

    def _send_again_from(self, endpoint: Endpoint) -> None:
        if endpoint.stalled or self.is_dead(endpoint.machine, endpoint.peer.machine):
            return
        held, endpoint.held = endpoint.held, []
        for kind, data in held:  # at once, because later data may be on its way
            self._arrive(endpoint, kind, data)
        if endpoint.closed:
            endpoint.machine.endpoints.pop(endpoint, None)


class _Opening(asyncio.Protocol):
    """Tells a waiting coroutine that its connection is there, or will not be."""

    def __init__(self, protocol: asyncio.BaseProtocol, opened: asyncio.Future[None]) -> None:
        self._opened = opened
        self._protocol = protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._opened.done():
            self._opened.set_exception(exc or ConnectionAbortedError())
