"""The farm after a server was killed, or in place of another: compiles that run are not forgotten.

The servers before this one are gone. All that is left of them: the compiles that hosts report, the
leases that clients attach, and the hosts' availability, which was saved.
"""

from __future__ import annotations

import pytest
from farmyard import ADDRESS, DONE, PORT, Farmyard

from compilefarm.core.events import (
    AvailabilityChanged,
    EarlierLife,
    HostAdded,
    HostDrained,
    HostRemoved,
    HostsListed,
    LeaseAttached,
    LeaseEnded,
    RequestArrived,
    RequestEnded,
)
from compilefarm.core.farm.farm import Farm
from compilefarm.core.farm.returns import ATTACH_AGAIN_AFTER_S, ATTACH_WITHIN_S
from compilefarm.core.farm.roster import LOST_AFTER_S
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Availability, Host, Load, Outcome, Request, State
from compilefarm.core.placement.earliest.policy import EarliestPolicy
from compilefarm.core.placement.tier import TierPolicy
from compilefarm.core.snapshot import take_snapshot
from compilefarm.protocol.declaration import Declaration


class Restart(Farmyard):
    """A farm of a server that follows another one."""

    def __init__(self) -> None:
        super().__init__(policy=TierPolicy(), answers_probes=False)

    def returns(self, name: str = "desk1", slots: int = 2) -> Host:
        """Let a host return, as its load reporter does it."""
        self.play(HostAdded(Declaration(name, PORT, slots), ADDRESS, returning=True))
        return self.farm.hosts[name]

    def runs(self, compiles: int | None, name: str = "desk1", returning: bool = False) -> None:
        """Let a host report how many compiles run there."""
        self.reports(name, Load(compiles=compiles), returning=returning)

    def attaches(self, name: str = "desk1", running_s: float = 3.0) -> int:
        """Let a client attach its lease; return the lease's id."""
        request = self.request()
        self.play(LeaseAttached(request, name, PORT, running_s))
        self.leases[request.id] = self.farm.leases[request.id]
        return request.id

    def knows(self, *hosts: Availability) -> None:
        """Let an earlier life of the server have known these hosts."""
        self.play(EarlierLife(hosts))

    def kept(self, name: str = "desk1") -> Availability | None:
        """Return the availability to be saved; the farm said that it changed."""
        assert [effect.name for effect in self.take(AvailabilityChanged)].count(name) >= 1
        return self.farm.availability(name)


@pytest.fixture
def yard() -> Restart:
    return Restart()


def available(name: str = "desk1", slots: int = 2, reported: bool = False) -> Availability:
    return Availability(Declaration(name, PORT, slots), ADDRESS, True, reported)


def strays(host: Host) -> int:
    return host.strays


# -- hosts return, and leases attach


def test_a_host_that_returns_grants_nothing_until_leases_had_time_to_attach(yard: Restart) -> None:
    host = yard.returns(slots=3)
    yard.runs(2)
    waiting = yard.ask()
    assert yard.waits(waiting)
    first, second = yard.attaches(), yard.attaches()
    assert host.in_use == 3
    yard.passes(ATTACH_WITHIN_S)
    assert yard.host_of(waiting) == "desk1"
    yard.end(first)
    yard.end(second)
    assert len(host.free) == 2


def test_a_lease_that_ends_in_the_attach_time_frees_its_slot(yard: Restart) -> None:
    yard.returns(slots=1)
    lease = yard.attaches()
    waiting = yard.ask()
    yard.end(lease)
    assert yard.host_of(waiting) == "desk1"


def test_slots_without_a_lease_are_in_use_until_the_host_reports_otherwise(yard: Restart) -> None:
    host = yard.returns(slots=3)
    yard.runs(3)
    yard.attaches()
    yard.passes(ATTACH_WITHIN_S)
    assert strays(host) == 2
    waiting = yard.ask()
    yard.runs(2)
    assert yard.host_of(waiting) == "desk1"
    yard.runs(2)  # one that was attached, and one granted since or a stray: at most two
    assert (len(host.leases), strays(host)) == (2, 0)


def test_a_host_without_reports_is_free_after_the_attach_time(yard: Restart) -> None:
    yard.knows(available(slots=2))
    waiting = [yard.ask(), yard.ask()]
    yard.attaches()
    assert all(yard.waits(each) for each in waiting)
    yard.passes(ATTACH_WITHIN_S)
    assert yard.host_of(waiting[0]) == "desk1"
    assert yard.waits(waiting[1])


