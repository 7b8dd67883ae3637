"""host-server's command line. `docs/host-server.md` explains each option."""

from __future__ import annotations

import argparse
import ipaddress
from pathlib import Path

from compilefarm import __version__
from compilefarm.core.compilers import Sameness
from compilefarm.core.placement.policies import POLICIES
from compilefarm.programs.command_line import OneLineParser
from compilefarm.protocol.address import Network
from compilefarm.protocol.ports import BASE_PORT, HIGHEST_BASE_PORT, PORT_LABELS
from compilefarm.server.access import CONNECTIONS_PER_ADDRESS, WAITING_PER_ADDRESS


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options in `arguments`, by default those of the command line."""
    parser = OneLineParser(
        prog="host-server",
        description="Give each compile of a farm the CPU on which it finishes first.",
    )
    parser.add_argument(
        "--port",
        type=_base_port,
        default=BASE_PORT,
        metavar="BASE",
        help="first of four ports in a row (default: %(default)s; 0: any free ones)",
    )
    parser.add_argument(
        "--bind",
        type=_bind_address,
        action="append",
        metavar="ADDRESS",
        help="listen on this address; repeatable (default: all)",
    )
    parser.add_argument(
        "--hosts-info",
        type=Path,
        metavar="FILE",
        help="list of machines; SIGHUP reads it again",
    )
    parser.add_argument(
        "--allow",
        type=_network,
        action="append",
        default=[],
        metavar="[PORT=]CIDR",
        help="serve this network, on all ports or on one: requests, reports, status or monitor; "
        "repeatable (default: loopback and private networks)",
    )
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="hosts must prove one of the keys in this file, one key a line; SIGHUP reads it again",
    )
    parser.add_argument(
        "--connections-per-address",
        type=_at_least_one,
        default=CONNECTIONS_PER_ADDRESS,
        metavar="N",
        help="most open connections of one address (default: %(default)s)",
    )
    parser.add_argument(
        "--waiting-per-address",
        type=_at_least_one,
        default=WAITING_PER_ADDRESS,
        metavar="N",
        help="most waiting requests of one address (default: %(default)s)",
    )
    parser.add_argument(
        "--compilers",
        choices=[each.value for each in Sameness],
        default=Sameness.SAME.value,
        help="what counts as the builder's compiler: the same one, an equal version for an equal "
        "target, or any of its name (default: %(default)s)",
    )
    parser.add_argument(
        "--policy",
        choices=sorted(POLICIES),
        default="earliest",
        help="placement policy: earliest, tier or random (default: %(default)s)",
    )
    parser.add_argument(
        "--no-backups",
        dest="backups",
        action="store_false",
        help="never start a compile a second time on a faster CPU that has become idle",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="save there what the server learns (default: it is lost when the server ends)",
    )
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="write a CSV row for each compile that ends"
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="NAME",
        help="host name that browsers may use for the monitor port; repeatable (default: this "
        "machine's own names)",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser.parse_args(arguments)


def _network(text: str) -> tuple[str, Network]:
    port, equals, network = text.rpartition("=")
    if equals and port not in PORT_LABELS:
        raise argparse.ArgumentTypeError(
            f"{port!r} is not one of the ports {', '.join(PORT_LABELS)}"
        )
    try:
        return port, ipaddress.ip_network(network, strict=False)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{network!r} is not a network; write one as 10.0.0.0/8"
        ) from None


def _at_least_one(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 10**9:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")


def _bind_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IP address of this machine") from None


def _base_port(text: str) -> int:
    if text.isdecimal() and int(text) <= HIGHEST_BASE_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a port from 0 to {HIGHEST_BASE_PORT}, where four in a row can start"
    )
