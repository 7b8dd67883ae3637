"""demo-farm as a user runs it, on a project of three files, without a network.

A variable in their environment identifies the processes of a test; their children inherit it.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar
from xml.etree import ElementTree

import pytest
from run_program import eventually, processes_with

from compilefarm.demo import project

# It starts programs, many times.
pytestmark = pytest.mark.slow

MARK = "DEMO_FARM_TEST"
PATIENCE_S = 60.0
MAKEFILE = "prog: main.o one.o two.o\n\t$(CC) -o $@ $^\n"
SOURCES = {
    "main.c": "int one(void); int two(void);\nint main(void) { return one() + two() - 3; }\n",
    "one.c": "int one(void) { return 1; }\n",
    "two.c": "int two(void) { return 2; }\n",
}

Test = TypeVar("Test", bound=Callable[..., None])


def end_to_end(test: Test) -> Test:
    """Mark a test that runs a whole farm."""
    with_marks: Test = pytest.mark.e2e(pytest.mark.slow(pytest.mark.needs("make", "gcc")(test)))
    return with_marks


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "Makefile").write_text(MAKEFILE)
    for name, text in SOURCES.items():
        (directory / name).write_text(text)
    return directory


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Yield an environment for demo-farm, and assert that no process with it is left."""
    mark = uuid.uuid4().hex
    yield os.environ | {MARK: mark, "HOST_SERVER": "no-server.invalid"}
    left = processes_with(MARK, mark)
    for process in left:
        process.kill()
    assert left == []


@contextlib.contextmanager
def demo_farm(
    environment: dict[str, str], cwd: Path, *options: object
) -> Iterator[subprocess.Popen[str]]:
    program = shutil.which("demo-farm", path=Path(sys.executable).parent)
    assert program, "demo-farm is not installed beside this Python"
    with subprocess.Popen(
        [program, *map(str, options)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def read_until(text: str, stream: IO[str] | None) -> str:
    assert stream is not None
    read = ""
    for line in stream:
        read += line
        if text in line:
            return read
    raise AssertionError(f"{text!r} never came: {read}")


@end_to_end
def test_a_project_is_built_on_the_farm(
    sources: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    with demo_farm(environment, tmp_path, "--project", sources, "--policy", "tier") as demo:
        said, errors = demo.communicate(timeout=PATIENCE_S)
    assert (demo.returncode, errors) == (0, "")
    assert subprocess.run([sources / "prog"], check=False).returncode == 0
    output = tmp_path / "demo-output"
    assert "project: 3 files in" in said
    assert "this machine      0 files   local fallbacks: 0" in said
    assert "backups           0         0 of them first" in said
    assert "demo-output/timeline.svg" in said
    bars = ElementTree.parse(output / "timeline.svg").iter("{http://www.w3.org/2000/svg}title")
    files = sorted((title.text or "").partition("\n")[0] for title in bars)
    assert files == sorted(SOURCES)
    for name in ("record.csv", "build.log", "host-server.log", "distccd-127.0.0.2.log"):
        assert (output / name).is_file()


@end_to_end
def test_an_error_in_the_source_fails_and_is_shown(
    sources: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (sources / "two.c").write_text("int two(void) { return nonsense; }\n")
    with demo_farm(environment, tmp_path, "--project", sources, "--output", "out") as demo:
        said, errors = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 1
    assert "make failed with status 2; out/build.log ends with:" in errors
    assert "nonsense" in errors
    assert "out/timeline.svg" in said


@end_to_end
def test_a_build_without_compiles_on_the_farm_fails(
    sources: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (sources / "Makefile").write_text("all:\n\ttrue\n")
    with demo_farm(environment, tmp_path, "--project", sources) as demo:
        _, errors = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 1
    assert "nothing to compile" in errors


@end_to_end
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_processes(
    sources: Path, environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    (sources / "Makefile").write_text(f"all:\n\techo >{begun}\n\tsleep 1000\n")
    with demo_farm(environment, tmp_path, "--project", sources) as demo:
        begun.read_text()  # returns when make is there
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 128 + number
    assert "Traceback" not in errors


@end_to_end
def test_a_kept_farm_serves_others_beside_a_second_demonstration(
    sources: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    with demo_farm(environment, tmp_path, "--project", sources, "--keep") as demo:
        said = read_until("mon-host-server", demo.stdout)
        server = said.partition("HOST_SERVER=")[2].split()[0]
        program = shutil.which("mon-host-server", path=Path(sys.executable).parent)

        def shown() -> bool:
            command = [str(program), "--server", server]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            return "now: 3 of 3 hosts up; 7 slots: 0 in use, 7 free" in ran.stdout

        eventually(shown)  # the monitor may be a moment late

        (sources / "one.o").unlink()
        with demo_farm(environment, tmp_path, "--project", sources) as second:
            said, errors = second.communicate(timeout=PATIENCE_S)
        assert (second.returncode, errors) == (0, "")
        assert "demo-output-2/timeline.svg" in said

        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 0


@end_to_end
@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--project", "."), "there is no Makefile in ."),
        (("--project", "project", "--policy", "none"), "host-server did not start: "),
        (("--project", "project", "--output", "project/main.c"), "cannot write to"),
    ],
)
@pytest.mark.usefixtures("sources")
def test_a_user_error_is_one_line(
    environment: dict[str, str], tmp_path: Path, options: tuple[str, ...], why: str
) -> None:
    with demo_farm(environment, tmp_path, *options) as demo:
        _, errors = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 1
    assert why in errors
    assert errors.count("\n") == 1


# -- fetching the project


def test_a_missing_network_without_a_kept_copy_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(project.ProjectError, match="is there a network") as raised:
        project.libsodium(tmp_path / "work", tmp_path / "log", os.environ)
    assert "\n" not in str(raised.value)


def test_a_damaged_copy_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "compilefarm" / project.ARCHIVE
    kept.parent.mkdir()
    kept.write_bytes(b"damaged")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(project.ProjectError, match="could not fetch"):
        project.libsodium(tmp_path / "work", tmp_path / "log", os.environ)
