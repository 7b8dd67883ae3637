"""Who is to blame for a bad end: a command, a builder, a host's door to a compiler, or a host."""

from __future__ import annotations

import pytest
from farmyard import DONE, FAILED, PORT, Farmyard

from compilefarm.core.events import CompileJudged, HostProbed, HostRemoved
from compilefarm.core.farm.closures import LACKS_FOR_S
from compilefarm.core.farm.commands import HOME_FOR_S
from compilefarm.core.farm.failures import DIFFERS_WITHIN_S, EXIT_COMPILER_MISSING
from compilefarm.core.farm.holds import HOLD_S
from compilefarm.core.farm.quarantine import QUARANTINE_S
from compilefarm.core.model import Outcome
from compilefarm.core.placement.tier import TierPolicy
from compilefarm.protocol.compilers import CompilerInfo

ERROR = Outcome(exit=1, verdict_later=True)
GCC = CompilerInfo("3f9a11c2d4e5f607", "gcc", "12.2.0", "x86_64-linux-gnu", "gcc 12.2.0-14")


class Blameyard(Farmyard):
    """A farm whose probes the test answers, and the verdicts of builders."""

    def __init__(self, *hosts: str) -> None:
        super().__init__(policy=TierPolicy(), answers_probes=False)
        for name in hosts:
            self.joins(name, slots=2)

    def answers(self, name: str, *, compiles: bool = True, compiler: str = "gcc") -> None:
        """Let a host answer its probe."""
        assert name in self.probed()
        self.play(HostProbed(name, True, compiled=compiles, compiler=compiler))

    def fails(self, name: str, source: str = "a.c", **wanted: str) -> None:
        """Let a compile fail on a host without a result."""
        others = frozenset(self.farm.hosts) - {name}
        compiler = wanted.pop("compiler", "gcc")
        builder = wanted.pop("builder", "b")
        number = self.ask(source, compiler=compiler, builder=builder, avoid=others, wait_s=0.0)
        assert self.host_of(number) == name
        self.end(number, FAILED)

    def differs(
        self, name: str, source: str, builder: str = "b", *, door: str = "", reason: str = ""
    ) -> None:
        """Let a compile end with an error on a host, and well on its builder."""
        self.play(CompileJudged(name, "gcc", door, source, "/ann", builder, 1, 0, reason))

    def hosts_for(self, compiler: str = "gcc", builder: str = "b") -> set[str]:
        """Return the hosts that a builder gets for a compiler now."""
        found: set[str] = set()
        numbers = []
        while True:
            number = self.ask("x.c", compiler=compiler, builder=builder, wait_s=0.0)
            name = self.host_of(number)
            if name is None:
                break
            numbers.append(number)
            found.add(name)
        for number in numbers:
            self.end(number, Outcome())
        self.refused()
        return found


@pytest.fixture
def yard() -> Blameyard:
    return Blameyard("desk1", "desk2", "desk3")


# -- this command


def test_a_command_that_differs_on_two_hosts_stays_at_home(yard: Blameyard) -> None:
    yard.differs("desk1", "main.c")
    yard.differs("desk2", "main.c")
    number = yard.ask("main.c", compiler="gcc")
    assert yard.refused() == {number: "main.c compiles only on its builder"}
    assert yard.compiles(source="util.c", compiler="gcc")
    yard.passes(HOME_FOR_S)
    assert yard.compiles(source="main.c", compiler="gcc")


def test_a_command_that_stays_at_home_counts_against_no_door(yard: Blameyard) -> None:
    for source in ("main.c", "util.c"):
        yard.differs("desk1", source, builder="b1")
        yard.differs("desk2", source, builder="b1")
    assert yard.hosts_for(builder="b2") == {"desk1", "desk2", "desk3"}


def test_an_object_that_cannot_be_written_takes_no_host_from_its_builder(yard: Blameyard) -> None:
    for name in ("desk1", "desk2"):
        yard.fails(name, "main.c")
        yard.answers(name)
    number = yard.ask("main.c", compiler="gcc")
    assert yard.refused() == {number: "main.c compiles only on its builder"}
    assert yard.hosts_for() == {"desk1", "desk2", "desk3"}


def test_hosts_that_do_not_answer_explain_a_commands_failures(yard: Blameyard) -> None:
    for name in ("desk1", "desk2"):
        yard.fails(name, "main.c")
        yard.play(HostProbed(name, False, compiler="gcc"))
    assert yard.compiles(source="main.c", compiler="gcc") == "desk3"


# -- this builder


