"""mon-host-server: the farm as a table in a terminal, or as JSON for scripts.

It asks host-server's monitor port once and prints the answer. Any user of the farm can choose names
and reasons in a snapshot, so only printable characters of them reach the terminal. The reasons are
what people run this program for: a narrow terminal loses other columns first, and a pipe gets every
line whole.

The HTTP client is the standard library's, because aiohttp's alone takes longer to start than all
the rest. This module must not know the farm: it shows what `/api/farm` says, and a field that an
older server does not send stays empty.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol, cast

from compilefarm.programs.connection import servers
from compilefarm.programs.error_text import error_text
from compilefarm.programs.options import Parser, complain, positive_number
from compilefarm.protocol.address import Address
from compilefarm.protocol.farm_json import (
    CompilerSnapshot,
    HostSnapshot,
    RequestSnapshot,
    Snapshot,
)
from compilefarm.protocol.ports import Port

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

TIMEOUT_S = 10.0
WATCH_S = 2.0
# Widths in columns. On a narrower terminal the reasons move below the table, and then the columns
# for load and power index are left out.
REASON_FROM = 110
LOAD_FROM = 72
POWER_FROM = 52
OWNER_LIMIT_S = 366 * 86400.0


class View(Protocol):
    """Shows a part of a snapshot; `view` says what the arguments mean."""

    def __call__(self, snapshot: Snapshot, width: int, *, totals_first: bool = False) -> Group: ...


class NoAnswer(Exception):
    """No host-server answers; the text says which servers were tried and why each failed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `mon-host-server` with these arguments, or the command line's; return its status."""
    parser = Parser("mon-host-server", "Show the farm: hosts, slots, waiting requests, and why.")
    parser.add_argument(
        "--compilers", action="store_true", help="show the compilers of hosts and of builders"
    )
    parser.add_argument("--json", action="store_true", help="print the server's JSON, unchanged")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=positive_number,
        const=WATCH_S,
        metavar="SECONDS",
        help=f"refresh every SECONDS (default: {WATCH_S:g}), until Ctrl-C",
    )
    options = parser.parse_args(arguments)
    try:
        candidates = servers(options.server or os.environ.get("HOST_SERVER") or "localhost")
    except ValueError as error:
        parser.error(str(error))
    try:
        show = compilers_view if options.compilers else view
        if options.watch:
            _watch(candidates, options.watch, show, as_json=options.json)
        elif options.json:
            _print_json(fetch(candidates))
        else:
            _print_table(parse(fetch(candidates)), show)
    except NoAnswer as error:
        return complain("mon-host-server", error)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # `mon-host-server | head`: the reader has gone. Do not write the rest of the buffer again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def fetch(candidates: Sequence[Address]) -> bytes:
    """Return the snapshot of the first server that answers, as the JSON that it sent.

    `candidates` have host-server's base port. Raises `NoAnswer`.
    """
    failures = []
    for server in candidates:
        address = Address(server.host, server.port + Port.MONITOR)
        connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", "/api/farm")
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, UnicodeError) as error:
            failures.append(f"{address} ({error_text(error)})")
        except http.client.HTTPException:
            failures.append(f"{address} (the server there is not a host-server)")
        else:
            if answer.status == http.client.OK:
                return body
            text = printable(body[:200].decode(errors="replace").strip())
            failures.append(f"{address} ({text or answer.status})")
        finally:
            connection.close()
    raise NoAnswer(f"no host-server answers at {', '.join(failures)}")


def parse(body: bytes) -> Snapshot:
    """Return the snapshot in a server's answer; raises `NoAnswer` if it is not one."""
    try:
        snapshot = json.loads(body)
        if isinstance(snapshot, dict) and isinstance(snapshot["hosts"], list):
            # Another version's server may leave keys out, so the view reads them with `get`.
            return cast(Snapshot, snapshot)
    except (ValueError, KeyError, RecursionError):
        pass
    raise NoAnswer("the server there is not a host-server")


