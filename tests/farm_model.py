"""A tiny model of the farm, and events by chance: for tests of what holds in every story.

The model knows only what the farm's effects say: which requests wait, which have a slot, and on
which host. It is written from the protocol's promises and not from the farm's code. So both are
unlikely to have the same mistake.
"""

from __future__ import annotations

import random

import hypothesis.strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from compilefarm.core.events import (
    BackUp,
    BackupEnded,
    DrainEnded,
    DropBackup,
    EarlierLife,
    Effect,
    Event,
    Grant,
    HostAdded,
    HostDrained,
    HostProbed,
    HostRemoved,
    HostsListed,
    LeaseAttached,
    LoadReported,
    OwnerReported,
    Probe,
    Refuse,
    ReportsEnded,
    RequestArrived,
    RequestEnded,
    Revoke,
    TimePassed,
    Wait,
    WatcherEnded,
)
from compilefarm.core.farm.farm import Farm
from compilefarm.core.farm.returns import ATTACH_WITHIN_S
from compilefarm.core.farm.story import Played, facts, replay
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Availability, Host, Lease, Load, Outcome, Request, State
from compilefarm.core.placement.policies import make_policy
from compilefarm.core.placement.policy import Policy
from compilefarm.core.placement.tier import TierPolicy
from compilefarm.core.snapshot import take_snapshot
from compilefarm.protocol.declaration import Declaration, Mode

HOSTS = ("alder", "birch", "cedar", "dogwood")
# Nothing is often the most interesting value: drawn unevenly, so that farms fill up and clear.
TYPES = ("", "", "", "arm", "x86")
COMPILERS = ("", "", "", "gcc", "clang")

hosts = st.sampled_from(HOSTS)
types = st.sampled_from(TYPES)
compilers = st.sampled_from(COMPILERS)
slots = st.integers(1, 4)
loads = st.builds(
    Load,
    load_averages=st.tuples(*[st.sampled_from([0.0, 0.0, 1.0, 20.0])] * 3),
    own_averages=st.tuples(*[st.sampled_from([0.0, 0.0, 5.0])] * 3),
    own_cpus=st.floats(0, 4),
    foreign_cpus=st.floats(0, 4),
    cpus=st.none() | st.integers(1, 8),
    compiles=st.none() | st.integers(0, 5),
    distccd=st.sampled_from(["", "", "running", "running", "stopped", "gone"]),
)
outcomes = st.sampled_from(
    [
        Outcome(),
        Outcome(exit=0, wall_s=1.0),
        Outcome(exit=1, wall_s=0.1),
        Outcome(exit=116, failed=True),
        Outcome(exit=110, failed=True),
    ]
)


def declarations(host: str) -> st.SearchStrategy[Declaration]:
    """Declarations of one host, listed or offered."""
    return st.builds(
        Declaration,
        host=st.just(host),
        slots=st.none() | slots,
        power_index=st.none() | st.floats(0.5, 16),
        types=st.frozensets(st.sampled_from(TYPES[3:])),
        compilers=st.frozensets(st.sampled_from(COMPILERS[3:])),
        static=st.booleans(),
        mode=st.sampled_from([None, None, None, *Mode]),
    )


