"""The number of CPUs that a process on this machine may use."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def available_cpus() -> int:
    """Return the number of CPUs that a process started here may use.

    These are the CPUs of its affinity mask, or fewer if a control group has a smaller quota. A
    container with a quota of 2 CPUs on a machine with 64 has 2.
    """
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:
        cpus = os.cpu_count() or 1
    return max(1, min(cpus, int(_cpu_quota())))


def _cpu_quota() -> float:
    """Return the smallest CPU quota, in CPUs, of the control groups around this process."""
    quota = 1e9
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
        group = next(line[3:] for line in lines if line.startswith("0::"))
        path = _CGROUPS / group.lstrip("/")
        for directory in (path, *path.parents):
            if not directory.is_relative_to(_CGROUPS):
                break
            try:
                limit, period = (directory / "cpu.max").read_text().split()
            except (OSError, ValueError):
                continue  # the root group has no such file
            if limit != "max":
                quota = min(quota, int(limit) / int(period))
    except (OSError, ValueError, StopIteration, ZeroDivisionError):
        pass  # there are no version 2 control groups, so they set no quota
    return quota
