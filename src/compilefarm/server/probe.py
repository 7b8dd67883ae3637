"""Whether a distccd is well: a compile of nothing, by distcc's own protocol.

A connection alone says little. The kernel accepts for a distccd that is stopped, and a host can
take every compile and end none, for want of a disk, say. So a suspect is given an empty file to
compile, with the compiler that its leases are for. That costs the host some 20 ms; and nobody is
probed without a suspicion. distccd's statistics would tell less, are off by default, and can hang.

An answer is whatever ends the connection: a distccd that may not run the compiler just closes it,
and is as alive as one that compiles. See docs/decisions/0004.
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass

# An empty file takes a moment, and longer on a host whose CPUs are all taken.
PROBE_WITHIN_S = 5.0
REPLY_LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """What a probe found: whether somebody is there, and whether he compiled."""

    answered: bool
    compiled: bool = False


def question(compiler: str) -> bytes:
    """Return what asks a distccd to compile an empty file, already preprocessed."""
    words = [compiler, "-c", "probe.i", "-o", "probe.o"]
    tokens = [b"DIST%08x" % 1, b"ARGC%08x" % len(words)]
    tokens += [b"ARGV%08x%s" % (len(word.encode()), word.encode()) for word in words]
    return b"".join([*tokens, b"DOTI%08x" % 0])


def compiled(reply: bytes) -> bool:
    """Whether a distccd's reply says that the compiler ran and had nothing to object to."""
    return reply.startswith(b"DONE00000001STAT00000000")


async def probe(address: str, port: int, compiler: str) -> Found | None:
    """Return how a distccd fares; without a compiler, whether it closes when we do.

    None where that cannot be known, because we are out of descriptors ourselves.
    """
    reply = b""
    try:
        async with asyncio.timeout(PROBE_WITHIN_S):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                if compiler:
                    writer.write(question(compiler))
                else:
                    writer.write_eof()
                while len(reply) < REPLY_LIMIT_BYTES and (more := await reader.read(4096)):
                    reply += more
            finally:
                writer.close()
    except ConnectionResetError:
        return Found(True, compiled(reply))
    except (OSError, TimeoutError) as error:
        return None if error.errno in (errno.EMFILE, errno.ENFILE) else Found(False)
    return Found(True, compiled(reply))
