"""power-index: its sources, its arithmetic, its cache, and the program as a user runs it.

No speed is asserted, because the machine of the tests is not a reference. If only the program
matters, the compiler is a shell script that uses CPU time for a source and none for an empty file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from run_program import eventually, program_command, program_environment, run
from scripted_server import ScriptedServer

from compilefarm.compile_host.load.machine import this_machine
from compilefarm.compile_host.power_index import benchmark, power_index
from compilefarm.compile_host.power_index.benchmark import (
    BenchmarkError,
    Compiler,
    Measurement,
    Spread,
    Subject,
    Workshop,
    cpu_model,
    find_compiler,
    measure,
    slot_speed,
    spread,
)
from compilefarm.compile_host.power_index.benchmark_sources import (
    Language,
    Source,
    c_text,
    source_set,
)

# It starts programs, many times.
pytestmark = pytest.mark.slow

COMPILER = """#!/bin/sh
case $* in
    --version) echo "fake 1.0"; exit ;;
    *$REFUSED*) echo "it does not like $REFUSED" >&2; exit 1 ;;
esac
for last; do file=$previous; previous=$last; [ "$last" = -o ] && source=$file; done
: > "$last"
[ -s "$source" ] || exit 0
[ -z "$ENDLESS" ] || { sleep 60 & echo $! > "$ENDLESS"; wait; exit; }
i=0; while [ $i -lt 9000 ]; do i=$((i + 1)); done
"""
SUBJECT = Subject("a CPU", 4, 4, "/usr/bin/cc", "cc 1.0", 1)
MEASUREMENT = Measurement(
    SUBJECT, ("C", "C++"), 5, Spread(3.0, 2.9, 3.1), Spread(2.3456, 2.3, 2.4), 0.01
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment with fake compilers only, and a cache of its own."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("cc", "other-cc"):
        (programs / name).write_text(COMPILER)
        (programs / name).chmod(0o755)
    return program_environment(
        PATH=f"{programs}:/bin", XDG_CACHE_HOME=str(tmp_path / "cache"), REFUSED="--nothing"
    )


def power_index_run(
    environment: dict[str, str], *arguments: object
) -> subprocess.CompletedProcess[str]:
    quick = ("--quick", "--slots", 1)
    return run("power-index", *quick, *arguments, environment=environment)


# The sources.


def test_the_sources_are_the_same_everywhere() -> None:
    text = "".join(source.text for source in source_set())
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "96a86a49b8dadadae172be687163dffb92a44ffe9bb4ebeae33eba8bf30b25f4"
    ), "a changed set needs another SET_VERSION and other reference times"
    assert text.isascii()


def test_any_beginning_of_the_set_is_a_fair_sample() -> None:
    languages = [source.language for source in source_set()]
    assert languages[: power_index.QUICK_SOURCES] == ["C", "C++"]
    assert languages == ["C", "C++"] * (len(languages) // 2)


@pytest.mark.slow
@pytest.mark.parametrize(("language", "compiler"), [("C", "gcc"), ("C++", "g++")])
def test_the_sources_compile_without_a_warning(
    language: Language, compiler: str, tmp_path: Path
) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"not on PATH: {compiler}")
    for source in source_set():
        if source.language == language:
            (tmp_path / "source").write_text(source.text)
            options = ["-Wall", "-Wextra", "-Werror", *benchmark.LANGUAGE_OPTIONS[language]]
            command = [compiler, "-O2", "-c", *options, "source", "-o", "object"]
            done = subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stderr) == (0, "")


# The arithmetic.


def test_the_speed_of_a_slot() -> None:
    assert slot_speed(10, 10, 1, 1) == 1
    assert slot_speed(10, 2, 1, 4) == 5
    assert slot_speed(10, 2.5, 4, 4) == 4
    assert slot_speed(10, 2.5, 8, 4) == 2, "each of eight slots on four CPUs has half a CPU"
    with pytest.raises(BenchmarkError, match="no longer"):
        slot_speed(10, 0, 1, 1)


def test_the_spread_is_median_and_quartiles() -> None:
    assert spread([3]) == Spread(3, 3, 3)
    assert spread([1, 100, 3, 2, 4]) == Spread(3, 2, 4)
    assert spread([1, 100, 3, 2, 4]).width == pytest.approx(2 / 3)
    assert spread([2, 1]) == Spread(1.5, 1.25, 1.75)


def test_the_power_index_is_the_speed_with_all_slots_in_use() -> None:
    assert MEASUREMENT.power_index == 2.35


# The machine and its compilers.


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        ("processor : 0\nmodel name : AMD EPYC\n\nmodel name : another\n", "AMD EPYC"),
        (
            "CPU implementer : 0x41\nCPU part\t: 0xd08\nCPU revision : 3\nModel : a board\n",
            "0x41 0xd08 3",
        ),
        ("cpu : POWER9\nmodel : 2.2\n", "POWER9"),
    ],
)
def test_the_name_of_the_cpu(cpuinfo: str, model: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert cpu_model(tmp_path / "cpuinfo") == model
    assert cpu_model(tmp_path / "none")


def test_a_wrapper_is_skipped(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrappers = tmp_path / "wrappers"
    wrappers.mkdir()
    (wrappers / "ccache").touch(mode=0o755)
    (wrappers / "cc").symlink_to("ccache")
    monkeypatch.setenv("PATH", f"{wrappers}:{environment['PATH']}")
    assert find_compiler(None) == Compiler(str(tmp_path / "programs" / "cc"), "fake 1.0")
    with pytest.raises(BenchmarkError, match="is not a compiler"):
        find_compiler(str(wrappers / "cc"))


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.needs("cc")
def test_a_measurement_with_the_real_compiler(slots: int) -> None:
    small = [Source("C", c_text(3, declarations=99, functions=2), 1)]
    lines: list[str] = []
    measured = measure(find_compiler(None), small, slots=slots, rounds=2, tell=lines.append)
    assert (measured.subject.slots, measured.rounds, len(lines)) == (slots, 2, 2)
    for figures in (measured.single, measured.all_slots):
        assert 0 < figures.low <= figures.median <= figures.high
    assert measured.foreign_share is None or 0 <= measured.foreign_share <= 1


def test_the_workshop_leaves_nothing(environment: dict[str, str]) -> None:
    with Workshop(shutil.which("cc", path=environment["PATH"]) or "", []) as workshop:
        assert workshop._path.is_dir()
    assert not workshop._path.exists()


# The cache.


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a cache of the test's own, on a machine that is always the subject."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        power_index,
        "subject",
        lambda compiler, slots: replace(
            SUBJECT, compiler=compiler.path, compiler_version=compiler.version, slots=slots
        ),
    )
    return tmp_path / "compilefarm" / "power-index.json"


def test_a_measurement_is_remembered_for_its_subject(cache: Path) -> None:
    compiler = Compiler("/usr/bin/cc", "cc 1.0")
    assert power_index.recall(compiler, 4) is None
    assert power_index.remember(MEASUREMENT) == ""
    assert power_index.recall(compiler, 4) == MEASUREMENT
    assert power_index.recall(compiler, 5) is None
    assert power_index.recall(Compiler("/usr/bin/cc", "cc 1.1"), 4) is None
    assert power_index.recall(Compiler("/usr/bin/clang", "cc 1.0"), 4) is None
    assert [file.name for file in cache.parent.iterdir()] == [cache.name]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    "change", [{"cpu": "another"}, {"cpus": 5}, {"source_set": 2}], ids=lambda change: str(change)
)
def test_a_measurement_of_another_machine_is_not_used(change: dict[str, object]) -> None:
    other = replace(MEASUREMENT, subject=replace(SUBJECT, **change))  # type: ignore[arg-type]
    assert power_index.remember(other) == ""
    assert power_index.recall(Compiler("/usr/bin/cc", "cc 1.0"), 4) is None


def test_the_latest_measurement_counts_and_old_ones_are_removed(cache: Path) -> None:
    for cpus in range(40):
        power_index.remember(replace(MEASUREMENT, subject=replace(SUBJECT, cpus=cpus)))
    assert len(json.loads(cache.read_text())) == power_index.CACHED_MAX
    power_index.remember(MEASUREMENT)
    power_index.remember(replace(MEASUREMENT, rounds=7))
    recalled = power_index.recall(Compiler("/usr/bin/cc", "cc 1.0"), 4)
    assert recalled is not None
    assert recalled.rounds == 7


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[" * 99_999,
        "{}",
        "[1]",
        "[{}]",
        '{"a": 1}',
        "\xff",
        '[{"subject": {"cpu": 1}}]',
        "3",
    ],
)
def test_a_damaged_cache_is_an_empty_one(cache: Path, text: str) -> None:
    cache.parent.mkdir()
    cache.write_bytes(text.encode("latin-1"))
    compiler = Compiler("/usr/bin/cc", "cc 1.0")
    assert power_index.recall(compiler, 4) is None
    assert power_index.remember(MEASUREMENT) == ""
    assert power_index.recall(compiler, 4) == MEASUREMENT


@pytest.mark.parametrize("speed", ["NaN", "-1", "0", "1e9", "Infinity", '"x"'])
def test_a_cached_speed_out_of_range_is_not_used(cache: Path, speed: str) -> None:
    power_index.remember(MEASUREMENT)
    cache.write_text(cache.read_text().replace("2.3456", speed))
    assert power_index.recall(Compiler("/usr/bin/cc", "cc 1.0"), 4) is None


# The program.


def test_it_prints_the_measurement(environment: dict[str, str]) -> None:
    done = power_index_run(environment, "--rounds", 3)
    assert done.returncode == 0
    first, second, third = done.stdout.splitlines()
    assert float(first.removeprefix("power index ")) > 0
    assert "quartiles" in second
    assert third.startswith("3 rounds of C and C++ with ")
    assert "/cc, fake 1.0, on " in third
    assert done.stderr.count("\n") <= 1


def test_json_has_the_whole_measurement(environment: dict[str, str]) -> None:
    done = power_index_run(environment, "--json", "--verbose", "--compiler", "other-cc")
    lines = json.loads(done.stdout)
    assert lines["power_index"] == pytest.approx(lines["all_slots"]["median"], rel=0.01)
    assert lines["subject"]["compiler"].endswith("/other-cc")
    assert done.stderr.startswith("round 1: ")


def test_only_c_is_measured_without_a_cxx_compiler(environment: dict[str, str]) -> None:
    done = power_index_run(environment | {"REFUSED": "c++"}, "--json")
    assert json.loads(done.stdout)["languages"] == ["C"]


@pytest.mark.parametrize(
    ("arguments", "changes", "words"),
    [
        ((), {"PATH": "/nonexistent"}, "no C compiler (cc, gcc, clang) on PATH; install gcc"),
        (("--compiler", "nocc"), {}, "nocc is not a compiler on PATH; name another with"),
        (("--compiler", "/bin/false"), {}, "/bin/false --version fails; name another compiler"),
        (("--compiler", "/bin/true"), {}, "/bin/true does not compile: it leaves no object file;"),
        ((), {"REFUSED": "cpp-output"}, "built-in sources: it does not like cpp-output; name "),
    ],
)
def test_a_compiler_that_does_not_work_is_one_line(
    environment: dict[str, str], arguments: tuple[str, ...], changes: dict[str, str], words: str
) -> None:
    done = power_index_run(environment | changes, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_one_line(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    environment["XDG_CACHE_HOME"] = str(tmp_path / "file")
    done = power_index_run(environment)
    assert done.returncode == 0
    assert done.stdout.startswith("power index ")
    lines = [line for line in done.stderr.splitlines() if "cannot write" in line]
    assert len(lines) == 1
    assert "(not a directory)" in lines[0]


@pytest.mark.parametrize(
    "arguments", [["--slots", "0"], ["--rounds", "x"], ["--host", "a"], ["--register"], ["more"]]
)
def test_a_user_error_is_one_line(environment: dict[str, str], arguments: list[str]) -> None:
    done = run("power-index", *arguments, environment=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no system but Linux has /dev/full")
def test_output_to_a_full_disk_is_one_line(environment: dict[str, str]) -> None:
    command = [*program_command("power-index"), "--quick", "--slots", "1"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "warning" not in line]
    assert lines == ["power-index: cannot print the result: No space left on device"]


def test_output_without_a_reader_is_no_error(environment: dict[str, str]) -> None:
    command = [*program_command("power-index"), "--quick", "--slots", "1"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 128 + signal.SIGPIPE
    assert [line for line in said.splitlines() if "warning" not in line] == []


def test_it_registers_the_host_as_addhost_does(environment: dict[str, str]) -> None:
    with ScriptedServer() as server:
        words = ("--register", "--server", server.name, "--host", "127.0.0.3:4000", "--json")
        done = power_index_run(environment, *words)
        message = server.receives("add")
    assert done.returncode == 0
    assert message.number("power_index", 0) == json.loads(done.stdout)["power_index"]
    assert (message.text("host"), message.text("port")) == ("127.0.0.3", "4000")
    assert (message.text("slots"), message.text("peer")) == ("1", "127.0.0.3")
    assert "desk1 is available with 2 slots, power index 1\n" in done.stderr


def test_a_refusal_is_one_line(environment: dict[str, str]) -> None:
    with ScriptedServer({"add": [b"error reason=not%20your%20host\n"]}) as server:
        words = ("--register", "--server", server.name, "--host", "desk7")
        done = power_index_run(environment, *words)
    assert done.returncode == 1
    assert done.stdout.startswith("power index ")
    assert done.stderr.endswith("power-index: desk7:3632 was not added: not your host\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing_behind(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    compiling = tmp_path / "compiling"
    environment |= {"ENDLESS": str(compiling), "TMPDIR": str(temporary)}
    with subprocess.Popen(
        program_command("power-index", "--quick", "--slots", "1"),
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        eventually(lambda: compiling.exists() and compiling.read_text().endswith("\n"))
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + number, "")
    assert not list(temporary.iterdir())
    child = int(compiling.read_text())

    def gone() -> bool:
        process = this_machine().process(child)
        return process is None or process.gone

    eventually(gone)


# In enable-host.


def test_enable_host_measures_once(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PATH", "XDG_CACHE_HOME", "REFUSED"):
        monkeypatch.setenv(name, environment[name])
    lines: list[str] = []
    first = power_index.power_index(1, lines.append)
    assert first is not None
    assert len(lines) == 1
    assert "--no-measure" in lines[0]
    assert power_index.power_index(1, lines.append) == first
    assert len(lines) == 1


def test_enable_host_works_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    lines: list[str] = []
    assert power_index.power_index(1, lines.append) is None
    assert lines == [
        "cannot measure the power index: no C compiler (cc, gcc, clang) on PATH; install gcc"
    ]
