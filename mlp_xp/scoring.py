"""What the score of a model on examples is made of, and how far it flatters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import report
from .fingerprint import Fingerprint
from .model import Model
from .preparation import take
from .prepared import NUMBERS
from .readers import Rows
from .streams.streamed import Stream
from .tally import answers, class_numbers, judged, measured, names_of, numbers_of


def measure(model: Model, X: Any, y: Rows | None) -> dict[str, Any]:
    """Loss and score on examples, or on a stream, and what they are made of.

    classes   `report.by_class`, or by label; for classes only
    confused  `report.confused`, where an example is of one class
    rmse, mae root of the mean squared error and mean absolute error, in the targets' units
    targets   `report.by_target`, where there are several
    """
    if y is None:
        return measured(model, X)
    loss, score = model.evaluate(X, y, layout="rows")
    found, answer = {"examples": len(X), "loss": loss}, answers(model, X)
    if model.loss.kind not in NUMBERS:
        return {**found, "accuracy": score, **_by_class(model, y, answer)}
    error = answer.astype(np.float64) - y
    found |= {
        "r2": score,
        "rmse": float(np.sqrt(np.mean(error * error))),
        "mae": float(np.mean(np.abs(error))),
    }
    if answer.ndim == 2 and answer.shape[1] > 1:
        found["targets"] = report.by_target(y, answer, names_of(model, answer.shape[1]))
    return found


def _by_class(model: Model, y: Rows, answer: Rows) -> dict[str, Any]:
    if model.loss.kind == "multilabel":
        called = np.reshape(answer, (len(y), -1)) > 0
        truth = np.reshape(y, called.shape) > 0.5
        return {"classes": report.by_label(truth, called, names_of(model, called.shape[1]))}
    right, names = class_numbers(model, y)
    given, _ = class_numbers(model, answer)
    return {
        "classes": report.by_class(right, given, names),
        "confused": report.confused(right, given, names),
    }


def balance(model: Model, X: Any, y: Rows | None) -> str:
    """What is to be said of classes of uneven sizes, or targets that are all one number, or ""."""
    kind = model.loss.kind
    if kind in NUMBERS:
        low, high = _ends(X, y)
        return report.constant(low, high, names_of(model, len(low)))
    if y is None:
        return _balance_of(model, X)
    if kind == "multilabel":
        counts = np.count_nonzero(np.reshape(y, (len(y), -1)) > 0.5, axis=0)
        return report.balance(counts, names_of(model, len(counts)), len(y), exclusive=False)
    numbers, names = class_numbers(model, y)
    return report.balance(np.bincount(numbers, minlength=len(names)), names, len(y))


def _ends(X: Any, y: Rows | None) -> tuple[Rows, Rows]:
    """The least and the largest number of each target; those of a stream are its own."""
    if y is None:
        return X.found.targets.low, X.found.targets.high
    columns = np.reshape(y, (len(y), -1))
    return columns.min(axis=0), columns.max(axis=0)


def _balance_of(model: Model, stream: Stream) -> str:
    """`balance`, of what one pass over a stream found."""
    found = stream.found
    if found.counts is not None and found.labels is not None:
        names = names_of(model, max(model.network.sizes[-1], 2))
        known = dict(zip(found.labels, found.counts, strict=True))
        counts, exclusive = [known.get(name, 0) for name in names], True
    elif found.targets is not None:  # columns of 0 and 1
        counts = np.rint(found.targets.mean * stream.m).astype(int).tolist()
        names, exclusive = names_of(model, len(counts)), model.loss.kind == "multiclass"
    return report.balance(counts, names, stream.m, exclusive)


def fingerprint(model: Model) -> Fingerprint | None:
    """Of all rows the model has seen; None where nobody wrote it, or training went on since."""
    stored = model.metadata.get("fingerprint")
    if not isinstance(stored, Mapping) or stored.get("steps") != model.steps_trained:
        return None
    rows = stored.get("rows")
    return Fingerprint.from_text(rows) if isinstance(rows, str) else None


def judge(model: Model, X: Any, y: Rows | None) -> dict[str, Any]:
    """`measure`, and whether the rows were used in training: learnt from, or chosen by.

    trained_on  how many were; None where the model's file does not say
    looked_up   of how many rows that is known: all, or a random sample
    unseen      `measure` of those among them that were not; None where there are none
    """
    seen = fingerprint(model)
    if y is None:
        return judged(model, X, seen)
    found = measure(model, X, y)
    if seen is None:
        return {**found, "trained_on": None, "looked_up": 0, "unseen": None}
    met = seen.meet(numbers_of(model, X))
    unseen = found if met.unseen.all() else None
    if unseen is None and met.unseen.any():
        unseen = measure(model, take(X, met.unseen), y[met.unseen])
    return {**found, "trained_on": met.n_seen, "looked_up": met.known, "unseen": unseen}
