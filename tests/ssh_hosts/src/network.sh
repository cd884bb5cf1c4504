# Runs in the new namespaces and keeps them: the dispatcher's side of a network. Ends when its standard input does, with
# everything that still runs in the network. Arguments: a folder that is to be a small disk, and its size; or none.
set -eu
# Without a network of its own the end of this script would hit the machine's processes.
if [ /proc/self/ns/net -ef "/proc/$PPID/ns/net" ]; then
    echo 'this is no network of its own' >&2
    exit 1
fi
ip link set lo up
[ $# = 0 ] || mount -t tmpfs -o "size=$2,mode=0711" tmpfs "$1"
echo "ready $$"
exec >/dev/null
while read -r _; do :; done
for process in /proc/[0-9]*; do
    [ "$process" != "/proc/$$" ] || continue
    [ ! "$process/ns/net" -ef /proc/self/ns/net ] || kill -KILL "${process#/proc/}" 2>/dev/null || :
done
