"""The documents' systems: what is right where the documents are not.

`docs/documents.md` refers to these tests by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_documents
import test_tutorial_layers
from test_documents import close, fourth_network, off, on
from test_tutorial_layers import Y1, Y2, numeric

from conftest import Backend, tolerance
from mlp_xp import tutorial as t


@pytest.fixture
def X(random: np.random.Generator) -> np.ndarray:
    """Three features, five examples."""
    return random.standard_normal((3, 5))


# --- Gradients -------------------------------------------------------------------------


def cost_of(
    parameters: dict[str, np.ndarray], X: np.ndarray, Y: np.ndarray, hidden: str, output: str
) -> float:
    AL, _ = t.L_model_forward(X, parameters, hidden=hidden, output=output)
    cost = t.compute_cost(AL, Y) if output == "sigmoid" else t.squared_cost(X.shape[1], AL, Y)
    return float(cost)


@pytest.mark.parametrize("output", ["sigmoid", "none"])
@pytest.mark.parametrize("hidden", ["relu", "sigmoid", "none"])
@pytest.mark.parametrize("Y", [Y1, Y2], ids=["one output", "two outputs"])
def test_L_model_backward_is_the_derivative_of_the_cost(
    backend: Backend, X: np.ndarray, Y: np.ndarray, hidden: str, output: str
) -> None:
    sizes = [3, 4, 3, len(Y)]
    parameters = {  # biases other than zero: a dead layer would put relu on its kink
        name: value + 0.1 if name[0] == "b" else value
        for name, value in t.initialize_parameters_deep(sizes, seed=4, initializer="he").items()
    }
    AL, caches = t.L_model_forward(
        backend.asarray(X), on(backend, parameters), hidden=hidden, output=output
    )
    Yb = backend.asarray(Y)
    grads = off(backend, t.L_model_backward(AL, Yb, caches, hidden=hidden, output=output))
    for name, value in parameters.items():

        def cost(value: np.ndarray, name: str = name) -> float:
            return cost_of(parameters | {name: value}, X, Y, hidden, output)

        close(grads["d" + name], numeric(cost, value), rtol=1e-6)
    m = X.shape[1]
    dX = numeric(lambda X: cost_of(parameters, X, Y, hidden, output), X)
    close(grads["dA0"], m * dX, rtol=1e-6)  # of each example's own loss


def test_several_outputs_pass_where_the_third_document_asserts_one(
    backend: Backend, X: np.ndarray
) -> None:
    parameters = t.initialize_parameters_deep([3, 4, 2], initializer="lecun")
    AL, _ = t.L_model_forward(backend.asarray(X), on(backend, parameters))
    assert tuple(AL.shape) == (2, 5)
    each = [float(t.compute_cost(AL[k : k + 1, :], backend.asarray(Y2[k]))) for k in (0, 1)]
    close(float(t.compute_cost(AL, backend.asarray(Y2))), sum(each))


def test_relu_passes_no_error_where_its_input_is_negative(backend: Backend) -> None:
    """The first document's `Z.any() < 0` is never true, so that its dZ is dA everywhere."""
    A_prev = np.array([[1.0, -1.0, 0.5], [2.0, 0.3, -2.0]])
    W, b = np.array([[1.0, 0.5], [-1.0, 0.4]]), np.array([[0.1], [-0.2]])
    arrays = [backend.asarray(array) for array in (A_prev, W, b)]
    A, cache = t.linear_activation_forward(*arrays, "relu")
    dA = np.ones((2, 3))
    dA_prev, dW, db = t.linear_activation_backward(backend.asarray(dA), cache, "relu")

    def mean(A_prev: np.ndarray = A_prev, W: np.ndarray = W, b: np.ndarray = b) -> float:
        return float(np.sum(np.maximum(W @ A_prev + b, 0))) / 3

    assert np.any(backend.get(A) == 0)
    close(backend.get(dA_prev), 3 * numeric(lambda v: mean(A_prev=v), A_prev))
    close(backend.get(dW), numeric(lambda v: mean(W=v), W))
    close(backend.get(db), numeric(lambda v: mean(b=v), b))
    assert not np.allclose(dA @ A_prev.T / 3, backend.get(dW))  # the document's


