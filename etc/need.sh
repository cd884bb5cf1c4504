#!/bin/sh
# Says what is needed beyond Rust and make; installs it if this is root on Debian, else lists it and fails.
# Argument: what for: `build` (the default), `demo` or `test`; each needs what the one before it needs.
set -eu
purpose=${1:-build}
case $purpose in
    build | demo | test) ;;
    *) echo "usage: $0 [build|demo|test]" >&2; exit 2 ;;
esac
missing=""
need() { # need PROGRAM PACKAGE
    # The directories for administrators too: a user's PATH may lack them.
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
echo "Needed beyond Rust and make: gcc, the C library's headers and static archive (libc6-dev), perl (OpenSSL is built from source)."
need gcc gcc
need perl perl
[ -n "$(find /usr/lib -name libc.a 2>/dev/null | head -n 1)" ] || missing="$missing libc6-dev"
if [ "$purpose" != build ]; then
    echo "For hosts over SSH on this machine: openssh-server, openssh-client, util-linux, and sudo if this is root. No service is started."
    need sshd openssh-server
    need ssh-keygen openssh-client
    need nsenter util-linux
    # Without root nobody but the caller can log in to such a host, and sudo cannot work there.
    [ "$(id -u)" != 0 ] || need sudo sudo
fi
if [ "$purpose" = test ]; then
    echo "For the tests also: dropbear-bin, busybox-static, openssl, podman, runc, strace, iproute2 and iptables (used in network namespaces"
    echo "of the tests' own), python3 with python3-venv (the examples of the driver exec, and moto,"
    echo "which answers as EC2 does: its packages come from PyPI into target/)."
    need dropbear dropbear-bin
    need busybox busybox-static
    need openssl openssl
    need podman podman
    need runc runc
    need strace strace
    need ip iproute2
    need iptables iptables
    need python3 python3
    # Both are parts of Python that Debian has in packages of their own; pip comes with the second.
    python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing python3-venv"
fi
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing:$missing"
    # A mirror may be out of reach for a moment.
    apt-get -o Acquire::Retries=5 update -q
    # Packages ask this program whether they may start services; 101 is no. One that is there already stays as it is.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ] && [ ! -L "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 1' HUP INT TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    # shellcheck disable=SC2086 # a list of package names
    DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=5 install -q -y --no-install-recommends $missing
else
    echo "Not installed here; please install:$missing" >&2
    exit 1
fi
