"""A network: what it is made of, its initial parameters, forward and backward.

A hidden layer maps A_in (n_in, m) to A (n_out, m):

    S = W A_in                                    product
    Z = S + b,  or  gain · normalise(S) + b       b stays after the normalisation
    H = f(Z)
    A = mask ∘ H + skip                           skip: A_in, or P A_in between widths

The last layer is linear: its Z are the scores. Loops over layers, nothing else; all
arithmetic is in the kernels.

All parameters lie in ONE flat vector, weights and projections first (what decays), then
biases and gains. `split` gives the per-layer views, `join` goes back.

The methods of `Network`, which `architecture` asks for, are this module's functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .activations import IDENTITY, Activation
from .architecture import CHUNK, Forward, Slot
from .cached import cached_property
from .draws import Draw, Purpose, permutation
from .hardware import Device
from .initializers import Initializer, weights_by
from .kernels import EPSILON, Kernels, newest_or, unbiased
from .types import Array, Layer, Memory, Namespace

Normalization = Literal["none", "batch", "layer"]
AXES: dict[Normalization, int] = {"batch": -1, "layer": -2}
RUNNING_SHARE = 0.1  # of the newest batch in the running moments


@dataclass(frozen=True)
class Network:
    """The fixed description of a network of fully connected layers.

    sizes          n_features, widths of the hidden layers, n_outputs
    activations    one for each hidden layer
    dropout        rate in [0, 1) for each hidden layer
    normalization  "none", "batch" or "layer": of every hidden layer, before its activation
    residual       hidden layers add their input to their output, through a learnt
                   projection P where the widths differ
    density        share of connections kept in every hidden layer's W: at least one
                   input a unit, fixed at random, the same throughout training
    """

    sizes: tuple[int, ...]
    activations: tuple[Activation, ...]
    dropout: tuple[float, ...]
    normalization: Normalization = "none"
    residual: bool = False
    density: float = 1.0

    @property
    def n_hidden(self) -> int:
        return len(self.sizes) - 2

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """All parameters in the order they lie in the flat vector."""
        weights: list[tuple[str, int, tuple[int, int]]] = []
        others: list[tuple[str, int, tuple[int, int]]] = []
        for i, (n_in, n_out) in enumerate(pairwise(self.sizes)):
            hidden = i < self.n_hidden
            weights.append(("W", i, (n_out, n_in)))
            if hidden and self.residual and n_in != n_out:
                weights.append(("P", i, (n_out, n_in)))
            others.append(("b", i, (n_out, 1)))
            if hidden and self.normalization != "none":
                others.append(("gain", i, (n_out, 1)))
        slots, start = [], 0
        for field, i, shape in weights + others:
            slots.append(Slot(f"{field}{i + 1}", field, i, start, shape))
            start = slots[-1].stop
        return tuple(slots)

    @cached_property
    def n_weights(self) -> int:
        """How many of the first parameters are weights, which decay."""
        return max(slot.stop for slot in self.slots if slot.field in ("W", "P"))

    @cached_property
    def n_parameters(self) -> int:
        return self.slots[-1].stop

    @cached_property
    def n_statistics(self) -> int:
        """Length of the running moments: a mean and a variance for each normalised unit."""
        return 2 * sum(self.sizes[1:-1]) if self.normalization == "batch" else 0

    @cached_property
    def n_dropped(self) -> int:
        """How many dropout bits one example takes."""
        return sum(n for n, rate in zip(self.sizes[1:-1], self.dropout, strict=True) if rate > 0)

    @property
    def sparse(self) -> bool:
        return self.density != 1.0

    @property
    def by_batch(self) -> bool:
        return self.normalization == "batch"

    at_once = CHUNK  # no field: it has no annotation

    @property
    def work(self) -> int:
        return self.n_weights

    def check_rows(self, argument: str, device: Device, rows: Array) -> None:
        """They take any."""

    def threads(self, device: Device, batch_size: int) -> AbstractContextManager[object]:
        return device.threads(self.sizes, batch_size)

    @property
    def written(self) -> str:
        return "-".join(map(str, self.sizes))

    @cached_property
    def statistics(self) -> tuple[tuple[str, int], ...]:
        """Name and length of each part of the running moments, in order."""
        if self.normalization != "batch":
            return ()
        widths = enumerate(self.sizes[1:-1], 1)
        return tuple((f"{kind}{i}", n) for i, n in widths for kind in ("mean", "variance"))

    # what `Architecture` says: the functions below, which name the network first

    def initialise(
        self, seed: int, initializers: Sequence[Initializer], dtype: str
    ) -> npt.NDArray[Any]:
        return initialise(self, seed, initializers, dtype)

    def initial_statistics(self) -> npt.NDArray[np.float64]:
        return initial_statistics(self)

    def connections(self, seed: int) -> npt.NDArray[np.float64] | None:
        return connections(self, seed)

    def split(self, xp: Namespace, theta: Array) -> list[Layer]:
        return split(self, xp, theta)

    def join(self, xp: Namespace, layers: Sequence[Layer]) -> Array:
        return join(self, xp, layers)

    def forward(
        self,
        kernels: Kernels,
        xp: Namespace,
        layers: Sequence[Layer],
        X: Array,
        *,
        running: Array | None = None,
        bits: Array | None = None,
    ) -> Forward:
        return forward(self, kernels, xp, layers, X, running=running, bits=bits)

    def backward(
        self,
        kernels: Kernels,
        xp: Namespace,
        layers: Sequence[Layer],
        memories: Sequence[Memory],
        delta: Array,
        db: Array,
    ) -> tuple[list[Layer], list[Array]]:
        return backward(self, kernels, xp, layers, memories, delta, db)

    def batch_statistics(
        self, xp: Namespace, memories: Sequence[Memory], m: Any, running: Array
    ) -> Array:
        return batch_statistics(self, xp, memories, m, running)

    def predicting(
        self, xp: Namespace, layers: Sequence[Layer], running: Array
    ) -> tuple[Network, Sequence[Layer]]:
        """Without batch normalisation, whose running moments are `folded` into the weights."""
        if self.normalization != "batch":
            return self, layers
        bare = replace(self, normalization="none")
        return bare, split(bare, xp, join(bare, xp, folded(self, xp, layers, running)))

    def look(
        self,
        kernels: Kernels,
        xp: Namespace,
        layers: Sequence[Layer],
        X: Array,
        bits: Array | None,
        score: Callable[[Array], tuple[Array, Array]],
    ) -> dict[str, Array]:
        """Z, A, delta and mask of every layer."""
        scores, memories = self.forward(kernels, xp, layers, X, bits=bits)
        _, deltas = self.backward(kernels, xp, layers, memories, *score(scores))
        seen: dict[str, Array] = {}
        for i, (memory, delta) in enumerate(zip(memories, deltas, strict=True), 1):
            seen[f"Z{i}"], seen[f"A{i}"], seen[f"delta{i}"] = memory.Z, memory.A, delta
            if memory.mask is not None:
                seen[f"mask{i}"] = memory.mask
        return seen


def initialise(
    network: Network, seed: int, initializers: Sequence[Initializer], dtype: str
) -> npt.NDArray[Any]:
    """Initial parameters (n_parameters,) on the host, drawn in float64.

    W and P by the layer's initialiser, b zero, gain one. The draws of a layer depend on
    the seed and the layer's number only.
    """
    theta = np.zeros(network.n_parameters, dtype)
    connected = connections(network, seed)
    for slot in network.slots:
        n_out, n_in = slot.shape
        density = _density(network, slot)
        if slot.field == "gain":
            theta[slot.start : slot.stop] = 1
        elif slot.field in ("W", "P"):
            purpose = Purpose.WEIGHTS if slot.field == "W" else Purpose.PROJECTION
            draw = Draw(seed, purpose, slot.layer)
            fan_in, fan_out = max(1.0, density * n_in), max(1.0, density * n_out)
            W = weights_by(initializers[slot.layer], draw, n_out, n_in, fan_in, fan_out)
            theta[slot.start : slot.stop] = np.reshape(W, -1)
    return theta if connected is None else theta * connected.astype(dtype)


def _density(network: Network, slot: Slot) -> float:
    sparse = slot.field == "W" and slot.layer < network.n_hidden
    return network.density if sparse else 1.0


def connections(network: Network, seed: int) -> npt.NDArray[np.float64] | None:
    """1 where a parameter takes part, 0 where a connection is absent; None if all do.

    Every unit of a sparse layer keeps the same number of inputs, `density` of them
    rounded and at least one, drawn without replacement.
    """
    if network.density == 1.0:
        return None
    mask = np.ones(network.n_parameters)
    for slot in network.slots:
        n_out, n_in = slot.shape
        kept = max(1, round(_density(network, slot) * n_in))
        if kept < n_in and slot.field == "W":
            order = permutation(seed, Purpose.CONNECTIONS, slot.layer, n_out * n_in)
            rank = np.argsort(np.argsort(order.reshape(n_out, n_in), axis=1), axis=1)
            mask[slot.start : slot.stop] = (rank < kept).reshape(-1)
    return mask


def split(network: Network, xp: Namespace, theta: Array) -> list[Layer]:
    """The flat vector (…, n_parameters) as layers of (…, n_out, n_in) arrays."""
    fields: list[dict[str, Array]] = [{} for _ in network.sizes[1:]]
    leading = theta.shape[:-1]
    for slot in network.slots:
        part = theta[..., slot.start : slot.stop]
        fields[slot.layer][slot.field] = xp.reshape(part, (*leading, *slot.shape))
    return [Layer(**field) for field in fields]


def join(network: Network, xp: Namespace, layers: Sequence[Layer]) -> Array:
    """Layers, or their gradients, as one flat vector (…, n_parameters)."""
    parts = []
    for slot in network.slots:
        part = getattr(layers[slot.layer], slot.field)
        parts.append(xp.reshape(part, (*part.shape[:-2], math.prod(slot.shape))))
    return xp.concat(parts, axis=-1)


def folded(network: Network, xp: Namespace, layers: Sequence[Layer], running: Array) -> list[Layer]:
    """Layers without normalisation that do in evaluation what batch-normalised ones do.

    gain (W A - μ) / √(σ² + ε) + b is W' A + b' with W' = s W, b' = b - s μ and
    s = gain / √(σ² + ε); μ and σ² are the running moments, (…, n_statistics).
    """
    result, start = [], 0
    for layer in layers[:-1]:
        n = layer.W.shape[-2]
        mean = running[..., start : start + n, None]
        variance = running[..., start + n : start + 2 * n, None]
        start += 2 * n
        scale = layer.gain / xp.sqrt(variance + EPSILON)
        result.append(layer._replace(W=scale * layer.W, b=layer.b - scale * mean, gain=None))
    return [*result, layers[-1]]


def masks(
    network: Network, kernels: Kernels, xp: Namespace, bits: Array | None, m: int, dtype: object
) -> list[Array | None]:
    """A dropout mask (…, n_out, m) for each hidden layer, None where nothing is dropped.

    bits  (…, n_dropped · m) uniform 16-bit integers, or None in evaluation
    """
    result: list[Array | None] = []
    start = 0
    for n_out, rate in zip(network.sizes[1:-1], network.dropout, strict=True):
        if bits is None or rate == 0:
            result.append(None)
            continue
        part = bits[..., start : start + n_out * m]
        start += n_out * m
        part = xp.reshape(part, (*part.shape[:-1], n_out, m))
        result.append(kernels.dropout_mask(xp, part, rate, dtype))
    return result


def forward(
    network: Network,
    kernels: Kernels,
    xp: Namespace,
    layers: Sequence[Layer],
    X: Array,
    *,
    running: Array | None = None,
    bits: Array | None = None,
) -> Forward:
    """Scores of the examples X (n_features, m).

    running  (…, n_statistics) to normalise batches by, as in evaluation; None takes the
             moments of X itself, as in training
    bits     dropout bits; None drops nothing
    """
    drop = masks(network, kernels, xp, bits, X.shape[-1], X.dtype)
    A = X
    memories, start = [], 0
    for layer, activation, mask in zip(layers, network.activations, drop, strict=False):
        A_in, normalised = A, None
        if layer.gain is None:
            Z, H = kernels.layer(xp, layer.W, A_in, layer.b, activation)
        else:
            S = kernels.product(xp, layer.W, A_in)
            if network.normalization == "batch" and running is not None:
                n = layer.W.shape[-2]
                mean = running[..., start : start + n, None]
                variance = running[..., start + n : start + 2 * n, None]
                start += 2 * n
                Z = kernels.normalise_by(xp, S, layer.gain, layer.b, mean, variance)
            else:
                axis = AXES[network.normalization]
                normalised = kernels.normalise(xp, S, layer.gain, layer.b, axis)
                Z = normalised.Z
            H = kernels.activate(xp, Z, activation)
        A = H if mask is None else kernels.dropout(xp, H, mask)
        if network.residual:
            A = A + (A_in if layer.P is None else kernels.product(xp, layer.P, A_in))
        memories.append(Memory(A_in, Z, H, A, mask, normalised))
    last = layers[-1]
    S, _ = kernels.layer(xp, last.W, A, last.b, IDENTITY)
    memories.append(Memory(A, S, S, S))
    return Forward(S, tuple(memories))


def backward(
    network: Network,
    kernels: Kernels,
    xp: Namespace,
    layers: Sequence[Layer],
    memories: Sequence[Memory],
    delta: Array,
    db: Array,
) -> tuple[list[Layer], list[Array]]:
    """Gradients of every layer's parameters, and its δ = ∂J/∂Z, first layer first.

    delta, db  ∂J/∂S and its sum over the examples, from `kernels.score`

    The first layer's input gradient is never computed.
    """
    gradients, deltas = [], [delta]
    dW = kernels.weight_gradient(xp, delta, memories[-1].A_in)
    gradients.append(Layer(dW, db))
    dS, skipped = delta, None  # what flows back through the product, and beside it
    for i in reversed(range(network.n_hidden)):
        layer, memory, activation = layers[i], memories[i], network.activations[i]
        dA = kernels.input_gradient(xp, layers[i + 1].W, dS)
        if skipped is not None:
            dA = dA + skipped
        V = memory.H if activation.slope_of == "A" else memory.Z
        delta, db = kernels.activation_gradient(xp, dA, V, activation, memory.mask)
        dS, dgain, dP = delta, None, None
        if memory.normalised is not None:
            dS, dgain = kernels.normalise_gradient(
                xp, delta, layer.gain, memory.normalised, AXES[network.normalization]
            )
        if network.residual and layer.P is not None:
            dP = kernels.weight_gradient(xp, dA, memory.A_in)
        if network.residual and i > 0:
            skipped = dA if layer.P is None else kernels.input_gradient(xp, layer.P, dA)
        dW = kernels.weight_gradient(xp, dS, memory.A_in)
        gradients.append(Layer(dW, db, dgain, dP))
        deltas.append(delta)
    return gradients[::-1], deltas[::-1]


def batch_statistics(
    network: Network, xp: Namespace, memories: Sequence[Memory], m: Any, running: Array
) -> Array:
    """Means and unbiased variances of the batch of m, flat like `State.running`.

    One example tells of no variance: those of `running` stand there.
    """
    parts, start = [], 0
    for memory, n in zip(memories[:-1], network.sizes[1:-1], strict=True):
        assert memory.normalised is not None
        parts.append(memory.normalised.mean[..., 0])
        variance = unbiased(xp, memory.normalised.variance, m)
        known = running[..., start + n : start + 2 * n]
        parts.append(newest_or(xp, None if variance is None else variance[..., 0], known, m))
        start += 2 * n
    return xp.concat(parts, axis=-1)


def initial_statistics(network: Network) -> npt.NDArray[np.float64]:
    """Running moments before any batch: mean 0, variance 1."""
    if network.n_statistics == 0:
        return np.zeros(0)
    return np.concatenate([part for n in network.sizes[1:-1] for part in (np.zeros(n), np.ones(n))])
