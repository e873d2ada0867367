"""Sources of examples: the built-in digits, Fashion-MNIST, and files of four kinds.

    digits           UCI handwritten digits, in the package
    fashion-mnist    where the caller, MLP_XP_DATA or Debian's package has it
    NAME.npz         arrays X and y; x_train, y_train, x_test and y_test; or data and target
    NAME.npy         X; y is another .npy file, `labels`
    NAME.csv         a header and numbers; `target` names the columns to predict
    …-idxN-ubyte     IDX as MNIST uses; labels and test set are found by name beside it

Rows come back as the file gives them; `preparation` scales them.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .readers import (
    DataError,
    Rows,
    csv_columns,
    idx_array,
    listed,
    npy_array,
    npz_arrays,
    open_csv,
)

VARIABLE = "MLP_XP_DATA"
DEBIAN = "/usr/share/datasets/fashion-mnist"  # package dataset-fashion-mnist
FASHION = "train-images-idx3-ubyte"
PAIRS = (("x", "y"), ("x_train", "y_train"), ("data", "target"))


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
    """What is wanted of a source; each kind takes what concerns it.

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
    """The examples of a built-in name or a file. Raises `DataError`, or OSError."""
    request = request or Request()
    if source in BUILT_IN:
        return BUILT_IN[source](request)
    path = Path(source)
    if not path.is_file():
        why = "is not a file" if path.exists() else "does not exist"
        raise DataError(
            f"{source} {why}: expected a .npz, .npy, .csv or IDX file, or one of "
            f"{listed(BUILT_IN)}.{_hint(source, list(BUILT_IN))}"
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


def _hint(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


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
    """X as (m, n_features) and y as (m,) or (m, n_targets), which must fit each other."""
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


def _labels(name: str) -> Path:
    if not Path(name).is_file():
        raise DataError(f"the file of labels {name} does not exist.")
    return Path(name)


# -- kinds of files ------------------------------------------------------------------


def _npy(path: Path, request: Request) -> Dataset:
    y = None if request.labels is None else npy_array(_labels(request.labels))
    return Dataset(path.name, *_pair(str(path), npy_array(path), y))


def _npz(path: Path, request: Request) -> Dataset:
    arrays = npz_arrays(path, {name for pair in PAIRS for name in pair} | {"x_test", "y_test"})
    x, y = next((pair for pair in PAIRS if pair[0] in arrays), PAIRS[0])
    if x not in arrays:
        raise DataError(f"{path} holds {listed(arrays)}, but no array X.")
    found = Dataset(path.name, *_pair(str(path), arrays[x], arrays.get(y)))
    if "x_test" not in arrays:
        return found
    X_test, y_test = _pair(f"{path}, test set", arrays["x_test"], arrays.get("y_test"))
    if X_test.shape[1] != found.X.shape[1] or (found.y is None) != (y_test is None):
        raise DataError(
            f"{path}: the test set {X_test.shape} does not fit the training set {found.X.shape}."
        )
    return found._replace(X_test=X_test, y_test=y_test)


def _csv(path: Path, request: Request) -> Dataset:
    file = open_csv(path)
    columns = listed(file.header)
    if request.labelled and not request.target:
        raise DataError(f"{path} has the columns {columns}: name the one to predict with --target.")
    for name in (*request.target, *request.features, *request.drop):
        if name not in file.header:
            raise DataError(
                f"{path} has no column {name!r}; its columns are {columns}."
                + _hint(name, file.header)
            )
    others = (name for name in file.header if name not in request.target + request.drop)
    features = request.features or tuple(others)
    if not features:
        raise DataError(f"{path} has no column beside its targets to predict them from.")
    table = csv_columns(file, features + request.target)
    X, y = table[:, : len(features)], table[:, len(features) :]
    pair = _pair(str(path), X, y if request.target else None)
    return Dataset(path.name, *pair, features=features, target=request.target)


def _beside(path: Path, name: str) -> Path | None:
    """`name` in the same folder, gzipped or not, unless it is the file itself."""
    plain = name.removesuffix(".gz")
    places = (path.with_name(plain), path.with_name(plain + ".gz"))
    return next((place for place in places if place.is_file() and place != path), None)


def _images(path: Path, labels: str | None) -> tuple[Rows, Rows | None]:
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    place = _beside(path, name) if labels is None else _labels(labels)
    return _pair(str(path), idx_array(path), None if place is None else idx_array(place))


def _idx(path: Path, request: Request) -> Dataset:
    found = Dataset(path.name, *_images(path, request.labels))
    test = _beside(path, path.name.replace("train", "t10k"))
    if not path.name.startswith("train") or test is None:
        return found
    X_test, y_test = _images(test, None)
    return found._replace(X_test=X_test, y_test=y_test)


# -- sets with a name ----------------------------------------------------------------


def _digits(request: Request) -> Dataset:
    place = resources.files("mlp_xp") / "datasets" / "digits.npz"
    with place.open("rb") as content, np.load(content, allow_pickle=False) as file:
        return Dataset("digits", file["X"], file["y"])


def _fashion_mnist(request: Request) -> Dataset:
    asked = [request.folder] if request.folder else [os.environ.get(VARIABLE), DEBIAN]
    folders = [Path(folder) for folder in asked if folder]
    for folder in (place for base in folders for place in (base, base / "fashion-mnist")):
        images = _beside(folder / "_", FASHION)
        if images is not None:
            return _idx(images, request)._replace(name="fashion-mnist")
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
    (r"\.npz$", _npz),
    (r"\.npy(\.gz)?$", _npy),
    (r"\.csv(\.gz)?$", _csv),
    (r"idx\d-\w+(\.gz)?$|\.idx(\.gz)?$", _idx),
)
