"""The project of a run: many small files, built in steps."""

from __future__ import annotations

from pathlib import Path

STEP = 40  # files that are built before the next begin


def write_project(directory: Path, files: int) -> None:
    """Write a project of `files` small files, to be built in steps."""
    directory.mkdir()
    for number in range(files):
        functions = "\n".join(
            f"int f{number}_{each}(int x) {{ return x * {each + number} + {each}; }}"
            for each in range(5 + number % 40)
        )
        (directory / f"file{number}.c").write_text(f"#include <stdio.h>\n{functions}\n")
    makefile = [
        f"all: {_objects(range(files))}",
        "%.o: %.c",
        "\t$(CC) -O1 -MMD -MF $*.d -MT $@ -c $< -o $@",
    ]
    for begins in range(STEP, files, STEP):
        after = _objects(range(begins, min(begins + STEP, files)))
        makefile.append(f"{after}: | {_objects(range(begins - STEP, begins))}")
    (directory / "Makefile").write_text("".join(f"{line}\n" for line in makefile))


def _objects(numbers: range) -> str:
    return " ".join(f"file{number}.o" for number in numbers)


def objects_of(project: Path) -> dict[str, bytes]:
    """Return the objects and dependencies of a built project, and any file that should not be."""
    beside = [path for path in project.iterdir() if path.suffix != ".c"]
    return {path.name: path.read_bytes() for path in beside}
