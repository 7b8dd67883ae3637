"""loadavg: reports a machine's load to every host-server, until it is ended.

It samples the load twice a second. It reports when something has changed, and at least every two
seconds. It keeps one connection to each server in the list, so that any of them can take over. If a
server does not answer, loadavg tries again about every second, without end. A server must have its
hosts back within two seconds of its start, and a connection to a closed port costs next to nothing.
If a server refuses the host, loadavg says so once and tries rarely, because a person has to change
something first.

loadavg has no state to save, so a signal ends it at once. A thread of its own waits for the signal,
because a name server that does not answer can block another thread for half a minute.

Each server has its own thread and its own meter. A shared meter was rejected: a report covers the
time since the last report, and that differs between servers.

This module must not know how load is measured (load.py), nor what the server does with it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from compilefarm.compile_host.compilers.agent import CompilerAgent
from compilefarm.compile_host.compilers.enabling import add_compiler_directories
from compilefarm.compile_host.compilers.identify import Compiler, gethost_program
from compilefarm.compile_host.load.load import Meter, Report
from compilefarm.compile_host.load.machine import this_machine
from compilefarm.compile_host.priority import lower
from compilefarm.compile_host.processes import ProcessTree
from compilefarm.programs.connection import Connection, Refused, Unreachable
from compilefarm.programs.cpus import available_cpus
from compilefarm.programs.options import (
    Parser,
    complain,
    directory,
    host_address,
    host_words,
    positive_number,
    this_host,
)
from compilefarm.protocol.address import Address
from compilefarm.protocol.ports import Port
from compilefarm.protocol.wire import format_line

SAMPLE_S = 0.5
# Long enough for ten ticks of the CPU clock, and short enough not to be noticed.
FIRST_WINDOW_S = 0.1
# Pauses before the next connection: to a server that does not answer, and to one that refused.
PAUSE_FIRST_S = 0.5
PAUSE_S = 1.2
PAUSE_REFUSED_S = 30.0
COMPLAINTS_MAX = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `loadavg` with these arguments, by default the command line's; return its exit status."""
    _end_at_once_on_a_signal()
    parser = Parser("loadavg", "Report this machine's load to host-server, until ended.")
    parser.add_argument(
        "--host", type=host_address, default=this_host(), metavar="HOST[:PORT]",
        help="the host to report on, and its distccd's port (default: this machine, 3632)",
    )  # fmt: skip
    parser.add_argument(
        "--interval", type=positive_number, default=2.0, metavar="SECONDS",
        help="longest time between two reports (default: 2)",
    )  # fmt: skip
    parser.add_argument("--procfs", type=directory, metavar="DIR", help="read DIR instead of /proc")
    parser.add_argument(
        "--distccd-pid", type=_pid, metavar="PID",
        help="the distccd whose processes are the farm's own load",
    )  # fmt: skip
    parser.add_argument(
        "--register", action="store_true",
        help="register the host on each connection, with the options below",
    )  # fmt: skip
    parser.add_argument(
        "--doors", type=Path, metavar="DIR",
        help="identify this host's compilers, and keep DIR/list, the list of programs for distccd",
    )  # fmt: skip
    parser.add_argument(
        "--doors-pid", type=_pid, metavar="PID",
        help="the distccd that reads this list (default: the one of --distccd-pid)",
    )  # fmt: skip
    parser.add_argument("--gethost", metavar="PATH", help="the gethost that identifies compilers")
    add_compiler_directories(parser)
    parser.add_host_words()
    parser.add_key_file()
    parser.add_argument(
        "--announce",
        action="store_true",
        help="print one line of the protocol: the answer of the first server that accepts the host",
    )
    parser.add_argument("--once", action="store_true", help="make one report and end")
    parser.add_argument("--verbose", action="store_true", help="print what is sent and received")
    options = parser.parse_args(arguments)
    return _report_to_all(options, parser.servers(options))


