"""demo-farm: builds a C project on a whole farm on this machine, and shows what happened.

The report at the end counts compiles on the farm from the record that host-server writes. It counts
compiles on this machine with a script before gethost (local_compiles.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from compilefarm.client.mon_host_server import printable
from compilefarm.demo import children, timeline
from compilefarm.demo.farm import HOSTS, DemoError, LoopbackFarm, Programs
from compilefarm.demo.local_compiles import LocalCompiles
from compilefarm.demo.project import (
    Project,
    ProjectError,
    check_libsodium,
    expected_compiles,
    libsodium,
    own_project,
)
from compilefarm.programs.options import Parser, complain, directory, ending_signals, whole_number
from compilefarm.protocol.ports import Port

PROGRESS_EVERY_S = 0.1
LOG_LINES = 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `demo-farm` with these arguments, by default the command line's; return its status."""
    parser = Parser("demo-farm", "Build a C project on a farm of three hosts on this machine.")
    parser.add_argument(
        "--jobs",
        type=whole_number,
        metavar="N",
        help="number of make jobs (default: the output of gethost --jobs)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="directory for the picture, the record and the logs (default: demo-output)",
    )
    parser.add_argument("--policy", metavar="P", help="host-server's policy")
    parser.add_argument(
        "--project",
        type=directory,
        metavar="DIR",
        help="run make in DIR instead of building libsodium",
    )
    parser.add_argument("--keep", action="store_true", help="keep the farm running until Ctrl-C")
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


class Demo:
    """One demonstration: a farm, a project, a build and a report."""

    def __init__(self, programs: Programs, work: Path, output: Path, console: Console) -> None:
        self._environment = programs.environment()
        self._local = LocalCompiles(work, programs.path)
        self._work = work
        self._output = output
        self._console = console
        self._log = output / "build.log"
        self._log.write_bytes(b"")
        self._distcc_state = work / "distcc"
        self._distcc_state.mkdir()

    def run(self, own: Path | None, jobs: int | None, policy: str | None, *, keep: bool) -> int:
        """Run the whole demonstration; return the exit status.

        Raises `DemoError` and `ProjectError`.
        """
        project = own_project(own) if own else self._libsodium()
        self._say("Starting host-server, and three hosts with enable-host")
        with LoopbackFarm(self._environment, self._work, self._output, policy) as farm:
            environment = self._environment | {
                "HOST_SERVER": farm.server,
                "PATH": f"{self._local.directory}{os.pathsep}{self._environment['PATH']}",
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
        self._say("Preparing libsodium: fetch it, unless a copy is kept, and run configure")
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
        """Run make with a progress bar; return its exit status and its duration in seconds."""
        make = ["make", f"-j{jobs}", "CC=gethost distcc gcc"]
        if shutil.which("g++", path=environment["PATH"]):
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
                        process.wait(PROGRESS_EVERY_S)
                    progress.update(task, completed=len(self._compiled(farm)))
            finally:
                children.end(process)
            took_s = time.monotonic() - started_s
            files = len(self._compiled(farm))
            progress.update(task, completed=files, total=max(files, total or 0))
        return process.returncode, took_s

    def _compiled(self, farm: LoopbackFarm) -> list[timeline.Compile]:
        return [each for each in self._attempts(farm) if each.kind in ("done", "here")]

    def _attempts(self, farm: LoopbackFarm) -> list[timeline.Compile]:
        """Return every attempt at a compile, on the farm and here; in seconds since its start."""
        with farm.record.open(newline="", encoding="utf-8", errors="replace") as record:
            on_the_farm = timeline.read_record(record)
        compiled = [each.source for each in on_the_farm if each.kind == "done"]
        here = [
            (source, start - farm.started_at, end - farm.started_at)
            for source, start, end in self._local.intervals(compiled)
        ]
        return on_the_farm + timeline.in_rows(here)

    def _report(self, project: Project, farm: LoopbackFarm, status: int, took_s: float) -> bool:
        """Print the report and draw the picture; return whether the farm built the project."""
        compiles = self._attempts(farm)
        files = Counter(each.host for each in compiles if each.kind in ("done", "here"))
        on_the_farm = sum(files[host.address] for host in HOSTS)
        retries = sum(each.kind in ("failed", "revoked") for each in compiles)
        # distcc does not distribute assembler.
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
            complain("demo-farm", "no file was compiled on the farm; see host-server.log")
        return status == 0 and on_the_farm > 0

    def _keep(self, farm: LoopbackFarm, jobs: int) -> None:
        self._say("\nThe farm keeps running until Ctrl-C. In another terminal:")
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
    """Return the text with only printable characters and line ends."""
    return "\n".join(map(printable, text.split("\n")))


@contextlib.contextmanager
def _output_directory(asked: Path | None) -> Iterator[Path]:
    """Make the output directory and lock it, so that no second demonstration writes there."""
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
            raise DemoError(f"cannot write to {name}: {error.strerror}") from None
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


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
