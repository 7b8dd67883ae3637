"""What people see of a farm: its totals, the -j worth using, and snapshots."""

from __future__ import annotations

import pytest
from farmyard import FAILED, PORT, Farmyard, tier_yard

from compilefarm.core.events import HostAdded, HostRemoved, HostsListed
from compilefarm.core.farm.farm import Farm
from compilefarm.core.model import Request
from compilefarm.core.placement.tier import TierPolicy
from compilefarm.core.snapshot import PIECE, snapshot_in_pieces, take_snapshot, whole
from compilefarm.protocol.declaration import Declaration


@pytest.fixture
def yard() -> Farmyard:
    return tier_yard()


# -- what people see


def test_jobs_worth_using_is_a_fair_share_and_the_builders_cpus(yard: Farmyard) -> None:
    def jobs(user: str, cpus: int) -> int:
        return yard.farm.jobs_worth_using(Request(0, user, cpus=cpus))

    assert jobs("ada", 4) == 4
    yard.joins("desk1", slots=10)
    yard.joins("desk2", slots=6)
    yard.joins("desk3", slots=8)
    yard.play(HostRemoved("desk3", PORT))
    assert jobs("ada", 4) == 4 + 16
    yard.ask(user="bob")
    assert jobs("ada", 4) == 4 + 8
    assert jobs("bob", 0) == 1 + 16


def test_the_snapshot_has_the_totals(yard: Farmyard) -> None:
    yard.joins(slots=2)
    yard.ask()
    yard.end(yard.ask(), FAILED)
    yard.ask()
    yard.ask(avoid=frozenset({"desk1"}))
    totals = take_snapshot(yard.farm)["totals"]
    assert totals["leases_granted"] == 2
    assert totals["leases_failed"] == 1
    assert totals["requests_refused"] == 2
    assert totals["slots_in_use"] == 1


# -- what monitors see


def test_a_snapshot_in_pieces_bears_a_farm_that_changes_meanwhile() -> None:
    farm = Farm(TierPolicy())
    listed = [Declaration(f"h{n}", slots=1, static=True, address="10.0.0.1") for n in range(PIECE)]
    farm.handle(HostsListed((*listed, Declaration("last", slots=1, static=True))), 0.0)
    pieces = snapshot_in_pieces(farm)
    next(pieces)
    farm.handle(HostsListed(()), 1.0)
    farm.handle(HostAdded(Declaration("late", slots=3), "10.0.0.9"), 1.0)
    assert [host["name"] for host in whole(pieces)["hosts"]] == [each.name for each in listed]
    assert [host["name"] for host in take_snapshot(farm)["hosts"]] == ["late"]
