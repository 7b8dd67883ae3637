"""The lowest priority that a system has, for distccd on somebody's desktop.

Niceness alone is not enough: at 19 a compiler still gets a few per cent of a CPU that its owner
wants, and a reader of the same disk gets half of it. So distccd runs as SCHED_IDLE too, which gets
a CPU that nobody else wants, and with idle I/O. None of this needs rights, and none of it can be
taken back without them, so it is done to distccd and never to ourselves.

Nor is that enough on a desktop. Linux shares a CPU between sessions first, evenly, and looks at
priorities only within each (autogroup); distccd leads a session of its own, and so would get half
of a CPU that its owner's program wants, SCHED_IDLE or not. That was measured. So the session as a
whole is made as nice as can be, too. Where systemd puts programs in control groups with weights,
these play that part, and watch-ssaver's unit has the least.

Children inherit all of it, so it is done root first, and once for those who were there before.
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
    """Give the processes of a tree, and all that they will start, the lowest priority."""
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
        except BlockingIOError:  # the kernel takes one every tenth of a second, of all users
            time.sleep(SESSION_PAUSE_S)
        except OSError:
            return  # this system has no such groups
        else:
            return


def _lower(pid: int) -> None:
    # Whatever a system does not have, or a process that has ended, is none of our business.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICEST)
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    import psutil  # takes longer to import than the programs of a dedicated host take to start

    with contextlib.suppress(psutil.Error, OSError, AttributeError):
        psutil.Process(pid).ionice(psutil.IOPRIO_CLASS_IDLE)
