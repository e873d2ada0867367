"""The documents' single steps: parameters, one layer forward and backward, costs, update.

Each is a thin layer over the kernels. `tutorial` explains the conventions and exports
the public names; what else stands here is the border they share: names to rows,
targets to the shape of the outputs, probabilities to scores.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace, device, is_array_api_obj

from .activations import IDENTITY, RELU, SIGMOID, Activation
from .draws import Draw
from .initializers import INITIALIZERS
from .kernels import SPEC
from .losses import LOSSES, Loss
from .optimizers import SGD
from .types import Array, Namespace

Parameters: TypeAlias = dict[str, Array]
LinearCache: TypeAlias = tuple[Array, Array, Array]  # A_prev, W, b
Cache: TypeAlias = tuple[LinearCache, Array]  # and Z

ACTIVATIONS: dict[str, Activation] = {"sigmoid": SIGMOID, "relu": RELU, "none": IDENTITY}


class LegacyDraw(Draw):
    """Draws of `numpy.random.seed(seed)`, from a stream of their own; None seeds afresh."""

    def __init__(self, seed: int | None) -> None:
        self._random = np.random.RandomState(seed)

    def uniform(self, *shape: int) -> npt.NDArray[np.float64]:
        """Uniform on (-1, 1)."""
        return np.asarray(self._random.uniform(-1, 1, shape))

    def normal(self, *shape: int) -> npt.NDArray[np.float64]:
        """Standard normal."""
        return np.asarray(self._random.standard_normal(shape))

    def permutation(self, m: int) -> npt.NDArray[np.int64]:
        """0 … m - 1, shuffled."""
        return self._random.permutation(m)


def library(**arrays: Any) -> Namespace:
    """The namespace of arguments by their names; numbers beside arrays go with any."""
    try:
        return array_namespace(*arrays.values())
    except TypeError:
        wrong = [name for name, value in arrays.items() if not is_array_api_obj(value)]
        if not wrong:  # arrays of two libraries
            raise
        raise TypeError(
            f"{wrong[0]} is of type {type(arrays[wrong[0]]).__name__}, but expected an array: "
            f"np.asarray({wrong[0]}) makes one."
        ) from None


def same_shape(name: str, value: Any, like: str, other: Array) -> None:
    """ValueError where two shapes differ, which would be stretched to each other unasked."""
    shape = tuple(getattr(value, "shape", ()))
    if shape != tuple(other.shape):
        cure = ""
        if len(shape) == other.ndim - 1:
            cure = " A sum over the examples stays a column with keepdims=True."
        raise ValueError(
            f"{name} has shape {shape}, but {like} {tuple(other.shape)}: expected the same.{cure}"
        )


def activation_named(name: str) -> Activation:
    """The row for "sigmoid", "relu" or "none"."""
    if name not in ACTIVATIONS:
        choices = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"activation is {name!r}, but expected one of {choices}")
    return ACTIVATIONS[name]


def targets(xp: Namespace, Y: Array, AL: Array, loss: Loss) -> Array:
    """Y in the shape and dtype of AL (n_out, m); a vector (m,) is the row of one output.

    loss  what they are for: a cross-entropy takes none outside [0, 1]
    """
    if Y.ndim == 1 and AL.shape[0] == 1:
        Y = Y[None, :]
    if AL.ndim != 2 or Y.shape != AL.shape:
        raise ValueError(
            f"Y has shape {tuple(Y.shape)} and AL {tuple(AL.shape)}, but both are to be "
            "(n_out, m), an example a column. Are your examples rows? Pass Y.T."
        )
    if loss.kind != "real" and bool(xp.any((Y < 0) | (Y > 1))):
        raise ValueError(
            "Y has values outside [0, 1], but the cross-entropy takes labels 0 and 1. For -1 "
            "and 1 pass (Y + 1) / 2; numbers are for the squared cost, with the output 'none'."
        )
    return xp.astype(Y, AL.dtype)


def real(xp: Namespace, A: Array) -> Array:
    """A, whole numbers and truths in the library's usual floating dtype."""
    if xp.isdtype(A.dtype, "real floating"):
        return A
    return xp.astype(A, xp.asarray(0.0).dtype)


