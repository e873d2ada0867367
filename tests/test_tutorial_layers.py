"""The layer objects and batch normalisation of the fourth document: what is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_documents import close, fourth_network, off, on

from conftest import Backend
from mlp_xp import tutorial as t
from mlp_xp.kernels import EPSILON


def numeric(f: Callable[[np.ndarray], Any], x: np.ndarray, h: float = 1e-5) -> np.ndarray:
    """∂f/∂x by central differences."""
    D = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        D[i] = (float(f(x + step)) - float(f(x - step))) / (2 * h)
    return D


@pytest.fixture
def X(random: np.random.Generator) -> np.ndarray:
    """Three features, five examples."""
    return random.standard_normal((3, 5))


Y1 = np.array([[0, 1, 1, 0, 1]])
Y2 = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]])


def two_layers(hidden: str = "relu", output: str = "sigmoid", n_out: int = 1) -> list[Any]:
    return [t.DenseLayer(3, 4, hidden), t.DenseLayer(4, n_out, output)]


@pytest.mark.parametrize(
    ("output", "loss"),
    [
        ("sigmoid", "binary_cross_entropy"),
        ("sigmoid", "squared_error"),
        ("none", "squared_error"),
    ],
)
@pytest.mark.parametrize("hidden", ["relu", "sigmoid"])
@pytest.mark.parametrize("Y", [Y1, Y2], ids=["one output", "two outputs"])
def test_backward_propagation_of_NN_is_the_derivative_of_its_loss(
    backend: Backend, X: np.ndarray, Y: np.ndarray, hidden: str, output: str, loss: str
) -> None:
    def make(like: Any = None) -> t.NN:
        layers = two_layers(hidden, output, len(Y))
        return t.NN(layers, initializer="xavier_normal", loss=loss, like=like)

    nn, reference = make(backend.asarray(X)), make()
    y_hat, memory = nn.forward_propagation(backend.asarray(X))
    grads = off(backend, nn.backward_propagation(y_hat, backend.asarray(Y), memory))
    start = dict(reference.params_values)
    for name, value in start.items():

        def cost(value: np.ndarray, name: str = name) -> Any:
            reference.params_values = start | {name: value}
            return reference.loss(reference.predict(X), Y)

        close(grads["d" + name], numeric(cost, value), rtol=1e-6)
    np.testing.assert_allclose(
        float(nn.loss(y_hat, backend.asarray(Y))),
        float(nn.loss(y_hat, backend.asarray(Y), memory)),
        rtol=1e-12,
    )


def test_the_fourth_documents_deltas_are_not_the_derivative(X: np.ndarray) -> None:
    """(a - y) g' of the last layer is for ½ (a - y)²; cross-entropy has a - y.

    ∂J/∂W takes the layer's input, not its output, and ∂J/∂b the mean over the examples.
    """
    nn = t.NN([t.DenseLayer(3, 2, "sigmoid")], initializer="xavier_normal")
    y_hat, memory = nn.forward_propagation(X)
    grads = nn.backward_propagation(y_hat, Y2, memory)
    delta = y_hat - Y2
    close(grads["dW1"], delta @ X.T / 5)
    close(grads["db1"], delta.mean(axis=1, keepdims=True))
    document = delta * y_hat * (1 - y_hat)
    assert not np.allclose(document @ X.T / 5, grads["dW1"])
    assert (delta @ y_hat.T).shape != grads["dW1"].shape  # δ of layer l times a of layer l
    assert delta.shape != grads["db1"].shape

    squared = t.NN(nn.layers, initializer="xavier_normal", loss="squared_error")
    grads = squared.backward_propagation(y_hat, Y2, memory)
    close(grads["dW1"], document @ X.T / 5)


def test_the_slope_of_a_layer_is_taken_at_scores_with_their_bias(backend: Backend) -> None:
    """relu(x + 2) at x = -1 has slope 1; at W a without b, as in the fourth document, 0."""
    layer = t.DenseLayer(1, 1, "relu")
    x, W, b = (backend.asarray(np.array([[v]])) for v in (-1.0, 1.0, 2.0))
    _, z = layer.forward_propagation(x, W, b)
    dx, _, _ = layer.backward_propagation(W, x, W, b, z)
    assert float(dx[0, 0]) == 1


def test_an_error_reaches_a_unit_by_every_path(backend: Backend) -> None:
    """d f(u(x), v(x)) = ∂f/∂u u' + ∂f/∂v v': a sum, which Wᵀ dZ takes."""
    W = np.array([[2.0], [3.0]])  # one unit, two units above
    A_prev = np.array([[0.5]])
    dZ = np.array([[10.0], [100.0]])
    arrays = [backend.asarray(array) for array in (dZ, A_prev, W, np.zeros((2, 1)))]
    dA_prev, _, _ = t.linear_backward(arrays[0], tuple(arrays[1:]))
    np.testing.assert_array_equal(backend.get(dA_prev), [[2 * 10 + 3 * 100]])


def test_backpropagation_gives_gradients_and_the_update_changes_parameters(
    X: np.ndarray,
) -> None:
    """The fourth document's prose has it the other way round."""
    nn = t.NN(two_layers())
    before = {name: value.copy() for name, value in nn.params_values.items()}
    y_hat, memory = nn.forward_propagation(X)
    grads = nn.backward_propagation(y_hat, Y1, memory)
    for name, value in before.items():
        np.testing.assert_array_equal(nn.params_values[name], value)
    nn.train(X, Y1, epochs=1, learning_rate=0.1)
    for name, value in before.items():
        close(nn.params_values[name], value - 0.1 * grads["d" + name])


