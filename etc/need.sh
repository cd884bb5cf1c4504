#!/bin/sh
# Says what building (and with the word `test` behind it, testing) needs beyond Rust and make; installs it if this is root on
# Debian, else lists it and fails.
set -eu
missing=""
need() { # need PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
echo "Needed beyond Rust and make: gcc, the C library's headers and static archive (libc6-dev), perl (OpenSSL is built from source)."
need gcc gcc
need perl perl
[ -n "$(find /usr/lib -name libc.a 2>/dev/null | head -n 1)" ] || missing="$missing libc6-dev"
if [ "${1:-}" = test ]; then
    echo "For the tests also: OpenSSH's client and server, openssl."
    need ssh-keygen openssh-client
    need openssl openssl
    # Not in everybody's PATH.
    [ -x /usr/sbin/sshd ] || missing="$missing openssh-server"
fi
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing:$missing"
    apt-get update -q
    # shellcheck disable=SC2086 # a list of package names
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
else
    echo "Not installed here; please install:$missing" >&2
    exit 1
fi
