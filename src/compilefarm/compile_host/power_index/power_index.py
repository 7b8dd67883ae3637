"""power-index: measures how fast this machine compiles, so that the number need not be guessed.

The result is stored in a file of the user's, because a machine does not get faster overnight. The
file names the machine and compiler of each result, and enable-host reads it. A first measurement
must not keep a host out of the farm for long, so enable-host makes a quick one. It does that before
the host is in the farm: afterwards the farm's compiles and the measurement would disturb each
other. Until the measurement is done, the farm would assume a power index of 1, send the large files
elsewhere, and learn from that.

This module must not know how speed is measured (benchmark.py), nor what the farm does with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compilefarm.compile_host.power_index.benchmark import (
    BenchmarkError,
    Compiler,
    Measurement,
    Spread,
    Subject,
    find_compiler,
    measure,
    subject,
)
from compilefarm.compile_host.power_index.benchmark_sources import source_set
from compilefarm.programs.command_line import print_result
from compilefarm.programs.cpus import available_cpus
from compilefarm.programs.error_text import error_text
from compilefarm.programs.options import (
    Parser,
    complain,
    exit_on_a_signal,
    host_address,
    this_host,
    whole_number,
)
from compilefarm.protocol.hosts_info import POWER_INDEX_LEAST, POWER_INDEX_LIMIT

ROUNDS_DEFAULT = 5
# A quick measurement is one round of one source for each language.
QUICK_SOURCES = 2
QUICK_ROUNDS = 1
# Above these limits a measurement should be repeated.
FOREIGN_SHARE_MAX = 0.1
WIDTH_MAX = 0.1
# There may be measurements for several compilers and numbers of slots.
CACHED_MAX = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `power-index` with these arguments, by default the command line's; return its status."""
    parser = Parser("power-index", "Measure how fast this machine compiles.")
    parser.add_argument(
        "--compiler", metavar="CC", help="the compiler to measure with (default: cc)"
    )
    parser.add_argument(
        "--slots",
        type=whole_number,
        metavar="N",
        help="number of compiles at the same time (default: one for each CPU)",
    )
    parser.add_argument(
        "--rounds",
        type=whole_number,
        metavar="N",
        help=f"number of times that everything is compiled (default: {ROUNDS_DEFAULT})",
    )
    parser.add_argument(
        "--quick", action="store_true", help="compile only a part, and once, for a first figure"
    )
    parser.add_argument(
        "--register", action="store_true", help="send the result to host-server, as addhost does"
    )
    parser.add_argument(
        "--host",
        type=host_address,
        metavar="HOST[:PORT]",
        help="with --register: name of this machine in the farm (default: its host name)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--verbose", action="store_true", help="print a line for each round")
    options = parser.parse_args(arguments)
    if options.host and not options.register:
        parser.error("--host needs --register")
    candidates = parser.servers(options) if options.register else []
    slots = options.slots or available_cpus()

    exit_on_a_signal()
    try:
        compiler = find_compiler(options.compiler)
        measurement = _measured(
            compiler,
            slots,
            options.rounds,
            quick=options.quick,
            tell=_tell if options.verbose else lambda _: None,
        )
    except BenchmarkError as error:
        return complain("power-index", error)
    text = _json(measurement) if options.json else _text(measurement)
    status = print_result("power-index", text)
    if doubt := _doubt(measurement):
        complain("power-index", f"warning: {doubt}")
    # A quick figure does not replace a better one.
    if not (options.quick and recall(compiler, slots)) and (failure := remember(measurement)):
        complain("power-index", f"warning: {failure}")
    if status or not options.register:
        return status
    from compilefarm.programs.announce import add

    host = options.host or this_host()
    # The line about the registration is not JSON.
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        return add(
            "power-index", candidates, host, slots=slots, power_index=measurement.power_index
        )


