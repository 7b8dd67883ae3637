"""How one side proves to the other that it has the farm's key, without sending the key.

Anyone who has the key may add hosts, so a program that announces hosts proves it on each
connection. host-server sends a nonce, and the client sends one of its own. Each answers with an
HMAC-SHA256 over both. The client's nonce and the server's proof protect the host. host-server tells
it which networks to compile for, so it must not trust any other program at that address. A proof
names its side and its port, so it cannot be used anywhere else.

TLS with certificates was rejected. They would have to be made, distributed and renewed on every
machine, and distcc's own messages would still be unprotected.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable

# Letters and digits only, and long enough that no nonce repeats.
NONCE = re.compile(r"[0-9A-Za-z]{16,128}\Z")


def proof(key: bytes, speaker: str, port: str, server_nonce: str, client_nonce: str) -> str:
    """Return the proof that `speaker` (`client` or `server`) has the key, on the named port."""
    text = f"compilefarm {speaker} {port} {server_nonce} {client_nonce}"
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def proves(given: str, expected: str) -> bool:
    """Return whether a proof is the expected one, in a time that does not depend on the proof."""
    return hmac.compare_digest(given.encode(), expected.encode())


def key_proven(
    keys: Iterable[bytes], given: str, port: str, server_nonce: str, client_nonce: str
) -> bytes | None:
    """Return the key that made a client's proof; None if it is not one of `keys`."""
    found = None
    for key in keys:
        if proves(given, proof(key, "client", port, server_nonce, client_nonce)):
            found = key
    return found
