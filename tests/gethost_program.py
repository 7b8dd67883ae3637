"""What gethost's tests stand on: the program, a place for it to run in, a server to be scripted.

Everything that a test starts ends with it. The environment of each gethost names the test's own
directories, and what still runs at the end is killed by its id.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import unquote

SOURCES = Path(__file__).parent.parent / "src" / "gethost"
PATIENCE_S = 20.0


def builder_cpus() -> int:
    """Return how many CPUs gethost sees here."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


LEASE = "lease id=7 host=desk1 address=192.0.2.7 port=4001 slots=3"
CPUS = builder_cpus()
LOCAL = f"localhost/{CPUS} "
SHOW_HOSTS = 'echo "$DISTCC_HOSTS"'


def gethost_under_test(directory: Path) -> Path:
    """Return $GETHOST_SANITIZED, or gethost compiled into the directory, if it is not there yet."""
    if given := os.environ.get("GETHOST_SANITIZED"):
        return Path(given).resolve()
    program = directory / "gethost"
    if not program.exists():
        with contextlib.suppress(subprocess.CalledProcessError):  # not every compiler has them
            _compile(program, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
            subprocess.run([program, "--version"], check=True, capture_output=True)
            return program
        _compile(program)
    return program


def _compile(program: Path, *flags: str) -> None:
    strict = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
    version = '-DGETHOST_VERSION="0.0.0"'
    sources = map(str, SOURCES.glob("*.c"))
    subprocess.run(
        ["cc", *strict, *flags, version, "-o", str(program), *sources],
        check=True,
        capture_output=True,
    )


class Connection:
    """One connection of a gethost, seen from the server's side."""

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(PATIENCE_S)
        self.socket = connected
        self._lines = connected.makefile("rb")

    def receive(self, verb: str) -> dict[str, str]:
        """Return the words of the next line, which has this verb."""
        line = self.receive_any()
        assert line is not None, f"{verb} was due, and the connection ended"
        assert line[0] == verb
        return line[1]

    def receive_any(self) -> tuple[str, dict[str, str]] | None:
        """Return the verb and the words of the next line; None at the end."""
        line = self._lines.readline().decode()
        if not line:
            return None
        verb, *words = line.rstrip("\n").split(" ")
        pairs = (word.split("=", 1) for word in words)
        return verb, {key: unquote(value) for key, value in pairs}

    def send(self, *lines: str) -> None:
        for line in lines:
            self.send_bytes(line.encode() + b"\n")

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(data)

    def at_end(self) -> bool:
        """Wait for what comes next, and say whether it is the end, clean or not."""
        try:
            return self._lines.readline() == b""
        except ConnectionResetError:  # it died with something unread
            return True

    def end(self) -> None:
        """Say no more. What gethost says from now on may be lost, so it is not read."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


class Server:
    """A listening socket, and the connections that were accepted on it."""

    def __init__(self, port: int = 0) -> None:
        self._socket = socket.create_server(("127.0.0.1", port), backlog=128)
        self._socket.settimeout(PATIENCE_S)
        self._accepted: list[Connection] = []
        self.port: int = self._socket.getsockname()[1]
        self.name = f"127.0.0.1:{self.port}"

    def accept(self) -> Connection:
        connection = Connection(self._socket.accept()[0])
        self._accepted.append(connection)
        return connection

    def nobody_came(self) -> bool:
        """Whether no connection waits: to be asked when every gethost in question has ended."""
        self._socket.settimeout(0)
        try:
            self._accepted.append(Connection(self._socket.accept()[0]))
        except BlockingIOError:
            return True
        finally:
            self._socket.settimeout(PATIENCE_S)
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.go_away()

    def go_away(self) -> None:
        """Close everything, as the kernel does for a server that was killed."""
        self._socket.close()
        for connection in self._accepted:
            connection.close()


class Gethost:
    """Runs gethost in a directory and an environment of its own."""

    def __init__(self, path: Path, directory: Path, servers: str) -> None:
        self.path = path
        self.directory = directory
        self._bin = directory / "bin"
        self._runtime = directory / "runtime"
        self._started: list[subprocess.Popen[str]] = []
        for made in [self._bin, self._runtime, directory / "distcc-dir" / "lock"]:
            made.mkdir(parents=True)
        self.environment = {
            "PATH": f"{self._bin}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(directory),
            "XDG_RUNTIME_DIR": str(self._runtime),
            "DISTCC_DIR": str(directory / "distcc-dir"),
            "HOST_SERVER": servers,
            # The machine's own would let tests that run at the same time wait for one another.
            "GETHOST_LOCK_FILE": str(directory / "cpus"),
        }

    def program(self, name: str, script: str) -> None:
        """Put a shell script of that name on PATH."""
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def compiler(self, name: str, script: str) -> None:
        """Put a program of that name on PATH that runs a script. gethost asks no script for its id.

        The script has to answer as a compiler does.
        """
        self.program(f"{name}-script", script)
        source = self._bin / f"{name}.c"
        path = self._bin / f"{name}-script"
        source.write_text(
            "#include <unistd.h>\n"
            "int main(int count, char **words)\n"
            f'{{ (void)count; execv(words[0] = "{path}", words); return 127; }}\n'
        )
        subprocess.run(["cc", "-o", self._bin / name, source], check=True, capture_output=True)

    def forget(self) -> None:
        """Remove what gethost remembers between runs."""
        shutil.rmtree(self._runtime)
        self._runtime.mkdir()

    def away_markers(self) -> list[Path]:
        """Return the files by which it remembers that servers are away."""
        return list((self._runtime / "compilefarm").glob("away-*"))

    def start(
        self,
        *words: str,
        pass_fds: Sequence[int] = (),
        preexec_fn: Callable[[], object] | None = None,
        **environment: str,
    ) -> subprocess.Popen[str]:
        return self._popen(words, environment, pass_fds, preexec_fn)

    def _popen(
        self,
        words: Sequence[str],
        environment: dict[str, str],
        pass_fds: Sequence[int] = (),
        preexec_fn: Callable[[], object] | None = None,
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [self.path, *words],
            cwd=self.directory,
            env=self.environment | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            preexec_fn=preexec_fn,
            text=True,
        )
        self._started.append(process)
        return process

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self._popen(words, environment)
        output, errors = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(words, process.returncode, output, errors)

    def first_line(self, process: subprocess.Popen[str]) -> str:
        """Wait for a line from the command: it is running."""
        assert process.stdout
        return process.stdout.readline()

    def type_line(self, process: subprocess.Popen[str], text: str) -> None:
        assert process.stdin
        process.stdin.write(text + "\n")
        process.stdin.flush()

    def wait_for_child(self, process: subprocess.Popen[str], name: str) -> None:
        """Wait until gethost's child is the program of that name."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            for status in Path("/proc").glob("[0-9]*/stat"):
                with contextlib.suppress(OSError):
                    text = status.read_text()
                    if f"({name})" in text and text.rpartition(")")[2].split()[1] == str(
                        process.pid
                    ):
                        return
            os.sched_yield()
        raise AssertionError(f"gethost did not start {name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    with contextlib.suppress(OSError):
                        stream.close()


def leased(gethost: Gethost, server: Server, *command: str) -> tuple[Connection, str]:
    """Run the command with a lease; return the connection and what the command printed."""
    process = gethost.start(*command)
    connection = server.accept()
    connection.receive("request")
    connection.send(LEASE)
    output, _ = process.communicate(timeout=PATIENCE_S)
    return connection, output
