"""addhost and remhost: tell host-server that a host is available, or no longer is.

Each sends one message to the status port of every server, and prints one line about the answer.
They run from scripts and at boot, for this host or any other. So they start fast, and know nothing
of distccd or load: `enable-host` is the program that also starts those.
"""

from __future__ import annotations

from collections.abc import Sequence

from compilefarm.programs.announce import add, announce
from compilefarm.programs.connection import is_this_machine
from compilefarm.programs.options import Parser, host_address, host_words, this_host


def addhost(arguments: Sequence[str] | None = None) -> int:
    """Run `addhost` with these arguments, by default the command line's; return its exit status."""
    parser = _parser("addhost", "Tell host-server that a compile host is available.")
    parser.add_host_words()
    options = parser.parse_args(arguments)
    candidates = parser.servers(options)
    if options.slots is None and (options.host is None or is_this_machine(options.host.host)):
        from compilefarm.programs.cpus import available_cpus

        options.slots = available_cpus()
    host = options.host or this_host()
    return add("addhost", candidates, host, **host_words(options))


def remhost(arguments: Sequence[str] | None = None) -> int:
    """Run `remhost` with these arguments, by default the command line's; return its exit status."""
    parser = _parser("remhost", "Tell host-server that a compile host is no longer available.")
    options = parser.parse_args(arguments)
    host = options.host or this_host()
    answers, status = announce("remhost", parser.servers(options), host, "remove", "removed")
    if answers:
        known = any(answer.text("known", "yes") == "yes" for answer in answers)
        print(f"{host} is no longer available" if known else f"{host} was not available")
    return status


def _parser(program: str, description: str) -> Parser:
    parser = Parser(program, description)
    parser.add_argument(
        "host", nargs="?", type=host_address, metavar="HOST[:PORT]", help="default: this machine"
    )
    parser.add_key_file()
    return parser
