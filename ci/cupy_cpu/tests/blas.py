"""The cuBLAS library that CuPy has loaded, with a handle of our own, by ctypes.

It needs nothing of CuPy on the CPU: with a CuPy for GPUs the same lines reach the
real library. CuPy's extension module depends on cuBLAS, so a symbol looked up in
the one is found in the other.
"""

import ctypes
from types import TracebackType
from typing import Self

import cupy as cp
from cupy_backends.cuda.libs import cublas

F32, F64, BF16 = 0, 1, 14  # cudaDataType
COMPUTE_32F, COMPUTE_64F, FAST_TF32 = 68, 70, 77  # cublasComputeType_t
LIBRARY = ctypes.CDLL(cublas.__file__)


class CublasError(RuntimeError):
    pass


class Blas:
    """A handle on a stream, with a workspace of its own (needed for captures)."""

    def __init__(self, stream: cp.cuda.Stream, workspace: int = 1 << 20) -> None:
        self.handle = ctypes.c_void_p()
        self.workspace = cp.empty(workspace + 256, "u1")  # aligned to 256 bytes
        address = (self.workspace.data.ptr + 255) // 256 * 256
        self.call("cublasCreate_v2", ctypes.byref(self.handle))
        self.call("cublasSetStream_v2", self.handle, ctypes.c_void_p(stream.ptr))
        self.call(
            "cublasSetWorkspace_v2",
            self.handle,
            ctypes.c_void_p(address),
            ctypes.c_size_t(workspace),
        )

    def call(self, name: str, *arguments: object) -> None:
        if status := getattr(LIBRARY, name)(*arguments):
            raise CublasError(f"{name}: status {status}")

    def matmul(
        self, x: cp.ndarray, y: cp.ndarray, out: cp.ndarray, *, compute: int = 0, batch: int = 0
    ) -> None:
        """out = x @ y, C-contiguous, of one dtype; or of bfloat16, held as uint16, in
        float32. Row-major arrays are the transposes of column-major ones, and outᵀ = yᵀ xᵀ.

        compute  a cublasComputeType_t other than that of out's dtype
        batch    how many matrices, where the arrays have one more axis in front
        """
        (m, k), n = x.shape[-2:], y.shape[-1]
        double = out.dtype == "f8"
        scalar = ctypes.c_double if double else ctypes.c_float
        kinds = {"float32": F32, "float64": F64, "uint16": BF16}
        operands: list[tuple[object, ...]] = [
            (ctypes.c_void_p(array.data.ptr), kinds[str(array.dtype)], pitch)
            for array, pitch in ((y, n), (x, k), (out, n))
        ]
        if batch:
            strides = (k * n, m * k, m * n)
            operands = [
                (*operand, ctypes.c_longlong(stride))
                for operand, stride in zip(operands, strides, strict=True)
            ]
        self.call(
            "cublasGemmStridedBatchedEx" if batch else "cublasGemmEx",
            *(self.handle, 0, 0, n, m, k, ctypes.byref(scalar(1))),
            *(*operands[0], *operands[1], ctypes.byref(scalar(0)), *operands[2]),
            *((batch,) if batch else ()),
            *(compute or (COMPUTE_64F if double else COMPUTE_32F), -1),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.call("cublasDestroy_v2", self.handle)
