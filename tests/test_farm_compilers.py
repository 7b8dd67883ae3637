"""Requests that say which compiler they need: only hosts that have it get them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from farmyard import ADDRESS, DONE, PORT, Farmyard, tier_yard

from compilefarm.core.compilers import ProbedCompiler, Sameness
from compilefarm.core.events import (
    BackUp,
    CompilerProbed,
    CompilersReported,
    HostAdded,
    HostRemoved,
    LeaseAttached,
    LoadReported,
    ProbeCompiler,
    ReportsEnded,
)
from compilefarm.core.farm.compiler_probes import ASK_AGAIN_S, NAMES_LIMIT, UNWANTED_S
from compilefarm.core.farm.demand import ASKED_LIMIT
from compilefarm.core.farm.returns import ATTACH_WITHIN_S
from compilefarm.core.farm.roster import LOST_AFTER_S
from compilefarm.core.model import Host, Load, Request
from compilefarm.core.snapshot import take_snapshot
from compilefarm.protocol.compilers import CompilerInfo
from compilefarm.protocol.declaration import Declaration

X86, ARM = "x86_64-linux-gnu", "aarch64-linux-gnu"


def gcc(
    revision: str = "12.2.0-14", number: int = 1, target: str = X86, name: str = "gcc"
) -> CompilerInfo:
    """Return a gcc; `number` tells builds of the same revision apart."""
    id = f"{sum(map(ord, f'{revision} {target} {name}')) * 100 + number:016x}"
    version = revision.partition("-")[0]
    return CompilerInfo(id, name, version, target, f"{name} {revision} ({target})")


OLD, DEBIAN, REBUILT = gcc("11.3.0-12"), gcc("12.2.0-14"), gcc("12.2.0-14", 2)
POINT, ARM_GCC = gcc("12.2.0-14+deb12u1"), gcc("12.2.0-14", target=ARM)
PROBED = ProbedCompiler("gcc", "12.2.0", "12.2.0-14", "x86_64")
SENT = f"{X86}-gcc"


@pytest.fixture
def yard() -> Farmyard:
    return tier_yard()


def joins_with(yard: Farmyard, name: str, *compilers: CompilerInfo, slots: int = 1) -> Host:
    """Let a host with an agent join that has these compilers."""
    host = yard.joins(name, slots)
    yard.has_compilers(name, *compilers)
    return host


def ask(yard: Farmyard, compiler: CompilerInfo, sameness: Sameness = Sameness.SAME) -> int:
    """Let a client ask for a slot for a compile with this compiler."""
    return yard.ask(compiler=compiler.name, identity=compiler, sameness=sameness)


# -- which host


def test_a_request_goes_only_where_its_compiler_is(yard: Farmyard) -> None:
    joins_with(yard, "fast", OLD, slots=8)
    joins_with(yard, "slow", OLD, DEBIAN)
    number = ask(yard, DEBIAN)
    assert yard.host_of(number) == "slow"
    assert yard.leases[number].door == DEBIAN.door
    assert yard.waits(ask(yard, DEBIAN)), "the other host has free slots, and another compiler"


def test_a_request_that_names_no_id_goes_anywhere_under_its_plain_name(yard: Farmyard) -> None:
    joins_with(yard, "desk1", OLD)
    number = yard.ask(compiler="gcc")
    assert yard.host_of(number) == "desk1"
    assert yard.leases[number].door == ""


def test_the_name_that_a_builder_calls_does_not_matter(yard: Farmyard) -> None:
    yard.joins("desk1", compilers="gcc-12")
    yard.has_compilers("desk1", DEBIAN)
    assert yard.host_of(yard.ask(compiler="cc", identity=DEBIAN)) == "desk1"


def test_an_equal_version_is_enough_only_if_the_farm_says_so(yard: Farmyard) -> None:
    joins_with(yard, "desk1", POINT, ARM_GCC, OLD)
    assert ask(yard, DEBIAN) in yard.refused()
    number = ask(yard, DEBIAN, Sameness.VERSION)
    assert yard.leases[number].door == POINT.door
    yard.end(number)
    other_name = gcc("12.2.0-14", name="g++")
    for unlike in (gcc("12.1.0"), gcc("12.2.0", target="riscv64-linux-gnu"), other_name):
        assert ask(yard, unlike, Sameness.VERSION) in yard.refused()


def test_the_very_compiler_goes_before_an_equal_version(yard: Farmyard) -> None:
    joins_with(yard, "desk1", POINT, DEBIAN, REBUILT)
    for sameness in Sameness:
        number = ask(yard, DEBIAN, sameness)
        assert yard.leases[number].door == DEBIAN.door
        yard.end(number)


def test_any_compiler_of_the_name_is_enough_if_the_farm_says_so(yard: Farmyard) -> None:
    joins_with(yard, "desk1", OLD)
    number = ask(yard, DEBIAN, Sameness.ANY)
    assert yard.leases[number].door == ""
    yard.end(number)
    yard.joins("desk1", compilers="clang")
    assert ask(yard, DEBIAN, Sameness.ANY) in yard.refused(), "it declares that it has no gcc"


def test_a_backup_goes_only_where_the_compiler_is() -> None:
    yard = Farmyard(answers_probes=False)
    joins_with(yard, "slow", DEBIAN)
    number = yard.ask(compiler="gcc", identity=DEBIAN, can_back_up=True)
    yard.passes(1.0)
    assert yard.host_of(number) == "slow"
    yard.joins("fast", power_index=50.0)
    yard.has_compilers("fast", POINT)
    yard.passes(60.0)
    assert yard.take(BackUp) == []
    yard.has_compilers("fast", POINT, DEBIAN)
    yard.passes(60.0)
    assert yard.backup_of(number) == "fast"
    assert yard.backups[number].door == DEBIAN.door


# -- lists change


def test_a_compiler_that_appears_counts_at_once(yard: Farmyard) -> None:
    joins_with(yard, "desk1", OLD)
    joins_with(yard, "desk2", DEBIAN)
    first, second = ask(yard, DEBIAN), ask(yard, DEBIAN)
    assert yard.waits(second)
    yard.has_compilers("desk1", OLD, DEBIAN)
    assert (yard.host_of(first), yard.host_of(second)) == ("desk2", "desk1")


def test_leases_for_a_compiler_that_vanished_are_revoked_and_no_others(yard: Farmyard) -> None:
    joins_with(yard, "desk1", OLD, DEBIAN, slots=3)
    old, gone, plain = ask(yard, OLD), ask(yard, DEBIAN), yard.ask(compiler="gcc")
    yard.has_compilers("desk1", OLD, POINT)
    assert yard.revoked() == {gone: f"desk1 no longer has {DEBIAN.door}"}
    assert {old, plain} == yard.leases.keys()
    assert ask(yard, DEBIAN) in yard.refused()


def test_a_request_that_loses_its_last_host_waits_no_longer(yard: Farmyard) -> None:
    joins_with(yard, "desk1", DEBIAN)
    running, waiting = ask(yard, DEBIAN), ask(yard, DEBIAN)
    yard.has_compilers("desk1")
    assert running in yard.revoked()
    assert waiting in yard.refused()


def test_a_host_whose_agent_is_gone_has_no_doors(yard: Farmyard) -> None:
    host = joins_with(yard, "desk1", DEBIAN)
    number = ask(yard, DEBIAN)
    yard.play(CompilersReported("desk1", None))
    assert number in yard.revoked()
    assert host.agent_compilers is None


def test_a_host_that_the_farm_does_not_know_may_report(yard: Farmyard) -> None:
    yard.has_compilers("desk9", DEBIAN)
    assert not yard.farm.hosts


def test_until_its_agent_has_reported_a_host_has_no_compiler(yard: Farmyard) -> None:
    yard.play(HostAdded(Declaration("desk1", slots=2), ADDRESS, has_agent=True))
    assert ask(yard, DEBIAN) in yard.refused()
    assert yard.probed_for_compilers() == [], "its agent will say it"
    yard.has_compilers("desk1", DEBIAN)
    assert yard.host_of(ask(yard, DEBIAN)) == "desk1"


def test_an_agent_that_comes_back_keeps_the_leases_that_run(yard: Farmyard) -> None:
    """Until it has reported, there are no new ones: distccd may have other doors now."""
    joins_with(yard, "desk1", DEBIAN, slots=2)
    yard.reports()
    running = ask(yard, DEBIAN)
    yard.play(ReportsEnded("desk1"))
    again = LoadReported("desk1", PORT, ADDRESS, Load(), returning=True, has_agent=True)
    yard.play(again)
    assert yard.host_of(running) == "desk1"
    assert ask(yard, DEBIAN) not in yard.leases
    yard.has_compilers("desk1", DEBIAN)
    assert yard.host_of(running) == "desk1"
    assert yard.host_of(ask(yard, DEBIAN)) == "desk1"


def test_a_host_that_is_lost_has_no_compilers(yard: Farmyard) -> None:
    """What a host reported is kept no longer than its leases."""
    host = joins_with(yard, "desk1", DEBIAN, slots=2)
    other = joins_with(yard, "desk2", DEBIAN)
    yard.reports()
    yard.reports("desk2")
    number = ask(yard, DEBIAN)
    assert yard.host_of(number) == "desk1"
    yard.play(ReportsEnded("desk1"))
    yard.play(ReportsEnded("desk2"))
    assert [host.agent_compilers, other.agent_compilers] == [(DEBIAN,), ()]
    yard.passes(LOST_AFTER_S)
    assert number in yard.revoked()
    assert [host.agent_compilers, other.agent_compilers] == [(), ()]


def test_a_host_that_falls_silent_and_was_never_added_is_forgotten(yard: Farmyard) -> None:
    yard.reports()
    yard.has_compilers("desk1", DEBIAN)
    yard.play(ReportsEnded("desk1"))
    assert not yard.farm.hosts


# -- doors


def test_a_closed_door_closes_nothing_else(yard: Farmyard) -> None:
    host = joins_with(yard, "desk1", DEBIAN, OLD, slots=3)
    running = ask(yard, DEBIAN)
    yard.closes(host, DEBIAN)
    assert yard.host_of(running) == "desk1"
    assert yard.host_of(ask(yard, OLD)) == "desk1"
    for sameness in Sameness:
        assert ask(yard, DEBIAN, sameness) in yard.refused()
    yard.opens(host, DEBIAN)
    assert yard.host_of(ask(yard, DEBIAN)) == "desk1"


def test_a_closed_door_stays_closed_while_the_compiler_is_there(yard: Farmyard) -> None:
    host = joins_with(yard, "desk1", DEBIAN)
    yard.closes(host, DEBIAN)
    yard.has_compilers("desk1", DEBIAN, OLD)
    assert ask(yard, DEBIAN) in yard.refused()
    yard.has_compilers("desk1", OLD)
    yard.has_compilers("desk1", DEBIAN, OLD)
    assert yard.host_of(ask(yard, DEBIAN)) == "desk1"


def test_only_a_compiler_that_a_host_has_can_be_closed(yard: Farmyard) -> None:
    host = joins_with(yard, "desk1", DEBIAN)
    yard.closes(host, OLD)
    assert host.closed_doors == frozenset()


# -- why there is no host


def refusal(yard: Farmyard, compiler: CompilerInfo, **wanted: str) -> str:
    """Let a client ask; return why it was refused."""
    yard.passes(2.0)  # a reason is kept for a moment
    number = yard.ask(compiler=compiler.name, identity=compiler, **wanted)  # type: ignore[arg-type]
    return yard.refused()[number]


def test_the_reason_names_the_nearest_compiler(yard: Farmyard) -> None:
    joins_with(yard, "desk1", OLD, gcc("13.1.0", name="g++"))
    mine = f"no host has your {POINT.text}"
    assert refusal(yard, POINT) == f"{mine}; 1 host has 11.3.0-12"
    joins_with(yard, "desk2", ARM_GCC)
    assert refusal(yard, POINT) == f"{mine}; 1 host has 11.3.0-12", "its target is the same"
    joins_with(yard, "desk3", DEBIAN)
    joins_with(yard, "desk4", DEBIAN, REBUILT)
    assert refusal(yard, POINT) == f"{mine}; 2 hosts have 12.2.0-14"
    assert refusal(yard, gcc("9", name="clang")) == f"no host has your clang 9 ({X86})"
    riscv = gcc("12.2.0", target="riscv64-linux-gnu")
    assert refusal(yard, riscv) == f"no host has your {riscv.text}; 2 hosts have 12.2.0-14 ({X86})"
    other_build = gcc("12.2.0-14", 3)
    wanted = f"no host has your {other_build.text}; 2 hosts have another build of it"
    assert refusal(yard, other_build) == wanted


def test_the_reason_is_another_if_the_compiler_is_not_what_is_missing(yard: Farmyard) -> None:
    assert refusal(yard, DEBIAN) == "no host is available"
    host = joins_with(yard, "desk1", DEBIAN)
    joins_with(yard, "desk2", OLD)
    assert refusal(yard, DEBIAN, type="arm64") == "no host of type arm64"
    avoids = yard.ask(compiler="gcc", identity=DEBIAN, avoid=frozenset({"desk1"}))
    assert yard.refused()[avoids] == "no host is left that was not to be avoided"
    yard.closes(host, DEBIAN)
    assert refusal(yard, DEBIAN) == (
        f"1 host has your {DEBIAN.text}, but compiles with it failed there"
    )
    yard.opens(host, DEBIAN)
    yard.play(CompilersReported("desk1", (DEBIAN,)))
    yard.reports("desk1", Load(distccd="gone"))
    assert refusal(yard, DEBIAN) == f"1 host has your {DEBIAN.text}, but cannot be used now"


def test_the_snapshot_counts_requests_by_compiler(yard: Farmyard) -> None:
    host = joins_with(yard, "desk1", DEBIAN, OLD, slots=2)
    joins_with(yard, "desk2", DEBIAN, slots=4)
    yard.closes(host, OLD)
    yard.end(ask(yard, DEBIAN))
    ask(yard, DEBIAN)
    ask(yard, ARM_GCC)
    compilers = {each["id"]: each for each in take_snapshot(yard.farm)["compilers"]}
    assert compilers.keys() == {DEBIAN.id, OLD.id, ARM_GCC.id}
    assert dict(compilers[DEBIAN.id]) == {
        "id": DEBIAN.id,
        "name": "gcc",
        "version": "12.2.0",
        "target": X86,
        "text": DEBIAN.text,
        "hosts": 2,
        "slots": 6,
        "hosts_closed": 0,
        "requests_granted": 2,
        "requests_refused": 0,
    }
    assert (compilers[OLD.id]["hosts"], compilers[OLD.id]["slots"]) == (1, 0)
    assert compilers[OLD.id]["hosts_closed"] == 1
    assert compilers[ARM_GCC.id]["requests_refused"] == 1
    assert compilers[ARM_GCC.id]["hosts"] == 0


def test_the_compilers_that_builders_ask_for_are_bounded(yard: Farmyard) -> None:
    for number in range(ASKED_LIMIT + 10):
        ask(yard, gcc("12.2.0", number))
    assert len(yard.farm.demand.asked) == ASKED_LIMIT


# -- hosts without an agent


def test_hosts_without_an_agent_are_probed_once(yard: Farmyard) -> None:
    yard.joins("desk1")
    yard.joins("desk2")
    joins_with(yard, "desk3", OLD)
    number = ask(yard, DEBIAN)
    assert yard.probed_for_compilers() == [("desk1", SENT), ("desk2", SENT)]
    assert yard.waits(number), "a host may turn out to have it"
    yard.play(CompilerProbed("desk1", SENT, replace_(PROBED, version="11.3.0")))
    assert yard.waits(number)
    yard.play(CompilerProbed("desk2", SENT, PROBED))
    assert yard.host_of(number) == "desk2"
    assert yard.leases[number].door == "", "it has no door: the plain name is sent"
    yard.end(number)
    ask(yard, DEBIAN)
    assert yard.probed_for_compilers() == []


def replace_(found: ProbedCompiler, **words: str) -> ProbedCompiler:
    """Return what a probe found, with these words in place of its own."""
    return found._replace(**{"full_version": words.get("version", found.full_version), **words})


@pytest.mark.parametrize(
    ("found", "same", "version"),
    [
        (PROBED, True, True),
        (PROBED._replace(full_version="12.2.0-15"), False, True),
        (PROBED._replace(architecture="aarch64"), False, False),
        (PROBED._replace(family="clang"), False, False),
        (PROBED._replace(version="12.1.0"), True, False),
        (None, False, False),
    ],
)
def test_what_counts_as_the_same_without_an_id(
    found: ProbedCompiler | None, same: bool, version: bool
) -> None:
    for sameness, expected in ((Sameness.SAME, same), (Sameness.VERSION, version)):
        yard = tier_yard()
        yard.joins()
        number = ask(yard, DEBIAN, sameness)
        yard.play(CompilerProbed("desk1", SENT, found))
        assert (number in yard.leases) == expected
        assert (number in yard.refused()) != expected


def test_no_host_is_probed_if_any_compiler_counts(yard: Farmyard) -> None:
    yard.joins()
    assert yard.host_of(ask(yard, DEBIAN, Sameness.ANY)) == "desk1"
    assert yard.probed_for_compilers() == []


def test_a_host_that_comes_later_is_probed_too(yard: Farmyard) -> None:
    joins_with(yard, "desk1", DEBIAN)
    ask(yard, DEBIAN)
    yard.joins("desk2")
    assert yard.probed_for_compilers() == [("desk2", SENT)]
    yard.play(CompilerProbed("desk2", SENT, PROBED))
    assert yard.host_of(ask(yard, DEBIAN)) == "desk2"
    yard.joins("desk2")
    assert yard.probed_for_compilers() == [("desk2", SENT)], "it registered again"


def test_a_host_that_did_not_compile_is_asked_again(yard: Farmyard) -> None:
    yard.joins()
    number = ask(yard, DEBIAN)
    yard.look_away()
    yard.play(CompilerProbed("desk1", SENT, None))
    assert number in yard.refused()
    yard.passes(ASK_AGAIN_S)
    assert yard.probed_for_compilers() == [("desk1", SENT)]
    assert ask(yard, DEBIAN) in yard.refused(), "nothing waits for the second answer"
    yard.play(CompilerProbed("desk1", SENT, PROBED))
    assert yard.host_of(ask(yard, DEBIAN)) == "desk1"


def test_a_host_whose_agent_came_meanwhile_is_known_by_its_list(yard: Farmyard) -> None:
    yard.joins()
    number = ask(yard, DEBIAN)
    yard.has_compilers("desk1", OLD)
    yard.play(CompilerProbed("desk1", SENT, PROBED))
    assert number in yard.refused()


def test_a_host_that_left_meanwhile_leaves_no_one_waiting(yard: Farmyard) -> None:
    yard.joins("desk1")
    joins_with(yard, "desk2", OLD)
    number = ask(yard, DEBIAN)
    yard.play(HostRemoved("desk1", PORT))
    yard.play(CompilerProbed("desk1", SENT, PROBED))
    assert number in yard.refused()


def test_a_builder_with_many_names_causes_few_probes(yard: Farmyard) -> None:
    yard.joins()
    for number in range(NAMES_LIMIT + 10):
        yard.ask(compiler=f"gcc-{number}", identity=DEBIAN)
    yard.ask(compiler="no name; at all", identity=DEBIAN)
    assert len(yard.probed_for_compilers()) == NAMES_LIMIT
    yard.passes(UNWANTED_S)
    yard.ask(compiler="clang", identity=DEBIAN)
    assert yard.probed_for_compilers() == [("desk1", "clang")]


# -- the -j worth using


def test_jobs_count_only_slots_that_will_do(yard: Farmyard) -> None:
    joins_with(yard, "desk1", DEBIAN, slots=8)
    joins_with(yard, "desk2", OLD, slots=16)
    wanted = Request(0, "ada", compiler="gcc", identity=DEBIAN)

    def jobs(request: Request) -> int:
        return yard.farm.jobs_worth_using(request)

    assert jobs(wanted) == 1 + 8
    assert jobs(replace(wanted, identity=None)) == 1 + 24
    assert jobs(replace(wanted, type="arm64")) == 1
    assert jobs(replace(wanted, identity=ARM_GCC)) == 1
    yard.joins("desk3", slots=4)
    assert jobs(wanted) == 1 + 8 + 4, "it may turn out to have it"
    assert yard.take(ProbeCompiler) == [], "a question changes nothing"
    assert jobs(replace(wanted, sameness=Sameness.ANY)) == 1 + 28


# -- after a restart


def test_a_lease_that_is_attached_keeps_its_door(yard: Farmyard) -> None:
    request = yard.request(compiler="gcc", identity=DEBIAN)
    yard.play(LeaseAttached(request, "desk1", PORT, 1.0, DEBIAN.door))
    yard.play(HostAdded(Declaration("desk1", slots=2), ADDRESS, returning=True, has_agent=True))
    assert request.id in yard.farm.leases
    yard.leases[request.id] = yard.farm.leases[request.id]
    yard.has_compilers("desk1", DEBIAN)
    yard.passes(ATTACH_WITHIN_S)
    assert yard.host_of(request.id) == "desk1"
    yard.has_compilers("desk1", OLD)
    assert request.id in yard.revoked()


def test_a_lease_for_a_compiler_that_is_gone_is_not_attached(yard: Farmyard) -> None:
    joins_with(yard, "desk1", OLD)
    request = yard.request(compiler="gcc", identity=DEBIAN)
    yard.leases[request.id] = None  # type: ignore[assignment]  # the yard forgets it when revoked
    yard.play(LeaseAttached(request, "desk1", PORT, 1.0, DEBIAN.door))
    assert request.id in yard.revoked()
    assert not yard.farm.leases
    yard.end(yard.ask(compiler="gcc"), DONE)


# -- kinds of hosts


def test_hosts_with_equal_compilers_are_of_one_kind(yard: Farmyard) -> None:
    for number in range(20):
        joins_with(yard, f"desk{number}", DEBIAN, OLD)
        yard.has_compilers(f"desk{number}", OLD, DEBIAN)
    offers = {id(host.offer) for host in yard.farm.hosts.values()}
    assert len(offers) == 1
    yard.closes(yard.farm.hosts["desk1"], OLD)
    yard.closes(yard.farm.hosts["desk2"], OLD)
    assert len({id(host.offer) for host in yard.farm.hosts.values()}) == 2
