"""Probing a distccd: a compile of an empty file, by distcc's own protocol.

That a host accepts a connection says little. The kernel accepts for a distccd that is stopped. A
host can also accept every compile and finish none, for example with a full disk. So the farm has a
suspect host compile an empty file, with the compiler that its leases are for. This costs the host
some 20 ms, and only suspect hosts are probed, and hosts without an agent: the object says which
compiler made it. distccd's statistics would say less, are off by default, and can hang.

Whatever ends the connection is an answer. A distccd that may not run the compiler just closes it,
and is as alive as one that compiles. See docs/decisions/0004.
"""

from __future__ import annotations

import asyncio
import errno
import re
from dataclasses import dataclass

from compilefarm.core.compilers import ProbedCompiler
from compilefarm.server.object_file import compiler_in

# An empty file takes some 20 ms, and longer on a host whose CPUs are all in use.
PROBE_WITHIN_S = 5.0
REPLY_LIMIT_BYTES = 64 * 1024

_TOKEN = re.compile(rb"([A-Z]{4})([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class Found:
    """A probe's result: whether distccd answered, and whether it compiled the empty file.

    `compiler` is what the object says of its compiler; None if there is no object, or it says
    nothing.
    """

    answered: bool
    compiled: bool = False
    compiler: ProbedCompiler | None = None


def question(compiler: str) -> bytes:
    """Return the bytes that ask a distccd to compile an empty, preprocessed file."""
    source = "probe.ii" if compiler.endswith("++") else "probe.i"
    words = [compiler, "-c", source, "-o", "probe.o"]
    tokens = [b"DIST%08x" % 1, b"ARGC%08x" % len(words)]
    tokens += [b"ARGV%08x%s" % (len(word.encode()), word.encode()) for word in words]
    return b"".join([*tokens, b"DOTI%08x" % 0])


def compiled(reply: bytes) -> bool:
    """Whether a distccd's reply says that the compiler ran without an error."""
    return reply.startswith(b"DONE00000001STAT00000000")


def object_in(reply: bytes) -> bytes:
    """Return the object in a distccd's reply; empty if there is none, or not the whole of it."""
    at = 12  # after DONE
    while token := _TOKEN.match(reply, at):
        at, length = token.end(), int(token[2], 16)
        if token[1] == b"DOTO":
            return reply[at : at + length] if len(reply) >= at + length else b""
        if token[1] != b"STAT":  # whose number is a value, not a length
            at += length
    return b""


def found_in(reply: bytes) -> Found:
    """Return what a distccd's reply says."""
    if not compiled(reply):
        return Found(True)
    return Found(True, True, compiler_in(object_in(reply)))


async def probe(address: str, port: int, compiler: str) -> Found | None:
    """Return whether a distccd answers and compiles.

    Without a compiler, only test whether it closes the connection after we do. Return None if the
    probe was not possible, because this process has no free file descriptor.
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
        return found_in(reply)
    except (OSError, TimeoutError) as error:
        return None if error.errno in (errno.EMFILE, errno.ENFILE) else Found(False)
    return found_in(reply)
