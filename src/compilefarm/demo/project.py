"""What the demonstration builds: libsodium, or a project of the user's own.

libsodium is real C code with over a hundred files, and compiles in seconds. Its source is part of
the source of the Python package PyNaCl. So the demonstration needs only pip, with whatever mirror
or proxy it is set up for. The source is kept after the first run, and then needs no network.

This module knows how a project is prepared, built and checked. It must not know farms: the commands
that use one are arguments.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compilefarm.demo import children

VERSION = "1.5.0"
ARCHIVE = f"PyNaCl-{VERSION}.tar.gz"
ARCHIVE_SHA256 = "8ac7448f09ab85811607bdd21ec2464495ac8b7c66d146bf545b0f08fb9220ba"
SODIUM = f"PyNaCl-{VERSION}/src/libsodium"
FETCH_LIMIT_S = 120

# Before pip delivers a package's source, it builds the metadata, in an environment that it first
# fills with build tools. That takes half a minute for a file of 3 MB. With this module in place of
# those tools it takes two seconds.
_METADATA_ONLY = f"""\
from pathlib import Path

def prepare_metadata_for_build_wheel(directory, config_settings=None):
    metadata = Path(directory, "PyNaCl-{VERSION}.dist-info", "METADATA")
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\\nName: PyNaCl\\nVersion: {VERSION}\\n")
    return metadata.parent.name
"""

# It calls the library, so it fails if an object file exists but is wrong.
_CHECK = """\
#include <sodium.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    static const char known[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    unsigned char hash[32], key[32] = {1}, nonce[24] = {2}, sealed[21], opened[5];
    char hex[65];

    if (sodium_init() < 0)
        return 1;
    crypto_hash_sha256(hash, (const unsigned char *)"abc", 3);
    if (strcmp(sodium_bin2hex(hex, sizeof hex, hash, sizeof hash), known) != 0)
        return 2;
    crypto_secretbox_easy(sealed, (const unsigned char *)"hello", 5, nonce, key);
    if (crypto_secretbox_open_easy(opened, sealed, sizeof sealed, nonce, key) != 0)
        return 3;
    printf("libsodium %s works\\n", sodium_version_string());
    return memcmp(opened, "hello", 5) != 0;
}
"""


class ProjectError(Exception):
    """The project cannot be fetched, prepared or built; the text is one line for the user."""


@dataclass(frozen=True, slots=True)
class Project:
    """A directory in which `make` builds a project, and the project's name."""

    name: str
    directory: Path


def own_project(directory: Path) -> Project:
    """Return the user's project in a directory; raises `ProjectError` without a Makefile."""
    if not any((directory / name).is_file() for name in ("GNUmakefile", "makefile", "Makefile")):
        raise ProjectError(f"there is no Makefile in {directory}; --project needs one")
    return Project(directory.resolve().name, directory.resolve())


def libsodium(directory: Path, log: Path, environment: Mapping[str, str]) -> Project:
    """Unpack and configure libsodium in an empty directory; raises `ProjectError`.

    configure's many tiny compiles do not use the farm. Each waits for the one before, so a farm
    could only make them slower.
    """
    archive = _cached_archive()
    try:
        with tarfile.open(archive) as tar:
            # The digest already proves the archive; the filter is cheap where Python has it.
            if hasattr(tarfile, "data_filter"):
                tar.extraction_filter = tarfile.data_filter
            tar.extractall(
                directory, [member for member in tar if member.name.startswith(SODIUM + "/")]
            )
    except (OSError, tarfile.TarError) as error:
        raise ProjectError(f"cannot unpack {archive}: {error}") from None
    source = directory / SODIUM
    command = ["./configure", "--disable-shared", "--disable-dependency-tracking", "CC=gcc"]
    ran = children.run(command, environment, source)
    log.write_text(ran.stdout + ran.stderr)
    if ran.returncode != 0:
        raise ProjectError(f"libsodium's configure failed with status {ran.returncode}, see {log}")
    return Project("libsodium", source)


def expected_compiles(
    project: Project, make: list[str], compiler: str, environment: Mapping[str, str]
) -> int | None:
    """Return the number of compiles of a make command; None if make cannot tell."""
    dry_run = children.run([*make, "--dry-run"], environment, project.directory)
    compiles = sum(compiler in line and " -c " in line for line in dry_run.stdout.splitlines())
    return compiles or None


def check_libsodium(project: Project, environment: Mapping[str, str]) -> str:
    """Link a small program with the library and run it; return its output.

    Raises `ProjectError` if the library does not work.
    """
    library = project.directory / "src/libsodium/.libs/libsodium.a"
    include = project.directory / "src/libsodium/include"
    check = project.directory / "check.c"
    check.write_text(_CHECK)
    program = check.with_suffix("")
    link: list[str | Path] = ["gcc", "-o", program, check, f"-I{include}", library, "-lpthread"]
    for command in (link, [program]):
        ran = children.run(command, environment)
        if ran.returncode != 0:
            why = f"status {ran.returncode}, {children.last_line(ran.stderr)}"
            raise ProjectError(f"the library that was built does not work: {why}")
    return ran.stdout.strip()


def _cached_archive() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compilefarm"
    archive = cache / ARCHIVE
    if _is_genuine(archive):
        return archive
    with tempfile.TemporaryDirectory(prefix="compilefarm-fetch-") as name:
        fetched = _fetch(Path(name))
        if not _is_genuine(fetched):
            raise ProjectError(f"{ARCHIVE}, as pip fetched it, has a wrong SHA-256")
        try:
            cache.mkdir(parents=True, exist_ok=True)
            # Another demonstration may do the same, so the name appears only for a complete file.
            partial = cache / f"{ARCHIVE}.{os.getpid()}"
            shutil.copyfile(fetched, partial)
            partial.replace(archive)
        except OSError as error:
            raise ProjectError(f"cannot write {cache}: {error.strerror}") from None
    return archive


def _fetch(directory: Path) -> Path:
    """Fetch the archive with this Python's pip; raises `ProjectError`."""
    backend = directory / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(_METADATA_ONLY)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    command += ["--retries", "1", "--timeout", "10", "--dest", str(directory), f"PyNaCl=={VERSION}"]
    last = ""
    with contextlib.suppress(subprocess.TimeoutExpired):
        environment = os.environ | {"PYTHONPATH": str(backend.parent)}
        ran = children.run(command, environment, limit_s=FETCH_LIMIT_S)
        if ran.returncode == 0 and (directory / ARCHIVE).is_file():
            return directory / ARCHIVE
        last = children.last_line(ran.stderr)
    if "No module named pip" in last:
        raise ProjectError(f"{sys.executable} has no pip to fetch {ARCHIVE} with; install it")
    raise ProjectError(
        f"pip could not fetch {ARCHIVE}, and no copy is kept from an earlier run; is there a "
        "network? (--project DIR builds a project of your own)"
    )


def _is_genuine(archive: Path) -> bool:
    try:
        return hashlib.sha256(archive.read_bytes()).hexdigest() == ARCHIVE_SHA256
    except OSError:
        return False
