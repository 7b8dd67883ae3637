"""Where a compile should run: the seam between the farm and its policies.

The farm keeps the books (who has which slot) and a policy makes the choice (who gets one next,
and where). The farm tells its policy of every change that bears on a choice, and after each event
asks `next_grant` until it says None. A policy may keep whatever index it likes over the farm's
records, and reads them, but changes none of them. It may let a request wait although a slot is
free, if it will come back to it: by itself when something changes, or at `next_deadline`.

Rejected: a pure function from the whole farm to a list of grants. It is the simplest seam, but
each decision would cost as much as the farm is large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from compilefarm.core.model import Host, Lease, Outcome, Request


@dataclass(frozen=True, slots=True)
class HostUse:
    """How the policy uses a host, for people to read.

    `tier` is None while the policy gives the host no leases. `reason` says why the host is not in
    the tier of its declaration; it is empty where it is. `slots` is how many of the offered slots
    the policy uses; None means all.
    """

    tier: int | None
    reason: str = ""
    slots: int | None = None


class WithoutBackups:
    """The part of `Policy` that concerns backups, for policies that give none."""

    def advance(self, now: float) -> None:
        pass

    def next_backup(self, now: float) -> tuple[Lease, Host] | None:
        return None

    def backup_began(self, backup: Lease, now: float) -> None:
        pass

    def backup_ended(self, backup: Lease, outcome: Outcome, now: float) -> None:
        pass

    def backup_in_the_way(self, now: float) -> Lease | None:
        return None


class Policy(Protocol):
    """A rule that gives waiting requests their slots. Every method costs O(log farm) at most."""

    name: str
    """The name that `--policy` takes."""

    def advance(self, now: float) -> None:
        """Advance time to `now`, before the event at `now` is applied."""

    def host_changed(self, host: Host, now: float) -> None:
        """Read a host anew: its state, slots, power index, load or restrictions changed."""

    def host_forgotten(self, host: Host) -> None:
        """Drop a host that the farm no longer knows; it has no leases."""

    def arrived(self, request: Request, now: float) -> None:
        """Queue a request."""

    def withdrawn(self, request: Request, now: float) -> None:
        """Drop a queued request, which was not granted."""

    def granted(self, lease: Lease, now: float) -> None:
        """Note that a queued request was granted; its slot is taken already.

        The lease may have begun before `now`, at another server.
        """

    def ended(self, lease: Lease, outcome: Outcome, now: float) -> None:
        """Note that a lease ended, and how; its slot is free already."""

    def next_grant(self, now: float) -> tuple[Request, Host] | None:
        """Return the next queued request to be granted now, and a host with a free slot for it."""

    def next_deadline(self) -> float | None:
        """Return when `next_grant` or `next_backup` may answer differently, if nothing changes."""

    def next_backup(self, now: float) -> tuple[Lease, Host] | None:
        """Return a lease that is to have a backup now, and a host with a free slot for it."""

    def backup_began(self, backup: Lease, now: float) -> None:
        """Note that a backup was begun; its slot is taken already."""

    def backup_ended(self, backup: Lease, outcome: Outcome, now: float) -> None:
        """Note that a backup ended, and how; its slot is free already."""

    def backup_in_the_way(self, now: float) -> Lease | None:
        """Return a backup whose slot a queued request is to have instead."""

    def hopeless(self, request: Request) -> str | None:
        """Return why no host will do for the request, whatever becomes free; else None."""

    def ahead(self, request: Request) -> int:
        """Return about how many requests are served before this queued one."""

    def expected_s(self, lease: Lease) -> float | None:
        """Return how long a lease is expected to take, in seconds from its grant.

        None where nothing is known of its file; a policy that learns nothing never knows.
        """

    def use_of(self, host: Host) -> HostUse:
        """Return how this policy uses a host."""
