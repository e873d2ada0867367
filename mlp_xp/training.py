"""One training step, the mini-batches it takes, and evaluation.

All are functions of values: a `Recipe` (constants), a `State` (what changes), `Data`.
Nothing here reads a number back from the device; `fitting` does, once an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from .architecture import CHUNK as CHUNK
from .architecture import Architecture
from .draws import Purpose, dropout_bits, permutation
from .hardware import Device
from .kernels import Kernels
from .losses import Loss, one_hot, smooth
from .network import RUNNING_SHARE
from .optimizers import Optimizer
from .types import Array, Namespace, State


@dataclass(frozen=True)
class Recipe:
    """What is minimised and how: the constants of a training.

    The objective is the weighted mean loss + ½ l2 Σ W². Its gradient is clipped by value,
    then by norm, then handed to the optimiser.

    network    an `Architecture`; in fast paths, which take no other, and estimators a `Network`
    l2_shared  whether l2 is divided by the total weight of the batch (its size, where
               examples have none): scikit-learn's objective
    decayed    (n_parameters,) 1 for weights, 0 for biases and gains, on the device
    connected  like it, 0 for absent connections; None where all are present
    classes    (n_out,) 0 … n_out - 1, on the device, for labels
    precision  of the operands of products: a row of `kernels.PRECISIONS`. `kernels` are at
               it already (`at_precision`); a step of a device's own has to see to it itself
    """

    network: Any
    loss: Loss
    optimizer: Optimizer
    kernels: Kernels
    decayed: Array
    connected: Array | None
    classes: Array
    l2: float = 0.0
    l2_shared: bool = False
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    clip_value: float | None = None
    precision: str = "float32"


class Gradient(NamedTuple):
    """The objective at theta, its gradient, and what was computed on the way.

    J         ()               objective
    g         (n_parameters,)  ∂J/∂theta
    layers    the gradient by layer
    deltas    ∂J/∂Z by layer, of a network that has it
    memories  what each layer keeps for its backward pass: Z, H, A …
    m         number of examples, as `kernels.whole_batch` gives it
    """

    J: Array
    g: Array
    layers: list[Any]
    deltas: list[Array]
    memories: tuple[Any, ...]
    m: Any


def penalty(recipe: Recipe, xp: Namespace, m: int, weights: Array | None) -> Any:
    """The factor of ½ Σ W² in the objective of a batch of m examples."""
    if not recipe.l2_shared:
        return recipe.l2
    return recipe.l2 / (m if weights is None else xp.sum(weights, axis=-1, keepdims=True))


def objective(recipe: Recipe, xp: Namespace, theta: Array, J: Array, l2: Any) -> Array:
    """The data's loss J with the L2 penalty of theta."""
    if recipe.l2 == 0:
        return J
    return J + xp.sum((0.5 * l2) * (recipe.decayed * theta * theta), axis=-1)


def gradient(
    recipe: Recipe,
    xp: Namespace,
    theta: Array,
    X: Array,
    T: Array,
    weights: Array | None = None,
    bits: Array | None = None,
) -> Gradient:
    """The objective of a batch and its gradient, before any clipping.

    X (n_features, m), T (n_out, m), weights (m,), bits as in `network.forward`
    """
    network: Architecture = recipe.network
    kernels = recipe.kernels
    layers = network.split(xp, theta)
    scores, memories = network.forward(kernels, xp, layers, X, bits=bits)
    J, delta, db = kernels.score(xp, recipe.loss, scores, T, weights)
    by_layer, deltas = network.backward(kernels, xp, layers, memories, delta, db)
    g = network.join(xp, by_layer)
    J, g, m, weights = kernels.whole_batch(xp, J, g, X.shape[-1], weights)
    l2 = penalty(recipe, xp, m, weights)
    if recipe.l2 != 0:
        g = g + l2 * (recipe.decayed * theta)
    if recipe.connected is not None:
        g = g * recipe.connected
    return Gradient(objective(recipe, xp, theta, J, l2), g, by_layer, deltas, memories, m)


