"""What an object file says of the compiler that made it: its version, and the machine it is for.

gcc and clang write their version into the section `.comment` of an ELF file, and the file's header
names the machine. The bytes come from a host, so nothing in them is believed: what does not fit is
no compiler, and never an error. This module must not know where the bytes come from.
"""

from __future__ import annotations

import re
import struct
from typing import Literal

from compilefarm.core.compilers import ProbedCompiler

COMMENT_LIMIT_BYTES = 4096
SECTIONS_LIMIT = 1000

# By ELF's number of the machine, its class (bits) and its byte order, where it matters.
_MACHINES = {
    3: "i386",
    20: "powerpc",
    22: "s390x",
    40: "arm",
    43: "sparc64",
    183: "aarch64",
    258: "loongarch64",
}
_MACHINES_BY_CLASS = {
    (8, 32, "big"): "mips",
    (8, 32, "little"): "mipsel",
    (8, 64, "little"): "mips64el",
    (21, 64, "big"): "powerpc64",
    (21, 64, "little"): "powerpc64le",
    (62, 32, "little"): "x32",
    (62, 64, "little"): "x86_64",
    (243, 32, "little"): "riscv32",
    (243, 64, "little"): "riscv64",
}
# gcc: the distributor's text in parentheses, then gcc's own version. clang: the version at once.
_GCC = re.compile(r"GCC: \(.*?\) (.*)")
_CLANG = re.compile(r".*?clang version (.*)")
_WORD = re.compile(r"[A-Za-z0-9_.+~:-]{1,60}\Z")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)+")


def compiler_in(data: bytes) -> ProbedCompiler | None:
    """Return the compiler that made an object file; None if the file does not say it."""
    try:
        architecture, comment = _read(data)
    except (struct.error, IndexError, ValueError, OverflowError):
        return None
    for text in comment.decode(errors="replace").split("\0"):
        for family, pattern in (("gcc", _GCC), ("clang", _CLANG)):
            found = pattern.match(text)
            version = found and _VERSION.match(found[1])
            if version:
                return ProbedCompiler(
                    family, version[0], _full_version(text, version[0]), architecture
                )
    return None


def _full_version(text: str, version: str) -> str:
    """Return the longest word that begins with the version: it has the distribution's revision.

    gethost reads the text of a compiler in the same way.
    """
    words = [word for each in text.split() if _WORD.match(word := each.strip("()"))]
    return max((word for word in words if word.startswith(version)), key=len, default=version)


def _read(data: bytes) -> tuple[str, bytes]:
    """Return the architecture and the comment in an ELF file; raises an error if it is none."""
    if data[:4] != b"\x7fELF" or data[4] not in (1, 2) or data[5] not in (1, 2):
        raise ValueError("not an ELF file")
    bits, order = 32 * data[4], ("little", "big")[data[5] - 1]
    mark: Literal["<", ">"] = "<" if order == "little" else ">"
    (machine,) = struct.unpack_from(f"{mark}H", data, 18)
    architecture = _MACHINES.get(machine) or _MACHINES_BY_CLASS.get((machine, bits, order), "")
    (table,) = (
        struct.unpack_from(f"{mark}Q", data, 40)
        if bits == 64
        else struct.unpack_from(f"{mark}I", data, 32)
    )
    size, count, names = struct.unpack_from(f"{mark}HHH", data, 58 if bits == 64 else 46)
    header = f"{mark}II8x8xQQ" if bits == 64 else f"{mark}II4x4xII"
    sections = [
        struct.unpack_from(header, data, table + n * size)
        for n in range(min(count, SECTIONS_LIMIT))
    ]
    _, _, names_at, names_size = sections[names]
    for name, _, at, length in sections:
        start = names_at + name
        if data[start : start + 9] == b".comment\0" and start < names_at + names_size:
            return architecture, data[at : at + min(length, COMMENT_LIMIT_BYTES)]
    return architecture, b""