def test_relu_and_sigmoid_gradients_are_the_derivatives(backend: Backend) -> None:
    Z = np.array([[-2.0, -0.5, 0.7, 3.0]])
    for f, gradient, backward in (
        (t.relu, t.relu_gradient, t.relu_backward),
        (t.sigmoid, t.sigmoid_gradient, t.sigmoid_backward),
    ):
        _, cache = f(backend.asarray(Z))
        slope = numeric(lambda Z, f=f: f(Z)[0].sum(), Z)
        close(backend.get(gradient(backend.asarray(Z))), slope, rtol=1e-6)
        dA = backend.asarray(np.array([[2.0, -3.0, 0.5, 1.0]]))
        dZ = backward(dA, cache)
        close(backend.get(dZ), backend.get(dA) * slope, rtol=1e-6)
    zero = backend.asarray(np.zeros((1, 1)))
    assert float(t.relu_gradient(zero)[0, 0]) == 0


def test_dA_of_the_second_document_has_the_wrong_sign(backend: Backend) -> None:
    """∂E/∂A is -(y/a - (1-y)/(1-a)); only that, through the sigmoid, gives its own A - Y."""
    Z = np.array([[-1.0, 0.5, 2.0, 0.1, -0.3]])
    A, cache = t.sigmoid(backend.asarray(Z))
    a = backend.get(A)
    formula = Y1 / a - (1 - Y1) / (1 - a)
    dA = 5 * numeric(lambda a: t.compute_cost(a, Y1), a)
    close(dA, -formula, rtol=1e-6)
    close(backend.get(t.sigmoid_backward(backend.asarray(-formula), cache)), a - Y1)
    assert not np.allclose(a * (1 - a) * formula, a - Y1)


def test_the_squared_cost_is_the_number_whose_gradient_is_descended(
    backend: Backend, X: np.ndarray
) -> None:
    """The first document's cost is (1, m), and its sum has m times the gradient used."""
    parameters = t.initialize_parameters_deep([3, 1], seed=4, initializer="lecun")
    AL, caches = t.L_model_forward(backend.asarray(X), on(backend, parameters), output="none")
    Y = backend.asarray(Y1)
    cost = t.squared_cost(5, AL, Y)
    assert tuple(cost.shape) == ()
    errors = (Y1 - backend.get(AL)) ** 2
    close(float(cost), errors.mean())
    dW = backend.get(t.L_model_backward(AL, Y, caches, output="none")["dW1"])

    def total(W: np.ndarray) -> float:
        return float(np.sum((Y1 - W @ X) ** 2))

    close(5 * dW, numeric(total, parameters["W1"]), rtol=1e-6)


# --- Costs -----------------------------------------------------------------------------


def test_compute_error_adds_both_terms_of_the_cross_entropy(backend: Backend) -> None:
    """With the minus of the second document, being wrong about 0 lowers the error."""
    AL, Y = np.array([[0.2, 0.7]]), np.array([[0, 1]])
    error = float(t.compute_error(backend.asarray(AL), backend.asarray(Y)))
    close(error, -(np.log(0.8) + np.log(0.7)) / 2)
    document = -(Y @ np.log(AL).T - (1 - Y) @ np.log(1 - AL).T).sum() / 2
    assert document < 0.1 < error
    worse = float(t.compute_error(backend.asarray(np.array([[0.9, 0.7]])), backend.asarray(Y)))
    assert worse > error


