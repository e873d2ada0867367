"""The BLAS that NumPy has loaded: its products, and how many threads it may use."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from . import native

# cblas_sgemm and cblas_dgemm by the names that libraries give them, and the size of their
# integers: OpenBLAS as NumPy's and SciPy's wheels bring it, others' builds of it and MKL
NAMES = {
    "scipy_cblas_{}gemm64_": 64,
    "cblas_{}gemm64_": 64,
    "scipy_cblas_{}gemm": 32,
    "cblas_{}gemm": 32,
}
LETTERS = {"float32": "s", "float64": "d"}


@cache
def controller() -> Any:
    """The BLAS libraries that are loaded: found once, in about a millisecond."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@cache
def products(dtype: str) -> tuple[int, int] | None:
    """The runtime's product and the BLAS's function for it; None where none is found."""
    for library in controller().lib_controllers:
        found = ctypes.CDLL(library.filepath)
        for name, bits in NAMES.items():
            name = name.format(LETTERS[dtype])
            if hasattr(found, name):
                product = native.entry(native.runtime(), f"product_{dtype}_{bits}")
                return product, native.entry(found, name)
    return None
