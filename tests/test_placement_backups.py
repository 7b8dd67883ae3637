"""Backups: a compile on a slow host begins again on a faster one that is idle; nothing is lost."""

from __future__ import annotations

import sys
from types import FrameType

import pytest
from farmyard import DONE, Farmyard, host

from compilefarm.core.events import (
    BackupEnded,
    HostAdded,
    HostRemoved,
    LeaseEnded,
    LoadReported,
    RequestEnded,
)
from compilefarm.core.model import Ending, Load, Outcome, State
from compilefarm.protocol.ports import DISTCCD_PORT

FAILED = Outcome(exit=116, failed=True)


def slow_and_fast() -> tuple[Farmyard, int]:
    """Return a farm on which a file runs on the slow host, and the fast one has just come free."""
    yard = Farmyard(host("fast", 1, 10), host("slow", 1, 1))
    first = yard.ask("a.c", can_back_up=True)
    giant = yard.ask("giant.c", can_back_up=True)
    yard.until(yard.now + 0.1)
    assert (yard.host_of(first), yard.host_of(giant)) == ("fast", "slow")
    yard.end(first)
    return yard, giant


def test_a_file_on_a_slow_host_begins_again_on_a_fast_one_that_is_idle() -> None:
    yard, giant = slow_and_fast()
    assert yard.backup_of(giant) is None, "its builder may be about to ask again"
    yard.until(yard.now + 1.0)
    assert yard.backup_of(giant) == "fast"
    assert yard.host_of(giant) == "slow", "the first attempt goes on"
    assert [host.in_use for host in yard.farm.hosts.values()] == [1, 1]
    yard.until(yard.now + 3.0)
    yard.end_by_backup(giant)
    assert yard.farm.totals.overtaken == 1
    assert not any(host.in_use for host in yard.farm.hosts.values())
    cost_s = yard.learning.cost("/ann", "giant.c")
    assert cost_s is not None
    assert cost_s > 10.0, "learned from the attempt that counts, on the host that did it"


def test_the_first_attempt_may_be_first_all_the_same() -> None:
    yard, giant = slow_and_fast()
    yard.until(yard.now + 1.0)
    assert yard.backup_of(giant) == "fast"
    yard.end(giant)
    assert not yard.farm.backups
    assert not any(host.in_use for host in yard.farm.hosts.values())
    assert yard.farm.hosts["fast"].failures == yard.farm.hosts["slow"].failures == 0


def test_a_backup_makes_way_for_a_request() -> None:
    yard, giant = slow_and_fast()
    yard.until(yard.now + 1.0)
    assert yard.backup_of(giant) == "fast"
    yard.play(HostAdded(host("medium", 1, 3), "medium"))
    other = yard.ask("b.c", user="bob", can_back_up=True)
    yard.until(yard.now + 0.1)
    assert yard.host_of(other) == "fast", "though the medium one was free"
    assert yard.host_of(giant) == "slow"
    yard.until(yard.now + 1.0)
    assert yard.backup_of(giant) == "medium"


def test_a_faster_slot_takes_the_backup_over() -> None:
    yard = Farmyard(host("fast", 1, 10), host("medium", 1, 3), host("slow", 1, 1))
    first, second, giant = (yard.ask(source, can_back_up=True) for source in ("a.c", "b.c", "c.c"))
    yard.until(yard.now + 0.1)
    yard.end(second)
    yard.until(yard.now + 2.0)
    assert yard.backup_of(giant) == "medium"
    yard.end(first)
    yard.until(yard.now + 2.0)
    assert yard.backup_of(giant) == "fast"
    assert len(yard.farm.backups) == 1


def test_who_cannot_run_a_backup_gets_none() -> None:
    yard = Farmyard(host("fast", 1, 10), host("slow", 1, 1))
    first, giant = yard.ask("a.c"), yard.ask("giant.c")
    yard.until(yard.now + 30.0)
    yard.end(first)
    yard.until(yard.now + 30.0)
    assert yard.host_of(giant) == "fast" or yard.backup_of(giant) is None
    assert not yard.farm.totals.backed_up


