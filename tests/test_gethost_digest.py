"""gethost's SHA-256, by which it tells compilers apart."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from gethost_program import SOURCES

# ---- the digest ----------------------------------------------------------------------------------

DIGEST = r"""
#include <stdio.h>
#include "sha256.h"
int main(void)
{
    static char data[1 << 21];
    struct sha256 sum;
    char text[SHA256_TEXT_SIZE];
    size_t length, size = fread(data, 1, sizeof data, stdin);
    for (size_t step = 1; step <= 130; step += 43) { /* in parts of several lengths */
        sha256_start(&sum);
        for (size_t at = 0; at < size; at += length) {
            length = size - at < step ? size - at : step;
            sha256_add(&sum, data + at, length);
        }
        sha256_end(&sum, text);
        puts(text);
    }
    return 0;
}
"""


@pytest.fixture(scope="session")
def digest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that prints the digests of its input."""
    directory = tmp_path_factory.mktemp("digest")
    (directory / "digest.c").write_text(DIGEST)
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}"]
    sources = [directory / "digest.c", SOURCES / "sha256.c"]
    program = directory / "digest"
    subprocess.run(["cc", *flags, "-o", program, *sources], check=True)
    return program


def digests(program: Path, data: bytes) -> set[str]:
    result = subprocess.run([program], input=data, capture_output=True, check=True)
    lines = result.stdout.decode().split()
    assert len(lines) == 4
    return set(lines)


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # from NIST's examples for FIPS 180-4
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ],
)
def test_sha256_gives_the_standards_examples(digest: Path, data: bytes, expected: str) -> None:
    assert digests(digest, data) == {expected}


@pytest.mark.slow
def test_sha256_is_right_for_every_length_around_a_block(digest: Path) -> None:
    for length in [*range(50, 70), *range(115, 132), 1023, 1024]:
        data = bytes(range(256)) * 4
        assert digests(digest, data[:length]) == {hashlib.sha256(data[:length]).hexdigest()}