def test_a_builder_that_fails_everywhere_takes_no_host_from_others(yard: Blameyard) -> None:
    for number, name in enumerate(("desk1", "desk2", "desk3")):
        yard.fails(name, f"{number}.c", builder="b1")
        yard.answers(name)
    assert yard.hosts_for(builder="b1") == set()
    assert yard.hosts_for(builder="b2") == {"desk1", "desk2", "desk3"}
    yard.fails("desk1", builder="b2")
    yard.answers("desk1")
    assert yard.is_up("desk1"), "b1 does not speak against it"


def test_a_builder_that_cannot_use_a_host_loses_it_for_longer_each_time(yard: Blameyard) -> None:
    times = []
    for number in range(3):
        yard.fails("desk1", f"{number}.c")
        yard.answers("desk1")
        began = yard.now
        while "desk1" not in yard.hosts_for():
            yard.passes(0.5)
        times.append(yard.now - began)
    assert times == [HOLD_S, 2 * HOLD_S, 4 * HOLD_S]
    noted = yard.noted()
    assert "builder b cannot use this host, although the server can; firewall?" in noted


def test_requests_that_wait_do_not_get_a_host_that_failed_for_their_builder() -> None:
    yard = Blameyard("desk1")
    first, second = yard.ask(compiler="gcc"), yard.ask(compiler="gcc")
    third = yard.ask("c.c", compiler="gcc")
    other = yard.ask("d.c", compiler="gcc", builder="b2")
    assert yard.waits(third)
    yard.end(first, FAILED)
    assert yard.host_of(other) == "desk1"
    assert third in yard.refused()
    assert yard.host_of(second) == "desk1"


def test_a_request_that_came_during_a_hold_gets_the_host_once_the_hold_has_ended() -> None:
    yard = Blameyard("desk1", "desk2")
    running = [yard.ask("r.c", compiler="gcc") for _ in range(4)]
    failing = next(each for each in running if yard.host_of(each) == "desk1")
    yard.end(failing, FAILED)
    late = yard.ask("late.c", compiler="gcc")
    assert yard.waits(late), "desk1 is held back, and desk2 is full"
    yard.play(HostProbed("desk1", False, compiler="gcc"))
    yard.joins("desk1", slots=2)
    assert yard.host_of(late) == "desk1"


def test_a_request_outlives_a_hold_whose_time_is_over() -> None:
    yard = Blameyard("desk1", "desk2")
    running = [yard.ask("r.c", compiler="gcc") for _ in range(4)]
    failing = next(each for each in running if yard.host_of(each) == "desk1")
    yard.end(failing, FAILED)
    late = yard.ask("late.c", compiler="gcc")
    yard.answers("desk1")
    yard.until(yard.now + 2 * HOLD_S)
    yard.play(HostRemoved("desk2", PORT))
    assert late not in yard.refused()
    assert yard.host_of(late) == "desk1"


def test_one_builders_odd_files_close_no_door_for_others(yard: Blameyard) -> None:
    yard.differs("desk1", "1.c", "b1")
    yard.differs("desk1", "2.c", "b1")
    assert yard.hosts_for(builder="b2") == {"desk2", "desk3"}
    yard.differs("desk2", "3.c", "b1")
    yard.differs("desk2", "4.c", "b1")
    assert yard.hosts_for(builder="b2") == {"desk1", "desk2", "desk3"}
    assert yard.hosts_for(builder="b1") == {"desk3"}
    yard.answers("desk1", compiles=False)
    assert yard.hosts_for(builder="b2") == {"desk2", "desk3"}, "the probe knows better"


# -- this host's door to this compiler


def test_two_sources_that_differ_close_a_door(yard: Blameyard) -> None:
    yard.differs("desk1", "util.c")
    assert yard.hosts_for() == {"desk1", "desk2", "desk3"}
    yard.differs("desk1", "main.c")
    assert yard.hosts_for() == {"desk2", "desk3"}
    assert yard.hosts_for("clang") == {"desk1", "desk2", "desk3"}
    reason = "gcc fails here where builders succeed: main.c, 2 times"
    assert yard.farm.hosts["desk1"].reason == reason
    yard.passes(LACKS_FOR_S)
    assert yard.hosts_for() == {"desk1", "desk2", "desk3"}
    assert yard.farm.hosts["desk1"].reason == ""


@pytest.mark.parametrize("second", ["main.c", "old.c"])
def test_one_source_twice_or_long_ago_closes_no_door(yard: Blameyard, second: str) -> None:
    yard.differs("desk1", second)
    if second == "old.c":
        yard.passes(DIFFERS_WITHIN_S)
    yard.differs("desk1", "main.c")
    assert yard.hosts_for() == {"desk1", "desk2", "desk3"}


