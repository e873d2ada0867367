"""The estimators are scikit-learn's: the same model, the same manners."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

import joblib
import scipy.optimize
import scipy.sparse
from sklearn import neural_network as theirs
from sklearn.base import clone
from sklearn.datasets import load_digits, make_multilabel_classification, make_regression
from sklearn.exceptions import NotFittedError, UndefinedMetricWarning
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelBinarizer, StandardScaler

import mlp_xp
from mlp_xp import MLPClassifier, MLPRegressor
from mlp_xp.estimators import solvers
from mlp_xp.estimators.data import is_plain
from mlp_xp.estimators.mlp import _binarizer
from mlp_xp.estimators.solvers import r_squared, spread_of
from mlp_xp.fast import blas

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore:Got `batch_size`"
)

EPOCHS = 20
TOLERANCE = {"float64": 1e-6, "float32": 1e-3}

DIGITS, LABELS = load_digits(return_X_y=True)
DIGITS, LABELS = DIGITS[:700] / 16, LABELS[:700]
ROWS, VALUES = make_regression(300, 12, noise=5.0, random_state=0)
VALUES = VALUES / VALUES.std()
MANY, TAGS = make_multilabel_classification(300, n_classes=4, random_state=0)
MANY = MANY / MANY.max()

# name: (class name, X, y)
PROBLEMS: dict[str, tuple[str, Any, Any]] = {
    "multiclass": ("MLPClassifier", DIGITS, LABELS),
    "binary": ("MLPClassifier", DIGITS, LABELS > 4),
    "text": ("MLPClassifier", DIGITS, np.array(list("abcdefghij"))[LABELS]),
    "multilabel": ("MLPClassifier", MANY, TAGS),
    "regression": ("MLPRegressor", ROWS, VALUES),
    "outputs": ("MLPRegressor", ROWS, np.stack([VALUES, VALUES**2, 3 - VALUES], axis=1)),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adam, small batches": {"batch_size": 32, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-6},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.02},
    "sgd, plain momentum": {"solver": "sgd", "nesterovs_momentum": False, "momentum": 0.5},
    "sgd, invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
    "sgd, adaptive": {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "tol": 0.05,
        "n_iter_no_change": 2,
    },
    "tanh, two layers": {"activation": "tanh", "hidden_layer_sizes": (20, 10), "alpha": 0.1},
    "logistic": {"activation": "logistic", "hidden_layer_sizes": 16, "learning_rate_init": 0.01},
    "identity, no shuffle": {"activation": "identity", "shuffle": False, "batch_size": 50},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.2, "n_iter_no_change": 3},
    "early stopping, sgd": {"early_stopping": True, "solver": "sgd", "learning_rate_init": 0.05},
    "stops by itself": {"tol": 0.1, "n_iter_no_change": 2, "batch_size": 20},
}


def pair(problem: str, **parameters: Any) -> tuple[Any, Any, Any, Any]:
    """Theirs and ours with the same parameters, X and y."""
    name, X, y = PROBLEMS[problem]
    parameters = {"random_state": 3, "max_iter": EPOCHS, **parameters}
    ours = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}[name]
    return getattr(theirs, name)(**parameters), ours(**parameters), X, y


def assert_same(reference: Any, ours: Any, X: Any, rtol: float) -> None:
    """Attributes and predictions are the same, to a share of their largest."""

    def close(a: Any, b: Any, what: str) -> None:
        a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
        scale = float(np.max(np.abs(a), initial=1e-300))
        np.testing.assert_allclose(b, a, rtol=rtol, atol=rtol * scale, err_msg=what)

    for name in ("coefs_", "intercepts_"):
        for i, (a, b) in enumerate(zip(getattr(reference, name), getattr(ours, name), strict=True)):
            assert a.shape == b.shape
            close(a, b, f"{name}[{i}]")
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_"):
        assert getattr(reference, name) == getattr(ours, name), name
    if hasattr(reference, "loss_curve_"):
        np.testing.assert_allclose(ours.loss_curve_, reference.loss_curve_, rtol=rtol)
        for name in ("best_loss_", "best_validation_score_", "validation_scores_"):
            a, b = getattr(reference, name), getattr(ours, name)
            assert (a is None) == (b is None), name
            if a is not None:
                close(a, b, name)
    if hasattr(reference, "predict_proba"):
        close(reference.predict_proba(X), ours.predict_proba(X), "predict_proba")
        np.testing.assert_array_equal(reference.predict(X), ours.predict(X))
    else:
        close(reference.predict(X), ours.predict(X), "predict")


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_same_model_as_scikit_learns(problem: str, setting: str) -> None:
    reference, ours, X, y = pair(problem, **SETTINGS[setting])
    assert_same(reference.fit(X, y), ours.fit(X, y), X, TOLERANCE["float64"])


@pytest.mark.parametrize("setting", ["adam", "sgd", "early stopping"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_same_model_in_float32(problem: str, setting: str) -> None:
    reference, ours, X, y = pair(problem, **SETTINGS[setting])
    X = X.astype(np.float32)
    if problem in ("regression", "outputs"):
        y = y.astype(np.float32)
    assert_same(reference.fit(X, y), ours.fit(X, y), X, TOLERANCE["float32"])
    assert {array.dtype for array in ours.coefs_ + ours.intercepts_} == {np.dtype(np.float32)}


@pytest.mark.parametrize("setting", ["adam", "sgd", "early stopping"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_same_model_with_sample_weights(problem: str, setting: str) -> None:
    reference, ours, X, y = pair(problem, **SETTINGS[setting])
    w = np.random.default_rng(0).uniform(0.1, 3, len(X))
    assert_same(reference.fit(X, y, sample_weight=w), ours.fit(X, y, sample_weight=w), X, 1e-6)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_same_model_by_lbfgs(problem: str) -> None:
    # few iterations: rounding grows in those that follow, with theirs as with ours
    reference, ours, X, y = pair(problem, solver="lbfgs", max_iter=8)
    assert_same(reference.fit(X, y), ours.fit(X, y), X, 1e-6)
    np.testing.assert_allclose(ours.loss_, reference.loss_, rtol=1e-9)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_scipys_own_blas_waits_for_no_threads_in_lbfgs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own two, spinning for each other, were 107 of 120 ms of a fit on a busy machine."""
    libraries, found, minimize = blas.of_scipy(), list[int](), scipy.optimize.minimize
    if not libraries:
        pytest.skip("SciPy has NumPy's BLAS here")
    (library,) = libraries

    def watched(*args: Any, **kwargs: Any) -> Any:
        found.append(library.num_threads)
        return minimize(*args, **kwargs)

    monkeypatch.setattr(scipy.optimize, "minimize", watched)
    before = library.num_threads
    library.set_num_threads(2)
    try:
        MLPClassifier(max_iter=3, solver="lbfgs").fit(DIGITS, LABELS)
        assert (found, library.num_threads) == ([1], 2)
    finally:
        library.set_num_threads(before)