def test_the_error_of_several_outputs_is_the_sum_of_each(backend: Backend) -> None:
    """Y · log(AL)ᵀ, summed, as in the second document, mixes every output with every other."""
    AL, Y = np.array([[0.2, 0.7], [0.6, 0.9]]), np.array([[0, 1], [1, 1]])
    own = -(np.log([0.8, 0.7]).sum() + np.log([0.6, 0.9]).sum()) / 2
    close(float(t.compute_error(backend.asarray(AL), backend.asarray(Y))), own)
    mixed = -(Y @ np.log(AL).T + (1 - Y) @ np.log(1 - AL).T).sum() / 2
    assert not np.isclose(mixed, own)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_cost_is_finite_and_right_at_probabilities_0_and_1(
    backend: Backend, dtype: type
) -> None:
    def cost(AL: list[float], Y: list[int]) -> float:
        a = backend.asarray(np.array([AL], dtype=dtype))
        return float(t.compute_cost(a, backend.asarray(np.array([Y]))))

    assert cost([0, 1, 1, 0], [0, 1, 1, 0]) == 0
    np.testing.assert_allclose(cost([0, 0.5], [0, 1]), np.log(2) / 2, **tolerance(dtype, 2))
    tiny = float(np.finfo(dtype).tiny)
    assert np.isfinite(cost([0], [1]))
    assert cost([0], [1]) == cost([1], [0]) > cost([tiny], [1]) > 80
    assert np.isnan(cost([np.nan], [1]))


def test_outputs_of_whole_numbers_cost_what_floats_do(backend: Backend) -> None:
    AL, half = backend.asarray(np.array([[0, 1]])), backend.asarray(np.array([[0.5, 0.5]]))
    assert float(t.squared_cost(2, AL, half)) == 0.25
    assert float(t.compute_cost(AL, AL)) == 0


def test_a_cost_of_what_is_no_probability_is_refused(backend: Backend) -> None:
    with pytest.raises(ValueError, match=r"outside \[0, 1\].*sigmoid"):
        t.compute_cost(backend.asarray(np.array([[1.2]])), backend.asarray(np.array([[1]])))


def test_labels_other_than_0_and_1_are_refused_by_the_cross_entropy(
    backend: Backend, X: np.ndarray
) -> None:
    """Of labels -1 and 1 it falls below 0, for ever."""
    Xb, signs = backend.asarray(X), backend.asarray(2 * Y1 - 1)
    AL, caches = t.L_model_forward(Xb, on(backend, t.initialize_parameters_deep([3, 1])))
    nn = t.NN([t.DenseLayer(3, 1, "sigmoid")], like=Xb)
    for call in (
        lambda: t.compute_cost(AL, signs),
        lambda: t.L_model_backward(AL, signs, caches),
        lambda: t.L_layer_model(Xb, signs, [3, 1], output="sigmoid"),
        lambda: nn.train(Xb, signs),
    ):
        with pytest.raises(ValueError, match=r"Y has values outside \[0, 1\].*\(Y \+ 1\) / 2"):
            call()
    assert float(t.squared_cost(5, AL, signs)) > 0
    assert t.L_layer_model(Xb, signs, [3, 1])[1][0] > 0


def test_gradients_are_right_where_outputs_are_rounded_to_0_and_1(backend: Backend) -> None:
    """Y/A - (1-Y)/(1-A) is 0/0 there, in the third and fifth documents."""
    X = backend.asarray(np.array([[800.0, -800.0, 800.0, -800.0]]))
    parameters = on(backend, {"W1": np.array([[1.0]]), "b1": np.zeros((1, 1))})
    AL, caches = t.L_model_forward(X, parameters)
    assert backend.get(AL).tolist() == [[1, 0, 1, 0]]
    grads = off(backend, t.L_model_backward(AL, backend.asarray(np.array([[1, 0, 0, 1]])), caches))
    np.testing.assert_array_equal(grads["dA0"], [[0, 0, 1, -1]])
    np.testing.assert_array_equal(grads["dW1"], [[400.0]])
    np.testing.assert_array_equal(grads["db1"], [[0.0]])