@pytest.mark.parametrize("backups", [True, False])
def test_a_host_that_comes_later_serves_for_backups_unless_the_server_gives_none(
    backups: bool,
) -> None:
    yard = Farmyard(host("slow", 1, 1), backups=backups)
    giant = yard.ask("giant.c", can_back_up=True)
    yard.until(yard.now + 1.0)
    yard.play(HostAdded(host("fast", 1, 10), "fast"))
    yard.until(yard.now + 1.0)
    assert yard.backup_of(giant) == ("fast" if backups else None)


def test_a_host_that_will_not_do_gets_no_backup() -> None:
    yard = Farmyard(host("fast", 1, 10, compilers=frozenset({"clang"})), host("slow", 1, 1))
    giant = yard.ask("giant.c", compiler="gcc", can_back_up=True)
    yard.until(yard.now + 30.0)
    assert yard.host_of(giant) == "slow"
    assert yard.backup_of(giant) is None


def test_like_files_are_not_begun_twice() -> None:
    """A file that costs the same as all others ends sooner where it runs."""
    yard = Farmyard(host("fast", 1, 1.5), host("slow", 1, 1))
    for number in range(40):
        one = yard.ask(f"{number}.c", can_back_up=True)
        yard.until(yard.now + 2.0)
        yard.end(one)
    first, second = yard.ask("x.c", can_back_up=True), yard.ask("y.c", can_back_up=True)
    yard.until(yard.now + 2.0)
    assert (yard.host_of(first), yard.host_of(second)) == ("fast", "slow")
    yard.end(first)
    yard.until(yard.now + 0.9)
    assert yard.backup_of(second) is None, "of three seconds of work, one is left"
    yard.until(yard.now + 5.0)
    assert yard.backup_of(second) == "fast", "it is not like the others"


def test_a_host_that_fails_a_backup_is_held_back_and_the_compile_goes_on() -> None:
    yard, giant = slow_and_fast()
    yard.until(yard.now + 1.0)
    backup = yard.backups.pop(giant)
    yard.play(BackupEnded(giant, backup.attempt, FAILED))
    yard.until(yard.now + 1.0)
    assert yard.backup_of(giant) is None
    assert yard.farm.hosts["fast"].state is State.UP, "others can use it"
    assert yard.host_of(giant) == "slow"
    assert yard.farm.totals.failed == 1


def test_a_host_that_leaves_takes_the_backup_with_it_and_nothing_else() -> None:
    yard, giant = slow_and_fast()
    yard.until(yard.now + 1.0)
    yard.play(HostRemoved("fast", DISTCCD_PORT))
    assert yard.backup_of(giant) == "fast", "what runs goes on"
    yard.play(LoadReported("fast", DISTCCD_PORT, "fast", Load(distccd="gone")))
    yard.until(yard.now + 30.0)
    assert yard.host_of(giant) == "slow"


def test_lines_that_cross_end_no_backup_but_the_one_that_is_meant() -> None:
    yard, giant = slow_and_fast()
    yard.until(yard.now + 1.0)
    number = yard.backups[giant].attempt
    yard.play(BackupEnded(giant, number + 1, FAILED))
    assert yard.farm.backups[giant].attempt == number
    assert not yard.farm.totals.failed


def test_a_client_that_gives_its_backups_up_is_offered_no_more() -> None:
    """Its source has an error in it, perhaps, and each attempt costs a preprocessing."""
    yard, giant = slow_and_fast()
    for _ in range(2):
        yard.until(yard.now + 1.0)
        yard.play(
            BackupEnded(giant, yard.backups.pop(giant).attempt, Outcome(ending=Ending.GIVEN_UP))
        )
    yard.until(yard.now + 60.0)
    assert yard.backup_of(giant) is None
    yard.end(giant)


def test_a_compile_that_was_done_as_its_backup_was_taken_back_has_been_done_there() -> None:
    yard, giant = slow_and_fast()
    yard.until(yard.now + 1.0)
    number = yard.backups[giant].attempt
    yard.ask("b.c", user="bob")
    yard.until(yard.now + 0.1)
    assert yard.backup_of(giant) is None
    del yard.leases[giant]
    ended = [
        (effect.lease.host.name, effect.outcome.exit)
        for effect in yard.play(RequestEnded(giant, DONE, number))
        if isinstance(effect, LeaseEnded)
    ]
    assert ended == [("slow", None), ("fast", 0)]


