"""The border: every argument is checked here, before any work is done.

An error names the argument, what it is, what was expected, and the likely cure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from .devices import Device
from .devices import device as find_device
from .kernels import PRECISIONS
from .losses import Kind
from .prepared import AS_GIVEN, NO_SCALE, Preparation, Scale
from .training import Data
from .types import Array

V = TypeVar("V")

DTYPES = ("float32", "float64")

# what rows of the tables are called in Keras, PyTorch, scikit-learn and in talk
ELSEWHERE = {
    "swish": "silu",
    "logistic": "sigmoid",
    "linear": "identity",
    "none": "identity",
    "leakyrelu": "leaky_relu",
    "mse": "squared_error",
    "l2": "squared_error",
    "mean_squared_error": "squared_error",
    "mae": "absolute_error",
    "l1": "absolute_error",
    "mean_absolute_error": "absolute_error",
    "smooth_l1": "huber",
    "bce": "binary_cross_entropy",
    "binary_crossentropy": "binary_cross_entropy",
    "log_loss": "cross_entropy",
    "nll": "cross_entropy",
    "softmax": "cross_entropy",
    "categorical_crossentropy": "cross_entropy",
    "sparse_categorical_crossentropy": "cross_entropy",
    "kaiming": "he",
    "he_normal": "he",
    "xavier": "glorot_uniform",
}
LARGE = 2**26  # bytes of targets or weights that one thread of the host is left to look at


def choose(argument: str, table: Mapping[str, V], name: Any) -> V:
    """The row of a table; an unknown name lists the valid ones."""
    if isinstance(name, str) and name in table:
        return table[name]
    from difflib import get_close_matches

    known = ELSEWHERE.get(str(name).lower())
    close = [known] if known in table else get_close_matches(str(name).lower(), table, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"{argument} is {name!r}, but expected one of {', '.join(map(repr, table))}.{hint}"
    )


def integer(argument: str, value: Any, least: int) -> int:
    """A whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{argument} is {value!r}, but expected a whole number.")
    if value < least:
        raise ValueError(f"{argument} is {value}, but expected at least {least}.")
    return int(value)


def number(argument: str, value: Any, low: float, high: float, *, open_high: bool = False) -> float:
    """A finite number in [low, high], or [low, high) where `open_high`."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{argument} is {value!r}, but expected a number.")
    checked = float(value)
    inside = low <= checked < high if open_high else low <= checked <= high
    if not (math.isfinite(checked) and inside):
        end = ")" if open_high or math.isinf(high) else "]"
        raise ValueError(f"{argument} is {value}, but expected a number in [{low}, {high}{end}.")
    return checked


def precision(value: Any, dtype: str) -> str:
    """A row of `kernels.PRECISIONS` that goes with a dtype."""
    choose("precision", PRECISIONS, value)
    if value != "float32" and dtype != "float32":
        raise ValueError(
            f"precision is {value!r}, which rounds operands of float32 products, but the dtype "
            f"is {dtype}: expected dtype='float32' with it. Leave precision out for {dtype}."
        )
    return str(value)


def sizes(value: Any) -> tuple[int, ...]:
    """n_features, hidden widths, n_outputs."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(
            f"sizes is {value!r}, but expected the number of features, the hidden widths and "
            "the number of outputs, such as (64, 32, 10)."
        )
    widths = tuple(integer(f"sizes[{i}]", n, 1) for i, n in enumerate(value))
    if len(widths) < 2:
        raise ValueError(
            f"sizes is {widths}, but expected at least two numbers: features and outputs."
        )
    return widths


def per_layer(argument: str, value: Any, n_hidden: int) -> tuple[Any, ...]:
    """One value for all hidden layers, or a list or tuple of one a layer."""
    if not isinstance(value, list | tuple):
        return (value,) * n_hidden
    if len(value) != n_hidden:
        raise ValueError(
            f"{argument} has {len(value)} entries, but there are {n_hidden} hidden layers: "
            "expected one value for all, or one for each."
        )
    return tuple(value)


def _as_array(argument: str, value: Any, device: Device) -> Array:
    """Anything array-like as an array of numbers, on the host or already on the device."""
    if not hasattr(value, "ndim") or not hasattr(value, "dtype"):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise ValueError(
                f"{argument} cannot be made into an array ({error}): expected rows of equal length."
            ) from None
    elif hasattr(value, "to_numpy"):  # a data frame
        value = value.to_numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biuf":
        raise TypeError(
            f"{argument} has dtype {value.dtype}, but expected numbers. "
            "Encode text as numbers first; a numeric array read as objects wants .astype(float)."
        )
    return value


def _put(argument: str, value: Array, device: Device) -> Array:
    try:
        return device.put(value)
    except TypeError as error:
        raise TypeError(
            f"{argument} is a {type(value).__module__}.{type(value).__name__}, which the device "
            f"{device.name!r} cannot take ({error}). Convert it first, or choose another device."
        ) from None