def scores_of(xp: Namespace, AL: Array) -> Array:
    """Scores whose sigmoid is AL, log(a / (1 - a)), and finite ones where a is 0 or 1.

    There ±2 log(smallest normal number): e^-|s| is 0, so that being certain and right
    costs exactly 0, and certain and wrong more than any probability in between.
    """
    if bool(xp.any((AL < 0) | (AL > 1))):
        raise ValueError(
            "AL has values outside [0, 1], but the cross-entropy takes probabilities. "
            "Is the last activation a sigmoid?"
        )
    inside = (AL > 0) & (AL < 1)
    a = xp.where(inside, AL, xp.full_like(AL, 0.5))
    bound = -2 * math.log(float(xp.finfo(AL.dtype).smallest_normal))
    return xp.where(inside, xp.log(a) - xp.log1p(-a), bound * (2 * AL - 1))


def draw_parameters(
    sizes: Sequence[int],
    seed: int | None,
    initializer: str,
    like: Array | None,
    bias_scale: float = 0.0,
) -> Parameters:
    """W1, b1, W2, b2, … drawn in this order; `like` gives library, dtype and device."""
    if initializer not in INITIALIZERS:
        choices = ", ".join(map(repr, INITIALIZERS))
        raise ValueError(f"initializer is {initializer!r}, but expected one of {choices}")
    try:
        sizes = [operator.index(n) for n in sizes]
    except TypeError:
        raise TypeError(
            f"the sizes are {sizes!r}, but expected a list of whole numbers: features, widths of "
            "the hidden layers, outputs, such as [5, 4, 1]"
        ) from None
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(
            f"the sizes are {sizes}, but expected at least two numbers ≥ 1: features, widths "
            "of the hidden layers, outputs, such as [5, 4, 1]"
        )
    draw = LegacyDraw(seed)
    parameters = {}
    for i, (n_in, n_out) in enumerate(pairwise(sizes), 1):
        W = INITIALIZERS[initializer](draw, n_out, n_in, n_in, n_out)
        b = bias_scale * draw.normal(n_out, 1) if bias_scale else np.zeros((n_out, 1))
        parameters[f"W{i}"] = _put(W, like)
        parameters[f"b{i}"] = _put(b, like)
    return parameters


def _put(array: npt.NDArray[np.float64], like: Array | None) -> Array:
    if like is None:
        return array
    xp = array_namespace(like)
    dtype = like.dtype if xp.isdtype(like.dtype, "real floating") else None
    return xp.asarray(array, dtype=dtype, device=device(like))


def initialize_parameters(
    n_x: int,
    n_h: int,
    n_y: int,
    *,
    seed: int | None = 1,
    initializer: str = "normal",
    like: Array | None = None,
) -> Parameters:
    """Parameters of a network with one hidden layer. Fifth document.

    As `initialize_parameters_deep([n_x, n_h, n_y])`, with the document's seed for two layers.
    """
    return draw_parameters((n_x, n_h, n_y), seed, initializer, like)


def initialize_parameters_deep(
    layer_dims: Sequence[int],
    *,
    seed: int | None = 3,
    initializer: str = "normal",
    like: Array | None = None,
) -> Parameters:
    """Parameters of len(layer_dims) - 1 layers. Fifth document, and the third.

    seed         of the legacy generator, whose global state is left alone; None draws
                 afresh in every call, as the third document does
    initializer  a name in INITIALIZERS: "normal" is 0.01 randn, the fifth's; "lecun" is
                 randn / √n_in, the third's; "he" is right for relu (second document)
    like         an array, such as X, whose library, dtype and device the parameters get

    Returns {"W1": (layer_dims[1], layer_dims[0]), "b1": (layer_dims[1], 1), …}, biases zero.
    """
    return draw_parameters(layer_dims, seed, initializer, like)


