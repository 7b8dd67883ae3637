"""The farm after a server was killed, or in the place of another: what runs is not forgotten.

Stories like those of tests/test_farm.py, played against the farm alone. The servers before this one
are not there: all that is left of them is what hosts report, what clients attach, and what was kept
of the hosts' availability.
"""

from __future__ import annotations

from typing import Any

import pytest
from test_farm import DONE, PORT, Story

from compilefarm.core.events import (
    AvailabilityChanged,
    EarlierLife,
    HostAdded,
    HostDrained,
    HostRemoved,
    HostsListed,
    LeaseAttached,
    LeaseEnded,
    LoadReported,
    RequestArrived,
    RequestEnded,
)
from compilefarm.core.farm.farm import LOST_AFTER_S, SETTLE_AGAIN_S, SETTLE_S, Farm
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Availability, Host, Load, Outcome, Request, State
from compilefarm.core.placement.earliest.policy import EarliestPolicy
from compilefarm.core.snapshot import take_snapshot
from compilefarm.protocol.declaration import Declaration

ADDRESS = "10.0.0.1"


class Restart(Story):
    """A story that begins where another server's ended."""

    def returns(self, name: str = "desk1", slots: int = 2) -> Host:
        """Have a host return, as its load reporter makes it."""
        self.happens(HostAdded(Declaration(name, PORT, slots), ADDRESS, returning=True))
        return self.farm.hosts[name]

    def runs(self, compiles: int | None, name: str = "desk1", returning: bool = False) -> None:
        """Have a host report that so many compiles run there."""
        load = Load(compiles=compiles)
        self.happens(LoadReported(name, PORT, ADDRESS, load, returning))

    def attaches(self, name: str = "desk1", running_s: float = 3.0, **words: Any) -> int:
        """Have a client attach its lease; return the lease's id."""
        self._last_id += 1
        request = Request(self._last_id, "ada", **words)
        self.happens(LeaseAttached(request, name, PORT, running_s))
        return self._last_id

    def knows(self, *hosts: Availability) -> None:
        """Have an earlier life known these."""
        self.happens(EarlierLife(hosts))

    def kept(self, name: str = "desk1") -> Availability | None:
        """Return what is to be kept of a host; that it changed was said."""
        assert [effect.name for effect in self._taken(AvailabilityChanged)].count(name) >= 1
        return self.farm.availability(name)


@pytest.fixture
def story() -> Restart:
    return Restart()


def available(name: str = "desk1", slots: int = 2, reported: bool = False) -> Availability:
    return Availability(Declaration(name, PORT, slots), ADDRESS, True, reported)


def strays(host: Host) -> int:
    return host.strays


# -- hosts return, and leases attach


def test_a_host_that_returns_is_held_until_leases_had_time_to_attach(story: Restart) -> None:
    host = story.returns(slots=3)
    story.runs(2)
    waiting = story.asks()
    assert story.waits(waiting)
    first, second = story.attaches(), story.attaches()
    assert host.in_use == 3
    story.passes(SETTLE_S)
    assert story.runs_on(waiting) == "desk1"
    story.ends(first)
    story.ends(second)
    assert len(host.free) == 2


def test_a_lease_that_ends_while_its_host_is_held_frees_its_slot(story: Restart) -> None:
    story.returns(slots=1)
    lease = story.attaches()
    waiting = story.asks()
    story.ends(lease)
    assert story.runs_on(waiting) == "desk1"


def test_what_is_not_attached_is_in_use_until_the_host_says_otherwise(story: Restart) -> None:
    host = story.returns(slots=3)
    story.runs(3)
    story.attaches()
    story.passes(SETTLE_S)
    assert strays(host) == 2
    waiting = story.asks()
    story.runs(2)
    assert story.runs_on(waiting) == "desk1"
    story.runs(2)  # one that was attached, and one granted since or a stray: at most two
    assert (len(host.leases), strays(host)) == (2, 0)


def test_a_host_without_reports_is_free_once_it_has_settled(story: Restart) -> None:
    story.knows(available(slots=2))
    waiting = [story.asks(), story.asks()]
    story.attaches()
    assert all(story.waits(each) for each in waiting)
    story.passes(SETTLE_S)
    assert story.runs_on(waiting[0]) == "desk1"
    assert story.waits(waiting[1])


