"""Measures how fast this machine compiles: one source at a time, then on all its slots at once.

Both figures count the CPU time of the compilers, and not the elapsed time. If other programs or a
hypervisor take a part of a CPU, that is foreign load: loadavg reports it, and the server allows for
it. An index that is lower because of it would count it twice. CPU time misses nothing that belongs
to the machine. If two slots share a core, a cache or the memory bandwidth, each compile needs more
CPU time. That is why there is a second figure. Only with more slots than CPUs do compiles wait for
each other, and then a division gives the result.

Starting a compiler is not compiling. After each source, the same slot compiles an empty file, and
that time is subtracted, measured at the same moment and under the same load.

When all slots are measured, a slot that has finished the set goes on compiling until the last slot
has finished. So no slot is measured on a half idle machine. Each slot begins at another source.

This module must not know what the figures are for, nor where they go.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compilefarm.compile_host.load.machine import this_machine
from compilefarm.compile_host.power_index.benchmark_sources import SET_VERSION, Language, Source
from compilefarm.compile_host.processes import Unreadable
from compilefarm.programs.cpus import available_cpus

COMPILERS = ("cc", "gcc", "clang")
# Programs that take a compiler's place, under its name, and do not compile on this machine.
WRAPPERS = {"ccache", "distcc", "icecc", "sccache"}
LANGUAGE_OPTIONS: dict[Language, list[str]] = {
    "C": ["-x", "cpp-output", "-std=gnu11"],
    "C++": ["-x", "c++-cpp-output", "-std=gnu++14"],
}


class BenchmarkError(Exception):
    """The measurement is impossible; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """A compiler: its path, and the first line of its --version."""

    path: str
    version: str


@dataclass(frozen=True, slots=True)
class Subject:
    """The machine, compiler and number of slots of a measurement; it holds for no other subject."""

    cpu: str
    cpus: int
    slots: int
    compiler: str
    compiler_version: str
    source_set: int


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some figures, and their quartiles."""

    median: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """The distance of the quartiles, as a share of the median."""
        return (self.high - self.low) / self.median


@dataclass(frozen=True, slots=True)
class Measurement:
    """How fast a subject compiles, relative to the reference machine.

    `single` is the speed of one slot while the others are idle; `all_slots` is the speed of each
    slot while all are in use. `foreign_share` is the share of the CPUs, 0 to 1, that other work
    used meanwhile; None if unknown.
    """

    subject: Subject
    languages: tuple[Language, ...]
    rounds: int
    single: Spread
    all_slots: Spread
    foreign_share: float | None

    @property
    def power_index(self) -> float:
        """The power index for the farm, to three digits.

        It is a slot's speed with all slots in use, because a busy farm gives a compile that speed.
        The other figure would overrate every machine with two threads per core.
        """
        return float(f"{self.all_slots.median:.3g}")


@dataclass(frozen=True, slots=True)
class Pass:
    """The set, compiled once on each slot: mean CPU time per slot, and the foreign share of CPUs.

    `cpu_s` is without the start-up of the compilers.
    """

    cpu_s: float
    foreign_share: float | None


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles of at least one value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def slot_speed(reference_s: float, cpu_s: float, slots: int, cpus: int) -> float:
    """Return a slot's speed; that of the reference machine is 1.

    `reference_s` and `cpu_s` are the CPU seconds for the same work, there and here. If there are
    more slots than CPUs, they share the CPUs.
    """
    if cpu_s <= 0:
        raise BenchmarkError("the compiler takes no longer for the sources than for empty files")
    return reference_s / cpu_s * min(1.0, cpus / slots)


def find_compiler(name: str | None) -> Compiler:
    """Return the compiler of this name or path, by default this machine's.

    Wrappers on PATH, such as ccache, are skipped. Raises `BenchmarkError`.
    """
    names = COMPILERS if name is None else (name,)
    path = next(filter(None, map(_on_path, names)), None)
    if path is None and name is None:
        raise BenchmarkError(f"no C compiler ({', '.join(COMPILERS)}) on PATH; install gcc")
    if path is None:
        raise BenchmarkError(f"{name} is not a compiler on PATH; name another with --compiler")
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, check=True, timeout=30, env=_environment()
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError):
        raise BenchmarkError(
            f"{path} --version fails; name another compiler with --compiler"
        ) from None
    version = (said.splitlines() or ["unknown version"])[0].strip()
    return Compiler(path, version)


def languages_of(compiler: Compiler) -> tuple[Language, ...]:
    """Return the languages that a compiler compiles; raises `BenchmarkError` if C is not one."""
    with Workshop(compiler.path, []) as workshop:
        workshop.compile_empty("C")
        with contextlib.suppress(BenchmarkError):
            workshop.compile_empty("C++")
            return ("C", "C++")
    return ("C",)


def subject(compiler: Compiler, slots: int) -> Subject:
    """Return the subject of a measurement on this machine."""
    return Subject(
        cpu_model(), available_cpus(), slots, compiler.path, compiler.version, SET_VERSION
    )


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of this machine's CPU, as far as the system knows it."""
    with contextlib.suppress(OSError):
        facts: dict[str, str] = {}
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
        # Arm has numbers in place of a name.
        for keys in (("model name",), ("CPU implementer", "CPU part", "CPU revision"), ("cpu",)):
            if all(facts.get(key) for key in keys):
                return " ".join(facts[key] for key in keys)
    return platform.processor() or platform.machine() or "unknown"


