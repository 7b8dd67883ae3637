"""How one side proves to the other that it has the farm's key, without sending the key.

Whoever has the key may bring in hosts, so a program that announces hosts proves it on each
connection. host-server sends a nonce, and the client sends one of its own. Each answers with an
HMAC-SHA256 over both. The client's nonce and the server's proof protect the host: host-server tells
it for whom to compile, so it must not believe just any program at that address. A proof names its
side and its port, so it is of no use anywhere else.

TLS with certificates was rejected. They would have to be made, handed out and renewed on every
machine, while distcc's own messages still pass unprotected.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable

# Letters and digits only; long enough that no nonce comes twice.
NONCE = re.compile(r"[0-9A-Za-z]{16,128}\Z")


def proof(key: bytes, speaker: str, port: str, server_nonce: str, client_nonce: str) -> str:
    """Return the proof that `speaker` (`client` or `server`) has the key, on the named port."""
    text = f"compilefarm {speaker} {port} {server_nonce} {client_nonce}"
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def proves(given: str, expected: str) -> bool:
    """Whether a proof is the expected one; the time taken does not tell how close it is."""
    return hmac.compare_digest(given.encode(), expected.encode())


def key_proven(
    keys: Iterable[bytes], given: str, port: str, server_nonce: str, client_nonce: str
) -> bytes | None:
    """Return the key that a client's proof was made with; None where it is none of `keys`."""
    found = None
    for key in keys:
        if proves(given, proof(key, "client", port, server_nonce, client_nonce)):
            found = key
    return found
