"""One file, one meaning: a model predicts the same wherever it is loaded, or is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.datasets import load_diabetes, load_digits, make_multilabel_classification

import mlp_xp
from conftest import Backend, need
from mlp_xp import MLP, check_gradients, inspect_step, storage
from mlp_xp.cli import main
from mlp_xp.estimators.base import BaseMLP
from mlp_xp.estimators.keeping import to_mlp
from mlp_xp.prepared import AS_GIVEN, NO_SCALE, Preparation, Scale
from mlp_xp.storage import ModelFileError

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore:X does not have valid feature names"
)

MODEL = "model.safetensors"
DIGITS, LABELS = load_digits(return_X_y=True)
DIABETES, PROGRESS = load_diabetes(return_X_y=True, scaled=False)
MANY, TAGS = make_multilabel_classification(150, n_classes=3, random_state=0)
COUNTS = np.random.default_rng(0).poisson(np.exp(DIABETES[:, 2] / 20))

Predict = Callable[..., Any]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Predict:
    """Run a command line in an empty folder; its output, or what it says is wrong."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: object) -> str:
        code = main([str(part) for part in argv])
        out, err = capsys.readouterr()
        return err if code else out

    return call


# X, y and what the command line is told
TASKS: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "digits": (DIGITS, LABELS + 3, ()),
    "images": (DIGITS.astype(np.uint8), LABELS, ("--scale", "auto")),
    "none": (DIGITS, LABELS, ("--scale", "none", "--hidden", "none")),
    "large": (DIABETES + 1e9, PROGRESS, ("--scale", "minmax")),
    "numbers": (DIABETES, PROGRESS, ("--normalization", "layer", "--residual")),
    "unscaled": (DIABETES, PROGRESS, ("--no-scale-target",)),
    "several": (DIABETES, np.column_stack([PROGRESS, DIABETES[:, 2]]), ()),
    "counts": (DIABETES, COUNTS, ("--loss", "poisson")),
    "two": (DIABETES, np.where(PROGRESS > 150, 8, 5), ("--precision", "bfloat16")),
    "binary": (DIABETES, np.where(PROGRESS > 150, 8, 5), ("--loss", "binary_cross_entropy")),
    "multilabel": (MANY, TAGS, ("--loss", "multilabel")),
    "wide": (DIABETES, PROGRESS, ("--dtype", "float64", "--density", "0.5", "--hidden", "8,8")),
}
CLASSES = ("digits", "images", "none", "two", "binary", "multilabel")


def columns(printed: str) -> np.ndarray:
    """The numbers below the header."""
    return np.array([line.split(",") for line in printed.splitlines()[1:]], float)


def assert_printed(printed: np.ndarray, found: np.ndarray) -> None:
    """The command printed every digit of the very numbers."""
    np.testing.assert_array_equal(printed.astype(found.dtype), found)


def rows(found: Any) -> np.ndarray:
    """Columns (n, m) or (m,) as rows (m, n)."""
    return np.reshape(found, (-1, np.shape(found)[-1])).T


@pytest.mark.parametrize("task", TASKS)
def test_a_model_travels_from_the_command_line_and_back(task: str, command: Predict) -> None:
    X, y, options = TASKS[task]
    np.savez("d.npz", X=X, y=y)
    command("train", "--data", "d.npz", "--epochs", 4, *options)
    proba = ("--proba",) if task in CLASSES else ()
    printed = columns(command("predict", MODEL, "d.npz", *proba))
    n = 1 if np.ndim(y) == 1 else np.shape(y)[1]
    same: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-5}

    model = MLP.load(MODEL)
    assert "with a preparation" in repr(model)
    assert_printed(printed[:, :n], rows(model.predict(X.T)))
    if task in CLASSES:
        P = rows(model.predict_proba(X.T))
        assert_printed(printed[:, n:][:, -P.shape[1] :], P)
    model.save("python")
    assert command("predict", "python", "d.npz", *proba) == command(
        "predict", MODEL, "d.npz", *proba
    )

    name = "MLPClassifier" if task in CLASSES else "MLPRegressor"
    estimator = getattr(mlp_xp, name)
    for path in (MODEL, "python", "estimator"):
        est = estimator.load(path)
        found = np.reshape(est.predict(X), (len(X), -1))
        np.testing.assert_allclose(found, printed[:, :n], **same)
        if task in CLASSES:
            np.testing.assert_allclose(est.predict_proba(X), printed[:, n:], **same)
        est.save("estimator")

    again = columns(command("predict", "estimator", "d.npz", *proba))
    np.testing.assert_allclose(again, printed, **same)
    measured = command("evaluate", MODEL, "d.npz").split(" on ")[0]
    assert command("evaluate", "estimator", "d.npz").split(" on ")[0] == measured
    _, score = model.evaluate(X.T, y.T)
    assert f"{score:.4g}" in measured


