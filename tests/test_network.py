"""Networks: layout, forward, backward against differences, connections, leading axes."""

from __future__ import annotations

import random as stdlib_random
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_losses import targets

from conftest import Backend, tolerance
from mlp_xp import MLP, check_gradients
from mlp_xp.activations import ACTIVATIONS
from mlp_xp.kernels import SPEC, Kernels
from mlp_xp.losses import LOSSES
from mlp_xp.network import Network, connections, forward, join, split

SAMPLE_SEED = 2026
EVERY = list(
    product(
        ACTIVATIONS,
        LOSSES,
        ("none", "batch", "layer"),
        (0.0, 0.3),  # dropout
        (False, True),  # residual
    )
)
# every activation × loss once, the rest of the product drawn at random
SAMPLE = [
    stdlib_random.Random(f"{SAMPLE_SEED} {a} {loss}").choice(
        [row for row in EVERY if row[:2] == (a, loss)]
    )
    for a, loss in product(ACTIVATIONS, LOSSES)
]


def problem(loss: str, seed: int = 1, m: int = 6) -> tuple[int, np.ndarray, np.ndarray]:
    """n_out, X (4, m) and targets for a loss."""
    rng = np.random.default_rng(seed)
    n_out = 1 if LOSSES[loss].kind == "binary" else 3
    return n_out, rng.normal(size=(4, m)), targets(loss, rng, n_out, m)


@pytest.mark.parametrize(
    ("activation", "loss", "normalization", "dropout", "residual"),
    SAMPLE,
    ids=lambda value: str(value),
)
def test_backward_agrees_with_central_differences(
    activation: str, loss: str, normalization: Any, dropout: float, residual: bool
) -> None:
    print(f"sampled with seed {SAMPLE_SEED}")
    n_out, X, Y = problem(loss)
    model = MLP(
        (4, 5, 5, 4, n_out),
        activation=activation,
        loss=loss,
        normalization=normalization,
        dropout=dropout,
        residual=residual,
        density=0.7 if residual else 1.0,
        l2=0.01,
        label_smoothing=0.1 if loss in ("cross_entropy", "multilabel") else 0.0,
        dtype="float64",
    )
    check = check_gradients(model, X, Y, np.linspace(0.5, 2, X.shape[1]))
    assert check.passed, check
    assert check.checked > 0.9 * model.n_parameters * (0.7 if residual else 1)


@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
def test_gradients_are_the_same_on_every_backend(backend: Backend, normalization: Any) -> None:
    n_out, X, Y = problem("cross_entropy")
    check = check_gradients(
        MLP(
            (4, 5, 3, n_out),
            activation="tanh",
            normalization=normalization,
            dropout=0.2,
            residual=True,
            device=backend.device,
        ),
        X,
        Y,
    )
    assert check.passed, check


def broken(name: str) -> Kernels:
    """SPEC with one kernel wrong by one part in a thousand."""
    spec = getattr(SPEC, name)

    def wrong(xp: Any, *arguments: Any, **options: Any) -> Any:
        result = spec(xp, *arguments, **options)
        if isinstance(result, tuple):
            return (
                type(result)(*(1.001 * part for part in result))
                if hasattr(result, "_fields")
                else tuple(1.001 * part for part in result)
            )
        return 1.001 * result

    return SPEC._replace(**{name: wrong})


@pytest.mark.parametrize(
    "name", ["input_gradient", "activation_gradient", "weight_gradient", "normalise_gradient"]
)
def test_a_gradient_kernel_broken_on_purpose_is_caught(name: str) -> None:
    n_out, X, Y = problem("cross_entropy")
    model = MLP(
        (4, 5, 3, n_out), activation="tanh", normalization="batch", residual=True, dropout=0.2
    )
    assert check_gradients(model, X, Y).passed
    check = check_gradients(model, X, Y, kernels=broken(name))
    assert not check.passed
    assert 1e-5 < check.error < 0.1


def test_the_check_names_the_worst_parameter() -> None:
    n_out, X, Y = problem("squared_error")
    model = MLP((4, 3, n_out), activation="tanh", loss="squared_error")

    def wrong(xp: Any, dS: Any, A: Any) -> Any:
        dW = np.array(SPEC.weight_gradient(xp, dS, A))
        if dW.shape == (3, 4):
            dW[2, 1] += 1.0
        return dW

    check = check_gradients(model, X, Y, kernels=SPEC._replace(weight_gradient=wrong))
    assert check.worst == "W1[2, 1]"
    np.testing.assert_allclose(check.backward - check.numerical, 1.0, rtol=1e-6)


