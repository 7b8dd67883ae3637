"""The monitor port: snapshots of the farm as JSON, as Prometheus metrics, and as a page.

It runs inside host-server, whose event loop has compiles waiting on it, so it is built to cost
little there. A snapshot is made and encoded piece by piece, with the loop free between pieces; and
it serves all who ask within twenty times the CPU time that it cost, so that making them never takes
more than a twentieth of the server's time, however many watch. Of a few hosts that is some
milliseconds, of thousands it is seconds. CPU time and not what the clock says: where the machine
stood still for a moment, the farm would be shown as it was for twenty such moments.
Encoding in a thread was rejected: the encoder holds the interpreter's lock throughout.

Metrics are sums by state and by tier. A series for each host, user or file would grow without
bound in the memory of whoever collects them; `/api/farm` has the single hosts.

The port is read from by browsers, which other people's pages run in, too. So each answer forbids
to be framed, guessed at, or kept, and is given only under a name that is the server's: a page whose
own name suddenly means this machine (DNS rebinding) is refused. There is nothing here that changes
anything.

This module reads snapshots. It must not know the farm, nor which addresses may look.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from compilefarm.core.snapshot import PIECE, Snapshot

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# A snapshot is not made again for so many times the CPU time that it cost.
REST_PER_COST = 20

# A connection is closed that asks nothing for so long, from its beginning or its last request on.
IDLE_S = 30.0
# With every answer. Data is shown to nobody's page but ours.
NOTHING_RUNS = "default-src 'none'; frame-ancestors 'none'"
HEADERS = {
    "Server": "host-server",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

STATES = ("up", "busy", "owner", "away", "draining", "silent", "mute", "quarantined")


def application(
    farm_snapshot: Callable[[], Awaitable[Snapshot]],
    allowed: Callable[[str], bool],
    names: Iterable[str] = (),
) -> web.Application:
    """Return the monitor port's HTTP application.

    `farm_snapshot` returns the farm as JSON-ready values, and lets the loop run meanwhile.
    `allowed` says whether the peer of that address may look. `names` are the names of this machine
    that have a dot in them; an address, and a name without a dot, are nobody else's anyway.
    """
    own_names = {name.lower().rstrip(".") for name in names}
    source = _Source(farm_snapshot)
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    page_policy = _content_security_policy(page)

    async def farm(_: web.Request) -> web.Response:
        return web.Response(body=await source.encoded(), content_type="application/json")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=_metrics(await source.snapshot()), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def index(_: web.Request) -> web.Response:
        return web.Response(
            text=page, content_type="text/html", headers={"Content-Security-Policy": page_policy}
        )

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        peer = request.remote or ""
        if not allowed(peer):
            return _refusal(403, f"{peer or 'this address'} is not in the networks of this port")
        name = _name_asked_for(request.headers.get("Host", ""))
        if "." in name and name not in own_names:
            return _refusal(403, f"{name} is no name of this server; see host-server --name")
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return _refusal(404, "there are /, /api/farm and /metrics here")
        except web.HTTPMethodNotAllowed:
            return _refusal(405, "this port only shows the farm: GET and HEAD")

    async def with_headers(_: web.Request, answer: web.StreamResponse) -> None:
        answer.headers.update(HEADERS)
        answer.headers.setdefault("Content-Security-Policy", NOTHING_RUNS)

    app = web.Application(middlewares=[guard], client_max_size=1024)
    app.on_response_prepare.append(with_headers)
    app.router.add_get("/", index)
    app.router.add_get("/api/farm", farm)
    app.router.add_get("/metrics", metrics)
    return app


class _Source:
    """The latest snapshot and its JSON, made anew when someone asks and it is no longer fresh."""

    def __init__(self, farm_snapshot: Callable[[], Awaitable[Snapshot]]) -> None:
        self._farm_snapshot = farm_snapshot
        self._lock = asyncio.Lock()  # those who come while it is made wait for that one
        self._snapshot: Snapshot = {}
        self._encoded = b""
        self._fresh_until = float("-inf")

    async def snapshot(self) -> Snapshot:
        await self.encoded()
        return self._snapshot

    async def encoded(self) -> bytes:
        async with self._lock:
            if time.monotonic() >= self._fresh_until:
                # What the loop did between pieces is in it: a server that is busy is asked less.
                cpu_before_s = time.thread_time()
                self._snapshot = await self._farm_snapshot()
                self._encoded = await _encode(self._snapshot)
                cost_s = time.thread_time() - cpu_before_s
                self._fresh_until = time.monotonic() + REST_PER_COST * cost_s
            return self._encoded


async def _encode(snapshot: Snapshot) -> bytes:
    """Return a snapshot as JSON, encoding long lists in pieces with the event loop between."""
    members = []
    for key, value in snapshot.items():
        if isinstance(value, list):
            pieces = []
            for start in range(0, len(value), PIECE):
                pieces.append(json.dumps(value[start : start + PIECE])[1:-1])
                await asyncio.sleep(0)
            text = f"[{', '.join(pieces)}]"
        else:
            text = json.dumps(value)
        members.append(f"{json.dumps(key)}: {text}")
    return ("{" + ", ".join(members) + "}\n").encode()


def _name_asked_for(host: str) -> str:
    """Return the name in a Host header; empty where there is none, or an address."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    with contextlib.suppress(ValueError):
        ip_address(name.strip("[]"))
        return ""
    return name.lower().rstrip(".")


