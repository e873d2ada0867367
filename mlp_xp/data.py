"""Sources of examples: the built-in digits, Fashion-MNIST, and files of four kinds.

    digits           UCI handwritten digits, in the package
    fashion-mnist    where `FOLDERS` or the caller says
    NAME.npz         arrays X and y; x_train, y_train, x_test and y_test; or data and target
    NAME.npy         X; y is another .npy file, `labels`
    NAME.csv         a header and numbers; `target` names the columns to predict
    …-idxN-ubyte     IDX as MNIST uses; labels and test set are found by name beside it

Any of the files may be gzipped, except .npz. Rows come back as the file gives them;
`preparation` scales them. Every error is a `DataError` that names the file.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import math
import os
import re
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Rows: TypeAlias = npt.NDArray[Any]

VARIABLE = "MLP_XP_DATA"
DEBIAN = "/usr/share/datasets/fashion-mnist"  # package dataset-fashion-mnist
FASHION = "train-images-idx3-ubyte"
PAIRS = (("x", "y"), ("x_train", "y_train"), ("data", "target"), ("features", "labels"))
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
GZIP = b"\x1f\x8b"


class DataError(ValueError):
    """Data that cannot be found or understood."""


class Dataset(NamedTuple):
    """Examples as rows, unscaled and finite.

    name            "digits", "fashion-mnist" or the file's name
    X               (m, n_features)
    y               (m,) or (m, n_targets); None where there are none
    X_test, y_test  the set's own test examples, or None
    features        names of the columns, () where they have none
    target          names of the targets, likewise
    """

    name: str
    X: Rows
    y: Rows | None = None
    X_test: Rows | None = None
    y_test: Rows | None = None
    features: tuple[str, ...] = ()
    target: tuple[str, ...] = ()


class Request(NamedTuple):
    """What is wanted of a source; each reader takes what concerns it.

    target    CSV columns to predict
    features  CSV columns to read, () for all but the targets
    drop      CSV columns to leave out
    labels    file of labels for .npy and IDX
    folder    where to look for fashion-mnist
    labelled  whether examples without targets are refused
    """

    target: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    labels: str | None = None
    folder: str | None = None
    labelled: bool = True


def load(source: str = "digits", request: Request | None = None) -> Dataset:
    """The examples of a built-in name or a file. Raises `DataError`."""
    request = request or Request()
    if source in BUILT_IN:
        return BUILT_IN[source](request)
    path = Path(source)
    if not path.is_file():
        close = difflib.get_close_matches(source, BUILT_IN, n=1)
        why = "is not a file" if path.exists() else "does not exist"
        raise DataError(
            f"{source} {why}: expected a .npz, .npy, .csv or IDX file, or one of "
            f"{', '.join(map(repr, BUILT_IN))}." + _hint(close)
        )
    for pattern, reader in READERS:
        if re.search(pattern, path.name, re.IGNORECASE):
            found = reader(path, request)
            if request.labelled and found.y is None:
                raise DataError(
                    f"{source} has no targets beside its examples: name a file of labels "
                    "with --labels, or store both in one .npz as X and y."
                )
            return found
    raise DataError(
        f"{source} is of no known kind: expected a name that ends in .npz, .npy, .csv or "
        "idx3-ubyte (the last three also with .gz)."
    )


def _hint(close: Sequence[str]) -> str:
    return f" Did you mean {close[0]!r}?" if close else ""


def _bytes(path: Path) -> bytes:
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


# -- arrays ----------------------------------------------------------------------


def _numbers(where: str, values: Rows) -> Rows:
    """Checked to be finite numbers."""
    if values.dtype.kind not in "biuf":
        raise DataError(f"{where} has dtype {values.dtype}, but expected numbers.")
    if not np.isfinite(values).all():
        place = np.argwhere(~np.isfinite(values))[0].tolist()
        raise DataError(
            f"{where} holds {values[tuple(place)]} at {place}, but expected finite numbers. "
            "Remove or impute them first."
        )
    return values


def _pair(where: str, X: Rows, y: Rows | None) -> tuple[Rows, Rows | None]:
    """X as rows and y as (m,) or (m, n_targets), which must fit each other."""
    if X.ndim < 2 or X.size == 0:
        raise DataError(
            f"{where}: X has shape {X.shape}, but expected (n_examples, n_features), not empty."
        )
    rows = _numbers(f"{where}: X", X).reshape(len(X), -1)
    if y is None:
        return rows, None
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2) or len(y) != len(rows):
        raise DataError(
            f"{where}: y has shape {y.shape}, but X has {len(rows)} examples: expected "
            f"({len(rows)},) or ({len(rows)}, n_targets)."
        )
    return rows, _numbers(f"{where}: y", y)


def _numpy(path: Path, content: Any) -> Any:
    """np.load without pickle."""
    try:
        return np.load(content, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _not_numpy(path, error) from None


def _not_numpy(path: Path, error: Exception) -> DataError:
    if "allow_pickle" in str(error):
        return DataError(
            f"{path} holds Python objects, which are not read because they could run code: "
            "expected plain arrays. Save them again with .astype(float)."
        )
    return DataError(f"{path} is no whole NumPy file ({error}): save or fetch it again.")


def _read_npy(path: Path, request: Request) -> Dataset:
    files = [path] if request.labels is None else [path, _existing(request.labels)]
    X, y = (*(_numpy(file, io.BytesIO(_bytes(file))) for file in files), None)[:2]
    return Dataset(path.name, *_pair(str(path), X, y))


def _existing(labels: str) -> Path:
    if not Path(labels).is_file():
        raise DataError(f"the file of labels {labels} does not exist.")
    return Path(labels)


def _read_npz(path: Path, request: Request) -> Dataset:
    with _numpy(path, path) as file:
        if isinstance(file, np.ndarray):
            raise DataError(f"{path} is a .npy file under another name: rename it.")
        names = {name.lower(): name for name in file.files}
        x, y = next((pair for pair in PAIRS if pair[0] in names), (None, None))
        if x is None:
            raise DataError(
                f"{path} holds {', '.join(file.files) or 'nothing'}, but expected arrays X "
                "and y, or x_train, y_train, x_test and y_test."
            )

        def get(name: str | None) -> Any:
            try:
                return file[names[name]] if name in names else None
            except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise _not_numpy(path, error) from None

        found = Dataset(path.name, *_pair(str(path), get(x), get(y)))
        if get("x_test") is None:
            return found
        test = _pair(f"{path}, test set", get("x_test"), get("y_test"))
        return found._replace(X_test=test[0], y_test=test[1])


def _digits(request: Request) -> Dataset:
    place = resources.files("mlp_xp") / "datasets" / "digits.npz"
    with place.open("rb") as content, np.load(content, allow_pickle=False) as file:
        return Dataset("digits", file["X"], file["y"])


# -- CSV -------------------------------------------------------------------------


def _listed(names: Iterable[str], most: int = 20) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:most]) + (f" … ({len(shown)} in all)" if len(shown) > most else "")


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _read_csv(path: Path, request: Request) -> Dataset:
    try:
        text = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}): "
            "convert it, say with iconv -f latin1 -t utf-8."
        ) from None
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    try:
        header = [name.strip() for name in next(reader, [])]
        chosen, n_features = _choose_columns(path, header, request)
        table = _table(path, header, reader, chosen)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}.") from None
    names = [header[i] for i in chosen]
    X, y = table[:, :n_features], table[:, n_features:]
    pair = _pair(str(path), X, y if y.shape[1] else None)
    return Dataset(
        path.name, *pair, features=tuple(names[:n_features]), target=tuple(names[n_features:])
    )


def _choose_columns(
    path: Path, header: list[str], request: Request
) -> tuple[list[int], int]:
    """Indices of the feature columns, then of the targets, and how many features."""
    if not any(header):
        raise DataError(f"{path} has no header: its first line is blank.")
    if all(_is_number(name) for name in header):
        raise DataError(
            f"{path} has no header: its first line is {_listed(header, 5)}, but expected the "
            "names of the columns."
        )
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path} has two columns {twice!r}, but expected different names.")
    if request.labelled and not request.target:
        raise DataError(
            f"{path} has the columns {_listed(header)}: name the one to predict with --target."
        )
    for name in (*request.target, *request.features, *request.drop):
        if name not in header:
            close = difflib.get_close_matches(name, header, n=1)
            raise DataError(
                f"{path} has no column {name!r}; its columns are {_listed(header)}."
                + _hint(close)
            )
    features = request.features or tuple(
        name for name in header if name not in request.target + request.drop
    )
    if not features:
        raise DataError(f"{path} has no column beside its targets to predict them from.")
    return [header.index(name) for name in features + request.target], len(features)


def _table(path: Path, header: list[str], reader: Any, chosen: list[int]) -> Rows:
    """The chosen columns of every line, (m, n_chosen) float64; blank lines are skipped."""
    values = array("d")
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {reader.line_num}: {len(row)} cells, but the header names "
                f"{len(header)} columns."
            )
        try:
            numbers = [float(row[i]) for i in chosen]
        except ValueError:
            numbers = [math.nan]
        if not all(map(math.isfinite, numbers)):
            i = next(i for i in chosen if not _is_number(row[i]))
            raise DataError(
                f"{path}, line {reader.line_num}, column {header[i]!r}: {row[i][:40]!r} is not "
                "a number. Every cell must be one, finite and with a decimal point; leave a "
                "column out with --drop."
            )
        values.extend(numbers)
    if not values:
        raise DataError(f"{path} has a header, but no examples below it.")
    return np.array(values).reshape(-1, len(chosen))


# -- IDX -------------------------------------------------------------------------


def _read_idx_array(path: Path) -> Rows:
    """One IDX array: 0, 0, type, number of axes; the axes as big-endian 32 bits; the data."""
    content = _bytes(path)
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


def _beside(path: Path, name: str) -> Path | None:
    """`name` in the same folder, gzipped or not."""
    plain = name.removesuffix(".gz")
    places = (path.with_name(plain), path.with_name(plain + ".gz"))
    return next((place for place in places if place.is_file()), None)


def _idx_pair(path: Path, labels: str | None) -> tuple[Rows, Rows | None]:
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    place = _beside(path, name) if labels is None else _existing(labels)
    known = place is not None and place != path
    return _pair(str(path), _read_idx_array(path), _read_idx_array(place) if known else None)  # type: ignore[arg-type]


def _read_idx(path: Path, request: Request) -> Dataset:
    found = Dataset(path.name, *_idx_pair(path, request.labels))
    test = _beside(path, path.name.replace("train", "t10k"))
    if not path.name.startswith("train") or test is None:
        return found
    X_test, y_test = _idx_pair(test, None)
    return found._replace(X_test=X_test, y_test=y_test)


def _fashion_mnist(request: Request) -> Dataset:
    asked = [request.folder] if request.folder else [os.environ.get(VARIABLE), DEBIAN]
    folders = [Path(folder) for folder in asked if folder]
    for folder in (place for base in folders for place in (base, base / "fashion-mnist")):
        images = _beside(folder / FASHION, FASHION)
        if images is not None:
            return _read_idx(images, request)._replace(name="fashion-mnist")
    raise DataError(
        f"fashion-mnist is not in {' or '.join(map(str, folders))}. Install Debian's package "
        "dataset-fashion-mnist, or take the four files *-ubyte.gz from "
        "https://github.com/zalandoresearch/fashion-mnist and name their folder with "
        f"--data-dir or the environment variable {VARIABLE}."
    )


BUILT_IN: dict[str, Callable[[Request], Dataset]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
}
READERS: tuple[tuple[str, Callable[[Path, Request], Dataset]], ...] = (
    (r"\.npz$", _read_npz),
    (r"\.npy(\.gz)?$", _read_npy),
    (r"\.csv(\.gz)?$", _read_csv),
    (r"idx\d-\w+(\.gz)?$|\.idx(\.gz)?$", _read_idx),
)