def test_a_kink_is_counted_and_not_blamed() -> None:
    X = np.array([[1.0, -1.0, 0.5]])
    model = MLP((1, 2, 1), loss="squared_error", dtype="float64")
    model.set_parameters(W1=np.zeros((2, 1)))  # every Z1 is exactly at the kink of relu
    check = check_gradients(model, X, np.ones(3))
    assert check.kinks > 0
    assert check.passed


@pytest.mark.parametrize("argument", ["step", "tolerance"])
@pytest.mark.parametrize("value", [0, -1e-5, float("nan")])
def test_a_check_of_gradients_needs_a_step_and_a_tolerance(argument: str, value: float) -> None:
    given: dict[str, Any] = {argument: value}
    with pytest.raises(ValueError, match=f"{argument} is "):
        check_gradients(MLP((2, 3, 2)), np.ones((2, 3)), [0, 1, 1], **given)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    normalization=st.sampled_from(["none", "batch", "layer"]),
    residual=st.booleans(),
)
def test_the_flat_vector_holds_every_parameter_once_weights_first(
    sizes: list[int], normalization: Any, residual: bool
) -> None:
    n_hidden = len(sizes) - 2
    relu = (ACTIVATIONS["relu"],) * n_hidden
    network = Network(tuple(sizes), relu, (0.0,) * n_hidden, normalization, residual)
    theta = np.arange(network.n_parameters, dtype=float)
    layers = split(network, np, theta)
    np.testing.assert_array_equal(join(network, np, layers), theta)
    for layer, (n_in, n_out) in zip(layers, pairwise(sizes), strict=True):
        assert layer.W.shape == (n_out, n_in)
        assert layer.b.shape == (n_out, 1)
        assert np.shares_memory(layer.W, theta)
    weights = sum(n_in * n_out for n_in, n_out in pairwise(sizes))
    assert network.n_weights == weights + sum(
        layer.P.size for layer in layers if layer.P is not None
    )
    assert all((layer.gain is not None) == (normalization != "none") for layer in layers[:-1])
    assert layers[-1].gain is None


def test_forward_is_the_formula(backend: Backend, random: np.random.Generator) -> None:
    network = Network((3, 4, 4, 2), (ACTIVATIONS["tanh"],) * 2, (0.0, 0.0), residual=True)
    theta = random.normal(size=network.n_parameters)
    (W1, b1, _, P1), (W2, b2, _, _), (W3, b3, _, _) = split(network, np, theta)
    X = random.normal(size=(3, 5))
    A1 = np.tanh(W1 @ X + b1) + P1 @ X
    A2 = np.tanh(W2 @ A1 + b2) + A1
    xp, put = backend.xp, backend.asarray
    result = forward(network, SPEC, xp, split(network, xp, put(theta)), put(X))
    np.testing.assert_allclose(backend.get(result.scores), W3 @ A2 + b3, **tolerance("float64", 4))


@settings(max_examples=30)
@given(n_in=st.integers(1, 30), n_out=st.integers(1, 30), density=st.floats(0.01, 0.99))
def test_every_sparse_unit_keeps_the_same_number_of_inputs(
    n_in: int, n_out: int, density: float
) -> None:
    network = Network((n_in, n_out, 2), (ACTIVATIONS["relu"],), (0.0,), density=density)
    mask = connections(network, 0)
    assert mask is not None
    first = mask[: n_in * n_out].reshape(n_out, n_in)
    np.testing.assert_array_equal(first.sum(axis=1), max(1, round(density * n_in)))
    np.testing.assert_array_equal(mask[n_in * n_out :], 1)  # output layer and biases


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "momentum"])
def test_absent_connections_stay_absent(optimizer: str, random: np.random.Generator) -> None:
    model = MLP((6, 8, 8, 3), density=0.3, optimizer=optimizer, l2=0.1, weight_decay=0.1)
    before = {name: np.array(value) for name, value in model.parameters.items()}
    model.fit(random.normal(size=(6, 40)), random.integers(0, 3, 40), epochs=3, progress=False)
    for name, value in model.parameters.items():
        absent = before[name] == 0
        if name in ("W1", "W2"):
            assert absent.mean() > 0.6
            np.testing.assert_array_equal(value[absent], 0)
        assert not np.array_equal(value, before[name])
