"""Every row of OPTIMIZERS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conftest import Backend, tolerance
from mlp_xp.kernels import SPEC
from mlp_xp.optimizers import OPTIMIZERS, Adam, Optimizer

names = pytest.mark.parametrize("name", OPTIMIZERS)

STEPS = 25


def gradient(theta: np.ndarray, step: int) -> np.ndarray:
    """Of a quadratic with a moving centre: all signs, sizes from 1e-3 to 1e2."""
    return np.geomspace(1e-3, 1e2, theta.size) * (theta - np.cos(step + np.arange(theta.size)))


def descend(optimizer: Optimizer, backend: Backend | None, dtype: str, decay: float) -> np.ndarray:
    xp = np if backend is None else backend.xp
    put = np.asarray if backend is None else backend.asarray
    get = np.asarray if backend is None else backend.get
    theta = put(np.linspace(-1, 1, 12).astype(dtype))
    moments = tuple(put(np.zeros(12, dtype)) for _ in range(optimizer.n_moments))
    for step in range(1, STEPS + 1):
        g = put(gradient(get(theta), step).astype(dtype))
        shrink = put(np.full(12, optimizer.rate * decay, dtype)) if decay else None
        scalars = optimizer.scalars(optimizer.rate, step)
        theta, moments = SPEC.update(xp, optimizer, theta, g, moments, scalars, shrink)
        assert theta.dtype == g.dtype
        assert len(moments) == optimizer.n_moments
    return get(theta)


@names
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_every_backend_takes_the_same_path(backend: Backend, name: str, decay: float) -> None:
    optimizer = OPTIMIZERS[name](rate=0.01)
    for dtype in ("float32", "float64"):
        expected = descend(optimizer, None, dtype, decay)
        np.testing.assert_allclose(
            descend(optimizer, backend, dtype, decay), expected, **tolerance(dtype, STEPS)
        )


# a torch optimiser of the same formula, from torch.optim, the parameters and the rate
TORCH: dict[str, Callable[..., Any]] = {
    "sgd": lambda optim, values, rate: optim.SGD(values, rate),
    "momentum": lambda optim, values, rate: optim.SGD(values, rate, momentum=0.9),
    "nesterov": lambda optim, values, rate: optim.SGD(values, rate, momentum=0.9, nesterov=True),
    "adagrad": lambda optim, values, rate: optim.Adagrad(values, rate),
    "rmsprop": lambda optim, values, rate: optim.RMSprop(values, rate),
    "adam": lambda optim, values, rate: optim.Adam(values, rate),
    "adamw": lambda optim, values, rate: optim.AdamW(values, rate, weight_decay=0.0),
}


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_the_path_is_that_of_torch(torch: Any, name: str, decay: float) -> None:
    rate = 0.01
    theta = torch.linspace(-1, 1, 12, dtype=torch.float64, requires_grad=True)
    reference = TORCH[name](torch.optim, [theta], rate)
    for step in range(1, STEPS + 1):
        theta.grad = torch.tensor(gradient(theta.detach().numpy(), step))
        with torch.no_grad():
            theta.mul_(1 - rate * decay)
        reference.step()
    mine = descend(OPTIMIZERS[name](rate=rate), None, "float64", decay)
    np.testing.assert_allclose(mine, theta.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_adamw_decays_as_torch_does(torch: Any) -> None:
    theta = torch.linspace(-1, 1, 12, dtype=torch.float64, requires_grad=True)
    reference = torch.optim.AdamW([theta], 0.01, weight_decay=0.05)
    for step in range(1, STEPS + 1):
        theta.grad = torch.tensor(gradient(theta.detach().numpy(), step))
        reference.step()
    mine = descend(OPTIMIZERS["adamw"](rate=0.01), None, "float64", 0.05)
    np.testing.assert_allclose(mine, theta.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_lion_is_algorithm_2_of_its_paper() -> None:
    theta, m, rate, decay = np.linspace(-1, 1, 12), np.zeros(12), 0.01, 0.05
    for step in range(1, STEPS + 1):
        g = gradient(theta, step)
        c = 0.9 * m + 0.1 * g
        theta = theta - rate * (np.sign(c) + decay * theta)
        m = 0.99 * m + 0.01 * g
    mine = descend(OPTIMIZERS["lion"](rate=rate), None, "float64", decay)
    np.testing.assert_allclose(mine, theta, rtol=1e-10, atol=1e-12)


def test_the_first_step_of_adam_is_the_rate_whatever_the_gradient() -> None:
    adam = Adam(rate=0.1)
    zeros = (np.zeros(3), np.zeros(3))
    g = np.array([1e-3, -5.0, 1e6])
    theta, _ = adam.update(np, np.zeros(3), g, zeros, *adam.scalars(adam.rate, 1))
    np.testing.assert_allclose(theta, -0.1 * np.sign(g), rtol=1e-4)


@names
def test_a_rate_for_each_network(backend: Backend, name: str) -> None:
    optimizer = OPTIMIZERS[name]()
    rates = np.array([[0.1], [0.001]])
    theta, g = np.linspace(-1, 1, 8).reshape(2, 4), np.linspace(3, -1, 8).reshape(2, 4)
    zeros = tuple(np.zeros((2, 4)) for _ in range(optimizer.n_moments))
    together, _ = optimizer.update(
        backend.xp,
        backend.asarray(theta),
        backend.asarray(g),
        tuple(map(backend.asarray, zeros)),
        *optimizer.scalars(backend.asarray(rates), 1),
    )
    for k in range(2):
        alone, _ = optimizer.update(
            np,
            theta[k],
            g[k],
            tuple(z[k] for z in zeros),
            *optimizer.scalars(float(rates[k, 0]), 1),
        )
        np.testing.assert_allclose(backend.get(together)[k], alone, **tolerance("float64"))


@names
def test_a_zero_gradient_moves_nothing(name: str) -> None:
    optimizer = OPTIMIZERS[name]()
    zeros = tuple(np.zeros(5) for _ in range(optimizer.n_moments))
    theta = np.linspace(-1, 1, 5)
    after, moments = optimizer.update(
        np, theta, np.zeros(5), zeros, *optimizer.scalars(optimizer.rate, 1)
    )
    np.testing.assert_array_equal(after, theta)
    for moment in moments:
        np.testing.assert_array_equal(moment, 0)
