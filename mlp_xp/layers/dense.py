"""Layers of units: fully connected, an activation, dropout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .. import activations
from ..activations import ACTIVATIONS, IDENTITY
from ..kernels import Kernels
from ..types import Array, Namespace
from . import options
from .base import Parameter, Pass, Plain, Shape


class Seen(NamedTuple):
    """What a fully connected layer keeps: its input (…, n_in, m), and what it is asked for."""

    A: Array
    wanted: bool


@dataclass(frozen=True)
class Dense(Plain):
    """Every unit takes every input: Z = W A + b.

    units  how many outputs
    bias   whether there is a b; none is needed before a normalisation, which has its own

    It takes vectors. For every step of a sequence, or every pixel, the same is a convolution
    of kernel 1; an image becomes a vector by `Flatten` or global pooling.
    """

    units: int
    bias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", options.whole("units", self.units, 1))
        object.__setattr__(self, "bias", options.flag("bias", self.bias))

    def out_shape(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise options.unfit(
                self,
                shape,
                "vectors (n,)",
                "Put Flatten() or a global pooling before it, or take a convolution of kernel 1.",
            )
        return (self.units,)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        W = Parameter("W", (self.units, shape[0]), sparse=True)
        b = Parameter("b", (self.units, 1), "zeros", decays=False)
        return (W, b) if self.bias else (W,)

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, Seen]:
        if self.bias:
            Z, _ = kernels.layer(xp, P["W"], A, P["b"], IDENTITY)
        else:
            Z = kernels.product(xp, P["W"], A)
        return Z, Seen(A, told.wanted)

    def backward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], memory: Seen, dA: Array
    ) -> tuple[Array | None, dict[str, Array]]:
        """dW = δ Aᵀ, db = Σ δ, and Wᵀ δ for the layer before."""
        gradients = {"W": kernels.weight_gradient(xp, dA, memory.A)}
        if self.bias:
            gradients["b"] = xp.sum(dA, axis=-1, keepdims=True)
        return kernels.input_gradient(xp, P["W"], dA) if memory.wanted else None, gradients


@dataclass(frozen=True)
class Activation(Plain):
    """H = f(Z), for inputs of any shape.

    activation  a name of `ACTIVATIONS`, or a row of your own
    """

    activation: str | activations.Activation = "relu"

    def __post_init__(self) -> None:
        given = self.activation
        if isinstance(given, str):
            options.one_of("activation", given, ACTIVATIONS)
        elif not isinstance(given, activations.Activation):
            raise TypeError(
                f"activation is {given!r}, but expected a name or a row: "
                "mlp_xp.Activation(f, slope, slope_of='Z')."
            )

    @property
    def row(self) -> activations.Activation:
        """The functions: those of the table, where it was named."""
        given = self.activation
        return ACTIVATIONS[given] if isinstance(given, str) else given

    def out_shape(self, shape: Shape) -> Shape:
        return shape

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, Array]:
        """f(Z), and what the slope is written in."""
        H = kernels.activate(xp, A, self.row)
        return H, H if self.row.slope_of == "A" else A

    def backward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], memory: Array, dA: Array
    ) -> tuple[Array, dict[str, Array]]:
        return dA * self.row.slope(xp, memory), {}


@dataclass(frozen=True)
class Dropout(Plain):
    """Each entry is 0 with probability `rate` in training, else 1 / (1 - rate) times itself.

    Inverted dropout (Srivastava et al. 2014), for inputs of any shape: every pixel of every
    channel by itself.
    """

    rate: float

    def __post_init__(self) -> None:
        rate = options.number("rate", self.rate)
        if not 0 <= rate < 1:
            raise ValueError(f"rate is {rate:g}, but expected a number in [0, 1).")
        if round(rate * 2**16) == 2**16:
            raise ValueError(
                f"rate is {rate}, which rounded to 16 bits drops everything: expected at most "
                f"{1 - 2**-16}."
            )
        object.__setattr__(self, "rate", rate)

    def out_shape(self, shape: Shape) -> Shape:
        return shape

    def n_bits(self, shape: Shape) -> int:
        return math.prod(shape) if self.rate > 0 else 0

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, Array | None]:
        if told.bits is None or self.rate == 0:
            return A, None
        bits = xp.reshape(told.bits, (*told.bits.shape[:-2], *told.shape, A.shape[-1]))
        mask = kernels.dropout_mask(xp, bits, self.rate, A.dtype)
        return kernels.dropout(xp, A, mask), mask

    def backward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], memory: Any, dA: Array
    ) -> tuple[Array, dict[str, Array]]:
        return dA if memory is None else dA * memory, {}
