"""simulate-farm, the program: reads the farm and the build, plays, and prints the figures."""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sys
from pathlib import Path
from typing import Any

from compilefarm import __version__
from compilefarm.core.learning.learning import Learning
from compilefarm.core.placement.policies import POLICIES, make_policy
from compilefarm.programs.command_line import OneLineParser, print_result
from compilefarm.programs.garbage_collector import tune_garbage_collector
from compilefarm.protocol.hosts_info import HostsInfoError, parse_hosts_info
from compilefarm.simulate.records import builds_of_record
from compilefarm.simulate.simulation import SimulatedBuild, Simulation
from compilefarm.simulate.trace import (
    ForeignLoad,
    TraceError,
    parse_load,
    parse_record,
    parse_trace,
)


def main() -> int:
    """Run simulate-farm; return its exit status."""
    options = parse_arguments()
    try:
        figures = simulate(options)
    except (HostsInfoError, TraceError) as error:
        print(f"simulate-farm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    text = json.dumps(figures, indent=1) if options.json else _table(figures)
    return print_result("simulate-farm", text)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = OneLineParser(
        prog="simulate-farm",
        description="Plays a recorded build on a described farm, with host-server's scheduler.",
    )
    parser.add_argument(
        "--hosts-info", type=Path, required=True, metavar="FILE", help="the farm's hosts"
    )
    parser.add_argument(
        "--trace",
        type=Path,
        required=True,
        metavar="FILE",
        help="the build: CSV with the columns source and compile_s",
    )
    parser.add_argument(
        "--jobs", type=_whole, metavar="J", help="compiles that each builder has at once"
    )
    parser.add_argument(
        "--replay",
        action="store_true",
        help="the trace is a record: play its builds at their times, by their users and with "
        "their jobs",
    )
    parser.add_argument(
        "--builders",
        type=_whole,
        default=1,
        metavar="N",
        help="users that build at the same time (default: 1)",
    )
    parser.add_argument(
        "--builds",
        type=_whole,
        default=1,
        metavar="K",
        help="builds in a row; the farm learns from each (default: 1)",
    )
    parser.add_argument(
        "--policy",
        choices=sorted(POLICIES),
        default="earliest",
        help="placement policy (default: earliest)",
    )
    parser.add_argument(
        "--load", type=Path, metavar="FILE", help="foreign load: CSV of time_s,host,foreign_cpus"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of all randomness (default: 0)"
    )
    parser.add_argument(
        "--noise",
        type=_noise,
        default=0.0,
        metavar="X",
        help="variation of compile times: 0.1 is 10 %% (default: 0)",
    )
    parser.add_argument(
        "--no-backups",
        dest="backups",
        action="store_false",
        help="do not start a compile a second time on a faster, idle CPU",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(arguments)
    if options.replay == (options.jobs is not None):
        parser.error("give either --jobs J or --replay")
    if options.replay and options.builders > 1:
        parser.error("--builders does not go with --replay: the record says which users build")
    return options


def simulate(options: argparse.Namespace) -> dict[str, Any]:
    """Play what the options say, and return the figures as `--json` prints them.

    Raises HostsInfoError and TraceError.
    """
    declarations = parse_hosts_info(_text(options.hosts_info), str(options.hosts_info))
    if not declarations:
        raise HostsInfoError(f"{options.hosts_info}:1: lists no host")
    text, file = _text(options.trace), str(options.trace)
    if options.replay:
        builds = builds_of_record(parse_record(text, file))
    else:
        files = parse_trace(text, file)
        builds = [
            SimulatedBuild(f"user{number}", f"/home/user{number}/project", files, options.jobs)
            for number in range(1, options.builders + 1)
        ]
    load: list[ForeignLoad] = []
    if options.load is not None:
        known = {each.name for each in declarations}
        load = parse_load(_text(options.load), str(options.load), known)
    chance = random.Random(options.seed)
    policy = make_policy(options.policy, Learning(), chance, backups=options.backups)
    simulation = Simulation(policy, declarations, load, options.noise, chance)
    tune_garbage_collector()
    results = [simulation.play(builds) for _ in range(options.builds)]
    return {
        "policy": options.policy,
        "hosts": len(declarations),
        "slots": sum(each.slots or 1 for each in declarations),
        "builds": [{"build": n, **each.as_json()} for n, each in enumerate(results, 1)],
    }


def _whole(text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) < 8 and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 1 to 9999999")


def _noise(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.0 <= float(text) <= 2.0:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number from 0 to 2")


def _text(path: Path) -> str:
    """Return a file's text. Names may have any bytes: those that are no text become U+FFFD."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror}") from None


def _table(figures: dict[str, Any]) -> str:
    lines = [
        f"{figures['hosts']} hosts, {figures['slots']} slots, policy {figures['policy']}",
        "build  makespan_s  lower_bound_s  ratio  fairness  decisions  us_each  backups",
    ]
    lines += [
        f"{build['build']:5}  {build['makespan_s']:10.2f}  {build['lower_bound_s']:13.2f}"
        f"  {build['ratio']:5.2f}  {build['jain']:8.3f}  {build['decisions']:9}"
        f"  {build['decision_us']['mean']:7.1f}  {build['backups']:7}"
        for build in figures["builds"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
