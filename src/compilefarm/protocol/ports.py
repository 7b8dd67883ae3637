"""The port numbers of a farm and their names, defined only here.

host-server listens on four consecutive TCP ports. Each is the base port plus the offset in `Port`.
gethost, which is C, has the base port in its own source.
"""

from __future__ import annotations

from enum import IntEnum

BASE_PORT = 9714
DISTCCD_PORT = 3632
HIGHEST_PORT = 65535


class Port(IntEnum):
    """A port of host-server. The value is its offset from the base port."""

    REQUESTS = 0
    REPORTS = 1
    STATUS = 2
    MONITOR = 3

    @property
    def label(self) -> str:
        """The name in options (`--allow status=…`), in proofs and in logs."""
        return self.name.lower()


PORT_LABELS = tuple(port.label for port in Port)
HIGHEST_BASE_PORT = HIGHEST_PORT - max(Port)
