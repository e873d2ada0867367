"""File formats: a path in, NumPy arrays out, and a `DataError` that names the file.

Nothing here knows what the arrays are for; `data` does. Files may be gzipped, except .npz.
"""

from __future__ import annotations

import gzip
import io
import lzma
import math
import os
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Rows: TypeAlias = npt.NDArray[Any]

GZIP = b"\x1f\x8b"
NUMPY = (b"\x93NUMPY", b"PK\x03\x04", b"\x80")  # .npy, .npz and pickle: each has its own cure
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
MOST_AXES = 64  # of NumPy's arrays
MOST_PACKED = 1100  # bytes that one byte of DEFLATE may become: 1,032, and some for the rest
# the RuntimeError is zipfile's of what it cannot unpack: encrypted, or by an unknown method;
# those of Python's parser are of a .npy file's header
NUMPY_ERRORS = (
    *(ArithmeticError, LookupError, MemoryError, TypeError, ValueError, RuntimeError),
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(SyntaxError, tokenize.TokenError),
)


class DataError(ValueError):
    """Data that cannot be found or understood."""


def contents(path: Path) -> bytes:
    """A file's contents, unpacked where they are gzipped."""
    return unpacked(str(path), path.read_bytes())


def unpacked(name: str, content: bytes) -> bytes:
    """The same without gzip, not empty."""
    if not content:
        raise DataError(f"{name} is empty.")
    if not content.startswith(GZIP):
        return content
    room = memory() // 2  # the other half is for what is made of it
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            found = file.read(room + 1) if len(content) * MOST_PACKED > room else file.read()
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise DataError(
            f"{name} cannot be unpacked ({error or 'out of memory'}): fetch it again."
        ) from None
    check_room(name, len(found))
    return found


def memory() -> int:
    """Bytes of memory that this machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return sys.maxsize


def check_room(name: str, size: int) -> None:
    """Raise DataError, before memory is taken, for what would fill more than half of it."""
    if size > memory() // 2:
        raise DataError(
            f"{name} unpacks to {size / 1e9:,.0f} GB or more, but this machine has "
            f"{memory() / 1e9:,.0f} GB of memory: expected half of that at most. Take a part of "
            "it, if it is what it should be."
        )


# -- NumPy ------------------------------------------------------------------------


def npy_array(path: Path) -> Rows:
    """The array of a .npy file, read without pickle."""
    content = contents(path)
    if not content.startswith(NUMPY):
        raise DataError(
            f"{path} is no .npy file: it begins with {content[:8]!r}, but expected an array that "
            "numpy.save wrote."
        )
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
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
            _check_archive(path, file.zip.infolist())
            found = {key: file[name] for key, name in wanted.items()}
            for key, array in found.items():
                if not isinstance(array, np.ndarray):  # what has no .npy header comes as bytes
                    raise DataError(f"{path}: {wanted[key]} is no array. Save it again.")
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


def _check_archive(path: Path, members: Iterable[zipfile.ZipInfo]) -> None:
    """That its members are not larger than DEFLATE can have made of their bytes, nor than memory.

    zipfile unpacks no more than it announces.
    """
    for member in members:
        if member.file_size > member.compress_size * MOST_PACKED + MOST_PACKED:
            raise DataError(
                f"{path}: {member.filename[:100]} has {member.compress_size} bytes and announces "
                f"{member.file_size}: expected an archive of NumPy's. Save it again."
            )
        check_room(f"{path}: {member.filename[:100]}", member.file_size)


def decoded(where: str, labels: Rows) -> Rows:
    """Labels as text, which HDF5 keeps as bytes of UTF-8; others as they are."""
    if labels.dtype.kind in "OT":  # text, or bytes, of lengths of their own
        labels = np.asarray(labels.tolist())
    if labels.dtype.kind != "S":
        return labels
    try:
        found: Rows = np.char.decode(labels, "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} holds the label {error.object!r}, which is no UTF-8: write labels as text."
        ) from None
    return found


def _not_numpy(path: Path, error: Exception) -> DataError:
    if "allow_pickle" in str(error):
        return DataError(
            f"{path} holds Python objects, which are not read because they could run code: "
            "expected plain arrays. Save them again with .astype(float)."
        )
    said = str(error)[:200] or type(error).__name__
    return DataError(f"{path} is no whole NumPy file ({said}): save or fetch it again.")


# -- IDX --------------------------------------------------------------------------


def idx_array(path: Path) -> Rows:
    """One IDX array: 0, 0, type, number of axes; the axes as big-endian 32 bits; the data."""
    content = contents(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
        raise DataError(
            f"{path} is no IDX file: it begins with {content[:4].hex(' ')}, but expected "
            "00 00, a type and a number of axes (00 00 08 03 for images)."
        )
    if not 1 <= content[3] <= MOST_AXES:
        raise DataError(
            f"{path} is no IDX file: its header announces {content[3]} axes, but expected 1 to "
            f"{MOST_AXES}."
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


def names_in(argument: str, given: Any) -> tuple[str, ...]:
    """The names in an argument: of one, of several or, None, of nothing."""
    found = (given,) if isinstance(given, str) else () if given is None else given
    if not isinstance(found, Iterable) or not all(isinstance(name, str) for name in found):
        raise TypeError(f"{argument} is {given!r}, but expected a name as text, or a list of them.")
    return tuple(found)


def check_targets(name: str, target: Sequence[str], drop: Sequence[str]) -> None:
    """Raise DataError for a target that is named twice, or to be left out."""
    for column in target:
        if target.count(column) > 1:
            raise DataError(f"{name}: {column!r} is named as a target twice: name it once.")
        if column in drop:
            raise DataError(
                f"{name}: {column!r} is what to predict, and drop (--drop) leaves it out: expected "
                "one of the two. A target is no feature anyway."
            )


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names for a message, the first few of many."""
    shown = [repr(name) for name in names]
    return ", ".join(shown[:most]) + (f" … ({len(shown)} in all)" if len(shown) > most else "")
