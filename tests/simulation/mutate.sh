#!/bin/sh
# Breaks one rule of the core after the other, each in a copy of the sources, and shows how fast the simulation finds it.
# Usage: mutate.sh [SEEDS]    (1000: as many seeds are tried for each). Exit status 1 if one is not found.
set -eu
seeds=${1:-1000}
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
trap 'exit 1' HUP INT TERM
# A folder of its own, and kept: only the core and the simulation are built anew each time.
target=${CARGO_TARGET_DIR:-$top/target}/mutations
missed=0
# Sorted by their names.
for mutation in "$here"/mutations/*.patch; do
    name=$(basename "$mutation" .patch)
    rm -rf "$copy/tree" && mkdir "$copy/tree"
    cp -R "$top/Cargo.toml" "$top/Cargo.lock" "$top/src" "$top/tests" "$top/etc" "$copy/tree/"
    (cd "$copy/tree" && git apply -p1 "$mutation")
    # A broken rule may leave something unused: its warnings say nothing.
    CARGO_TARGET_DIR=$target cargo build --quiet --release --locked --manifest-path "$copy/tree/Cargo.toml" \
        -p muster-simulation 2>"$copy/build" || { cat "$copy/build"; exit 1; }
    if "$target/release/simulate" --stop "$seeds" >"$copy/report" 2>/dev/null; then
        echo "$name: NOT FOUND in $seeds seeds"
        missed=1
    else
        tried=$(sed -n 's/^seeds  *//p' "$copy/report")
        took=$(sed -n 's/^seconds  *//p' "$copy/report")
        how=$(sed -n 's/^seed [0-9]*: \(invariant [^:]*\) is broken.*/\1/p' "$copy/report" | head -n 1)
        echo "$name: found after $tried seeds, $took s ($how)"
    fi
done
exit $missed
