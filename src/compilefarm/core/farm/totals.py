"""Counts since the server's start, for people to read. The farm decides nothing by them.

Each number is counted in one place, by the part of the farm that it is about.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Totals:
    """How often each of these happened; all numbers only grow."""

    granted: int = 0
    attached: int = 0
    refused: int = 0
    revoked: int = 0
    failed: int = 0  # compiles that a host did not do
    backed_up: int = 0
    overtaken: int = 0  # first attempts, by their backups
