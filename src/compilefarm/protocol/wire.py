"""Bytes to messages and back: the line protocol of the first three ports.

A message is a verb and `key=value` words on one line (docs/protocol.md is normative). It is text,
so a person can type it with nc and C needs no library. It is strict, so that binary garbage is
recognised on the first line. This module does not know sockets or what a verb means. It splits a
stream of bytes into lines, however the bytes arrive, and turns one line into a `Message`. Programs
read values through its typed getters, so a bad number is refused here, by name, and nowhere else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote_to_bytes

LINE_LIMIT_BYTES = 8192
WORD_LIMIT = 64

_NAME = re.compile(r"[a-z][a-z0-9_-]*\Z")
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?\Z")
# Printable, and neither space nor percent. Characters above ASCII may stand as they are, except
# those that a terminal takes for a control or `str.split` takes for white space.
_PLAIN = re.compile(r"[!-$&-~\u00a1-\U0010ffff]*\Z")
# A whole line in which every value is plain, as in nearly every line: one match checks it all.
_PLAIN_LINE = re.compile(r"[a-z][a-z0-9_-]*+(?: [a-z][a-z0-9_-]*+=[!-$&-~\u00a1-\U0010ffff]*+)*+\Z")


class WireError(ValueError):
    """The peer broke the protocol; the text is the reason, worded for the peer."""


@dataclass(slots=True)
class Message:
    """One line of the protocol: a verb and its words, values decoded.

    A getter raises `WireError`, which names the key, if the value does not fit it.
    """

    verb: str
    words: dict[str, str] = field(default_factory=dict)

    def text(self, key: str, default: str = "") -> str:
        """Return a word's value, or `default` if the word is missing or empty."""
        return self.words.get(key) or default

    def required(self, key: str) -> str:
        """Return a word's value; raises `WireError` if it is missing or empty."""
        value = self.words.get(key)
        if not value:
            raise WireError(f"{self.verb} needs {key}=")
        return value

    def number(
        self, key: str, default: float, *, low: float = 0.0, high: float = math.inf
    ) -> float:
        """Return a word's value as a finite number within `low` and `high`, or `default`."""
        value = self.words.get(key)
        if not value:
            return default
        if not _NUMBER.match(value):
            raise WireError(f"{key}={value[:40]} is not a number")
        number = float(value)
        if not low <= number <= high:
            raise WireError(f"{key}={value[:40]} is out of range")
        return number

    def integer(self, key: str, default: int, *, low: int = 0, high: int = 1_000_000) -> int:
        """Return a word's value as a whole number within `low` and `high`, or `default`."""
        number = self.number(key, default, low=low, high=high)
        if number != int(number):
            raise WireError(f"{key}={number} is not a whole number")
        return int(number)

    def optional_number(
        self, key: str, *, low: float = 0.0, high: float = math.inf
    ) -> float | None:
        """Return a word's value as a number within `low` and `high`, or None."""
        return self.number(key, 0.0, low=low, high=high) if self.words.get(key) else None

    def items(self, key: str) -> frozenset[str]:
        """Return the items of a comma-separated value; empty if the word is missing."""
        value = self.words.get(key)
        return frozenset(filter(None, value.split(","))) if value else frozenset()


def parse_line(line: bytes) -> Message:
    """Return the message on one line, given without its newline.

    Raises `WireError` if the line breaks the rules of docs/protocol.md.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise WireError("the line is not UTF-8") from None
    text = text.removesuffix("\r")
    verb, *pairs = text.split(" ")
    if len(pairs) <= WORD_LIMIT and _PLAIN_LINE.match(text):
        words = dict([pair.split("=", 1) for pair in pairs])
        if len(words) == len(pairs):
            return Message(verb, words)
    return Message(verb, _read_words(verb, pairs))


def _read_words(verb: str, pairs: list[str]) -> dict[str, str]:
    """Return the words of a line that is not plain; raises `WireError` with the reason."""
    if not _NAME.match(verb):
        raise WireError("a line begins with a verb of the letters a to z")
    if len(pairs) > WORD_LIMIT:
        raise WireError(f"more than {WORD_LIMIT} words")
    words: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not _NAME.match(key):
            raise WireError(f"expected key=value after {verb}, separated by single spaces")
        if key in words:
            raise WireError(f"{key}= is given twice")
        if not _PLAIN.match(value):
            value = _decoded(key, value)
        words[key] = value
    return words


def _decoded(key: str, value: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", value) or not _PLAIN.match(value.replace("%", "")):
        raise WireError(f"{key}= holds a character that must be written as %XX")
    return unquote_to_bytes(value).decode(errors="replace")


def format_line(verb: str, **words: object) -> bytes:
    """Return a message as one line with its newline; words with the value None are left out.

    A float is rounded to a millionth and written without an exponent. The items of a list are
    separated by commas.
    """
    parts = [verb]
    parts += [f"{key}={encoded(value)}" for key, value in words.items() if value is not None]
    return (" ".join(parts) + "\n").encode()


def encoded(value: object) -> str:
    """Return a value as it is written in a message."""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    if isinstance(value, (set, frozenset)):
        return ",".join(sorted(map(encoded, value)))
    if isinstance(value, (list, tuple)):
        return ",".join(map(encoded, value))
    return _escaped(str(value))


@lru_cache(maxsize=4096)  # mostly for the names of hosts
def _escaped(text: str) -> str:
    if _PLAIN.match(text):
        return text
    return "".join(
        letter
        if letter != "%" and _PLAIN.match(letter)
        else "".join(f"%{byte:02X}" for byte in letter.encode(errors="replace"))
        for letter in text
    )


def printable(text: str) -> str:
    """Return a text from the wire for a log or a reason: no control characters, on one line."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


class LineSplitter:
    """Splits a stream of bytes into lines, however the bytes are cut.

    It holds at most one line's limit plus one read. A line over the limit raises `WireError`.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    @property
    def pending(self) -> bool:
        """Whether the last line has not ended yet."""
        return bool(self._rest)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that `data` completes, without their newlines."""
        *lines, rest = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        self._rest = rest
        for line in lines:
            if len(line) >= LINE_LIMIT_BYTES:
                raise WireError(f"a line has at most {LINE_LIMIT_BYTES} bytes")
            yield line
        if len(rest) >= LINE_LIMIT_BYTES:
            self._rest = b""
            raise WireError(f"a line has at most {LINE_LIMIT_BYTES} bytes")