@pytest.mark.parametrize("task", [task for task in TASKS if task != "two"])  # that is rounded
def test_a_model_means_the_same_as_onnx(
    task: str, command: Predict, request: pytest.FixtureRequest
) -> None:
    onnx, runtime = need(request, "onnx"), need(request, "onnxruntime")
    X, y, options = TASKS[task]
    np.savez("d.npz", X=X, y=y)
    command("train", "--data", "d.npz", "--epochs", 4, *options)
    said = command("export", MODEL, "--onnx", "m.onnx", "--input-dtype", "float64")
    assert f"X (m, {X.shape[1]}) float64" in said
    onnx.checker.check_model("m.onnx", full_check=True)
    session = runtime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"X": X.astype(np.float64)})
    proba = ("--proba",) if task in CLASSES else ()
    printed = columns(command("predict", MODEL, "d.npz", *proba))
    n = 1 if np.ndim(y) == 1 else np.shape(y)[1]
    if task in CLASSES:
        np.testing.assert_allclose(found[1], printed[:, n:], rtol=1e-5, atol=1e-5)
    limit = 1e-5 * np.abs(printed[:, :n]).max()  # in units of the targets
    np.testing.assert_allclose(found[0].reshape(len(X), -1), printed[:, :n], rtol=0, atol=limit)


def test_a_regression_answers_in_its_own_units(command: Predict) -> None:
    X, y = load_diabetes(return_X_y=True)
    np.savez("d.npz", X=X, y=y)
    command("train", "--data", "d.npz")
    printed = columns(command("predict", MODEL, "d.npz"))[0, 0]
    assert printed == pytest.approx(195.9, abs=10)  # the network itself gives about -0.15
    assert MLP.load(MODEL).predict(X[:1].T).item() == pytest.approx(printed, rel=1e-5)
    assert mlp_xp.MLPRegressor.load(MODEL).predict(X[:1]) == pytest.approx(printed, rel=1e-5)


def test_raw_digits_score_in_python_what_they_score_in_the_shell(command: Predict) -> None:
    command("train")
    found = json.loads(command("evaluate", MODEL, "digits", "--json"))["accuracy"]
    assert found > 0.995  # as raw pixels the network itself takes them for 0.87
    model = MLP.load(MODEL)
    assert model.evaluate(DIGITS.T, LABELS).score == pytest.approx(found, abs=1e-6)
    assert np.mean(model.predict(DIGITS.T) == LABELS) == pytest.approx(found, abs=1e-6)
    estimator = mlp_xp.MLPClassifier.load(MODEL)
    assert estimator.score(DIGITS, LABELS) == pytest.approx(found, abs=1e-3)


FITTED: dict[str, tuple[Any, Any, Any]] = {
    "text": (mlp_xp.MLPClassifier(dropout=0.1), DIGITS, np.array(list("abcdefghij"))[LABELS]),
    "two": (mlp_xp.MLPClassifier(normalization="batch"), DIGITS, LABELS > 4),
    "multilabel": (mlp_xp.MLPClassifier(activation="logistic"), MANY, TAGS),
    "numbers": (mlp_xp.MLPRegressor(), DIGITS, LABELS / 2),
    "counts": (mlp_xp.MLPRegressor(loss="poisson", dtype="float32"), DIGITS, LABELS),
    "several": (mlp_xp.MLPRegressor(solver="lbfgs"), DIGITS, np.column_stack([LABELS, -LABELS])),
}