def _rows(array: Array, device: Device) -> Array:
    """Columns (n, m) as C-ordered rows (m, n): a view where memory already lies so."""
    xp = device.xp
    rows = xp.matrix_transpose(array)
    return xp.reshape(xp.reshape(rows, (-1,)), rows.shape)


def _finite(argument: str, array: Array, device: Device, dtype: str, given: Any = None) -> None:
    """Nothing infinite and no NaN in an array on the device.

    given  where it came from, as the error counts places: the array itself if None
    """
    if device.all_finite(array):
        return
    with np.errstate(all="ignore"):
        host = device.get(array) if given is None else np.asarray(given).astype(dtype)
    bad = ~np.isfinite(host)
    place = np.unravel_index(int(np.argmax(bad)), bad.shape)
    raise ValueError(
        f"{argument} holds {host[place]} at {[int(i) for i in place]} ({int(np.sum(bad))} such "
        f"values in all), but expected finite numbers that fit {dtype}. Remove or impute them "
        "first."
    )


def examples(
    argument: str,
    X: Any,
    n_features: int,
    device: Device,
    dtype: str,
    prepared: Preparation = AS_GIVEN,
) -> Array:
    """X (n_features, m), scaled, as rows (m, n_features) on the device, in the model's dtype."""
    X = _as_array(argument, X, device)
    shape = tuple(X.shape)
    if X.ndim != 2:
        raise ValueError(
            f"{argument} has shape {shape}, but expected 2 axes, ({n_features}, n_examples). "
            "One example x is a column: pass x[:, None]."
        )
    if shape[0] != n_features:
        hint = " Are your examples rows? Pass X.T." if shape[1] == n_features else ""
        raise ValueError(
            f"{argument} has shape {shape}, but the first layer takes {n_features} features: "
            f"expected ({n_features}, n_examples).{hint}"
        )
    if shape[1] == 0:
        raise ValueError(f"{argument} has shape {shape}: there are no examples.")
    X = _scaled(argument, X, prepared.inputs, device)
    if isinstance(X, np.ndarray) and device.put_rows is not None:
        rows = None if device.host_rows is None else device.host_rows(X.T, dtype)
        rows = device.put_rows(X.T, dtype) if rows is None else rows
        _finite(argument, rows, device, dtype, X)
        return rows
    xp = device.xp
    with np.errstate(over="ignore"):  # an overflow in the cast is reported below
        columns = xp.astype(_put(argument, X, device), getattr(xp, dtype), copy=False)
    _finite(argument, columns, device, dtype)
    return _rows(columns, device)


def _scaled(argument: str, values: Array, scale: Scale, device: Device) -> Array:
    here = isinstance(values, np.ndarray) or scale == NO_SCALE
    return scale.apply(values if here else _put(argument, values, device), device)


def _checked_on(array: Array, device: Device) -> Device:
    """Where an array is checked: where it is, as every look at the device waits for it.

    Large arrays of the host go up first, for what they are is found faster there.
    """
    here = isinstance(array, np.ndarray) and array.nbytes <= LARGE
    return find_device("cpu") if here else device


def targets(
    argument: str,
    Y: Any,
    kind: Kind,
    n_out: int,
    m: int,
    device: Device,
    dtype: str,
    several: bool = False,
    prepared: Preparation = AS_GIVEN,
) -> Array:
    """Y as `training.Data` wants it: labels (m,), or rows (m, n_out) in the model's dtype.

    several   whether a classifier must be given more than one class
    prepared  names the classes, or scales the numbers
    """
    if prepared.classes is not None:
        Y = _numbered(argument, Y, prepared, device)
    Y = _as_array(argument, Y, device)
    shape = tuple(Y.shape)
    if kind == "multiclass" and (Y.ndim == 1 or (Y.ndim == 2 and shape[0] == 1)):
        return _labels(argument, Y, n_out, m, device, several)
    expected = f"({n_out}, {m})" + (f" or ({m},)" if n_out == 1 else "")
    if kind == "multiclass":
        expected = f"labels ({m},) or one-hot columns ({n_out}, {m})"
    if Y.ndim == 1 and n_out == 1:
        Y = Y[None, :]
    if tuple(Y.shape) != (n_out, m):
        hint = " Are your targets rows? Pass Y.T." if shape == (m, n_out) else ""
        raise ValueError(f"{argument} has shape {shape}, but expected {expected}.{hint}")
    Y = _scaled(argument, Y, prepared.outputs, device)
    where = _checked_on(Y, device)
    xp = where.xp
    with np.errstate(over="ignore"):  # an overflow in the cast is reported below
        T = xp.astype(_put(argument, Y, where), getattr(xp, dtype), copy=False)
    _finite(argument, T, where, dtype)
    low, high = float(xp.min(T)), float(xp.max(T))
    if kind in ("binary", "multilabel", "multiclass") and (low < 0 or high > 1):
        raise ValueError(
            f"{argument} runs from {low:g} to {high:g}, but a loss for {kind} targets takes "
            "0, 1, or probabilities between."
        )
    if kind == "count" and low < 0:
        raise ValueError(f"{argument} holds {low:g}, but a loss for counts takes numbers ≥ 0.")
    if kind == "multiclass":
        total = xp.sum(T, axis=0)
        if float(xp.max(xp.abs(total - 1))) > 1e-3:
            raise ValueError(
                f"{argument} has columns that do not sum to 1, but one-hot columns or "
                "probabilities do. For independent labels use loss='multilabel'."
            )
        if several:
            labels = xp.argmax(T, axis=0)
            low, high = float(xp.min(labels)), float(xp.max(labels))
    if several and kind in ("multiclass", "binary"):
        _several(argument, low, high)
    return device.put(_rows(T, where))