def test_sigmoid_of_large_scores_neither_overflows_nor_warns(backend: Backend) -> None:
    Z = backend.asarray(np.array([[-1e4, -800.0, 0.0, 800.0, 1e4]]))
    A, _ = t.sigmoid(Z)
    np.testing.assert_array_equal(backend.get(A), [[0, 0, 0.5, 1, 1]])
    a, _ = t.DenseLayer(1, 1, "sigmoid").forward_propagation(Z, Z[:, :1] * 0 + 1, Z[:, 2])
    np.testing.assert_array_equal(backend.get(a), [[0, 0, 0.5, 1, 1]])


# --- Shapes, names and arguments -------------------------------------------------------


def test_targets_of_another_shape_are_refused_not_reshaped(backend: Backend, X: np.ndarray) -> None:
    """reshape turns (m, n_out) into (n_out, m) without complaint, and out of order."""
    assert not np.array_equal(Y2.T.reshape(2, 5), Y2)
    parameters = on(backend, t.initialize_parameters_deep([3, 2]))
    AL, caches = t.L_model_forward(backend.asarray(X), parameters)
    rows = backend.asarray(np.ascontiguousarray(Y2.T))
    for call in (
        lambda: t.compute_cost(AL, rows),
        lambda: t.squared_cost(5, AL, rows),
        lambda: t.L_model_backward(AL, rows, caches),
    ):
        with pytest.raises(ValueError, match=r"\(5, 2\).*\(2, 5\).*Pass Y.T"):
            call()


def test_a_vector_of_targets_is_the_row_of_one_output(backend: Backend, X: np.ndarray) -> None:
    parameters = on(backend, t.initialize_parameters_deep([3, 1]))
    AL, caches = t.L_model_forward(backend.asarray(X), parameters)
    row, vector = backend.asarray(Y1), backend.asarray(Y1[0])
    assert float(t.compute_cost(AL, row)) == float(t.compute_cost(AL, vector))
    for a, b in zip(
        t.L_model_backward(AL, row, caches).values(),
        t.L_model_backward(AL, vector, caches).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(backend.get(a), backend.get(b))


def test_an_unknown_activation_is_named_with_those_that_exist(X: np.ndarray) -> None:
    W, b = np.ones((1, 3)), np.zeros((1, 1))
    _, cache = t.linear_activation_forward(X, W, b, "none")
    for call in (
        lambda: t.linear_activation_forward(X, W, b, "tanh"),
        lambda: t.linear_activation_backward(X[:1], cache, "tanh"),
        lambda: t.DenseLayer(2, 1, "tanh"),  # a sigmoid in the fourth document
        lambda: t.L_layer_model(X, Y1, [3, 2, 1], hidden="tanh"),
    ):
        with pytest.raises(ValueError, match=r"'tanh'.*'sigmoid', 'relu', 'none'"):
            call()
    with pytest.raises(ValueError, match="output is 'relu'"):
        t.L_layer_model(X, Y1, [3, 2, 1], output="relu")
    with pytest.raises(ValueError, match=r"initializer is 'xavier'.*'xavier_normal'"):
        fourth_network(initializer="xavier")


def test_examples_as_rows_are_refused(backend: Backend, X: np.ndarray) -> None:
    rows = backend.asarray(np.ascontiguousarray(X.T))
    W, b = backend.asarray(np.ones((2, 3))), backend.asarray(np.zeros((2, 1)))
    for call in (
        lambda: t.linear_forward(rows, W, b),
        lambda: t.linear_combination(rows, W, b),
        lambda: t.DenseLayer(3, 2, "relu").forward_propagation(rows, W, b),
        lambda: t.L_layer_model(rows, backend.asarray(Y1), [3, 2, 1]),
        lambda: t.generate_mini_batches(rows, backend.asarray(Y1)),
    ):
        with pytest.raises(ValueError, match=r"Pass X.T"):
            call()


def test_biases_and_examples_that_are_no_columns_are_refused(backend: Backend) -> None:
    """With as many examples as units a vector of biases would go along the examples."""
    X, W, b = (backend.asarray(np.ones(shape)) for shape in ((3, 2), (2, 3), (2, 1)))
    for wrong in (b[:, 0], b.T):
        with pytest.raises(ValueError, match=r"b has shape .* expected \(2, 1\), a column"):
            t.linear_forward(X, W, wrong)
    with pytest.raises(ValueError, match=r"A_prev has shape \(3,\).*pass x\[:, None\]"):
        t.linear_combination(X[:, 0], W, b)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"db1": (4,)}, r"db1 has shape \(4,\), but b1 \(4, 1\).*keepdims=True"),
        ({"dW1": (1, 5)}, r"dW1 has shape \(1, 5\), but W1 \(4, 5\): expected the same\.$"),
        ({"dW1": (5, 4)}, r"dW1 has shape \(5, 4\)"),
    ],
)
def test_a_gradient_of_another_shape_is_refused_not_stretched(
    backend: Backend, wrong: dict[str, tuple[int, ...]], message: str
) -> None:
    parameters = {n: backend.asarray(v) for n, v in t.initialize_parameters_deep([5, 4, 1]).items()}
    grads = {f"d{name}": value for name, value in parameters.items()}
    grads |= {name: backend.asarray(np.ones(shape)) for name, shape in wrong.items()}
    with pytest.raises(ValueError, match=message):
        t.update_parameters(parameters, grads, 0.1)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (4, 1)])
