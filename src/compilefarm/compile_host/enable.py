"""enable-host and disable-host: add this machine to the farm, and remove it again.

An enabled host has a distccd that only the farm's networks can reach, a loadavg that watches it,
and a host-server that knows both. enable-host starts distccd first and waits until it listens, so
the server never grants a lease on a host that does not listen. If a step fails, enable-host undoes
the steps before it. disable-host works in the other direction: first no new leases, then it waits
for the running compiles, then it ends loadavg and distccd. Nothing stays behind.

Both work without a host-server. loadavg registers the host when the server is back, and a desktop
goes back to its owner whatever the server does.

distccd does not daemonise itself. So its pid is known without a race, and it leads a session of its
own. Its errors are in our log, whichever user it becomes.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import select
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

from compilefarm.compile_host.compilers.enabling import HostDoors, add_compiler_directories
from compilefarm.compile_host.compilers.folder import remove_folder
from compilefarm.compile_host.load.machine import Machine, ProcMachine, this_machine
from compilefarm.compile_host.priority import NICEST, lower
from compilefarm.compile_host.processes import ProcessTree, Unreadable
from compilefarm.compile_host.run_directory import POLL_S, RunDirectory, RunError, locked
from compilefarm.programs.announce import added
from compilefarm.programs.connection import (
    KEY_FILE_VARIABLE,
    Connection,
    NotProven,
    Refused,
    Unreachable,
    is_this_machine,
    servers,
)
from compilefarm.programs.cpus import available_cpus
from compilefarm.programs.daemon_path import daemon_path
from compilefarm.programs.error_text import error_text
from compilefarm.programs.options import (
    Parser,
    complain,
    directory,
    exit_on_a_signal,
    host_address,
    seconds,
    this_host,
    whole_number,
)
from compilefarm.protocol.address import Address, Network, is_port
from compilefarm.protocol.ports import Port
from compilefarm.protocol.wire import LINE_LIMIT_BYTES, format_line, parse_line

START_PATIENCE_S = 10.0
NICE_DEFAULT = 10  # distccd's own default is 5, but the machine may be someone's desktop
GRACE_DEFAULT_S = 60.0


def enable_host(arguments: Sequence[str] | None = None) -> int:
    """Run `enable-host` with these arguments, by default the command line's; return its status."""
    parser = Parser("enable-host", "Add this machine to the farm.")
    add_enable_options(parser)
    options = parser.parse_args(arguments)
    candidates = parser.servers(options)
    exit_on_a_signal()
    try:
        print(Enabling(options, candidates).run())
    except (RunError, Refused) as error:
        return complain("enable-host", error)
    return 0


def disable_host(arguments: Sequence[str] | None = None) -> int:
    """Run `disable-host` with these arguments, by default the command line's; return its status."""
    parser = Parser("disable-host", "Remove this machine from the farm.")
    _add_host_options(parser)
    parser.add_argument(
        "--grace",
        type=seconds,
        default=GRACE_DEFAULT_S,
        metavar="SECONDS",
        help=f"time that running compiles get to finish (default: {GRACE_DEFAULT_S:.0f})",
    )
    options = parser.parse_args(arguments)
    if options.server:
        parser.servers(options)  # report a wrong address before anything is stopped
    exit_on_a_signal()
    try:
        print(_disable(options))
    except RunError as error:
        return complain("disable-host", error)
    return 0


def add_enable_options(parser: Parser) -> None:
    """Add the options of enable-host."""
    _add_host_options(parser)
    parser.add_host_words()
    parser.add_argument(
        "--allow",
        type=_network,
        action="append",
        metavar="CIDR",
        help="accept compiles only from this network; may be repeated "
        "(default: all networks of the farm)",
    )
    parser.add_argument(
        "--nice",
        type=_niceness,
        metavar="N",
        help=f"distccd's niceness, 0 to 19 (default: {NICE_DEFAULT}, on a desktop {NICEST})",
    )
    parser.add_argument(
        "--no-measure",
        dest="measure",
        action="store_false",
        help="do not measure the power index if --power-index is missing",
    )
    add_compiler_directories(parser)
    parser.add_argument(
        "--procfs", type=directory, metavar="DIR", help="let loadavg read DIR instead of /proc"
    )