def test_a_lease_may_attach_before_its_host_is_back(yard: Restart) -> None:
    lease = yard.attaches()
    host = yard.farm.hosts["desk1"]
    assert (host.state, set(host.leases)) == (State.AWAY, {lease})
    assert "not returned yet" in take_snapshot(yard.farm)["hosts"][0]["reason"]
    yard.returns(slots=2)
    assert (host.state, len(host.free), host.in_use) == (State.UP, 0, 2)
    yard.passes(ATTACH_WITHIN_S)
    assert len(host.free) == 1
    assert not yard.probed()


def test_a_host_that_never_comes_back_is_forgotten_with_its_last_lease(yard: Restart) -> None:
    lease = yard.attaches()
    yard.passes(1000)
    assert not yard.probed(), "a client's word is no reason to connect anywhere"
    yard.end(lease)
    assert not yard.farm.hosts


def test_more_leases_attach_than_there_are_slots(yard: Restart) -> None:
    """Two servers granted the same slots, or a host came back smaller: none is free meanwhile."""
    host = yard.returns(slots=2)
    yard.passes(ATTACH_WITHIN_S)
    own = [yard.ask(), yard.ask()]
    late = [yard.attaches(), yard.attaches()]
    waiting = yard.ask()
    assert host.in_use == 4
    yard.end(own[0])
    yard.end(late[0])
    assert yard.waits(waiting)
    yard.end(own[1])
    assert yard.host_of(waiting) == "desk1"
    assert host.in_use == 2


def test_an_attached_lease_is_as_old_as_its_client_says(yard: Restart) -> None:
    yard.returns()
    lease = yard.attaches(running_s=7.0)
    yard.passes(1)
    yard.end(lease)
    [ended] = yard.take(LeaseEnded)
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


def test_a_lease_on_a_silent_host_is_taken_back_unless_the_host_returns(yard: Restart) -> None:
    yard.knows(available(reported=True))
    lost = yard.attaches()
    yard.passes(LOST_AFTER_S)
    assert yard.revoked().keys() == {lost}
    kept = yard.attaches()
    yard.returns()
    yard.passes(LOST_AFTER_S)
    assert not yard.revoked()
    yard.end(kept)


def test_late_leases_do_not_begin_the_attach_time_again(yard: Restart) -> None:
    host = yard.returns(slots=4)
    yard.passes(ATTACH_WITHIN_S)
    yard.attaches()
    assert len(host.free) == 3
    yard.passes(ATTACH_AGAIN_AFTER_S)
    yard.attaches()  # of another server's, which may have had more
    assert not host.free
    yard.passes(ATTACH_WITHIN_S)
    assert len(host.free) == 2


# -- requests meanwhile


def test_requests_that_waited_before_are_not_refused_while_hosts_return(yard: Restart) -> None:
    yard.play(RequestArrived(Request(1, "ada", returning=True)))
    later = Request(2, "bob")
    yard.play(RequestArrived(later))
    assert not yard.refused()
    yard.returns()
    yard.passes(ATTACH_WITHIN_S)
    assert (yard.host_of(1), yard.host_of(2)) == ("desk1", "desk1")


def test_requests_are_refused_when_no_host_has_returned(yard: Restart) -> None:
    yard.knows()
    number = yard.ask()
    assert yard.waits(number)
    yard.passes(ATTACH_WITHIN_S)
    assert yard.refused().keys() == {number}
    assert yard.ask() in yard.refused()


# -- another server's leases


def test_compiles_without_a_lease_use_slots(yard: Restart) -> None:
    host = yard.joins(slots=4)
    yard.runs(3)  # the first report: there were no leases that could have ended since
    assert (strays(host), len(host.free)) == (3, 1)
    own, waiting = yard.ask(), yard.ask()
    assert yard.waits(waiting)
    yard.runs(4)
    assert strays(host) == 3
    yard.runs(2)
    assert yard.host_of(waiting) == "desk1"
    yard.end(own)


