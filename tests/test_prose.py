"""The language rule of CONTRIBUTING.md, for the texts of this repository.

`ROOTS` and `SENTENCE_ROOTS` say which directories are checked; Markdown and the files that a
developer edits by hand are checked always. The first half of the tests is about the checker.
"""

from pathlib import Path

import pytest
from prose import (
    Fault,
    Text,
    banned_words,
    faults_of,
    files_of,
    long_lines,
    long_sentences,
    sentences,
    texts_of,
)

ROOT = Path(__file__).parent.parent

# Directories whose Python and C code is checked for words to avoid.
ROOTS = ("src", "bench", "tests")
# Those of them whose comments and docstrings are checked for long sentences, too.
SENTENCE_ROOTS = ROOTS

# These two quote what they forbid.
EXEMPT = {"prose.py", "test_prose.py"}
TEXT_FILES = (
    *("Makefile", "pyproject.toml", "CMakeLists.txt", ".ci/run"),
    *(f"scripts/{path.name}" for path in sorted((ROOT / "scripts").glob("*.sh"))),
)
# No tool's own files, and nothing that is made here.
NOT_OURS = {"build", "dist", "demo-output"}


def pages() -> list[Path]:
    return [
        path
        for path in files_of(ROOT, (".md",))
        if not NOT_OURS & set(path.relative_to(ROOT).parts)
    ]


def report(path: Path, faults: list[Fault]) -> str:
    return "".join(
        f"\n{path.relative_to(ROOT)}:{fault.line}: {fault.message}"
        for fault in sorted(faults, key=lambda fault: fault.line)
    )


# The checker


def words_found(text: str) -> list[str]:
    return [fault.message.partition(":")[0] for fault in banned_words(Text(1, "paragraph", text))]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Nobody can tell.", ["'Nobody'"]),
        ("It ends, whoever asks; he waits.", ["'whoever'", "'he'"]),
        ("A host takes\nnote of it.", ["'takes\nnote'"]),
        ("A line of so many hosts.", ["'so many'"]),
        ("There are so many that some wait.", []),
        ("This is to be sent.", ["'is to be'"]),
        ("The theme, the ache, a history.", []),
        ("Of a flood, only the first line is kept.", ["a sentence that begins with 'Of'"]),
        ("It waits. Of these, one goes.", ["a sentence that begins with 'Of'"]),
        ("It waits. Of course it does, and most of them do.", []),
    ],
)
def test_words_to_avoid_are_found(text: str, found: list[str]) -> None:
    assert words_found(text) == found


def test_a_heading_may_begin_as_it_likes() -> None:
    assert list(banned_words(Text(1, "heading", "Of hosts"))) == []


def test_a_fault_names_its_own_line() -> None:
    (fault,) = banned_words(Text(7, "paragraph", "The server waits.\nNobody asks."))
    assert (fault.line, fault.check) == (8, "word")


def test_a_sentence_over_the_limit_is_found() -> None:
    assert list(long_sentences(Text(1, "paragraph", "one two three."), 3)) == []
    text = Text(1, "paragraph", "Short. It has\nfour words here. Short.")
    (fault,) = long_sentences(text, 4)
    assert fault.message.startswith("5 words: It has four")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ("Version 3.11 of it, e.g. on Debian.", 1),
        ("It waits; then it asks: twice.", 1),
        ('It says "away." Then it ends', 2),
        ("", 0),
    ],
)
def test_a_text_falls_into_sentences(text: str, count: int) -> None:
    assert len(list(sentences(text))) == count


def test_long_lines_are_found_outside_code_and_tables() -> None:
    long = "word " * 21
    page = f"{long}\n```\n{long}\n```\n| {long} |\n[a]({'x' * 120}) b\n"
    assert [fault.line for fault in long_lines(page)] == [1]


MARKDOWN = """\
# A heading

A paragraph with `code that is long` and a [link](to/a/page.md), or
2. Two lines.

    nobody types this

- an item
  that goes on, of 30. Or not
- **another**

| cell | nobody |
```sh
whoever --types this
```
The end.
"""


def test_markdown_is_read_without_its_code(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(MARKDOWN)
    assert [(text.line, text.kind, " ".join(text.text.split())) for text in texts_of(page)] == [
        (1, "heading", "A heading"),
        (3, "paragraph", "A paragraph with CODE and a link, or 2. Two lines."),
        (8, "paragraph", "an item that goes on, of 30. Or not"),
        (10, "paragraph", "another"),
        (12, "row", "cell nobody"),
        (16, "paragraph", "The end."),
    ]


PYTHON = '''\
"""About the module.

A second paragraph.
"""
# A comment
# on two lines.
x = 1  # beside code
NAMES = {"nobody": f"{x} is not so many"}

def f():
    """Do it."""
    return "a text", "key"
'''


def test_python_is_read_by_comment_docstring_and_text(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(PYTHON)
    assert sorted((text.line, text.kind, text.text) for text in texts_of(module)) == [
        (1, "docstring", "About the module."),
        (3, "docstring", "A second paragraph."),
        (5, "comment", "A comment\non two lines."),
        (7, "comment", "beside code"),
        (8, "string", "CODE is not so many"),
        (11, "docstring", "Do it."),
        (12, "string", "a text"),
    ]


C = """\
/*
 * About the file.
 */
int x = '"'; // one
// two lines
// of it
const char *text = "a // text", *key = "key";
"""


def test_c_is_read_by_comment_and_text(tmp_path: Path) -> None:
    source = tmp_path / "source.c"
    source.write_text(C)
    assert sorted((text.line, text.kind, text.text) for text in texts_of(source)) == [
        (2, "comment", "About the file."),
        (4, "comment", "one"),
        (5, "comment", "two lines\nof it"),
        (7, "string", "a // text"),
    ]


def test_scripts_are_read_by_comment(tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/sh\n# Waits.\necho $# '#x'  # and says so\n")
    assert [(text.line, text.text) for text in texts_of(script)] == [
        (2, "Waits."),
        (3, "and says so"),
    ]


def test_faults_of_a_file_come_in_order(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Nobody.\n\n{'word ' * 26}\n\n{'x' * 101}\n")
    assert [(fault.line, fault.check) for fault in faults_of(page)] == [
        (1, "word"),
        (3, "line"),
        (3, "sentence"),
        (5, "line"),
    ]


# This repository


def test_all_pages_are_found() -> None:
    found = {str(path.relative_to(ROOT)) for path in pages()}
    assert {"README.md", "CONTRIBUTING.md", "docs/protocol.md"} <= found
    assert "docs/decisions/0001-core-without-io.md" in found
    assert not any(name.startswith((".venv", "build")) for name in found)


@pytest.mark.parametrize(
    "path",
    [*pages(), *(ROOT / name for name in TEXT_FILES)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_pages_and_scripts_keep_the_language_rule(path: Path) -> None:
    faults = faults_of(path)
    assert not faults, report(path, faults)


@pytest.mark.parametrize("root", ROOTS)
def test_code_has_no_words_to_avoid(root: str) -> None:
    found = ""
    for path in files_of(ROOT / root):
        if path.name not in EXEMPT:
            faults = [fault for text in texts_of(path) for fault in banned_words(text)]
            found += report(path, faults)
    assert not found, found


@pytest.mark.parametrize("root", SENTENCE_ROOTS)
def test_comments_have_short_sentences(root: str) -> None:
    found = ""
    for path in files_of(ROOT / root):
        if path.name not in EXEMPT:
            prose = [text for text in texts_of(path) if text.kind != "string"]
            found += report(path, [fault for text in prose for fault in long_sentences(text)])
    assert not found, found
