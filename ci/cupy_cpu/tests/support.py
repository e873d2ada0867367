"""What the test files share."""

import subprocess
from collections.abc import Callable

import cupy_cpu
import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

pool_needed = pytest.mark.skipif(
    cupy_cpu.guarded(), reason="CUPYCPU_GUARD runs without the memory pool"
)
done_at_once = pytest.mark.skipif(
    cupy_cpu.deferred(), reason="CUPYCPU_DEFER reports a failure when something waits"
)
