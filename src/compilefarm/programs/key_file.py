"""The file that holds the farm's key.

A key file holds one key per line. host-server accepts any of them, and a client uses the first. So
a new key is introduced in three steps: add it to the server's file, change the hosts' files, remove
the old one. A line that looks like a comment is an error, because anyone could guess it as a key.
`protocol/key.py` says what the key proves.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from compilefarm.programs.error_text import error_text

FILE_LIMIT_BYTES = 64 * 1024
_KEY = re.compile(rb"[!-\"$-~][!-~]{15,}\Z")
MAKE_ONE = "head -c 32 /dev/urandom | base64"


class KeyFileError(Exception):
    """A key file cannot be used; the text names the file, the reason and what to do."""


def read_keys(path: Path) -> tuple[bytes, ...]:
    """Return the keys in a file, at least one; raises `KeyFileError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise KeyFileError(f"key file {path} is not a file")
            if status.st_uid not in (0, os.geteuid()):
                raise KeyFileError(f"key file {path} belongs to another user: chown it to this one")
            if status.st_mode & 0o077:
                raise KeyFileError(f"key file {path} is open to others: chmod 600 {path}")
            text = file.read(FILE_LIMIT_BYTES)
    except OSError as error:
        raise KeyFileError(f"cannot read key file {path}: {error_text(error)}") from None
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines, 1):
        if line and not _KEY.match(line):
            raise KeyFileError(
                f"key file {path}, line {number}: a key has at least 16 letters, digits or signs, "
                f"no spaces, and does not begin with #; make one with: {MAKE_ONE}"
            )
    keys = tuple(filter(None, lines))
    if not keys:
        raise KeyFileError(f"key file {path} holds no key; make one with: {MAKE_ONE}")
    return keys
