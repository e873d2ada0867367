"""Embedding: a vector of weights for each of many values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ..kernels import Kernels
from ..types import Array, Namespace
from . import options
from .base import Parameter, Pass, Plain, Shape

EXACT = 2**24  # float32 holds every whole number up to here
ENTRIES = 2**22  # of one-hot columns at a time: 16 MiB in float32
MANY = 1024  # values from which on sorting is less work than a product with one-hot columns


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
    whole: ClassVar[bool] = True  # numbers without a derivative: no layer before it could learn

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
        """∂J/∂W: the columns of δ summed by value; whole numbers have no derivative.

        Adding columns of δ to those of W one after the other would be a scatter, whose order,
        and so its rounding, differs from run to run on a device.
        """
        indices, shape = memory
        lead = dA.shape[: dA.ndim - 2 - len(shape)]
        delta = xp.reshape(dA, (*lead, self.n, indices.shape[-1]))
        if self.n_values > MANY:
            return None, {"W": _by_sorting(xp, delta, indices, self.n_values)}
        return None, {"W": _by_product(xp, kernels, delta, indices, self.n_values)}


def _by_product(
    xp: Namespace, kernels: Kernels, delta: Array, indices: Array, n_values: int
) -> Array:
    """δ onehot(A)ᵀ, (…, n, n_values): one product, for n_values times the work of the sums.

    The one-hot columns are made for some values at a time; each sum is taken once.
    """
    step = max(1, min(n_values, ENTRIES // indices.shape[-1]))
    parts = []
    for start in range(0, n_values, step):
        values = _values(xp, indices, start, min(start + step, n_values))
        hot = xp.astype(indices[..., None, :] == values[:, None], delta.dtype)
        parts.append(kernels.weight_gradient(xp, delta, hot))
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1)


def _by_sorting(xp: Namespace, delta: Array, indices: Array, n_values: int) -> Array:
    """The same for many values: columns in the order of their values, then sums of each run.

    After the pass of distance d a column holds the sum of the last 2 d columns up to itself
    that are of its value (Hillis & Steele 1986, "Data parallel algorithms", with runs kept
    apart), so that the last of a run holds the run after ⌈log₂ columns⌉ passes. Rounding is
    that of adding in pairs.
    """
    *lead, n, columns = delta.shape
    if indices.ndim > 1:  # networks with values of their own: as one with values of all
        networks = indices.shape[0]
        offset = n_values * _values(xp, indices, 0, networks)
        indices = xp.reshape(indices + offset[:, None], (networks * columns,))
        rows = xp.reshape(xp.moveaxis(delta, -3, -2), (n, networks * columns))
    else:
        networks = 1
        rows = xp.reshape(delta, (math.prod(lead) * n, columns))
    order = xp.argsort(indices)
    value, sums = xp.take(indices, order), xp.take(rows, order, axis=-1)
    distance = 1
    while distance < value.shape[0]:
        same = value[distance:] == value[:-distance]
        reached = sums[:, :-distance] * xp.astype(same, sums.dtype)
        sums = xp.concat([sums[:, :distance], sums[:, distance:] + reached], axis=-1)
        distance *= 2
    every = _values(xp, indices, 0, networks * n_values)
    last = xp.searchsorted(value, every, side="right") - 1
    last = xp.where(last > 0, last, xp.zeros_like(last))
    found = xp.astype(xp.take(value, last) == every, sums.dtype)
    W = xp.take(sums, last, axis=-1) * found
    if networks == 1:
        return xp.reshape(W, (*lead, n, n_values))
    return xp.moveaxis(xp.reshape(W, (n, networks, n_values)), -3, -2)


def _values(xp: Namespace, indices: Array, start: int, stop: int) -> Array:
    return xp.arange(start, stop, dtype=xp.int64, device=indices.device)
