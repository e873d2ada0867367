#!/usr/bin/env bash
# The compiled half of a step (fast/runtime.c and the kernels that are written for every network)
# under the compiler's sanitizers: reads and writes beyond an array or after its end, undefined
# behaviour, data races. Any one of them ends the run.
#
#   ci/sanitize.sh                       address and undefined, then thread: some minutes each
#   ci/sanitize.sh thread                one of them
#   ci/sanitize.sh address tests/test_predictor.py -k threads   what follows goes to pytest
#
# MLP_XP_VENV   where the environment of ci/check.sh lies (default .venv-check)
# SANITIZE_CC   a GCC that brings the sanitizers' libraries (default gcc)
set -euo pipefail
cd "$(dirname "$0")/.."

gcc=${SANITIZE_CC:-gcc}
python=${MLP_XP_VENV:-.venv-check}/bin/python
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
echo "race:libscipy_openblas" > "$logs/known" # it is not instrumented: its own threads seem to race

# left out: tests of time, which instrumented code does not keep
tests=(tests/test_fast_paths.py tests/test_native.py tests/test_predictor.py tests/test_compile.py
       tests/test_guard.py tests/test_sizes.py tests/test_products.py tests/test_sharing.py
       tests/test_runtime.py
       --deselect tests/test_compile.py::test_windows_of_a_thousand_places_are_compiled
       --deselect tests/test_native.py::test_processes_that_start_at_once_all_find_their_libraries
       --deselect tests/test_guard.py::test_forks_during_a_training_do_not_stop_it)
threads=(tests/test_native.py tests/test_runtime.py tests/test_guard.py tests/test_products.py
         tests/test_compile.py
         --deselect tests/test_guard.py::test_forks_during_a_training_do_not_stop_it
         -k "threads or has_alone or forked or lie_otherwise or fits_that or is_cut or billions")

# Python itself and its libraries are not instrumented: the sanitizer is loaded before them, and
# Python takes memory from it. Leaks are the interpreter's, at its exit. Without ASLR, with which
# older ThreadSanitizers do not begin; the BLAS on one thread, for the runtime has its own.
under() {
    local kinds=$1 libraries=$2
    shift 2
    env CC="$gcc -g -fno-omit-frame-pointer -fsanitize=$kinds -fno-sanitize-recover=all" \
        MLP_XP_CACHE="$logs/$kinds" LD_PRELOAD="$libraries" PYTHONMALLOC=malloc \
        OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 \
        ASAN_OPTIONS="detect_leaks=0:log_path=$logs/found" \
        UBSAN_OPTIONS="print_stacktrace=1:log_path=$logs/found" \
        TSAN_OPTIONS="exitcode=66:die_after_fork=0:suppressions=$logs/known:log_path=$logs/found" \
        setarch -R "$python" "$@"
}

# Instrumented, multiply.c takes ten times as long to compile.
patient='import sys, pytest
from mlp_xp.fast import native
native.TIME_LIMIT *= 10
sys.exit(pytest.main(sys.argv[1:]))'

sanitize() {
    local kinds=$1 libraries=$2 kind
    shift 2
    for kind in ${kinds//,/ }; do
        if PYTHONPATH=. under "$kinds" "$libraries" ci/sanitize_check.py "$kind" > "$logs/check" 2>&1 \
            && ! compgen -G "$logs/found.*" > /dev/null; then
            echo "the sanitizer of $kind finds nothing where there is a fault" >&2
            exit 1
        fi
        rm -f "$logs"/found.*
    done
    echo "-fsanitize=$kinds"
    local failed=0
    under "$kinds" "$libraries" -c "$patient" -q -p no:cacheprovider "$@" || failed=$?
    if compgen -G "$logs/found.*" > /dev/null; then
        cat "$logs"/found.*
        exit 1
    fi
    [ "$failed" = 0 ] || exit "$failed"
}
of() { "$gcc" -print-file-name="lib$1.so"; }

which=${1:-all}
[ $# -gt 0 ] && shift
case $which in all | address | thread) ;; *)
    echo "expected address or thread, not $which" >&2
    exit 2
esac
if [ "$which" != thread ]; then
    if [ $# -gt 0 ]; then chosen=("$@"); else chosen=("${tests[@]}"); fi
    sanitize address,undefined "$(of asan) $(of ubsan)" "${chosen[@]}"
fi
if [ "$which" != address ]; then
    if [ $# -gt 0 ]; then chosen=("$@"); else chosen=("${threads[@]}"); fi
    sanitize thread "$(of tsan)" "${chosen[@]}"
fi
