"""How the examples of a neural estimator lie, and the rows that they are inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import _check_feature_names, validate_data

from ..exchange import hosted, unmasked
from ..layers.base import Shape
from .data import numbers

# axes of one example in the caller's order, as the error messages write them
LAYOUTS: dict[str, tuple[str, ...]] = {
    "features": ("n_features",),
    "channels_last": ("height", "width", "channels"),
    "channels_first": ("channels", "height", "width"),
    "sequences": ("time", "features"),
    "tokens": ("time",),
}
# of axes in the caller's order, the one that comes first, second, third inside
INSIDE: dict[str, tuple[int, ...]] = {
    "features": (0,),
    "channels_last": (2, 0, 1),
    "channels_first": (0, 1, 2),
    "sequences": (1, 0),
    "tokens": (0,),
}


class Rows(NamedTuple):
    """Examples as `Sequential` takes them.

    table    (m, n): the numbers of each, then its length where `lengths`
    shape    of one example inside: (channels, height, width), (features, time)
    lengths  whether sequences end before the last step
    """

    table: npt.NDArray[Any]
    shape: Shape
    lengths: bool


def rows_of(est: Any, X: Any, reset: bool, like: Rows | None = None) -> Rows:
    """X as rows; ValueError says how it should lie.

    reset  whether the estimator learns from it what examples look like
    like   rows that sequences are padded like
    """
    layout = est.layout
    if layout in ("sequences", "tokens") and _ragged(X):
        _check_feature_names(est, X, reset=reset)
        return _padded(est, X, layout, reset, like)
    X = hosted("X", numbers("X", X))
    ndim = getattr(X, "ndim", 2)
    if layout == "features" and ndim > 2:
        others = ", ".join(repr(name) for name in LAYOUTS if name != "features")
        raise ValueError(
            f"Found array with dim {ndim}, but layout is 'features': expected (n_examples, "
            f"n_features). Say how each example lies: layout={others}."
        )
    if layout == "features" or (ndim == 2 and layout != "tokens" and est.shape is not None):
        table = validate_data(
            est, X, dtype=(np.float64, np.float32), reset=reset, ensure_min_samples=1
        )
        own = (table.shape[1],) if est.shape is None else tuple(est.shape)
        names = LAYOUTS[layout]
        if math.prod(own) != table.shape[1] or (layout != "features" and len(own) != len(names)):
            raise ValueError(
                f"shape is {own}, but X has {table.shape[1]} features and layout is {layout!r}: "
                f"expected ({', '.join(names)}) of as many numbers."
            )
        if layout == "features":
            if reset:
                est._looks = own
            return Rows(table, own, False)
        array = table.reshape(len(table), *own)
        n_features = table.shape[1]  # as scikit-learn counts them
    else:
        array, n_features = _checked(X, layout), None
        _check_feature_names(est, X, reset=reset)
    order = INSIDE[layout]
    inner = array.transpose(0, *(axis + 1 for axis in order))
    shape = tuple(inner.shape[1:])
    _same(est, shape, layout, reset, n_features)
    table = np.ascontiguousarray(inner).reshape(len(array), -1)
    if like is not None and like.lengths:
        return _with_lengths(table, shape, np.full(len(table), shape[-1]), like.shape[-1])
    return Rows(table, shape, False)


def _ragged(X: Any) -> bool:
    """Whether X is a list of sequences, or an object array or a frame's column of them."""
    if hasattr(X, "dtype"):
        return getattr(X.dtype, "kind", "") == "O"
    return isinstance(X, Sequence) and not isinstance(X, str)


