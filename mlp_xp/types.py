"""All that travels between the parts: plain tuples of arrays, no behaviour.

Shapes are written for one network. Every array may carry one more leading axis,
(n_networks, …): that many independent networks, trained in the same calls.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

Array: TypeAlias = Any  # an array of any library that follows the array API standard
Namespace: TypeAlias = Any  # that library's namespace, `xp`


class Layer(NamedTuple):
    """Parameters of one layer, or their gradients: views of one flat vector.

    W     (n_out, n_in)  weights
    b     (n_out, 1)     bias; in a normalised layer added after the normalisation
    gain  (n_out, 1)     scale of the normalised values, or None
    P     (n_out, n_in)  projection of a skip connection between unequal widths, or None
    """

    W: Array
    b: Array
    gain: Array | None = None
    P: Array | None = None


class Normalised(NamedTuple):
    """What normalisation leaves behind.

    Z                  (n_out, n_examples)  gain · N + b
    N                  (n_out, n_examples)  zero mean, unit variance along the axis
    inverse_deviation  1 / √(variance + ε), kept along the axis as length 1
    mean, variance     the moments, of the same shape
    """

    Z: Array
    N: Array
    inverse_deviation: Array
    mean: Array
    variance: Array


class Memory(NamedTuple):
    """What one layer's forward pass keeps for its backward pass.

    A_in        (n_in, n_examples)   the layer's input
    Z           (n_out, n_examples)  what the activation is applied to
    H           (n_out, n_examples)  f(Z)
    A           (n_out, n_examples)  the layer's output: H after dropout and skip
    mask        (n_out, n_examples)  0 or 1 / (1 - rate); None without dropout
    normalised  the normalisation's leavings, or None
    """

    A_in: Array
    Z: Array
    H: Array
    A: Array
    mask: Array | None = None
    normalised: Normalised | None = None


class State(NamedTuple):
    """Everything that changes in training; a step takes one and returns the next.

    theta    (n_parameters,)  all weights, then projections, biases and gains
    moments  flat vectors like theta, as many as the optimiser keeps
    running  (n_statistics,)  running means and variances of batch normalisation
    step     updates done so far
    loss     ()               objective of the last batch, before its update
    """

    theta: Array
    moments: tuple[Array, ...]
    running: Array
    step: int
    loss: Array | None = None
