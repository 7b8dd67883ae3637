"""`python -m bench [--quick] [SECTION ...]`: run the benchmarks and print a table for each.

`python -m bench placement --ablate` shows instead what each mechanism of `earliest` is worth.

A figure over its bound is shown as "over" and is no failure: on a shared machine, the machine is
more often the cause, and people stop reading false alarms. The exit status is 1 if a section has
no figures, because something failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Protocol

from bench import ablation, decision, gethost, idle, memory, owner, placement, server
from bench.programs import Missing
from bench.table import Table, show, show_grid


class Section(Protocol):
    """Measures something; with `quick`, only enough to show that the measurement works."""

    def __call__(self, *, quick: bool) -> Table: ...


SECTIONS: dict[str, Section] = {
    "server": server.measure,
    "decision": decision.measure,
    "gethost": gethost.measure,
    "placement": placement.measure,
    "owner": owner.measure,
    "idle": idle.measure,
    "memory": memory.measure,
}


def main() -> int:
    """Run the sections named on the command line, or all; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure compilefarm.")
    parser.add_argument("section", nargs="*", help=f"default: all of {', '.join(SECTIONS)}")
    parser.add_argument(
        "--quick", action="store_true", help="a short run, too short for good figures"
    )
    parser.add_argument(
        "--ablate",
        action="store_true",
        help="placement only: what each mechanism of the policy is worth (takes half an hour)",
    )
    options = parser.parse_args()
    if options.ablate and options.section != ["placement"]:
        parser.error("--ablate goes with the section placement alone")
    unknown = set(options.section) - SECTIONS.keys()
    if unknown:
        parser.error(
            f"unknown section {', '.join(sorted(unknown))}; the sections are {', '.join(SECTIONS)}"
        )
    if options.ablate:
        for grid in ablation.measure(quick=options.quick):
            show_grid(grid)
        return 0
    status = 0
    for name in options.section or SECTIONS:
        try:
            show(SECTIONS[name](quick=options.quick))
        except (Missing, RuntimeError, subprocess.CalledProcessError) as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
