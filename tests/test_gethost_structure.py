"""gethost's files use each other in one direction only, and each is small and has a header.

A file uses another one if it includes its header, or calls a function that the header declares. The
head of main.c lists the files so that each uses only files further down. So a reader can stop at
any line of that list and has seen everything above it, and no two files need each other.
"""

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from gethost_program import SOURCES

LINES_MAX = 600
COLUMNS_MAX = 100

COMMENT_OR_STRING = re.compile(r"/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL)
INCLUDE = re.compile(r'^#include "([^"]+)\.h"$', re.MULTILINE)
DIRECTIVE = re.compile(r"^#.*?(?<!\\)$", re.MULTILINE | re.DOTALL)
CALL = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
LISTED = re.compile(r"^ \*   - (\w+)\.c: ", re.MULTILINE)


def code_of(text: str) -> str:
    """Return C code without comments, strings and preprocessor lines."""
    return DIRECTIVE.sub("", COMMENT_OR_STRING.sub(" ", text))


def outside_braces(code: str) -> str:
    """Return C code with everything between braces left out."""
    inner = re.compile(r"\{[^{}]*\}")
    while inner.search(code):
        code = inner.sub("\0", code)
    return code.replace("\0", "{}")


def functions_declared(header: str) -> set[str]:
    statements = outside_braces(code_of(header)).split(";")
    found = (CALL.findall(statement.replace("__attribute__", "")) for statement in statements)
    return {names[0] for names in found if names}


def functions_defined(source: str) -> set[str]:
    definition = re.compile(r"\b(\w+)\s*\([^;{}]*\)\s*\{\}")
    return set(definition.findall(outside_braces(code_of(source))))


class Program:
    """The sources of a C program in one directory."""

    def __init__(self, directory: Path) -> None:
        self.texts = {path.name: path.read_text() for path in directory.glob("*.[ch]")}
        self.stems = {name.rpartition(".")[0] for name in self.texts}
        self.declared = {stem: functions_declared(self.text(stem, "h")) for stem in self.stems}

    def text(self, stem: str, extension: str) -> str:
        """Return the text of a file; an empty one if there is no such file."""
        return self.texts.get(f"{stem}.{extension}", "")

    def included(self, stem: str) -> set[str]:
        """Return the files whose headers this one includes, in its source or in its header."""
        both = self.text(stem, "c") + self.text(stem, "h")
        return set(INCLUDE.findall(both)) - {stem}

    def called(self, stem: str) -> dict[str, set[str]]:
        """Return for each other file the functions of its header that this one names."""
        words = set(re.findall(r"\b[A-Za-z_]\w*\b", code_of(self.text(stem, "c"))))
        calls = {other: words & self.declared[other] for other in self.stems - {stem}}
        return {other: names for other, names in calls.items() if names}

    def used(self, stem: str) -> set[str]:
        return self.included(stem) | set(self.called(stem))

    def problems(self) -> list[str]:
        return [
            *self._circle(),
            *(problem for stem in sorted(self.stems) for problem in self._interface(stem)),
            *self._order(),
            *self._size(),
        ]

    def _circle(self) -> list[str]:
        try:
            TopologicalSorter({stem: self.used(stem) for stem in self.stems}).prepare()
        except CycleError as error:
            # It names each file after one that uses it, so the circle reads backwards.
            return ["a circle: " + " uses ".join(reversed(error.args[1]))]
        return []

    def _interface(self, stem: str) -> list[str]:
        if f"{stem}.c" not in self.texts:
            return []
        problems = []
        if stem != "main" and f"{stem}.h" not in self.texts:
            problems.append(f"{stem}.c has no {stem}.h")
        missing = self.declared[stem] - functions_defined(self.text(stem, "c"))
        problems += [f"{stem}.h declares {name}(), which {stem}.c lacks" for name in missing]
        for other, names in self.called(stem).items():
            if other not in self.included(stem):
                problems += [f"{stem}.c uses {name}() without {other}.h" for name in names]
        return problems

    def _order(self) -> list[str]:
        listed = LISTED.findall(self.text("main", "c"))
        sources = {name[:-2] for name in self.texts if name.endswith(".c")}
        if sorted(listed) != sorted(sources):
            difference = ", ".join(sorted(sources.symmetric_difference(listed))) or "one twice"
            return [f"main.c's list of files differs from the directory: {difference}"]
        problems = []
        for place, stem in enumerate(listed):
            above = self.used(stem) & set(listed[:place])
            problems += [f"{stem}.c uses {other}.c, which is listed above it" for other in above]
        return problems

    def _size(self) -> list[str]:
        problems = []
        for name, text in sorted(self.texts.items()):
            lines = text.splitlines()
            if len(lines) > LINES_MAX:
                problems.append(f"{name} has {len(lines)} lines, more than {LINES_MAX}")
            for number, line in enumerate(lines, 1):
                if len(line) > COLUMNS_MAX:
                    problems.append(f"{name}:{number} has more than {COLUMNS_MAX} columns")
        return problems


def test_gethost_has_no_circle_and_no_long_file() -> None:
    program = Program(SOURCES)
    assert len(program.stems) > 20
    assert program.called("main")["run"] == {"run_with_lease"}
    assert program.problems() == []


# ---- the check itself ----------------------------------------------------------------------------

MAIN = """/* The files:
 *
 *   - main.c: the story
 *   - one.c: the first
 *   - two.c: the second
 */
#include "one.h"
int main(void) { return one("two()", 2); /* two() */ }
"""
SOUND = {
    "main.c": MAIN,
    "one.h": "enum { ONE };\nint one(const char *text, int number)\n"
    "    __attribute__((format(printf, 1, 2)));\n",
    "one.c": '#include "one.h"\n#include "two.h"\n'
    "static int twice(int n) { return 2 * n; }\n"
    "int one(const char *text, int number) { if (number) { return twice(two()); } return 0; }\n",
    "two.h": "struct pair { int a, b; };\nint two(void);\n",
    "two.c": '#include "two.h"\nint two(void) { return 2; }\n',
}


def problems_of(directory: Path, changed: dict[str, str | None]) -> list[str]:
    for name, text in (SOUND | changed).items():
        if text is not None:
            (directory / name).write_text(text)
    return Program(directory).problems()


def test_a_sound_program_has_no_problems(tmp_path: Path) -> None:
    assert problems_of(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"two.c": '#include "one.h"\nint two(void) { return 2; }\n'}, "a circle: "),
        ({"two.h": '#include "one.h"\nint two(void);\n'}, "a circle: "),
        (
            {"two.c": "int one(const char *, int);\nint two(void) { return one(0, 0); }\n"},
            "a circle: ",
        ),
        (
            {"two.c": "int one(const char *, int);\nint two(void) { return one(0, 0); }\n"},
            "two.c uses one() without one.h",
        ),
        (
            {"two.c": '#include "one.h"\nint two(void) { return one(0, 0); }\n'},
            "two.c uses one.c, which is listed above it",
        ),
        ({"two.h": None}, "two.c has no two.h"),
        ({"two.h": "int two(void);\nint three(void);\n"}, "two.h declares three(), which two.c"),
        (
            {"three.c": "", "three.h": ""},
            "main.c's list of files differs from the directory: three",
        ),
        ({"main.c": MAIN.replace("two.c", "gone.c")}, "main.c's list of files differs from the"),
        ({"two.h": "int two(void);\n" + "\n" * 600}, "two.h has 601 lines, more than 600"),
        (
            {"two.h": "int two(void);\n/* " + "x" * 97 + " */\n"},
            "two.h:2 has more than 100 columns",
        ),
    ],
)
def test_a_problem_is_found(tmp_path: Path, changed: dict[str, str | None], problem: str) -> None:
    found = problems_of(tmp_path, changed)
    assert [each for each in found if each.startswith(problem)], found
