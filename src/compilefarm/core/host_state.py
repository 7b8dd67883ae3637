"""What a host is, and its state. Both follow from facts, in whatever order those came.

What a host is (slots, power index, mode) follows from hosts-info, from its own declaration and from
its load report. Its state follows from what has happened to it. The first line that fits decides:

    draining                            DRAINING
    owner present                       OWNER
    not added                           AWAY
    load reports stopped                SILENT
    idle mode without a watcher         OWNER
    distccd does not run                MUTE
    failed, and not yet probed well     QUARANTINED
    none of these                       UP

An owner who is present does not stop a proportional host: it gives the farm what its owner leaves.
tests/test_host_state.py reads this table and checks `state_of` against it.

These functions look at one host's record alone. The farm decides what to do about a change.
"""

from __future__ import annotations

from compilefarm.core.model import Host, State
from compilefarm.core.owner_share import RESERVE_CPUS
from compilefarm.protocol.declaration import Declaration, Mode

NOT_ADDED = "was not added"


def take_declarations(host: Host) -> None:
    """Set a host's numbers from hosts-info, its own declaration and its load report.

    hosts-info takes precedence, with two exceptions. A host may offer fewer slots than hosts-info
    lists. And of two modes or reserves, the one that leaves more to the owner counts.
    """
    listed = host.listed or Declaration(host.name)
    offered = host.offered or Declaration(host.name)
    declared = [slots for slots in (listed.slots, offered.slots) if slots is not None]
    reported = host.load.cpus if host.load else None
    host.capacity = min(declared) if declared else (reported or (1 if host.added else 0))
    modes = list(Mode)
    host.mode = max(listed.mode or Mode.DEDICATED, offered.mode or Mode.DEDICATED, key=modes.index)
    reserves = [cpus for cpus in (listed.reserve_cpus, offered.reserve_cpus) if cpus is not None]
    host.owner_share.reserve_cpus = max(reserves, default=RESERVE_CPUS)
    offer_slots(host)
    host.power_index = listed.power_index or offered.power_index or 1.0
    host.types = listed.types or offered.types
    host.compilers = listed.compilers or offered.compilers


def offer_slots(host: Host) -> None:
    """Set a host's slots: its capacity, or in proportional mode what its owner leaves."""
    slots = host.capacity
    # Without a watcher, the owner may be present.
    unused = bool(host.watchers) and host.owner_since is None
    if host.mode is Mode.PROPORTIONAL and not unused:
        slots = min(slots, host.owner_share.farm_cpus)
    if slots != host.slots:
        host.set_slots(slots)
        if host.attach_until is not None:
            host.set_strays(slots - len(host.leases))


def state_of(host: Host) -> tuple[State, str]:
    """Return a host's state, and the reason for it; "" where it is up with all its slots."""
    if host.drain_until is not None:
        return State.DRAINING, "leaves when its last compile has ended"
    if host.owner_since is not None and not (host.added and host.mode is Mode.PROPORTIONAL):
        return State.OWNER, "owner present"
    if not host.added:
        return State.AWAY, host.reason if host.state is State.AWAY else NOT_ADDED
    if host.silent:
        return State.SILENT, "its load reports stopped"
    if host.mode is Mode.IDLE and not host.watchers:
        return State.OWNER, "idle mode: watch-ssaver is not running"
    if host.load is not None and host.load.distccd in ("stopped", "gone"):
        return State.MUTE, f"its distccd is {host.load.distccd}"
    if host.quarantined:
        times = "once" if host.failures == 1 else f"{host.failures} times lately"
        return State.QUARANTINED, f"failed {times}; it is probed before it is used again"
    return State.UP, _why_fewer_slots(host) if host.slots < host.capacity else ""


def _why_fewer_slots(host: Host) -> str:
    if host.load is None:
        why = "its owner's CPU use is not known yet"
    else:
        why = f"{host.load.foreign_cpus:.1f} CPUs are in foreign use"
        why += f", {host.owner_share.reserve_cpus:g} kept free"
    if host.owner_share.calm:
        why += "; more if this lasts"
    return f"offers {host.slots} of {host.capacity} slots: {why}"
