"""`NeuralClassifier` and `NeuralRegressor`: scikit-learn's manners, and every layout of rows."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from mlp_xp import MLPClassifier, NeuralClassifier, NeuralRegressor, Sequential
from mlp_xp.cli import main
from mlp_xp.layers import (
    GRU,
    LSTM,
    Activation,
    Conv1d,
    Conv2d,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAvgPool,
    MaxPool,
)
from mlp_xp.losses import LOSSES
from mlp_xp.schedules import Cosine, Schedule, WarmUp
from mlp_xp.storage import ModelFileError

CONVOLUTIONS = [Conv2d(8, 3), Activation("relu"), MaxPool(2)]
QUICK = {"epochs": 3, "random_state": 0}
TABLE = np.eye(2)


def digits() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_digits(return_X_y=True)
    return X[:600] / 16, y[:600]


def ragged(m: int = 60, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Sequences of 1 to 9 steps, whose class is the sign of the sum of their first feature."""
    rng = np.random.default_rng(seed)
    X = [rng.normal(size=(rng.integers(1, 10), 2)) for _ in range(m)]
    return X, np.array(["down", "up"])[[int(x[:, 0].sum() > 0) for x in X]]


@parametrize_with_checks(
    [
        NeuralClassifier(
            "dense:20", epochs=60, learning_rate=0.02, dtype="float64", random_state=0
        ),
        NeuralRegressor("dense:20", epochs=60, learning_rate=0.02, dtype="float64", random_state=0),
    ]
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_images_of_every_layout_are_the_same_model() -> None:
    X, y = digits()
    images = X.reshape(-1, 8, 8)
    given = {
        "channels_last": images[..., None],
        "channels_first": images[:, None],
    }
    tables = {"channels_last": (8, 8, 1), "channels_first": (1, 8, 8)}
    found = []
    for layout, array in given.items():
        est = NeuralClassifier(CONVOLUTIONS, layout=layout, **QUICK).fit(array, y)
        found.append(est.predict_proba(array))
        one = NeuralClassifier(CONVOLUTIONS, layout=layout, **QUICK).fit(images, y)
        found.append(one.predict_proba(images))
        table = NeuralClassifier(CONVOLUTIONS, layout=layout, shape=tables[layout], **QUICK)
        found.append(table.fit(X, y).predict_proba(X))
        assert est.model_.network.shape == (1, 8, 8)
        assert est.n_features_in_ == 64
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    text = NeuralClassifier("conv:8x3,pool:2", layout="channels_last", **QUICK).fit(images, y)
    np.testing.assert_array_equal(text.predict_proba(images), found[0])


def test_colours_are_turned_the_right_way() -> None:
    rng = np.random.default_rng(0)
    last, y = rng.normal(size=(30, 5, 4, 3)), np.arange(30) % 2
    first = NeuralClassifier(CONVOLUTIONS[:2], layout="channels_first", **QUICK)
    first.fit(np.moveaxis(last, -1, 1), y)
    est = NeuralClassifier(CONVOLUTIONS[:2], layout="channels_last", **QUICK).fit(last, y)
    assert est.model_.network.shape == (3, 5, 4)
    np.testing.assert_array_equal(
        est.predict_proba(last), first.predict_proba(np.moveaxis(last, -1, 1))
    )


def test_it_learns_the_digits_and_stands_in_pipelines_and_searches() -> None:
    X, y = digits()
    est = NeuralClassifier(
        CONVOLUTIONS, layout="channels_last", shape=(8, 8, 1), epochs=40, random_state=0
    )
    est.set_params(learning_rate=0.01)
    assert cross_val_score(make_pipeline(MinMaxScaler(), est), X, y, cv=3).min() > 0.8
    search = GridSearchCV(est, {"layers": ["dense:4", CONVOLUTIONS], "epochs": [5]}, cv=2)
    assert search.fit(X, y).best_params_["layers"] == CONVOLUTIONS
    assert clone(est).get_params() == est.get_params()


@pytest.mark.parametrize(
    "layers",
    [
        [GRU(8)],
        [LSTM(8, returns="all", directions=2), GlobalAvgPool()],
        [Conv1d(8, 3, padding="causal"), Activation("tanh"), GlobalAvgPool(), Dropout(0.1)],
        "gru:8,dense:8",
    ],
    ids=str,
)
def test_sequences_of_different_lengths(layers: Any) -> None:
    X, y = ragged(200)
    est = NeuralClassifier(
        layers, layout="sequences", epochs=40, learning_rate=0.02, random_state=0
    ).fit(X, y)
    assert est.score(X, y) > 0.85
    assert set(est.predict(X)) == {"down", "up"}
    assert est.n_features_in_ == 2
    whole = est.predict_proba(X)
    for i in (0, 3, 5):  # alone, in another order, behind a longer one
        alone = est.predict_proba([X[i]])
        np.testing.assert_allclose(alone[0], whole[i], rtol=1e-5, atol=1e-6)
        long = est.predict_proba([np.zeros((40, 2)), X[i]])
        np.testing.assert_allclose(long[1], whole[i], rtol=1e-5, atol=1e-6)
    as_objects = np.empty(len(X), object)
    as_objects[:] = X
    np.testing.assert_array_equal(est.predict_proba(as_objects), whole)
    longest = max(map(len, X))
    even = np.stack([x for x in X if len(x) == longest])
    at = [i for i, x in enumerate(X) if len(x) == longest]
    np.testing.assert_allclose(est.predict_proba(even), whole[at], rtol=1e-5, atol=1e-6)


def test_shorter_sequences_are_asked_for_where_layers_have_weights_for_each_step() -> None:
    X, y = ragged(60)
    est = NeuralClassifier("dense:4", layout="sequences", **QUICK).fit(X, y)
    whole, longest = est.predict_proba(X), max(map(len, X))
    for i in (0, 3, 5):
        alone = est.predict_proba([X[i]])
        np.testing.assert_allclose(alone[0], whole[i], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(est.predict_proba(X[i][None]), alone)
    with pytest.raises(ValueError, match=rf"fitted to {longest} .* expected no more"):
        est.predict([np.zeros((longest + 1, 2))])


def test_sequences_in_a_table_are_asked_for_as_they_were_fitted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 12)), np.arange(40) % 2
    table = NeuralClassifier("gru:3", layout="sequences", shape=(4, 3), **QUICK).fit(X, y)
    whole = NeuralClassifier("gru:3", layout="sequences", **QUICK).fit(X.reshape(-1, 4, 3), y)
    assert (table.n_features_in_, whole.n_features_in_) == (12, 3)
    expected = whole.predict_proba(X.reshape(-1, 4, 3))
    np.testing.assert_array_equal(table.predict_proba(X), expected)
    table.save(tmp_path / "estimator")
    np.testing.assert_array_equal(
        NeuralClassifier.load(tmp_path / "estimator").predict_proba(X), expected
    )
    with pytest.raises(ValueError, match="X has 9 features, but NeuralClassifier is expecting 12"):
        table.predict(X[:, :9])


