"""What an object says of its compiler, for objects of real compilers and for other bytes."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from compilefarm.core.compilers import ProbedCompiler
from compilefarm.protocol.compilers import architecture_of
from compilefarm.server.object_file import compiler_in


def elf(
    comment: bytes, *, machine: int = 62, bits: int = 64, order: str = "little", count: int = 3
) -> bytes:
    """Return an ELF file with a comment and nothing else."""
    mark = "<" if order == "little" else ">"
    names = b"\0.comment\0.shstrtab\0"
    body = comment + names
    header_size = 64 if bits == 64 else 52
    table = header_size + len(body)
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "little" else 2, 1]) + bytes(9)
    word = "Q" if bits == 64 else "I"
    size = 64 if bits == 64 else 40
    head = struct.pack(
        f"{mark}HHI{word}{word}{word}IHHHHHH",
        *(1, machine, 1, 0, 0, table, 0, header_size, 0, 0, size, count, 2),
    )

    def section(name: int, at: int, length: int) -> bytes:
        values = (name, 1, 0, 0, at, length, 0, 0, 1, 0)
        layout = "IIQQQQIIQQ" if bits == 64 else "IIIIIIIIII"
        return struct.pack(mark + layout, *values)

    sections = section(0, 0, 0)
    sections += section(1, header_size, len(comment))
    sections += section(10, header_size + len(comment), len(names))
    return ident + head + body + sections


@pytest.mark.parametrize(
    ("comment", "found"),
    [
        ("GCC: (Debian 12.2.0-14+deb12u1) 12.2.0", ("gcc", "12.2.0", "12.2.0-14+deb12u1")),
        ("GCC: (GNU) 13.2.1 20230801", ("gcc", "13.2.1", "13.2.1")),
        (
            "GCC: (GNU) 13.2.1 20230801 (Red Hat 13.2.1-7)",
            ("gcc", "13.2.1", "13.2.1-7"),
        ),
        (
            "GCC: (crosstool-NG 1.25.0) 12.2.0",
            ("gcc", "12.2.0", "12.2.0"),
        ),
        ("GCC: (GNU) 12.2.0", ("gcc", "12.2.0", "12.2.0")),
        (
            "GCC: (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0",
            ("gcc", "11.4.0", "11.4.0-1ubuntu1~22.04"),
        ),
        ("Debian clang version 14.0.6", ("clang", "14.0.6", "14.0.6")),
        (
            "Ubuntu clang version 14.0.0-1ubuntu1.1",
            ("clang", "14.0.0", "14.0.0-1ubuntu1.1"),
        ),
        ("clang version 17.0.6", ("clang", "17.0.6", "17.0.6")),
        ("GCC: ", None),
        ("clang version \x1b[2J", None),
        ("rustc version 1.70.0", None),
        ("", None),
    ],
)
def test_the_comment_has_the_version(comment: str, found: tuple[str, str, str] | None) -> None:
    wanted = None if found is None else ProbedCompiler(*found, "x86_64")
    assert compiler_in(elf(comment.encode() + b"\0")) == wanted


@pytest.mark.parametrize(
    ("machine", "bits", "order", "target"),
    [
        (62, 64, "little", "x86_64-linux-gnu"),
        (62, 32, "little", "x86_64-linux-gnux32"),
        (3, 32, "little", "i686-linux-gnu"),
        (183, 64, "little", "aarch64-linux-gnu"),
        (40, 32, "little", "arm-linux-gnueabihf"),
        (40, 32, "little", "armv7l-unknown-linux-gnueabihf"),
        (21, 64, "little", "powerpc64le-linux-gnu"),
        (21, 64, "big", "ppc64-unknown-linux-gnu"),
        (22, 64, "big", "s390x-linux-gnu"),
        (243, 64, "little", "riscv64-linux-gnu"),
    ],
)
def test_the_machine_is_that_of_the_target(
    machine: int, bits: int, order: str, target: str
) -> None:
    found = compiler_in(elf(b"GCC: (GNU) 12.2.0", machine=machine, bits=bits, order=order))
    assert found is not None
    assert found.architecture == architecture_of(target)


def test_an_unknown_machine_is_that_of_no_target() -> None:
    found = compiler_in(elf(b"GCC: (GNU) 12.2.0", machine=9999))
    assert found is not None
    assert found.architecture == ""


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(60), b"MZ" * 40])
def test_what_is_no_object_names_no_compiler(data: bytes) -> None:
    assert compiler_in(data) is None


def test_damaged_objects_do_no_harm() -> None:
    chance = random.Random(1)
    whole = elf(b"GCC: (Debian 12.2.0-14) 12.2.0\0")
    assert compiler_in(whole) is not None
    for _ in range(5000):
        damaged = bytearray(whole[: chance.randrange(len(whole) + 1)])
        for _ in range(min(4, len(damaged))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        compiler_in(bytes(damaged))


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "g++", "clang"])
def test_a_real_compiler_is_named(tmp_path: Path, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    path = tmp_path / "probe.o"
    subprocess.run([compiler, "-c", "-x", "c", "/dev/null", "-o", str(path)], check=True)
    found = compiler_in(path.read_bytes())
    target = subprocess.check_output([compiler, "-dumpmachine"], text=True).strip()
    assert found is not None
    assert found.family == ("clang" if compiler == "clang" else "gcc")
    assert found.architecture == architecture_of(target)
