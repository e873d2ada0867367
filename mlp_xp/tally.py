"""What a score is made of, of examples that come in blocks: counted as they pass."""

from __future__ import annotations

from copy import copy, deepcopy
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from . import report
from .fingerprint import Fingerprint
from .model import Model
from .prepared import NUMBERS
from .readers import Rows
from .streams.ahead import ahead
from .streams.feed import Feed
from .streams.judge import Judge
from .streams.scan import Moments
from .streams.source import Raw
from .streams.streamed import Stream


def names_of(model: Model, n: int) -> tuple[Any, ...]:
    """Of the classes or targets, by number."""
    prepared = model.preparation
    if prepared is not None:
        for names in (prepared.classes, prepared.target):
            if names is not None and len(names) == n:
                return names
    return tuple(range(n))


def class_numbers(model: Model, y: Rows) -> tuple[npt.NDArray[np.int64], tuple[Any, ...]]:
    """Numbers of classes (m,) of labels, or of columns with a 1 in each row; and their names."""
    n = max(model.network.sizes[-1], 2)
    if y.ndim == 2 and y.shape[1] > 1:
        y = np.argmax(y, axis=1)
    elif model.preparation is not None and model.preparation.classes is not None:
        y = model.preparation.numbers("y", np.reshape(y, (-1,)))
    return np.reshape(y, (-1,)).astype(np.int64), names_of(model, n)


def numbers_of(model: Model, X: Any) -> Rows:
    """Rows as numbers before they are scaled, by which they are known again."""
    prepared = model.preparation
    found: Rows = X if prepared is None else prepared.rows("X", X)
    return found


def answers(model: Model, rows: Any) -> Rows:
    """Predictions as the file would say them: (m,), or (m, n_targets)."""
    return model.device.get(model.predict(rows, layout="rows"))


class Tally:
    """`scoring.measure` of a stream: what has to be known of the blocks that were."""

    def __init__(self, model: Model, feed: Feed) -> None:
        self.model, self.feed, self.m = model, feed, 0
        self.state = model._state()
        self.judge = Judge(model._recipe, model.device, self.state)
        n = max(model.network.sizes[-1], 2)
        self.pairs: npt.NDArray[np.int64] = np.zeros((n, n), np.int64)  # truth, then answer
        self.labels: npt.NDArray[np.int64] = np.zeros((3, model.network.sizes[-1]), np.int64)
        self.errors: Any = 0.0  # sums of their squares and of their sizes, (2, n_targets)
        self.targets = Moments()

    def add(self, start: int, raw: Raw) -> None:
        """Take in a block, whose first row has this number in the file."""
        model, y = self.model, raw.targets
        assert y is not None
        with model.device.active():
            data = self.feed.put(self.feed.made(start, raw))
            self.judge.add(model._scores_by(model._recipe, self.state, data.rows), data)
        self.m += data.m
        answer, kind = answers(model, self.feed.features(raw)), model.loss.kind
        if kind in NUMBERS:
            truth = y.reshape(len(y), -1)
            error = answer.reshape(truth.shape).astype(np.float64) - truth
            sums = np.sum(error * error, axis=0), np.sum(np.abs(error), axis=0)
            self.errors = self.errors + np.stack(sums)
            self.targets.add(truth)
        elif kind == "multilabel":
            called = answer.reshape(len(y), -1) > 0
            truth = y.reshape(called.shape) > 0.5
            counts = np.stack([part.sum(0) for part in (truth & called, called, truth)])
            self.labels = self.labels + counts
        else:
            n = len(self.pairs)
            (truth, _), (given, _) = (class_numbers(model, labels) for labels in (y, answer))
            counts = np.bincount(truth * n + given, minlength=n * n)
            self.pairs = self.pairs + counts.reshape(n, n)

    def so_far(self) -> Self:
        """Of the blocks that were, whatever this one takes in later."""
        found = copy(self)
        found.judge, found.targets = copy(self.judge), deepcopy(self.targets)
        return found

    def found(self) -> dict[str, Any]:
        """What `scoring.measure` says of all blocks together."""
        model, (loss, score) = self.model, map(float, self.judge.score())
        found: dict[str, Any] = {"examples": self.m, "loss": loss}
        if model.loss.kind in NUMBERS:
            (squares, sizes), told = self.errors, self.targets
            spread = np.where(told.low == told.high, 0, told.squares)
            n = self.m * len(squares)
            found |= {"r2": score, "rmse": float(np.sqrt(squares.sum() / n))}
            found |= {"mae": float(sizes.sum() / n)}
            if len(squares) > 1:
                names = names_of(model, len(squares))
                found["targets"] = report.targets(squares, sizes, spread, self.m, names)
            return found
        found["accuracy"] = score
        if model.loss.kind == "multilabel":
            names = names_of(model, self.labels.shape[1])
            return {**found, "classes": report.rows(list(self.labels), names)}
        pairs, names = self.pairs, names_of(model, len(self.pairs))
        wrong = (pairs - np.diag(np.diag(pairs))).reshape(-1)
        mixed = np.flatnonzero(wrong)
        found["classes"] = report.rows((np.diag(pairs), pairs.sum(0), pairs.sum(1)), names)
        return {**found, "confused": report.mixed(mixed, wrong[mixed], names)}


def measured(model: Model, stream: Stream) -> dict[str, Any]:
    """`scoring.measure` of a stream, by one pass."""
    tally = Tally(model, Feed(stream, model))
    for start, raw in ahead(stream.blocks()):
        tally.add(start, raw)
    return tally.found()


def judged(model: Model, stream: Stream, seen: Fingerprint | None) -> dict[str, Any]:
    """`scoring.judge` of a stream, by one pass."""
    if seen is None:
        found = measured(model, stream)
        return {**found, "trained_on": None, "looked_up": 0, "unseen": None}
    feed = Feed(stream, model)
    whole, unseen = Tally(model, feed), None
    met = known = 0
    for start, raw in ahead(stream.blocks()):
        meeting = seen.meet(numbers_of(model, feed.features(raw)))
        met, known = met + int(meeting.seen.sum()), known + meeting.known
        if unseen is None and not meeting.unseen.all():  # those before were
            unseen = whole.so_far()
        if unseen is not None and meeting.unseen.any():
            unseen.add(start, raw.at(meeting.unseen))
        whole.add(start, raw)
    found = whole.found()
    rest = found if unseen is None else unseen.found() if unseen.m else None
    n_seen = round(met / known * whole.m) if known else None
    return {**found, "trained_on": n_seen, "looked_up": known, "unseen": rest}


def fingerprint_of(model: Model, stream: Stream) -> Fingerprint:
    """The fingerprint of a stream's rows, by one pass."""
    feed, found = Feed(stream, model), Fingerprint(np.zeros(0, np.uint64))
    for _, raw in ahead(stream.blocks()):
        found |= Fingerprint.of(numbers_of(model, feed.features(raw)))
    return found
