"""Clones: the same project in another directory, as a colleague's checkout or a CI job has it.

Users do not declare that two directories hold the same project, and names such as `build-1234` do
not tell. The files that a build asks for do: when another directory knows nearly all of them, that
directory is the twin of this one. A name counts as it is relative to its directory, because some
builds name their files by whole paths.

This module finds the directories to consider. `BuildHistory` knows their files, and decides.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable

# A twin knows at least this part of the files that a build asked for, and at least this many.
SHARED_PART, SHARED_LEAST = 0.75, 4
CANDIDATES = 3
# Names to compare: the first ones of a build tell as much as all of them.
NAMES_LIMIT = 64


def relative(source: str, directory: str) -> str:
    """Return a source's name as seen from a directory; a relative name stays as it is."""
    if source.startswith("/") and directory.startswith("/"):
        return posixpath.relpath(source, directory)
    return source


def name_in(other: str, source: str, directory: str) -> str:
    """Return the name that a source of `directory` has in the directory `other`."""
    if source.startswith("/") and other.startswith("/"):
        return posixpath.normpath(posixpath.join(other, relative(source, directory)))
    return source


class Clones:
    """The directory that each relative name was last added for."""

    def __init__(self) -> None:
        self._directory_of: dict[str, str] = {}

    def add(self, directory: str, source: str) -> None:
        """Add a file that is now known of a directory."""
        self._directory_of[relative(source, directory)] = directory

    def forget(self, directory: str, source: str) -> None:
        """Drop a file of a directory."""
        name = relative(source, directory)
        if self._directory_of.get(name) == directory:
            del self._directory_of[name]

    def candidates(self, directory: str, sources: Iterable[str]) -> list[str]:
        """Return the directories that know most of these files, the likeliest first."""
        votes = Counter(self._directory_of.get(relative(source, directory)) for source in sources)
        return [
            found for found, _ in votes.most_common(CANDIDATES) if found not in (None, directory)
        ]