def test_a_layer_takes_a_batch_as_columns_and_gives_each_example_its_own(
    backend: Backend, X: np.ndarray
) -> None:
    layer = t.DenseLayer(3, 2, "sigmoid")
    W = backend.asarray(np.arange(6.0).reshape(2, 3) / 6)
    b = backend.asarray(np.array([[0.5], [-1.0]]))
    A, Z = layer.forward_propagation(backend.asarray(X), W, b)
    assert tuple(A.shape) == tuple(Z.shape) == (2, 5)
    for i in range(5):
        a, z = layer.forward_propagation(backend.asarray(X[:, i]), W, b)
        assert tuple(a.shape) == (2,)
        close(backend.get(a), backend.get(A)[:, i])
        close(backend.get(z), backend.get(Z)[:, i])
    close(backend.get(layer.activation(Z)), backend.get(A))


def test_layers_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="layer 2 takes 1 inputs, but layer 1 gives 2"):
        t.NN([t.DenseLayer(2, 2, "relu"), t.DenseLayer(1, 1, "sigmoid")])


def test_predict_returns_the_output_alone(backend: Backend, X: np.ndarray) -> None:
    """The fourth document unpacks it as two: its print is that of forward_propagation."""
    nn = t.NN(two_layers(), like=backend.asarray(X))
    y = nn.predict(backend.asarray(X))
    assert tuple(y.shape) == (1, 5)
    np.testing.assert_array_equal(
        backend.get(y), backend.get(nn.forward_propagation(backend.asarray(X))[0])
    )


def test_biases_are_zero_except_in_the_draw_the_fourth_document_prints() -> None:
    for initializer in ("xavier_normal", "xavier_uniform", "he"):
        parameters = fourth_network(initializer=initializer).params_values
        assert not np.any(parameters["b1"])
        assert not np.any(parameters["b2"])
    assert np.all(fourth_network().params_values["b1"] != 0)  # "random", the default


def test_xavier_initialisation_counts_inputs_and_outputs() -> None:
    layers = [t.DenseLayer(300, 100, "sigmoid"), t.DenseLayer(100, 1, "sigmoid")]
    for initializer in ("xavier_normal", "xavier_uniform"):
        W = t.NN(layers, initializer=initializer).params_values["W1"]
        np.testing.assert_allclose(W.var(), 2 / 400, rtol=0.05)


