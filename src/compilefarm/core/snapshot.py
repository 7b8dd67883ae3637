"""The snapshot of a farm that monitors show: one JSON-ready value, made in pieces.

A snapshot of thousands of hosts takes tens of milliseconds, and in the server compiles wait
meanwhile. So it is made a few hosts at a time, and the caller lets others run between the pieces.
Each host's part is true at one moment, and the whole within a few. A lease that moves in between
may show twice or not at all; that does no harm to a monitor that looks every second.

Rejected: to stop the farm for a snapshot of one moment, or to copy it first. Both take the time
that the pieces avoid.

This module reads the farm and must not change it. `protocol/farm_json.py` has the types.
"""

from __future__ import annotations

from collections.abc import Generator

from compilefarm.core.farm.farm import Farm
from compilefarm.core.model import Host, Lease, Load, Request
from compilefarm.core.placement.policy import HostUse
from compilefarm.protocol.compilers import CompilerInfo
from compilefarm.protocol.farm_json import (
    CompilerSnapshot,
    FarmSnapshot,
    HostSnapshot,
    LeaseSnapshot,
    LoadSnapshot,
    RequestSnapshot,
)

Pieces = Generator[None, None, FarmSnapshot]

# Hosts or requests in one piece: about a millisecond.
PIECE = 100


def take_snapshot(farm: Farm) -> FarmSnapshot:
    """Return a snapshot of the farm, made without a pause."""
    return whole(snapshot_in_pieces(farm))


