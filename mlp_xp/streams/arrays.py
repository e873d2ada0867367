"""Arrays that are read by slices of rows: .npy, Zarr, HDF5, Dask, memory maps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import missing
from ..readers import NUMPY_ERRORS, DataError, Rows, decoded, listed
from .source import UNIT, Files, Raw, Source, computed, in_words, unreadable

MOST_UNITS = 1 << 24
EXAMPLES = ("X", "x", "data", "features")  # what the examples of a group are called


class NpyFile:
    """The array of a .npy file, read by rows, not mapped: nothing stays in this process."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __init__(self, path: Path) -> None:
        self.path = path
        header = np.lib.format
        try:
            with open(path, "rb") as file:
                version = header.read_magic(file)
                read = header.read_array_header_1_0 if version == (1, 0) else _later_header
                self.shape, in_columns, self.dtype = read(file)
                self.start = file.tell()
                size = file.seek(0, 2)
        except NUMPY_ERRORS as error:
            raise DataError(f"{path} is no .npy file ({error}): save or fetch it again.") from None
        if self.dtype.hasobject:
            raise DataError(
                f"{path} holds Python objects, which are not read because they could run code: "
                "expected plain arrays. Save them again with .astype(float)."
            )
        if in_columns and len(self.shape) > 1:
            raise DataError(
                f"{path} lies in Fortran order, of which no row can be read by itself: save "
                "np.ascontiguousarray(X), or pass np.load(path, mmap_mode='r'), which is slow."
            )
        self.row = math.prod(self.shape[1:])
        expected = self.start + math.prod(self.shape) * self.dtype.itemsize
        if size < expected or min(self.shape, default=0) < 0:
            raise DataError(
                f"{path} is truncated or damaged: its header announces an array {self.shape}, "
                f"{expected:,} bytes in all, but it has {size:,}. Save or fetch it again."
            )

    def __getitem__(self, rows: slice) -> Rows:
        count = (rows.stop - rows.start) * self.row
        offset = self.start + rows.start * self.row * self.dtype.itemsize
        found = np.fromfile(self.path, self.dtype, count, offset=offset)
        if len(found) < count:
            raise DataError(f"{self.path} has become shorter while it was read.")
        return found.reshape(-1, *self.shape[1:])


def _later_header(file: Any) -> Any:
    return np.lib.format.read_array_header_2_0(file)


class DaskArray:
    """A Dask array, computed block by block."""

    def __init__(self, array: Any) -> None:
        if not hasattr(array, "chunks"):
            raise DataError(
                "a column of a Dask data frame does not know its number of rows: name it as the "
                "target of its frame, or call its to_dask_array(lengths=True) first."
            )
        self.array, self.shape, self.dtype = array, tuple(array.shape), array.dtype
        if any(math.isnan(n) for n in self.shape):
            raise DataError(
                "a Dask array does not know its number of rows: call its compute_chunk_sizes() "
                "first."
            )
        self.blocks = tuple(int(n) for n in array.chunks[0])

    def __getitem__(self, rows: slice) -> Rows:
        return np.asarray(computed(self.array[rows]))