def power_index(slots: int, tell: Callable[[str], object]) -> float | None:
    """Return this machine's power index with `slots` slots, from the cache or measured quickly.

    Returns None if it cannot be measured. `tell` gets a line for the user about the measurement.
    """
    try:
        compiler = find_compiler(None)
        measurement = recall(compiler, slots)
        if measurement is None:
            tell("measuring the power index of this machine, once; --no-measure skips it")
            measurement = _measured(compiler, slots, None, quick=True)
            if failure := remember(measurement):
                tell(failure)
    except BenchmarkError as error:
        tell(f"cannot measure the power index: {error}")
        return None
    return measurement.power_index


def cache_file() -> Path:
    """Return the file of this user's measurements."""
    # The XDG specification says to ignore a relative XDG_CACHE_HOME.
    directory = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not directory.is_absolute():
        directory = Path(os.environ.get("HOME") or "/", ".cache")
    return directory / "compilefarm" / "power-index.json"


def recall(compiler: Compiler, slots: int) -> Measurement | None:
    """Return the measurement of this machine with this compiler and number of slots, or None."""
    wanted = subject(compiler, slots)
    return next((kept for kept in _kept() if kept.subject == wanted), None)


def remember(measurement: Measurement) -> str:
    """Store a measurement, and replace an earlier one of the same subject.

    Returns a warning if it cannot be stored, else "".
    """
    file = cache_file()
    others = [kept for kept in _kept() if kept.subject != measurement.subject]
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as new:
            try:
                json.dump(list(map(asdict, [measurement, *others][:CACHED_MAX])), new, indent=1)
                new.close()
                Path(new.name).replace(file)
            except BaseException:
                Path(new.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        return f"cannot write {file} ({error_text(error)}), so enable-host will measure again"
    return ""


def _kept() -> list[Measurement]:
    """Return the measurements in the cache; an unreadable cache is an empty one."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        return list(map(_measurement, json.loads(cache_file().read_text())))
    return []


def _measurement(kept: dict[str, Any]) -> Measurement:
    measurement = Measurement(
        subject=Subject(**kept["subject"]),
        languages=tuple(kept["languages"]),
        rounds=kept["rounds"],
        single=Spread(**kept["single"]),
        all_slots=Spread(**kept["all_slots"]),
        foreign_share=kept["foreign_share"],
    )
    if not POWER_INDEX_LEAST <= measurement.power_index <= POWER_INDEX_LIMIT:
        raise ValueError("not a speed")
    return measurement


def _measured(
    compiler: Compiler,
    slots: int,
    rounds: int | None,
    *,
    quick: bool,
    tell: Callable[[str], object] = lambda _: None,
) -> Measurement:
    sources = source_set()[: QUICK_SOURCES if quick else None]
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS_DEFAULT)
    return measure(compiler, sources, slots=slots, rounds=rounds, tell=tell)


def _text(measurement: Measurement) -> str:
    about = measurement.subject
    one, every = _spread(measurement.single), _spread(measurement.all_slots)
    slots = "1 slot" if about.slots == 1 else f"each of {about.slots} slots, all in use"
    rounds = "1 round" if measurement.rounds == 1 else f"{measurement.rounds} rounds"
    cpus = "1 CPU" if about.cpus == 1 else f"{about.cpus} CPUs"
    return (
        f"power index {measurement.power_index:g}\n"
        f"{slots}: {every}; one slot alone: {one}\n"
        f"{rounds} of {' and '.join(measurement.languages)} with {about.compiler}, "
        f"{about.compiler_version}, on {about.cpu}, {cpus}"
    )


def _spread(spread: Spread) -> str:
    quartiles = f" (quartiles {spread.low:.3g} and {spread.high:.3g})" if spread.width else ""
    return f"{spread.median:.3g}{quartiles}"


def _json(measurement: Measurement) -> str:
    return json.dumps({"power_index": measurement.power_index} | asdict(measurement), indent=1)


def _doubt(measurement: Measurement) -> str:
    """Return why the measurement should be repeated, or ""."""
    foreign_share, width = measurement.foreign_share or 0.0, measurement.all_slots.width
    if foreign_share > FOREIGN_SHARE_MAX:
        return f"other programs used {foreign_share:.0%} of the CPUs; measure again when idle"
    if width > WIDTH_MAX:
        return f"the rounds differ by {width:.0%}; measure again with more --rounds"
    return ""


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
