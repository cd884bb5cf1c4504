# Looks for the runner on a worker, or puts it there. Any POSIX shell; beside it cat, chmod, id, ls, mkdir, mv, rm, uname (all in
# busybox), something that computes SHA-256, and find if there is one. Sent without comments and indentation; spec 62 §3.
#
# $1: check, or install (then the program comes on standard input). $2: directory. $3: name. $4: checksum, in hexadecimal.
# $5: answers of `uname -m` where the program can run, or nothing. What follows: flags for --facts.
# Prints `missing`; or `ok PATH`, then what the program says of its version, then its facts in one line.
set -uf
LC_ALL=C
export LC_ALL
unset CDPATH
task=$1 directory=$2 name=$3 wanted=$4 machines=$5
shift 5
fail() {
    printf '%s\n' "$*" >&2
    exit 1
}
uid=$(id -u) || fail "id -u does not work here: it is needed"
machine=$(uname -m) || fail "uname -m does not work here: it is needed"
refuse() {
    fail "$*; or set DeployRunnerDirectory to another directory"
}
# Root, whoever runs this, and whoever became root by sudo for it.
trusted() {
    case $1 in
        0 | "$uid") return 0 ;;
        "${SUDO_UID:-0}") [ "$uid" = 0 ] ;;
        *) return 1 ;;
    esac
}
# $1: mode, $2: owner, $3: path; $4: `above` where it is enough that files of others are protected (sticky).
judge() {
    trusted "$2" || refuse "$3 belongs to user $2, who could swap the program: chown it to user $uid or remove it"
    case $1 in
        d????-??-*) return 0 ;;
        d????????[tT]*) [ "$4" != above ] || return 0 ;;
        d*) ;;
        *) refuse "$3 is not a directory" ;;
    esac
    refuse "$3 is writable for others, who could swap the program: chmod go-w it"
}
# Every directory from $1 (absolute, without links) up to the root.
judge_all() {
    part=${1%/}
    set -- "${part:-/}"
    while [ -n "$part" ]; do
        part=${part%/*}
        set -- "$@" "${part:-/}"
    done
    ls -ldn "$@" | {
        count=0
        while read -r mode links owner rest; do
            judge "$mode" "$owner" "/${rest#*/}" above
            count=$((count + 1))
        done
        [ "$count" = "$#" ] || fail "cannot examine $1 and what is above it: ls -ldn does not work here"
    } || exit 1
}
# Enters $directory part by part. What is missing is made, but never where somebody else could swap it.
make_directory() {
    umask 022
    [ "$uid" = 0 ] || umask 077
    cd / || exit 1
    rest=${directory#/}
    while [ -n "$rest" ]; do
        part=${rest%%/*}
        case $rest in */*) rest=${rest#*/} ;; *) rest= ;; esac
        [ -n "$part" ] || continue
        here=$(pwd -P)
        here=${here%/}/$part
        if [ ! -e "./$part" ] && [ ! -L "./$part" ]; then
            step=$part
            judge_all "$(pwd -P)"
            part=$step
            # Another deployment may have made it meanwhile; whose it is will be seen.
            why=$(mkdir "./$part" 2>&1) || [ -d "./$part" ] || refuse "cannot make $here ($why)"
        fi
        if [ -L "./$part" ]; then
            who=$(ls -ldn "./$part" | { read -r mode links owner rest && printf %s "$owner"; })
            trusted "$who" || refuse "$here is a link of user $who: remove it"
        fi
        cd -P "./$part" 2>/dev/null || refuse "$here cannot be entered: make it a directory that user $uid may enter"
    done
}
# The one sum in the output of any of these is compared wherever it stands.
has_sum() {
    if command -v sha256sum >/dev/null; then sum=$(sha256sum <"$1")
    elif command -v busybox >/dev/null && busybox sha256sum </dev/null >/dev/null 2>&1; then sum=$(busybox sha256sum <"$1")
    elif command -v shasum >/dev/null; then sum=$(shasum -a 256 <"$1")
    elif command -v openssl >/dev/null; then sum=$(openssl dgst -sha256 <"$1")
    else fail "nothing here computes a SHA-256: install one of sha256sum (coreutils), busybox, shasum (perl), openssl"
    fi
    case $sum in *"$wanted"*) return 0 ;; *) return 1 ;; esac
}
# A file that nobody else can write, with its mode and content.
is_good() {
    [ -f "$1" ] && [ ! -L "$1" ] || return 1
    ls -ldn "$1" | {
        read -r mode links owner rest
        case $mode in -rwxr-xr-x*) trusted "$owner" ;; *) false ;; esac
    } && has_sum "$1"
}
# Whatever happens in between: the name appears with a complete file of the right mode, and by that alone. A program that runs
# under this name, or another deployment, is not disturbed.
install() {
    # A day old: of a deployment that crashed.
    find "$place/." ! -name . -prune -type f -name "${name%%~*}~*.new.*" -mtime +0 -exec rm -f '{}' ';' 2>/dev/null
    [ ! -d "$path" ] || [ -L "$path" ] || refuse "$path is a directory: remove it"
    count=0 new=
    trap '[ -z "$new" ] || rm -f "$new"' EXIT
    trap 'exit 1' HUP INT PIPE TERM
    while :; do
        part=$path.new.$$.$count
        why=$( (set -C && : >"$part") 2>&1) && break
        count=$((count + 1))
        [ "$count" -lt 20 ] || refuse "cannot make a file in $place ($why): make it writable for user $uid"
    done
    new=$part
    chmod 755 "$new" || fail "cannot set the mode of $new"
    why=$(cat 2>&1 >"$new") || refuse "cannot write $new (${why:-file size limit?}): free some space there"
    is_good "$new" || fail "$new is not what was sent (the connection was cut, or the disk is bad)"
    [ ! -L "$path" ] || rm -f "$path"
    why=$(mv -f "$new" "$path" 2>&1) || refuse "cannot rename $new to $path ($why)"
    new=
}
report() {
    answer=$("$path" --version 2>&1 </dev/null)
    status=$?
    case $status in
        0) ;;
        126) refuse "cannot run $path ($answer): is $place on a file system that is mounted noexec?" ;;
        127) fail "cannot run $path ($answer): it needs a loader or a library that is not here, use a static program" ;;
        *) fail "$path --version failed with status $status ($answer)" ;;
    esac
    printf 'ok %s\n%s\n' "$path" "$answer"
    "$path" --facts "$@" 2>/dev/null </dev/null
    exit 0
}
if [ "$task" = install ]; then make_directory
elif ! cd -P "$directory" 2>/dev/null; then
    echo missing
    exit 0
fi
place=$(pwd -P)
newline='
'
case $place in
    *"$newline"*) refuse "$directory leads to a place whose name has two lines" ;;
    /*) ;;
    *) refuse "$directory cannot be found" ;;
esac
judge_all "$place"
ls -ldn "$place" | {
    read -r mode links owner rest && judge "$mode" "$owner" "$place" last
} || exit 1
path=${place%/}/$name
case " ${machines:-$machine} " in
    *" $machine "*) ;;
    *) fail "this machine is $machine, the runner is a program for ${machines%% *}: set Muster.Runner.Binaries.$machine to one for it" ;;
esac
if [ "$task" = install ]; then
    is_good "$path" || install
elif ! is_good "$path"; then
    echo missing
    exit 0
fi
report "$@"
