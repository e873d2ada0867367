"""Numbers at the edge: a clear error, or the right result; never a silent wrong one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlp_xp import MLP, EarlyStopping
from mlp_xp.optimizers import SGD, Adam, Momentum
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
