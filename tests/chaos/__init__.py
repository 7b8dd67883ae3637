"""Real chaos: make -j on a farm of real processes, which are killed, stopped and cut off.

    make chaos RUNS=20

A seed decides the faults of a run: which process, which fault, when, and for how long. Each machine
is a network namespace with its own addresses and a cable that can be pulled. Without the right to
make namespaces it is a loopback address, and no cable is pulled. The programs are real:
host-server, distccd, loadavg, make, gethost, distcc. Two things are not as on one real computer.
loadavg sees an idle machine, because it would take the other hosts' compiles for foreign load. A
compiler sleeps longer on a slower host, because all hosts are equally fast. The project is built in
steps. At the end of each step fast hosts are idle and slow ones are not, so there are backups.

A run succeeds if make exits with 0 and the objects are those of a build without a farm. Neither a
lease nor a process may be left. If a run fails, its faults are printed in order.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from run_program import eventually, processes_with

from .farm import BUILDER, MARK, SERVER, Farm
from .machines import machines
from .programs import HOSTS
from .project import objects_of, write_project

FILES = 240
QUIET_WITHIN_S = 40.0


def backups(record: Sequence[dict[str, str]]) -> tuple[int, int]:
    """Return the number of leases that were backups, and of those that ended first.

    The totals of a server end with it, so the record decides. A backup is a lease granted while
    another lease of the same file lasted. A retry begins after the other lease has ended.
    """
    begun = first = 0
    for row in record:
        granted_s = float(row["granted_s"])
        if any(
            other["source"] == row["source"]
            and float(other["granted_s"]) < granted_s < float(other["ended_s"])
            for other in record
        ):
            begun += 1
            first += row["ending"] == "done"
    return begun, first


def play(seed: int, gethost: Path, files: int = FILES) -> str:
    """Play one run; return a summary. Raises AssertionError with the story of the run."""
    # Not pytest's directory: root's distccd becomes a user who cannot read it.
    with tempfile.TemporaryDirectory(prefix="compilefarm-chaos-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        alone, project = directory / "alone", directory / "project"
        write_project(alone, files)
        write_project(project, files)
        subprocess.run(
            ["make", f"-j{os.cpu_count()}", "CC=gcc"], cwd=alone, check=True, capture_output=True
        )
        with machines((SERVER, BUILDER, *HOSTS)) as found:
            farm = Farm(directory, found, seed)
            try:
                with farm.running():
                    began_s = time.monotonic()
                    status = farm.build(gethost, project)
                    took_s = time.monotonic() - began_s
                    assert status == 0, f"make ended with {status}"
                    expected, built = objects_of(alone), objects_of(project)
                    names = sorted(expected.keys() | built.keys())
                    differ = [each for each in names if built.get(each) != expected.get(each)]
                    assert not differ, f"objects differ: {differ}"
                    eventually(farm.is_quiet, QUIET_WITHIN_S)
                left = processes_with(MARK, directory.name)
                assert not left, f"processes are left: {left}"
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}\n{farm.story()}") from error
            faults = ", ".join(f"{what} {count}" for what, count in sorted(farm.faults.items()))
            record = farm.record()
            how_they_ended = Counter(row["ending"] for row in record).most_common()
            endings = ", ".join(f"{count} {how}" for how, count in how_they_ended)
            begun, first = backups(record)
            where = "namespaces" if found[SERVER].can_be_cut else "loopback addresses"
            return (
                f"seed {seed}: {files} files in {took_s:.0f} s on {where}; leases: {endings};"
                f" backups: {begun}, {first} of them first;"
                f" faults: {farm.faults.total()} ({faults})"
            )
