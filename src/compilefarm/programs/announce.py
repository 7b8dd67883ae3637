"""Sends a message about one host to every host-server, and prints one line about the answer.

Every server gets the message, because any of them may take over. So each must know by itself which
hosts are available.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compilefarm.programs.connection import Connection, Refused, Unreachable
from compilefarm.programs.options import complain
from compilefarm.protocol.address import Address
from compilefarm.protocol.ports import Port
from compilefarm.protocol.wire import Message


def add(program: str, candidates: Sequence[Address], host: Address, **words: Any) -> int:
    """Tell every host-server that a host is available, and print the result.

    `words` are the words of the message besides the host's name and port. Return the exit status.
    """
    answers, status = announce(program, candidates, host, "add", "added", **words)
    for answer in answers[:1]:
        print(added(host, answer))
    return status


def announce(
    program: str, candidates: Sequence[Address], host: Address, verb: str, done: str, **words: Any
) -> tuple[list[Message], int]:
    """Send one message to every host-server, and print one line if any server did not do it.

    `done` is the participle in that line (`desk1:3632 was not added …`). Return the answers and an
    exit status: 0 if at least one server did it and no server refused.
    """
    answers, failures = ask_each(candidates, host, verb, **words)
    if failures:
        where = " everywhere" if answers else ""
        complain(program, f"{host} was not {done}{where}: {'; '.join(map(str, failures))}")
    refused = any(isinstance(error, Refused) for error in failures)
    return answers, 0 if answers and not refused else 1


def ask_each(
    candidates: Sequence[Address], host: Address, verb: str, **words: Any
) -> tuple[list[Message], list[Refused | Unreachable]]:
    """Send one message about a host to every server; return the answers and the failures."""
    answers: list[Message] = []
    failures: list[Refused | Unreachable] = []
    for candidate in candidates:
        try:
            with Connection([candidate], Port.STATUS, speaking_for=host.host) as server:
                answers.append(server.ask(verb, host=host.host, port=host.port, **words))
        except (Refused, Unreachable) as error:
            failures.append(error)
    return answers, failures


def added(host: Address, answer: Message) -> str:
    """Return the line for the user about a server's answer to `add`."""
    slots = answer.text("slots", "?")
    idle = answer.text("mode") == "idle"
    return (
        f"{answer.text('host', str(host))} is available with {slots} "
        f"slot{'' if slots == '1' else 's'}, power index {answer.text('power_index', '?')}"
        f"{', while watch-ssaver reports it unused' if idle else ''}"
    )
