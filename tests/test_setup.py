"""Set-up on other machines: other package managers, no rights, no venv module.

The scripts are the real ones, on a PATH that holds only what the test put there. Package managers,
sudo, id, systemctl and Python are fakes that record their calls.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

# These tests start many programs.
pytestmark = pytest.mark.slow

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
TOOLS = [
    "cat",
    "cp",
    "dirname",
    "env",
    "grep",
    "mkdir",
    "rm",
    "sed",
    "sh",
    "sort",
    "tail",
    "touch",
    "tr",
]
DEMO = ["cc", "make", "tar", "distcc", "distccd"]
TEST = {  # with Debian's packages
    "cmake": "cmake",
    "ninja": "ninja-build",
    "ccache": "ccache",
    "shellcheck": "shellcheck",
    "pipx": "pipx",
    "dmucs": "dmucs",
    "ip": "iproute2",
    "Xvfb": "xvfb",
    "xdotool": "xdotool",
    "xscreensaver": "xscreensaver",
    "sway": "sway",
    "swayidle": "swayidle",
    "wtype": "wtype",
    "dbus-daemon": "dbus-daemon",
    "dbus-send": "dbus-bin",
    "dbusmock": "python3-dbusmock",
    "systemd-analyze": "systemd",
}
MANAGERS = {
    "apt-get": ["gcc libc6-dev", "distcc"],
    "dnf": ["gcc glibc-devel", "distcc distcc-server"],
    "pacman": ["gcc", "distcc"],
    "brew": ["", "distcc"],
}


class Machine:
    """A machine that has only a shell, its usual tools, and a copy of the scripts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = path / "tree"
        self.bin = path / "bin"
        self.packages = path / "packages"
        self.bin.mkdir()
        shutil.copytree(ROOT / "scripts", self.tree / "scripts")
        for tool in TOOLS:
            real = shutil.which(tool)
            assert real, tool
            (self.bin / tool).symlink_to(real)
        self.user(0)

    def script(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {path.name} $* >>{self.path}/calls\n{text}\n")
        path.chmod(0o755)

    def program(self, *names: str, does: str = "") -> None:
        for name in names:
            self.script(self.bin / name, does)

    def package(self, name: str, *programs: str) -> None:
        """Offer a package that holds these programs."""
        for program in programs:
            self.script(self.packages / name / program, "")

    def manager(self, name: str, before_install: str = "") -> None:
        """Add a package manager that installs the offered packages and fails for others."""
        self.program(
            name,
            does=f"""
            case "$*" in *update* | *makecache* | *-Sy*) touch {self.path}/refreshed; exit ;; esac
            {before_install}
            for word; do
                case $word in -* | install | DPkg*) continue ;; esac
                test -d {self.packages}/$word || exit 100
            done
            for word; do cp {self.packages}/$word/* {self.bin} 2>/dev/null; done
            exit 0""",
        )

    def user(self, uid: int) -> None:
        self.program("id", does=f"echo {uid}")

    def calls(self, name: str) -> list[str]:
        """Return the arguments of all calls of this program."""
        lines = (self.path / "calls").read_text().splitlines()
        return [
            args for program, _, args in (line.partition(" ") for line in lines) if program == name
        ]

    def run(
        self, script: str, *args: str, ci: bool = False, stdin: int = subprocess.DEVNULL
    ) -> tuple[int, str]:
        """Run a script of the tree; return its status and its output."""
        done = subprocess.run(
            [self.tree / "scripts" / script, *args],
            env={"PATH": str(self.bin), "SYSTEM_PYTHON": str(self.bin / "dbusmock")}
            | ({"CI": "true"} if ci else {}),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def distccless(machine: Machine) -> Machine:
    """A Debian machine with all programs of the demo but distcc, which has a package."""
    machine.program("cc", "make", "tar")
    machine.package("distcc", "distcc", "distccd")
    machine.manager("apt-get")
    return machine


def test_nothing_is_installed_if_nothing_is_missing(machine: Machine) -> None:
    machine.program(*DEMO, *TEST)
    machine.manager("apt-get")
    for step in ("build", "setup", "demo", "test", "bench"):
        assert machine.run("packages.sh", step) == (0, "")
    assert machine.calls("apt-get") == []


@pytest.mark.parametrize("manager", ["apt-get", "dnf", "pacman", "brew"])
def test_each_package_manager_gets_its_own_package_names(machine: Machine, manager: str) -> None:
    machine.manager(manager)
    machine.program("make", "tar")
    compiler, distcc = MANAGERS[manager]
    machine.package("gcc", "cc")
    for package in {*compiler.split(), *distcc.split()} - {"gcc"}:
        machine.package(package, "distcc", "distccd")
    if compiler:
        assert machine.run("packages.sh", "build")[0] == 0
        assert machine.calls(manager)[-1].endswith(compiler)
    machine.program("cc")
    (machine.bin / "distccd").unlink(missing_ok=True)
    (machine.bin / "distcc").unlink(missing_ok=True)
    assert machine.run("packages.sh", "demo")[0] == 0
    assert machine.calls(manager)[-1].endswith(" " + distcc)


def test_only_make_test_installs_the_programs_of_tests(distccless: Machine) -> None:
    for program, package in TEST.items():
        distccless.package(package, program)
    assert distccless.run("packages.sh", "demo")[0] == 0
    assert distccless.calls("apt-get")[-1].endswith("--no-install-recommends distcc")
    assert distccless.run("packages.sh", "test")[0] == 0
    assert distccless.calls("apt-get")[-1].endswith(" " + " ".join(sorted(TEST.values())))


def test_root_needs_no_sudo(distccless: Machine) -> None:
    distccless.program("sudo")
    assert distccless.run("packages.sh", "demo") == (0, "set-up: installing distcc with apt-get\n")
    assert distccless.calls("sudo") == []


def test_a_user_installs_with_sudo_if_it_asks_for_no_password(distccless: Machine) -> None:
    distccless.user(1000)
    distccless.program("sudo", does='shift; "$@"')
    assert distccless.run("packages.sh", "demo")[0] == 0
    assert all(call.startswith("-n ") for call in distccless.calls("sudo"))
    assert len(distccless.calls("apt-get")) == 1


ASKING_SUDO = '[ "$1" = -n ] && exit 1; "$@"'


def test_sudo_may_ask_for_a_password_only_on_a_terminal(distccless: Machine) -> None:
    distccless.user(1000)
    distccless.program("sudo", does=ASKING_SUDO)
    status, said = distccless.run("packages.sh", "demo")
    assert status == 1
    assert distccless.calls("sudo") == ["-n true"]
    assert "run `sudo apt-get install distcc`" in said

    ours, theirs = os.openpty()
    try:
        assert distccless.run("packages.sh", "demo", stdin=theirs)[0] == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert distccless.calls("sudo")[-1].startswith("env DEBIAN_FRONTEND=noninteractive apt-get")


def test_package_lists_are_fetched_only_after_a_failed_install(distccless: Machine) -> None:
    distccless.manager("apt-get", f"test -e {distccless.path}/refreshed || exit 100")
    assert distccless.run("packages.sh", "demo")[0] == 0
    verbs = [
        call.removeprefix("-o DPkg::Lock::Timeout=120 ") for call in distccless.calls("apt-get")
    ]
    assert [verb.split()[0] for verb in verbs] == ["install", "update", "install"]


def test_a_package_that_does_not_exist_does_not_prevent_the_others(distccless: Machine) -> None:
    distccless.program(*TEST)
    (distccless.bin / "dmucs").unlink()
    status, said = distccless.run("packages.sh", "test")
    assert status == 0
    assert (distccless.bin / "distccd").exists()
    assert said.splitlines()[1:] == [
        "set-up: missing: dmucs, without which some of `make test` is skipped; "
        "apt-get could not install them, see build/setup.log"
    ]


@pytest.mark.parametrize(
    ("step", "ci", "status"),
    [
        ("setup", False, 0),
        ("setup", True, 1),
        ("test", False, 0),
        ("test", True, 1),
        ("demo", False, 1),
    ],
)
def test_without_distcc_tests_run_but_neither_the_demo_nor_ci(
    distccless: Machine, step: str, ci: bool, status: int
) -> None:
    distccless.user(1000)
    distccless.program(*TEST)
    got, said = distccless.run("packages.sh", step, ci=ci)
    assert got == status
    assert said.count("\n") == 1
    assert "missing: distcc distccd" in said
    assert "run `sudo apt-get install distcc`" in said


def test_without_a_compiler_set_up_fails(machine: Machine) -> None:
    status, said = machine.run("packages.sh", "build")
    assert status == 1
    assert said == (
        "set-up: missing: cc, which this needs; "
        "no package of them is known here: install them by hand\n"
    )


def test_a_service_that_its_package_started_is_stopped(distccless: Machine) -> None:
    distccless.program(
        "systemctl", does=f'test "$3-$2" = distcc-is-active -a -e {distccless.bin}/on'
    )
    distccless.script(distccless.packages / "distcc" / "on", "")
    assert distccless.run("packages.sh", "demo")[0] == 0
    assert distccless.calls("systemctl")[-1] == "disable --now distcc"


def test_a_service_that_ran_before_is_left_alone(distccless: Machine) -> None:
    distccless.program("systemctl")
    assert distccless.run("packages.sh", "demo")[0] == 0
    assert not any("disable" in call for call in distccless.calls("systemctl"))


def python(machine: Machine, *can: str, name: str = "python3") -> None:
    """Add a Python that can make a venv: "venv" by itself, "pip" into a bare one."""
    venv = machine.path / "venv-python"
    machine.script(venv, 'case "$*" in "-m pip --version") test -e .venv/pip ;; esac')
    bare = f"mkdir -p .venv/bin && cp {venv} .venv/bin/python"
    full = f"{bare} && touch .venv/pip"
    ensurepip = machine.bin / "ensurepip"
    machine.program(
        name,
        does=f"""
        can() {{ case " {" ".join(can)} " in *" $1 "*) ;; *) false ;; esac; }}
        case "$*" in
            *sys.executable*) echo {machine.bin}/{name} ;;
            *"print("*) echo python3.11-venv ;;
            "-m venv .venv") {bare}; can venv || test -e {ensurepip} || exit 1; {full} ;;
            "-m venv --without-pip .venv") {bare} ;;
            "-m pip --python .venv/bin/python install pip") can pip && {full} ;;
            *) exit 1 ;;
        esac""",
    )


MADE = """\
set-up: making .venv with {}/python3
set-up: installing compilefarm and its tools into .venv
"""


def test_a_venv_is_made_once(machine: Machine) -> None:
    python(machine, "venv")
    assert machine.run("venv.sh", ".venv/.stamp") == (0, MADE.format(machine.bin))
    assert (machine.tree / ".venv/.stamp").exists()
    assert machine.run("venv.sh", ".venv/.stamp")[1].count("\n") == 1
    assert machine.calls("python3").count("-m venv .venv") == 1


@pytest.mark.parametrize("harm", [".stamp", "pip", "bin/python"])
def test_a_broken_or_unfinished_venv_is_made_again(machine: Machine, harm: str) -> None:
    python(machine, "venv")
    machine.run("venv.sh")
    (machine.tree / ".venv" / harm).unlink()
    (machine.tree / ".venv/left-over").touch()
    assert machine.run("venv.sh") == (0, MADE.format(machine.bin))
    assert not (machine.tree / ".venv/left-over").exists()


@pytest.mark.parametrize("way", ["package", "pip", "virtualenv", "uv"])
def test_a_python_without_ensurepip_gets_its_venv_another_way(machine: Machine, way: str) -> None:
    python(machine, way)
    full = "mkdir -p .venv/bin && cp ../venv-python .venv/bin/python && touch .venv/pip"
    if way == "package":
        machine.package("python3.11-venv", "ensurepip")
        machine.manager("apt-get")
    elif way != "pip":
        machine.program(way, does=full)
    assert machine.run("venv.sh") == (0, MADE.format(machine.bin))
    assert (machine.tree / ".venv/pip").exists()


def test_one_line_says_that_no_venv_can_be_made(machine: Machine) -> None:
    python(machine)
    status, said = machine.run("venv.sh")
    assert status == 1
    assert "can make no virtual environment: install its venv module" in said.splitlines()[-1]
    assert not (machine.tree / ".venv").exists()


def test_an_old_python_is_skipped(machine: Machine) -> None:
    python(machine, "venv")
    machine.program("python3.13", "python3.12", does="exit 1")
    assert machine.run("venv.sh") == (0, MADE.format(machine.bin))


def test_one_line_says_that_there_is_no_python(machine: Machine) -> None:
    assert machine.run("venv.sh") == (
        1,
        "set-up: no Python 3.11 or newer found on PATH: install one, or name it: "
        "make setup PYTHON=/path/to/python3\n",
    )


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "  error: subprocess-exited-with-error\n src/gethost/main.c:3:1: error: no such thing",
            "src/gethost/main.c:3:1: error: no such thing",
        ),
        (
            "WARNING: Retrying after connection broken by x\nERROR: No matching distribution",
            "no connection to the Python package index (network, proxy or certificate)",
        ),
        ("ERROR: No matching distribution for rich", "ERROR: No matching distribution for rich"),
    ],
)
def test_one_line_says_why_pip_failed(machine: Machine, output: str, reason: str) -> None:
    python(machine, "venv")
    fails = f"cat <<'END'\n{output}\nEND\nexit 1"
    machine.script(machine.path / "venv-python", f'[ "$3" = --version ] && exit\n{fails}')
    status, said = machine.run("venv.sh")
    assert status == 1
    assert said.splitlines()[-1].startswith(
        "set-up: pip could not install compilefarm, see build/setup.log: "
    )
    assert said.rstrip().endswith(reason)
    assert not (machine.tree / ".venv/.stamp").exists()


