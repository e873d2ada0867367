"""`mlp-xp predict` prints a table that other programs read."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from mlp_xp import MLP
from mlp_xp.cli import main
from mlp_xp.prepared import Preparation


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def table(self) -> pd.DataFrame:
        return pd.read_csv(io.StringIO(self.out), dtype={"name": str, "code": str})


Run = Callable[..., Result]
ROOT = Path(__file__).parents[1]
X = np.random.default_rng(0).normal(size=(6, 2))
NAMES = ["plain", "with, comma", 'a "quoted" one', "two\nlines", "", "größer"]
CODES = ["007", "08", "1e3", "nan", "5 ", "x"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line beside people.csv and models of it."""
    monkeypatch.chdir(tmp_path)
    with open("people.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "b", "a", "code"])
        writer.writerows(zip(NAMES, X[:, 1].tolist(), X[:, 0].tolist(), CODES, strict=True))
    kinds = ("cat, or lynx", "dog", "ox")
    save("kinds", MLP((2, 3)), Preparation("cross_entropy", classes=kinds, features=("a", "b")))
    two = Preparation("squared_error", features=("a", "b"), target=("price", "age"))
    save("numbers", MLP((2, 2), loss="squared_error"), two)
    tags = Preparation("multilabel", features=("a", "b"), target=("wet", "code"))
    save("tags", MLP((2, 2), loss="multilabel"), tags)

    def call(*argv: object) -> Result:
        return Result(main([str(part) for part in argv]), *capsys.readouterr())

    return call


def save(path: str, model: MLP, prepared: Preparation) -> None:
    model.preparation = prepared
    model.save(path)


def test_pandas_reads_what_is_printed(run: Run) -> None:
    argv = ("people.csv", "--proba", "--id", "name", "--id", "code")
    found = run("predict", "kinds", *argv)
    table = found.table
    assert list(table.columns) == ["name", "code", "prediction", "cat, or lynx", "dog", "ox"]
    assert table["name"].fillna("").tolist() == NAMES
    model = MLP.load("kinds")
    assert table["prediction"].tolist() == model.predict(X, layout="rows").tolist()
    P = table[["cat, or lynx", "dog", "ox"]].to_numpy().astype(np.float32)
    np.testing.assert_array_equal(P, model.predict_proba(X, layout="rows"))
    rows = list(csv.reader(io.StringIO(found.out)))
    assert [row[1] for row in rows[1:]] == CODES  # as they stand, not as numbers
    document = run("predict", "kinds", *argv, "--json").document
    assert document["ids"] == {"name": NAMES, "code": CODES}
    assert document["predictions"] == table["prediction"].tolist()
    assert document["classes"] == ["cat, or lynx", "dog", "ox"]


def test_a_file_gets_what_standard_output_would(run: Run) -> None:
    printed = run("predict", "kinds", "people.csv", "--id", "name", "--proba").out
    found = run("predict", "kinds", "people.csv", "--id", "name", "--proba", "--out", "p.csv")
    assert found.out == "6 predictions written to p.csv\n"
    assert Path("p.csv").read_bytes().decode() == printed


def test_a_letter_that_standard_output_lacks_is_an_error_not_a_question_mark(run: Run) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    argv = [sys.executable, "-m", "mlp_xp", "predict", "kinds", "people.csv", "--id", "name"]
    found = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (1, "")
    assert "the table holds '\\xf6', but standard output is in ascii" in found.stderr
    assert subprocess.run([*argv, "--out", "p.csv"], env=env).returncode == 0
    assert "größer" in Path("p.csv").read_text(encoding="utf-8")


def test_a_pipe_may_do_without_the_header(run: Run) -> None:
    with_header = run("predict", "kinds", "people.csv").out
    assert run("predict", "kinds", "people.csv", "--no-header").out == with_header.replace(
        "prediction\n", ""
    )
    assert with_header.startswith("prediction\n")


def test_every_answer_has_a_column_of_its_own_name(run: Run) -> None:
    found = run("predict", "numbers", "people.csv", "--id", "name").table
    assert list(found.columns) == ["name", "prediction_price", "prediction_age"]
    found = run("predict", "tags", "people.csv", "--proba").table
    assert list(found.columns) == ["prediction_wet", "prediction_code", "wet", "code"]
    refused = run("predict", "tags", "people.csv", "--proba", "--id", "code")
    assert (refused.code, refused.out) == (2, "")
    assert "--id code: the answers have a column 'code' of their own" in refused.err
    argv = ("people.csv", "--proba", "--id", "code", "--no-header")
    assert run("predict", "tags", *argv).out.startswith("007,")


def test_an_identifier_given_twice_is_one_column(run: Run) -> None:
    found = run("predict", "kinds", "people.csv", "--id", "name", "--id", "name")
    assert list(found.table.columns) == ["name", "prediction"]


def test_an_identifier_that_is_not_there_is_named(run: Run) -> None:
    found = run("predict", "kinds", "people.csv", "--id", "nam")
    assert (found.code, found.out) == (1, "")
    assert (
        "--id nam: people.csv has no such column; its columns are 'name', 'b', 'a', 'code'. "
        "Did you mean 'name'?"
    ) in found.err


def test_a_source_without_names_has_no_identifiers(run: Run) -> None:
    np.savez("d.npz", X=X)
    for source in ("d.npz", "digits"):
        model = "kinds" if source == "d.npz" else "64"
        MLP((64, 10)).save("64")
        found = run("predict", model, source, "--id", "row")
        assert (found.code, found.out) == (2, "")
        assert f"--id row: {source} has no named columns" in found.err


def test_a_model_that_knows_no_names_takes_all_but_the_identifiers(run: Run) -> None:
    model = MLP((2, 3))
    model.save("python")
    found = run("predict", "python", "people.csv", "--id", "name", "--id", "code").table
    told = model.predict(X[:, ::-1], layout="rows")  # as the file has them: b, a
    assert found["prediction"].tolist() == told.tolist()


def test_a_table_of_any_kind_has_identifiers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = run("predict", "kinds", "people.csv", "--id", "name", "--id", "code").out
    table = pd.read_csv("people.csv", dtype={"code": str}, na_filter=False)
    table.to_parquet("people.parquet")
    argv = ("--id", "name", "--id", "code")
    assert run("predict", "kinds", "people.parquet", *argv).out == printed
    table.assign(day=pd.to_datetime("2024-05-06"), n=[1, 2, None, 4, 5, 6]).to_parquet("p.parquet")
    found = run("predict", "kinds", "p.parquet", "--id", "n", "--no-header").out.splitlines()
    assert [line.partition(",")[0] for line in found] == ["1.0", "2.0", "", "4.0", "5.0", "6.0"]
    with open("people.csv", "rb") as content:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.read())))
    piped = run("predict", "kinds", "-", *argv).out
    assert piped == printed.replace(",nan,", ",,")  # what is read once has gaps


