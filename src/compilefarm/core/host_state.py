"""What a host is and how it stands: both follow from facts, whatever the order in which they came.

What it is follows from hosts-info, from what the host said itself, and from its report. How it
stands follows from what happened to it, in this order:

    leaving                               DRAINING
    its owner is there                    OWNER
    not added                             AWAY
    stopped reporting its load            SILENT
    idle mode, and nobody watches it      OWNER
    distccd does not run                  MUTE
    failed, and not yet seen to be back   QUARANTINED
    else                                  UP

Functions of one host's record alone; what is to be done about a change is the farm's business.
"""

from __future__ import annotations

from compilefarm.core.model import Host, State
from compilefarm.core.owner_share import RESERVE_CPUS
from compilefarm.protocol.declaration import Declaration, Mode


def take_declarations(host: Host) -> None:
    """Work out a host's numbers from hosts-info, from what it said itself, and from its report.

    hosts-info goes first, except that a host may offer fewer slots than it is listed with, and
    that of two modes and reserves the one counts that leaves more to the owner.
    """
    listed = host.listed or Declaration(host.name)
    offered = host.offered or Declaration(host.name)
    said = [slots for slots in (listed.slots, offered.slots) if slots is not None]
    reported = host.load.cpus if host.load else None
    host.capacity = min(said) if said else (reported or (1 if host.added else 0))
    modes = list(Mode)
    host.mode = max(listed.mode or Mode.DEDICATED, offered.mode or Mode.DEDICATED, key=modes.index)
    reserves = [cpus for cpus in (listed.reserve_cpus, offered.reserve_cpus) if cpus is not None]
    host.proportion.reserve_cpus = max(reserves, default=RESERVE_CPUS)
    offer_slots(host)
    host.power_index = listed.power_index or offered.power_index or 1.0
    host.types = listed.types or offered.types
    host.compilers = listed.compilers or offered.compilers


def offer_slots(host: Host) -> None:
    """Have a host offer what it can, or of a proportional one what its owner leaves."""
    slots = host.capacity
    # Without a watcher, the owner may be there.
    unused = bool(host.watchers) and host.owner_since is None
    if host.mode is Mode.PROPORTIONAL and not unused:
        slots = min(slots, host.proportion.offered)
    if slots != host.slots:
        host.set_slots(slots)
        if host.settles_at is not None:
            host.set_strays(slots - len(host.leases))


def state_of(host: Host) -> tuple[State, str]:
    """Return a host's state, and the reason for it where it is not simply up."""
    if host.drain_until is not None:
        return State.DRAINING, "leaves when its last compile has ended"
    shares = host.added and host.mode is Mode.PROPORTIONAL
    if host.owner_since is not None and not shares:
        return State.OWNER, "owner present"
    if not host.added:
        return State.AWAY, host.reason if host.state is State.AWAY else "was not added"
    if host.silent:
        return State.SILENT, "its load reports stopped"
    if host.mode is Mode.IDLE and not host.watchers:
        return State.OWNER, "no watch-ssaver says that it is unused"
    if host.load is not None and host.load.distccd in ("stopped", "gone"):
        return State.MUTE, f"its distccd is {host.load.distccd}"
    if host.quarantined:
        times = "once" if host.failures == 1 else f"{host.failures} times lately"
        return State.QUARANTINED, f"failed {times}; it is probed before it is used again"
    if host.slots < host.capacity:
        why = "nothing is known of what its owner leaves"
        if host.load is not None:
            why = f"{host.load.foreign_cpus:.1f} CPUs are in foreign use"
            why += f", {host.proportion.reserve_cpus:g} kept free"
        if host.proportion.calm:
            why += "; more if it stays so"
        return State.UP, f"offers {host.slots} of {host.capacity} slots: {why}"
    return State.UP, ""
