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

F32, F64 = 0, 1  # cudaDataType
COMPUTE_32F, COMPUTE_64F = 68, 70  # cublasComputeType_t
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

    def matmul(self, x: cp.ndarray, y: cp.ndarray, out: cp.ndarray) -> None:
        """out = x @ y, C-contiguous, of one dtype. Row-major arrays are the transposes
        of column-major ones, and outᵀ = yᵀ xᵀ."""
        (m, k), n = x.shape, y.shape[1]
        double = x.dtype == "f8"
        scalar = ctypes.c_double if double else ctypes.c_float
        data = F64 if double else F32
        pointers = [ctypes.c_void_p(array.data.ptr) for array in (y, x, out)]
        self.call(
            "cublasGemmEx",
            *(self.handle, 0, 0, n, m, k, ctypes.byref(scalar(1))),
            *(pointers[0], data, n, pointers[1], data, k, ctypes.byref(scalar(0))),
            *(pointers[2], data, n, COMPUTE_64F if double else COMPUTE_32F, -1),
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
