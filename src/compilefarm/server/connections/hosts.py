"""The ports of reports and status: the connections that speak for hosts.

In a farm with a key, a sender must prove the key before it speaks for a host. Without one, a sender
speaks for its own address only, and host-server's own machine for all (`server/addresses.py`).

A load reporter's connection stays open: its end is the first sign that a host is gone. A watcher's
connection stays open too: what the watcher reported counts until its end.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Coroutine
from typing import Any

from compilefarm.core.events import (
    CompilersReported,
    HostAdded,
    HostDrained,
    HostRemoved,
    LoadReported,
    OwnerReported,
    ReportsEnded,
    WatcherEnded,
)
from compilefarm.core.model import Load
from compilefarm.protocol.address import host_name
from compilefarm.protocol.compilers import COMPILERS_LIMIT, CompilerInfo, compiler_of
from compilefarm.protocol.hosts_info import SLOTS_LIMIT
from compilefarm.protocol.key import NONCE, key_proven, proof
from compilefarm.protocol.wire import Message, WireError
from compilefarm.server.addresses import address_spoken_for
from compilefarm.server.connections.lines import LineConnection
from compilefarm.server.connections.message_fields import (
    DAY_S,
    YEAR_S,
    declaration_of,
    host_and_port_of,
    is_yes,
    load_of,
    one_of,
    wrong_verb,
)
from compilefarm.server.host_server import HostServer


class HostConnection(LineConnection):
    """A connection that speaks for hosts; in a farm with a key, only after a proof of the key.

    `protocol/key.py` has the proof. A wrong proof closes the connection.
    """

    def __init__(self, server: HostServer) -> None:
        super().__init__(server)
        self._nonce = ""
        self._proven = False

    def act(self, message: Message) -> Coroutine[Any, Any, None] | None:
        """Act on a message of a sender that has proved the key, if there is one.

        The rest is as in `LineConnection.take`.
        """
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
            raise WireError("this farm has a key, and its proof must come first: use --key-file")
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
        """Return the address of a host; raises `WireError` if the client may not speak for it."""
        known = self._server.farm.find(host, port)
        return await address_spoken_for(
            host,
            None if known is None else known.listed,
            sender=self.sender,
            sent_to=self.sent_to(),
            proven=self._proven,
        )

    async def add(self, message: Message, *, by_hand: bool) -> None:
        """Bring a host into the farm, and answer how it is used there.

        What is added `by_hand` is saved before the answer. A load reporter would add it again.
        """
        host, port = host_and_port_of(message)
        declaration = declaration_of(message, host, port)
        address = await self.address_of(host, port)
        returning = is_yes(message, "returning")
        has_agent = not by_hand and is_yes(message, "compiler_ids")
        self._server.happen(HostAdded(declaration, address, returning, has_agent))
        if by_hand:
            await self._server.availability_saved()
        known = self._server.farm.find(host, port)
        if known is None or not known.added or known.drain_until is not None:
            name = host_name(host, port) if known is None else known.name
            self.send("ok", host=name, slots=0, available="no")
            return
        self.send(
            "ok",
            host=known.name,
            slots=known.capacity,
            power_index=float(known.power_index),
            mode=known.mode.value,
        )


class LoadConnection(HostConnection):
    """A load reporter's connection. Its end shows that the reporter is gone."""

    port = "reports"

    def __init__(self, server: HostServer) -> None:
        super().__init__(server)
        self._names: set[str] = set()
        self._addresses: dict[tuple[str, int], str] = {}
        # By host and port: the compilers in its latest list, and those that came since, by id.
        self._compilers: dict[tuple[str, int], tuple[CompilerInfo, ...]] = {}
        self._coming: dict[tuple[str, int], dict[str, CompilerInfo]] = {}

    def act(self, message: Message) -> Coroutine[Any, Any, None] | None:
        """See `HostConnection`."""
        match message.verb:
            case "add":
                return self.add(message, by_hand=False)
            case "load":
                return self._load(message)
            case "compiler":
                self._compiler(message)
            case "compilers":
                self._compilers_are_complete(message)
            case _:
                raise wrong_verb(message)
        return None

    def ended(self) -> None:
        """See `LineConnection`. A host that has a newer reporter is not affected."""
        for host in {*self._compilers, *self._coming}:
            self._let_go(self._compilers.get(host, ()))
            self._let_go(self._coming.get(host, ()))
        for name in self._names:
            if self._server.reporters.get(name) is self:
                del self._server.reporters[name]
                self._server.happen(ReportsEnded(name))

    # -- load reports

    def _load(self, message: Message) -> Coroutine[Any, Any, None] | None:
        host, port = host_and_port_of(message)
        load = load_of(message)
        address = self._addresses.get((host, port))
        if address is None:
            has_agent = is_yes(message, "compiler_ids")
            return self._begin(host, port, load, is_yes(message, "returning"), has_agent)
        self._report(LoadReported(host, port, address, load))
        return None

    async def _begin(
        self, host: str, port: int, load: Load, returning: bool, has_agent: bool
    ) -> None:
        if len(self._addresses) >= SLOTS_LIMIT:
            raise WireError("too many hosts on one connection")
        address = await self.address_of(host, port)
        self._addresses[host, port] = address
        known = self._server.farm.find(host, port)
        if (
            known is not None
            and known.agent_compilers is not None
            and not has_agent
            and known.name not in self._server.reporters
        ):
            self._server.happen(CompilersReported(known.name, None))
        self._report(LoadReported(host, port, address, load, returning, has_agent))
        self.send("ok", compiler_ids="yes" if has_agent else None)

    def _report(self, report: LoadReported) -> None:
        self._server.happen(report)
        known = self._server.farm.find(report.host, report.port)
        if known is None:
            return
        if self._server.reporters.get(known.name) is not self:
            self._server.reporters[known.name] = self
            self._names.add(known.name)
        compilers = self._compilers.get((report.host, report.port))
        if compilers is not None and (known.agent_compilers is None or known.compilers_awaited):
            # The farm has forgotten the host meanwhile, or its compilers.
            self._server.happen(CompilersReported(known.name, compilers))

    # -- compilers

    def _compiler(self, message: Message) -> None:
        """Keep a compiler until the list is complete."""
        host = self._known_host_of(message)
        compiler = compiler_of(message)
        coming = self._coming.setdefault(host, {})
        if compiler.id in coming:
            raise WireError(f"id={compiler.id} is given twice")
        if len(coming) >= COMPILERS_LIMIT:
            raise WireError(f"a host has at most {COMPILERS_LIMIT} compilers")
        if self._server.compilers_of.full(self.sender):
            limit = self._server.compilers_of.limit
            raise WireError(f"{self.sender} has reported {limit} compilers already")
        self._server.compilers_of.add(self.sender)
        coming[compiler.id] = compiler

    def _compilers_are_complete(self, message: Message) -> None:
        """Let the compilers that came be the host's, in place of those before."""
        host = self._known_host_of(message)
        message.required("count")
        count = message.integer("count", 0)
        compilers = tuple(self._coming.get(host, {}).values())
        if count != len(compilers):
            raise WireError(f"count={count}, but {len(compilers)} compilers came before it")
        self._coming.pop(host, None)
        self._let_go(self._compilers.get(host, ()))
        self._compilers[host] = compilers
        known = self._server.farm.find(*host)
        if known is not None:
            self._server.happen(CompilersReported(known.name, compilers))

    def _known_host_of(self, message: Message) -> tuple[str, int]:
        """Return the host that a message is about; the sender may speak for it."""
        host = host_and_port_of(message)
        if host not in self._addresses:
            raise WireError(f"{message.verb} must come after the host's first load")
        return host

    def _let_go(self, compilers: Collection[object]) -> None:
        """Count compilers no more that this connection reported."""
        if compilers:
            self._server.compilers_of.drop(self.sender, len(compilers))