def printable(text: object) -> str:
    """Return the text with U+FFFD in place of each character that is not printable."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for character in str(text)
    )


def view(snapshot: Snapshot, width: int, *, totals_first: bool = False) -> Group:
    """Return the view of a snapshot, `width` columns wide, as a rich renderable.

    The totals come last, next to the prompt. With `totals_first` they come first, for a screen that
    cuts off what does not fit.
    """
    from rich.console import Group

    hosts = snapshot["hosts"]
    totals = list(map(_line, [*_totals(snapshot), _server(snapshot)]))
    parts: list[Table | Text | str] = []
    if hosts:
        parts.append(_hosts_table(hosts, width))
        if width < REASON_FROM:
            parts += _reasons(hosts)
    else:
        parts.append("No hosts. Run `enable-host` on a compile host to add it to the farm.")
    requests = snapshot.get("requests", [])
    if requests:
        parts += ["", _requests_table(requests)]
    return Group(*totals, "", *parts) if totals_first else Group(*parts, "", *totals)


def compilers_view(snapshot: Snapshot, width: int, *, totals_first: bool = False) -> Group:
    """Return the view of a snapshot's compilers, one a line; otherwise as `view`."""
    from rich.console import Group

    compilers = snapshot.get("compilers", [])
    none = "No compilers: no agent has reported any, and no builder has asked for one."
    part = _compilers_table(compilers, width) if compilers else none
    server = _line(_server(snapshot))
    return Group(server, "", part) if totals_first else Group(part, "", server)


# -- the parts of the view


