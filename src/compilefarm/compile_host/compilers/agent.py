"""The agent of a compile host: knows its compilers, and keeps distccd's doors to them up to date.

enable-host lets it look once before distccd starts. After that it runs in loadavg, in a thread of
its own: gethost may need seconds to answer, and load reports must not wait for that.

A change is applied in this order: close doors, write the list, end the workers that know the old
list, publish. So a compiler is published only when nearly all workers accept its door. A worker
that compiles keeps the old list until its compile has ended. It may refuse a new door, but it
cannot run a closed one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from compilefarm.compile_host.compilers.doors import Doors
from compilefarm.compile_host.compilers.identify import Compiler, Inquiry
from compilefarm.compile_host.compilers.places import places_of
from compilefarm.compile_host.compilers.watch import CompilerWatch
from compilefarm.compile_host.compilers.workers import Workers
from compilefarm.compile_host.processes import ProcessTree
from compilefarm.programs.daemon_path import daemon_path
from compilefarm.programs.error_text import error_text

LOOK_S = 0.5
# An old worker is idle only for a moment on a busy host.
OLD_WORKERS_LOOK_S = 0.02
# Until its first look is complete, an agent publishes nothing, but at most this long.
FIRST_LOOK_S = 20.0
# After a look that is older, the process was stopped. The next one comes within this time, unless a
# file system hangs.
STALE_S = 1.5


class CompilerAgent:
    """The compilers of one host, and the doors in one folder.

    `gethost` is the path of the program. `distccd` is the process tree whose workers have to know
    the doors, if it runs already. `complain` gets a line where the doors cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        gethost: str,
        *,
        directories: Sequence[Path] = (),
        wanted: Sequence[str] = (),
        distccd: ProcessTree | None = None,
        complain: Callable[[str], None] | None = None,
    ) -> None:
        environment = dict(os.environ)
        program = shutil.which("distccd", path=daemon_path()) or "/usr/bin/distccd"
        places = places_of(environment, program, directories)
        self._environment = environment | {"PATH": os.pathsep.join(places.path)}
        self._gethost = gethost
        self._doors = Doors(folder)
        self._watch = CompilerWatch(places, wanted)
        self._workers = Workers(distccd) if distccd else None
        self._complain = complain
        self._inquiry: Inquiry | None = None
        self._looked_s = time.monotonic()
        self.offered: tuple[Compiler, ...] | None = None
        """The compilers that distccd runs now; None until the first look is complete."""

    @property
    def list_file(self) -> Path:
        """The list that distccd has to read."""
        return self._doors.list_file

    @property
    def workers_run(self) -> AbstractContextManager[object]:
        """A lock under which no worker of distccd is stopped."""
        return self._workers.steady if self._workers else nullcontext()

    def wait_for_fresh_look(self) -> None:
        """Wait, in bounded time, if the last look is too old to say what is there."""
        deadline_s = time.monotonic() + STALE_S
        while self._looked_s < time.monotonic() - STALE_S and time.monotonic() < deadline_s:
            time.sleep(0.01)

    def look_once(self) -> None:
        """Find the compilers and open their doors, in bounded time; raises `OSError`."""
        deadline_s = time.monotonic() + FIRST_LOOK_S
        while not self._look() and time.monotonic() < deadline_s:
            self._wait(LOOK_S)
        self._apply()
        if self._inquiry:
            self._inquiry.end()
            self._inquiry = None

    def run(self) -> None:
        """Keep the doors up to date, for ever."""
        first_until_s = time.monotonic() + FIRST_LOOK_S
        while True:
            began_s = time.monotonic()
            complete = self._look()
            if complete or self.offered is not None or began_s > first_until_s:
                try:
                    self._apply()
                except OSError as error:
                    if self._complain is not None:
                        self._complain(f"cannot change doors to compilers: {error_text(error)}")
                    self._keep_open()
            self._looked_s = began_s
            self._wait(LOOK_S)

    def _look(self) -> bool:
        """Look at the files; return whether gethost has answered about each of them."""
        self._watch.look(time.monotonic(), time.time_ns())
        due = [] if self._inquiry else self._watch.due(time.monotonic())
        if due:
            self._watch.asking(due, time.time_ns())
            self._inquiry = Inquiry(self._gethost, due, self._environment)
        return self._watch.complete

    def _wait(self, timeout_s: float) -> None:
        """Wait, but only until gethost answers; meanwhile end old workers as they become idle."""
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            if self._workers and not self._workers.end_idle():
                left_s = min(left_s, OLD_WORKERS_LOOK_S)
            if self._inquiry is None:
                time.sleep(left_s)
                continue
            answers = self._inquiry.answers(left_s)
            for answer in answers:
                self._watch.learn(answer, time.monotonic())
            if self._inquiry.ended:
                self._inquiry = None
            if answers:
                return

    def _apply(self) -> None:
        offered = self._watch.offered()
        changed = self._doors.open(offered, self._watch.plain)
        if changed and self._workers:
            self._workers.outdate()
            self._workers.end_idle()
        if offered != self.offered:
            self.offered = offered

    def _keep_open(self) -> None:
        """Publish only the compilers whose doors were open already, and lead to the same."""
        still = set(self._watch.offered())
        kept = tuple(compiler for compiler in self.offered or () if compiler in still)
        if kept != self.offered:
            self.offered = kept
