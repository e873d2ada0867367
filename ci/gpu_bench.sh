#!/usr/bin/env bash
# Every figure of a GPU in one run of at most five minutes, on a machine without a network.
#
#   ci/gpu_bench.sh OUT                  all sections; JSON and a table go to the folder OUT
#   ci/gpu_bench.sh OUT steps predict    some of them
#   ci/gpu_bench.sh OUT --smoke          without times, with any CuPy: does it run?
#
# Wants numpy and cupy in PYTHON's environment; torch and jax take part where they are.
#
# PYTHON         the interpreter (default python3)
# MLP_XP_WHEELS  a folder with wheels of array-api-compat, array-api-strict, threadpoolctl and
#                tqdm, where that environment lacks them: nothing is installed into it
set -euo pipefail
out=${1:?a folder for the results}
shift
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
path=$PWD
if [ -n "${MLP_XP_WHEELS:-}" ]; then
    packages=$(mktemp -d)
    trap 'rm -rf "$packages"' EXIT
    for wheel in "$MLP_XP_WHEELS"/*-none-any.whl; do # pure Python: files to be found, no more
        "$python" -m zipfile -e "$wheel" "$packages"
    done
    path=$path:$packages
fi
export PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH}
"$python" bench/gpu.py "$out" "$@"
