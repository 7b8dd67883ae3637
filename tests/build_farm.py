"""A farm for real builds: host-server, two distccd hosts, and a builder with make and gethost."""

from __future__ import annotations

import contextlib
import csv
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
from farm_processes import DistccdHost, HostServer
from gethost_program import Gethost
from proc_directory import ProcDirectory
from run_program import eventually, running

BUILD_WITHIN_S = 100.0
COMPILE = ("distcc", "gcc", "-O1", "-c", "main.c", "-o", "main.o")
WARNING_AND_ERROR = "#warning seen once\nint f(void) { return nothing; }\n"


class Farm:
    """host-server with a record, a fast host, a slow host, and a builder with a source file."""

    def __init__(self, path: Path, gethost: Path, *options: str, slots: int = 2) -> None:
        self._record = path / "record.csv"
        # Hosts without an agent are probed when a compiler is first wanted, and the first one to
        # answer would have the first compile. These tests are about the fastest one.
        any_compiler = ("--compilers", "any")
        self.server = HostServer(path, "--record", self._record, *any_compiler, *options)
        self.fast = DistccdHost("127.0.0.2", slots)
        self.slow = DistccdHost("127.0.0.3", slots)
        self.directory = path / "builder"
        self._gethost = gethost
        self.builder: Gethost
        self._started: list[subprocess.Popen[str]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[Farm]:
        """Run the farm while the block runs."""
        with self.server, self.fast, self.slow:
            self.add_hosts()
            with Gethost(self._gethost, self.directory, self.server.name) as self.builder:
                (self.directory / "bin" / "gethost").symlink_to(self._gethost)
                self.write("main.c", "int main(void) { return 0; }\n")
                try:
                    yield self
                finally:
                    for process in self._started:
                        with process:
                            process.kill()

    def add_hosts(self) -> None:
        """Add both hosts; a compile goes to the fast one while it has a free slot."""
        self.fast.add_to(self.server, power_index=9.0)
        self.slow.add_to(self.server)

    def write(self, name: str, text: str) -> None:
        """Write a file in the builder's directory."""
        (self.directory / name).write_text(text)

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """Start gethost with these arguments."""
        return self.start_build("gethost", *words, **environment)

    def compile(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run gethost with these arguments, by default with the usual compile."""
        return finished(self.start(*(words or COMPILE), **environment))

    def build(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run another program in the builder's directory, with gethost on PATH."""
        return finished(self.start_build(*command, **environment))

    def start_build(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start another program in the builder's directory, with gethost on PATH."""
        process = subprocess.Popen(
            command,
            cwd=self.directory,
            env=self.builder.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def rows(self) -> list[tuple[str, str]]:
        """Return the host and the ending of each compile, in the order in which they ended.

        Dropped attempts are left out, because another attempt at the same compile went on.
        """
        return [row for row in self.attempts() if row[1] != "dropped"]

    def attempts(self) -> list[tuple[str, str]]:
        """Return the host and the ending of each attempt at a compile, as they ended.

        gethost ends without waiting for the server. So once all have ended, wait until the server
        knows it.
        """
        if all(process.poll() is not None for process in self._started):
            eventually(lambda: self.server.farm()["totals"]["slots_in_use"] == 0)
        with self._record.open(newline="") as file:
            return [(row["host"], row["ending"]) for row in csv.DictReader(file)]

    def state(self, host: DistccdHost) -> str:
        """Return a host's state."""
        return str(self.server.host(host.name).get("state"))


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a process to end; return its status and output."""
    output, errors = process.communicate(timeout=BUILD_WITHIN_S)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def went_well(result: subprocess.CompletedProcess[str]) -> bool:
    """Assert that a compile succeeded without output; return True."""
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    return True


def local_object(farm: Farm, source: str = "main.c") -> bytes:
    """Return the object file of a compile without a farm."""
    output = farm.directory / "local.o"
    command = ["gcc", "-O1", "-c", source, "-o", str(output)]
    subprocess.run(command, cwd=farm.directory, check=True)
    return output.read_bytes()


def project(farm: Farm, files: int) -> None:
    """Write a Makefile and a program that adds up the results of `files` source files."""
    for number in range(files):
        farm.write(
            f"f{number}.c",
            f'#include "all.h"\nint f{number}(int x) {{\n    int y = {number};\n'
            "    for (int i = 0; i < x; i++)\n        y ^= i * y + table[y & 3];\n"
            "    return y;\n}\n",
        )
    names = [f"f{number}" for number in range(files)]
    declarations = "".join(f"int {name}(int);\n" for name in names)
    farm.write(
        "all.h", f"#include <stdio.h>\nstatic const int table[] = {{1, 2, 3, 4}};\n{declarations}"
    )
    calls = "".join(f"    sum += {name}(7);\n" for name in names)
    farm.write(
        "main.c",
        '#include "all.h"\nint main(void) {\n    int sum = table[0];\n'
        f'{calls}    printf("%d\\n", sum);\n    return 0;\n}}\n',
    )
    objects = " ".join(f"$(OUT)/{name}.o" for name in [*names, "main"])
    farm.write(
        "Makefile",
        f"OUT = farm\nCFLAGS = -O1\n$(OUT)/program: {objects}\n\t$(CC) $^ -o $@\n"
        "$(OUT)/%.o: %.c all.h | $(OUT)\n\t$(CC) $(CFLAGS) -c $< -o $@\n$(OUT):\n\tmkdir -p $@\n",
    )


def objects_are_as_local(farm: Farm) -> bool:
    """Build the project without a farm, and compare every object file and the program."""
    jobs = f"-j{os.cpu_count()}"
    assert farm.build("make", "-s", jobs, "CC=gcc", "OUT=local").returncode == 0
    local = {path.name: path.read_bytes() for path in (farm.directory / "local").iterdir()}
    made = {path.name: path.read_bytes() for path in (farm.directory / "farm").iterdir()}
    assert local.keys() == made.keys()
    assert not [name for name in local if local[name] != made[name]]
    return True


class QuietProc(ProcDirectory):
    """A /proc with one process tree, so that its machine has no foreign load."""

    def __init__(self, path: Path, root_pid: int) -> None:
        path.mkdir()
        super().__init__(path)
        self._root = psutil.Process(root_pid)
        self._ended = threading.Event()
        self._follow()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            self._follow()

    def _follow(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            now = {self._root.pid, *(each.pid for each in self._root.children(recursive=True))}
            there = {int(entry.name) for entry in self.path.iterdir() if entry.name.isdigit()}
            for pid in there - now:
                (self.path / str(pid)).unlink()
            for pid in now - there:
                (self.path / str(pid)).symlink_to(f"/proc/{pid}")

    def __enter__(self) -> Path:
        self._thread.start()
        return self.path

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@contextlib.contextmanager
def reporting(farm: Farm, host: DistccdHost, servers: str, power_index: float) -> Iterator[None]:
    """Let a host register and report, as enable-host does, while the block runs."""
    where = ["--server", servers, "--host", host.name, "--register", "--slots", host.slots]
    with (
        QuietProc(farm.directory / f"proc-{host.address}", host.pid) as procfs,
        running("loadavg", *where, "--power-index", power_index, "--procfs", procfs,
                "--distccd-pid", host.pid),
    ):  # fmt: skip
        yield
