"""gethost and backups with the real distcc, and two real distccd as hosts.

No test may leave a process or a temporary file behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from distccd_program import Distccd
from gethost_backups import NamedPipe, eventually
from gethost_program import PATIENCE_S, Gethost, Server

# ---- the real distcc -----------------------------------------------------------------------------

REAL_COMPILE = (
    *("distcc", "gcc", "-O2", "-g", "-Wall", "-c", "real.c", "-o", "real.o"),
    *("-MD", "-MP", "-MF", "real.d", "-MT", "real.o"),
)
REAL_SOURCE = """#include "real.h"
#include <stdio.h>
int real(void) { int unused; return printf("%d\\n", REAL); }
"""


def lease_of(host: Distccd, verb: str = "lease", number: int = 1) -> str:
    name = f"{host.address}:{host.port}"
    return f"{verb} id={number} host={name} address={host.address} port={host.port} slots=4"


@pytest.fixture
def builder(gethost_path: Path, server: Server, tmp_path: Path) -> Iterator[Gethost]:
    with Gethost(gethost_path, tmp_path / "builder", server.name) as gethost:
        (gethost.directory / "real.c").write_text(REAL_SOURCE)
        (gethost.directory / "real.h").write_text("#define REAL 4\n")
        yield gethost


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Distccd, Distccd]]:
    with Distccd(tmp_path, 2) as first, Distccd(tmp_path, 3) as second:
        yield first, second


def backup_has_begun(gethost: Gethost) -> bool:
    """Whether its preprocessor is done: the dependencies are written at its end."""
    return any(path.stat().st_size for path in gethost.directory.glob("real.d.backup-*"))


@pytest.mark.e2e
@pytest.mark.slow
def test_a_real_backup_gives_what_a_lone_compile_gives(
    builder: Gethost, server: Server, hosts: tuple[Distccd, Distccd]
) -> None:
    mute, good = hosts
    process = builder.start(*REAL_COMPILE)
    connection = server.accept()
    connection.send(lease_of(good))
    lone_errors = process.communicate(timeout=PATIENCE_S)[1]
    assert lone_errors.count("unused variable") == 1
    written = ("real.o", "real.d")
    lone = [(builder.directory / name).read_bytes() for name in written]
    assert lone[1].startswith(b"real.o: real.c ")
    assert lone[1].endswith(b"real.h:\n") or b"\nreal.h:\n" in lone[1]
    for name in written:
        (builder.directory / name).unlink()

    mute.signal(signal.SIGSTOP)
    process = builder.start(*REAL_COMPILE)
    connection = server.accept()
    connection.receive("request")
    connection.send(lease_of(mute))
    builder.wait_for_child(process, "distcc")
    connection.send(lease_of(good, "backup", 2))
    done = connection.receive("done")
    assert (done["exit"], done["id"]) == ("0", "2")
    assert process.communicate(timeout=PATIENCE_S) == ("", lone_errors)
    assert process.returncode == 0
    assert [(builder.directory / name).read_bytes() for name in written] == lone
    assert list(builder.directory.glob("*.backup-*")) == []


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("end", ["first", "drop", "signal"])
def test_a_real_backup_that_is_ended_leaves_nothing(
    builder: Gethost, server: Server, hosts: tuple[Distccd, Distccd], tmp_path: Path, end: str
) -> None:
    for host in hosts:
        host.signal(signal.SIGSTOP)
    held_by_children, held = os.pipe()
    process = builder.start(*REAL_COMPILE, pass_fds=[held], TMPDIR=str(tmp_path))
    os.close(held)
    connection = server.accept()
    connection.receive("request")
    connection.send(lease_of(hosts[0]))
    builder.wait_for_child(process, "distcc")
    connection.send(lease_of(hosts[1], "backup", 2))
    eventually(lambda: backup_has_begun(builder))
    if end == "signal":
        process.terminate()
    elif end == "drop":
        connection.send("drop id=2 reason=x")
        eventually(lambda: not list(builder.directory.glob("*.backup-*")))
    if end != "signal":
        hosts[0].signal(signal.SIGCONT)
        done = connection.receive("done")
        assert (done["exit"], "id" in done) == ("0", False)
    errors = process.communicate(timeout=PATIENCE_S)[1]
    with os.fdopen(held_by_children) as held_by_nobody:
        assert held_by_nobody.read() == ""
    assert process.returncode == (-signal.SIGTERM if end == "signal" else 0)
    assert errors.count("unused variable") == (end != "signal")
    assert list(builder.directory.glob("*.backup-*")) == []


@pytest.mark.e2e
@pytest.mark.slow
def test_a_real_backup_that_is_ended_takes_its_preprocessor_with_it(
    builder: Gethost, server: Server, hosts: tuple[Distccd, Distccd]
) -> None:
    """The second of two preprocessors never ends by itself."""
    for host in hosts:
        host.signal(signal.SIGSTOP)
    builder.compiler(
        "slow-cc",
        'case "$*" in *real.d.backup-*) echo begun > says; read x < never;; esac; exec gcc "$@"',
    )
    says, never = (NamedPipe(builder.directory / name) for name in ("says", "never"))
    held_by_children, held = os.pipe()
    with contextlib.closing(says), contextlib.closing(never):
        process = builder.start("distcc", "slow-cc", *REAL_COMPILE[2:], pass_fds=[held])
        os.close(held)
        connection = server.accept()
        connection.receive("request")
        connection.send(lease_of(hosts[0]))
        builder.wait_for_child(process, "distcc")
        connection.send(lease_of(hosts[1], "backup", 2))
        assert says.read_line() == "begun"
        process.terminate()
        with os.fdopen(held_by_children) as held_by_nobody:
            assert held_by_nobody.read() == ""
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGTERM
    assert list(builder.directory.glob("*.backup-*")) == []
