"""demo-farm: a whole farm on this machine builds a C project, and shows what happened.

One host-server and three compile hosts on loopback addresses, each started by the command that a
user would type. The hosts have different CPU counts and power indices on paper only: distccd runs
at this machine's speed on all of them. Each is given a /proc of its own in which nothing else goes
on, because on one machine every host would take the others' compiles for foreign load.

Two things are arranged so that the account at the end is true. Compiles on the farm are counted
from the record that host-server writes; and compiles that ran on this machine after all are noted
by a small script that stands before the compiler on PATH, so that nobody's opinion of what should
have happened is asked.

Whatever happens, everything that was started is ended: hosts by disable-host, the rest by process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from compilefarm.client.mon_host_server import NoAnswer, fetch, parse, printable
from compilefarm.demo import children, timeline
from compilefarm.demo.project import (
    Project,
    ProjectError,
    check_libsodium,
    expected_compiles,
    libsodium,
    own_project,
)
from compilefarm.programs.options import Parser, complain, directory, ending_signals, whole_number
from compilefarm.protocol.address import Address
from compilefarm.protocol.ports import Port

PATIENCE_S = 30.0
LOOK_S = 0.1
PORTS_TO_TRY = 5
LOG_LINES = 12
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Host:
    """A compile host of the demonstration: a loopback address, its slots and its power index."""

    address: str
    slots: int
    power_index: float


HOSTS = (Host("127.0.0.2", 4, 3.0), Host("127.0.0.3", 2, 2.0), Host("127.0.0.4", 1, 1.0))


class DemoError(Exception):
    """The demonstration cannot go on; the text is one line for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `demo-farm` with these arguments, by default the command line's; return its status."""
    parser = Parser("demo-farm", "Build a C project on a farm of three hosts on this machine.")
    parser.add_argument(
        "--jobs",
        type=whole_number,
        metavar="N",
        help="make's -j (default: what gethost --jobs says)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where the picture, the record and the logs go (default: demo-output)",
    )
    parser.add_argument("--policy", metavar="P", help="host-server's policy")
    parser.add_argument(
        "--project",
        type=directory,
        metavar="DIR",
        help="run make there instead of building libsodium",
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the farm running afterwards, until Ctrl-C"
    )
    options = parser.parse_args(arguments)
    for number in ending_signals():
        if number != signal.SIGINT:  # which is a KeyboardInterrupt already
            signal.signal(number, _end)
    console = Console(highlight=False)
    try:
        with (
            _output_directory(options.output) as output,
            tempfile.TemporaryDirectory(
                prefix="compilefarm-demo-", ignore_cleanup_errors=True
            ) as work,
        ):
            demo = Demo(Programs(), Path(work), output, console)
            return demo.run(options.project, options.jobs, options.policy, keep=options.keep)
    except (DemoError, ProjectError) as error:
        return complain("demo-farm", error)
    except OSError as error:
        return complain("demo-farm", f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        complain("demo-farm", "interrupted; the farm is ended")
        return 128 + signal.SIGINT


class Programs:
    """Where the programs are that the demonstration needs; raises `DemoError` for one missing."""

    def __init__(self) -> None:
        # Those of this package are beside this one, which need not be on PATH.
        own = [str(Path(place).parent) for place in (sys.argv[0], sys.executable)]
        self.path = os.pathsep.join((*own, os.environ.get("PATH", os.defpath), SBIN))
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
        """Return an environment that finds them, without settings of another make or distcc."""
        others = ("DISTCC_", "MAKE", "MFLAGS", "HOST_SERVER", "CCACHE_", "GETHOST_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(others)}
        return kept | {"PATH": self.path}


class LoopbackFarm:
    """host-server and the three hosts, for as long as the block runs; raises `DemoError`."""

    base_port: int
    started_at: float
    """When host-server started, in seconds of the epoch: zero in its record."""

    def __init__(
        self, environment: dict[str, str], work: Path, output: Path, policy: str | None
    ) -> None:
        self._environment = environment
        self._work = work
        self._output = output
        self._policy = policy
        self._server: children.Child | None = None
        self._enabled: list[list[str]] = []  # the options that say which host

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
        """The value of HOST_SERVER with which programs find the farm."""
        return f"127.0.0.1:{self.base_port}"

    @property
    def record(self) -> Path:
        """The file in which host-server writes down each compile."""
        return self._output / "record.csv"

    def backups(self) -> tuple[int, int]:
        """Return how many backups were begun so far, and how many of these were first."""
        try:
            totals = parse(fetch([Address("127.0.0.1", self.base_port)]))["totals"]
            return totals["backups_begun"], totals["backups_first"]
        except (NoAnswer, KeyError) as error:
            raise DemoError(f"host-server does not answer on its monitor port: {error}") from None

    def wait(self) -> None:
        """Wait for host-server's end."""
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
            # Somebody else may have taken the port since it was seen to be free.
            if attempt == PORTS_TO_TRY - 1 or "in use" not in text:
                raise DemoError(f"the host {host.address} could not be enabled: {text}")

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
                complain("demo-farm", f"a host could not be disabled: {why}")
        self._enabled.clear()

    def _keep_logs(self, which: list[str]) -> None:
        address, port = which[which.index("--host") + 1], which[which.index("--port") + 1]
        for program in ("distccd", "loadavg"):
            with contextlib.suppress(OSError):
                shutil.copyfile(
                    self._work / "run" / f"{address}:{port}" / f"{program}.log",
                    self._output / f"{program}-{address}.log",
                )


class CompilerAtHome:
    """A script before the compiler on PATH that notes each compile that runs on this machine.

    distcc calls the same compiler to preprocess; that, and whatever else is no compile, passes
    through.
    """

    def __init__(self, work: Path, path: str) -> None:
        self.directory = work / "at-home"
        self._log = work / "at-home.log"
        self.directory.mkdir()
        machine = children.run(["gcc", "-dumpmachine"], {"PATH": path}).stdout.strip()
        for name in ("gcc", "g++"):
            # distcc calls the compiler by its full name where there is one.
            for full_name in (name, f"{machine}-{name}"):
                compiler = shutil.which(full_name, path=path)
                if compiler is not None:
                    script = self.directory / full_name
                    script.write_text(self._script(compiler))
                    script.chmod(0o755)

    def _script(self, compiler: str) -> str:
        return f"""\
#!/bin/sh
case " $* " in
    *' -E '*) exec {shlex.quote(compiler)} "$@" ;;
    *' -c '*) ;;
    *) exec {shlex.quote(compiler)} "$@" ;;
esac
for source; do
    case $source in *.c | *.cc | *.cpp | *.cxx | *.C | *.S | *.s) break ;; esac
done
start=$(date +%s.%N)
{shlex.quote(compiler)} "$@"
status=$?
printf '%s %s %s\\n' "$start" "$(date +%s.%N)" "$source" >>{shlex.quote(str(self._log))}
exit $status
"""

    def compiles(self) -> list[tuple[str, float, float]]:
        """Return source, start and end of each compile so far; seconds of the epoch."""
        found = []
        with contextlib.suppress(OSError):
            for line in self._log.read_text(errors="replace").splitlines():
                start, _, rest = line.partition(" ")
                end, _, source = rest.partition(" ")
                with contextlib.suppress(ValueError):
                    found.append((source, float(start), float(end)))
        return found


class Demo:
    """One demonstration: farm, project, build, and what came of it."""

    def __init__(self, programs: Programs, work: Path, output: Path, console: Console) -> None:
        self._environment = programs.environment()
        self._at_home = CompilerAtHome(work, programs.path)
        self._work = work
        self._output = output
        self._console = console
        self._log = output / "build.log"
        self._log.write_bytes(b"")
        self._distcc_state = work / "distcc"
        self._distcc_state.mkdir()

    def run(self, own: Path | None, jobs: int | None, policy: str | None, *, keep: bool) -> int:
        """Do it all; return the exit status. Raises `DemoError` and `ProjectError`."""
        project = own_project(own) if own else self._libsodium()
        self._say("Starting host-server, and three hosts with enable-host")
        with LoopbackFarm(self._environment, self._work, self._output, policy) as farm:
            environment = self._environment | {
                "HOST_SERVER": farm.server,
                "PATH": f"{self._at_home.directory}{os.pathsep}{self._environment['PATH']}",
                "DISTCC_DIR": str(self._distcc_state),
            }
            jobs = jobs or self._jobs(environment)
            status, took_s = self._build(project, farm, environment, jobs)
            succeeded = self._report(project, farm, status, took_s)
            if succeeded and not own:
                self._say(check_libsodium(project, self._environment).capitalize())
            if keep:
                self._keep(farm, jobs)
        return 0 if succeeded else 1

    def _libsodium(self) -> Project:
        self._say("Getting libsodium ready: fetching it, where no copy is kept, and configure")
        with self._console.status("configure"):
            return libsodium(self._work, self._log, self._environment)

    def _jobs(self, environment: dict[str, str]) -> int:
        ran = children.run(["gethost", "--jobs"], environment)
        if ran.returncode != 0 or not ran.stdout.strip().isdecimal():
            raise DemoError(f"gethost --jobs failed: {children.last_line(ran.stderr)}")
        return int(ran.stdout)

    def _build(
        self, project: Project, farm: LoopbackFarm, environment: dict[str, str], jobs: int
    ) -> tuple[int, float]:
        """Run make, with a progress bar; return its exit status and how many seconds it took."""
        make = ["make", f"-j{jobs}", "CC=gethost distcc gcc"]
        if (self._at_home.directory / "g++").exists():
            make.append("CXX=gethost distcc g++")
        shown = shlex.join(make[:2]) + ' CC="gethost distcc gcc"'
        self._say(f"Building {project.name}: {shown}")
        total = expected_compiles(project, make, "gethost distcc g", environment)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("files"), TimeElapsedColumn())
        started_s = time.monotonic()
        with self._log.open("a") as log, Progress(*columns, console=self._console) as progress:
            task = progress.add_task("", total=total)
            process = children.start(
                make, environment, output=log, errors=log, directory=project.directory
            )
            try:
                while process.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(LOOK_S)
                    progress.update(task, completed=len(self._compiled(farm)))
            finally:
                children.end(process)
            took_s = time.monotonic() - started_s
            files = len(self._compiled(farm))
            progress.update(task, completed=files, total=max(files, total or 0))
        return process.returncode, took_s

    def _compiled(self, farm: LoopbackFarm) -> list[timeline.Compile]:
        return [each for each in self._all(farm) if each.kind in ("done", "here")]

    def _all(self, farm: LoopbackFarm) -> list[timeline.Compile]:
        """Return all that was compiled or tried, by farm and machine; seconds since the start."""
        with farm.record.open(newline="", encoding="utf-8", errors="replace") as record:
            on_the_farm = timeline.read_record(record)
        at_home = [
            (source, start - farm.started_at, end - farm.started_at)
            for source, start, end in self._at_home.compiles()
        ]
        return on_the_farm + timeline.in_rows(at_home)

    def _report(self, project: Project, farm: LoopbackFarm, status: int, took_s: float) -> bool:
        """Say what happened, and draw it; return whether the build succeeded, by the farm."""
        compiles = self._all(farm)
        files = Counter(each.host for each in compiles if each.kind in ("done", "here"))
        on_the_farm = sum(files[host.address] for host in HOSTS)
        retries = sum(each.kind in ("failed", "revoked") for each in compiles)
        # Assembler is not for the farm: distcc leaves it where it is.
        here = [each for each in compiles if each.kind == "here"]
        fallbacks = sum(not each.source.endswith((".s", ".S")) for each in here)
        picture = self._output / "timeline.svg"
        title = f"{project.name}: {sum(files.values())} files in {took_s:.1f} s"
        slots = {host.address: host.slots for host in HOSTS}
        picture.write_text(timeline.svg(compiles, slots, title), encoding="utf-8")

        self._say(f"\n{title}")
        for host in HOSTS:
            slots_of_it = f"{host.slots} slot{'' if host.slots == 1 else 's'}"
            about = f"{slots_of_it}, power index {host.power_index:g}"
            self._say(f"  {host.address:<14}{files[host.address]:>5} files   {about}")
        about = f"local fallbacks: {fallbacks}; assembler: {len(here) - fallbacks}"
        self._say(f"  {timeline.HERE:<14}{len(here):>5} files   {about}")
        self._say(f"  {'retries':<14}{retries:>5}")
        begun, first = farm.backups()
        self._say(f"  {'backups':<14}{begun:>5}         {first} of them first")
        self._say(f"Timeline picture: {picture}")
        self._say(f"Logs and record:  {self._output}{os.sep}")

        if status != 0:
            complain("demo-farm", f"make failed with status {status}; {self._log} ends with:")
            for line in self._log.read_text(errors="replace").splitlines()[-LOG_LINES:]:
                print(f"  {printable(line)}", file=sys.stderr)
        elif not compiles:
            complain("demo-farm", "make had nothing to compile; run `make clean` in the project")
        elif not on_the_farm:
            complain("demo-farm", "not one file was compiled on the farm; see host-server.log")
        return status == 0 and on_the_farm > 0

    def _keep(self, farm: LoopbackFarm, jobs: int) -> None:
        self._say("\nThe farm goes on until Ctrl-C. In another terminal:")
        self._say(f"  export HOST_SERVER={farm.server}")
        self._say(f"  export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
        self._say(f'  make -j{jobs} CC="gethost distcc gcc"')
        self._say("  mon-host-server")
        self._say(f"The same in a browser: http://127.0.0.1:{farm.base_port + Port.MONITOR}/")
        with contextlib.suppress(KeyboardInterrupt):
            farm.wait()
            raise DemoError(f"host-server has ended; see {self._output / 'host-server.log'}")

    def _say(self, text: str) -> None:
        self._console.print(printable_lines(text), markup=False, soft_wrap=True)


def printable_lines(text: str) -> str:
    """Return the text with nothing in it but printable characters and ends of lines."""
    return "\n".join(map(printable, text.split("\n")))


@contextlib.contextmanager
def _output_directory(asked: Path | None) -> Iterator[Path]:
    """Make the output directory, and hold it, so that no second demonstration writes there."""
    names = (
        [asked]
        if asked
        else [Path("demo-output"), *(Path(f"demo-output-{n}") for n in range(2, 100))]
    )
    for name in names:
        try:
            name.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise DemoError(f"{name} cannot be used for output: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        try:
            yield name
        finally:
            os.close(descriptor)
        return
    raise DemoError(f"{names[0]} is in use by another demo-farm; choose another with --output")


def _idle_machine(procfs: Path, cpus: int) -> Path:
    """Make a directory that shows loadavg a machine of so many CPUs with nothing to do."""
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
        return printable(lines[-1]) if lines else f"it said nothing, see {log}"
    return "it wrote no log"


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore signals meanwhile: to end everything takes a second, and must not be cut short."""
    before = {
        number: signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
