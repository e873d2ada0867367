"""What every kind of file says of itself, and errors that name a place in it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from ..readers import DataError, Rows

SHARE = 8  # parts of the memory, of which one is for what is being read
UNIT = 1 << 23  # bytes that are read at once where the file does not say how many
SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class Raw(NamedTuple):
    """Some rows as they are in a file.

    rows     (n, n_features) numbers
    targets  (n,) or (n, n_targets) of numbers or text, or None
    weights  (n,), or None
    """

    rows: Rows
    targets: Rows | None
    weights: Rows | None

    def at(self, which: Any) -> Raw:
        """Some of the rows: a slice, or (n,) whether each is one."""
        targets, weights = (
            None if part is None else part[which] for part in (self.targets, self.weights)
        )
        return Raw(self.rows[which], targets, weights)


class Source:
    """A file, or files, of m rows that are read in units: the least that can be begun with.

    name      for messages
    sizes     rows of each unit
    width     features of a row
    dtype     of the features as they are read
    features  names of the columns, () where they have none
    target    likewise
    n_targets columns of the targets, () for one a row; None where there are none
    weighted  whether there are weights
    kept      bytes that are held as long as the source
    """

    name: str
    sizes: Sequence[int]
    width: int
    dtype: np.dtype[Any]
    features: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    n_targets: tuple[int, ...] | None = None
    weighted: bool = False
    kept: int = 0

    @property
    def row_bytes(self) -> int:
        """Of a row's features as they are read, and of what becomes of them on the way."""
        return self.width * (2 * self.dtype.itemsize + 16)

    def read(self, unit: int, most: int) -> Iterator[Raw]:
        """The rows of a unit in order, at most so many at a time."""
        raise NotImplementedError

    def column(self, j: int) -> str:
        """What a message calls a feature."""
        return repr(self.features[j]) if self.features else f"{j}"

    def changed(self) -> str | None:
        """The name of a file that is not what it was when it was opened, or None."""
        return None


class Files:
    """Files that should not change while they are read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.were = {path: self._state(path) for path in paths}

    @staticmethod
    def _state(path: Path) -> tuple[int, int] | None:
        try:
            found = os.stat(path)
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns

    def changed(self) -> str | None:
        states = self.were.items()
        return next((str(path) for path, was in states if self._state(path) != was), None)


def in_bytes(memory: float | str) -> int:
    """A number of bytes, of a number or of words: "500 MB", "1.5GiB"."""
    expected = "expected a number of bytes, or words such as '500MB', '1GB' or '2GiB'"
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?)?b?\s*", memory.lower())
        if match is None:
            raise ValueError(f"memory is {memory!r}, but {expected}.")
        found = int(float(match[1]) * {**SIZES, **BINARY}[match[2] or ""])
    elif isinstance(memory, bool) or not isinstance(memory, int | float):
        raise TypeError(f"memory is {memory!r}, but {expected}.")
    else:
        found = int(memory) if abs(memory) < 2**62 else -1  # of NaN, too
    if found < 1:
        raise ValueError(f"memory is {memory!r}, but {expected}.")
    return found


def in_words(n: float) -> str:
    """A number of bytes as people read it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(n) < 1000 or unit == "GB":
            break
        n /= 1000
    return f"{n:.0f} {unit}" if unit == "bytes" else f"{n:.3g} {unit}"


def at(name: str, row: int, column: str | None = None) -> str:
    """A place in a file: its row from 0 on, as an array counts them."""
    return f"{name}, row {row:,}" + ("" if column is None else f", column {column}")


def not_finite(source: Source, rows: Rows, start: int) -> DataError | None:
    """The error of the first feature that is NaN or infinite, if there is one."""
    if rows.dtype.kind != "f":
        return None
    with np.errstate(all="ignore"):  # one sum finds nearly all: where it is finite, so are they
        if np.isfinite(np.sum(rows)):
            return None
    bad = ~np.isfinite(rows)
    if not bad.any():
        return None
    i, j = (int(k) for k in np.argwhere(bad)[0])
    return DataError(
        f"{at(source.name, start + i, source.column(j))}: a feature is {rows[i, j]}, but expected "
        "finite numbers. Remove such rows or fill them in before, or leave the column out."
    )


def computed(collection: Any) -> Any:
    """What a Dask collection holds: by the cluster of the client there is, else in this process."""
    distributed, where = sys.modules.get("distributed"), cast(Any, "synchronous")
    if distributed is not None:
        with suppress(ValueError):  # there is no client
            where = distributed.get_client()
    return collection.compute(scheduler=where)


def unreadable(name: str, what: str, error: BaseException) -> DataError:
    """The error of what a library could not read."""
    why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return DataError(
        f"{name}, {what}, cannot be read ({why}): the file is damaged or not what its header "
        "says. Write or fetch it again."
    )
