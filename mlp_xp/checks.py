"""The border: every argument is checked here, before any work is done.

An error names the argument, what it is, what was expected, and the likely cure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from .activations import Activation
from .devices import device as find_device
from .exchange import taken
from .fitting import EarlyStopping
from .hardware import Device
from .kernels import PRECISIONS
from .losses import Kind
from .meant import meant
from .optimizers import Optimizer
from .prepared import AS_GIVEN, NO_SCALE, Preparation, Scale
from .schedules import Schedule
from .training import Data
from .types import Array

V = TypeVar("V")
Layout: TypeAlias = Literal["rows", "columns"]  # which of a table's lines are its examples

DTYPES = ("float32", "float64")

MOST_DROPPED = 1 - 2**-16  # the largest rate of dropout, in the 16 bits that it is drawn in
LARGE = 2**26  # bytes of targets or weights that one thread of the host is left to look at


def choose(argument: str, table: Mapping[str, V], name: Any) -> V:
    """The row of a table; an unknown name lists the valid ones."""
    if isinstance(name, str) and name in table:
        return table[name]
    cure = meant(table, name)
    if isinstance(name, type) and any(
        row is name or isinstance(row, name) for row in table.values()
    ):
        cure = f" Write {name.__name__}(…), with brackets."
    raise ValueError(
        f"{argument} is {name!r}, but expected one of {', '.join(map(repr, table))}.{cure}"
    )


def activation(choice: Any, table: Mapping[str, Activation]) -> Activation:
    """A row by name, by itself, or of a pair of functions (f, slope), both of Z."""
    if isinstance(choice, Activation):  # the table's own, not a clone: fast paths know it
        return next((row for row in table.values() if row == choice), choice)
    if isinstance(choice, tuple) and len(choice) == 2 and all(map(callable, choice)):
        return Activation(*choice, slope_of="Z")
    if callable(choice) or isinstance(choice, tuple):
        raise ValueError(
            f"activation is {choice!r}, but expected a name, an Activation, or a pair of functions "
            "(f(xp, Z), slope(xp, Z))."
        )
    return choose("activation", table, choice)


def integer(argument: str, value: Any, least: int) -> int:
    """A whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{argument} is {value!r}, but expected a whole number.")
    if value < least:
        raise ValueError(f"{argument} is {value}, but expected at least {least}.")
    return int(value)


def flag(argument: str, value: Any) -> bool:
    """True or False, or 1 or 0: text is true in itself, "no" included."""
    if not isinstance(value, bool | np.bool_ | Integral) or value not in (0, 1):
        raise TypeError(f"{argument} is {value!r}, but expected True or False.")
    return bool(value)


def functions(argument: str, value: Any) -> tuple[Callable[..., Any], ...]:
    """One function or several; None is none."""
    found = (value,) if callable(value) else value or ()
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise TypeError(f"{argument} is {value!r}, but expected a function or a list of functions.")
    found = tuple(found)
    wrong = next((one for one in found if not callable(one)), None)
    if wrong is not None:
        raise TypeError(f"{argument} holds {wrong!r}, but expected functions.")
    return found


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


def dropout(value: Any) -> float:
    """A rate of dropout; it is drawn in 16 bits, and must leave something."""
    rate = number("dropout", value, 0, 1, open_high=True)
    if round(rate * 2**16) == 2**16:
        raise ValueError(
            f"dropout is {value}, which rounded to 16 bits drops everything: expected at most "
            f"{MOST_DROPPED}."
        )
    return rate


def clip_norm(value: float | None, dtype: str) -> float | None:
    """The largest norm of a gradient, as a normal number of a dtype."""
    if value is None:
        return None
    known = np.finfo(dtype)
    return min(max(value, float(known.tiny)), float(known.max))


def early_stopping(value: Any) -> EarlyStopping | None:
    """A rule, of `True`, of the epochs of patience, or of itself."""
    if value is None or isinstance(value, bool):
        return EarlyStopping() if value else None
    if isinstance(value, Integral):
        return EarlyStopping(integer("early_stopping", value, 1))
    if not isinstance(value, EarlyStopping):
        raise TypeError(
            f"early_stopping is {value!r}, but expected True, epochs of patience, or EarlyStopping."
        )
    integer("EarlyStopping.patience", value.patience, 1)
    number("EarlyStopping.threshold", value.threshold, -math.inf, math.inf)
    return value


def precision(value: Any, dtype: str) -> str:
    """A row of `kernels.PRECISIONS` that goes with a dtype."""
    choose("precision", PRECISIONS, value)
    if value != "float32" and dtype != "float32":
        raise ValueError(
            f"precision is {value!r}, which rounds operands of float32 products, but the dtype "
            f"is {dtype}: expected dtype='float32' with it. Leave precision out for {dtype}."
        )
    return str(value)


