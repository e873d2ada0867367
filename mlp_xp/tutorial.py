"""The names and conventions of the documents the library descends from.

Examples are columns: X (n_features, m), Y (n_out, m). Parameters are a dictionary
{"W1": (n_1, n_0), "b1": (n_1, 1), …}. dA, dZ are derivatives of each example's own loss;
`linear_backward` takes the mean over the examples, so that dW, db are those of the cost.

Every function is a thin layer over the kernels, takes arrays of any array API library,
changes none of its arguments and leaves NumPy's global random state alone. Each says
which of the five documents it comes from; `docs/documents.md` lists where it differs
from them, and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from array_api_compat import device

from .kernels import SPEC
from .losses import LOSSES, Loss
from .tutorial_layers import (
    NN,
    DenseLayer,
    History,
    Layer,
    batch_norm_backward,
    batch_norm_forward,
    batch_normalization,
)
from .tutorial_steps import (
    Cache,
    LegacyDraw,
    Parameters,
    activation_named,
    backward_linear_combination,
    compute_cost,
    compute_error,
    init_parameters,
    initialize_parameters,
    initialize_parameters_deep,
    library,
    linear_activation_backward,
    linear_activation_forward,
    linear_backward,
    linear_combination,
    linear_forward,
    relu,
    relu_backward,
    relu_gradient,
    sigmoid,
    sigmoid_backward,
    sigmoid_gradient,
    squared_cost,
    targets,
    update_parameters,
    update_parameters_sgd,
)
from .types import Array


class Output(NamedTuple):
    """The cost that goes with a last activation: `times` a row of LOSSES, from scores."""

    loss: Loss
    times: int


OUTPUTS: dict[str, Output] = {
    "sigmoid": Output(LOSSES["multilabel"], 1),  # cross-entropy, `compute_cost`
    "none": Output(LOSSES["squared_error"], 2),  # Σ (y - a)², without ½: `squared_cost`
}


def _output_named(name: str) -> Output:
    if name not in OUTPUTS:
        choices = " or ".join(map(repr, OUTPUTS))
        raise ValueError(f"output is {name!r}, but expected {choices}")
    return OUTPUTS[name]


def L_model_forward(
    X: Array,
    parameters: Mapping[str, Array],
    *,
    hidden: str = "relu",
    output: str = "sigmoid",
) -> tuple[Array, list[Cache]]:
    """AL (n_out, m) and the cache of every layer. Third and fifth documents.

    hidden, output  activations: "relu", "sigmoid" or "none"
    """
    A, caches = X, []
    L = len(parameters) // 2
    for i in range(1, L + 1):
        activation = hidden if i < L else output
        W, b = parameters[f"W{i}"], parameters[f"b{i}"]
        A, cache = linear_activation_forward(A, W, b, activation)
        caches.append(cache)
    return A, caches


def forward_propagation(
    X: Array, parameters: Mapping[str, Array]
) -> tuple[Array, list[tuple[Array, Array, Array, Array]]]:
    """`L_model_forward` with the caches of the second document, (A_prev, W, b, Z)."""
    AL, caches = L_model_forward(X, parameters)
    return AL, [(*linear_cache, Z) for linear_cache, Z in caches]


def L_model_backward(
    AL: Array,
    Y: Array,
    caches: Sequence[Cache],
    *,
    hidden: str = "relu",
    output: str = "sigmoid",
) -> dict[str, Array]:
    """Gradients of the cost, last layer first. Third and fifth documents.

    AL, caches  of `L_model_forward`, with the same `hidden` and `output`
    Y           (n_out, m), or (m,) for one output
    output      "sigmoid": of `compute_cost`; "none": of `squared_cost`

    Returns {"dA2": …, "dW3": …, "db3": …, "dA1": …, …, "dA0": …, "dW1": …, "db1": …}.
    dA of the last layer is left out: it is infinite at a = 0 and a = 1, where
    dZ = a - y, which is taken from the scores instead, is as good as anywhere.
    """
    xp = library(AL=AL, Y=Y)
    loss, times = _output_named(output)
    L = len(caches)
    linear_cache, Z = caches[-1]
    dZ = times * loss.delta(xp, Z, targets(xp, Y, AL, loss))
    dA, dW, db = linear_backward(dZ, linear_cache)
    grads = {f"dA{L - 1}": dA, f"dW{L}": dW, f"db{L}": db}
    for i in range(L - 1, 0, -1):
        dA, dW, db = linear_activation_backward(dA, caches[i - 1], hidden)
        grads |= {f"dA{i - 1}": dA, f"dW{i}": dW, f"db{i}": db}
    return grads


def L_layer_model(
    X: Array,
    Y: Array,
    layer_dims: Sequence[int],
    learning_rate: float = 0.05,
    num_iterations: int = 10,
    print_cost: bool = False,
    *,
    hidden: str = "relu",
    output: str = "none",
    seed: int | None = 2,
    initializer: str = "normal",
) -> tuple[Parameters, list[float]]:
    """Gradient descent on all examples at once. First document.

    X, Y            (n_features, m), (n_out, m); Y may be (m,) for one output
    layer_dims      n_features, widths of the hidden layers, n_out
    print_cost      a line an iteration
    hidden, output  activations; the output chooses the cost: "none" the squared cost, as
                    in the document, "sigmoid" the cross-entropy
    initializer     as in `initialize_parameters_deep`; "he" is right for deep relu networks

    Returns the parameters, in X's library, and the cost before each update.
    """
    loss, times = _output_named(output)
    activation_named(hidden)
    xp = library(X=X, Y=Y)
    if len(layer_dims) > 0 and layer_dims[0] != X.shape[0]:
        raise ValueError(
            f"X has shape {tuple(X.shape)}, but layer_dims begins with {layer_dims[0]}: "
            f"expected ({layer_dims[0]}, m). Are your examples rows? Pass X.T."
        )
    parameters = init_parameters(layer_dims, seed=seed, initializer=initializer, like=X)
    costs: list[float] = []
    for i in range(num_iterations):
        AL, caches = L_model_forward(X, parameters, hidden=hidden, output=output)
        J, _, _ = SPEC.score(xp, loss, caches[-1][1], targets(xp, Y, AL, loss), None)
        costs.append(times * float(J))
        if print_cost:
            print(f"iteration {i}: cost {costs[-1]:.6g}")
        grads = L_model_backward(AL, Y, caches, hidden=hidden, output=output)
        parameters = update_parameters(parameters, grads, learning_rate)
    return parameters, costs


def generate_mini_batches(
    X: Array, Y: Array, batch_size: int = 64, seed: int | None = 0
) -> list[tuple[Array, Array]]:
    """The examples in random order, in batches; the last may be smaller. Second document.

    X     (n_features, m); Y (n_out, m), or (m,) for one output
    seed  of the legacy generator; pass another for every epoch, or None

    Returns pairs (n_features, batch_size), (n_out, batch_size).
    """
    xp = library(X=X, Y=Y)
    m = X.shape[1]
    Y = Y[None, :] if Y.ndim == 1 else Y
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but expected at least 1")
    if Y.shape[1] != m:
        raise ValueError(
            f"X has {m} examples and Y {Y.shape[1]}, shapes {tuple(X.shape)} and "
            f"{tuple(Y.shape)}: expected as many columns. Are your examples rows? Pass X.T, Y.T."
        )
    order = xp.asarray(LegacyDraw(seed).permutation(m), device=device(X))
    batches = []
    for start in range(0, m, batch_size):
        index = order[start : min(start + batch_size, m)]
        batches.append((xp.take(X, index, axis=1), xp.take(Y, index, axis=1)))
    return batches


__all__ = [
    "NN",
    "DenseLayer",
    "History",
    "L_layer_model",
    "L_model_backward",
    "L_model_forward",
    "Layer",
    "backward_linear_combination",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_normalization",
    "compute_cost",
    "compute_error",
    "forward_propagation",
    "generate_mini_batches",
    "init_parameters",
    "initialize_parameters",
    "initialize_parameters_deep",
    "linear_activation_backward",
    "linear_activation_forward",
    "linear_backward",
    "linear_combination",
    "linear_forward",
    "relu",
    "relu_backward",
    "relu_gradient",
    "sigmoid",
    "sigmoid_backward",
    "sigmoid_gradient",
    "squared_cost",
    "update_parameters",
    "update_parameters_sgd",
]
