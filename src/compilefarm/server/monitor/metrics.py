"""A snapshot as Prometheus metrics.

Metrics are sums by state and by tier. A series for each host, user or file would grow without bound
in the memory of a collector; `/api/farm` has the single hosts. This module reads one snapshot. It
must not know HTTP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from compilefarm.protocol.farm_json import STATES, HostSnapshot, ServerSnapshot, Snapshot

CounterKey = Literal[
    "leases_granted",
    "leases_failed",
    "leases_revoked",
    "backups_begun",
    "backups_first",
    "requests_refused",
]
# The totals since the server's start, and the help text of each.
COUNTERS: dict[CounterKey, str] = {
    "leases_granted": "Leases granted since host-server started.",
    "leases_failed": "Leases on which the host did not do its work.",
    "leases_revoked": "Leases that ended because the host was lost or left.",
    "backups_begun": "Second leases for compiles that ran on slower slots.",
    "backups_first": "Backups under which the compile was done.",
    "requests_refused": "Requests that were refused.",
}


def metrics_text(snapshot: Snapshot) -> bytes:
    """Return a snapshot's metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_SnapshotCollector(snapshot))
    return generate_latest(registry)


class _SnapshotCollector(Collector):
    """The metrics of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield from _server(snapshot["server"], snapshot["policy"])
        yield _states(snapshot["hosts"])
        yield from _slots(snapshot["hosts"])
        yield from _requests(snapshot)
        loads = [host["load"] for host in snapshot["hosts"] if host["load"]]
        yield GaugeMetricFamily(
            "compilefarm_foreign_cpus",
            "CPUs of the hosts in use by other work than the farm's.",
            value=sum(load["foreign_cpus"] for load in loads),
        )
        for key, meaning in COUNTERS.items():
            yield CounterMetricFamily(f"compilefarm_{key}", meaning, value=snapshot["totals"][key])


def _server(server: ServerSnapshot, policy: str) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "compilefarm_server_info",
        "Always 1; the labels name the server's version and policy.",
        labels=("version", "policy"),
    )
    info.add_metric([server["version"], policy], 1)
    yield info
    yield GaugeMetricFamily(
        "compilefarm_server_uptime_seconds",
        "Time since host-server started.",
        value=server["uptime_s"],
    )


def _states(hosts: list[HostSnapshot]) -> Metric:
    by_state = Counter(host["state"] for host in hosts)
    states = GaugeMetricFamily(
        "compilefarm_hosts", "Known compile hosts, by state.", labels=("state",)
    )
    for state in sorted(by_state.keys() | set(STATES)):
        states.add_metric([state], by_state[state])
    return states


def _slots(hosts: list[HostSnapshot]) -> Iterator[Metric]:
    slots: Counter[str] = Counter()
    in_use: Counter[str] = Counter()
    free: Counter[str] = Counter()
    for host in hosts:
        tier = "none" if host["tier"] is None else str(host["tier"])
        slots[tier] += host["slots"]
        in_use[tier] += host["slots_in_use"]
        free[tier] += host["slots_free"]
    for name, meaning, counts in (
        (
            "compilefarm_slots",
            "Slots by the tier of their host; none is for hosts that get no leases.",
            slots,
        ),
        ("compilefarm_slots_in_use", "Slots with a lease, by tier.", in_use),
        ("compilefarm_slots_free", "Slots that a compile could have now, by tier.", free),
    ):
        family = GaugeMetricFamily(name, meaning, labels=("tier",))
        for tier in sorted(slots):
            family.add_metric([tier], counts[tier])
        yield family


def _requests(snapshot: Snapshot) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "compilefarm_requests_waiting",
        "Requests that wait for a slot.",
        value=snapshot["totals"]["requests_waiting"],
    )
    yield GaugeMetricFamily(
        "compilefarm_request_wait_max_seconds",
        "The longest time that a request has waited so far.",
        value=max((request["waited_s"] for request in snapshot["requests"]), default=0.0),
    )
