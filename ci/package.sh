#!/usr/bin/env bash
# The packages as others get them: wheel and source archive are built and looked through, and
# the wheel is installed and used in fresh environments, away from the clone.
#
#   ci/package.sh                 with every Python from 3.11 on that is found
#   ci/package.sh python3.13 …    with these
#
# Each Python gets the newest releases of the dependencies. The lowest Python that pyproject.toml
# allows gets the lowest ones too: for newer Pythons these have no wheels.
#
# PYTHON        the interpreter that builds (default python3)
# MLP_XP_DIST   where the packages go (default dist)
set -euo pipefail
cd "$(dirname "$0")/.."

dist=$(realpath -m "${MLP_XP_DIST:-dist}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# The Pythons on PATH, free-threaded ones too, and pyenv's; one of each version.
found() {
    local minor names=()
    for minor in 11 12 13 14 15; do names+=("python3.$minor" "python3.${minor}t" "python3.$minor-nogil"); done
    for python in "${names[@]}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[1-9]*/bin/python; do
        "$python" -c 'import sys, sysconfig, venv; free = sysconfig.get_config_var("Py_GIL_DISABLED")
version = "%d.%02d" % sys.version_info[:2]; sys.version_info < (3, 11) or print(version + "t" * bool(free), sys.executable)' 2>/dev/null || true
    done | sort -u -k 1,1 | cut -d' ' -f 2
}

build() {
    local venv=$work/build
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install 'pip>=25.1'
    "$venv/bin/python" -m pip install --group package
    rm -rf build mlp_xp.egg-info # what an earlier build left would be packed too
    "$venv/bin/python" -m build --outdir "$work/dist" . > "$work/build.log" || { cat "$work/build.log"; return 1; }
    rm -rf build
    "$venv/bin/python" -m twine check --strict "$work"/dist/*
    "$venv/bin/python" - "$work"/dist/*.whl <<'END'
import sys, zipfile
from pathlib import Path

packed = {name for name in zipfile.ZipFile(sys.argv[1]).namelist() if name.startswith("mlp_xp/")}
native = {name for name in packed if name.startswith("mlp_xp/fast/kernels-") and name.endswith(".so")}
if bool(native) == sys.argv[1].endswith("-none-any.whl"):
    sys.exit(f"{sys.argv[1]} holds {sorted(native)}: its name says otherwise")
packed -= native
kept = {str(path) for path in Path("mlp_xp").rglob("*") if path.is_file() and path.suffix != ".pyc"}
wrong = packed ^ kept
sys.exit(f"packed or left out by mistake: {sorted(wrong)}" if wrong else 0)
END
    mkdir -p "$dist"
    cp "$work"/dist/* "$dist"
}

# The lower bounds of the dependencies as what is asked for.
lowest() {
    "${PYTHON:-python3}" - <<'END'
import re, tomllib

for line in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]:
    print(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).expand(r"\1==\2"))
END
}

# In a fresh environment of a Python: every public name, a training, a prediction, the self-test.
try() {
    local python=$1 what=$2 env=$work/env folder=$work/folder
    shift 2
    rm -rf "$env" "$folder"
    mkdir "$folder"
    "$python" -m venv "$env"
    "$env/bin/python" -m pip install "$@" "$work"/dist/*.whl
    (
        cd "$folder"
        export PATH="$env/bin:$PATH"
        python -W error - <<'END'
import mlp_xp

needed = {name: "sklearn" for name in ("MLPClassifier", "MLPRegressor", "NeuralClassifier", "NeuralRegressor")}
for name in dir(mlp_xp):
    try:
        getattr(mlp_xp, name)
    except ImportError as error:
        assert f"pip install 'mlp_xp[{needed[name]}]'" in str(error), error
END
        mlp-xp train --epochs 2 --seed 0 --out digits.safetensors > train.log
        mlp-xp predict digits.safetensors digits > predicted.csv
        test "$(wc -l < predicted.csv)" = 1798
        mlp-xp selftest --device cpu > selftest.log
        MLP_XP_NATIVE=0 mlp-xp train --epochs 2 --seed 0 --out plain.safetensors > plain.log
        python - "$what" <<'END'
import sys, sysconfig
from importlib.metadata import version

free = "t" * bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
names = ("numpy", "array-api-compat", "safetensors", "threadpoolctl", "tqdm")
told = ", ".join(f"{name} {version(name)}" for name in names)
score = next(line for line in open("train.log") if line.startswith("held-out"))
print(f"ok  Python {sys.version.split()[0]}{free}, {sys.argv[1]}: {told}; {score.strip()}", flush=True)
END
    ) || { tail -n 5 "$folder"/*.log; echo "failed: $python, $what" >&2; return 1; }
}

if [ $# = 0 ]; then mapfile -t pythons < <(found); else pythons=("$@"); fi
build
lowest > "$work/lowest.txt"
failed=0
for python in "${pythons[@]}"; do
    if "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
        try "$python" lowest --constraint "$work/lowest.txt" || failed=1
    fi
    try "$python" newest || failed=1
done
exit $failed
