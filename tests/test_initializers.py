"""Every row of INITIALIZERS."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlp_xp import MLP, Sequential
from mlp_xp.draws import Draw, Purpose
from mlp_xp.initializers import INITIALIZERS, normal
from mlp_xp.layers import Dense

# variance as a function of fan_in and fan_out
VARIANCE = {
    "zeros": lambda i, o: 0.0,
    "normal": lambda i, o: 1e-4,
    "he": lambda i, o: 2 / i,
    "lecun": lambda i, o: 1 / i,
    "glorot_uniform": lambda i, o: 2 / (i + o),
    "glorot_normal": lambda i, o: 2 / (i + o),
    "xavier_uniform": lambda i, o: 2 / (i + o),
    "xavier_normal": lambda i, o: 2 / (i + o),
}


def make(name: str, n_out: int, n_in: int, density: float = 1.0) -> np.ndarray:
    draw = Draw(0, Purpose.WEIGHTS, 0)
    return INITIALIZERS[name](draw, n_out, n_in, density * n_in, density * n_out)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_weights_have_the_shape_asked_for_and_differ_by_seed(name: str) -> None:
    W = make(name, 7, 5)
    assert W.shape == (7, 5)
    assert W.dtype == np.float64
    assert np.isfinite(W).all()
    other = INITIALIZERS[name](Draw(1, Purpose.WEIGHTS, 0), 7, 5, 5, 7)
    assert np.array_equal(W, other) == (name == "zeros")


@pytest.mark.parametrize("name", VARIANCE)
def test_variance_is_that_of_the_paper(name: str) -> None:
    rule = VARIANCE[name]
    for density in (1.0, 0.25):
        W = make(name, 300, 500, density)
        assert W.shape == (300, 500)
        assert W.dtype == np.float64
        expected = rule(density * 500, density * 300)
        np.testing.assert_allclose(W.var(), expected, rtol=0.02)
        np.testing.assert_allclose(W.mean(), 0, atol=4 * np.sqrt(expected / W.size) + 1e-12)


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (20, 20), (1, 5), (5, 1)])
def test_orthogonal_rows_or_columns(shape: tuple[int, int]) -> None:
    W = make("orthogonal", *shape)
    assert W.shape == shape
    gram = W @ W.T if shape[0] <= shape[1] else W.T @ W
    np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-12)


def test_orthogonal_is_uniform_over_signs() -> None:
    corners = [
        INITIALIZERS["orthogonal"](Draw(seed, Purpose.WEIGHTS, 0), 3, 3, 3, 3)[0, 0]
        for seed in range(400)
    ]
    assert abs(np.mean(np.sign(corners))) < 0.15


def test_normal_takes_its_scale() -> None:
    W = normal(0.5)(Draw(0, Purpose.WEIGHTS, 0), 200, 200, 200, 200)
    np.testing.assert_allclose(W.std(), 0.5, rtol=0.02)


def test_glorot_uniform_is_bounded_as_in_the_paper() -> None:
    limit = np.sqrt(6 / (300 + 500))
    W = make("glorot_uniform", 300, 500)
    assert 0.999 * limit < np.abs(W).max() < limit


@pytest.mark.parametrize("shape", [(5, 4), (20,), (1, 1), ()])
def test_an_initialiser_of_ones_own_gives_the_shape_that_is_asked(shape: tuple[int, ...]) -> None:
    """(n_in, n_out) has as many numbers, which would be put in another order."""

    def own(draw: Any, n_out: int, n_in: int, fan_in: float, fan_out: float) -> np.ndarray:
        return np.ones((n_out, n_in) if n_out == 3 else shape)

    for make in (
        lambda: MLP((5, 4, 3), initializer=own),
        lambda: Sequential(5, [Dense(4), Dense(3)], initializer=own),
    ):
        with pytest.raises(ValueError, match=r"initializer gives .*\(n_out, n_in\), here \(4, 5\)"):
            make()
