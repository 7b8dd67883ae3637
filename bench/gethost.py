"""The time that gethost adds to a compile, compared with distcc alone; and `true` as the floor.

A real distccd on a loopback address compiles a file of one line: noise depends on the file, and the
time that gethost adds does not. The programs take turns, and the commands of a turn follow each
other at once. So medians of the turns' differences are meaningful on a machine in use.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench import programs
from bench.table import Row, Table

ADDRESS = "127.0.0.2"  # for 127.0.0.1, distcc compiles without distccd
SLOTS = 4
ADDED_LIMIT_MS = 2.0
AWAY_LIMIT_MS = 5.0
RSS_LIMIT_MB = 3.0

Command = tuple[list[str], Mapping[str, str]]


def measure(*, quick: bool) -> Table:
    """Return the section's table."""
    turns = 3 if quick else 150
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        sources = sorted((programs.TOP / "src/gethost").glob("*.c"))
        gethost = str(programs.build(directory, "gethost", sources))
        distccd_port = stack.enter_context(_distccd(directory))
        hosts_info = directory / "hosts-info"
        hosts_info.write_text(
            f"bench:{distccd_port} {SLOTS} 2 address={ADDRESS} static\n", encoding="utf-8"
        )
        servers = {
            policy: stack.enter_context(
                programs.host_server("--hosts-info", hosts_info, "--policy", policy)
            )
            for policy in ("earliest", "tier")
        }

        base = _environment(directory)
        farm, tier_farm, away = (
            {**base, "HOST_SERVER": f"127.0.0.1:{port}"}
            for port in (*(each.port for each in servers.values()), programs.free_port())
        )
        compile_ = _compile(directory)
        cpus = len(os.sched_getaffinity(0))
        # The same settings of distcc as gethost makes.
        slots = f"--localslots=4 --localslots_cpp={cpus}"
        remote = {
            "DISTCC_HOSTS": f"{ADDRESS}:{distccd_port}/{SLOTS} {slots}",
            "DISTCC_FALLBACK": "0",
            "DISTCC_SKIP_LOCAL_RETRY": "1",
            "DISTCC_BACKOFF_PERIOD": "1",
            "DISTCC_LOG": "/dev/null",
        }
        local = {"DISTCC_HOSTS": f"localhost/{cpus} --localslots=4 --localslots_cpp=4"}
        took_ms = _take_turns(
            {
                "true": ([programs.need("true")], base),
                "distcc": (compile_, base | remote),
                "gethost": ([gethost, *compile_], farm),
                "gethost, tier": ([gethost, *compile_], tier_farm),
                "local distcc": (compile_, base | local),
                "gethost, no server": ([gethost, *compile_], away),
            },
            turns,
        )
        rss_mb = _peak_rss_mb(gethost, farm)
        leases = min(programs.leases_granted(server) for server in servers.values())
        if leases < turns:
            raise RuntimeError(f"only {leases} of {turns} compiles had a lease")
    return Table(
        "gethost, around a distcc compile on loopback",
        [
            _added("added to a compile", took_ms, "gethost", "distcc", ADDED_LIMIT_MS),
            _added(
                "added to a compile, --policy tier",
                took_ms,
                "gethost, tier",
                "distcc",
                ADDED_LIMIT_MS,
            ),
            _added(
                "added with no server", took_ms, "gethost, no server", "local distcc", AWAY_LIMIT_MS
            ),
            Row(
                "peak memory",
                f"{rss_mb:.2f} MB",
                "",
                None,
                f"< {RSS_LIMIT_MB:.0f} MB",
                rss_mb < RSS_LIMIT_MB,
            ),
        ],
        [
            f"`true` takes {statistics.median(took_ms['true']):.1f} ms here",
            f"medians of {turns} turns; added time is the median of the turns' differences",
        ],
    )


def _added(
    what: str, took_ms: Mapping[str, list[float]], ours: str, other: str, limit_ms: float
) -> Row:
    pairs = list(zip(took_ms[ours], took_ms[other], strict=True))
    added_ms = statistics.median(ours_ms - other_ms for ours_ms, other_ms in pairs)
    return Row(
        what,
        f"{added_ms:+.1f} ms",
        f"{other} {statistics.median(took_ms[other]):.1f} ms",
        statistics.median(ours_ms / other_ms for ours_ms, other_ms in pairs),
        f"<= {limit_ms:.0f} ms",
        added_ms <= limit_ms,
    )


def _take_turns(commands: Mapping[str, Command], turns: int) -> dict[str, list[float]]:
    """Return the milliseconds of each command, for every turn but the first."""
    took_ms: dict[str, list[float]] = {name: [] for name in commands}
    names = list(commands)
    for turn in range(turns + 1):
        for name in names:
            started_s = time.perf_counter()
            _run(commands[name])
            if turn > 0:
                took_ms[name].append((time.perf_counter() - started_s) * 1e3)
        names.reverse()  # no command always follows the same one
    return took_ms


def _run(command: Command) -> None:
    """Run a command in Python's fastest way; raises RuntimeError if it fails."""
    words, environment = command
    process_id = os.posix_spawn(words[0], words, environment)
    _, status = os.waitpid(process_id, 0)
    if status != 0:
        raise RuntimeError(f"{' '.join(words)} failed with status {status}")


def _compile(directory: Path) -> list[str]:
    source = directory / "one.c"
    source.write_text("int one(void) { return 1; }\n", encoding="utf-8")
    return [programs.need("distcc"), "gcc", "-c", str(source), "-o", str(directory / "one.o")]


def _environment(directory: Path) -> dict[str, str]:
    """Return an environment with separate directories, and without the user's distcc settings."""
    for name in ("distcc", "home", "run"):
        (directory / name).mkdir(mode=0o700)
    return {
        "PATH": programs.SEARCH_PATH,
        "HOME": str(directory / "home"),
        "XDG_RUNTIME_DIR": str(directory / "run"),
        "DISTCC_DIR": str(directory / "distcc"),
        "TMPDIR": str(directory),
        "USER": "bench",
    }


def _peak_rss_mb(gethost: str, environment: Mapping[str, str]) -> float:
    """Return gethost's peak memory, as its child reads it: wait() would add the child's."""
    command = [gethost, "sh", "-c", "grep VmHWM /proc/$PPID/status"]
    output = subprocess.run(
        command, env=dict(environment), check=True, capture_output=True, text=True
    ).stdout
    return int(output.split()[1]) / 1024


@contextlib.contextmanager
def _distccd(directory: Path) -> Iterator[int]:
    """Run a distccd that serves only this machine; yields its port."""
    distccd = programs.need("distccd")
    port = programs.free_port(ADDRESS)
    log = directory / "distccd.log"
    log.touch()
    log.chmod(0o666)  # started by root, distccd changes its user
    command = [distccd, "--no-detach", "--daemon", "--allow", "127.0.0.0/8", "--listen", ADDRESS]
    command += ["--port", str(port), "--jobs", str(SLOTS), "--log-file", str(log), "--nice", "0"]
    with programs.daemon(command, ADDRESS, port):
        yield port