def _numbered(argument: str, Y: Any, prepared: Preparation, device: Device) -> Array:
    """Labels as the numbers of their classes; one-hot columns are left as they are."""
    if hasattr(Y, "to_numpy"):  # a column of a data frame
        Y = Y.to_numpy()
    if not hasattr(Y, "ndim"):
        Y = np.asarray(Y)
    if Y.ndim > 2 or (Y.ndim == 2 and Y.shape[0] > 1):
        return Y
    host = Y if isinstance(Y, np.ndarray) else device.get(_put(argument, Y, device))
    return prepared.numbers(argument, host)


def _labels(argument: str, Y: Array, n_out: int, m: int, device: Device, several: bool) -> Array:
    if math.prod(Y.shape) != m:
        raise ValueError(
            f"{argument} has shape {tuple(Y.shape)}, but expected a label for each of the "
            f"{m} examples of X."
        )
    where = _checked_on(Y, device)
    xp = where.xp
    Y = xp.reshape(_put(argument, Y, where), (-1,))
    if not xp.isdtype(Y.dtype, "integral"):
        raise TypeError(
            f"{argument} has dtype {Y.dtype}, but labels are whole numbers 0 … {n_out - 1}. "
            "Convert them with Y.astype(int); for numbers to be predicted use another loss, "
            "such as 'squared_error'."
        )
    low, high = int(xp.min(Y)), int(xp.max(Y))
    if low < 0 or high >= n_out:
        raise ValueError(
            f"{argument} holds labels from {low} to {high}, but the network has {n_out} outputs: "
            f"expected labels 0 … {n_out - 1}. np.unique(Y, return_inverse=True)[1] numbers "
            "the classes so."
        )
    if several:
        _several(argument, low, high)
    return device.put(xp.astype(Y, xp.int64, copy=False))


def _several(argument: str, low: float, high: float) -> None:
    """A classifier needs to see more than one class."""
    if low == high:
        raise ValueError(
            f"{argument} holds one class only ({low:g}), but a classifier learns from at least "
            "two. Is the file sorted by class, or the wrong column chosen?"
        )


def parameter(name: str, value: Any, shape: tuple[int, ...], device: Device, dtype: str) -> Array:
    """A parameter of the given shape, finite, on the device in the model's dtype."""
    value = _as_array(name, value, device)
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, but expected {shape}.")
    xp = device.xp
    array = xp.astype(_put(name, value, device), getattr(xp, dtype), copy=False)
    _finite(name, array, device, dtype)
    return array


def weights(argument: str, value: Any, m: int, device: Device, dtype: str) -> Array | None:
    """Sample weights (m,) ≥ 0, not all 0; None stays None."""
    if value is None:
        return None
    value = _as_array(argument, value, device)
    if tuple(value.shape) != (m,):
        raise ValueError(
            f"{argument} has shape {tuple(value.shape)}, but expected ({m},): a weight an example."
        )
    where = _checked_on(value, device)
    xp = where.xp
    w = xp.astype(_put(argument, value, where), getattr(xp, dtype), copy=False)
    _finite(argument, w, where, dtype)
    if float(xp.min(w)) < 0 or float(xp.sum(w)) == 0:
        raise ValueError(
            f"{argument} runs from {float(xp.min(w)):g} to {float(xp.max(w)):g}, but expected "
            "weights ≥ 0 that are not all 0."
        )
    return device.put(w)


def data(
    X: Any,
    Y: Any,
    sample_weight: Any,
    widths: tuple[int, ...],
    kind: Kind,
    device: Device,
    dtype: str,
    names: tuple[str, str, str] = ("X", "Y", "sample_weight"),
    several: bool = False,
    prepared: Preparation = AS_GIVEN,
) -> Data:
    """Examples, targets and weights, checked, prepared and on the device."""
    rows = examples(names[0], X, widths[0], device, dtype, prepared)
    m = int(rows.shape[0])
    return Data(
        rows,
        targets(names[1], Y, kind, widths[-1], m, device, dtype, several, prepared),
        weights(names[2], sample_weight, m, device, dtype),
    )
