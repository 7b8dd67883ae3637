"""What finished compiles teach: file costs, host speeds, and what a build will ask for.

Others use `Learning` alone. Behind it are the kept compiles and the model of a compile
(`observations`), host speeds (`host_speeds`, `speed_fit`) and past builds by directory
(`build_history`, `clones`). Costs follow from host speeds and from the last few compiles of each
file. So these speeds and compiles are all that must survive a restart.

Pure: times come in as arguments, nothing is opened, and `unsaved` hands out what should survive.
Queries change nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from compilefarm.core.learning.build_history import FILES_LIMIT, BuildHistory
from compilefarm.core.learning.host_speeds import HostSpeeds, SavedSpeed
from compilefarm.core.learning.observations import Observation, is_plausible

# Compiles that wait to be saved; beyond, the oldest are lost.
UNSAVED_LIMIT = 10_000


class Compile(NamedTuple):
    """One compile as it is saved: of which file, where, how long it took, and when it ended."""

    directory: str
    source: str
    host: str
    took_s: float
    at: float
    crowdedness: float = 0.0  # of the host, averaged over the compile


class Unsaved(NamedTuple):
    """What was learned and forgotten since `unsaved` was last called."""

    compiles: list[Compile]
    forgotten: list[tuple[str, str]]  # directory and source
    memory_mb: dict[str, float]  # that one compile needs, by directory
    speeds: list[SavedSpeed]


class Learning:
    """Costs, speeds and builds, as learned so far from at most `files_limit` files."""

    def __init__(self, files_limit: int = FILES_LIMIT) -> None:
        self._speeds = HostSpeeds()
        self._history = BuildHistory(files_limit)
        # Bounded, for a caller that does not ask for them.
        self._unsaved: deque[Compile] = deque(maxlen=UNSAVED_LIMIT)

    # -- hosts

    def declare(self, host: str, power_index: float, pinned: bool = False) -> None:
        """Enter a host's power index; a pinned host has that speed, whatever is measured.

        Call it again whenever a host is looked at. It also refits a host whose neighbours were
        declared after it, as happens after a restart.
        """
        self._speeds.declare(host, power_index, pinned)

    def speed(self, host: str) -> float:
        """Return a declared host's speed with slots to spare; that of the slowest is about 1."""
        return self._speeds.speed(host)

    def full_part(self, host: str) -> float:
        """Return the part of its speed, 0 to 1, that a slot keeps when all slots are in use."""
        return self._speeds.full_part(host)

    def confidence(self, host: str, now: float) -> float:
        """Return how sure a speed is: 0 when only declared, towards 1 as compiles agree.

        It falls again while a host is not used. That of a pinned host is 1.
        """
        return self._speeds.confidence(host, now)

    # -- files and builds

    def cost(self, directory: str, source: str) -> float | None:
        """Return a file's cost in seconds at speed 1; None where it was never compiled."""
        file = self._history.find(directory, source)
        return None if file is None else file.cost_s()

    def outlook(self, directory: str) -> dict[str, float]:
        """Return what a build there will ask for, in order, with costs; empty if unknown."""
        return self._history.outlook(directory)

    def jobs(self, directory: str) -> int:
        """Return the most compiles that the last build there had at once; 0 if unknown."""
        return self._history.jobs(directory)

    def find_twin(self, directory: str, sources: Iterable[str]) -> bool:
        """Look for another directory with these files; return whether there is one.

        From then on, it answers for whatever is not known of this directory itself.
        """
        return self._history.find_twin(directory, sources)

    def build_ended(self, directory: str, sources: dict[str, None], jobs: int) -> None:
        """Remember what a build asked for, and how many compiles it had at once.

        A build of only a part of the files adds to the outlook, and replaces nothing.
        """
        self._history.build_ended(directory, sources, jobs)

    def memory_mb(self, directory: str) -> float:
        """Return the memory that one compile in that directory needs."""
        return self._history.memory_mb(directory)

    def observe_memory(self, directory: str, memory_mb: float) -> None:
        """Learn the memory that one compile of a directory needed.

        More than before is believed at once, less slowly. Nonsense changes nothing.
        """
        self._history.observe_memory(directory, memory_mb)

    # -- compiles

    def observe(
        self,
        directory: str,
        source: str,
        host: str,
        took_s: float,
        now: float,
        crowdedness: float = 0.0,
    ) -> list[str]:
        """Learn from one whole compile; return the hosts whose speed has moved.

        `crowdedness` is that of the host, averaged over the compile. Nothing is learned from a time
        that no compile takes, nor on a host that was never declared.
        """
        if not is_plausible(took_s) or not self._speeds.is_declared(host) or not source:
            return []
        compiled = Compile(directory, source, host, took_s, now, crowdedness)
        self._unsaved.append(compiled)
        observation = self._record(compiled)
        return self._speeds.fit_after(observation.host, now)

    def _record(self, compiled: Compile) -> Observation:
        """Enter a compile for its file and its host."""
        file = self._history.file(compiled.directory, compiled.source)
        host = self._speeds.host(compiled.host)
        log_s = math.log(compiled.took_s)
        observation = Observation(file, host, log_s, compiled.at, compiled.crowdedness)
        file.observations.append(observation)
        self._speeds.add(observation)
        return observation

    # -- what survives

    def unsaved(self) -> Unsaved:
        """Return what was learned and forgotten since the last call."""
        compiles = list(self._unsaved)
        self._unsaved.clear()
        return Unsaved(
            compiles,
            self._history.forgotten(),
            self._history.unsaved_memory(),
            self._speeds.unsaved(),
        )

    def restore(
        self,
        compiles: list[Compile],
        memory_mb: dict[str, float],
        speeds: Iterable[SavedSpeed] = (),
    ) -> None:
        """Learn again from saved compiles, oldest first; hosts may be declared later.

        A host with a saved speed has that speed; one without is fitted when it is declared.
        """
        for each in compiles:
            if is_plausible(each.took_s):
                self._speeds.remember(each.host)
                self._record(each)
                self._history.extend_last_build(each.directory, each.source)
        self._history.restore_memory(memory_mb)
        for speed in speeds:
            self._speeds.restore(speed)