@pytest.mark.parametrize(
    "y",
    [
        np.repeat([7, -2, 9], 4),
        np.array([True, False] * 4),
        np.zeros(5, np.uint8),
        np.arange(30),
        np.array(["b", "a"] * 3),
        np.eye(4, dtype=int),
        scipy.sparse.csr_array(np.eye(4, dtype=int)),
    ],
    ids=["three", "bool", "one", "each its own", "text", "several labels", "sparse labels"],
)
def test_classes_are_found_as_scikit_learn_finds_them(y: Any) -> None:
    found, expected = (vars(fit(y)) for fit in (_binarizer, LabelBinarizer().fit))
    np.testing.assert_array_equal(found.pop("classes_"), expected.pop("classes_"))
    assert found == expected


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.inf, np.nan, 1e308])
def test_rows_whose_sum_is_not_finite_are_left_to_scikit_learns_checks(value: float) -> None:
    X = np.zeros((10, 2))
    X[0] = value, -value
    assert is_plain(MLPRegressor(), X, reset=True) == bool(np.isfinite(value))
    X[0] = value
    assert not is_plain(MLPRegressor(), X, reset=True)


@pytest.mark.parametrize("weighted", [False, True], ids=["equal weights", "weights"])
@pytest.mark.parametrize("dtypes", ["dd", "ff", "df"], ids=["float64", "float32", "both"])
def test_the_score_that_is_watched_is_r2_score_to_the_bit(weighted: bool, dtypes: str) -> None:
    rng = np.random.default_rng(0)
    for n_out, m in itertools.product((1, 3), (2, 45, 1000)):
        truth = rng.standard_normal((m, n_out)).astype(dtypes[0])
        told = (truth + 0.3 * rng.standard_normal((m, n_out))).astype(dtypes[1])
        weights = rng.random(m).astype(dtypes[0]) if weighted else None
        truth[:, -1] = rng.choice((truth[0, -1], truth[-1, -1]), m)  # may be all equal
        cases = [(truth, told), (np.ones_like(truth), told), (truth, truth.astype(dtypes[1]))]
        for a, b in [*cases, (np.ones_like(truth), np.ones_like(told))]:
            ours = r_squared(a, b, weights, spread_of(a, weights))
            assert ours == r2_score(a, b, sample_weight=weights)
    with pytest.warns(UndefinedMetricWarning, match="less than two samples"):
        assert np.isnan(r_squared(truth[:1], told[:1], None, np.zeros(3)))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_same_model_by_partial_fit(problem: str, solver: str) -> None:
    reference, ours, X, y = pair(problem, solver=solver)
    more = {}
    if problem in ("multiclass", "binary", "text"):
        more = {"classes": np.unique(y)}
    elif problem == "multilabel":
        more = {"classes": np.arange(4)}
    w = np.random.default_rng(0).uniform(0.5, 2, len(X))
    for start in (0, 100, 0, 50):
        part = slice(start, start + 100)
        for est in (reference, ours):
            est.partial_fit(X[part], y[part], **more)
            est.partial_fit(X[part], y[part], sample_weight=w[part])
    assert_same(reference, ours, X, 1e-6)


