"""Sparse rows train and predict as dense ones do, and few of them are never made dense."""

from __future__ import annotations

import ctypes
import tracemalloc
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning
from test_products import walled

from conftest import tolerance
from mlp_xp import MLPClassifier, MLPRegressor
from mlp_xp.estimators.arrays import HOST, Sparse, SparseNumpy, SparseRows
from mlp_xp.fast import native, sparse
from mlp_xp.fast.calls import address

N_FEATURES = 120


def rows_of(m: int, density: float = 0.02, dtype: str = "float64", seed: int = 0) -> Any:
    """CSR rows, of which some have no entries."""
    rng = np.random.default_rng(seed)
    return scipy.sparse.random(
        m, N_FEATURES, density, "csr", dtype, random_state=rng, data_rvs=rng.standard_normal
    )


@pytest.fixture
def never_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a dense copy is made")

    for kind in (scipy.sparse.csr_matrix, scipy.sparse.csr_array):
        monkeypatch.setattr(kind, "toarray", refuse)
        monkeypatch.setattr(kind, "todense", refuse)


# -- products ------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("n_out", [1, 3, 4, 70])
def test_products_with_sparse_rows_are_those_with_dense_ones(
    n_out: int, wide: bool, dtype: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(native, "available", lambda: False)
    rows, rng = rows_of(50, 0.1, dtype), np.random.default_rng(1)
    if wide:
        rows.indices, rows.indptr = rows.indices.astype(np.int64), rows.indptr.astype(np.int64)
    told = sparse.kept(rows)
    assert told is not None
    assert told[-1] == wide
    X, near = rows.toarray(), tolerance(dtype, 2 * N_FEATURES)
    W = rng.normal(size=(n_out, N_FEATURES)).astype(dtype)
    delta = rng.normal(size=(n_out, 50)).astype(dtype)
    for lies in (np.ascontiguousarray, np.asfortranarray, lambda A: np.repeat(A, 2, 0)[::2]):
        np.testing.assert_allclose(sparse.product(lies(W), rows), W @ X.T, **near)
        np.testing.assert_allclose(sparse.gradient(lies(delta), rows), delta @ X, **near)


@pytest.mark.skipif(not native.available(), reason="no C compiler")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("turned", [False, True])
def test_nothing_beside_sparse_rows_is_read_or_written(turned: bool, dtype: str) -> None:
    rng = np.random.default_rng(0)
    kernel = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p, ctypes.c_longlong, ctypes.c_longlong])
    for n_out in (1, 2, 4, 5, 9, 30) * 5:
        rows = rows_of(int(rng.integers(1, 20)), float(rng.random()), dtype, int(rng.integers(99)))
        values, which = walled(rng, 1, 0, rows.nnz, dtype)[0], rng.integers(0, rows.shape[0], 13)
        values[:] = rows.data
        found = scipy.sparse.csr_array((values, rows.indices, rows.indptr), rows.shape)
        told = sparse.kept(found)
        assert told is not None
        X, kept = rows.toarray()[which], np.array(told, np.int64)
        inner, columns = X.shape[::-1] if turned else X.shape
        A, out = (walled(rng, n_out, n, n, dtype) for n in (inner, columns))
        words = [0, 0, 0, 0, turned, n_out, columns, inner, address(A), inner, address(kept), 0]
        table = np.array([*words, address(out), columns, 0, address(which)], np.int64)
        parts = int(rng.choice([1, 2, 3, 7, 64]))
        for part in range(parts):
            kernel(sparse.kernel(dtype))(address(table), part, parts)
        np.testing.assert_allclose(out, A @ (X.T if turned else X), rtol=1e-3, atol=1e-3)


