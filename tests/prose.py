"""Checks the language rule of CONTRIBUTING.md, as far as a program can.

Three checks: words and phrases to avoid, sentences of at most 25 words, and lines of at most 100
columns. They read Markdown, the comments of scripts and settings, and the comments, docstrings and
texts of Python and C code. Quoted code is left out: fences, code spans, doctest lines.

The checks are simple on purpose. A linter for prose (Vale, proselint) knows hundreds of rules,
none of them ours, and would be one more program to install.

    PYTHONPATH=tests .venv/bin/python -m prose src/compilefarm docs

prints each fault in these files and directories, and how many there are of each kind. This module
must not know which files are checked in `make check`: `test_prose.py` says that.
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SENTENCE_WORDS = 25
LINE_COLUMNS = 100

# What to avoid, and what to write instead.
BANNED = {
    r"(?:nobody|no one|somebody|anybody|everybody)": "name the program or person, or say 'users'",
    r"(?:whoever|whomever)": "anyone who, or name the program or person",
    r"(?:he|him|his|himself|she|hers?|herself)": "they, or the noun",
    r"(?:take|takes|taking|took|taken)\s+note": "record, remember",
    r"(?:put|puts|putting)\s+down": "record, store",
    r"(?:take|takes|taking|took|taken)\s+up(?!\s+to\b)": "start, add, use",
    r"reckon\w*": "expect, estimate, count",
    r"so\s+(?:many|long|often)(?!\s+(?:as|that)\b)": "name the parameter",
    r"(?:is|are|was|were)\s+to\s+be": "must be, or say what happens",
    r"makes\s+no\s+odds": "does not matter",
    r"for\s+want\s+of": "without, for lack of",
    r"and\s+be\s+it": "including",
    r"(?:thereof|therein|whereof|wherein|whereupon|hitherto|lest)": "say it in today's words",
    r"of\s+which\s+all": "all of which, or two sentences",
}
# A sentence that begins with a genitive: the reader learns the subject last.
FRONTED_OF = re.compile(r"(?:^|(?<=[.!?:] )|(?<=\n\n))Of\b(?!\s+course\b)")

_BANNED = [
    (re.compile(rf"\b{pattern}\b", re.IGNORECASE), instead) for pattern, instead in BANNED.items()
]
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|al|no)\.$", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?][)\"'”]*(?=\s|$)")
_CODE_SPAN = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^)]*\)")
_LIST_ITEM = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+")
_FENCE = re.compile(r"\s*(```|~~~)")
_WORD = re.compile(r"\S*\w\S*")


@dataclass(frozen=True)
class Text:
    """A piece of prose: a paragraph, a list item, a table row, a comment or a docstring."""

    line: int
    kind: str  # paragraph, heading, row, comment, docstring or string
    text: str


@dataclass(frozen=True)
class Fault:
    """Where a text breaks the rule, and what to do."""

    line: int
    check: str  # word, sentence or line
    message: str


# From files to texts


def texts_of(path: Path) -> list[Text]:
    """Return the prose of a file; a file of an unknown kind counts as one with # comments."""
    source = path.read_text(encoding="utf-8")
    return list(_READERS.get(path.suffix, hash_comments)(source))


def markdown(source: str) -> Iterator[Text]:
    """Yield paragraphs, list items, headings and table rows, without fenced or indented code."""
    fenced = False
    block: list[str] = []
    start = 0
    kind = "paragraph"
    after_blank, in_list = True, False
    for number, line in enumerate([*source.splitlines(), ""], 1):
        fence = _FENCE.match(line)
        if fence:
            fenced = not fenced
        row = line.startswith("|")
        item = _LIST_ITEM.match(line)
        if item and block and line.lstrip()[0].isdigit() and not in_list:
            item = None  # a number that ends a sentence
        heading = line.startswith("#")
        blank = not line.strip()
        code = after_blank and not in_list and not block and line.startswith("    ")
        if block and (fence or row or item or heading or blank or kind == "heading"):
            yield Text(start, kind, plain("\n".join(block)))
            block = []
        after_blank = blank or bool(fence) or (code and not block)
        if fenced or fence or blank or code:
            continue
        in_list = bool(item) or (in_list and line.startswith(" "))
        if row:
            yield Text(number, "row", plain(line.replace("|", " ")))
            continue
        if not block:
            start, kind = number, "heading" if heading else "paragraph"
        text = line[item.end() :] if item else line
        block.append(text.lstrip("#").strip() if heading else text)


