"""`stream`: from a path, or from what is open already, to a `Stream`."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import checks
from ..exchange import unmasked
from ..readers import DataError, names_in
from .arrays import Arrays, NpyFile, of_hdf5, of_zarr
from .source import SHARE, Files, Source, in_bytes
from .streamed import Stream
from .tables import Frames, Parquet

KINDS = "a .parquet, .npy, .zarr or .h5 file, a folder of .parquet files"
ZARR = ("zarr.json", ".zgroup", ".zarray")  # which of these a folder of Zarr has


def stream(
    source: Any,
    target: Any = None,
    *,
    features: Any = None,
    drop: str | Sequence[str] = (),
    weight: Any = None,
    memory: float | str = "1GB",
    seed: int = 0,
) -> Stream:
    """Examples that need not fit into memory, for `fit`, `evaluate` and `predict` of a model.

    source    a path: of a Parquet file or a folder of them (or a list of paths), of a .npy file,
              of a Zarr array or group, of an HDF5 file; or what is open already: an array of
              Dask, Zarr, h5py or NumPy (a memory map, too), or a data frame of Dask. An example
              is a row, whatever it has: (m, n_features) or (m, …)
    target    what to predict: the name of a column or of an array of the group, or a list of
              columns; beside arrays an array, or the path of a .npy file; None: nothing, for
              `predict`
    features  columns to learn from, None for all that are nothing else; of a group the name
              of its array of examples, None for X, x, data or features
    drop      column or columns to leave out
    weight    sample weights ≥ 0, said as the target is
    memory    bytes that rows may take, being read and waiting: a number, or "500MB", "2GiB".
              The interpreter, libraries and the network come on top
    seed      of the order in which units of the file are read; the order within is the model's

    Raises `DataError` for what cannot be streamed, naming file and column, ValueError for other
    arguments, and ImportError where the extra [stream] is missing.
    """
    budget, seed = in_bytes(memory), checks.seed("seed", seed)
    found = _opened(source, target, features, names_in("drop", drop), weight, budget)
    return Stream(found, budget, seed)


def _opened(
    source: Any, target: Any, features: Any, drop: tuple[str, ...], weight: Any, memory: int
) -> Source:
    limit = memory // SHARE
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if glob.has_magic(str(source)) and not path.exists():
            source = [Path(name) for name in sorted(glob.glob(str(source), recursive=True))]
            if not source:
                raise DataError(f"no file is named {path}.")
        else:
            return _of_path(path, target, features, drop, weight, memory)
    if isinstance(source, list | tuple):
        return _tables([Path(name) for name in source], target, features, drop, weight, memory)
    if hasattr(source, "npartitions") and hasattr(source, "columns"):
        names = _features(features), names_in("target", target), drop, _one(weight)
        return Frames(source, *names, limit)
    if checks.is_frame(source) or hasattr(source, "iloc"):
        raise DataError(
            f"a {type(source).__name__} is in memory already: pass it to fit itself, or name "
            f"{KINDS}."
        )
    if hasattr(source, "shape") and hasattr(source, "dtype") and hasattr(source, "__getitem__"):
        _no_columns("an array", features, drop)
        unmasked("the array", source)
        y, w = _array(target), _array(weight)
        return Arrays(type(source).__name__, source, y, w, limit)
    raise DataError(
        f"a {type(source).__name__} cannot be streamed: expected {KINDS}, or an array or data "
        "frame of Dask, or an array of Zarr, h5py or NumPy."
    )


def _of_path(
    path: Path, target: Any, features: Any, drop: tuple[str, ...], weight: Any, memory: int
) -> Source:
    limit = memory // SHARE
    if not path.exists():
        raise DataError(f"{path} does not exist: expected {KINDS}.")
    kind = path.suffix.lower()
    if kind == ".zarr" or (path.is_dir() and any((path / name).exists() for name in ZARR)):
        _no_columns(str(path), None, drop)
        return of_zarr(path, _one(features), target, weight, limit)
    if path.is_dir():
        inside = sorted(path.glob("*.parquet"))
        if not inside:
            raise DataError(f"{path} holds no .parquet file: expected {KINDS}.")
        return _tables(inside, target, features, drop, weight, memory)
    if kind in (".parquet", ".pq"):
        return _tables([path], target, features, drop, weight, memory)
    if kind in (".h5", ".hdf5", ".hdf"):
        _no_columns(str(path), None, drop)
        return of_hdf5(path, _one(features), target, weight, limit)
    if kind == ".npy":
        _no_columns(str(path), features, drop)
        beside = [Path(part) for part in (target, weight) if isinstance(part, str | os.PathLike)]
        files = Files([path, *beside])
        return Arrays(str(path), NpyFile(path), _array(target), _array(weight), limit, files)
    hint = ""
    if kind in (".csv", ".tsv", ".feather", ".npz"):
        hint = " Write it as Parquet first, or read it whole: load_table (leave --memory out)."
        if kind == ".npz":
            hint = " Its arrays are packed: save them as .npy files."
    raise DataError(f"{path} cannot be streamed: expected {KINDS}.{hint}")


def _tables(
    paths: list[Path],
    target: Any,
    features: Any,
    drop: tuple[str, ...],
    weight: Any,
    memory: int,
) -> Parquet:
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is not a file.")
    if not paths:
        raise DataError("the list of files is empty.")
    names = _features(features), names_in("target", target), drop, _one(weight)
    return Parquet(paths, *names, memory)


def _array(given: Any) -> Any:
    """Targets or weights beside an array: an array, or that of a .npy file."""
    unmasked("an array beside it", given)
    if hasattr(given, "to_pylist"):  # Arrow's, which `to_numpy` gives only where it need not copy
        given = np.asarray(given)
    if hasattr(given, "to_numpy"):  # a column of a data frame
        given = given.to_numpy()
    if isinstance(given, np.ndarray) and given.dtype.kind == "O":
        text = all(isinstance(label, str) for label in given.flat)
        return given.astype(str) if text else given
    if given is None or (hasattr(given, "shape") and hasattr(given, "dtype")):
        return given
    if isinstance(given, str | os.PathLike):
        if not Path(given).is_file():
            raise DataError(
                f"{given} does not exist: beside an array, expected an array or the path of a "
                ".npy file."
            )
        return NpyFile(Path(given))
    return np.asarray(given)


def _no_columns(name: str, features: Any, drop: tuple[str, ...]) -> None:
    if features is not None or drop:
        raise ValueError(f"features and drop name a table's columns, but {name} has no names.")


def _features(names: Any) -> tuple[str, ...] | None:
    return None if names is None else names_in("features", names)


def _one(name: Any) -> Any:
    if isinstance(name, list | tuple):
        raise TypeError(f"expected one name, but {name!r} was given.")
    return name


__all__ = ["stream"]
