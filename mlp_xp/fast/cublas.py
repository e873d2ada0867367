"""Matrix products by the cuBLAS that CuPy has loaded, with a handle of our own.

CuPy refuses its own cuBLAS calls while a stream is captured, which stands in the way of
graph replay; cuBLAS itself allows them, given a workspace of the caller's. The library is
the one CuPy uses, reached through ctypes. The products are those of `xp.matmul` in every
respect: row-major, float32 or float64, TF32 only where CuPy would use it; and those of
operands at another precision, with sums in float32.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import weakref
from ctypes import byref, c_double, c_float, c_int, c_longlong, c_size_t, c_void_p
from typing import Any, NamedTuple

from ..types import Array
from .blas import layout

N, T = 0, 1  # cublasOperation_t
FLOATS: dict[str, tuple[type[Any], int, int]] = {  # ctypes, cudaDataType_t, cublasComputeType_t
    "float32": (c_float, 0, 68),
    "float64": (c_double, 1, 70),
}
TF32 = 77  # CUBLAS_COMPUTE_32F_FAST_TF32
BFLOAT16 = 14  # CUDA_R_16BF
DEFAULT_ALGORITHM = -1
WORKSPACE = 32 << 20  # what NVIDIA recommends on Hopper; 4 MiB before


class CublasError(RuntimeError):
    """cuBLAS cannot be reached or refused a call."""


def _paths() -> list[str]:
    """Where the library may be reached.

    CuPy's own extension module first: it depends on the library, so that a symbol looked up
    in the one is found in the other. Then where CuPy's loader finds it, and by name.
    """
    found = []
    for name in ("cupy_backends.cuda.libs.cublas", "cuda.pathfinder"):
        try:
            module = importlib.import_module(name)
            if name == "cuda.pathfinder":
                found.append(str(module.load_nvidia_dynamic_lib("cublas").abs_path))
            else:
                found.append(str(module.__file__))
        except Exception:  # no such module, or no such library: another way is tried
            continue
    return [*found, "libcublas.so.13", "libcublas.so.12"]


def load() -> ctypes.CDLL:
    """The library CuPy has loaded."""
    import cupy

    cupy.cuda.get_cublas_handle()  # CuPy loads it now, if it has not
    tried = []
    for path in dict.fromkeys(_paths()):
        try:
            library = ctypes.CDLL(path)
            _declare(library)
            return library
        except (OSError, AttributeError) as error:
            tried.append(f"{path}: {error}")
    raise CublasError("cuBLAS cannot be reached (" + "; ".join(tried) + ")")


def _declare(library: ctypes.CDLL) -> None:
    shape = [c_int] * 5
    matrix = [c_void_p, c_int, c_int]
    batched = [*matrix, c_longlong]
    signatures: dict[str, list[Any]] = {
        "cublasCreate_v2": [c_void_p],
        "cublasDestroy_v2": [c_void_p],
        "cublasSetStream_v2": [c_void_p, c_void_p],
        "cublasSetWorkspace_v2": [c_void_p, c_void_p, c_size_t],
        "cublasGemmEx": [
            *(c_void_p, *shape, c_void_p),
            *(*matrix, *matrix, c_void_p, *matrix),
            *(c_int, c_int),
        ],
        "cublasGemmStridedBatchedEx": [
            *(c_void_p, *shape, c_void_p),
            *(*batched, *batched, c_void_p, *batched),
            *(c_int, c_int, c_int),
        ],
    }
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, c_int


class _Matrix(NamedTuple):
    """An operand as cuBLAS takes it: column-major, so that a row-major array is transposed."""

    pointer: int
    operation: int
    pitch: int
    stride: int


def _matrix(array: Array) -> _Matrix:
    """An array (…, rows, columns) whose rows or whose columns lie together in memory."""
    turned, pitch = layout(array)
    stride = array.strides[0] // array.itemsize if array.ndim == 3 else 0
    return _Matrix(array.data.ptr, T if turned else N, pitch, stride)


class Product:
    """out ← A B (+ out), everything about it resolved: a call launches it.

    precision  a row of `kernels.PRECISIONS`: at "tf32" the float32 operands are rounded by
               cuBLAS, at "bfloat16" they are that already, held as uint16
    """

    def __init__(
        self,
        cublas: Cublas,
        A: Array,
        B: Array,
        out: Array,
        add: bool = False,
        precision: str = "float32",
    ) -> None:
        self.cublas, self.arrays = cublas, (A, B, out)
        number, kind, compute = FLOATS[str(out.dtype)]
        self.one, self.beta = number(1), number(1 if add else 0)
        given, expected = kind, "uint16" if precision == "bfloat16" else str(out.dtype)
        if {str(A.dtype), str(B.dtype)} != {expected}:
            raise ValueError(f"operands of {A.dtype} and {B.dtype}: expected {expected}")
        if precision == "bfloat16":
            given = BFLOAT16
        elif precision == "tf32" or os.environ.get("CUPY_TF32", "0") not in ("", "0"):
            compute = TF32 if compute == 68 else compute
        (rows, inner), columns = A.shape[-2:], B.shape[-1]
        a, b, c = _matrix(A), _matrix(B), _matrix(out)
        if c.operation != N:
            raise ValueError(f"strides {out.strides}: products are written by rows")
        networks = out.shape[0] if out.ndim == 3 else 1
        # row-major C = A B is column-major Cᵀ = Bᵀ Aᵀ
        head = (b.operation, a.operation, columns, rows, inner, byref(self.one))
        self.name = "cublasGemmEx"
        kinds = ((b, given), (a, given), (c, kind))
        operands: list[tuple[int, ...]] = [(x.pointer, of, x.pitch) for x, of in kinds]
        tail: tuple[int, ...] = (compute, DEFAULT_ALGORITHM)
        if networks > 1:
            self.name, tail = "cublasGemmStridedBatchedEx", (networks, *tail)
            operands = [(x.pointer, of, x.pitch, x.stride) for x, of in kinds]
        self.arguments = (*head, *operands[0], *operands[1], byref(self.beta), *operands[2], *tail)
        self.function = getattr(cublas.library, self.name)

    def __call__(self) -> None:
        status = self.function(self.cublas.handle, *self.arguments)
        if status:
            raise CublasError(f"{self.name} failed with status {status}")


class Cublas:
    """A handle with a workspace of its own; follows the stream it is told of."""

    def __init__(self) -> None:
        import cupy

        self.library, self.handle = load(), c_void_p()
        self._check("cublasCreate_v2", byref(self.handle))
        self._end = weakref.finalize(self, self.library.cublasDestroy_v2, self.handle)
        self._end.atexit = False  # the device is gone by then
        self.workspace = cupy.empty(WORKSPACE, "uint8")
        self.stream: int | None = None

    def follow(self, stream: int) -> None:
        """Launch on this stream from now on."""
        if stream != self.stream:
            self._check("cublasSetStream_v2", self.handle, stream)
            # a change of stream takes the workspace away
            workspace = (self.workspace.data.ptr, WORKSPACE)
            self._check("cublasSetWorkspace_v2", self.handle, *workspace)
            self.stream = stream

    def _check(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, name)(*arguments)
        if status:
            raise CublasError(f"{name} failed with status {status}")