def test_errors_of_another_shape_are_refused_not_stretched(
    backend: Backend, shape: tuple[int, ...]
) -> None:
    A, W, b = (backend.asarray(np.ones(n)) for n in ((3, 6), (4, 3), (4, 1)))
    (linear_cache, Z), dA = t.linear_activation_forward(A, W, b, "relu")[1], np.ones(shape)
    for backward in (t.relu_backward, t.sigmoid_backward):
        with pytest.raises(ValueError, match=r"dA has shape .*, but the cache Z"):
            backward(backend.asarray(dA), Z)
    with pytest.raises(ValueError, match=r"dZ has shape .*, but W .* Z of shape \(4, 6\)"):
        t.linear_backward(backend.asarray(dA), linear_cache)


def test_what_is_no_array_is_refused_by_its_name(X: np.ndarray) -> None:
    for call, name, kind in (
        (lambda: t.sigmoid(0), "Z", "int"),
        (lambda: t.relu([1, -1]), "Z", "list"),
        (lambda: t.compute_cost([[0.5]], [[1]]), "AL", "list"),
        (lambda: t.L_layer_model(X.tolist(), [[0, 1, 1, 0]], [5, 4, 1]), "X", "list"),
        (lambda: t.linear_forward(X, [[1.0] * 5], 0.0), "W", "list"),
        (lambda: t.batch_norm_forward(X, [1.0] * 5, 0.0), "gamma", "list"),
        (lambda: t.update_parameters({"b1": X}, {"db1": X.tolist()}, 0.1), "db1", "list"),
    ):
        with pytest.raises(TypeError, match=rf"^{name} is of type {kind}, but expected an array"):
            call()
    for sizes in (3, [3, 2.5], ["3", 1]):
        with pytest.raises(TypeError, match=r"the sizes are .* expected a list of whole numbers"):
            t.initialize_parameters_deep(sizes)  # type: ignore[arg-type]


def test_the_cache_of_an_activation_is_Z(backend: Backend) -> None:
    Z = backend.asarray(np.array([[-1.0, 2.0]]))
    assert t.relu(Z)[1] is Z
    assert t.sigmoid(Z)[1] is Z
    one, zero = backend.asarray(np.ones((1, 1))), backend.asarray(np.zeros((1, 1)))
    _, (linear_cache, activation_cache) = t.linear_activation_forward(Z, one, zero, "relu")
    assert all(a is b for a, b in zip(linear_cache, (Z, one, zero), strict=True))
    np.testing.assert_array_equal(backend.get(activation_cache), [[-1.0, 2.0]])


def test_a_network_has_one_layer_less_than_layer_dims_has_numbers(X: np.ndarray) -> None:
    """[5, 4, 3, 1] is two hidden layers, three layers in all."""
    parameters = t.initialize_parameters_deep([5, 4, 3, 1])
    assert len(parameters) // 2 == 3
    _, caches = t.L_model_forward(np.zeros((5, 2)), parameters)
    assert len(caches) == 3