def init_parameters(
    layers_dims: Sequence[int],
    *,
    seed: int | None = None,
    initializer: str = "normal",
    like: Array | None = None,
) -> Parameters:
    """`initialize_parameters_deep` without a seed of its own. First document."""
    return draw_parameters(layers_dims, seed, initializer, like)


def sigmoid(Z: Array) -> tuple[Array, Array]:
    """A = 1 / (1 + e⁻ᶻ) and the cache, Z. Third and fifth documents; A alone in the second."""
    return SPEC.activate(library(Z=Z), Z, SIGMOID), Z


def relu(Z: Array) -> tuple[Array, Array]:
    """A = max(0, z) and the cache, Z. Third and fifth documents; A alone in the second."""
    return SPEC.activate(library(Z=Z), Z, RELU), Z


def sigmoid_gradient(Z: Array) -> Array:
    """∂A/∂Z of the sigmoid. Second document."""
    xp = library(Z=Z)
    return SIGMOID.slope(xp, SPEC.activate(xp, Z, SIGMOID))


def relu_gradient(Z: Array) -> Array:
    """∂A/∂Z of relu: 1 where z > 0, else 0. Second document."""
    xp = library(Z=Z)
    return RELU.slope(xp, SPEC.activate(xp, Z, RELU))


def linear_forward(A: Array, W: Array, b: Array) -> tuple[Array, LinearCache]:
    """Z = W A + b and the cache (A, W, b). Third and fifth documents.

    A (n_in, m), W (n_out, n_in), b (n_out, 1) → Z (n_out, m)
    """
    Z, cache = linear_activation_forward(A, W, b, "none")
    return Z, cache[0]


def linear_combination(A_prev: Array, W: Array, b: Array) -> Array:
    """Z = W A + b (n_out, m). Second document."""
    return linear_activation_forward(A_prev, W, b, "none")[0]


def linear_activation_forward(
    A_prev: Array, W: Array, b: Array, activation: str
) -> tuple[Array, Cache]:
    """A = f(W A_prev + b) and the cache ((A_prev, W, b), Z). First, third, fifth documents.

    A_prev      (n_in, m), W (n_out, n_in), b (n_out, 1)
    activation  "sigmoid", "relu", or "none" for A = Z
    """
    f = activation_named(activation)
    xp = library(A_prev=A_prev, W=W, b=b)
    n_out, n_in = W.shape[-2:]
    if A_prev.ndim != 2 or A_prev.shape[0] != n_in:
        cure = "One example x is a column: pass x[:, None]."
        if A_prev.ndim == 2:
            cure = "Are your examples rows? Pass X.T."
        raise ValueError(
            f"A_prev has shape {tuple(A_prev.shape)}, but W {tuple(W.shape)} takes "
            f"{n_in} inputs: expected ({n_in}, m). {cure}"
        )
    shape = tuple(getattr(b, "shape", ()))  # a number is every unit's
    if shape not in ((), (n_out, 1)):
        raise ValueError(
            f"b has shape {shape}, but W {tuple(W.shape)} gives {n_out} outputs: "
            f"expected ({n_out}, 1), a column. A vector b is one as b[:, None]."
        )
    Z, A = SPEC.layer(xp, W, A_prev, b, f)
    return A, ((A_prev, W, b), Z)


def compute_cost(AL: Array, Y: Array) -> Array:
    """Binary cross-entropy, -1/m Σ y log a + (1 - y) log(1 - a), (). Third, fifth documents.

    AL  (n_out, m)  probabilities; 0 and 1 are allowed
    Y   (n_out, m)  labels 0 and 1, of any dtype, or between; (m,) for one output

    Summed over the outputs, mean over the examples.
    """
    xp = library(AL=AL, Y=Y)
    AL = real(xp, AL)
    loss = LOSSES["multilabel"]
    return SPEC.score(xp, loss, scores_of(xp, AL), targets(xp, Y, AL, loss), None)[0]


