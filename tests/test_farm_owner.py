"""The farm and a host's owner, who comes first: modes, watchers, what happens to running compiles.

Played like the other stories of tests/test_farm.py, on a clock that the story sets.
"""

from __future__ import annotations

import pytest
from test_farm import DONE, FAILED, PORT, Story

from compilefarm.core.events import HostAdded, HostsListed, OwnerReported, TimePassed, WatcherEnded
from compilefarm.core.farm.farm import LOST_AFTER_S, PATIENCE_UNKNOWN_S, Farm
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Host, Load, Outcome, State
from compilefarm.core.owner_share import CALM_S, RESERVE_CPUS
from compilefarm.core.placement.earliest.policy import EarliestPolicy
from compilefarm.core.snapshot import take_snapshot
from compilefarm.protocol.declaration import Declaration, Mode


class OwnersStory(Story):
    """A story with owners in it."""

    def joins_in(self, mode: Mode, slots: int = 2, name: str = "desk1") -> Host:
        """Have a host added in a mode."""
        self.happens(HostAdded(Declaration(name, slots=slots, mode=mode), "10.0.0.1"))
        return self.farm.hosts[name]

    def owner_is_there(self, since_s: float = 0.0, watcher: int = 1, revoke: bool = False) -> None:
        self._says(since_s, watcher, revoke)

    def owner_is_away(self, watcher: int = 1) -> None:
        self._says(None, watcher, False)

    def watcher_ends(self, watcher: int = 1) -> None:
        self.happens(WatcherEnded("desk1", watcher))

    def is_refused(self) -> bool:
        """Ask, and say whether the answer is that there is no host."""
        number = self.asks()
        return number in self.refused()

    def foreign(self, cpus: float, of: int = 8) -> int:
        """Have the host report so many CPUs in foreign use; return the slots that it offers."""
        self.reports(load=Load(foreign_cpus=cpus, cpus=of))
        return self.farm.hosts["desk1"].slots

    def _says(self, since_s: float | None, watcher: int, revoke: bool) -> None:
        self.happens(OwnerReported("desk1", PORT, "10.0.0.1", watcher, since_s, revoke))


@pytest.fixture
def story() -> OwnersStory:
    return OwnersStory()


def shown(story: Story) -> tuple[str, str, float | None]:
    """Return what monitors show of the host: state, reason, and for how long its owner is there."""
    host = take_snapshot(story.farm)["hosts"][0]
    return host["state"], host["reason"], host["owner_present_s"]


# -- idle mode


def test_an_idle_host_is_in_only_while_a_watcher_says_that_it_is_unused(story: OwnersStory) -> None:
    desk = story.joins_in(Mode.IDLE)
    assert shown(story) == ("owner", "no watch-ssaver says that it is unused", None)
    assert story.is_refused()
    story.owner_is_away()
    assert story.compiles() == "desk1"
    story.owner_is_there(since_s=2.5)
    assert desk.state is State.OWNER
    story.passes(10.0)
    story.happens(TimePassed())
    assert shown(story) == ("owner", "owner present", 12.5)
    assert story.is_refused()
    story.owner_is_away()
    assert story.compiles() == "desk1"
    story.watcher_ends()
    assert desk.state is State.OWNER


def test_what_is_said_again_changes_nothing(story: OwnersStory) -> None:
    story.joins_in(Mode.IDLE)
    story.owner_is_away()
    number = story.asks()
    story.owner_is_there(since_s=1.0)
    story.effects.clear()
    story.passes(2.0)
    story.owner_is_there(since_s=3.0)
    assert not story.effects
    assert shown(story)[2] == 3.0
    assert story.runs_on(number) == "desk1"


def test_the_owner_of_any_host_comes_first(story: OwnersStory) -> None:
    story.joins_in(Mode.DEDICATED)
    assert story.compiles() == "desk1"
    story.owner_is_there()
    assert shown(story)[0] == "owner"
    story.watcher_ends()
    assert story.compiles() == "desk1"


def test_one_of_two_who_watch_is_enough(story: OwnersStory) -> None:
    story.joins_in(Mode.IDLE)
    story.owner_is_away(watcher=1)
    story.owner_is_there(watcher=2)
    assert not story.is_up()
    story.watcher_ends(2)
    assert story.is_up()
    story.watcher_ends(1)
    assert not story.is_up()