def _report_to_all(options: argparse.Namespace, candidates: Sequence[Address]) -> int:
    """Report for ever, or to each server once with `--once`; return the exit status."""
    output = _Output(options, servers=len(candidates))
    agent = _start_agent(options, output)
    first, *others = [Reporter(options, server, output, agent) for server in candidates]
    threads = [threading.Thread(target=reporter.run, daemon=True) for reporter in others]
    for thread in threads:
        thread.start()
    first.run()
    for thread in threads:
        thread.join()
    return 0 if output.report_accepted else 1


def _start_agent(options: argparse.Namespace, output: _Output) -> CompilerAgent | None:
    """Start the agent that knows the compilers, in a thread of its own; None without `--doors`."""
    if options.doors is None:
        return None
    gethost = options.gethost or gethost_program()
    if gethost is None:
        output.complain_once("cannot identify compilers: gethost is not installed, or too old")
        return None
    pid = options.doors_pid or options.distccd_pid
    distccd = None if pid is None else ProcessTree(this_machine(), pid)
    agent = CompilerAgent(
        options.doors,
        gethost,
        directories=options.compiler_dir or [],
        wanted=options.compiler or [],
        distccd=distccd,
        complain=output.complain_once,
    )
    threading.Thread(target=agent.run, daemon=True).start()
    return agent


class _Output:
    """Prints for all reporters: each complaint once, and the announcement once."""

    def __init__(self, options: argparse.Namespace, servers: int) -> None:
        self._announces: bool = options.announce
        self._verbose: bool = options.verbose
        self._untried = servers
        self._complaints: set[str] = set()
        self._refusal = b""
        self._lock = threading.Lock()
        self.report_accepted = False  # by any server

    def say(self, text: str) -> None:
        if self._verbose:
            print(text, flush=True)

    def complain_once(self, text: str) -> None:
        with self._lock:
            if text in self._complaints or len(self._complaints) >= COMPLAINTS_MAX:
                return
            self._complaints.add(text)
        complain("loadavg", text)

    def forget(self, text: str) -> None:
        """Let a complaint be printed again, because its cause had ended."""
        with self._lock:
            self._complaints.discard(text)

    def accepted(self, line: bytes) -> None:
        """Announce a server's answer."""
        with self._lock:
            self._announce(line)

    def failed(self, line: bytes) -> None:
        """Record a server's first failure; announce one if every server's first try failed.

        A refusal takes precedence.
        """
        with self._lock:
            self._untried -= 1
            if line.startswith(b"error"):
                self._refusal = line
            if self._untried == 0:
                self._announce(self._refusal or line)

    def _announce(self, line: bytes) -> None:
        if self._announces:
            self._announces = False
            with contextlib.suppress(OSError):  # the reader may have gone
                os.write(sys.stdout.fileno(), line)
            # The reader waits for the end of this output, so close it.
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


