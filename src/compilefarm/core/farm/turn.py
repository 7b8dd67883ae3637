"""One turn of the farm: what one event has led to so far.

`Farm.handle` makes a turn for each event and passes it down. The parts of the farm add effects and
leave word for each other here. So they need no scratch attributes and no reference to the farm.
"""

from __future__ import annotations

from compilefarm.core.events import Effect
from compilefarm.core.model import Request


class Turn:
    """The time of an event in seconds, its effects in order, and what must be looked at again."""

    __slots__ = (
        "arrived",
        "choice_narrowed",
        "effects",
        "host_forgotten",
        "kept_waiting",
        "now",
        "withdrawn",
    )

    def __init__(self, now: float) -> None:
        self.now = now
        self.effects: list[Effect] = []
        # A waiting request may have lost its last host.
        self.choice_narrowed = False
        # The request that came with this event. It has no answer yet.
        self.arrived: Request | None = None
        # Requests that waited long enough to be told, unless this turn grants them.
        self.kept_waiting: list[int] = []
        # Requests that left without a slot, and the reason.
        self.withdrawn: list[tuple[Request, str]] = []
        self.host_forgotten = False