# of an optimiser's fields; a number at the end of a range in brackets is not in it
RANGES = {
    **dict.fromkeys(("rate", "weight_decay", "epsilon"), (0.0, math.inf, True)),
    **dict.fromkeys(("beta1", "beta2", "decay"), (0.0, 1.0, True)),
    "momentum": (0.0, 1.0, False),
}


def optimizer(value: Optimizer) -> Optimizer:
    """An optimiser with numbers that mean something; fields of a user's own are his affair."""
    for field in fields(value):
        given = getattr(value, field.name)
        if field.name in RANGES:
            low, high, is_open = RANGES[field.name]
            number(f"{type(value).__name__}.{field.name}", given, low, high, open_high=is_open)
        if field.name == "epsilon_hat" and not isinstance(given, bool):
            raise TypeError(
                f"{type(value).__name__}.epsilon_hat is {given!r}, but expected a bool."
            )
    return value


def schedule(value: Schedule) -> Schedule:
    """A schedule with numbers that mean something; fields of a user's own are his affair."""
    for field in fields(value):
        given, name = getattr(value, field.name), f"{type(value).__name__}.{field.name}"
        if field.name in ("every", "steps", "patience"):
            integer(name, given, 0 if field.name == "patience" else 1)
        elif field.name in ("power", "drop", "decay", "final", "start", "threshold", "lowest"):
            number(name, given, 0, math.inf)
        elif field.name == "warm":
            number(name, given, 0, 1)
        elif field.name == "then":
            if not isinstance(given, Schedule):
                raise TypeError(f"{name} is {given!r}, but expected a Schedule.")
            schedule(given)
    return value


def seed(argument: str, value: Any) -> int:
    """A whole number of 64 bits, the key of a stream of random numbers."""
    checked = integer(argument, value, 0)
    if checked >= 2**64:
        raise ValueError(f"{argument} is {checked:g}, but expected less than 2**64.")
    return checked


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


def is_frame(X: Any) -> bool:
    """A table with named columns, of pandas, polars, Arrow or the like: its rows are examples."""
    return hasattr(X, "columns") or hasattr(X, "column_names")


def layout(X: Any, given: Any, remembered: Layout | None = None) -> Layout | None:
    """Which way a table lies, as it says itself or somebody said; None if nobody did.

    given       with this call
    remembered  of calls before
    """
    if given is not None:
        choose("layout", {"rows": 0, "columns": 0}, given)
    if not is_frame(X):
        return given or remembered
    if given == "columns":
        raise ValueError(
            f"layout is 'columns', but the rows of a {type(X).__name__} are its examples: leave "
            "layout out, or pass X.to_numpy()."
        )
    return "rows"


def as_array(argument: str, value: Any, device: Device) -> Array:
    """Anything array-like as an array of numbers, on the host or already on the device."""
    value = taken(argument, value, device)
    if hasattr(value, "to_numpy") and (hasattr(value, "dtype") or is_frame(value)):
        value = value.to_numpy()
    elif not hasattr(value, "ndim") or not hasattr(value, "dtype"):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise ValueError(
                f"{argument} cannot be made into an array ({error}): expected rows of equal length."
            ) from None
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biuf":
        raise TypeError(
            f"{argument} has dtype {value.dtype}, but expected numbers. Encode text as numbers "
            "first, or take mlp_xp.load_table and model_for, which do; a numeric array read as "
            "objects wants .astype(float)."
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


def _c_ordered(array: Array, device: Device) -> Array:
    """The same in C order: a view where memory already lies so."""
    return device.xp.reshape(device.xp.reshape(array, (-1,)), array.shape)


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
    layout: Layout | None = "columns",
    Y: Any = None,
) -> Array:
    """X as rows (m, n_features) on the device, prepared, in the model's dtype.

    layout  which way X lies; None: columns, but refused where it is as wide as it is high
    Y       targets, where X is to be trained on: words of a table are coded by them
    """
    X = taken(argument, X, device)
    frame = is_frame(X)
    if frame or prepared.table is not None:
        X, layout = prepared.rows(argument, X, Y), "rows"
    X = as_array(argument, X, device)
    shape, in_rows = tuple(X.shape), layout == "rows"
    expected = f"(n_examples, {n_features})" if in_rows else f"({n_features}, n_examples)"
    if X.ndim != 2:
        one = "row: pass x[None, :]" if in_rows else "column: pass x[:, None]"
        if n_features == 1 and shape != (1,):  # rather one number of each of many examples
            one = "row: for many pass x[:, None]" if in_rows else "column: for many pass x[None, :]"
        hint = f" One example x is a {one}."
        if X.ndim > 2:
            hint = " Sequential takes images and sequences, whose shape it is told."
            if math.prod(shape[1:]) == n_features:
                hint = f" Pass X.reshape({shape[0]}, {n_features}), layout='rows'.{hint}"
        raise ValueError(f"{argument} has shape {shape}, but expected 2 axes, {expected}.{hint}")
    if layout is None and shape == (n_features, n_features) != (1, 1):
        raise ValueError(
            f"{argument} has shape {shape}, as many examples as features, so nothing shows "
            "which way it lies: expected layout='rows' (an example a row) or layout='columns' "
            "with it. Given to fit, it holds for every later call."
        )
    if shape[1 if in_rows else 0] != n_features:
        hint = ""
        if shape[0 if in_rows else 1] == n_features:
            other = "columns" if in_rows else "rows"
            hint = f" Are your examples {other}? Pass X.T, or layout={other!r}."
            if frame:
                hint = " Are its examples columns? Pass X.to_numpy() with layout='columns'."
        raise ValueError(
            f"{argument} has shape {shape}, but the first layer takes {n_features} features: "
            f"expected {expected}.{hint}"
        )
    if math.prod(shape) == 0:
        raise ValueError(f"{argument} has shape {shape}: there are no examples.")
    X = _scaled(argument, X, prepared.inputs, device, in_rows)
    if isinstance(X, np.ndarray) and device.put_rows is not None:
        given = X if in_rows else X.T
        rows = None if device.host_rows is None else device.host_rows(given, dtype)
        rows = device.put_rows(given, dtype) if rows is None else rows
        _finite(argument, rows, device, dtype, X)
        return rows
    xp = device.xp
    with np.errstate(over="ignore"):  # an overflow in the cast is reported below
        X = xp.astype(_put(argument, X, device), getattr(xp, dtype), copy=False)
    _finite(argument, X, device, dtype)
    return _c_ordered(X if in_rows else xp.matrix_transpose(X), device)


def _scaled(argument: str, values: Array, scale: Scale, device: Device, in_rows: bool) -> Array:
    if scale == NO_SCALE:
        return values
    values = values if isinstance(values, np.ndarray) else _put(argument, values, device)
    if not in_rows:
        return scale.apply(values, device)
    return scale.apply(values.T, device).T


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
    layout: Layout | None = "columns",
) -> Array:
    """Y as `training.Data` wants it: labels (m,), or rows (m, n_out) in the model's dtype.

    several   whether a classifier must be given more than one class
    prepared  names the classes, or scales the numbers
    layout    which way X lies, and so Y; a data frame lies as it does
    """
    in_rows = layout == "rows" or is_frame(Y)
    if prepared.classes is not None:
        Y = _numbered(argument, Y, prepared, device, in_rows)
    Y = as_array(argument, Y, device)
    shape = tuple(Y.shape)
    if kind == "multiclass" and (Y.ndim == 1 or (Y.ndim == 2 and shape[-1 if in_rows else 0] == 1)):
        return _labels(argument, Y, n_out, m, device, several)
    wanted, lines = ((m, n_out), "rows") if in_rows else ((n_out, m), "columns")
    expected = f"{wanted}" + (f" or ({m},)" if n_out == 1 else "")
    if kind == "multiclass":
        expected = f"labels ({m},) or one-hot {lines} {wanted}"
    if Y.ndim == 1 and n_out == 1:
        Y = Y[:, None] if in_rows else Y[None, :]
    if tuple(Y.shape) != wanted:
        other = "columns" if in_rows else "rows"
        turned = [wanted[::-1]]
        if kind == "multiclass":
            turned.append((1, m) if in_rows else (m, 1))  # labels
        hint = f" Are your targets {other}? Pass Y.T." if shape in turned else ""
        raise ValueError(f"{argument} has shape {shape}, but expected {expected}.{hint}")
    Y = _scaled(argument, Y, prepared.outputs, device, in_rows)
    where = _checked_on(Y, device)
    xp = where.xp
    with np.errstate(over="ignore"):  # an overflow in the cast is reported below
        T = xp.astype(_put(argument, Y, where), getattr(xp, dtype), copy=False)
    _finite(argument, T, where, dtype)
    axis = 1 if in_rows else 0
    low, high = float(xp.min(T)), float(xp.max(T))
    if kind in ("binary", "multilabel", "multiclass") and (low < 0 or high > 1):
        raise ValueError(
            f"{argument} runs from {low:g} to {high:g}, but a loss for {kind} targets takes "
            "0, 1, or probabilities between."
        )
    if kind == "count" and low < 0:
        raise ValueError(f"{argument} holds {low:g}, but a loss for counts takes numbers ≥ 0.")
    if kind == "multiclass":
        total = xp.sum(T, axis=axis)
        if float(xp.max(xp.abs(total - 1))) > 1e-3:
            raise ValueError(
                f"{argument} has {lines} that do not sum to 1, but one-hot {lines} or "
                "probabilities do. For independent labels use loss='multilabel'."
            )
        if several:
            labels = xp.argmax(T, axis=axis)
            low, high = float(xp.min(labels)), float(xp.max(labels))
    if several and kind in ("multiclass", "binary"):
        _several(argument, low, high)
    return device.put(_c_ordered(T if in_rows else xp.matrix_transpose(T), where))


