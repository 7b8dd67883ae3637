"""The compiles that run on this machine and not on the farm, found by a script before the compiler.

The script is on PATH before the compiler, and records each compile. So the report at the end rests
on what happened, and not on what any program says should have happened.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from pathlib import Path

from compilefarm.demo import children


class LocalCompiles:
    """A script before the compiler on PATH that records each compile on this machine.

    distcc calls the same compiler to preprocess. The script runs that, and any other command that
    is not a compile, without a record.
    """

    def __init__(self, work: Path, path: str) -> None:
        self.directory = work / "local-compiler"
        self._log = work / "local-compiles.log"
        self.directory.mkdir()
        machine = children.run(["gcc", "-dumpmachine"], {"PATH": path}).stdout.strip()
        for name in ("gcc", "g++"):
            # distcc calls the compiler by its full name if there is one.
            for full_name in (name, f"{machine}-{name}"):
                compiler = shutil.which(full_name, path=path)
                if compiler is not None:
                    script = self.directory / full_name
                    script.write_text(self._script(compiler))
                    script.chmod(0o755)

    def _script(self, compiler: str) -> str:
        return f"""\
#!/bin/sh
case " $* " in
    *' -E '*) exec {shlex.quote(compiler)} "$@" ;;
    *' -c '*) ;;
    *) exec {shlex.quote(compiler)} "$@" ;;
esac
for source; do
    case $source in *.c | *.cc | *.cpp | *.cxx | *.C | *.S | *.s) break ;; esac
done
start=$(date +%s.%N)
{shlex.quote(compiler)} "$@"
status=$?
printf '%s %s %s\\n' "$start" "$(date +%s.%N)" "$source" >>{shlex.quote(str(self._log))}
exit $status
"""

    def intervals(self) -> list[tuple[str, float, float]]:
        """Return source, start and end of each compile so far, in seconds since the epoch."""
        found = []
        with contextlib.suppress(OSError):
            for line in self._log.read_text(errors="replace").splitlines():
                start, _, rest = line.partition(" ")
                end, _, source = rest.partition(" ")
                with contextlib.suppress(ValueError):
                    found.append((source, float(start), float(end)))
        return found
