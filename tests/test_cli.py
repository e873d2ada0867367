"""The command line does what its help says, and fails as a person expects."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from conftest import need
from mlp_xp import LOSSES, MLP, OPTIMIZERS, SCHEDULES
from mlp_xp.cli import COMMANDS, main
from mlp_xp.data import load
from mlp_xp.fingerprint import Fingerprint
from mlp_xp.preparation import split
from mlp_xp.prepared import Preparation
from mlp_xp.schedules import OneCycle

ROOT = Path(__file__).parents[1]


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: object) -> Result:
        code = main([str(part) for part in argv])
        return Result(code, *capsys.readouterr())

    return call


def write_csv(path: str, table: np.ndarray, names: str) -> None:
    lines = [names, *(",".join(repr(float(v)) for v in row) for row in table)]
    Path(path).write_text("\n".join(lines) + "\n")


def flowers(m: int = 90) -> np.ndarray:
    """Two measures and a label 3, 5 or 8 that follows from them."""
    X = np.random.default_rng(0).normal(size=(m, 2)) * [3, 0.1] + [50, 2]
    labels = np.array([3, 5, 8])[(X[:, 0] > 49).astype(int) + (X[:, 0] > 52)]
    return np.column_stack([X, labels])


def line_of(m: int = 200) -> np.ndarray:
    """A number of the size of a thousand that follows from two others."""
    X = np.random.default_rng(1).normal(size=(m, 2))
    return np.column_stack([X, 1000 + 50 * X[:, 0] - 20 * X[:, 1]])


# -- the main job --------------------------------------------------------------------


def test_the_defaults_learn_the_digits_and_say_so(run: Run) -> None:
    found = run("train")
    assert found.code == 0
    assert "digits: 1,438 examples to train on, 359 held out, 10 classes" in found.out
    assert "loss cross_entropy (chosen by the target" in found.out
    assert "model written to model.safetensors\n" in found.out
    assert "epoch 60/60" in found.err
    measured = run("evaluate", "model.safetensors", "digits", "--held-out", "--json").document
    assert measured["examples"] == 359
    assert measured["accuracy"] >= 0.97
    assert f"held-out accuracy {measured['accuracy']:.4g}" in found.out


def test_a_process_trains_predicts_and_evaluates(tmp_path: Path) -> None:
    def process(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mlp_xp", *argv],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    found = process("train", "--epochs", "3", "--hidden", "32", "--json")
    assert found.returncode == 0, found.stderr
    document = json.loads(found.stdout)
    assert document["held_out"]["accuracy"] > 0.8
    assert document["model"] == "model.safetensors"
    assert len(process("predict", "model.safetensors", "digits").stdout.splitlines()) == 1 + 1797
    assert "accuracy 0." in process("evaluate", "model.safetensors", "digits").stdout
    assert process("train", "--epochs", "0").returncode == 2
    assert process("evaluate", "gone", "digits").returncode == 1


def test_no_progress_means_silence(run: Run) -> None:
    found = run("train", "--epochs", 2, "--hidden", "8", "--no-progress")
    assert (found.code, found.err) == (0, "")


def test_the_same_seed_gives_the_same_file_but_for_the_seconds(run: Run) -> None:
    for name in "ab":
        run("train", "--epochs", 2, "--hidden", "8", "--seed", 4, "--out", name)
    a, b = MLP.load("a"), MLP.load("b")
    assert np.array_equal(a._run.state.theta, b._run.state.theta)
    run("train", "--epochs", 2, "--hidden", "8", "--seed", 5, "--out", "b")
    assert not np.array_equal(a._run.state.theta, MLP.load("b")._run.state.theta)


def test_every_option_reaches_the_model(run: Run) -> None:
    found = run(
        "train", "--hidden", "16,12,16", "--activation", "gelu", "--normalization", "layer",
        "--dropout", 0.1, "--residual", "--density", 0.5, "--initializer", "orthogonal",
        "--optimizer", "adamw", "--learning-rate", 0.004, "--l2", 1e-5, "--weight-decay", 0.02,
        "--label-smoothing", 0.05, "--clip-norm", 3, "--dtype", "float64", "--seed", 9,
        "--schedule", "cosine", "--epochs", 4, "--batch-size", 100, "--held-out", 0.5,
        "--early-stopping", 2, "--device", "cpu",
    )  # fmt: skip
    assert found.code == 0
    model = MLP.load("model.safetensors")
    assert {**model.config, "optimizer": None} == {
        "sizes": [64, 16, 12, 16, 10], "activation": ["gelu"] * 3, "loss": "cross_entropy",
        "normalization": "layer", "dropout": [0.1] * 3, "residual": True, "density": 0.5,
        "initializer": "orthogonal", "l2": 1e-5, "clip_norm": 3.0, "clip_value": None,
        "label_smoothing": 0.05, "dtype": "float64", "precision": "float32", "seed": 9,
        "optimizer": None,
    }  # fmt: skip
    optimizer = model.config["optimizer"]
    assert (optimizer["name"], optimizer["rate"]) == ("adamw", 0.004)
    assert optimizer["weight_decay"] == 0.02
    assert model.history["step"][0] == 9  # 808 examples, 100 a step


@pytest.mark.parametrize(
    ("option", "name"),
    [("--optimizer", n) for n in OPTIMIZERS] + [("--schedule", n) for n in SCHEDULES],
)
def test_every_name_of_a_table_is_an_option(run: Run, option: str, name: str) -> None:
    assert run("train", "--epochs", 1, "--hidden", "4", option, name).code == 0


def test_other_optimizers_keep_their_own_rate(run: Run) -> None:
    run("train", "--epochs", 1, "--hidden", "none", "--optimizer", "lion")
    model = MLP.load("model.safetensors")
    assert model.config["sizes"] == [64, 10]
    assert model.optimizer.rate == OPTIMIZERS["lion"]().rate


def test_training_without_held_out_examples_says_so(run: Run) -> None:
    found = run("train", "--epochs", 1, "--hidden", "4", "--held-out", 0)
    assert "1,797 examples to train on, 10 classes" in found.out
    assert "\ntraining accuracy" in found.out
    refused = run("evaluate", "model.safetensors", "digits", "--held-out")
    assert refused.code == 2
    assert "held out a share of 0" in refused.err


# -- scores --------------------------------------------------------------------------

QUICK = ("train", "--hidden", "16", "--epochs", "5", "--no-progress")
SEEN = re.compile(
    r"accuracy .* on 1,797 examples of digits, of which 1,438 equal rows of the training\n"
)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Rows that every `fit` was given: to train on, and to validate on."""
    given: list[tuple[Any, Any]] = []
    fit = MLP.fit

    def spy(self: MLP, X: Any, Y: Any, **options: Any) -> MLP:
        validation = options["validation_data"]
        given.append((X, None if validation is None else validation[0]))
        return fit(self, X, Y, **options)

    monkeypatch.setattr(MLP, "fit", spy)
    return given