def _refusal(status: int, reason: str) -> web.Response:
    return web.Response(status=status, text=f"{status}: {reason}\n")


def _content_security_policy(page: str) -> str:
    """Return the policy that lets the page's own script and style run, and nothing else."""

    def digest(tag: str) -> str:
        content = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        return b64encode(sha256(content.encode()).digest()).decode()

    return (
        f"default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
        f"script-src 'sha256-{digest('script')}'; style-src 'sha256-{digest('style')}'; "
        "form-action 'none'; frame-ancestors 'none'"
    )


def _metrics(snapshot: Snapshot) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_SnapshotCollector(snapshot))
    return generate_latest(registry)


class _SnapshotCollector(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        hosts, requests = self._snapshot["hosts"], self._snapshot["requests"]
        totals, server = self._snapshot["totals"], self._snapshot.get("server", {})

        build = GaugeMetricFamily(
            "compilefarm_server_info",
            "Always 1; the labels say what runs.",
            labels=("version", "policy"),
        )
        build.add_metric([str(server.get("version", "")), str(self._snapshot["policy"])], 1)
        yield build
        if "uptime_s" in server:
            yield GaugeMetricFamily(
                "compilefarm_server_uptime_seconds",
                "How long host-server runs.",
                value=server["uptime_s"],
            )

        by_state = Counter(host["state"] for host in hosts)
        states = GaugeMetricFamily(
            "compilefarm_hosts", "Known compile hosts, by state.", labels=("state",)
        )
        for state in sorted(by_state.keys() | set(STATES)):
            states.add_metric([state], by_state[state])
        yield states

        slots: Counter[str] = Counter()
        in_use: Counter[str] = Counter()
        free: Counter[str] = Counter()
        for host in hosts:
            tier = "none" if host["tier"] is None else str(host["tier"])
            slots[tier] += host["slots"]
            in_use[tier] += host["slots_in_use"]
            free[tier] += host["slots_free"]
        for name, what, counts in (
            (
                "compilefarm_slots",
                "Slots by the tier of their host; none: of hosts that get no leases.",
                slots,
            ),
            ("compilefarm_slots_in_use", "Slots with a lease, by tier.", in_use),
            ("compilefarm_slots_free", "Slots that a compile could have now, by tier.", free),
        ):
            family = GaugeMetricFamily(name, what, labels=("tier",))
            for tier in sorted(slots):
                family.add_metric([tier], counts[tier])
            yield family

        yield GaugeMetricFamily(
            "compilefarm_requests_waiting",
            "Requests that wait for a slot.",
            value=totals["requests_waiting"],
        )
        yield GaugeMetricFamily(
            "compilefarm_request_wait_max_seconds",
            "How long the longest waiting request waits.",
            value=max((request["waited_s"] for request in requests), default=0.0),
        )
        loads = [host["load"] for host in hosts if host["load"]]
        yield GaugeMetricFamily(
            "compilefarm_foreign_cpus",
            "CPUs that something else than the farm uses on the hosts.",
            value=sum(load["foreign_cpus"] for load in loads),
        )
        for key, what in (
            ("leases_granted", "Leases granted since host-server started."),
            ("leases_failed", "Leases on which the host did not do its work."),
            ("leases_revoked", "Leases that ended because the host was lost or left."),
            ("backups_begun", "Second leases given to compiles that ran on slower slots."),
            ("backups_first", "Of these, those under which the compile was done."),
            ("requests_refused", "Requests that were refused."),
        ):
            yield CounterMetricFamily(f"compilefarm_{key}", what, value=totals[key])