class StatusConnection(HostConnection):
    """A connection that changes a host's availability, or a watcher's about a host's owner."""

    port = "status"

    def __init__(self, server: HostServer) -> None:
        super().__init__(server)
        self._watcher_id = server.new_watcher_id()
        self._watched: dict[tuple[str, int], tuple[str, str]] = {}  # name and address

    def act(self, message: Message) -> Coroutine[Any, Any, None] | None:
        """See `HostConnection`."""
        match message.verb:
            case "add":
                return self.add(message, by_hand=True)
            case "remove":
                return self._remove(message)
            case "drain":
                return self._drain(message)
            case "owner":
                return self._owner(message)
            case "networks":
                self.send("ok", networks=self._server.allowed["requests"].networks)
                return None
        raise wrong_verb(message)

    async def _remove(self, message: Message) -> None:
        host, port = host_and_port_of(message)
        await self.address_of(host, port)
        known = self._server.farm.find(host, port)
        was_available = known is not None and known.added
        self._server.happen(HostRemoved(host, port))
        await self._server.availability_saved()
        self.send("ok", known="yes" if was_available else "no")

    async def _drain(self, message: Message) -> None:
        host, port = host_and_port_of(message)
        grace_s = message.number("grace_s", 60.0, high=DAY_S)
        await self.address_of(host, port)
        known = self._server.farm.find(host, port)
        if known is None or not known.added:
            # There is nothing to wait for. But after a restart, the host must not return by itself.
            self._server.happen(HostRemoved(host, port))
            await self._server.availability_saved()
            self.send("ok", leases=0)
            return
        self.send("draining", leases=len(known.leases))
        end = self._server.drain_end(known.name)
        self._server.happen(HostDrained(host, port, grace_s))
        await self._server.availability_saved()
        drain = await end
        if drain.reason:
            raise WireError(f"{known.name} is not drained: {drain.reason}")
        self.send("ok", leases=drain.revoked)

    async def _owner(self, message: Message) -> None:
        host, port = host_and_port_of(message)
        present = one_of(message, "state", ("present", "absent"), required=True) == "present"
        since_s = message.number("since_s", 0.0, high=YEAR_S)
        revoke = is_yes(message, "revoke")
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
