"""watch-ssaver as its user runs it, with a real desktop session and a real host-server.

distccd is a fake one, because nothing is compiled here. test_sources*.py test what a source says,
and test_presence.py what follows from it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from desk import Desk
from desktop_session import (
    MockedLogind,
    MockedScreenSaver,
    ScreenSaver,
    bare_environment,
    bus,
    move_mouse,
    x_server,
)
from farm_processes import HostServer
from run_program import (
    PATIENCE_S,
    eventually,
    program_command,
    program_environment,
    run,
)

# It starts programs, many times.
pytestmark = pytest.mark.slow

X = pytest.mark.needs("Xvfb", "xdotool", "xscreensaver", "xscreensaver-command")
BUS = pytest.mark.needs("dbus-daemon", "dbus-send", "dbusmock")


class WatchedDesk(Desk):
    """127.0.0.3, without a desktop session of the developer's own."""

    def __init__(self, directory: Path, server: HostServer) -> None:
        environment = bare_environment() | {"PYTHONPATH": program_environment()["PYTHONPATH"]}
        super().__init__(directory, server.name, environment)
        self.use_fake_distccd()
        self.server = server
        self.options = [*self.arguments, *self.idle_machine()]

    @property
    def state(self) -> str:
        """The host's state, as host-server sees it."""
        return str(self.server.host(self.name).get("state"))


