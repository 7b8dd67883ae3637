"""hosts-info: the list of machines, in the format of the 2004 system.

Each line is a host: its name, number of CPUs and power index, separated by white space. `#` begins
a comment. `key=value` words may follow, which the original did not have:

    # host          CPUs  power index (the slowest machine is 1)
    linux1           4     15
    linux2:3633      2     8      types=x86_64,gcc-12
    sun-a            2     4      address=10.0.0.7 pinned

This module turns the text into declarations, and names the line and the reason of an error. It
opens no file and resolves no name.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from typing import Any

from compilefarm.protocol.address import is_port, split_host
from compilefarm.protocol.declaration import Declaration, Mode
from compilefarm.protocol.ports import HIGHEST_PORT

SLOTS_LIMIT = 4096
# On a slower machine, one compile would take days.
POWER_INDEX_LEAST, POWER_INDEX_LIMIT = 0.001, 10_000.0

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?\Z")
_WHOLE = re.compile(r"[0-9]{1,9}\Z")
# Some editors write it at the start of a file.
_BYTE_ORDER_MARK = "\ufeff"


class HostsInfoError(ValueError):
    """A line is wrong; the text is `FILE:LINE: reason`."""


def parse_hosts_info(text: str, file: str) -> tuple[Declaration, ...]:
    """Return the hosts that the text declares, in its order; `file` is its name in messages.

    Raises `HostsInfoError` at the first line that is wrong or declares a host again.
    """
    declarations: dict[str, Declaration] = {}
    line_of: dict[str, int] = {}
    for number, line in enumerate(text.removeprefix(_BYTE_ORDER_MARK).split("\n"), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            declaration = _parse_words(words)
            if declaration.name in declarations:
                raise ValueError(
                    f"{declaration.name} is on line {line_of[declaration.name]} already"
                )
        except ValueError as error:
            raise HostsInfoError(f"{file}:{number}: {error}") from None
        declarations[declaration.name] = declaration
        line_of[declaration.name] = number
    return tuple(declarations.values())


def _parse_words(words: list[str]) -> Declaration:
    if len(words) < 3:
        raise ValueError("expected HOST CPUS POWER-INDEX")
    host, port = split_host(words[0])
    options: dict[str, Any] = {}
    for word in words[3:]:
        key, equals, value = word.partition("=")
        if key not in _OPTIONS:
            known = ", ".join(sorted(_OPTIONS))
            raise ValueError(f"unknown word {word[:40]!r}; the known words are {known}")
        name, parse = _OPTIONS[key]
        if name in options:
            raise ValueError(f"{key} comes twice")
        options[name] = parse(key, value if equals else "yes")
    if "port" in options and port is not None:
        raise ValueError("the port is given twice")
    return Declaration(
        host=host,
        port=options.pop("port", port),
        slots=_slots("number of CPUs", words[1]),
        power_index=_power_index("power index", words[2]),
        **options,
    )


def _slots(key: str, value: str) -> int:
    if not _WHOLE.match(value) or not 1 <= int(value) <= SLOTS_LIMIT:
        raise ValueError(f"{key} is {value[:20]!r}; expected a whole number, 1 to {SLOTS_LIMIT}")
    return int(value)


def _power_index(key: str, value: str) -> float:
    number = float(value) if _NUMBER.match(value) else math.nan
    if not POWER_INDEX_LEAST <= number <= POWER_INDEX_LIMIT:
        raise ValueError(
            f"{key} is {value[:20]!r}; expected a number from {POWER_INDEX_LEAST:g} to "
            f"{POWER_INDEX_LIMIT:g}"
        )
    return number


def _full_part(key: str, value: str) -> float:
    number = float(value) if _NUMBER.match(value) else math.nan
    if not 0.5 <= number <= 1.0:
        raise ValueError(f"{key} is {value[:20]!r}; expected a number from 0.5 to 1")
    return number


def _port(key: str, value: str) -> int:
    if not is_port(value):
        raise ValueError(f"{key} is {value[:20]!r}; expected a port, 1 to {HIGHEST_PORT}")
    return int(value)


def _address(key: str, value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f"{key} is {value[:60]!r}; expected an IP address") from None


def _items(key: str, value: str) -> frozenset[str]:
    items = frozenset(value.split(","))
    if "" in items:
        raise ValueError(f"{key} is {value[:40]!r}; expected names separated by commas")
    return items


def _yes_or_no(key: str, value: str) -> bool:
    if value not in ("yes", "no"):
        raise ValueError(f"{key} is {value[:20]!r}; expected yes or no")
    return value == "yes"


def _mode(key: str, value: str) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        known = ", ".join(mode.value for mode in Mode)
        raise ValueError(f"{key} is {value[:20]!r}; expected one of {known}") from None


def _reserve(key: str, value: str) -> float:
    number = float(value) if _NUMBER.match(value) else math.nan
    if not 0 <= number <= SLOTS_LIMIT:
        raise ValueError(f"{key} is {value[:20]!r}; expected a number of CPUs, 0 or more")
    return number


_OPTIONS: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "actual": ("actual_power_index", _power_index),
    "actual_full": ("actual_full", _full_part),
    "address": ("address", _address),
    "compilers": ("compilers", _items),
    "mode": ("mode", _mode),
    "pinned": ("pinned", _yes_or_no),
    "port": ("port", _port),
    "reserve": ("reserve_cpus", _reserve),
    "static": ("static", _yes_or_no),
    "types": ("types", _items),
}
