"""A compiler as the protocol describes it: its id, its names, and its door.

`gethost --compiler-ids` computes an id on builders and on hosts, from the files of the compiler and
from what it says of itself. Equal ids mean equal compilers. The server compares ids and makes none.

A door is the name under which a compile is sent to a host: `gcc-3f9a11c2d4e5f607`. It becomes a
file's name on builders and hosts, so the words in it are checked here. This module must not know
which compiler a host has, or what counts as the same compiler.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from compilefarm.protocol.wire import Message, WireError

# The most compilers of one host. A machine with every compiler of its distribution has about 100.
COMPILERS_LIMIT = 1000
TEXT_LIMIT = 200
DOOR_LIMIT = 120  # letters: a name, a dash and an id

_ID = re.compile(r"[0-9a-f]{16}\Z")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.~-]{0,99}\Z")
_SENT_AS = {"gcc": "gcc", "cc": "gcc", "g++": "g++", "c++": "g++"}


class CompilerInfo(NamedTuple):
    """One compiler.

    `name` is its canonical name (`gcc`, `clang++`), without a version. `version` is `12.2.0`, and
    `target` a triple. `text` is for people: `gcc 12.2.0-14 (x86_64-linux-gnu)`.
    """

    id: str
    name: str
    version: str
    target: str
    text: str

    @property
    def door(self) -> str:
        """The name under which a host runs exactly this compiler."""
        return f"{self.name}-{self.id}"

    @property
    def full_version(self) -> str:
        """The version with the distribution's revision, as in the text; else `version`."""
        words = self.text.split()
        return words[1] if len(words) > 1 and words[1].startswith(self.version) else self.version

    @property
    def family(self) -> str:
        """`clang` or `gcc`."""
        return "clang" if "clang" in self.name else "gcc"


def compiler_of(message: Message) -> CompilerInfo:
    """Return the compiler that a host reports; raises `WireError` if a word is wrong."""
    word = message.required
    return _checked(
        word("id"), word("name"), word("version"), word("target"), message.text("text"), ""
    )


def wanted_compiler_of(message: Message) -> CompilerInfo | None:
    """Return the compiler that a builder wants, or None; raises `WireError` if a word is wrong."""
    words = message.words
    id = words.get("compiler_id")
    if not id:
        return None
    return _checked(
        id,
        message.required("compiler_name"),
        message.required("compiler_version"),
        message.required("compiler_target"),
        words.get("compiler_text") or "",
        "compiler_",
    )


@lru_cache(maxsize=4096)  # each compile names its compiler, and hosts have the same ones
def _checked(id: str, name: str, version: str, target: str, text: str, prefix: str) -> CompilerInfo:
    """Return a compiler with these words; `prefix` stands before their keys in an error."""
    if not _ID.match(id):
        raise WireError(f"{prefix}id={id[:40]} is not 16 digits of 0 to 9 and a to f")
    for key, word in (("name", name), ("version", version), ("target", target)):
        if not _WORD.match(word):
            raise WireError(
                f"{prefix}{key}={word[:40]} has other characters than a compiler's {key},"
                " or more than 100"
            )
    shown = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for letter in text[:TEXT_LIMIT]
    )
    return CompilerInfo(id, name, version, target, shown or f"{name} {version} ({target})")


def sent_name(typed: str, target: str) -> str:
    """Return the name that distcc 3.4 sends for a compiler that was called `typed`.

    distcc puts the target before the names of the system's own gcc, and leaves others as they are.
    """
    known = _SENT_AS.get(typed)
    return f"{target}-{known}" if known and target else typed


def architecture_of(target: str) -> str:
    """Return the architecture in a triple, by one name for each: `i686-linux-gnu` is `i386`."""
    first = target.partition("-")[0]
    if target.endswith("x32"):
        return "x32"
    if re.match(r"i[3-6]86\Z", first):
        return "i386"
    if first.startswith("arm"):
        return "arm"
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(first, first.replace("ppc", "powerpc"))
