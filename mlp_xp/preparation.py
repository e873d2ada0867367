"""What training finds before it begins: the loss, scales, classes, the held-out share.

What is found (means, largest pixel, labels) is a `Preparation`, which the model applies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .data import Dataset
from .draws import Purpose, permutation
from .prepared import NO_SCALE, Preparation, Scale
from .readers import DataError, Rows

MOST_CLASSES = 50


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