def test_an_owner_is_shown_before_the_host_is_available(story: OwnersStory) -> None:
    story.owner_is_there(since_s=60.0)
    assert shown(story) == ("owner", "owner present", 60.0)
    story.owner_is_away()
    assert shown(story)[:2] == ("away", "was not added")
    story.watcher_ends()
    assert not story.farm.hosts


def test_running_compiles_go_on_and_nobody_is_blamed_for_how_they_end(story: OwnersStory) -> None:
    desk = story.joins_in(Mode.IDLE)
    story.owner_is_away()
    well, badly = story.asks(), story.asks()
    story.owner_is_there()
    story.passes(PATIENCE_UNKNOWN_S + 100.0)
    assert not story.probed(), "a stopped compile looks like a host that is mute"
    assert not story.revoked()
    story.ends(well, Outcome(exit=0, wall_s=120.0))
    story.ends(badly, FAILED)
    assert (desk.failures, desk.quarantined, story.farm.failed) == (0, False, 0)
    story.owner_is_away()
    assert story.compiles() == "desk1"


def test_compiles_that_are_revoked_run_elsewhere(story: OwnersStory) -> None:
    desk = story.joins_in(Mode.IDLE)
    story.owner_is_away()
    first, second = story.asks(), story.asks()
    story.owner_is_there(revoke=True)
    reason = "the owner of desk1 is back"
    assert story.revoked() == {first: reason, second: reason}
    assert desk.failures == 0
    story.owner_is_away()
    assert story.compiles() == "desk1"


def test_what_a_watcher_left_behind_is_taken_back(story: OwnersStory) -> None:
    story.joins_in(Mode.IDLE)
    story.owner_is_away()
    number = story.asks()
    story.watcher_ends()
    story.passes(LOST_AFTER_S - 0.1)
    story.owner_is_away(watcher=2)
    story.passes(LOST_AFTER_S)
    assert story.runs_on(number) == "desk1"
    story.watcher_ends(2)
    story.passes(LOST_AFTER_S)
    assert story.revoked().keys() == {number}


def test_a_host_without_reports_is_silent_whoever_watches_it(story: OwnersStory) -> None:
    story.joins_in(Mode.IDLE)
    story.reports()
    story.owner_is_away()
    story.passes(60.0)
    assert shown(story)[0] == "silent"


def test_compiles_that_saw_the_owner_tell_nothing_of_speed(story: OwnersStory) -> None:
    story.joins_in(Mode.IDLE)
    story.owner_is_away()
    story.compiles(took_s=1.0)
    number = story.asks()
    story.owner_is_there()
    story.passes(3000.0)
    story.ends(number, DONE)
    story.owner_is_away()
    stuck = story.asks()
    story.passes(PATIENCE_UNKNOWN_S)
    assert story.probed() == ["desk1"], "one compile of 50 minutes must not teach patience"
    story.ends(stuck)


@pytest.mark.parametrize("disturbed", [False, True])
def test_such_a_time_is_not_learned(disturbed: bool) -> None:
    learning = Learning()
    story = OwnersStory()
    story.farm = Farm(EarliestPolicy(learning))
    story.joins_in(Mode.IDLE)
    story.owner_is_away()
    number = story.asks(directory="/src", source="main.c")
    story.passes(1.0)
    if disturbed:
        story.owner_is_there()
        story.owner_is_away()
    story.passes(60.0)
    story.ends(number, Outcome(exit=0, wall_s=61.0))
    assert (learning.cost("/src", "main.c") is None) == disturbed


# -- whose word counts


@pytest.mark.parametrize(
    ("listed", "offered", "counts"),
    [
        (Mode.IDLE, Mode.DEDICATED, Mode.IDLE),
        (Mode.DEDICATED, Mode.IDLE, Mode.IDLE),
        (Mode.PROPORTIONAL, Mode.DEDICATED, Mode.PROPORTIONAL),
        (None, Mode.IDLE, Mode.IDLE),
        (None, None, Mode.DEDICATED),
    ],
)
def test_the_mode_that_leaves_more_to_the_owner_counts(
    story: OwnersStory, listed: Mode | None, offered: Mode | None, counts: Mode
) -> None:
    story.happens(HostsListed((Declaration("desk1", slots=2, mode=listed),)))
    story.happens(HostAdded(Declaration("desk1", mode=offered), "10.0.0.1"))
    assert story.farm.hosts["desk1"].mode is counts


