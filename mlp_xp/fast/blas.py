"""The BLAS of the compiled steps: NumPy's own, or MKL; and how many threads it may use.

MLP_XP_BLAS=mkl takes the products of the package `mkl`, for Intel's processors. It is no
default: on AMD's Zen 5 they take 1.6 to 2.1 times as long as OpenBLAS's.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..extras import cure
from ..types import Array
from . import c_source, native

# cblas_sgemm, cblas_dgemv and so on by the names that libraries give them, and the size of their
# integers: OpenBLAS as NumPy's and SciPy's wheels bring it, others' builds of it and MKL
NAMES = {
    "scipy_cblas_{}{}64_": 64,
    "cblas_{}{}64_": 64,
    "scipy_cblas_{}{}": 32,
    "cblas_{}{}": 32,
}
LETTERS = {"float32": "s", "float64": "d"}
VECTOR, FEW = 64, 24  # bytes of one, and rows that are made as columns: see multiply.c


class OpenBLAS:
    """The one that a package's wheels bring, as `threadpoolctl` has others.

    It lies beside the package. `threadpoolctl` looks at every library that is loaded, which takes
    longer than a small training, and finds those of others too, in the order of their loading.

    suffix  of its functions' names: "64_" where their integers have 64 bits, NumPy's
    """

    threading_layer = "pthreads"

    def __init__(self, filepath: str, suffix: str = "64_") -> None:
        library = ctypes.CDLL(filepath)
        self.filepath = filepath
        self._get, set_, *self._texts = (
            getattr(library, f"scipy_openblas_{name}{suffix}")
            for name in ("get_num_threads", "set_num_threads", "get_corename", "get_config")
        )
        self.set_num_threads: Callable[[int], object] = set_
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
    return _beside(np, "64_") or _loaded()


@cache
def of_scipy() -> list[Any]:
    """The BLAS libraries of SciPy, which is loaded, that are not NumPy's."""
    known = {library.filepath for library in libraries()}
    found = _beside(sys.modules["scipy"], "") or _loaded()
    return [library for library in found if library.filepath not in known]


def _beside(package: ModuleType, suffix: str) -> list[Any]:
    """The OpenBLAS that came with a package, if one did."""
    name, home = package.__name__, Path(str(package.__file__)).parent
    for folder in (home.parent / f"{name}.libs", home / ".dylibs"):
        for path in folder.glob(f"*scipy_openblas{suffix}[-.]*"):
            try:
                return [OpenBLAS(str(path), suffix)]
            except (OSError, AttributeError):  # of another kind
                continue
    return []


def _loaded() -> list[Any]:
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


def own(dtype: str, turned: tuple[bool, bool], shape: tuple[int, int, int]) -> int | None:
    """The runtime's own product, where it is to be taken; None where the BLAS is.

    turned  whether A and B are read transposed
    shape   (rows, columns, inner)

    On processors with AVX2 it is faster than OpenBLAS 0.3.31, but where B is read transposed
    and its few columns, or the few rows of A, fill no vector (bench/). Two transposes are its
    own in any case: OpenBLAS's kernel of small ones in float32 for AVX-512
    (`sgemm_small_kernel_tt_skylakex.c`) keeps the places of the columns beyond a multiple of
    four in an array that all threads share, and one in some million calls from eight threads
    was seen to write where another's belonged.
    """
    rows, columns, _ = shape
    across = rows if turned[1] and rows <= FEW else columns
    narrow = 2 * across * np.dtype(dtype).itemsize <= VECTOR and turned == (False, True)
    if wanted() != "numpy" or (narrow and product(dtype) is not None):
        return None
    return _multiply(dtype)


def fetches(dtype: str) -> bool:
    """Whether there is a product of the runtime's own, which fetches rows of B where they lie."""
    return wanted() == "numpy" and _multiply(dtype) is not None


@cache
def _multiply(dtype: str) -> int | None:
    """Where multiply.c begins for a type; None where it has no vectors, or cannot be compiled."""
    source, name = c_source.multiply(dtype)
    found = native.brought(name)
    if found is not None:
        return found
    try:
        library = native.library(source)
    except native.CannotCompile as error:
        native.warn("Products are the BLAS's", error)
        return None
    return native.entry(library, name) if hasattr(library, name) else None
