"""The layer objects and the batch normalisation of the fourth document."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from array_api_compat import device

from .kernels import EPSILON, SPEC
from .losses import LOSSES
from .tutorial_steps import (
    Parameters,
    activation_named,
    draw_parameters,
    library,
    linear_activation_backward,
    linear_activation_forward,
    linear_backward,
    real,
    same_shape,
    scores_of,
    targets,
    update_parameters,
)
from .types import Array, Namespace, Normalised

Memory: TypeAlias = dict[str, Array]
BatchNormCache: TypeAlias = tuple[Normalised, Array]  # and gamma


class Layer:
    """The sizes of a layer and its activation: "relu", "sigmoid" or "none"."""

    def __init__(self, input_size: int, output_size: int, activation_type: str) -> None:
        activation_named(activation_type)
        self.activation_type = activation_type
        self.input_size = input_size
        self.output_size = output_size

    def activation(self, z: Array) -> Array:
        """a = f(z), any shape."""
        return SPEC.activate(library(z=z), z, activation_named(self.activation_type))


class DenseLayer(Layer):
    """A fully connected layer. It holds no parameters; they are arguments."""

    def forward_propagation(self, X_in: Array, W: Array, b: Array) -> tuple[Array, Array]:
        """a = f(z) and z = W X_in + b.

        X_in  (n_in, m), or (n_in,) for one example
        W     (n_out, n_in); b (n_out, 1) or (n_out,)

        Returns a and z, (n_out, m), or (n_out,) for one example.
        """
        xp = library(X_in=X_in, W=W, b=b)
        A_prev, b = X_in[:, None] if X_in.ndim == 1 else X_in, xp.reshape(b, (-1, 1))
        a, (_, z) = linear_activation_forward(A_prev, W, b, self.activation_type)
        return (a[:, 0], z[:, 0]) if X_in.ndim == 1 else (a, z)

    def backward_propagation(
        self, dA: Array, A_prev: Array, W: Array, b: Array, Z: Array
    ) -> tuple[Array, Array, Array]:
        """dA_prev, dW and db from dA (n_out, m), as `linear_activation_backward`."""
        return linear_activation_backward(dA, ((A_prev, W, b), Z), self.activation_type)


class History(NamedTuple):
    """Loss and accuracy before the update of each epoch."""

    cost: list[float]
    accuracy: list[float]


class NN:
    """A network of dense layers, its parameters W1, b1, … in `params_values`.

    layers       each takes as many inputs as the one before gives outputs
    seed         of the legacy generator, whose global state is left alone; None draws afresh
    initializer  "random": W and b 0.01 randn, as printed in the document; or a name in
                 INITIALIZERS, such as "xavier_normal" (Glorot & Bengio 2010), with b zero
    loss         "binary_cross_entropy", which takes a last sigmoid and is then the
                 default; or "squared_error", ½ Σ (a - y)². Both are means over examples.
    like         an array whose library, dtype and device the parameters get
    """

    def __init__(
        self,
        layers: Sequence[DenseLayer],
        seed: int | None = 2021,
        *,
        initializer: str = "random",
        loss: str | None = None,
        like: Array | None = None,
    ) -> None:
        if not layers:
            raise ValueError("layers is empty, but expected at least one DenseLayer")
        for i, (before, after) in enumerate(pairwise(layers), 1):
            if before.output_size != after.input_size:
                raise ValueError(
                    f"layer {i + 1} takes {after.input_size} inputs, but layer {i} gives "
                    f"{before.output_size} outputs: expected equal sizes"
                )
        last = layers[-1].activation_type
        if loss is None:
            loss = "binary_cross_entropy" if last == "sigmoid" else "squared_error"
        choices = ("binary_cross_entropy", "squared_error")[last != "sigmoid" :]
        if loss not in choices:
            raise ValueError(
                f"loss is {loss!r}, but with {last!r} as the last activation expected "
                + " or ".join(map(repr, choices))
            )
        self.layers = list(layers)
        self.n_layers = len(layers)
        self._loss = loss
        drawn = initializer == "random"
        self.params_values: Parameters = draw_parameters(
            [layers[0].input_size, *(layer.output_size for layer in layers)],
            seed,
            "normal" if drawn else initializer,
            like,
            bias_scale=0.01 if drawn else 0.0,
        )

    def predict(self, X_in: Array) -> Array:
        """The network's output, (n_out, m), or (n_out,) for one example (n_features,)."""
        return self.forward_propagation(X_in)[0]

    def forward_propagation(self, X_in: Array) -> tuple[Array, Memory]:
        """The output, and the memory {"A0": X_in, "Z1": …, "A1": …, "Z2": …}."""
        memory: Memory = {}
        A = X_in
        for i, layer in enumerate(self.layers, 1):
            memory[f"A{i - 1}"] = A
            W, b = self.params_values[f"W{i}"], self.params_values[f"b{i}"]
            A, memory[f"Z{i}"] = layer.forward_propagation(A, W, b)
        return A, memory

    def loss(self, y_hat: Array, y: Array, memory: Memory | None = None) -> Array:
        """The mean loss, ().

        y_hat, y  (n_out, m)  outputs and targets
        memory    of the forward pass: the cross-entropy is then taken from the scores,
                  exact even where y_hat is rounded to 0 or 1
        """
        xp = library(y_hat=y_hat, y=y)
        T = targets(xp, y, y_hat, LOSSES[self._loss])
        S = y_hat
        if self._loss == "binary_cross_entropy":
            S = scores_of(xp, y_hat) if memory is None else memory[f"Z{self.n_layers}"]
        return SPEC.score(xp, LOSSES[self._loss], S, T, None)[0]

    def accuracy(self, y_hat: Array, y: Array) -> Array:
        """The share of examples whose outputs all lie on their target's side of ½, ()."""
        xp = library(y_hat=y_hat, y=y)
        right = xp.all((y_hat > 0.5) == (targets(xp, y, y_hat, LOSSES[self._loss]) > 0.5), axis=0)
        return xp.mean(xp.astype(right, y_hat.dtype))

    def backward_propagation(self, y_hat: Array, y: Array, memory: Memory) -> Memory:
        """Gradients {"dA1": …, "dW2": …, "db2": …, …}, last layer first."""
        xp = library(y_hat=y_hat, y=y)
        loss, dA = LOSSES[self._loss], None
        T = targets(xp, y, y_hat, loss)
        grads: Memory = {}
        for i in range(self.n_layers, 0, -1):
            W, b = self.params_values[f"W{i}"], self.params_values[f"b{i}"]
            A_prev, Z = memory[f"A{i - 1}"], memory[f"Z{i}"]
            if i == self.n_layers and self._loss == "binary_cross_entropy":
                # dA is infinite at a = 0 and a = 1; dZ = a - y is not.
                dA, dW, db = linear_backward(loss.delta(xp, Z, T), (A_prev, W, b))
            else:
                dA = loss.delta(xp, y_hat, T) if dA is None else dA
                dA, dW, db = self.layers[i - 1].backward_propagation(dA, A_prev, W, b, Z)
            grads |= {f"dA{i - 1}": dA, f"dW{i}": dW, f"db{i}": db}
        return grads

    def train(self, X: Array, Y: Array, epochs: int = 3, learning_rate: float = 0.05) -> History:
        """Gradient descent on all examples at once; one update an epoch.

        X  (n_features, m)
        Y  (n_out, m), or (m,) for one output
        """
        history = History([], [])
        for _ in range(epochs):
            y_hat, memory = self.forward_propagation(X)
            history.cost.append(float(self.loss(y_hat, Y, memory)))
            history.accuracy.append(float(self.accuracy(y_hat, Y)))
            grads = self.backward_propagation(y_hat, Y, memory)
            self.params_values = update_parameters(self.params_values, grads, learning_rate)
        return history


