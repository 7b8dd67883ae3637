"""The farm against a tiny model of its own: whatever happens, it keeps its promises."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from farm_model import HOSTS, EagerPolicy, FarmMachine
from hypothesis import settings
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from compilefarm.core.events import HostAdded, RequestArrived, RequestEnded
from compilefarm.core.farm.farm import Farm
from compilefarm.core.farm.story import replay
from compilefarm.core.model import Outcome, Request
from compilefarm.core.placement.policy import Policy
from compilefarm.protocol.declaration import Declaration


class RandomMachine(FarmMachine):
    policy = "random"


class EagerMachine(FarmMachine):
    """Mostly plain compiles on a farm that is up, and so one with many backups."""

    def new_policy(self) -> Policy:
        return EagerPolicy()

    @initialize()
    def have_hosts(self) -> None:
        for host in HOSTS:
            self.play(HostAdded(Declaration(host, slots=2), "127.0.0.1"))

    @rule(count=st.integers(1, 3))
    def compile(self, count: int) -> None:
        for _ in range(count):
            self.last_id += 1
            request = self.waiting[self.last_id] = Request(self.last_id, "ada", can_back_up=True)
            self.play(RequestArrived(request))


class EarliestMachine(FarmMachine):
    policy = "earliest"

    def teardown(self) -> None:
        """Every waiting request is served in the end, if the others end."""
        for _ in range(1000):
            if not self.waiting:
                break
            for number in sorted(self.leased):
                if self.leased.pop(number, None) is not None:
                    self.backups.pop(number, None)
                    self.play(RequestEnded(number, Outcome(exit=0, wall_s=1.0)))
            self.advance(10.0)
        assert not self.waiting
        super().teardown()


class ReplayedMachine(EarliestMachine):
    def teardown(self) -> None:
        """The same events have the same effects on a fresh farm."""
        super().teardown()
        assert replay(self.played, Farm(self.new_policy())) == ""


MACHINES = (FarmMachine, RandomMachine, EagerMachine, EarliestMachine, ReplayedMachine)
for each in MACHINES:
    examples = 3 if each is ReplayedMachine else 20
    each.TestCase.settings = settings(max_examples=examples, stateful_step_count=50, deadline=None)
TestTier, TestRandom, TestEager, TestEarliest, TestReplay = (each.TestCase for each in MACHINES)


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_the_same_at_length(machine: type[FarmMachine]) -> None:
    at_length = settings(max_examples=200, stateful_step_count=50, deadline=None)
    run_state_machine_as_test(machine, settings=at_length)
