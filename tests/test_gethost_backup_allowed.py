"""Which compiles gethost lets have a backup: those that may run twice."""

from __future__ import annotations

import pytest
from gethost_backups import COMPILE
from gethost_program import PATIENCE_S, Gethost, Server

# ---- which compiles can have one -----------------------------------------------------------------

MAY_RUN_TWICE = [
    "-c main.c -o main.o",
    "-c main.c -omain.o",
    "-S main.c -o main.s",
    "-o old.o -c main.c",
    "-O2 -g -Wall -Wextra -Werror=format -std=gnu11 -fPIC -pthread -pipe -c main.c -o main.o",
    "-DX=1 -D Y -UZ -I. -I include -isystem . -include x.h -iquote . -c main.c -o main.o",
    "-m64 -mavx2 -fvisibility=hidden -fno-plt -flto=auto --param max-inline=5 -c main.c -o main.o",
    "-Wp,-D_FORTIFY_SOURCE=3 -Wp,-U_GNU_SOURCE -Wa,--noexecstack -c main.c -o main.o",
    "-fdiagnostics-color=always -fmodulo-sched -foptimize-strlen -c main.c -o main.o",
    "-c main.c -o main.o -MD -MF main.d -MT main.o",
    "-c main.c -o main.o -MMD -MFmain.d -MQmain.o",
    "-MT main.o -MD -MP -MF .deps/main.Tpo -c -o main.o main.c",
    "-MD -MT main.o -MF old.d -o main.o -c main.c",
    "-MD -MT a -MT b -MF main.d -c main.c -o main.o",
    "-c main.i -o main.o",
]
MAY_NOT = [
    # The object: not named, or not one that a file can be renamed over.
    "-c main.c",
    "-c main.c main.o",
    "-c main.c -o /dev/null",
    "-c main.c -o link.o",
    "-c main.c -o directory.o",
    "-c main.c -o old.o/main.o",
    # Dependencies: where they go, and of what they are, must be said.
    "-c main.c -o main.o -MD",
    "-c main.c -o main.o -MD -MT main.o",
    "-c main.c -o main.o -MD -MF main.d",
    "-c main.c -o main.o -MF main.d -MT main.o",
    "-c main.c -o main.o -MD -MF link.d -MT main.o",
    "-c main.c -o main.o -MD -MF /dev/null -MT main.o",
    "-c main.c -o main.o -MD -MF a.d -MF b.d -MT main.o",
    "-c main.i -o main.o -MD -MF main.d -MT main.o",
    "-c main.c -o main.o -MMD -MG -MF main.d -MT main.o",
    "-c main.c -o main.o -Wp,-MD,main.d",
    "-c main.c -o main.o -Wp,-MMD,main.d",
    "-c main.c -o main.o -Wp,-DX,-MD,main.d",
    "-c main.c -o main.o -Xpreprocessor -MD -MF main.d -MT main.o",
    # Other files, or who knows.
    "@args -o main.o",
    "-c main.c -o main.o @missing",
    "-c main.c -o main.o -save-temps",
    "-c main.c -o main.o -save-temps=obj",
    "-c main.c -o main.o --save-temps",
    "-c main.c -o main.o -g -gsplit-dwarf",
    "-c main.c -o main.o -fdump-tree-all",
    "-c main.c -o main.o -fdeps-format=p1689r5",
    "-c main.c -o main.o -fstack-usage",
    "-c main.c -o main.o -fcallgraph-info",
    "-c main.c -o main.o -fsave-optimization-record",
    "-c main.c -o main.o -fopt-info-vec=x",
    "-c main.c -o main.o -fdiagnostics-format=sarif-file",
    "-c main.c -o main.o -ftime-trace",
    "-c main.c -o main.o -fplugin=x",
    "-c main.c -o main.o -fmodules",
    "-c main.c -o main.o -fsyntax-only",
    "-c main.c -o main.o -fpreprocessed",
    "-c main.c -o main.o -aux-info x",
    "-c main.c -o main.o -dumpdir x",
    "-c main.c -o main.o -da",
    "-c main.c -o main.o -Wa,-o,x",
    "-c main.c -o main.o -mllvm -stats",
    "-c main.c -o main.o -Xclang -x",
    "-c main.c -o main.o -serialize-diagnostics x",
    "-x c -c main.c -o main.o",
    "-c main.c -o main.o --an-option-of-the-future",
]


def asks_for_backups(gethost: Gethost, server: Server, *words: str, **environment: str) -> bool:
    gethost.environment |= environment
    process = gethost.start(*words)
    connection = server.accept()
    request = connection.receive("request")
    connection.send("refused reason=x")
    process.wait(PATIENCE_S)
    assert request.get("backup") in (None, "yes")
    return "backup" in request


@pytest.mark.parametrize("words", [*MAY_RUN_TWICE, *MAY_NOT])
def test_what_may_run_twice(gethost: Gethost, server: Server, words: str) -> None:
    gethost.program("distcc", "exit 0")
    for name in ("old.o", "old.d"):
        (gethost.directory / name).touch()
        (gethost.directory / name.replace("old", "link")).symlink_to(name)
    (gethost.directory / "directory.o").mkdir()
    (gethost.directory / "args").write_text("-c main.c")
    asks = asks_for_backups(gethost, server, "distcc", "cc", *words.split())
    assert asks == (words in MAY_RUN_TWICE)


def test_only_what_distcc_compiles_may_run_twice(gethost: Gethost, server: Server) -> None:
    gethost.program("distcc", "exit 0")
    assert asks_for_backups(gethost, server, *COMPILE)
    assert not asks_for_backups(gethost, server, "env", *COMPILE)
    for variable in ("INCLUDE_SERVER_PORT", "DEPENDENCIES_OUTPUT", "SUNPRO_DEPENDENCIES"):
        assert not asks_for_backups(gethost, server, *COMPILE, **{variable: "x"})
        del gethost.environment[variable]
