"""Notices within a second that a compiler was installed, changed or removed.

Each look costs a stat of every file and directory that matters. Only where one has changed are
names listed again and gethost asked. inotify was rejected: it misses what other machines change on
a network file system, and needs a watch for each file.

A file that has changed is withdrawn at once. gethost is asked about it when its files have not
changed for `SETTLED_S`. A compiler that is half copied may have the build id of a whole one.

This module has no clock, and does not run gethost: both are its caller's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from compilefarm.compile_host.compilers.identify import Answer, Compiler
from compilefarm.compile_host.compilers.places import Places, candidates, plain_names

SETTLED_S = 0.5
# After these pauses gethost is asked again although no file has changed. The first is for a
# compiler whose other files gethost does not name. The pause for a program that has no id doubles.
UNNAMED_FILES_S = 2.0
NAMED_FILES_S = 60.0
NO_ID_FIRST_S, NO_ID_LAST_S = 2.0, 60.0
# New compilers to ask about at once. A small number lets the first ones be offered early.
BATCH = 16
# The time of a file has the granularity of the kernel's clock, which is at most 10 ms.
_GRANULARITY_NS = 20_000_000
_NS = 1_000_000_000

Stamp = tuple[int, int, int, int, int]


@dataclass(slots=True)
class _Candidate:
    """A file that may be a compiler, and what is known about it."""

    names: tuple[str, ...]
    stamps: dict[str, Stamp | None]
    ask_at_s: float
    pause_s: float = NO_ID_FIRST_S
    asked_ns: int | None = None  # when gethost was asked; None: it is not being asked
    answered: bool = False
    compiler: Compiler | None = None
    reason: str = ""


@dataclass(slots=True)
class _Stats:
    """The state of files during one look; each file is looked at once."""

    _known: dict[str, Stamp | None] = field(default_factory=dict)

    def of(self, path: str) -> Stamp | None:
        if path not in self._known:
            self._known[path] = _stamp(path)
        return self._known[path]


class CompilerWatch:
    """The compilers in these places, as they were at the last look.

    With `wanted`, only compilers with one of these names are offered. `now_s` is any monotonic
    clock, `time_ns` is the clock that gives files their times.
    """

    def __init__(self, places: Places, wanted: Iterable[str] = ()) -> None:
        self._places = places
        self._wanted = frozenset(wanted)
        self._directories: dict[str, Stamp | None] | None = None
        self._candidates: dict[str, _Candidate] = {}
        self.plain: dict[str, str | None] = {}

    def look(self, now_s: float, time_ns: int) -> None:
        """Look at all files and directories, and withdraw compilers that have changed."""
        stats = _Stats()
        directories = {path: stats.of(path) for path in self._places.directories()}
        changed = [
            path
            for path, candidate in self._candidates.items()
            if any(stats.of(file) != stamp for file, stamp in candidate.stamps.items())
        ]
        for path in changed:
            self._candidates[path] = self._fresh(path, stats, now_s, time_ns)
        if changed or directories != self._directories:
            self._list(stats, now_s, time_ns)
            # A directory may change again within the granularity of its time.
            young = any(_is_young(stamp, time_ns) for stamp in directories.values())
            self._directories = None if young else directories

    def due(self, now_s: float) -> list[str]:
        """Return the paths to ask gethost about now.

        New and changed files come first. A program that had no id may hang, so each is asked about
        alone, and only if nothing else is due.
        """
        due = {
            path: candidate
            for path, candidate in self._candidates.items()
            if candidate.ask_at_s <= now_s and candidate.asked_ns is None
        }
        if new := [path for path, candidate in due.items() if not candidate.answered]:
            return new[:BATCH]
        return [path for path, each in due.items() if each.compiler] or list(due)[:1]

    def asking(self, paths: Iterable[str], time_ns: int) -> None:
        """Record that gethost is being asked about these paths, which were `due`."""
        for path in paths:
            self._candidates[path].asked_ns = time_ns

    def learn(self, answer: Answer, now_s: float) -> None:
        """Record what gethost says. An answer is dropped if a file has changed since the question.

        Then the next look finds the path due again.
        """
        candidate = self._candidates.get(answer.path)
        if candidate is None or candidate.asked_ns is None:
            return
        asked_ns, candidate.asked_ns = candidate.asked_ns, None
        stats = _Stats()
        stamps = {path: stats.of(path) for path in (answer.path, *answer.files)}
        candidate.stamps |= stamps
        if any(stamp and stamp[-1] > asked_ns - _GRANULARITY_NS for stamp in stamps.values()):
            candidate.compiler, candidate.ask_at_s = None, now_s + SETTLED_S
            return
        candidate.answered = True
        candidate.compiler, candidate.reason = answer.compiler, answer.reason
        if answer.compiler:
            pause_s = NAMED_FILES_S if answer.files else UNNAMED_FILES_S
        else:
            pause_s = candidate.pause_s
            candidate.pause_s = min(2 * pause_s, NO_ID_LAST_S)
        candidate.ask_at_s = now_s + pause_s

    @property
    def complete(self) -> bool:
        """Whether gethost has answered about each candidate."""
        return all(candidate.answered for candidate in self._candidates.values())

    def offered(self) -> tuple[Compiler, ...]:
        """Return the compilers to offer, each id once, those first in PATH first."""
        found: dict[str, Compiler] = {}
        names: dict[str, set[str]] = {}
        for candidate in self._candidates.values():
            if compiler := candidate.compiler:
                found.setdefault(compiler.id, compiler)
                names.setdefault(compiler.id, {compiler.name}).update(candidate.names)
        return tuple(
            compiler
            for id_, compiler in found.items()
            if not self._wanted or self._wanted & names[id_]
        )

    def _list(self, stats: _Stats, now_s: float, time_ns: int) -> None:
        """List the directories again; keep what is known about files that are still there."""
        self.plain = plain_names(self._places)
        before, self._candidates = self._candidates, {}
        for path, names in candidates(self._places).items():
            known = before.get(path) or self._fresh(path, stats, now_s, time_ns)
            known.names = names
            self._candidates[path] = known

    def _fresh(self, path: str, stats: _Stats, now_s: float, time_ns: int) -> _Candidate:
        """Return what is known about a file that is new or has changed: only its stamp."""
        before = self._candidates.get(path)
        stamps = {each: stats.of(each) for each in (before.stamps if before else (path,))}
        young = any(_is_young(stamp, time_ns) for stamp in stamps.values())
        names = before.names if before else ()
        return _Candidate(names, stamps, now_s + SETTLED_S if young else now_s)


def _stamp(path: str) -> Stamp | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,  # a program cannot set this one
    )


def _is_young(stamp: Stamp | None, time_ns: int) -> bool:
    return stamp is not None and 0 <= time_ns - stamp[-1] < SETTLED_S * _NS
