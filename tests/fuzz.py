"""Fuzzing: any input gets an error message or is handled, and does no harm.

`make fuzz MINUTES=10` lets hypothesis generate lines, streams, conversations and files for that
time; `make test` tries some hundreds of each. Each target names the error of its format; any other
exception is a finding. Half of the inputs are built from the words of the format, because random
bytes hardly get past the verb.

Atheris was considered. It finds faults behind a magic number, which these formats do not have, and
it needs another compiler than the usual one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from storms.clock import Clock
from storms.host_server import CONNECTIONS, STATUS, ServerProgram, WatchedServer
from storms.network import Network

from compilefarm.programs.key_file import KeyFileError, read_keys
from compilefarm.protocol.hosts_info import HostsInfoError, parse_hosts_info
from compilefarm.protocol.wire import (
    LINE_LIMIT_BYTES,
    LineSplitter,
    Message,
    WireError,
    _read_words,
    format_line,
    parse_line,
)
from compilefarm.simulate.bounds import lower_bound_s
from compilefarm.simulate.trace import TraceError, parse_load, parse_record, parse_trace

EXAMPLES_AT_ONCE = 2000

# -- lines


def _words(text: str) -> list[str]:
    return text.split(" ")


VERBS = _words(
    "request done failed jobs load add remove drain networks owner lease wait attach"
    " challenge prove"
)
KEYS = _words(
    "user builder cpus dir source compiler type avoid wait_s exit wall_s cpu_s reason host port"
    " slots power_index types compilers grace_s load1 load5 load15 own1 own_cpus foreign_cpus"
    " memory_free_mb memory_total_mb compile_memory_mb cpu_pressure distccd id state since_s revoke"
    " mode reserve_cpus returning key nonce proof"
)
VALUES = _words(
    "ada gcc main.c 4 0 1 -1 0.5 1e9 nan inf 999999999999999 99999999999999999999 127.0.0.1"
    " 10.0.0.9 present absent idle proportional yes no"
    " 10.0.0.1:3632 [::1]:3632 ::1 [ desk1 desk1:4000 x,y ,, %20 %C3%A9 %FF %zz % = == running gone"
    " stopped 86400 86401 4096 65535 65536 0.0000001 .5 5. +5 ٣ ² é \u2028 \x7f \x00 \r \t"
)

values = st.sampled_from(VALUES) | st.text(max_size=20) | st.integers().map(str)
words = st.builds("{}={}".format, st.sampled_from(KEYS), values) | st.text(max_size=12)
built_lines = st.builds(
    lambda verb, rest: " ".join([verb, *rest]).encode(errors="surrogatepass"),
    st.sampled_from(VERBS) | st.text(max_size=8),
    st.lists(words, max_size=8),
)
long_lines = st.integers(8000, 8400).map(lambda length: b"request user=" + b"a" * length)
many_words = st.integers(60, 70).map(
    lambda count: b"load " + b" ".join(b"k%d=1" % n for n in range(count))
)
lines = built_lines | built_lines | st.binary(max_size=60) | long_lines | many_words
ends = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"", b" \n", b"\x00\n"])
streams = st.lists(st.builds(bytes.__add__, lines, ends), max_size=6).map(b"".join)


def in_pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """Return the pieces of a stream that is cut at these places."""
    places = sorted({cut % (len(stream) + 1) for cut in cuts})
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


# -- targets: each takes an input, and may raise nothing


def line(data: bytes) -> None:
    """A line is a message or a `WireError`; the fast parser and the thorough one agree."""
    try:
        message = parse_line(data)
    except WireError:
        return
    verb, *pairs = data.decode().removesuffix("\r").split(" ")
    assert message.words == _read_words(verb, pairs)
    for key in message.words:
        for read in _READERS:
            with contextlib.suppress(WireError):
                read(message, key)
    again = parse_line(format_line(message.verb, **message.words).removesuffix(b"\n"))
    assert again.verb == message.verb
    # An empty value is written as empty, and its getters treat it as missing.
    assert again.words == message.words


_READERS: tuple[Callable[[Message, str], object], ...] = (
    lambda message, key: message.number(key, 1.0, high=1e6),
    lambda message, key: message.integer(key, 1),
    lambda message, key: message.optional_number(key),
    lambda message, key: message.items(key),
    lambda message, key: message.text(key),
    lambda message, key: message.required(key),
)


def stream(data: bytes, cuts: list[int]) -> None:
    """The lines of a stream do not depend on its cuts, and none is longer than the limit."""

    def split(pieces: list[bytes]) -> tuple[list[bytes], bool]:
        splitter, found = LineSplitter(), []
        try:
            for piece in pieces:
                for each in splitter.feed(piece):
                    assert len(each) < LINE_LIMIT_BYTES
                    found.append(each)
        except WireError:
            return found, False
        return found, True

    whole, pieces = split([data]), split(in_pieces(data, cuts))
    assert whole == pieces


class _Visitor(asyncio.Protocol):
    """A client that sends bytes and collects the answer."""

    def __init__(self) -> None:
        self.heard = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data


class _Server:
    """The real host-server on a simulated network, so that time costs nothing."""

    def __init__(self, policy: str, seed: int) -> None:
        self.clock = Clock()
        self._network = Network(self.clock, random.Random(seed))
        self._home = self._network.machine("server", "10.0.0.1")
        self._guest = self._network.machine("guest", "10.0.0.9")
        self._program = ServerProgram(self._network, self._home, policy, (), self._check_farm)
        self._program.start()
        self._process = self._network.process("guest", self._guest)

    @property
    def server(self) -> WatchedServer:
        """The server; it runs all the time."""
        assert self._program.server is not None
        return self._program.server

    def say(self, port: int, pieces: list[bytes], for_s: float) -> _Visitor:
        """Send pieces to a port, and let `for_s` pass; return the client."""
        visitor = _Visitor()
        self._network.connect(self._process, self._guest, self._home.address, port, visitor)
        until = self.clock.now + for_s
        while visitor.transport is None and self.clock.step():
            pass
        for piece in pieces:
            if visitor.transport is not None and piece:
                visitor.transport.write(piece)
            self.clock.step()
        self.run_until(until)
        return visitor

    def run_until(self, until: float) -> None:
        """Let time pass."""
        while self.clock.now < until:
            self.clock.step()

    def end(self) -> None:
        """Kill the server and the client."""
        self._process.kill()
        self._program.kill()

    def _check_farm(self) -> None:
        self.server.farm.check()


def conversation(port: int, policy: str, keyed: bool, data: bytes, cuts: list[int]) -> None:
    """Any bytes on a port get whole lines as an answer; the farm stays consistent and serves."""
    farm = _Server(policy, seed=len(data))
    assert b"ok host=" in farm.say(STATUS, [b"add host=10.0.0.9 slots=2\n"], 1.0).heard
    if keyed:
        farm.server.keys = (b"0123456789abcdef",)
    visitor = farm.say(port, in_pieces(data, cuts), 1.0)
    for answer in visitor.heard.split(b"\n")[:-1]:  # a reset may have cut off the last one
        assert parse_line(answer).verb in ANSWERS
    if visitor.transport is not None:
        visitor.transport.close()
    farm.run_until(25.0)  # longer than any time limit of a connection
    assert not farm.server.farm.leases
    assert not farm.server.farm.waiting
    assert not farm.server.overdue_at
    assert b"ok networks=" in farm.say(STATUS, [b"networks\n"], 1.0).heard
    farm.end()


ANSWERS = {
    *("challenge", "attached", "ok", "wait", "lease", "refused", "revoked", "error", "jobs"),
    *("draining", "hello"),
}


def hosts_info(text: str) -> None:
    """A file is a list of hosts with usable numbers, or an error that names a line."""
    try:
        declarations = parse_hosts_info(text, "hosts-info")
    except HostsInfoError as error:
        _is_one_line_about("hosts-info", error)
        return
    assert len({each.name for each in declarations}) == len(declarations)
    for each in declarations:
        assert each.slots
        assert each.power_index
        assert 0 < each.power_index < 1e6


def _is_one_line_about(file: str, error: Exception) -> None:
    assert str(error).startswith(file)
    assert len(str(error).splitlines()) == 1


def key_file(data: bytes) -> None:
    """A file has at least one key and no short one, or an error of one line that names it."""
    with tempfile.NamedTemporaryFile() as file:  # only its owner can read it
        file.write(data)
        file.flush()
        try:
            keys = read_keys(Path(file.name))
        except KeyFileError as error:
            _is_one_line_about(f"key file {file.name}", error)
            return
    assert keys
    assert min(map(len, keys)) >= 16


def trace(text: str) -> None:
    """A file is a trace, a record or a load file, or an error that names line and column."""
    hosts = ("alder", "birch")
    for parse in (parse_trace, parse_record, partial(parse_load, hosts=hosts)):
        try:
            rows: Any = parse(text, "trace")
        except TraceError as error:
            _is_one_line_about("trace", error)
            continue
        if parse is parse_trace:
            assert lower_bound_s([row.cost_s for row in rows], [1.0, 2.0], 2) > 0.0


# -- files

host_words = st.sampled_from(
    _words(
        "alder birch 10.0.0.7 [::1]:4000 [::1 a:b:c birch:0 birch:3632 -x 4 0 4097 2.5 nan 1e3 -1"
        " 00004 ٣ ² mode=idle mode=x reserve_cpus=1"
        " address=10.0.0.7 address=x port=4000 port=0 pinned pinned=no static static=perhaps"
        " types=a,b types=, compilers=gcc actual=3 actual=0 colour=red # \\ \x00 \ufeff"
    )
)
host_lines = st.lists(host_words, max_size=6).map(" ".join) | st.builds(
    "{} {} {}".format, host_words, host_words, host_words
)
hosts_files = st.lists(host_lines, max_size=5).map("\n".join) | st.text(max_size=80)
cells = st.sampled_from(
    _words(
        "source compile_s user dir arrived_s granted_s ended_s ending host time_s foreign_cpus"
        ' main.c 1.5 0 -1 nan inf 1e999 done gone "" " "a,b" "x 86401'
    )
)
rows = st.lists(cells, max_size=9).map(",".join)
headers = st.sampled_from(
    [
        "source,compile_s",
        "time_s,host,foreign_cpus",
        "source,compile_s,user,dir,arrived_s,granted_s,ended_s,ending",
    ]
)
like_a_record = st.builds(
    lambda columns, body: "\n".join([columns, *body]),
    headers,
    st.lists(st.sampled_from(["main.c,1.5", "1,alder,2", "a.c,1,u,d,0,1,2,done", ""]) | rows),
)
trace_files = like_a_record | st.lists(rows, max_size=5).map("\n".join) | st.text(max_size=80)

keys = st.text("abc/+=#! \t\x0b\u20ac\0", min_size=10, max_size=40).map(str.encode)
key_files = st.lists(keys | st.binary(max_size=30), max_size=4).map(b"\n".join)
cuts = st.lists(st.integers(0, 10_000), max_size=4)


@dataclass(frozen=True)
class Target:
    """A function under test, and the strategies for its arguments."""

    function: Callable[..., None]
    given: dict[str, st.SearchStrategy[Any]]

    @property
    def name(self) -> str:
        """The target's name."""
        return self.function.__name__

    def play(self, examples: int, seed: int) -> None:
        """Try this number of examples; raises the error of a failing one, with the example."""

        def body(**example: Any) -> None:
            self.function(**example)

        test = hypothesis.given(**self.given)(body)
        test = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )(test)
        hypothesis.seed(seed)(test)()