class EagerPolicy(TierPolicy):
    """Begins every possible backup, so that backups are tried often enough."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Host] = {}
        self.leases: dict[int, Lease] = {}
        self.backups: dict[int, Lease] = {}

    def host_changed(self, host: Host, now: float) -> None:
        self.known[host.name] = host
        super().host_changed(host, now)

    def host_forgotten(self, host: Host) -> None:
        del self.known[host.name]
        super().host_forgotten(host)

    def granted(self, lease: Lease, now: float) -> None:
        super().granted(lease, now)
        self.leases[lease.id] = lease

    def ended(self, lease: Lease, outcome: Outcome, now: float) -> None:
        super().ended(lease, outcome, now)
        del self.leases[lease.id]

    def next_backup(self, now: float) -> tuple[Lease, Host] | None:
        for lease in self.leases.values():
            if lease.request.can_back_up and lease.id not in self.backups:
                for host in self.known.values():
                    usable = host.up and host.free and host.tier is not None
                    if usable and host is not lease.host and lease.request.may_use(host):
                        return lease, host
        return None

    def backup_began(self, backup: Lease, now: float) -> None:
        self.backups[backup.id] = backup
        self._rank(backup.host)

    def backup_ended(self, backup: Lease, outcome: Outcome, now: float) -> None:
        del self.backups[backup.id]
        self._rank(backup.host)

    def backup_in_the_way(self, now: float) -> Lease | None:
        for backup in self.backups.values():
            queues = self._queues.values()
            if any(each.may_use(backup.host) for queue in queues for each in queue.values()):
                return backup
        return None


class FarmMachine(RuleBasedStateMachine):
    """Plays events at a farm, and keeps a model of who waits and who has a slot."""

    policy = "tier"

    def new_policy(self) -> Policy:
        return make_policy(self.policy, Learning(), random.Random(1))

    def __init__(self) -> None:
        super().__init__()
        self.farm = Farm(self.new_policy())
        self.played: list[Played] = []
        self.now = 0.0
        self.last_id = 0
        self.waiting: dict[int, Request] = {}
        self.leased: dict[int, str] = {}
        self.backups: dict[int, tuple[str, int]] = {}  # host, and the backup's number
        self.answered: set[int] = set()
        self.probes: list[str] = []
        self.draining: set[str] = set()
        self.hopes_until = -1e9

    @initialize(
        sizes=st.lists(slots, min_size=0, max_size=2),
        known=st.none() | st.lists(st.tuples(slots, st.booleans(), st.booleans()), max_size=4),
    )
    def start_with_hosts(
        self, sizes: list[int], known: list[tuple[int, bool, bool]] | None
    ) -> None:
        """Some hosts are added; before that, an earlier life may have known some."""
        if known is not None:
            self.play(
                EarlierLife(
                    tuple(
                        Availability(Declaration(host, slots=size), "127.0.0.1", *facts)
                        for host, (size, *facts) in zip(HOSTS, known, strict=False)
                    )
                )
            )
            self.hopes_until = self.now + ATTACH_WITHIN_S
            for each in self.farm.hosts.values():
                assert not each.free, "granted what an earlier life may have granted"
        for host, size in zip(HOSTS, sizes, strict=False):
            self.play(HostAdded(Declaration(host, slots=size), "127.0.0.1"))

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Give an event to the farm, and record it for a replay."""
        effects = self.farm.handle(event, now)
        self.played.append(Played(event, now, facts(effects)))
        return effects

    def check(self) -> None:
        """Check the farm's promises; a failure's text says whether a replay fails as well."""
        try:
            self.farm.check()
        except AssertionError as error:
            again = replay(self.played, Farm(self.new_policy())) or "nothing is wrong"
            raise AssertionError(f"{error}\nPlayed again: {again}") from error

    def play(self, event: Event) -> None:
        """Give an event to the farm, and compare its effects with the model."""
        for effect in self.handle(event, self.now):
            match effect:
                case Grant(lease):
                    assert lease.id in self.waiting, "granted what did not wait"
                    request = self.waiting.pop(lease.id)
                    assert lease.host.name not in request.avoid
                    assert not request.type or request.type in lease.host.types
                    assert lease.slot < lease.host.slots
                    self.leased[lease.id] = lease.host.name
                case Wait(number, _):
                    assert number in self.farm.waiting, "told to wait, and does not"
                case Refuse(number, reason):
                    assert reason
                    del self.waiting[number]
                    self.answered.add(number)
                case Revoke(number, reason):
                    assert reason
                    del self.leased[number]
                    self.backups.pop(number, None)
                    self.answered.add(number)
                case BackUp(lease):
                    assert lease.id not in self.backups, "a second backup"
                    assert lease.request.can_back_up, "a backup for a client that cannot run it"
                    assert lease.request.may_use(lease.host)
                    assert lease.host.name != self.leased[lease.id], "both attempts on one host"
                    self.backups[lease.id] = (lease.host.name, lease.attempt)
                case DropBackup(lease, reason):
                    assert reason
                    assert self.backups.pop(lease.id) == (lease.host.name, lease.attempt)
                case Probe(name, _, _):
                    self.probes.append(name)
                case DrainEnded(name, _, _):
                    self.draining.discard(name)

    def advance(self, seconds: float) -> None:
        """Let time pass as a shell does: deadline by deadline."""
        until = self.now + seconds
        for _ in range(10_000):
            deadline = self.farm.next_deadline()
            if deadline is None or deadline > until:
                break
            self.now = max(self.now, deadline)
            self.play(TimePassed())
        else:
            raise AssertionError("deadlines come without end")
        self.now = until
        self.play(TimePassed())

    @rule(data=st.data(), chosen=st.lists(hosts, unique=True))
    def list_hosts(self, data: st.DataObject, chosen: list[str]) -> None:
        self.play(HostsListed(tuple(data.draw(declarations(host)) for host in chosen)))

    @rule(data=st.data(), host=hosts)
    def add(self, data: st.DataObject, host: str) -> None:
        self.play(HostAdded(data.draw(declarations(host)), "127.0.0.1"))
        assert self.farm.hosts[host].state in (State.UP, State.MUTE, State.OWNER)

    @rule(data=st.data(), host=hosts)
    def come_back(self, data: st.DataObject, host: str) -> None:
        """A host returns to a server that it lost: to the same, or to one that was restarted."""
        before = self.farm.hosts.get(host)
        known = before is not None and (before.added or before.load_at is not None)
        out = host in self.farm.removed or (before is not None and before.drain_until is not None)
        self.hopes_until = self.now + ATTACH_WITHIN_S
        self.play(HostAdded(data.draw(declarations(host)), "127.0.0.1", returning=True))
        after = self.farm.hosts.get(host)
        if out:
            assert after is None or not after.up, "it was taken out"
        elif not known:
            assert after is not None
            assert not after.free, "granted what an earlier life may have granted"

    @rule(host=hosts, running_s=st.sampled_from([0.0, 1.0, 100.0]), count=st.integers(1, 3))
    def attach(self, host: str, running_s: float, count: int) -> None:
        """Clients attach leases from before a restart, perhaps more than the host has slots."""
        for _ in range(count):
            self.last_id += 1
            request = Request(self.last_id, "ada")
            self.leased[request.id] = host
            self.hopes_until = self.now + ATTACH_WITHIN_S
            self.play(LeaseAttached(request, host, 3632, running_s))

    @rule(host=hosts)
    def remove(self, host: str) -> None:
        self.play(HostRemoved(host, 3632))
        known = self.farm.hosts.get(host)
        assert known is None or known.state in (State.AWAY, State.OWNER)

    @rule(host=hosts, grace_s=st.floats(0, 30))
    def drain(self, host: str, grace_s: float) -> None:
        known = self.farm.hosts.get(host)
        if known is not None and known.added:
            self.draining.add(host)
        self.play(HostDrained(host, 3632, grace_s))

    @rule(host=hosts, load=loads)
    def report(self, host: str, load: Load) -> None:
        self.play(LoadReported(host, 3632, "127.0.0.1", load))

    @rule(host=hosts)
    def stop_reporting(self, host: str) -> None:
        self.play(ReportsEnded(host))

    @rule(
        host=hosts,
        watcher=st.integers(1, 2),
        since_s=st.sampled_from([None, None, 0.0, 60.0]),
        revoke=st.booleans(),
    )
    def watch(self, host: str, watcher: int, since_s: float | None, revoke: bool) -> None:
        self.play(OwnerReported(host, 3632, "127.0.0.1", watcher, since_s, revoke))

    @rule(host=hosts, watcher=st.integers(1, 2))
    def stop_watching(self, host: str, watcher: int) -> None:
        self.play(WatcherEnded(host, watcher))

    @precondition(lambda self: self.probes)
    @rule(answered=st.booleans())
    def answer_probe(self, answered: bool) -> None:
        self.play(HostProbed(self.probes.pop(0), answered))

    @rule(
        count=st.integers(1, 6),
        type=types,
        compiler=compilers,
        avoid=st.just(frozenset()) | st.frozensets(hosts, max_size=2),
        wait_s=st.sampled_from([None, None, 0.0, 7.0]),
        backup=st.booleans(),
    )
    def request(
        self,
        count: int,
        type: str,
        compiler: str,
        avoid: frozenset[str],
        wait_s: float | None,
        backup: bool,
    ) -> None:
        for _ in range(count):
            self.last_id += 1
            request = Request(
                self.last_id,
                "ada",
                type=type,
                compiler=compiler,
                avoid=avoid,
                wait_s=wait_s,
                can_back_up=backup,
            )
            self.waiting[request.id] = request
            self.play(RequestArrived(request))
            if wait_s == 0:
                assert request.id not in self.waiting, "a request that may not wait waits"

    @precondition(lambda self: self.leased)
    @rule(data=st.data(), outcome=outcomes, late_s=st.sampled_from([0.0, 0.0, 1.0]))
    def end_lease(self, data: st.DataObject, outcome: Outcome, late_s: float) -> None:
        """End one; a shell that has much to do may be late, and what is due comes with it."""
        self.now += late_s
        number = data.draw(st.sampled_from(sorted(self.leased)))
        del self.leased[number]
        self.backups.pop(number, None)
        self.play(RequestEnded(number, outcome))

    @precondition(lambda self: self.backups)
    @rule(data=st.data(), crossed=st.integers(0, 1))
    def backup_is_first(self, data: st.DataObject, crossed: int) -> None:
        """A backup is done; perhaps the farm has taken it back in that moment."""
        number = data.draw(st.sampled_from(sorted(self.backups)))
        _, backup = self.backups.pop(number)
        del self.leased[number]
        outcome = Outcome(exit=0, wall_s=1.0)
        self.play(RequestEnded(number, outcome, backup + crossed))
        assert number not in self.farm.backups

    @precondition(lambda self: self.backups)
    @rule(data=st.data(), outcome=outcomes, crossed=st.integers(0, 1))
    def end_backup(self, data: st.DataObject, outcome: Outcome, crossed: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.backups)))
        _, backup = self.backups[number]
        if not crossed:
            del self.backups[number]
        self.play(BackupEnded(number, backup + crossed, outcome))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def vanish_while_waiting(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[number]
        self.play(RequestEnded(number, Outcome()))

    @precondition(lambda self: self.answered)
    @rule(data=st.data(), outcome=outcomes)
    def speak_after_the_answer(self, data: st.DataObject, outcome: Outcome) -> None:
        self.play(RequestEnded(data.draw(st.sampled_from(sorted(self.answered))), outcome))

    @rule(seconds=st.floats(0, 40))
    def pass_time(self, seconds: float) -> None:
        self.advance(seconds)

    @rule(seconds=st.floats(-1e6, 0))
    def jump_back(self, seconds: float) -> None:
        self.handle(TimePassed(), self.now + seconds)

    @invariant()
    def farm_and_model_agree(self) -> None:
        self.check()
        assert self.farm.waiting.keys() == self.waiting.keys()
        assert {number: lease.host.name for number, lease in self.farm.leases.items()} == (
            self.leased
        )
        assert {
            number: (backup.host.name, backup.attempt)
            for number, backup in self.farm.backups.items()
        } == self.backups

    @invariant()
    def nothing_waits_beside_a_free_slot(self) -> None:
        if self.policy == "earliest":
            return  # it lets a request wait for a faster slot; that it comes back is seen below
        for host in self.farm.hosts.values():
            assert not host.free or host.in_use + len(host.free) == host.slots
            if host.state is State.UP and host.free and host.tier is not None:
                for request in self.waiting.values():
                    assert not request.may_use(host), f"{request} waits, {host.name} is free"

    @invariant()
    def nothing_waits_beyond_its_time(self) -> None:
        for request in self.waiting.values():
            assert request.wait_s is None or self.now <= request.arrived + request.wait_s + 1e-6

    @invariant()
    def hosts_are_known_for_a_reason(self) -> None:
        for host in self.farm.hosts.values():
            reports = host.load_at is not None and not host.silent
            known = host.added or host.listed or host.leases or reports or host.watchers
            assert known, f"{host.name} is forgotten"
            if host.added:
                listed = host.listed is not None and host.listed.static
                assert host.offered is not None or listed, f"{host.name} is added without a reason"

    @invariant()
    def nothing_waits_without_hope(self) -> None:
        if self.now < self.hopes_until:
            return  # hosts may return
        hosts_in_use = [host for host in self.farm.hosts.values() if host.tier is not None]
        for request in self.waiting.values():
            assert any(request.may_use(host) for host in hosts_in_use)

    @invariant()
    def snapshot_adds_up(self) -> None:
        snapshot = take_snapshot(self.farm)
        totals = snapshot["totals"]
        leases = len(self.leased) + len(self.backups)
        assert totals["slots_in_use"] == leases + totals["strays"]
        assert snapshot["totals"]["requests_waiting"] == len(self.waiting)
        for host in snapshot["hosts"]:
            assert (host["state"] == "up") == (not host["reason"] or host["tier"] is not None)

    def teardown(self) -> None:
        """When the clients vanish, everything drains, and a drain ends."""
        for number in [*self.waiting, *self.leased]:
            self.waiting.pop(number, None)
            self.leased.pop(number, None)
            self.backups.pop(number, None)
            self.play(RequestEnded(number, Outcome()))
        assert not self.draining
        assert not self.farm.leases
        assert not self.farm.waiting
        for host in self.farm.hosts.values():
            assert len(host.free) == max(0, host.slots - host.strays)
        self.advance(1000.0)
        self.check()
