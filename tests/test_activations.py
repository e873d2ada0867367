"""Every row of ACTIVATIONS, by the table: a new row is tested by existing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conftest import Backend, tolerance
from mlp_xp.activations import ACTIVATIONS

names = pytest.mark.parametrize("name", ACTIVATIONS)

# name in torch.nn.functional, and its arguments
TORCH: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("relu", {}),
    "leaky_relu": ("leaky_relu", {"negative_slope": 0.01}),
    "elu": ("elu", {}),
    "selu": ("selu", {}),
    "gelu": ("gelu", {"approximate": "tanh"}),
    "silu": ("silu", {}),
    "softplus": ("softplus", {"threshold": 1e9}),
    "mish": ("mish", {}),
    "tanh": ("tanh", {}),
    "sigmoid": ("sigmoid", {}),
}


def slope_at(xp: Any, name: str, Z: Any) -> Any:
    """f'(Z), whatever the row's slope is written in."""
    row = ACTIVATIONS[name]
    return row.slope(xp, row.f(xp, Z) if row.slope_of == "A" else Z)


@names
def test_the_slope_is_the_derivative(backend: Backend, name: str) -> None:
    Z = np.concatenate([np.linspace(-6, 6, 41) + 0.01, [-30.0, 30.0]])
    step = 1e-6
    f, xp = ACTIVATIONS[name].f, backend.xp
    above, below = (backend.get(f(xp, backend.asarray(Z + s))) for s in (step, -step))
    slope = backend.get(slope_at(xp, name, backend.asarray(Z)))
    np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-7, atol=1e-8)


@names
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_overflows_or_warns_at_large_scores(
    backend: Backend, name: str, dtype: str
) -> None:
    Z = np.array([-1e4, -100, -88.8, -1, -1e-30, 0, 1e-30, 1, 88.8, 100, 1e4], dtype=dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        A = backend.get(ACTIVATIONS[name].f(backend.xp, backend.asarray(Z)))
        slope = backend.get(slope_at(backend.xp, name, backend.asarray(Z)))
    assert A.dtype == slope.dtype == dtype
    assert np.isfinite(A).all()
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() <= 1.8  # selu's is λ α = 1.76, the largest of all


@pytest.mark.parametrize("name", TORCH)
def test_f_and_its_slope_agree_with_torch(torch: Any, name: str) -> None:
    function, arguments = TORCH[name]
    Z = torch.linspace(-8, 8, 101, dtype=torch.float64, requires_grad=True)
    A = getattr(torch.nn.functional, function)(Z, **arguments)
    A.sum().backward()
    host = Z.detach().numpy()
    np.testing.assert_allclose(ACTIVATIONS[name].f(np, host), A.detach().numpy(), atol=1e-12)
    inner = host != 0
    np.testing.assert_allclose(slope_at(np, name, host)[inner], Z.grad.numpy()[inner], atol=1e-12)


@names
def test_nan_stays_nan(backend: Backend, name: str) -> None:
    Z = backend.asarray(np.array([np.nan, 1.0], dtype=np.float32))
    A = backend.get(ACTIVATIONS[name].f(backend.xp, Z))
    assert np.isnan(A[0])
    assert np.isfinite(A[1])


@given(
    Z=hnp.arrays(np.float32, hnp.array_shapes(max_dims=3), elements=st.floats(-50, 50, width=32))
)
def test_shape_and_dtype_are_kept_and_float32_is_float64_to_rounding(Z: np.ndarray) -> None:
    for row in ACTIVATIONS.values():
        A = row.f(np, Z)
        assert A.shape == Z.shape
        assert A.dtype == np.float32
        exact = row.f(np, Z.astype(np.float64))
        # cancellation near the zero of 1 + tanh is relative to the argument's size
        np.testing.assert_allclose(A, exact, rtol=1e-5, atol=4e-6 * max(1, np.abs(Z).max()))


def test_known_values() -> None:
    one = np.array(1.0)
    known = {
        "sigmoid": 0.7310585786300049,
        "softplus": 1.3132616875182228,
        "selu": 1.0507009873554805,
        "mish": 0.8650983882673103,
        "silu": 0.7310585786300049,
        "elu": 1.0,
    }
    for name, value in known.items():
        np.testing.assert_allclose(ACTIVATIONS[name].f(np, one), value, **tolerance("float64"))
    np.testing.assert_allclose(ACTIVATIONS["elu"].f(np, -one), np.expm1(-1.0))
    # the exact GELU(1) = Φ(1) = 0.8413447; the tanh form is within 5e-4 of it
    assert abs(ACTIVATIONS["gelu"].f(np, one) - 0.8413447460685429) < 5e-4


def test_identity_returns_its_input() -> None:
    Z = np.arange(3.0)
    assert ACTIVATIONS["identity"].f(np, Z) is Z


def test_the_slope_of_relu_at_zero_is_zero() -> None:
    assert ACTIVATIONS["relu"].slope(np, np.zeros(1))[0] == 0
