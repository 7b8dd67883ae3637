"""What hosts-info, or a host itself, declares about a host.

These records are words of the protocol: hosts-info is parsed into them, and `add` carries them.
What the farm concludes from them is in `core`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from compilefarm.protocol.address import host_name


class Mode(Enum):
    """When a host is in the farm; in the order of how much they leave to its owner."""

    DEDICATED = "dedicated"  # always
    PROPORTIONAL = "proportional"  # always, with the CPUs that its owner does not use
    IDLE = "idle"  # only while somebody watches it, and says that it is unused


@dataclass(frozen=True, slots=True)
class Declaration:
    """What hosts-info, or the host itself, says of a host; None where nothing is said.

    `power_index` is the speed, where the slowest machine is 1; `pinned` says that no measurement
    is to change it. `port` is None where any port of that name is meant. `reserve_cpus` is how
    much of a proportional host is left to its owner at all times. For the simulator alone:
    `actual_power_index` is how fast the host really is, and `actual_full` which part of its speed
    a slot keeps when all slots are in use.
    """

    host: str
    port: int | None = None
    slots: int | None = None
    power_index: float | None = None
    types: frozenset[str] = frozenset()
    compilers: frozenset[str] = frozenset()
    address: str | None = None
    pinned: bool = False
    static: bool = False
    mode: Mode | None = None
    reserve_cpus: float | None = None
    actual_power_index: float | None = None
    actual_full: float | None = None

    @property
    def name(self) -> str:
        """The farm's name for this host."""
        return host_name(self.host, self.port)
