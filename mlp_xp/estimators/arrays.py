"""Whose arrays an estimator is given, and where it computes.

NumPy in, NumPy out, whatever the device; arrays of another library stay where they are,
and so does all that is made of them. What has no namespace (lists, data frames, sparse
matrices) counts as NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..devices import device as find_device
from ..exchange import is_foreign, library
from ..fast import sparse
from ..hardware import Device
from ..kernels import SPEC
from ..training import pieces
from ..types import Array

DENSE_NUMBERS = 2**22  # in one dense piece of sparse rows: 32 MiB of float64


HOST = find_device("cpu")
_named = cache(find_device)


class Place(NamedTuple):
    """Where the caller's arrays live, and where they are computed with.

    home    fitted attributes and predictions go there
    device  trains and predicts
    """

    home: Device
    device: Device

    @property
    def same(self) -> bool:
        return self.home is self.device

    def bring(self, array: Array) -> Array:
        """An array of the caller's kind, on the device."""
        return array if self.same else self.device.put(array)

    def back(self, array: Array) -> Array:
        """An array of the device, as one of the caller's kind."""
        return array if self.same else self.home.put(self.device.get(array))


def dtype_name(array: Any) -> str:
    """ "float32" or "float64", for an array of any library."""
    return str(array.dtype).rpartition(".")[2]


def device_of(value: Any) -> Device:
    """The device that an array is on."""
    if not is_foreign(value):
        return HOST
    import array_api_compat

    xp, where = array_api_compat.array_namespace(value), array_api_compat.device(value)
    if library(xp) == "cupy":
        return _named(f"cuda:{where.id}")

    def put(array: Any) -> Array:
        if is_foreign(array):
            return array
        array = np.array(array)  # a copy: some libraries keep the memory they are given
        if array.dtype == np.uint16:  # dropout bits; PyTorch cannot compare these
            array = array.astype(np.int32)
        return xp.asarray(array, device=where)

    name = f"{library(xp)}:{where}"
    return Device(name, xp, SPEC, put, to_host, lambda: None, reads_wait="cpu" not in name.lower())


def to_host(value: Any) -> npt.NDArray[Any]:
    """Any array as a NumPy array."""
    if not is_foreign(value):
        return np.asarray(value)
    if hasattr(value, "detach"):  # PyTorch
        return np.asarray(value.detach().cpu())
    if hasattr(value, "get"):  # CuPy
        return np.asarray(value.get())
    return np.from_dlpack(value, device="cpu", copy=True)


def same_place(one: Any, other: Any) -> bool:
    """Whether two arrays are of one library and on one device."""
    if not is_foreign(one) or not is_foreign(other):
        return is_foreign(one) == is_foreign(other)
    import array_api_compat as compat

    return bool(
        compat.array_namespace(one) is compat.array_namespace(other)
        and compat.device(one) == compat.device(other)
    )


def place_of(X: Any, device: str | Device | None) -> Place:
    """Where X lives, and the device it is computed on: its own, or the one asked for."""
    home = device_of(X)
    if device is None or (device == "cpu" and home is HOST):
        return Place(home, home)
    asked = _named(device) if isinstance(device, str) else device
    if library(asked.xp) == library(home.xp):
        # One namespace, one kind of array: nothing to bring or to take back. A device of
        # the caller's own making is kept, with its kernels.
        if is_foreign(X):
            asked.put(X)  # refuses what lies on another device
        return Place(asked, asked)
    if is_foreign(X):
        raise TypeError(
            f"X is an array of {library(home.xp)}, but device is {asked.name!r}: expected NumPy "
            "arrays, or arrays that are on that device. Leave device=None to compute where X is."
        )
    return Place(home, asked)


def follow(name: str, value: Any, X: Any, place: Place, lenient: bool) -> npt.NDArray[Any] | Any:
    """y or weights, which come with X: on the host, or as they were where X is NumPy's.

    lenient  whether they may be of another library than X: scikit-learn's rule under its
             `array_api_dispatch`
    """
    if value is None:
        return None
    if not lenient:
        check_together(name, value, X, place)
    return to_host(value) if is_foreign(value) else value


def check_together(name: str, value: Any, X: Any, place: Place) -> None:
    """Raise TypeError for what is of another library than X, or on another device."""
    if not same_place(X, value):
        kind = library(device_of(value).xp) if is_foreign(value) else type(value).__name__
        raise TypeError(
            f"X is an array of {library(place.home.xp)} on {place.home.name!r}, but {name} is of "
            f"{kind}: expected both of one library and on one device. Convert {name} first."
        )


class SparseRows:
    """CSR rows on the host, of which a part at a time becomes dense, on the device."""

    def __init__(self, rows: Any, device: Device) -> None:
        # an own matrix of the same arrays: methods of the caller's may give that others, and what
        # reads these by their addresses wants them to stay
        self.csr, self.device = copy(rows), device
        self.shape = rows.shape
        self.dtype = device.put(np.empty(0, rows.dtype)).dtype

    def __getitem__(self, index: Any) -> SparseRows:
        if not isinstance(index, slice):
            index = self.device.get(index)
        return SparseRows(self.csr[index], self.device)

    def toarray(self) -> Array:
        """A dense copy on the device."""
        return self.device.put(self.csr.toarray())

    @property
    def few(self) -> bool:
        """Whether they lie on the host, and products take them faster than a dense copy."""
        return self.device is HOST and sparse.few(self.csr)


class Sparse:
    """Sparse rows (m, n_features) as an array of a formula, or columns (n_features, m)."""

    ndim = 2

    def __init__(self, csr: Any, turned: bool = False) -> None:
        self.csr, self.turned, self.dtype = csr, turned, csr.dtype
        self.shape: tuple[int, int] = csr.shape[::-1] if turned else csr.shape


class SparseNumpy:
    """NumPy as a namespace whose products take `Sparse` on their right, too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def matmul(self, left: Any, right: Any) -> Any:
        """left right, dense."""
        if not isinstance(right, Sparse):
            return np.matmul(left, right)
        return (sparse.product if right.turned else sparse.gradient)(left, right.csr)

    def matrix_transpose(self, x: Any) -> Any:
        """The last two axes exchanged."""
        if isinstance(x, Sparse):
            return Sparse(x.csr, not x.turned)
        return np.matrix_transpose(x)

    def astype(self, x: Any, dtype: Any, **options: Any) -> Any:
        """x in another dtype."""
        if isinstance(x, Sparse):
            return Sparse(x.csr.astype(dtype), x.turned)
        return np.astype(x, dtype, **options)


def sparse_pieces(rows: SparseRows, size: int) -> Iterator[Sparse]:
    """Rows that stay sparse, some at a time."""
    if rows.shape[0] <= size:
        return iter([Sparse(rows.csr)])
    return (Sparse(rows.csr[piece]) for piece in pieces(rows.shape[0], size))


def dense_pieces(rows: Any, size: int) -> Iterator[Array]:
    """Rows, some at a time: few enough for a dense copy of sparse rows to stay small."""
    if isinstance(rows, SparseRows):
        size = max(1, min(size, DENSE_NUMBERS // max(1, rows.shape[1])))
        return (rows[piece].toarray() for piece in pieces(rows.shape[0], size))
    return (rows[piece, ...] for piece in pieces(rows.shape[0], size))
