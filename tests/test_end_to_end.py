"""Real builds: make, gethost, distcc, host-server and distccd, each as it is installed.

What is asserted is what a user sees (exit status, text, object files) and what the farm's record
says of it. Compiles are held in the middle by a gate before the compiler of a host, so that
whatever happens to a host or to the server happens during a compile, each time. The stories of
single compiles are played under the 2004 rule, which alone says beforehand who gets which host;
the builds that have no story run under the server's own choice.
"""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from farm_processes import REQUESTS, DistccdHost, HostServer
from gethost_program import Gethost
from proc_directory import ProcDirectory
from run_program import eventually, free_ports, running

pytestmark = pytest.mark.e2e

BUILD_WITHIN_S = 100.0
COMPILE = ("distcc", "gcc", "-O1", "-c", "main.c", "-o", "main.o")
WARNING_AND_ERROR = "#warning seen once\nint f(void) { return nothing; }\n"


class Farm:
    """host-server with a record, a fast host, a slow one, and a builder with a source file."""

    def __init__(self, path: Path, gethost: Path, *options: str, slots: int = 2) -> None:
        self._record = path / "record.csv"
        self.server = HostServer(path, "--record", self._record, *options)
        self.fast = DistccdHost("127.0.0.2", slots)
        self.slow = DistccdHost("127.0.0.3", slots)
        self.directory = path / "builder"
        self._gethost = gethost
        self.builder: Gethost
        self._started: list[subprocess.Popen[str]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[Farm]:
        """Run it for as long as the block does."""
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
        """Make both hosts available; compiles go to the fast one while it has a free slot."""
        self.fast.add_to(self.server, power_index=9.0)
        self.slow.add_to(self.server)

    def write(self, name: str, text: str) -> None:
        """Write a file where the builder works."""
        (self.directory / name).write_text(text)

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """Start gethost with these words."""
        return self.start_build("gethost", *words, **environment)

    def compile(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run gethost with these words, or else with the usual compile."""
        return finished(self.start(*(words or COMPILE), **environment))

    def build(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run another program, which finds gethost on PATH, where the builder works."""
        return finished(self.start_build(*command, **environment))

    def start_build(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start another program, which finds gethost on PATH, where the builder works."""
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

        Attempts that were dropped are left out: another one at the same compile went on.
        """
        return [row for row in self.attempts() if row[1] != "dropped"]

    def attempts(self) -> list[tuple[str, str]]:
        """Return the host and the ending of each attempt at a compile, as they ended.

        A gethost ends without waiting for the server to have heard of it; where all have ended, the
        server has.
        """
        if all(process.poll() is not None for process in self._started):
            eventually(lambda: self.server.farm()["totals"]["slots_in_use"] == 0)
        with self._record.open(newline="") as file:
            return [(row["host"], row["ending"]) for row in csv.DictReader(file)]

    def state(self, host: DistccdHost) -> str:
        """Return a host's state."""
        return str(self.server.host(host.name).get("state"))


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a process; return its status and what it wrote."""
    output, errors = process.communicate(timeout=BUILD_WITHIN_S)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def went_well(result: subprocess.CompletedProcess[str]) -> bool:
    """Whether a compile ended well, and without a word."""
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    return True


@pytest.fixture
def farm(tmp_path: Path, gethost_path: Path) -> Iterator[Farm]:
    with Farm(tmp_path, gethost_path, "--policy", "tier").running() as farm:
        yield farm


@pytest.fixture
def default_farm(tmp_path: Path, gethost_path: Path) -> Iterator[Farm]:
    with Farm(tmp_path, gethost_path).running() as farm:
        yield farm


def local_object(farm: Farm, source: str = "main.c") -> bytes:
    """Return the object file that a compile without any farm makes."""
    output = farm.directory / "local.o"
    command = ["gcc", "-O1", "-c", source, "-o", str(output)]
    subprocess.run(command, cwd=farm.directory, check=True)
    return output.read_bytes()


# -- one compile


def test_a_compile_runs_on_the_fastest_host(farm: Farm) -> None:
    assert went_well(farm.compile())
    assert (farm.directory / "main.o").read_bytes() == local_object(farm)
    assert farm.rows() == [(farm.fast.name, "done")]
    assert "main.c" in farm.fast.log.read_text()


def test_an_error_in_the_source_comes_once_and_blames_no_host(farm: Farm) -> None:
    farm.write("main.c", WARNING_AND_ERROR)
    local = farm.build("gcc", "-O1", "-c", "main.c").stderr
    for _ in range(3):
        result = farm.compile()
        assert result.returncode == 1
        for words in ("seen once", "undeclared"):
            assert result.stderr.count(words) == local.count(words), result.stderr
    assert farm.rows() == [(farm.fast.name, "done")] * 3
    assert farm.state(farm.fast) == "up"
    assert farm.server.host(farm.fast.name)["failures"] == 0


def test_what_distcc_runs_here_takes_no_lease(farm: Farm) -> None:
    assert farm.compile("distcc", "gcc", "-E", "main.c").stdout
    assert went_well(farm.compile("distcc", "gcc", "main.c", "-o", "main"))
    assert went_well(farm.compile("distcc", "gcc", "-march=native", "-c", "main.c"))
    assert farm.compile("distcc", "--version").returncode == 0
    assert farm.compile("distcc", "gcc", "-c", "missing.c").returncode == 1
    assert farm.server.farm()["totals"]["leases_granted"] <= 1  # the missing source's
    assert farm.compile("does-not-exist").returncode == 127


def test_the_users_own_distcc_settings_are_kept(farm: Farm) -> None:
    own = {"DISTCC_IO_TIMEOUT": "77", "DISTCC_PAUSE_TIME_MSEC": "55", "DISTCC_SSH": "x"}
    text = farm.compile("env", **own, DISTCC_HOSTS="elsewhere").stdout.splitlines()
    assert {f"{name}={value}" for name, value in own.items()} <= set(text)
    [hosts] = [line for line in text if line.startswith("DISTCC_HOSTS=")]
    assert f"={farm.fast.name}/2 " in hosts
    log = farm.directory / "distcc.log"
    assert went_well(farm.compile(DISTCC_LOG=str(log), DISTCC_VERBOSE="1"))
    assert farm.fast.address in log.read_text()


# -- hosts fail


def test_a_dead_host_is_replaced_and_comes_back(farm: Farm) -> None:
    farm.fast.kill()
    assert went_well(farm.compile())
    assert farm.rows() == [(farm.fast.name, "failed"), (farm.slow.name, "done")]
    assert eventually(lambda: farm.state(farm.fast) == "quarantined")
    assert went_well(farm.compile())
    assert farm.rows()[2:] == [(farm.slow.name, "done")]
    farm.fast.start()
    farm.fast.add_to(farm.server, power_index=9.0)
    assert went_well(farm.compile())
    assert farm.rows()[3:] == [(farm.fast.name, "done")]


def test_a_host_killed_during_a_compile(farm: Farm) -> None:
    farm.fast.close_gate()
    compiling = farm.start(*COMPILE)
    farm.fast.await_compiles()
    farm.fast.kill()
    assert went_well(finished(compiling))
    assert farm.rows() == [(farm.fast.name, "failed"), (farm.slow.name, "done")]


def test_with_all_hosts_dead_the_compile_is_local(farm: Farm) -> None:
    farm.fast.kill()
    farm.slow.kill()
    for _ in range(3):
        assert farm.compile().returncode == 0
        assert (farm.directory / "main.o").read_bytes() == local_object(farm)
    assert farm.rows() == [(farm.fast.name, "failed"), (farm.slow.name, "failed")]


def test_without_hosts_the_compile_is_local(farm: Farm) -> None:
    for host in (farm.fast, farm.slow):
        farm.server.ask(f"remove host={host.address} port={host.port}")
    assert "no host is available" in farm.compile().stderr
    assert went_well(farm.compile())
    assert farm.rows() == []


@pytest.mark.slow
def test_a_mute_host_whose_load_is_reported(farm: Farm) -> None:
    """The kernel accepts for a distccd that is stopped; its load reporter sees that it is.

    The reporter sees a /proc with distccd's processes and nothing else: what else this machine does
    would be foreign load.
    """
    where = ["--server", farm.server.name, "--host", farm.fast.name]
    quiet = ProcDirectory(farm.directory / "proc")
    for pid in farm.fast.pids():
        (quiet.path / str(pid)).symlink_to(f"/proc/{pid}")
    which = ["--procfs", quiet.path, "--distccd-pid", farm.fast.pid]
    with running("loadavg", *where, *which):
        eventually(lambda: farm.server.host(farm.fast.name).get("load"))
        farm.fast.close_gate()
        compiling = farm.start(*COMPILE)
        farm.fast.await_compiles()
        farm.fast.stop()
        eventually(lambda: farm.state(farm.fast) == "mute")
        assert went_well(farm.compile("distcc", "gcc", "-c", "main.c", "-o", "other.o"))
        assert went_well(finished(compiling))
        assert farm.rows() == [
            (farm.slow.name, "done"),
            (farm.fast.name, "revoked"),
            (farm.slow.name, "done"),
        ]
        farm.fast.open_gate()
        farm.fast.go_on()
        eventually(lambda: farm.state(farm.fast) == "up")
        assert went_well(farm.compile())
        assert farm.rows()[3:] == [(farm.fast.name, "done")]


@pytest.mark.slow
def test_a_mute_host_of_which_nothing_is_known(farm: Farm) -> None:
    """Its compiles take far too long for this farm, and it closes no connection: it is mute."""
    assert went_well(farm.compile())
    farm.fast.stop()
    assert went_well(farm.compile())
    assert farm.rows()[1:] == [(farm.fast.name, "revoked"), (farm.slow.name, "done")]
    farm.fast.go_on()
    eventually(lambda: farm.state(farm.fast) == "up", patience_s=60)
    assert went_well(farm.compile())
    assert farm.rows()[3:] == [(farm.fast.name, "done")]


@pytest.mark.slow
def test_a_host_that_swallows_compiles(farm: Farm) -> None:
    """It takes connections, and closes them: what was expected of its compiles gives it away."""
    assert went_well(farm.compile())
    farm.fast.swallow()
    assert went_well(farm.compile())
    assert farm.rows()[1:] == [(farm.fast.name, "revoked"), (farm.slow.name, "done")]
    assert farm.state(farm.fast) == "quarantined"
    farm.fast.open_gate()
    eventually(lambda: farm.state(farm.fast) == "up", patience_s=60)
    assert went_well(farm.compile())
    assert farm.rows()[3:] == [(farm.fast.name, "done")]


@pytest.mark.slow
def test_a_slow_host_that_is_alive_keeps_its_compiles(farm: Farm) -> None:
    """Its compile runs for far longer than is usual, but a trial compile ends."""
    assert went_well(farm.compile())
    farm.fast.close_gate()
    compiling = farm.start(*COMPILE)
    farm.fast.await_compiles()
    eventually(lambda: "probe.i" in farm.fast.log.read_text(), patience_s=60)
    farm.fast.open_gate()
    assert went_well(finished(compiling))
    assert farm.rows()[1:] == [(farm.fast.name, "done")]


def test_a_host_that_leaves_lets_its_compiles_finish(farm: Farm) -> None:
    farm.fast.close_gate()
    compiling = farm.start(*COMPILE)
    farm.fast.await_compiles()
    with farm.server.connect(2) as leaving:
        leaving.say(f"drain host={farm.fast.address} port={farm.fast.port} grace_s=60")
        leaving.hears("draining")
        assert went_well(farm.compile("distcc", "gcc", "-c", "main.c", "-o", "other.o"))
        farm.fast.open_gate()
        assert leaving.hears("ok").words["leases"] == "0"
    assert went_well(finished(compiling))
    assert farm.rows() == [(farm.slow.name, "done"), (farm.fast.name, "done")]


# -- clients and servers fail


def test_a_killed_client_frees_its_slot(farm: Farm) -> None:
    farm.fast.close_gate()
    compiling = farm.start(*COMPILE)
    farm.fast.await_compiles()
    compiling.kill()
    assert finished(compiling).returncode == -signal.SIGKILL
    eventually(lambda: farm.rows() == [(farm.fast.name, "gone")])
    farm.fast.open_gate()
    assert went_well(farm.compile())


def test_an_interrupted_client_frees_its_slot(farm: Farm) -> None:
    farm.fast.close_gate()
    compiling = farm.start(*COMPILE)
    farm.fast.await_compiles()
    compiling.send_signal(signal.SIGINT)
    assert finished(compiling).returncode == -signal.SIGINT
    eventually(lambda: farm.rows() == [(farm.fast.name, "gone")])
    farm.fast.open_gate()


def test_without_a_server_the_compile_is_local(farm: Farm) -> None:
    nowhere = f"127.0.0.1:{free_ports(4)}"
    first = farm.compile(HOST_SERVER=nowhere)
    assert (first.returncode, first.stderr.count("no host-server")) == (0, 1)
    assert went_well(farm.compile(HOST_SERVER=nowhere))
    assert (farm.directory / "main.o").read_bytes() == local_object(farm)
    assert farm.rows() == []


def test_the_server_is_killed_during_a_build(farm: Farm) -> None:
    project(farm, files=12)
    farm.fast.close_gate()
    farm.slow.close_gate()
    building = farm.start_build("make", "-j8", "CC=gethost distcc gcc")
    farm.fast.await_compiles(2)
    farm.slow.await_compiles(2)
    farm.server.kill()
    farm.fast.open_gate()
    farm.slow.open_gate()
    built = finished(building)
    assert built.returncode == 0, built.stderr
    assert objects_are_as_local(farm)
    farm.server.start()
    farm.add_hosts()
    farm.builder.forget()
    assert went_well(farm.compile())


# -- builds


def project(farm: Farm, files: int) -> None:
    """Write a program of so many files, which sums up what each of them returns, and a Makefile."""
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
    """Build the project without any farm, and compare every object file, and the program."""
    jobs = f"-j{os.cpu_count()}"
    assert farm.build("make", "-s", jobs, "CC=gcc", "OUT=local").returncode == 0
    local = {path.name: path.read_bytes() for path in (farm.directory / "local").iterdir()}
    made = {path.name: path.read_bytes() for path in (farm.directory / "farm").iterdir()}
    assert local.keys() == made.keys()
    assert not [name for name in local if local[name] != made[name]]
    return True


def done_once_each(farm: Farm) -> int:
    """Return how many compiles were done; beside them there are only backups, or what had one."""
    endings = Counter(ending for _, ending in farm.attempts())
    begun = farm.server.farm()["totals"]["backups_begun"]
    assert endings.total() - endings["done"] == endings["dropped"] <= begun
    return endings["done"]


def test_make_builds_a_project_on_the_farm(default_farm: Farm) -> None:
    farm = default_farm
    project(farm, files=20)
    built = farm.build("make", "-s", "-j6", "CC=gethost distcc gcc")
    assert (built.returncode, built.stderr) == (0, "")
    assert done_once_each(farm) == 21
    assert objects_are_as_local(farm)


@pytest.mark.slow
def test_400_files_with_40_jobs(default_farm: Farm) -> None:
    farm = default_farm
    project(farm, files=400)
    built = farm.build("make", "-s", "-j40", "CC=gethost distcc gcc")
    assert (built.returncode, built.stderr) == (0, "")
    assert done_once_each(farm) == 401
    totals = farm.server.farm()["totals"]
    assert (totals["slots_in_use"], totals["requests_waiting"]) == (0, 0)
    assert objects_are_as_local(farm)


@pytest.mark.slow
def test_a_build_whose_hosts_come_and_go(default_farm: Farm) -> None:
    farm = default_farm
    project(farm, files=60)
    building = farm.start_build("make", "-s", "-j8", "CC=gethost distcc gcc")
    for host in (farm.fast, farm.slow) * 2:
        enough = len(farm.rows()) + 3
        eventually(lambda: len(farm.rows()) >= enough or building.poll() is not None)  # noqa: B023
        host.kill()
        # No machine starts so fast: what fails there because of its end would still leave marks.
        eventually(lambda: not farm.server.host(host.name).get("leases"))  # noqa: B023
        host.start()
        host.add_to(farm.server)
    built = finished(building)
    assert (built.returncode, built.stderr) == (0, ""), farm.server.log.read_text()
    assert objects_are_as_local(farm)


@pytest.mark.needs("ccache")
def test_behind_ccache(default_farm: Farm) -> None:
    farm = default_farm
    settings = {"CCACHE_PREFIX": "gethost distcc", "CCACHE_DIR": str(farm.directory / "ccache")}
    for _ in range(2):
        command = ("ccache", "gcc", "-O1", "-c", "main.c", "-o", "main.o")
        assert went_well(farm.build(*command, **settings))
        assert (farm.directory / "main.o").read_bytes() == local_object(farm)
    assert farm.rows() == [(farm.fast.name, "done")]


@pytest.mark.slow
@pytest.mark.needs("cmake", "ninja")
def test_behind_cmake_and_ninja(default_farm: Farm) -> None:
    farm = default_farm
    project(farm, files=10)
    farm.write(
        "CMakeLists.txt",
        "cmake_minimum_required(VERSION 3.10)\nproject(small C)\n"
        "file(GLOB sources *.c)\nadd_executable(program ${sources})\n",
    )
    options = ["-DCMAKE_C_COMPILER=gcc", "-DCMAKE_C_COMPILER_LAUNCHER=gethost;distcc"]
    configured = farm.build("cmake", "-G", "Ninja", "-B", "out", *options)
    assert configured.returncode == 0, configured.stderr
    built = farm.build("ninja", "-C", "out", "-j6")
    assert built.returncode == 0, built.stderr
    assert done_once_each(farm) >= 11
    assert (farm.directory / "out" / "program").exists()


def test_jobs_worth_using_is_what_the_farm_has(farm: Farm) -> None:
    count = int(farm.compile("--jobs").stdout)
    assert count == 4 + len(os.sched_getaffinity(0))
    with farm.server.connect(REQUESTS) as other:
        other.say("request user=bob")
        other.hears("lease")
        assert int(farm.compile("--jobs").stdout) == count - 2
