"""Estimators in files, and to and from scikit-learn's own."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn import neural_network as theirs
from sklearn.datasets import load_digits, make_multilabel_classification, make_regression
from sklearn.exceptions import NotFittedError

import mlp_xp
from mlp_xp import ACTIVATIONS, MLP, SCHEDULES, MLPClassifier, MLPRegressor, storage
from mlp_xp.headers import parsed
from mlp_xp.optimizers import AdamW
from mlp_xp.schedules import Cosine, WarmUp
from mlp_xp.storage import ModelFileError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DIGITS, LABELS = load_digits(return_X_y=True)
DIGITS, LABELS = DIGITS[:300] / 16, LABELS[:300]
ROWS, VALUES = make_regression(200, 8, random_state=0)
MANY, TAGS = make_multilabel_classification(200, n_classes=4, random_state=0)
FAST: dict[str, Any] = {"hidden_layer_sizes": (12,), "max_iter": 6, "random_state": 0}

ESTIMATORS: dict[str, tuple[Any, Any, Any]] = {
    "adam": (MLPClassifier(**FAST), DIGITS, LABELS),
    "text": (MLPClassifier(**FAST), DIGITS, np.array(list("abcdefghij"))[LABELS]),
    "binary": (MLPClassifier(**FAST, solver="sgd"), DIGITS, LABELS > 4),
    "multilabel": (MLPClassifier(**FAST), MANY, TAGS),
    "lbfgs": (MLPRegressor(**FAST, solver="lbfgs"), ROWS, VALUES),
    "stopping": (MLPRegressor(**FAST, early_stopping=True, warm_start=True), ROWS, VALUES),
    "beyond": (
        MLPClassifier(
            (12, 12, 8),
            activation=["gelu", "relu", ACTIVATIONS["mish"]],
            solver=AdamW(rate=0.01),
            learning_rate=WarmUp(3, then=Cosine()),
            class_weight={1: 2.0},
            normalization="batch",
            residual=True,
            dropout=[0.1, 0.0, 0.1],
            max_iter=4,
            random_state=1,
        ),
        DIGITS,
        LABELS,
    ),
}


def fitted(name: str) -> tuple[Any, Any, Any]:
    from sklearn.base import clone

    est, X, y = ESTIMATORS[name]
    return clone(est).fit(X, y), X, y


def assert_equal(one: Any, other: Any, X: Any, rtol: float = 0.0) -> None:
    for a, b in zip(one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
    method = "predict_proba" if hasattr(one, "predict_proba") else "predict"
    a, b = getattr(one, method)(X), getattr(other, method)(X)
    np.testing.assert_allclose(a, b, rtol=max(rtol, 1e-12), atol=rtol)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_is_loaded_is_what_was_saved_and_trains_on(name: str, tmp_path: Path) -> None:
    est, X, y = fitted(name)
    est.save(tmp_path / "model.safetensors")
    other = type(est).load(tmp_path / "model.safetensors")
    assert_equal(est, other, X)
    np.testing.assert_array_equal(est.predict(X), other.predict(X))
    assert repr(other.solver) == repr(est.solver)
    assert other.hidden_layer_sizes == est.hidden_layer_sizes
    public = {n for n in vars(est) if n.endswith("_") and n[0] != "_"}
    assert {n for n in vars(other) if n.endswith("_") and n[0] != "_"} == public
    if name == "stopping":
        est.fit(X, y)
        other.fit(X, y)
    elif name != "lbfgs":
        est.partial_fit(X, y)
        other.partial_fit(X, y)
    assert_equal(est, other, X)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_goes_on_as_if_it_had_not_been_written(schedule: str, tmp_path: Path) -> None:
    y = VALUES / VALUES.std()
    est = MLPRegressor(**FAST, solver="sgd", learning_rate=schedule, batch_size=50)
    for _ in range(8):
        est.partial_fit(ROWS[:50], y[:50])
    est.save(tmp_path / "model.safetensors")
    other = MLPRegressor.load(tmp_path / "model.safetensors")
    for _ in range(8):  # more steps an epoch, and a loss that is no better
        est.partial_fit(ROWS, 3 * y)
        other.partial_fit(ROWS, 3 * y)
    assert_equal(est, other, ROWS)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("base", -1.0),
        ("base", "fast"),
        ("epochs", 0),
        ("steps_per_epoch", 1.5),
        ("steps_per_epoch", None),
        ("plateau", None),
        ("plateau", {"best": [1.0], "waited": [-1], "reduction": [1.0]}),
    ],
)
def test_a_file_whose_schedule_cannot_be_is_refused(name: str, wrong: Any, tmp_path: Path) -> None:
    est = MLPRegressor(**FAST, learning_rate="reduce_on_plateau").partial_fit(ROWS, VALUES)
    est.save(tmp_path / "model.safetensors")
    header, tensors = storage.read(tmp_path / "model.safetensors")
    values = parsed(tmp_path / "model.safetensors", header)
    values["metadata"]["rates"][name] = wrong
    storage.write_atomically(tmp_path / "model.safetensors", storage.packed(values, tensors))
    with pytest.raises(ModelFileError, match="rates"):
        MLPRegressor.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_what_is_saved_with_another_solver_is_loaded(solver: str, tmp_path: Path) -> None:
    est, X, y = fitted("adam")
    assert not hasattr(est.set_params(solver=solver).to_sklearn(), "_optimizer")
    est.save(tmp_path / "model.safetensors")
    other = MLPClassifier.load(tmp_path / "model.safetensors")
    assert_equal(est, other, X)
    for one in (est, other):
        one.set_params(solver="sgd").partial_fit(X, y)
    assert_equal(est, other, X)


def test_parameters_that_are_not_those_of_the_network_are_refused(tmp_path: Path) -> None:
    est, X, y = fitted("stopping")
    for wrong in ({"hidden_layer_sizes": (9, 9)}, {"alpha": -1.0}):
        right = {name: getattr(est, name) for name in wrong}
        with pytest.raises(ValueError, match=next(iter(wrong))):
            est.set_params(**wrong).save(tmp_path / "model.safetensors")
        est.set_params(**right)
    assert not list(tmp_path.iterdir())
    est.set_params(hidden_layer_sizes=(9, 9), early_stopping=False, warm_start=False).fit(X, y)
    assert not hasattr(est, "_best")  # of the network before
    est.save(tmp_path / "model.safetensors")
    assert_equal(est, MLPRegressor.load(tmp_path / "model.safetensors"), X)


@pytest.mark.parametrize("through", ["file", "pickle"])
def test_what_a_callback_keeps_trains_on(through: str, tmp_path: Path) -> None:
    path, kept = tmp_path / "model.safetensors", []

    def keep(est: Any, epoch: Any) -> None:
        if epoch.epoch == 2:
            est.save(path)
            kept.append(pickle.dumps(est.set_params(callbacks=())))

    more = {**FAST, "shuffle": False}
    MLPRegressor(**{**more, "max_iter": 4}, callbacks=keep).fit(ROWS, VALUES)
    other = MLPRegressor.load(path) if through == "file" else pickle.loads(kept[0])
    est = MLPRegressor(**{**more, "max_iter": 2}).fit(ROWS, VALUES)
    for one in (est, other):
        one.partial_fit(ROWS, VALUES).partial_fit(ROWS, VALUES)
    assert_equal(est, other, ROWS)


def test_a_file_for_another_class_is_refused(tmp_path: Path) -> None:
    est, _, _ = fitted("adam")
    est.save(tmp_path / "a.safetensors")
    with pytest.raises(ModelFileError, match=r"Use MLPClassifier\.load"):
        MLPRegressor.load(tmp_path / "a.safetensors")
    MLP((2, 2)).save(tmp_path / "b.safetensors")
    with pytest.raises(ModelFileError, match=r"MLP\.load or mlp-xp"):
        MLPRegressor.load(tmp_path / "b.safetensors")


def test_what_a_file_cannot_hold_is_named(tmp_path: Path) -> None:
    est = MLPRegressor(**{**FAST, "random_state": np.random.RandomState(0)}).fit(ROWS, VALUES)
    with pytest.raises(ValueError, match="random_state"):
        est.save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


THEIR_SETTINGS: dict[str, dict[str, Any]] = {
    "adam": {},
    "sgd": {"solver": "sgd", "learning_rate": "invscaling"},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "nesterovs_momentum": False},
    "lbfgs": {"solver": "lbfgs"},
    "stopping": {"early_stopping": True, "warm_start": True},
}


@pytest.mark.parametrize("setting", THEIR_SETTINGS)
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_models_go_to_scikit_learn_and_back_and_train_on(name: str, setting: str) -> None:
    X, y = (DIGITS, LABELS) if name == "MLPClassifier" else (ROWS, VALUES)
    reference = getattr(theirs, name)(**FAST, **THEIR_SETTINGS[setting]).fit(X, y)
    ours = getattr(mlp_xp, name).from_sklearn(reference)
    back = ours.to_sklearn()
    assert type(back) is type(reference)
    assert back.get_params() == reference.get_params()
    models = [reference, ours, back]
    assert_equal(reference, ours, X, 1e-12)
    for model in models:
        if setting == "stopping":
            model.fit(X, y)
        elif setting != "lbfgs":
            model.partial_fit(X, y)
            model.partial_fit(X, y)
    assert_equal(reference, ours, X, 1e-9)
    assert_equal(reference, back, X, 1e-9)
    assert ours.n_iter_ == reference.n_iter_ == back.n_iter_


def test_what_scikit_learn_has_no_word_for_is_refused_or_warned_of() -> None:
    for part in ({"normalization": "layer"}, {"activation": "gelu"}, {"solver": "lion"}):
        with pytest.raises(ValueError, match="scikit-learn's estimator"):
            MLPClassifier(**FAST, **part).fit(DIGITS, LABELS).to_sklearn()
    est = MLPClassifier(**FAST, dropout=0.1, activation="sigmoid").fit(DIGITS, LABELS)
    with pytest.warns(UserWarning, match="trains without dropout"):
        other = est.to_sklearn()
    np.testing.assert_allclose(other.predict_proba(DIGITS), est.predict_proba(DIGITS))
    with pytest.raises(TypeError, match="expected scikit-learn's MLPRegressor"):
        MLPRegressor.from_sklearn(other)


def test_a_model_of_scikit_learns_goes_on_with_dropout() -> None:
    reference = theirs.MLPClassifier(**FAST).fit(DIGITS, LABELS)
    ours = MLPClassifier.from_sklearn(reference)
    plain = MLPClassifier.from_sklearn(reference).partial_fit(DIGITS, LABELS)
    ours.set_params(dropout=0.5).partial_fit(DIGITS, LABELS)
    assert np.isfinite(ours.loss_)
    assert not np.array_equal(ours.coefs_[1], plain.coefs_[1])


def test_unfitted_estimators_are_exchanged_too() -> None:
    ours = MLPRegressor.from_sklearn(theirs.MLPRegressor(alpha=3))
    assert ours.alpha == 3
    assert ours.to_sklearn().alpha == 3


@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
def test_an_estimator_that_is_not_fitted_writes_no_file(estimator: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="not fitted yet"):
        estimator().save(tmp_path / "none.safetensors")
    assert list(tmp_path.iterdir()) == []
