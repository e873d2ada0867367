#!/usr/bin/env bash
# The tests on a CUDA device: nothing passes by skipping for want of CuPy.
#
#   ci/gpu.sh              in a virtual environment of its own, with CuPy
#   ci/gpu.sh -k cuda      arguments go to pytest
#
# PYTHON        the interpreter to make the environment from (default python3)
# MLP_XP_VENV   where the environment lies (default .venv-gpu)
# MLP_XP_CUDA   extra that brings CuPy: cuda (default; CUDA 12), cuda13, or a wheel's path
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${MLP_XP_VENV:-.venv-gpu}
cuda=${MLP_XP_CUDA:-cuda}
stamp=$venv/installed
wanted="$cuda $(sha256sum pyproject.toml | cut -d' ' -f1)"
if [ ! -e "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
    pip 'pip>=25.1' # the first that knows dependency groups
    case $cuda in
    *.whl) pip -e . --group test && pip --no-deps "$cuda" ;;
    *) pip -e ".[$cuda]" --group test ;;
    esac
    echo "$wanted" > "$stamp"
fi

"$venv/bin/mlp-xp" devices
"$venv/bin/mlp-xp" selftest --device cuda
exec "$venv/bin/python" -m pytest --require cupy "$@"