class Watcher:
    """A watch-ssaver that runs, and its output."""

    def __init__(self, desk: WatchedDesk, *options: object) -> None:
        self._command = program_command("watch-ssaver", *desk.options, *options)
        self._environment = desk.environment
        self._lines: queue.Queue[str] = queue.Queue()
        self.process: subprocess.Popen[str]

    def __enter__(self) -> Watcher:
        self.process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it with SIGTERM if it still runs; then wait for the disable-host of its guard."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(3 * PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert not self._reader.is_alive(), "a process still holds its output"
        assert not any("Traceback" in line for line in list(self._lines.queue))
        assert self.process.stdout
        self.process.stdout.close()

    def says(self, words: str) -> str:
        """Wait for a line with these words, and return it."""
        while True:
            line = self._lines.get(timeout=PATIENCE_S)
            assert "Traceback" not in line
            if words in line:
                return line

    def guards(self) -> list[psutil.Process]:
        """Return the guards that wait for its end."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "guard" in child.cmdline():
                    found.append(child)
        return found

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HostServer]:
    with HostServer(tmp_path) as server:
        yield server


@pytest.fixture
def desk(tmp_path: Path, server: HostServer) -> Iterator[WatchedDesk]:
    made = WatchedDesk(tmp_path, server)
    yield made
    made.disable("--grace", 0)


@pytest.fixture
def display(desk: WatchedDesk) -> Iterator[str]:
    with x_server() as (name, _):
        desk.environment["DISPLAY"] = name
        yield name


@pytest.fixture
def saver(display: str) -> Iterator[ScreenSaver]:
    with ScreenSaver(display) as real:
        yield real


@pytest.fixture
def buses(desk: WatchedDesk) -> Iterator[str]:
    """One bus in place of both the session bus and the system bus."""
    with bus() as (address, _):
        desk.environment["DBUS_SESSION_BUS_ADDRESS"] = address
        desk.environment["DBUS_SYSTEM_BUS_ADDRESS"] = address
        yield address


@X
def test_the_machine_is_in_the_farm_while_the_screen_saver_is_on(
    desk: WatchedDesk, saver: ScreenSaver
) -> None:
    with Watcher(desk, "--source", "xscreensaver") as watcher:
        watcher.says("sources: xscreensaver")
        watcher.says("in use: xscreensaver: the screen saver is off")
        eventually(lambda: desk.state == "owner")
        assert desk.disabled
        saver.command("-activate")
        watcher.says("unused: xscreensaver: the screen saver is on")
        eventually(lambda: desk.state == "up")
        saver.command("-deactivate")
        watcher.says("in use: xscreensaver: the screen saver is off")
        eventually(lambda: desk.state == "owner")
        # Leaving is quick, and coming back is slow.
        saver.command("-activate")
        watcher.says("still in use: the last stay was short; it comes back after 30 s without use")
        watcher.process.send_signal(signal.SIGTERM)
        assert watcher.process.wait(PATIENCE_S) == 0
    assert desk.disabled
    assert not desk.run_dir.exists() or not list(desk.run_dir.iterdir())
    eventually(lambda: desk.state in ("None", "away"))


@X
@BUS
def test_several_sources_must_all_agree(desk: WatchedDesk, saver: ScreenSaver, buses: str) -> None:
    display = desk.environment["DISPLAY"]
    with MockedLogind(buses) as logind, MockedScreenSaver(buses, "gnome") as gnome:
        logind.add_session("c1")
        saver.command("-activate")
        with Watcher(desk, "--idle-after", 0.5) as watcher:
            found = watcher.says("sources: ").removeprefix("sources: ").split(", ")
            assert {"xscreensaver", "gnome", "logind", "x11"} <= set(found)
            assert not {"kde", "mutter"} & set(found)
            watcher.says("no kde: org.kde.screensaver is not on the bus")
            watcher.says("in use: gnome: the screen saver is off")
            gnome.activate(True)
            line = watcher.says("unused: ")
            assert "xscreensaver: the screen saver is on" in line
            assert "gnome: the screen saver is on" in line
            eventually(lambda: desk.state == "up")
            # Both are on, but someone moves the mouse.
            move_mouse(display)
            watcher.says("in use: ")
            eventually(lambda: desk.state == "owner")


@BUS
def test_a_named_source_that_is_missing_counts_as_in_use(desk: WatchedDesk, buses: str) -> None:
    with Watcher(desk, "--source", "gnome") as watcher:
        watcher.says("no gnome: org.gnome.ScreenSaver is not on the bus")
        watcher.says("in use: gnome: org.gnome.ScreenSaver is not on the bus")
        with MockedScreenSaver(buses, "gnome") as gnome:
            watcher.says("gnome can be read now")
            gnome.activate(True)
            watcher.says("unused: gnome: the screen saver is on")
        watcher.says("gnome cannot be read: org.gnome.ScreenSaver left the bus")
        watcher.says("in use: gnome: org.gnome.ScreenSaver left the bus")
        eventually(lambda: desk.state == "owner")


@BUS
def test_a_bus_that_ends_counts_as_in_use(desk: WatchedDesk) -> None:
    with bus() as (address, daemon), MockedScreenSaver(address, "kde") as kde:
        desk.environment["DBUS_SESSION_BUS_ADDRESS"] = address
        kde.activate(True)
        with Watcher(desk, "--source", "kde") as watcher:
            watcher.says("unused: kde: the screen saver is on")
            eventually(lambda: desk.state == "up")
            daemon.kill()
            watcher.says("in use: kde: the bus is lost")
            eventually(lambda: desk.state == "owner")


def test_without_bus_and_display_the_machine_is_in_use(desk: WatchedDesk) -> None:
    names = "xscreensaver,gnome,kde,freedesktop,logind,x11,mutter"
    with Watcher(desk, "--source", names) as watcher:
        watcher.says("sources: none")
        watcher.says("no gnome: no bus at unix:path=/nonexistent/bus")
        watcher.says("no x11: DISPLAY is not set")
        watcher.says("in use: ")
        eventually(lambda: desk.state == "owner")
        assert desk.disabled


@X
def test_a_screen_saver_that_dies_counts_as_in_use(desk: WatchedDesk, display: str) -> None:
    with ScreenSaver(display) as saver:
        saver.command("-activate")
        watcher = Watcher(desk, "--source", "xscreensaver")
        with watcher:
            watcher.says("unused: ")
            eventually(lambda: desk.state == "up")
            saver.process.kill()
            watcher.says("in use: xscreensaver: xscreensaver is not running")
            eventually(lambda: desk.state == "owner")
            with ScreenSaver(display):
                watcher.says("xscreensaver can be read now")


@X
@pytest.mark.parametrize("when", ["in the farm", "while it is added", "after its guard"])
def test_a_killed_watcher_leaves_the_machine_disabled(
    desk: WatchedDesk, saver: ScreenSaver, when: str
) -> None:
    saver.command("-activate")
    with Watcher(desk, "--source", "xscreensaver") as watcher:
        watcher.says("unused: ")
        if when != "while it is added":
            eventually(lambda: desk.state == "up")
        if when == "after its guard":
            [guard] = watcher.guards()
            guard.kill()
            eventually(lambda: watcher.guards() not in ([], [guard]))
        watcher.process.kill()
        watcher.process.wait()
        # The reader of its output waits for its guard, too.
    assert desk.disabled
    eventually(lambda: desk.state in ("None", "away"))
    # The next one can start.
    with Watcher(desk, "--source", "xscreensaver") as watcher:
        watcher.says("unused: ")
        eventually(lambda: desk.state == "up")
    assert desk.disabled


@X
def test_a_signal_ends_it_and_disables_the_machine(desk: WatchedDesk, saver: ScreenSaver) -> None:
    saver.command("-activate")
    for number in (signal.SIGINT, signal.SIGHUP):
        with Watcher(desk, "--source", "xscreensaver") as watcher:
            watcher.says("unused: ")
            eventually(lambda: desk.state == "up")
            watcher.process.send_signal(number)
            assert watcher.process.wait(2 * PATIENCE_S) == 0
        assert desk.disabled


@X
def test_a_machine_has_only_one(desk: WatchedDesk, display: str) -> None:
    assert display
    with Watcher(desk, "--source", "x11") as watcher:
        watcher.says("sources: x11")
        second = desk.run("watch-ssaver")
        assert (second.returncode, second.stdout) == (1, "")
        message = f"watch-ssaver: another watch-ssaver already watches {desk.name}\n"
        assert second.stderr == message


@X
def test_hours_and_idle_after_are_respected(desk: WatchedDesk, display: str) -> None:
    soon = time.localtime(time.time() + 3600)
    later = f"{soon.tm_hour:02}:{soon.tm_min:02}-{(soon.tm_hour + 1) % 24:02}:{soon.tm_min:02}"
    with Watcher(desk, "--source", "x11", "--idle-after", 0, "--hours", later) as watcher:
        watcher.says(f"in use: it is not within {later}")
    with Watcher(desk, "--source", "x11", "--idle-after", 3600) as watcher:
        move_mouse(display)
        watcher.says("in use: x11: input ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--source", "cat"],
            "argument --source: there is no source 'cat'; choose from xscreensav",
        ),
        (["--source", ""], "argument --source: there is no source ''"),
        (["--hours", "late"], "argument --hours: 'late' is not a span of hours such as"),
        (["--idle-after", "-1"], "argument --idle-after: "),
        (["--on-battery", "maybe"], "argument --on-battery: "),
        (["--reclaim", "later"], "argument --reclaim: "),
        ([], "no host-server is named"),
    ],
)
def test_a_user_error_is_one_line(options: list[str], message: str) -> None:
    done = run("watch-ssaver", *options)
    assert done.returncode == 2
    assert done.stderr.startswith(f"watch-ssaver: {message}")
    assert done.stderr.count("\n") == 1


@X
@BUS
def test_sources_are_listed(desk: WatchedDesk, saver: ScreenSaver, buses: str) -> None:
    saver.command("-activate")
    with MockedScreenSaver(buses, "kde"):
        done = run("watch-ssaver", "--list-sources", environment=desk.environment)
    assert done.returncode == 0, done.stderr
    said = {line.split()[0]: line.split(maxsplit=1)[1] for line in done.stdout.splitlines()}
    assert re.fullmatch(r"unused +the screen saver is on", said["xscreensaver"])
    assert re.fullmatch(r"in use +the screen saver is off", said["kde"])
    assert re.fullmatch(r"absent +org\.gnome\.ScreenSaver is not on the bus", said["gnome"])
    assert re.fullmatch(r"unused +last input \d+ s ago; no input", said["x11"])


@pytest.mark.needs("systemd-analyze")
def test_systemd_accepts_the_unit(desk: WatchedDesk, tmp_path: Path) -> None:
    options = ["--idle-after", "600", "--hours", "19:00-07:00", "--type", '50% off $HOME "x"']
    done = run("watch-ssaver", *options, "--print-unit", environment=desk.environment)
    assert done.returncode == 0, done.stderr
    unit = tmp_path / "watch-ssaver.service"
    unit.write_text(done.stdout)
    verified = subprocess.run(
        ["systemd-analyze", "--user", "--recursive-errors=no", "verify", unit],
        env=desk.environment | {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    line = next(text for text in done.stdout.splitlines() if text.startswith("ExecStart="))
    words = shlex.split(line.removeprefix("ExecStart=").replace("%%", "%").replace("$$", "$"))
    assert words[-len(options) - 2 : -2] == options
    assert words[-2:] == ["--server", desk.server.name]
    with contextlib.suppress(FileNotFoundError):
        assert os.access(words[0], os.X_OK)