XOR = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("hidden", "rate", "loss"),
    [("relu", 0.5, "binary_cross_entropy"), ("sigmoid", 5.0, "squared_error")],
)
def test_train_learns_exclusive_or(backend: Backend, hidden: str, rate: float, loss: str) -> None:
    X, Y = backend.asarray(XOR), backend.asarray(np.array([0, 1, 1, 0]))
    layers = [t.DenseLayer(2, 8, hidden), t.DenseLayer(8, 1, "sigmoid")]
    nn = t.NN(layers, 1, initializer="xavier_normal", loss=loss, like=X)
    costs, accuracies = nn.train(X, Y, epochs=400, learning_rate=rate)
    assert len(costs) == len(accuracies) == 400
    assert costs[-1] < 0.3 * costs[0]
    assert accuracies[-1] == 1
    assert (backend.get(nn.predict(X)) > 0.5).tolist() == [[False, True, True, False]]


def test_the_history_is_of_the_parameters_before_each_update(
    backend: Backend, X: np.ndarray
) -> None:
    nn = t.NN(two_layers(), initializer="xavier_normal", like=backend.asarray(X))
    Y = backend.asarray(Y1)
    y_hat = nn.predict(backend.asarray(X))
    close(float(nn.accuracy(y_hat, Y)), np.mean((backend.get(y_hat) > 0.5) == Y1))
    history = nn.train(backend.asarray(X), Y, epochs=2)
    close(history.cost[0], t.compute_cost(backend.get(y_hat), Y1))
    assert history.accuracy[0] == float(nn.accuracy(y_hat, Y))
    assert history.cost[1] < history.cost[0]


def test_an_example_is_right_when_all_its_outputs_are() -> None:
    nn = t.NN(two_layers(n_out=2))
    y_hat = np.array([[0.1, 0.9, 0.9, 0.1, 0.9], [0.9, 0.9, 0.9, 0.1, 0.1]])
    close(nn.accuracy(y_hat, Y2), 0.8)


def test_the_loss_of_NN_fits_its_last_activation() -> None:
    with pytest.raises(ValueError, match="expected 'squared_error'"):
        t.NN([t.DenseLayer(1, 1, "relu")], loss="binary_cross_entropy")
    with pytest.raises(ValueError, match="'binary_cross_entropy' or 'squared_error'"):
        t.NN([t.DenseLayer(1, 1, "sigmoid")], loss="hinge")


def test_the_loss_of_a_training_is_exact_where_outputs_are_rounded(backend: Backend) -> None:
    nn = t.NN([t.DenseLayer(1, 1, "sigmoid")], like=backend.asarray(np.zeros((1, 1))))
    nn.params_values = on(backend, {"W1": np.array([[1.0]]), "b1": np.zeros((1, 1))})
    X, Y = backend.asarray(np.array([[800.0]])), backend.asarray(np.array([[0]]))
    assert nn.train(X, Y, epochs=1, learning_rate=1.0).cost == [800.0]
    np.testing.assert_array_equal(backend.get(nn.params_values["W1"]), [[-799.0]])


# --- Batch normalisation ---------------------------------------------------------------


def test_every_feature_is_normalised_over_the_examples(backend: Backend, X: np.ndarray) -> None:
    """Examples are columns: the axis is the last, not the document's axis 0."""
    scale = np.array([[1.0], [10.0], [100.0]])
    Y, _ = t.batch_norm_forward(backend.asarray(X * scale), 1.0, 0.0, epsilon=0.0)
    N = backend.get(Y)
    close(N.mean(axis=1), 0)
    close(N.var(axis=1), 1)
    assert not np.allclose(N.mean(axis=0), 0)


def test_gamma_and_beta_set_the_mean_and_the_deviation(backend: Backend, X: np.ndarray) -> None:
    """Not zero and one: β, and γ √(σ² / (σ² + ε))."""
    gamma, beta = np.array([2.0, 0.5, 1.0]), np.array([1.0, -1.0, 0.0])
    Y, _ = t.batch_norm_forward(
        backend.asarray(X), backend.asarray(gamma), backend.asarray(beta[:, None]), 0.1
    )
    close(backend.get(Y).mean(axis=1), beta)
    close(backend.get(Y).std(axis=1), gamma * np.sqrt(X.var(axis=1) / (X.var(axis=1) + 0.1)))


