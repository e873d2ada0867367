"""The fast way to predict is the specification's, and it sees every change of the weights."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from conftest import tolerance

pytest.importorskip("sklearn")

from sklearn import neural_network
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from mlp_xp import ACTIVATIONS, LOSSES, MLPClassifier, NeuralClassifier, NeuralRegressor
from mlp_xp.compile.predict import FEW, predictor
from mlp_xp.devices import device as find_device
from mlp_xp.estimators.recipe import network_of, recipe_of
from mlp_xp.estimators.solvers import scores
from mlp_xp.types import Layer

CPU = find_device("cpu")


def recipe(activation: str, loss: str, sizes: tuple[int, ...], **more: Any) -> Any:
    parameters = {**MLPClassifier(activation=activation, **more).get_params(), "dtype": None}
    return recipe_of(parameters, network_of(parameters, sizes), LOSSES[loss], CPU, "float64")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fast_predictions_equal_their_specification(
    activation: str, loss: str, dtype: Any, random: np.random.Generator
) -> None:
    for sizes in ((5, 4), (5, 7, 4), (5, 7, 6, 4)):
        made = recipe(activation, loss, sizes)
        shapes = [(n_out, n_in) for n_in, n_out in pairwise(sizes)]
        layers = [
            Layer(random.normal(size=s).astype(dtype), random.normal(size=(s[0], 1)).astype(dtype))
            for s in shapes
        ]
        fast = predictor(made, layers)
        assert fast is not None
        for m in (1, 2, 30, FEW + 1):
            rows = random.normal(size=(m, 5)).astype(dtype)
            kept = rows.copy()
            S = scores(made, CPU, layers, np.zeros(0), rows)
            wanted = made.loss.predict(np, S)
            found = fast(rows)
            np.testing.assert_allclose(found, wanted, **tolerance(dtype, 30))
            np.testing.assert_array_equal(rows, kept)
            layers[0].W[...] *= 0.5  # views that change are read again
            np.testing.assert_allclose(
                fast(rows),
                made.loss.predict(np, scores(made, CPU, layers, np.zeros(0), rows)),
                **tolerance(dtype, 30),
            )


@pytest.mark.parametrize("more", [{"normalization": "layer"}, {"residual": True}])
def test_what_has_no_fast_way_is_left_to_the_specification(more: dict[str, Any]) -> None:
    assert (
        predictor(recipe("relu", "cross_entropy", (4, 4, 2), **more), [Layer(np.eye(2), 0)]) is None
    )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_an_error_in_the_middle_leaves_an_estimator_that_trains_on() -> None:
    X, y = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 2

    def fail(est: Any, epoch: Any) -> None:
        raise RuntimeError("a callback's own")

    est = MLPClassifier(random_state=0).partial_fit(X, y, classes=[0, 1])
    with pytest.raises(RuntimeError, match="a callback's own"):
        est.set_params(callbacks=fail).partial_fit(X, y)
    est.set_params(callbacks=()).partial_fit(X, y)
    other = MLPClassifier(random_state=0)
    for _ in range(3):
        other.partial_fit(X, y, classes=[0, 1])
    np.testing.assert_allclose(est.predict_proba(X), other.predict_proba(X))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_nothing_of_the_callers_is_held_on_to(method: str) -> None:
    est, y = MLPClassifier((5,), random_state=0, max_iter=2), np.arange(50) % 2
    more = {"classes": [0, 1]} if method == "partial_fit" else {}
    for _ in range(2):
        X = np.random.default_rng(0).normal(size=(50, 3))
        getattr(est, method)(X, y, **more)
        seen = weakref.ref(X)
        del X
        assert seen() is None


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_several_threads_may_ask_an_estimator_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    X, y = np.random.default_rng(0).normal(size=(400, 30)), np.arange(400) % 3
    est = MLPClassifier((50,), max_iter=2, random_state=0).fit(X, y)
    expected = est.predict_proba(X)

    def ask(start: int) -> bool:
        return all(
            np.allclose(est.predict_proba(X[i : i + 1]), expected[i], rtol=1e-10)
            for i in range(start, start + 100)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, (0, 100, 200, 300)))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_predictions_are_those_of_the_parameters_as_they_are() -> None:
    X, y = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 2
    theirs = neural_network.MLPClassifier((5,), random_state=0, max_iter=3).fit(X, y)
    ours = MLPClassifier((5,), random_state=0, max_iter=3).fit(X, y)
    for est in (theirs, ours):
        est.predict(X)
        est.set_params(activation="tanh")
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X))
    for est in (theirs, ours):
        est.set_params(activation="logistic").partial_fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X))
    copy = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(copy.predict_proba(X), ours.predict_proba(X))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_network_of_other_attributes_is_refused_in_words() -> None:
    X, y = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 2
    est = MLPClassifier((5,), random_state=0, max_iter=3, warm_start=True).fit(X, y)
    est.set_params(normalization="batch")
    for call in (est.predict, lambda X: est.fit(X, y), lambda X: est.partial_fit(X, y)):
        with pytest.raises(ValueError, match=r"normalization is 'batch'.*has gains_\. Set"):
            call(X)
    est.set_params(warm_start=False).fit(X, y).set_params(normalization="none")
    with pytest.raises(ValueError, match=r"normalization is 'none'.*has no gains_\. Set"):
        est.predict(X)
    assert not {"gains_", "running_"} & set(vars(est.fit(X, y)))


REFUSED: dict[str, Callable[[Any, Any, Any], Any]] = {
    "weights": lambda est, X, y: est.fit(X, y > 0, sample_weight=np.ones(3)),
    "features": lambda est, X, y: est.fit(X[:, :2], y + 7, sample_weight=-np.ones(60)),
    "share": lambda est, X, y: est.set_params(early_stopping=True).fit(X[:9], y[:9] > 0),
    "solver": lambda est, X, y: est.set_params(solver="lbfgs", dropout=0.5).fit(X, y > 0),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("refused", REFUSED)
def test_a_fit_that_is_refused_leaves_an_estimator_as_it_was(refused: str) -> None:
    X = np.random.default_rng(0).normal(size=(60, 4))
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
    est = MLPClassifier((5,), random_state=0, max_iter=20, learning_rate_init=0.1)
    before = est.fit(X, y).predict_proba(X)
    with pytest.raises(ValueError, match=r".+"):
        REFUSED[refused](est, X, y)
    np.testing.assert_array_equal(est.predict_proba(X), before)
    np.testing.assert_array_equal(est.predict(X), est.classes_[before.argmax(axis=1)])
    with pytest.raises(NotFittedError, match="not fitted yet"):
        refuse(clone(est).set_params(solver="adam")).predict(X)


def refuse(est: Any) -> Any:
    """The estimator, after a `fit` that was refused."""
    X, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 2
    with pytest.raises(ValueError, match=r".+"):
        est.fit(X, y, sample_weight=-np.ones(60))
    return est


@pytest.mark.parametrize("kind", [NeuralClassifier, NeuralRegressor])
def test_a_neural_fit_that_is_refused_leaves_an_estimator_as_it_was(kind: Any) -> None:
    X, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
    with pytest.raises(NotFittedError, match="not fitted yet"):
        refuse(kind("dense:4", epochs=2, random_state=0)).predict(X)
    est = kind("dense:4", epochs=2, random_state=0).fit(X, y)
    before, model = est.predict(X), est.model_
    assert refuse(est).model_ is model
    np.testing.assert_array_equal(est.predict(X), before)

    def fail(*_: Any) -> None:
        raise RuntimeError("a callback's own")

    with pytest.raises(RuntimeError, match="a callback's own"):
        est.set_params(callbacks=fail).fit(X, y)
    assert est.model_ is not model  # it has begun
    assert est.n_iter_ == est.model_.epochs_trained == 1
    assert est.history_ == est.model_.history
