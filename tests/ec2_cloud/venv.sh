#!/bin/sh
# Makes the Python environment with moto, the server that answers as EC2 does, unless it is there already: `make moto`.
# Arguments: the environment's folder, the list of packages. What is half made, or made of another list, or broken since (a new
# Python) is made anew.
set -eu
venv=$1 list=$2
mkdir -p "$(dirname "$venv")"
# Two at once would make it on top of each other.
exec 9>"$venv.lock"
flock 9
if cmp -s "$list" "$venv/made-of" && "$venv/bin/python" -c 'import moto.server, moto.ec2' 2>/dev/null; then
    exit 0
fi
echo "Making $venv with moto, from the package index that pip is configured for."
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --retries 10 --timeout 60 \
    --no-deps --require-hashes --only-binary :all: -r "$list"
"$venv/bin/python" -c 'import moto.server, moto.ec2'
# Last of all: this says that it is whole.
cp "$list" "$venv/made-of"
