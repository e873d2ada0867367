"""A chain of layers as a network: what `network.Network` is for fully connected ones.

Loops over layers, nothing else: each says its own shapes, parameters, forward and backward
(`base`). All parameters lie in ONE flat vector, first those that decay, then the others, each
in the order of the layers and under the name that `stack` gives it. Examples come as columns
(n_features, m), which are (*shape, m) by a reshape that costs nothing.

It stands beside the dense `Network`, which fast paths read, and does the same by the same
kernels: for Dense, Activation and Dropout the numbers are equal bit by bit
(`tests/test_chain.py`). To run the dense network's specification through here too would have
cost it Python in every step, and its names (there layers are counted without activations).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import activations
from ..activations import ACTIVATIONS
from ..architecture import CHUNK, Forward, Slot
from ..cached import cached_property
from ..draws import Draw, Purpose, permutation
from ..hardware import Device
from ..initializers import MATCHED, Initializer, glorot_uniform, weights_by
from ..kernels import Kernels, newest_or
from ..types import Array, Namespace
from . import stack
from .base import Kind, Parameter, Pass, Shape
from .normalization import BatchNorm
from .residual import Residual, kinds
from .stack import ALIKE, Part, Pieces

ENTRIES = 1 << 22  # of the largest array in one forward pass of an evaluation
FILLED = {"zeros": 0.0, "ones": 1.0}


@dataclass(frozen=True)
class Chain:
    """The fixed description of a network of layers.

    shape    of one example: (n,), (channels, height, width), (features, time), or (time,) of
             whole numbers for an `Embedding`
    layers   the last gives (n_outputs,): the scores, without softmax or sigmoid
    lengths  whether sequences end before the last step: then an example has one number more,
             its length, after all others
    density  share of connections kept in every W but the last that can lose some: at least
             one input a unit, fixed at random, the same throughout training

    ValueError at once where two layers cannot follow each other, with both and their shapes.
    """

    shape: Shape
    layers: tuple[Kind, ...]
    lengths: bool = False
    density: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", kinds("layers", self.layers))
        if not self.layers:
            raise ValueError("layers is empty, but expected at least one layer.")
        last = self.parts[-1]
        if len(last.out_shape) != 1:
            raise ValueError(
                f"the last layer, {last.kind}, gives {last.out_shape}, but expected the scores, "
                "(n_outputs,). End with Dense(n_outputs), after Flatten() or a global pooling."
            )
        if not self.slots:
            raise ValueError("layers have no parameters: there is nothing to learn.")
        if self.lengths:
            self._check_lengths()

    def _check_lengths(self) -> None:
        if len(self.shape) > 2:
            raise ValueError(
                f"lengths is True, but the shape is {self.shape}: expected sequences, "
                "(features, time), or (time,) of whole numbers."
            )
        for part in self.parts:
            if part.timed and not part.lasting and len(part.out_shape) > 1:
                raise ValueError(
                    f"lengths is True, but layer {part.number}, {part.kind}, makes "
                    f"{part.out_shape} of {part.shape}, in which steps cannot be told from "
                    "what is after the end: expected as many steps, or one vector. Take "
                    "stride 1 and padding 'same' or 'causal', or leave lengths out."
                )

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The layers where they stand."""
        return stack.resolve(self.layers, self.shape)

    @cached_property
    def _of_whole(self) -> tuple[Part, ...]:
        """The layers that take the features themselves as whole numbers."""
        return tuple(_of_whole(self.parts))

    def check_rows(self, argument: str, device: Device, rows: Array) -> None:
        """Raise ValueError for a length, or a number for an `Embedding`, that is none.

        rows  (m, n_features) on the device or on the host. What is after the end of a sequence
              may be anything
        """
        if not self.lengths and not self._of_whole:
            return
        rows = getattr(rows, "rows", rows)  # too many for the device: `fast.upload`
        xp: Namespace = np if isinstance(rows, np.ndarray) else device.xp
        values = rows
        if self.lengths:
            time, ends = self.shape[-1], rows[:, -1:]
            what = "the last feature of each example is its length, a whole number 0 … "
            _check_whole(argument, xp, ends, time, what)
            if self._of_whole:
                step = xp.arange(time, dtype=rows.dtype, device=rows.device)
                values = xp.reshape(rows[:, :-1], (rows.shape[0], -1, time))
                values = xp.where((step < ends)[:, None, :], values, xp.zeros_like(values))
        for part in self._of_whole:
            kind: Any = part.kind
            what = f"layer {part.number}, {kind}, takes whole numbers 0 … "
            _check_whole(argument, xp, values, kind.n_values - 1, what)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of features, of what each layer gives, and of outputs."""
        n = math.prod(self.shape) + self.lengths
        return (n, *(math.prod(part.out_shape) for part in self.parts))

    @cached_property
    def _laid(self) -> tuple[tuple[Slot, Parameter], ...]:
        """All parameters in the order they lie in the flat vector."""
        found = [(i, part, p) for i, part in enumerate(self.parts) for p in part.parameters]
        laid, start = [], 0
        for decays in (True, False):
            for i, part, parameter in found:
                if parameter.decays is decays:
                    slot = Slot(
                        part.name(parameter.name), parameter.name, i, start, parameter.shape
                    )
                    laid.append((slot, parameter))
                    start = slot.stop
        return tuple(laid)

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(slot for slot, _ in self._laid)

    @cached_property
    def n_weights(self) -> int:
        """How many of the first parameters decay."""
        return max((slot.stop for slot, parameter in self._laid if parameter.decays), default=0)

    @cached_property
    def n_parameters(self) -> int:
        return self.slots[-1].stop

    @cached_property
    def statistics(self) -> tuple[tuple[str, int], ...]:
        """Name and length of each part of the running moments, in order."""
        return tuple((part.name(s.name), s.n) for part in self.parts for s in part.statistics)

    @cached_property
    def n_statistics(self) -> int:
        return sum(n for _, n in self.statistics)

    @cached_property
    def n_dropped(self) -> int:
        """How many dropout bits one example takes."""
        return sum(part.n_bits for part in self.parts)

    @property
    def sparse(self) -> bool:
        return self.density != 1.0

    @property
    def by_batch(self) -> bool:
        """Whether some channel of a batch normalisation has one place."""
        return any(
            isinstance(part.kind, BatchNorm) and math.prod(part.shape[1:]) == 1
            for part in _every(self.parts)
        )

    @property
    def written(self) -> str:
        """Shapes, from that of the input to that of the scores."""
        shapes = [self.shape, *(part.out_shape for part in self.parts)]
        return " → ".join("×".join(map(str, shape)) for shape, _ in groupby(shapes))

    @cached_property
    def at_once(self) -> int:
        """As many examples as have `ENTRIES` numbers where they have most: in patches, usually."""
        inputs = [math.prod(part.shape) for part in self.parts]
        patches = [
            p.shape[1] * math.prod(part.out_shape[1:])
            for part in self.parts
            for p in part.parameters
        ]
        return max(1, min(CHUNK, ENTRIES // max(inputs + patches)))

    @cached_property
    def work(self) -> int:
        return sum(map(self._multiplications, self.parts))

    @staticmethod
    def _multiplications(part: Part) -> int:
        """Of one example, about: every weight at every place of the input or the output."""
        places = max(math.prod(part.shape[1:]), math.prod(part.out_shape[1:]))
        return places * sum(math.prod(p.shape) for p in part.parameters)

    def threads(self, device: Device, batch_size: int) -> AbstractContextManager[object]:
        largest = max(map(self._multiplications, self.parts))
        return device.threads((1, largest), batch_size)

    # -- how it begins

    @cached_property
    def drawn(self) -> tuple[tuple[Slot, Parameter], ...]:
        """The parameters that an initialiser draws, in the order of the layers."""
        laid = {slot.name: (slot, parameter) for slot, parameter in self._laid}
        return tuple(
            laid[part.name(p.name)]
            for part in self.parts
            for p in part.parameters
            if p.begins == "weights"
        )

    def matching(self) -> list[Initializer]:
        """For each that is drawn, the initialiser that fits the activation after its layer."""
        found: dict[str, Initializer] = {}
        before: list[str] = []
        for name, activation in _events(self.parts, lambda name: name):
            if activation is None:
                before.append(name)
                continue
            row = ACTIVATIONS.get(activation) if isinstance(activation, str) else activation
            word = next((word for word, other in ACTIVATIONS.items() if other is row), "")
            found |= dict.fromkeys(before, MATCHED.get(word, glorot_uniform))
            before = []
        return [found.get(slot.name, glorot_uniform) for slot, _ in self.drawn]

    def initialise(
        self, seed: int, initializers: Sequence[Initializer], dtype: str
    ) -> npt.NDArray[Any]:
        """Initial parameters (n_parameters,) on the host, drawn in float64.

        initializers  one for each of `drawn`

        A draw depends on the seed and on how many weights are drawn before it: layers without
        weights change nothing.
        """
        theta = np.zeros(self.n_parameters, dtype)
        for slot, parameter in self._laid:
            if parameter.begins != "weights":
                begins = FILLED.get(str(parameter.begins), parameter.begins)
                theta[slot.start : slot.stop] = begins
        for number, (slot, parameter) in enumerate(self.drawn):
            n_out, n_in = slot.shape
            density = self._density(slot, parameter)
            fan_in = max(1.0, density * (parameter.fan_in or n_in))
            fan_out = max(1.0, density * (parameter.fan_out or n_out))
            draw = Draw(seed, Purpose.WEIGHTS, number)
            W = weights_by(initializers[number], draw, n_out, n_in, fan_in, fan_out)
            theta[slot.start : slot.stop] = np.reshape(W, -1)
        connected = self.connections(seed)
        return theta if connected is None else theta * connected.astype(dtype)

    def _density(self, slot: Slot, parameter: Parameter) -> float:
        last = self.drawn[-1][0] if self.drawn else None
        return self.density if parameter.sparse and slot is not last else 1.0

    def connections(self, seed: int) -> npt.NDArray[np.float64] | None:
        """1 where a parameter takes part, 0 where a connection is absent; None if all do.

        As of the dense network: every unit keeps the same number of inputs.
        """
        if not self.sparse:
            return None
        mask = np.ones(self.n_parameters)
        for number, (slot, parameter) in enumerate(self.drawn):
            n_out, n_in = slot.shape
            kept = max(1, round(self._density(slot, parameter) * n_in))
            if kept < n_in:
                order = permutation(seed, Purpose.CONNECTIONS, number, n_out * n_in)
                rank = np.argsort(np.argsort(order.reshape(n_out, n_in), axis=1), axis=1)
                mask[slot.start : slot.stop] = (rank < kept).reshape(-1)
        return mask

    def initial_statistics(self) -> npt.NDArray[np.float64]:
        """What running moments are before any batch."""
        found = [np.full(s.n, s.begins) for part in self.parts for s in part.statistics]
        return np.concatenate([np.zeros(0), *found])

    # -- a step

    def split(self, xp: Namespace, theta: Array) -> Pieces:
        """The flat vector (…, n_parameters) as parameters by layer and their names there."""
        pieces: Pieces = [{} for _ in self.parts]
        leading = theta.shape[:-1]
        for slot in self.slots:
            part = theta[..., slot.start : slot.stop]
            pieces[slot.layer][slot.field] = xp.reshape(part, (*leading, *slot.shape))
        return pieces

    def join(self, xp: Namespace, layers: Sequence[Any]) -> Array:
        """The inverse: parameters, or their gradients, as one flat vector."""
        parts = []
        for slot in self.slots:
            part = layers[slot.layer][slot.field]
            parts.append(xp.reshape(part, (*part.shape[:-2], math.prod(slot.shape))))
        return xp.concat(parts, axis=-1)

    def _entered(self, xp: Namespace, X: Array) -> tuple[Array, Array | None]:
        """Columns (…, n_features, m) as (…, *shape, m), and where sequences have steps."""
        lead, m = X.shape[:-2], X.shape[-1]
        if not self.lengths:
            return xp.reshape(X, (*lead, *self.shape, m)), None
        time = self.shape[-1]
        step = xp.arange(time, dtype=X.dtype, device=X.device)
        present = xp.astype(step[:, None] < X[..., -1:, :], X.dtype)
        A = xp.reshape(X[..., :-1, :], (*lead, *self.shape, m))
        there = present if len(self.shape) == 1 else present[..., None, :, :]
        return A * there, present

    def forward(
        self,
        kernels: Kernels,
        xp: Namespace,
        layers: Sequence[Any],
        X: Array,
        *,
        running: Array | None = None,
        bits: Array | None = None,
        seen: dict[str, Array] | None = None,
    ) -> Forward:
        """Scores of the examples X (n_features, m).

        running  (…, n_statistics) to normalise batches by, as in evaluation; None: training
        bits     (…, n_dropped · m) dropout bits; None drops nothing
        seen     to be filled with every layer's output
        """
        A, present = self._entered(xp, X)
        if bits is not None:
            bits = bits[..., : self.n_dropped * X.shape[-1]]
            bits = xp.reshape(bits, (*bits.shape[:-1], self.n_dropped, X.shape[-1]))
        told = Pass(
            training=running is None,
            bits=bits,
            running=self._moments(running),
            present=present,
        )
        scores, memories = stack.forward(self.parts, xp, kernels, layers, A, told, seen)
        return Forward(scores, tuple(memories))

    def _moments(self, running: Array | None) -> dict[str, Array]:
        found, start = {}, 0
        for name, n in self.statistics:
            if running is not None:
                found[name] = running[..., start : start + n, None]
            start += n
        return found

    def backward(
        self,
        kernels: Kernels,
        xp: Namespace,
        layers: Sequence[Any],
        memories: Sequence[Any],
        delta: Array,
        db: Array,
        seen: dict[str, Array] | None = None,
    ) -> tuple[Pieces, list[Array]]:
        """Gradients by layer; no δ by layer, for not every layer has one.

        seen  to be filled with ∂J/∂ every layer's output
        """
        _, gradients = stack.backward(self.parts, xp, kernels, layers, memories, delta, seen)
        return gradients, []

    def batch_statistics(
        self, xp: Namespace, memories: Sequence[Any], m: Any, running: Array
    ) -> Array:
        """The batch's own statistics, flat like `running`, which has what it does not tell."""
        found = stack.newest(self.parts, xp, memories, m)
        parts, start = [], 0
        for name, n in self.statistics:
            own = found[name][..., 0] if name in found else None
            parts.append(newest_or(xp, own, running[..., start : start + n], m))
            start += n
        return xp.concat(parts, axis=-1)

    def predicting(
        self, xp: Namespace, layers: Sequence[Any], running: Array
    ) -> tuple[Chain, Sequence[Any]]:
        return self, layers

    def look(
        self,
        kernels: Kernels,
        xp: Namespace,
        layers: Sequence[Any],
        X: Array,
        bits: Array | None,
        score: Callable[[Array], tuple[Array, Array]],
    ) -> dict[str, Array]:
        """Al, the output of every layer, and dAl = ∂J/∂Al where it is asked for."""
        seen: dict[str, Array] = {}
        scores, memories = self.forward(kernels, xp, layers, X, bits=bits, seen=seen)
        self.backward(kernels, xp, layers, memories, *score(scores), seen=seen)
        return seen