def test_a_lease_may_attach_before_its_host_is_back(story: Restart) -> None:
    lease = story.attaches()
    host = story.farm.hosts["desk1"]
    assert (host.state, set(host.leases)) == (State.AWAY, {lease})
    assert "not come back" in take_snapshot(story.farm)["hosts"][0]["reason"]
    story.returns(slots=2)
    assert (host.state, len(host.free), host.in_use) == (State.UP, 0, 2)
    story.passes(SETTLE_S)
    assert len(host.free) == 1
    assert not story.probed()


def test_a_host_that_never_comes_back_is_forgotten_with_its_last_lease(story: Restart) -> None:
    lease = story.attaches()
    story.passes(1000)
    assert not story.probed(), "a client's word is no reason to connect anywhere"
    story.ends(lease)
    assert not story.farm.hosts


def test_more_leases_attach_than_there_are_slots(story: Restart) -> None:
    """Two servers granted the same slots, or a host came back smaller: none is free meanwhile."""
    host = story.returns(slots=2)
    story.passes(SETTLE_S)
    own = [story.asks(), story.asks()]
    late = [story.attaches(), story.attaches()]
    waiting = story.asks()
    assert host.in_use == 4
    story.ends(own[0])
    story.ends(late[0])
    assert story.waits(waiting)
    story.ends(own[1])
    assert story.runs_on(waiting) == "desk1"
    assert host.in_use == 2


def test_an_attached_lease_is_as_old_as_its_client_says(story: Restart) -> None:
    story.returns()
    lease = story.attaches(running_s=7.0)
    story.passes(1)
    story.ends(lease)
    [ended] = story._taken(LeaseEnded)
    assert ended.ended - ended.lease.granted == 8.0


def test_attached_leases_are_learned_from_in_full() -> None:
    learning = Learning()
    farm = Farm(EarliestPolicy(learning))
    farm.handle(HostAdded(Declaration("desk1", PORT, 2, 4.0), ADDRESS, returning=True), 100.0)
    farm.handle(LeaseAttached(Request(1, directory="/d", source="a.c"), "desk1", PORT, 9.0), 100.5)
    done = Outcome(exit=0, wall_s=9.9, cpu_s=0.0)
    farm.handle(RequestEnded(1, done), 101.5)
    cost = learning.cost("/d", "a.c")
    assert cost is not None
    assert cost == pytest.approx(9.9 * 4.0, rel=0.05)


def test_a_lease_on_a_silent_host_is_taken_back_unless_the_host_returns(story: Restart) -> None:
    story.knows(available(reported=True))
    lost = story.attaches()
    story.passes(LOST_AFTER_S)
    assert story.revoked().keys() == {lost}
    kept = story.attaches()
    story.returns()
    story.passes(LOST_AFTER_S)
    assert not story.revoked()
    story.ends(kept)


def test_stragglers_do_not_hold_a_host_again(story: Restart) -> None:
    host = story.returns(slots=4)
    story.passes(SETTLE_S)
    story.attaches()
    assert len(host.free) == 3
    story.passes(SETTLE_AGAIN_S)
    story.attaches()  # of another server's, which may have had more
    assert not host.free
    story.passes(SETTLE_S)
    assert len(host.free) == 2


# -- requests meanwhile


def test_who_waited_before_is_not_refused_while_hosts_return(story: Restart) -> None:
    story.happens(RequestArrived(Request(1, "ada", returning=True)))
    later = Request(2, "bob")
    story.happens(RequestArrived(later))
    assert not story.refused()
    story.returns()
    story.passes(SETTLE_S)
    assert (story.runs_on(1), story.runs_on(2)) == ("desk1", "desk1")


def test_hope_has_an_end(story: Restart) -> None:
    story.knows()
    number = story.asks()
    assert story.waits(number)
    story.passes(SETTLE_S)
    assert story.refused().keys() == {number}
    assert story.asks() in story.refused()


# -- another server's leases


def test_compiles_of_others_are_in_use(story: Restart) -> None:
    host = story.joins(slots=4)
    story.runs(3)  # the first report: there were no leases that could have ended since
    assert (strays(host), len(host.free)) == (3, 1)
    own, waiting = story.asks(), story.asks()
    assert story.waits(waiting)
    story.runs(4)
    assert strays(host) == 3
    story.runs(2)
    assert story.runs_on(waiting) == "desk1"
    story.ends(own)


