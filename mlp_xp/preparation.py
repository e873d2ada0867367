"""Between a file's rows and a model's columns: scales, classes, the held-out share.

What training found (means, largest pixel, labels) is a `Preparation`; it travels in the
model's metadata, so that prediction scales new rows as training scaled its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .data import Dataset
from .draws import Purpose, permutation
from .losses import LOSSES
from .readers import DataError, Rows, listed

MOST_CLASSES = 50
NUMBERS = ("real", "count")


class Scale(NamedTuple):
    """values ↦ (values - offset) / divisor: one number, or one a column."""

    offset: Any
    divisor: Any

    def apply(self, values: Rows) -> Rows:
        """Scaled in float32, or in float64 where the values are wider than that."""
        dtype = np.result_type(values.dtype, np.float32)
        offset, divisor = np.asarray(self.offset, dtype), np.asarray(self.divisor, dtype)
        return np.asarray((values - offset) / divisor)

    def undo(self, values: Rows) -> Rows:
        """Back to the original units, in float64."""
        wide = values.astype(np.float64)
        return np.asarray(wide * np.asarray(self.divisor) + np.asarray(self.offset))


NO_SCALE = Scale(0.0, 1.0)


def _scale(offset: Rows, divisor: Rows) -> Scale:
    """A constant column is shifted, not divided."""
    return Scale(offset.tolist(), np.where(divisor > 0, divisor, 1.0).tolist())


def _standard(X: Rows) -> Scale:
    return _scale(X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64))


def _minmax(X: Rows) -> Scale:
    low, high = (extreme(axis=0).astype(np.float64) for extreme in (X.min, X.max))
    return _scale(low, high - low)


def _auto(X: Rows) -> Scale:
    """Bytes are images: all pixels keep one scale, 0 … 1. Others are standardised."""
    return Scale(0.0, float(max(X.max(), 1))) if X.dtype == np.uint8 else _standard(X)


SCALES: dict[str, Callable[[Rows], Scale]] = {
    "auto": _auto,
    "standard": _standard,
    "minmax": _minmax,
    "none": lambda X: NO_SCALE,
}


@dataclass(frozen=True)
class Preparation:
    """How rows become what the model takes, and its answers what the file would say.

    loss          name of the loss
    inputs        of the features
    outputs       of the targets; only numbers are scaled
    classes       the label of each class, in order; None where labels are not numbered
    features      names of the CSV columns, () where there are none
    target        likewise
    """

    loss: str
    inputs: Scale = NO_SCALE
    outputs: Scale = NO_SCALE
    classes: tuple[int, ...] | None = None
    features: tuple[str, ...] = ()
    target: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return LOSSES[self.loss].kind

    def X(self, rows: Rows) -> Rows:
        """Columns (n_features, m)."""
        return self.inputs.apply(rows).T

    def Y(self, y: Rows) -> Rows:
        """Class numbers (m,), or columns (n_targets, m)."""
        if self.classes is None:
            return self.outputs.apply(y).T
        classes = np.asarray(self.classes)
        number = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
        unknown = y[classes[number] != y]
        if unknown.size:
            raise DataError(
                f"a label is {unknown[0]:g}, but the model knows the classes "
                f"{listed(map(str, self.classes))}."
            )
        return number

    def answer(self, prediction: Rows) -> Rows:
        """What `MLP.predict` gives, as the file would say it: (m,), or (m, n_targets)."""
        if self.classes is not None:
            return np.asarray(self.classes)[prediction]
        rows = prediction.T
        if self.kind in NUMBERS:
            rows = self.outputs.undo(rows)
        return rows[:, 0] if rows.ndim == 2 and rows.shape[1] == 1 else rows

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        return {**asdict(self), "inputs": self.inputs._asdict(), "outputs": self.outputs._asdict()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Preparation:
        """The inverse of `to_json`."""
        values: dict[str, Any] = dict(stored)
        for name in ("inputs", "outputs"):
            values[name] = Scale(**values[name])
        for name in ("classes", "features", "target"):
            values[name] = None if values[name] is None else tuple(values[name])
        return cls(**values)


def default_loss(y: Rows) -> str:
    """By the targets: a few whole numbers are classes, columns of 0 and 1 labels, others numbers.

    Columns with a single 1 in each row are classes too.
    """
    if y.ndim == 2 and np.isin(y, (0, 1)).all():
        return "cross_entropy" if (y.sum(axis=1) == 1).all() else "multilabel"
    if y.ndim == 2:
        return "squared_error"
    whole = bool(np.all(y == np.floor(y)))
    few = whole and len(np.unique(y)) <= min(MOST_CLASSES, max(2, len(y) // 3))
    return "cross_entropy" if few else "squared_error"


def prepare(data: Dataset, rows: Rows, loss: str, scale: str, scale_target: bool) -> Preparation:
    """The preparation of a data set, its scales found on the training examples `rows`.

    rows  (m,) indices
    """
    assert data.y is not None
    found = Preparation(
        loss=loss,
        inputs=SCALES[scale](data.X[rows]),
        features=data.features,
        target=data.target,
    )
    y = data.y if data.y_test is None else np.concatenate([data.y, data.y_test])
    if found.kind in ("multiclass", "binary") and y.ndim == 1:
        return replace(found, classes=_classes(y, loss, found.kind))
    if found.kind == "real" and scale_target:
        return replace(found, outputs=_standard(data.y[rows]))
    return found


def _classes(y: Rows, loss: str, kind: str) -> tuple[int, ...]:
    labels = np.unique(y)
    if np.any(labels != np.floor(labels)):
        bad = labels[labels != np.floor(labels)][0]
        raise DataError(
            f"a label is {bad:g}, but loss {loss!r} takes whole numbers. To predict numbers "
            "use --loss squared_error."
        )
    if len(labels) == 1:
        raise DataError(
            f"every label is {labels[0]:g}, but a classifier learns from two classes or more. "
            "Is this the wrong column?"
        )
    if kind == "binary" and len(labels) != 2:
        raise DataError(
            f"there are {len(labels)} classes, but loss {loss!r} takes two. Use --loss "
            "cross_entropy."
        )
    return tuple(int(label) for label in labels)


def n_outputs(preparation: Preparation, y: Rows) -> int:
    """How many scores the network gives."""
    if preparation.kind == "multiclass" and preparation.classes is not None:
        return len(preparation.classes)
    return 1 if y.ndim == 1 else int(y.shape[1])


def split(
    m: int, held_out: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices to train on and indices held out: a random share, the same for a seed."""
    order = permutation(seed, Purpose.SPLIT, 0, m)
    n_held = round(held_out * m)
    if held_out > 0:
        n_held = min(max(n_held, 1), m - 1)
    return order[n_held:], order[:n_held]