def plain(text: str) -> str:
    """Return a text without markup; each code span is one word, and a link is its text."""
    text = _LINK.sub(r"\1", text)
    text = _CODE_SPAN.sub("CODE", text)
    return text.replace("**", "").replace("*", "")


def python(source: str) -> Iterator[Text]:
    """Yield the comments, docstrings and texts of a Python file."""
    yield from _joined(
        (token.start[0], token.start[1], token.line, token.string)
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    )
    tree = ast.parse(source)
    seen: set[int] = set()  # ids of the constants that are parts of other texts
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring is not None:
                assert isinstance(node.body[0], ast.Expr)
                seen.add(id(node.body[0].value))
                yield from _paragraphs(node.body[0].lineno, docstring)
        elif isinstance(node, ast.JoinedStr):
            seen |= {id(value) for value in node.values}
            text = "".join(
                str(value.value) if isinstance(value, ast.Constant) else "CODE"
                for value in node.values
            )
            yield from _string(node.lineno, text)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in seen:
            continue
        if isinstance(node.value, str):
            yield from _string(node.lineno, node.value)


def c(source: str) -> Iterator[Text]:
    """Yield the comments and texts of a C file."""
    token = re.compile(
        r"/\*(?P<block>.*?)\*/|//(?P<line>[^\n]*)|\"(?P<string>(?:\\.|[^\"\\\n])*)\"|'(?:\\.|[^'\\])+'",
        re.DOTALL,
    )
    lines = source.splitlines()
    comments: list[tuple[int, int, str, str]] = []
    for found in token.finditer(source):
        number = source.count("\n", 0, found.start()) + 1
        if found["block"] is not None:
            text = re.sub(r"^[ \t]*\*?[ \t]?", "", found["block"], flags=re.MULTILINE)
            yield from _paragraphs(number, text, "comment")
        elif found["line"] is not None:
            column = found.start() - source.rfind("\n", 0, found.start()) - 1
            comments.append((number, column, lines[number - 1], found[0]))
        elif found["string"] is not None:
            yield from _string(number, found["string"])
    yield from _joined(iter(comments), "//")


def hash_comments(source: str) -> Iterator[Text]:
    """Yield the comments of a shell script, a Makefile or a settings file."""
    found = []
    for number, line in enumerate(source.splitlines(), 1):
        comment = re.search(r"(?:^|\s)(#+(?!!).*)$", line)
        if comment:
            found.append((number, comment.start(1), line, comment[1]))
    return _joined(iter(found))


_READERS: dict[str, Callable[[str], Iterator[Text]]] = {
    ".md": markdown,
    ".py": python,
    ".c": c,
    ".h": c,
}


def _joined(comments: Iterator[tuple[int, int, str, str]], mark: str = "#") -> Iterator[Text]:
    """Yield comments, each given as (line, column, whole line, comment).

    Comments below each other, with no code beside them, are one.
    """
    block: list[str] = []
    start = last = 0
    for number, column, whole, comment in comments:
        alone = not whole[:column].strip()
        if block and not (alone and number == last + 1):
            yield from _paragraphs(start, "\n".join(block), "comment")
            block = []
        if not block:
            start = number
        block.append(comment.lstrip(mark).removeprefix(" "))
        last = number if alone else 0
    if block:
        yield from _paragraphs(start, "\n".join(block), "comment")


