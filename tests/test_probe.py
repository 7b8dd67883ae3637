"""Probes of a distccd that runs, swallows compiles, is stopped, or is gone."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from farm_processes import DistccdHost

from compilefarm.server import probe as probe_module
from compilefarm.server.probe import Found, found_in, object_in, probe


@pytest.fixture
def host() -> Iterator[DistccdHost]:
    with DistccdHost("127.0.0.3", slots=1) as host:
        yield host


def found(host: DistccdHost, compiler: str) -> Found | None:
    """Return what a probe finds, apart from the compiler."""
    found = asyncio.run(probe(host.address, host.port, compiler))
    return None if found is None else replace(found, compiler=None)


@pytest.mark.e2e
def test_the_object_says_which_compiler_made_it(host: DistccdHost) -> None:
    found = asyncio.run(probe(host.address, host.port, "gcc"))
    assert found is not None
    assert found.compiler is not None
    assert found.compiler.family == "gcc"
    assert found.compiler.full_version.startswith(found.compiler.version)
    lacking = asyncio.run(probe(host.address, host.port, "no-such-gcc"))
    assert lacking == Found(True)


def reply(data: bytes, *, status: int = 0, errors: bytes = b"") -> bytes:
    """Return distccd's reply with an object."""
    head = b"DONE%08xSTAT%08xSERR%08x%sSOUT%08x" % (1, status, len(errors), errors, 0)
    return head + b"DOTO%08x%s" % (len(data), data)


def test_the_object_is_found_after_any_text_of_the_compiler() -> None:
    assert object_in(reply(b"abc", errors=b"DOTO00000001x")) == b"abc"
    assert object_in(reply(b"abc")[:-1]) == b"", "not the whole of it"
    assert object_in(b"DONE00000001STAT00000000") == b""
    assert found_in(reply(b"no object")) == Found(True, True)
    assert found_in(reply(b"", status=0x100)) == Found(True)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("compiler", "compiles"), [("gcc", True), ("no-such-gcc", False), ("", False)]
)
def test_a_distccd_that_runs_answers(host: DistccdHost, compiler: str, compiles: bool) -> None:
    """It answers with or without the compiler."""
    assert found(host, compiler) == Found(True, compiles)


@pytest.mark.e2e
@pytest.mark.parametrize("compiler", ["gcc", ""])
def test_a_distccd_that_is_stopped_does_not_answer(
    host: DistccdHost, compiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(host, "gcc") == Found(True, True), "all its processes have begun"
    monkeypatch.setattr(probe_module, "PROBE_WITHIN_S", 0.3)
    host.stop()
    assert found(host, compiler) == Found(False)
    host.resume()


@pytest.mark.e2e
def test_a_host_that_swallows_compiles_does_not_answer(
    host: DistccdHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts a connection, and closes it after us. Only a compile shows that none ends."""
    monkeypatch.setattr(probe_module, "PROBE_WITHIN_S", 0.3)
    host.hold_probes_too()
    assert found(host, "gcc") == Found(False)
    host.open_gate()
    monkeypatch.undo()
    assert found(host, "gcc") == Found(True, True)


def test_a_port_that_does_not_listen_does_not_answer() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert asyncio.run(probe("127.0.0.1", bound.getsockname()[1], "gcc")) == Found(False)


def test_an_endless_reply_is_an_answer() -> None:
    async def talk() -> Found | None:
        async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    writer.write(bytes(65536))
                    await writer.drain()
            except OSError:
                writer.close()

        async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
            return await probe("127.0.0.1", server.sockets[0].getsockname()[1], "gcc")

    assert asyncio.run(talk()) == Found(True)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(errno.EMFILE, None), (errno.ENFILE, None), (errno.ECONNREFUSED, Found(False))],
)
def test_a_probe_without_a_descriptor_blames_no_host(
    monkeypatch: pytest.MonkeyPatch, failure: int, expected: Found | None
) -> None:
    async def fail(*_: object) -> None:
        raise OSError(failure, "")

    monkeypatch.setattr(asyncio, "open_connection", fail)
    assert asyncio.run(probe("127.0.0.1", 4001, "gcc")) == expected
