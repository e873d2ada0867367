"""File formats: a path in, NumPy arrays out, and a `DataError` that names the file.

Nothing here knows what the arrays are for; `data` does. Files may be gzipped, except .npz.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zipfile
import zlib
from array import array
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Rows: TypeAlias = npt.NDArray[Any]

GZIP = b"\x1f\x8b"
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
# the RuntimeError is zipfile's of what it cannot unpack: encrypted, or by an unknown method
NUMPY_ERRORS = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError)


class DataError(ValueError):
    """Data that cannot be found or understood."""


def contents(path: Path) -> bytes:
    """A file's contents, unpacked where they are gzipped."""
    content = path.read_bytes()
    if not content:
        raise DataError(f"{path} is empty.")
    if not content.startswith(GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked ({error}): fetch it again.") from None


# -- NumPy ------------------------------------------------------------------------


def npy_array(path: Path) -> Rows:
    """The array of a .npy file, read without pickle."""
    content = io.BytesIO(contents(path))
    try:
        found = np.load(content, allow_pickle=False)
    except NUMPY_ERRORS as error:
        raise _not_numpy(path, error) from None
    if not isinstance(found, np.ndarray):
        raise DataError(f"{path} is a .npz file under another name: rename it.")
    return found


def npz_arrays(path: Path, names: Collection[str]) -> dict[str, Rows]:
    """The arrays of a .npz file whose names, in lower case, are among `names`."""
    with open(path, "rb") as content:
        try:
            file = np.load(content, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise DataError(f"{path} is a .npy file under another name: rename it.")
            wanted = {name.lower(): name for name in file.files if name.lower() in names}
            found = {key: file[name] for key, name in wanted.items()}
        except DataError:
            raise
        except NUMPY_ERRORS as error:
            raise _not_numpy(path, error) from None
    if not found:
        raise DataError(
            f"{path} holds the arrays {listed(file.files)}, but expected X and y, or x_train, "
            "y_train, x_test and y_test."
        )
    return found


def _not_numpy(path: Path, error: Exception) -> DataError:
    if "allow_pickle" in str(error):
        return DataError(
            f"{path} holds Python objects, which are not read because they could run code: "
            "expected plain arrays. Save them again with .astype(float)."
        )
    return DataError(f"{path} is no whole NumPy file ({error}): save or fetch it again.")


# -- IDX --------------------------------------------------------------------------


def idx_array(path: Path) -> Rows:
    """One IDX array: 0, 0, type, number of axes; the axes as big-endian 32 bits; the data."""
    content = contents(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
        raise DataError(
            f"{path} is no IDX file: it begins with {content[:4].hex(' ')}, but expected "
            "00 00, a type and a number of axes (00 00 08 03 for images)."
        )
    dtype, start = np.dtype(IDX_TYPES[content[2]]), 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise DataError(
            f"{path} is truncated or damaged: its header announces an array {shape}, {expected} "
            f"bytes in all, but it has {len(content)}. Fetch it again."
        )
    values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


# -- CSV --------------------------------------------------------------------------


class Csv(NamedTuple):
    """An open CSV file: its column names, and its lines from the second on."""

    path: Path
    header: list[str]
    lines: Any


def open_csv(path: Path) -> Csv:
    """A CSV file in UTF-8 with a header; cells end in commas, semicolons or tabs."""
    try:
        text = contents(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}): "
            "convert it, say with iconv -f latin1 -t utf-8."
        ) from None
    first = text.partition("\n")[0]
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    try:
        header = [name.strip() for name in next(lines, [])]
    except csv.Error as error:
        raise DataError(f"{path}, line 1: {error}.") from None
    if not any(header):
        raise DataError(f"{path} has no header: its first line is blank.")
    if all(map(_is_number, header)):
        raise DataError(
            f"{path} has no header: its first line is {listed(header, 5)}, but expected the "
            "names of the columns."
        )
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path} has two columns {twice!r}, but expected different names.")
    return Csv(path, header, lines)


def csv_columns(file: Csv, names: Sequence[str]) -> Rows:
    """The named columns, (m, n) float64; blank lines are skipped."""
    chosen = [file.header.index(name) for name in names]
    values = array("d")
    try:
        for row in file.lines:
            if row:
                values.extend(_cells(file, row, chosen))
    except csv.Error as error:
        raise DataError(f"{file.path}, line {file.lines.line_num}: {error}.") from None
    if not values:
        raise DataError(f"{file.path} has a header, but no examples below it.")
    return np.array(values).reshape(-1, len(chosen))


def _cells(file: Csv, row: list[str], chosen: list[int]) -> list[float]:
    where = f"{file.path}, line {file.lines.line_num}"
    if len(row) != len(file.header):
        raise DataError(
            f"{where}: {len(row)} cells, but the header names {len(file.header)} columns."
        )
    try:
        numbers = [float(row[i]) for i in chosen]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        i = next(i for i in chosen if not _is_number(row[i]))
        raise DataError(
            f"{where}, column {file.header[i]!r}: {row[i][:40]!r} is not a number. Every cell "
            "must be one, finite and with a decimal point; leave a column out with --drop."
        )
    return numbers


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names for a message, the first few of many."""
    shown = [repr(name) for name in names]
    return ", ".join(shown[:most]) + (f" … ({len(shown)} in all)" if len(shown) > most else "")


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
