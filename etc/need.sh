#!/bin/sh
# Says what building (and with the word `test` behind it, testing) needs beyond Rust and make; installs it if this is root on
# Debian, else lists it and fails.
set -eu
missing=""
need() { # need PROGRAM PACKAGE
    # The directories for administrators too: a user's PATH may lack them.
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
echo "Needed beyond Rust and make: gcc, the C library's headers and static archive (libc6-dev), perl (OpenSSL is built from source);"
echo "for the tests and the demo SSH servers and what makes hosts of them: openssh-server, openssh-client, dropbear-bin,"
echo "busybox-static, sudo, util-linux. None of them is started as a service."
need gcc gcc
need perl perl
[ -n "$(find /usr/lib -name libc.a 2>/dev/null | head -n 1)" ] || missing="$missing libc6-dev"
<<<<<<< HEAD
if [ "${1:-}" = test ]; then
    echo "For the tests also: OpenSSH's client and server, openssl."
    need ssh-keygen openssh-client
    need openssl openssl
    # Not in everybody's PATH.
    [ -x /usr/sbin/sshd ] || missing="$missing openssh-server"
fi
=======
need sshd openssh-server
need ssh-keygen openssh-client
need dropbear dropbear-bin
need busybox busybox-static
need sudo sudo
need nsenter util-linux
>>>>>>> w-sshd
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing:$missing"
    apt-get update -q
    # Packages ask this program whether they may start services; 101 is no. One that is there already stays as it is.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ] && [ ! -L "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 1' HUP INT TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    # shellcheck disable=SC2086 # a list of package names
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
else
    echo "Not installed here; please install:$missing" >&2
    exit 1
fi