def a_set(rows: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in np.ascontiguousarray(rows, np.float32)}


def all_digits() -> tuple[np.ndarray, np.ndarray]:
    """Rows, and labels."""
    digits = np.load(ROOT / "mlp_xp" / "datasets" / "digits.npz")
    return digits["X"].astype(np.float32), digits["y"]


def test_a_score_of_rows_trained_on_is_said_to_be_one_beside_the_score_of_the_others(
    run: Run,
) -> None:
    told = run("train", "--json").document["held_out"]
    assert (told["trained_on"], told["looked_up"], told["unseen"]["examples"]) == (0, 359, 359)
    found = run("evaluate", "model.safetensors", "digits")
    first, second, third, *_ = found.out.splitlines(keepends=True)
    assert SEEN.fullmatch(first)
    assert (
        second == f"accuracy {told['accuracy']:.4g}, loss {told['loss']:.4g} on 359 that do not\n"
    )
    assert third == "of the 359 that equal no row of the training:\n"
    document = run("evaluate", "model.safetensors", "digits", "--json").document
    assert (document["examples"], document["trained_on"], document["looked_up"]) == (
        1797,
        1438,
        1797,
    )
    assert document["accuracy"] > document["unseen"]["accuracy"]
    parts = ("examples", "loss", "accuracy")
    assert [document["unseen"][key] for key in parts] == pytest.approx([told[key] for key in parts])
    held = run("evaluate", "model.safetensors", "digits", "--held-out")
    assert held.out.splitlines()[0].endswith(" on 359 examples of digits")


def test_rows_are_known_again_in_another_file_and_order(run: Run) -> None:
    write_csv("d.csv", flowers(), "length,width,kind")
    told = run(*QUICK, "--data", "d.csv", "--target", "kind", "--json").document["held_out"]
    new = np.random.default_rng(5).normal(size=(10, 2)) * [3, 0.1] + [50, 2]
    table = np.concatenate([flowers()[::-1], np.column_stack([new, np.full(10, 3)])])
    np.savez("other.npz", X=table[:, :2].astype(np.float32), y=table[:, 2])
    found = run("evaluate", "model.safetensors", "other.npz", "--json").document
    assert (found["examples"], found["trained_on"], found["unseen"]["examples"]) == (100, 72, 28)
    write_csv("new.csv", np.column_stack([new[:, ::-1], np.full(10, 3)]), "width,length,kind")
    found = run("evaluate", "model.safetensors", "new.csv")
    assert found.out.splitlines()[0].endswith(" on 10 examples of new.csv")
    assert told["trained_on"] == 0


def test_a_held_out_row_that_equals_one_trained_on_counts_as_used(run: Run) -> None:
    table = flowers(80)
    table = np.concatenate([table, table[:20]])
    np.savez("d.npz", X=table[:, :2], y=table[:, 2])
    kept, held = split(100, 0.2, 0)
    used = np.isin(held % 80, kept % 80)
    assert used.any()
    found = run(*QUICK, "--data", "d.npz")
    said = f", on 20 examples, of which {used.sum()} equal rows of the training\n"
    assert said in found.out
    assert f" on {(~used).sum()} that do not\nof the" in found.out
    document = run("evaluate", "model.safetensors", "d.npz", "--held-out", "--json").document
    assert (document["trained_on"], document["unseen"]["examples"]) == (used.sum(), (~used).sum())


@pytest.mark.parametrize(
    "choice",
    [("--early-stopping", 2), ("--schedule", "reduce_on_plateau")],
    ids=["stop", "plateau"],
)
def test_what_is_chosen_by_is_neither_trained_on_nor_reported(
    run: Run, fitted: list[tuple[Any, Any]], choice: tuple[object, ...]
) -> None:
    found = run(*QUICK, *choice, "--out", "m")
    assert "digits: 1,294 examples to train on, 144 to choose by, 359 held out" in found.out
    X, y = all_digits()
    trained, chosen = (a_set(rows) for rows in fitted[0])
    assert (len(a_set(X)), len(trained), len(chosen)) == (1797, 1294, 144)
    assert not trained & chosen
    rest = np.array([row.tobytes() not in trained | chosen for row in np.ascontiguousarray(X)])
    model = MLP.load("m")
    score = model.evaluate(X[rest].T, y[rest])
    assert f"held-out accuracy {score.score:.4g}, loss {score.loss:.4g}, after" in found.out
    document = run("evaluate", "m", "digits", "--json").document
    assert (document["trained_on"], document["unseen"]["examples"]) == (1438, 359)
    assert document["unseen"]["loss"] == pytest.approx(score.loss)


