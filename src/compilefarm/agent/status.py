"""addhost and remhost: tell host-server that a host is available, or no longer is.

One message on the status port of each server and one line about the answer. They run from scripts
and at boot, for any host and not only this one, so they start as fast as Python does and know
nothing of distccd or of load: `enable-host` is the program that also makes true what `addhost`
says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compilefarm.agent.host_server import (
    STATUS_MESSAGES,
    Address,
    Connection,
    Refused,
    Unreachable,
    is_this_machine,
)
from compilefarm.agent.options import Parser, complain, host_address, host_words, this_host
from compilefarm.wire import Message


def addhost(arguments: Sequence[str] | None = None) -> int:
    """Run `addhost` with these arguments, by default the command line's; return its exit status."""
    parser = Parser("addhost", "Tell host-server that a compile host is available.")
    parser.add_argument(
        "host", nargs="?", type=host_address, metavar="HOST[:PORT]", help="default: this machine"
    )
    parser.add_host_words()
    parser.add_key_file()
    options = parser.parse_args(arguments)
    candidates = parser.servers(options)
    if options.slots is None and (options.host is None or is_this_machine(options.host.host)):
        from compilefarm.agent.machine import available_cpus

        options.slots = available_cpus()
    host = options.host or this_host()
    return add("addhost", candidates, host, **host_words(options))


def add(program: str, candidates: Sequence[Address], host: Address, **words: Any) -> int:
    """Tell every host-server that a host is available, and the user what came of it.

    `words` are those of the message, beside the host's name and port. Returns the exit status.
    """
    answers, failures = ask_each(candidates, host, "add", **words)
    _complain_of(program, f"{host} was not added", answers, failures)
    for answer in answers[:1]:
        print(added(host, answer))
    return _status(answers, failures)


def ask_each(
    candidates: Sequence[Address], host: Address, verb: str, **words: Any
) -> tuple[list[Message], list[Refused | Unreachable]]:
    """Say the same of a host to every server; return their answers, and what went wrong.

    Each must know by itself what is available: any of them may have to take over.
    """
    answers: list[Message] = []
    failures: list[Refused | Unreachable] = []
    for candidate in candidates:
        try:
            with Connection([candidate], STATUS_MESSAGES, speaking_for=host.host) as server:
                answers.append(server.ask(verb, host=host.host, port=host.port, **words))
        except (Refused, Unreachable) as error:
            failures.append(error)
    return answers, failures


def _complain_of(
    program: str, what: str, answers: list[Message], failures: list[Refused | Unreachable]
) -> None:
    if failures:
        where = " everywhere" if answers else ""
        complain(program, f"{what}{where}: {'; '.join(map(str, failures))}")


def _status(answers: list[Message], failures: list[Refused | Unreachable]) -> int:
    """Return 0 where a server did as it was told, and none refused."""
    return 0 if answers and not any(isinstance(error, Refused) for error in failures) else 1


def added(host: Address, answer: Message) -> str:
    """Return the line that tells the user what the server made of an `add`."""
    slots = answer.text("slots", "?")
    idle = answer.text("mode") == "idle"
    return (
        f"{answer.text('host', str(host))} is available with {slots} "
        f"slot{'' if slots == '1' else 's'}, power index {answer.text('power_index', '?')}"
        f"{', while watch-ssaver says that it is unused' if idle else ''}"
    )


def remhost(arguments: Sequence[str] | None = None) -> int:
    """Run `remhost` with these arguments, by default the command line's; return its exit status."""
    parser = Parser("remhost", "Tell host-server that a compile host is no longer available.")
    parser.add_key_file()
    parser.add_argument(
        "host", nargs="?", type=host_address, metavar="HOST[:PORT]", help="default: this machine"
    )
    options = parser.parse_args(arguments)
    host = options.host or this_host()
    answers, failures = ask_each(parser.servers(options), host, "remove")
    _complain_of("remhost", f"{host} was not removed", answers, failures)
    if answers:
        known = any(answer.text("known", "yes") == "yes" for answer in answers)
        print(f"{host} is no longer available" if known else f"{host} was not available")
    return _status(answers, failures)