def train_step(
    recipe: Recipe,
    xp: Namespace,
    state: State,
    X: Array,
    T: Array,
    weights: Array | None = None,
    bits: Array | None = None,
    rate: Any = None,
) -> State:
    """The state after one update on one batch.

    rate  overrides the optimiser's own; an array (n_networks, 1) gives each network its own, in
          float64: what comes of it is then rounded once, as of a number

    Reads nothing back: `state.loss` is an array that may still be on its way.
    """
    kernels, optimizer = recipe.kernels, recipe.optimizer
    network: Architecture = recipe.network
    J, g, _, _, memories, m = gradient(recipe, xp, state.theta, X, T, weights, bits)
    if recipe.clip_value is not None:
        g = kernels.clip_value(xp, g, recipe.clip_value)
    if recipe.clip_norm is not None:
        g = kernels.clip_norm(xp, g, recipe.clip_norm)
    rate = optimizer.rate if rate is None else rate
    step = state.step + 1
    scalars = tuple(rounded(xp, scalar, g) for scalar in optimizer.scalars(rate, step))
    shrink = None
    if optimizer.weight_decay != 0:
        shrink = rounded(xp, rate * optimizer.weight_decay, g) * recipe.decayed
    theta, moments = kernels.update(xp, optimizer, state.theta, g, state.moments, scalars, shrink)
    running = state.running
    if network.n_statistics > 0:
        newest = network.batch_statistics(xp, memories, m, running)
        running = (1 - RUNNING_SHARE) * running + RUNNING_SHARE * newest
    return State(theta, moments, running, step, J)


def rounded(xp: Namespace, scalar: Any, g: Array) -> Any:
    """A scalar, or an array of one a network in the dtype of g."""
    alone = isinstance(scalar, int | float) or scalar.dtype == g.dtype
    return scalar if alone else xp.astype(scalar, g.dtype)


class Data(NamedTuple):
    """Examples on the device, as rows.

    rows     (m, n_features)
    targets  (m,) labels, or (m, n_out) in the dtype of rows
    weights  (m,) or None
    """

    rows: Array
    targets: Array
    weights: Array | None = None

    @property
    def m(self) -> int:
        return int(self.rows.shape[0])


def pieces(m: int, size: int) -> Iterator[slice]:
    """0 … m in slices of `size`, the last one being what is left."""
    return (slice(start, min(start + size, m)) for start in range(0, m, size))


def take(xp: Namespace, rows: Array, index: Array) -> Array:
    """rows[index] for an index (m,) or (n_networks, m); of sparse rows a dense copy."""
    if hasattr(rows, "toarray"):
        return rows[index].toarray()
    if index.ndim == 1:
        return xp.take(rows, index, axis=0)
    flat = xp.take(rows, xp.reshape(index, (-1,)), axis=0)
    return xp.reshape(flat, (*index.shape, *rows.shape[1:]))


def encode(recipe: Recipe, xp: Namespace, data: Data, targets: Array) -> Array:
    """Some of the data's targets as columns (…, n_out, m): one-hot of labels, or the transpose."""
    if data.targets.ndim == 1:
        return one_hot(xp, targets, recipe.classes, data.rows.dtype)
    return xp.matrix_transpose(targets)


def columns(
    recipe: Recipe, xp: Namespace, data: Data, rows: Array, targets: Array
) -> tuple[Array, Array]:
    """Some of the data's rows and targets as X (n_features, m) and T (n_out, m), T smoothed."""
    T = encode(recipe, xp, data, targets)
    if recipe.label_smoothing > 0:
        T = smooth(recipe.loss.kind, T, recipe.label_smoothing)
    return xp.matrix_transpose(rows), T


def batch(
    recipe: Recipe, xp: Namespace, data: Data, index: Array
) -> tuple[Array, Array, Array | None]:
    """X, T and weights of the examples at `index`: X is a transposed view of a gather.

    Gathering rows and viewing them as columns is many times faster than gathering
    columns; an index (n_networks, m) gives every network its own batch.
    """
    rows, targets = take(xp, data.rows, index), take(xp, data.targets, index)
    X, T = columns(recipe, xp, data, rows, targets)
    return X, T, None if data.weights is None else take(xp, data.weights, index)