class Arrays(Source):
    """Rows of X, and of targets and weights beside it.

    limit  bytes of what may be read at once
    """

    def __init__(
        self, name: str, X: Any, y: Any, weights: Any, limit: int, files: Files | None = None
    ) -> None:
        self.name, self.files = name, files
        X, y, weights = (_by_rows(array) for array in (X, y, weights))
        self.X, shape = X, tuple(X.shape)
        self.dtype = _numbers(name, "X", X.dtype)
        if len(shape) < 2 or math.prod(shape) == 0:
            raise DataError(
                f"{name}: X has shape {shape}, but expected (n_examples, n_features), not empty."
            )
        self.width, m = math.prod(shape[1:]), shape[0]
        self.sizes = self._cut(m, limit)
        self.weighted = weights is not None
        self.y = self._beside("the targets", y, m, limit)
        self.weights = self._beside("the weights", weights, m, limit)
        if y is not None:
            inner = tuple(y.shape[1:])
            self.n_targets = () if inner == (1,) else inner
            if len(inner) > 1:
                raise DataError(
                    f"{name}: the targets have shape {tuple(y.shape)}, but expected ({m},) or "
                    f"({m}, n_targets)."
                )
            if not _is_text(y.dtype):
                _numbers(name, "the targets", y.dtype)
        if weights is not None:
            _numbers(name, "the weights", weights.dtype)
            if len(weights.shape) != 1:
                raise DataError(f"{name}: the weights have shape {weights.shape}: expected ({m},).")
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])

    def _cut(self, m: int, limit: int) -> list[int]:
        """Rows of each unit: of whole chunks, as many as make some megabytes."""
        row = self.width * self.dtype.itemsize
        if isinstance(self.X, DaskArray):
            blocks = self.X.blocks
        else:
            least = _chunk_rows(self.X)
            rows = max(least, min(UNIT, limit) // row // least * least, 1)
            if m // rows > MOST_UNITS:
                raise DataError(f"{self.name} announces {m:,} rows, more than can be read.")
            blocks = (*[rows] * (m // rows), *([m % rows] if m % rows else ()))
        self._check_chunk("a chunk", max(blocks), row, limit)
        return [int(n) for n in blocks]

    def _check_chunk(self, what: str, rows: int, row: int, limit: int) -> None:
        if rows * row > limit:
            raise DataError(
                f"{self.name}: {what} of {rows:,} rows takes {in_words(rows * row)}, but with the "
                f"memory given at most {in_words(limit)} can be read at once. Give more memory, "
                "or write the array in chunks of fewer rows."
            )

    def _beside(self, what: str, array: Any, m: int, limit: int) -> Any:
        """Targets or weights; held in memory where that is little, and reading by rows is not."""
        if array is None:
            return None
        if not array.shape or array.shape[0] != m:
            raise DataError(
                f"{self.name}: {what} have shape {tuple(array.shape)}, but X has {m:,} examples: "
                f"expected ({m},)" + (f" or ({m}, n_targets)." if "targets" in what else ".")
            )
        size = math.prod(array.shape) * array.dtype.itemsize
        chunked = not isinstance(array, np.ndarray | NpyFile)
        if chunked and size <= limit:
            self.kept += size
            return self._slice(array, what, 0, m)
        row = math.prod(array.shape[1:]) * array.dtype.itemsize
        self._check_chunk(f"a chunk of {what}", _chunk_rows(array), row, limit)
        return array

    def _slice(self, array: Any, what: str, start: int, stop: int) -> Rows:
        try:
            found = np.asarray(array[start:stop])
        except (MemoryError, DataError):
            raise
        except Exception as error:  # whatever a library of files has to say
            rows = f"{what}, rows {start:,} to {stop - 1:,}"
            raise unreadable(self.name, rows, error) from error
        if found.shape != (stop - start, *array.shape[1:]) or found.dtype != array.dtype:
            raise DataError(
                f"{self.name}, {what}, rows {start:,} to {stop - 1:,}: they have shape "
                f"{found.shape} and dtype {found.dtype}, but {(stop - start, *array.shape[1:])} "
                f"and {array.dtype} were announced."
            )
        return found

    def read(self, unit: int, most: int) -> Iterator[Raw]:
        first, last = int(self.starts[unit]), int(self.starts[unit + 1])
        once = self.sizes[unit] if _chunk_rows(self.X) > 1 else most
        for start in range(first, last, once):
            stop = min(start + once, last)
            X = self._slice(self.X, "X", start, stop).reshape(stop - start, self.width)
            y, w = (
                None if array is None else self._slice(array, what, start, stop)
                for array, what in ((self.y, "the targets"), (self.weights, "the weights"))
            )
            if y is not None and self.n_targets == ():
                y = decoded(f"{self.name}, the targets", y.reshape(-1))
            for i in range(0, len(X), most):
                yield Raw(
                    X[i : i + most],
                    None if y is None else y[i : i + most],
                    None if w is None else w[i : i + most],
                )

    def changed(self) -> str | None:
        return None if self.files is None else self.files.changed()


def _by_rows(array: Any) -> Any:
    if type(array).__module__.partition(".")[0] == "dask":
        return DaskArray(array)
    return array


def _chunk_rows(array: Any) -> int:
    """Rows that a file holds together, packed; 1 where any can be read by themselves."""
    if isinstance(array, DaskArray):
        return max(array.blocks)
    chunks = getattr(array, "shards", None) or getattr(array, "chunks", None)
    return int(chunks[0]) if chunks else 1


def _is_text(dtype: np.dtype[Any]) -> bool:
    """Whether it is of text; that of HDF5, where lengths differ, is of objects, and says it."""
    said: Any = dtype.metadata or {}
    return dtype.kind in "UST" or said.get("vlen") in (str, bytes)


def _numbers(name: str, what: str, dtype: Any) -> np.dtype[Any]:
    found: np.dtype[Any] = np.dtype(dtype)
    if found.kind not in "biuf":
        raise DataError(
            f"{name}: {what} have dtype {found}, but expected numbers. Write them as such; labels "
            "may be text, .astype(str)."
        )
    return found


def of_zarr(path: Path, features: str | None, target: Any, weight: Any, limit: int) -> Arrays:
    """A Zarr array, or the arrays of a group, by their names."""
    try:
        import zarr
    except ImportError as error:
        raise missing(f"reading {path} needs zarr", "stream", error) from None
    try:
        found = zarr.open(str(path), mode="r")
    except Exception as error:
        raise unreadable(str(path), "as Zarr", error) from error
    return _of_group(path, found, isinstance(found, zarr.Array), features, target, weight, limit)


def of_hdf5(path: Path, features: str | None, target: Any, weight: Any, limit: int) -> Arrays:
    """The datasets of an HDF5 file, by their names."""
    try:
        import h5py
    except ImportError as error:
        raise missing(f"reading {path} needs h5py", "stream", error) from None
    try:
        found = h5py.File(path, "r")
    except OSError as error:
        raise unreadable(str(path), "as HDF5", error) from error
    return _of_group(path, found, False, features, target, weight, limit, Files([path]))


def _of_group(
    path: Path,
    found: Any,
    alone: bool,
    features: str | None,
    target: Any,
    weight: Any,
    limit: int,
    files: Files | None = None,
) -> Arrays:
    def array(name: Any, what: str) -> Any:
        if name is None or hasattr(name, "shape"):
            return name
        if alone:
            raise DataError(f"{path} is one array and has no {name!r}: pass {what} as an array.")
        try:
            inside = found[name] if isinstance(name, str) and name in found else None
            names = [] if inside is not None else list(found)
        except Exception as error:  # whatever a library of files has to say
            raise unreadable(str(path), what, error) from error
        if inside is None:
            raise DataError(f"{path} has no array {name!r} for {what}; it has {listed(names)}.")
        if not hasattr(inside, "shape"):
            raise DataError(f"{path}: {name!r} is a group, but expected an array.")
        return inside

    if not alone and features is None:
        try:
            names = list(found)
        except Exception as error:  # whatever a library of files has to say
            raise unreadable(str(path), "its names", error) from error
        features = next((name for name in EXAMPLES if name in names and name != target), None)
        if features is None:
            raise DataError(
                f"{path} holds {listed(names)}: name the array of examples with features= "
                "(--examples)."
            )
    X = found if alone else array(features, "the examples")
    return Arrays(
        str(path), X, array(target, "the targets"), array(weight, "the weights"), limit, files
    )


__all__ = ["Arrays", "NpyFile", "of_hdf5", "of_zarr"]
