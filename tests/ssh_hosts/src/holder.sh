# Runs in the new namespaces, before and for the machine: gives it its root directory, then stays, so that they last.
# Arguments: the host's folder, the host's name.
set -eu
cd "$1"
hostname "$2"
mount -a -T fstab
cd fs
mkdir -p .old
pivot_root . .old
cd /
# The machine may have few programs.
tool=
command -v umount >/dev/null 2>&1 && command -v rmdir >/dev/null 2>&1 || tool=busybox
$tool umount -l /.old
$tool rmdir /.old
echo "ready $$"
exec >/dev/null
# Nothing ever comes. Usually the guard kills this one, as the last of the machine; should the guard be killed, this ends.
while read -r _; do :; done
