"""The 2004 rule: the fastest free CPU, in tiers, and busy hosts moved down.

Hosts of near-equal speed form a tier, numbered by the whole part of their power index. A request
gets a free slot in the highest tier that has one; within the tier on the fastest host, and among
equals on the one least in use. Nothing waits while a slot that it may have is free; what waits is
served in the order of arrival.

A host whose load rises is moved one tier down, and out of use when it stays high. The thresholds
are those of DMUCS, which descends from the 2004 system; its load averages count the farm's own
compiles too, so that a farm in use chased its best hosts away. Here the farm's own part is taken
out first.

Kept to compare with: it hands work to a slow machine a moment before a fast one is free.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count

from compilefarm.core.model import Host, Lease, Outcome, Request, Restriction, Signature
from compilefarm.core.placement.policy import HostUse, WithoutBackups
from compilefarm.core.placement.tiers import tier_of

# Load averages per CPU over 1, 5 and 15 minutes, as in DMUCS.
STAYS_BELOW_1 = 0.9
STAYS_BELOW_5 = 0.7
MOVED_DOWN_BELOW_15 = 0.8

# Higher tier, faster, less in use, then longest unused; smaller sorts first, and no two are equal.
Rank = tuple[int, float, float, int]
# A rank with its host, flat: a heap compares it in half the time that a pair of the two takes.
Ranked = tuple[int, float, float, int, Host]


def use_of_host(host: Host) -> HostUse:
    """Return the tier that a host is in now, by the thresholds above, and why it is not its own."""
    if not host.up:
        return HostUse(None, host.reason)
    if not host.slots:
        return HostUse(None, host.reason or "offers no slot")
    tier = tier_of(host.power_index)
    if host.load is None:
        return HostUse(tier)
    cpus = host.load.cpus or host.capacity
    load1, load5, load15 = (average / cpus for average in host.load.foreign_averages)
    if load1 < STAYS_BELOW_1 or load5 < STAYS_BELOW_5:
        return HostUse(tier)
    if load15 < MOVED_DOWN_BELOW_15:
        why = f"moved down from tier {tier}: foreign load {load1:.2f} per CPU over the last minute"
        return HostUse(tier - 1, why)
    why = f"out of use: foreign load {load15:.2f} per CPU over the last 15 minutes"
    return HostUse(None, why)


@dataclass(slots=True)
class _Group:
    """The hosts in use that the same requests may use.

    `heap` may hold ranks that are out of date; the valid one of a host is the one in `ranked`.
    """

    members: dict[str, Host] = field(default_factory=dict)
    ranked: dict[str, Ranked] = field(default_factory=dict)
    heap: list[Ranked] = field(default_factory=list)

    def enter(self, host: Host, rank: Rank) -> None:
        entry = (*rank, host)
        if self.heap and self.heap[0] is self.ranked.get(host.name):
            heapq.heapreplace(self.heap, entry)  # as nearly always when a slot was taken
        else:
            heapq.heappush(self.heap, entry)
        self.ranked[host.name] = entry
        if len(self.heap) > 4 * len(self.members) + 64:
            self.heap = [entry for entry in self.heap if self._valid(entry)]
            heapq.heapify(self.heap)

    def best(self, avoid: frozenset[str]) -> Ranked | None:
        """Return the best-ranked host with a free slot that is not to be avoided."""
        aside = []
        found = None
        while self.heap:
            entry = self.heap[0]
            if not self._valid(entry):
                heapq.heappop(self.heap)
            elif entry[4].name in avoid:
                aside.append(heapq.heappop(self.heap))
            else:
                found = entry
                break
        for entry in aside:
            heapq.heappush(self.heap, entry)
        return found

    def _valid(self, entry: Ranked) -> bool:
        return self.ranked.get(entry[4].name) is entry


class TierPolicy(WithoutBackups):
    """The 2004 rule as a `Policy`."""

    name = "tier"

    def __init__(self) -> None:
        self._uses: dict[str, HostUse] = {}
        self._groups: dict[Signature, _Group] = {}
        self._group_of: dict[str, Signature] = {}
        # Requests of one restriction wait in one line, in the order of arrival.
        self._queues: dict[Restriction, dict[int, Request]] = {}
        self._serial = count()

    def host_changed(self, host: Host, now: float) -> None:
        use = use_of_host(host)
        self._uses[host.name] = use
        self._leave_group(host)
        if use.tier is not None:
            group = self._groups.setdefault(host.signature, _Group())
            group.members[host.name] = host
            self._group_of[host.name] = host.signature
            self._rank(host)

    def host_forgotten(self, host: Host) -> None:
        self._leave_group(host)
        self._uses.pop(host.name, None)

    def arrived(self, request: Request, now: float) -> None:
        self._queues.setdefault(request.restriction, {})[request.id] = request

    def withdrawn(self, request: Request, now: float) -> None:
        queue = self._queues[request.restriction]
        del queue[request.id]
        if not queue:
            del self._queues[request.restriction]

    def granted(self, lease: Lease, now: float) -> None:
        self.withdrawn(lease.request, now)
        self._rank(lease.host)

    def ended(self, lease: Lease, outcome: Outcome, now: float) -> None:
        self._rank(lease.host)

    def next_grant(self, now: float) -> tuple[Request, Host] | None:
        heads = [next(iter(queue.values())) for queue in self._queues.values()]
        if len(heads) > 1:
            heads.sort(key=lambda request: request.id)
        for request in heads:
            found = [
                best
                for signature, group in self._groups.items()
                if request.admits(signature) and (best := group.best(request.avoid))
            ]
            if found:
                return request, min(found)[4]
        return None

    def next_deadline(self) -> float | None:
        """Return None: this rule depends on no clock."""
        return None

    def hopeless(self, request: Request) -> str | None:
        admitting = [
            group for signature, group in self._groups.items() if request.admits(signature)
        ]
        for group in admitting:
            if any(name not in request.avoid for name in group.members):
                return None
        if not self._groups:
            return "no host is available"
        if admitting:
            return "no host is left that was not to be avoided"
        wants = f"type {request.type}" if request.type else f"compiler {request.compiler}"
        return f"no host of {wants}" if request.type else f"no host with {wants}"

    def ahead(self, request: Request) -> int:
        return sum(len(queue) for queue in self._queues.values()) - 1

    def expected_s(self, lease: Lease) -> float | None:
        return None

    def use_of(self, host: Host) -> HostUse:
        return self._uses.get(host.name) or use_of_host(host)

    def rank_of(self, host: Host) -> Rank:
        """Return where a host with a free slot stands among its like; the smallest comes first."""
        tier = self._uses[host.name].tier or 0
        in_use = host.in_use / host.slots
        return (-tier, -host.power_index, in_use, self.next_serial())

    def next_serial(self) -> int:
        """Return a number higher than all before, which keeps ranks apart."""
        return next(self._serial)

    def _rank(self, host: Host) -> None:
        """Enter a host under its rank of now, or under none when it is full or out of use."""
        signature = self._group_of.get(host.name)
        if signature is None:
            return
        group = self._groups[signature]
        if host.free and self._uses[host.name].tier is not None:
            group.enter(host, self.rank_of(host))
        else:
            group.ranked.pop(host.name, None)

    def _leave_group(self, host: Host) -> None:
        signature = self._group_of.pop(host.name, None)
        if signature is None:
            return
        group = self._groups[signature]
        del group.members[host.name]
        group.ranked.pop(host.name, None)
        if not group.members:
            del self._groups[signature]
