"""A guard over a program: what is to be done after its end, however it ends.

A program that is killed cannot clean up. So a small shell, in a session of its own, waits on a pipe
whose other end the program holds: when that closes without a word, the program is gone and the
shell becomes the command that cleans up. Children that must not outlive the clean-up get the
program's end as well (`descriptor`), and then the pipe is closed only when they have ended too.

Rejected: the parent-death signal, which is Linux only, and which follows the thread that started a
program; and a lock that the others look at, for they would have to look for ever.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

# Who ends everything of a user's with a signal means the guarded program too, and that does the
# rest.
_WAIT = 'trap "" HUP INT TERM; read -r _ && exit; exec "$@" </dev/null'


class Guard:
    """Runs a command at the end of this process, unless it was dismissed before."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._reading, self.descriptor = os.pipe()
        self._shell = self._start()

    def stand(self) -> None:
        """See to it that it is there: somebody may have ended it."""
        if self._shell.poll() is not None:
            self._shell = self._start()

    def dismiss(self) -> None:
        """End it; its command is not run."""
        os.write(self.descriptor, b"all is well\n")
        self.release()

    def release(self) -> None:
        """Have it run the command now, and wait for that."""
        os.close(self.descriptor)
        self._shell.wait()
        os.close(self._reading)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["sh", "-c", _WAIT, "guard", *self._command],
            stdin=self._reading,
            start_new_session=True,
        )
