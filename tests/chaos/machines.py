"""The machines of a run: network namespaces with cables, or loopback addresses."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

CLONE_NEWNET = 0x40000000


class Machine:
    """A machine that is a loopback address."""

    can_be_cut = False

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Start processes and connections on this machine while the block runs."""
        yield

    def cut(self) -> None:
        """Pull its cable."""
        raise NotImplementedError

    def mend(self) -> None:
        """Plug its cable in again."""
        raise NotImplementedError


class Namespace(Machine):
    """A machine that is a network namespace, on the bridge of a `Switch`."""

    can_be_cut = True

    def __init__(self, name: str, address: str, switch: str, number: int) -> None:
        super().__init__(name, address)
        self.namespace = f"{switch}-{number}"
        self._switch = switch
        self._port = f"port{number}"
        ip("netns", "add", self.namespace)
        ip("-n", switch, "link", "add", self._port, "type", "veth", "peer", "name", "eth0",
           "netns", self.namespace)  # fmt: skip
        ip("-n", switch, "link", "set", self._port, "master", "bridge", "up")
        ip("-n", self.namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", self.namespace, "link", "set", "lo", "up")
        ip("-n", self.namespace, "link", "set", "eth0", "up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        with Path("/proc/thread-self/ns/net").open("rb") as ours:
            with Path("/run/netns", self.namespace).open("rb") as its:
                _set_namespace(its)
            try:
                yield
            finally:
                _set_namespace(ours)

    def cut(self) -> None:
        ip("-n", self._switch, "link", "set", self._port, "down")

    def mend(self) -> None:
        ip("-n", self._switch, "link", "set", self._port, "up")


def ip(*words: str) -> None:
    """Run ip; raises `CalledProcessError`."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _set_namespace(namespace: IO[bytes]) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def machines(names: Sequence[str]) -> Iterator[dict[str, Machine]]:
    """Make machines with these names, and remove them after the block."""
    switch = f"chaos{os.getpid()}"
    try:
        ip("netns", "add", switch)
    except (OSError, subprocess.CalledProcessError):
        yield {name: Machine(name, f"127.0.7.{n}") for n, name in enumerate(names, 1)}
        return
    made = [switch]
    try:
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        found: dict[str, Machine] = {}
        for number, name in enumerate(names, 1):
            made.append(f"{switch}-{number}")
            found[name] = Namespace(name, f"10.77.0.{number}", switch, number)
        yield found
    finally:
        for namespace in made:
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
