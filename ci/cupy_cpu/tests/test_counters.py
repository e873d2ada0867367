"""What cupy_cpu counts and what it refuses."""

import threading

import cupy as cp
import cupy_cpu
import numpy as np
import pytest
from support import pool_needed


@pytest.fixture(autouse=True)
def warm() -> None:
    """Compiled kernels, and arrays in the pool."""
    x = cp.ones((4, 4), "f4")
    x + x
    x @ x
    x.sum()
    float(x[0, 0])
    cp.cuda.Device().synchronize()


def test_is_the_cpu_build() -> None:
    assert cupy_cpu.is_cpu_build()
    assert cp.__version__.endswith("+cpu")


def test_kernels_are_counted_by_name() -> None:
    x = cp.ones((4, 4), "f4")
    with cupy_cpu.count() as counted:
        y = x + x
        y + x
        x.sum()
    assert counted.kernels["cupy_add__float32_float32_float32"] == 2
    assert any(name.startswith("cupy_sum") for name in counted.kernels)
    assert counted.launches == 3
    assert counted.waits == 0


def test_instantiations_are_counted_by_their_expression() -> None:
    module = cp.RawModule(
        code="template<int N, class T> __global__ void f(T* x) { *x = N; }",
        name_expressions=["f<3, float>"],
    )
    x = cp.zeros(1, "f4")
    f = module.get_function("f<3, float>")
    with cupy_cpu.count() as counted:
        f((1,), (1,), (x,))
    assert counted.kernels == {"f<3, float>": 1}
    assert float(x[0]) == 3


def test_cublas_calls_are_counted() -> None:
    x = cp.ones((4, 4), "f4")
    with cupy_cpu.count() as counted:
        x @ x
        x @ x.T
    assert sum(counted.cublas.values()) == 2
    assert counted.kernels == {}


def test_copies_are_counted_with_their_bytes() -> None:
    host = np.ones(100, "f4")
    x, y = cp.empty((2, 100), "f4")
    with cupy_cpu.count() as counted:
        x.set(host)
        y[...] = x
        y.get()
    assert counted.copies["H2D"] == cupy_cpu.Copies(1, 400)
    assert counted.copies["D2H"] == cupy_cpu.Copies(1, 400)
    assert counted.copies["D2D"] == cupy_cpu.Copies(1, 400)


@pool_needed
def test_pool_misses_are_counted() -> None:
    pool = cp.cuda.MemoryPool()
    with cp.cuda.using_allocator(pool.malloc), cupy_cpu.count() as counted:
        cp.empty(1 << 20, "u1")
        cp.empty(1 << 20, "u1")
    assert counted.pool_misses == 1
    assert counted.allocations["cudaMalloc"] == cupy_cpu.Copies(1, 1 << 20)


def test_synchronisations_are_counted_by_call() -> None:
    x = cp.ones((4, 4), "f4")
    with cupy_cpu.count() as counted:
        float(x[0, 0])
        cp.cuda.Device().synchronize()
    assert counted.synchronisations["cudaStreamSynchronize"] >= 1
    assert counted.synchronisations["cudaDeviceSynchronize"] == 1


@pytest.mark.parametrize(
    ("call", "wait"),
    [
        ("cudaStreamSynchronize|pageable", lambda x: x.get()),
        ("cudaStreamSynchronize|pageable", lambda x: float(x[0, 0])),
        ("cudaStreamSynchronize|pageable", lambda x: bool((x > 0).all())),
        ("cudaStreamSynchronize|pageable", lambda x: x[x > 0]),
        ("cudaDeviceSynchronize", lambda x: cp.cuda.Device().synchronize()),
        ("cudaStreamSynchronize", lambda x: cp.cuda.Stream.null.synchronize()),
        ("cudaEventSynchronize", lambda x: cp.cuda.Stream.null.record().synchronize()),
    ],
)
def test_waiting_is_refused_where_forbidden(call: str, wait) -> None:
    x = cp.ones((4, 4), "f4")
    with (
        pytest.raises(cupy_cpu.SynchronisationError, match=call),
        cupy_cpu.forbid_synchronisation(),
    ):
        wait(x)
    wait(x)  # and allowed afterwards


def test_work_that_waits_for_nothing_is_not_refused() -> None:
    x = cp.ones((4, 4), "f4")
    with cupy_cpu.forbid_synchronisation():
        y = (x @ x + x).sum()
    assert float(y) == 80


def test_swallowed_refusal_is_raised_at_the_end() -> None:
    def swallow() -> None:
        message = "cudaDeviceSynchronize waits for the device"
        with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match=message):
            cp.cuda.Device().synchronize()

    with (
        pytest.raises(cupy_cpu.SynchronisationError, match="cudaDeviceSynchronize"),
        cupy_cpu.forbid_synchronisation(),
    ):
        swallow()


def test_other_errors_pass_through() -> None:
    with pytest.raises(KeyError), cupy_cpu.forbid_synchronisation():
        raise KeyError


def test_refusal_is_of_one_thread() -> None:
    x, seen = cp.ones(3), []
    with cupy_cpu.forbid_synchronisation():
        thread = threading.Thread(target=lambda: seen.append(float(x.sum())))
        thread.start()
        thread.join()
    assert seen == [3]
