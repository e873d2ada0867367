"""The windows of a stream as a training takes them: checked, prepared, in buffers by turns."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .. import checks
from ..devices import device as find_device
from ..hardware import Device
from ..passes import InMemory, Part, Parts, Wanted
from ..prepared import as_labels
from ..readers import DataError, Rows
from ..training import Data, Recipe, Score, Scores
from ..types import State
from .ahead import ahead
from .judge import Judge
from .scan import check_weights
from .source import Raw, not_finite
from .streamed import Check, Stream

if TYPE_CHECKING:
    from ..model import Model
    from ..prepared import Preparation

HOST = find_device("cpu")
USUAL = 128  # examples of a batch


class Feed:
    """The examples of a stream for a model: `passes.Examples`.

    prepared  what is done to them; None: what the model does
    """

    def __init__(self, stream: Stream, model: Model, prepared: Preparation | None = None) -> None:
        self.stream, self.m = stream, stream.m
        self.device, self.dtype = model.device, model.dtype
        self.prepared = prepared or model._prepared
        self.sizes, self.kind = model.network.sizes, model.loss.kind
        self.there: Data | None = None  # memory of a window on the device
        self.network = model.network
        self.pick = picked(stream, model, self.prepared)
        if stream.n_targets is None:
            raise DataError(
                f"{stream.name} has no targets: name them when the stream is opened, "
                "stream(…, target=…)."
            )

    # -- from a file's rows to the network's -------------------------------------

    def features(self, raw: Raw) -> Rows:
        """Those of the model, as they are in the file."""
        return raw.rows if self.pick is None else raw.rows[:, self.pick]

    def made(self, start: int, raw: Raw, real: bool = True) -> Data:
        """Rows as the network takes them, on the host.

        real  whether they are examples: the least and the largest of each feature are none
        """
        source, args = self.stream.source, (HOST, self.dtype)
        try:
            rows = checks.examples(
                source.name, self.features(raw), self.sizes[0], *args, self.prepared, layout="rows"
            )
            if real:
                self.network.check_rows(source.name, HOST, rows)
        except ValueError as error:
            raise not_finite(source, raw.rows, start) or _with_place(error, start) from None
        names = f"the target of {source.name}"
        y: Any = raw.targets
        m, n_out = len(y), self.sizes[-1]
        labels = self.kind == "multiclass" and y.ndim == 1
        if labels and self.prepared.classes is None and _whole_floats(y):
            y = y.astype(np.int64)
        try:
            targets = checks.targets(
                names, y, self.kind, n_out, m, *args, False, self.prepared, "rows"
            )
        except ValueError as error:
            raise _with_place(error, start) from None
        weights = None
        if raw.weights is not None:
            check_weights(source, raw.weights, start)
            weights = raw.weights.astype(self.dtype)
        return Data(rows, targets, weights)

    def check(self) -> None:
        """Raise before any work is done for what one pass shows to be wrong."""
        stream, found = self.stream, self.stream.found
        ends = np.stack([found.features.low, found.features.high])
        targets = found.targets
        if found.labels is not None and len(found.labels):
            y = as_labels(found.labels)
        elif targets is not None and self.kind != "multiclass":
            y = np.stack([targets.low, targets.high])
            y = y[:, 0] if stream.n_targets == () else y
        else:
            y = None
        raw = Raw(ends, _zeros_like(y, self.sizes[-1], self.kind), None)
        self.made(int(stream.starts[0]), raw, real=False)
        if y is not None:
            if self.prepared.classes is None and self.kind == "multiclass" and _whole_floats(y):
                y = y.astype(np.int64)
            several = self.kind in ("multiclass", "binary")
            args = (self.kind, self.sizes[-1], len(y), HOST, self.dtype, several, self.prepared)
            checks.targets(f"the target of {stream.name}", y, *args, "rows")
        if found.weight is not None:
            checks.check_total(f"the weights of {stream.name}", found.weight, self.dtype)

    # -- windows -----------------------------------------------------------------

    def batch_size(self, given: int | None) -> int:
        """What a `fit` of that argument takes: see `model`."""
        return min(USUAL, self.m) if given is None else given

    @property
    def row(self) -> int:
        """Bytes of an example, its target and its weight as the network takes them."""
        wide = np.dtype(self.dtype).itemsize
        target = wide * self.sizes[-1] if self._targets_shape else 8
        return wide * self.sizes[0] + target + (wide if self.stream.source.weighted else 0)

    @property
    def _targets_shape(self) -> tuple[int, ...]:
        labels = self.kind == "multiclass" and self.stream.n_targets in ((), (1,))
        return () if labels else (self.sizes[-1],)

    def window(self, batch_size: int, networks: int) -> int:
        """How many rows are shuffled together."""
        return self.stream.window(self.row, networks, batch_size)

    def _buffer(self, size: int) -> Data:
        wide = np.dtype(self.dtype)
        kind = wide if self._targets_shape else np.dtype(np.int64)
        return Data(
            np.empty((size, self.sizes[0]), wide),
            np.empty((size, *self._targets_shape), kind),
            np.empty(size, wide) if self.stream.source.weighted else None,
        )

    def _filled(
        self,
        size: int,
        orders: Sequence[npt.NDArray[np.int64] | None],
        buffers: Sequence[Data],
        stop: threading.Event,
        past: int,
    ) -> Iterator[Data]:
        """Windows of `size` rows and what is left of a pass, in the buffers by turns.

        past  rows of the first pass, of whole windows or all, that are left out
        """
        turn = 0
        for order in orders:
            filled = 0
            for start, raw in self.stream.blocks(order, past):
                data, first = self.made(start, raw), 0
                while first < data.m:
                    n = min(size - filled, data.m - first)
                    for target, source in zip(buffers[turn], data, strict=True):
                        if target is not None:
                            target[filled : filled + n] = source[first : first + n]
                    filled, first = filled + n, first + n
                    if filled == size:
                        yield buffers[turn]
                        turn, filled = (turn + 1) % len(buffers), 0
                if stop.is_set():
                    return
            if filled:
                yield Data(*(None if part is None else part[:filled] for part in buffers[turn]))
                turn = (turn + 1) % len(buffers)
            past = 0

    def put(self, data: Data) -> Data:
        """Host arrays on the device of the model."""
        if self.device.xp is HOST.xp:
            return data
        return Data(*(None if part is None else self.device.put(part) for part in data))

    def _settled(self, host: Data) -> Data:
        """A window on the device, where the one before lay: what was captured on that still holds.

        What is copied comes after the last steps on the one before.
        """
        if self.device.xp is HOST.xp or self.device.stepper is None:
            return self.put(host)
        if self.there is None or host.m > self.there.m:
            self.there = self.put(host)
            return self.there
        found = []
        for place, part in zip(self.there, host, strict=True):
            if part is not None:
                place = place[: len(part), ...]
                place[...] = self.device.put(part)
            found.append(place)
        return Data(*found)

    @contextmanager
    def passes(
        self, plan: Wanted, epochs: Sequence[int], check: Check, begun: int = 0
    ) -> Iterator[Parts]:
        stream, stop = self.stream, threading.Event()
        size = self.window(plan.batch_size, len(plan.seeds))
        whole = size >= self.m
        taken = min(begun * plan.batch_size, self.m)
        past = 0 if whole else taken if taken == self.m else taken // size * size
        orders: list[Any] = [None]
        if not whole:
            orders = [stream.unit_order(epoch) if plan.shuffle else None for epoch in epochs]
        buffers = [self._buffer(size) for _ in range(1 if whole else 2)]
        coming = ahead(self._filled(size, orders, buffers, stop, past), check, stop)

        def parts(epoch: int) -> Iterator[Part]:
            before = taken if epoch == epochs[0] else 0
            for start, order in stream.orders(plan.seeds, plan.leading, epoch, size, before):
                host = next(coming)
                rows = order if plan.shuffle else np.arange(host.m)
                yield Part(self._settled(host), rows[..., max(before - start, 0) :], host.weights)

        try:
            if whole and epochs:
                data = self.put(next(coming))
                with InMemory(data, self.device).passes(plan, epochs, check, begun) as found:
                    yield found
            else:
                yield parts
        finally:
            coming.close()  # type: ignore[attr-defined]

    # -- measuring, and telling one from another -----------------------------------

    def evaluate(self, recipe: Recipe, device: Device, state: State, scores: Scores) -> Score:
        judge = Judge(recipe, device, state)
        for start, raw in ahead(self.stream.blocks()):
            data = self.put(self.made(start, raw))
            judge.add(scores(recipe, state, data.rows), data)
        return judge.score()

    def described(self) -> str:
        """What is streamed and in which order, in words, and the hash of all that is in it."""
        stream, found = self.stream, hashlib.sha256()
        for start, raw in ahead(stream.blocks()):
            for part in self.made(start, raw):
                if part is not None:
                    found.update(np.ascontiguousarray(part).data)
        found.update(np.asarray(stream.sizes, "<i8").tobytes())
        return (
            f"{self.m:,} streamed within {stream.memory:,} bytes, seed {stream.seed}, with "
            f"SHA-256 {found.hexdigest()}"
        )


def picked(stream: Stream, model: Model, prepared: Preparation | None = None) -> list[int] | None:
    """Which of a stream's features a model takes, in its order; None: as they are."""
    prepared, width = prepared or model._prepared, model.network.sizes[0]
    if prepared.table is not None:
        raise TypeError(
            "This model was trained on a table with words, gaps or dates, and a stream has numbers "
            "alone: give it the table in parts, as data frames."
        )
    if prepared.features and stream.features and prepared.features != stream.features:
        absent = [name for name in prepared.features if name not in stream.features]
        if absent:
            raise DataError(
                f"{stream.name} has no column {absent[0]!r}, which the model was trained on."
            )
        return [stream.features.index(name) for name in prepared.features]
    if stream.width != width:
        raise DataError(
            f"{stream.name} has {stream.width} features, but the first layer takes {width}."
        )
    return None


def _whole_floats(y: Any) -> bool:
    """Whether labels are written as floats, as files of numbers have them."""
    return bool(y.dtype.kind == "f" and np.all(y == np.floor(y)))


def _zeros_like(y: Rows | None, n_out: int, kind: str) -> Rows:
    """Targets for two rows, which are not what is looked at."""
    if y is not None:
        return np.resize(y, (2, *y.shape[1:]))
    found = np.zeros((2, n_out))
    if kind == "multiclass":
        found[:, 0] = 1
    return found


def _with_place(error: ValueError, start: int) -> DataError:
    return DataError(f"{error} (in the rows from {start:,} on)")


def check_alone(Y: Any, sample_weight: Any) -> None:
    """Raise TypeError for arguments that a stream has in itself."""
    for name, value in (("Y", Y), ("sample_weight", sample_weight)):
        if value is not None:
            raise TypeError(
                f"{name} was given beside a stream, which has its own: leave it out, and name "
                "target and weight when the stream is opened."
            )


__all__ = ["Feed", "check_alone", "picked"]