@pytest.mark.parametrize("task", FITTED)
def test_an_estimator_answers_in_the_shell_as_in_python(task: str, command: Predict) -> None:
    est, X, y = FITTED[task]
    est.set_params(max_iter=4, hidden_layer_sizes=(9,), random_state=0).fit(X, y)
    est.save("m")
    np.savez("d.npz", X=X, y=LABELS[: len(X)])
    proba = ("--proba",) if hasattr(est, "predict_proba") else ()
    lines = [line.split(",") for line in command("predict", "m", "d.npz", *proba).splitlines()[1:]]
    found = np.reshape(est.predict(X), (len(X), -1))
    n = found.shape[1]
    if proba:
        assert [line[:n] for line in lines] == found.astype(str).tolist()
        P = np.array([line[n:] for line in lines], float)
        np.testing.assert_allclose(P, est.predict_proba(X), rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_allclose(np.array(lines, float), found, rtol=1e-5, atol=1e-6)
    if task in ("numbers", "two"):
        np.savez("d.npz", X=X, y=y)
        assert f"{est.score(X, y):.4g}" in command("evaluate", "m", "d.npz")


def test_what_cannot_be_says_what_to_use(command: Predict) -> None:
    mlp_xp.MLPClassifier((4,), max_iter=2, random_state=0).fit(DIGITS, LABELS).save("classifier")
    with pytest.raises(ModelFileError, match=r"an MLPClassifier.*Use MLPClassifier\.load"):
        MLP.load("classifier")
    assert "Use MLPClassifier.load" in command("train", "--resume", "classifier")

    class Mine(mlp_xp.MLPClassifier):  # type: ignore[misc]  # scikit-learn has no types
        pass

    Mine((4,), max_iter=2, random_state=0).fit(DIGITS, LABELS).save("mine")
    assert "holds a Mine, a class of your own. Use Mine.load" in command(
        "predict", "mine", "digits"
    )
    MLP((64, 4, 10), seed=[0, 1]).save("two")
    with pytest.raises(ModelFileError, match=r"holds 2 networks.*Use MLP\.load"):
        mlp_xp.MLPClassifier.load("two")
    MLP((64, 4, 1), loss="squared_error").save("numbers")
    with pytest.raises(ModelFileError, match=r"real targets.*Use MLPRegressor\.load"):
        mlp_xp.MLPClassifier.load("numbers")


def of_the_shell(command: Predict) -> Any:
    command("train", "--hidden", 8, "--epochs", 2)
    return mlp_xp.MLPClassifier.load(MODEL)


def test_an_estimator_of_another_models_file_does_not_train_on(command: Predict) -> None:
    est = of_the_shell(command)
    with pytest.raises(ValueError, match=r"does not go on\. Use MLP\.load\(path\)\.fit"):
        est.partial_fit(DIGITS, LABELS)
    with pytest.raises(ValueError, match="scikit-learn's has no place for"):
        est.to_sklearn()
    est.set_params(warm_start=True)
    with pytest.raises(ValueError, match="fit without warm_start begins a new model"):
        est.fit(DIGITS, LABELS)
    est.set_params(warm_start=False, max_iter=8).fit(DIGITS, LABELS == 3)
    assert not hasattr(est, "preparation_")
    assert est.classes_.tolist() == [False, True]
    assert est.score(DIGITS, LABELS == 3) > 0.95
    est.partial_fit(DIGITS, LABELS == 3)


@pytest.mark.parametrize("task", ["binary", "numbers"])
def test_an_estimator_prepares_on_any_device(task: str, command: Predict, backend: Backend) -> None:
    X, y, options = TASKS[task]
    np.savez("d.npz", X=X, y=y)
    command("train", "--data", "d.npz", "--epochs", 3, *options)
    estimator = mlp_xp.MLPClassifier if task == "binary" else mlp_xp.MLPRegressor
    found = estimator.load(MODEL, device=backend.device).predict(X)
    printed = columns(command("predict", MODEL, "d.npz"))[:, 0]
    np.testing.assert_allclose(found, printed, rtol=1e-4, atol=1e-3)  # of numbers up to 400


def test_an_estimator_takes_sparse_rows_of_a_scaled_model(command: Predict) -> None:
    from scipy.sparse import csr_array

    est = of_the_shell(command)
    np.testing.assert_array_equal(est.predict(csr_array(DIGITS)), est.predict(DIGITS))


def test_columns_in_another_order_are_refused(command: Predict) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(DIABETES[:, :3], columns=["age", "sex", "bmi"])
    table.assign(y=PROGRESS).to_csv("d.csv", index=False)
    command("train", "--data", "d.csv", "--target", "y", "--epochs", 3)
    est: BaseMLP = mlp_xp.MLPRegressor.load(MODEL)
    printed = columns(command("predict", MODEL, "d.csv"))[:, 0]
    np.testing.assert_allclose(est.predict(table), printed, rtol=1e-5)
    with pytest.raises(ValueError, match="feature names"):
        est.predict(table[["sex", "age", "bmi"]])


def test_what_the_split_was_travels_too(command: Predict) -> None:
    est = of_the_shell(command)
    est.save("estimator")
    held = command("evaluate", MODEL, "digits", "--held-out")
    assert command("evaluate", "estimator", "digits", "--held-out") == held
    assert "359 examples" in held
    again, model = to_mlp(mlp_xp.MLPClassifier.load("estimator"), "cpu"), MLP.load(MODEL)
    assert again.metadata == model.metadata
    assert (again.steps_trained, again.epochs_trained) == (model.steps_trained, 2)


# -- a model with a preparation, in every method -------------------------------------


def pair(dtype: str = "float64", **options: Any) -> tuple[MLP, MLP, Any, Any, Any, Any]:
    """A model with a preparation and one without; raw data and data prepared by hand."""
    rng = np.random.default_rng(1)
    sizes = options.pop("sizes", (3, 5, 2))
    X = rng.normal(size=(3, 40)) * [[1.0], [100], [0.01]] + [[5.0], [-300], [0]]
    inputs = Scale([5.0, -300.0, 0.0], [1.0, 100.0, 0.01])
    with_it, without = (MLP(sizes, dtype=dtype, **options) for _ in range(2))
    by_hand = (X - np.array(inputs.offset)[:, None]) / np.array(inputs.divisor)[:, None]
    name = with_it.config["loss"]
    if with_it.loss.kind == "real":
        Y = rng.normal(size=(sizes[-1], 40)) * 20 + 1000
        with_it.preparation = Preparation(name, inputs, Scale(1000.0, 20.0))
        return with_it, without, X, Y, by_hand, (Y - 1000) / 20
    labels = rng.integers(0, 2, 40)
    with_it.preparation = Preparation(name, inputs, classes=("no", "yes"))
    return with_it, without, X, np.array(["no", "yes"])[labels], by_hand, labels


KINDS: dict[str, dict[str, Any]] = {
    "classes": {},
    "binary": {"loss": "binary_cross_entropy", "sizes": (3, 5, 1)},
    "numbers": {"loss": "squared_error"},
    "number": {"loss": "squared_error", "sizes": (3, 5, 1)},
    "many networks": {"loss": "squared_error", "seed": [0, 1, 2]},
    "many classifiers": {"seed": [0, 1]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_prepares_as_one_would_by_hand(kind: str) -> None:
    with_it, without, X, Y, x, t = pair(**KINDS[kind])
    fit: dict[str, Any] = {"epochs": 3, "progress": False, "batch_size": 16}
    with_it.fit(X, Y, validation_data=(X, Y), **fit)
    without.fit(x, t, validation_data=(x, t), **fit)
    for name, W in without.parameters.items():
        np.testing.assert_allclose(with_it.parameters[name], W, rtol=1e-9, atol=1e-12)
    for key in ("loss", "validation_loss"):
        np.testing.assert_allclose(with_it.history[key], without.history[key], rtol=1e-9)
    np.testing.assert_allclose(with_it.scores(X), without.scores(x), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(with_it.evaluate(X, Y), without.evaluate(x, t), rtol=1e-9)
    if "class" in kind or kind == "binary":
        found = np.array(["no", "yes"])[without.predict(x)]
        np.testing.assert_array_equal(with_it.predict(X), found)
        answer = with_it.predict_proba(X)
        np.testing.assert_allclose(answer, without.predict_proba(x), rtol=1e-9)
    else:
        answer = with_it.predict(X)
        np.testing.assert_allclose(answer, without.predict(x) * 20 + 1000, rtol=1e-9)
    if not with_it.leading:
        quick = with_it.predictor(64)(X)
        np.testing.assert_allclose(np.squeeze(quick), np.squeeze(answer), rtol=1e-9)
        step, by_hand = inspect_step(with_it, X, Y), inspect_step(without, x, t)
        np.testing.assert_allclose(step["A0"], x, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(step["dW1"], by_hand["dW1"], rtol=1e-7, atol=1e-12)
        assert check_gradients(with_it, X, Y).passed
    losses = with_it.find_learning_rate(X, Y, steps=4).losses
    np.testing.assert_allclose(losses, without.find_learning_rate(x, t, steps=4).losses)


def test_a_preparation_is_applied_on_every_backend(backend: Backend) -> None:
    for kind in ("classes", "numbers"):
        with_it, _, X, Y, _, _ = pair("float32", **KINDS[kind])
        there, _, _, _, _, _ = pair("float32", **KINDS[kind], device=backend.device)
        there.set_parameters(**with_it.parameters)
        asked = backend.device.put(X.astype(np.float32))
        for given in (X, asked):
            answer, truth = there.predict(given), with_it.predict(X)
            if kind == "classes":
                np.testing.assert_array_equal(answer, truth)
            else:
                np.testing.assert_allclose(backend.device.get(answer), truth, rtol=1e-5)
        np.testing.assert_allclose(there.evaluate(asked, Y), with_it.evaluate(X, Y), rtol=1e-4)
        quick = backend.device.get(there.predictor(40)(asked))
        expected = with_it.predict_proba(X) if kind == "classes" else with_it.predict(X)
        np.testing.assert_allclose(quick, expected, rtol=1e-4)


def test_labels_may_be_numbers_on_the_device(backend: Backend) -> None:
    model = MLP((3, 16, 3), device=backend.device, learning_rate=0.02)
    model.preparation = Preparation("cross_entropy", classes=(-2, 5, 7))
    X, y = np.eye(3), np.array([5, 7, -2])
    model.fit(X, backend.device.put(y), epochs=200, progress=False, layout="columns")
    found = model.predict(X)
    assert backend.device.get(found).tolist() == y.tolist()
    assert type(found) is type(backend.device.put(y))
    assert model.evaluate(X, y).score == 1


def test_offsets_that_float32_cannot_hold_are_taken_off_before_it_is_cast() -> None:
    seconds = 1.7e9 + np.arange(8.0)[None, :]
    model = MLP((1, 4, 1), loss="squared_error")
    model.preparation = Preparation("squared_error", Scale(1.7e9, 4.0))
    plain = MLP((1, 4, 1), loss="squared_error")
    np.testing.assert_allclose(model.predict(seconds), plain.predict(np.arange(8.0)[None, :] / 4))


def test_a_preparation_for_another_model_is_refused() -> None:
    model = MLP((3, 4, 3))
    wrong = {
        "scales 2 features, but the network has 3": Preparation("", Scale([1.0, 2], [1.0, 2])),
        "scales features by 0 or what is not": Preparation("", Scale(float("nan"), 1.0)),
        "scales features by 0 or what is not finite in float32": Preparation("", Scale(0.0, 1e39)),
        "scales outputs by 0 or what is not finite in float32": Preparation(
            "", outputs=Scale(0.0, 1e-39)
        ),
        "scales outputs by 0": Preparation("", NO_SCALE, Scale(0.0, [1.0, 0.0, 1.0])),
        "names 2 classes, but the network tells 3 apart": Preparation("", classes=(1, 2)),
        "in another order": Preparation("", classes=("b", "a", "c")),
        "scales targets, but its loss": Preparation("", NO_SCALE, Scale(1.0, 2.0)),
    }
    for message, preparation in wrong.items():
        with pytest.raises(ValueError, match=message):
            model.preparation = preparation
    assert model.preparation is None


def test_arrays_and_copies_make_the_same_preparation() -> None:
    model, without, X, _, _, _ = pair(loss="squared_error")
    given = model.preparation
    scales = (Scale(*map(np.array, given.inputs)), Scale(*map(np.array, given.outputs)))
    without.set_parameters(**model.parameters)
    without.preparation = Preparation("squared_error", *scales)
    assert without.preparation == given
    np.testing.assert_array_equal(without.predict(X), model.predict(X))
    named = Preparation("", classes=np.array(["a", "b"]))
    assert named.classes == ("a", "b")
    without.preparation = deepcopy(AS_GIVEN)
    assert without.preparation is None


def test_an_unknown_label_is_named() -> None:
    model, _, X, _, _, _ = pair()
    with pytest.raises(ValueError, match=r"Y holds the label 'maybe', but the model knows.*'yes'"):
        model.evaluate(X, ["maybe"] * 40)
    with pytest.raises(ValueError, match="validation Y holds the label '1'"):
        model.fit(X, ["no", "yes"] * 20, validation_data=(X, [1] * 40))
    model.preparation = Preparation("cross_entropy", classes=(3, 4))
    with pytest.raises(ValueError, match="Y holds the label 'x', but the model knows the classes"):
        model.evaluate(X, np.array(["x"] * 40))


def test_a_file_without_a_preparation_is_as_it_was(tmp_path: Path) -> None:
    model = MLP((3, 4, 3))
    model.save(tmp_path / "m", {"mine": 1})
    again = MLP.load(tmp_path / "m")
    assert again.metadata == {"mine": 1}
    assert again.preparation is None
    assert "preparation" not in repr(again)
    X = np.eye(3, 5)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_a_preparation_is_of_features_and_targets_whichever_way_a_table_lies(loss: str) -> None:
    random = np.random.default_rng(0)
    X, found = random.normal(size=(2, 9)) * [[1.0], [50.0]] + [[3.0], [-200.0]], []
    numbers = loss == "squared_error"
    Y = random.normal(size=(3, 9)) * 10 + 4 if numbers else np.eye(3)[np.arange(9) % 3].T
    kept: dict[str, Any] = {"inputs": Scale([3.0, -200.0], [1.0, 50.0])}
    kept |= {"outputs": Scale([4.0, 5.0, 6.0], 10.0)} if numbers else {"classes": (4, 5, 9)}
    for layout in ("columns", "rows"):
        model = MLP((2, 5, 3), loss=loss, dtype="float64")
        model.preparation = Preparation(loss, **kept)
        table, targets = (X, Y) if layout == "columns" else (X.T, Y.T)
        model.fit(table, targets, epochs=2, progress=False, layout=layout)
        answer = model.predict(table)
        found.append((answer.T if layout == "rows" and numbers else answer, model))
        found[-1] = (*found[-1], model.evaluate(table, targets).loss)
    (one, first, loss_one), (other, second, loss_other) = found
    np.testing.assert_array_equal(one, other)
    assert first.history["loss"] == second.history["loss"]
    assert loss_one == loss_other


def test_a_file_of_an_earlier_release_predicts_as_the_command_did(tmp_path: Path) -> None:
    """The entry is the one that mlp-xp train wrote before any model read it."""
    scale = {"offset": [5.0, -300.0, 0.0], "divisor": [1.0, 100.0, 0.01]}
    entry = {"loss": "cross_entropy", "inputs": scale, "outputs": {"offset": 0.0, "divisor": 1.0}}
    entry |= {"classes": [4, 9], "features": ["a", "b", "c"], "target": ["kind"]}
    _, without, X, _, by_hand, _ = pair()
    without.metadata = {"data": "d.csv"}
    without._prepared = Preparation.from_json(entry)
    without.save(tmp_path / "m")
    header, _ = storage.read(tmp_path / "m")
    assert json.loads(header["metadata"]) == {"data": "d.csv", "preparation": entry}
    without.preparation = None
    found = MLP.load(tmp_path / "m").predict(X)
    np.testing.assert_array_equal(found, np.array([4, 9])[without.predict(by_hand)])


def test_metadata_given_to_save_does_not_take_the_preparation_away(tmp_path: Path) -> None:
    model, _, X, _, _, _ = pair()
    model.save(tmp_path / "m", {"mine": 1})
    again = MLP.load(tmp_path / "m")
    assert (again.metadata, again.preparation) == ({"mine": 1}, model.preparation)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
