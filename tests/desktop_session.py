"""A desktop session for tests: a real X server, screen saver and buses, with mocked services.

Each program gets an address of its own, is waited for, and is ended by its process id.
`python-dbusmock` runs with the system's Python, where its package puts it. A mocked service is at
the other end of a real bus.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import psutil
import pytest
from conftest import DBUSMOCK_PYTHON
from run_program import PATIENCE_S, eventually

# A test must see neither the developer's own desktop nor this machine's services.
DESKTOP_VARIABLES = {
    *("DISPLAY", "XAUTHORITY", "WAYLAND_DISPLAY", "XDG_SESSION_TYPE", "XDG_SEAT"),
    *("DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS", "XDG_RUNTIME_DIR"),
}


# Name, path and interface.
SCREEN_SAVERS = {
    "gnome": ("org.gnome.ScreenSaver", "/org/gnome/ScreenSaver", "org.gnome.ScreenSaver"),
    "kde": ("org.kde.screensaver", "/ScreenSaver", "org.freedesktop.ScreenSaver"),
    "freedesktop": (
        "org.freedesktop.ScreenSaver",
        "/org/freedesktop/ScreenSaver",
        "org.freedesktop.ScreenSaver",
    ),
}


def bare_environment() -> dict[str, str]:
    """Return an environment without a desktop; its bus addresses lead nowhere."""
    environment = {key: text for key, text in os.environ.items() if key not in DESKTOP_VARIABLES}
    nowhere = "unix:path=/nonexistent/bus"
    return environment | {
        "DBUS_SYSTEM_BUS_ADDRESS": nowhere,
        "DBUS_SESSION_BUS_ADDRESS": nowhere,
        "XDG_RUNTIME_DIR": "/nonexistent",
    }


def leave_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process an environment without a desktop."""
    for key in set(os.environ) - set(bare_environment()):
        monkeypatch.delenv(key)
    for key, text in bare_environment().items():
        monkeypatch.setenv(key, text)


@contextlib.contextmanager
def started(
    *command: str, environment: Mapping[str, str] | None = None, output: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[str]]:
    """Run a program while the block runs; then end it with all that it has started."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@contextlib.contextmanager
def x_server() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run Xvfb on a free display; yield the display's name, and the process."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as answer:
        process = subprocess.Popen(
            f"Xvfb -displayfd {writing} -screen 0 320x240x24 -nolisten tcp -noreset".split(),
            stderr=subprocess.DEVNULL,
            pass_fds=[writing],
            text=True,
        )
        os.close(writing)
        number = answer.readline().strip()
    try:
        assert number, "Xvfb did not start"
        yield f":{number}", process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(PATIENCE_S)


@contextlib.contextmanager
def wayland_desktop() -> Iterator[tuple[dict[str, str], subprocess.Popen[str]]]:
    """Run sway without a screen; yield the environment of its programs, and the process."""
    with tempfile.TemporaryDirectory(prefix="compilefarm-sway-") as runtime:
        config = Path(runtime, "config")
        config.write_text("xwayland disable\nseat seat0 fallback true\n")
        environment = bare_environment() | {
            "XDG_RUNTIME_DIR": runtime,
            "WLR_BACKENDS": "headless",
            "WLR_LIBINPUT_NO_DEVICES": "1",
            "WLR_RENDERER": "pixman",
        }
        # sway refuses to run as root.
        as_another_user = ["unshare", "--user", "--map-user=1000"] if os.geteuid() == 0 else []
        with started(*as_another_user, "sway", "-c", str(config), environment=environment) as sway:
            [lock] = eventually(lambda: list(Path(runtime).glob("wayland-*.lock")))
            yield {"XDG_RUNTIME_DIR": runtime, "WAYLAND_DISPLAY": lock.stem}, sway


def press_key(desktop: Mapping[str, str]) -> None:
    """Make input that is real to the Wayland desktop."""
    subprocess.run(["wtype", "a"], env=os.environ | desktop, check=True, timeout=PATIENCE_S)


@contextlib.contextmanager
def bus() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a private bus; yield its address, and the process."""
    command = ["dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address=1"]
    with started(*command, output=subprocess.PIPE) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert address, "dbus-daemon did not start"
        yield address, process