@pytest.mark.needs("shellcheck")
def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    scripts = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci/run"]
    subprocess.run(["shellcheck", *scripts], check=True)


def test_make_alone_lists_the_targets() -> None:
    env = {"PATH": os.environ["PATH"]}
    said = subprocess.run(["make"], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    for target in ("setup", "demo", "test", "check", "bench", "clean", "help"):
        assert f"make {target} " in said.stdout


@pytest.mark.parametrize("ci", [False, True])
def test_a_test_whose_program_is_missing_is_skipped_and_fails_in_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: bool
) -> None:
    pytester.makeconftest((ROOT / "tests/conftest.py").read_text())
    pytester.makeini("[pytest]\nmarkers =\n    e2e\n    needs")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.e2e
        def test_farm(): pass

        @pytest.mark.needs("no-such-program")
        def test_other(): pass

        @pytest.mark.needs("sh")
        def test_sh(): pass
        """
    )
    bin_dir = pytester.mkdir("bin")
    (bin_dir / "sh").symlink_to("/bin/sh")
    (bin_dir / "distcc").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(bin_dir))
    monkeypatch.setenv("CI", "true" if ci else "")
    result = pytester.runpytest_inprocess("-rsf", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, errors=2 if ci else 0, skipped=0 if ci else 2)
    result.stdout.fnmatch_lines(["*not on PATH: cc, distccd*", "*not on PATH: no-such-program*"])
