"""host-server: the program. It starts the farm on its four ports, serves, and stops.

Before it serves, it restores what an earlier server saved, and reads hosts-info. So the farm knows
its hosts before the first client connects. It stops at SIGTERM or SIGINT. Running compiles do not
need it: they end by themselves, or attach their leases to the next server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import random
import signal
import sys
from pathlib import Path

import uvloop

from compilefarm import __version__
from compilefarm.core.compilers import Sameness
from compilefarm.core.events import EarlierLife
from compilefarm.core.learning.learning import Learning
from compilefarm.core.placement.policies import make_policy
from compilefarm.programs.garbage_collector import tune_garbage_collector
from compilefarm.programs.key_file import KeyFileError, read_keys
from compilefarm.protocol.hosts_info import HostsInfoError
from compilefarm.protocol.ports import Port
from compilefarm.server.access import networks_by_port
from compilefarm.server.addresses import own_names
from compilefarm.server.host_server import HostServer
from compilefarm.server.listen import (
    all_addresses,
    open_ports,
    raise_descriptor_limit,
    serve_lines,
    serve_monitor,
)
from compilefarm.server.options import parse_arguments
from compilefarm.server.storage.record import Recorder, mend, recorded_until_s
from compilefarm.server.storage.state_file import StateFileError
from compilefarm.server.storage.write_behind import WriteBehind

log = logging.getLogger("host-server")


class StartError(Exception):
    """The server cannot start; the text says what, where, and what to do."""


def main() -> int:
    """Run host-server; return its exit status."""
    options = parse_arguments()
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    raise_descriptor_limit()
    try:
        uvloop.run(run(options))
    except StartError as error:
        print(f"host-server: {error}", file=sys.stderr)
        return 1
    return 0


async def run(options: argparse.Namespace) -> None:
    """Run the server until SIGTERM or SIGINT; raises `StartError`."""
    loop = asyncio.get_running_loop()
    stop, reload = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    async with contextlib.AsyncExitStack() as stack:
        server = await _prepared(options, stack)
        await _listen(server, options, stack)
        work = [server.keep_time(), _reload_on_demand(server, options, reload)]
        if server.write_behind is not None:
            work.append(server.write_behind.keep())
        for each in work:
            stack.callback(loop.create_task(each).cancel)
        where = ", ".join(options.bind or ["all addresses"])
        print(f"host-server {__version__} listening on {where} port {server.base_port}", flush=True)
        tune_garbage_collector()
        await stop.wait()
        log.info("ends: %d compiles were running", len(server.farm.leases))


# -- start


async def _prepared(options: argparse.Namespace, stack: contextlib.AsyncExitStack) -> HostServer:
    """Return a server that knows its hosts, its keys, and what an earlier server saved."""
    learning = Learning()
    policy = make_policy(options.policy, learning, random.Random(), backups=options.backups)
    server = HostServer(
        policy,
        networks_by_port(options.allow),
        options.connections_per_address,
        options.waiting_per_address,
        Sameness(options.compilers),
    )
    if options.key_file is not None:
        try:
            server.keys = read_keys(options.key_file)
        except KeyFileError as error:
            raise StartError(str(error)) from None
    if options.state_dir is not None:
        server.write_behind = WriteBehind(options.state_dir, learning, server.farm.availability)
        await _restore(server.write_behind, stack)
    if options.hosts_info is not None:
        await _read_first(server, options.hosts_info)
    if server.write_behind is not None and server.write_behind.earlier_life is not None:
        server.happen(EarlierLife(server.write_behind.earlier_life))
    if options.record is not None:
        server.recorder = _recorder(options.record, server.now(), stack)
    return server


async def _restore(write_behind: WriteBehind, stack: contextlib.AsyncExitStack) -> None:
    try:
        await write_behind.restore()
    except StateFileError as error:
        raise StartError(str(error)) from None
    stack.push_async_callback(write_behind.close)


async def _read_first(server: HostServer, path: Path) -> None:
    try:
        count = await server.read_hosts_info(path)
    except HostsInfoError as error:
        raise StartError(str(error)) from None
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror}") from None
    log.info("%s lists %d hosts", path, count)


def _recorder(path: Path, started: float, stack: contextlib.AsyncExitStack) -> Recorder | None:
    """Return the writer of the record; None, and a line in the log, where the disk is full."""

    def close() -> None:
        # A row that finds no space was reported when it was lost.
        with contextlib.suppress(OSError):
            file.close()

    try:
        mend(path)
        file = path.open("a", newline="", encoding="utf-8")
        stack.callback(close)
        return Recorder(file, started - recorded_until_s(path))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # no more reason to stop than later
            log.error("no record is kept: cannot write %s: %s", path, error.strerror)
            return None
        raise StartError(f"cannot write {path}: {error.strerror}; see --record") from None


async def _listen(
    server: HostServer, options: argparse.Namespace, stack: contextlib.AsyncExitStack
) -> None:
    try:
        base, ports = open_ports(options.bind or all_addresses(), options.port)
    except OSError as error:
        numbers = (
            f"port {options.port} to {options.port + max(Port)}" if options.port else "any port"
        )
        where = f"{numbers} of {', '.join(options.bind or ['all addresses'])}"
        raise StartError(
            f"cannot listen on {where}: {error.strerror}; see --port and --bind"
        ) from None
    server.base_port = base
    await serve_lines(server, ports, stack)
    names = [*options.name, *await own_names()]
    await serve_monitor(server, ports[Port.MONITOR], names, stack)


# -- while it runs


async def _reload_on_demand(
    server: HostServer, options: argparse.Namespace, demand: asyncio.Event
) -> None:
    """Read the keys and hosts-info again at each demand, for ever."""
    while True:
        await demand.wait()
        demand.clear()
        if options.hosts_info is None and options.key_file is None:
            log.warning("SIGHUP: there is no hosts-info and no key file to read again")
        if options.key_file is not None:
            _reload_keys(server, options.key_file)
        if options.hosts_info is not None:
            await _reload_hosts_info(server, options.hosts_info)


def _reload_keys(server: HostServer, path: Path) -> None:
    try:
        server.keys = read_keys(path)
        log.info("%s read again: %d keys", path, len(server.keys))
    except KeyFileError as error:
        log.error("the keys stay as they were: %s", error)


async def _reload_hosts_info(server: HostServer, path: Path) -> None:
    try:
        log.info("%s read again: %d hosts", path, await server.read_hosts_info(path))
    except HostsInfoError as error:
        log.error("hosts-info stays as it was: %s", error)
    except OSError as error:
        log.error("hosts-info stays as it was: cannot read %s: %s", path, error.strerror)


if __name__ == "__main__":
    sys.exit(main())
