"""Normalisation over the axes that each of the two is meant for; the formulas are the kernels'.

A channel's numbers, its places and examples, lie together: `BatchNorm` sees (channels,
places · m) and takes moments along the last axis. `LayerNorm` takes them along the axis before
it, of (channels, places · m) or of (all features, m). Both are reshapes that cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..kernels import EPSILON, Kernels, unbiased
from ..types import Array, Namespace, Normalised
from . import options
from .base import Parameter, Pass, Plain, Shape, Statistic


class Memory(NamedTuple):
    """What the forward pass keeps, of arrays (…, channels, columns).

    normalised  with the input itself in the place of N where the moments were given
    given       whether they were; they are constants then
    places      numbers of a channel in an example
    """

    normalised: Normalised
    given: bool
    places: int


def _parameters(n: int) -> tuple[Parameter, ...]:
    return (
        Parameter("gain", (n, 1), "ones", decays=False),
        Parameter("b", (n, 1), "zeros", decays=False),
    )


def _as_matrix(xp: Namespace, X: Array, n_axes: int, n: int) -> Array:
    """(…, *shape, m), with n_axes in shape, as (…, n, what is left)."""
    lead = X.shape[: X.ndim - 1 - n_axes]
    return xp.reshape(X, (*lead, n, math.prod(X.shape[X.ndim - 1 - n_axes :]) // n))


@dataclass(frozen=True)
class BatchNorm(Plain):
    """Batch normalisation of each channel (Ioffe & Szegedy 2015, algorithms 1 and 2, §3.2).

        Z = gain (A - mean) / √(variance + ε) + b

    (channels, …) → the same. In training the moments are those of the batch, over all places
    and examples of a channel; in evaluation the running ones, whose variance is unbiased, and
    stays what it was after a batch of one number a channel, of which Z is b, whatever A was. A
    dense network's features are channels of one place. Steps after the end of a shorter sequence
    are counted, as in PyTorch.
    """

    def out_shape(self, shape: Shape) -> Shape:
        if not shape:
            raise options.unfit(self, shape, "channels first, (channels, …)", "Give features.")
        return shape

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """gain and b, (channels, 1)."""
        return _parameters(self.out_shape(shape)[0])

    def statistics(self, shape: Shape) -> tuple[Statistic, ...]:
        n = self.out_shape(shape)[0]
        return Statistic("mean", n, 0.0), Statistic("variance", n, 1.0)

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, Memory]:
        """A (…, channels, places …, m) → Z of the same shape."""
        shape = self.out_shape(told.shape)
        gain, b = P["gain"], P["b"]
        S = _as_matrix(xp, A, len(shape), shape[0])
        if told.training:
            normalised = kernels.normalise(xp, S, gain, b, -1)
        else:
            mean, variance = told.running["mean"], told.running["variance"]
            Z = kernels.normalise_by(xp, S, gain, b, mean, variance)
            normalised = Normalised(Z, S, 1 / xp.sqrt(variance + EPSILON), mean, variance)
        Z = normalised.Z
        return xp.reshape(Z, (*Z.shape[:-2], *shape, A.shape[-1])), Memory(
            normalised, not told.training, math.prod(shape[1:])
        )

    def backward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], memory: Memory, dA: Array
    ) -> tuple[Array | None, dict[str, Array]]:
        """δ → ∂J/∂A through both moments, or past them where they were given."""
        normalised, given, _ = memory
        columns = normalised.N.shape[-1]
        lead = normalised.Z.shape[:-2]
        delta = xp.reshape(dA, (*lead, normalised.Z.shape[-2], columns))
        if given:
            _, S, inverse_deviation, mean, _ = normalised
            dS = P["gain"] * inverse_deviation * delta
            dgain = xp.sum(delta * ((S - mean) * inverse_deviation), axis=-1, keepdims=True)
        else:
            dS, dgain = kernels.normalise_gradient(xp, delta, P["gain"], normalised, -1)
        db = xp.sum(delta, axis=-1, keepdims=True)
        return xp.reshape(dS, dA.shape), {"gain": dgain, "b": db}

    def newest(self, xp: Namespace, memory: Memory, m: Any) -> dict[str, Array]:
        """The batch's mean and unbiased variance, (…, channels, 1); of one number no variance."""
        normalised = memory.normalised
        shape = (*normalised.Z.shape[:-1], 1)
        found = {"mean": xp.broadcast_to(normalised.mean, shape)}
        variance = unbiased(xp, normalised.variance, memory.places * m)
        if variance is not None:
            found["variance"] = xp.broadcast_to(variance, shape)
        return found


@dataclass(frozen=True)
class LayerNorm(Plain):
    """Layer normalisation of each example (Ba, Kiros & Hinton 2016, eq. 4).

        Z = gain (A - mean) / √(variance + ε) + b

    (features, …) → the same, alike in training and evaluation. The moments are taken over

    over  "features": the first axis, at each step or place by itself (as transformers do);
                      gain and b are of a feature
          "all":      all axes of an example; gain and b are of each of its numbers (PyTorch's
                      LayerNorm of the whole shape)

    For (features,) both are the same. Over "all", steps after the end of a shorter sequence
    are counted.
    """

    over: str = "features"

    def __post_init__(self) -> None:
        options.one_of("over", self.over, ("features", "all"))

    def out_shape(self, shape: Shape) -> Shape:
        if not shape:
            raise options.unfit(self, shape, "features first, (features, …)", "Give features.")
        return shape

    def _n(self, shape: Shape) -> int:
        shape = self.out_shape(shape)
        return math.prod(shape) if self.over == "all" else shape[0]

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """gain and b, (features, 1), or of all numbers of an example."""
        return _parameters(self._n(shape))

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, Normalised]:
        """A (…, features, places …, m) → Z of the same shape."""
        S = _as_matrix(xp, A, len(told.shape), self._n(told.shape))
        normalised = kernels.normalise(xp, S, P["gain"], P["b"], -2)
        Z = normalised.Z
        return xp.reshape(Z, (*Z.shape[:-2], *told.shape, A.shape[-1])), normalised

    def backward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], memory: Normalised, dA: Array
    ) -> tuple[Array | None, dict[str, Array]]:
        """δ → ∂J/∂A through both moments, and of gain and b."""
        delta = xp.reshape(dA, memory.Z.shape)
        dS, dgain = kernels.normalise_gradient(xp, delta, P["gain"], memory, -2)
        db = xp.sum(delta, axis=-1, keepdims=True)
        return xp.reshape(dS, dA.shape), {"gain": dgain, "b": db}
