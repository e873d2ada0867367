"""The specification kernels against plain NumPy, and a table of example calls.

`EXAMPLES` holds one call of every kernel; a kernel without one fails the first test.
Tests of kernel sets take their inputs from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conftest import Backend, tolerance
from mlp_xp import kernels
from mlp_xp.activations import ACTIVATIONS
from mlp_xp.kernels import EPSILON, SPEC, Kernels
from mlp_xp.losses import LOSSES
from mlp_xp.optimizers import Adam
from mlp_xp.types import Normalised

N_OUT, N_IN, M, P = 5, 4, 7, 11
Random = np.random.Generator


def _normalised(random: Random) -> Normalised:
    return kernels.normalise(
        np, random.normal(size=(N_OUT, M)), np.ones((N_OUT, 1)), np.zeros((N_OUT, 1)), -1
    )


# arguments after xp, as NumPy arrays and constants
EXAMPLES: dict[str, Callable[[Random], tuple[Any, ...]]] = {
    "rounded": lambda r: (r.normal(size=(N_OUT, M)).astype("float32"), 8),
    "product": lambda r: (r.normal(size=(N_OUT, N_IN)), r.normal(size=(N_IN, M))),
    "layer": lambda r: (
        r.normal(size=(N_OUT, N_IN)),
        r.normal(size=(N_IN, M)),
        r.normal(size=(N_OUT, 1)),
        ACTIVATIONS["tanh"],
    ),
    "activate": lambda r: (r.normal(size=(N_OUT, M)), ACTIVATIONS["silu"]),
    "normalise": lambda r: (
        r.normal(size=(N_OUT, M)),
        r.normal(size=(N_OUT, 1)),
        r.normal(size=(N_OUT, 1)),
        -1,
    ),
    "normalise_by": lambda r: (
        r.normal(size=(N_OUT, M)),
        r.normal(size=(N_OUT, 1)),
        r.normal(size=(N_OUT, 1)),
        r.normal(size=(N_OUT, 1)),
        r.uniform(1, 2, (N_OUT, 1)),
    ),
    "normalise_gradient": lambda r: (
        r.normal(size=(N_OUT, M)),
        r.normal(size=(N_OUT, 1)),
        _normalised(r),
        -1,
    ),
    "dropout_mask": lambda r: (r.integers(0, 65536, (N_OUT, M), dtype=np.int32), 0.3, "float64"),
    "dropout": lambda r: (r.normal(size=(N_OUT, M)), r.integers(0, 2, (N_OUT, M)) * 1.5),
    "score": lambda r: (
        LOSSES["squared_error"],
        r.normal(size=(N_OUT, M)),
        r.normal(size=(N_OUT, M)),
        r.uniform(0, 2, M),
    ),
    "measure": lambda r: (
        LOSSES["squared_error"],
        r.normal(size=(N_OUT, M)),
        r.normal(size=(N_OUT, M)),
        r.uniform(0, 2, M),
        None,
    ),
    "input_gradient": lambda r: (r.normal(size=(N_OUT, N_IN)), r.normal(size=(N_OUT, M))),
    "activation_gradient": lambda r: (
        r.normal(size=(N_OUT, M)),
        r.normal(size=(N_OUT, M)),
        ACTIVATIONS["silu"],
        r.integers(0, 2, (N_OUT, M)) * 2.0,
    ),
    "weight_gradient": lambda r: (r.normal(size=(N_OUT, M)), r.normal(size=(N_IN, M))),
    "whole_batch": lambda r: (
        r.normal(size=2),
        r.normal(size=(2, P)),
        r.uniform(1, 9, (2, 1, 1)),
        r.uniform(0, 2, (2, 1)),
    ),
    "clip_norm": lambda r: (r.normal(size=P) * 10, 1.0),
    "clip_value": lambda r: (r.normal(size=P) * 10, 1.0),
    "update": lambda r: (
        Adam(),
        r.normal(size=P),
        r.normal(size=P),
        (r.normal(size=P), r.uniform(1, 2, P)),
        Adam().scalars(0.1, 3),
        r.uniform(0, 0.1, P),
    ),
}


def flat(value: Any) -> list[Any]:
    """All arrays in a kernel's result, in order."""
    if isinstance(value, tuple | list):
        return [array for part in value for array in flat(part)]
    return [value]


