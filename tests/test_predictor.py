"""`MLP.predictor` answers as `predict_proba` and `predict` do."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest

from conftest import Backend, tolerance
from mlp_xp import MLP, Activation

CASES: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("cross_entropy", (5, 7, 4, 3), {}),
    ("cross_entropy", (5, 3), {}),
    ("cross_entropy", (5, 7, 3), {"activation": "gelu"}),
    ("cross_entropy", (5, 7, 3), {"normalization": "batch"}),
    ("cross_entropy", (5, 7, 3), {"seed": [0, 1]}),
    ("cross_entropy", (5, 7, 4, 3), {"seed": [0, 1], "normalization": "batch"}),
    ("binary_cross_entropy", (5, 7, 1), {"activation": "tanh"}),
    ("multilabel", (5, 7, 3), {}),
    ("squared_error", (5, 7, 2), {}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "sizes", "more"), CASES)
def test_a_predictor_answers_as_the_model(
    backend: Backend, loss: str, sizes: tuple[int, ...], more: dict[str, Any], dtype: str
) -> None:
    model = MLP(sizes, loss=loss, dtype=dtype, device=backend.device, **more)
    predict = model.predictor(6)
    random = np.random.default_rng(0)
    for m in (6, 1, 4):  # a whole batch, and what is left of one
        X = backend.asarray(random.normal(size=(sizes[0], m)).astype(dtype))
        expected = model.predict(X) if loss == "squared_error" else model.predict_proba(X)
        found = backend.get(predict(X))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, backend.get(expected), **tolerance(dtype, 8))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "sizes", "more"), CASES)
def test_a_predictor_with_large_products_answers_as_the_model(
    cupy: Any,
    loss: str,
    sizes: tuple[int, ...],
    more: dict[str, Any],
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of them cuBLAS's, or those of the first layer."""
    from mlp_xp.fast import choice

    for least in (0, 300):
        monkeypatch.setattr(choice, "SMALL", least)
        model = MLP(sizes, loss=loss, dtype=dtype, device="cuda", **more)
        predict = model.predictor(6)
        for m in (6, 1):
            X = np.random.default_rng(m).normal(size=(sizes[0], m)).astype(dtype)
            expected = model.predict(X) if loss == "squared_error" else model.predict_proba(X)
            for given in (cupy.asarray(X), cupy.asarray(X.T.copy()).T):
                for _ in range(2):
                    found = predict(given).get()
                    np.testing.assert_allclose(found, expected.get(), **tolerance(dtype, 8))


def test_without_a_compiler_a_predictor_answers_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    model = MLP((5, 7, 3), activation="gelu")
    compiled = np.array(model.predictor(6)(X))
    monkeypatch.setenv("MLP_XP_NATIVE", "0")
    np.testing.assert_allclose(model.predictor(6)(X), compiled, **tolerance("float32", 8))


def test_a_formula_without_a_kernel_is_predicted_by_numpy() -> None:
    odd = Activation(
        lambda xp, Z: xp.abs(Z) + 0 * xp.sort(Z, axis=-1), lambda xp, A: xp.ones_like(A)
    )
    X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    model = MLP((5, 7, 3), activation=odd)
    predict, expected = model.predictor(6), model.predict_proba(X)
    for _ in range(2):
        np.testing.assert_allclose(predict(X), expected, **tolerance("float32", 8))


def test_a_large_batch_is_shared_out_to_threads() -> None:
    X = np.random.default_rng(0).normal(size=(784, 900)).astype(np.float32)
    model = MLP((784, 100, 10))
    found = model.predictor(900)(X)
    np.testing.assert_allclose(found, model.predict_proba(X), rtol=1e-4, atol=1e-6)


def test_a_predictor_keeps_the_weights_it_was_made_with() -> None:
    random = np.random.default_rng(0)
    X, y = random.normal(size=(5, 64)).astype(np.float32), random.integers(0, 3, 64)
    model = MLP((5, 7, 3))
    predict, before = model.predictor(64), model.predict_proba(X)
    model.fit(X, y, epochs=2, progress=False)
    np.testing.assert_allclose(predict(X), before, rtol=1e-5)
    assert np.abs(model.predict_proba(X) - before).max() > 1e-3


def test_a_predictor_writes_nothing_to_its_input() -> None:
    X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    X.flags.writeable = False
    for sizes in ((5, 3), (5, 7, 3)):
        MLP(sizes).predictor(4)(X)


@pytest.mark.parametrize("native", ["0", "1"])
def test_more_examples_than_announced_are_an_error(
    native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLP_XP_NATIVE", native)
    with pytest.raises(ValueError, match=r"9 examples .* at most 4"):
        MLP((5, 7, 3)).predictor(4)(np.zeros((5, 9), np.float32))
    with pytest.raises(ValueError, match="4 features, but expected 5"):
        MLP((5, 7, 3)).predictor(4)(np.zeros((4, 2), np.float32))


def test_no_examples_are_answered_with_none_or_refused_as_such() -> None:
    nothing = np.zeros((5, 0), np.float32)
    assert MLP((5, 7, 3)).predictor(4)(nothing).shape == (3, 0)
    with pytest.raises(ValueError, match=r"X has shape \(5, 0\): there are no examples"):
        MLP((5, 7, 3), precision="bfloat16").predictor(4)(nothing)


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_batch_size_is_a_whole_number_from_one_on(size: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="batch_size"):
        MLP((5, 7, 3)).predictor(size)


def asked(predict: Any, X: Any, wanted: Any, times: int, wrong: list[Any]) -> None:
    """Ask again and again; whatever is not the answer is wrong."""
    for i in range(times):
        m = 1 + i % X.shape[1]
        found = np.array(predict(X[:, :m]))
        if not np.allclose(found, wanted[:, :m], rtol=1e-4, atol=1e-6):
            wrong.append((i, found.tolist(), wanted[:, :m].tolist()))


@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.parametrize(
    ("sizes", "more"),
    [
        ((20, 30, 3), {}),
        ((20, 300, 200, 3), {"activation": "gelu"}),
        ((20, 30, 3), {"normalization": "batch"}),
        ((20, 30, 3), {"normalization": "layer"}),
        ((900, 400, 3), {}),  # from three rows on shared out to the runtime's threads
    ],
)
def test_threads_may_share_a_predictor(
    native: str, sizes: tuple[int, ...], more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each asks for examples of its own, and none gets another's answers."""
    monkeypatch.setenv("MLP_XP_NATIVE", native)
    random, before = np.random.default_rng(0), sys.getswitchinterval()
    model, wrong = MLP(sizes, **more), list[Any]()
    predict, workers = model.predictor(5), []
    for _ in range(8):
        X = random.normal(size=(sizes[0], 5)).astype(np.float32)
        workers.append(
            threading.Thread(target=asked, args=(predict, X, model.predict_proba(X), 200, wrong))
        )
    sys.setswitchinterval(1e-6)
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []
