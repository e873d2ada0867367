"""The environment variables that make mistakes visible, each in a process of its own."""

from pathlib import Path

import pytest
from support import Run

TWO_STREAMS = """
first, second = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
x = cp.zeros(4)
cp.cuda.Device().synchronize()
with first:
    x += 1
    event = first.record()
if {wait}:
    second.wait_event(event)
with second:
    y = x * 10
second.synchronize()
print(y[0].get(stream=second))
"""

PINNED = """
host = np.frombuffer(cp.cuda.alloc_pinned_memory(8), "f8", 1)
host[:] = 0
stream = cp.cuda.Stream(non_blocking=True)
with stream:
    x = cp.ones(1) * 7
    x.get(out=host, blocking=False)
if {wait}:
    stream.synchronize()
print(host[0])
"""


@pytest.mark.parametrize(("wait", "expected"), [(True, "10.0"), (False, "0.0")])
def test_missing_event_gives_wrong_numbers(run: Run, wait: bool, expected: str) -> None:
    done = run(TWO_STREAMS.format(wait=wait), CUPYCPU_DEFER="1")
    assert done.stdout.strip() == expected, done.stderr


def test_missing_event_goes_unseen_without_the_switch(run: Run) -> None:
    assert run(TWO_STREAMS.format(wait=False)).stdout.strip() == "10.0"


@pytest.mark.parametrize(("wait", "expected"), [(True, "7.0"), (False, "0.0")])
def test_missing_synchronisation_gives_wrong_numbers(run: Run, wait: bool, expected: str) -> None:
    done = run(PINNED.format(wait=wait), CUPYCPU_DEFER="1")
    assert done.stdout.strip() == expected, done.stderr


def test_deferred_failure_comes_with_the_wait(run: Run) -> None:
    done = run(
        """
k = cp.RawKernel('extern "C" __global__ void f(int n) { assert(n == 1); }', "f")
k((1,), (1,), (2,))
print("launched")
try:
    cp.cuda.Device().synchronize()
except cp.cuda.runtime.CUDARuntimeError as error:
    print(error)
""",
        CUPYCPU_DEFER="1",
    )
    assert "launched\ncudaErrorAssert" in done.stdout, done.stderr


def test_legacy_stream_orders_blocking_streams(run: Run) -> None:
    done = run(
        """
stream = cp.cuda.Stream()
x = cp.zeros(1)
with stream:
    x += 1
y = x * 10
print(float(y[0]))
""",
        CUPYCPU_DEFER="1",
    )
    assert done.stdout.strip() == "10.0", done.stderr


OUT_OF_BOUNDS = """
k = cp.RawKernel('extern "C" __global__ void f(float* p, int n) {{ p[n] = {value}; }}', "f")
x = cp.zeros(5, "f4")
k((1,), (1,), (x, np.int32({index})))
print("unseen")
"""


@pytest.mark.parametrize("value", ["1", "p[n] + 1"])
def test_guard_page_catches_the_first_element_too_far(run: Run, value: str) -> None:
    done = run(OUT_OF_BOUNDS.format(index=5, value=value), CUPYCPU_GUARD="1")
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in done.stderr
    assert "cupy_cpu: f: illegal address" in done.stderr
    assert "0 bytes after the end of an allocation of 20 bytes" in done.stderr


def test_guard_page_lets_the_last_element_pass(run: Run) -> None:
    done = run(OUT_OF_BOUNDS.format(index=4, value="1"), CUPYCPU_GUARD="1")
    assert done.stdout.strip() == "unseen", done.stderr


def test_first_element_too_far_goes_unseen_without_the_switch(run: Run) -> None:
    assert run(OUT_OF_BOUNDS.format(index=5, value="1")).stdout.strip() == "unseen"


def test_guard_catches_use_after_free(run: Run) -> None:
    done = run(
        """
k = cp.RawKernel('extern "C" __global__ void f(float* p) { *p = 1; }', "f")
x = cp.zeros(5, "f4")
address = x.data.ptr
del x
k((1,), (1,), (np.uint64(address),))
""",
        CUPYCPU_GUARD="1",
    )
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in done.stderr


def test_guard_catches_use_after_free_in_a_replayed_product(run: Run) -> None:
    done = run(
        """
import sys
sys.path.insert(0, TESTS)
from blas import Blas
x, y, stream = cp.ones((4, 4)), cp.empty((4, 4)), cp.cuda.Stream(non_blocking=True)
with Blas(stream) as blas:
    stream.begin_capture()
    blas.matmul(x, x, y)
    graph = stream.end_capture()
    del x
    graph.launch(stream)
""".replace("TESTS", repr(str(Path(__file__).parent))),
        CUPYCPU_GUARD="1",
    )
    assert "cudaErrorIllegalAddress" in done.stderr
    assert "cupy_cpu: cublasGemmEx: illegal address" in done.stderr


def test_fresh_memory_is_poisoned(run: Run) -> None:
    source = "print(cp.empty(4, 'u1').get().tolist())"
    done = run(source, CUPYCPU_POISON="1", CUPYCPU_GUARD="1")
    assert done.stdout.strip() == "[165, 165, 165, 165]", done.stderr


def test_timing_is_a_switch(run: Run) -> None:
    done = run(
        """
a, b = cp.cuda.Event(), cp.cuda.Event()
a.record(); b.record(); b.synchronize()
print(cp.cuda.get_elapsed_time(a, b) >= 0)
""",
        CUPYCPU_ALLOW_TIMING="1",
    )
    assert done.stdout.strip() == "True", done.stderr


def test_fused_multiply_add_is_a_switch(run: Run) -> None:
    source = """
k = cp.ElementwiseKernel("float64 a", "float64 r", "r = a * a - 1.0", "k")
a = 1 + 2.0 ** -30
print(float(k(cp.asarray([a]))[0]) == a * a - 1.0)
"""
    # a * a rounds, fused it does not
    assert run(source, CUPYCPU_FMA="0").stdout.strip() == "True"


def test_compute_capability_is_a_switch(run: Run) -> None:
    done = run("print(cp.cuda.Device().compute_capability)", CUPYCPU_COMPUTE_CAPABILITY="90")
    assert done.stdout.strip() == "90", done.stderr