def measure(
    compiler: Compiler,
    sources: Sequence[Source],
    *,
    slots: int,
    rounds: int,
    tell: Callable[[str], object] = lambda _: None,
) -> Measurement:
    """Compile the sources in the compiler's languages `rounds` times, and return the speed.

    `tell` gets one line per round. Raises `BenchmarkError`.
    """
    languages = languages_of(compiler)
    sources = [source for source in sources if source.language in languages]
    reference_s = sum(source.reference_s for source in sources)
    cpus = available_cpus()
    single, all_slots, foreign_shares = [], [], []
    with Workshop(compiler.path, sources) as workshop:
        for number in range(1, rounds + 1):
            one = workshop.compile_set(1)
            full = workshop.compile_set(slots) if slots > 1 else one
            single.append(slot_speed(reference_s, one.cpu_s, 1, cpus))
            all_slots.append(slot_speed(reference_s, full.cpu_s, slots, cpus))
            shares = [p.foreign_share for p in (one, full) if p.foreign_share is not None]
            foreign_shares += shares
            tell(
                f"round {number}: {one.cpu_s:.2f} s on one slot ({single[-1]:.3g}), "
                f"{full.cpu_s:.2f} s on each of {slots} ({all_slots[-1]:.3g}); "
                f"foreign load {', '.join(f'{share:.0%}' for share in shares) or 'unknown'}"
            )
    return Measurement(
        subject(compiler, slots),
        languages,
        rounds,
        spread(single),
        spread(all_slots),
        statistics.mean(foreign_shares) if foreign_shares else None,
    )


