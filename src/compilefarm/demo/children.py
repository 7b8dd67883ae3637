"""Starts and ends the programs of the demonstration, each in a process group of its own.

A group can be ended as a whole. It also does not get Ctrl-C from the terminal, so the demonstration
can end its programs in order. This module must not know what the programs are.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

PATIENCE_S = 30.0
STRAGGLERS_S = 3.0  # gethost gives its command 2 s
LOOK_S = 0.05

Child = subprocess.Popen[str]


def start(
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    *,
    output: int | IO[str],
    errors: int | IO[str],
    directory: Path | None = None,
) -> Child:
    """Start a program with no input; end it with `end`."""
    return subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    directory: Path | None = None,
    limit_s: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; raises `subprocess.TimeoutExpired` after `limit_s` seconds."""
    child = start(
        command,
        environment,
        output=subprocess.PIPE,
        errors=subprocess.PIPE,
        directory=directory,
    )
    try:
        output, errors = child.communicate(timeout=limit_s)
    except BaseException:
        # subprocess.run would send SIGKILL at once; enable-host must undo what it began.
        end(child)
        raise
    return subprocess.CompletedProcess(command, child.returncode, output, errors)


def end(child: Child) -> None:
    """End a program and its children: with SIGTERM first, and with SIGKILL after a while."""
    if child.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):  # no process of the group is left
        os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(PATIENCE_S)
        stragglers_until_s = time.monotonic() + STRAGGLERS_S
        while time.monotonic() < stragglers_until_s:
            os.killpg(child.pid, 0)
            time.sleep(LOOK_S)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def last_line(text: str) -> str:
    """Return the last line of a program's output that is not empty."""
    return (text.strip().splitlines() or ["it printed nothing"])[-1]
