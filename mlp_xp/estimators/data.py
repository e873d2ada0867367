"""The checks of what an estimator is given, with scikit-learn's errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.validation import _check_n_features, _check_sample_weight, validate_data

from ..checks import DTYPES, check_total, is_frame
from ..exchange import is_foreign, library, plain, unmasked
from ..hardware import Device
from ..types import Array
from .arrays import (
    Place,
    SparseRows,
    device_of,
    dtype_name,
    same_place,
)

FLOATS = (np.dtype(np.float64), np.dtype(np.float32))
TEXT = (str, bytes)
DATES = (date, timedelta, np.datetime64, np.timedelta64)


@contextmanager
def unless_refused(est: Any, begun: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Leave an estimator as it was where what it is given is refused.

    begun  whether it has begun to train: then it keeps what it has reached
    """
    before = dict(vars(est))
    try:
        yield
    except BaseException:
        if begun():
            raise
        for name in vars(est).keys() - before.keys():
            delattr(est, name)
        vars(est).update(before)
        raise


def check_data(est: Any, X: Any, y: Any, place: Place, reset: bool) -> tuple[Any, Any]:
    """Rows on the device, and y on the host."""
    X = numbers("X", X)
    if est._is_regressor:
        y = numbers("y", y)
    else:
        unmasked("y", y)
    if is_foreign(X):
        rows = check_foreign(est, X, place, reset)
        y = check_array(y, ensure_2d=False, dtype="numeric" if est._is_regressor else None)
        check_consistent_length(np.empty(rows.shape[0]), y)
    elif is_plain(est, X, reset) and _is_plain_target(est, y, X):
        rows = X
        if reset:
            est.n_features_in_ = X.shape[1]
            est.__dict__.pop("feature_names_in_", None)
    else:
        rows, y = validate_data(
            est,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=est._is_regressor,
            dtype=FLOATS,
            reset=reset,
        )
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    return to_device(rows, place.device, est.dtype), y


def numbers(name: str, value: Any) -> Any:
    """What holds numbers, as it is, or as an array if it is a list.

    ValueError for text and TypeError for dates, of which NumPy makes numbers in silence: what
    scikit-learn raises where NumPy cannot. TypeError for masked entries.
    """
    unmasked(name, value)
    if is_foreign(value):
        return value
    several = is_frame(value) and hasattr(value, "dtypes")
    dtypes = value.dtypes if several else [getattr(value, "dtype", None)]
    if all(getattr(dtype, "kind", "O") in "biufc" for dtype in dtypes):
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # rows of unequal lengths: scikit-learn says so
        return value
    found = _no_number(array)
    if found is None:
        return array if isinstance(value, list | tuple) else value
    what, dated = found
    if dated:
        raise TypeError(
            f"{name} {what}, but expected numbers: a date is none before a unit and a beginning "
            "are chosen. Subtract one date, and divide by a timedelta."
        )
    raise ValueError(
        f"{name} {what}, but expected numbers: text is none, even where it spells one. "
        f"np.asarray({name}, float) reads what does; words want an encoder, such as scikit-learn's "
        "OneHotEncoder."
    )


def _no_number(array: npt.NDArray[Any]) -> tuple[str, bool] | None:
    """What of an array is no number, in words, and whether that is a date; None if all are."""
    if array.dtype.kind in "biufc":
        return None
    if array.dtype.kind != "O":
        return f"has dtype {array.dtype}", array.dtype.kind in "Mm"
    for place, entry in np.ndenumerate(array):
        if isinstance(entry, (*TEXT, *DATES)):
            return f"holds {entry!r} at {list(place)}", isinstance(entry, DATES)
    return None


def check_rows(est: Any, X: Any, place: Place) -> Any:
    """Rows to predict from, wherever they are."""
    if is_plain(est, X):
        return X
    X = numbers("X", X)
    if is_foreign(X):
        return check_foreign(est, X, place, False)
    return validate_data(est, X, accept_sparse=["csr", "csc"], reset=False)


def to_device(rows: Any, device: Device, dtype: str | None) -> Any:
    """Checked rows as the core wants them: on the device, in C order, in a dtype if it is given."""
    if hasattr(rows, "tocsr"):
        rows = rows.tocsr()
        return SparseRows(rows if dtype is None else rows.astype(dtype, copy=False), device)
    if isinstance(rows, np.ndarray):
        if device.put_rows is not None:
            return device.put_rows(rows, dtype or rows.dtype)
        with np.errstate(over="ignore"):  # as on a device, where a cast says nothing
            return device.put(np.ascontiguousarray(rows, dtype=dtype))
    xp = device.xp
    return rows if dtype is None else xp.astype(rows, getattr(xp, dtype), copy=False)