def test_early_stopping_keeps_the_best_epoch_of_the_rows_to_choose_by(
    run: Run, fitted: list[tuple[Any, Any]]
) -> None:
    argv = ("--early-stopping", 1, "--validation", 0.5, "--learning-rate", 0.1, "--held-out", 0.1)
    found = run(*QUICK, *argv, "--schedule", "constant", "--epochs", 200, "--json").document
    assert found["examples"] == {"training": 809, "validation": 808, "held_out": 180}
    model = MLP.load("model.safetensors")
    losses = model.history["validation_loss"]
    assert len(losses) < 200
    _, chosen = fitted[0]
    X, y = all_digits()
    label = dict(zip((row.tobytes() for row in np.ascontiguousarray(X)), y, strict=True))
    labels = np.array([label[row.tobytes()] for row in np.ascontiguousarray(chosen, np.float32)])
    assert model.evaluate(chosen, labels, layout="rows").loss == pytest.approx(
        min(losses), rel=1e-5
    )


def test_without_a_choice_all_that_is_not_held_out_is_trained_on(
    run: Run, fitted: list[tuple[Any, Any]]
) -> None:
    assert run(*QUICK, "--json").document["examples"] == {
        "training": 1438, "validation": 0, "held_out": 359
    }  # fmt: skip
    X, shown = fitted[0]
    assert (X.shape, shown.shape) == ((1438, 64), (359, 64))


def test_a_choice_may_be_left_to_the_training_loss(run: Run, fitted: list[tuple[Any, Any]]) -> None:
    found = run(*QUICK, "--early-stopping", 2, "--validation", 0, "--json").document
    assert found["examples"] == {"training": 1438, "validation": 0, "held_out": 359}
    assert fitted[0][1] is None  # not by the rows that are reported


def test_beside_a_test_set_of_the_data_the_choice_is_made_in_the_training_set(
    run: Run, fitted: list[tuple[Any, Any]]
) -> None:
    X, y = flowers()[:, :2], flowers()[:, 2].astype(int)
    np.savez("d.npz", x_train=X[:60], y_train=y[:60], x_test=X[60:], y_test=y[60:])
    argv = ("--data", "d.npz", "--early-stopping", 3, "--scale", "none")
    found = run(*QUICK, *argv)
    assert "d.npz: 54 examples to train on, 6 to choose by, 30 held out" in found.out
    parts = [a_set(part) for part in fitted[0]]
    assert parts[0] | parts[1] == a_set(X[:60])
    assert not parts[0] & parts[1]
    document = run("evaluate", "model.safetensors", "d.npz", "--json").document
    assert (document["examples"], document["trained_on"]) == (30, 0)
    np.savez("all.npz", X=X, y=y)
    document = run("evaluate", "model.safetensors", "all.npz", "--json").document
    assert (document["trained_on"], document["unseen"]["examples"]) == (60, 30)


def test_resuming_keeps_the_three_parts(run: Run, fitted: list[tuple[Any, Any]]) -> None:
    run(*QUICK, "--early-stopping", 2, "--out", "m")
    found = run("train", "--resume", "m", "--epochs", 1)
    assert "1,294 examples to train on, 144 to choose by, 359 held out" in found.out
    for before, after in zip(*fitted, strict=True):
        assert np.array_equal(before, after)
    refused = run("train", "--resume", "m", "--validation", 0.3, "--early-stopping", 2)
    assert (refused.code, "--validation belongs to the model" in refused.err) == (2, True)
    assert run("evaluate", "m", "digits", "--json").document["trained_on"] == 1438


def test_a_choice_that_comes_with_resuming_is_said_to_be_late(run: Run) -> None:
    run(*QUICK, "--out", "m")
    found = run("train", "--resume", "m", "--epochs", 1, "--early-stopping", 2)
    assert "it was trained on the examples to choose by before: it may stop late" in found.out
    assert "1,294 examples to train on, 144 to choose by, 359 held out" in found.out
    assert "rows of the training" not in found.out  # nothing of what is held out


def test_a_resumed_model_remembers_all_it_was_ever_trained_on(run: Run) -> None:
    table = flowers(120)
    write_csv("a.csv", table[:60], "length,width,kind")
    write_csv("b.csv", table[60:], "length,width,kind")
    write_csv("both.csv", table, "length,width,kind")
    run(*QUICK, "--data", "a.csv", "--target", "kind", "--held-out", 0)
    run("train", "--resume", "model.safetensors", "--data", "b.csv", "--epochs", 1)
    found = run("evaluate", "model.safetensors", "both.csv")
    assert " on 120 examples of both.csv, of which 120 equal rows of the training\n" in found.out
    assert "that do not" not in found.out


def test_of_many_rows_a_sample_is_looked_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlp_xp.fingerprint.MOST", 400)
    assert "held-out accuracy" in run(*QUICK).out
    found = run("evaluate", "model.safetensors", "digits")
    document = run("evaluate", "model.safetensors", "digits", "--json").document
    n, known, unseen = (document[key] for key in ("trained_on", "looked_up", "unseen"))
    assert 400 < known < 600
    assert (known - unseen["examples"], n) == (400, round(400 / known * 1797))
    assert n == pytest.approx(1438, abs=5 * 1797 * np.sqrt(0.8 * 0.2 / known))
    said = f", of which about {n:,} equal rows of the training ({known} were looked up)"
    assert said in found.out
    assert f" on {unseen['examples']} that do not\n--held-out measures" in found.out
    X, y = all_digits()
    digits = np.load(ROOT / "mlp_xp" / "datasets" / "digits.npz")["X"]
    model = MLP.load("model.safetensors")
    rows = Fingerprint.from_text(model.metadata["fingerprint"]["rows"]).meet(digits).unseen
    assert set(np.flatnonzero(rows)) <= set(split(1797, 0.2, 0)[1])
    score = model.evaluate(X[rows].T, y[rows])
    assert unseen["accuracy"] == pytest.approx(score.score)