class Workshop:
    """A temporary directory with the sources, and the compilers that run there.

    Both are gone when the block ends, for whatever reason. Meanwhile this process must have no
    other children.
    """

    def __init__(self, compiler: str, sources: Sequence[Source]) -> None:
        self._compiler = compiler
        self._sources = sources
        self._slot_of: dict[int, int] = {}  # by pid, of the compilers that run
        self._commands: list[list[str]] = []

    def __enter__(self) -> Workshop:
        try:
            self._temporary = tempfile.TemporaryDirectory(prefix="power-index-")
            self._path = Path(self._temporary.name)
            (self._path / "empty").touch()
            for number, source in enumerate(self._sources):
                (self._path / str(number)).write_text(source.text)
                self._commands.append(self._command(source.language, str(number)))
                self._commands.append(self._command(source.language, "empty"))
        except OSError as error:
            raise BenchmarkError(
                f"cannot make a temporary directory ({error.strerror}); set TMPDIR to another"
            ) from None
        self._environment = _environment() | {"TMPDIR": str(self._path)}
        return self

    def __exit__(self, *_: object) -> None:
        self._end_all()
        self._temporary.cleanup()

    def compile_empty(self, language: Language) -> None:
        """Compile an empty file; raises `BenchmarkError` if even that fails."""
        self._start(0, self._command(language, "empty"))
        self._next_end()

    def compile_set(self, slots: int) -> Pass:
        """Compile the set on each of `slots` slots at once; raises `BenchmarkError`."""
        others = _ForeignLoad()
        length = len(self._commands)
        done = [0] * slots
        cpu_s = 0.0

        def start(slot: int) -> None:
            # Two commands form a pair: a source, and the empty file after it.
            self._start(slot, self._commands[(2 * slot + done[slot]) % length])

        for slot in range(slots):
            start(slot)
        while min(done) < length:
            slot, used_s = self._next_end()
            if done[slot] < length:
                cpu_s += -used_s if done[slot] % 2 else used_s
            done[slot] += 1
            start(slot)
        self._end_all()  # before the reading: it includes only children that were waited for
        return Pass(cpu_s / slots, others.share())

    def _command(self, language: Language, file: str) -> list[str]:
        options = ["-O2", "-c", *LANGUAGE_OPTIONS[language]]
        return [self._compiler, *options, str(self._path / file)]

    def _start(self, slot: int, command: list[str]) -> None:
        output = self._path / f"slot{slot}"
        writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            pid = os.posix_spawn(
                command[0],
                [*command, "-o", f"{output}.o"],
                self._environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, f"{output}.log", writing, 0o600),
                ],
                # A group of its own, because a compiler consists of several processes.
                setpgroup=0,
            )
        except OSError as error:
            raise BenchmarkError(f"cannot run {command[0]} ({error.strerror})") from None
        self._slot_of[pid] = slot

    def _next_end(self) -> tuple[int, float]:
        """Wait for a compiler to end; return its slot and its CPU seconds, with its children's."""
        pid, status, usage = os.wait4(-1, 0)
        slot = self._slot_of.pop(pid)
        if status != 0:
            log = (self._path / f"slot{slot}.log").read_text(errors="replace")
            words = next(filter(None, map(str.strip, log.splitlines())), "it printed nothing")
            raise BenchmarkError(
                f"{self._compiler} does not compile the built-in sources: {words}; "
                "name another compiler with --compiler"
            )
        if not (self._path / f"slot{slot}.o").exists():
            raise BenchmarkError(
                f"{self._compiler} does not compile: it leaves no object file; "
                "name another compiler with --compiler"
            )
        return slot, usage.ru_utime + usage.ru_stime

    def _end_all(self) -> None:
        for pid in self._slot_of:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        while self._slot_of:
            self._slot_of.pop(os.wait4(-1, 0)[0], None)


def _on_path(name: str) -> str | None:
    """Return the path of a program that is not a wrapper; a name with a slash is a path."""
    directories = ["."] if "/" in name else os.get_exec_path()
    for directory in directories:
        found = shutil.which(Path(directory, name).absolute())
        if found and Path(found).resolve().name not in WRAPPERS:
            return str(found)
    return None


def _environment() -> dict[str, str]:
    return dict(os.environ) | {"LC_ALL": "C"}


class _ForeignLoad:
    """The CPU use of other programs since this was made."""

    def __init__(self) -> None:
        self._machine = this_machine()
        self._begin = self._reading()

    def share(self) -> float | None:
        """Return the others' share of all CPU time until now, 0 to 1; None if it cannot be read."""
        end = self._reading()
        if self._begin is None or end is None:
            return None
        capacity_s, busy_s, own_s = (
            after - before for before, after in zip(self._begin, end, strict=True)
        )
        return min(1.0, max(0.0, busy_s - own_s) / capacity_s) if capacity_s > 0 else None

    def _reading(self) -> tuple[float, float, float] | None:
        """Return the seconds that passed on all CPUs, that they were busy, and busy for us."""
        try:
            busy_s = self._machine.busy_cpu_s()
        except Unreadable:
            return None
        ours = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        own_s = sum(usage.ru_utime + usage.ru_stime for usage in ours)
        return time.monotonic() * len(busy_s), sum(busy_s.values()), own_s
