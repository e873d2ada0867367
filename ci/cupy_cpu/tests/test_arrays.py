"""CuPy's array functions on the CPU give what NumPy gives."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import cupy as cp
import numpy as np
import pytest

RNG = np.random.default_rng(0)
A = RNG.standard_normal((7, 5)).astype("f4")
B = RNG.standard_normal(5).astype("f4")
D = RNG.standard_normal((7, 5))


def assert_same(actual: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(cp.asnumpy(actual), expected, rtol=rtol, atol=atol)
    if hasattr(actual, "dtype") and hasattr(expected, "dtype"):
        assert actual.dtype == expected.dtype


def masked(xp: ModuleType, a: Any) -> Any:
    x = a.copy()
    x[x < 0] = 0
    x[:, 1] += 3
    x[xp.asarray([0, 2])] = 7
    return x


def in_place(xp: ModuleType, a: Any) -> Any:
    x = a.copy()
    x -= 1
    x *= 2
    x **= 2
    return x


def added_at(xp: ModuleType, a: Any) -> Any:
    x = xp.zeros(4, "f4")
    xp.add.at(x, xp.asarray([0, 1, 1, 3]), xp.asarray([1, 2, 3, 4], "f4"))
    return x


EXPRESSIONS: dict[str, Callable[[ModuleType, Any, Any, Any], Any]] = {
    "arange": lambda xp, a, b, d: xp.arange(10, dtype="f4"),
    "broadcasting": lambda xp, a, b, d: a + b,
    "promotion": lambda xp, a, b, d: a * d + 2,
    "astype": lambda xp, a, b, d: d.astype("i4"),
    "half": lambda xp, a, b, d: a.astype("f2") * 2,
    "boolean times complex": lambda xp, a, b, d: (a > 0) * (1j * d),
    "take": lambda xp, a, b, d: xp.take(a, xp.asarray([0, 3, 1]), axis=1),
    "integer index": lambda xp, a, b, d: a[xp.asarray([1, 2, 6]), xp.asarray([0, 4, 2])],
    "boolean index": lambda xp, a, b, d: a[a > 0],
    "assignment": lambda xp, a, b, d: masked(xp, a),
    "in place": lambda xp, a, b, d: in_place(xp, a),
    "add.at": lambda xp, a, b, d: added_at(xp, a),
    "where": lambda xp, a, b, d: xp.where(a > 0, xp.exp(a), xp.tanh(a)) + xp.maximum(a, 0),
    "concatenate": lambda xp, a, b, d: xp.concatenate([a.T, a.T], 1).reshape(2, -1),
    "keepdims": lambda xp, a, b, d: a.sum(1, keepdims=True),
    "argmax": lambda xp, a, b, d: a.argmax(1),
    "argmin": lambda xp, a, b, d: a.argmin(0),
    "cumsum": lambda xp, a, b, d: xp.cumsum(a, 1),
    "a million ones": lambda xp, a, b, d: xp.ones((1000, 1000), "f4").sum(),
    "sort": lambda xp, a, b, d: xp.sort(a, 1),
    "sort with NaN": lambda xp, a, b, d: xp.sort(xp.asarray([3, np.nan, -1, np.inf])),
    "argsort": lambda xp, a, b, d: xp.argsort(a, 0),
    "partition": lambda xp, a, b, d: xp.sort(xp.partition(d.ravel(), 9)[:9]),
    "unique": lambda xp, a, b, d: xp.unique(xp.asarray([3, 1, 3, 2])),
    "vector": lambda xp, a, b, d: a @ b,
    "inner": lambda xp, a, b, d: b @ b,
    "integers": lambda xp, a, b, d: xp.arange(6).reshape(2, 3) @ xp.arange(3),
    "batch": lambda xp, a, b, d: xp.ones((3, 2, 4)) @ xp.ones((4, 5)),
    "einsum": lambda xp, a, b, d: xp.einsum("ij,kj->ik", a, a),
    "tensordot": lambda xp, a, b, d: xp.tensordot(a, a, 2),
    "empty": lambda xp, a, b, d: a[:0] @ a.T,
    "empty inner": lambda xp, a, b, d: a[:, :0] @ a.T[:0],
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expression_equals_numpys(name: str) -> None:
    f = EXPRESSIONS[name]
    assert_same(f(cp, cp.asarray(A), cp.asarray(B), cp.asarray(D)), f(np, A, B, D))


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
@pytest.mark.parametrize("f", ["sum", "max", "min", "mean", "prod", "any", "all", "std"])
def test_reduction_equals_numpys(f: str, axis: int | tuple[int, ...] | None) -> None:
    assert_same(getattr(cp, f)(cp.asarray(A), axis=axis), getattr(np, f)(A, axis=axis))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_product_equals_numpys(dtype: str, transposed: bool, order: str) -> None:
    X = np.asarray(RNG.standard_normal((6, 9)).astype(dtype), order=order)
    Y = np.asarray(RNG.standard_normal((9, 3)).astype(dtype), order=order)
    tolerance = 1e-2 if dtype == "f2" else 1e-5
    if transposed:
        X, Y = Y.T, X.T
    out = cp.asarray(X) @ cp.asarray(Y)
    assert_same(out, X @ Y, rtol=tolerance, atol=tolerance)


def test_product_into_an_array() -> None:
    out = cp.empty((7, 7), "f4")
    cp.matmul(cp.asarray(A), cp.asarray(A.T), out=out)
    assert_same(out, A @ A.T)


def test_numpy_conversion_must_be_explicit() -> None:
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(cp.asarray(A))


def test_random_numbers_have_their_moments() -> None:
    assert abs(float(cp.random.rand(10000).mean()) - 0.5) < 0.02
    assert abs(float(cp.random.randn(10000).std()) - 1) < 0.05
    generator = cp.random.default_rng(1)
    assert abs(float(generator.random(10000).mean()) - 0.5) < 0.02
    assert abs(float(generator.standard_normal(10000).std()) - 1) < 0.05
    assert int(cp.random.randint(0, 5, 1000).max()) == 4


def test_permutation_has_each_index_once() -> None:
    assert sorted(cp.random.permutation(20).get()) == list(range(20))


def test_training_follows_numpy() -> None:
    """Sixty steps of a small network, in float64, on both."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((8, 64))
    Y = np.sin(X[:1]) + X[1:2]
    start = [rng.standard_normal(s) / 4 for s in [(16, 8), (16, 1), (1, 16), (1, 1)]]

    def losses(xp: ModuleType) -> tuple[list[float], list[Any]]:
        x, y = xp.asarray(X), xp.asarray(Y)
        W1, b1, W2, b2 = parameters = [xp.asarray(p.copy()) for p in start]
        history = []
        for _ in range(60):
            A1 = xp.tanh(W1 @ x + b1)
            delta2 = (W2 @ A1 + b2 - y) / x.shape[1]
            history.append(float((delta2 * delta2).sum()))
            delta1 = (W2.T @ delta2) * (1 - A1 * A1)
            W2 -= 0.3 * delta2 @ A1.T
            b2 -= 0.3 * delta2.sum(1, keepdims=True)
            W1 -= 0.3 * delta1 @ x.T
            b1 -= 0.3 * delta1.sum(1, keepdims=True)
        return history, parameters

    expected, expected_parameters = losses(np)
    actual, actual_parameters = losses(cp)
    assert expected[-1] < expected[0] / 2
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    for p, q in zip(actual_parameters, expected_parameters, strict=True):
        np.testing.assert_allclose(cp.asnumpy(p), q, rtol=1e-11, atol=1e-13)
