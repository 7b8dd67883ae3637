"""Compilers for a host under test, fake or real, and what the host tells its server about them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from run_program import PATIENCE_S
from scripted_server import ScriptedServer

from compilefarm.protocol.wire import Message, format_line

FAKE_GETHOST = Path(__file__).parent / "fake_gethost.py"
KNOWS_IDS = {"load": [format_line("ok", compiler_ids="yes")]}


def fake_gethost(directory: Path) -> Path:
    """Put a gethost that identifies fake compilers into a directory."""
    directory.mkdir(exist_ok=True)
    script = directory / "gethost"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{FAKE_GETHOST}" "$@"\n')
    script.chmod(0o755)
    return script


def install(path: Path, contents: str = "compiler 1") -> Path:
    """Install a fake compiler, or copy another over it."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(contents)
    path.chmod(0o755)
    return path


def install_variant(path: Path, number: int, compiler: str = "gcc") -> Path:
    """Install a real compiler whose driver has an id of its own, by rename as packages do it."""
    real = shutil.which(compiler)
    assert real is not None
    new = path.with_suffix(".new")
    driver_file = Path(real).resolve()
    subprocess.run(["objcopy", "--remove-section=.note.gnu.build-id", driver_file, new], check=True)
    with new.open("ab") as driver:
        driver.write(f"variant {number}".encode())
    new.chmod(0o755)
    return new.replace(path)


class HostList:
    """The list of compilers that a server has of one host."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server
        self.compilers: list[Message] = []

    def next(self) -> set[str]:
        """Wait for the next list; return its doors."""
        came: list[Message] = []
        while True:
            message = self._server.receives_any()
            if message.verb == "compiler":
                came.append(message)
            if message.verb == "compilers":
                assert message.integer("count", -1) == len(came)
                self.compilers = came
                return self.doors

    @property
    def doors(self) -> set[str]:
        """The doors in the latest list."""
        return {f"{each.text('name')}-{each.text('id')}" for each in self.compilers}

    def until(self, count: int) -> set[str]:
        """Wait for a list of this length; return its doors."""
        deadline_s = time.monotonic() + PATIENCE_S
        while len(self.next()) != count:
            assert time.monotonic() < deadline_s, self.doors
        return self.doors


def list_in(folder: Path) -> dict[str, str]:
    """Return the list for distccd: the program that each name runs."""
    lines = (folder / "list").read_text().splitlines()
    return {line.rpartition("/")[2]: os.path.realpath(line) for line in reversed(lines)}