def is_plain(est: Any, X: Any, reset: bool = False) -> bool:
    """Whether X is so simple that scikit-learn's checks would find nothing.

    They take five times as long as a small network's prediction for one row.

    reset  whether X says how many features there are, and that they have no names
    """
    return (
        type(X) is np.ndarray
        and X.ndim == 2
        and X.dtype in FLOATS
        and X.size > 0
        and (reset or X.shape[1] == getattr(est, "n_features_in_", -1))
        and (reset or "feature_names_in_" not in est.__dict__)
        and _is_finite(X)
    )


def _is_plain_target(est: Any, y: Any, X: npt.NDArray[Any]) -> bool:
    if type(y) is not np.ndarray or y.ndim != 1 or y.shape[0] != X.shape[0]:
        return False
    if est._is_regressor:
        return y.dtype in FLOATS and _is_finite(y)
    return y.dtype.kind in "iub"


def _is_finite(array: npt.NDArray[Any]) -> bool:
    """Whether a sum shows that all is finite: that of large numbers does not."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(np.add.reduce(array, axis=None))


def check_foreign(est: Any, X: Array, place: Place, reset: bool) -> Array:
    """Rows of another library, checked without a copy to the host."""
    X = plain(X)
    xp, name = place.device.xp, type(est).__name__
    if X.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {X.ndim}D array instead: X has shape {tuple(X.shape)}. "
            "Reshape your data with reshape(-1, 1) if it has a single feature or "
            "reshape(1, -1) if it is a single sample."
        )
    for count, what in zip(X.shape, ("sample(s)", "feature(s)"), strict=True):
        if count < 1:
            raise ValueError(
                f"Found array with 0 {what} (shape={tuple(X.shape)}) while a minimum of 1 is "
                f"required by {name}."
            )
    _check_n_features(est, np.empty((1, X.shape[1])), reset=reset)
    if reset:
        est.__dict__.pop("feature_names_in_", None)  # of the frame of another fit
    if xp.isdtype(X.dtype, "complex floating"):
        raise ValueError(
            f"Complex data not supported: X has dtype {dtype_name(X)}, but expected real numbers. "
            "Pass the real and the imaginary parts as features, or the absolute values."
        )
    if dtype_name(X) not in DTYPES:
        X = xp.astype(X, xp.float64)
    if not bool(xp.all(xp.isfinite(X))):
        raise ValueError("Input X contains NaN or infinity.")
    return X


def check_place(est: Any, X: Any, method: str) -> None:
    """What was fitted with one kind of array is used with that kind."""
    fitted = est.coefs_[0]
    if type(X) is type(fitted) is np.ndarray or same_place(X, fitted):
        return
    kinds = [library(device_of(array).xp) for array in (fitted, X)]
    raise ValueError(
        f"Inputs passed to {type(est).__name__}.{method}() must use the same namespace and "
        f"the same device as those passed to fit(). It was fitted with {kinds[0]} and got "
        f"{kinds[1]}."
    )


def check_weights(sample_weight: Any, rows: Any) -> npt.NDArray[Any]:
    """Weights (m,) on the host in the dtype of the rows."""
    sample_weight, dtype = numbers("sample_weight", sample_weight), np.dtype(dtype_name(rows))
    stand_in = np.broadcast_to(np.zeros(1, dtype), rows.shape)
    with np.errstate(over="ignore"):  # an overflow in the cast is infinite, and refused
        weights: npt.NDArray[Any] = _check_sample_weight(sample_weight, stand_in, dtype=dtype)
    low, high = float(weights.min()), float(weights.max())
    if low < 0:
        raise ValueError(
            f"sample_weight runs from {low:g} to {high:g}, but expected weights >= 0: of an "
            "example that weighs less than nothing a larger loss is better, without end. Leave "
            "such examples out, or give them weight 0. (class_weight is multiplied into it.)"
        )
    with np.errstate(over="ignore"):
        total = float(np.sum(weights, dtype=dtype))
    check_total("sample_weight", total, dtype.name)
    return weights
