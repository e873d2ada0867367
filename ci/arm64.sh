#!/usr/bin/env bash
# The runtime and its tests on ARM64, where there is no such machine: a cross compiler, and
# Python of ARM64 under qemu. On Debian and its kin; some fifty times slower than a machine.
#
#   ci/arm64.sh                              compiles everything, then tests/test_native.py
#   ci/arm64.sh tests/test_predictor.py -x   compiles everything; what follows goes to pytest
#
# Packages of this machine, where they are missing: gcc-aarch64-linux-gnu libc6-dev-arm64-cross
# qemu-user. Python of ARM64 and NumPy are unpacked beside the cache and touch nothing else.
#
# PYTHON       an interpreter with pip, to fetch wheels (default python3)
# ARM64_ROOT   where Python of ARM64 lies (default ~/.cache/mlp_xp-arm64)
set -euo pipefail
cd "$(dirname "$0")/.."

root=$(realpath -m "${ARM64_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/mlp_xp-arm64}")
needed=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
if ! command -v qemu-aarch64 aarch64-linux-gnu-gcc > /dev/null; then
    apt-get install -y -q --no-install-recommends "${needed[@]}" || {
        echo "expected the packages ${needed[*]}: apt-get update and install them" >&2
        exit 1
    }
fi

# Python from Debian, by an apt with a memory of its own; packages from wheels of ARM64.
make_root() {
    local apt=$root/apt sources=/etc/apt/sources.list.d/debian.sources deb
    [ -e "$sources" ] || sources=/etc/apt/sources.list
    mkdir -p "$apt"/lists/partial "$apt"/archives/partial
    : > "$apt/status"
    local options=(-q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$apt"
        -o Dir::State::status="$apt/status" -o Dir::Cache="$apt" -o Debug::NoLocking=1
        -o Dir::Etc::sourcelist="$sources" -o Dir::Etc::sourceparts=/dev/null
        -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    apt-get "${options[@]}" install -y --no-install-recommends --download-only python3 libstdc++6
    for deb in "$apt"/archives/*.deb; do dpkg-deb -x "$deb" "$root"; done
    rm -rf "$apt"
    local version
    version=$(basename "$root"/usr/bin/python3.*[0-9])
    "${PYTHON:-python3}" -m pip install -q --disable-pip-version-check --only-binary :all: \
        --implementation cp --python-version "${version#python}" \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
        --target "$root/packages" 'numpy>=2.1' 'array-api-compat>=1.12' 'safetensors>=0.4' \
        'threadpoolctl>=3' 'tqdm>=4.60' 'pytest>=8' 'array-api-strict>=2.4' 'hypothesis>=6'
    # what tests start as sys.executable
    cat > "$root/python" <<END
#!/bin/sh
export PYTHONHOME='$root/usr' PYTHONPLATLIBDIR=lib
exec qemu-aarch64 -L '$root' -0 "\$0" '$root/usr/bin/$version' "\$@"
END
    chmod +x "$root/python"
}
[ -x "$root/python" ] || make_root

cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT
export CC=aarch64-linux-gnu-gcc PYTHONPATH=$PWD:$root/packages MLP_XP_CACHE=$cache
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
"$root/python" - <<'END'
import platform

import numpy as np

from mlp_xp.fast import native, packed

print(platform.machine(), platform.python_version(), "NumPy", np.__version__, packed.level())
assert platform.machine() == "aarch64"
assert native.runtime() is not None, "the runtime did not compile"
END
if [ $# = 0 ]; then
    # without what compiles for x86-64 or asks pip, and forks and more threads than cores: qemu
    # does not come to an end with them
    set -- tests/test_native.py -k \
        'not many_threads and not forked and not a_fork and not mkl_that and not (trouble and entry)'
fi
"$root/python" -m pytest -q -p no:cacheprovider "$@"