class MockedService:
    """A service on a bus, mocked by python-dbusmock and controlled with dbus-send."""

    def __init__(self, address: str, *arguments: str, name: str, path: str) -> None:
        self._address = address
        self._name = name
        self._path = path
        self._environment = os.environ | {
            "DBUS_SESSION_BUS_ADDRESS": address,
            "DBUS_SYSTEM_BUS_ADDRESS": address,
        }
        self._arguments = arguments
        self._stack = contextlib.ExitStack()
        self.process: subprocess.Popen[str]

    def __enter__(self) -> Self:
        command = [DBUSMOCK_PYTHON, "-m", "dbusmock", *self._arguments]
        self.process = self._stack.enter_context(started(*command, environment=self._environment))
        eventually(self._answers)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def call(self, method: str, *words: str, path: str = "") -> str:
        """Call a method, `INTERFACE.NAME`; return the output of dbus-send."""
        done = self._send(method, *words, path=path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def set(self, path: str, interface: str, key: str, value: str) -> None:
        """Set a property; `value` is `TYPE:VALUE`."""
        self.call(
            "org.freedesktop.DBus.Properties.Set",
            *(f"string:{interface}", f"string:{key}", f"variant:{value}"),
            path=path,
        )

    def _answers(self) -> bool:
        return self._send("org.freedesktop.DBus.Peer.Ping").returncode == 0

    def _send(self, method: str, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
        command = ["dbus-send", f"--bus={self._address}", "--print-reply", f"--dest={self._name}"]
        return subprocess.run(
            [*command, path or self._path, method, *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )


class MockedScreenSaver(MockedService):
    """A mocked screen saver: GNOME's by dbusmock's own template, the others like it."""

    def __init__(self, address: str, desktop: str) -> None:
        name, path, self._interface = SCREEN_SAVERS[desktop]
        self._template = desktop == "gnome"
        arguments = ["--session", name, path, self._interface]
        if self._template:
            arguments = ["--session", "--template", "gnome_screensaver"]
        super().__init__(address, *arguments, name=name, path=path)

    def __enter__(self) -> Self:
        super().__enter__()
        if not self._template:
            signal_line = 'self.EmitSignal("", "ActiveChanged", "b", [self.is_active])'
            for method, takes, gives, code in (
                ("SetActive", "b", "", f"self.is_active = args[0]; {signal_line}"),
                ("GetActive", "", "b", "ret = self.is_active"),
            ):
                words = (self._interface, method, takes, gives, code)
                self.call("org.freedesktop.DBus.Mock.AddMethod", *(f"string:{w}" for w in words))
            self.activate(False)
        return self

    def activate(self, active: bool) -> None:
        """Switch the screen saver on or off."""
        self.call(f"{self._interface}.SetActive", f"boolean:{str(active).lower()}")


class MockedLogind(MockedService):
    """logind with one seat, by dbusmock's template."""

    ROOT = "/org/freedesktop/login1"

    def __init__(self, address: str) -> None:
        super().__init__(
            address,
            *("--system", "--template", "logind"),
            name="org.freedesktop.login1",
            path=self.ROOT,
        )

    def add_session(self, name: str) -> None:
        """Log a user in at the seat."""
        words = (f"string:{name}", "string:seat0", "uint32:1000", "string:ada", "boolean:true")
        self.call("org.freedesktop.DBus.Mock.AddSession", *words)

    def hint(self, session: str, key: str, value: bool) -> None:
        """Set a hint of a session, as a desktop does."""
        path = f"{self.ROOT}/session/{session}"
        self.set(path, f"{self._name}.Session", key, f"boolean:{str(value).lower()}")

    def sleep(self, begins: bool) -> None:
        """Announce that the machine goes to sleep, or that it is awake again."""
        word = str(begins).lower()
        self.set(self.ROOT, f"{self._name}.Manager", "PreparingForSleep", f"boolean:{word}")


class ScreenSaver:
    """A real xscreensaver on a display."""

    def __init__(self, display: str) -> None:
        # A HOME of its own, so that it does not read the developer's settings.
        self._home = tempfile.TemporaryDirectory(prefix="compilefarm-desktop-")
        Path(self._home.name, ".xscreensaver").write_text("mode: blank\nlock: False\nfade: False\n")
        self._environment = bare_environment() | {"DISPLAY": display, "HOME": self._home.name}
        self._stack = contextlib.ExitStack()
        self.process: subprocess.Popen[str]

    def __enter__(self) -> Self:
        command = ["xscreensaver", "--no-splash"]
        self.process = self._stack.enter_context(started(*command, environment=self._environment))
        eventually(lambda: "blanked since" in self.command("-time"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._home.cleanup()

    def command(self, word: str) -> str:
        """Run xscreensaver-command; return its output."""
        return subprocess.run(
            ["xscreensaver-command", word],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        ).stdout


def move_mouse(display: str) -> None:
    """Make input that is real to the X server."""
    subprocess.run(
        ["xdotool", "mousemove_relative", "1", "1"],
        env=os.environ | {"DISPLAY": display},
        check=True,
        timeout=PATIENCE_S,
    )
