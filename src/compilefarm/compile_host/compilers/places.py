"""Where a host's compilers are: the directories, and the names that compilers have.

A compiler is looked for by the name of its file. To run every program in PATH and ask for its
version was rejected: most programs are no compilers, and some do harm. A name decides nothing else.
Whether the file is a compiler, and which one, only gethost says.

Some programs are called by a compiler's name and then run a compiler, such as ccache. They are left
out. gethost leaves them out too when it looks for a builder's compiler.

This module must not know ids or doors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CANDIDATES_MAX = 1000

_COMPILER = re.compile(
    r"(?P<kind>(?:[A-Za-z0-9_.]+-){0,4}(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+))"
    r"(?:-[0-9]+(?:\.[0-9]+)*)?(?:-posix|-win32)?\Z"
)
_MASQUERADES = frozenset({"ccache", "distcc", "icecc", "icecream", "sccache", "gethost"})


@dataclass(frozen=True, slots=True)
class Places:
    """The directories that decide which compilers a distccd can run.

    `path` are the directories of its PATH. `others` are further directories with compilers, named
    by the host's owner. `allowed` are the directories whose names distccd accepts.
    """

    path: tuple[str, ...]
    others: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()

    def directories(self) -> tuple[str, ...]:
        """Return all directories, each once."""
        return tuple(dict.fromkeys(self.path + self.others + self.allowed))


def places_of(environment: Mapping[str, str], distccd: str, others: Sequence[Path]) -> Places:
    """Return the places of a distccd that runs in this environment.

    `distccd` is the path of the program. Its LIBDIR is not known from outside, so the usual library
    directories of its prefix count besides /usr/lib.
    """
    path = environment.get("DISTCCD_PATH") or environment.get("PATH") or os.defpath
    prefix = Path(os.path.realpath(distccd)).parent.parent
    libraries = (Path("/usr/lib"), prefix / "lib", prefix / "lib64")
    return Places(
        # distccd's working directory is not ours, so a relative directory means nothing.
        tuple(dict.fromkeys(part for part in path.split(os.pathsep) if part.startswith("/"))),
        tuple(str(directory.absolute()) for directory in others),
        tuple(dict.fromkeys(str(library / "distcc") for library in libraries)),
    )


def candidates(places: Places) -> dict[str, tuple[str, ...]]:
    """Return the files that may be compilers: for each, the names that lead to it.

    Links to one file that differ in their directory or version count once, because they are one
    compiler. `clang` and `arm-linux-gnueabi-clang` are not. At most `CANDIDATES_MAX` are returned;
    those first in PATH come first.
    """
    found: dict[tuple[str, str], str] = {}
    names: dict[str, set[str]] = {}
    for directory in dict.fromkeys(map(os.path.realpath, places.path + places.others)):
        for name, kind in sorted(_compiler_names(directory)):
            path = f"{directory}/{name}"
            real = os.path.realpath(path)
            if _is_masquerade(real) or not _is_program(real):
                continue
            first = found.setdefault((real, kind), path)
            if first in names or len(names) < CANDIDATES_MAX:
                names.setdefault(first, set()).add(name)
    return {path: tuple(sorted(known)) for path, known in names.items()}


def plain_names(places: Places) -> dict[str, str | None]:
    """Return the names that distccd accepts by default, and the program that each one runs.

    The program is None if PATH has none, or only masquerades.
    """
    found: dict[str, str | None] = {}
    for directory in places.allowed:
        for name in sorted(_names(directory)):
            if name not in found and os.access(f"{directory}/{name}", os.X_OK):
                found[name] = _on_path(places.path, name)
    return found


def _on_path(path: Sequence[str], name: str) -> str | None:
    for directory in path:
        real = os.path.realpath(f"{directory}/{name}")
        if _is_program(real) and not _is_masquerade(real):
            return f"{directory}/{name}"
    return None


def _is_masquerade(real: str) -> bool:
    return real.rpartition("/")[2] in _MASQUERADES


def _is_program(path: str) -> bool:
    return Path(path).is_file() and os.access(path, os.X_OK)


def _names(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries]
    except OSError:
        return []


def _compiler_names(directory: str) -> Iterator[tuple[str, str]]:
    """Yield the names of compilers, each with its part before the version."""
    for name in _names(directory):
        if match := _COMPILER.match(name):
            yield name, match["kind"]
