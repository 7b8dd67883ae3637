"""The keys of `/api/farm`: the types, the snapshots, the documentation and the readers agree.

mypy checks the Python code that makes a snapshot. Here are the parts that it cannot check: real
values, JavaScript, Markdown, and reads with `get`, for which a wrong key is no type error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from test_monitor import busy_farm, farm_with
from typed_json import faults

from compilefarm.core.events import (
    CompilersReported,
    HostAdded,
    LoadReported,
    OwnerReported,
    RequestArrived,
    TimePassed,
)
from compilefarm.core.farm.farm import Farm
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Load, Request, State
from compilefarm.core.placement.earliest.policy import EarliestPolicy
from compilefarm.core.placement.tier import TierPolicy
from compilefarm.core.snapshot import take_snapshot
from compilefarm.protocol.compilers import CompilerInfo
from compilefarm.protocol.declaration import Declaration
from compilefarm.protocol.farm_json import (
    STATES,
    CompilerSnapshot,
    FarmSnapshot,
    HostSnapshot,
    LeaseSnapshot,
    LoadSnapshot,
    RequestSnapshot,
    ServerSnapshot,
    Snapshot,
    Totals,
)

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "src/compilefarm/server/monitor/page.html").read_text()
TABLE = (ROOT / "src/compilefarm/client/mon_host_server.py").read_text()
MONITOR_DOCUMENT = (ROOT / "docs" / "monitor.md").read_text()

# The variables of the page's script and of the table that hold a part of the snapshot.
IN_PAGE = {
    "farm": Snapshot,
    "host": HostSnapshot,
    "load": LoadSnapshot,
    "lease": LeaseSnapshot,
    "request": RequestSnapshot,
    "t": Totals,
    "server": ServerSnapshot,
}
IN_TABLE = {**IN_PAGE, "snapshot": Snapshot, "totals": Totals, "compiler": CompilerSnapshot}
del IN_TABLE["t"], IN_TABLE["farm"]


def keys_of(kind: Any) -> set[str]:
    return set(get_type_hints(kind))


# -- values


def reported_farm() -> Farm:
    """A host that reports its load, with leases, and one whose owner is present."""
    farm = farm_with(Declaration("desk1", slots=2), Declaration("desk2", slots=2), requests=3)
    load = Load((1.0, 0.5, 0.25), cpus=4, memory_free_mb=512.0, cpu_pressure=0.5, compiles=2)
    farm.handle(LoadReported("desk1", 3632, "10.0.0.1", load), 2.0)
    farm.handle(OwnerReported("desk2", 3632, "10.0.0.2", 1, 90.0, False), 2.0)
    return farm


def farm_with_compilers() -> Farm:
    """A host that reports two compilers, and a request for another one."""
    farm = reported_farm()
    farm.handle(CompilersReported("desk1", (compiler("gcc"), compiler("clang"))), 3.0)
    request = Request(9, "ada", compiler="gcc", identity=compiler("g++"))
    farm.handle(RequestArrived(request), 3.0)
    return farm


def compiler(name: str) -> CompilerInfo:
    return CompilerInfo(f"{len(name):016x}", name, "12.2.0", "x86_64-linux-gnu", f"{name} 12.2.0")


def farm_with_backup() -> Farm:
    """A farm in which a compile on a slow host has a backup."""
    farm = farm_with(Declaration("slow", slots=1), policy=EarliestPolicy(Learning()))
    request = Request(1, "ada", "desk9", source="giant.c", can_back_up=True)
    farm.handle(RequestArrived(request), 1.0)
    pass_time(farm, until=lambda: 1 in farm.leases)
    farm.handle(HostAdded(Declaration("fast", slots=1, power_index=20.0), "10.0.0.2"), 2.0)
    pass_time(farm, until=lambda: 1 in farm.backups)
    return farm


def pass_time(farm: Farm, until: Callable[[], bool]) -> None:
    for _ in range(100):
        if until():
            return
        deadline = farm.next_deadline()
        assert deadline is not None
        farm.handle(TimePassed(), deadline)
    raise AssertionError("it did not happen")


def test_snapshots_have_their_types() -> None:
    farms = (busy_farm(), reported_farm(), farm_with_backup(), farm_with_compilers())
    for farm in (Farm(TierPolicy()), *farms):
        assert faults(take_snapshot(farm), FarmSnapshot) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"policy": 5}, ".policy is 5, not str"),
        ({"colour": "blue"}, ".colour has no type"),
        ({"hosts": {}}, ".hosts is not a list"),
        ({"totals": None}, ".totals is not an object"),
        ({"requests": [{}]}, ".requests[0].avoid is missing"),
    ],
)
def test_a_snapshot_that_differs_from_its_types_is_found(
    change: dict[str, object], fault: str
) -> None:
    assert fault in faults({**take_snapshot(busy_farm()), **change}, FarmSnapshot)


def test_a_host_that_differs_from_its_types_is_found() -> None:
    hosts: Any = take_snapshot(reported_farm())["hosts"]
    hosts[0]["load"]["cpus"] = True
    hosts[0]["leases"][0]["id"] = 1.5
    del hosts[1]["tier"]
    assert faults(hosts, list[HostSnapshot]) == [
        "[0].load.cpus is True, not int",
        "[0].leases[0].id is 1.5, not int",
        "[1].tier is missing",
    ]


def test_states_are_those_of_the_farm_and_busy() -> None:
    assert set(STATES) == {state.value for state in State} | {"busy"}


# -- readers


def test_the_page_reads_keys_that_exist() -> None:
    script = PAGE.partition("<script>")[2]
    assert_reads(rf"\b({'|'.join(IN_PAGE)})\.(\w+)", script, IN_PAGE)


def test_the_table_reads_keys_that_exist() -> None:
    names = "|".join(IN_TABLE)
    assert_reads(rf"\b({names})(?:\.get\(|\[)[\"'](\w+)", TABLE, IN_TABLE)


def assert_reads(pattern: str, text: str, kinds: dict[str, Any]) -> None:
    """Assert that each variable is read, and only with keys of its type."""
    reads = set(re.findall(pattern, text))
    assert {name for name, _ in reads} == set(kinds)
    assert {(name, key) for name, key in reads if key not in keys_of(kinds[name])} == set()


# -- documentation


def rows_of(key: str) -> list[tuple[list[str], str]]:
    """Return the rows of the table under /api/farm that has this key: keys, and their meaning."""
    section = MONITOR_DOCUMENT.partition("\n## /api/farm\n")[2].partition("\n## ")[0]
    (table,) = (each for each in section.split("\n\n") if re.search(rf"^\| `{key}`", each, re.M))
    rows = [row.strip("|").split("|", 1) for row in table.splitlines()]
    return [(re.findall(r"`(\w+)`", first), meaning) for first, meaning in rows if "`" in first]


def documented(key: str) -> set[str]:
    return {name for names, _ in rows_of(key) for name in names}


def documented_below(table: str, key: str) -> set[str]:
    """Return the keys that the meaning of a key names."""
    (meaning,) = (meaning for names, meaning in rows_of(table) if names == [key])
    return set(re.findall(r"`(\w+)`", meaning))


def test_the_documentation_has_exactly_these_keys() -> None:
    assert documented("policy") == keys_of(Snapshot)
    assert documented("name") == keys_of(HostSnapshot)
    assert documented_below("policy", "server") == keys_of(ServerSnapshot)
    assert documented_below("policy", "requests") == keys_of(RequestSnapshot)
    assert documented_below("policy", "compilers") == keys_of(CompilerSnapshot)
    assert documented_below("policy", "totals") == keys_of(Totals)
    assert documented_below("name", "load") == keys_of(LoadSnapshot)
    assert documented_below("name", "leases") == keys_of(LeaseSnapshot)
    assert documented("up") == set(STATES)