def test_the_same_poisson_model() -> None:
    y = np.random.default_rng(0).poisson(np.exp(VALUES))
    for solver in ("adam", "sgd"):
        settings = {"loss": "poisson", "solver": solver, "random_state": 0, "max_iter": EPOCHS}
        reference = theirs.MLPRegressor(**settings).fit(ROWS, y)
        assert_same(reference, MLPRegressor(**settings).fit(ROWS, y), ROWS, 1e-6)


def test_the_same_model_of_unscaled_features_whose_loss_is_clipped() -> None:
    reference, ours, X, y = pair("multiclass")
    X = 2000 * X
    assert_same(reference.fit(X, y), ours.fit(X, y), X, 1e-6)
    assert max(reference.loss_curve_) > 5


def test_the_same_model_of_targets_in_float16_whose_squares_overflow() -> None:
    reference, ours, X, y = pair("outputs", early_stopping=True)
    y = (300 * y).astype(np.float16)
    assert_same(reference.fit(X, y), ours.fit(X, y), X, 1e-6)
    assert len(set(ours.validation_scores_)) > 1


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_the_same_model_after_a_warm_start(solver: str, early_stopping: bool) -> None:
    reference, ours, X, y = pair(
        "multiclass", solver=solver, warm_start=True, early_stopping=early_stopping, max_iter=5
    )
    for _ in range(3):
        reference.fit(X, y)
        ours.fit(X, y)
    assert_same(reference, ours, X, 1e-6)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_the_same_model_by_a_warm_start_after_partial_fit(solver: str) -> None:
    reference, ours, X, y = pair("regression", solver=solver, warm_start=True, max_iter=3)
    for est in (reference, ours):
        for _ in range(2):
            est.partial_fit(X, y).fit(X, y)
    assert_same(reference, ours, X, 1e-6)


def test_a_random_state_object_is_drawn_from_alike() -> None:
    reference, ours, X, y = pair("binary", early_stopping=True)
    reference.set_params(random_state=np.random.RandomState(5))
    ours.set_params(random_state=np.random.RandomState(5))
    assert_same(reference.fit(X, y), ours.fit(X, y), X, 1e-6)
    assert reference.random_state.rand() == ours.random_state.rand()


def test_parameters_and_defaults_are_scikit_learns() -> None:
    for name in ("MLPClassifier", "MLPRegressor"):
        ours, reference = getattr(mlp_xp, name)().get_params(), getattr(theirs, name)().get_params()
        assert {key: ours[key] for key in reference} == reference


def test_fitted_attributes_are_scikit_learns() -> None:
    for problem in PROBLEMS:
        reference, ours, X, y = pair(problem, max_iter=2)
        public = {n for n in vars(reference.fit(X, y)) if n.endswith("_") and n[0] != "_"}
        assert public <= set(vars(ours.fit(X, y)))


