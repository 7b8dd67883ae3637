"""Runs a command when this program has ended, however it ends.

A program that is killed cannot clean up after itself. So a small shell, in a session of its own,
waits on a pipe whose other end this program holds. If the pipe closes without a message, the
program has gone, and the shell becomes the clean-up command. Children that must end before the
clean-up inherit the program's end of the pipe (`descriptor`); then the pipe closes only when they
have ended too.

Two alternatives were rejected. The parent-death signal exists only on Linux, and follows the thread
that started a program. A lock would have to be polled for ever.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

# The shell ignores a signal to all processes of a user. The guarded program gets it too, and its
# end starts the clean-up.
_WAIT = 'trap "" HUP INT TERM; read -r _ && exit; exec "$@" </dev/null'


class Guard:
    """Runs a command at the end of this process, unless it is dismissed before."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._reading, self.descriptor = os.pipe()
        self._shell = self._start()

    def ensure_running(self) -> None:
        """Start the shell again if something has ended it."""
        if self._shell.poll() is not None:
            self._shell = self._start()

    def dismiss(self) -> None:
        """End the guard without running its command."""
        os.write(self.descriptor, b"all is well\n")
        self.run_now()

    def run_now(self) -> None:
        """Let the guard run its command now, and wait until it ends."""
        os.close(self.descriptor)
        self._shell.wait()
        os.close(self._reading)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["sh", "-c", _WAIT, "guard", *self._command],
            stdin=self._reading,
            start_new_session=True,
        )