def enable_arguments(options: argparse.Namespace) -> list[str]:
    """Return the arguments of `enable-host` that give these options."""
    arguments = [] if options.measure else ["--no-measure"]
    for name in (
        *("server", "host", "port", "run_dir", "slots", "power_index", "mode", "reserve"),
        *("type", "compiler", "compiler_dir", "allow", "nice", "procfs"),
    ):
        value = getattr(options, name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        arguments += [f"--{name.replace('_', '-')}={each}" for each in values]
    return arguments


class Enabling:
    """One run of enable-host."""

    def __init__(self, options: argparse.Namespace, candidates: list[Address]) -> None:
        self._options = options
        self._candidates = candidates
        self._host = host_of(options)
        self._machine = this_machine()
        if options.slots is None:
            options.slots = _cpus(options.procfs)

    def run(self) -> str:
        """Enable the host; return the line for the user. Raises `RunError` and `Refused`."""
        with locked(self._options.run_dir, str(self._host), self._machine, create=True) as run:
            assert run is not None
            if run.running("distccd") and run.running("loadavg"):
                return f"{self._host} is already enabled"
            repaired = "repaired: " if run.running("distccd") or run.running("loadavg") else ""
            try:
                _stop(run)  # one of the two may still run
                return repaired + self._start(run)
            except BaseException:
                _stop(run)
                raise

    def _start(self, run: RunDirectory) -> str:
        program = shutil.which("distccd", path=daemon_path())
        if program is None:
            raise RunError(
                "distccd is not installed; install the package distcc (on Fedora distcc-server)"
            )
        self._check_port()
        self._measure()
        doors = HostDoors(run, self._options)
        environment = _environment() | doors.environment
        distccd = run.start("distccd", [program, *self._distccd_options()], environment)
        if self._is_desktop:
            lower(ProcessTree(self._machine, distccd.pid, distccd.started_s))
        self._await_listening(run)
        run.remember("servers", ",".join(map(str, self._candidates)))
        run.remember("key-file", os.environ.get(KEY_FILE_VARIABLE, ""))
        command = self._loadavg_command(distccd.pid) + doors.loadavg_options(distccd.pid)
        return self._start_loadavg(run, command) + doors.offer

    def _measure(self) -> None:
        """Measure the power index if none is given, before the farm's compiles can disturb it."""
        options = self._options
        # With --procfs this host emulates another machine, whose speed cannot be measured here.
        if options.power_index is None and options.measure and options.procfs is None:
            from compilefarm.compile_host.power_index.power_index import power_index

            options.power_index = power_index(
                options.slots, lambda line: complain("enable-host", line)
            )

    def _distccd_options(self) -> list[str]:
        options = ["--no-detach", "--daemon", "--log-stderr", "--log-level", "warning"]
        options += ["--port", str(self._host.port)]
        # One more than the slots, so that a probe gets through when all slots are in use.
        options += ["--jobs", str(self._options.slots + 1), "--nice", str(self._nice)]
        if self._own_address:
            options += ["--listen", self._own_address]
        networks = self._networks()
        if networks is None:
            return [*options, "--allow-private"]
        for network in networks:
            options += ["--allow", str(network)]
        return options

    @property
    def _nice(self) -> int:
        if self._options.nice is not None:
            return int(self._options.nice)
        return NICEST if self._is_desktop else NICE_DEFAULT

    @property
    def _is_desktop(self) -> bool:
        return self._options.mode not in (None, "dedicated")

    @property
    def _own_address(self) -> str:
        """The address to listen on: the host, if it is an address of ours; empty for all."""
        with contextlib.suppress(ValueError):
            ip_address(self._host.host)
            return self._host.host if is_this_machine(self._host.host) else ""
        return ""

    def _networks(self) -> list[Network] | None:
        """Return the networks to accept compiles from; None allows all private networks.

        Raises `RunError` if `--allow` and the farm's networks have nothing in common.
        """
        wanted: list[Network] | None = self._options.allow
        try:
            with Connection(self._candidates, Port.STATUS, speaking_for=self._host.host) as server:
                answer = server.ask("networks").items("networks")
            farm = sorted(map(ip_network, answer), key=str)
        except NotProven as error:
            # An unproven server must not choose the networks that may run compilers here.
            raise RunError(f"{self._host} was not enabled: {error}") from None
        except (Unreachable, Refused, ValueError):
            return wanted
        common = farm if wanted is None else _intersection(wanted, farm)
        if not common:
            names = ", ".join(map(str, farm)) or "none"
            raise RunError(f"--allow excludes all of the farm's networks, which are {names}")
        return common

    def _check_port(self) -> None:
        # distccd reports this too, but not what to do about it.
        family = socket.AF_INET6 if ":" in self._own_address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._own_address, self._host.port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise RunError(
                        f"cannot listen on port {self._host.port}: {error_text(error)}; "
                        "choose another with --port"
                    ) from None
                raise RunError(
                    f"port {self._host.port} is in use, perhaps by another distccd; stop that "
                    "program, or choose another port with --port"
                ) from None

    def _await_listening(self, run: RunDirectory) -> None:
        address = (self._own_address or "127.0.0.1", self._host.port)
        deadline_s = time.monotonic() + START_PATIENCE_S
        while run.running("distccd"):
            with contextlib.suppress(OSError):
                socket.create_connection(address, timeout=1).close()
                # A program listens. If it is not distccd, distccd has ended with an error.
                if run.running("distccd"):
                    return
            if time.monotonic() > deadline_s:
                raise RunError(f"distccd does not listen after {START_PATIENCE_S:.0f} s")
            time.sleep(POLL_S)
        words = run.last_line("distccd") or "it printed nothing"
        raise RunError(f"distccd did not start: {words}")

    def _loadavg_command(self, distccd_pid: int) -> list[str]:
        options = self._options
        command = [sys.executable, "-P", "-m", "compilefarm.compile_host.loadavg"]
        command += ["--register", "--announce"]
        command += ["--server", ",".join(map(str, self._candidates)), "--host", str(self._host)]
        command += ["--slots", str(options.slots)]
        if options.power_index is not None:
            command += ["--power-index", str(options.power_index)]
        if options.mode is not None:
            command += ["--mode", options.mode]
        if options.reserve is not None:
            command += ["--reserve", str(options.reserve)]
        for name in options.type or []:
            command += ["--type", name]
        for name in options.compiler or []:
            command += ["--compiler", name]
        if options.procfs is None:
            return [*command, "--distccd-pid", str(distccd_pid)]
        # The emulated machine's /proc does not have this machine's processes.
        return [*command, "--procfs", str(options.procfs.resolve())]

    def _start_loadavg(self, run: RunDirectory, command: list[str]) -> str:
        """Start loadavg; return the line for the user about the registration.

        Only loadavg registers the host, now and whenever it connects. A second registration from
        here was rejected: loadavg's own, still on its way, could undo a `disable-host` that
        follows soon.

        Raises `RunError` and `Refused`.
        """
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", buffering=0) as answer:
            try:
                run.start("loadavg", command, dict(os.environ), output=writing)
            finally:
                os.close(writing)
            poll = select.poll()
            poll.register(answer, select.POLLIN)
            if poll.poll(START_PATIENCE_S * 1000):
                line = answer.read(LINE_LIMIT_BYTES)
            else:
                line = format_line("away", reason="host-server has not answered yet")
        if not line:
            words = run.last_line("loadavg") or "it printed nothing"
            raise RunError(f"loadavg did not start: {words}")
        message = parse_line(line.removesuffix(b"\n"))
        if message.verb == "error":
            raise Refused(f"{self._host} was refused: {message.text('reason')}")
        if message.verb == "away":
            reason = message.text("reason")
            return f"{self._host} is enabled, but not registered yet: {reason}"
        return added(self._host, message) + self._too_many(message.integer("slots", 0))

    def _too_many(self, granted: int) -> str:
        """Return a warning if hosts-info gives the host more slots than distccd has."""
        slots = self._options.slots
        return f", but its distccd has {slots}: use --slots {granted}" if granted > slots else ""


def _disable(options: argparse.Namespace) -> str:
    host = host_of(options)
    with locked(options.run_dir, str(host), this_machine(), create=False) as run:
        if run is None:
            return f"{host} was not enabled"
        try:
            if not (run.running("distccd") or run.running("loadavg")):
                return f"{host} was not enabled any more"
            return f"{host} is disabled{_drain(host, options, run)}"
        finally:
            _stop(run)


def _drain(host: Address, options: argparse.Namespace, run: RunDirectory) -> str:
    """Wait until the host has no leases, for at most `--grace`; return what to add to the line."""
    left, failures = 0, []
    draining: list[Connection] = []
    key_file = options.key_file or run.remembered("key-file")
    try:
        candidates = servers(options.server or run.remembered("servers"))
    except ValueError as error:
        return f", without waiting for its compiles: {error}"
    with contextlib.ExitStack() as stack:
        # First tell every server to grant no more leases, then wait for all of them.
        for candidate in candidates:
            try:
                server = stack.enter_context(
                    Connection([candidate], Port.STATUS, speaking_for=host.host, key_file=key_file)
                )
                answer = server.ask("drain", host=host.host, port=host.port, grace_s=options.grace)
                if answer.verb == "draining":
                    draining.append(server)
            except Unreachable as error:
                failures.append(str(error))
            except Refused as error:
                failures.append(f"the server refused: {error}")
        for server in draining:
            try:
                left += server.answer(options.grace + START_PATIENCE_S).integer("leases", 0)
            except (Unreachable, Refused) as error:
                failures.append(str(error))
    if len(failures) == len(candidates):
        return f", without waiting for its compiles: {'; '.join(failures)}"
    if not left:
        return ""
    late = "1 compile" if left == 1 else f"{left} compiles"
    return f"; {late} did not end in time, and will run elsewhere"


def _stop(run: RunDirectory) -> None:
    try:
        run.stop("loadavg")
    finally:
        run.stop("distccd")
        remove_folder(run)
        run.remember("servers", "")
        run.remember("key-file", "")


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    if os.geteuid() == 0:
        # distccd becomes another user, who cannot write to root's own directory.
        environment.pop("TMPDIR", None)
    return environment


def _cpus(procfs: Path | None) -> int:
    if procfs is not None:
        machine: Machine = ProcMachine(procfs)
        with contextlib.suppress(Unreadable):
            return len(machine.busy_cpu_s())
    return available_cpus()


def _intersection(some: Sequence[Network], others: Sequence[Network]) -> list[Network]:
    """Return the networks that are part of one of `some` and of one of `others`."""
    common = set()
    for one in some:
        for other in others:
            if one.version == other.version and one.overlaps(other):
                # If two networks overlap, one contains the other.
                common.add(max(one, other, key=lambda network: network.prefixlen))
    return sorted(common, key=str)


def _add_host_options(parser: Parser) -> None:
    parser.add_key_file()
    parser.add_argument(
        "--host",
        type=host_address,
        default=this_host(),
        metavar="HOST",
        help="name of this machine in the farm (default: its host name)",
    )
    parser.add_argument("--port", type=_port, metavar="P", help="distccd's port (default: 3632)")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="directory for pids and logs")


def host_of(options: argparse.Namespace) -> Address:
    """Return this machine's name in the farm, and distccd's port."""
    return Address(options.host.host, options.port or options.host.port)


def _port(text: str) -> int:
    if not is_port(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a port from 1 to 65535")
    return int(text)


def _niceness(text: str) -> int:
    return 0 if text == "0" else _bounded(whole_number(text), 19)


def _bounded(number: int, high: int) -> int:
    if number > high:
        raise argparse.ArgumentTypeError(f"{number} is more than {high}")
    return number


def _network(text: str) -> Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a network such as 10.0.0.0/8") from None
