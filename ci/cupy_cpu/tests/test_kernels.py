"""User kernels: elementwise, reductions, raw CUDA C++, fusion, cupyx.jit."""

import cupy as cp
import numpy as np
import pytest
from cupyx import jit
from support import done_at_once

RNG = np.random.default_rng(0)
A = RNG.standard_normal((7, 5)).astype("f4")


def test_elementwise_kernel() -> None:
    kernel = cp.ElementwiseKernel("T x, T y, float64 s", "T z", "z = x * y + s", "scaled")
    z = kernel(cp.asarray(A), cp.asarray(A), 1.0)
    np.testing.assert_allclose(z.get(), A * A + 1, rtol=1e-5)


def test_reduction_kernel() -> None:
    kernel = cp.ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "length")
    y = kernel(cp.asarray(A), axis=1)
    np.testing.assert_allclose(y.get(), np.sqrt((A * A).sum(1)), rtol=1e-5)


def test_fused_elementwise_function() -> None:
    @cp.fuse()
    def f(x, y):
        return cp.sqrt(x * x + y * y) + 1

    np.testing.assert_allclose(f(cp.asarray(A), cp.asarray(A)).get(), np.sqrt(2 * A * A) + 1, 1e-5)


def test_fused_reduction() -> None:
    @cp.fuse(kernel_name="sum_of_squares")
    def f(x):
        return cp.sum(x * x, axis=1)

    np.testing.assert_allclose(f(cp.asarray(A)).get(), (A * A).sum(1), rtol=1e-5)


def test_threads_of_a_block_meet_at_barriers() -> None:
    """A prefix sum, with dynamic shared memory."""
    kernel = cp.RawKernel(
        r"""
        extern "C" __global__ void scan(const float* x, float* y, int n) {
          extern __shared__ float s[];
          int t = threadIdx.x;
          s[t] = t < n ? x[blockIdx.x * n + t] : 0;
          __syncthreads();
          for (int o = 1; o < blockDim.x; o *= 2) {
            float v = t >= o ? s[t - o] : 0;
            __syncthreads();
            s[t] += v;
            __syncthreads();
          }
          if (t < n) y[blockIdx.x * n + t] = s[t];
        }""",
        "scan",
    )
    X = RNG.standard_normal((3, 50)).astype("f4")
    x, y = cp.asarray(X), cp.empty((3, 50), "f4")
    kernel((3,), (64,), (x, y, np.int32(50)), shared_mem=64 * 4)
    np.testing.assert_allclose(y.get(), np.cumsum(X, 1), rtol=1e-4, atol=1e-5)


def test_lanes_of_a_warp_exchange_values() -> None:
    kernel = cp.RawKernel(
        r"""
        extern "C" __global__ void total(const float* x, float* y) {
          float v = x[blockIdx.x * blockDim.x + threadIdx.x];
          for (int o = 16; o; o >>= 1) v += __shfl_down_sync(0xffffffff, v, o);
          __shared__ float w[32];
          int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
          if (lane == 0) w[warp] = v;
          __syncthreads();
          if (warp == 0) {
            v = lane < blockDim.x / 32 ? w[lane] : 0;
            for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffff, v, o);
            if (lane == 0) atomicAdd(y, v);
          }
        }""",
        "total",
    )
    X = RNG.standard_normal(1024).astype("f4")
    y = cp.zeros(1, "f4")
    kernel((4,), (256,), (cp.asarray(X), y))
    np.testing.assert_allclose(y.get(), X.sum(keepdims=True), rtol=1e-3, atol=1e-4)


def test_votes_and_counting_barriers() -> None:
    kernel = cp.RawKernel(
        r"""
        extern "C" __global__ void votes(int* out) {
          int t = threadIdx.x;
          unsigned b = __ballot_sync(0xffffffff, t % 3 == 0);
          int n = __syncthreads_count(t < 40);
          int all = __syncthreads_and(t < 40), any = __syncthreads_or(t == 50);
          if (t == 0) { out[0] = __popc(b); out[1] = n; out[2] = all; out[3] = any; }
        }""",
        "votes",
    )
    out = cp.zeros(4, "i4")
    kernel((1,), (64,), (out,))
    assert out.get().tolist() == [11, 40, 0, 1]