def test_a_compile_on_a_host_whose_owner_came_is_begun_elsewhere() -> None:
    """A host whose load goes up gets no more compiles, and those that it has are backed up."""
    yard = Farmyard(host("desk", 1, 10), host("other", 1, 8))
    compiled = yard.ask("a.c", can_back_up=True)
    yard.until(yard.now + 0.1)
    assert yard.host_of(compiled) == "desk"
    yard.until(yard.now + 5.0)
    assert yard.backup_of(compiled) is None, "the other host is slower"
    busy = Load(foreign_cpus=1.0, cpus=1)
    yard.play(LoadReported("desk", DISTCCD_PORT, "desk", busy))
    yard.until(yard.now + 2.0)
    assert yard.backup_of(compiled) == "other"


def test_an_attempt_that_its_backup_overtook_is_not_charged_to_its_user() -> None:
    yard = Farmyard(host("fast", 1, 1000), host("slow", 1, 100))
    holds = yard.ask("a.c", "cat")
    yard.until(yard.now + 0.1)
    giant = yard.ask("giant.c", "ann", can_back_up=True)
    yard.until(yard.now + 5.0)
    assert yard.host_of(giant) == "slow"
    yard.end(holds)
    bobs = yard.ask("b.c", "bob")
    yard.until(yard.now + 0.3)
    yard.end(bobs)
    yard.until(yard.now + 0.1)
    assert yard.backup_of(giant) == "fast"
    yard.end_by_backup(giant)
    # Bob got 300 s of work, and Ann less than 100; with what was overtaken it would be 600.
    busy = yard.ask("c.c", "eve"), yard.ask("d.c", "dan")
    yard.until(yard.now + 0.1)
    bobs, anns = yard.ask("e.c", "bob"), yard.ask("f.c", "ann")
    yard.until(yard.now + 0.1)
    assert not {bobs, anns} & yard.leases.keys()
    yard.end(busy[0])
    assert yard.host_of(anns) is not None
    assert yard.host_of(bobs) is None


def test_an_attempt_that_was_overtaken_says_nothing_of_its_host() -> None:
    yard, giant = slow_and_fast()
    yard.until(yard.now + 2.0)
    slow = yard.farm.leases[giant].host
    before = slow.compiles
    yard.end_by_backup(giant)
    assert slow.compiles == before, "the overtaken attempt is not a compile of this host"
    assert slow.failures == 0


def test_many_backups_at_once_cost_no_look_at_all_leases_for_each() -> None:
    """Twice as many cost about twice as much."""
    assert calls_for_backups(60) < 3 * calls_for_backups(30)


def calls_for_backups(count: int) -> int:
    """Return how many Python calls the core makes to begin `count` backups at once."""
    yard = Farmyard(host("fast", count, 10), host("slow", count, 1))
    asked = [yard.ask(f"{number}.c", can_back_up=True) for number in range(2 * count)]
    yard.until(yard.now + 0.1)
    slow = [number for number in asked if yard.host_of(number) == "slow"]
    for number in set(asked) - set(slow):
        yard.end(number)
    calls = 0

    def counted(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and "placement" in frame.f_code.co_filename

    sys.setprofile(counted)
    try:
        yard.until(yard.now + 1.0)
    finally:
        sys.setprofile(None)
    assert [yard.backup_of(number) for number in slow] == ["fast"] * count
    return calls


def test_a_busy_farm_wakes_nobody_to_look_for_backups() -> None:
    yard = Farmyard(host("fast", 1, 10), host("slow", 1, 1))
    first, giant = yard.ask("a.c", can_back_up=True), yard.ask("giant.c", can_back_up=True)
    yard.until(yard.now + 0.1)
    yard.end(first)
    next_due = yard.farm.policy.next_deadline()
    assert next_due is not None
    other = yard.ask("b.c", can_back_up=True)
    assert yard.host_of(other) == "fast"
    assert yard.farm.policy.next_deadline() is None
    yard.until(yard.now + 1.0)
    assert yard.backup_of(giant) is None
    yard.end(other)
    due = yard.farm.policy.next_deadline()
    assert due is not None
    assert due > yard.now, "its builder may be about to ask again"
