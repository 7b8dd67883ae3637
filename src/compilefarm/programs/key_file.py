"""The file that holds the farm's key.

A key file holds one key a line. host-server takes any of them, and a client uses the first. So a
new key comes in three steps: add it to the server's file, change the hosts' files, drop the old
one. A line that looks like a comment is an error and not a key that anyone could guess. What the
key proves is in `protocol/key.py`.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

FILE_LIMIT_BYTES = 64 * 1024
_KEY = re.compile(rb"[!-\"$-~][!-~]{15,}\Z")
MAKE_ONE = "head -c 32 /dev/urandom | base64"


class KeyFileError(Exception):
    """A key file cannot be used; the text says which, why, and what to do."""


def read_keys(path: Path) -> tuple[bytes, ...]:
    """Return the keys in a file, at least one; raises `KeyFileError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise KeyFileError(f"key file {path} is not a file")
            if status.st_uid not in (0, os.geteuid()):
                raise KeyFileError(f"key file {path} is another user's: chown it to this one")
            if status.st_mode & 0o077:
                raise KeyFileError(f"key file {path} is open to others: chmod 600 {path}")
            text = file.read(FILE_LIMIT_BYTES)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise KeyFileError(f"key file {path} cannot be read: {why}") from None
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines, 1):
        if line and not _KEY.match(line):
            raise KeyFileError(
                f"key file {path}, line {number}: a key is 16 letters, digits or signs at least, "
                f"without spaces, and does not begin with #; make one with: {MAKE_ONE}"
            )
    keys = tuple(filter(None, lines))
    if not keys:
        raise KeyFileError(f"key file {path} holds no key; make one with: {MAKE_ONE}")
    return keys