def test_a_constant_feature_needs_an_epsilon(backend: Backend) -> None:
    X = backend.asarray(np.array([[0.1] * 10, [*range(10)]]))
    Y, _ = t.batch_norm_forward(X, 1.0, 0.0)  # ε of Ioffe & Szegedy by default
    close(backend.get(Y)[0], 0)
    with pytest.raises(ValueError, match="epsilon is 0, but a feature of X is constant"):
        t.batch_norm_forward(X, 1.0, 0.0, epsilon=0.0)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (3, 6)])
def test_numbers_that_are_not_of_the_features_are_refused(
    backend: Backend, shape: tuple[int, ...]
) -> None:
    X, wrong = backend.asarray(np.arange(18.0).reshape(3, 6)), backend.asarray(np.ones(shape))
    with pytest.raises(ValueError, match=r"gamma has shape .* \(3, 1\) or \(3,\)"):
        t.batch_norm_forward(X, wrong, 0.0)
    with pytest.raises(ValueError, match=r"mean has shape .* \(3, 1\) or \(3,\)"):
        t.batch_normalization(X, wrong, 1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="gamma has shape"):
        t.batch_norm_forward(X[:1, :], backend.asarray(np.ones(6)), 0.0)  # it made (6, 6) of (1, 6)
    with pytest.raises(ValueError, match=r"epsilon is -0\.1, but expected at least 0"):
        t.batch_norm_forward(X, 1.0, 0.0, -0.1)
    _, cache = t.batch_norm_forward(X, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"dY has shape \(3, 1\), but Y \(3, 6\)"):
        t.batch_norm_backward(backend.asarray(np.ones((3, 1))), cache)


def test_batch_normalization_by_the_batchs_own_moments_is_the_forward_pass(
    backend: Backend, X: np.ndarray
) -> None:
    gamma, beta = np.array([2.0, 0.5, 1.0]), np.array([1.0, -1.0, 0.0])
    moments = X.mean(axis=1), X.var(axis=1)
    put = backend.asarray
    Y, _ = t.batch_norm_forward(put(X), put(gamma), put(beta))
    same = t.batch_normalization(put(X), *map(put, moments), put(beta), put(gamma), EPSILON)
    close(backend.get(same), backend.get(Y))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_feature_that_is_a_vector_stays_one(backend: Backend, shape: tuple[int, ...]) -> None:
    X, one = backend.asarray(np.array([0.0, 1.0, 2.0, 5.0])), backend.asarray(np.ones(shape))
    Y, cache = t.batch_norm_forward(X, one, one)
    assert Y.shape == t.batch_normalization(X, one, one, one, one).shape == X.shape
    assert t.batch_norm_backward(X, cache)[0].shape == X.shape


def test_whole_numbers_are_normalised_as_the_same_numbers_in_floats(backend: Backend) -> None:
    X = np.array([[0, 1, 2, 5], [4, 5, 7, 7]])
    for f in (
        lambda X: t.batch_norm_forward(X, 0.5, 0.25)[0],
        lambda X: t.batch_normalization(X, 1.5, 0.5, 0.25, 0.5),
    ):
        close(backend.get(f(backend.asarray(X))), f(X * 1.0), rtol=1e-5)


def test_batch_norm_backward_is_the_derivative_through_the_moments(
    backend: Backend, X: np.ndarray, random: np.random.Generator
) -> None:
    gamma, beta = np.array([[2.0], [0.5], [1.0]]), np.array([[1.0], [-1.0], [0.0]])
    dY = random.standard_normal(X.shape)
    put = backend.asarray
    _, cache = t.batch_norm_forward(put(X), put(gamma), put(beta))
    dX, dgamma, dbeta = (backend.get(g) for g in t.batch_norm_backward(put(dY), cache))

    def mean(X: np.ndarray = X, gamma: np.ndarray = gamma, beta: np.ndarray = beta) -> float:
        return float(np.sum(dY * t.batch_norm_forward(X, gamma, beta)[0])) / 5

    close(dX, 5 * numeric(lambda v: mean(X=v), X), rtol=1e-6)
    close(dgamma, numeric(lambda v: mean(gamma=v), gamma), rtol=1e-6)
    close(dbeta, numeric(lambda v: mean(beta=v), beta), rtol=1e-6)
