#!/usr/bin/env bash
# The CUDA path where there is no GPU: CuPy built for the CPU (ci/cupy_cpu), beside the
# packages of ci/check.sh in the same virtual environment.
#
#   ci/cuda.sh          build or fetch the wheel, then all of the below
#   ci/cuda.sh install  only that: ci/check.sh then tests CuPy too
#
# The build's own tests; a sample of CuPy's; a sample of the CUDA sources with NVIDIA's
# compiler; the tests of the CUDA device with work put off until something waits for it, and
# those of the kernels with guard pages and poisoned memory. Plainly they run in ci/check.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$(realpath -m "${MLP_XP_VENV:-.venv-check}")
CHECK_INSTALL_ONLY=1 bash ci/check.sh
wheel=$(PYTHON="$venv/bin/python" bash ci/cupy_cpu/build.sh | tail -n 1)
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheel"
if [ "${1:-}" = install ]; then exit; fi

cache=${MLP_XP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mlp_xp}
export CUPY_CACHE_DIR=$cache/kernels CUPYCPU_CACHE_DIR=$cache/headers
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
export PATH="$venv/bin:$PATH"
pytest -q -p no:cacheprovider -n 2 ci/cupy_cpu/tests
python ci/cupy_cpu/upstream.py
python -m pip install --quiet --disable-pip-version-check --group cuda-check
python ci/nvrtc_check.py --sample 40
# whatever has streams, events and graphs of its own; the rest only calls CuPy
CUPYCPU_DEFER=1 pytest -q -p no:cacheprovider -n 2 --require cupy tests/test_cuda_*.py tests/test_predictor.py \
    tests/test_ranks_cuda.py::test_data_that_do_not_fit_on_gpus_are_trained_on_as_by_one_process \
    -k "(cupy or cuda) and not test_cuda_kernels and (not test_cuda_compile or any_kind or host or scores or predictor)"
CUPYCPU_GUARD=1 CUPYCPU_POISON=1 pytest -q -p no:cacheprovider -n 2 --require cupy tests/test_cuda_kernels.py tests/test_cuda_steps.py \
    -k "not nvrtc" # which has been asked above
