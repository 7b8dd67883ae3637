"""The model of `farm_model.py` with compilers: what hosts reported, and what probes found there.

A request that names a compiler may be granted on a host that has reported this compiler. It may
also be granted on a host without an agent, if a probe has found one like it. The rule is `same`.
"""

from __future__ import annotations

import hypothesis.strategies as st
from farm_model import FarmMachine, hosts
from hypothesis.stateful import initialize, invariant, precondition, rule

from compilefarm.core.compilers import ProbedCompiler
from compilefarm.core.events import (
    BackUp,
    CompilerProbed,
    CompilersReported,
    Effect,
    Event,
    Grant,
    HostAdded,
    LeaseAttached,
    LoadReported,
    ProbeCompiler,
    RequestArrived,
)
from compilefarm.core.farm.returns import ATTACH_WITHIN_S
from compilefarm.core.model import Lease, Load, Request
from compilefarm.protocol.compilers import CompilerInfo
from compilefarm.protocol.declaration import Declaration

TARGET = "x86_64-linux-gnu"
SENT = f"{TARGET}-gcc"
GCCS = tuple(
    CompilerInfo(f"{number:016x}", "gcc", f"{number}.1.0", TARGET, f"gcc {number}.1.0 ({TARGET})")
    for number in (11, 12, 13)
)
FOUND = tuple(ProbedCompiler("gcc", each.version, each.version, "x86_64") for each in GCCS)

compilers = st.sampled_from(GCCS)
lists = st.lists(compilers, unique=True).map(tuple)


class CompilersMachine(FarmMachine):
    """Hosts with and without agents, and requests that name a compiler."""

    def __init__(self) -> None:
        super().__init__()
        self.reported: dict[str, tuple[CompilerInfo, ...]] = {}  # by hosts with an agent
        self.awaited: set[str] = set()
        self.found: dict[str, ProbedCompiler | None] = {}  # on hosts without one
        self.compiler_probes: list[str] = []

    @initialize()
    def have_agents(self) -> None:
        for host, has in (("alder", GCCS[:2]), ("birch", GCCS[1:])):
            self.play(HostAdded(Declaration(host, slots=2), "127.0.0.1"))
            self.report_compilers(host, has)
        self.play(HostAdded(Declaration("cedar", slots=2), "127.0.0.1"))

    # -- the model

    def handle(self, event: Event, now: float) -> list[Effect]:
        match event:
            case HostAdded(declaration):
                self.found.pop(declaration.host, None)
                if event.has_agent:
                    self.await_compilers(declaration.host)
            case LoadReported(host) if event.has_agent:
                self.await_compilers(host)
            case CompilerProbed(host, _, found) if host not in self.reported:
                self.found[host] = found
        effects = super().handle(event, now)
        for effect in effects:
            match effect:
                case Grant(lease) | BackUp(lease):
                    self.has_its_compiler(lease)
                case ProbeCompiler(host, _, _, sent):
                    assert sent == SENT
                    assert host not in self.compiler_probes, "probed twice at once"
                    self.compiler_probes.append(host)
        return effects

    def await_compilers(self, host: str) -> None:
        self.awaited.add(host)
        self.reported.setdefault(host, ())
        self.found.pop(host, None)

    def has_its_compiler(self, lease: Lease) -> None:
        """Assert that a lease is on a host that has the compiler of its request."""
        wanted, host = lease.request.identity, lease.host.name
        if wanted is None:
            assert lease.door == ""
        elif host in self.reported:
            assert host not in self.awaited, "granted before the agent has reported"
            assert wanted in self.reported[host], "granted where the compiler is not"
            assert lease.door == wanted.door
        else:
            found = self.found.get(host)
            assert found is not None, "granted where nothing is known"
            assert found.version == wanted.version, "granted where another compiler is"
            assert lease.door == ""

    # -- what happens

    @rule(host=hosts, reported=st.none() | lists)
    def report_compilers(self, host: str, reported: tuple[CompilerInfo, ...] | None) -> None:
        known = self.farm.hosts.get(host)
        kept = dict(known.leases) if known is not None else {}
        self.awaited.discard(host)
        self.found.pop(host, None)
        self.reported.pop(host, None)
        if known is not None and reported is not None:
            self.reported[host] = reported
        self.play(CompilersReported(host, reported))
        doors = {"", *(compiler.door for compiler in reported or ())}
        for lease in kept.values():
            stays = lease.id in (known.leases if known is not None else {})
            assert lease.door not in doors or stays or lease.is_backup, "it was revoked"
            assert lease.door in doors or not stays, "it was not revoked"

    @rule(host=hosts)
    def begin_reports(self, host: str) -> None:
        """A host's agent connects, and will report its compilers later."""
        self.play(LoadReported(host, 3632, "127.0.0.1", Load(), has_agent=True))

    @rule(host=hosts, reported=st.none() | lists)
    def come_up(self, host: str, reported: tuple[CompilerInfo, ...] | None) -> None:
        """A host joins with its compilers; without this rule, few hosts are up."""
        self.play(HostAdded(Declaration(host, slots=2), "127.0.0.1"))
        self.report_compilers(host, reported)

    @rule(
        count=st.integers(1, 4),
        compiler=compilers,
        backup=st.booleans(),
        answers=st.lists(st.none() | st.sampled_from(FOUND), max_size=4),
    )
    def request_for_compiler(
        self,
        count: int,
        compiler: CompilerInfo,
        backup: bool,
        answers: list[ProbedCompiler | None],
    ) -> None:
        for _ in range(count):
            self.last_id += 1
            request = Request(
                self.last_id, "ada", compiler="gcc", identity=compiler, can_back_up=backup
            )
            self.waiting[request.id] = request
            self.play(RequestArrived(request))
        for found in answers[: len(self.compiler_probes)]:
            self.answer_compiler_probe(found)

    @rule(host=hosts, compiler=compilers)
    def attach_with_door(self, host: str, compiler: CompilerInfo) -> None:
        self.last_id += 1
        request = Request(self.last_id, "ada", compiler="gcc", identity=compiler)
        self.leased[request.id] = host
        self.hopes_until = self.now + ATTACH_WITHIN_S
        self.play(LeaseAttached(request, host, 3632, 1.0, compiler.door))

    @precondition(lambda self: self.compiler_probes)
    @rule(found=st.none() | st.sampled_from(FOUND))
    def answer_compiler_probe(self, found: ProbedCompiler | None) -> None:
        self.play(CompilerProbed(self.compiler_probes.pop(0), SENT, found))

    # -- what holds

    def has_hope(self, request: Request) -> bool:
        undecided = request.identity is not None and bool(self.compiler_probes)
        return undecided or super().has_hope(request)

    @invariant()
    def offers_are_shared(self) -> None:
        by_list: dict[object, int] = {}
        for host in self.farm.hosts.values():
            if host.agent_compilers is not None and not host.compilers_awaited:
                key = (frozenset(host.agent_compilers), host.closed_doors)
                assert by_list.setdefault(key, id(host.offer)) == id(host.offer)

    def teardown(self) -> None:
        """Every probe is answered in the end."""
        while self.compiler_probes:
            self.answer_compiler_probe(None)
        super().teardown()