def compute_error(AL: Array, Y: Array) -> Array:
    """`compute_cost`, under the name of the second document."""
    return compute_cost(AL, Y)


def squared_cost(m: int, AL: Array, Y: Array) -> Array:
    """1/m Σ (y - a)², (): the cost whose gradient the first document descends.

    m  the number of examples, Y.shape[1]; there the function is called compute_cost
    """
    xp = library(AL=AL, Y=Y)
    AL = real(xp, AL)
    loss = LOSSES["squared_error"]
    return 2 / m * xp.sum(loss.value(xp, AL, targets(xp, Y, AL, loss)))


def relu_backward(dA: Array, cache: Array) -> Array:
    """dZ = dA ∘ f'(Z) of relu; the cache is Z. Third and fifth documents."""
    return _through(dA, cache, RELU)


def sigmoid_backward(dA: Array, cache: Array) -> Array:
    """dZ = dA ∘ f'(Z) of the sigmoid; the cache is Z. Third and fifth documents."""
    return _through(dA, cache, SIGMOID)


def _through(dA: Array, Z: Array, activation: Activation) -> Array:
    xp = library(dA=dA, Z=Z)
    same_shape("dA", dA, "the cache Z", Z)
    A = SPEC.activate(xp, Z, activation)
    return SPEC.activation_gradient(xp, dA, A, activation, None)[0]


def linear_backward(dZ: Array, cache: LinearCache) -> tuple[Array, Array, Array]:
    """dA_prev = Wᵀ dZ, dW = dZ A_prevᵀ / m, db = Σ dZ / m. Third and fifth documents.

    dZ     (n_out, m)  of each example's own loss: the mean over examples is taken here
    cache  (A_prev, W, b) of `linear_forward`
    """
    A_prev, W, _ = cache
    xp = library(dZ=dZ, A_prev=A_prev, W=W)
    if tuple(dZ.shape) != (W.shape[0], A_prev.shape[1]):
        raise ValueError(
            f"dZ has shape {tuple(dZ.shape)}, but W {tuple(W.shape)} and A_prev "
            f"{tuple(A_prev.shape)} give Z of shape {(W.shape[0], A_prev.shape[1])}: expected that."
        )
    delta, db = SPEC.activation_gradient(xp, dZ / dZ.shape[-1], dZ, IDENTITY, None)
    return SPEC.input_gradient(xp, W, dZ), SPEC.weight_gradient(xp, delta, A_prev), db


def backward_linear_combination(
    dZ: Array, A_prev: Array, W: Array, b: Array
) -> tuple[Array, Array, Array]:
    """`linear_backward`, with the arguments of the second document."""
    return linear_backward(dZ, (A_prev, W, b))


def linear_activation_backward(
    dA: Array, cache: Cache, activation: str
) -> tuple[Array, Array, Array]:
    """dA_prev, dW and db from dA. First, third and fifth documents.

    cache  ((A_prev, W, b), Z) of `linear_activation_forward`
    """
    linear_cache, Z = cache
    return linear_backward(_through(dA, Z, activation_named(activation)), linear_cache)


def update_parameters(
    parameters: Mapping[str, Array], grads: Mapping[str, Array], learning_rate: float
) -> Parameters:
    """W - rate dW and b - rate db, in a new dictionary. Third and fifth documents."""
    gradients = {f"d{name}": grads[f"d{name}"] for name in parameters}
    xp = library(**parameters, **gradients)
    for name, value in parameters.items():
        same_shape(f"d{name}", gradients[f"d{name}"], name, value)
    sgd = SGD(learning_rate)
    scalars = sgd.scalars(learning_rate, 1)
    return {
        name: SPEC.update(xp, sgd, value, grads["d" + name], (), scalars, None)[0]
        for name, value in parameters.items()
    }


def update_parameters_sgd(
    parameters: Mapping[str, Array], gradients: Mapping[str, Array], learning_rate: float
) -> Parameters:
    """`update_parameters`, under the name of the second document: nothing is overwritten."""
    return update_parameters(parameters, gradients, learning_rate)
