#!/bin/sh
# Makes .venv, with this package (editable) and the tools of its developers in it.
#
#   scripts/venv.sh STAMP   STAMP, a file in .venv, is touched when everything is in place
#
# .venv belongs to this script: one without the stamp was left half-made by an interrupted run, one that
# does not work lost its Python to an upgrade of the system, and both are made anew. Debian ships Python
# without what its venv module needs (the package python3-venv), so there are several ways to make one.
#
# PYTHON=/path/to/python chooses the Python.
set -u
cd "$(dirname "$0")/.." || exit 1
stamp=${1:-.venv/.stamp}
venv_python=.venv/bin/python
log=build/setup.log

say() {
    echo "set-up: $*" >&2
}

die() {
    say "$@"
    exit 1
}

# Prints the path of the first Python that is new enough. A name on PATH may be a stand-in that finds the
# real one at every start (pyenv), or nothing at all; so each is asked.
find_python() {
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        "$candidate" -c 'import sys; sys.version_info < (3, 11) and sys.exit(1); print(sys.executable)' \
            2>/dev/null && return
    done
    return 1
}

works() {
    "$venv_python" -m pip --version >/dev/null 2>&1
}

by_venv() {
    "$python" -m venv .venv
}

by_packaged_venv() {
    scripts/packages.sh add "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" &&
        by_venv
}

# The system's pip installs a pip into a venv that has none.
by_system_pip() {
    "$python" -m venv --without-pip .venv || return
    for pip in "$python -m pip" pip3 pip; do
        $pip --python "$venv_python" install pip && return
    done
    return 1
}

by_virtualenv() {
    virtualenv --python "$python" .venv
}

by_uv() {
    uv venv --seed --python "$python" .venv
}

make_venv() {
    python=$(find_python || { scripts/packages.sh add python3 && find_python; }) ||
        die "no Python 3.11 or newer found on PATH: install one, or name it: make setup PYTHON=/path/to/python3"
    say "making .venv with $python"
    for way in venv packaged_venv system_pip virtualenv uv; do
        rm -rf .venv
        "by_$way" >>"$log" 2>&1 && works && return
    done
    rm -rf .venv
    die "$python can make no virtual environment: install its venv module (Debian: python3-venv), or virtualenv, or uv"
}

# Prints the line of pip's output that says why it failed; a compiler's own line says more than pip's
# about it, and behind a missing network pip sees a missing package.
pip_failure() {
    if grep -q 'connection broken by' "$1"; then
        echo "no connection to the Python package index (network, proxy or certificate)"
    else
        grep -m 1 -E '\.[ch]:[0-9]+:[0-9]+: (fatal )?error: ' "$1" ||
            grep -E '^ *ERROR: ' "$1" | tail -n 1 | grep . ||
            grep -m 1 -E '^ *error: ' "$1"
    fi
}

mkdir -p build
if [ ! -e "$stamp" ] || ! works; then
    make_venv
fi
say "installing compilefarm and its tools into .venv"
# Or the build would take the compiler that Python was built with, which need not be on this machine.
export CC="${CC:-cc}"
if ! "$venv_python" -m pip install --disable-pip-version-check --editable '.[dev]' >"$log.pip" 2>&1; then
    cat "$log.pip" >>"$log"
    die "pip could not install compilefarm, see $log: $(pip_failure "$log.pip")"
fi
rm -f "$log.pip"
touch "$stamp"