@pytest.mark.parametrize("sizes", [[], [3], [3, 0], [3, -1, 1]])
def test_sizes_that_make_no_network_are_refused(X: np.ndarray, sizes: list[int]) -> None:
    for call in (
        lambda: t.initialize_parameters_deep(sizes),
        lambda: t.init_parameters(sizes),
        lambda: t.L_layer_model(X, Y1, sizes),
    ):
        with pytest.raises(ValueError, match=r"sizes are \[.*expected at least two numbers ≥ 1"):
            call()
    with pytest.raises(ValueError, match="layers is empty"):
        t.NN([])


def test_forward_propagation_is_L_model_forward_with_flat_caches(
    backend: Backend, X: np.ndarray
) -> None:
    """It runs, where the second document's names L, A, cache_list and params are undefined."""
    parameters = on(backend, t.initialize_parameters_deep([3, 4, 1], initializer="he"))
    AL, caches = t.L_model_forward(backend.asarray(X), parameters)
    AL2, cache_list = t.forward_propagation(backend.asarray(X), parameters)
    np.testing.assert_array_equal(backend.get(AL2), backend.get(AL))
    for (A_prev, W, b, Z), (linear_cache, Z_same) in zip(cache_list, caches, strict=True):
        np.testing.assert_array_equal(backend.get(Z), backend.get(Z_same))
        np.testing.assert_array_equal(
            backend.get(t.linear_combination(A_prev, W, b)), backend.get(Z)
        )
        Z_linear, same = t.linear_forward(A_prev, W, b)
        np.testing.assert_array_equal(backend.get(Z_linear), backend.get(Z))
        assert all(a is b for a, b in zip(same, (A_prev, W, b), strict=True))
        for got, expected in zip(
            t.backward_linear_combination(Z, A_prev, W, b),
            t.linear_backward(Z, linear_cache),
            strict=True,
        ):
            np.testing.assert_array_equal(backend.get(got), backend.get(expected))


@pytest.mark.parametrize("update", [t.update_parameters, t.update_parameters_sgd])
def test_updating_returns_new_parameters_and_keeps_the_old(
    backend: Backend, update: Callable[..., dict[str, Any]]
) -> None:
    before = {"W1": np.ones((2, 2)), "b1": np.ones((2, 1))}
    parameters, grads = on(backend, before), {"dW1": before["W1"] * 2, "db1": before["b1"] * 3}
    kept = dict(parameters)
    after = off(backend, update(parameters, on(backend, grads), 0.1))
    close(after["W1"], 0.8 * np.ones((2, 2)))
    close(after["b1"], 0.7 * np.ones((2, 1)))
    for name, value in before.items():
        assert parameters[name] is kept[name]
        np.testing.assert_array_equal(backend.get(parameters[name]), value)


def test_results_stay_in_the_library_and_dtype_of_their_inputs(
    backend: Backend, X: np.ndarray
) -> None:
    X32, Y = backend.asarray(X.astype(np.float32)), backend.asarray(Y1)
    for output in ("sigmoid", "none"):
        parameters, _ = t.L_layer_model(X32, Y, [3, 4, 1], output=output, num_iterations=2)
        AL, caches = t.L_model_forward(X32, parameters, output=output)
        grads = t.L_model_backward(AL, Y, caches, output=output)
        for array in (AL, *parameters.values(), *grads.values()):
            assert type(array) is type(X32)
            assert array.dtype == X32.dtype
    labels = backend.asarray(np.array([1, 2]))
    W1 = t.init_parameters([2, 1], like=labels)["W1"]
    assert np.any(backend.get(W1) != 0)  # weights are not cut to integers


# --- Draws -----------------------------------------------------------------------------