def test_verbose_prints_what_scikit_learn_prints(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for est in pair("binary", verbose=True, early_stopping=True, tol=0.5, n_iter_no_change=1)[:2]:
        est.fit(*PROBLEMS["binary"][1:])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != ""


@pytest.mark.filterwarnings("default")
def test_warnings_are_scikit_learns() -> None:
    for parameters in ({"max_iter": 2}, {"solver": "lbfgs", "max_iter": 2}, {"batch_size": 9999}):
        texts = []
        for est in pair("regression", **parameters)[:2]:
            with pytest.warns(Warning) as caught:  # noqa: PT030
                est.fit(ROWS, VALUES)
            texts.append({(w.category, str(w.message)) for w in caught})
        assert texts[0] == texts[1]


# -- sparse input -------------------------------------------------------------------


@pytest.mark.parametrize("container", [scipy.sparse.csr_matrix, scipy.sparse.csc_array])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_sparse_input_gives_the_dense_model(solver: str, container: Any) -> None:
    for early_stopping in (False, True):
        _, ours, X, y = pair("multiclass", solver=solver, max_iter=5, early_stopping=early_stopping)
        dense = clone(ours).fit(X, y)
        ours.fit(container(X), y)
        for a, b in zip(dense.coefs_, ours.coefs_, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ours.predict_proba(container(X)), dense.predict_proba(X))


def test_sparse_labels_give_the_dense_model_and_sparse_answers() -> None:
    for early_stopping in (False, True):
        reference, ours, X, y = pair("multilabel", max_iter=5, early_stopping=early_stopping)
        sparse = scipy.sparse.csr_matrix(y)
        dense = clone(ours).fit(X, y)
        found = ours.fit(X, sparse).predict(X)
        assert type(found) is type(reference.fit(X, sparse).predict(X))
        np.testing.assert_array_equal(found.toarray(), dense.predict(X))
        np.testing.assert_array_equal(ours.predict_proba(X), dense.predict_proba(X))
        assert ours.score(X, sparse) == dense.score(X, y)


def test_sparse_input_is_never_dense_as_a_whole() -> None:
    import tracemalloc

    X = scipy.sparse.random_array((20_000, 3_000), density=1e-3, format="csr", rng=0)
    y = np.arange(20_000) % 2
    whole = 8 * 20_000 * 3_000
    for parameters in ({"solver": "adam"}, {"solver": "lbfgs"}):
        est = MLPClassifier(4, max_iter=1, random_state=0, **parameters)
        tracemalloc.start()
        est.fit(X, y).predict(X)
        assert tracemalloc.get_traced_memory()[1] < whole / 3
        tracemalloc.stop()


# -- manners ------------------------------------------------------------------------


def fitted(**parameters: Any) -> tuple[Any, Any, Any]:
    _, ours, X, y = pair("multiclass", max_iter=3, **parameters)
    return ours.fit(X, y), X, y


@pytest.mark.parametrize(
    "through",
    [copy.deepcopy, lambda est: pickle.loads(pickle.dumps(est))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_trains_on_as_the_original(through: Any) -> None:
    est, X, y = fitted()
    other = through(est)
    np.testing.assert_array_equal(other.predict_proba(X), est.predict_proba(X))
    for _ in range(2):
        est.partial_fit(X, y)
        other.partial_fit(X, y)
    for a, b in zip(est.coefs_, other.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_memory_mapped_model_predicts_and_trains_on(tmp_path: Any) -> None:
    est, X, y = fitted()
    joblib.dump(est, tmp_path / "model")
    other = joblib.load(tmp_path / "model", mmap_mode="r")
    np.testing.assert_array_equal(other.predict(X), est.predict(X))
    other.partial_fit(X, y)


def test_coefs_may_be_written_to_and_replaced() -> None:
    est, X, _ = fitted()
    est.coefs_[1][...] = 0
    est.intercepts_[1] = np.eye(10)[4]
    assert set(est.predict(X)) == {4}


def test_works_in_pipelines_and_searches() -> None:
    _, X, y = PROBLEMS["multiclass"]
    found = []
    for row in (theirs.MLPClassifier, MLPClassifier):
        pipeline = make_pipeline(StandardScaler(), row(max_iter=5, random_state=0))
        search = GridSearchCV(pipeline, {pipeline.steps[1][0] + "__alpha": [1e-4, 1.0]}, cv=2)
        found.append(search.fit(X, y).cv_results_["mean_test_score"])
    np.testing.assert_array_equal(*found)


def test_trains_in_other_processes() -> None:
    est, X, y = fitted()
    scores = joblib.Parallel(n_jobs=2)(joblib.delayed(clone(est).fit)(X, y) for _ in range(2))
    np.testing.assert_array_equal(scores[0].coefs_[0], est.coefs_[0])


def test_feature_names_are_kept_and_compared() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, columns=[f"x{i}" for i in range(12)])
    est = MLPRegressor(max_iter=2).fit(frame, VALUES)
    assert list(est.feature_names_in_) == list(frame.columns)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        est.predict(ROWS)
    with pytest.raises(ValueError, match="feature names should match"):
        est.predict(frame.rename(columns={"x0": "other"}))
    assert not hasattr(est.fit(ROWS, VALUES), "feature_names_in_")


BAD: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "activation": ({"activation": "cube"}, DIGITS, LABELS),
    "solver": ({"solver": "newton"}, DIGITS, LABELS),
    "alpha": ({"alpha": -1}, DIGITS, LABELS),
    "hidden sizes": ({"hidden_layer_sizes": (3, 0)}, DIGITS, LABELS),
    "max_iter": ({"max_iter": 0}, DIGITS, LABELS),
    "nan": ({}, np.full((4, 2), np.nan), [0, 1, 0, 1]),
    "one axis": ({}, DIGITS[0], LABELS),
    "lengths": ({}, DIGITS, LABELS[:-1]),
    "continuous": ({}, DIGITS, LABELS + 0.5),
    "no examples": ({}, np.zeros((0, 3)), []),
    "set aside too little": ({"early_stopping": True}, [[0.0], [1.0], [2.0]], [0, 1, 2]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_as_by_scikit_learn(case: str) -> None:
    parameters, X, y = BAD[case]
    with pytest.raises(Exception) as expected:  # noqa: PT011
        theirs.MLPClassifier(**parameters).fit(X, y)
    with pytest.raises(type(expected.value)):
        MLPClassifier(**parameters).fit(X, y)


def test_predicting_checks_as_scikit_learn() -> None:
    est, X, _ = fitted()
    with pytest.raises(NotFittedError):
        MLPClassifier().predict(X)
    for bad in (X[:, 1:], X[0], np.full_like(X[:2], np.nan), np.array([["a"] * 64])):
        with pytest.raises(ValueError, match=r"Expected 2D|features|NaN|text is none"):
            est.predict(bad)


def test_a_batch_without_weight_is_refused_as_by_scikit_learn() -> None:
    reference, ours, X, y = pair("regression", shuffle=False, batch_size=50)
    w = np.ones(300)
    w[50:100] = 0
    for est in (reference, ours):
        with pytest.raises(ZeroDivisionError, match="Weights sum to zero"):
            est.fit(X, y, sample_weight=w)


def test_partial_fit_wants_the_classes_and_keeps_them() -> None:
    with pytest.raises(ValueError, match="classes must be passed"):
        MLPClassifier().partial_fit(DIGITS, LABELS)
    est = MLPClassifier().partial_fit(DIGITS[:20], LABELS[:20], classes=range(10))
    with pytest.raises(ValueError, match="not the same as on last call"):
        est.partial_fit(DIGITS, LABELS, classes=range(9))
    with pytest.raises(ValueError, match="has classes not in"):
        est.partial_fit(DIGITS, LABELS + 1)
    assert not hasattr(MLPClassifier(solver="lbfgs"), "partial_fit")


@pytest.mark.parametrize("fitted_to", ["two classes", "three classes"])
def test_columns_of_labels_are_refused_by_what_was_fitted_to_classes(fitted_to: str) -> None:
    y = np.arange(len(MANY)) % (2 if fitted_to == "two classes" else 3)
    est = MLPClassifier((5,), max_iter=2, random_state=0, warm_start=True).fit(MANY, y)
    before = est.predict_proba(MANY)
    for columns in (TAGS[:, :2], TAGS[:, :3]):
        for method in (est.fit, est.partial_fit):
            with pytest.raises(ValueError, match="not fitted with multilabel input"):
                method(MANY, columns)
        with pytest.raises(ValueError, match="not fitted with multilabel input"):
            est.fit(MANY, y, validation_data=(MANY, columns))
    np.testing.assert_array_equal(est.predict_proba(MANY), before)


def test_validation_data_has_as_many_outputs() -> None:
    est = MLPRegressor(hidden_layer_sizes=(5,), max_iter=2)
    Y = np.stack([VALUES] * 3, axis=1)
    for learnt, watched in ((Y, Y[:, :2]), (Y, VALUES), (VALUES, Y)):
        with pytest.raises(ValueError, match="expected as many as in the y that is learnt"):
            est.fit(ROWS, learnt, validation_data=(ROWS, watched))


def test_large_labels_are_told_apart_whatever_their_dtype() -> None:
    y = np.arange(len(MANY)) % 3
    large = np.array([2**60, 2**60 + 1, 2**60 + 2])
    one, other = (MLPClassifier((5,), random_state=0) for _ in range(2))
    one.partial_fit(MANY, y, classes=[0, 1, 2])
    other.partial_fit(MANY, large[y], classes=large.astype(np.uint64))
    assert other.loss_ == one.loss_


def test_ctrl_c_ends_the_training_with_a_warning() -> None:
    def interrupt(est: Any, epoch: Any) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted by user"):
        est = MLPRegressor(callbacks=interrupt).fit(ROWS, VALUES)
    assert est.n_iter_ == 2
    assert np.isfinite(est.predict(ROWS)).all()


def test_ctrl_c_in_the_first_epoch_ends_the_training_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(solvers, "one_epoch", interrupted)
    with pytest.warns(UserWarning, match="interrupted by user"):
        est = MLPRegressor().fit(ROWS, VALUES)
    assert est.n_iter_ == 0
    assert np.isfinite(est.predict(ROWS)).all()


def test_the_extra_is_named_where_scikit_learn_is_missing() -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None; import mlp_xp\n"
        "try: mlp_xp.MLPClassifier\n"
        "except ImportError as error: print(error)"
    )
    run = [sys.executable, "-c", code]
    out = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert "pip install 'mlp_xp[sklearn]'" in out


WEIGHTS: dict[str, tuple[Any, str]] = {
    "all negative": (-np.ones(60), "from -1 to -1, but expected weights >= 0"),
    "one negative": (np.r_[-1.0, np.ones(59)], "from -1 to 1, but expected weights >= 0"),
    "a negative number": (-2.0, "from -2 to -2"),
    "sum of 0": (np.r_[np.ones(30), -np.ones(30)], "expected weights >= 0"),
    "all 0": (np.zeros(60), "at least one non-zero"),
    "NaN": (np.r_[np.nan, np.ones(59)], "contains NaN"),
    "infinite": (np.r_[np.inf, np.ones(59)], "contains infinity"),
    "too many": (np.ones(61), r"expected \(60,\)"),
    "two axes": (np.ones((60, 1)), "1D array or scalar"),
    "text": (np.array(["a"] * 60), "sample_weight has dtype <U1, but expected numbers"),
    "complex": (np.ones(60) * 1j, "Complex"),
    "denormal": (np.full(60, 1e-320), "sums to .* by which float64 cannot divide"),
    "a sum that overflows": (np.full(60, 1e308), "sums to inf"),
}


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("what", WEIGHTS)
def test_weights_that_mean_nothing_are_refused(what: str, solver: str) -> None:
    """scikit-learn takes negative ones; the loss of all -1 then falls for ever."""
    weights, message = WEIGHTS[what]
    X, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
    for make in (MLPClassifier, MLPRegressor):
        est = make(hidden_layer_sizes=(5,), solver=solver, max_iter=2)
        with pytest.raises(ValueError, match=message):
            est.fit(X, y, sample_weight=weights)
        if solver == "adam":
            with pytest.raises(ValueError, match=message):
                est.fit(X, y, validation_data=(X, y, weights))


def test_weights_of_classes_that_are_negative_are_refused() -> None:
    X, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
    with pytest.raises(ValueError, match=r"class_weight is multiplied into it"):
        MLPClassifier(class_weight={0: -1.0}, max_iter=2).fit(X, y)


def test_what_is_watched_may_change_between_calls() -> None:
    X, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
    est = MLPClassifier((5,), max_iter=2, early_stopping=True, warm_start=True, random_state=0)
    est.fit(X, y)
    est.set_params(early_stopping=False).fit(X, y)
    assert np.isfinite(est.best_loss_)
    est = MLPClassifier((5,), max_iter=200, solver="lbfgs", random_state=0).fit(X, y)
    est.set_params(solver="adam").partial_fit(X, y)
    assert len(est.loss_curve_) == 1


def test_a_function_without_its_slope_is_no_activation() -> None:
    X, y = np.zeros((6, 2)), np.arange(6) % 2
    with pytest.raises(ValueError, match=r"a pair of functions \(f\(xp, Z\), slope\(xp, Z\)\)"):
        MLPClassifier((3, 3), activation=["relu", np.tanh]).fit(X, y)
