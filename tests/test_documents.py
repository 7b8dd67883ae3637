"""What README.md and docs/ tell people to type works.

A fenced block of commands is one of `sh`, or the lines after `$ ` in one of `console`. A block is
run as a whole if all its commands end by themselves and stay on this machine. It runs on a farm of
the test's own, in a small project. In the other blocks each command is checked: the program must
exist and know each option. A command for which neither is possible fails, so that its author must
decide between them.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from run_program import eventually
from test_monitor import busy_farm

from compilefarm.core.snapshot import take_snapshot
from compilefarm.demo.farm import LoopbackFarm, Programs
from compilefarm.protocol.hosts_info import parse_hosts_info
from compilefarm.protocol.ports import Port

# It starts programs, many times.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PATIENCE_S = 120.0

# Commands that end by themselves and touch this machine only.
RUN = {
    *("base64", "ccache", "cmake", "export", "gethost", "head", "make", "mon-host-server"),
    *("ninja", "python3", "umask"),
}
# With this option, a command of RUN does not end.
UNENDING = {"--watch"}
# Our programs that do not end, or would act on this machine: their --help must know the options.
OURS = {
    *("addhost", "demo-farm", "disable-host", "enable-host", "gethost", "host-server", "loadavg"),
    *("mon-host-server", "power-index", "remhost", "simulate-farm", "watch-ssaver"),
}
# Commands of other programs, for other machines: known to be right.
TAKEN_ON_TRUST = {
    "sudo apt install distcc gcc make python3-venv",
    "mkdir -p ~/.config/systemd/user",
    "systemctl --user daemon-reload",
    "systemctl --user enable --now watch-ssaver",
}
# Run by test_install.py, in a home of its own.
INSTALLING = {"make install", "pipx install ."}
FENCE = re.compile(r"^```(\S+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

PROJECT = {
    "main.c": "int one(void);\nint main(void) { return one() - 1; }\n",
    "one.c": "int one(void) { return 1; }\n",
    "Makefile": "prog: main.o one.o\n\t$(CC) -o $@ $^\n",
    "CMakeLists.txt": "cmake_minimum_required(VERSION 3.18)\nproject(prog C)\n"
    "add_executable(prog main.c one.c)\n",
}


@dataclass(frozen=True)
class Block:
    """The commands of one fenced block, each a line."""

    where: str
    commands: tuple[str, ...]

    def __str__(self) -> str:
        return self.where


def fenced(language: str) -> Iterator[tuple[str, str]]:
    """Yield the place of each block (`PAGE:LINE`) and its text."""
    for page in PAGES:
        text = page.read_text()
        for found in FENCE.finditer(text):
            if found[1] == language:
                line = text.count("\n", 0, found.start()) + 2
                yield f"{page.relative_to(ROOT)}:{line}", found[2]


def blocks() -> list[Block]:
    found = []
    for where, text in fenced("sh"):
        found.append(Block(where, tuple(text.replace("\\\n", " ").splitlines())))
    for where, text in fenced("console"):
        lines = (line[2:] for line in text.splitlines() if line.startswith("$ "))
        found.append(Block(where, tuple(lines)))
    return found


def words(command: str) -> list[list[str]]:
    """Return the words of each command of a line, without assignments and comments."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|;&")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|;&"):
            commands.append([])
        elif commands[-1] or not re.match(r"[A-Z_]+=", word):
            commands[-1].append(word)
    return [each for each in commands if each]


def runs(block: Block) -> bool:
    """Return whether all commands of a block end by themselves and stay on this machine."""
    for command in block.commands:
        if command in TAKEN_ON_TRUST | INSTALLING:
            return False
        for first, *rest in words(command):
            if first not in RUN or UNENDING & set(rest):
                return False
            if first == "make" and rest and rest[0] in make_targets():
                return False
    return True


def make_targets() -> set[str]:
    """Return the targets of this repository's Makefile."""
    return set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


def check(command: str) -> None:
    """Check a command that is not run."""
    for first, *rest in words(command):
        if command in TAKEN_ON_TRUST | INSTALLING or first == "export":
            continue
        if first == "make" and rest and rest[0] in make_targets():
            continue
        name = Path(first).name
        assert name in OURS, f"this command is neither run nor checked: {command}"
        program = Path(sys.executable).parent / name
        help_text = subprocess.run(
            [program, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for option in rest:
            if option.startswith("--"):
                known = re.search(rf"(?<![\w-]){re.escape(option.partition('=')[0])}\b", help_text)
                assert known, f"{name} has no {option}"


def test_some_blocks_are_run_and_some_are_checked() -> None:
    assert {runs(block) for block in blocks()} == {True, False}


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("block", [block for block in blocks() if not runs(block)], ids=str)
def test_a_block_that_is_not_run_names_existing_options(block: Block) -> None:
    for command in block.commands:
        check(command)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackFarm]:
    work = tmp_path_factory.mktemp("farm")
    with LoopbackFarm(Programs().environment(), work, work, policy=None) as farm:
        yield farm


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.needs("make", "gcc", "cmake", "ninja", "ccache")
@pytest.mark.parametrize("block", [block for block in blocks() if runs(block)], ids=str)
def test_a_block_that_can_be_run_works(block: Block, farm: LoopbackFarm, tmp_path: Path) -> None:
    for name, text in PROJECT.items():
        (tmp_path / name).write_text(text)
    monitor = f"127.0.0.1:{farm.base_port + Port.MONITOR}"
    script = "\n".join(block.commands)
    script = script.replace("farmserver:9717", monitor).replace("farmserver", farm.server)
    before = len(farm.record.read_text().splitlines())
    ran = subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=tmp_path,
        env=Programs().environment()
        | {
            "HOST_SERVER": farm.server,
            "DISTCC_DIR": str(tmp_path),
            "CCACHE_DIR": str(tmp_path / "ccache"),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = [line for line in ran.stderr.splitlines() if line.startswith("gethost: ")]
    assert all(line.startswith("gethost: lease ") for line in said), said
    if " distcc" in script or ";distcc" in script:
        eventually(lambda: len(farm.record.read_text().splitlines()) > before)


@pytest.mark.parametrize(("where", "text"), list(fenced("hosts-info")))
def test_an_example_of_hosts_info_is_valid(where: str, text: str) -> None:
    assert parse_hosts_info(text, where)


@pytest.mark.parametrize(
    "page",
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_have_a_target(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_page_on_monitors_has_every_key() -> None:
    def keys(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            yield from value
            for each in value.values():
                yield from keys(each)
        elif isinstance(value, list):
            for each in value:
                yield from keys(each)

    documented = re.findall(r"`([a-z_]+)`", (ROOT / "docs" / "monitor.md").read_text())
    assert set(keys(take_snapshot(busy_farm()))) <= set(documented)