def test_templates_constants_and_globals() -> None:
    module = cp.RawModule(
        code=r"""
        __constant__ float scale[2];
        __device__ int counter = 5;
        template<typename T> __global__ void f(T* x, int n) {
          int i = threadIdx.x;
          if (i < n) x[i] = x[i] * scale[0] + scale[1] + counter;
        }""",
        options=("-std=c++17",),
        name_expressions=["f<float>", "f<double>"],
    )
    cp.ndarray((2,), "f4", module.get_global("scale"))[:] = cp.asarray([2, 1], "f4")
    x = cp.arange(4, dtype="f8")
    module.get_function("f<double>")((1,), (32,), (x, 4))
    assert x.get().tolist() == [6, 8, 10, 12]


def test_kernels_made_by_macros_are_found() -> None:
    module = cp.RawModule(
        code=r"""
        #define KERNEL(NAME, VALUE) \
          extern "C" __global__ void NAME(int* x) { x[threadIdx.x] = VALUE; }
        KERNEL(ones, 1)
        KERNEL(twos, 2)
        """
    )
    x = cp.zeros(3, "i4")
    module.get_function("twos")((1,), (3,), (x,))
    assert x.get().tolist() == [2, 2, 2]


@pytest.mark.filterwarnings("ignore:.*experimental:FutureWarning")
def test_jit_kernel() -> None:
    @jit.rawkernel()
    def double(x, y, n):
        t = jit.threadIdx.x + jit.blockIdx.x * jit.blockDim.x
        if t < n:
            y[t] = x[t] * 2

    x, y = cp.arange(100, dtype="f4"), cp.empty(100, "f4")
    double((1,), (128,), (x, y, 100))
    np.testing.assert_array_equal(y.get(), 2 * np.arange(100, dtype="f4"))


def test_compile_error_shows_the_users_line() -> None:
    kernel = cp.RawKernel('extern "C" __global__ void f(int n) {\n  foo;\n}', "f")
    with pytest.raises(cp.cuda.compiler.CompileException, match=r":2:.*foo"):
        kernel.compile()


@done_at_once
def test_device_assertion_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    kernel = cp.RawKernel('extern "C" __global__ void f(int n) { assert(n == 1); }', "f")
    with pytest.raises(cp.cuda.driver.CUDADriverError, match="ASSERT"):
        kernel((1,), (1,), (2,))
    assert "`n == 1` failed" in capfd.readouterr().err


@done_at_once
@pytest.mark.parametrize("barrier", ["", "__syncthreads();"])
def test_bad_address_is_an_error_and_the_process_lives(barrier: str) -> None:
    source = """extern "C" __global__ void f(float* p, long long n) {
        %s p[n] = 1; %s }"""
    kernel = cp.RawKernel(source % (barrier, barrier), "f")
    x = cp.zeros(4, "f4")
    with pytest.raises(cp.cuda.driver.CUDADriverError, match="ILLEGAL_ADDRESS"):
        kernel((1,), (4,), (x, np.int64(1 << 40)))
    assert float((x + 1).sum()) == 4


def test_too_many_threads_is_an_error() -> None:
    kernel = cp.RawKernel('extern "C" __global__ void f() {}', "f")
    with pytest.raises(cp.cuda.driver.CUDADriverError, match="INVALID_VALUE"):
        kernel((1,), (2048,), ())


def test_numpy_array_is_refused_by_a_kernel() -> None:
    kernel = cp.RawKernel('extern "C" __global__ void f(float* p) {}', "f")
    with pytest.raises(TypeError, match=r"numpy\.ndarray"):
        kernel((1,), (1,), (np.zeros(4, "f4"),))
