"""A farm on this machine: host-server, and three compile hosts on loopback addresses.

Each program is started by the command that a user would type. The hosts differ in CPU count and
power index only on paper: distccd runs at this machine's speed on all of them. Each host reads its
load from a /proc of its own that shows an idle machine. Otherwise each would report the others'
compiles as foreign load.

However the block ends, all that was started is ended: the hosts by disable-host, the server as a
process.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from compilefarm.client.mon_host_server import NoAnswer, fetch, parse, printable
from compilefarm.demo import children
from compilefarm.programs.daemon_path import daemon_path
from compilefarm.programs.options import complain
from compilefarm.protocol.address import Address

PATIENCE_S = 30.0
PORTS_TO_TRY = 5


@dataclass(frozen=True, slots=True)
class Host:
    """A compile host of the demonstration: a loopback address, its slots and its power index."""

    address: str
    slots: int
    power_index: float


HOSTS = (Host("127.0.0.2", 4, 3.0), Host("127.0.0.3", 2, 2.0), Host("127.0.0.4", 1, 1.0))


class DemoError(Exception):
    """The demonstration cannot go on; the text is one line for the user."""


class Programs:
    """The PATH with all programs that the demonstration needs; raises `DemoError` without one."""

    def __init__(self) -> None:
        # The programs of this package are beside this one, which need not be on PATH.
        own = [str(Path(place).parent) for place in (sys.argv[0], sys.executable)]
        self.path = os.pathsep.join((*own, daemon_path()))
        for package, names in (
            ("distcc (on Fedora also distcc-server)", ("distcc", "distccd")),
            ("make", ("make",)),
            ("gcc", ("gcc", "cc")),
            ("compilefarm", ("host-server", "enable-host", "disable-host", "gethost")),
        ):
            for name in names:
                if shutil.which(name, path=self.path) is None:
                    raise DemoError(f"{name} is not installed; install the package {package}")

    def environment(self) -> dict[str, str]:
        """Return an environment with this PATH, without settings of another make or distcc."""
        others = ("DISTCC_", "MAKE", "MFLAGS", "HOST_SERVER", "CCACHE_", "GETHOST_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(others)}
        return kept | {"PATH": self.path}


class LoopbackFarm:
    """host-server and the three hosts, while the block runs; raises `DemoError`."""

    base_port: int
    started_at: float
    """When host-server started, in seconds since the epoch: zero in its record."""

    def __init__(
        self, environment: dict[str, str], work: Path, output: Path, policy: str | None
    ) -> None:
        self._environment = environment
        self._work = work
        self._output = output
        self._policy = policy
        self._server: children.Child | None = None
        self._enabled: list[list[str]] = []  # for each host, the options that name it

    def __enter__(self) -> Self:
        try:
            self._start_server()
            for host in HOSTS:
                self._enable(host)
        except BaseException:
            self._end_all()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_all()

    @property
    def server(self) -> str:
        """The value of HOST_SERVER for this farm."""
        return f"127.0.0.1:{self.base_port}"

    @property
    def record(self) -> Path:
        """The file in which host-server records each compile."""
        return self._output / "record.csv"

    def backups(self) -> tuple[int, int]:
        """Return the number of backups so far, and of those that ended first."""
        try:
            totals = parse(fetch([Address("127.0.0.1", self.base_port)]))["totals"]
            return totals["backups_begun"], totals["backups_first"]
        except (NoAnswer, KeyError) as error:
            raise DemoError(f"host-server does not answer on its monitor port: {error}") from None

    def wait(self) -> None:
        """Wait until host-server ends."""
        if self._server is not None:
            self._server.wait()

    def _start_server(self) -> None:
        hosts_info = self._output / "hosts-info"
        lines = [f"{host.address} {host.slots} {host.power_index}\n" for host in HOSTS]
        hosts_info.write_text("# host  CPUs  power index\n" + "".join(lines))
        self.record.unlink(missing_ok=True)
        command = ["host-server", "--port", "0", "--bind", "127.0.0.1"]
        command += ["--hosts-info", str(hosts_info), "--record", str(self.record)]
        command += ["--policy", self._policy] if self._policy else []
        log = self._output / "host-server.log"
        with log.open("w") as errors:
            self._server = children.start(
                command, self._environment, output=subprocess.PIPE, errors=errors
            )
        assert self._server.stdout is not None
        ready, _, _ = select.select([self._server.stdout], [], [], PATIENCE_S)
        words = self._server.stdout.readline().split() if ready else []
        if not words or not words[-1].isdecimal():
            raise DemoError(f"host-server did not start: {_last_line(log)}")
        self.base_port = int(words[-1])
        try:
            uptime_s = parse(fetch([Address("127.0.0.1", self.base_port)]))["server"]["uptime_s"]
        except (NoAnswer, KeyError) as error:
            raise DemoError(f"host-server does not answer on its monitor port: {error}") from None
        self.started_at = time.time() - uptime_s

    def _enable(self, host: Host) -> None:
        procfs = _idle_machine(self._work / f"proc-{host.address}", host.slots)
        for attempt in range(PORTS_TO_TRY):
            which = ["--server", self.server, "--host", host.address]
            which += ["--port", str(_free_port(host.address)), "--run-dir", str(self._work / "run")]
            self._enabled.append(which)
            command = ["enable-host", *which, "--slots", str(host.slots)]
            command += ["--power-index", str(host.power_index), "--procfs", str(procfs)]
            ran = children.run(command, self._environment)
            if ran.returncode == 0:
                return
            self._enabled.pop()
            text = children.last_line(ran.stderr)
            # Another program may have taken the port since it was seen to be free.
            if attempt == PORTS_TO_TRY - 1 or "in use" not in text:
                raise DemoError(f"cannot enable the host {host.address}: {text}")

    def _end_all(self) -> None:
        with _undisturbed():
            self._disable_hosts()
            if self._server is not None:
                children.end(self._server)
                assert self._server.stdout is not None
                self._server.stdout.close()
                self._server = None

    def _disable_hosts(self) -> None:
        for which in self._enabled:
            self._keep_logs(which)
            ran = children.run(["disable-host", *which, "--grace", "0"], self._environment)
            if ran.returncode != 0:
                why = children.last_line(ran.stderr)
                complain("demo-farm", f"cannot disable a host: {why}")
        self._enabled.clear()

    def _keep_logs(self, which: list[str]) -> None:
        address, port = which[which.index("--host") + 1], which[which.index("--port") + 1]
        for program in ("distccd", "loadavg"):
            with contextlib.suppress(OSError):
                shutil.copyfile(
                    self._work / "run" / f"{address}:{port}" / f"{program}.log",
                    self._output / f"{program}-{address}.log",
                )


def _idle_machine(procfs: Path, cpus: int) -> Path:
    """Make a directory like /proc of an idle machine with this number of CPUs."""
    procfs.mkdir()
    counters = " 0" * 10
    lines = [f"cpu {counters}", *(f"cpu{number}{counters}" for number in range(cpus))]
    (procfs / "stat").write_text("\n".join(lines) + "\n")
    (procfs / "loadavg").write_text("0.00 0.00 0.00 1/100 1000\n")
    (procfs / "meminfo").write_text("MemTotal: 4194304 kB\nMemAvailable: 4194304 kB\n")
    return procfs


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            raise DemoError(
                f"this system does not have the loopback address {address}; the demonstration "
                "needs 127.0.0.2 to 127.0.0.4"
            ) from None
        port: int = probe.getsockname()[1]
        return port


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").strip().splitlines()
        return printable(lines[-1]) if lines else f"it printed nothing, see {log}"
    return "it wrote no log"


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore signals while the block runs: ending everything takes a second."""
    before = {
        number: signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
