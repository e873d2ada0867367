"""Scores class by class are scikit-learn's, and are said where they are short enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn import metrics

from conftest import need
from mlp_xp import MLP
from mlp_xp.cli import main
from mlp_xp.preparation import split
from mlp_xp.prepared import Preparation
from mlp_xp.report import (
    balance,
    by_class,
    by_label,
    by_target,
    confused,
    constant,
    counted,
    lines,
)


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
    monkeypatch.chdir(tmp_path)

    def call(*argv: object) -> Result:
        return Result(main([str(part) for part in argv]), *capsys.readouterr())

    return call


def answered(m: int = 500, n: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Classes, and as they were told: class 5 never, class 6 is not there."""
    random = np.random.default_rng(0)
    truth = random.integers(0, n - 1, m)
    told = np.where(random.random(m) < 0.7, truth, random.integers(0, n, m))
    return truth, np.where(told == 5, 6, told)


def test_precision_recall_and_f1_are_those_of_scikit_learn() -> None:
    truth, told = answered()
    rows = by_class(truth, told, "abcdefg")
    theirs = metrics.precision_recall_fscore_support(
        truth, told, labels=range(7), zero_division=np.nan
    )
    for i, key in enumerate(("precision", "recall", "f1", "examples")):
        ours = [np.nan if row[key] is None else row[key] for row in rows]
        assert ours == pytest.approx(theirs[i], nan_ok=True)
    assert [row["class"] for row in rows] == list("abcdefg")
    assert [row["predicted"] for row in rows] == np.bincount(told, minlength=7).tolist()
    assert rows[5]["precision"] is None  # never told
    assert rows[6]["recall"] is None  # never there
    assert json.dumps(rows)


def test_scores_of_labels_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(1)
    truth, told = random.random((200, 4)) < 0.4, random.random((200, 4)) < 0.5
    rows = by_label(truth, told, ["a", "b", "c", "d"])
    theirs = metrics.precision_recall_fscore_support(truth, told)
    for i, key in enumerate(("precision", "recall", "f1", "examples")):
        assert [row[key] for row in rows] == pytest.approx(theirs[i])


def test_classes_that_are_mixed_up_are_named_the_most_frequent_first() -> None:
    truth, told = answered()
    matrix = metrics.confusion_matrix(truth, told, labels=range(7))
    np.fill_diagonal(matrix, 0)
    pairs = confused(truth, told, "abcdefg")
    assert [pair["examples"] for pair in pairs] == sorted(matrix.ravel().tolist())[:-6:-1]
    for pair in pairs:
        place = ("abcdefg".index(pair["class"]), "abcdefg".index(pair["taken_for"]))
        assert pair["examples"] == matrix[place]
    assert confused(truth, truth, "abcdefg") == []


def test_scores_of_numbers_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(2)
    truth = random.normal(size=(90, 2)) * [1, 50] + [0, 1000]
    told = truth + random.normal(size=(90, 2)) * [0.3, 20]
    rows = by_target(truth, told, ["a", "b"])
    own = {"multioutput": "raw_values"}
    assert [row["r2"] for row in rows] == pytest.approx(metrics.r2_score(truth, told, **own))
    assert [row["mae"] for row in rows] == pytest.approx(
        metrics.mean_absolute_error(truth, told, **own)
    )
    assert [row["rmse"] for row in rows] == pytest.approx(
        metrics.root_mean_squared_error(truth, told, **own)
    )
    for value in (1.0, 0.1):  # of seven 0.1 the mean is not 0.1
        assert by_target(np.full((7, 1), value), told[:7, :1], ["a"])[0]["r2"] is None


def test_a_table_is_aligned_and_shows_the_worst_of_many_classes() -> None:
    few = by_class(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), ["cat", "mouse", "ox"])
    assert lines(few, confused(np.array([0, 0, 2]), np.array([1, 1, 1]), "abc")) == [
        "class  precision  recall     F1  examples",
        "cat        1.000   0.500  0.667         2",
        "mouse      0.333   1.000  0.500         1",
        "ox             -   0.000  0.000         1",
        "most confused: a taken for b (2 times), c taken for b (1)",
    ]
    n = 30
    told = np.repeat(np.arange(n), 2)
    told[1:20:2] = 29  # ten classes are half wrong
    many = lines(by_class(np.repeat(np.arange(n), 2), told, range(n)), [])
    assert len(many) == 11
    assert many[0].startswith("class (the 10 worst of 30 by F1)")
    assert {line.split()[0] for line in many[1:]} == {*map(str, range(9)), "29"}


def test_sizes_of_classes_are_said_where_they_matter() -> None:
    assert balance([50, 60, 500], "abc", 610) == ""
    assert balance([50, 60, 501], "abc", 611) == (
        "classes are uneven: 82 % are of class c (501), 8.18 % are of class a (50)"
    )
    assert balance([4, 30, 0], ["yes", "no", "?"], 34) == (
        "classes are uneven: 88.2 % are of class no (30), 0 % are of class ? (0); fewer than 5 "
        "examples to train on of classes yes (4), ? (0)"
    )
    assert balance([4] * 12, range(12), 48).endswith("9 (4) … (12 in all)")
    assert balance([900, 5], "ab", 1000, exclusive=False) == ""
    assert balance([900, 4], "ab", 1000, exclusive=False).endswith(" to train on of label b (4)")


