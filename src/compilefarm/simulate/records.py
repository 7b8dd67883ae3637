"""The builds of a record: host-server writes single compiles, and this finds what was one make."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from compilefarm.simulate.simulation import SimulatedBuild
from compilefarm.simulate.trace import TracedLease

# A pause this long between compiles of a user in one directory separates two builds.
PAUSE_S = 30.0


def builds_of_record(leases: Sequence[TracedLease]) -> list[SimulatedBuild]:
    """Return the builds of a record, per user and directory, by the time that they begin.

    A build's `jobs` is the most compiles that it had outstanding at once.
    """
    builds: list[SimulatedBuild] = []
    open_builds: dict[tuple[str, str], list[TracedLease]] = {}
    first_s = min(lease.arrived_s for lease in leases)
    for lease in leases:
        key = (lease.user, lease.directory)
        before = open_builds.get(key)
        if before and lease.arrived_s - max(each.ended_s for each in before) > PAUSE_S:
            builds.append(_build(open_builds.pop(key), first_s))
        open_builds.setdefault(key, []).append(lease)
    builds += [_build(leases, first_s) for leases in open_builds.values()]
    return sorted(builds, key=lambda build: build.starts_s)


def _build(leases: list[TracedLease], first_s: float) -> SimulatedBuild:
    first = leases[0]
    steps = sorted(
        [(each.arrived_s, 1) for each in leases] + [(each.ended_s, -1) for each in leases]
    )
    jobs = max(accumulate(step for _, step in steps))
    return SimulatedBuild(
        first.user, first.directory, leases, max(1, jobs), first.arrived_s - first_s
    )
