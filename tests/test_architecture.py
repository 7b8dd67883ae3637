"""The shape of the code: the picture of folders, the forbidden imports, and the limits on length.

import-linter enforces who imports whom (`make check`). This file holds what it cannot: that
CONTRIBUTING.md draws the folders and layers that exist, and that no file or class grows too long.
It reads text and imports nothing of the project.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "src"

PYTHON_LINES_MAX = 500
CLASS_LINES_MAX = 350
C_LINES_MAX = 600

# The core gets time and randomness as arguments, and everything else as events.
FORBIDDEN_IN_CORE = {
    *("asyncio", "logging", "os", "random", "socket", "subprocess", "threading", "time"),
}


def python_files() -> list[Path]:
    return [path for top in ("src", "tests", "bench") for path in (ROOT / top).rglob("*.py")]


def length(path: Path) -> int:
    return len(path.read_text().splitlines())


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def block(language: str) -> str:
    """Return the one fenced block of this language in CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(found)


def drawn() -> dict[str, str]:
    """Return what the picture has: a path below the repository for each line, and its meaning."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in block("tree").splitlines():
        entry, _, meaning = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        above[depth:] = [entry]
        found["".join(above)] = meaning.strip()
    return found


def folders() -> Iterator[str]:
    """Yield the folders below src, each with a slash at its end."""
    for path in SOURCES.rglob("*"):
        if path.is_dir() and path.name != "__pycache__" and "egg-info" not in path.name:
            yield f"{name(path)}/"


def import_linter() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings: dict[str, Any] = tomllib.load(file)["tool"]["importlinter"]
    return settings


def contract(kind: str, source: str = "") -> dict[str, Any]:
    (found,) = (
        each
        for each in import_linter()["contracts"]
        if each["type"] == kind
        and (not source or source in each["source_modules"])
        and each.get("containers", ["compilefarm"]) == ["compilefarm"]
    )
    return dict(found)


def test_the_picture_has_every_folder_in_its_place() -> None:
    in_picture = {path for path in drawn() if path.endswith("/")} - {"src/"}
    assert in_picture == set(folders())


def test_the_picture_has_every_module_that_stands_alone_in_the_core() -> None:
    core = SOURCES / "compilefarm" / "core"
    modules = {name(path) for path in core.glob("*.py")} - {name(core / "__init__.py")}
    assert {path for path in drawn() if path.endswith(".py")} == modules


def test_the_picture_says_what_each_folder_is() -> None:
    roots = {"src/", "src/compilefarm/"}
    assert [path for path, meaning in drawn().items() if not meaning and path not in roots] == []


def test_the_layers_are_those_that_the_import_check_enforces() -> None:
    assert block("layers").splitlines() == contract("layers")["layers"]


def test_the_import_check_knows_every_part() -> None:
    layers = contract("layers")
    parts = {part for layer in layers["layers"] for part in layer.split(" | ")}
    package = SOURCES / "compilefarm"
    assert parts == {path.parent.name for path in package.glob("*/__init__.py")}
    assert layers["exhaustive"]


def test_the_import_check_keeps_input_and_output_out_of_the_core() -> None:
    forbidden = set(contract("forbidden", source="compilefarm.core")["forbidden_modules"])
    assert forbidden >= FORBIDDEN_IN_CORE
    assert import_linter()["include_external_packages"]


def test_no_python_file_is_too_long() -> None:
    long = {name(path): length(path) for path in python_files() if length(path) > PYTHON_LINES_MAX}
    assert long == {}


def test_no_class_is_too_long() -> None:
    long = {
        f"{name(path)}: {node.name}": lines
        for path in python_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > CLASS_LINES_MAX
    }
    assert long == {}


def test_no_c_file_is_too_long() -> None:
    files = [path for kind in ("*.c", "*.h") for path in (SOURCES / "gethost").glob(kind)]
    long = {name(path): length(path) for path in files if length(path) > C_LINES_MAX}
    assert files
    assert long == {}
