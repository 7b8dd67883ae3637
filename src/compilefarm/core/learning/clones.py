"""The same project in another directory: a fresh clone, a colleague's checkout, a CI job's own.

Nobody says that two directories hold the same project, and their names say little: `build-1234`
may be anything. What a build asks for says it: when the files of one are nearly all known from
another directory, it is a twin of that one. A name is known by what it is relative to the
directory, for some builds name their files by whole paths.

This module tells which directories come into question; who knows their files decides.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable

# A directory is another's twin that knows this part of its files, and so many at least.
PART, AT_LEAST = 0.75, 4
CANDIDATES = 3
# Names looked at: the first ones of a build tell as much as all of them.
NAMES = 64


def relative(source: str, directory: str) -> str:
    """Return a source's name as seen from a directory; a relative name stays as it is."""
    if source.startswith("/") and directory.startswith("/"):
        return posixpath.relpath(source, directory)
    return source


def name_in(other: str, source: str, directory: str) -> str:
    """Return the name that a directory's source would have, had it been asked for from another."""
    if source.startswith("/") and other.startswith("/"):
        return posixpath.normpath(posixpath.join(other, relative(source, directory)))
    return source


class Twins:
    """Where each name came up last."""

    def __init__(self) -> None:
        self._directory_of: dict[str, str] = {}

    def came_up(self, directory: str, source: str) -> None:
        """Take note that a file is known in a directory now."""
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