def whole(pieces: Pieces) -> FarmSnapshot:
    """Return the snapshot that `pieces` makes, without a pause."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            snapshot: FarmSnapshot = end.value
            return snapshot


def snapshot_in_pieces(farm: Farm) -> Pieces:
    """Yield between pieces, and return a snapshot of the farm."""
    hosts: list[HostSnapshot] = []
    for number, host in enumerate(list(farm.hosts.values()), 1):
        if farm.hosts.get(host.name) is host:  # not forgotten since we began
            hosts.append(_host(farm, host))
        if number % PIECE == 0:
            yield
    compilers = _Compilers(farm)
    for number, host in enumerate(list(farm.hosts.values()), 1):
        compilers.add(host)
        if number % PIECE == 0:
            yield
    requests: list[RequestSnapshot] = []
    for number, request in enumerate(list(farm.waiting.values()), 1):
        requests.append(_request(farm, request))
        if number % PIECE == 0:
            yield
    return {
        "policy": farm.policy.name,
        "hosts": hosts,
        "requests": requests,
        "compilers": compilers.snapshots(),
        "totals": {
            "hosts": len(hosts),
            "hosts_up": sum(host["state"] == "up" for host in hosts),
            "slots": sum(host["slots"] for host in hosts if host["state"] == "up"),
            "slots_in_use": sum(host["slots_in_use"] for host in hosts),
            "slots_free": sum(host["slots_free"] for host in hosts),
            "requests_waiting": len(requests),
            "strays": sum(host["strays"] for host in hosts),
            "leases_granted": farm.totals.granted,
            "leases_attached": farm.totals.attached,
            "requests_refused": farm.totals.refused,
            "leases_revoked": farm.totals.revoked,
            "leases_failed": farm.totals.failed,
            "backups_begun": farm.totals.backed_up,
            "backups_first": farm.totals.overtaken,
        },
    }


class _Compilers:
    """Counts hosts and slots by compiler; hosts of one kind are counted together."""

    def __init__(self, farm: Farm) -> None:
        self._asked = farm.demand.asked
        self._kinds: dict[tuple[CompilerInfo, ...], dict[frozenset[str], list[int]]] = {}

    def add(self, host: Host) -> None:
        """Count one host."""
        if host.agent_compilers:
            doors = self._kinds.setdefault(host.agent_compilers, {})
            counts = doors.setdefault(host.closed_doors, [0, 0])
            counts[0] += 1
            counts[1] += host.slots if host.up else 0

    def snapshots(self) -> list[CompilerSnapshot]:
        """Return the compilers that were counted, and those that builders asked for."""
        found = {each.compiler.id: _compiler(each.compiler) for each in self._asked.values()}
        for compilers, doors in self._kinds.items():
            for closed, (hosts, slots) in doors.items():
                for compiler in compilers:
                    known = found.setdefault(compiler.id, _compiler(compiler))
                    is_closed = compiler.id in closed
                    known["hosts"] += hosts
                    known["hosts_closed"] += hosts if is_closed else 0
                    known["slots"] += 0 if is_closed else slots
        for id, asked in self._asked.items():
            found[id]["requests_granted"] = asked.granted
            found[id]["requests_refused"] = asked.refused
        return sorted(found.values(), key=lambda each: (each["name"], each["text"], each["id"]))


def _compiler(compiler: CompilerInfo) -> CompilerSnapshot:
    return {
        "id": compiler.id,
        "name": compiler.name,
        "version": compiler.version,
        "target": compiler.target,
        "text": compiler.text,
        "hosts": 0,
        "slots": 0,
        "hosts_closed": 0,
        "requests_granted": 0,
        "requests_refused": 0,
    }


def _request(farm: Farm, request: Request) -> RequestSnapshot:
    return {
        "id": request.id,
        "user": request.user,
        "builder": request.builder,
        "source": request.source,
        "type": request.type,
        "compiler": request.compiler,
        "compiler_id": "" if request.identity is None else request.identity.id,
        "avoid": sorted(request.avoid),
        "waited_s": round(farm.now - request.arrived, 3),
    }


def _host(farm: Farm, host: Host) -> HostSnapshot:
    use = farm.policy.use_of(host)
    usable = host.up and use.tier is not None
    since = host.owner_since
    return {
        "name": host.name,
        "address": host.address,
        "port": host.port,
        "capacity": host.capacity,
        "slots": host.slots,
        "slots_in_use": host.in_use,
        "strays": host.strays,
        "slots_free": _slots_free(host, use) if usable else 0,
        "power_index": host.power_index,
        "types": sorted(host.types),
        "compilers": sorted(host.compilers),
        "lacks": sorted(host.lacks),
        "compiler_ids": None if host.agent_compilers is None else len(host.agent_compilers),
        "closed_doors": sorted(
            compiler.door
            for compiler in host.agent_compilers or ()
            if compiler.id in host.closed_doors
        ),
        "state": "busy" if host.up and not usable else host.state.value,
        "tier": use.tier,
        "reason": _reason(host, use),
        "mode": host.mode.value,
        "owner_present_s": None if since is None else round(farm.now - since, 1),
        "compiles": host.compiles,
        "failures": host.failures,
        "load": None if host.load is None else _load(farm, host, host.load),
        "leases": [
            _lease(farm, lease)
            for lease in sorted(host.leases.values(), key=lambda lease: lease.slot)
        ],
    }


def _slots_free(host: Host, use: HostUse) -> int:
    """Return the number of slots that a compile could have now, on a host in use."""
    if use.slots is None:
        return len(host.free)
    return min(len(host.free), max(0, use.slots - host.in_use))


def _reason(host: Host, use: HostUse) -> str:
    """Return why a host, or a part of it, is not used as declared; empty if it is."""
    reasons = [host.reason or use.reason]
    if host.strays and host.attach_until is not None:
        reasons.append("it has returned, and its leases may not all be back yet")
    elif host.strays:
        reasons.append(f"{host.strays} compiles run there without a lease of this server")
    return "; ".join(filter(None, reasons))


def _load(farm: Farm, host: Host, load: Load) -> LoadSnapshot:
    reported_at = farm.now if host.load_at is None else host.load_at
    return {
        "age_s": round(farm.now - reported_at, 3),
        "cpus": load.cpus,
        "load_averages": list(load.load_averages),
        "foreign_averages": [round(average, 2) for average in load.foreign_averages],
        "own_cpus": load.own_cpus,
        "foreign_cpus": load.foreign_cpus,
        "memory_free_mb": load.memory_free_mb,
        "memory_total_mb": load.memory_total_mb,
        "cpu_pressure": load.cpu_pressure,
        "distccd": load.distccd,
    }


def _lease(farm: Farm, lease: Lease) -> LeaseSnapshot:
    return {
        "id": lease.id,
        "slot": lease.slot,
        "user": lease.request.user,
        "builder": lease.request.builder,
        "source": lease.request.source,
        "backup": lease.is_backup,
        "running_s": round(farm.now - lease.granted, 3),
    }
