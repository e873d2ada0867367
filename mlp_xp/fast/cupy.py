"""The training step on CuPy: as few launches as the mathematics allows.

A step is a `program`: launches on buffers made once for a batch size. It is faster than the
specification's because a small network is bound by launches: for L layers, Adam and
cross-entropy there are 2L - 1 or 2L, of large products 3L - 1 and 2L + 3 kernels.
Nothing is allocated, copied from the host or waited for after the first step.

The arrays of the state a step is given become those of the state it returns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, cast

import cupy
import numpy as np
import numpy.typing as npt

from ..hardware import Device
from ..training import Data, Recipe
from ..types import Array, State
from . import cuda_source as cuda
from .cublas import Cublas
from .launches import Bits, Launch
from .program import Program
from .upload import Feed, HostRows


class _Epoch(NamedTuple):
    """What the inbox points to, kept alive, and which rates stand in the table."""

    index: Array
    rates: list[Any]
    table: Array
    losses: Array


class Launches(Protocol):
    """A step of m examples as launches on fixed buffers.

    drawn       dropout bits of a network, in `bits`
    replayable  whether a graph can hold it
    reads       what the launches read and write that others may replace
    graphs      a place for `fast.graph`
    """

    m: int
    shared: bool
    drawn: int
    bits: Array
    replayable: bool
    reads: tuple[int, ...]
    graphs: dict[int, Any]

    def __init__(self, step: CupyStep, m: int, shared: bool) -> None: ...

    @staticmethod
    def prepare(step: CupyStep) -> None:
        """Make what all such programs of a step share."""

    def run(self) -> None:
        """The launches of one step, in order."""


class CupyStep:
    """A `training.Step`: one program for every batch size that comes.

    kind                     the class of its programs
    theta, moments, running  the state's arrays, updated in place
    g                        (…, n_parameters), with `gradients` its views by layer, where such
                             a program wants them; not written where the update is in the same
                             kernel
    inbox, now               what changes from step to step, on the device
    data                     may be replaced by other data of the same kind; where they lie as
                             those before did, programs and their graphs stay

    A loss lies in an array of the epoch's losses, and stays. A call takes one step; `several`
    takes the next steps of an epoch that was announced.
    """

    g: Array
    layers: Any
    gradients: Any
    most = 16  # steps that `several` is worth asking for at once

    def __init__(
        self, recipe: Recipe, device: Device, data: Data, kind: type[Launches] = Program
    ) -> None:
        self.recipe, self.device, self.xp, self.kind = recipe, device, device.xp, kind
        self.programs: dict[tuple[int, bool], Launches] = {}
        self.theta: Array = None
        self.index: Array = None  # of the batch at hand
        self.feed: Feed | None = None  # of rows that are on the host
        self.feeding = False
        self.given = False  # whether dropout bits came as an argument
        self._data = Data(None, None)
        self.data = data

    @property
    def data(self) -> Data:
        return self._data

    @data.setter
    def data(self, data: Data) -> None:
        kind = np.int64 if data.targets.ndim == 1 else data.rows.dtype
        before = _places(self._data)
        self._data = Data(
            data.rows if hasattr(data.rows, "toarray") else cupy.ascontiguousarray(data.rows),
            cupy.ascontiguousarray(data.targets, kind),
            None if data.weights is None else cupy.ascontiguousarray(data.weights),
        )
        if not isinstance(data.rows, cupy.ndarray) or _places(self._data) != before:
            self.programs.clear()

    def _begin(self, state: State) -> None:
        """Make the buffers that do not depend on the batch."""
        self.cublas = Cublas()
        dtype, self.leading = state.theta.dtype, state.theta.shape[:-1]
        self.networks = math.prod(self.leading)
        n = cuda.n_scalars(self.recipe.optimizer)
        self.inbox = cupy.zeros(len(cuda.INBOX), np.int64)
        self.now = cupy.zeros((self.networks, n + 1), dtype)
        self.table = cupy.zeros((1, self.networks, n), dtype)
        self.seeds, self.seeded = cupy.zeros(self.networks, np.uint64), (0,) * self.networks
        self.running, self.theta = state.running.copy(), state.theta.copy()
        self.moments = tuple(moment.copy() for moment in state.moments)
        self.kind.prepare(self)
        self.epoch: _Epoch | None = None
        self.start = self.row = self.number = 0

    def _adopt(self, state: State) -> None:
        """Take over a state that is not the one returned last."""
        if self.theta is None:
            self._begin(state)
            return
        mine = (self.theta, self.running, *self.moments)
        for target, source in zip(mine, (state.theta, state.running, *state.moments), strict=True):
            target[...] = source

    def buffers(self) -> tuple[int, ...]:
        """Addresses that a program's launches hold and others may change."""
        arrays = (self.theta, self.running, *self.moments, self.inbox, self.now, self.seeds)
        return _places((*arrays, *self._data))

    # -- the inbox

    def announce(
        self,
        state: State,
        index: Array,
        rates: Sequence[Any],
        order: Any = None,
        batch_size: int = 0,
    ) -> None:
        """Get ready for an epoch: its order, and a rate for each of its steps.

        order, batch_size  the order on the host, and the largest batch: for rows that are there

        One copy of the scalars to the device; the steps that follow read them there.
        """
        if self.theta is None:
            self._begin(state)
        table = self._scalars(rates, state.step)
        self._point(
            _Epoch(index, list(rates), cupy.asarray(table), self._losses(len(rates))), state
        )
        whole = type(self.recipe) is Recipe  # what shares a batch fetches its part as it comes
        if order is not None and isinstance(self.data.rows, HostRows) and whole:
            if self.feed is None or not self.feed.takes(self.data.rows, order, batch_size):
                self.feed = Feed(self.data.rows, order.shape[:-1], batch_size)
            self.feed.begin(order)
            self.feeding = True

    def _scalars(self, rates: Sequence[Any], step: int) -> npt.NDArray[Any]:
        """A row for each step, (n_steps, n_networks, n): the optimiser's scalars."""
        optimizer, rows = self.recipe.optimizer, []
        decay = optimizer.weight_decay
        for number, rate in enumerate(rates, step + 1):
            scalars = optimizer.scalars(rate, number)
            rows.append((*scalars, rate * decay) if decay != 0 else scalars)
        if any(isinstance(scalar, np.ndarray) for row in rows for scalar in row):
            rows = [np.broadcast_arrays(*row, np.empty(self.networks))[:-1] for row in rows]
            return np.ascontiguousarray(np.stack(rows).swapaxes(-1, -2), self.theta.dtype)
        table = np.array(rows, self.theta.dtype)[:, None]
        return np.ascontiguousarray(np.repeat(table, self.networks, axis=1))

    def _losses(self, n: int) -> Array:
        return cupy.empty((n, *self.leading), self.theta.dtype)

    def _point(self, epoch: _Epoch, state: State) -> None:
        pitch = epoch.index.strides[0] // 8 if epoch.index.ndim == 2 else 0
        pointers = (epoch.index.data.ptr, pitch, epoch.table.data.ptr, epoch.losses.data.ptr)
        arguments = (self.inbox, *pointers, 0, 0, state.step)
        Launch(cuda.announce(str(self.theta.dtype)), (1,), (1,), *arguments)()
        self.epoch, self.start, self.row, self.number = epoch, 0, 0, state.step
        self.feeding = False

    def _announced(self, index: Array, step: int, rate: Any) -> bool:
        """Whether this step is the one the inbox stands at."""
        epoch = self.epoch
        return (
            epoch is not None
            and self.row < len(epoch.rates)
            and step == self.number
            and index.data.ptr == epoch.index.data.ptr + 8 * self.start
            and index.strides == epoch.index.strides
            and not isinstance(rate, cupy.ndarray)
            and bool(np.all(rate == epoch.rates[self.row]))
        )

    def _announce_one(self, state: State, index: Array, rate: Any) -> None:
        """The same for a step by itself: nothing is copied from the host for a single rate."""
        if index.dtype != np.int64 or index.strides[-1] != 8:
            index = cupy.ascontiguousarray(index, np.int64)
        optimizer, table = self.recipe.optimizer, self.table
        scalars = [*optimizer.scalars(rate, state.step + 1)]
        if optimizer.weight_decay != 0:
            scalars.append(rate * optimizer.weight_decay)
        if all(isinstance(scalar, int | float) for scalar in scalars):
            if len(scalars) > cuda.MAX_SCALARS:
                table[...] = cupy.asarray(self._scalars([rate], state.step))
            else:
                given = [*map(float, scalars), *[0.0] * (cuda.MAX_SCALARS - len(scalars))]
                source = cuda.set_scalars(str(self.theta.dtype))
                Launch(source, (1,), (1,), table, self.networks, len(scalars), *given)()
        else:
            for i, scalar in enumerate(scalars):
                table[0, :, i] = cupy.asarray(scalar).reshape(-1)
        self._point(_Epoch(index, [rate], table, self._losses(1)), state)

    # -- a step

    def __call__(self, state: State, index: Array, bits: Any, rate: Any) -> State:
        rate = self.recipe.optimizer.rate if rate is None else rate
        program = self._ready(state, index.shape[-1], index.ndim == 1, bits)
        self.index = index
        if not self._announced(index, state.step, rate):
            self._announce_one(state, index, rate)
        return self._launched(program, state, 1)

    def several(self, state: State, bits: Any, m: int, count: int) -> State:
        """The next `count` steps of the epoch at hand, each on m examples.

        bits  of the first step: only their seeds are taken, and the rest drawn by them
        """
        epoch = cast(_Epoch, self.epoch)
        program = self._ready(state, m, epoch.index.ndim == 1, bits)
        return self._launched(program, state, count)

    def _ready(self, state: State, m: int, shared: bool, bits: Any) -> Launches:
        if state.theta is not self.theta:
            self._adopt(state)
        program = self._program(m, shared)
        self._take_bits(program, bits, state.step)
        self.cublas.follow(cupy.cuda.get_current_stream().ptr)
        return program

    def _launched(self, program: Launches, state: State, count: int) -> State:
        self.launch(program, count)
        loss = cast(_Epoch, self.epoch).losses[self.row - 1]
        return State(self.theta, self.moments, self.running, state.step + count, loss)

    def launch(self, program: Launches, count: int) -> None:
        """Make steps happen on the current stream."""
        for _ in range(count):
            if not program.replayable:
                start = self.start
                self.index = cast(_Epoch, self.epoch).index[..., start : start + program.m]
            program.run()
            self.moved(program, 1)

    def fetch(self, X: Array, first: int = 0) -> None:
        """Of the batch at hand as many examples as X has columns, of rows on the host."""
        rows, m = X.swapaxes(-1, -2), X.shape[-1]
        if not (self.feeding and self.feed and self.feed.give(self.start + first, m, rows)):
            rows[...] = self.data.rows[self.index[..., first : first + m]].toarray()

    @property
    def rate(self) -> Any:
        """Of the step at hand."""
        epoch = cast(_Epoch, self.epoch)
        return epoch.rates[self.row]

    def moved(self, program: Launches, count: int) -> None:
        """Follow the inbox, which has moved on by as many steps."""
        self.start += count * program.m
        self.row += count
        self.number += count

    @property
    def losses(self) -> Array:
        """Of the epoch at hand, (n_steps, …)."""
        return cast(_Epoch, self.epoch).losses

    def _program(self, m: int, shared: bool) -> Launches:
        program = self.programs.get((m, shared))
        if program is None or program.reads != self.buffers():
            program = self.programs[m, shared] = self.kind(self, m, shared)
        return program

    def _take_bits(self, program: Launches, bits: Any, step: int) -> None:
        """Dropout bits from elsewhere, or the seeds to draw them by."""
        self.given = False
        if program.drawn == 0:
            return
        if isinstance(bits, Bits) and bits.step == step:
            if bits.seeds != self.seeded:
                self.seeds.set(np.array(bits.seeds, np.uint64))
                self.seeded = bits.seeds
            return
        self.given = True
        program.bits[...] = bits.array if isinstance(bits, Bits) else bits


def _places(arrays: Iterable[Any]) -> tuple[int, ...]:
    """Where arrays lie; nothing of what is not on the device."""
    return tuple(array.data.ptr for array in arrays if isinstance(array, cupy.ndarray))