def batch_norm_forward(
    X: Array, gamma: Array | float, beta: Array | float, epsilon: float = EPSILON
) -> tuple[Array, BatchNormCache]:
    """Y = γ (X - μ) / √(σ² + ε) + β with the moments of the batch. Fourth document.

    X            (n_features, m), or (m,) for one feature: a feature's moments are those
                 of its row
    gamma, beta  (n_features, 1), (n_features,) or one number
    epsilon      ≥ 0

    Returns Y, like X, and the cache for `batch_norm_backward`.
    """
    xp = library(X=X)
    X = real(xp, X)
    if epsilon < 0:
        raise ValueError(f"epsilon is {epsilon}, but expected at least 0, such as {EPSILON}.")
    if epsilon == 0 and bool(xp.any(xp.max(X, axis=-1) == xp.min(X, axis=-1))):
        raise ValueError(
            "epsilon is 0, but a feature of X is constant: its variance is 0, which nothing "
            f"can be divided by. Pass epsilon > 0, such as {EPSILON}."
        )
    gamma, beta = _column(xp, "gamma", gamma, X), _column(xp, "beta", beta, X)
    normalised = SPEC.normalise(xp, X, gamma, beta, -1, epsilon=epsilon)
    return normalised.Z, (normalised, gamma)


def batch_norm_backward(dY: Array, cache: BatchNormCache) -> tuple[Array, Array, Array]:
    """dX, dgamma and dbeta from dY, through the batch's moments.

    dY  like X, of each example's own loss; as in `linear_backward` the mean over the
        examples is taken here: dgamma = Σ dY N / m and dbeta = Σ dY / m, (n_features, 1)
    """
    normalised, gamma = cache
    xp = library(dY=dY)
    same_shape("dY", dY, "Y", normalised.Z)
    m = dY.shape[-1]
    dX, dgamma = SPEC.normalise_gradient(xp, dY, gamma, normalised, -1)
    return dX, dgamma / m, xp.mean(dY, axis=-1, keepdims=True)


def batch_normalization(
    x: Array,
    mean: Array | float,
    variance: Array | float,
    offset: Array | float,
    scale: Array | float,
    variance_epsilon: float = EPSILON,
) -> Array:
    """scale (x - mean) / √(variance + ε) + offset with given moments. Fourth document.

    For a trained network, whose moments are no longer those of the batch. Arguments as
    the function the document calls; shapes as in `batch_norm_forward`.
    """
    xp = library(x=x)
    x = real(xp, x)
    given = {"offset": offset, "scale": scale, "mean": mean, "variance": variance}
    offset, scale, mean, variance = (_column(xp, name, one, x) for name, one in given.items())
    return SPEC.normalise_by(xp, x, scale, offset, mean, variance, epsilon=variance_epsilon)


def _column(xp: Namespace, name: str, value: Array | float, X: Array) -> Array:
    """A value for each feature as a column beside X (n_features, m), or (m,); a number as ()."""
    if isinstance(value, int | float):
        return xp.asarray(value, dtype=X.dtype, device=device(X))
    library(**{"X": X, name: value})
    n = X.shape[0] if X.ndim > 1 else 1
    if tuple(value.shape) not in ((), (n,), (n, 1)):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, but beside X {tuple(X.shape)} expected one "
            f"number, or one of each feature, ({n}, 1) or ({n},)."
        )
    if value.ndim == 0:
        return value
    return xp.reshape(value, (-1, 1) if X.ndim == 2 else (-1,))
