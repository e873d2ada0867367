#!/usr/bin/env bash
# The site, in docs/build: from the pages here, the project's own, the examples and docstrings.
#
#   docs/build.sh            in a virtual environment of its own
#   docs/build.sh -E -a      arguments go to Sphinx
#
# A warning is an error. What is made needs no network to be read: open docs/build/index.html.
#
# PYTHON        the interpreter to make the environment from (default python3)
# MLP_XP_VENV   where the environment lies (default .venv-docs)
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${MLP_XP_VENV:-.venv-docs}
stamp=$venv/installed
wanted=$(sha256sum pyproject.toml | cut -d' ' -f1)
if [ ! -e "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
    pip 'pip>=25.1' # the first that knows dependency groups
    pip -e . --group docs
    echo "$wanted" > "$stamp"
fi

"$venv/bin/python" -m sphinx -W --keep-going -j auto -d docs/build/.doctrees "$@" docs docs/build
"$venv/bin/python" docs/check.py docs/build
