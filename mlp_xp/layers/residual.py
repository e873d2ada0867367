"""Skip connections: a layer that holds layers, and adds its input to what they give.

He et al. 2016, "Deep Residual Learning for Image Recognition", eq. 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..kernels import Kernels
from ..types import Array, Namespace
from . import stack
from .base import Kind, Parameter, Pass, Shape, Statistic
from .stack import Kept, Part


class Seen(NamedTuple):
    """What a residual block keeps: its input, the memories of both ways, what it was told."""

    A: Array
    along: list[Kept]
    beside: list[Kept]
    shape: Shape
    wanted: bool


def kinds(argument: str, value: Any) -> tuple[Kind, ...]:
    """Layers as a tuple; an error names the entry that is none."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{argument} is {value!r}, but expected a list of layers.")
    for i, kind in enumerate(value, 1):
        if isinstance(kind, type) or not isinstance(kind, Kind):
            hint = f" Write {kind.__name__}(…), with brackets." if isinstance(kind, type) else ""
            raise TypeError(
                f"{argument} has {kind!r} as its entry {i}, but expected a layer of "
                f"mlp_xp.layers.{hint}"
            )
        try:
            hash(kind)
        except TypeError as error:
            raise TypeError(
                f"{argument} has {kind!r} as its entry {i}, but expected a frozen dataclass whose "
                f"options do not change ({error}): tuples instead of lists."
            ) from None
    return tuple(value)


@dataclass(frozen=True)
class Residual:
    """layers(A) + skip(A).

    layers  what the sum's first term goes through
    skip    what its second goes through; empty: A itself, or P A with a learnt P (n_out, n_in)
            over the first axis where only that differs (units, channels, features)

    Where height, width or time differ too, `skip` has to say how they shrink:
    `skip=[Conv2d(64, kernel=1, stride=2)]`. Its layers are counted after those of `layers`.
    """

    layers: Sequence[Kind]
    skip: Sequence[Kind] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", kinds("layers", self.layers))
        object.__setattr__(self, "skip", kinds("skip", self.skip))
        if not self.layers:
            raise ValueError("layers is empty, but expected at least one layer.")

    def __repr__(self) -> str:
        skip = f", skip={list(self.skip)}" if self.skip else ""
        return f"Residual({list(self.layers)}{skip})"

    def inside(self, shape: Shape) -> tuple[Part, ...]:
        """The layers it holds, where they stand: those of `skip` after the others."""
        along, beside = self._ways(shape)
        return along + beside

    def _ways(self, shape: Shape, asked: bool = False) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        along = stack.resolve(self.layers, shape, 1, asked)
        return along, stack.resolve(self.skip, shape, len(along) + 1, asked)

    def _projects(self, shape: Shape) -> bool:
        return not self.skip and self.out_shape(shape) != shape

    def out_shape(self, shape: Shape) -> Shape:
        along, beside = self._ways(shape)
        out = along[-1].out_shape
        other = beside[-1].out_shape if beside else shape
        if other == out or (not beside and other[1:] == out[1:]):
            return out
        what = "its skip makes" if beside else "the skip connection brings"
        cure = (
            "Make them equal."
            if beside
            else ("Say how the input gets there: skip=[Conv2d(…, kernel=1, stride=…)] or the like.")
        )
        raise ValueError(
            f"{self} makes {out} of {shape} by its layers, but {what} {other}: the two are "
            f"added, so equal shapes were expected. {cure}"
        )

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """Those of its layers, by their numbers; then P, where it projects."""
        out = self.out_shape(shape)
        found = tuple(
            p._replace(name=part.name(p.name))
            for part in self.inside(shape)
            for p in part.parameters
        )
        return (*found, Parameter("P", (out[0], shape[0]))) if self._projects(shape) else found

    def statistics(self, shape: Shape) -> tuple[Statistic, ...]:
        return tuple(
            s._replace(name=part.name(s.name))
            for part in self.inside(shape)
            for s in part.statistics
        )

    def n_bits(self, shape: Shape) -> int:
        return sum(part.n_bits for part in self.inside(shape))

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, Seen]:
        along, beside = self._ways(told.shape, told.wanted)
        n = sum(part.n_bits for part in along)
        first = told.bits if told.bits is None else told.bits[..., :n, :]
        second = told.bits if told.bits is None else told.bits[..., n:, :]
        own = stack.apart(along, P)
        F, kept = stack.forward(along, xp, kernels, own, A, told._replace(bits=first))
        S, others = stack.forward(
            beside, xp, kernels, stack.apart(beside, P), A, told._replace(bits=second)
        )
        if self._projects(told.shape):
            S = kernels.product(xp, P["P"], _flat(xp, A, told.shape))
            S = xp.reshape(S, (*S.shape[:-1], *told.shape[1:], A.shape[-1]))
        return F + S, Seen(A, kept, others, told.shape, told.wanted)

    def backward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], memory: Seen, dA: Array
    ) -> tuple[Array | None, dict[str, Array]]:
        """The sum of what comes back along both ways."""
        A, kept, others, shape, wanted = memory
        along, beside = self._ways(shape, wanted)
        back, pieces = stack.backward(along, xp, kernels, stack.apart(along, P), kept, dA)
        gradients = stack.together(along, pieces)
        if self._projects(shape):
            delta = _flat(xp, dA, self.out_shape(shape))
            gradients["P"] = kernels.weight_gradient(xp, delta, _flat(xp, A, shape))
            skipped = None
            if wanted:
                skipped = kernels.input_gradient(xp, P["P"], delta)
                skipped = xp.reshape(skipped, (*skipped.shape[:-2], *shape, A.shape[-1]))
        else:
            own = stack.apart(beside, P)
            skipped, pieces = stack.backward(beside, xp, kernels, own, others, dA)
            gradients |= stack.together(beside, pieces)
        if not wanted:
            return None, gradients
        if back is None or skipped is None:
            return skipped if back is None else back, gradients
        return back + skipped, gradients

    def newest(self, xp: Namespace, memory: Seen, m: Any) -> dict[str, Array]:
        along, beside = self._ways(memory.shape, memory.wanted)
        found = stack.newest(along, xp, memory.along, m)
        return found | stack.newest(beside, xp, memory.beside, m)


def _flat(xp: Namespace, A: Array, shape: Shape) -> Array:
    """(…, n, *rest, m) as (…, n, rest · m): a product's operand."""
    if len(shape) == 1:
        return A
    lead = A.shape[: A.ndim - 1 - len(shape)]
    return xp.reshape(A, (*lead, shape[0], math.prod(shape[1:]) * A.shape[-1]))
