"""The plan of a world: its machines, builds and faults, all decided by a seed.

A world is nothing but its plan: played again, it goes the same way. So a failing plan can be made
smaller, fault by fault, and the rest is the story of the failure.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

POLICIES = ("earliest", "tier", "random")
SERVER = "server"


@dataclass(frozen=True, slots=True)
class HostPlan:
    """A compile host. One that does not report is listed in hosts-info, as available."""

    name: str
    address: str
    slots: int
    power: float
    reports: bool


@dataclass(frozen=True, slots=True)
class BuilderPlan:
    """A builder, and the build that make runs on it."""

    name: str
    address: str
    user: str
    cpus: int
    jobs: int
    files: int
    directory: str
    backups: bool  # its gethosts can run them


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of `target` that begins at a time, and is repaired after `for_s`.

    `other` is the far end of a path that is cut. The meaning of `amount` depends on the kind.
    """

    at: float
    kind: str
    target: str
    for_s: float
    other: str = ""
    amount: float = 0.0

    @property
    def over(self) -> float:
        """The time of the repair."""
        return self.at + self.for_s

    def text(self) -> str:
        """Return what happens, as a line of a story."""
        text = TEXTS[self.kind].format(target=self.target, other=self.other, amount=self.amount)
        return text + (f", for {self.for_s:.3f} s" if self.for_s else "")


TEXTS = {
    "kill-server": "host-server is killed, and started again later",
    "stop-server": "host-server is stopped (SIGSTOP)",
    "kill-distccd": "distccd of {target} is killed",
    "stop-distccd": "distccd of {target} is stopped: it is mute",
    "kill-loadavg": "loadavg of {target} is killed",
    "power-off": "{target} loses its power",
    "cut": "the path between {target} and {other} is cut",
    "kill-gethost": "one gethost of {target} is killed",
    "break": "{amount:.0%} of the connections of {target} are reset",
    "stall": "{amount:.0%} of the connections of {target} stall",
    "slow": "the network is slow: up to {amount:.2f} s",
    "owner": "{target}'s owner uses {amount:.1f} CPUs",
    "fails": "{target} fails every compile with {amount:.0f}",
    "drain": "{target} is drained by hand, and added again later",
    "remove": "{target} is removed by hand, and added again later",
    "stranger": "a stranger says something else to the server",
}
# The relative frequency of each kind.
WEIGHTS = {
    "kill-server": 2, "stop-server": 1, "kill-distccd": 2, "stop-distccd": 2, "kill-loadavg": 1,
    "power-off": 3, "cut": 4, "kill-gethost": 2, "break": 2, "stall": 2, "slow": 1, "owner": 2,
    "fails": 2, "drain": 1, "remove": 1, "stranger": 1,
}  # fmt: skip
STALL_AT_MOST_S = 5.0
FAULTS_AT_MOST = 14
BACKUPS_SHARE = 0.8
# The share of plans in which only the server fails: these promise much more.
RESTARTS_SHARE = 0.12


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a world."""

    seed: int
    policy: str
    hosts: tuple[HostPlan, ...]
    builders: tuple[BuilderPlan, ...]
    faults: tuple[Fault, ...]

    @property
    def calm_from(self) -> float:
        """The time when the last fault has been repaired."""
        return max((fault.over for fault in self.faults), default=0.0)

    @property
    def restarts_only(self) -> bool:
        """Whether the only faults are that the server is killed."""
        return all(fault.kind == "kill-server" for fault in self.faults)

    def words(self) -> str:
        """Return the machines and builds, for a story."""
        hosts = ", ".join(
            f"{host.name} ({host.slots} slots, power {host.power:g}"
            f"{'' if host.reports else ', listed, no reports'})"
            for host in self.hosts
        )
        builders = ", ".join(
            f"{each.name} (make -j{each.jobs} of {each.files} files, {each.cpus} CPUs)"
            for each in self.builders
        )
        return f"policy {self.policy}; hosts: {hosts}; builders: {builders}"


def plan_of(seed: int, policy: str | None = None) -> Plan:
    """Return the plan of a seed."""
    chance = random.Random(seed)
    hosts = tuple(
        HostPlan(
            name=name,
            address=f"10.0.1.{number + 1}",
            slots=chance.choice((1, 2, 2, 4, 8)),
            power=chance.choice((1.0, 1.0, 2.0, 4.0, 7.5)),
            reports=chance.random() < 0.85,
        )
        for number, name in enumerate(
            ("alder", "birch", "cedar", "dogwood", "elm", "fir")[: chance.randint(1, 6)]
        )
    )
    builders = tuple(
        BuilderPlan(
            name=name,
            address=f"10.0.2.{number + 1}",
            user=chance.choice(("ada", "bob", "carol")),
            cpus=chance.choice((2, 4, 8)),
            jobs=chance.choice((2, 4, 8, 16, 32)),
            files=chance.randint(20, 220),
            directory=f"/home/project{number}",
            backups=chance.random() < BACKUPS_SHARE,
        )
        for number, name in enumerate(
            ("desk1", "desk2", "desk3", "desk4")[: chance.choice((1, 1, 2, 2, 3, 4))]
        )
    )
    span_s = chance.choice((5.0, 20.0, 60.0))
    kinds = dict(WEIGHTS)
    count = chance.randint(0, FAULTS_AT_MOST)
    if chance.random() < RESTARTS_SHARE:
        kinds, count = {"kill-server": 1}, chance.randint(1, 4)
    faults = tuple(
        sorted(
            (_fault(chance, kinds, span_s, hosts, builders) for _ in range(count)),
            key=lambda fault: fault.at,
        )
    )
    return Plan(seed, policy or chance.choice(POLICIES), hosts, builders, faults)


def _fault(
    chance: random.Random,
    kinds: dict[str, int],
    span_s: float,
    hosts: tuple[HostPlan, ...],
    builders: tuple[BuilderPlan, ...],
) -> Fault:
    kind = chance.choices(list(kinds), list(kinds.values()))[0]
    host, builder = chance.choice(hosts), chance.choice(builders)
    fault = Fault(
        at=round(chance.uniform(0.0, span_s), 3),
        kind=kind,
        target=host.name,
        for_s=round(chance.choice((0.3, 3.0, 12.0, 40.0)) * chance.uniform(0.3, 1.0), 3),
        amount=round(chance.uniform(0.1, 1.0), 3),
    )
    match kind:
        case "kill-server" | "stop-server":
            # A user would notice a longer stop. A server that stays away is another matter.
            return replace(fault, target=SERVER, for_s=round(chance.uniform(0.05, 20.0), 3))
        case "power-off":
            return replace(fault, target=chance.choice((host.name, host.name, builder.name)))
        case "cut":
            ends = chance.sample([SERVER, host.name, builder.name], 2)
            return replace(fault, target=ends[0], other=ends[1])
        case "kill-gethost":
            return replace(fault, target=builder.name, for_s=0.0)
        case "break" | "stall":
            target = chance.choice((SERVER, host.name, builder.name))
            for_s = min(fault.for_s, STALL_AT_MOST_S) if kind == "stall" else 0.0
            return replace(fault, target=target, for_s=for_s)
        case "slow":
            return replace(fault, target="")
        case "owner":
            return replace(fault, amount=round(host.slots * chance.uniform(0.2, 1.2), 1))
        case "fails":
            return replace(fault, amount=chance.choice((116, 116, 110)))
        case "stranger":
            return replace(fault, target="", for_s=0.0)
    return fault


def final_build(plan: BuilderPlan, slots: int) -> BuilderPlan:
    """Return the build that shows that the farm is whole again."""
    return replace(plan, files=2 * slots)