def on(backend: Backend, value: Any) -> Any:
    """The arguments of an example call with their arrays on a backend."""
    if isinstance(value, np.ndarray):
        return backend.asarray(value)
    if isinstance(value, Normalised):
        return Normalised(*(on(backend, part) for part in value))
    if type(value) is tuple:
        return tuple(on(backend, part) for part in value)
    return getattr(backend.xp, value) if isinstance(value, str) else value


def test_every_kernel_has_an_example_call() -> None:
    assert set(EXAMPLES) == set(Kernels._fields)
    assert all(getattr(SPEC, name) is getattr(kernels, name) for name in Kernels._fields)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_backend_computes_what_numpy_does(
    backend: Backend, name: str, random: Random
) -> None:
    arguments = EXAMPLES[name](random)
    plain = tuple(getattr(np, a) if isinstance(a, str) else a for a in arguments)
    expected = flat(getattr(SPEC, name)(np, *plain))
    computed = flat(getattr(SPEC, name)(backend.xp, *on(backend, arguments)))
    for mine, theirs in zip(computed, expected, strict=True):
        assert backend.get(mine).dtype == np.asarray(theirs).dtype
        np.testing.assert_allclose(backend.get(mine), theirs, **tolerance("float64", M))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_leading_axis_is_many_calls_at_once(backend: Backend, name: str, random: Random) -> None:
    calls = [EXAMPLES[name](random) for _ in range(3)]

    def stack(parts: list[Any]) -> Any:
        if isinstance(parts[0], np.ndarray):
            return np.stack(parts)
        if isinstance(parts[0], Normalised):
            return Normalised(*map(stack, map(list, zip(*parts, strict=True))))
        if type(parts[0]) is tuple:
            return tuple(map(stack, map(list, zip(*parts, strict=True))))
        return parts[0]

    together = stack(calls)
    results = flat(getattr(SPEC, name)(backend.xp, *on(backend, together)))
    for k, call in enumerate(calls):
        alone = flat(getattr(SPEC, name)(backend.xp, *on(backend, call)))
        for joint, single in zip(results, alone, strict=True):
            np.testing.assert_allclose(
                backend.get(joint)[k], backend.get(single), **tolerance("float64", M)
            )


def test_normalise_has_zero_mean_and_unit_variance_along_its_axis(
    backend: Backend, random: Random
) -> None:
    S = random.normal(3, 10, size=(6, 50))
    one, zero = backend.asarray(np.ones((6, 1))), backend.asarray(np.zeros((6, 1)))
    for axis in (-1, -2):
        found = SPEC.normalise(backend.xp, backend.asarray(S), one, zero, axis)
        Z = backend.get(found.Z)
        np.testing.assert_allclose(Z.mean(axis=axis), 0, atol=1e-12)
        variance = S.var(axis=axis)
        np.testing.assert_allclose(Z.var(axis=axis), variance / (variance + EPSILON))
        again = SPEC.normalise_by(
            backend.xp, backend.asarray(S), one, zero, found.mean, found.variance
        )
        np.testing.assert_allclose(backend.get(again), Z, atol=1e-12)


def test_a_constant_feature_normalises_to_its_bias(backend: Backend) -> None:
    S = backend.asarray(np.full((2, 4), 7.0))
    one, bias = backend.asarray(np.ones((2, 1))), backend.asarray(np.full((2, 1), 3.0))
    found = SPEC.normalise(backend.xp, S, one, bias, -1)
    np.testing.assert_array_equal(backend.get(found.Z), 3.0)


def test_a_dropout_mask_keeps_the_mean_and_drops_at_its_rate(backend: Backend) -> None:
    bits = backend.asarray(np.arange(65536, dtype=np.int32))
    for rate in (0.1, 0.5, 0.999):
        mask = backend.get(SPEC.dropout_mask(backend.xp, bits, rate, backend.xp.float64))
        np.testing.assert_allclose(mask.mean(), 1, rtol=1e-12)
        np.testing.assert_allclose(np.mean(mask == 0), rate, atol=1e-5)
        assert len(np.unique(mask)) == 2


