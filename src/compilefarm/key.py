"""The farm's key: the file that holds it, and how to prove that one has it without saying it.

Who has the key may bring in hosts, so a program that speaks for hosts proves it on each of its
connections: host-server sends a nonce, the client one of its own, and each answers with an
HMAC-SHA256 over both. The client's nonce and the server's proof are there because a host must not
believe whoever sits at host-server's address: that one tells it whom to compile for. What is
proven is bound to who proves and on which port, so that no proof is of use anywhere else.

A TLS with certificates was rejected: it would have to be made, handed out and renewed on every
machine, to protect messages beside which distcc's own pass unprotected.

A key file holds one key a line. The server takes any of them and a client uses the first, so a new
key is brought in by adding it to the server's file, then changing the hosts' files, then dropping
the old one. A line that looks like a comment is an error, not a key that anybody could guess.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

FILE_LIMIT_BYTES = 64 * 1024
# What `prove` takes for a nonce, and what makes a key: letters and signs, no space, none too few.
NONCE = re.compile(r"[0-9A-Za-z]{16,128}\Z")
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


def proof(key: bytes, speaker: str, port: str, server_nonce: str, client_nonce: str) -> str:
    """Return what shows that a speaker, `client` or `server`, has the key, on the port named."""
    text = f"compilefarm {speaker} {port} {server_nonce} {client_nonce}"
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def proves(given: str, expected: str) -> bool:
    """Whether a proof is the expected one, in a time that does not tell how nearly it is."""
    return hmac.compare_digest(given.encode(), expected.encode())


def key_proven(
    keys: Iterable[bytes], given: str, port: str, server_nonce: str, client_nonce: str
) -> bytes | None:
    """Return the one of the keys that a client's proof shows it to have; None: none of them."""
    found = None
    for key in keys:
        if proves(given, proof(key, "client", port, server_nonce, client_nonce)):
            found = key
    return found
