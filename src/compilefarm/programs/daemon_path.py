"""Where to look for distccd and other daemons, which are often outside a user's PATH."""

from __future__ import annotations

import os

DAEMON_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def daemon_path() -> str:
    """Return the user's PATH, followed by the directories of daemons."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *DAEMON_DIRECTORIES))
