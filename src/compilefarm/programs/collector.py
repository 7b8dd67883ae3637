"""The collector of cycles, set for a process in which a large farm lives.

host-server and simulate-farm have the same farm in them, and what a decision costs in one is to be
what it costs in the other.
"""

from __future__ import annotations

import gc


def freeze_collector() -> None:
    """Have the collector of cycles leave alone what exists now, and look at the rest rarely.

    A compile leaves no cycles behind; but as often as Python has it by default, the collector goes
    through all leases of a large farm for each few thousand new ones, 20 to 40 ms at a time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