def test_weights_scale_examples_and_zero_weights_are_absent(random: Random) -> None:
    loss = LOSSES["cross_entropy"]
    S, T = random.normal(size=(3, 4)), np.eye(3)[[0, 1, 2, 0]].T
    J, delta, db = SPEC.score(np, loss, S, T, np.array([1.0, 2.0, 0.0, 3.0]))
    copies = [0, 1, 1, 3, 3, 3]
    J2, _, db2 = SPEC.score(np, loss, S[:, copies], T[:, copies], None)
    np.testing.assert_allclose(J, J2)
    np.testing.assert_allclose(db, db2)
    np.testing.assert_array_equal(delta[:, 2], 0)
    J0, delta0, _ = SPEC.score(np, loss, S, T, np.zeros(4))
    assert J0 == 0
    np.testing.assert_array_equal(delta0, 0)


@pytest.mark.parametrize("value", [0.1, -7.3, 1e20])
def test_r2_of_equal_targets_is_0_or_1_whatever_they_weigh(
    backend: Backend, random: np.random.Generator, value: float
) -> None:
    """Their mean is not always theirs to the last bit, so that the spread is more than 0."""
    T = np.full((1, 40), value)
    T[0, 3] = 5.0
    for _ in range(20):
        weights = random.uniform(0.1, 1, 40)
        weights[3] = 0.0
        for S, expected in ((T, 1.0), (T + value, 0.0)):
            given = map(backend.asarray, (S, T, weights))
            _, score = SPEC.measure(backend.xp, LOSSES["squared_error"], *given, None)
            assert float(backend.get(score)) == expected


def test_r2_of_targets_that_are_all_equal_is_scikit_learns(backend: Backend) -> None:
    T = np.array([[2.0, 2.0, 2.0], [0.0, 1.0, 3.0]], "float32")
    for S, expected in ((T, 1.0), (T + np.array([[1.0], [0.0]], "float32"), 0.5)):
        given = (backend.asarray(S), backend.asarray(T), None, None)
        _, score = SPEC.measure(backend.xp, LOSSES["squared_error"], *given)
        assert float(backend.get(score)) == expected


def test_clipping_by_norm_keeps_the_direction_and_spares_small_gradients() -> None:
    g = np.array([[3.0, 4.0], [0.3, 0.4]])
    clipped = SPEC.clip_norm(np, g, 1.0)
    np.testing.assert_allclose(clipped, [[0.6, 0.8], [0.3, 0.4]])
    np.testing.assert_array_equal(SPEC.clip_value(np, g, 3.5), [[3.0, 3.5], [0.3, 0.4]])
    np.testing.assert_array_equal(SPEC.clip_norm(np, np.zeros(3), 1.0), 0)


def test_decoupled_decay_shrinks_weights_and_spares_the_rest() -> None:
    adam = Adam(weight_decay=0.1)
    zeros = (np.zeros(2), np.zeros(2))
    theta, _ = SPEC.update(
        np, adam, np.ones(2), np.zeros(2), zeros, adam.scalars(1.0, 1), np.array([0.1, 0.0])
    )
    np.testing.assert_allclose(theta, [0.9, 1.0])


def test_one_number_tells_of_no_variance(backend: Backend) -> None:
    """And the running one is kept, whether the count is known beforehand or on the device."""
    xp, put = backend.xp, backend.asarray
    variance, running = np.array([[1.5], [0.0]]), np.array([[2.0], [3.0]])
    for m in (1, 2, 5):
        expected = running if m == 1 else variance * m / (m - 1)
        for count in (m, put(np.full((1, 1), float(m)))):
            found = kernels.unbiased(xp, put(variance), count)
            kept = kernels.newest_or(xp, found, put(running), count)
            np.testing.assert_allclose(backend.get(kept), expected)
