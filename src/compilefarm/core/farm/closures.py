"""Doors that are closed: compilers of a host that it gets no compiles for, for a time, and why.

A host keeps its place in the farm for other compilers. A door is one compiler of one host. If the
host's agent reported the compiler, `Doors` closes it by its id. Else the compiler's name goes to
the host's `lacks`. A door opens again after `LACKS_FOR_S`, because the cause may have passed.

This part closes and opens; `failures` decides when.
"""

from __future__ import annotations

from compilefarm.core.events import HostNoted
from compilefarm.core.farm.doors import Doors
from compilefarm.core.farm.roster import Roster
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Closure, Host
from compilefarm.core.timers import Timers

LACKS_FOR_S = 600.0


class Closures:
    """Closes the doors of hosts, and opens them again."""

    def __init__(self, roster: Roster, timers: Timers, doors: Doors) -> None:
        self._roster = roster
        self._timers = timers
        self._doors = doors

    def close(
        self, host: Host, door: str, compiler: str, reason: str, turn: Turn, builder: str = ""
    ) -> None:
        """Close a door for `LACKS_FOR_S`; without `door`, the one of the compiler's plain name."""
        until = turn.now + LACKS_FOR_S
        closure = Closure(until, door or compiler, bool(door), compiler, reason, builder)
        host.closures[closure.door] = closure
        if door:
            self._doors.close(host, _id_of(door), turn)
        else:
            host.lacks |= {compiler}
        minutes = f"{LACKS_FOR_S / 60:.0f} minutes"
        text = f"{reason}; it is tried again in {minutes}"
        turn.effects.append(HostNoted(host.name, text))
        turn.choice_narrowed = True
        self._changed(host, turn)

    def open(self, host: Host, door: str, turn: Turn) -> None:
        """Open a door again."""
        self._open(host, host.closures.pop(door), turn)
        self._changed(host, turn)

    def open_all(self, host: Host, turn: Turn) -> None:
        """Open all doors of a host; the caller refreshes the host."""
        for closure in host.closures.values():
            self._open(host, closure, turn)
        host.closures.clear()
        self._timers.clear(("lacks", host.name))

    def opening_due(self, name: str, turn: Turn) -> None:
        """Open the doors whose time is over."""
        host = self._roster.hosts[name]
        for closure in [each for each in host.closures.values() if each.until <= turn.now]:
            self._open(host, host.closures.pop(closure.door), turn)
        self._changed(host, turn)

    def compilers_reported(self, host: Host, turn: Turn) -> None:
        """Forget the doors of compilers that a host no longer has."""
        doors = {compiler.door for compiler in host.agent_compilers or ()}
        gone = [each.door for each in host.closures.values() if each.by_id]
        gone = [door for door in gone if door not in doors]
        for door in gone:
            del host.closures[door]
        if gone:
            self._changed(host, turn)

    def _open(self, host: Host, closure: Closure, turn: Turn) -> None:
        if closure.by_id:
            self._doors.open(host, _id_of(closure.door), turn)
        else:
            host.lacks -= {closure.door}

    def _changed(self, host: Host, turn: Turn) -> None:
        if host.closures:
            due = min(closure.until for closure in host.closures.values())
            self._timers.set(("lacks", host.name), due)
        else:
            self._timers.clear(("lacks", host.name))
        self._roster.refresh(host, turn)


def _id_of(door: str) -> str:
    return door.rpartition("-")[2]
