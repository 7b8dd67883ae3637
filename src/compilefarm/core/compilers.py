"""What a host has to compile with, and whether that counts as the builder's own compiler.

A host with an agent reports its compilers with their ids. Each is behind a door, a name that runs
exactly this compiler. A host without an agent is asked by a probe compile. What the object says of
its compiler is then all that is known: a family, a version, and the machine that it is for.

Hosts with equal compilers share one `Offer`. So an offer is compared by identity, and a decision
costs as much as there are kinds of hosts, however many compilers each has. `core/farm/doors.py`
makes the offers. This module must not know hosts or requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from compilefarm.protocol.compilers import CompilerInfo, architecture_of, sent_name


class Sameness(Enum):
    """What counts as the builder's compiler; `--compilers` takes these words."""

    SAME = "same"  # the same id
    VERSION = "version"  # or the same name, version and target
    ANY = "any"  # or the same name


class ProbedCompiler(NamedTuple):
    """What an object says of the compiler that made it.

    `family` is `gcc` or `clang`. `full_version` has the distribution's revision, as in `12.2.0-14`.
    `architecture` is as in `architecture_of`; empty if it is not known.
    """

    family: str
    version: str
    full_version: str
    architecture: str

    def is_like(self, wanted: CompilerInfo, sameness: Sameness) -> bool:
        """Whether it counts as the wanted compiler, by all that can be known."""
        if (self.family, self.architecture) != (wanted.family, architecture_of(wanted.target)):
            return False
        if sameness is Sameness.SAME:
            return self.full_version == wanted.full_version
        return self.version == wanted.version


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """The compilers of a host; equal only to itself.

    `doors` has the open doors by their ids, and `closed` the ids of closed ones. `probed` has the
    results of probes, by the name that distcc sends; None means that the compile failed.
    """

    has_agent: bool = False
    doors: Mapping[str, CompilerInfo] = field(default_factory=dict)
    closed: frozenset[str] = frozenset()
    versions: Mapping[tuple[str, str, str], CompilerInfo] = field(default_factory=dict)
    probed: Mapping[str, ProbedCompiler | None] = field(default_factory=dict)

    def door(self, wanted: CompilerInfo, sameness: Sameness) -> str:
        """Return the door for a compile with the wanted compiler; empty: its plain name is sent."""
        found = self.doors.get(wanted.id)
        if found is None and sameness is not Sameness.SAME:
            found = self.versions.get((wanted.name, wanted.version, wanted.target))
        return "" if found is None else found.door

    def admits(self, wanted: CompilerInfo, typed: str, sameness: Sameness) -> bool | None:
        """Whether the host will do for a compiler that was called `typed`.

        None means that its declared names decide, as for a request that names no id.
        """
        if wanted.id in self.closed:
            return False
        if self.has_agent:
            if self.door(wanted, sameness):
                return True
            return None if sameness is Sameness.ANY else False
        if sameness is Sameness.ANY:
            return None
        found = self.probed.get(sent_name(typed, wanted.target))
        return None if found is not None and found.is_like(wanted, sameness) else False


NO_OFFER = Offer()
