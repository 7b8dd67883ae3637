"""Some hundreds of simulated storms; and that a defect would be found, and told in few words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from storms.plan import BuilderPlan, Fault, HostPlan, Plan, plan_of
from storms.story import failure_of, shortest, tell

from compilefarm.core.farm.leases import Leases
from compilefarm.core.farm.quarantine import Quarantine
from compilefarm.core.farm.requests import Requests
from compilefarm.core.farm.returns import Returns
from compilefarm.core.farm.roster import Roster
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Lease, Outcome
from compilefarm.server.connections.requests import RequestConnection
from compilefarm.server.host_server import HostServer

TESTS = Path(__file__).parent
# A process that is killed leaves tasks that have not begun.
pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited:RuntimeWarning",
    "ignore:.*HostServer._probe_host:pytest.PytestUnraisableExceptionWarning",
)

HOSTS = (
    HostPlan("alder", "10.0.1.1", 2, 1.0, reports=True),
    HostPlan("birch", "10.0.1.2", 1, 2.0, reports=True),
)
BUILDERS = (
    BuilderPlan("desk1", "10.0.2.1", "ada", 2, 4, 20, "/home/ada", True),
    BuilderPlan("desk2", "10.0.2.2", "bob", 2, 4, 20, "/home/bob", True),
)
FAULTS = (
    Fault(0.4, "kill-gethost", "desk1", 0.0),
    Fault(0.5, "owner", "birch", 2.0, amount=0.5),
    Fault(0.9, "kill-distccd", "alder", 3.0),
    Fault(1.0, "power-off", "desk2", 3.0),
    Fault(1.5, "slow", "", 1.0, amount=0.2),
)
PLAN = Plan(1, "tier", HOSTS, BUILDERS, FAULTS)


@pytest.mark.slow
def test_some_hundreds_of_storms() -> None:
    """By a process of its own, since a seed means the same only with the same hashes."""
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent / 'src'}"}
    result = subprocess.run(
        [sys.executable, "-m", "storms", "--seeds", "250"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "250 seeds" in result.stdout


@pytest.mark.parametrize("policy", ["earliest", "tier", "random"])
def test_a_storm(policy: str) -> None:
    assert failure_of(Plan(1, policy, HOSTS, BUILDERS, FAULTS)) == ""


def test_a_plan_goes_the_same_way_again() -> None:
    first: list[str] = []
    second: list[str] = []
    assert failure_of(PLAN, first) == failure_of(PLAN, second) == ""
    assert first == second
    assert len(first) > 100


def test_a_seed_means_the_same_plan() -> None:
    assert plan_of(7) == plan_of(7)
    assert plan_of(7) != plan_of(8)


# -- a defect is found


def test_a_lease_that_outlives_its_owner_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RequestConnection, "ended", lambda _: None)
    assert "outlives its client" in failure_of(PLAN)


def test_a_host_that_does_not_come_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quarantine, "over", lambda *_: None)
    assert "the farm is not whole: alder is quarantined" in failure_of(PLAN)


def test_a_slot_that_is_lost_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    end = Leases.end

    def lose(leases: Leases, lease: Lease, outcome: Outcome, turn: Turn) -> None:
        end(leases, lease, outcome, turn)
        lease.host.free[:-1] = []

    monkeypatch.setattr(Leases, "end", lose)
    failure = failure_of(PLAN)
    assert failure.startswith("the books are wrong: ")
    assert "a slot is lost" in failure
    assert "LeaseEnded" in failure, "the latest events"
    assert failure.splitlines()[-1].startswith("Played again: event ")
    assert "breaks a promise" in failure, "it is the farm's defect"


def test_a_request_that_is_forgotten_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    grant = Requests.grant

    def forget(requests: Requests, turn: Turn) -> None:
        if requests._totals.granted < 7:
            grant(requests, turn)

    monkeypatch.setattr(Requests, "grant", forget)
    assert "a request waits while a slot that it may have is free" in failure_of(PLAN)


def test_an_exception_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HostServer, "_host_noted", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in failure_of(PLAN)


def test_the_story_of_a_defect_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of five faults is left, and one of two builds. The story ends with what is broken."""
    monkeypatch.setattr(Quarantine, "over", lambda *_: None)
    plan = shortest(PLAN, failure_of(PLAN))
    assert [fault.kind for fault in plan.faults] == ["kill-distccd"]
    assert len(plan.builders) == 1
    story = tell(plan).splitlines()
    assert "distccd of alder is killed, for 3.000 s" in story[0] + "".join(story[2:])
    assert any("host-server: host 10.0.1.1: quarantined" in line for line in story)
    assert story[-1].startswith("BROKEN: the farm is not whole: alder is quarantined")


RESTART = Plan(4, "tier", HOSTS, BUILDERS, (Fault(1.0, "kill-server", "server", 0.05),))


def test_a_restart_costs_no_compile() -> None:
    story: list[str] = []
    assert failure_of(RESTART, story) == ""
    assert any("has lost its server" in line for line in story)


def test_a_host_that_was_taken_out_stays_out_over_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drain = Fault(0.5, "drain", "birch", 20.0)
    plan = Plan(5, "tier", HOSTS, BUILDERS, (drain, *RESTART.faults))
    assert failure_of(plan) == ""
    monkeypatch.setattr(Roster, "remember_removed", lambda *_: None)
    assert "a host that was taken out by hand is back" in failure_of(plan)


def test_a_slot_that_is_granted_again_after_a_restart_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Returns, "await_leases", lambda *_: None)
    assert "a slot was granted twice" in failure_of(RESTART)