TARGETS = [
    Target(line, {"data": lines}),
    Target(stream, {"data": streams, "cuts": cuts}),
    Target(
        conversation,
        {
            "port": st.sampled_from(sorted(CONNECTIONS)),
            "policy": st.sampled_from(["earliest", "tier"]),
            "keyed": st.booleans(),
            "data": streams,
            "cuts": cuts,
        },
    ),
    Target(hosts_info, {"text": hosts_files}),
    Target(trace, {"text": trace_files}),
    Target(key_file, {"data": key_files}),
]


def main() -> int:
    """Fuzz for as long as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="default: a random one")
    options = parser.parse_args()
    logging.disable()
    seed = options.seed if options.seed is not None else random.randrange(10**9)
    print(f"fuzzing for {options.minutes:g} minutes, seed {seed}", flush=True)
    played = dict.fromkeys(TARGETS_BY_NAME, 0)
    ends_at = time.monotonic() + 60.0 * options.minutes
    while time.monotonic() < ends_at:
        for target in TARGETS:
            seed += 1
            try:
                target.play(EXAMPLES_AT_ONCE, seed)
            except Exception:
                print(f"{target.name}, seed {seed}:", file=sys.stderr)
                for row in traceback.format_exc().splitlines():
                    print(
                        row if len(row) < 500 else f"{row[:300]} ... {row[-100:]}", file=sys.stderr
                    )
                return 1
            played[target.name] += EXAMPLES_AT_ONCE
            if time.monotonic() >= ends_at:
                break
    print(", ".join(f"{name} {count:,}" for name, count in played.items()) + ": nothing found")
    return 0


TARGETS_BY_NAME = {target.name: target for target in TARGETS}

if __name__ == "__main__":
    sys.exit(main())
