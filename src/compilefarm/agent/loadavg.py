"""loadavg: reports a machine's load to host-server, for as long as it runs.

It samples twice a second and reports when something changed, every two seconds anyway, on one
lasting connection. A server that is away is tried again for ever, ever more slowly and never in
step with the other hosts; a server that says no is told of once and tried slowly, because somebody
has to change something first. It keeps nothing that must be saved, so it ends by ending: a thread
waits for the signal, because a name server that does not answer can hold up the main one for half
a minute.

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

from compilefarm.agent.host_server import LOAD_REPORTS, Address, Connection, Refused, Unreachable
from compilefarm.agent.load import Meter, Report
from compilefarm.agent.machine import available_cpus, this_machine
from compilefarm.agent.options import (
    Parser,
    complain,
    directory,
    host_address,
    host_words,
    positive_number,
    this_host,
)
from compilefarm.agent.priority import lower
from compilefarm.agent.processes import ProcessTree
from compilefarm.wire import format_line

SAMPLE_S = 0.5
# Long enough to see ten ticks of a CPU's clock, short enough not to be waited for.
FIRST_WINDOW_S = 0.1
PAUSE_MIN_S = 0.5
PAUSE_MAX_S = 30.0
COMPLAINTS_MAX = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `loadavg` with these arguments, by default the command line's; return its exit status."""
    _end_at_once_on_a_signal()
    parser = Parser("loadavg", "Report this machine's load to host-server, until ended.")
    parser.add_argument(
        "--host", type=host_address, default=this_host(), metavar="HOST[:PORT]",
        help="whom the reports are about, and distccd's port there (default: this machine, 3632)",
    )  # fmt: skip
    parser.add_argument(
        "--interval", type=positive_number, default=2.0, metavar="SECONDS",
        help="longest time between two reports (default: 2)",
    )  # fmt: skip
    parser.add_argument(
        "--procfs", type=directory, metavar="DIR", help="read this directory instead of /proc"
    )
    parser.add_argument(
        "--distccd-pid", type=_pid, metavar="PID",
        help="the distccd whose process tree is the farm's own load",
    )  # fmt: skip
    parser.add_argument(
        "--register", action="store_true",
        help="say on each connection that the host is available, with the four options below",
    )  # fmt: skip
    parser.add_host_words()
    parser.add_key_file()
    parser.add_argument(
        "--announce",
        action="store_true",
        help="print one line of the protocol: what became of the first try with every server",
    )
    parser.add_argument("--once", action="store_true", help="make one report and end")
    parser.add_argument("--verbose", action="store_true", help="print what is sent and received")
    options = parser.parse_args(arguments)
    return Reporter(options, parser.servers(options)).run()


class Reporter:
    """Sends one host's reports to whichever server takes them."""

    def __init__(self, options: argparse.Namespace, candidates: Sequence[Address]) -> None:
        self._options = options
        self._host: Address = options.host
        self._candidates = candidates
        self._complaints: set[str] = set()
        self._outage: set[str] = set()  # complaints that may come again after the server did
        machine = this_machine(options.procfs)
        self._tree = None
        if options.distccd_pid is not None:
            self._tree = ProcessTree(machine, options.distccd_pid, complain=self._complain_once)
        self._meter = Meter(
            machine,
            self._tree,
            expected_cpus=options.slots or available_cpus(),
            complain=self._complain_once,
        )
        self._connected = False

    def run(self) -> int:
        """Report for ever, or once with `--once`; return the exit status."""
        pause_s = PAUSE_MIN_S
        while True:
            refusals = 0
            outcome = b""
            for server in self._candidates:
                self._connected = False
                try:
                    self._report_to(server)
                    return 0
                except Refused as error:
                    self._complain_once(f"{server} refuses {self._host}: {error}")
                    refusals += 1
                    outcome = format_line("error", reason=error)
                except Unreachable as error:
                    self._complain_once(str(error), self._outage)
                    outcome = outcome or format_line("away", reason=error)
                if self._connected:
                    # It worked until now, so begin afresh: the first server, and soon.
                    pause_s = PAUSE_MIN_S
                    break
            self._announce(outcome)
            if self._options.once:
                return 1
            if refusals == len(self._candidates):
                pause_s = PAUSE_MAX_S
            # Hosts that lost the same server must not come back in the same instant.
            time.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    def _report_to(self, address: Address) -> None:
        """Report on one connection until it ends; return after one report with `--once`."""
        began_s = time.monotonic()
        self._meter.read(began_s)
        self._meter.begin_window()
        with Connection([address], LOAD_REPORTS, speaking_for=self._host.host) as server:
            if self._options.register:
                words = host_words(self._options)
                server.send("add", host=self._host.host, port=self._host.port, **words)
                answer = server.answer()
                if answer.text("mode", "dedicated") != "dedicated" and self._tree is not None:
                    lower(self._tree)  # the owner's, and where hosts-info alone says so too
                self._say(f"registered: {answer.words}")
                self._announce(format_line(answer.verb, **answer.words))
            time.sleep(max(0.0, began_s + FIRST_WINDOW_S - time.monotonic()))
            last = self._send(server, self._meter.read(time.monotonic()))
            server.answer()
            self._announce(format_line("ok"))
            self._connected = True
            self._outage.clear()
            if self._options.once:
                return
            sent_s = time.monotonic()
            while True:
                message = server.receive(min(SAMPLE_S, self._options.interval))
                if message is not None:
                    self._say(f"received {message.verb}")
                    continue
                now_s = time.monotonic()
                report = self._meter.read(now_s)
                # Half a sample early rather than half a sample late.
                due = now_s - sent_s + SAMPLE_S / 2 >= self._options.interval
                if due or report.news_since(last):
                    last = self._send(server, report)
                    sent_s = now_s

    def _send(self, server: Connection, report: Report) -> Report:
        words = report.words()
        server.send("load", host=self._host.host, port=self._host.port, **words)
        self._meter.begin_window()
        self._say("load " + " ".join(f"{key}={word}" for key, word in words.items()))
        return report

    def _say(self, text: str) -> None:
        if self._options.verbose:
            print(text, flush=True)

    def _announce(self, line: bytes) -> None:
        if self._options.announce:
            self._options.announce = False
            with contextlib.suppress(OSError):  # whoever wanted to know may have gone
                os.write(sys.stdout.fileno(), line)
            # Who waits for the end of the output must not wait for ours.
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def _complain_once(self, text: str, told: set[str] | None = None) -> None:
        told = self._complaints if told is None else told
        if text not in told and len(told) < COMPLAINTS_MAX:
            told.add(text)
            complain("loadavg", text)


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