def test_the_global_random_state_is_left_alone(X: np.ndarray) -> None:
    before = np.random.get_state(legacy=False)
    t.initialize_parameters(3, 2, 1)
    t.initialize_parameters_deep([3, 2, 1])
    t.init_parameters([3, 2, 1])
    t.generate_mini_batches(X, Y1, 2)
    t.L_layer_model(X, Y1, [3, 2, 1], num_iterations=1)
    fourth_network()
    after = np.random.get_state(legacy=False)
    np.testing.assert_array_equal(after["state"]["key"], before["state"]["key"])
    assert after["state"]["pos"] == before["state"]["pos"]


def test_draws_repeat_with_a_seed_and_differ_without() -> None:
    for initialize in (t.initialize_parameters_deep, t.init_parameters):
        once, again = (initialize([3, 2], seed=7)["W1"] for _ in range(2))
        np.testing.assert_array_equal(once, again)
        once, again = (initialize([3, 2], seed=None)["W1"] for _ in range(2))
        assert not np.array_equal(once, again)
    once, again = (fourth_network(seed=None).params_values["W1"] for _ in range(2))
    assert not np.array_equal(once, again)


def test_he_initialisation_counts_inputs() -> None:
    """Var = 2 / n of the layer before; with n of the layer itself the scores change size."""
    n_in, n_out = 400, 25
    W = t.initialize_parameters_deep([n_in, n_out], initializer="he")["W1"]
    np.testing.assert_allclose(W.var(), 2 / n_in, rtol=0.05)
    A = np.maximum(np.random.RandomState(0).standard_normal((n_in, 2000)), 0)
    np.testing.assert_allclose((W @ A).var(), 2 * (A**2).mean(), rtol=0.1)
    document = W * np.sqrt(n_in / n_out)
    assert (document @ A).var() > 10 * 2 * (A**2).mean()


def test_weights_of_a_fixed_scale_lose_the_signal_layer_by_layer() -> None:
    """0.01 randn on six layers of 100: the fifth document's draw, beside He's."""
    X = np.random.RandomState(0).standard_normal((100, 50))

    def spread(initializer: str) -> float:
        parameters = t.initialize_parameters_deep([100] * 7, initializer=initializer)
        _, caches = t.L_model_forward(X, parameters)
        return float(caches[-1][1].std())

    assert spread("normal") < 1e-6
    assert spread("he") > 0.1


def test_of_zero_weights_only_the_last_bias_learns(backend: Backend, X: np.ndarray) -> None:
    parameters = on(backend, t.initialize_parameters_deep([3, 4, 1], initializer="zeros"))
    AL, caches = t.L_model_forward(backend.asarray(X), parameters)
    grads = off(backend, t.L_model_backward(AL, backend.asarray(Y1), caches))
    assert {name for name, value in grads.items() if np.any(value != 0)} == {"db2"}


def test_mini_batches_hold_every_example_once(backend: Backend) -> None:
    m = 10
    X, Y = np.arange(2 * m).reshape(2, m) * 1.0, np.arange(2 * m).reshape(2, m)
    batches = t.generate_mini_batches(backend.asarray(X), backend.asarray(Y), batch_size=4)
    pairs = [(backend.get(x), backend.get(y)) for x, y in batches]
    assert [x.shape for x, _ in pairs] == [(2, 4), (2, 4), (2, 2)]
    xs, ys = (np.concatenate(part, axis=1) for part in zip(*pairs, strict=True))
    np.testing.assert_array_equal(xs, ys)  # pairs stay together, and both rows of Y
    order = np.random.RandomState(0).permutation(m)  # as legacy numpy.random.seed(0)
    np.testing.assert_array_equal(xs[0], order)

    X1, y = backend.asarray(X), backend.asarray(Y[0])
    assert tuple(t.generate_mini_batches(X1, y, batch_size=4)[0][1].shape) == (1, 4)
    assert len(t.generate_mini_batches(X1, y, batch_size=10)) == 1
    with pytest.raises(ValueError, match="batch_size is 0"):
        t.generate_mini_batches(X1, y, batch_size=0)