class Reporter:
    """Sends one host's reports to one server."""

    def __init__(
        self,
        options: argparse.Namespace,
        server: Address,
        output: _Output,
        agent: CompilerAgent | None,
    ) -> None:
        self._options = options
        self._agent = agent
        self._compilers_sent: tuple[Compiler, ...] | None = None  # on this connection
        self._host: Address = options.host
        self._server = server
        self._output = output
        machine = this_machine(options.procfs)
        self._tree = None
        if options.distccd_pid is not None:
            self._tree = ProcessTree(machine, options.distccd_pid, complain=output.complain_once)
        self._meter = Meter(
            machine,
            self._tree,
            expected_cpus=options.slots or available_cpus(),
            complain=output.complain_once,
        )
        self._outage: set[str] = set()  # complaints to print again in the next outage
        self._connected = False
        self._was_connected = False

    def run(self) -> None:
        """Report for ever, or once with `--once`."""
        pause_s = PAUSE_FIRST_S
        tried = False
        while True:
            self._connected = False
            try:
                self._report()
                return
            except Refused as error:
                self._output.complain_once(f"{self._server} refuses {self._host}: {error}")
                outcome = format_line("error", reason=error)
                pause_s = PAUSE_REFUSED_S
            except Unreachable as error:
                self._outage.add(str(error))
                self._output.complain_once(str(error))
                outcome = format_line("away", reason=error)
                pause_s = PAUSE_FIRST_S if self._connected else min(2 * pause_s, PAUSE_S)
            if not tried:
                tried = True
                self._output.failed(outcome)
            if self._options.once:
                return
            # Hosts that lost the same server must not all come back at the same moment.
            time.sleep(pause_s * random.uniform(0.5, 1.0))

    def _report(self) -> None:
        """Report on one connection until it ends; return after one report with `--once`."""
        began_s = time.monotonic()
        self._read(began_s)
        self._meter.begin_window()
        self._compilers_sent = None
        returning = "yes" if self._was_connected else None
        has_ids = "yes" if self._agent else None
        with Connection([self._server], Port.REPORTS, speaking_for=self._host.host) as server:
            if self._options.register:
                words = host_words(self._options)
                self._tell(server, "add", **words, returning=returning, compiler_ids=has_ids)
                answer = server.answer()
                self._was_connected = True  # from now on the host may have leases
                if answer.text("mode", "dedicated") != "dedicated" and self._tree is not None:
                    lower(self._tree)  # enable-host has not if only hosts-info makes it a desktop
                self._output.say(f"registered: {answer.words}")
                self._output.accepted(format_line(answer.verb, **answer.words))
                if answer.text("available") == "no":
                    self._output.complain_once(
                        f"{self._server} does not use {self._host}, because it was removed; "
                        "run addhost to add it again"
                    )
            time.sleep(max(0.0, began_s + FIRST_WINDOW_S - time.monotonic()))
            report = self._read(time.monotonic())
            last = self._send(server, report, returning=returning, compiler_ids=has_ids)
            # A server that does not know the messages about compilers would close the connection.
            takes_ids = server.answer().text("compiler_ids") == "yes"
            self._output.accepted(format_line("ok"))
            self._output.report_accepted = self._connected = self._was_connected = True
            for complaint in self._outage:
                self._output.forget(complaint)
            self._outage.clear()
            if self._options.once:
                return
            sent_s = time.monotonic()
            while True:
                if takes_ids:
                    self._send_compilers(server)
                message = server.receive(min(SAMPLE_S, self._options.interval))
                if message is not None:
                    self._output.say(f"received {message.verb}")
                    continue
                if takes_ids:
                    # First, because a server may have taken this host for lost, and uses it again
                    # when it reports a load.
                    self._send_compilers(server)
                now_s = time.monotonic()
                report = self._read(now_s)
                # Report up to half a sample early rather than late.
                due = now_s - sent_s + SAMPLE_S / 2 >= self._options.interval
                if due or report.news_since(last):
                    last = self._send(server, report)
                    sent_s = now_s

    def _read(self, now_s: float) -> Report:
        # The agent stops a worker of distccd for a moment before it ends it.
        with self._agent.workers_run if self._agent else nullcontext():
            return self._meter.read(now_s)

    def _tell(self, server: Connection, verb: str, **words: object) -> None:
        server.send(verb, host=self._host.host, port=self._host.port, **words)

    def _send_compilers(self, server: Connection) -> None:
        """Send the list of compilers, unless this connection has it already."""
        if self._agent is None:
            return
        self._agent.wait_for_fresh_look()
        compilers = self._agent.offered
        if compilers is None or compilers == self._compilers_sent:
            return
        for compiler in compilers:
            self._tell(
                server,
                "compiler",
                id=compiler.id,
                name=compiler.name,
                version=compiler.version,
                target=compiler.target,
                text=compiler.text,
            )
        self._tell(server, "compilers", count=len(compilers))
        self._compilers_sent = compilers
        self._output.say(f"compilers {' '.join(compiler.door for compiler in compilers)}")

    def _send(self, server: Connection, report: Report, **more: object) -> Report:
        words = report.words()
        self._tell(server, "load", **words, **more)
        self._meter.begin_window()
        self._output.say("load " + " ".join(f"{key}={word}" for key, word in words.items()))
        return report


def _pid(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 1):
        raise argparse.ArgumentTypeError(f"'{text}' is not a process id")
    return int(text)


def _end_at_once_on_a_signal() -> None:
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def wait() -> None:
        signal.sigwait(signals)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
