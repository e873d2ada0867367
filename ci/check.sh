#!/usr/bin/env bash
# What everyone runs before a commit, and what CI runs: lint, types, tests.
#
#   ci/check.sh            all of it, in a virtual environment of its own
#   ci/check.sh -k layer   arguments go to pytest
#   ci/check.sh -n 2       two tests at a time, as CI runs them
#
# PYTHON        the interpreter to make the environment from (default python3)
# MLP_XP_VENV   where the environment lies (default .venv-check)
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${MLP_XP_VENV:-.venv-check}
stamp=$venv/installed
wanted=$(sha256sum pyproject.toml | cut -d' ' -f1)
if [ ! -e "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
    pip 'pip>=25.1' # the first that knows dependency groups
    pip -e . --group check
    echo "$wanted" > "$stamp"
fi

if [ -n "${CHECK_INSTALL_ONLY:-}" ]; then exit; fi

"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
exec "$venv/bin/python" -m pytest "$@"
