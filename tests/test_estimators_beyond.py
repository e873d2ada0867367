"""What scikit-learn's estimators do not have, and arrays of other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_digits, make_multilabel_classification, make_regression
from sklearn.utils.class_weight import compute_sample_weight

from conftest import Backend
from mlp_xp import ACTIVATIONS, LOSSES, MLP, OPTIMIZERS, SCHEDULES, MLPClassifier, MLPRegressor
from mlp_xp.optimizers import RMSprop
from mlp_xp.schedules import Exponential, ReduceOnPlateau, WarmUp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DIGITS, LABELS = load_digits(return_X_y=True)
DIGITS, LABELS = DIGITS[:400] / 16, LABELS[:400]
ROWS, VALUES = make_regression(200, 8, random_state=0)
VALUES = VALUES / VALUES.std()
MANY, TAGS = make_multilabel_classification(200, n_classes=4, random_state=0)
FAST: dict[str, Any] = {"hidden_layer_sizes": (16,), "max_iter": 10, "random_state": 0}


def same_weights(one: Any, other: Any, rtol: float = 1e-12) -> None:
    for a, b in zip(one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def test_both_doors_lead_to_the_same_weights() -> None:
    est = MLPClassifier(
        (16,), solver="sgd", momentum=0, alpha=0, shuffle=False, max_iter=3, random_state=0
    )
    est.partial_fit(DIGITS, LABELS, classes=range(10))
    model = MLP((64, 16, 10), optimizer="momentum", dtype="float64", learning_rate=0.001)
    # columns inside, rows at the border
    model = MLP((64, 16, 10), optimizer="sgd", dtype="float64", learning_rate=0.001)
    model.set_parameters(
        W1=est.coefs_[0].T,
        b1=est.intercepts_[0][:, None],
        W2=est.coefs_[1].T,
        b2=est.intercepts_[1][:, None],
    )
    est.partial_fit(DIGITS, LABELS)
    model.fit(DIGITS.T, LABELS, epochs=1, batch_size=200, shuffle=False, progress=False)
    np.testing.assert_allclose(est.coefs_[0].T, model.parameters["W1"], rtol=1e-12)
    np.testing.assert_allclose(est.predict_proba(DIGITS).T, model.predict_proba(DIGITS.T))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_of_the_core_learns(activation: str) -> None:
    est = MLPClassifier(**FAST, activation=activation, learning_rate_init=0.01, batch_size=20)
    assert est.fit(DIGITS, LABELS).score(DIGITS, LABELS) > 0.8


@pytest.mark.parametrize("solver", sorted(OPTIMIZERS))
def test_every_optimiser_of_the_core_learns(solver: str) -> None:
    est = MLPClassifier(**FAST, solver=solver, learning_rate_init=0.01, batch_size=20)
    assert est.fit(DIGITS, LABELS).score(DIGITS, LABELS) > 0.3


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_every_schedule_of_the_core_sets_the_rate(schedule: str) -> None:
    est = MLPClassifier(**FAST, learning_rate=schedule)
    rates: list[float] = []
    est.set_params(callbacks=lambda _, epoch: rates.append(epoch.rate))
    est.fit(DIGITS, LABELS)
    expected = [SCHEDULES[schedule].factor(2 * i + 1, 20, 2) * 0.001 for i in range(10)]
    np.testing.assert_allclose(rates, expected)


def test_rows_and_functions_of_ones_own_are_taken() -> None:
    def f(xp: Any, Z: Any) -> Any:
        return xp.tanh(Z)

    def slope(xp: Any, Z: Any) -> Any:
        return 1 - xp.tanh(Z) ** 2

    def value(xp: Any, S: Any, T: Any) -> Any:
        return xp.sum(0.5 * (S - T) ** 2, axis=-2)

    def delta(xp: Any, S: Any, T: Any) -> Any:
        return S - T

    own = MLPRegressor(**FAST, activation=(f, slope), loss=(value, delta))
    same_weights(
        own.fit(ROWS, VALUES), MLPRegressor(**FAST, activation="tanh").fit(ROWS, VALUES), 1e-9
    )
    MLPRegressor(
        hidden_layer_sizes=(8, 8),
        activation=["gelu", ACTIVATIONS["elu"]],
        loss=LOSSES["huber"],
        solver=RMSprop(rate=0.003),
        learning_rate=WarmUp(5, then=Exponential(0.9)),
        max_iter=3,
    ).fit(ROWS, VALUES)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber", "poisson"])
def test_every_loss_for_numbers_learns(loss: str) -> None:
    y = np.exp(0.3 * VALUES)
    est = MLPRegressor(loss, (32,), max_iter=150, learning_rate_init=0.01, random_state=0)
    assert est.fit(ROWS, y).score(ROWS, y) > 0.7


def test_a_loss_that_does_not_fit_the_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="takes binary targets, but y holds multiclass"):
        MLPClassifier(loss="binary_cross_entropy").fit(DIGITS, LABELS)
    with pytest.raises(ValueError, match="loss='poisson' takes y >= 0"):
        MLPRegressor(loss="poisson").fit(ROWS, VALUES)


REGULARISED: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.2},
    "batch": {"normalization": "batch"},
    "layer": {"normalization": "layer"},
    "residual": {"hidden_layer_sizes": (16, 16, 12), "residual": True},
    "clipping": {"clip_norm": 0.5, "clip_value": 0.1},
    "smoothing": {"label_smoothing": 0.1},
    "all": {
        "hidden_layer_sizes": (16, 16, 12),
        "residual": True,
        "normalization": "batch",
        "dropout": [0.1, 0.0, 0.1],
        "clip_norm": 1.0,
        "label_smoothing": 0.05,
    },
}


@pytest.mark.parametrize("part", REGULARISED)
def test_parts_that_scikit_learn_lacks_learn_and_go_on(part: str) -> None:
    est = MLPClassifier(**{**FAST, **REGULARISED[part]}, learning_rate_init=0.01, batch_size=20)
    est.fit(DIGITS, LABELS)
    assert est.score(DIGITS, LABELS) > 0.85
    again = clone(est).fit(DIGITS, LABELS)
    same_weights(est, again)
    before = est.loss_
    for _ in range(3):
        est.partial_fit(DIGITS, LABELS)
    assert est.loss_ < 1.5 * before


def test_class_weight_is_the_sample_weight_it_stands_for() -> None:
    for class_weight in ("balanced", {3: 5.0, 4: 0.1}):
        w = compute_sample_weight(class_weight, LABELS)
        by_class = MLPClassifier(**FAST, class_weight=class_weight).fit(DIGITS, LABELS)
        same_weights(by_class, MLPClassifier(**FAST).fit(DIGITS, LABELS, sample_weight=w))
    with pytest.raises(ValueError, match="'balanced' is not supported for partial_fit"):
        MLPClassifier(class_weight="balanced").partial_fit(DIGITS, LABELS, classes=range(10))


def test_weights_by_class_of_several_labels_are_refused_with_the_cure() -> None:
    balanced = MLPClassifier(**FAST, class_weight="balanced").fit(MANY, TAGS)
    with pytest.raises(ValueError, match=r"expected 'balanced', or .* as sample_weight"):
        balanced.set_params(class_weight={0: 1, 1: 3}).fit(MANY, TAGS)


def test_validation_loss_has_a_curve() -> None:
    est = MLPClassifier(**FAST).fit(DIGITS, LABELS, validation_data=(DIGITS[:50], LABELS[:50]))
    assert len(est.validation_loss_curve_) == 10
    P = est.predict_proba(DIGITS[:50])
    expected = -np.mean(np.log(P[np.arange(50), LABELS[:50]]))
    np.testing.assert_allclose(est.validation_loss_curve_[-1], expected)
    same_weights(est, MLPClassifier(**FAST).fit(DIGITS, LABELS))  # watching changes nothing
    share = MLPClassifier(**FAST).fit(DIGITS, LABELS, validation_data=0.25)
    assert len(share.validation_loss_curve_) == 10
    assert share.t_ == 10 * 300


def test_early_stopping_watches_the_examples_it_is_given() -> None:
    est = MLPClassifier(**{**FAST, "max_iter": 200}, early_stopping=True, n_iter_no_change=3)
    est.fit(DIGITS[:300], LABELS[:300], validation_data=(DIGITS[300:], LABELS[300:]))
    assert est.stopped_
    assert est.score(DIGITS[300:], LABELS[300:]) == est.best_validation_score_
    assert est.best_validation_score_ == max(est.validation_scores_)


def test_partial_fit_stops_early_on_examples_it_is_given() -> None:
    est = MLPClassifier(
        (16,), batch_size=20, early_stopping=True, n_iter_no_change=3, random_state=0
    )
    watched = (DIGITS[300:], LABELS[300:])
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        est.partial_fit(DIGITS, LABELS, classes=range(10))
    for _ in range(200):
        est.partial_fit(DIGITS[:300], LABELS[:300], classes=range(10), validation_data=watched)
        if est.stopped_:
            break
    assert est.stopped_
    assert est.score(*watched) == est.best_validation_score_ > 0.6


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 2)])
def test_columns_of_labels_are_0_and_1(method: str, low: int, high: int) -> None:
    """scikit-learn's descends the cross-entropy of -1 and of 2, which has no end."""
    with pytest.raises(ValueError, match=f"run from {low} to {high}, but expected 0 and 1: pass y"):
        getattr(MLPClassifier(), method)(MANY, np.where(TAGS, high, low))


