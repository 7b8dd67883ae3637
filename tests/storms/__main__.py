"""`make soak`: plays worlds by seed.

    python -m storms --seeds 1000             1000 seeds
    python -m storms --leases 1000000         as many seeds as have 1000000 leases
    python -m storms --first 4711 --seeds 1   one seed; a failing one prints its shortest story

There are as many processes as CPUs. At the end it prints the number of seeds and leases, and the
leases per minute of CPU time. It exits with 1 at the first seed that fails.
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import count, islice

from .plan import POLICIES, plan_of
from .story import tell
from .world import World

PRINTS_EVERY_S = 30.0
FORK = multiprocessing.get_context("fork")
AGAIN = "PYTHONPATH=tests .venv/bin/python -m storms"


def play(task: tuple[int, str | None]) -> tuple[int, int, float, bool]:
    """Play a seed; return it, its leases, the CPU time, and whether it succeeded."""
    seed, policy = task
    began_s = time.process_time()
    world = World(plan_of(seed, policy))
    try:
        world.play()
        good = True
    except Exception:
        good = False
    return seed, world.leases, time.process_time() - began_s, good


def prepare() -> None:
    """Turn off the log, and the warnings about tasks of killed processes; for every world."""
    logging.disable()
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    gc.freeze()


def main() -> int:
    """Play what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m storms", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=None, metavar="N", help="number of seeds")
    parser.add_argument("--leases", type=int, default=None, metavar="N", help="number of leases")
    parser.add_argument("--first", type=int, default=1, metavar="SEED", help="the first seed")
    parser.add_argument("--policy", choices=POLICIES, help="default: the seed decides")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of a set of names is part of what a seed means.
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", "storms", *sys.argv[1:]], environment)
    seeds: Iterator[int] = count(options.first)
    if options.leases is None:
        seeds = iter(range(options.first, options.first + (options.seeds or 1000)))
    prepare()
    played = leases = 0
    cpu_s = 0.0
    began_s = printed_s = time.monotonic()
    tasks = iter((seed, options.policy) for seed in seeds)
    with ProcessPoolExecutor(options.processes, FORK, prepare) as pool:
        running = {pool.submit(play, task) for task in islice(tasks, 4 * options.processes)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for seed, granted, used_s, good in (each.result() for each in done):
                if not good:
                    pool.shutdown(cancel_futures=True)
                    print(tell(plan_of(seed, options.policy)))
                    policy = f" --policy {options.policy}" if options.policy else ""
                    print(f"once more: {AGAIN} --first {seed} --seeds 1{policy}")
                    return 1
                played, leases, cpu_s = played + 1, leases + granted, cpu_s + used_s
            if options.leases is None or leases < options.leases:
                running |= {pool.submit(play, task) for task in islice(tasks, len(done))}
            if time.monotonic() - printed_s >= PRINTS_EVERY_S:
                printed_s = time.monotonic()
                print(f"{played:,} seeds, {leases:,} leases", flush=True)
    wall_s = time.monotonic() - began_s
    a_minute, of_one_cpu = 60 * leases / wall_s, 60 * leases / max(cpu_s, 0.01)
    print(
        f"{played:,} seeds, {leases:,} leases in {wall_s:.0f} s: {a_minute:,.0f} a minute,"
        f" {of_one_cpu:,.0f} in a minute of one CPU's time; no broken invariant"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
