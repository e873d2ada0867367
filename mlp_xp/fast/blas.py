"""The BLAS of the compiled steps: NumPy's own, or MKL; and how many threads it may use.

MLP_XP_BLAS=mkl takes the products of the package `mkl`, for Intel's processors. It is no
default: on AMD's Zen 5 they take 1.6 to 2.1 times as long as OpenBLAS's.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import cure
from ..types import Array
from . import native

# cblas_sgemm, cblas_dgemv and so on by the names that libraries give them, and the size of their
# integers: OpenBLAS as NumPy's and SciPy's wheels bring it, others' builds of it and MKL
NAMES = {
    "scipy_cblas_{}{}64_": 64,
    "cblas_{}{}64_": 64,
    "scipy_cblas_{}{}": 32,
    "cblas_{}{}": 32,
}
LETTERS = {"float32": "s", "float64": "d"}

# OpenBLAS's kernels for AVX-512 have a second set for products of at most so many
# multiplications, which packs nothing: there a larger product is faster in such pieces.
PIECED = ("SkylakeX", "Cooperlake", "SapphireRapids")
PIECE = 1_000_000


class OpenBLAS:
    """The one that NumPy's wheels bring, as `threadpoolctl` has others.

    It lies beside NumPy. `threadpoolctl` looks at every library that is loaded, which takes
    longer than a small training, and finds those of others too, in the order of their loading.
    """

    threading_layer = "pthreads"

    def __init__(self, filepath: str) -> None:
        library = ctypes.CDLL(filepath)
        self.filepath = filepath
        self._get = library.scipy_openblas_get_num_threads64_
        self.set_num_threads: Callable[[int], object] = library.scipy_openblas_set_num_threads64_
        self._texts = (
            library.scipy_openblas_get_corename64_,
            library.scipy_openblas_get_config64_,
        )
        for text in self._texts:
            text.restype = ctypes.c_char_p

    @property
    def num_threads(self) -> int:
        return int(self._get())

    def info(self) -> dict[str, str]:
        kind, config = (text().decode() for text in self._texts)
        return {"internal_api": "openblas", "version": config.split()[1], "architecture": kind}


@cache
def libraries() -> list[Any]:
    """The BLAS libraries whose threads are NumPy's: its own, or all that are loaded."""
    numpy = Path(np.__file__).parent
    for folder in (numpy.parent / "numpy.libs", numpy / ".dylibs"):
        for path in folder.glob("*scipy_openblas64_*"):
            try:
                return [OpenBLAS(str(path))]
            except (OSError, AttributeError):  # of another kind
                continue
    from threadpoolctl import ThreadpoolController

    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


@cache
def product(dtype: str, *, vector: bool = False) -> tuple[int, int] | None:
    """The runtime's product and the BLAS's function for it; None where none is found.

    vector  of a matrix and a vector
    """
    kind, function = ("vector", "gemv") if vector else ("product", "gemm")
    for library in _libraries():
        for name, bits in NAMES.items():
            name = name.format(LETTERS[dtype], function)
            if hasattr(library, name):
                own = native.entry(native.runtime(), f"{kind}_{dtype}_{bits}")
                return own, native.entry(library, name)
    return None


@cache
def _libraries() -> list[ctypes.CDLL]:
    """Where products are looked for, the first one first."""
    if wanted() == "mkl":
        return [_mkl()]
    return [ctypes.CDLL(library.filepath) for library in libraries()]


def wanted() -> str:
    """What MLP_XP_BLAS names: "numpy" or "mkl"."""
    name = os.environ.get("MLP_XP_BLAS") or "numpy"
    if name not in ("numpy", "mkl"):
        raise ValueError(f"MLP_XP_BLAS is {name!r}, but expected 'numpy' or 'mkl'.")
    return name


def _mkl() -> ctypes.CDLL:
    """MKL, each product on one thread: the runtime shares them out."""
    try:
        files = metadata.files("mkl") or []
    except metadata.PackageNotFoundError:
        raise ImportError(
            f"MLP_XP_BLAS=mkl needs the package mkl: {cure('mkl')}, or unset it."
        ) from None
    found = [file.locate() for file in files if file.name.startswith(("libmkl_rt.", "mkl_rt."))]
    if not found:
        raise ImportError("The package mkl has no library mkl_rt: unset MLP_XP_BLAS.")
    library = ctypes.CDLL(str(found[0]))
    library.MKL_Set_Threading_Layer(1)  # MKL_THREADING_SEQUENTIAL
    return library


def layout(array: Array) -> tuple[bool, int]:
    """How a BLAS reads the last two axes: whether turned, and the pitch of the rows.

    Of an array whose rows or whose columns lie together in memory; others are an error.
    """
    rows, columns = array.shape[-2:]
    by_row, by_column = (step // array.itemsize for step in array.strides[-2:])
    if by_column == 1 or columns == 1:
        return False, by_row if rows > 1 else columns
    if by_row == 1 or rows == 1:
        return True, by_column
    raise ValueError(f"strides {array.strides} of {array.shape} are no matrix of a BLAS")


@cache
def pieced() -> bool:
    """Whether products are faster in pieces."""
    if wanted() != "numpy":
        return False
    return libraries()[0].info().get("architecture") in PIECED


def racing(itemsize: int) -> bool:
    """Whether a product of two transposes may be wrong while another thread makes one.

    OpenBLAS's kernel of small ones in float32 for AVX-512
    (`sgemm_small_kernel_tt_skylakex.c`, as NumPy's wheels bring it in 0.3.31) keeps the places of
    the columns beyond a multiple of four in an array that all threads share: one in some million
    calls from eight threads was seen to write where another's belonged.
    """
    return itemsize == 4 and pieced()


def piece(
    itemsize: int, turned: tuple[bool, bool], shape: tuple[int, int, int], pitches: tuple[int, ...]
) -> tuple[int, int]:
    """Rows and columns of a product (rows, columns, inner) that are one call of the BLAS.

    By measurement on Zen 5, one thread, GFLOP/s whole and in pieces: D X of 784-100, batch 32,
    179 and 210 in float32, 79 and 107 in float64; Wᵀ D of 100-784, batch 200, 207 and 233, 83
    and 115; W Xᵀ of 784-100, batch 200, 158 and 205, but 80 and 75; with W by columns, batch
    1000, 159 and 193, 84 and 110. A pitch of a multiple of 2 KiB puts all rows of a piece
    into the same sets of the cache.
    """
    rows, columns, inner = shape
    whole = (rows, columns)
    if not pieced() or rows * columns * inner <= PIECE:
        return whole
    if any(pitch * itemsize % 2048 == 0 for pitch in pitches):
        return whole
    width = 128 // itemsize
    if turned[1]:
        width = 16
        poor = itemsize == 8 and columns > 64 and not turned[0]
        if poor or not 256 <= inner <= 1024:
            return whole
    elif inner > 512:
        return whole
    return min(rows, max(16, PIECE // (inner * width) // 16 * 16)), width
