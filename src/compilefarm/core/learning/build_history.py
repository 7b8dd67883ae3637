"""Past builds by directory: which files they had, in which order, and how much memory they need.

The number of files is bounded. The directory that was not used for the longest time is forgotten
first, then the files of the only directory.

A directory of which nothing is known may have a *twin*: another directory with the same files, as
a fresh clone has (`clones`). The twin answers for whatever is not known of the directory itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from compilefarm.core.learning.clones import (
    NAMES_LIMIT,
    SHARED_LEAST,
    SHARED_PART,
    Clones,
    name_in,
)
from compilefarm.core.learning.observations import LearnedFile

FILES_LIMIT = 100_000
# A build that asked for less than this part of the build before it was not a whole one.
WHOLE_BUILD = 0.5
# What one compile needs until one was seen: an ordinary C++ file.
MEMORY_MB = 200.0
# More is not believed: 10 TB.
MEMORY_LIMIT_MB = 1e7
# The part of a step down in memory that one report makes.
MEMORY_DECREASE = 0.02


@dataclass(slots=True, eq=False)
class _Directory:
    """What is known of the builds in one directory."""

    name: str
    files: dict[str, LearnedFile] = field(default_factory=dict)  # the oldest compile first
    last_build: dict[str, None] = field(default_factory=dict)  # sources, in the order of asking
    jobs: int = 0
    memory_mb: float = 0.0
    twin: str = ""  # a name, as the twin may be forgotten first


class BuildHistory:
    """All directories in which something was compiled, within `files_limit` files."""

    def __init__(self, files_limit: int = FILES_LIMIT) -> None:
        self._files_limit = files_limit
        self._directories: dict[str, _Directory] = {}  # the least recently used first
        self._files = 0
        self._clones = Clones()
        # Bounded, for a caller that does not ask for them.
        self._forgotten: deque[tuple[str, str]] = deque(maxlen=files_limit)
        self._unsaved_memory: set[str] = set()  # directories

    # -- queries

    def find(self, directory: str, source: str) -> LearnedFile | None:
        """Return a file as known of its directory, or of the directory's twin."""
        known = self._directories.get(directory)
        file = known.files.get(source) if known is not None else None
        if file is None and (twin := self._twin_of(known)) is not None:
            file = twin.files.get(name_in(twin.name, source, directory))
        return file

    def outlook(self, directory: str) -> dict[str, float]:
        """Return what a build there will ask for, in order, with costs; empty if unknown."""
        known = self._directories.get(directory)
        if known is not None and known.last_build:
            return _outlook_of(known)
        twin = self._twin_of(known)
        if twin is None:
            return {}
        return {
            name_in(directory, source, twin.name): cost_s
            for source, cost_s in _outlook_of(twin).items()
        }

    def jobs(self, directory: str) -> int:
        """Return the most compiles that the last build there had at once; 0 if unknown."""
        known = self._directories.get(directory)
        if known is None or not known.jobs:
            known = self._twin_of(known)
        return known.jobs if known is not None else 0

    def memory_mb(self, directory: str) -> float:
        """Return the memory that one compile in that directory needs."""
        known = self._directories.get(directory)
        if known is None or not known.memory_mb:
            known = self._twin_of(known)
        return (known.memory_mb if known is not None else 0.0) or MEMORY_MB

    # -- events

    def file(self, directory: str, source: str) -> LearnedFile:
        """Return a file that was just compiled, new where it is not known."""
        known = self._directory(directory)
        self._use(known)
        file = known.files.pop(source, None)
        if file is None:
            file = LearnedFile()
            self._files += 1
            self._clones.add(directory, source)
        known.files[source] = file
        if self._files > self._files_limit:
            self._forget_oldest()
        return file

    def find_twin(self, directory: str, sources: Iterable[str]) -> bool:
        """Look for another directory with these files; return whether there is one."""
        asked_for = list(islice(sources, NAMES_LIMIT))
        for candidate in self._clones.candidates(directory, asked_for):
            other = self._directories[candidate]
            if not other.last_build:  # in its first build, which may have a twin itself
                other = self._twin_of(other) or other
            known = sum(name_in(other.name, each, directory) in other.files for each in asked_for)
            if other.last_build and known >= max(SHARED_LEAST, SHARED_PART * len(asked_for)):
                self._directory(directory).twin = other.name
                return True
        return False

    def build_ended(self, directory: str, sources: dict[str, None], jobs: int) -> None:
        """Remember what a build asked for; a partial build only adds to the outlook."""
        known = self._directories.get(directory)
        if known is None or not sources:
            return
        before = known.last_build
        if len(sources) >= WHOLE_BUILD * len(before):
            known.last_build = dict(sources)
            known.jobs = jobs
        else:
            known.last_build = {**before, **sources}
        self._use(known)

    def extend_last_build(self, directory: str, source: str) -> None:
        """Add a known directory's file to what its last build asked for."""
        self._directories[directory].last_build[source] = None

    def observe_memory(self, directory: str, memory_mb: float) -> None:
        """Learn the memory of one compile: more is believed at once, less slowly."""
        known = self._directories.get(directory)
        if known is None or not 0.0 < memory_mb < MEMORY_LIMIT_MB:
            return
        if memory_mb >= known.memory_mb:
            known.memory_mb = memory_mb
        else:
            known.memory_mb += MEMORY_DECREASE * (memory_mb - known.memory_mb)
        self._unsaved_memory.add(directory)

    # -- what survives

    def restore_memory(self, memory_mb: dict[str, float]) -> None:
        """Learn again the memory that compiles need, by directory; it is saved already."""
        for directory, needed_mb in memory_mb.items():
            self.observe_memory(directory, needed_mb)
        self._unsaved_memory.clear()

    def unsaved_memory(self) -> dict[str, float]:
        """Return the memory that was learned since the last call, by directory."""
        directories = self._directories
        memory_mb = {
            name: directories[name].memory_mb
            for name in self._unsaved_memory
            if name in directories
        }
        self._unsaved_memory.clear()
        return memory_mb

    def forgotten(self) -> list[tuple[str, str]]:
        """Return the files forgotten since the last call, as directory and source."""
        forgotten = list(self._forgotten)
        self._forgotten.clear()
        return forgotten

    def _directory(self, name: str) -> _Directory:
        directory = self._directories.get(name)
        if directory is None:
            directory = self._directories[name] = _Directory(name)
        return directory

    def _twin_of(self, known: _Directory | None) -> _Directory | None:
        """Return a directory's twin, unless that was forgotten."""
        return self._directories.get(known.twin) if known is not None and known.twin else None

    def _use(self, directory: _Directory) -> None:
        """Make a directory the most recently used."""
        name = directory.name
        if next(reversed(self._directories)) != name:
            del self._directories[name]
            self._directories[name] = directory

    def _forget_oldest(self) -> None:
        """Forget the least recently used directory, or files of the only one, within the limit."""
        while self._files > self._files_limit:
            name, oldest = next(iter(self._directories.items()))
            if len(self._directories) > 1:
                del self._directories[name]
                self._unsaved_memory.discard(name)
                sources = list(oldest.files)
            else:
                sources = [next(iter(oldest.files))]
                del oldest.files[sources[0]]
                oldest.last_build.pop(sources[0], None)
            for source in sources:
                self._clones.forget(name, source)
            self._files -= len(sources)
            self._forgotten.extend((name, source) for source in sources)


def _outlook_of(known: _Directory) -> dict[str, float]:
    """Return what the last build in a directory asked for, in order, with costs."""
    return {
        source: file.cost_s()
        for source in known.last_build
        if (file := known.files.get(source)) is not None
    }