def _every(parts: Sequence[Part]) -> Iterator[Part]:
    """They, and what they hold."""
    for part in parts:
        yield part
        if isinstance(part.kind, Residual):
            yield from _every(part.kind.inside(part.shape))


def _of_whole(parts: Sequence[Part]) -> Iterator[Part]:
    """Those that take what the first of the parts is given as whole numbers."""
    for part in parts:
        if getattr(part.kind, "whole", False):
            yield part
        if isinstance(part.kind, Residual):
            for way in part.kind._ways(part.shape):
                yield from _of_whole(way)
        if not isinstance(part.kind, ALIKE):
            return


def _check_whole(argument: str, xp: Namespace, values: Array, most: int, what: str) -> None:
    """Raise ValueError, saying what they are, for values that are no whole numbers 0 … most."""
    values = xp.reshape(values, (-1,))
    bad = (values < 0) | (values > most) | (values != xp.floor(values))
    if bool(xp.any(bad)):
        marks = xp.where(bad, xp.ones_like(values), xp.zeros_like(values))
        first = float(values[int(xp.argmax(marks))])
        raise ValueError(f"{argument} holds {first:g}, but {what}{most}.")


def _events(
    parts: Sequence[Part], outside: Callable[[str], str]
) -> Iterator[tuple[str, str | activations.Activation | None]]:
    """What an "auto" initialiser goes by, in the order of the layers.

    The name of a drawn parameter, with None; or an activation, with no name. A kind says its
    activation in a field of that name.
    """
    for part in parts:
        inside = getattr(part.kind, "inside", None)
        held: set[str] = set()

        def name(own: str, part: Part = part) -> str:
            return outside(part.name(own))

        if inside is not None:
            inner = inside(part.shape)
            held = {p.name(own.name) for p in inner for own in p.parameters}
            yield from _events(inner, name)
        for parameter in part.parameters:
            if parameter.begins == "weights" and parameter.name not in held:
                yield name(parameter.name), None
        activation = getattr(part.kind, "activation", None)
        if activation is not None:
            yield "", activation
