"""The builds of now and their users: which exist, which are active, and what each can hope for."""

from __future__ import annotations

import math
from collections.abc import Iterator

from compilefarm.core.learning.clones import NAMES_LIMIT
from compilefarm.core.learning.learning import Learning
from compilefarm.core.model import Request
from compilefarm.core.placement.earliest.builds import Build, BuildKey, Outlook, User
from compilefarm.core.placement.earliest.mechanisms import Mechanisms
from compilefarm.core.placement.earliest.places import Places
from compilefarm.core.placement.earliest.rule import EPSILON_S
from compilefarm.core.placement.earliest.tuning import Tuning

# A build without a request and a lease for this long is over: the next request begins another one.
OVER_AFTER_S = 10.0
# Every waiting build is asked again when each one's share of the farm has grown this many times.
SHARE_GREW = 1.1


class ActiveBuilds:
    """The builds of now: `active` ones, with a compile that waits or runs, and `idle` ones.

    `served_floor` is the work of the least served user who was asked. A user who comes later, or
    comes back, begins with it: unused time is not made up for.
    """

    def __init__(self, learning: Learning, places: Places, mechanisms: Mechanisms) -> None:
        self.active = 0
        self.served_floor = 0.0
        self.idle: dict[BuildKey, None] = {}  # the longest idle first
        self._learning = learning
        self._places = places
        self._mechanisms = mechanisms
        self._users: dict[str, User] = {}
        self._builds: dict[BuildKey, Build] = {}
        self._shared_among = 0  # active builds when all were asked last

    def directories(self) -> Iterator[str]:
        """Yield the builds' directories."""
        return (build.key[2] for build in self._builds.values())

    def get(self, key: BuildKey) -> Build | None:
        """Return the build of that key, if there is one now."""
        return self._builds.get(key)

    def of(self, request: Request) -> Build:
        """Return the build of a request that waits or has a lease."""
        return self._builds[request.user, request.builder, request.directory]

    def over(self, now: float) -> list[Build]:
        """Return the builds that are over and not yet closed."""
        found: list[Build] = []
        for key in self.idle:
            build = self._builds[key]
            if now - build.rhythm.last_event_s < OVER_AFTER_S:
                break
            found.append(build)
        return found

    def close(self, build: Build) -> None:
        """Drop a build that is over, and have it remembered for the next one in its directory."""
        user, _, directory = build.key
        del self.idle[build.key], self._builds[build.key]
        self._learning.build_ended(directory, build.seen, build.most_outstanding)
        build.user.builds -= 1
        if not build.user.builds:
            del self._users[user]

    def arrived(self, request: Request, now: float) -> Build:
        """Count a request to its build, which may begin with it."""
        key = (request.user, request.builder, request.directory)
        build = self._builds.get(key) or self._begin(key, now)
        build.arrived(request.source, now)
        if not build.waiting.files and not build.running.leases:
            self.idle.pop(key, None)
            self._activate(build)
        return build

    def _begin(self, key: BuildKey, now: float) -> Build:
        name, _, directory = key
        user = self._users.get(name)
        if user is None:
            user = self._users[name] = User()
        user.builds += 1
        outlook = Outlook(self._learning.outlook(directory))
        jobs = self._learning.jobs(directory)
        tuning = Tuning(self._mechanisms.modes)
        build = self._builds[key] = Build(key, user, outlook, jobs, tuning, now)
        if not self._mechanisms.gathering:
            build.gathering.stop()
        return build

    def _activate(self, build: Build) -> None:
        if not build.user.active:
            build.user.served = max(build.user.served, self.served_floor)
        build.user.active += 1
        self.active += 1
        self._shared_among = max(self._shared_among, self.active)

    def rest(self, build: Build) -> bool:
        """Count a build as idle; return whether the shares of the others grew by it."""
        build.user.active -= 1
        self.active -= 1
        self.idle[build.key] = None
        if self.active and self.active * SHARE_GREW <= self._shared_among:
            self._shared_among = self.active
            return True
        return False

    def speed_for(self, build: Build) -> float:
        """Return the summed speed of the slots that a build can hope for."""
        farm = self._places.farm
        even_part = farm.power / max(1, self.active)
        return max(EPSILON_S, min(farm.fastest_sum(build.jobs), even_part))

    def find_twin(self, build: Build) -> bool:
        """Have a first build go by another directory's last one, if that had the same files."""
        asked_for = len(build.seen)
        build.twin_wanted_at = 2 * asked_for if asked_for < NAMES_LIMIT else math.inf
        directory = build.key[2]
        if not self._learning.find_twin(directory, build.seen):
            return False
        build.go_by_twin(self._learning.outlook(directory), self._learning.jobs(directory))
        return True
