"""One pass over a stream: finiteness, means and deviations, classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..readers import DataError, Rows
from .source import Raw, Source, at, not_finite

MOST_LABELS = 1000  # different targets that are remembered


class Moments:
    """Number, mean and sum of squared deviations of columns, merged block by block.

    Chan, Golub & LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances", (2.1): exact but for rounding, and stable whatever the means are. float64.
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean: npt.NDArray[np.float64] = np.zeros(0)
        self.squares: npt.NDArray[np.float64] = np.zeros(0)
        self.low: npt.NDArray[np.float64] = np.zeros(0)
        self.high: npt.NDArray[np.float64] = np.zeros(0)

    def add(self, values: Rows) -> None:
        """Take in rows (n, k). What overflows is not finite, for who scales by it to refuse."""
        with np.errstate(all="ignore"):
            self._add(values)

    def _add(self, values: Rows) -> None:
        wide = values.astype(np.float64)
        n, mean = len(wide), wide.mean(axis=0)
        low, high = wide.min(axis=0), wide.max(axis=0)
        wide -= mean
        squares = np.einsum("ij,ij->j", wide, wide)
        if self.n == 0:
            self.n, self.mean, self.squares, self.low, self.high = n, mean, squares, low, high
            return
        total, apart = self.n + n, mean - self.mean
        self.squares += squares + apart * apart * (self.n * n / total)
        self.mean += apart * (n / total)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.n = total

    @property
    def deviation(self) -> npt.NDArray[np.float64]:
        """√(Σ (x - mean)² / n), as `np.std`."""
        return np.sqrt(self.squares / max(self.n, 1))


class Found(NamedTuple):
    """What a pass finds.

    features  their moments
    targets   theirs; None where there are none, or text
    labels    the different targets, rising, where there is one a row and they are few
    counts    how many rows have each of them
    text      whether targets are text
    whole     whether all targets are whole numbers
    one_hot   whether each row of several targets holds a single 1 beside zeros
    flags     whether all targets are 0 or 1
    weight    sum of the weights, or None
    """

    features: Moments
    targets: Moments | None
    labels: tuple[Any, ...] | None
    counts: tuple[int, ...] | None
    text: bool
    whole: bool
    one_hot: bool
    flags: bool
    weight: float | None


def scan(source: Source, blocks: Iterable[tuple[int, Raw]]) -> Found:
    """All rows of a stream, given with the number of the first of each block."""
    features, targets = Moments(), Moments()
    labels: Counter[Any] | None = Counter()
    text = False
    whole = one_hot = flags = True
    total = 0.0 if source.weighted else None
    for start, raw in blocks:
        error = not_finite(source, raw.rows, start)
        if error is not None:
            raise error
        features.add(raw.rows)
        if raw.targets is not None:
            y = raw.targets
            text = y.dtype.kind not in "biuf"
            if not text:
                _finite(source, y, start)
                targets.add(y.reshape(len(y), -1))
                whole = whole and (y.dtype.kind != "f" or bool((y == np.floor(y)).all()))
                flags = flags and bool(((y == 0) | (y == 1)).all())
                one_hot = one_hot and flags and y.ndim == 2 and bool((y.sum(axis=1) == 1).all())
            if labels is not None and y.ndim == 1:
                values, counts = np.unique(y, return_counts=True)
                labels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
            if labels is not None and (len(labels) > MOST_LABELS or y.ndim > 1):
                labels = None
        if total is not None:
            assert raw.weights is not None
            total += check_weights(source, raw.weights, start)
    known = targets if targets.n else None
    rising = None if labels is None else tuple(sorted(labels))
    sizes = None if labels is None else tuple(labels[label] for label in rising or ())
    return Found(features, known, rising, sizes, text, whole, one_hot, flags, total)


def _finite(source: Source, y: Rows, start: int) -> None:
    bad = ~np.isfinite(y)
    if bad.any():
        place = np.argwhere(bad)[0]
        names, j = source.target, int(place[1]) if y.ndim > 1 else 0
        column = repr(names[j]) if len(names) == (y.shape[1] if y.ndim > 1 else 1) else None
        raise DataError(
            f"{at(source.name, start + int(place[0]), column)}: a target is {y[tuple(place)]}, but "
            "expected finite numbers. Leave such rows out before."
        )


def check_weights(source: Source, weights: Rows, start: int) -> float:
    """The sum of some weights; `DataError` where one is not finite, or negative."""
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        i = int(np.argmax(bad))
        raise DataError(
            f"{at(source.name, start + i)}: the weight is {weights[i]}, but expected finite "
            "numbers ≥ 0."
        )
    return float(np.sum(weights, dtype=np.float64))


__all__ = ["Found", "Moments", "check_weights", "scan"]