def test_an_error_that_the_builder_gets_too_counts_for_nothing(yard: Blameyard) -> None:
    for source in ("1.c", "2.c", "3.c"):
        yard.play(CompileJudged("desk1", "gcc", "", source, "/ann", "b", 1, 1))
    assert yard.hosts_for() == {"desk1", "desk2", "desk3"}


def test_a_few_odd_files_among_many_close_no_door() -> None:
    yard = Blameyard("desk1")
    yard.differs("desk1", "odd1.c")
    for number in range(20):
        yard.compiles(source=f"{number}.c", compiler="gcc", took_s=0.1)
    yard.differs("desk1", "odd2.c")
    assert yard.hosts_for() == {"desk1"}


def test_wrong_objects_close_the_door_of_an_id(yard: Blameyard) -> None:
    yard.has_compilers("desk1", GCC)
    for source in ("main.c", "util\n.c"):
        yard.differs("desk1", source, door=GCC.door, reason="it is\nempty")
    desk = yard.farm.hosts["desk1"]
    assert desk.closed_doors == {GCC.id}
    assert desk.reason.isprintable()
    assert "gives wrong objects" in desk.reason
    yard.joins("desk1", slots=2)
    assert (desk.closed_doors, desk.reason) == (frozenset(), "")


def test_a_compiler_that_most_hosts_lack_takes_no_host_from_another() -> None:
    """A distccd that may not run a compiler answers, and compiles nothing."""
    hosts = {f"desk{number}" for number in range(1, 7)}
    yard = Blameyard(*sorted(hosts))
    for name in sorted(hosts - {"desk6"}):
        yard.fails(name, compiler="clang")
        assert yard.hosts_for("gcc") == hosts
        yard.answers(name, compiles=False, compiler="clang")
        assert yard.hosts_for("gcc") == hosts
    assert yard.hosts_for("clang") == {"desk6"}


def test_an_unknown_compiler_of_one_builder_takes_no_host_from_others(yard: Blameyard) -> None:
    for name in ("desk1", "desk2", "desk3"):
        yard.fails(name, compiler="ccache", builder="b1")
        yard.answers(name, compiles=False, compiler="ccache")
    assert yard.hosts_for("ccache", "b1") == set()
    for builder in ("b1", "b2"):
        assert yard.hosts_for("gcc", builder) == {"desk1", "desk2", "desk3"}


def test_a_missing_compiler_closes_its_door_at_once(yard: Blameyard) -> None:
    number = yard.ask(compiler="clang", avoid=frozenset({"desk2", "desk3"}))
    yard.end(number, Outcome(exit=EXIT_COMPILER_MISSING, failed=True))
    assert yard.hosts_for("clang") == {"desk2", "desk3"}
    assert not yard.probed()


# -- this host


def test_a_host_that_fails_for_two_builders_is_quarantined(yard: Blameyard) -> None:
    yard.fails("desk1", builder="b1")
    yard.answers("desk1")
    assert yard.hosts_for(builder="b2") == {"desk1", "desk2", "desk3"}
    yard.fails("desk1", builder="b2")
    yard.answers("desk1")
    assert not yard.is_up("desk1")
    yard.passes(QUARANTINE_S)
    yard.answers("desk1")
    assert yard.is_up("desk1")


def test_a_builder_that_compiles_well_speaks_for_a_host(yard: Blameyard) -> None:
    yard.fails("desk1", builder="b1")
    yard.answers("desk1")
    yard.passes(1.0)
    others = frozenset({"desk2", "desk3"})
    assert yard.compiles(builder="b3", compiler="gcc", avoid=others) == "desk1"
    yard.fails("desk1", builder="b2")
    yard.answers("desk1")
    assert yard.is_up("desk1")


def test_a_host_that_is_away_is_not_probed_for_ever(yard: Blameyard) -> None:
    number = yard.ask(compiler="gcc", avoid=frozenset({"desk2", "desk3"}))
    yard.play(HostRemoved("desk1", PORT))
    yard.end(number, FAILED)
    yard.passes(3600.0)
    assert not yard.probed()


# -- what a lease that ended with an error says


def test_an_error_is_no_success_of_its_host() -> None:
    yard = Blameyard("desk1")
    for number in range(3):
        yard.compiles(ERROR, took_s=3.0, source=f"{number}.c", compiler="gcc")
        assert yard.learning.cost("/ann", f"{number}.c") is None
    yard.differs("desk1", "1.c")
    yard.compiles(ERROR, compiler="gcc")
    assert yard.farm.hosts["desk1"].differing["gcc"].successes == 0
    yard.compiles(DONE, compiler="gcc")
    assert yard.farm.hosts["desk1"].differing["gcc"].successes == 1
