#!/usr/bin/env bash
# Builds the wheel of CuPy on the CPU, or finds it in the cache, and prints its
# path as the last line.
#
# Usage: build.sh [--force]     --force: build even if the cache has it
#
#   PYTHON        the interpreter to build for (python3)
#   CXX           the compiler (g++, version 12 or later)
#   MLP_XP_CACHE  where wheels are kept (XDG_CACHE_HOME/mlp_xp, ~/.cache/mlp_xp)
#   JOBS          compilers at a time (the number of processors)
#
# A wheel is found again by a hash of all that goes into it: the files of this
# folder, CuPy's version, those of Python and of the compiler.
set -euo pipefail

CUPY_VERSION=14.2.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$(command -v "${PYTHON:-python3}")
cxx=${CXX:-g++}
jobs=${JOBS:-$(nproc)}
cache=${MLP_XP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mlp_xp}/cupy_cpu

say() { printf 'cupy_cpu: %s [%ds]\n' "$*" "$SECONDS" >&2; }

# ---- is it in the cache?
inputs() {
  echo "cupy $CUPY_VERSION"
  "$python" -VV
  "$cxx" --version | head -n 1
  uname -m
  cd "$here"
  # the tests, the regression list and the README do not go into the wheel
  find build.sh patch_sdist.py make_headers.py requirements.txt host src device package \
    -type f -not -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
}
key=$(inputs | sha256sum | cut -c 1-16)
kept=$cache/$key
wheel=$(compgen -G "$kept/cupy-*.whl" | head -n 1 || true)
if [[ -n $wheel && ${1:-} != --force ]]; then
  say "found $key in the cache"
  echo "$wheel"
  exit 0
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/cupy_cpu-build-XXXXXX")
trap 'rm -rf "$work"' EXIT

# ---- what the build needs, in an environment of its own
"$python" -m venv "$work/venv"
venv=$work/venv/bin/python
"$venv" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
export PATH=$work/venv/bin:$PATH CUPY_INSTALL_USE_STUB=1
unset CUDA_PATH CUDA_HOME NVCC
say "build environment made"

# ---- CuPy's source, kept too: the upstream tests are in it
sdist=$cache/sdist/cupy-$CUPY_VERSION.tar.gz
if [[ ! -e $sdist ]]; then
  "$venv" -m pip download --quiet --disable-pip-version-check --no-binary cupy --no-deps \
    --no-build-isolation --dest "$work/sdist" "cupy==$CUPY_VERSION"
  mkdir -p "$cache/sdist"
  cp "$work/sdist/cupy-$CUPY_VERSION.tar.gz" "$sdist.$$"
  mv "$sdist.$$" "$sdist"
  say "source downloaded"
fi
mkdir "$work/source"
tar xzf "$sdist" -C "$work/source" --strip-components=1
"$venv" "$here/patch_sdist.py" "$work/source" "$work/generated"
say "source patched"

# ---- libcupycpu.so
mkdir "$work/objects" "$work/lib"
compile() {
  # no fortifying: it takes a jump off a fiber for an error
  local options=(-std=c++17 -O2 -U_FORTIFY_SOURCE -fPIC -w -I"$here/src" -I"$here/host" -I"$work/generated"
    -I"$work/source/cupy_backends/stub")
  [[ $1 == */cublas.cpp ]] && options+=(-O3 -fno-math-errno -fno-trapping-math)
  "$cxx" "${options[@]}" -c "$1" -o "$work/objects/$(basename "$1" .cpp).o"
}
export -f compile
export here work cxx
printf '%s\0' "$here"/src/*.cpp "$work/generated/cublas_missing.cpp" |
  xargs -0 -P "$jobs" -I{} bash -c 'compile {}'
"$cxx" -shared -s -Wl,-soname,libcupycpu.so -Wl,-Bsymbolic -Wl,-z,defs \
  "$work"/objects/*.o -o "$work/lib/libcupycpu.so" -ldl -lpthread
say "libcupycpu.so built"

# ---- the wheel
export CUPY_NUM_BUILD_JOBS=$jobs CUPY_INSTALL_NO_RPATH=1
export CUPY_LIBRARY_PATH=$work/lib CUPYCPU_WHEEL_LIBS=$work/lib/libcupycpu.so
export CXX=$cxx CFLAGS="-O1 -g0 -w" CXXFLAGS="-O1 -g0 -w" LDFLAGS="-Wl,-s -Wl,--no-as-needed"
if ! (cd "$work/source" && "$venv" -m pip wheel --disable-pip-version-check --no-deps \
  --no-build-isolation --wheel-dir "$work/wheels" .) >"$work/log" 2>&1; then
  tail -n 40 "$work/log" >&2
  exit 1
fi
mkdir -p "$kept"
wheel=$kept/$(basename "$work"/wheels/cupy-*.whl)
cp "$work"/wheels/cupy-*.whl "$kept/unfinished-$$" # whoever looks finds a whole file
mv "$kept/unfinished-$$" "$wheel"
say "wheel built, $(du -h "$wheel" | cut -f 1)"
echo "$wheel"
