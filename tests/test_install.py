"""README's ways to install give a user our programs, and leave their python3 and pip alone.

The commands of README.md are run, in a copy of the repository and as an ordinary user with a home
of their own. They fetch packages, so these tests are skipped without a network, but not in CI.
"""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.needs("cc", "make")]

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
OURS = {"gethost", *tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]}
LIMIT_S = 300.0
NO_NETWORK = re.compile("no connection to the Python package index|connection broken by")


def readme_command(word: str) -> str:
    """Return README's one command line that begins so."""
    (command,) = re.findall(rf"^{re.escape(word)}.*?(?=\s+#|$)", README, re.MULTILINE)
    assert isinstance(command, str)
    return command


class User:
    """An ordinary user, with an empty home and a copy of the repository."""

    def __init__(self, place: Path) -> None:
        self.home = place / "home"
        self.bin = self.home / ".local" / "bin"
        self.tree = place / "compilefarm"
        self.home.mkdir()
        ignore = shutil.ignore_patterns(".*", "build", "dist", "demo-output*", "__pycache__")
        shutil.copytree(ROOT, self.tree, ignore=ignore)
        # Root's programs would go to /usr/local, for all users of this machine.
        self.account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if self.account:
            for path in (place, *place.rglob("*")):
                os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as in a terminal of the user's; stderr is part of the output."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PREFIX", "VIRTUAL_ENV") and not name.startswith(("PIPX_", "XDG_"))
        }
        environment |= {"HOME": str(self.home), "PATH": f"{self.bin}:{os.environ['PATH']}"}
        return subprocess.run(
            ["sh", "-c", command],
            cwd=self.tree,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
            user=self.account.pw_uid if self.account else None,
            group=self.account.pw_gid if self.account else None,
            extra_groups=[] if self.account else None,
        )

    def run(self, command: str) -> str:
        done = self.shell(command)
        if done.returncode and NO_NETWORK.search(done.stdout) and os.environ.get("CI") != "true":
            pytest.skip("no connection to the Python package index")
        assert done.returncode == 0, done.stdout
        return done.stdout

    def finds(self) -> str:
        """Return which python3 and pip the user's shell runs."""
        return self.shell("command -v python3; command -v pip; command -v pip3").stdout

    def programs(self) -> set[str]:
        return {path.name for path in self.bin.iterdir()} if self.bin.exists() else set()


@pytest.fixture
def user() -> Iterator[User]:
    # Not in pytest's own directory, which is closed to other users.
    place = Path(tempfile.mkdtemp(prefix="compilefarm-install-"))
    try:
        yield User(place)
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize(
    "way", ["make install", pytest.param("pipx install", marks=pytest.mark.needs("pipx"))]
)
def test_installing_adds_our_programs_and_no_other(user: User, way: str) -> None:
    before = user.finds()
    user.run(readme_command(way))
    assert user.programs() == OURS
    assert user.finds() == before
    for program in sorted(OURS):
        assert user.shell(f"command -v {program}").stdout.strip() == str(user.bin / program)
        assert re.search(r"\d+\.\d+", user.run(f"{program} --version"))


def test_installing_again_and_removing_leave_other_files_alone(user: User) -> None:
    user.run("mkdir -p ~/.local/bin; echo theirs >~/.local/bin/addhost")
    with pytest.raises(AssertionError, match="other programs named addhost: remove them"):
        user.run("make install")
    assert (user.bin / "addhost").read_text() == "theirs\n"
    user.run("cd ~/.local/bin; mv addhost mine")
    assert f"compilefarm is installed in {user.bin}\n" in user.run("make install")
    assert user.programs() == {*OURS, "mine"}
    user.run("make uninstall")
    assert user.programs() == {"mine"}
    assert not (user.home / ".local/lib/compilefarm").exists()


def test_a_directory_that_is_not_ours_is_not_replaced(user: User) -> None:
    user.run("mkdir -p ~/.local/lib/compilefarm; touch ~/.local/lib/compilefarm/mine")
    for command in ("make install", "make uninstall"):
        done = user.shell(command)
        assert done.returncode != 0
        assert "was not made by this program: remove it, or choose another" in done.stdout
    assert (user.home / ".local/lib/compilefarm/mine").exists()
