"""What monitors see of a farm: one JSON-ready value, made in pieces.

A snapshot of thousands of hosts takes tens of milliseconds, and in the server compiles wait
meanwhile; so it is made some hosts at a time, and whoever asked lets others have their turn
between. Each host's part is true of one moment, the whole is of a few: a lease that moves in
between may show twice or not at all, which a monitor that looks every second can bear. To stop
the farm for a picture of one moment, or to copy it first, would cost what this is to avoid.

This module reads the books and must not change them.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from compilefarm.core.farm.farm import Farm
from compilefarm.core.model import Host, Request
from compilefarm.core.placement.policy import HostUse

Snapshot = dict[str, Any]
Pieces = Generator[None, None, Snapshot]

# Hosts or requests at once: about a millisecond.
PIECE = 100


def take_snapshot(farm: Farm) -> Snapshot:
    """Return all that monitors show, as JSON-ready values; times are ages in seconds."""
    return whole(snapshot_in_pieces(farm))


def whole(pieces: Pieces) -> Snapshot:
    """Return what a snapshot made in pieces comes to, without a pause."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            snapshot: Snapshot = end.value
            return snapshot


def snapshot_in_pieces(farm: Farm) -> Pieces:
    """Yield between pieces, and return all that monitors show; times are ages in seconds."""
    hosts: list[dict[str, Any]] = []
    for number, host in enumerate(list(farm.hosts.values()), 1):
        if farm.hosts.get(host.name) is host:  # else it was forgotten since we began
            hosts.append(_host(farm, host))
        if number % PIECE == 0:
            yield
    requests: list[dict[str, Any]] = []
    for number, request in enumerate(list(farm.waiting.values()), 1):
        requests.append(_request(farm, request))
        if number % PIECE == 0:
            yield
    return {
        "policy": farm.policy.name,
        "hosts": hosts,
        "requests": requests,
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


def _request(farm: Farm, request: Request) -> dict[str, Any]:
    return {
        "id": request.id,
        "user": request.user,
        "builder": request.builder,
        "source": request.source,
        "type": request.type,
        "compiler": request.compiler,
        "avoid": sorted(request.avoid),
        "waited_s": round(farm.now - request.arrived, 3),
    }


def _reason(host: Host, use: HostUse) -> str:
    """Return why a host, or a part of it, is not in use as it was declared."""
    reasons = [host.reason or use.reason]
    if host.strays and host.attach_until is not None:
        reasons.append("it has returned, and its leases may not all be back yet")
    elif host.strays:
        reasons.append(f"{host.strays} compiles run there without a lease of ours")
    return "; ".join(filter(None, reasons))


def _slots_free(host: Host, use: HostUse) -> int:
    """Return how many free slots of a host that is in use a compile could have now."""
    if use.slots is None:
        return len(host.free)
    return min(len(host.free), max(0, use.slots - host.in_use))


def _host(farm: Farm, host: Host) -> dict[str, Any]:
    use = farm.policy.use_of(host)
    load = host.load
    usable = host.up and use.tier is not None
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
        "state": "busy" if host.up and not usable else host.state.value,
        "tier": use.tier,
        "reason": _reason(host, use),
        "mode": host.mode.value,
        "owner_present_s": None
        if host.owner_since is None
        else round(farm.now - host.owner_since, 1),
        "compiles": host.compiles,
        "failures": host.failures,
        "load": load
        and {
            "age_s": round(farm.now - (host.load_at or farm.now), 3),
            "cpus": load.cpus,
            "load_averages": list(load.load_averages),
            "foreign_averages": [round(average, 2) for average in load.foreign_averages],
            "own_cpus": load.own_cpus,
            "foreign_cpus": load.foreign_cpus,
            "memory_free_mb": load.memory_free_mb,
            "memory_total_mb": load.memory_total_mb,
            "cpu_pressure": load.cpu_pressure,
            "distccd": load.distccd,
        },
        "leases": [
            {
                "id": lease.id,
                "slot": lease.slot,
                "user": lease.request.user,
                "builder": lease.request.builder,
                "source": lease.request.source,
                "backup": lease.is_backup,
                "running_s": round(farm.now - lease.granted, 3),
            }
            for lease in sorted(host.leases.values(), key=lambda lease: lease.slot)
        ],
    }
