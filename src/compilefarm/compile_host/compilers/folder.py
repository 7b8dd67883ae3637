"""The folder that holds a host's doors while it is enabled.

A distccd that root starts becomes another user, who cannot enter the run directory. So root's
folder is elsewhere, and the run directory says where. Only its owner can write to it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from compilefarm.compile_host.run_directory import RunDirectory

_REMEMBERED_AS = "doors-folder"


def make_folder(run: RunDirectory) -> Path:
    """Make an empty folder for the doors of a host; raises `OSError`."""
    remove_folder(run)
    if os.geteuid() == 0:
        base = "/run" if Path("/run").is_dir() else None
        folder = Path(tempfile.mkdtemp(prefix="compilefarm-doors-", dir=base))
    else:
        folder = run.path / "doors"
        folder.mkdir()
    run.remember(_REMEMBERED_AS, str(folder))
    folder.chmod(0o755)
    return folder


def remove_folder(run: RunDirectory) -> None:
    """Remove the folder for the doors of a host, if there is one."""
    if folder := run.remembered(_REMEMBERED_AS):
        shutil.rmtree(folder, ignore_errors=True)
        run.remember(_REMEMBERED_AS, "")