def test_the_larger_reserve_counts(story: OwnersStory) -> None:
    desk = story.joins_in(Mode.PROPORTIONAL)
    assert desk.proportion.reserve_cpus == RESERVE_CPUS
    story.happens(HostsListed((Declaration("desk1", slots=8, reserve_cpus=2.0),)))
    assert desk.proportion.reserve_cpus == 2.0
    own = Declaration("desk1", mode=Mode.PROPORTIONAL, reserve_cpus=3.0)
    story.happens(HostAdded(own, "10.0.0.1"))
    assert desk.proportion.reserve_cpus == 3.0


# -- proportional mode


def test_a_proportional_host_offers_what_its_owner_leaves(story: OwnersStory) -> None:
    desk = story.joins_in(Mode.PROPORTIONAL, slots=8)
    assert desk.slots == 0
    assert shown(story)[1] == "offers 0 of 8 slots: nothing is known of what its owner leaves"
    story.foreign(0.2)
    assert shown(story)[1].endswith("0.2 CPUs are in foreign use, 1 kept free; more if it stays so")
    story.passes(CALM_S / 2)
    story.foreign(0.2)
    assert desk.slots == 0
    story.passes(CALM_S / 2)
    assert story.foreign(0.2) == 7
    assert story.foreign(4.0) == 3
    assert shown(story)[:2] == (
        "up",
        "offers 3 of 8 slots: 4.0 CPUs are in foreign use, 1 kept free",
    )
    assert story.foreign(9.0) == 0
    assert shown(story)[0] == "busy"


def test_what_the_owner_leaves_for_a_moment_is_not_taken(story: OwnersStory) -> None:
    story.joins_in(Mode.PROPORTIONAL, slots=8)
    for _ in range(6):
        story.foreign(3.0)
        story.passes(2.0)
    assert story.foreign(3.0) == 4
    for cpus in (0.0, 3.0) * 10:
        story.passes(2.0)
        assert story.foreign(cpus) == 4
    for cpus in (0.0, 2.0, 0.0, 0.0, 0.0):
        story.passes(2.0)
        story.foreign(cpus)
    story.passes(2.0)
    assert story.foreign(0.0) == 5, "of what was left in the time, the least"


def test_compiles_beyond_what_is_offered_end_and_are_not_replaced(story: OwnersStory) -> None:
    desk = story.joins_in(Mode.PROPORTIONAL, slots=4)
    story.foreign(0.0, of=4)
    story.passes(CALM_S)
    assert story.foreign(0.0, of=4) == 3
    numbers = [story.asks() for _ in range(4)]
    assert [story.waits(number) for number in numbers] == [False, False, False, True]
    story.foreign(2.0, of=4)
    story.ends(numbers[0])
    story.ends(numbers[1])
    assert story.waits(numbers[3])
    story.ends(numbers[2])
    assert story.runs_on(numbers[3]) == "desk1"
    assert desk.leases[numbers[3]].slot == 0
    story.ends(numbers[3])
    assert desk.free == [0]


def test_an_unused_proportional_host_is_in_whole(story: OwnersStory) -> None:
    desk = story.joins_in(Mode.PROPORTIONAL, slots=8)
    story.owner_is_away()
    for _ in range(2):
        assert story.foreign(3.0) == 8
        story.passes(CALM_S / 2)
    assert story.foreign(3.0) == 8
    story.owner_is_there()
    assert (desk.state, desk.slots) == (State.UP, 4)
    story.owner_is_away()
    story.watcher_ends()
    assert desk.slots == 4


def test_the_owner_of_a_proportional_host_has_its_compiles_go_on(story: OwnersStory) -> None:
    story.joins_in(Mode.PROPORTIONAL, slots=8)
    story.owner_is_away()
    number = story.asks()
    story.owner_is_there(revoke=True)
    assert story.runs_on(number) == "desk1"