@pytest.mark.parametrize("sizes", [(5.5,), ("3",), ((3, 2),), np.array([4.7])])
def test_widths_are_whole_numbers(sizes: Any) -> None:
    with pytest.raises(TypeError, match=r"hidden_layer_sizes is .*, but expected whole numbers"):
        MLPClassifier(sizes).fit(MANY, TAGS)


def test_a_row_of_the_poisson_loss_refuses_what_its_name_does() -> None:
    for loss in ("poisson", LOSSES["poisson"]):
        with pytest.raises(ValueError, match="y holds -1, but loss='poisson' takes y >= 0"):
            MLPRegressor(loss=loss).fit([[0.0], [1.0]], [1.0, -1.0])


def test_partial_fit_takes_multilabel_targets_without_classes() -> None:
    est = MLPClassifier(random_state=0)
    for _ in range(60):
        est.partial_fit(MANY, TAGS)
    assert est.predict(MANY).shape == TAGS.shape
    assert (est.predict(MANY) == TAGS).mean() > 0.8


def test_callbacks_see_the_estimator_and_may_end_the_training() -> None:
    seen: list[Any] = []

    def callback(est: Any, epoch: Any) -> bool:
        seen.append((epoch.epoch, epoch.validation_loss, est.score(DIGITS, LABELS)))
        return epoch.epoch == 4

    est = MLPClassifier(**FAST, callbacks=[callback])
    est.fit(DIGITS, LABELS, validation_data=(DIGITS, LABELS))
    assert [entry[0] for entry in seen] == [1, 2, 3, 4]
    assert [entry[1] for entry in seen] == est.validation_loss_curve_
    assert seen[-1][2] == est.score(DIGITS, LABELS)
    assert est.n_iter_ == 4