def test_a_report_that_was_overtaken_by_an_end_is_no_stray(yard: Restart) -> None:
    host = yard.joins(slots=2)
    yard.runs(0)
    leases = [yard.ask(), yard.ask()]
    for lease in leases:
        yard.end(lease)
    yard.runs(2)
    assert not strays(host)
    yard.runs(2)
    assert not strays(host), "the report before had two leases to explain it"
    yard.runs(2)
    assert strays(host) == 2
    yard.runs(1)
    assert strays(host) == 1
    yard.runs(None)
    assert not strays(host)


def test_strays_are_shown(yard: Restart) -> None:
    yard.joins(slots=4)
    yard.runs(3)
    snapshot = take_snapshot(yard.farm)
    [host] = snapshot["hosts"]
    assert (host["strays"], host["slots_in_use"], host["slots_free"]) == (3, 3, 1)
    assert "3 compiles run there without a lease" in host["reason"]
    assert snapshot["totals"]["strays"] == 3


# -- availability survives


def test_a_host_added_by_hand_is_saved(yard: Restart) -> None:
    yard.joins(slots=2)
    kept = yard.kept()
    assert kept is not None
    assert kept.available
    assert not kept.reported
    after = Restart()
    after.knows(kept)
    after.passes(ATTACH_WITHIN_S)
    assert after.host_of(after.ask()) == "desk1"


def test_a_host_that_reported_is_used_once_it_does_again(yard: Restart) -> None:
    yard.joins(slots=2)
    yard.reports()
    kept = yard.kept()
    assert kept is not None
    assert kept.reported
    after = Restart()
    after.knows(kept)
    assert after.farm.hosts["desk1"].state is State.SILENT
    after.runs(0, returning=True)
    after.passes(ATTACH_WITHIN_S)
    assert after.host_of(after.ask()) == "desk1"


def test_a_removed_host_stays_out_until_it_is_added(yard: Restart) -> None:
    yard.joins()
    yard.play(HostRemoved("desk1", PORT))
    kept = yard.kept()
    assert kept is not None
    assert not kept.available
    for after in (yard, Restart()):
        if after is not yard:
            after.knows(kept)
        after.play(HostAdded(Declaration("desk1", PORT, 2), ADDRESS, returning=True))
        assert "desk1" not in after.farm.hosts
        after.joins()
        assert after.is_up()
        again = after.kept()
        assert again is not None
        assert again.available


def test_a_host_removed_before_it_returns_stays_out(yard: Restart) -> None:
    yard.play(HostRemoved("desk1", PORT))
    kept = yard.kept()
    assert kept is not None
    assert not kept.available
    yard.play(HostAdded(Declaration("desk1", PORT, 2), ADDRESS, returning=True))
    assert "desk1" not in yard.farm.hosts
    yard.joins()
    assert yard.is_up()


def test_a_drain_that_was_called_off_is_forgotten(yard: Restart) -> None:
    yard.play(HostAdded(Declaration("desk1", PORT, 2), ADDRESS))
    yard.ask()
    yard.play(HostDrained("desk1", PORT, 60.0))
    kept = yard.kept()
    assert kept is not None
    assert not kept.available
    yard.play(HostAdded(Declaration("desk1", PORT, 2), ADDRESS))
    again = yard.kept()
    assert again is not None
    assert again.available


def test_a_static_host_that_was_removed_stays_so(yard: Restart) -> None:
    listed = HostsListed((Declaration("desk1", None, 2, static=True, address=ADDRESS),))
    yard.play(listed)
    yard.play(HostRemoved("desk1", PORT))
    kept = yard.kept()
    assert kept is not None
    after = Restart()
    after.play(listed)
    after.knows(kept)
    assert not after.is_up()
    after.play(listed)
    assert not after.is_up()


def test_a_host_that_was_draining_is_not_used_again(yard: Restart) -> None:
    yard.joins()
    lease = yard.ask()
    yard.play(HostDrained("desk1", PORT, 60.0))
    kept = yard.kept()
    assert kept is not None
    assert not kept.available
    yard.play(HostAdded(Declaration("desk1", PORT, 2), ADDRESS, returning=True))
    assert not yard.is_up()
    yard.end(lease, DONE)
    assert yard.drained() == [("desk1", 0, "")]


def test_a_return_with_nothing_new_is_not_saved_again(yard: Restart) -> None:
    yard.returns()
    yard.kept()
    yard.look_away()
    yard.returns()
    assert not yard.take(AvailabilityChanged)