def test_threads_may_ask_of_sequences_of_different_lengths() -> None:
    X, y = ragged()

    class Interrupted(NeuralClassifier):  # type: ignore[misc]
        """One whose models for other lengths are asked for by somebody else at once."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "_others" and value and (4, True) not in value:
                self.predict([x[:4] for x in X])

    est = Interrupted([GRU(4)], layout="sequences", **QUICK).fit(X, y)
    plain = NeuralClassifier([GRU(4)], layout="sequences", **QUICK).fit(X, y)
    short = [x[:3] for x in X]
    np.testing.assert_array_equal(est.predict_proba(short), plain.predict_proba(short))


def test_sequences_of_one_length_have_no_lengths() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 6, 2)), np.arange(40) % 2
    est = NeuralClassifier([GRU(4)], layout="sequences", **QUICK).fit(X, y)
    assert not est.model_.network.lengths
    assert est.model_.network.shape == (2, 6)
    assert est.predict(X[:, :4]).shape == (40,)  # shorter ones, without training again
    np.testing.assert_allclose(
        est.predict_proba([*X[:3, :4], X[3]])[:3], est.predict_proba(X[:3, :4]), rtol=1e-5
    )
    flat = NeuralClassifier([Conv1d(3, 2), Flatten()], layout="sequences", **QUICK).fit(X, y)
    with pytest.raises(ValueError, match=r"X has sequences of 4 steps.* were fitted to 6"):
        flat.predict(X[:, :4])


def test_tokens_go_through_an_embedding() -> None:
    rng = np.random.default_rng(0)
    X = [list(rng.integers(1, 8, rng.integers(1, 7))) for _ in range(150)]
    y = [int(3 in words) for words in X]
    layers = [Embedding(8, 6), GRU(8)]
    est = NeuralClassifier(
        layers, layout="tokens", epochs=60, learning_rate=0.02, random_state=0
    ).fit(X, y)
    assert est.score(X, y) > 0.9
    square = rng.integers(0, 8, (50, 5))
    even = NeuralClassifier(layers, layout="tokens", **QUICK).fit(square, square[:, 0] % 2)
    assert even.model_.network.shape == (5,)


def test_kinds_of_targets() -> None:
    X, y = digits()
    labels = np.stack([y % 2, y > 4], axis=1)
    many = NeuralClassifier("dense:30", **QUICK).fit(X, labels)
    assert many.predict(X).shape == labels.shape
    assert many.model_.loss.kind == "multilabel"
    two = NeuralClassifier("dense:30", loss="binary_cross_entropy", epochs=60, random_state=0)
    two.fit(X, y % 2 == 0)
    assert two.predict_proba(X).shape == (600, 2)
    assert two.predict(X).dtype == bool
    assert two.score(X, y % 2 == 0) > 0.9
    one = NeuralRegressor("dense:30", epochs=60, learning_rate=0.01, random_state=0).fit(X, y)
    assert one.predict(X).shape == (600,)
    assert one.score(X, y) > 0.8
    several = NeuralRegressor("dense:30", **QUICK).fit(X, np.stack([y, -y], axis=1))
    assert several.predict(X).shape == (600, 2)


def test_one_hot_rows_are_scored_as_labels_are(tmp_path: Path) -> None:
    X, y = digits()
    rows = np.eye(10)[y]
    est = NeuralClassifier("dense:30", loss="cross_entropy", **QUICK).fit(X, rows)
    est.save(tmp_path / "est.safetensors")
    for one in (est, NeuralClassifier.load(tmp_path / "est.safetensors")):
        assert one.score(X, rows) == one.score(X, y) == np.mean(one.predict(X) == y)
    weights = np.arange(len(y))
    assert est.score(X, rows, weights) == est.score(X, y, weights)
    assert np.isfinite(cross_val_score(est, X, rows, cv=2)).all()
    for wrong in (1 - rows, rows[:, :9]):
        with pytest.raises(ValueError, match="expected labels, or rows of 10 of which one is 1"):
            est.score(X, wrong)


LOSSES_OF_OTHERS = [
    (NeuralClassifier, "squared_error", "real", "columns of 0 and 1"),
    (NeuralClassifier, "binary_cross_entropy", "binary", "columns of 0 and 1"),
    (NeuralRegressor, "cross_entropy", "multiclass", "numbers"),
    (NeuralRegressor, "multilabel", "multilabel", "numbers"),
    (NeuralRegressor, LOSSES["multilabel"], "multilabel", "numbers"),
]


@pytest.mark.parametrize(("kind", "loss", "takes", "found"), LOSSES_OF_OTHERS)
def test_a_loss_for_other_targets_is_refused_before_training(
    kind: Any, loss: Any, takes: str, found: str
) -> None:
    X, y = digits()
    with pytest.raises(ValueError, match=f"takes {takes} targets, but y holds {found}"):
        kind("dense:3", loss=loss, **QUICK).fit(X, np.eye(10)[y])


def test_stopping_watches_examples_that_are_not_trained_on() -> None:
    X, y = digits()
    est = NeuralClassifier("dense:30", early_stopping=2, epochs=500, random_state=0)
    est.set_params(schedule="constant", learning_rate=0.05).fit(X, y)
    assert est.n_iter_ < 500
    assert len(est.history_["validation_loss"]) == est.n_iter_
    given = NeuralClassifier("dense:30", **QUICK).fit(X, y, validation_data=(X[:50], y[:50]))
    assert len(given.history_["validation_loss"]) == 3


def test_weights_count_examples() -> None:
    X, y = digits()
    twice = np.concatenate([X, X[:100]]), np.concatenate([y, y[:100]])
    weights = np.r_[np.full(100, 2.0), np.ones(500)]
    options = {"optimizer": "sgd", "schedule": "constant", "epochs": 2, "dtype": "float64"}
    one = NeuralClassifier("dense:5", batch_size=600, random_state=0, **options)
    other = NeuralClassifier("dense:5", batch_size=700, random_state=0, **options)
    one.fit(X, y, sample_weight=weights)
    other.fit(*twice)
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), rtol=1e-9)


def test_it_is_pickled_and_its_file_is_read_by_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    X, y = digits()
    names = np.array(["zero", "one", "two", "three"])
    X, y = X[y < 4], names[y[y < 4]]
    est = NeuralClassifier(
        CONVOLUTIONS, layout="channels_last", shape=(8, 8, 1), epochs=10, random_state=0
    ).fit(X, y)
    other = pickle.loads(pickle.dumps(est))
    np.testing.assert_array_equal(other.predict_proba(X), est.predict_proba(X))
    est.save(tmp_path / "digits.safetensors")
    model = Sequential.load(tmp_path / "digits.safetensors")
    np.testing.assert_array_equal(model.predict(X, layout="rows"), est.predict(X))
    back = NeuralClassifier.load(tmp_path / "digits.safetensors")
    np.testing.assert_array_equal(back.predict(X), est.predict(X))
    assert back.layers == CONVOLUTIONS
    assert back.get_params()["shape"] == (8, 8, 1)
    back.set_params(epochs=1).fit(X, y)
    np.save(tmp_path / "X.npy", X)
    assert main(["predict", str(tmp_path / "digits.safetensors"), str(tmp_path / "X.npy")]) == 0
    said = [line for line in capsys.readouterr().out.split() if line in names]
    np.testing.assert_array_equal(said, est.predict(X))


@pytest.mark.parametrize(
    ("layout", "shape", "layers"),
    [
        ("features", None, [Dense(3)]),
        ("tokens", None, [Embedding(9, 3), GRU(2)]),
        ("channels_last", (2, 1, 2), [Flatten()]),
    ],
)
def test_columns_of_a_frame_are_known_by_name_after_a_file_too(
    tmp_path: Path, layout: str, shape: Any, layers: Any
) -> None:
    pd = pytest.importorskip("pandas")
    values = np.random.default_rng(0).integers(0, 9, size=(30, 4))
    frame, y = pd.DataFrame(values, columns=list("abcd")), values[:, 0] > 4
    est = NeuralClassifier(layers, layout=layout, shape=shape, **QUICK).fit(frame, y)
    est.save(tmp_path / "named.safetensors")
    back = NeuralClassifier.load(tmp_path / "named.safetensors")
    turned = frame[list("dcba")]
    for one in (est, back, pickle.loads(pickle.dumps(est))):
        np.testing.assert_array_equal(one.predict_proba(frame), est.predict_proba(frame))
        assert list(one.feature_names_in_) == list("abcd")
        with pytest.raises(ValueError, match="same order as they were in fit"):
            one.predict(turned)
    if layout == "features":
        model = Sequential.load(tmp_path / "named.safetensors")
        np.testing.assert_array_equal(model.predict(turned), est.predict(frame))
    est.fit(values, y)
    assert not hasattr(est, "feature_names_in_")
    assert est.model_.preparation.features == ()


def test_a_column_of_sequences_is_a_list_of_them() -> None:
    pd = pytest.importorskip("pandas")
    words = [[1, 2, 3], [4], [5, 6], [0, 1, 2, 3]] * 6
    est = NeuralClassifier([Embedding(7, 3), GRU(2)], layout="tokens", **QUICK)
    expected = est.fit(words, [0, 1] * 12).predict_proba(words)
    column = pd.DataFrame({"words": words}, index=range(50, 74))["words"]
    np.testing.assert_array_equal(est.fit(column, [0, 1] * 12).predict_proba(column), expected)


def test_sparse_tokens_are_refused_with_the_cure() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    est = NeuralClassifier([Embedding(7, 3), GRU(2)], layout="tokens", **QUICK)
    with pytest.raises(TypeError, match=r"X is sparse.*expected X.toarray\(\)"):
        est.fit(sparse.csr_array(np.eye(6)), [0, 1] * 3)


@pytest.mark.parametrize("layout", ["features", "sequences", "channels_last"])
def test_a_tensor_with_a_graph_or_in_bfloat16_is_a_tensor(torch: Any, layout: str) -> None:
    shape = {"features": (30, 6), "sequences": (30, 3, 2), "channels_last": (30, 3, 2, 1)}[layout]
    X = np.random.default_rng(0).integers(-9, 9, shape).astype(np.float32)
    y = X.reshape(30, 6)[:, 0]
    est = NeuralRegressor([Flatten()] if layout != "features" else [], layout=layout, **QUICK)
    expected = est.fit(X, y).predict(X)
    for given in (torch.tensor(X, requires_grad=True), torch.tensor(X).bfloat16()):
        target = given.reshape(30, 6)[:, 0]
        np.testing.assert_array_equal(est.fit(given, target).predict(given), expected)
    if layout == "sequences":
        several = [torch.tensor(x, requires_grad=True) for x in X]
        np.testing.assert_allclose(est.fit(several, y).predict(several), expected, rtol=1e-4)


def test_labels_of_torch_are_labels_where_scikit_learn_takes_arrays_of_any_library(
    torch: Any,
) -> None:
    code = """
