"""`make chaos`: plays runs, one seed each."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from gethost_program import gethost_under_test

from . import play


def main() -> int:
    """Play the runs that the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description="Real chaos.")
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        gethost = gethost_under_test(Path(name))
        for seed in range(options.seed, options.seed + options.runs):
            try:
                print(play(seed, gethost), flush=True)
            except AssertionError as error:
                print(error)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
