"""Layers one after the other: their shapes, names and pieces, and the loops over them.

What `chain` makes a network of, and `residual` a layer.

Layers are counted from 1, and a parameter is called by its layer's number: "W1", "b1", "W3".
Of a layer that holds layers, the numbers follow each other from outside to inside: "W3_1" is
W of the first layer in layer 3, "W3_1_2" of the second in that. A kind that has several of a
name counts them in the same way ("W2" of layer 3 is "W3_2"), and one of two directions gives
them names ("W_back3"). All of them are words of Python, as `set_parameters(W3_1=…)` wants it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from ..kernels import Kernels
from ..types import Array, Namespace
from .base import Kind, Parameter, Pass, Shape, Statistic
from .pooling import MaxPool
from .shapes import Flatten, Last, Reshape

ALIKE = (Flatten, Last, MaxPool, Reshape)  # what they give are numbers that they are given
Pieces: TypeAlias = list[dict[str, Array]]  # arrays by their names within the layer, a dict each

NAME = re.compile(r"(\D+?)_?(\d[\d_]*)?")


def numbered(name: str, number: int) -> str:
    """What a part of layer `number` is called outside of it."""
    found = NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"a layer's part is called {name!r}, but expected letters, then numbers.")
    inside = "" if found[2] is None else f"_{found[2]}"
    return f"{found[1]}{number}{inside}"


class Kept(NamedTuple):
    """What the backward pass needs of a layer: its own memory, and where sequences had steps."""

    memory: Any
    present: Array | None


class Part(NamedTuple):
    """One layer where it stands.

    number      counted from 1
    shape       of one example of its input
    out_shape   of its output
    n_bits      dropout bits an example
    trained     whether it or a layer before it has parameters: else no gradient goes there
    asked       whether a layer before it has parameters, so that its input's gradient is asked for
    timed       whether its input has the time axis of the sequences that came in
    lasting     whether its output has it, too
    """

    kind: Kind
    number: int
    shape: Shape
    out_shape: Shape
    parameters: tuple[Parameter, ...]
    statistics: tuple[Statistic, ...]
    n_bits: int
    trained: bool
    asked: bool
    timed: bool
    lasting: bool

    def name(self, own: str) -> str:
        return numbered(own, self.number)


@lru_cache(maxsize=1024)
def resolve(
    layers: tuple[Kind, ...], shape: Shape, first: int = 1, asked: bool = False
) -> tuple[Part, ...]:
    """Every layer's place in a stack; ValueError names the two that cannot follow each other.

    first  number of the first layer
    asked  whether the input's gradient is asked for
    """
    parts: list[Part] = []
    timed = len(shape) <= 2
    for number, kind in enumerate(layers, first):
        try:
            out = kind.out_shape(shape)
        except ValueError as error:
            before = f"layer {number - 1}, {parts[-1].kind}" if parts else "the input"
            why = str(error).removeprefix(f"{kind} cannot follow the shape {shape}: ")
            raise ValueError(
                f"layer {number}, {kind}, cannot follow {before}, which gives {shape}: {why}"
            ) from None
        if asked and getattr(kind, "whole", False):
            raise ValueError(
                f"layer {number}, {kind}, takes whole numbers, which have no derivative: what "
                "comes before it could not learn, but has parameters. Put it first."
            )
        other = next((part for part in parts if not isinstance(part.kind, ALIKE)), None)
        if other is not None and getattr(kind, "whole", False):
            raise ValueError(
                f"layer {number}, {kind}, takes whole numbers, but layer {other.number}, "
                f"{other.kind}, makes others of them. Put it first."
            )
        parameters = kind.parameters(shape)
        trained = asked or bool(parameters)
        statistics, n_bits = kind.statistics(shape), kind.n_bits(shape)
        lasting = timed and len(out) == 2 and out[-1] == shape[-1]
        part = (kind, number, shape, out, parameters, statistics, n_bits)
        parts.append(Part(*part, trained=trained, asked=asked, timed=timed, lasting=lasting))
        asked, timed, shape = trained, lasting, out
    return tuple(parts)


def apart(parts: Sequence[Part], arrays: Mapping[str, Array]) -> Pieces:
    """Parameters by their names outside, as each layer calls its own."""
    return [{p.name: arrays[part.name(p.name)] for p in part.parameters} for part in parts]


def together(parts: Sequence[Part], pieces: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The inverse of `apart`."""
    return {
        part.name(name): array
        for part, own in zip(parts, pieces, strict=True)
        for name, array in own.items()
    }


def forward(
    parts: Sequence[Part],
    xp: Namespace,
    kernels: Kernels,
    P: Sequence[Mapping[str, Array]],
    A: Array,
    told: Pass,
    seen: MutableMapping[str, Array] | None = None,
) -> tuple[Array, list[Kept]]:
    """The last layer's output, and each layer's memory.

    P     each layer's parameters
    told  of all layers: `bits` (…, Σ n_bits, m), `running` by the names outside
    seen  to be filled with every layer's output, "A1" …

    After its end a sequence is zero between all layers, as if nothing were there.
    """
    memories: list[Kept] = []
    start = 0
    for part, own in zip(parts, P, strict=True):
        bits = None
        if told.bits is not None and part.n_bits:
            bits = told.bits[..., start : start + part.n_bits, :]
            start += part.n_bits
        running = {}
        if not told.training:
            running = {s.name: told.running[part.name(s.name)] for s in part.statistics}
        A, memory = part.kind.forward(
            xp,
            kernels,
            own,
            A,
            Pass(
                training=told.training,
                bits=bits,
                running=running,
                present=told.present if part.timed else None,
                wanted=part.asked,
                shape=part.shape,
            ),
        )
        present = told.present[..., None, :, :] if told.present is not None else None
        present = present if part.lasting else None
        if present is not None:
            A = A * present
        memories.append(Kept(memory if told.training else None, present))
        if seen is not None:
            seen[f"A{part.number}"] = A
    return A, memories


def backward(
    parts: Sequence[Part],
    xp: Namespace,
    kernels: Kernels,
    P: Sequence[Mapping[str, Array]],
    memories: Sequence[Kept],
    dA: Array,
    seen: MutableMapping[str, Array] | None = None,
) -> tuple[Array | None, Pieces]:
    """∂J/∂ the input, and each layer's gradients.

    dA    ∂J/∂ the last layer's output
    seen  to be filled with ∂J/∂ every layer's output, "dA1" …, as far as it is asked for
    """
    gradients: Pieces = [{} for _ in parts]
    back: Array | None = dA
    for i in reversed(range(len(parts))):
        part = parts[i]
        if not part.trained or back is None:
            return None, gradients
        if seen is not None:
            seen[f"dA{part.number}"] = back
        memory, present = memories[i]
        if present is not None:
            back = back * present
        back, gradients[i] = part.kind.backward(xp, kernels, P[i], memory, back)
    return back, gradients


def newest(
    parts: Sequence[Part], xp: Namespace, memories: Sequence[Kept], m: int
) -> dict[str, Array]:
    """The batch's own statistics by their names outside."""
    own = [part.kind.newest(xp, kept.memory, m) for part, kept in zip(parts, memories, strict=True)]
    return together(parts, own)