def _checked(given: Any, layout: str) -> npt.NDArray[Any]:
    """An array of numbers with the layout's axes, and an axis of one channel where it has none."""
    names = LAYOUTS[layout]
    if hasattr(given, "toarray"):
        raise TypeError(f"X is sparse, but layout is {layout!r}: expected X.toarray().")
    try:
        array: npt.NDArray[Any] = np.asarray(given)
    except ValueError as error:
        raise ValueError(
            f"X cannot be made into an array ({error}): expected examples of one size."
        ) from None
    if layout.startswith("channels") and array.ndim == 3:
        array = array[:, None] if layout == "channels_first" else array[..., None]
    if array.ndim != len(names) + 1:
        others = ", ".join(map(repr, LAYOUTS))
        raise ValueError(
            f"X has shape {array.shape}, but layout is {layout!r}: expected "
            f"(n_samples, {', '.join(names)}). The layouts are {others}; shape=(…) says what one "
            "example of a table is."
        )
    if array.size == 0:
        raise ValueError(f"Found array with 0 sample(s) (shape={array.shape}), but expected some.")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"X has dtype {array.dtype}, but expected numbers.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("Input X contains NaN or infinity.")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64 if layout != "tokens" else np.float32)
    return array


def _same(est: Any, shape: Shape, layout: str, reset: bool, n_features: int | None = None) -> None:
    """Examples look like those of `fit`, but for the length of sequences.

    n_features  of a table; None: those of an example, or of a step
    """
    looks = shape[:-1] if layout in ("sequences", "tokens") else shape
    if reset:
        est.n_features_in_ = n_features or math.prod(looks)
        est._looks = looks
    elif looks != est._looks:
        raise ValueError(
            f"X has examples of {looks}, but {type(est).__name__} was fitted to {est._looks}: "
            "expected the same "
            + ("number of features." if layout == "sequences" else "(channels, height, width).")
        )


def _padded(est: Any, X: Any, layout: str, reset: bool, like: Rows | None) -> Rows:
    """Sequences of different lengths as rows of zeros behind them, and their lengths."""
    n_axes = len(LAYOUTS[layout])
    if len(X) == 0:
        raise ValueError("X is empty, but expected a sequence for each sample.")
    one = "(time,)" if layout == "tokens" else "(time, features)"
    for i, sequence in enumerate(X):
        unmasked(f"X[{i}]", sequence)
    found = [np.asarray(hosted(f"X[{i}]", sequence)) for i, sequence in enumerate(X)]
    for i, sequence in enumerate(found):
        if sequence.ndim != n_axes or sequence.dtype.kind not in "biuf" or sequence.size == 0:
            raise ValueError(
                f"X[{i}] has shape {sequence.shape} and dtype {sequence.dtype}, but layout is "
                f"{layout!r}: expected numbers of shape {one}, with at least one step."
            )
        if sequence.shape[1:] != found[0].shape[1:]:
            raise ValueError(
                f"X[{i}] has {sequence.shape[1]} features, but X[0] has {found[0].shape[1]}: "
                "expected as many in every step of every sequence."
            )
        if not np.isfinite(sequence).all():
            raise ValueError(f"Input X contains NaN or infinity: X[{i}].")
    lengths = np.array([len(sequence) for sequence in found])
    time = int(lengths.max()) if like is None else max(int(lengths.max()), like.shape[-1])
    rest = found[0].shape[1:]
    float32 = all(sequence.dtype == np.float32 for sequence in found) or layout == "tokens"
    whole = np.zeros((len(found), *rest, time), np.float32 if float32 else np.float64)
    for row, sequence in zip(whole, found, strict=True):
        row[..., : len(sequence)] = sequence.T
    shape = (*rest, time)
    _same(est, shape, layout, reset)
    return _with_lengths(whole.reshape(len(found), -1), shape, lengths, time)


def _with_lengths(
    table: npt.NDArray[Any], shape: Shape, lengths: npt.NDArray[Any], time: int
) -> Rows:
    """The table with its lengths behind, and zeros up to `time` steps."""
    if time > shape[-1]:
        whole = np.zeros((len(table), *shape[:-1], time), table.dtype)
        whole[..., : shape[-1]] = table.reshape(len(table), *shape)
        table, shape = whole.reshape(len(table), -1), (*shape[:-1], time)
    column = lengths.astype(table.dtype)[:, None]
    return Rows(np.concatenate([table, column], axis=1), shape, True)


__all__ = ["LAYOUTS", "Rows", "rows_of"]
