#!/bin/sh
# Installs the programs for use, or removes them.
#
#   scripts/install.sh PREFIX          installs; over an older version, too
#   scripts/install.sh --remove PREFIX
#
# PREFIX/lib/compilefarm becomes a virtual environment. PREFIX/bin gets a link to each of our
# programs and nothing else. The environment's own bin directory must not be on PATH: its python3
# and pip would hide the user's. A build that runs python3 would then miss the modules that it
# needs.
set -u

say() {
    echo "set-up: $*" >&2
}

die() {
    say "$@"
    exit 1
}

# Removes our links, those to programs that are no more included.
unlink_programs() {
    for link in "$bin"/*; do
        case $(readlink "$link") in "$venv"/bin/*) rm "$link" ;; esac
    done
}

# Prints the names of the programs that pip put into the environment for this package.
programs() {
    "$venv/bin/python" -c 'from importlib.metadata import files
for file in files("compilefarm"):
    file.parent.name == "bin" and print(file.name)' | grep . || die "$venv holds no programs: remove it, and install again"
}

remove=no
[ "${1:-}" = --remove ] && remove=yes && shift
[ $# -eq 1 ] || die "scripts/install.sh: where to? Say scripts/install.sh [--remove] PREFIX"
mkdir -p "$1" || exit 1
prefix=$(cd "$1" && pwd) || exit 1
cd "$(dirname "$0")/.." || exit 1
venv=$prefix/lib/compilefarm
bin=$prefix/bin

if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ]; then
    die "$venv exists and was not made by this program: remove it, or choose another PREFIX"
fi
if [ $remove = yes ]; then
    unlink_programs
    rm -rf "$venv"
    exit
fi

scripts/venv.sh "$venv/.stamp" . || exit 1
mkdir -p "$bin" || exit 1
unlink_programs
taken=
programs=$(programs) || exit 1
for program in $programs; do
    if [ -e "$bin/$program" ] || [ -L "$bin/$program" ]; then
        taken="$taken $program"
    else
        ln -s "$venv/bin/$program" "$bin/$program" || exit 1
    fi
done
[ -z "$taken" ] || die "in $bin there are other programs named$taken: remove them, or choose another PREFIX"
if [ "$(command -v gethost)" = "$bin/gethost" ]; then
    say "compilefarm is installed in $bin"
else
    say "compilefarm is installed in $bin, which your PATH lacks: log in again, or run \`export PATH=$bin:\$PATH\`"
fi
