"""Words that several messages have, read into the farm's records.

Each function raises `WireError` with a text for the sender where a word is wrong.
"""

from __future__ import annotations

from compilefarm.core.model import Load, Outcome
from compilefarm.protocol.address import split_host
from compilefarm.protocol.declaration import Declaration, Mode
from compilefarm.protocol.hosts_info import POWER_INDEX_LIMIT, SLOTS_LIMIT
from compilefarm.protocol.ports import DISTCCD_PORT, HIGHEST_PORT
from compilefarm.protocol.wire import Message, WireError

DAY_S = 86_400.0
YEAR_S = 366 * DAY_S


def wrong_verb(message: Message) -> WireError:
    """Return the error for a message that this port, or this moment, has no use for."""
    return WireError(f"{message.verb} makes no sense here; see docs/protocol.md")


def host_and_port_of(message: Message) -> tuple[str, int]:
    """Return the host that a message is about, and its distccd's port."""
    text = message.required("host")
    try:
        host, port = split_host(text)
    except ValueError as error:
        raise WireError(f"host= is wrong: {error}") from None
    return host, port or message.integer("port", DISTCCD_PORT, low=1, high=HIGHEST_PORT)


def is_yes(message: Message, key: str) -> bool:
    """Whether a yes-or-no word is `yes`; without the word, it is `no`."""
    return one_of(message, key, ("no", "yes")) == "yes"


def one_of(message: Message, key: str, words: tuple[str, ...], *, required: bool = False) -> str:
    """Return a word's value, which must be one of `words`; empty where it is missing."""
    value = message.required(key) if required else message.text(key)
    if value and value not in words:
        raise WireError(f"{key}={value[:20]} is none of {', '.join(words)}")
    return value


def declaration_of(message: Message, host: str, port: int) -> Declaration:
    """Return how an `add` describes the host."""
    mode = one_of(message, "mode", tuple(each.value for each in Mode))
    return Declaration(
        host=host,
        port=port,
        slots=message.integer("slots", 0, low=1, high=SLOTS_LIMIT) or None,
        power_index=message.number("power_index", 0.0, low=0.001, high=POWER_INDEX_LIMIT) or None,
        types=message.items("types"),
        compilers=message.items("compilers"),
        mode=Mode(mode) if mode else None,
        reserve_cpus=message.optional_number("reserve_cpus", high=SLOTS_LIMIT),
    )


def load_of(message: Message) -> Load:
    """Return the load that a report has."""
    distccd = one_of(message, "distccd", ("running", "stopped", "gone"))
    number = message.number
    return Load(
        load_averages=(number("load1", 0.0), number("load5", 0.0), number("load15", 0.0)),
        own_averages=(number("own1", 0.0), number("own5", 0.0), number("own15", 0.0)),
        own_cpus=number("own_cpus", 0.0),
        foreign_cpus=number("foreign_cpus", 0.0),
        cpus=message.integer("cpus", 0, low=1, high=SLOTS_LIMIT) or None,
        memory_free_mb=message.optional_number("memory_free_mb"),
        memory_total_mb=message.optional_number("memory_total_mb"),
        compile_memory_mb=message.optional_number("compile_memory_mb"),
        compiles=_optional_integer(message, "compiles"),
        cpu_pressure=message.optional_number("cpu_pressure", high=1.0),
        distccd=distccd,
    )


def outcome_of(message: Message) -> Outcome:
    """Return how a compile ended, by its `done` or `failed`."""
    return Outcome(
        exit=message.integer("exit", 0, high=255),
        failed=message.verb == "failed",
        wall_s=message.optional_number("wall_s", high=DAY_S),
        cpu_s=message.optional_number("cpu_s", high=DAY_S),
        reason=message.text("reason")[:200],
        verdict_later=message.verb == "done" and message.text("verdict") == "later",
    )


def _optional_integer(message: Message, key: str) -> int | None:
    return message.integer(key, 0, high=SLOTS_LIMIT) if message.text(key) else None