# -- the commands ----------------------------------------------------------------------


def three_kinds(m: int = 200) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).normal(size=(m, 2))
    return X, np.array([3, 5, 8])[(X[:, 0] > -1.5).astype(int) + (X[:, 0] > 0.5)]


QUICK = ("--hidden", 16, "--epochs", 8, "--no-progress")


def test_a_target_that_is_one_number_throughout_is_said() -> None:
    assert constant(np.array([1, 2]), np.array([2, 3]), ["a", "b"]) == ""
    assert constant(np.array([1, 2.5]), np.array([2, 2.5]), ["a", "b"]) == (
        "target b (2.5) is one number in all examples to train on: nothing is learnt from it. "
        "Is this the wrong column?"
    )
    many = constant(np.zeros(12), np.zeros(12), range(12))
    assert many.startswith("target 0 (0), 1 (0), ")
    assert "9 (0) … (12 in all) is " in many


def test_one_is_counted_in_the_singular() -> None:
    assert [counted(n, "rows") for n in (0, 1, 2, 1000)] == [
        "0 rows",
        "1 row",
        "2 rows",
        "1,000 rows",
    ]


@pytest.mark.parametrize("memory", [(), ("--memory", "1MB")], ids=["in memory", "a stream"])
def test_train_says_once_that_a_target_never_changes(
    memory: tuple[str, ...], run: Run, request: pytest.FixtureRequest
) -> None:
    parquet = need(request, "pyarrow.parquet")
    pyarrow = need(request, "pyarrow")
    x = np.random.default_rng(0).normal(size=60)
    table = pyarrow.table({"x": x, "same": np.full(60, 2.5), "y": 3 * x})
    parquet.write_table(table, "t.parquet", row_group_size=10)
    train = ("train", "--data", "t.parquet", *QUICK, *memory)
    told = "target same (2.5) is one number in all examples to train on"
    assert run(*train, "--target", "same", "--drop", "y").out.count(told) == 1
    assert told in run(*train, "--target", "same", "--target", "y").out
    assert "is one number" not in run(*train, "--target", "y", "--drop", "same").out


def test_one_example_is_said_as_one(run: Run) -> None:
    rows = [f"{i % 2 + i / 500},{'ab'[i % 2]}" for i in range(60)]
    Path("d.csv").write_text("\n".join(["x,y", *rows]) + "\n")
    Path("one.csv").write_text("\n".join(["x,y", "0.3,a"]) + "\n")
    assert run("train", "--data", "d.csv", "--target", "y", *QUICK).code == 0
    assert " on 1 example of one.csv\n" in run("evaluate", "model.safetensors", "one.csv").out
    Path("one.csv").write_text("\n".join(["x,y", rows[0], rows[1], "5,a"]) + "\n")
    out = run("evaluate", "model.safetensors", "one.csv").out
    assert " on 3 examples of one.csv, of which 2 equal rows of the training\n" in out
    assert " on 1 that does not\nof the 1 that equals no row of the training:\n" in out
    written = run("predict", "model.safetensors", "one.csv", "--out", "p.csv").out
    assert written == "3 predictions written to p.csv\n"
    Path("one.csv").write_text("\n".join(["x", "0.3"]) + "\n")
    written = run("predict", "model.safetensors", "one.csv", "--out", "p.csv").out
    assert written == "1 prediction written to p.csv\n"


def test_evaluate_tells_each_class_and_what_it_is_taken_for(run: Run) -> None:
    X, y = three_kinds()
    np.savez("d.npz", X=X, y=y)
    model = MLP((2, 8, 3)).fit(X, np.searchsorted([3, 5, 8], y), layout="rows", progress=False)
    model.preparation = Preparation("cross_entropy", classes=(3, 5, 8))
    model.save("m")
    document = run("evaluate", "m", "d.npz", "--json").document
    told = model.predict(X, layout="rows")
    theirs = metrics.precision_recall_fscore_support(y, told, zero_division=np.nan)
    assert [row["class"] for row in document["classes"]] == [3, 5, 8]
    for i, key in enumerate(("precision", "recall", "f1", "examples")):
        ours = [np.nan if row[key] is None else row[key] for row in document["classes"]]
        assert ours == pytest.approx(theirs[i], nan_ok=True)
    worst = document["confused"][0]
    there = np.sum((y == worst["class"]) & (told == worst["taken_for"]))
    assert there == worst["examples"] > 0
    out = run("evaluate", "m", "d.npz").out.splitlines()
    assert out[1].split() == ["class", "precision", "recall", "F1", "examples"]
    assert [line.split()[0] for line in out[2:5]] == ["3", "5", "8"]
    assert out[5].startswith(
        f"most confused: {worst['class']} taken for {worst['taken_for']} ({worst['examples']} time"
    )


