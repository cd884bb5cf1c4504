# Starts the holder and outlives the process that made this host, however that ends: then kills all of the machine and
# removes its folder. Arguments: the host's folder, the command that is the holder.
folder=$1
shift
cd /
# When the maker dies, this group is orphaned: what is sent to such groups must not end this one.
trap '' HUP
# The holder reads from a pipe whose only writer is this process, so that it ends with it; never from ours, where it could
# take away a line.
mkfifo -m 600 "$folder/leash"
exec 5<>"$folder/leash" 6<"$folder/leash"
"$@" <&6 5>&- 6<&- &
holder=$!
exec >/dev/null 6<&-

# All with the machine's mount namespace and never one with ours; twice nothing found is the end, for what forks meanwhile.
sweep() {
    passes=0 quiet=0
    while [ "$quiet" -lt 2 ] && [ "$passes" -lt 10000 ]; do
        quiet=$((quiet + 1)) passes=$((passes + 1))
        for process in /proc/[0-9]*; do
            [ "$process/ns/mnt" -ef /proc/self/fd/4 ] || continue
            [ "$process/ns/mnt" -ef /proc/self/ns/mnt ] && continue
            kill -KILL "${process#/proc/}" 2>/dev/null
            quiet=0
        done
    done
}

# One line comes when the machine is set up. Its namespace is kept open: the holder might be killed before its time.
if read -r _; then
    exec 4<"/proc/$holder/ns/mnt"
    while read -r _; do :; done
    sweep
    exec 4<&-
fi
kill -KILL "$holder" 2>/dev/null
wait "$holder" 2>/dev/null
case $folder in
    */muster-ssh-host-*) rm -rf "$folder" ;;
esac