import sklearn, torch
from mlp_xp import MLPClassifier, NeuralClassifier

X = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(20, 2)
y = torch.arange(20) % 2
est = NeuralClassifier("dense:4", epochs=2, random_state=0)
expected = est.fit(X, y).predict_proba(X)
with sklearn.config_context(array_api_dispatch=True):
    found = est.fit(X, y, validation_data=(X, y)).predict_proba(X)
    assert (found == expected).all()
    assert 0 <= est.score(X, y) <= 1
"""
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}  # read when SciPy is imported
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_arrays_on_a_gpu_are_refused_in_words(cupy: Any, device: str) -> None:
    X, y = digits()
    est = NeuralClassifier("dense:3", device=device, **QUICK).fit(X, y)
    asked = {
        "X": lambda: est.predict(cupy.asarray(X)),
        "y": lambda: est.score(X, cupy.asarray(y)),
        "sample_weight": lambda: est.fit(X, y, cupy.ones(len(y))),
    }
    for argument, ask in asked.items():
        with pytest.raises(TypeError, match=rf"{argument} is a cupy.*on a GPU.*{argument}.get\(\)"):
            ask()
    steps = [cupy.ones((2, 1)), cupy.ones((3, 1))]
    with pytest.raises(TypeError, match=r"X\[0\] is a cupy"):
        NeuralRegressor([GRU(2)], layout="sequences", **QUICK).fit(steps, [0, 1])


def test_masked_steps_and_labels_are_refused() -> None:
    X, y = ragged()
    est = NeuralClassifier([GRU(3)], layout="sequences", **QUICK)
    masked = [*X[:-1], np.ma.masked_less(X[-1], 9)]
    with pytest.raises(TypeError, match=r"X\[59\] is a masked array"):
        est.fit(masked, y)
    est.fit([*X[:-1], np.ma.array(X[-1])], y)
    hidden = np.ma.array(y, mask=y == "up")
    asked = (
        lambda: est.fit(X, hidden),
        lambda: est.fit(X, y, validation_data=(X, hidden)),
        lambda: est.score(X, hidden),
        lambda: MLPClassifier(max_iter=300, tol=1).fit(TABLE, [0, 1]).score(TABLE, hidden[:2]),
    )
    for ask in asked:
        with pytest.raises(TypeError, match="y is a masked array"):
            ask()


def test_dates_are_no_names_of_classes() -> None:
    days = np.array(["2020-01-01", "2020-01-02"], "M8[D]")[np.arange(20) % 2]
    est = NeuralClassifier("dense:2", **QUICK)
    with pytest.raises(TypeError, match=r"datetime64\[D\].* Pass y.astype\(str\)"):
        est.fit(np.eye(20), days)
    assert est.fit(np.eye(20), days.astype(str)).classes_.tolist() == ["2020-01-01", "2020-01-02"]


def test_what_is_loaded_trains_as_it_did(tmp_path: Path) -> None:
    X, y = digits()
    options: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 50,
        "schedule": WarmUp(2, then=Cosine()),
        "early_stopping": 4,
        "validation_fraction": 0.3,
    }
    labels = np.array(list("abcdefghij"), object)[y]
    est = NeuralClassifier("dense:9", random_state=0, **options).fit(X, labels)
    est.save(tmp_path / "model.safetensors")
    other = NeuralClassifier.load(tmp_path / "model.safetensors")
    found = other.get_params()
    assert {name: found[name] for name in (*options, "loss")} == {**options, "loss": "auto"}
    assert other.classes_.dtype == other.predict(X).dtype == labels.dtype
    np.testing.assert_array_equal(
        other.fit(X, labels).predict_proba(X), est.fit(X, labels).predict_proba(X)
    )

    described = {"layout": "features", "shape": None, "looks": [64], "n_features": 64}
    est.model_.save(tmp_path / "old.safetensors", {"estimator": described})
    old = NeuralClassifier.load(tmp_path / "old.safetensors")
    assert (old.epochs, old.batch_size, old.loss) == (30, None, "cross_entropy")
    trained = ({"epochs": 0}, {"schedule": "never"}, {"callbacks": 1}, {"loss": "huber"}, 5)
    for wrong in (
        *({"training": training} for training in trained),
        *({"n_features": n} for n in ("64", 0, None)),
        *({"names": names} for names in (["a", 1], [["a"]], 5)),
    ):
        told = {**described, **wrong}
        est.model_.save(tmp_path / "wrong.safetensors", {"estimator": told})
        with pytest.raises(ModelFileError, match="describes an estimator that this mlp_xp cannot"):
            NeuralClassifier.load(tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"schedule": "never"}])
def test_parameters_that_no_fit_takes_are_in_no_file(wrong: Any, tmp_path: Path) -> None:
    est = NeuralClassifier("dense:4", epochs=1, random_state=0).fit(*digits())
    with pytest.raises(ValueError, match=next(iter(wrong))):
        est.set_params(**wrong).save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_schedule_of_ones_own_is_in_no_file(tmp_path: Path) -> None:
    class Own(Schedule):
        pass

    X, y = digits()
    est = NeuralClassifier("dense:4", epochs=1, schedule=Own(), random_state=0).fit(X, y)
    est.save(tmp_path / "model.safetensors")
    other = NeuralClassifier.load(tmp_path / "model.safetensors")
    assert (other.epochs, other.schedule) == (1, "one_cycle")


def test_files_of_others_are_refused_and_every_kind_of_target_comes_back(tmp_path: Path) -> None:
    X, y = digits()
    place = tmp_path / "m.safetensors"
    labels = np.stack([y % 2, y > 4], axis=1)
    many = NeuralClassifier("dense:9", **QUICK).fit(X, labels)
    many.save(place)
    np.testing.assert_array_equal(NeuralClassifier.load(place).predict(X), many.predict(X))
    with pytest.raises(ModelFileError, match="a model for multilabel targets"):
        NeuralRegressor.load(place)
    one = NeuralRegressor("dense:9", **QUICK).fit(X, y)
    one.save(place)
    np.testing.assert_array_equal(NeuralRegressor.load(place).predict(X), one.predict(X))
    sequences, words = ragged()
    told = NeuralClassifier([GRU(3)], layout="sequences", **QUICK).fit(sequences, words)
    told.save(place)
    again = NeuralClassifier.load(place)
    np.testing.assert_array_equal(again.predict(sequences[:5]), told.predict(sequences[:5]))
    Sequential(4, [Dense(3)]).save(place)
    with pytest.raises(ModelFileError, match="no estimator's layout"):
        NeuralClassifier.load(place)


def test_a_seed_is_the_same_model_as_sequential() -> None:
    X, y = digits()
    est = NeuralClassifier([Dense(20), Activation("relu")], epochs=3, random_state=5).fit(X, y)
    model = Sequential(64, [Dense(20), Activation("relu"), Dense(10)], seed=5)
    model.fit(X, y, epochs=3, schedule="one_cycle", layout="rows", progress=False)
    np.testing.assert_array_equal(est.predict_proba(X), model.predict_proba(X))


X4, Y4 = np.zeros((6, 5, 4, 3)), np.arange(6) % 2

WRONG: list[tuple[dict[str, Any], Any, str]] = [
    ({"layout": "channels_last"}, np.zeros((6, 7)), r"expected \(n_samples, height, width, chan"),
    ({"layout": "sequences"}, X4, r"expected \(n_samples, time, features\). The layouts are"),
    ({"layout": "channels_last", "shape": (2, 2, 2)}, np.zeros((6, 7)), "X has 7 features"),
    ({"layout": "channels_last", "shape": (7,)}, np.zeros((6, 7)), r"expected \(height, width"),
    ({"layout": "sequences"}, [np.zeros((2, 2)), np.zeros((2, 3))] * 3, r"X\[1\] has 3 features"),
    ({"layout": "sequences"}, [np.zeros(2)] * 6, r"X\[0\] has shape \(2,\)"),
    ({"layout": "sequences"}, [np.zeros((0, 2))] * 6, "at least one step"),
    ({"layout": "sequences"}, [np.full((2, 2), np.nan)] * 6, "NaN or infinity"),
    ({"layout": "channels_last"}, np.full_like(X4, np.inf), "NaN or infinity"),
    ({"layout": "channels_last"}, np.full(X4.shape, "a"), "expected numbers"),
    ({"layout": "channels_last"}, [X4[0], X4[0, :4]] * 3, "expected examples of one size"),
    ({"layout": "tokens"}, [[[1]]] * 6, r"expected numbers of shape \(time,\)"),
    ({"layout": "rows"}, np.zeros((6, 7)), "The 'layout' parameter"),
    ({"epochs": 0}, np.zeros((6, 7)), "The 'epochs' parameter"),
    ({"layers": "dense"}, np.zeros((6, 7)), "'dense', but expected dense:N"),
    ({"layers": [Conv2d(3, 3)]}, np.zeros((6, 7)), "layer 1, Conv2d"),
    ({"loss": "squared_error"}, np.zeros((6, 7)), "takes real targets, but y holds 2 classes"),
]


@pytest.mark.parametrize(("options", "X", "message"), WRONG)
def test_what_does_not_fit_is_said_in_words(options: dict[str, Any], X: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeuralClassifier(**{"layers": "dense:3", "epochs": 1, **options}).fit(X, Y4)


def test_examples_of_another_kind_are_refused() -> None:
    X, y = ragged()
    est = NeuralClassifier([GRU(4)], layout="sequences", **QUICK)
    with pytest.raises(NotFittedError):
        est.predict(X)
    est.fit(X, y)
    with pytest.raises(ValueError, match="expected the same number of features"):
        est.predict([np.zeros((3, 5))])
    with pytest.raises(ValueError, match="validation_data has examples of"):
        est.fit(X, y, validation_data=([np.zeros((30, 2))], ["up"]))
    with pytest.raises(ValueError, match=r"validation_data takes \(X, y\)"):
        est.fit(X, y, validation_data=0.5)
    with pytest.raises(ValueError, match="only one class is present: y holds only 'up'"):
        est.fit(X, ["up"] * len(X))


def test_images_without_a_layout_are_told_of_layouts() -> None:
    with pytest.raises(ValueError, match=r"dim 3, but layout is 'features'.*'channels_last'"):
        NeuralClassifier("conv:4x3").fit(np.zeros((6, 8, 8)), [0, 1, 2] * 2)
