#!/bin/sh
# Installs missing programs that compilefarm works with, from the system's packages.
#
#   scripts/packages.sh build|setup|demo|test|bench   what that step needs
#   scripts/packages.sh add PACKAGE...                these packages (only with apt; for venv.sh)
#
# Root installs directly. Other users install with sudo, if it needs no password or there is a
# terminal to type it. An unattended run never waits for an answer. One line names what cannot be
# installed. A missing C compiler is an error, and so is a missing distcc for the demo. The rest is
# a note, because tests that miss a program are skipped. In CI (CI=true), nothing may be missing.
set -u
cd "$(dirname "$0")/.." || exit 1
step=${1:-}
log=build/setup.log
terminal=no
[ -t 0 ] && [ "${CI:-}" != true ] && terminal=yes

# Each line is a program, the steps that need it, and its packages ("-": none). All steps need the
# programs of build, and all but build need those of demo.
programs() {
    cat <<'END'
#                steps       apt               dnf                   pacman            brew
cc               build       gcc,libc6-dev     gcc,glibc-devel       gcc               -
make             demo        make              make                  make              make
tar              demo        tar               tar                   tar               -
distcc           demo        distcc            distcc                distcc            distcc
distccd          demo        distcc            distcc-server         distcc            distcc
cmake            test        cmake             cmake                 cmake             cmake
ninja            test        ninja-build       ninja-build           ninja             ninja
ccache           test        ccache            ccache                ccache            ccache
shellcheck       test        shellcheck        ShellCheck            shellcheck        shellcheck
pipx             test        pipx              pipx                  python-pipx       pipx
sanitizers       test        gcc               libasan,libubsan      gcc               -
dmucs            test,bench  dmucs             -                     -                 -
ip               test        iproute2          iproute               iproute2          -
# A desktop, for watch-ssaver.
Xvfb             test,bench  xvfb              xorg-x11-server-Xvfb  xorg-server-xvfb  -
xdotool          test,bench  xdotool           xdotool               xdotool           -
xscreensaver     test        xscreensaver      xscreensaver-base     xscreensaver      -
sway             test        sway              sway                  sway              -
swayidle         test        swayidle          swayidle              swayidle          -
wtype            test        wtype             wtype                 wtype             -
dbus-daemon      test        dbus-daemon       dbus-daemon           dbus              -
dbus-send        test        dbus-bin          dbus-tools            dbus              -
dbusmock         test        python3-dbusmock  python3-dbusmock      python-dbusmock   -
systemd-analyze  test        systemd           systemd               systemd           -
END
}

say() {
    echo "set-up: $*" >&2
}

has() {
    case $1 in
        # A compiler without the C library's headers is no use.
        cc) echo '#include <stdio.h>' | cc -x c -fsyntax-only - ;;
        sanitizers) echo 'int main(void) { return 0; }' |
            cc -x c -fsanitize=address,undefined -o /dev/null - ;;
        # A module of the system's Python, which may differ from the Python on PATH.
        dbusmock) "${SYSTEM_PYTHON:-/usr/bin/python3}" -c 'import dbusmock' ;;
        *) command -v "$1" ;;
    esac >/dev/null 2>&1
}

# Prints the programs that $step needs and the machine lacks; "missing packages" prints their
# packages.
missing() {
    programs | while read -r program steps apt dnf pacman brew; do
        case $steps in
            build) ;;
            demo) [ "$step" = build ] && continue ;;
            *) case ,$steps, in *,"$step",*) ;; *) continue ;; esac ;;
        esac
        has "$program" && continue
        case ${1:-programs}:$manager in
            programs:*) echo "$program" ;;
            packages:apt-get) echo "$apt" ;;
            packages:dnf) echo "$dnf" ;;
            packages:pacman) echo "$pacman" ;;
            packages:brew) echo "$brew" ;;
        esac
    done | tr ',' '\n' | grep -vx -e - | sort -u | tr '\n' ' ' | sed 's/ $//'
}

find_manager() {
    for manager in apt-get dnf pacman brew; do
        command -v "$manager" >/dev/null && return
    done
    manager=
}

# Finds out how this user installs packages, and sets $root, the words before the command.
may_install() {
    if [ "$manager" = brew ] || [ "$(id -u)" -eq 0 ]; then
        root=
    elif ! command -v sudo >/dev/null; then
        return 1
    elif sudo -n true 2>/dev/null; then
        root='sudo -n'
    elif [ $terminal = yes ]; then
        root=sudo
    else
        return 1
    fi
}

run_manager() {
    # shellcheck disable=SC2086  # $root is words
    case $manager:$1 in
        apt-get:install) shift && $root env DEBIAN_FRONTEND=noninteractive apt-get \
            -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$@" ;;
        apt-get:refresh) $root apt-get update ;;
        dnf:install) shift && $root dnf install -y "$@" ;;
        dnf:refresh) $root dnf makecache ;;
        pacman:install) shift && $root pacman -S --needed --noconfirm "$@" ;;
        pacman:refresh) $root pacman -Sy ;;
        brew:install) shift && brew install "$@" ;;
        brew:refresh) brew update ;;
    esac >>"$log" 2>&1 </dev/null
}

# Installs all packages at once. If that fails, the package lists may be old or absent. It then
# fetches them and installs each package alone, so that an unknown one does not stop the others.
install() {
    mkdir -p build
    running=$(running_service)
    say "installing $* with $manager"
    if ! run_manager install "$@"; then
        run_manager refresh
        for package; do
            run_manager install "$package"
        done
    fi
    # compilefarm starts its own distccd, open to the farm's networks only. The distributions that
    # we know do not start theirs. If a package did, that distccd might be open to other networks.
    started=$(running_service)
    if [ -n "$started" ] && [ -z "$running" ]; then
        # shellcheck disable=SC2086
        $root systemctl disable --now "$started" >>"$log" 2>&1
    fi
}

running_service() {
    command -v systemctl >/dev/null || return
    for service in distcc distccd; do
        systemctl --quiet is-active "$service" 2>/dev/null && echo "$service" && return
    done
}

find_manager
case $step in
    build | setup | demo | test | bench) ;;
    add)
        shift
        [ "$manager" = apt-get ] && may_install && install "$@"
        exit
        ;;
    *)
        say "scripts/packages.sh: which step? Say build, setup, demo, test or bench"
        exit 2
        ;;
esac

programs=$(missing)
[ -z "$programs" ] && exit
packages=$(missing packages)
if [ -z "$packages" ]; then
    why="no package of them is known here: install them by hand"
elif ! may_install; then
    why="installing needs root's rights: run \`sudo $manager install $packages\`"
else
    # shellcheck disable=SC2086  # $packages is words
    install $packages
    programs=$(missing)
    [ -z "$programs" ] && exit
    why="$manager could not install them, see $log"
fi
[ "$manager" = pacman ] && why=$(echo "$why" | sed 's/pacman install/pacman -S/')

case $step:${CI:-} in
    build:* | demo:* | *:true)
        say "missing: $programs, which this needs; $why"
        exit 1
        ;;
    setup:*) say "missing: $programs, without which the demo cannot run and some tests are skipped; $why" ;;
    *) say "missing: $programs, without which some of \`make $step\` is skipped; $why" ;;
esac
