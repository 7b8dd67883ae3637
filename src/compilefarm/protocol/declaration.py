"""What hosts-info, or a host itself, declares about a host.

These records are words of the protocol: hosts-info is parsed into them, and `add` carries them.
What the farm concludes from them is in `core`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from compilefarm.protocol.address import host_name


class Mode(Enum):
    """When a host takes compiles, from the mode that leaves its owner the least to the most."""

    DEDICATED = "dedicated"  # always
    PROPORTIONAL = "proportional"  # always, on the CPUs that its owner does not use
    IDLE = "idle"  # only while watch-ssaver reports it unused


@dataclass(frozen=True, slots=True)
class Declaration:
    """What hosts-info, or the host itself, declares about a host; None means not declared.

    `power_index` is the speed; the slowest machine has 1. If `pinned` is set, no measurement
    changes it. `port` is None if the declaration holds for any port of that host. `reserve_cpus` is
    the number of CPUs that a proportional host always leaves to its owner.

    Only the simulator uses two fields. `actual_power_index` is how fast the host really is.
    `actual_full` is the share of its speed that a slot keeps when all slots are in use, 0.5 to 1.
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
