"""Fixtures of the tests of CuPy on the CPU, run where its wheel is installed."""

import os
import subprocess
import sys

import pytest

try:
    import cupy_cpu  # noqa: F401 — whether it is there
except ImportError:
    raise pytest.UsageError(
        "cupy_cpu is not installed here: install the wheel that ci/cupy_cpu/build.sh prints"
    ) from None

from support import Run


@pytest.fixture
def run() -> Run:
    """Runs Python source in a process of its own, with environment variables."""

    def run(source: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = ("CUPYCPU_CACHE_DIR", "CUPYCPU_CXX")
        mine = {k: v for k, v in os.environ.items() if "CUPYCPU_" not in k or k in kept}
        source = "import cupy as cp\nimport cupy_cpu\nimport numpy as np\n" + source
        return subprocess.run(
            [sys.executable, "-c", source],
            env=mine | variables,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