def test_progress_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    MLPRegressor(**FAST, progress=True).fit(ROWS, VALUES)
    assert "10/10" in capsys.readouterr().err


def test_a_warm_start_may_keep_the_optimisers_state() -> None:
    whole = MLPRegressor(**{**FAST, "shuffle": False}).fit(ROWS, VALUES)
    parts = MLPRegressor(**{**FAST, "shuffle": False, "max_iter": 5}, warm_start="optimizer")
    same_weights(whole, parts.fit(ROWS, VALUES).fit(ROWS, VALUES))


@pytest.mark.parametrize("solvers", [("adam", "sgd"), ("sgd", "adam"), ("adam", "lion")])
def test_another_solver_begins_with_moments_of_its_own(solvers: tuple[str, str]) -> None:
    more = {**FAST, "shuffle": False, "max_iter": 2}
    est = MLPRegressor(**more, solver=solvers[0], warm_start="optimizer").fit(ROWS, VALUES)
    other = MLPRegressor(**more, solver=solvers[0], warm_start=True).fit(ROWS, VALUES)
    for one in (est, other):  # a warm start without the optimiser's state always does
        one.set_params(solver=solvers[1]).fit(ROWS, VALUES)
    same_weights(est, other)
    est.set_params(solver=solvers[0]).partial_fit(ROWS, VALUES)
    assert np.isfinite(est.loss_)


def test_a_warm_start_of_another_shape_is_refused() -> None:
    est = MLPRegressor(**FAST, warm_start=True).fit(ROWS, VALUES)
    with pytest.raises(ValueError, match="expected the same, to go on from it"):
        est.set_params(hidden_layer_sizes=(5,)).fit(ROWS, VALUES)


