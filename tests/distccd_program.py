"""Real distccd hosts on loopback addresses, and a scripted host-server that leases them."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import queue
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Self

from gethost_program import PATIENCE_S, Connection, Server

SLOTS = 4


class Distccd:
    """A distccd on a loopback address of its own."""

    def __init__(self, directory: Path, number: int) -> None:
        self.address = f"127.0.0.{number}"
        log = directory / f"distccd-{number}.log"
        log.touch()
        if os.geteuid() == 0:  # distccd drops to this user, and then opens its log
            with contextlib.suppress(KeyError):
                os.chown(log, pwd.getpwnam("distccd").pw_uid, -1)
            for above in [directory, *directory.parents][:3]:
                above.chmod(above.stat().st_mode | 0o011)
        command = ["distccd", "--no-detach", "--daemon", "--allow", "127.0.0.0/8"]
        command += ["--listen", self.address, "--jobs", str(SLOTS), "--log-file", str(log)]
        while True:  # the port was free a moment ago: another may have been quicker
            with socket.socket() as probe:
                probe.bind((self.address, 0))
                self.port: int = probe.getsockname()[1]
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            if self._answers():
                return

    def _answers(self) -> bool:
        while self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((self.address, self.port)):
                return True
        return False

    def signal(self, number: signal.Signals) -> None:
        """Signal distccd and its children, which are a session of their own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self.process.wait()


class LeaseServer(Server):
    """Leases the hosts in turn to every client, and keeps what it was told."""

    def __init__(self, *hosts: tuple[str, int]) -> None:
        super().__init__()
        self._hosts = itertools.cycle(hosts)
        self._told: queue.Queue[str] = queue.Queue()
        self._leases: list[threading.Thread] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                thread = threading.Thread(target=self._lease, args=[self.accept()], daemon=True)
                self._leases.append(thread)
                thread.start()

    def _lease(self, connection: Connection) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := connection.receive_any():
                verb, words = line
                self._told.put(verb)
                if verb == "request":
                    avoided = words.get("avoid", "").split(",")
                    names = (f"{address}:{port}" for address, port in self._hosts)
                    name = next(name for name in names if name not in avoided)
                    address, _, port = name.partition(":")
                    connection.send(
                        f"lease id=1 host={name} address={address} port={port} slots={SLOTS}"
                    )
            connection.end()

    def summary(self) -> dict[str, int]:
        """How often each verb was heard since the last time, from those who have ended."""
        # Who came before this was accepted before this, and has nothing more to say.
        address, _, port = self.name.partition(":")
        with socket.create_connection((address, int(port)), PATIENCE_S) as last:
            last.shutdown(socket.SHUT_WR)
            assert last.recv(1) == b""
        while self._leases:
            self._leases.pop().join(PATIENCE_S)
        counts: dict[str, int] = {}
        with contextlib.suppress(queue.Empty):
            while True:
                verb = self._told.get_nowait()
                counts[verb] = counts.get(verb, 0) + 1
        return counts


def unused_port(address: str) -> int:
    """Return a port on which no program listens."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
