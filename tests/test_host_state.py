"""A host's state against the table in the docstring of `host_state`, which people read."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from compilefarm.core import host_state
from compilefarm.core.host_state import state_of
from compilefarm.core.model import Host, Load, State
from compilefarm.protocol.declaration import Mode


def drain(host: Host) -> None:
    host.drain_until = 10.0


def own(host: Host) -> None:
    host.watchers[1] = 5.0


def remove(host: Host) -> None:
    host.added = False


def silence(host: Host) -> None:
    host.silent = True


def idle(host: Host) -> None:
    host.mode = Mode.IDLE


def stop_distccd(host: Host) -> None:
    host.load = Load(distccd="stopped")


def quarantine(host: Host) -> None:
    host.quarantined = True


def nothing(_: Host) -> None:
    pass


# What makes each condition of the table true, on a host that is otherwise up.
CONDITIONS: dict[str, Callable[[Host], None]] = {
    "draining": drain,
    "owner present": own,
    "not added": remove,
    "load reports stopped": silence,
    "idle mode without a watcher": idle,
    "distccd does not run": stop_distccd,
    "failed, and not yet probed well": quarantine,
    "none of these": nothing,
}


def table() -> list[tuple[str, State]]:
    """Return the lines of the table: a condition and a state, two spaces or more apart."""
    text = host_state.__doc__
    assert text is not None
    lines = [line.strip().rsplit("  ", 1) for line in text.splitlines() if line.startswith("    ")]
    return [(condition.strip(), State[state.strip()]) for condition, state in lines]


def added_host() -> Host:
    host = Host("desk1", "10.0.0.1", 3632)
    host.added = True
    return host


def test_the_table_names_every_condition_and_every_state() -> None:
    assert [condition for condition, _ in table()] == list(CONDITIONS)
    assert {state for _, state in table()} == set(State)


@pytest.mark.parametrize(("condition", "state"), table())
def test_each_condition_alone_has_its_state(condition: str, state: State) -> None:
    host = added_host()
    CONDITIONS[condition](host)
    assert state_of(host)[0] is state


@pytest.mark.parametrize("first", range(len(CONDITIONS)))
def test_the_first_condition_that_holds_decides(first: int) -> None:
    host = added_host()
    for condition, _ in table()[first:]:
        # A watcher that sees an owner is a watcher, so these two exclude each other.
        if condition != "idle mode without a watcher" or not host.watchers:
            CONDITIONS[condition](host)
    assert state_of(host)[0] is table()[first][1]


def test_every_state_but_up_has_a_reason() -> None:
    for condition, state in table():
        host = added_host()
        CONDITIONS[condition](host)
        assert bool(state_of(host)[1]) == (state is not State.UP)


def test_a_present_owner_does_not_stop_a_proportional_host() -> None:
    host = added_host()
    host.mode = Mode.PROPORTIONAL
    own(host)
    assert state_of(host)[0] is State.UP
    remove(host)
    assert state_of(host)[0] is State.OWNER
