"""Embedding: a vector of weights for each of many values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..kernels import Kernels
from ..types import Array, Namespace
from . import options
from .base import Parameter, Pass, Plain, Shape

EXACT = 2**24  # float32 holds every whole number up to here
ENTRIES = 2**22  # of one-hot columns at a time: 16 MiB in float32


class Memory(NamedTuple):
    """indices: (…, places · m) whole numbers; shape: of one example."""

    indices: Array
    shape: Shape


@dataclass(frozen=True)
class Embedding(Plain):
    """Whole numbers as vectors: (time,) → (n, time), each value k as column k of W (n, n_values).

    Of any shape (places …) comes (n, places …). The values 0 … n_values - 1 arrive as floats
    among the features; W transposed is PyTorch's weight. (Bengio et al. 2003, "A Neural
    Probabilistic Language Model", §2: the matrix C.)
    """

    n_values: int
    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_values", options.whole("n_values", self.n_values, 1))
        object.__setattr__(self, "n", options.whole("n", self.n, 1))
        if self.n_values > EXACT:
            raise ValueError(
                f"n_values is {self.n_values}, but float32 tells whole numbers apart up to "
                f"{EXACT}: expected no more than that. Join rare values into one."
            )

    def out_shape(self, shape: Shape) -> Shape:
        if not shape:
            raise options.unfit(
                self, shape, "whole numbers as features, (time,)", "Give at least one feature."
            )
        return (self.n, *shape)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """W (n, n_values). One of the values is 1 and all others 0, so that fan_in is 1."""
        return (Parameter("W", (self.n, self.n_values), fan_in=1, fan_out=self.n),)

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, Memory]:
        """A (…, places …, m) of whole numbers → (…, n, places …, m)."""
        self.out_shape(told.shape)
        W, m = P["W"], A.shape[-1]
        lead = A.shape[: A.ndim - 1 - len(told.shape)]
        indices = xp.astype(xp.reshape(A, (*lead, math.prod(told.shape) * m)), xp.int64)
        if lead:  # every network sees values of its own
            shape = (*lead, self.n, indices.shape[-1])
            W = xp.broadcast_to(W, (*lead, *W.shape[-2:]))
            each = xp.broadcast_to(indices[..., None, :], shape)
            H = xp.take_along_axis(W, each, axis=-1)
        else:
            H = xp.take(W, indices, axis=-1)
        return xp.reshape(H, (*H.shape[:-1], *told.shape, m)), Memory(indices, told.shape)

    def backward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], memory: Memory, dA: Array
    ) -> tuple[Array | None, dict[str, Array]]:
        """∂J/∂W = δ onehot(A)ᵀ; whole numbers have no derivative.

        A product, since adding columns of δ to those of W one after the other is a scatter:
        its order, and so its rounding, would differ from run to run on a device. The one-hot
        columns are made for as many values at a time as fit a cache; each sum is taken once.
        """
        indices, shape = memory
        places = indices.shape[-1]
        delta = xp.reshape(dA, (*dA.shape[: dA.ndim - 2 - len(shape)], self.n, places))
        step = max(1, min(self.n_values, ENTRIES // places))
        parts = []
        for start in range(0, self.n_values, step):
            values = xp.arange(
                start, min(start + step, self.n_values), dtype=xp.int64, device=indices.device
            )
            hot = xp.astype(indices[..., None, :] == values[:, None], delta.dtype)
            parts.append(kernels.weight_gradient(xp, delta, hot))
        return None, {"W": parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1)}