def test_a_report_that_was_overtaken_by_an_end_is_no_stray(story: Restart) -> None:
    host = story.joins(slots=2)
    story.runs(0)
    leases = [story.asks(), story.asks()]
    for lease in leases:
        story.ends(lease)
    story.runs(2)
    assert not strays(host)
    story.runs(2)
    assert not strays(host), "the report before had two leases to explain it"
    story.runs(2)
    assert strays(host) == 2
    story.runs(1)
    assert strays(host) == 1
    story.runs(None)
    assert not strays(host)


def test_strays_are_shown(story: Restart) -> None:
    story.joins(slots=4)
    story.runs(3)
    snapshot = take_snapshot(story.farm)
    [host] = snapshot["hosts"]
    assert (host["strays"], host["slots_in_use"], host["slots_free"]) == (3, 3, 1)
    assert "3 compiles run there without a lease" in host["reason"]
    assert snapshot["totals"]["strays"] == 3


# -- availability survives


def test_what_was_added_by_hand_is_kept(story: Restart) -> None:
    story.joins(slots=2)
    kept = story.kept()
    assert kept is not None
    assert kept.available
    assert not kept.reported
    after = Restart()
    after.knows(kept)
    after.passes(SETTLE_S)
    assert after.runs_on(after.asks()) == "desk1"


def test_a_host_that_reported_is_used_once_it_does_again(story: Restart) -> None:
    story.joins(slots=2)
    story.reports()
    kept = story.kept()
    assert kept is not None
    assert kept.reported
    after = Restart()
    after.knows(kept)
    assert after.farm.hosts["desk1"].state is State.SILENT
    after.runs(0, returning=True)
    after.passes(SETTLE_S)
    assert after.runs_on(after.asks()) == "desk1"


def test_what_was_removed_stays_so_until_somebody_adds_it(story: Restart) -> None:
    story.joins()
    story.happens(HostRemoved("desk1", PORT))
    kept = story.kept()
    assert kept is not None
    assert not kept.available
    for after in (story, Restart()):
        if after is not story:
            after.knows(kept)
        after.happens(HostAdded(Declaration("desk1", PORT, 2), ADDRESS, returning=True))
        assert "desk1" not in after.farm.hosts
        after.joins()
        assert after.is_up()
        again = after.kept()
        assert again is not None
        assert again.available


def test_what_is_removed_before_it_returns_stays_out(story: Restart) -> None:
    story.happens(HostRemoved("desk1", PORT))
    kept = story.kept()
    assert kept is not None
    assert not kept.available
    story.happens(HostAdded(Declaration("desk1", PORT, 2), ADDRESS, returning=True))
    assert "desk1" not in story.farm.hosts
    story.joins()
    assert story.is_up()


def test_a_drain_that_was_called_off_is_forgotten(story: Restart) -> None:
    story.happens(HostAdded(Declaration("desk1", PORT, 2), ADDRESS))
    story.asks()
    story.happens(HostDrained("desk1", PORT, 60.0))
    kept = story.kept()
    assert kept is not None
    assert not kept.available
    story.happens(HostAdded(Declaration("desk1", PORT, 2), ADDRESS))
    again = story.kept()
    assert again is not None
    assert again.available


def test_a_static_host_that_was_removed_stays_so(story: Restart) -> None:
    listed = HostsListed((Declaration("desk1", None, 2, static=True, address=ADDRESS),))
    story.happens(listed)
    story.happens(HostRemoved("desk1", PORT))
    kept = story.kept()
    assert kept is not None
    after = Restart()
    after.happens(listed)
    after.knows(kept)
    assert not after.is_up()
    after.happens(listed)
    assert not after.is_up()


def test_a_host_that_was_draining_is_not_used_again(story: Restart) -> None:
    story.joins()
    lease = story.asks()
    story.happens(HostDrained("desk1", PORT, 60.0))
    kept = story.kept()
    assert kept is not None
    assert not kept.available
    story.happens(HostAdded(Declaration("desk1", PORT, 2), ADDRESS, returning=True))
    assert not story.is_up()
    story.ends(lease, DONE)
    assert story.drained() == [("desk1", 0, "")]


def test_a_return_that_says_nothing_new_is_not_kept_again(story: Restart) -> None:
    story.returns()
    story.kept()
    story.effects.clear()
    story.returns()
    assert not story._taken(AvailabilityChanged)