def test_a_schedule_that_is_set_is_followed_from_the_next_call_on() -> None:
    rates: list[float] = []
    est = MLPRegressor(
        hidden_layer_sizes=(4,),
        learning_rate_init=0.01,
        max_iter=10,
        callbacks=lambda _, epoch: rates.append(epoch.rate),
        random_state=0,
    )
    for schedule in ("exponential", "exponential", "constant", SCHEDULES["cosine"], "constant"):
        est.set_params(learning_rate=schedule).partial_fit(ROWS, VALUES)
    assert rates[1] < rates[0]
    assert rates[2] == rates[4] == 0.01
    assert rates[3] not in (0.01, rates[1])


def test_plateau_lowers_the_rate_by_what_it_watches() -> None:
    rates: list[float] = []
    MLPRegressor(
        hidden_layer_sizes=(4,),
        learning_rate=ReduceOnPlateau(drop=0.5, patience=0, threshold=0.5),
        max_iter=5,
        callbacks=lambda _, epoch: rates.append(epoch.rate),
    ).fit(ROWS, VALUES)
    assert rates[-1] < rates[0]


def test_dtype_may_be_asked_for() -> None:
    est = MLPRegressor(**FAST, dtype="float32").fit(ROWS, VALUES)
    assert est.coefs_[0].dtype == np.float32
    assert (
        MLPRegressor(**FAST, dtype="float64").fit(ROWS.astype(np.float32), VALUES).coefs_[0].dtype
        == np.float64
    )


def test_lbfgs_refuses_what_is_not_deterministic() -> None:
    for part in ({"dropout": 0.5}, {"normalization": "batch"}):
        with pytest.raises(ValueError, match="needs an objective that is the same"):
            MLPRegressor(**FAST, solver="lbfgs", **part).fit(ROWS, VALUES)


# -- arrays -------------------------------------------------------------------------

KINDS: dict[str, tuple[type, Any, Any]] = {
    "multiclass": (MLPClassifier, DIGITS, LABELS),
    "binary": (MLPClassifier, DIGITS, LABELS % 2),
    "multilabel": (MLPClassifier, MANY, TAGS),
    "numbers": (MLPRegressor, ROWS, VALUES),
}


@pytest.mark.parametrize("part", ["adam", "lbfgs", "early stopping", "batch", "dropout"])
@pytest.mark.parametrize("kind", KINDS)
def test_arrays_stay_where_they_are(backend: Backend, kind: str, part: str) -> None:
    row, X, y = KINDS[kind]
    more: dict[str, dict[str, Any]] = {
        "adam": {},
        "lbfgs": {"solver": "lbfgs", "max_iter": 3},
        "early stopping": {"early_stopping": True},
        "batch": {"normalization": "batch"},
        "dropout": {"dropout": 0.3},
    }
    est = row(**{**FAST, "max_iter": 4, **more[part]})
    reference = clone(est).fit(X, y)
    there = [backend.asarray(array) for array in (X, y)]
    est.fit(*there)
    if part != "lbfgs":
        est.partial_fit(*there, **({"validation_data": there} if part == "early stopping" else {}))
        more_data = {"validation_data": (X, y)} if part == "early stopping" else {}
        reference.partial_fit(X, y, **more_data)
    outputs = [est.predict(there[0]), *est.coefs_, *est.intercepts_]
    expected = [reference.predict(X), *reference.coefs_, *reference.intercepts_]
    if row is MLPClassifier:
        outputs += [est.classes_, est.predict_proba(there[0]), est.predict_log_proba(there[0])]
        expected += [reference.classes_, reference.predict_proba(X), reference.predict_log_proba(X)]
    for array, wanted in zip(outputs, expected, strict=True):
        assert type(array) is type(backend.asarray(np.zeros(1)))
        np.testing.assert_allclose(backend.get(array), wanted, rtol=1e-6, atol=1e-8)
    assert est.score(*there) == pytest.approx(reference.score(X, y))


def test_numpy_in_numpy_out_whatever_the_device(backend: Backend) -> None:
    if backend.name == "numpy-readonly":
        pytest.skip("its arrays are NumPy's")
    for row, X, y in KINDS.values():
        reference = row(**FAST).fit(X, y)
        est = row(**FAST, device=backend.device).fit(X, y)
        assert all(type(array) is np.ndarray for array in [*est.coefs_, *est.intercepts_])
        assert type(est.predict(X)) is np.ndarray
        same_weights(est, reference, 1e-6)
        np.testing.assert_array_equal(est.predict(X) > 0, reference.predict(X) > 0)