def test_train_says_how_uneven_the_classes_are_and_how_each_is_met(run: Run) -> None:
    X, y = three_kinds()
    y = np.where(X[:, 0] > 2, 9, y)
    np.savez("d.npz", X=X, y=y)
    found = run("train", "--data", "d.npz", *QUICK)
    kept, held = split(200, 0.2, 0)
    n = np.array([np.sum(y[kept] == c) for c in (3, 5, 8, 9)])
    assert n.max() > 10 * n.min()
    out = found.out.splitlines()
    assert out[2].startswith(f"classes are uneven: {100 * n[1] / 160:.3g} % are of class 5 (")
    assert f"fewer than 5 examples to train on of class 9 ({n[3]})" in out[2]
    assert out[3].startswith("held-out accuracy")
    assert out[4].split()[0] == "class"
    assert [line.split()[0] for line in out[5:9]] == ["3", "5", "8", "9"]
    document = run("train", "--data", "d.npz", *QUICK, "--json").document
    rows = document["held_out"]["classes"]
    assert [row["examples"] for row in rows] == [int(np.sum(y[held] == c)) for c in (3, 5, 8, 9)]


def test_even_classes_are_not_worth_a_word(run: Run) -> None:
    assert "uneven" not in run("train", *QUICK).out


def test_many_classes_are_told_by_evaluate_only(run: Run) -> None:
    X = np.random.default_rng(0).normal(size=(600, 2))
    np.savez("d.npz", X=X, y=(X[:, 0] * 5).round().clip(-9, 9).astype(int) + 9)
    found = run("train", "--data", "d.npz", *QUICK)
    assert "precision" not in found.out
    document = run("evaluate", "model.safetensors", "d.npz", "--json").document
    assert len(document["classes"]) == 19
    assert len(document["unseen"]["classes"]) == 19
    assert "precision" in run("evaluate", "model.safetensors", "d.npz").out


def test_one_output_one_hot_columns_and_labels_are_told_by_class_too(run: Run) -> None:
    X, y = three_kinds()
    np.savez("two.npz", X=X, y=y == 8)
    np.savez("hot.npz", X=X, y=np.eye(3)[np.searchsorted([3, 5, 8], y)])
    np.savez("labels.npz", X=X, y=np.column_stack([X[:, 0] > 0, X[:, 1] > 1]))
    Path("named.csv").write_text(
        "a,b,warm,wet\n" + "".join(f"{a},{b},{a > 0:d},{b > 1:d}\n" for a, b in X)
    )
    cases: list[tuple[str, tuple[str, ...], list[Any]]] = [
        ("two.npz", ("--loss", "binary_cross_entropy"), [0, 1]),
        ("hot.npz", (), [0, 1, 2]),
        ("labels.npz", (), [0, 1]),
        ("named.csv", ("--target", "warm", "--target", "wet"), ["warm", "wet"]),
    ]
    for name, options, names in cases:
        found = run("train", "--data", name, *options, *QUICK, "--json")
        held = found.document["held_out"]
        assert [row["class"] for row in held["classes"]] == names
        document = run("evaluate", "model.safetensors", name, "--json").document
        assert [row["class"] for row in document["classes"]] == names
    y = np.column_stack([X[:, 0] > 0, X[:, 1] > 1])
    told = MLP.load("model.safetensors").predict(X, layout="rows")
    assert [row["f1"] for row in document["classes"]] == pytest.approx(
        metrics.f1_score(y, told, average=None)
    )
    assert "confused" not in document


def test_numbers_are_told_with_their_errors_and_each_of_several_targets(run: Run) -> None:
    X = np.random.default_rng(1).normal(size=(200, 3))
    y = np.column_stack([1000 + 50 * X[:, 0], X[:, 1] - X[:, 2]])
    rows = zip(X, y, strict=True)
    Path("d.csv").write_text(
        "a,b,c,price,age\n" + "".join(",".join(map(str, [*x, *t])) + "\n" for x, t in rows)
    )
    train = ("train", "--data", "d.csv", "--target", "price", *QUICK)
    one = run(*train, "--drop", "age").out
    assert "mean absolute error" in one
    assert run(*train, "--target", "age").code == 0
    model = MLP.load("model.safetensors")
    document = run("evaluate", "model.safetensors", "d.csv", "--json").document
    told = model.predict(X, layout="rows")
    assert document["mae"] == pytest.approx(np.abs(told - y).mean(), rel=1e-5)
    assert [row["target"] for row in document["targets"]] == ["price", "age"]
    assert document["targets"][0]["r2"] == pytest.approx(metrics.r2_score(y[:, 0], told[:, 0]))
    out = run("evaluate", "model.safetensors", "d.csv").out
    assert "\ntarget" in out
    assert "\nprice" in out