def _hosts_table(hosts: Sequence[HostSnapshot], width: int) -> Table:
    from rich.text import Text

    table = _table()
    table.add_column("host", overflow="fold", min_width=8)
    table.add_column("tier", justify="right", no_wrap=True)
    table.add_column("in use", justify="right", no_wrap=True)
    table.add_column("free", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    if width >= POWER_FROM:
        table.add_column("power", justify="right", no_wrap=True)
    if width >= LOAD_FROM:
        table.add_column("load", justify="right", no_wrap=True)
        table.add_column("foreign CPUs", justify="right", no_wrap=True)
    if width >= REASON_FROM:
        table.add_column("reason", overflow="fold", ratio=1)
    for host in hosts:
        load = host.get("load")
        average = load["load_averages"][0] if load and load.get("load_averages") else None
        cells = [
            _line(host.get("name", "?")),
            _line(_or_dash(host.get("tier"))),
            _line(f"{host.get('slots_in_use', '?')} of {host.get('slots', '?')}"),
            _line(host.get("slots_free", "?")),
            Text(printable(host.get("state", "?")), style=_style(host)),
        ]
        if width >= POWER_FROM:
            cells.append(_line(_number(host.get("power_index"), 1)))
        if width >= LOAD_FROM:
            cells += [
                _line(_number(average, 2)),
                _line(_number(load and load.get("foreign_cpus"), 2)),
            ]
        if width >= REASON_FROM:
            cells.append(_line(_reason(host)))
        table.add_row(*cells)
    return table


def _reasons(hosts: Sequence[HostSnapshot]) -> list[Text | str]:
    reasons: list[Text | str] = [
        _line(f"{host.get('name', '?')}: {reason}") for host in hosts if (reason := _reason(host))
    ]
    return ["", *reasons] if reasons else []


def _requests_table(requests: Sequence[RequestSnapshot]) -> Table:
    table = _table()
    table.add_column("waiting: user", overflow="fold")
    table.add_column("builder", overflow="fold")
    table.add_column("source", overflow="fold")
    table.add_column("waited", justify="right", no_wrap=True)
    for request in requests:
        table.add_row(
            _line(request.get("user") or "-"),
            _line(request.get("builder") or "-"),
            _line(request.get("source") or "-"),
            _line(_duration(request.get("waited_s"))),
        )
    return table


def _compilers_table(compilers: Sequence[CompilerSnapshot], width: int) -> Table:
    table = _table()
    table.add_column("compiler", overflow="fold")
    if width >= LOAD_FROM:
        table.add_column("id", no_wrap=True)
    for name in ("hosts", "slots", "granted", "refused"):
        table.add_column(name, justify="right", no_wrap=True)
    for compiler in compilers:
        closed = compiler.get("hosts_closed")
        ids = [_line(compiler.get("id", "?"))] if width >= LOAD_FROM else []
        table.add_row(
            _line(compiler.get("text") or compiler.get("name", "?")),
            *ids,
            _line(f"{compiler.get('hosts', '?')}{f' ({closed} failed)' if closed else ''}"),
            _line(compiler.get("slots", "?")),
            _line(compiler.get("requests_granted", "?")),
            _line(compiler.get("requests_refused", "?")),
        )
    return table


def _totals(snapshot: Snapshot) -> list[str]:
    totals = snapshot.get("totals", {})
    # A backup's slot is in use, but the next request gets it at once.
    backups = sum(
        bool(lease.get("backup")) for host in snapshot["hosts"] for lease in host.get("leases", [])
    )
    of_these = f" ({_count(backups, 'backup')})" if backups else ""
    now = (
        f"{totals.get('hosts_up', '?')} of {_count(totals.get('hosts'), 'host')} up",
        f"{_count(totals.get('slots'), 'slot')}: {totals.get('slots_in_use', '?')} in use"
        f"{of_these}, {totals.get('slots_free', '?')} free",
        f"{_count(totals.get('requests_waiting'), 'request')} waiting",
    )
    so_far = (
        f"{_count(totals.get('leases_granted'), 'lease')} granted, "
        f"{totals.get('leases_failed', '?')} failed, {totals.get('leases_revoked', '?')} revoked",
        f"{_count(totals.get('backups_begun'), 'backup')}, "
        f"{totals.get('backups_first', '?')} of them first",
        f"{_count(totals.get('requests_refused'), 'request')} refused",
    )
    return [f"now: {'; '.join(now)}", f"so far: {'; '.join(so_far)}"]


def _server(snapshot: Snapshot) -> str:
    server = snapshot.get("server", {})
    policy = snapshot.get("policy", "?")
    words = [f"host-server {server.get('version', '')}"]
    if "base_port" in server:
        words.append(f"on {server.get('host', '?')}, base port {server['base_port']}")
    return f"{' '.join(words)}, up {_duration(server.get('uptime_s'))}, policy {policy}"


# -- pieces of text


def _table() -> Table:
    from rich.table import Table

    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")


def _line(value: object) -> Text:
    """Return text that rich does not interpret: `[bold]` in a name stays as it is."""
    from rich.text import Text

    return Text(printable(value))


def _style(host: HostSnapshot) -> str:
    if host.get("state") == "up":
        return "yellow" if host.get("reason") else "green"
    return "dim" if host.get("state") in ("away", "draining", "owner") else "red"


def _reason(host: HostSnapshot) -> str:
    """Return the reason for a host's state, with the time at which its owner came.

    host-server reports how long ago the owner came, because its own clock may be wrong or in
    another time zone. So the time is by the clock of this machine.
    """
    reason, present_s = host.get("reason") or "", host.get("owner_present_s")
    if host.get("state") != "owner" or not isinstance(present_s, (int, float)):
        return str(reason)
    now = datetime.now().astimezone()
    came = now - timedelta(seconds=min(max(0.0, present_s), OWNER_LIMIT_S))
    day = "" if came.date() == now.date() else f"{came:%a %d %b }"
    return f"{reason} since {day}{came:%H:%M}"


def _or_dash(value: object) -> object:
    return "-" if value is None else value


def _number(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "-"


def _count(value: object, noun: str) -> str:
    return f"{'?' if value is None else value} {noun}{'' if value == 1 else 's'}"


def _duration(seconds: object) -> str:
    if not isinstance(seconds, (int, float)):
        return "?"
    for unit_s, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{int(seconds // unit_s)} {unit}"
    return f"{seconds:.1f} s"


# -- to the terminal, or to a pipe


def _print_json(body: bytes) -> None:
    sys.stdout.buffer.write(body)
    sys.stdout.flush()


def _print_table(snapshot: Snapshot, show: View) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(show(snapshot, console.width))
    else:
        sys.stdout.write(_as_plain_text(console, snapshot, show))
        sys.stdout.flush()


def _as_plain_text(console: Console, snapshot: Snapshot, show: View) -> str:
    """Return the view without a terminal's limits: one line for each host, however long."""
    console.width = 100_000
    with console.capture() as captured:
        console.print(show(snapshot, console.width))
    return "".join(line.rstrip() + "\n" for line in captured.get().splitlines())


def _watch(candidates: Sequence[Address], every_s: float, show: View, *, as_json: bool) -> None:
    """Show the farm until Ctrl-C; on a terminal, wait for a server that does not answer."""
    from rich.console import Console
    from rich.live import Live

    body = fetch(candidates)
    console = Console(highlight=False)
    if as_json or not console.is_terminal:
        while True:
            if as_json:
                _print_json(body)
            else:
                _print_table(parse(body), show)
                print(flush=True)
            time.sleep(every_s)
            body = fetch(candidates)
    snapshot = parse(body)
    with Live(
        console=console, screen=True, auto_refresh=False, vertical_overflow="ellipsis"
    ) as live:
        trouble = ""
        while True:
            shown = show(snapshot, console.width, totals_first=True)
            if trouble:
                shown.renderables.insert(0, _line(f"{trouble}; trying again"))
            live.update(shown, refresh=True)
            time.sleep(every_s)
            try:
                snapshot, trouble = parse(fetch(candidates)), ""
            except NoAnswer as error:
                trouble = str(error)
