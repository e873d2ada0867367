"""Stream capture, its rules, and replay: of CuPy's kernels and of cuBLAS calls."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import cupy as cp
import cupy_cpu
import numpy as np
import pytest
from blas import Blas

runtime = cp.cuda.runtime
CUDAError = runtime.CUDARuntimeError


@pytest.fixture
def stream() -> Iterator[cp.cuda.Stream]:
    """A stream that no capture goes on in afterwards."""
    stream = cp.cuda.Stream(non_blocking=True)
    yield stream
    try:
        going_on = stream.is_capturing()
    except RuntimeError:  # and no longer valid
        going_on = True
    if going_on:
        with pytest.raises(CUDAError):
            stream.end_capture()


def fill(x: cp.ndarray, value: float) -> None:
    x.fill(value)
    cp.cuda.Device().synchronize()


def test_kernels_are_recorded_and_replayed(stream: cp.cuda.Stream) -> None:
    x, y = cp.arange(8, dtype="f4"), cp.zeros(8, "f4")
    cp.multiply(x, 2, out=y)  # compiles
    y += 1
    fill(y, 0)
    with stream:
        stream.begin_capture()
        cp.multiply(x, 2, out=y)
        y += 1
        graph = stream.end_capture()
    assert y.get().tolist() == [0] * 8, "capture must not run anything"
    for value in (1, 2):
        fill(x, value)
        graph.launch(stream)
        stream.synchronize()
        assert y.get().tolist() == [2 * value + 1] * 8


def test_cupy_refuses_its_own_products(stream: cp.cuda.Stream) -> None:
    x, out = cp.ones((2, 2), "f4"), cp.empty((2, 2), "f4")
    cp.matmul(x, x, out=out)
    with stream:
        stream.begin_capture()
        with pytest.raises(NotImplementedError):
            cp.matmul(x, x, out=out)
        stream.end_capture()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_cublas_calls_are_recorded_and_replayed(stream: cp.cuda.Stream, dtype: str) -> None:
    """A layer, end to end: the product by cuBLAS through ctypes, the rest by CuPy."""
    rng = np.random.default_rng(0)
    W, b = rng.standard_normal((3, 4)).astype(dtype), rng.standard_normal((3, 1)).astype(dtype)
    w, bias, x, z = cp.asarray(W), cp.asarray(b), cp.zeros((4, 5), dtype), cp.zeros((3, 5), dtype)
    cp.tanh(cp.add(z, bias, out=z), out=z)  # compiles
    fill(z, 0)
    with stream, Blas(stream) as blas:
        blas.matmul(w, x, z)  # warm-up, as on a device
        stream.synchronize()
        with cupy_cpu.count() as captured:
            stream.begin_capture()
            blas.matmul(w, x, z)
            cp.add(z, bias, out=z)
            cp.tanh(z, out=z)
            graph = stream.end_capture()
        assert captured.captured["cublasGemmEx"] == 1
        assert captured.launches == 0
    for _ in range(3):
        X = rng.standard_normal((4, 5)).astype(dtype)
        x.set(X)
        cp.cuda.Device().synchronize()
        with cupy_cpu.count() as replayed:
            graph.launch(stream)
            stream.synchronize()
        assert replayed.launches == replayed.graph_launches == 1
        assert replayed.replayed["cublasGemmEx"] == 1
        np.testing.assert_allclose(z.get(), np.tanh(W @ X + b), rtol=1e-5, atol=1e-6)


def test_synchronising_invalidates(stream: cp.cuda.Stream) -> None:
    stream.begin_capture()
    with pytest.raises(CUDAError, match="StreamCaptureUnsupported"):
        stream.synchronize()
    with pytest.raises(CUDAError, match="StreamCaptureInvalidated"):
        stream.end_capture()


def test_device_synchronisation_invalidates(stream: cp.cuda.Stream) -> None:
    stream.begin_capture()
    with pytest.raises(CUDAError, match="StreamCaptureUnsupported"):
        cp.cuda.Device().synchronize()
    with pytest.raises(CUDAError, match="StreamCaptureInvalidated"):
        stream.end_capture()


def test_legacy_stream_work_invalidates_a_blocking_streams_capture() -> None:
    x = cp.ones(3)
    x += 1
    stream = cp.cuda.Stream()
    stream.begin_capture()
    with pytest.raises(
        (CUDAError, cp.cuda.driver.CUDADriverError), match=r"(?i)Stream_?Capture_?Implicit"
    ):
        x += 1
    with pytest.raises(CUDAError, match="StreamCaptureInvalidated"):
        stream.end_capture()


def test_legacy_stream_cannot_be_captured() -> None:
    with pytest.raises((CUDAError, RuntimeError)):
        cp.cuda.Stream.null.begin_capture()


@pytest.mark.skipif(cupy_cpu.guarded(), reason="without a pool every array would fail")
def test_allocation_that_misses_the_pool_invalidates(stream: cp.cuda.Stream) -> None:
    pool = cp.cuda.MemoryPool()
    with stream, cp.cuda.using_allocator(pool.malloc):
        stream.begin_capture(cp.cuda.runtime.streamCaptureModeGlobal)  # CuPy's is relaxed
        with pytest.raises(CUDAError, match="StreamCaptureUnsupported"):
            cp.empty(1 << 24)
        with pytest.raises(CUDAError, match="StreamCaptureInvalidated"):
            stream.end_capture()


def executable() -> int:
    """A graph of nothing, instantiated."""
    stream = cp.cuda.Stream(non_blocking=True)
    stream.begin_capture()
    graph = stream.end_capture()
    return runtime.graphInstantiate(graph.graph)


def recorded() -> int:
    """An event that no capture knows."""
    event = runtime.eventCreate()
    runtime.eventRecord(event, cp.cuda.Stream.null.ptr)
    cp.cuda.Device().synchronize()
    return event


def image() -> bytes:
    return cp.cuda.compiler.compile_using_nvrtc('extern "C" __global__ void nothing() {}')[0]


# Calls that only a relaxed capture tolerates, each with what makes its argument before.
UNSAFE: dict[str, tuple[Callable[[Any], object], Callable[[], Any]]] = {
    "cudaGraphExecDestroy": (runtime.graphExecDestroy, executable),
    "cudaEventQuery": (lambda event: runtime.check_status(runtime.eventQuery(event)), recorded),
    "cudaEventSynchronize": (runtime.eventSynchronize, recorded),
    "cudaMalloc": (runtime.malloc, lambda: 64),
    "cudaFree": (runtime.free, lambda: runtime.malloc(64)),
    "cudaHostAlloc": (lambda size: runtime.hostAlloc(size, 0), lambda: 64),
    "cudaFreeHost": (runtime.freeHost, lambda: runtime.hostAlloc(64, 0)),
    "cuModuleLoadData": (cp.cuda.driver.moduleLoadData, image),
}
if cupy_cpu.guarded():  # CuPy has no pool then, and takes and frees in captures
    del UNSAFE["cudaMalloc"], UNSAFE["cudaFree"]
ERRORS = CUDAError, cp.cuda.driver.CUDADriverError
UNSUPPORTED = r"(?i)Stream_?Capture_?Unsupported"


@pytest.mark.parametrize("mode", ["Global", "ThreadLocal"])
@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_calls_are_refused_and_invalidate(
    stream: cp.cuda.Stream, name: str, mode: str
) -> None:
    call, prepare = UNSAFE[name]
    argument = prepare()
    stream.begin_capture(getattr(runtime, f"streamCaptureMode{mode}"))
    with pytest.raises(ERRORS, match=UNSUPPORTED):
        call(argument)
    with pytest.raises(CUDAError, match="StreamCaptureInvalidated"):
        stream.end_capture()


@pytest.mark.parametrize("name", UNSAFE)
def test_a_relaxed_capture_tolerates_them(stream: cp.cuda.Stream, name: str) -> None:
    call, prepare = UNSAFE[name]
    argument = prepare()
    stream.begin_capture(runtime.streamCaptureModeRelaxed)
    call(argument)
    assert stream.end_capture() is not None


@pytest.mark.parametrize("mode", ["Global", "ThreadLocal"])
def test_only_a_global_capture_refuses_them_to_other_threads(
    stream: cp.cuda.Stream, mode: str
) -> None:
    errors: list[Exception] = []
    argument = executable()

    def elsewhere() -> None:
        try:
            runtime.graphExecDestroy(argument)
        except CUDAError as error:
            errors.append(error)

    stream.begin_capture(getattr(runtime, f"streamCaptureMode{mode}"))
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    if mode == "Global":
        assert "StreamCaptureUnsupported" in str(errors)
        with pytest.raises(CUDAError, match="StreamCaptureInvalidated"):
            stream.end_capture()
    else:
        assert not errors
        assert stream.end_capture() is not None


def test_a_graph_let_go_during_a_capture_cannot_be_destroyed(
    stream: cp.cuda.Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CuPy destroys it where an error can only be reported."""
    stream.begin_capture()
    old = stream.end_capture()
    reported: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda what: reported.append(str(what.exc_value)))
    stream.begin_capture(runtime.streamCaptureModeThreadLocal)
    del old
    with pytest.raises(CUDAError, match="StreamCaptureInvalidated"):
        stream.end_capture()
    assert len(reported) == 1
    assert "StreamCaptureUnsupported" in reported[0]


