#!/bin/sh
# Makes a virtual environment with this package in it.
#
#   scripts/venv.sh [STAMP [WHAT...]]
#
# STAMP is a file in the environment, .venv/.stamp by default; this script touches it when it is
# done.
# WHAT is what pip installs: by default this package, editable, with the tools of its developers.
#
# The environment belongs to this script. Without the stamp it is half made: a run was interrupted.
# If it does not work, a system upgrade removed its Python. In both cases it is made anew. Debian's
# Python lacks what its venv module needs (package python3-venv), so there are several ways to make
# one.
#
# PYTHON=/path/to/python chooses the Python.
set -u
cd "$(dirname "$0")/.." || exit 1
stamp=${1:-.venv/.stamp}
venv=$(dirname "$stamp")
venv_python=$venv/bin/python
log=build/setup.log
if [ $# -gt 1 ]; then
    shift
    name=compilefarm
else
    set -- --editable '.[dev]'
    name="compilefarm and its tools"
fi

say() {
    echo "set-up: $*" >&2
}

die() {
    say "$@"
    exit 1
}

# Prints the path of the first Python that is new enough. Each candidate is run: a name on PATH may
# lead nowhere, or to a stand-in that looks for the real Python at every start (pyenv).
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
    "$python" -m venv "$venv"
}

by_packaged_venv() {
    scripts/packages.sh add "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" &&
        by_venv
}

# The system's pip installs a pip into a venv that has none.
by_system_pip() {
    "$python" -m venv --without-pip "$venv" || return
    for pip in "$python -m pip" pip3 pip; do
        $pip --python "$venv_python" install pip && return
    done
    return 1
}

by_virtualenv() {
    virtualenv --python "$python" "$venv"
}

by_uv() {
    uv venv --seed --python "$python" "$venv"
}

make_venv() {
    python=$(find_python || { scripts/packages.sh add python3 && find_python; }) ||
        die "no Python 3.11 or newer found on PATH: install one, or name it: make setup PYTHON=/path/to/python3"
    say "making $venv with $python"
    for way in venv packaged_venv system_pip virtualenv uv; do
        rm -rf "$venv"
        "by_$way" >>"$log" 2>&1 && works && return
    done
    rm -rf "$venv"
    die "$python can make no virtual environment: install its venv module (Debian: python3-venv), or virtualenv, or uv"
}

# Prints the line of pip's output that says why it failed. A compiler's own line says more than
# pip's. Without a network, pip reports a missing package.
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
say "installing $name into $venv"
# Otherwise the build takes the compiler that Python was built with, which may be absent here.
export CC="${CC:-cc}"
if ! "$venv_python" -m pip install --disable-pip-version-check "$@" >"$log.pip" 2>&1; then
    cat "$log.pip" >>"$log"
    die "pip could not install compilefarm, see $log: $(pip_failure "$log.pip")"
fi
rm -f "$log.pip"
touch "$stamp"