def test_another_seed_gives_other_mini_batches() -> None:
    X = np.arange(20.0)[None, :]
    first, same, other = (
        np.concatenate([x for x, _ in t.generate_mini_batches(X, X, 8, seed=seed)], axis=1)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


# --- L_layer_model ---------------------------------------------------------------------


def test_L_layer_model_follows_the_gradient_of_its_cost(backend: Backend, X: np.ndarray) -> None:
    for output in ("none", "sigmoid"):
        parameters, costs = t.L_layer_model(
            backend.asarray(X),
            backend.asarray(Y1),
            [3, 4, 1],
            0.05,
            num_iterations=2,
            output=output,
            initializer="he",
        )
        start = t.init_parameters([3, 4, 1], seed=2, initializer="he")
        close(costs[0], cost_of(start, X, Y1, "relu", output))
        AL, caches = t.L_model_forward(X, start, output=output)
        first = t.update_parameters(start, t.L_model_backward(AL, Y1, caches, output=output), 0.05)
        close(costs[1], cost_of(first, X, Y1, "relu", output))
        assert costs[1] < costs[0]
        assert all(isinstance(cost, float) for cost in costs)
        assert cost_of(off(backend, parameters), X, Y1, "relu", output) < costs[1]


def test_the_cost_of_L_layer_model_is_exact_where_outputs_are_rounded(
    backend: Backend,
) -> None:
    """σ(800) is 1, but the cost of a wrong score of 800 is 800 and no other number."""
    X, Y = np.array([[4e5, -4e5]]), np.array([[0, 1]])
    W = t.init_parameters([1, 1], seed=2)["W1"]
    if W[0, 0] < 0:
        X = -X
    _, costs = t.L_layer_model(
        backend.asarray(X), backend.asarray(Y), [1, 1], 0.0, 1, output="sigmoid"
    )
    close(costs[0], 4e5 * abs(W[0, 0]))
    assert costs[0] > 1500


def test_hidden_layers_of_L_layer_model_are_not_linear(backend: Backend) -> None:
    """With 'none' in every layer, as in the first document, |x| cannot be learnt."""
    x = np.linspace(-1, 1, 21)[None, :]
    X, Y = backend.asarray(x), backend.asarray(np.abs(x))
    final = {}
    for hidden in ("relu", "none"):
        parameters, costs = t.L_layer_model(
            X, Y, [1, 8, 1], 0.1, 200, hidden=hidden, initializer="he"
        )
        AL, _ = t.L_model_forward(X, parameters, hidden=hidden, output="none")
        bend = np.diff(backend.get(AL)[0], n=2)
        assert (np.abs(bend).max() > 1e-3) == (hidden == "relu")
        final[hidden] = costs[-1]
    best_line = np.var(np.abs(x))
    assert final["relu"] < 0.1 * best_line < 0.99 * best_line < final["none"]


def test_L_layer_model_prints_only_when_asked(
    capsys: pytest.CaptureFixture[str], X: np.ndarray
) -> None:
    t.L_layer_model(X, Y1, [3, 2, 1], num_iterations=3)
    assert capsys.readouterr().out == ""
    _, costs = t.L_layer_model(X, Y1, [3, 2, 1], num_iterations=3, print_cost=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"iteration {i}: cost {cost:.6g}" for i, cost in enumerate(costs)]


# --- The table -------------------------------------------------------------------------


def test_every_row_of_the_documents_table_names_a_test_that_exists() -> None:
    text = (Path(__file__).parent.parent / "docs" / "documents.md").read_text(encoding="utf-8")
    _, table = text.split("## What was wrong")
    known = {**globals(), **vars(test_documents), **vars(test_tutorial_layers)}
    rows = [line for line in table.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) > 30
    for row in rows:
        names = re.findall(r"`(test_\w+)`", row)
        assert names, row
        assert all(name in known for name in names), row


def test_the_public_names_are_those_of_the_documents() -> None:
    assert all(hasattr(t, name) for name in t.__all__)
    assert issubclass(t.DenseLayer, t.Layer)