@pytest.mark.parametrize("kind", ["bom.csv", "semicolons.csv", "tabs.tsv", "u16.csv", "p.csv.gz"])
def test_identifiers_stand_as_in_any_file_of_text(run: Run, kind: str) -> None:
    printed = run("predict", "kinds", "people.csv", "--id", "name", "--id", "code").out
    table = pd.read_csv("people.csv", dtype={"code": str}, na_filter=False)
    separator = {"semicolons.csv": ";", "tabs.tsv": "\t"}.get(kind, ",")
    encoding = {"bom.csv": "utf-8-sig", "u16.csv": "utf-16"}.get(kind, "utf-8")
    decimal = "," if kind == "semicolons.csv" else "."
    table.to_csv(kind, index=False, sep=separator, encoding=encoding, decimal=decimal)
    assert run("predict", "kinds", kind, "--id", "name", "--id", "code").out == printed


def test_whole_numbers_beside_gaps_are_copied_whole(run: Run) -> None:
    """A float has no 2⁵³ + 1. (What pandas writes is marked as whole.)"""
    pyarrow = pytest.importorskip("pyarrow")
    at, y = [2**53 + 1, None, 7] * 20, [0, 1, 1] * 20
    table = pyarrow.table({"at": at, "x": list(range(60)), "y": y})
    pytest.importorskip("pyarrow.parquet").write_table(table, "d.parquet")
    usual = ("--target", "y", "--drop", "at", "--keep", "x", "--epochs", 1, "--no-progress")
    run("train", "--data", "d.parquet", *usual)
    lines = run("predict", "model.safetensors", "d.parquet", "--id", "at").out.splitlines()
    assert [line.split(",")[0] for line in lines[:4]] == ["at", "9007199254740993", "", "7"]


def test_rows_without_a_target_are_left_out_of_both(run: Run) -> None:
    table = pd.read_csv("people.csv", dtype={"code": str}, na_filter=False)
    table.assign(kind=["dog", "ox", "", "dog", "dog", "ox"]).to_csv("t.csv", index=False)
    found = run("predict", "kinds", "t.csv", "--id", "code", "--target", "kind").table
    assert found["code"].tolist() == ["007", "08", np.nan, "5 ", "x"]
    told = MLP.load("kinds").predict(np.delete(X, 2, axis=0), layout="rows")
    assert found["prediction"].tolist() == told.tolist()


def test_an_identifier_may_be_a_feature_too(run: Run) -> None:
    found = run("predict", "kinds", "people.csv", "--id", "a").table
    np.testing.assert_array_equal(found["a"], X[:, 0])
    told = MLP.load("kinds").predict(X, layout="rows")
    assert found["prediction"].tolist() == told.tolist()


def test_many_lines_are_written_whole(run: Run) -> None:
    many = np.random.default_rng(1).normal(size=(10_000, 2))
    lines = "".join(f"{i},{a!r},{b!r}\n" for i, (a, b) in enumerate(many.tolist()))
    Path("many.csv").write_text("n,a,b\n" + lines)
    found = run("predict", "kinds", "many.csv", "--id", "n").table
    assert found["n"].tolist() == list(range(10_000))
    told = MLP.load("kinds").predict(many, layout="rows")
    assert found["prediction"].tolist() == told.tolist()