def test_a_graph_is_not_launched_into_a_capture(stream: cp.cuda.Stream) -> None:
    stream.begin_capture()
    graph = stream.end_capture()
    stream.begin_capture()
    with pytest.raises(CUDAError, match=UNSUPPORTED):
        graph.launch(stream)
    with pytest.raises(CUDAError, match="StreamCaptureInvalidated"):
        stream.end_capture()


def test_work_that_does_not_join_back_is_an_error(stream: cp.cuda.Stream) -> None:
    x, other, event = cp.ones(3), cp.cuda.Stream(non_blocking=True), cp.cuda.Event()
    x += 1
    cp.cuda.Device().synchronize()
    stream.begin_capture()
    event.record(stream)
    other.wait_event(event)
    with other:
        x += 1
    with pytest.raises(CUDAError, match="StreamCaptureUnjoined"):
        stream.end_capture()


def test_streams_may_fork_and_join(stream: cp.cuda.Stream) -> None:
    x, y, other = cp.zeros(3), cp.zeros(3), cp.cuda.Stream(non_blocking=True)
    x += 1
    y += x
    cp.cuda.Device().synchronize()
    forked, joined = cp.cuda.Event(), cp.cuda.Event()
    stream.begin_capture()
    with stream:
        x += 1
        forked.record(stream)
    other.wait_event(forked)
    with other:
        y += x
        joined.record(other)
    stream.wait_event(joined)
    graph = stream.end_capture()
    graph.launch(stream)
    stream.synchronize()
    assert x.get().tolist() == [2, 2, 2]
    assert y.get().tolist() == [3, 3, 3]
