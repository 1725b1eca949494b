#!/bin/sh
# Unpack the pieces beside this file into DIRECTORY, and run the benchmark there. No network is needed.
# A second run goes on where the first one was cut off.
#
# Usage: sh start.sh DIRECTORY OUTPUT [OPTION of benchmarks/gpu/run.py ...]
set -eu
pieces=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" "$2"
directory=$(cd "$1" && pwd)
output=$(cd "$2" && pwd)
shift 2
if [ ! -e "$directory/unpacked" ]; then
    (cd "$pieces" && sha256sum --check --quiet SHA256SUMS)
    cat "$pieces"/piece-* | tar xz -C "$directory"
    touch "$directory/unpacked"
fi
cd "$directory/source"
PYTHONPATH=".:export:${PYTHONPATH:-}" exec "${PYTHON:-python3}" -m benchmarks.gpu.run --prepared "$directory" --output "$output" "$@"