def test_entries_that_stand_twice_or_in_no_order_are_added() -> None:
    data, columns = np.array([1.0, 2.0, 4.0, 8.0]), np.array([5, 2, 5, 0], np.int32)
    rows = scipy.sparse.csr_matrix((data, columns, np.array([0, 3, 3, 4], np.int32)), (3, 7))
    W = np.arange(14.0).reshape(2, 7)
    expected = W @ np.array([[0, 0, 2, 0, 0, 5, 0], [0] * 7, [8, 0, 0, 0, 0, 0, 0]]).T
    np.testing.assert_array_equal(sparse.product(W, rows), expected)


@pytest.mark.parametrize("width", ["i2", "u4", ">i4", ">i8", "misaligned"])
def test_rows_whose_columns_are_numbered_otherwise_are_read_by_scipy(width: str) -> None:
    """It takes every integer that somebody puts there, where two are the runtime's."""
    rows, W = rows_of(50), np.random.default_rng(0).normal(size=(5, N_FEATURES))
    delta = np.random.default_rng(1).normal(size=(5, 50))
    product, gradient = sparse.product(W, rows), sparse.gradient(delta, rows)
    if width == "misaligned":
        rows.data = np.frombuffer(b"-" + rows.data.tobytes(), offset=1)
    else:
        rows.indices, rows.indptr = rows.indices.astype(width), rows.indptr.astype(width)
    assert sparse.kept(rows) is None
    np.testing.assert_allclose(sparse.product(W, rows), product, **tolerance("float64", 250))
    np.testing.assert_allclose(sparse.gradient(delta, rows), gradient, **tolerance("float64", 250))


def test_a_formula_takes_sparse_rows_as_columns() -> None:
    rows, xp = rows_of(9), SparseNumpy()
    X = xp.matrix_transpose(Sparse(rows))
    assert X.shape == (N_FEATURES, 9)
    W = np.random.default_rng(0).normal(size=(4, N_FEATURES))
    np.testing.assert_allclose(xp.matmul(W, X), W @ rows.toarray().T, rtol=1e-12, atol=1e-12)
    assert xp.astype(X, np.float32).dtype == np.float32
    assert xp.maximum is np.maximum


def test_few_are_those_whose_products_gain_by_it() -> None:
    many = rows_of(100, 0.05, "float32")
    assert not sparse.few(many)
    assert sparse.few(many.astype(np.float64))
    assert SparseRows(many.astype(np.float64), HOST).few


# -- estimators ----------------------------------------------------------------------