def _numbered(argument: str, Y: Any, prepared: Preparation, device: Device, in_rows: bool) -> Array:
    """Labels as the numbers of their classes; one-hot columns are left as they are."""
    Y = taken(argument, Y, device)
    if hasattr(Y, "to_numpy"):  # a column of a data frame
        Y = Y.to_numpy()
    if not hasattr(Y, "ndim"):
        Y = np.asarray(Y)
    if Y.ndim > 2 or (Y.ndim == 2 and Y.shape[-1 if in_rows else 0] > 1):
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
    if not xp.isdtype(Y.dtype, ("integral", "bool")):
        raise TypeError(
            f"{argument} has dtype {Y.dtype}, but labels are whole numbers 0 … {n_out - 1}. "
            "Convert them with Y.astype(int); for numbers to be predicted use another loss, "
            "such as 'squared_error'."
        )
    if xp.isdtype(Y.dtype, "bool"):
        Y = xp.astype(Y, xp.int64)
    low, high = int(xp.min(Y)), int(xp.max(Y))  # before a cast makes other numbers of them
    Y = xp.astype(Y, xp.int64, copy=False)
    if low < 0 or high >= n_out:
        raise ValueError(
            f"{argument} holds labels from {low} to {high}, but the network has {n_out} outputs: "
            f"expected labels 0 … {n_out - 1}. np.unique(Y, return_inverse=True)[1] numbers "
            "the classes so."
        )
    if several:
        _several(argument, low, high)
    return device.put(Y)


def _several(argument: str, low: float, high: float) -> None:
    """A classifier needs to see more than one class."""
    if low == high:
        raise ValueError(
            f"{argument} holds one class only ({low:g}), but a classifier learns from at least "
            "two. Is the file sorted by class, or the wrong column chosen?"
        )


def parameter(name: str, value: Any, shape: tuple[int, ...], device: Device, dtype: str) -> Array:
    """A parameter of the given shape, finite, on the device in the model's dtype."""
    value = as_array(name, value, device)
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, but expected {shape}.")
    xp = device.xp
    with np.errstate(over="ignore"):  # an overflow in the cast is reported below
        array = xp.astype(_put(name, value, device), getattr(xp, dtype), copy=False)
    _finite(name, array, device, dtype)
    return array


def weights(argument: str, value: Any, m: int, device: Device, dtype: str) -> Array | None:
    """Sample weights (m,) ≥ 0, not all 0; None stays None."""
    if value is None:
        return None
    value = as_array(argument, value, device)
    if tuple(value.shape) != (m,):
        raise ValueError(
            f"{argument} has shape {tuple(value.shape)}, but expected ({m},): a weight an example."
        )
    where = _checked_on(value, device)
    xp = where.xp
    with np.errstate(over="ignore"):  # an overflow is infinite, and reported below
        w = xp.astype(_put(argument, value, where), getattr(xp, dtype), copy=False)
        low, total = float(xp.min(w)), float(xp.sum(w))
    _finite(argument, w, where, dtype)
    if low < 0 or total == 0:
        raise ValueError(
            f"{argument} runs from {low:g} to {float(xp.max(w)):g}, but expected weights ≥ 0 that "
            "are not all 0."
        )
    check_total(argument, total, dtype)
    return device.put(w)


def check_total(argument: str, total: float, dtype: str) -> None:
    """Weights are divided by their sum: it must be a normal number of the dtype."""
    known = np.finfo(dtype)
    if not float(known.tiny) <= total <= float(known.max):
        raise ValueError(
            f"{argument} sums to {total:g}, by which {dtype} cannot divide: expected a sum "
            f"between {float(known.tiny):.3g} and {float(known.max):.3g}. Only the ratios of "
            "weights count: divide them by their mean."
        )


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
    layout: Layout | None = "columns",
) -> Data:
    """Examples, targets and weights, checked, prepared and on the device."""
    known = Y if several else None
    rows = examples(names[0], X, widths[0], device, dtype, prepared, layout, known)
    m, args = int(rows.shape[0]), (device, dtype, several, prepared, layout)
    return Data(
        rows,
        targets(names[1], Y, kind, widths[-1], m, *args),
        weights(names[2], sample_weight, m, device, dtype),
    )