def _paragraphs(line: int, text: str, kind: str = "docstring") -> Iterator[Text]:
    """Yield the paragraphs and list items of a docstring or comment, without code."""
    for each in markdown(re.sub(r"^\s*(?:>>>|\.\.\. ).*$", "", text, flags=re.MULTILINE)):
        yield Text(line + each.line - 1, kind, each.text)


def _string(line: int, text: str) -> Iterator[Text]:
    """Yield a text in code; a string without a space is a key or a name, and no prose."""
    if " " in text.strip():
        yield Text(line, "string", plain(text))


# From texts to faults


def banned_words(text: Text) -> Iterator[Fault]:
    """Yield a fault for each word or phrase to avoid."""
    for pattern, instead in _BANNED:
        for found in pattern.finditer(text.text):
            yield Fault(_line(text, found.start()), "word", f"'{found[0]}': {instead}")
    if text.kind not in ("heading", "row"):
        for found in FRONTED_OF.finditer(text.text):
            message = "a sentence that begins with 'Of': put the subject first"
            yield Fault(_line(text, found.start()), "word", message)


def long_sentences(text: Text, limit: int = SENTENCE_WORDS) -> Iterator[Fault]:
    """Yield a fault for each sentence with more words than `limit`."""
    if text.kind == "row":
        return
    for start, sentence in sentences(text.text):
        count = len(_WORD.findall(sentence))
        if count > limit:
            opening = " ".join(sentence.split()[:6])
            yield Fault(_line(text, start), "sentence", f"{count} words: {opening} ...")


def long_lines(source: str, limit: int = LINE_COLUMNS) -> Iterator[Fault]:
    """Yield a fault for each line of Markdown with more columns than `limit`.

    Tables and fenced code are left out, and so is the target of a link, which cannot be broken.
    """
    fenced = False
    for number, line in enumerate(source.splitlines(), 1):
        if _FENCE.match(line):
            fenced = not fenced
        columns = len(re.sub(r"\]\([^)]*\)", "]", line))
        if not fenced and not line.startswith("|") and columns > limit:
            yield Fault(number, "line", f"{columns} columns")


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Yield each sentence of a paragraph, and where it begins.

    A sentence ends at '.', '!' or '?' before white space, but not after an abbreviation. A colon or
    a semicolon does not end one.
    """
    start = 0
    for end in _SENTENCE_END.finditer(text):
        if not _ABBREVIATION.search(text, start, end.end()):
            yield start, text[start : end.end()]
            start = end.end() + len(text[end.end() :]) - len(text[end.end() :].lstrip())
    if text[start:].strip():
        yield start, text[start:]


def _line(text: Text, position: int) -> int:
    return text.line + text.text.count("\n", 0, position)


def faults_of(path: Path) -> list[Fault]:
    """Return all faults of a file, in order."""
    found = [
        fault
        for text in texts_of(path)
        for check in (banned_words, long_sentences)
        if check is banned_words or text.kind != "string"
        for fault in check(text)
    ]
    if path.suffix == ".md":
        found += long_lines(path.read_text(encoding="utf-8"))
    return sorted(found, key=lambda fault: (fault.line, fault.check))


def files_of(place: Path, suffixes: tuple[str, ...] = (".md", ".py", ".c", ".h")) -> list[Path]:
    """Return the files below a directory that can be checked, or the file itself."""
    if place.is_file():
        return [place]
    return sorted(
        path
        for path in place.rglob("*")
        if path.suffix in suffixes
        and not any(part.startswith(".") for part in path.relative_to(place).parts)
    )


def main(places: list[str]) -> None:
    """Print the faults of files and directories, and their numbers."""
    counts: Counter[str] = Counter()
    for place in places:
        for path in files_of(Path(place)):
            for fault in faults_of(path):
                counts[fault.check] += 1
                print(f"{path}:{fault.line}: {fault.check}: {fault.message}")
    print(", ".join(f"{check}: {count}" for check, count in sorted(counts.items())) or "none")


if __name__ == "__main__":
    main(sys.argv[1:])
