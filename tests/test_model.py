"""The front: what it refuses, what it answers, what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_type_hints

import numpy as np
import pytest

from conftest import Backend
from mlp_xp import (
    ACTIVATIONS,
    INITIALIZERS,
    LOSSES,
    MLP,
    OPTIMIZERS,
    SCHEDULES,
    Activation,
    check_gradients,
    data,
    inspect_step,
)
from mlp_xp.initializers import normal
from mlp_xp.layers import Residual
from mlp_xp.layers.base import Kind
from mlp_xp.meant import ELSEWHERE
from mlp_xp.network import AXES
from mlp_xp.optimizers import Momentum

Random = np.random.Generator


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"sizes": (4,)}, ValueError, "at least two numbers"),
        ({"sizes": (4, 0, 3)}, ValueError, r"sizes\[1\] is 0, but expected at least 1"),
        ({"sizes": (4, 2.5, 3)}, TypeError, r"sizes\[1\] is 2.5, but expected a whole number"),
        ({"sizes": 4}, TypeError, "such as"),
        ({"activation": "rellu"}, ValueError, "expected one of 'identity', 'relu'.*mean 'relu'"),
        ({"activation": ["relu"] * 3}, ValueError, "3 entries, but there are 2 hidden layers"),
        ({"loss": "mse"}, ValueError, "loss is 'mse', but expected one of 'squared_error'"),
        ({"loss": (np.add, np.add)}, ValueError, r"mlp_xp\.Loss\(value, delta, predict, kind\)"),
        ({"activation": np.tanh}, ValueError, r"or a pair of functions \(f\(xp, Z\), slope"),
        ({"activation": (np.tanh,)}, ValueError, r"or a pair of functions \(f\(xp, Z\), slope"),
        ({"optimizer": "adamm"}, ValueError, "Did you mean 'adam'"),
        ({"optimizer": Momentum}, ValueError, r"Write Momentum\(…\), with brackets"),
        ({"initializer": "heh"}, ValueError, "expected one of 'auto', 'zeros'"),
        ({"normalization": "group"}, ValueError, "'none', 'batch', 'layer'"),
        ({"dtype": "float16"}, ValueError, "'float32', 'float64'"),
        ({"device": "gpu"}, ValueError, "device is 'gpu'.*mlp-xp devices"),
        ({"dropout": 1.0}, ValueError, r"dropout is 1.0, but expected a number in \[0, 1\)"),
        ({"dropout": "some"}, TypeError, "expected a number"),
        ({"density": 0}, ValueError, "density is 0, but expected more"),
        ({"density": 1.5}, ValueError, r"in \[0, 1.0\]"),
        ({"l2": -1}, ValueError, "l2 is -1"),
        ({"l2": float("nan")}, ValueError, "l2 is nan"),
        ({"learning_rate": 0}, ValueError, "learning_rate is 0"),
        ({"clip_norm": -1}, ValueError, "clip_norm"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"seed": []}, ValueError, "empty"),
        ({"seed": 1.5}, TypeError, "whole number"),
        ({"loss": "cross_entropy", "sizes": (4, 1)}, ValueError, "binary_cross_entropy"),
        ({"loss": "binary_cross_entropy"}, ValueError, "3 outputs, but expected 1"),
        ({"loss": "huber", "label_smoothing": 0.1}, ValueError, "needs a loss for classes"),
    ],
)
def test_a_bad_setting_is_named_with_what_was_expected(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        MLP(**{"sizes": (4, 8, 8, 3), **settings})


X = np.random.default_rng(0).normal(size=(4, 10))
y = np.arange(10) % 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"X": X.T}, ValueError, r"takes 4 features: expected \(4, n_examples\).*Pass X\.T"),
        ({"X": X[:3]}, ValueError, r"X has shape \(3, 10\), but the first layer takes 4"),
        ({"X": X[:, 0]}, ValueError, r"x\[:, None\]"),
        ({"X": X[:, :0]}, ValueError, "there are no examples"),
        ({"X": [[1.0], [2.0, 3.0]]}, ValueError, "rows of equal length"),
        ({"X": X.astype(str)}, TypeError, "expected numbers"),
        ({"X": X.astype(object)}, TypeError, "astype"),
        ({"X": np.where(X > 1, np.nan, X)}, ValueError, r"X holds nan at \[\d+, \d+\]"),
        ({"X": np.where(X > 1, np.inf, X)}, ValueError, "such values in all"),
        ({"X": X * 1e300}, ValueError, "fit float32"),
        ({"Y": y[:5]}, ValueError, "a label for each of the 10 examples"),
        ({"Y": y + 1}, ValueError, "labels from 1 to 3, but the network has 3 outputs"),
        ({"Y": y - 1}, ValueError, "labels from -1"),
        ({"Y": y.astype(float)}, TypeError, "labels are whole numbers"),
        ({"Y": y.astype(str)}, TypeError, "Encode text"),
        ({"Y": np.zeros(10, int)}, ValueError, r"one class only \(0\)"),
        ({"Y": np.eye(3)[y]}, ValueError, r"Are your targets rows\? Pass Y.T"),
        ({"Y": np.eye(3)[y].T * 2}, ValueError, "from 0 to 2"),
        ({"Y": np.ones((3, 10))}, ValueError, "do not sum to 1"),
        ({"batch_size": 11}, ValueError, "batch_size is 11, but there are 10 examples"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"epochs": 0}, ValueError, "epochs is 0"),
        ({"epochs": 1.5}, TypeError, "whole number"),
        ({"schedule": "cosin"}, ValueError, "Did you mean 'cosine'"),
        ({"sample_weight": -np.ones(10)}, ValueError, "weights ≥ 0"),
        ({"sample_weight": np.zeros(10)}, ValueError, "not all 0"),
        ({"sample_weight": np.ones(9)}, ValueError, r"expected \(10,\)"),
        ({"validation_data": X}, ValueError, r"takes \(X, Y\)"),
        ({"validation_data": (X.T, y)}, ValueError, "validation X has shape"),
        ({"early_stopping": 0}, ValueError, "early_stopping is 0"),
        ({"shuffle": "no"}, TypeError, "shuffle is 'no', but expected True or False"),
        ({"shuffle": None}, TypeError, "shuffle is None"),
        ({"progress": "no"}, TypeError, "progress is 'no', but expected True or False"),
        ({"every": -1}, ValueError, "every is -1, but expected a number in"),
    ],
)
def test_a_bad_argument_of_fit_is_refused_before_any_work(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = MLP((4, 8, 3))
    before = np.array(model.parameters["W1"])
    with pytest.raises(error, match=message):
        model.fit(**{"X": X, "Y": y, "progress": False, **arguments})
    np.testing.assert_array_equal(model.parameters["W1"], before)
    assert model.history == {}


def test_one_number_of_each_of_many_examples_is_refused_with_the_cure() -> None:
    numbers, labels = X[0], y > 0
    model = MLP((1, 4, 2))
    with pytest.raises(ValueError, match=r"for many pass x\[None, :\]"):
        model.fit(numbers, labels, progress=False)
    with pytest.raises(ValueError, match=r"for many pass x\[:, None\]"):
        model.fit(numbers, labels, progress=False, layout="rows")
    model.fit(numbers[None, :], labels, progress=False)
    model.fit(numbers[:, None], labels, progress=False, layout="rows")


def test_text_is_no_flag_of_a_model() -> None:
    with pytest.raises(TypeError, match="residual is 'no', but expected True or False"):
        MLP((4, 8, 3), residual="no")  # type: ignore[arg-type]
    assert MLP((4, 8, 3), residual=np.True_).network.residual is True  # type: ignore[arg-type]


def test_counts_and_shares_are_checked() -> None:
    with pytest.raises(ValueError, match="numbers ≥ 0"):
        MLP((4, 1), loss="poisson").fit(X, y - 1.0, progress=False)
    with pytest.raises(ValueError, match="probabilities between"):
        MLP((4, 1), loss="binary_cross_entropy").fit(X, y, progress=False)
    with pytest.raises(ValueError, match="use predict"):
        MLP((4, 1), loss="poisson").predict_proba(X)


def test_rows_and_columns_in_memory_give_the_same_model(random: Random) -> None:
    fit = {"epochs": 2, "batch_size": 4, "progress": False}
    results = []
    for layout in (np.ascontiguousarray(X), np.asfortranarray(X), X[:, ::-1][:, ::-1], X.tolist()):
        results.append(MLP((4, 8, 3)).fit(layout, y, **fit).parameters["W1"])
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_inputs_are_never_written_to(random: Random) -> None:
    inputs = [X.astype(np.float32), y.copy(), np.ones(10, np.float32)]
    copies = [a.copy() for a in inputs]
    for array in inputs:
        array.flags.writeable = False
    MLP((4, 8, 3), normalization="layer").fit(
        inputs[0], inputs[1], sample_weight=inputs[2], progress=False
    )
    for array, copy in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_labels_and_one_hot_columns_give_the_same_model() -> None:
    labels = MLP((4, 8, 3)).fit(X, y, progress=False)
    columns = MLP((4, 8, 3)).fit(X, np.eye(3)[y].T, progress=False)
    np.testing.assert_array_equal(labels.parameters["W2"], columns.parameters["W2"])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", [0, [0, 1]])
def test_answers_have_the_shapes_of_the_mathematics(loss: str, seed: Any) -> None:
    kind = LOSSES[loss].kind
    n_out = 1 if kind == "binary" else 3
    model = MLP((4, 5, n_out), loss=loss, seed=seed, dtype="float64")
    leading = (2,) if isinstance(seed, list) else ()
    assert model.scores(X).shape == (*leading, n_out, 10)
    if kind in ("real", "count"):
        assert model.predict(X).shape == (*leading, n_out, 10)
        return
    proba = model.predict_proba(X)
    assert proba.shape == (*leading, n_out, 10)
    assert ((proba >= 0) & (proba <= 1)).all()
    prediction = model.predict(X)
    assert prediction.dtype == np.int64
    if kind == "multiclass":
        np.testing.assert_allclose(proba.sum(axis=-2), 1)
        np.testing.assert_array_equal(prediction, proba.argmax(axis=-2))
    else:
        flat = proba[..., 0, :] if kind == "binary" else proba
        np.testing.assert_array_equal(prediction, flat > 0.5)


def test_large_inputs_are_evaluated_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MLP((4, 6, 3), normalization="batch", dtype="float64").fit(X, y, progress=False)
    whole = model.scores(X)
    monkeypatch.setattr("mlp_xp.training.CHUNK", 3)
    np.testing.assert_allclose(model.scores(X), whole, rtol=1e-12)


def test_r2_is_that_of_scikit_learn(random: Random) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    model = MLP((4, 5, 2), loss="squared_error", dtype="float64")
    Y, w = random.normal(size=(2, 10)), random.uniform(0, 1, 10)
    expected = metrics.r2_score(Y.T, model.predict(X).T, sample_weight=w)
    np.testing.assert_allclose(model.evaluate(X, Y, w).score, expected)


def test_own_functions_train_like_the_table(backend: Backend) -> None:
    xp = backend.xp

    def f(xp: Any, Z: Any) -> Any:
        return xp.tanh(Z)

    pair = (f, lambda xp, Z: 1 - xp.tanh(Z) * xp.tanh(Z))
    row = Activation(f=f, slope=lambda xp, A: 1 - A * A)
    expected = MLP((4, 6, 3), activation="tanh", dtype="float64", device=backend.device)
    expected.fit(X, y, progress=False)
    for own in (pair, row, [row]):
        model = MLP(
            (4, 6, 3),
            activation=own,
            initializer="glorot_uniform",
            dtype="float64",
            device=backend.device,
        ).fit(X, y, progress=False)
        np.testing.assert_allclose(
            backend.get(model.parameters["W1"]),
            backend.get(expected.parameters["W1"]),
            rtol=1e-9,
        )
    assert xp is backend.xp


def test_a_tuple_of_activations_is_one_a_layer() -> None:
    names = MLP((4, 5, 5, 3), activation=("tanh", "gelu"))
    assert names.network == MLP((4, 5, 5, 3), activation=["tanh", "gelu"]).network
    rows = MLP((4, 5, 5, 3), activation=(ACTIVATIONS["tanh"], "gelu"))
    assert rows.network == names.network
    with pytest.raises(ValueError, match="3 entries, but there are 2 hidden layers"):
        MLP((4, 5, 5, 3), activation=("tanh",) * 3)


def test_own_optimizer_and_initializer_values() -> None:
    model = MLP(
        (4, 200, 3), optimizer=Momentum(rate=0.1, momentum=0.5), initializer=normal(0.5), l2=0.1
    )
    np.testing.assert_allclose(np.std(model.parameters["W1"]), 0.5, rtol=0.1)
    assert model.optimizer.rate == 0.1
    assert MLP((4, 3), optimizer=Momentum(), learning_rate=0.3).optimizer.rate == 0.3
    model.fit(X, y, epochs=3, progress=False)
    assert model.history["loss"][-1] < model.history["loss"][0]


def test_a_drawn_seed_is_kept() -> None:
    model = MLP((4, 5, 3), seed=None)
    again = MLP((4, 5, 3), seed=model.seeds[0])
    np.testing.assert_array_equal(model.parameters["W1"], again.parameters["W1"])


def test_every_array_of_a_step_can_be_seen_by_name(backend: Backend) -> None:
    model = MLP(
        (4, 6, 5, 3),
        activation="tanh",
        residual=True,
        dropout=0.5,
        dtype="float64",
        device=backend.device,
    )
    seen = {name: backend.get(value) for name, value in inspect_step(model, X, y).items()}
    expected = {"loss", "A0", "mask1", "mask2"}
    for i in (1, 2, 3):
        expected |= {f"{letter}{i}" for letter in ("Z", "A", "delta", "dW", "db")}
    assert set(seen) == expected | {"dP1", "dP2"}
    W = {name: backend.get(value) for name, value in model.parameters.items()}
    np.testing.assert_allclose(seen["Z1"], W["W1"] @ X + W["b1"], rtol=1e-12)
    skip = np.tanh(seen["Z1"]) * seen["mask1"] + W["P1"] @ X
    np.testing.assert_allclose(seen["A1"], skip, rtol=1e-12)
    np.testing.assert_allclose(seen["dW3"], seen["delta3"] @ seen["A2"].T, rtol=1e-9)
    np.testing.assert_allclose(seen["db1"][:, 0], seen["delta1"].sum(axis=1), rtol=1e-9)


def test_repr_says_what_it_is() -> None:
    assert repr(MLP((64, 32, 10), seed=[1, 2])) == (
        "<MLP 64-32-10, 2,410 parameters, float32, 2 networks>"
    )


def test_parameters_are_a_copy_and_can_be_set(backend: Backend) -> None:
    model = MLP((4, 6, 3), seed=[0, 1], device=backend.device)
    before = {name: backend.get(value) for name, value in model.parameters.items()}
    model.fit(X, y, epochs=1, progress=False)
    other = MLP((4, 6, 3), seed=[0, 1], device=backend.device)
    other.set_parameters(**model.parameters)
    np.testing.assert_array_equal(backend.get(other.predict(X)), backend.get(model.predict(X)))
    other.set_parameters(W1=before["W1"].astype(float))
    np.testing.assert_array_equal(backend.get(other.parameters["W1"]), before["W1"])
    for name in ("W2", "b1"):
        mine, theirs = other.parameters[name], model.parameters[name]
        np.testing.assert_array_equal(backend.get(mine), backend.get(theirs))


def test_parameters_that_do_not_fit_are_refused() -> None:
    model = MLP((4, 6, 3), density=0.5)
    with pytest.raises(ValueError, match="expected one of 'W1', 'W2', 'b1', 'b2'"):
        model.set_parameters(W3=np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"W1 has shape \(4, 6\), but expected \(6, 4\)"):
        model.set_parameters(W1=np.zeros((4, 6)))
    with pytest.raises(ValueError, match="b1 holds nan"):
        model.set_parameters(b1=np.full((6, 1), np.nan))
    with pytest.raises(ValueError, match="no connection"):
        model.set_parameters(W1=np.ones((6, 4)))


@pytest.mark.parametrize(
    ("argument", "name", "meant"),
    [
        ("loss", "mse", "squared_error"),
        ("loss", "MAE", "absolute_error"),
        ("loss", "crossentropy", "cross_entropy"),
        ("loss", "sparse_categorical_crossentropy", "cross_entropy"),
        ("activation", "swish", "silu"),
        ("activation", "ReLU", "relu"),
        ("activation", "relu6", "relu"),
        ("optimizer", "adam_w", "adamw"),
        ("initializer", "xavier", "glorot_uniform"),
    ],
)
def test_a_name_from_elsewhere_gets_the_name_it_has_here(
    argument: str, name: str, meant: str
) -> None:
    given: dict[str, Any] = {argument: name}
    with pytest.raises(ValueError, match=f"Did you mean '{meant}'"):
        MLP((3, 4, 2), **given)


def test_every_name_from_elsewhere_means_a_row_of_a_table() -> None:
    rows = {*ACTIVATIONS, *LOSSES, *OPTIMIZERS, *INITIALIZERS, *SCHEDULES, *AXES}
    assert set(ELSEWHERE.values()) <= rows
    assert not set(ELSEWHERE) & rows


def test_images_and_columns_of_labels_are_refused_with_the_cure(random: Random) -> None:
    images, y = random.normal(size=(12, 2, 3)), np.arange(12) % 3
    for layout, wanted in (("columns", r"\(6, n_examples\)"), ("rows", r"\(n_examples, 6\)")):
        model = MLP((6, 3))
        with pytest.raises(
            ValueError, match=rf"{wanted}\. Pass X\.reshape\(12, 6\), layout='rows'"
        ):
            model.fit(images, y, layout=layout)
        X, labels = images.reshape(12, 6), y[None]
        if layout == "columns":
            X, labels = X.T, y[:, None]
        with pytest.raises(ValueError, match=r"expected labels \(12,\).* Pass Y\.T\.$"):
            model.fit(X, labels, layout=layout)
        model.fit(X, labels.T, layout=layout, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"shape \(12, 2, 3\).*\)\. Sequential takes images"):
        MLP((5, 3)).fit(images, y)


def test_a_schedule_that_is_not_made_yet_is_told_to_be(random: Random) -> None:
    X, y = random.normal(size=(4, 6)), np.arange(6) % 3
    with pytest.raises(ValueError, match=r"Write OneCycle\(…\), with brackets"):
        MLP((4, 3)).fit(X, y, schedule=type(SCHEDULES["one_cycle"]))


def test_what_is_no_model_is_not_looked_into(random: Random) -> None:
    pytest.importorskip("sklearn")
    from mlp_xp import NeuralClassifier

    X, y = random.normal(size=(12, 4)), np.arange(12) % 3
    estimator = NeuralClassifier("dense:3", epochs=1).fit(X, y)
    for look in (inspect_step, check_gradients):
        with pytest.raises(TypeError, match=r"model is a NeuralClassifier.* Pass its model_"):
            look(estimator, X, y, layout="rows")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"model is a ndarray, but expected an MLP"):
            look(X, y, estimator)  # type: ignore[arg-type]
        look(estimator.model_, X, y, layout="rows")
    with pytest.raises(TypeError, match=r"preparation is a NeuralClassifier.* mlp_xp\.prepare"):
        estimator.model_.preparation = estimator  # type: ignore[assignment]


def test_what_is_listed_is_what_is_public() -> None:
    import mlp_xp

    names = dir(mlp_xp)
    assert {"MLP", "MLPClassifier", "MLPRegressor", "devices", "inspect_step"} <= set(names)
    assert {"data", "layers", "plotting", "trackers", "tutorial"} <= set(names)
    assert not {"Any", "TYPE_CHECKING", "checks", "training"} & set(names)
    assert all(getattr(mlp_xp, name) is not None for name in names)
    with pytest.raises(AttributeError, match="no attribute 'MLPClasifier'") as raised:
        _ = mlp_xp.MLPClasifier
    assert (raised.value.name, raised.value.obj) == ("MLPClasifier", mlp_xp)  # Python names it


def test_what_users_name_in_typed_programs_is_typed_as_they_write_it() -> None:
    """As `mypy --strict` sees a program: lists of layers in a block, the error of a data file."""
    assert get_type_hints(Residual)["layers"] == get_type_hints(Residual)["skip"] == Sequence[Kind]
    assert {"DataError", "Dataset", "load"} <= set(data.__all__)


def test_a_device_is_shown_by_its_name() -> None:
    assert repr(MLP((4, 3)).device) == "<Device cpu>"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1e-320, 3e38, 1e308])
def test_weights_whose_sum_is_no_number_of_the_dtype_are_refused(dtype: str, size: float) -> None:
    model, X = MLP((4, 5, 3), dtype=dtype), np.random.default_rng(0).normal(size=(4, 60))
    y, w = np.arange(60) % 3, np.full(60, size)
    if dtype == "float64" and size == 3e38:
        model.fit(X, y, sample_weight=w, epochs=2, progress=False)
        alone = MLP((4, 5, 3), dtype=dtype).fit(X, y, epochs=2, progress=False)
        np.testing.assert_allclose(model.history["loss"], alone.history["loss"], rtol=1e-9)
        return
    for ask in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"sample_weight (sums to|holds inf|runs from 0 to 0)"):
            ask(X, y, sample_weight=w)