def both(
    estimator: Any, options: dict[str, Any], dtype: str = "float64", density: float = 0.02
) -> tuple[Any, Any, Any]:
    """One that was fitted to sparse rows, one to the same as an array, and the rows."""
    rows = rows_of(230, density, dtype)
    dense = rows.toarray()
    y = (dense[:, :60].sum(axis=1) > 0) * 1 + (dense[:, 60:].sum(axis=1) > 0) * 1
    y = y + dense[:, 0] if estimator is MLPRegressor else y
    fitted = []
    for X in (rows, dense):
        made = estimator(random_state=0, max_iter=4, batch_size=64, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted.append(made.fit(X, y))
    return *fitted, rows


OPTIONS: dict[str, dict[str, Any]] = {
    "few units": {"hidden_layer_sizes": (5,)},
    "one unit": {"hidden_layer_sizes": (1,)},
    "many units": {"hidden_layer_sizes": (70,)},
    "no hidden layer": {"hidden_layer_sizes": ()},
    "two layers, sgd": {"hidden_layer_sizes": (30, 8), "solver": "sgd"},
    "early stopping": {"hidden_layer_sizes": (30,), "early_stopping": True},
    "lbfgs": {"hidden_layer_sizes": (30,), "solver": "lbfgs"},
    "dropout": {"hidden_layer_sizes": (30,), "dropout": 0.3},
}


@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("density", [0.02, 0.5])  # the second is copied
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_sparse_rows_give_the_model_of_dense_ones(
    options: dict[str, Any], dtype: str, density: float, estimator: Any
) -> None:
    mine, theirs, rows = both(estimator, options, dtype, density)
    near = {"rtol": 1e-9, "atol": 1e-9} if dtype == "float64" else {"rtol": 2e-3, "atol": 2e-4}
    for one, other in zip(mine.coefs_, theirs.coefs_, strict=True):
        np.testing.assert_allclose(one, other, **near)
    np.testing.assert_allclose(mine.loss_, theirs.loss_, **near)
    predict = "predict" if estimator is MLPRegressor else "predict_proba"
    found, expected = (getattr(mine, predict)(X) for X in (rows, rows.toarray()))
    np.testing.assert_allclose(found, expected, **near)
    np.testing.assert_allclose(getattr(mine, predict)(rows[:1]), expected[:1], **near)


@pytest.mark.skipif(not native.available(), reason="no C compiler")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_few_entries_are_never_made_dense(options: dict[str, Any], never_dense: None) -> None:
    rows = rows_of(230)
    y = np.random.default_rng(0).integers(0, 3, 230)
    model = MLPClassifier(random_state=0, max_iter=3, batch_size=64, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, y)
    assert model.predict_proba(rows).shape == (230, 3)
    assert model.predict(rows[3]).shape == (1,)
    assert 0 <= model.score(rows.tocsc(), y) <= 1


@pytest.mark.parametrize("n_units", [5, 70])
def test_steps_go_from_sparse_rows_to_dense_ones_and_back(n_units: int) -> None:
    """Whose products stand in one table."""
    rows = [rows_of(64, seed=seed) for seed in range(5)]
    y = np.random.default_rng(0).integers(0, 3, 64)
    mine, theirs = (MLPClassifier((n_units,), random_state=0, batch_size=64) for _ in "ab")
    for i, X in enumerate(rows):
        mine.partial_fit(X if i % 2 else X.toarray(), y, classes=[0, 1, 2])
        theirs.partial_fit(X.toarray(), y, classes=[0, 1, 2])
    for one, other in zip(mine.coefs_, theirs.coefs_, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(not native.available(), reason="no C compiler")
def test_a_dense_batch_takes_no_memory_before_there_is_one() -> None:
    """Not even memory that is never touched: a quota of addresses counts it."""
    rows = scipy.sparse.random(100, 200_000, 0.0005, "csr", np.float32, random_state=0)
    y, dense = np.arange(100) % 2, 100 * 200_000 * 4
    model, peaks = MLPClassifier((2,), batch_size=100), list[int]()
    tracemalloc.start()
    try:
        for X in (rows, rows, rows.toarray()):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            model.partial_fit(X, y, classes=[0, 1])
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    assert max(peaks[:2]) < dense / 2
    assert np.isfinite(model.loss_)


def test_a_matrix_that_is_given_other_arrays_is_trained_on_as_it_was() -> None:
    """Methods such as `sum_duplicates` do that; steps still read the arrays of before."""
    rows, other, y = rows_of(5_000), rows_of(5_000, 0.01, seed=1), np.arange(5_000) % 3
    options = {"hidden_layer_sizes": (5,), "max_iter": 3, "random_state": 0}
    before, kept = rows.copy(), weakref.ref(rows.data)

    def change(*_: object) -> None:
        rows.data, rows.indices, rows.indptr = other.data, other.indices, other.indptr
        assert kept() is not None

    with pytest.warns(ConvergenceWarning):
        found = MLPClassifier(**options, callbacks=[change]).fit(rows, y)
    with pytest.warns(ConvergenceWarning):
        expected = MLPClassifier(**options).fit(before, y)
    np.testing.assert_array_equal(found.coefs_[0], expected.coefs_[0])


def test_products_at_another_precision_take_a_dense_copy() -> None:
    mine, theirs, rows = both(MLPClassifier, {"precision": "tf32"}, "float32")
    found, expected = mine.predict_proba(rows), theirs.predict_proba(rows.toarray())
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-3)
