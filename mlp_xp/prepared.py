"""What a model does to what it is given before its first layer, and to its answers after.

It travels in the model's file. Whatever loads the file does the same, and so the file means
the same from Python, from an estimator and from the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .cells import as_pandas, named_numbers, without
from .devices import device as find_device
from .hardware import Device
from .losses import LOSSES
from .types import Array, Namespace

if TYPE_CHECKING:  # imported when a table comes: a first fit need not wait for it
    from .columns import Columns, Unused

NUMBERS = ("real", "count")
SHOWN = 20  # classes in a message


class Scale(NamedTuple):
    """values ↦ (values - offset) / divisor: one number, or one a row of (…, n, m)."""

    offset: Any
    divisor: Any

    def fits(self, dtype: str) -> bool:
        """Whether a dtype has its numbers, all finite, and divides by none that is as good as 0."""
        with np.errstate(all="ignore"):
            offset, divisor = (np.asarray(part, np.float64).astype(dtype) for part in self)
            parts = (offset, divisor, 1 / divisor)
        return all(bool(np.isfinite(part).all()) for part in parts)

    def on(self, device: Device, dtype: str) -> Callable[[Array], Array]:
        """The function of columns (…, n, m) of a dtype."""
        offset, divisor = (device.put(np.reshape(part, (-1, 1)).astype(dtype)) for part in self)
        return lambda values: (values - offset) / divisor

    def apply(self, values: Array, device: Device) -> Array:
        """Scaled in float32, or in float64 where the values are wider than that.

        What lies on the host is scaled there, before a cast to the model's dtype rounds it.
        """
        if self == NO_SCALE:
            return values
        where = find_device("cpu") if isinstance(values, np.ndarray) else device
        dtype = _dtype(where.xp, values.dtype)
        values = where.xp.astype(values, getattr(where.xp, dtype), copy=False)
        with np.errstate(all="ignore"):  # what is not finite is refused later
            return self.on(where, dtype)(values)

    def undo(self, values: Array, device: Device) -> Array:
        """Back to the original units, computed in float64, in the dtype of the values."""
        if self == NO_SCALE:
            return values
        xp = device.xp
        offset, divisor = (device.put(np.reshape(part, (-1, 1)).astype("float64")) for part in self)
        wide = xp.astype(values, xp.float64, copy=False)
        return xp.astype(wide * divisor + offset, values.dtype, copy=False)


NO_SCALE = Scale(0.0, 1.0)


def _dtype(xp: Namespace, dtype: Any) -> str:
    """What values of a dtype are scaled in."""
    if xp.isdtype(dtype, "real floating"):
        return "float64" if xp.finfo(dtype).bits > 32 else "float32"
    wide = xp.isdtype(dtype, "integral") and xp.iinfo(dtype).bits > 16
    return "float64" if wide else "float32"


def as_labels(values: Any) -> npt.NDArray[Any]:
    """Labels as an array that tells them apart: of 1 and 2⁶³ together NumPy makes floats."""
    found = np.asarray(values)
    if found.dtype.kind in "fO" and all(type(label) is int for label in values):
        try:
            return np.asarray(values, np.uint64)
        except OverflowError:
            raise ValueError(
                f"the labels run from {min(values)} to {max(values)}, but expected whole numbers "
                "that 64 bits hold, none below 0 beside some from 2⁶³ on. Write them as text."
            ) from None
    return found


@dataclass(frozen=True)
class Preparation:
    """How a table's numbers become what the network takes, and its answers the table's.

    loss          name of the loss
    inputs        of the features
    outputs       of the targets; only numbers are scaled
    classes       the label of each class, rising; None where labels are not numbered
    features      names of the columns, () where there are none
    target        likewise
    table         what becomes of a table's columns before they are scaled; None where they are
                  numbers already
    left_out      columns of a table that are not used, and why; where there is no `table`, which
                  knows
    missing       words that stand for a gap in a table, beside those that its reader knows
    """

    loss: str
    inputs: Scale = NO_SCALE
    outputs: Scale = NO_SCALE
    classes: tuple[Any, ...] | None = None
    features: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    table: Columns | None = None
    left_out: tuple[Unused, ...] = ()
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Arrays become lists, which can be compared and written."""
        for name in ("inputs", "outputs"):
            parts = (np.asarray(part).tolist() for part in getattr(self, name))
            object.__setattr__(self, name, Scale(*parts))
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(as_labels(self.classes).tolist()))

    @property
    def kind(self) -> str:
        return LOSSES[self.loss].kind

    @property
    def unused(self) -> tuple[Unused, ...]:
        """The columns that are not used, and why."""
        return self.left_out if self.table is None else self.table.unused

    def rows(self, argument: str, X: Any, Y: Any = None) -> Any:
        """A data frame as an array, its columns by the names of training; arrays as they are.

        Y  targets, where the rows are to be trained on: see `Columns.rows`
        """
        columns = _columns(X)
        named = names_of(X) or (columns and set(self.features) <= set(map(str, columns)))  # 0: "0"
        if self.missing and (self.table is not None or named):
            X = without(as_pandas(argument, X), self.missing)
        if self.table is not None:
            return self.table.rows(argument, X, None if Y is None else self.columns_of(Y))
        return named_numbers(argument, X, self.features) if self.features and named else X

    def finding(self, names: tuple[str, ...], loss: str | None) -> Preparation:
        """The same of a model that was trained on columns of these names, to find them again.

        loss  its name; None of one's own
        """
        if self.features or self.table is not None or len(set(names)) < len(names) or not names:
            return self
        return replace(self, loss=self.loss or loss or "", features=names)

    def columns_of(self, Y: Any) -> npt.NDArray[np.float64]:
        """Targets (m,) or (m, n) as numbers (m, n_outputs): of two classes one, of more each."""
        values = np.asarray(Y.to_numpy() if hasattr(Y, "to_numpy") else Y)
        if self.classes is not None and (values.ndim == 1 or values.shape[1] == 1):
            number = self.numbers("Y", values.reshape(-1))
            n = len(self.classes)
            return np.eye(n)[number] if n > 2 else number[:, None].astype(np.float64)
        return values.reshape(len(values), -1).astype(np.float64)

    def numbers(self, argument: str, labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The number of each label's class, in the shape of the labels."""
        classes = as_labels(self.classes)
        text = classes.dtype.kind == "U"
        if text:
            labels = labels.astype(str)
        known = np.zeros(labels.shape, bool)
        if text or labels.dtype.kind in "biuf":
            whole = labels.dtype.kind in "iu" and classes.dtype.kind in "iu"
            sought = labels.astype(classes.dtype) if whole else labels  # of two kinds: as floats
            number = np.minimum(np.searchsorted(classes, sought), len(classes) - 1)
            known = classes[number] == labels
        if not known.all():
            assert self.classes is not None
            shown = ", ".join(map(repr, self.classes[:SHOWN]))
            more = f" … ({len(classes)} in all)" if len(classes) > SHOWN else ""
            raise ValueError(
                f"{argument} holds the label {labels[~known][0].item()!r}, but the model knows "
                f"the classes {shown}{more}."
            )
        return number

    def named(self, numbers: Array, device: Device) -> Array:
        """The labels of class numbers, on the device; text on the host."""
        if self.classes is None:
            return numbers
        classes, xp = as_labels(self.classes), device.xp
        if classes.dtype.kind == "U":
            return classes[device.get(numbers)]
        found = xp.take(device.put(classes), xp.reshape(numbers, (-1,)))
        return xp.reshape(found, numbers.shape)

    def check(self, sizes: Sequence[int], dtype: str, kind: str) -> None:
        """Raise ValueError if it is not for a network of these sizes and a loss of this kind.

        dtype  of the model: what it does not hold, no file of the model would
        """
        if self.table is not None and len(self.table.outputs) != sizes[0]:
            raise ValueError(
                f"its preparation makes {len(self.table.outputs)} numbers of a table's row, but "
                f"the network takes {sizes[0]}."
            )
        parts = {"features": (self.inputs, sizes[0]), "outputs": (self.outputs, sizes[-1])}
        for what, (scale, n) in parts.items():
            found = {np.size(part) for part in scale}
            if not found <= {1, n}:
                raise ValueError(
                    f"its preparation scales {max(found)} {what}, but the network has {n}."
                )
            if not scale.fits(dtype):
                raise ValueError(
                    f"its preparation scales {what} by 0 or what is not finite in {dtype}. Is "
                    "their unit far too small or too large?"
                )
        if self.outputs != NO_SCALE and kind != "real":
            raise ValueError(f"its preparation scales targets, but its loss is for {kind} ones.")
        n_classes = {"multiclass": sizes[-1], "binary": 2}.get(kind, 0)
        if self.classes is not None and len(self.classes) != n_classes:
            raise ValueError(
                f"its preparation names {len(self.classes)} classes, but the network tells "
                f"{n_classes} apart."
            )
        classes = as_labels(self.classes or ())
        if not np.all(classes[:-1] <= classes[1:]):
            raise ValueError("its preparation names classes in another order than a rising one.")

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        kept |= {name: kept[name]._asdict() for name in ("inputs", "outputs")}
        table, left_out, missing = (kept.pop(name) for name in ("table", "left_out", "missing"))
        if left_out:
            kept["left_out"] = [asdict(column) for column in left_out]
        if missing:
            kept["missing"] = missing
        return kept if table is None else kept | {"table": table.to_json()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Preparation:
        """The inverse of `to_json`; ValueError for what is none of ours."""
        try:
            values: dict[str, Any] = dict(stored)
            for name in ("inputs", "outputs"):
                values[name] = Scale(**values[name])
            for name in ("classes", "features", "target"):
                values[name] = None if values[name] is None else tuple(values[name])
            values["missing"] = _texts(values.get("missing", ()))
            if values.get("table") is not None:
                from .columns import Columns

                values["table"] = Columns.from_json(values["table"])
            if "left_out" in values:
                from .columns import Unused

                values["left_out"] = tuple(Unused(**column) for column in values["left_out"])
            return cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"its preparation is none that this mlp_xp knows: {error}.") from None


def _texts(values: Any) -> tuple[str, ...]:
    found = tuple(values)
    if isinstance(values, str) or not all(isinstance(value, str) for value in found):
        raise ValueError(f"{values!r} where words are expected")
    return found


def names_of(X: Any) -> tuple[str, ...]:
    """The names of a data frame's columns; () where there are none, or some are no text."""
    names = _columns(X)
    return names if all(isinstance(name, str) for name in names) else ()


def _columns(X: Any) -> tuple[Any, ...]:
    """What a data frame's columns are called, text or not."""
    found: Any = getattr(X, "column_names", None)
    return tuple(getattr(X, "columns", ()) if found is None else found)


AS_GIVEN = Preparation(loss="")  # of a model that takes what it is given


__all__ = ["AS_GIVEN", "NO_SCALE", "NUMBERS", "Preparation", "Scale", "as_labels", "names_of"]
