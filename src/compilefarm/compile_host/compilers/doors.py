"""The doors of a host: the names that its distccd accepts, and the program behind each.

distccd reads a list of programs, one absolute path a line (`DISTCC_CMDLIST`). It looks a request's
name up by the last part of the paths, and runs the path. So a door is a link in a folder of ours,
which is called NAME-ID and leads to the compiler with this id.

The list also has the names that distccd accepts without a list. Old builders use them, and so does
a compile whose compiler has no id. If PATH has no such program, the line is a path at which there
is none. Then distccd answers that it cannot run the compiler, as it does without a list. If the
name were missing, distccd would close the connection, which looks like a host that fails.

This module must not know how a compiler is identified, or when the list changes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from compilefarm.compile_host.compilers.identify import Compiler


class Doors:
    """The doors in a folder, and the list for distccd beside them."""

    def __init__(self, folder: Path) -> None:
        self._links = folder / "links"
        self.list_file = folder / "list"

    def open(self, compilers: Iterable[Compiler], plain: Mapping[str, str | None]) -> bool:
        """Let distccd accept doors to these compilers, and the plain names; close other doors.

        `plain` has the program for each name, or None. A door is closed before the list is written:
        distccd's workers keep the list that they have read. Return whether the list has changed.
        Raises `OSError`.
        """
        # The file itself, because a link such as /usr/bin/cc may lead to another one at any time.
        wanted = {each.door: os.path.realpath(each.path) for each in compilers}
        _make_directory(self._links)
        for link in self._links.iterdir():
            if wanted.get(link.name) != str(link.readlink()):
                link.unlink()
        for name, path in wanted.items():
            with contextlib.suppress(FileExistsError):
                (self._links / name).symlink_to(path)
        lines = [str(self._links / name) for name in wanted]
        lines += [
            program or str(self._links / name)
            for name, program in plain.items()
            if name not in wanted and "\n" not in (program or name)
        ]
        return self._write("".join(f"{line}\n" for line in lines))

    def _write(self, text: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            if self.list_file.read_text(errors="surrogateescape") == text:
                return False
        new = self.list_file.with_suffix(".new")
        new.write_text(text, errors="surrogateescape")
        new.chmod(0o644)  # whatever the umask is, distccd's user must read it
        new.replace(self.list_file)
        return True


def _make_directory(path: Path) -> None:
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
