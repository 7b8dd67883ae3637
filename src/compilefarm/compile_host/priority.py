"""Gives distccd on a desktop the lowest priority that the system has.

Niceness alone is not enough. At 19 a compiler still gets a few per cent of a CPU that the owner
wants, and half of the disk's bandwidth. So distccd also gets SCHED_IDLE, which runs only on a CPU
that is otherwise idle, and idle I/O priority. All of this works without privileges, but undoing it
needs them. So it is done to distccd, and never to this process.

On a desktop this is still not enough. Linux first divides a CPU evenly between sessions, and looks
at priorities only within each session (autogroup). distccd leads its own session, so it would get
half of a CPU that the owner's program wants, even with SCHED_IDLE; this was measured. So the whole
session gets the highest niceness too. If systemd puts programs into control groups with weights,
these decide instead of autogroups, and watch-ssaver's unit has the lowest weight.

Children inherit all of it. So the root comes first, and then the processes that exist already.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from compilefarm.compile_host.processes import ProcessTree, Unreadable

NICEST = 19
SESSION_TRIES = 10
SESSION_PAUSE_S = 0.11


def lower(tree: ProcessTree) -> None:
    """Give the lowest priority to the processes of a tree and to all that they will start."""
    done: set[int] = set()
    while True:
        try:
            pids = tree.read().keys() - done
        except Unreadable:
            return
        if not pids:
            return
        if not done:
            _lower_session(tree.root_pid)
        for pid in sorted(pids, key=lambda pid: pid != tree.root_pid):
            _lower(pid)
        done |= pids


def _lower_session(pid: int) -> None:
    for _ in range(SESSION_TRIES):
        try:
            Path(f"/proc/{pid}/autogroup").write_text(str(NICEST))
        except BlockingIOError:  # the kernel accepts one change per 0.1 s, from all users together
            time.sleep(SESSION_PAUSE_S)
        except OSError:
            return  # this system has no autogroups
        else:
            return


def _lower(pid: int) -> None:
    # The system may lack the call, and the process may have ended: neither matters.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICEST)
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    import psutil  # late, because the import takes longer than a dedicated host's programs to start

    with contextlib.suppress(psutil.Error, OSError, AttributeError):
        psutil.Process(pid).ionice(psutil.IOPRIO_CLASS_IDLE)