# (state, index of the batch's examples, dropout bits, rate) → the next state; the arrays
# of the state given may become those of the state returned
Step: TypeAlias = Callable[[State, Array, Array | None, Any], State]


def stepper(recipe: Recipe, device: Device, data: Data) -> Step:
    """A step on batches of `data`, everything resolved that stays the same.

    The device's own way of building one, or `batch` and `train_step` one after the other.
    """
    fast = None if device.stepper is None else device.stepper(recipe, device, data)
    if fast is not None:
        return cast(Step, fast)

    def step(state: State, index: Array, bits: Array | None, rate: Any) -> State:
        X, T, weights = batch(recipe, device.xp, data, index)
        return train_step(recipe, device.xp, state, X, T, weights, bits, rate)

    return step


def stacked(arrays: Sequence[npt.NDArray[Any]], leading: tuple[int, ...]) -> npt.NDArray[Any]:
    """One array for one network, a stack of them for several."""
    return np.stack(arrays) if leading else arrays[0]


def shuffled(
    seeds: Sequence[int], leading: tuple[int, ...], epoch: int, m: int, part: int = 0
) -> npt.NDArray[np.int64]:
    """The order of the examples in an epoch, or in a part of it: (m,), or (n_networks, m)."""
    orders = [permutation(seed, Purpose.SHUFFLE, epoch, m, part) for seed in seeds]
    return stacked(orders, leading)


def bits_for(
    device: Device,
    network: Architecture,
    seeds: Sequence[int],
    leading: tuple[int, ...],
    step: int,
    m: int,
) -> Array | None:
    """Dropout bits of one step on the device, or None where nothing is dropped."""
    size = network.n_dropped * m
    if size == 0:
        return None
    if device.draw_bits is not None:
        return device.draw_bits(seeds, leading, step, size)
    return device.put(stacked([dropout_bits(seed, step, size) for seed in seeds], leading))


class Score(NamedTuple):
    """How well a model does on some examples: loss and score, () or (n_networks,) each."""

    loss: Any
    score: Any


def scores_of(recipe: Recipe, xp: Namespace, state: State, rows: Array) -> Array:
    """Scores (…, n_out, m) of rows (m, n_features), in evaluation: running moments, no dropout."""
    network: Architecture = recipe.network
    kernels, layers = recipe.kernels, network.split(xp, state.theta)

    def part(piece: slice) -> Array:
        X = xp.matrix_transpose(rows[piece, :])
        return network.forward(kernels, xp, layers, X, running=state.running).scores

    parts = [part(piece) for piece in pieces(rows.shape[0], min(CHUNK, network.at_once))]
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1)


# (recipe, state, rows) → what `scores_of` gives
Scores: TypeAlias = Callable[[Recipe, State, Array], Array]


@runtime_checkable
class Predicts(Protocol):
    """What a device's scorer may do beside."""

    def predictor(self, recipe: Recipe, state: State, most: int) -> Any:
        """rows (m, n_features), m ≤ most → predictions (…, n_out, m) or None; or None."""
        ...


def scorer(device: Device) -> Scores:
    """The device's own way of computing scores, or `scores_of`."""
    if device.scorer is not None:
        return cast(Scores, device.scorer(device))
    return lambda recipe, state, rows: scores_of(recipe, device.xp, state, rows)


def evaluate(
    recipe: Recipe, xp: Namespace, state: State, data: Data, scores: Scores | None = None
) -> Score:
    """The weighted mean loss and the score of `kernels.measure`, as arrays on the device."""
    _, targets, weights = data
    if scores is None:
        S = scores_of(recipe, xp, state, data.rows)
    else:
        S = scores(recipe, state, data.rows)
    classes = recipe.classes
    if targets.ndim == 2:
        targets, classes = xp.matrix_transpose(targets), None
    J, score = recipe.kernels.measure(xp, recipe.loss, S, targets, weights, classes)
    l2 = penalty(recipe, xp, data.m, weights)
    return Score(objective(recipe, xp, state.theta, J, l2), score)
