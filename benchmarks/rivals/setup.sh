#!/usr/bin/env bash
# Makes one virtual environment per rival in $COTERIE_RIVALS (default ~/.cache/coterie-rivals) from
# the pinned <name>.txt beside this file. An environment whose file has not changed is left alone.
#
#   benchmarks/rivals/setup.sh                  # all
#   benchmarks/rivals/setup.sh plain recbole    # some
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${COTERIE_RIVALS:-$HOME/.cache/coterie-rivals}
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(plain recbole recpack cornac recommenders implicit)

for name in "${names[@]}"; do
    pins=$here/$name.txt
    venv=$root/$name
    [ -f "$pins" ] || { echo "unknown rival '$name': no $pins" >&2; exit 2; }
    if cmp -s "$pins" "$venv/installed.txt"; then
        echo "$name: up to date"
        continue
    fi
    echo "$name: installing into $venv"
    "${PYTHON:-python3}" -m venv --clear "$venv"
    # Torch first and alone, so that no other package's demand picks another build of it.
    torch=$(grep -E '^torch==' "$pins" || true)
    if [ -n "$torch" ]; then "$venv/bin/pip" install -q "$torch" 2>"$venv/pip.log"; fi
    "$venv/bin/pip" install -q -r "$pins" 2>>"$venv/pip.log" || { tail -n 20 "$venv/pip.log" >&2; exit 1; }
    cp "$pins" "$venv/installed.txt"
done
