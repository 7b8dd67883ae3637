"""The promises of the farm's books, asserted. Tests, storms and the simulator's tests call this.

  - A slot is free, or has exactly one lease, or is in use by a stray. A lease has exactly one slot.
  - A backup is a second lease of a request that has one, on another host. It ends with the first.
  - Nothing is free on a host that has as many leases and strays as slots.
  - A request waits, or has a lease, or is unknown.
  - A host's state and reason follow from its facts.
  - A lease that was granted for a compiler is on a host that has this compiler.

It reads the farm's records and changes nothing. One check costs as much as the farm is large.
"""

from __future__ import annotations

from collections.abc import Mapping

from compilefarm.core.host_state import state_of
from compilefarm.core.model import Host, Lease, Request


def check_hosts(hosts: Mapping[str, Host], now: float) -> None:
    """Assert what holds for each host by itself; raises AssertionError."""
    for name, host in hosts.items():
        assert host.name == name, f"{name}: another name"
        taken = [lease.slot for lease in host.leases.values()]
        assert len(set(taken)) == len(taken), f"{name}: a slot has two leases"
        assert not set(taken) & set(host.free), f"{name}: a leased slot is free"
        assert set(host.free) <= set(range(host.slots)), f"{name}: too high a slot is free"
        left = max(0, host.slots - host.in_use)
        assert len(host.free) == left, f"{name}: a slot is lost, or free and in use"
        assert len(host.free) == len(set(host.free)), f"{name}: a slot is free twice"
        reported = (host.load.compiles if host.load is not None else None) or 0
        if host.attach_until is None:
            assert host.strays <= reported, f"{name}: more strays than reported compiles"
        else:
            assert now <= host.attach_until, f"{name}: still waits for leases to attach"
        assert (host.state, host.reason) == state_of(host), f"{name}: state"
        if host.agent_compilers is not None and not host.compilers_awaited:
            doors = {"", *(compiler.door for compiler in host.agent_compilers)}
            assert all(lease.door in doors for lease in host.leases.values()), f"{name}: a door"
            assert host.closed_doors <= {compiler.id for compiler in host.agent_compilers}, name
        assert all(lease.id == id for id, lease in host.leases.items()), f"{name}: a lease's id"


def check_leases(
    hosts: Mapping[str, Host],
    waiting: Mapping[int, Request],
    leases: Mapping[int, Lease],
    backups: Mapping[int, Lease],
) -> None:
    """Assert that hosts, requests and leases agree; raises AssertionError."""
    assert not waiting.keys() & leases.keys(), "a request waits and has a lease"
    on_hosts = [lease for host in hosts.values() for lease in host.leases.values()]
    in_books = [*leases.values(), *backups.values()]
    assert sorted(map(id, on_hosts)) == sorted(map(id, in_books)), "leases and hosts differ"
    for number, lease in leases.items():
        assert lease.id == number, "a lease has another id"
        assert not lease.is_backup, "a first attempt is a backup"
    for number, backup in backups.items():
        assert backup.id == number, "a backup has another id"
        assert backup.is_backup, "a backup is a first attempt"
        assert backup.host is not leases[number].host, "both attempts on one host"
