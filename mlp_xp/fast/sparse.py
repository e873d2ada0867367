"""Products with sparse rows, which nobody makes dense: the runtime's, or SciPy's without it.

A network's weights lie by rows, (n_out, n_in), where SciPy wants them by columns: it would copy
them for every product.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from . import blas, native
from .calls import Calls, address, parts_of_product
from .threads import Shared

Buffer = npt.NDArray[Any]
SHARED = 1_000_000  # multiplications from which on other threads help


def few(csr: Any) -> bool:
    """Whether products with sparse rows are faster than those with a dense copy.

    Up to 1/16 of the entries in float64 and 1/32 in float32, which is where both took as long
    (500 to 20,000 features, 100 and 256 units, batches of 200).
    """
    return bool(128 * csr.nnz <= csr.dtype.itemsize * csr.shape[0] * csr.shape[1])


def kept(csr: Any) -> tuple[int, int, int, int] | None:
    """How rows are kept, as the runtime is told (`runtime.c`); None where it cannot read them."""
    parts, wide = (csr.indptr, csr.indices, csr.data), csr.indices.dtype
    known = wide in (np.int32, np.int64) and csr.dtype in (np.float32, np.float64)
    lie = all(part.flags.c_contiguous and part.flags.aligned for part in parts)
    if not known or not lie or csr.indptr.dtype != wide:
        return None
    starts, columns, values = map(address, parts)
    return starts, columns, values, int(wide == np.int64)


def kernel(dtype: str) -> int:
    """Where the runtime's product with sparse rows begins, which takes the words of others."""
    return native.entry(native.runtime(), f"sparse_{dtype}")


def product(W: Buffer, csr: Any) -> Buffer:
    """W Xᵀ of the rows X: (n_out, n_in), (m, n_in) → (n_out, m)."""
    found = _multiplied(W, csr, True)
    return (csr @ W.T).T if found is None else found


def gradient(delta: Buffer, csr: Any) -> Buffer:
    """δ X of the rows X: (n_out, m), (m, n_in) → (n_out, n_in)."""
    found = _multiplied(delta, csr, False)
    return (csr.T @ delta.T).T if found is None else found


def _multiplied(A: Buffer, csr: Any, turned: bool) -> Buffer | None:
    """A B by the runtime, where B is the rows, or turned; None where it cannot."""
    told = kept(csr) if A.dtype == csr.dtype and native.available() else None
    if told is None:
        return None
    try:
        turned_a, pitch = blas.layout(A)
    except ValueError:
        return None
    m, n_in = csr.shape
    out = np.empty((len(A), m if turned else n_in), A.dtype)
    shape = (turned_a, turned, *out.shape, A.shape[1])
    work = len(A) * csr.nnz
    parts = parts_of_product(len(A), 1, max(csr.nnz, 2))
    operands = (A, pitch, np.array(told, np.int64), 0, out, out.shape[1], 0, np.arange(m))
    calls = Calls(str(A.dtype))
    calls.kernel(kernel(calls.name), 0, *shape, *operands, parts=parts)
    calls.finish()
    with Shared() if work >= SHARED else nullcontext():
        for call in calls.calls:
            call()
    return out


__all__ = ["few", "gradient", "kept", "kernel", "product"]
