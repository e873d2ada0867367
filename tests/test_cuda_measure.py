"""An evaluation on CUDA: equal to the specification's, in two launches or three, with no copy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conftest import tolerance
from mlp_xp import LOSSES, MLP, checks
from mlp_xp.kernels import SPEC
from mlp_xp.training import evaluate

N, M = 5, 700  # the examples are more than two blocks' and no multiple of one's


def example(
    loss: Any, labelled: bool, weighted: bool, stacked: tuple[bool, bool], random: Any
) -> tuple[Any, ...]:
    """S, targets, weights and classes; of three networks, or shared by them."""
    n, many = 1 if loss.kind == "binary" else N, (3,) if stacked[0] else ()
    more = many if stacked[1] else ()
    S = 3 * random.normal(size=(*many, n, M))
    S[..., :7] = 0  # ties
    T = {
        "multiclass": lambda: random.dirichlet(np.ones(n), (*more, M)).swapaxes(-1, -2),
        "binary": lambda: random.integers(0, 2, (*more, n, M)) * 1.0,
        "multilabel": lambda: (random.random((*more, n, M)) < 0.9) * 1.0,
        "count": lambda: random.poisson(2.0, (*more, n, M)) * 1.0,
        "real": lambda: 10 + random.normal(size=(*more, n, M)),
    }[loss.kind]()
    if loss.kind == "multilabel":
        S = np.abs(S)  # so that some have all labels right
        S[..., 400:] *= np.where(T[..., 400:] > 0.5, 1, -1)
    targets = random.integers(0, n, (*more, M)) if labelled else T
    return (
        S,
        targets,
        random.uniform(0, 2, (*more, M)) if weighted else None,
        (np.arange(n) if labelled else None),
    )


CASES = [(name, False) for name in LOSSES] + [("cross_entropy", True)]


@pytest.mark.parametrize("stacked", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "labelled"), CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_measure_equals_its_specification(
    cupy: Any,
    random: np.random.Generator,
    name: str,
    labelled: bool,
    weighted: bool,
    stacked: tuple[bool, bool],
    dtype: str,
) -> None:
    from mlp_xp.fast.cupy_kernels import KERNELS

    S, targets, weights, classes = example(LOSSES[name], labelled, weighted, stacked, random)
    S = S.astype(dtype)
    targets = targets if labelled else targets.astype(dtype)
    weights = None if weights is None else weights.astype(dtype)
    given = (LOSSES[name], S, targets, weights, classes)
    expected = SPEC.measure(np, *given)
    there = [cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in given]
    columns = there.copy()
    if not labelled:  # as rows have them
        columns[2] = cupy.ascontiguousarray(there[2].swapaxes(-1, -2)).swapaxes(-1, -2)
    for arguments in (there, columns):
        found = KERNELS.measure(cupy, *arguments)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.shape == theirs.shape
            assert mine.dtype == theirs.dtype == dtype
            np.testing.assert_allclose(mine.get(), theirs, **tolerance(dtype, M))
    assert float(np.min(np.abs(expected[1]))) > 0


def test_the_score_of_constant_targets_and_of_scores_that_are_no_numbers(cupy: Any) -> None:
    from mlp_xp.fast.cupy_kernels import KERNELS

    S = np.ones((2, 300), "float32")
    T = np.stack([np.ones(300), np.full(300, 2.0)]).astype("float32")
    for targets in (T, np.where(np.arange(300) == 5, np.nan, T)):
        given = (LOSSES["squared_error"], S, targets, None, None)
        expected = SPEC.measure(np, *given)
        found = KERNELS.measure(
            cupy, *[cupy.asarray(a) if a is S or a is targets else a for a in given]
        )
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine.get(), theirs, rtol=1e-5)
    S = np.array([[1, np.nan, np.nan, -np.inf], [2, 1, np.nan, -np.inf], [0, 9, 9, -np.inf]], "f4")
    for label, right in ((0, 3), (1, 1), (2, 0)):
        labels = np.full(4, label)
        given = (LOSSES["cross_entropy"], S, labels, None, np.arange(3))
        with np.errstate(invalid="ignore"):
            assert float(SPEC.measure(np, *given)[1]) == right / 4
        found = KERNELS.measure(
            cupy, *[cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in given]
        )
        assert float(found[1]) == right / 4


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_r2_of_equal_targets_is_0_or_1_whatever_they_weigh(
    cupy: Any, random: np.random.Generator, dtype: str, weighted: bool
) -> None:
    """Their mean is not always theirs to the last bit, so that the spread is more than 0."""
    from mlp_xp.fast.cupy_kernels import KERNELS

    for value in (0.1, -7.3, 1e5, 0.0):
        for m in (3, 100, 777):
            T, weights = np.full((1, m), value, dtype), None
            if weighted:
                weights = random.uniform(0.1, 1, m).astype(dtype)
                T[0, 1], weights[1] = 5.0, 0.0
            for S, expected in ((T, 1.0), (T + 1, 0.0)):
                given = [None if a is None else cupy.asarray(a) for a in (S, T, weights, None)]
                _, score = KERNELS.measure(cupy, LOSSES["squared_error"], *given)
                assert float(score) == expected


def test_a_loss_that_cannot_be_traced_is_measured_by_the_formula(cupy: Any) -> None:
    from mlp_xp.fast.cupy_kernels import KERNELS
    from mlp_xp.fast.launches import KernelWarning

    def value(xp: Any, S: Any, T: Any) -> Any:
        return xp.sum(xp.cumulative_sum(xp.abs(S - T), axis=-2), axis=-2)

    loss = LOSSES["squared_error"]._replace(value=value)
    S, T = np.random.default_rng(0).normal(size=(2, 3, 50))
    expected = SPEC.measure(np, loss, S, T, None, None)
    import array_api_compat.cupy as xp

    with pytest.warns(KernelWarning, match="measure cannot be used"):
        found = KERNELS.measure(xp, loss, cupy.asarray(S), cupy.asarray(T), None, None)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.get(), theirs)


@pytest.mark.parametrize(
    ("loss", "more"), [("cross_entropy", set()), ("squared_error", {"explained"})]
)
def test_an_evaluation_launches_little_and_compiles_less(
    counting: Any, loss: str, more: set[str]
) -> None:
    X = np.random.default_rng(0).normal(size=(20, 300)).astype("float32")
    y = np.arange(300) % 3 if loss == "cross_entropy" else X[:3]
    model = MLP((20, 8, 3), device="cuda", loss=loss)
    data = checks.data(X, y, None, (20, 8, 3), model.loss.kind, model.device, "float32")
    for _ in range(2):
        with counting.count() as counted, counting.forbid_synchronisation():
            found = evaluate(model._recipe, model.device.xp, model._run.state, data)
    assert counted.kernels == dict.fromkeys({"measure", "measured"} | more, 1) | {
        "layer_forward": 2
    }
    assert counted.copies == {}
    assert counted.pool_misses == counted.memsets == 0
    slow = replace(model._recipe, kernels=SPEC)
    expected = evaluate(slow, model.device.xp, model._run.state, data)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.get(), theirs.get(), rtol=1e-5)