def test_a_small_sample_without_a_hit_is_no_proof(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlp_xp.fingerprint.MOST", 20)
    run(*QUICK)
    found = run("evaluate", "model.safetensors", "digits", "--held-out")
    said = r"of which about 0 equal rows of the training \(\d were looked up\)\n"
    assert re.search(said, found.out)
    monkeypatch.setattr("mlp_xp.fingerprint.MOST", 1)
    run(*QUICK)
    found = run("evaluate", "model.safetensors", "digits", "--held-out")
    assert "that may have been used in training" in found.out


def test_a_file_that_does_not_say_what_it_was_trained_on_is_measured_with_a_caveat(
    run: Run,
) -> None:
    run(*QUICK)
    caveat = "digits that may have been used in training: the model's file does not say\n"
    model = MLP.load("model.safetensors")
    old = {key: value for key, value in model.metadata.items() if key != "fingerprint"}
    model.save("old", old)  # as releases before this one wrote it
    X, y = all_digits()
    model.fit(X.T, y, epochs=1, progress=False, validation_data=None)
    model.save("went-on")  # in Python, on other rows
    for name in ("old", "went-on"):
        found = run("evaluate", name, "digits")
        assert (found.code, caveat in found.out) == (0, True)
        document = run("evaluate", name, "digits", "--json").document
        assert (document["trained_on"], document["unseen"]) == (None, None)
    assert "1,438 examples to train on" in run("train", "--resume", "old", "--epochs", 1).out
    assert "fingerprint" not in MLP.load("old").metadata  # it would tell a part


# -- files ---------------------------------------------------------------------------


def test_csv_labels_come_back_as_they_were(run: Run) -> None:
    write_csv("d.csv", flowers(), "length,width,kind")
    found = run("train", "--data", "d.csv", "--target", "kind", "--epochs", 40)
    assert "d.csv: 72 examples to train on, 18 held out, 3 classes" in found.out
    write_csv("new.csv", flowers()[:, [1, 0]], "width,length")  # no target, other order
    predicted = run("predict", "model.safetensors", "new.csv", "--no-header")
    assert set(predicted.out.split()) <= {"3", "5", "8"}
    right = np.array(predicted.out.split(), int) == flowers()[:, 2]
    assert right.mean() > 0.9
    measured = run("evaluate", "model.safetensors", "d.csv", "--json").document
    assert measured["accuracy"] == pytest.approx(right.mean(), abs=1e-6)


def test_probabilities_follow_the_prediction(run: Run) -> None:
    write_csv("d.csv", flowers(), "length,width,kind")
    run("train", "--data", "d.csv", "--target", "kind", "--epochs", 5)
    found = run("predict", "model.safetensors", "d.csv", "--proba", "--out", "p.csv")
    assert found.out == "90 predictions written to p.csv\n"
    table = np.loadtxt("p.csv", delimiter=",", skiprows=1)
    assert table.shape == (90, 4)
    assert np.allclose(table[:, 1:].sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(np.array([3, 5, 8])[table[:, 1:].argmax(axis=1)], table[:, 0])
    document = run("predict", "model.safetensors", "d.csv", "--proba", "--json").document
    assert document["classes"] == [3, 5, 8]
    assert document["predictions"] == table[:, 0].tolist()
    assert np.allclose(document["probabilities"], table[:, 1:])


def test_two_classes_may_share_one_output(run: Run) -> None:
    table = flowers()
    table[:, 2] = np.where(table[:, 2] == 8, 8, 3)
    write_csv("d.csv", table, "length,width,kind")
    argv = ("--data", "d.csv", "--target", "kind", "--loss", "binary_cross_entropy")
    found = run("train", *argv, "--epochs", 40)
    assert (found.code, found.err.count("error")) == (0, 0)
    lines = run("predict", "model.safetensors", "d.csv", "--proba").out.splitlines()[1:]
    values = np.array([line.split(",") for line in lines], float)
    assert values.shape == (90, 3)
    assert np.array_equal(np.where(values[:, 2] > 0.5, 8, 3), values[:, 0])
    assert (values[:, 0] == table[:, 2]).mean() > 0.9


def test_numbers_are_learnt_and_told_in_their_own_units(run: Run) -> None:
    write_csv("d.csv", line_of(), "a,b,price")
    found = run("train", "--data", "d.csv", "--target", "price", "--json").document
    assert found["loss"] == "squared_error"
    assert found["held_out"]["r2"] > 0.9
    assert 0 < found["held_out"]["rmse"] < 20
    values = np.array(run("predict", "model.safetensors", "d.csv").out.split()[1:], float)
    assert np.corrcoef(values, line_of()[:, 2])[0, 1] > 0.95
    assert abs(values.mean() - 1000) < 20
    measured = run("evaluate", "model.safetensors", "d.csv")
    assert measured.out.startswith("R² 0.9")
    assert "RMSE" in measured.out
    refused = run("predict", "model.safetensors", "d.csv", "--proba")
    assert (refused.code, "predicts numbers" in refused.err) == (2, True)


def test_several_targets_are_predicted_at_once(run: Run) -> None:
    write_csv("d.csv", line_of(), "a,b,price")
    argv = ("--target", "price", "--target", "b", "--hidden", "8", "--epochs", 3)
    assert run("train", "--data", "d.csv", *argv).code == 0
    lines = run("predict", "model.safetensors", "d.csv").out.splitlines()
    assert lines[0] == "prediction_price,prediction_b"
    assert len(lines) == 1 + 200


def test_counts_and_several_labels_have_their_losses(run: Run) -> None:
    X = np.random.default_rng(2).normal(size=(60, 3))
    np.savez("counts.npz", X=X, y=np.arange(60) % 7)
    np.savez("labels.npz", X=X, y=X[:, :2] > 0)
    for name, loss in (("counts", "poisson"), ("labels", "multilabel")):
        argv = ("--data", f"{name}.npz", "--epochs", 2, "--hidden", "4", "--loss", loss)
        assert run("train", *argv).code == 0
        assert run("evaluate", "model.safetensors", f"{name}.npz").code == 0
    lines = run("predict", "model.safetensors", "labels.npz", "--proba").out.splitlines()
    assert lines[0] == "prediction_1,prediction_2,0,1"
    assert len(lines) == 1 + 60


def test_a_test_set_of_the_data_is_what_is_measured(run: Run) -> None:
    X, y = flowers()[:, :2], flowers()[:, 2].astype(int)
    np.savez("d.npz", x_train=X[:60], y_train=y[:60], x_test=X[60:], y_test=y[60:])
    found = run("train", "--data", "d.npz", "--epochs", 2)
    assert "60 examples to train on, 30 held out" in found.out
    assert "on 30 examples" in run("evaluate", "model.safetensors", "d.npz").out
    refused = run("train", "--data", "d.npz", "--held-out", 0.1)
    assert (refused.code, "test set of its own" in refused.err) == (2, True)


def test_npy_pairs_train_and_evaluate(run: Run) -> None:
    np.save("X.npy", flowers()[:, :2])
    np.save("y.npy", flowers()[:, 2].astype(int))
    argv = ("X.npy", "--labels", "y.npy")
    assert run("train", "--data", *argv, "--epochs", 2).code == 0
    assert run("evaluate", "model.safetensors", *argv).code == 0
    assert len(run("predict", "model.safetensors", "X.npy").out.splitlines()) == 1 + 90


def test_a_model_saved_from_python_predicts_unscaled(run: Run) -> None:
    X = np.eye(3)
    np.save("X.npy", X)
    model = MLP((3, 4, 2))
    model.save("m")
    assert run("predict", "m", "X.npy", "--no-header").out.split() == [
        str(v) for v in model.predict(X, layout="rows")
    ]


def test_a_preparation_that_is_not_ours_is_refused(run: Run) -> None:
    model = MLP((64, 10))
    with pytest.raises(ValueError, match=r"Set model\.preparation, or give yours another name"):
        model.save("m", {"preparation": {"mine": 1}})
    altered("m", model, {"mine": 1})
    found = run("predict", "m", "digits")
    assert (found.code, "m was not written by this mlp_xp: its prep" in found.err) == (1, True)
    kept = Preparation("cross_entropy", classes=tuple(range(9))).to_json()
    altered("m", model, kept)
    found = run("predict", "m", "digits")
    assert (found.code, "names 9 classes, but the network tells 10 apart" in found.err) == (1, True)


def altered(path: str, model: MLP, preparation: dict[str, Any]) -> None:
    """Written by what did not check it."""

    class Unchecked:
        def to_json(self) -> dict[str, Any]:
            return preparation

    model._prepared = Unchecked()  # type: ignore[assignment]
    model.save(path)


# -- going on ------------------------------------------------------------------------


def test_resuming_goes_on_from_the_file(run: Run) -> None:
    argv = ("--hidden", "16", "--schedule", "constant", "--seed", 3)
    run("train", *argv, "--epochs", 2, "--out", "two")
    model = MLP.load("two")
    found = run("train", "--resume", "two", "--epochs", 2, "--schedule", "constant")
    assert "model written to two, replacing the file there" in found.out
    again = MLP.load("two")
    assert again.epochs_trained == 4
    before, after = dict(model.metadata), dict(again.metadata)
    assert before.pop("fingerprint")["rows"] == after.pop("fingerprint")["rows"]
    for name in ("trained", "score"):
        assert before.pop(name)["steps"] < after.pop(name)["steps"]
    assert after == before
    assert again.preparation == model.preparation
    digits = np.load(ROOT / "mlp_xp" / "datasets" / "digits.npz")
    kept, _ = split(1797, 0.2, 3)
    X, Y = digits["X"][kept].T, digits["y"][kept]
    model.fit(X, Y, epochs=2, batch_size=64, progress=False)
    assert np.array_equal(model._run.state.theta, again._run.state.theta)


KEEPING = ("--checkpoint", "kept", "--checkpoint-every", 0)
SMALL = ("train", "--hidden", 8, "--epochs", 400)


def test_a_training_that_is_killed_goes_on_by_the_same_command(run: Run, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "mlp_xp", *map(str, (*SMALL, *KEEPING))]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(argv, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list(tmp_path.glob("kept/epoch-*")) and time.monotonic() < until:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not Path("model.safetensors").exists()
    found = run(*SMALL, *KEEPING, "--json")
    epoch = re.search(r"goes on from epoch (\d+) of 400, kept in kept\n", found.err)
    assert epoch is not None
    assert found.document["from_epoch"] == int(epoch[1]) > 0
    assert found.document["epochs"] == 400
    assert run(*SMALL, "--out", "straight.safetensors").code == 0
    model, straight = MLP.load("model.safetensors"), MLP.load("straight.safetensors")
    assert model._run.state.theta.tobytes() == straight._run.state.theta.tobytes()
    found = run(*SMALL, *KEEPING, "--out", "again.safetensors")
    assert "kept: nothing is left to do after epoch 400 of 400\n" in found.out
    again = MLP.load("again.safetensors")
    assert again._run.state.theta.tobytes() == straight._run.state.theta.tobytes()
    found = run(*SMALL, *KEEPING, "--seed", 1)
    assert (found.code, "seed was 0, but is 1 now" in found.err) == (1, True)
    found = run(*SMALL[:-1], 500, *KEEPING)
    assert "goes on from epoch 400 of 500, kept in kept\n" in found.out
    assert "mlp-xp: kept/epoch-400.safetensors is of a training of 400 epochs" in found.err
    assert "CheckpointWarning" not in found.err


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_says_from_where_the_same_command_goes_on(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "mlp_xp", "train", "--epochs", "5000", "--checkpoint", "kept"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(argv, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("epoch 1/5000")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    epoch = re.search(r"; the same command goes on from epoch (\d+)\n", err)
    assert epoch is not None
    (path,) = tmp_path.glob("kept/epoch-*")
    assert path.name == f"epoch-{epoch[1]}.safetensors"
    assert MLP.load(path).epochs_trained == int(epoch[1])


def test_how_often_goes_with_a_folder_of_checkpoints(run: Run) -> None:
    found = run("train", "--checkpoint-every", 5)
    assert (found.code, "goes with --checkpoint FOLDER" in found.err) == (2, True)
    for text in ("soon", "-1", "nan"):
        found = run("train", "--checkpoint", "kept", f"--checkpoint-every={text}")
        assert (found.code, "expected a number of seconds" in found.err) == (2, True)


def test_what_belongs_to_the_model_cannot_change_when_resumed(run: Run) -> None:
    run("train", "--hidden", "4", "--epochs", 1)
    before = Path("model.safetensors").read_bytes()
    found = run("train", "--resume", "model.safetensors", "--learning-rate", 1)
    assert found.code == 2
    assert "--learning-rate belongs to the model in model.safetensors" in found.err
    assert Path("model.safetensors").read_bytes() == before


def test_resuming_on_a_file_wants_its_name(run: Run) -> None:
    write_csv("d.csv", flowers(), "length,width,kind")
    run("train", "--data", "d.csv", "--target", "kind", "--epochs", 1)
    found = run("train", "--resume", "model.safetensors")
    assert (found.code, "was trained on d.csv: name it, --data" in found.err) == (2, True)
    argv = ("--resume", "model.safetensors", "--data", "d.csv", "--epochs", 1)
    assert run("train", *argv).code == 0
    write_csv("more.csv", flowers(120), "length,width,kind")
    found = run("train", "--resume", "model.safetensors", "--data", "more.csv", "--epochs", 1)
    assert "more.csv is not what it was trained on" in found.out


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("existing", [False, True], ids=["new", "beside"])
def test_ctrl_c_saves_the_last_whole_step_and_says_where(tmp_path: Path, existing: bool) -> None:
    if existing:
        (tmp_path / "model.safetensors").write_bytes(b"an older model")
    argv = [sys.executable, "-m", "mlp_xp", "train", "--hidden", "64", "--epochs", "5000"]
    process = subprocess.Popen(
        argv,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("epoch 1/5000")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    name = "model.unfinished.safetensors" if existing else "model.safetensors"
    assert process.returncode == 130
    assert "mlp-xp: interrupted in epoch" in err
    assert f"is in {name}; go on with mlp-xp train --resume {name}" in err
    assert "Traceback" not in err
    if existing:
        assert (tmp_path / "model.safetensors").read_bytes() == b"an older model"
    saved = MLP.load(tmp_path / name)
    assert f"as of step {saved._run.state.step} " in err
    assert np.array_equal(saved._run.state.theta, stopped_at(saved)._run.state.theta)


class Stopping(OneCycle):
    """One cycle, until a step of our choice."""

    last = 0

    def factor(self, step: int, n_steps: int, steps_per_epoch: int) -> float:
        if step == self.last:
            raise KeyboardInterrupt
        return super().factor(step, n_steps, steps_per_epoch)


def stopped_at(saved: MLP) -> MLP:
    """The same training, stopped at the same step by other means."""
    digits = np.load(ROOT / "mlp_xp" / "datasets" / "digits.npz")
    kept, _ = split(1797, 0.2, 0)
    Stopping.last = saved._run.state.step
    optimizer = OPTIMIZERS["adam"](rate=0.01)
    model = MLP(**{**saved.config, "optimizer": optimizer})
    model.preparation = saved.preparation
    X, Y = digits["X"][kept].T, digits["y"][kept]
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, epochs=5000, batch_size=64, schedule=Stopping(), progress=False)
    return model


# -- failing as a person expects -----------------------------------------------------


def test_divergence_keeps_the_last_good_epoch(run: Run) -> None:
    write_csv("d.csv", line_of(), "a,b,price")
    argv = ("train", "--data", "d.csv", "--target", "price", "--hidden", "none")
    wild = ("--optimizer", "sgd", "--learning-rate", 4, "--schedule", "constant")
    for name in ("model.safetensors", "model.unfinished.safetensors"):
        found = run(*argv, *wild, "--json")
        assert found.code == 1
        assert "stopped being finite in epoch" in found.err
        assert f"is in {name}; go on with" in found.err
        assert found.document["model"] == name
        model = MLP.load(name)
        assert model.epochs_trained > 0
        assert all(np.isfinite(W).all() for W in model.parameters.values())
    measured = run("evaluate", "model.safetensors", "d.csv", "--json").document
    assert measured["loss"] is None  # infinite, which JSON cannot say
    assert measured["trained_on"] == 160


def test_divergence_at_once_writes_nothing(run: Run) -> None:
    write_csv("d.csv", line_of(), "a,b,price")
    base = ("train", "--data", "d.csv", "--target", "price", "--scale", "none")
    wild = (*base, "--no-scale-target", "--optimizer", "sgd", "--normalization", "none")
    found = run(*wild, "--learning-rate", 1e9, "--schedule", "constant")
    assert found.code == 1
    assert "stopped being finite in epoch 1" in found.err
    assert not list(Path().glob("*.safetensors"))  # nothing was learnt


DIGITS_1 = ("train", "--epochs", "1", "--hidden", "4")
USAGE = {
    "no command": ((), "required: COMMAND"),
    "unknown command": (("trian",), "invalid choice: 'trian'"),
    "unknown option": (("train", "--epoch", "3"), "unrecognized arguments: --epoch"),
    "loss": (("train", "--loss", "mse"), "loss is 'mse', but expected one of 'squared_error'"),
    "close": (("train", "--optimizer", "adamm"), "Did you mean 'adam"),
    "seed": (("train", "--seed", "-1"), "'-1', but expected a whole number below 2**64"),
    "large seed": (("search", "--seed", str(2**64)), "but expected a whole number below 2**64"),
    "epochs": (("train", "--epochs", "0"), "'0', but expected a whole number of at least 1"),
    "hidden": (("train", "--hidden", "64,x"), "'x', but expected a whole number"),
    "dropout": (("train", "--dropout", "1"), "dropout is 1.0, but expected a number in [0, 1)"),
    "held out": (("train", "--held-out", "1"), "--held-out is 1, but expected"),
    "validation": (
        ("train", "--validation", "-1", "--early-stopping", "2"), "--validation is -1, but"),
    "no choice": (("train", "--validation", "0.1"), "nothing is chosen: add --early-stopping N"),
    "device": (("train", "--device", "gpu"), "device is 'gpu', but expected 'cpu', 'cuda'"),
    "columns": (("train", "--target", "x"), "digits has no names"),
    "gaps": (("train", "--missing", "x"), "--missing are of a table's columns, but digits has no"),
    "outputs": (("train", "--loss", "cross_entropy", "--rate"), "unrecognized arguments"),
}  # fmt: skip


@pytest.mark.parametrize(
    "argv",
    [
        ("evaluate", "m", "digits", "--target", "x"),
        ("predict", "m", "digits", "--missing", "x"),
        ("train", "--resume", "m", "--data", "digits", "--target", "x"),
    ],
)
def test_options_of_columns_are_refused_where_there_are_none(
    run: Run, argv: tuple[str, ...]
) -> None:
    MLP((64, 10)).save("m")
    found = run(*argv)
    assert (found.code, found.out) == (2, "")
    assert "--target and --missing are of a table's columns, but digits has none" in found.err


@pytest.mark.parametrize("case", USAGE)
def test_a_wrong_command_line_exits_with_2(run: Run, case: str) -> None:
    argv, message = USAGE[case]
    found = run(*argv)
    assert found.code == 2
    assert message in found.err
    assert not os.listdir()


DATA = {
    "no file": (("train", "--data", "gone.csv"), "gone.csv does not exist"),
    "no target": (("train", "--data", "d.csv"), "columns 'length', 'width', 'kind'"),
    "bad cell": (
        ("train", "--data", "bad.csv", "--target", "b"),
        "bad.csv, line 3: 1 cell, but the header names 2",
    ),
    "one class": (("train", "--data", "one.csv", "--target", "b"), "every label is 1"),
    "two classes": (
        ("train", "--loss", "binary_cross_entropy"), "there are 10 classes, but loss"),
    "batch": (("train", "--batch-size", "5000"), "batch_size is 5000, but there are 1438"),
    "no folder": (("train", "--out", "gone/m.safetensors"), "there is no folder"),
    "folder as out": (("train", "--out", "."), "exists and is not a file"),
    "no model": (("predict", "gone", "digits"), "gone does not exist"),
    "no model file": (("evaluate", "d.csv", "digits"), "d.csv cannot be read as safetensors"),
    "fashion": (("train", "--data", "fashion-mnist", "--data-dir", "."), "dataset-fashion-mnist"),
    "folder of another": (
        ("train", "--data", "d.csv", "--target", "kind", "--data-dir", "."),
        "--data-dir is the folder of fashion-mnist, but the data are d.csv"),
    "features": (("predict", "m", "d.csv"), "d.csv has 3 features, but m was trained on 64"),
    "several": (("predict", "many", "digits"), "holds 2 networks"),
    "no resumed": (("train", "--resume", "gone"), "gone does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_bad_data_exit_with_1_and_one_line(run: Run, case: str) -> None:
    write_csv("d.csv", flowers(9), "length,width,kind")
    Path("bad.csv").write_text("a,b\nx,1\ny\n")
    Path("one.csv").write_text("a,b\n" + "1,1\n" * 9)
    MLP((64, 10)).save("m")
    MLP((64, 10), seed=[1, 2]).save("many")
    before = {name: Path(name).read_bytes() for name in os.listdir()}
    argv, message = DATA[case]
    found = run(*argv, "--json")
    assert found.code == 1
    assert message in found.err
    error = [line for line in found.err.splitlines() if line.startswith("mlp-xp: error: ")]
    assert len(error) == 1
    assert found.document == {"error": error[0].removeprefix("mlp-xp: error: ")}
    assert {name: Path(name).read_bytes() for name in os.listdir()} == before


@pytest.mark.parametrize(
    "argv",
    [
        ("predict", "m", "X.npy", "--out", "./X.npy"),
        ("predict", "m", "X.npy", "--out", "m"),
        ("predict", "m", "X.npy", "--out", "linked"),
        ("predict", "m", "X.npy", "--memory", "1MB", "--out", "X.npy"),
        ("train", "--data", "X.npy", "--labels", "y.npy", "--out", "X.npy"),
        ("train", "--data", "X.npy", "--labels", "y.npy", "--out", "y.npy"),
        ("search", "--data", "X.npy", "--labels", "y.npy", "--trials", "1", "--out", "y.npy"),
        ("export", "m", "--onnx", "m"),
    ],
)
def test_no_command_writes_over_what_it_reads(
    run: Run, request: pytest.FixtureRequest, argv: tuple[str, ...]
) -> None:
    extra = {"search": "optuna", "export": "onnx"}.get(argv[0])
    if extra is not None:
        need(request, extra)
    digits = load("digits")
    np.save("X.npy", digits.X)
    np.save("y.npy", digits.y)
    MLP((64, 10)).save("m")
    os.symlink("m", "linked")
    before = {name: Path(name).read_bytes() for name in os.listdir()}
    found = run(*argv)
    assert found.code == 2
    assert "is what this command reads: expected another file to write to" in found.err
    assert {name: Path(name).read_bytes() for name in os.listdir()} == before


def test_a_model_may_be_called_as_built_in_data_are(run: Run) -> None:
    for _ in range(2):
        assert run("train", "--data", "digits", "--epochs", "1", "--out", "digits").code == 0


def test_a_damaged_model_is_refused_before_any_work(run: Run) -> None:
    run(*DIGITS_1)
    content = Path("model.safetensors").read_bytes()
    Path("model.safetensors").write_bytes(content[:-4])
    for argv in (
        ("predict", "model.safetensors", "digits"),
        ("evaluate", "model.safetensors", "digits"),
        ("train", "--resume", "model.safetensors"),
    ):
        found = run(*argv)
        assert (found.code, found.out) == (1, "")
        assert "truncated, damaged" in found.err
    assert Path("model.safetensors").read_bytes() == content[:-4]


@pytest.mark.skipif(os.name != "posix", reason="POSIX pipes")
def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    MLP((64, 10)).save(tmp_path / "m")
    python = f"PYTHONPATH={ROOT} {sys.executable}"
    line = f"{python} -m mlp_xp predict m digits --proba | head -n 1"
    found = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    assert len(found.stdout.splitlines()) == 1


# -- the rest ------------------------------------------------------------------------


def test_a_terminal_without_our_letters_gets_an_answer(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    argv = [sys.executable, "-m", "mlp_xp", "train", "--help"]
    found = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, check=True)
    assert b"--l2" in found.stdout


def test_json_is_one_document_whatever_the_command(run: Run) -> None:
    train = run(*DIGITS_1, "--json")
    assert set(train.document) == {
        "data", "loss", "examples", "model", "epochs", "steps", "seconds", "held_out"
    }  # fmt: skip
    assert "model written to" in train.err
    for argv in (("predict", "model.safetensors", "digits"), ("devices",)):
        assert run(*argv, "--json").document


# -- export --------------------------------------------------------------------------


def test_export_says_what_the_graph_takes_and_answers(
    run: Run, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(request, "onnx")
    write_csv("d.csv", flowers(), "long,wide,kind")
    assert run("train", "--data", "d.csv", "--target", "kind", "--epochs", "2").code == 0
    found = run("export", "model.safetensors", "--onnx", "m.onnx")
    assert found.code == 0
    for line in ("X (m, 2) float32", "label (m,) int64", "probabilities (m, 3) float32"):
        assert line in found.out
    document = run("export", "model.safetensors", "--onnx", "m.onnx", "--json").document
    assert document["bytes"] == Path("m.onnx").stat().st_size
    assert document["outputs"][0] == {"name": "label", "dtype": "int64", "shape": ["m"]}
    assert run("export", "model.safetensors").code == 2
    assert "there is no folder" in run("export", "model.safetensors", "--onnx", "gone/m.onnx").err
    monkeypatch.setitem(sys.modules, "onnx", None)
    found = run("export", "model.safetensors", "--onnx", "other.onnx")
    assert (found.code, Path("other.onnx").exists()) == (1, False)
    assert "pip install 'mlp_xp[onnx]'" in found.err


def test_devices_lists_what_can_run_here(run: Run) -> None:
    found = run("devices")
    assert found.code == 0
    assert any(line.split()[:2] == ["cpu", "available"] for line in found.out.splitlines())
    assert run("devices", "--json").document[0]["name"] == "cpu"


def test_help_and_version_answer(run: Run) -> None:
    from mlp_xp import __version__

    assert run("--version").out == f"mlp-xp {__version__}\n"
    listed = run("--help").out
    for name, command in COMMANDS.items():
        assert name in listed
        assert command.help in listed
        assert run(name, "--help").code == 0
    options = run("train", "--help").out
    for name in (*LOSSES, *OPTIMIZERS, *SCHEDULES):
        assert name in options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("split", [1]),
        ("split", {}),
        ("split", "70/30"),
        ("split", {"held_out": 2, "seed": 0}),
        ("split", {"held_out": 0.2, "seed": -1, "examples": 1797}),
        ("split", {"held_out": 0.2, "seed": 0, "examples": "all"}),
        ("trained", {"steps": 1, "early_stopping": [None], "examples": {"training": "x"}}),
        ("trained", "by hand"),
        ("score", [1]),
    ],
)
def test_metadata_of_ones_own_are_not_taken_for_the_commands(
    run: Run, name: str, value: Any
) -> None:
    digits = load("digits")
    model = MLP((64, 4, 10)).fit(digits.X.T, digits.y, epochs=1, progress=False)
    model.save("m.safetensors", {name: value})
    assert run("show", "m.safetensors").code == 0
    assert run("evaluate", "m.safetensors", "digits").code == 0
    found = run("evaluate", "m.safetensors", "digits", "--held-out")
    assert (found.code, "held out nothing" in found.err) == (2, True)
