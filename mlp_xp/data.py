"""Sources of examples: the built-in digits, Fashion-MNIST, arrays and tables in files.

    digits           UCI handwritten digits, in the package
    fashion-mnist    where the caller, MLP_XP_DATA or Debian's package has it
    NAME.npz         arrays X and y; x_train, y_train, x_test and y_test; or data and target
    NAME.npy         X; y is another .npy file, `labels`, which may be text
    …-idxN-ubyte     IDX as MNIST uses; labels and test set are found by name beside it
    NAME.csv, .tsv, .parquet, .feather, or - for the standard input
                     a table of numbers, words, dates and gaps; `target` names what to predict

Rows come back as the file gives them; `preparation` makes numbers of them and scales them.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import tables
from .checks import is_frame
from .readers import (
    DataError,
    Rows,
    check_targets,
    decoded,
    idx_array,
    listed,
    names_in,
    npy_array,
    npz_arrays,
)

VARIABLE = "MLP_XP_DATA"
DEBIAN = "/usr/share/datasets/fashion-mnist"  # package dataset-fashion-mnist
FASHION = "train-images-idx3-ubyte"
TABLES = (
    f"a .csv, .tsv, .parquet or .feather file, {tables.STDIN} for the standard input, or a data "
    "frame of pandas, polars or Arrow"
)
TAKES_LABELS = re.compile(r"\.npy(\.gz)?$|idx[^/]*$|^fashion-mnist$", re.IGNORECASE)
STREAMED = re.compile(r"\.(zarr|h5|hdf5?)/?$", re.IGNORECASE)  # which `streams` reads
PAIRS = (("x", "y"), ("x_train", "y_train"), ("data", "target"))


class Dataset(NamedTuple):
    """Examples as rows, unscaled and finite.

    name            "digits", "fashion-mnist" or the file's name
    X               (m, n_features); of a table a pandas.DataFrame
    y               (m,) or (m, n_targets); None where there are none
    X_test, y_test  the set's own test examples, or None
    features        names of the columns, () where they have none
    target          names of the targets, likewise
    table           the whole table, targets and what was dropped included, or None
    notes           what people should know of how it was read
    shape           of an example that is known to be an image, (channels, height, width), or of
                    one whose axes were given; () where nothing is known
    missing         words that stood for gaps in the table, beside the usual ones
    """

    name: str
    X: Any
    y: Rows | None = None
    X_test: Rows | None = None
    y_test: Rows | None = None
    features: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    table: Any = None
    notes: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    missing: tuple[str, ...] = ()


class Request(NamedTuple):
    """What is wanted of a source; each kind takes what concerns it.

    target    a table's columns to predict
    features  a table's columns to read, () for all but the targets
    drop      a table's columns to leave out
    missing   words that stand for a gap in a table, beside the usual ones
    text      a table's columns to read as text
    copied    likewise, with the blanks around it
    zeros     whether a table's only target is text where it is written with leading zeros, 007
    labels    file of labels for .npy and IDX
    folder    where to look for fashion-mnist
    labelled  whether examples without targets are refused
    """

    target: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    zeros: bool = True
    labels: str | None = None
    folder: str | None = None
    labelled: bool = True


def load(source: str = "digits", request: Request | None = None) -> Dataset:
    """The examples of a built-in name or a file. Raises `DataError`, or OSError."""
    request = request or Request()
    if request.labels is not None and not TAKES_LABELS.search(str(source)):
        raise DataError(
            f"--labels is for a .npy or IDX file of examples, but {source} has its targets in "
            "itself: leave it out."
        )
    if request.folder is not None and source != "fashion-mnist":
        raise DataError(
            f"--data-dir is the folder of fashion-mnist, but the data are {source}: leave it out."
        )
    if isinstance(source, str) and source in BUILT_IN:
        return BUILT_IN[source](request)
    if isinstance(source, str) and source == tables.STDIN:
        return _table(source, request)
    expected = (
        "a .csv, .tsv, .parquet, .feather, .npz, .npy or IDX file, "
        f"{tables.STDIN} for the standard input, or one of {listed(BUILT_IN)}"
    )
    if STREAMED.search(str(source)) and os.path.exists(source):
        raise DataError(
            f"{source} is read block by block: give --memory, say 500MB, to train, evaluate or "
            "predict, or take mlp_xp.stream(…) in Python."
        )
    path = _existing(source, expected, list(BUILT_IN))
    for pattern, reader in READERS:
        if re.search(pattern, path.name, re.IGNORECASE):
            found = reader(path, request)
            if request.labelled and found.y is None:
                cure = "name a file of labels with --labels, or store both in one .npz as X and y"
                if not TAKES_LABELS.search(str(source)):
                    cure = "store them in it as y"
                raise DataError(f"{source} has no targets beside its examples: {cure}.")
            return found
    raise DataError(
        f"{source} is of no known kind: expected a name that ends in .csv, .tsv, .parquet, "
        ".feather, .npz, .npy or idx3-ubyte (all but .npz also with .gz)."
    )


def _existing(source: Any, expected: str, known: Sequence[str] = ()) -> Path:
    """The path of a file that is there.

    known  names of what is no file, one of which may be meant
    """
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source is a {type(source).__name__}, but expected {expected}.")
    path = Path(source)
    if not path.is_file():
        why = "is not a file" if path.exists() else "does not exist"
        raise DataError(f"{source} {why}: expected {expected}.{_hint(str(source), known)}")
    return path


def _hint(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def finite_numbers(where: str, values: Rows) -> Rows:
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
    """X as (m, n_features) and y as (m,) or (m, n_targets), which must fit each other.

    Labels (m,) may be text.
    """
    if X.ndim < 2 or X.size == 0:
        raise DataError(
            f"{where}: X has shape {X.shape}, but expected (n_examples, n_features), not empty."
        )
    rows = finite_numbers(f"{where}: X", X).reshape(len(X), -1)
    if y is None:
        return rows, None
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2) or len(y) != len(rows):
        raise DataError(
            f"{where}: y has shape {y.shape}, but X has {len(rows)} examples: expected "
            f"({len(rows)},) or ({len(rows)}, n_targets)."
        )
    if y.ndim == 1 and y.dtype.kind in "US":
        return rows, decoded(f"{where}: y", y)
    return rows, finite_numbers(f"{where}: y", y)


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


def _table(source: str | Path, request: Request) -> Dataset:
    name = "standard input" if source == tables.STDIN else str(source)
    labels = request.target if request.zeros and len(request.target) == 1 else ()
    words = (request.missing, request.text, request.copied, labels)
    found = _of_table(name, tables.read(str(source), *words), request)
    return found if source == tables.STDIN else found._replace(name=Path(source).name)


def _of_table(name: str, frame: Any, request: Request) -> Dataset:
    """The examples of a table whose columns are named by text."""
    names = [str(column) for column in frame.columns]
    if request.labelled and not request.target:
        raise DataError(
            f"{name} has the columns {listed(names)}: name the one to predict with --target."
        )
    for column in (*request.target, *request.features, *request.drop):
        if column not in names:
            raise DataError(
                f"{name} has no column {column!r}; its columns are {listed(names)}."
                + _hint(column, names)
            )
    check_targets(name, request.target, request.drop)
    others = [column for column in names if column not in request.target + request.drop]
    features = list(request.features) or others
    if not features:
        raise DataError(f"{name} has no column beside its targets to predict them from.")
    notes: list[str] = []
    if request.target:
        whole, frame = frame, _with_targets(name, frame, request.target, notes)
        if len(frame) < len(whole):
            words = (*request.target, *request.text, *request.copied)
            frame = tables.numbers_left(frame, whole, [c for c in features if c not in words])
    y = tables.target(name, frame, request.target) if request.target else None
    return Dataset(
        name,
        frame[features],
        y,
        features=tuple(features),
        target=request.target,
        table=frame,
        notes=tuple(notes),
        missing=request.missing,
    )


def _with_targets(name: str, frame: Any, target: tuple[str, ...], notes: list[str]) -> Any:
    """The rows of a table that have targets."""
    known = frame[list(target)].notna().all(axis=1)
    if not known.any():
        raise DataError(f"{name} has no row with a value in {listed(target)}.")
    if not known.all():
        n = len(frame) - int(known.sum())
        rows = f"{n:,} row{'s' if n > 1 else ''}"
        notes.append(
            f"{rows} without a value in {listed(target)} {'are' if n > 1 else 'is'} left out"
        )
    return frame if known.all() else frame[known]


def load_table(
    source: Any,
    target: str | Sequence[str] | None = (),
    *,
    drop: str | Sequence[str] = (),
    missing: str | Sequence[str] = (),
) -> Dataset:
    """A table as `mlp-xp train --data SOURCE --target TARGET` reads it.

    source   path of a .csv, .tsv, .parquet or .feather, perhaps gzipped; "-", the standard
             input; or a data frame of pandas, polars or Arrow
    target   name of the column to predict, or names; () reads a table without targets
    drop     name or names of columns to leave out
    missing  word or words that stand for a gap, beside the usual ones

    X of what is returned is a pandas.DataFrame, y an array of numbers or text, without the
    rows that have no target; of a file's labels 01, 02 and 10 it is text. `model_for` makes a
    model that takes them as they are:

        data = load_table("people.csv", "income")
        model = model_for(data, hidden=(256, 128)).fit(data.X, data.y)
        model.predict(load_table("others.csv").X)

    Raises `DataError`, OSError, or ImportError where the extra [tables] is missing.
    """
    names = names_in("target", target)
    request = Request(
        target=names,
        drop=names_in("drop", drop),
        missing=names_in("missing", missing),
        labelled=bool(names),
    )
    if not is_frame(source):
        from_stdin = isinstance(source, str) and source == tables.STDIN
        return _table(source if from_stdin else _existing(source, TABLES), request)
    return _of_table("the table", tables.of_frame("source", source, request.missing), request)


def _beside(path: Path, name: str) -> Path | None:
    """`name` in the same folder, gzipped or not, unless it is the file itself."""
    plain = name.removesuffix(".gz")
    places = (path.with_name(plain), path.with_name(plain + ".gz"))
    return next((place for place in places if place.is_file() and place != path), None)


def _images(path: Path, labels: str | None) -> tuple[Rows, Rows | None, tuple[int, ...]]:
    """X and y, and the shape of an image of one channel."""
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    place = _beside(path, name) if labels is None else _labels(labels)
    X = idx_array(path)
    rows, y = _pair(str(path), X, None if place is None else idx_array(place))
    return rows, y, (1, *X.shape[1:]) if X.ndim == 3 else ()


def _idx(path: Path, request: Request) -> Dataset:
    X, y, shape = _images(path, request.labels)
    found = Dataset(path.name, X, y, shape=shape)
    test = _beside(path, path.name.replace("train", "t10k"))
    if not path.name.startswith("train") or test is None:
        return found
    X_test, y_test, _ = _images(test, None)
    return found._replace(X_test=X_test, y_test=y_test)


# -- sets with a name ----------------------------------------------------------------


def _digits(request: Request) -> Dataset:
    place = resources.files("mlp_xp") / "datasets" / "digits.npz"
    with place.open("rb") as content, np.load(content, allow_pickle=False) as file:
        return Dataset("digits", file["X"], file["y"], shape=(1, 8, 8))


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
    (r"\.(csv|tsv|tab|txt|parquet|feather|arrow)(\.gz)?$", _table),
    (r"idx\d-\w+(\.gz)?$|\.idx(\.gz)?$", _idx),
)

__all__ = ["DataError", "Dataset", "Request", "load", "load_table"]
