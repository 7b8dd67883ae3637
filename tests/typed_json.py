"""Checks a JSON value against the type that it should have, down to the last key.

TypedDicts exist only for the type checker, so nothing compares them with a value at run time. This
does, for the few kinds of types that `protocol/farm_json.py` uses.
"""

from __future__ import annotations

import types
from typing import Any, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from compilefarm.protocol.farm_json import Snapshot


def faults(value: object, wanted: Any, where: str = "") -> list[str]:
    """Return where a JSON value differs from its type, each with the path to the value."""
    if is_typeddict(wanted):
        return _faults_of_keys(value, wanted, where)
    if get_origin(wanted) is list:
        if not isinstance(value, list):
            return [f"{where} is not a list"]
        (item,) = get_args(wanted)
        return [
            fault
            for number, each in enumerate(value)
            for fault in faults(each, item, f"{where}[{number}]")
        ]
    if get_origin(wanted) in (Union, types.UnionType):
        found = [faults(value, choice, where) for choice in get_args(wanted)]
        return [] if [] in found else max(found, key=len)
    if wanted is float and type(value) is int:  # JSON has one kind of number
        return []
    if wanted in (int, float, str, bool, types.NoneType):
        return [] if type(value) is wanted else [f"{where} is {value!r}, not {wanted.__name__}"]
    raise TypeError(f"{wanted} is a type that this check does not know")


def _faults_of_keys(value: object, wanted: Any, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where} is not an object"]
    keys = get_type_hints(wanted)
    found = [f"{where}.{key} is missing" for key in sorted(keys.keys() - value.keys())]
    found += [f"{where}.{key} has no type" for key in sorted(value.keys() - keys.keys())]
    for key in keys:
        if key in value:
            found += faults(value[key], keys[key], f"{where}.{key}")
    return found


def checked_snapshot(value: object) -> Snapshot:
    """Return an answer of `/api/farm`; raises AssertionError where it differs from its type."""
    assert faults(value, Snapshot) == []
    return cast(Snapshot, value)
