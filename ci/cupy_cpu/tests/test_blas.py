"""The cuBLAS library reached through ctypes, as one would on a device."""

import ctypes

import cupy as cp
import numpy as np
import pytest
from blas import FAST_TF32, Blas, CublasError
from cupy import cublas


@pytest.fixture
def stream() -> cp.cuda.Stream:
    return cp.cuda.Stream(non_blocking=True)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("shape", [(4, 3, 5), (1, 1, 1), (64, 33, 17)])
def test_product(stream: cp.cuda.Stream, dtype: str, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    x, y, out = cp.asarray(X), cp.asarray(Y), cp.empty((m, n), dtype)
    cp.cuda.Device().synchronize()
    with Blas(stream) as blas:
        blas.matmul(x, y, out)
        stream.synchronize()
    np.testing.assert_allclose(out.get(), X @ Y, rtol=1e-4, atol=1e-5)


def rounded(x: np.ndarray, digits: int) -> np.ndarray:
    """float32 to so many significant bits: to nearest, ties to even."""
    dropped = 24 - digits
    bits = x.view(np.uint32).astype(np.uint64)
    bits = (bits + (1 << dropped - 1) - 1 + (bits >> dropped & 1)) >> dropped << dropped
    return bits.astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize("digits", [8, 11])
def test_product_of_rounded_operands(stream: cp.cuda.Stream, digits: int, batch: int) -> None:
    """bfloat16 operands (8 bits) with sums in float32; float32 ones of which tf32 is made."""
    rng, leading = np.random.default_rng(0), (batch,) if batch else ()
    X, Y = (rng.standard_normal((*leading, *s)).astype("f4") for s in ((6, 40), (40, 9)))
    Y.reshape(-1)[:2] = 1 + 3 * 2.0**-8, 1 + 2.0**-11  # ties
    kept = [rounded(array, digits) for array in (X, Y)]
    x, y = (cp.asarray(array) for array in (X, Y))
    if digits == 8:
        x, y = (cp.asarray((array.view(np.uint32) >> 16).astype(np.uint16)) for array in kept)
    out = cp.empty((*leading, 6, 9), "f4")
    cp.cuda.Device().synchronize()
    with Blas(stream) as blas:
        blas.matmul(x, y, out, compute=FAST_TF32 if digits == 11 else 0, batch=batch)
        stream.synchronize()
    exact = kept[0].astype(float) @ kept[1]
    np.testing.assert_allclose(out.get(), exact, rtol=0, atol=4e-6)
    assert np.max(np.abs(out.get() - X.astype(float) @ Y)) > 1e-4


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3.4e38, 0.0, 2.0**-140])
def test_tf32_keeps_what_is_no_number(stream: cp.cuda.Stream, value: float) -> None:
    x, one, out = cp.full((1, 1), value, "f4"), cp.ones((1, 1), "f4"), cp.empty((1, 1), "f4")
    cp.cuda.Device().synchronize()
    with Blas(stream) as blas:
        blas.matmul(x, one, out, compute=FAST_TF32)
        stream.synchronize()
    expected = value if np.isnan(value) else rounded(np.full((1, 1), value, "f4"), 11)
    np.testing.assert_array_equal(out.get(), expected)


def test_leading_dimension_must_fit(stream: cp.cuda.Stream) -> None:
    p = ctypes.c_void_p(cp.ones((4, 4), "f4").data.ptr)
    one = ctypes.byref(ctypes.c_float(1))
    with Blas(stream) as blas, pytest.raises(CublasError, match="status 7"):
        blas.call("cublasSgemm_v2", blas.handle, 0, 0, 4, 4, 4, one, p, 3, p, 4, one, p, 4)


def test_operand_too_small_is_refused(
    stream: cp.cuda.Stream, capfd: pytest.CaptureFixture[str]
) -> None:
    memory = cp.cuda.memory.Memory(60)  # one float short
    p = ctypes.c_void_p(memory.ptr)
    one = ctypes.byref(ctypes.c_float(1))
    with Blas(stream) as blas, pytest.raises(CublasError, match="status 13"):
        blas.call("cublasSgemm_v2", blas.handle, 0, 0, 4, 4, 4, one, p, 4, p, 4, one, p, 4)
    assert "A (4 x 4, leading dimension 4) is not device memory" in capfd.readouterr().err


def test_host_memory_is_refused(stream: cp.cuda.Stream, capfd: pytest.CaptureFixture[str]) -> None:
    class Host:  # looks like an array, lies on the host
        def __init__(self) -> None:
            self.array = np.ones((2, 2), "f4")
            self.shape, self.dtype = self.array.shape, self.array.dtype
            self.data = type("Data", (), {"ptr": self.array.ctypes.data})

    x = cp.ones((2, 2), "f4")
    with Blas(stream) as blas, pytest.raises(CublasError, match="status 13"):
        blas.matmul(Host(), x, cp.empty((2, 2), "f4"))
    assert "B (2 x 2, leading dimension 2) is not device memory" in capfd.readouterr().err


def test_cupys_functions_of_cublas() -> None:
    """Those of cupy.cublas that the products above do not use."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((2, 6)).astype("f4")
    x, y = cp.asarray(X), cp.asarray(Y)
    np.testing.assert_allclose(float(cublas.dot(x, y)), X @ Y, rtol=1e-5)
    np.testing.assert_allclose(float(cublas.nrm2(x)), np.linalg.norm(X), rtol=1e-5)
    np.testing.assert_allclose(float(cublas.asum(x)), np.abs(X).sum(), rtol=1e-5)
    assert int(cublas.iamax(x)) == 1 + np.abs(X).argmax()
    A = rng.standard_normal((6, 6)).astype("f4")
    out = cp.asarray(A, order="F")
    cublas.gemm("N", "T", out, out, out=(z := cp.zeros((6, 6), "f4", order="F")), beta=0.0)
    np.testing.assert_allclose(z.get(), A @ A.T, rtol=1e-4, atol=1e-5)
    cublas.syrk("N", out, out=z, beta=0.0, lower=True)
    np.testing.assert_allclose(np.tril(z.get()), np.tril(A @ A.T), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        cublas.geam("N", "T", 1.0, out, 2.0, out).get(), A + 2 * A.T, rtol=1e-5, atol=1e-6
    )


def test_what_is_not_there_says_so() -> None:
    with pytest.raises(cp.cuda.cublas.CUBLASError, match="NOT_SUPPORTED"):
        cublas.sbmv(
            0, 1.0, cp.ones((1, 4), "f4", order="F"), cp.ones(4, "f4"), 0.0, cp.ones(4, "f4")
        )
