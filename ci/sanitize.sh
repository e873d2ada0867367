#!/usr/bin/env bash
# The compiled half of a step (fast/runtime.c and the kernels that are written for every network)
# under the compiler's sanitizers: reads and writes beyond an array or after its end, undefined
# behaviour, data races. Any one of them ends the run.
#
#   ci/sanitize.sh                       address and undefined, then thread: some minutes each
#   ci/sanitize.sh thread                one of them
#   ci/sanitize.sh address -k predictor  other arguments go to pytest
#
# MLP_XP_VENV   where the environment of ci/check.sh lies (default .venv-check)
# SANITIZE_CC   a GCC that brings the sanitizers' libraries (default gcc)
set -euo pipefail
cd "$(dirname "$0")/.."

gcc=${SANITIZE_CC:-gcc}
python=${MLP_XP_VENV:-.venv-check}/bin/python
tests=(tests/test_fast_paths.py tests/test_native.py tests/test_predictor.py tests/test_compile.py
       tests/test_guard.py tests/test_layer_kinds.py)
logs=$(mktemp -d)
echo "race:libscipy_openblas" > "$logs/known" # it is not instrumented: its own threads seem to race
trap 'rm -rf "$logs"' EXIT

# Python itself and its libraries are not instrumented: the sanitizer is loaded before them, and
# Python takes memory from it. Leaks are the interpreter's, at its exit. Several threads, so that
# the helpers are at work; without ASLR, with which older ThreadSanitizers do not begin.
sanitize() {
    local kinds=$1 libraries=$2
    shift 2
    echo "-fsanitize=$kinds"
    env CC="$gcc -g -fno-omit-frame-pointer -fsanitize=$kinds -fno-sanitize-recover=all" \
        MLP_XP_CACHE="$logs/$kinds" LD_PRELOAD="$libraries" PYTHONMALLOC=malloc \
        OPENBLAS_NUM_THREADS=2 OMP_NUM_THREADS=2 \
        ASAN_OPTIONS="detect_leaks=0:log_path=$logs/address" UBSAN_OPTIONS=print_stacktrace=1 \
        TSAN_OPTIONS="exitcode=66:die_after_fork=0:suppressions=$logs/known:log_path=$logs/thread" \
        setarch -R "$python" -m pytest -q -p no:cacheprovider "$@"
    if compgen -G "$logs/*.[0-9]*" > /dev/null; then
        cat "$logs"/*.[0-9]*
        exit 1
    fi
}
of() { "$gcc" -print-file-name="lib$1.so"; }

which=${1:-all}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- "${tests[@]}"
case $which in
    all | address) sanitize address,undefined "$(of asan) $(of ubsan)" "$@" ;;&
    all | thread) sanitize thread "$(of tsan)" "$@" ;;&
    all | address | thread) ;;
    *) echo "expected address or thread, not $which" >&2; exit 2 ;;
esac
