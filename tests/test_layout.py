"""Which way a table lies: columns as in the mathematics, rows where somebody says so."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Backend
from mlp_xp import LOSSES, MLP, check_gradients, inspect_step
from mlp_xp.cli import main

SQUARE = np.random.default_rng(0).normal(size=(6, 6))  # as many examples as features
LABELS = np.arange(6) % 3
FIT: dict[str, Any] = {"epochs": 3, "batch_size": 2, "progress": False}


def columns_of(kind: str) -> tuple[int, np.ndarray]:
    """How many outputs there are, and targets (n_out, m) or labels (m,)."""
    if kind == "multiclass":
        return 3, LABELS
    if kind == "binary":
        return 1, (LABELS > 0)[None, :].astype(float)
    return 3, np.eye(3)[LABELS].T


def turned(Y: np.ndarray) -> np.ndarray:
    return Y.T if Y.ndim == 2 else Y


@pytest.mark.parametrize("seed", [0, [0, 1]])
@pytest.mark.parametrize("loss", LOSSES)
def test_rows_train_and_answer_as_their_transpose_does(
    backend: Backend, loss: str, seed: Any
) -> None:
    kind = LOSSES[loss].kind
    n_out, Y = columns_of(kind)
    put, get = backend.asarray, backend.get
    w = np.linspace(1, 2, 6)
    settings: dict[str, Any] = {"loss": loss, "seed": seed, "device": backend.device}
    model, rows = MLP((6, 5, n_out), **settings), MLP((6, 5, n_out), **settings)
    Xc, Yc, wc = put(SQUARE), put(Y), put(w)
    Xr, Yr = put(np.ascontiguousarray(SQUARE.T)), put(np.ascontiguousarray(turned(Y)))
    model.fit(Xc, Yc, sample_weight=wc, validation_data=(Xc, Yc), layout="columns", **FIT)
    rows.fit(Xr, Yr, sample_weight=wc, validation_data=(Xr, Yr), layout="rows", **FIT)
    for name, W in model.parameters.items():
        np.testing.assert_array_equal(get(rows.parameters[name]), get(W))
    for name in ("loss", "validation_loss", "validation_score"):
        np.testing.assert_array_equal(rows.history[name], model.history[name])
    np.testing.assert_array_equal(rows.evaluate(Xr, Yr).loss, model.evaluate(Xc, Yc).loss)
    found = model.find_learning_rate(Xc, Yc, batch_size=3, steps=5)
    np.testing.assert_array_equal(
        rows.find_learning_rate(Xr, Yr, batch_size=3, steps=5).losses, found.losses
    )
    swap = (-1, -2)
    for ask in ("scores",) if kind in ("real", "count") else ("scores", "predict_proba"):
        answer = get(getattr(rows, ask)(Xr))
        assert answer.shape == (*rows.leading, 6, n_out)
        np.testing.assert_array_equal(
            np.moveaxis(answer, swap, (-2, -1)), get(getattr(model, ask)(Xc))
        )
    answer, expected = get(rows.predict(Xr)), get(model.predict(Xc))
    if kind not in ("multiclass", "binary"):
        assert answer.shape == (*rows.leading, 6, n_out)
        answer = np.moveaxis(answer, swap, (-2, -1))
    np.testing.assert_array_equal(answer, expected)


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "multilabel", "binary_cross_entropy"])
@pytest.mark.parametrize("seed", [0, [0, 1]])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_one_output_predicts_one_number_an_example(loss: str, seed: Any, layout: str) -> None:
    model = MLP((6, 5, 1), loss=loss, seed=seed)
    X = SQUARE[:, :4] if layout == "columns" else SQUARE[:, :4].T
    answer = model.predict(X, layout=layout)
    assert answer.shape == (*model.leading, 4)
    expected = model.loss.predict(np, model.scores(SQUARE[:, :4]))[..., 0, :]
    if LOSSES[loss].kind in ("binary", "multilabel"):
        expected = expected > 0.5
    np.testing.assert_array_equal(answer, expected)


def test_scikit_learn_scores_the_predictions_of_rows() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rows = np.random.default_rng(1).normal(size=(40, 6))
    for Y in (rows[:, 0], rows[:, :2]):
        n_out = 1 if Y.ndim == 1 else 2
        model = MLP((6, 20, n_out), loss="squared_error", dtype="float64", learning_rate=0.01)
        model.fit(rows, Y, layout="rows", epochs=40, batch_size=10, progress=False)
        score = metrics.r2_score(Y, model.predict(rows))
        np.testing.assert_allclose(score, model.evaluate(rows, Y).score)
        assert score > 0.5


CALLS = {
    "fit": lambda model, X, **way: model.fit(X, LABELS, progress=False, **way),
    "evaluate": lambda model, X, **way: model.evaluate(X, LABELS, **way),
    "predict": lambda model, X, **way: model.predict(X, **way),
    "predict_proba": lambda model, X, **way: model.predict_proba(X, **way),
    "scores": lambda model, X, **way: model.scores(X, **way),
    "find_learning_rate": lambda model, X, **way: model.find_learning_rate(X, LABELS, **way),
    "inspect_step": lambda model, X, **way: inspect_step(model, X, LABELS, **way),
    "check_gradients": lambda model, X, **way: check_gradients(model, X, LABELS, **way),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("X", [SQUARE, SQUARE.tolist()], ids=["array", "list"])
def test_a_square_table_is_refused_until_somebody_says_which_way_it_lies(call: str, X: Any) -> None:
    model = MLP((6, 5, 3))
    with pytest.raises(ValueError, match=r"X has shape \(6, 6\).*layout='rows'.*layout='columns'"):
        CALLS[call](model, X)
    assert (model.history, model.layout) == ({}, None)
    CALLS[call](model, X, layout="rows")
    CALLS[call](model, X, layout="columns")
    model.layout = None
    CALLS["fit"](model, X, layout="rows")
    CALLS[call](model, X)


def test_a_square_table_of_validation_follows_that_of_training() -> None:
    wide = np.random.default_rng(1).normal(size=(6, 9))
    y = np.arange(9) % 3
    model = MLP((6, 3))
    with pytest.raises(ValueError, match=r"validation X has shape \(6, 6\)"):
        model.fit(wide, y, validation_data=(SQUARE, LABELS), progress=False)
    model.fit(wide.T, y, validation_data=(SQUARE.T, LABELS), layout="rows", progress=False)
    expected = model.evaluate(SQUARE, LABELS, layout="columns")
    np.testing.assert_allclose(model.history["validation_loss"][-1], expected.loss)


def test_one_number_lies_both_ways() -> None:
    assert MLP((1, 2)).predict([[0.5]]).shape == (1,)


def test_the_layout_of_fit_holds_for_later_calls_and_goes_through_pickle() -> None:
    model = MLP((6, 5, 3)).fit(SQUARE, LABELS, layout="rows", progress=False)
    expected = model.predict_proba(SQUARE.T, layout="columns").T
    for m in (model, pickle.loads(pickle.dumps(model))):
        assert m.layout == "rows"
        np.testing.assert_array_equal(m.predict_proba(SQUARE), expected)
        np.testing.assert_array_equal(m.predict_proba(SQUARE[:4]), expected[:4])
    seen = inspect_step(model, SQUARE, LABELS)
    np.testing.assert_array_equal(seen["A0"], SQUARE.T.astype("float32"))
    model.predict(SQUARE, layout="columns")  # for this call alone
    np.testing.assert_array_equal(model.predict_proba(SQUARE), expected)


def test_rows_that_do_not_fit_are_refused_with_the_cure() -> None:
    model = MLP((6, 5, 3))
    fit = {"layout": "rows", "progress": False}
    rows = SQUARE[:4]
    for X, Y, message in (
        (rows.T, LABELS[:4], r"\(n_examples, 6\)\. Are your examples columns\? Pass X.T, or layo"),
        (rows[0], LABELS[:1], r"x\[None, :\]"),
        (rows[:0], LABELS[:0], "there are no examples"),
        (np.where(rows == rows[1, 2], np.nan, rows), LABELS[:4], r"X holds nan at \[1, 2\]"),
        (rows, LABELS, "a label for each of the 4 examples"),
        (rows, np.eye(3)[:, [0, 1, 2, 0]], r"one-hot rows \(4, 3\)\. Are your targets columns\?"),
        (rows, np.ones((4, 3)), "rows that do not sum to 1"),
        (rows, np.eye(3)[[1, 1, 1, 1]], r"one class only \(1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(X, Y, **fit)
    with pytest.raises(ValueError, match="layout is 'row', but expected one of 'rows', 'columns'"):
        model.fit(rows, LABELS[:4], layout="row")
    assert (model.history, model.layout) == ({}, None)


# -- data frames ----------------------------------------------------------------------


def frames(library: str) -> Any:
    """dict of columns → a table of that library."""
    module = pytest.importorskip({"arrow": "pyarrow"}.get(library, library))
    return module.table if library == "arrow" else module.DataFrame


def table(make: Any, array: np.ndarray) -> Any:
    return make({f"c{i}": np.ascontiguousarray(column) for i, column in enumerate(array.T)})


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
@pytest.mark.parametrize("m", [6, 20])
def test_the_rows_of_a_data_frame_are_its_examples(library: str, m: int) -> None:
    make = frames(library)
    X = np.random.default_rng(2).normal(size=(m, 6))
    Y = X[:, :2] * 2
    settings = {"loss": "squared_error", "dtype": "float64"}
    expected = MLP((6, 5, 2), **settings).fit(X.T, Y.T, layout="columns", **FIT)
    for targets in (Y, table(make, Y)):
        model = MLP((6, 5, 2), **settings).fit(table(make, X), targets, **FIT)
        np.testing.assert_array_equal(model.parameters["W1"], expected.parameters["W1"])
        np.testing.assert_array_equal(model.predict(table(make, X)), expected.predict(X.T).T)
        np.testing.assert_array_equal(model.predict(X), expected.predict(X.T).T)
    in_columns = MLP((6, 5, 2), **settings).fit(X.T, table(make, Y), layout="columns", **FIT)
    np.testing.assert_array_equal(in_columns.parameters["W1"], expected.parameters["W1"])
    np.testing.assert_array_equal(in_columns.predict(table(make, X)), model.predict(X))


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
def test_columns_of_a_later_frame_are_found_by_the_names_of_training(
    library: str, tmp_path: Path
) -> None:
    make = frames(library)
    X = np.random.default_rng(3).normal(size=(20, 6))
    labels = (X[:, 0] > 0).astype(int)
    given = table(make, X)
    turned = make({f"c{i}": np.ascontiguousarray(X[:, i]) for i in (3, 5, 0, 1, 4, 2)})
    model = MLP((6, 5, 2), seed=0)
    model.fit(given, labels, validation_data=(turned, labels), **FIT)
    alone = MLP((6, 5, 2), seed=0)
    alone.fit(X, labels, validation_data=(X, labels), layout="rows", **FIT)
    assert model.history["validation_loss"] == alone.history["validation_loss"]
    expected = alone.predict_proba(X)
    model.save(tmp_path / "model.safetensors")
    for found in (
        model,
        MLP.load(tmp_path / "model.safetensors"),
        pickle.loads(pickle.dumps(model)),
    ):
        np.testing.assert_array_equal(found.predict_proba(turned), expected)
        np.testing.assert_array_equal(found.predict_proba(X, layout="rows"), expected)
        assert found.evaluate(turned, labels) == alone.evaluate(X, labels)
    model.fit(turned, labels, **FIT)
    alone.fit(X, labels, **FIT)
    np.testing.assert_array_equal(model.parameters["W1"], alone.parameters["W1"])
    others = make({f"d{i}": np.ascontiguousarray(X[:, i]) for i in range(6)})
    with pytest.raises(ValueError, match="no column 'c0'"):
        model.predict(others)


def test_a_fit_that_was_refused_knows_no_names() -> None:
    pandas = pytest.importorskip("pandas")
    frame, model = table(pandas.DataFrame, SQUARE), MLP((6, 3))
    with pytest.raises(ValueError, match="epochs is 0"):
        model.fit(frame, LABELS, epochs=0)
    assert model.preparation is None
    same_names = pandas.DataFrame(SQUARE, columns=["a"] * 6)  # nothing to tell them by
    assert model.fit(same_names, LABELS, **FIT).preparation is None


def test_a_frames_names_reach_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    frame = table(pandas.DataFrame, SQUARE)
    model = MLP((6, 5, 3), seed=0).fit(frame, LABELS, **FIT)
    model.save("model.safetensors")
    frame[["c5", "c1", "c0", "c3", "c2", "c4"]].assign(more="word").to_csv(
        "turned.csv", index=False
    )
    assert main(["predict", "model.safetensors", "turned.csv", "--no-header"]) == 0
    printed = [int(line) for line in capsys.readouterr().out.split()]
    np.testing.assert_array_equal(printed, model.predict(frame))


def test_a_frame_of_labels_and_one_of_numbers_are_targets() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(SQUARE)
    expected = MLP((6, 3)).fit(SQUARE, LABELS, layout="rows", **FIT).parameters["W1"]
    for labels in (pandas.Series(LABELS), pandas.DataFrame({"label": LABELS})):
        found = MLP((6, 3)).fit(frame, labels, **FIT).parameters["W1"]
        np.testing.assert_array_equal(found, expected)
    one = {"loss": "squared_error"}
    values = MLP((6, 1), **one).fit(SQUARE, SQUARE[:, 0], layout="rows", **FIT).parameters["W1"]
    found = MLP((6, 1), **one).fit(frame, frame[[0]], **FIT).parameters["W1"]
    np.testing.assert_array_equal(found, values)


def test_a_frame_whose_examples_are_columns_is_refused_with_the_cure() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(SQUARE[:, :4])  # six features of four examples
    model = MLP((6, 3))
    with pytest.raises(
        ValueError, match=r"\(n_examples, 6\).*X.to_numpy\(\) with layout='columns'"
    ):
        model.fit(frame, LABELS[:4])
    with pytest.raises(ValueError, match="layout is 'columns', but the rows of a DataFrame"):
        model.fit(frame, LABELS[:4], layout="columns")
    model.fit(frame.to_numpy(), LABELS[:4], layout="columns", progress=False)


def test_the_command_line_takes_square_tables_as_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("square.npz", X=SQUARE, y=LABELS)
    data = "--data square.npz --loss cross_entropy --held-out 0 --scale none"
    options = "--hidden 5 --epochs 30 --batch-size 6 --no-progress --out m"
    assert main(["train", *data.split(), *options.split()]) == 0
    model = MLP.load("m")
    capsys.readouterr()
    assert main(["evaluate", "m", "square.npz", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = model.evaluate(SQUARE, LABELS, layout="rows")
    np.testing.assert_allclose([found["loss"], found["accuracy"]], expected, rtol=1e-6)
    np.save("X.npy", SQUARE)
    assert main(["predict", "m", "X.npy", "--no-header"]) == 0
    answers = model.predict(SQUARE, layout="rows")
    assert capsys.readouterr().out.split() == [str(value) for value in answers]
