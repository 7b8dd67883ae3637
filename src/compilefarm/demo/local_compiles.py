"""The compiles that ran on this machine and not on the farm, found by a script before gethost.

The script is on PATH before gethost, and records each compile that succeeds. Those that the server
recorded ran on the farm; the others ran here. So the report at the end rests on what happened, and
not on what gethost says should have happened. The script is not before the compiler, because
gethost sends no compile by a script to the farm.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path


class LocalCompiles:
    """A script before gethost on PATH that records each compile."""

    def __init__(self, work: Path, path: str) -> None:
        self.directory = work / "recorder"
        self._log = work / "compiles.log"
        self.directory.mkdir()
        gethost = shutil.which("gethost", path=path)
        if gethost is not None:
            script = self.directory / "gethost"
            script.write_text(self._script(gethost))
            script.chmod(0o755)

    def _script(self, gethost: str) -> str:
        return f"""\
#!/bin/sh
case " $* " in
    *' -c '*) ;;
    *) exec {shlex.quote(gethost)} "$@" ;;
esac
for source; do
    case $source in *.c | *.cc | *.cpp | *.cxx | *.C | *.S | *.s) break ;; esac
done
start=$(date +%s.%N)
{shlex.quote(gethost)} "$@" || exit
printf '%s %s %s\\n' "$start" "$(date +%s.%N)" "$source" >>{shlex.quote(str(self._log))}
"""

    def intervals(self, on_the_farm: Iterable[str]) -> list[tuple[str, float, float]]:
        """Return source, start and end of each compile here so far, in seconds since the epoch.

        `on_the_farm` are the sources that the farm compiled. If it compiled one of several sources
        of one name, it does not matter which one counts as compiled here.
        """
        left = Counter(on_the_farm)
        found = []
        with contextlib.suppress(OSError):
            for line in self._log.read_text(errors="replace").splitlines():
                start, _, rest = line.partition(" ")
                end, _, source = rest.partition(" ")
                if left[source] > 0:
                    left[source] -= 1
                    continue
                with contextlib.suppress(ValueError):
                    found.append((source, float(start), float(end)))
        return found