def test_weights_are_taken_in_the_dtype_of_the_rows(backend: Backend) -> None:
    for row, X, y in KINDS.values():
        X, w = X.astype(np.float32), np.linspace(0.1, 3, len(X))
        reference = row(**FAST, dtype="float64").fit(X, y, sample_weight=w)
        est = row(**FAST).fit(*map(backend.asarray, (X, y, w)))
        found = [backend.get(array) for array in [*est.coefs_, *est.intercepts_]]
        assert {array.dtype for array in found} == {np.dtype(np.float32)}
        for array, wanted in zip(found, [*reference.coefs_, *reference.intercepts_], strict=True):
            np.testing.assert_allclose(array, wanted, rtol=1e-3, atol=1e-3)


def test_complex_rows_are_refused(backend: Backend) -> None:
    X, y = backend.asarray(DIGITS), backend.asarray(LABELS)
    est = MLPClassifier(**FAST).fit(X, y)
    turned = backend.asarray(DIGITS * 1j)
    for ask in (est.predict, lambda rows: MLPClassifier(**FAST).fit(rows, y)):
        with pytest.raises(ValueError, match="Complex data not supported"):
            ask(turned)


def test_rows_in_float16_are_taken_in_float64(backend: Backend) -> None:
    if "strict" in backend.name:
        pytest.skip("the standard has no float16")
    X, y = DIGITS.astype(np.float16), LABELS
    reference = MLPClassifier(**FAST).fit(X, y)
    est = MLPClassifier(**FAST).fit(backend.asarray(X), backend.asarray(y))
    found = backend.get(est.predict_proba(backend.asarray(X)))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, reference.predict_proba(X), rtol=1e-6, atol=1e-8)


def test_sparse_rows_are_trained_on_any_device(backend: Backend) -> None:
    from scipy.sparse import csr_array

    est = MLPClassifier(**FAST, device=backend.device)
    same_weights(est.fit(csr_array(DIGITS), LABELS), clone(est).fit(DIGITS, LABELS), 1e-9)
    assert type(est.predict(csr_array(DIGITS))) is np.ndarray


def test_a_mix_of_arrays_is_refused(torch: Any) -> None:
    X, y = torch.asarray(ROWS), torch.asarray(VALUES)
    with pytest.raises(TypeError, match="expected both of one library"):
        MLPRegressor().fit(X, VALUES)
    with pytest.raises(TypeError, match="expected both of one library"):
        MLPRegressor().fit(ROWS, y)
    for one, other in (((X, y), (ROWS, VALUES)), ((ROWS, VALUES), (X, y))):
        with pytest.raises(TypeError, match=r"X of validation_data is of .* of one library"):
            MLPRegressor().fit(*one, validation_data=other)
    with pytest.raises(TypeError, match="expected NumPy arrays, or arrays that are on that"):
        MLPRegressor(device="cpu").fit(X, y)
    with pytest.raises(ValueError, match="must use the same namespace"):
        MLPRegressor(**FAST).fit(X, y).predict(ROWS)
    with pytest.raises(ValueError, match="must use the same namespace"):
        MLPRegressor(**FAST).fit(ROWS, VALUES).predict(X)


def test_foreign_arrays_are_checked(torch: Any) -> None:
    X, y = torch.asarray(ROWS), torch.asarray(VALUES)
    est = MLPRegressor(**FAST).fit(X, y)
    with pytest.raises(ValueError, match="Expected 2D array"):
        est.predict(X[0])
    with pytest.raises(ValueError, match="8 features"):
        est.predict(X[:, 1:])
    with pytest.raises(ValueError, match="NaN or infinity"):
        est.predict(X / 0)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        MLPRegressor().fit(X, y[1:])


def test_tensors_have_no_names_of_an_earlier_frame(torch: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, columns=[f"x{i}" for i in range(ROWS.shape[1])])
    est = MLPRegressor(**FAST).fit(frame, VALUES)
    est.fit(torch.asarray(ROWS), torch.asarray(VALUES))
    assert not hasattr(est, "feature_names_in_")


def test_widths_in_the_place_of_a_regressors_loss_are_told_their_name() -> None:
    with pytest.raises(ValueError, match=r"hidden_layer_sizes=\(8, 4\)"):
        MLPRegressor((8, 4)).fit([[0.0], [1.0]], [0.0, 1.0])
