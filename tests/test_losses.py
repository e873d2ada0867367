"""Every row of LOSSES, by the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Backend, tolerance
from mlp_xp.losses import LOSSES, POISSON_LIMIT, one_hot, smooth

names = pytest.mark.parametrize("name", LOSSES)


def targets(name: str, random: np.random.Generator, n_out: int, m: int) -> np.ndarray:
    """Targets of the kind a loss takes, none of them at a kink of the loss."""
    kind = LOSSES[name].kind
    if kind == "multiclass":
        return np.eye(n_out)[random.integers(0, n_out, m)].T
    if kind in ("binary", "multilabel"):
        return random.integers(0, 2, (n_out, m)).astype(float)
    if kind == "count":
        return random.poisson(3, (n_out, m)).astype(float)
    return random.normal(size=(n_out, m)) * 2


@names
@pytest.mark.parametrize("leading", [(), (3,)])
def test_delta_is_the_derivative_of_the_value(
    backend: Backend, name: str, leading: tuple[int, ...], random: np.random.Generator
) -> None:
    loss, xp = LOSSES[name], backend.xp
    n_out, m, step = 4, 5, 1e-6
    S = random.normal(size=(*leading, n_out, m)) * 2
    T = targets(name, random, n_out, m)
    delta = backend.get(loss.delta(xp, backend.asarray(S), backend.asarray(T)))
    for k in range(n_out):
        shift = np.zeros_like(S)
        shift[..., k, :] = step
        above, below = (
            backend.get(loss.value(xp, backend.asarray(S + s), backend.asarray(T)))
            for s in (shift, -shift)
        )
        assert above.shape == (*leading, m)
        np.testing.assert_allclose(
            delta[..., k, :], (above - below) / (2 * step), rtol=1e-6, atol=1e-7
        )


@names
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scores_of_ten_thousand_are_finite(backend: Backend, name: str, dtype: str) -> None:
    loss, xp = LOSSES[name], backend.xp
    S = np.array([[1e4, -1e4, 1e4, 0, 88.9], [-1e4, 1e4, 1e4, 0, -88.9]], dtype=dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for right in (0, 1):
            T = np.zeros_like(S)
            T[right] = 1
            for part in (
                loss.value(xp, backend.asarray(S), backend.asarray(T)),
                loss.delta(xp, backend.asarray(S), backend.asarray(T)),
                loss.predict(xp, backend.asarray(S)),
            ):
                assert backend.get(part).dtype == dtype
                assert np.isfinite(backend.get(part)).all()


def test_a_confident_mistake_costs_its_score_and_not_infinity() -> None:
    S = np.array([[1e4], [-1e4]], dtype=np.float32)
    wrong, right = np.array([[0.0], [1.0]]), np.array([[1.0], [0.0]])
    for name, cost in {"cross_entropy": 2e4, "multilabel": 2e4}.items():
        np.testing.assert_allclose(LOSSES[name].value(np, S, wrong), [cost], rtol=1e-6)
        np.testing.assert_allclose(LOSSES[name].value(np, S, right), [0], atol=1e-6)


def _bce(nn: Any, S: Any, T: Any) -> Any:
    return nn.binary_cross_entropy_with_logits(S, T, reduction="none").sum(0)


# the loss of each example by torch.nn.functional, for scores and targets as columns
TORCH: dict[str, Callable[..., Any]] = {
    "squared_error": lambda nn, S, T: 0.5 * nn.mse_loss(S, T, reduction="none").sum(0),
    "absolute_error": lambda nn, S, T: nn.l1_loss(S, T, reduction="none").sum(0),
    "huber": lambda nn, S, T: nn.huber_loss(S, T, reduction="none").sum(0),
    "poisson": lambda nn, S, T: nn.poisson_nll_loss(S, T, reduction="none").sum(0),
    "binary_cross_entropy": _bce,
    "multilabel": _bce,
    "cross_entropy": lambda nn, S, T: nn.cross_entropy(S.T, T.T, reduction="none"),
}


@pytest.mark.parametrize("name", TORCH)
def test_value_and_delta_agree_with_torch(
    torch: Any, name: str, random: np.random.Generator
) -> None:
    host, T = random.normal(size=(4, 7)) * 3, targets(name, random, 4, 7)
    S = torch.tensor(host, requires_grad=True)
    value = TORCH[name](torch.nn.functional, S, torch.tensor(T))
    value.sum().backward()
    np.testing.assert_allclose(LOSSES[name].value(np, host, T), value.detach(), rtol=1e-10)
    np.testing.assert_allclose(LOSSES[name].delta(np, host, T), S.grad, rtol=1e-10, atol=1e-12)


def test_predictions_are_distributions_or_means(random: np.random.Generator) -> None:
    S = random.normal(size=(2, 4, 6)) * 5
    np.testing.assert_allclose(LOSSES["cross_entropy"].predict(np, S).sum(axis=-2), 1)
    np.testing.assert_allclose(LOSSES["multilabel"].predict(np, S), 1 / (1 + np.exp(-S)))
    np.testing.assert_allclose(LOSSES["poisson"].predict(np, S), np.exp(S))
    assert LOSSES["squared_error"].predict(np, S) is S


def test_beyond_its_limit_the_poisson_rate_is_a_tangent() -> None:
    loss = LOSSES["poisson"]
    S = np.array([[POISSON_LIMIT - 1e-9, POISSON_LIMIT + 1e-9, POISSON_LIMIT + 10]])
    T = np.zeros_like(S)
    value, delta = loss.value(np, S, T), loss.delta(np, S, T)
    np.testing.assert_allclose(value[0], value[1], rtol=1e-8)
    np.testing.assert_allclose(delta[0, 2], delta[0, 1])
    np.testing.assert_allclose(value[2], value[1] + 10 * delta[0, 1])


def test_one_hot_is_the_identity_and_out_of_range_is_zero(backend: Backend) -> None:
    labels, classes = backend.asarray(np.array([2, 0, 5])), backend.asarray(np.arange(3))
    encoded = one_hot(backend.xp, labels, classes, backend.xp.float32)
    np.testing.assert_array_equal(
        backend.get(encoded), np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=np.float32)
    )


@given(smoothing=st.floats(0, 0.99), n=st.integers(2, 9))
def test_smoothed_targets_stay_distributions(smoothing: float, n: int) -> None:
    T = smooth("multiclass", np.eye(n), smoothing)
    np.testing.assert_allclose(T.sum(axis=0), 1)
    np.testing.assert_allclose(np.diagonal(T), 1 - smoothing + smoothing / n)
    two = smooth("binary", np.array([[0.0, 1.0]]), smoothing)
    np.testing.assert_allclose(two, [[smoothing / 2, 1 - smoothing / 2]], **tolerance("float64"))
