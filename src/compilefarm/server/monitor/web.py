"""The monitor port: snapshots of the farm as JSON, as Prometheus metrics, and as a page.

It runs inside host-server, on the event loop that compiles wait for, so it must cost little there.
A snapshot is made and encoded in pieces, and the loop runs between them. A snapshot also serves all
requests that come within `REST_PER_COST` times the CPU time that it took. So snapshots never take
more than a twentieth of the server's time, however many monitors ask. The CPU time counts, not the
wall time: after a pause of the whole machine, an old snapshot would be shown for far too long.
Rejected: encoding in a thread, because the encoder holds the interpreter's lock throughout.

Browsers read this port, and they also run other sites' pages. So each answer forbids framing,
type guessing and caching. A request must also name the server by one of the server's own names.
This refuses a page from elsewhere whose name suddenly means this machine (DNS rebinding). Nothing
here changes the farm.

This module reads snapshots. It must not know the farm, nor which addresses may look.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterable
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from compilefarm.core.snapshot import PIECE
from compilefarm.protocol.farm_json import Snapshot
from compilefarm.server.monitor.metrics import metrics_text

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# A snapshot is not made again within this many times the CPU time that it took.
REST_PER_COST = 20

# A connection without a request is closed after this time.
IDLE_S = 30.0
# The policy and the headers of every answer. Only our own page may show the data.
NOTHING_RUNS = "default-src 'none'; frame-ancestors 'none'"
HEADERS = {
    "Server": "host-server",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def application(
    farm_snapshot: Callable[[], Awaitable[Snapshot]],
    allowed: Callable[[str], bool],
    names: Iterable[str] = (),
) -> web.Application:
    """Return the monitor port's HTTP application.

    `farm_snapshot` returns the farm as JSON-ready values, and lets the loop run meanwhile.
    `allowed` says whether the peer of that address may look. `names` are the machine's names that
    contain a dot. An address, or a name without a dot, always means this server.
    """
    own_names = {name.lower().rstrip(".") for name in names}
    source = _Source(farm_snapshot)
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    page_policy = _content_security_policy(page)

    async def farm(_: web.Request) -> web.Response:
        return web.Response(body=await source.encoded(), content_type="application/json")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=metrics_text(await source.snapshot()),
            headers={"Content-Type": CONTENT_TYPE_LATEST},
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
            return _refusal(403, f"{name} is not a name of this server; see host-server --name")
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return _refusal(404, "this port has /, /api/farm and /metrics")
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
    """The latest snapshot and its JSON, made again for a request once it is no longer fresh."""

    def __init__(self, farm_snapshot: Callable[[], Awaitable[Snapshot]]) -> None:
        self._farm_snapshot = farm_snapshot
        self._lock = asyncio.Lock()  # requests that come while it is made wait for it
        self._snapshot: Snapshot
        self._encoded = b""
        self._fresh_until = float("-inf")

    async def snapshot(self) -> Snapshot:
        await self.encoded()
        return self._snapshot

    async def encoded(self) -> bytes:
        async with self._lock:
            if time.monotonic() >= self._fresh_until:
                # This includes the loop's work between the pieces: a busy server makes fewer.
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
