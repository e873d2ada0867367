"""Numbers at the edge: a clear error, or the right result; never a silent wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import need
from mlp_xp import MLP, EarlyStopping, model_for, stream
from mlp_xp.data import DataError, Dataset
from mlp_xp.optimizers import SGD, Adam, Momentum
from mlp_xp.prepared import Preparation
from mlp_xp.schedules import Exponential, StepDecay, WarmUp

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(4, 60)), np.arange(60) % 3
VALUES = RNG.normal(size=(1, 60))


def fitted(given: Any = X, y: Any = Y, **options: Any) -> MLP:
    return MLP((4, 5, 3), **options).fit(given, y, epochs=3, progress=False)


@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("limit", [1e300, 1e38, 1e-300, 5e-324])
def test_a_norm_beyond_the_dtype_clips_nothing_or_all(
    limit: float, dtype: str, native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLP_XP_NATIVE", native)
    found = fitted(clip_norm=limit, dtype=dtype, optimizer="sgd")
    expected = fitted(dtype=dtype, optimizer="sgd")
    if limit < 1:
        expected.reset()
    theta = found._run.state.theta
    np.testing.assert_allclose(theta, expected._run.state.theta, rtol=1e-5, atol=1e-6)
    assert found.config["clip_norm"] == limit


@pytest.mark.parametrize("rate", [0.999999, 1 - 2**-18, [0.5, 0.9999999]])
def test_dropout_that_leaves_nothing_is_refused(rate: Any) -> None:
    with pytest.raises(ValueError, match=r"dropout is 0.99.* drops everything: expected at most"):
        MLP((4, 5, 5, 3), dropout=rate)
    MLP((4, 5, 5, 3), dropout=1 - 2**-16).fit(X, Y, epochs=1, progress=False)
    pytest.importorskip("sklearn")
    from mlp_xp import MLPClassifier

    with pytest.raises(ValueError, match="drops everything"):
        MLPClassifier((5, 5), dropout=rate).fit(X.T, Y)


@pytest.mark.parametrize("label", [2**63, 2**64 - 1, 2**32])
def test_a_label_out_of_range_is_named_as_it_is(label: int) -> None:
    with pytest.raises(ValueError, match=rf"holds labels from 0 to {label},"):
        fitted(y=np.where(Y == 1, np.uint64(label), Y.astype(np.uint64)))


@pytest.mark.parametrize("dtype", ["float16", "longdouble", "int8", "bool", ">f8"])
def test_any_kind_of_real_number_is_taken_at_its_value(dtype: str) -> None:
    given = X.astype(dtype)
    plain = given.astype("float64")
    np.testing.assert_array_equal(
        fitted(given)._run.state.theta, fitted(plain)._run.state.theta, strict=True
    )


@pytest.mark.parametrize("dtype", ["complex128", "datetime64[s]", "timedelta64[s]", "S3", "O"])
def test_what_is_no_number_is_refused_by_its_dtype(dtype: str) -> None:
    given = X.astype("int64").astype(dtype)
    for ask in (lambda: fitted(given), lambda: MLP((4, 5, 3)).predict(given)):
        with pytest.raises(TypeError, match=r"X has dtype .* but expected numbers"):
            ask()


@pytest.mark.parametrize("factor", [1e-310, 1e-40, 5e-324])
@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
def test_denormal_features_are_features_that_tell_nothing(
    factor: float, normalization: Any
) -> None:
    model = fitted(X * factor, normalization=normalization, dtype="float64")
    assert np.isfinite(model.history["loss"]).all()
    assert np.isfinite(model.predict_proba(X * factor)).all()


@pytest.mark.parametrize("seed", [2**64, 10**30, [0, 2**64]])
def test_a_seed_is_a_number_of_64_bits(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"seed.* less than 2\*\*64"):
        MLP((2, 2), seed=seed)
    MLP((2, 2), seed=2**64 - 1).fit(np.eye(2), [0, 1], layout="rows", epochs=1, progress=False)


def test_an_array_without_axes_is_one_seed_and_one_of_numbers_many() -> None:
    assert (MLP((2, 2), seed=np.array(3)).seeds, MLP((2, 2), seed=np.array(3)).leading) == (
        (3,),
        (),
    )
    assert MLP((2, 2), seed=np.arange(2)).seeds == (0, 1)
    with pytest.raises(TypeError, match=r"seed\[0\] is 0.5, but expected a whole number"):
        MLP((2, 2), seed=np.array([0.5]))
    with pytest.raises(TypeError, match=r"seed\[0\] is \[0\], but expected a whole number"):
        MLP((2, 2), seed=np.array([[0]]))


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (Adam(beta1=1.0), r"Adam.beta1 is 1.0, but expected a number in \[0.0, 1.0\)"),
        (Adam(beta2=float("nan")), "Adam.beta2 is nan"),
        (Adam(rate="x"), "Adam.rate is 'x'"),  # type: ignore[arg-type]
        (Adam(epsilon_hat=1), "Adam.epsilon_hat is 1"),  # type: ignore[arg-type]
        (SGD(rate=-1.0), "SGD.rate is -1.0"),
        (SGD(rate=float("inf")), "SGD.rate is inf"),
        (SGD(weight_decay=[]), "SGD.weight_decay"),  # type: ignore[arg-type]
        (Momentum(momentum=1.5), "Momentum.momentum is 1.5"),
    ],
)
def test_an_optimiser_has_numbers_that_mean_something(optimizer: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        MLP((2, 2), optimizer=optimizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": StepDecay(every=0)}, "StepDecay.every is 0"),
        ({"schedule": Exponential(decay=float("nan"))}, "Exponential.decay is nan"),
        ({"schedule": WarmUp(then="x")}, "WarmUp.then is 'x'"),  # type: ignore[arg-type]
        ({"early_stopping": EarlyStopping(0)}, "EarlyStopping.patience is 0"),
        ({"early_stopping": EarlyStopping(3, float("nan"))}, "EarlyStopping.threshold is nan"),
        ({"early_stopping": "x"}, "early_stopping is 'x'"),
    ],
)
def test_a_training_has_numbers_that_mean_something(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        MLP((4, 5, 3)).fit(X, Y, epochs=2, progress=False, **options)


def test_parameters_that_do_not_fit_the_dtype_are_refused() -> None:
    model = MLP((4, 5, 3))
    for value in (np.nan, np.inf, 1e300):
        with pytest.raises(ValueError, match=r"b1 holds .* that fit float32"):
            model.set_parameters(b1=np.full((5, 1), value))


def test_targets_that_do_not_fit_are_refused_or_warned_of_by_estimators() -> None:
    pytest.importorskip("sklearn")
    from mlp_xp import MLPClassifier, MLPRegressor

    options: dict[str, Any] = {"hidden_layer_sizes": (5,), "max_iter": 1, "random_state": 0}
    rows = X.T.astype("float32")
    with pytest.raises(ValueError, match=r"y runs from .* does not fit float32"):
        MLPRegressor(**options).fit(rows, VALUES[0] * 1e300)
    with (
        pytest.warns(RuntimeWarning, match=r"The loss is inf.* Scale X and y"),
        pytest.warns(match="Maximum iterations"),
    ):
        MLPRegressor(**options).fit(X.T, VALUES[0] * 1e200)
    dates = X.T.astype("int64").astype("datetime64[s]")
    for make in (MLPClassifier, MLPRegressor):
        with pytest.raises(TypeError, match=r"X has dtype datetime64\[s\]"):
            make(**options).fit(dates, Y)
    with pytest.raises(TypeError, match="y has dtype"):
        MLPRegressor(**options).fit(X.T, dates[:, 0])


# -- other doors: estimators, exports, predictors, checkpoints -----------------------------

ROWS = X.T


def regressor(**more: Any) -> Any:
    pytest.importorskip("sklearn")
    from mlp_xp import MLPRegressor

    given = {"hidden_layer_sizes": (5,), "max_iter": 3, "random_state": 0, **more}
    return MLPRegressor(**given)


DATES = ROWS.astype("datetime64[s]")
HOLED = np.where(np.arange(60)[:, None] == 7, np.nan, ROWS)
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "NaN": (HOLED, ValueError, "contains NaN"),
    "infinity": (HOLED * 0 + np.inf, ValueError, "infinity|NaN"),
    "complex": (ROWS + 1j, ValueError, "Complex data not supported"),
    "text": (ROWS.astype(str), ValueError, r"X has dtype <U32, but expected numbers: text is none"),
    "words": (np.full((60, 4), "a", object), ValueError, r"X holds 'a' at \[0, 0\].*encoder"),
    "dates": (DATES, TypeError, "dtype datetime64.*expected numbers"),
    "masked": (np.ma.masked_array(ROWS, ROWS > 1), TypeError, "masked array"),
    "no examples": (ROWS[:0], ValueError, r"0 sample\(s\)"),
    "no features": (ROWS[:, :0], ValueError, r"0 feature\(s\)"),
    "one dimension": (ROWS[:, 0], ValueError, "Expected 2D array"),
    "three": (ROWS[None], ValueError, "dim 3"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
def test_estimators_refuse_what_is_no_table_of_numbers(what: str) -> None:
    given, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        regressor().fit(given, VALUES[0])
    with pytest.raises(error, match=message):
        regressor().fit(ROWS, VALUES[0]).predict(given)


def spelt(values: Any) -> dict[str, Any]:
    """Numbers (m,) or (m, n) written as text, in all that holds text; and as dates."""
    text = values.astype(str)
    mixed = values.astype(object)
    mixed.flat[-1] = "1.5"
    days = values.astype("datetime64[s]")
    return {
        "str": text,
        "bytes": text.astype("S"),
        "variable width": text.astype(np.dtypes.StringDType()),
        "list": text.tolist(),
        "objects": text.astype(object),
        "one of them": mixed,
        "dates": days,
        "durations": days - days[:1],
        "objects that are dates": days.astype(object),
    }


DATED = ("dates", "durations", "objects that are dates")


def estimator(name: str) -> Any:
    pytest.importorskip("sklearn")
    import mlp_xp

    if name.startswith("Neural"):
        return getattr(mlp_xp, name)("dense:5", epochs=1, random_state=0)
    return getattr(mlp_xp, name)(hidden_layer_sizes=(5,), max_iter=1, random_state=0)


@pytest.mark.parametrize("what", spelt(VALUES[0]))
@pytest.mark.parametrize(
    "name", ["MLPClassifier", "MLPRegressor", "NeuralClassifier", "NeuralRegressor"]
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
def test_what_numpy_would_turn_into_numbers_is_none(name: str, what: str) -> None:
    """Text of which NumPy makes numbers in silence, wherever an estimator takes numbers."""
    y = VALUES[0] if name.endswith("Regressor") else Y
    rows, weights = spelt(ROWS)[what], spelt(np.ones(60))[what]
    est = estimator(name).fit(ROWS, y)
    calls: list[tuple[str, Any]] = [
        ("X", lambda: estimator(name).fit(rows, y)),
        ("X", lambda: est.predict(rows)),
        ("sample_weight", lambda: estimator(name).fit(ROWS, y, sample_weight=weights)),
        ("sample_weight", lambda: est.score(ROWS, y, weights)),
    ]
    if name.startswith("MLP"):
        calls += [
            ("X", lambda: est.partial_fit(rows, y)),
            ("sample_weight", lambda: est.partial_fit(ROWS, y, weights)),
            ("sample_weight", lambda: est.fit(ROWS, y, validation_data=(ROWS, y, weights))),
        ]
    if name.endswith("Regressor"):
        wrong = spelt(y)[what]
        calls += [
            ("y", lambda: estimator(name).fit(ROWS, wrong)),
            ("y", lambda: est.score(ROWS, wrong)),
            ("y", lambda: est.fit(ROWS, y, validation_data=(ROWS, wrong))),
        ]
    if name == "MLPClassifier":
        weighing = estimator(name).set_params(class_weight=dict(enumerate(weights[-3:])))
        calls.append(("class_weight", lambda: weighing.fit(ROWS, Y)))
    error = TypeError if what in DATED else ValueError
    for argument, call in calls:
        with pytest.raises(error, match=rf"^{argument} (has dtype|holds) .* expected numbers"):
            call()


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
def test_columns_of_a_frame_that_hold_text_are_refused() -> None:
    pandas = pytest.importorskip("pandas")
    good = pandas.DataFrame(ROWS, columns=list("abcd")).astype({"a": "float32"})
    est = regressor().fit(good, VALUES[0])
    for change in ({"b": str}, {"b": "string"}, {"b": "category"}, {"b": "datetime64[s]"}):
        bad = good.astype({"b": str} if change["b"] == "category" else {}).astype(change)
        with pytest.raises(
            (ValueError, TypeError), match=r"^X holds .* at \[0, 1\], but expected numbers"
        ):
            est.fit(bad, VALUES[0])
    np.testing.assert_array_equal(est.feature_names_in_, list("abcd"))


@pytest.mark.parametrize("kind", ["float16", "longdouble", "object", "csr", "coo", "list"])
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
def test_estimators_take_any_table_of_numbers_at_its_value(kind: str) -> None:
    est = regressor().fit(ROWS, VALUES[0])
    if kind == "list":
        given: Any = ROWS.tolist()
    elif kind in ("csr", "coo"):
        given = pytest.importorskip("scipy.sparse").coo_matrix(ROWS).asformat(kind)
    else:
        given = ROWS.astype(kind)
    close = {"rtol": 1e-2, "atol": 1e-2} if kind == "float16" else {"rtol": 1e-6, "atol": 1e-7}
    for found in (est.predict(given), regressor().fit(given, VALUES[0]).predict(ROWS)):
        np.testing.assert_allclose(found, est.predict(ROWS), **close)


def exported(name: str, model: Any) -> Any:
    if name == "onnx":
        pytest.importorskip("onnx")
        return model.to_onnx()
    pytest.importorskip("torch")
    from mlp_xp import to_torch

    return to_torch(model)


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_what_cannot_be_exported_says_why(name: str) -> None:
    with pytest.raises(ValueError, match="not fitted yet"):
        exported(name, regressor())
    exported(name, MLP((4, 3, 2), dtype="float64"))
    if name == "torch":
        with pytest.raises(TypeError, match="model is a int, but expected an MLP"):
            exported(name, 3)


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "a list": ([[1.0]] * 4, TypeError, "X is a builtins.list, but a predictor takes arrays"),
    "features": (X[:3], ValueError, "X has 3 features, but expected 4"),
    "examples": (np.zeros((4, 99)), ValueError, "made for at most 60"),
    "one dimension": (X[0], ValueError, r"shape \(60,\), but expected \(n_features, n_examples"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_predictor_says_what_it_takes(what: str) -> None:
    given, error, message = WRONG[what]
    with pytest.raises(error, match=message):
        MLP((4, 5, 3)).predictor(60)(given)


def test_a_predictor_does_not_mix_devices(cupy: Any) -> None:
    there, here = MLP((4, 5, 3), device="cuda"), MLP((4, 5, 3))
    with pytest.raises(TypeError, match=r"X is a numpy.ndarray, but .* 'cuda'.*expected one of"):
        there.predictor(60)(X.astype("float32"))
    with pytest.raises(TypeError, match=r"X is a cupy.ndarray, but .* 'cpu'.*expected one of"):
        here.predictor(60)(cupy.asarray(X, "float32"))
    with pytest.raises(TypeError, match=r"dtype float64, but .* model's, float32"):
        there.predictor(60)(cupy.asarray(X))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "lbfgs"}, "solver='lbfgs' keeps what it knows of the curvature within SciPy"),
        ({"random_state": None}, "random_state is None: expected a whole number"),
        ({"random_state": np.random.RandomState(0)}, "expected a whole number"),
    ],
)
def test_a_checkpoint_that_could_not_be_gone_on_from_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        regressor(**options).fit(ROWS, VALUES[0], checkpoint=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_seed_that_is_drawn_anew_is_told_by_its_checkpoint(tmp_path: Path) -> None:
    def again() -> None:
        MLP((4, 5, 3), seed=None).fit(X, Y, epochs=1, progress=False, checkpoint=tmp_path)

    again()
    with pytest.raises(ValueError, match=r"another training: seed was \d+, but is \d+ now"):
        again()


def test_callbacks_are_not_called_for_epochs_that_are_gone_on_from(tmp_path: Path) -> None:
    """Their own state is theirs to keep, as docs/reliability.md says."""
    seen: list[int] = []
    for _ in range(2):
        MLP((4, 5, 3)).fit(
            *(X, Y),
            epochs=3,
            progress=False,
            checkpoint=tmp_path,
            callbacks=lambda _, epoch: seen.append(epoch.epoch),
        )
        assert seen == [1, 2, 3]


# -- large labels ----------------------------------------------------------------

LARGE = np.array([7, 2**63 + 1, 2**63 + 3], np.uint64)  # the last two are one number as floats


@pytest.mark.parametrize("labels", [LARGE, LARGE[1:]], ids=["beside small ones", "alone"])
def test_labels_from_2_to_the_63_on_stay_what_they_are(labels: Any, tmp_path: Path) -> None:
    y = labels[np.arange(60) % len(labels)]
    data = Dataset("large", 3 * np.eye(len(labels))[np.arange(60) % len(labels)], y)
    model = model_for(data, (8,), seed=0, learning_rate=0.05)
    model.fit(data.X, y, epochs=40, progress=False, layout="rows").save(tmp_path / "m.safetensors")
    for found in (model, MLP.load(tmp_path / "m.safetensors")):
        assert found.predict(data.X, layout="rows").tolist() == y.tolist()
        assert found.evaluate(data.X, y, layout="rows").score == 1
        assert found.evaluate(data.X[:1], y[:1].tolist(), layout="rows").score == 1
        assert found.preparation is not None
        assert found.preparation.classes == tuple(labels.tolist())


def test_large_labels_of_a_stream_stay_what_they_are(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pyarrow = need(request, "pyarrow")
    need(request, "pyarrow.parquet")

    y = LARGE[np.arange(60) % 3]
    table = pyarrow.table({"x": (np.arange(60) % 3).astype(float), "y": y})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=20)
    data = stream(tmp_path / "t.parquet", target="y", memory="1MB")
    model = model_for(data, (8,), seed=0, learning_rate=0.05).fit(data, epochs=60, progress=False)
    assert np.concatenate(list(model.predict(data))).tolist() == y.tolist()


def test_small_labels_are_known_among_large_ones() -> None:
    found = Preparation("cross_entropy", classes=(2**53, 2**53 + 1, 2**63))
    assert found.numbers("Y", np.array([2**53 + 1, 2**53])).tolist() == [1, 0]
    with pytest.raises(ValueError, match="Y holds the label -1, but the model knows"):
        found.numbers("Y", np.array([-1]))


@pytest.mark.parametrize("label", [2.0**53, -(2.0**60), 1e20])
def test_labels_that_floats_do_not_tell_apart_are_refused(label: float) -> None:
    y = np.where(np.arange(60) % 2, label, 1)
    with pytest.raises(DataError, match=r"a label is .* does not tell whole numbers of that size"):
        model_for(Dataset("floats", np.zeros((60, 2)), y))


def test_labels_that_no_kind_of_whole_number_holds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels run from -1 to 9223372036854775808, but"):
        Preparation("cross_entropy", classes=(-1, 2**63))
