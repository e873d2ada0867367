"""Tables as people have them: what is read, what its columns become, and what is refused."""

from __future__ import annotations

import datetime
import gzip
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

pytest.importorskip("skrub")
pytest.importorskip("pyarrow")
pytest.importorskip("polars")

import pandas
import polars
import pyarrow
from sklearn.model_selection import KFold
from sklearn.preprocessing import TargetEncoder

import mlp_xp
from mlp_xp import MLP, load_table
from mlp_xp.cells import TableError
from mlp_xp.cli import main
from mlp_xp.columns import KINDS, Columns
from mlp_xp.data import DataError, Dataset, Request, load
from mlp_xp.preparation import model_for, prepare
from mlp_xp.prepared import Preparation
from mlp_xp.recognise import learn
from mlp_xp.storage import ModelFileError
from mlp_xp.tables import texts

CITIES = ("Oslo", "Bergen", "Narvik")


def people(m: int = 120, seed: int = 0) -> Any:
    """A table of every kind of column, with gaps, and what follows from them."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, m).astype(float)
    city = rng.choice(CITIES, m)
    job = rng.choice([f"job {i}" for i in range(35)], m)
    member = rng.random(m) < 0.5
    joined = pandas.Timestamp("2020-01-01") + pandas.to_timedelta(rng.integers(0, 900, m), "D")
    income = 100 * age + 2000 * (city == "Oslo") + 900 * member + rng.normal(0, 50, m)
    frame = pandas.DataFrame(
        {
            "id": np.arange(m) + 1000,
            "age": age,
            "city": city.astype(object),
            "job": job,
            "member": member,
            "joined": joined,
            "country": "Norway",
            "income": income.round(2),
            "paid": np.where(income > np.median(income), "yes", "no"),
        }
    )
    frame.loc[rng.choice(m, 9, replace=False), "age"] = np.nan
    frame.loc[rng.choice(m, 7, replace=False), "city"] = None
    return frame


FEATURES = ["id", "age", "city", "job", "member", "joined", "country"]


def a_set(frame: Any, y: Any, features: list[str]) -> Dataset:
    """A data set of a table in memory, as one comes from a file."""
    names = tuple(features)
    return Dataset("people", frame[features], np.asarray(y), features=names, table=frame)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Run a command line in an empty folder: code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: object) -> tuple[int, str, str]:
        code = main([str(part) for part in argv])
        return code, *capsys.readouterr()

    return call


# -- reading -------------------------------------------------------------------------


def written(frame: Any, how: str) -> bytes:
    """A table as one of the kinds of files."""
    content = io.BytesIO()
    if how == "parquet":
        frame.to_parquet(content)
        return content.getvalue()
    if how == "feather":
        frame.to_feather(content)
        return content.getvalue()
    options: dict[str, Any] = {
        "csv": {},
        "csv.gz": {},
        "semicolon.csv": {"sep": ";", "decimal": ","},
        "quoted.semicolon.csv": {"sep": ";", "decimal": ",", "quoting": 1},
        "tsv": {"sep": "\t"},
        "bom.csv": {"encoding": "utf-8-sig"},
        "utf16.csv": {"encoding": "utf-16", "sep": "\t"},
        "quoted.csv": {"quoting": 1},
        "crlf.csv": {"lineterminator": "\r\n"},
    }[how]
    frame.to_csv(content, index=False, **options)
    return gzip.compress(content.getvalue()) if how.endswith("gz") else content.getvalue()


FILES = (
    *("csv", "csv.gz", "semicolon.csv", "quoted.semicolon.csv", "tsv", "bom.csv", "utf16.csv"),
    *("quoted.csv", "crlf.csv", "parquet", "feather"),
)


@pytest.mark.parametrize("how", FILES)
def test_a_table_means_the_same_in_every_kind_of_file(tmp_path: Path, how: str) -> None:
    frame = people()
    frame.loc[3, "job"] = 'a "big"\nline; with, marks'
    path = tmp_path / f"people.{how}"
    path.write_bytes(written(frame, how))
    found = load_table(path, "income")
    assert list(found.X.columns) == [*FEATURES, "paid"]
    np.testing.assert_array_equal(found.y, frame["income"])
    assert found.X["job"][3] == 'a "big"\nline; with, marks'
    for name in FEATURES:
        left, right = found.X[name], frame[name]
        assert (left.isna() == right.isna()).all()
        if name == "joined":
            left = pandas.to_datetime(left)
        assert (left[right.notna()] == right[right.notna()]).all(), name


@pytest.mark.parametrize("first", ["sep=;\r\n", '"SEP=;"\n'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_line_in_which_excel_names_the_separator_is_no_header(
    tmp_path: Path, first: str, encoding: str
) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes((first + "a,b;y\n1,5;0\n2,5;1\n\n3,5;1\n").encode(encoding))
    found = load_table(path, "y")
    assert (list(found.X.columns), found.X["a,b"].tolist()) == (["a,b"], [1.5, 2.5, 3.5])
    assert texts(str(path), ["a,b"])["a,b"].tolist() == ["1,5", "2,5", "3,5"]
    path.write_bytes((first + "a;y\n1;0\n2\n").encode(encoding))
    with pytest.raises(DataError, match="line 4: 1 cell, but the header names 2 columns"):
        load_table(path, "y")


@pytest.mark.parametrize("how", ["csv", "csv.gz", "parquet"])
def test_a_table_comes_in_by_the_standard_input(
    how: str, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    content = written(people(), how)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    code, out, _ = command("train", "--data", "-", "--target", "paid", "--epochs", 1)
    assert code == 0
    assert "standard input: 96 examples to train on, 24 held out, 2 classes" in out


finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 6), st.integers(2, 4)), elements=finite
)


@settings(deadline=None, max_examples=50)
@given(table=numbers, delimiter=st.sampled_from(",;\t|"), packed=st.booleans(), bom=st.booleans())
def test_numbers_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    table: np.ndarray,
    delimiter: str,
    packed: bool,
    bom: bool,
) -> None:
    names = [f"column {i}" for i in range(table.shape[1])]
    lines = [names, *[[repr(float(v)) for v in row] for row in table]]
    text = "\n".join(delimiter.join(line) for line in lines).encode()
    text = b"\xef\xbb\xbf" * bom + text
    path = tmp_path_factory.mktemp("csv") / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(text) if packed else text)
    found = load(str(path), Request(target=(names[0],)))
    assert found.y is not None
    assert found.y.tobytes() == table[:, 0].tobytes()
    assert np.array_equal(found.X.to_numpy(), table[:, 1:])
    assert (found.features, found.target) == (tuple(names[1:]), (names[0],))


def test_a_name_may_hold_separators_and_the_end_of_a_line(tmp_path: Path) -> None:
    """As spreadsheets write a header of two lines."""
    path = tmp_path / "d.csv"
    path.write_text('"price,\nEUR";"in, all, of, it";y\n1,5;2;0\n2,5;3;1\n', encoding="utf-8")
    data = load_table(path, "y")
    assert list(data.X.columns) == ["price,\nEUR", "in, all, of, it"]
    assert data.X.to_numpy().tolist() == [[1.5, 2.0], [2.5, 3.0]]


@pytest.mark.parametrize(
    ("content", "cells"),
    [
        ("400.5;x\n1,5;2\n", [1.5, 2.0]),
        ("a\tb\n1.2e-05\t1,2\n", ["1.2e-05", "1,2"]),
        (f"{'a' * 70_000};b\n1,5;2\n", [1.5, 2.0]),
        ('a;note\n1,5;"from 1;\n1.5"\n', [1.5, "from 1;\n1.5"]),
    ],
)
def test_cells_alone_show_how_numbers_are_written(
    content: str, cells: list[Any], tmp_path: Path
) -> None:
    """Of a header of wave lengths nothing follows, nor of parts of a cell; exponents have marks."""
    (tmp_path / "d.csv").write_text(content)
    found = load_table(tmp_path / "d.csv").X.iloc[0].tolist()
    assert found == [float(cells[0]), cells[1]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_header_may_be_longer_than_a_sample(encoding: str, end: str, tmp_path: Path) -> None:
    """As of genes: thousands of columns with names of their own."""
    names = [f"column {i} of a größere Tabelle" for i in range(4000)]
    lines = [",".join([*names, "y"]), *(",".join([f"{i}.5"] * 4000 + [str(i)]) for i in range(3))]
    text = "\n".join(lines).encode(encoding)
    assert len(lines[0]) > 1 << 16
    path = tmp_path / f"d.csv{end}"
    path.write_bytes(gzip.compress(text) if end else text)
    data = load_table(path, "y")
    assert list(data.X.columns) == names
    assert data.y is not None
    assert data.y.tolist() == [0, 1, 2]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("shift", range(3))
def test_a_sample_may_end_within_a_character(mark: str, shift: int, tmp_path: Path) -> None:
    path, word = tmp_path / "d.csv", "€" * 9
    path.write_text(f"{mark}x,y\n{'a' * shift}{word},0\n" + f"{word},1\n" * 3000, encoding="utf-8")
    assert load_table(path).X.x.tolist() == ["a" * shift + word, *[word] * 3000]


def test_a_cell_may_be_long(tmp_path: Path) -> None:
    """Also where lines are counted, because their last cells are empty."""
    path, text = tmp_path / "d.csv", "word " * 50_000 + "end"
    path.write_text(f"x,y\n{text},1\nshort,\n", encoding="utf-8")
    assert load_table(path).X.x.tolist() == [text, "short"]


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    source = str(tmp_path / "d.csv")
    Path(source).write_text("id,b,a,t\nx1,1,2,3\n\nx2,4,5,6\n")
    found = load(source, Request(target=("t",), drop=("id",)))
    assert (found.features, found.X.to_numpy().tolist()) == (("b", "a"), [[1, 2], [4, 5]])
    found = load(source, Request(features=("a", "b"), labelled=False))
    assert (found.y, found.X.to_numpy().tolist()) == (None, [[2, 1], [5, 4]])
    found = load(source, Request(features=("a",), target=("t", "b")))
    assert found.y is not None
    assert found.y.tolist() == [[3, 1], [6, 4]]


@pytest.mark.parametrize("how", ["csv", "parquet"])
def test_a_line_of_totals_without_a_target_makes_no_words_of_numbers(
    tmp_path: Path, how: str
) -> None:
    path = tmp_path / f"d.{how}"
    cells = [*map(str, range(9)), "Total"]
    frame = pandas.DataFrame(
        {"self": cells, "b": [*cells[:8], "x", None], "y": [0, 1, 1] * 3 + [None]}
    )
    path.write_bytes(written(frame, how))
    found = load_table(path, "y").X
    assert found["self"].tolist() == list(range(9))
    assert found["b"].tolist() == [*cells[:8], "x"]


def test_the_kind_of_a_column_is_decided_by_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    code = [*range(300_000), "0017x"]
    path.write_text("code,y\n" + "".join(f"{cell},1\n" for cell in code))
    found = load_table(path, "y").X["code"]
    assert (found[0], found[300_000]) == ("0", "0017x")


def test_words_for_gaps_are_the_usual_ones_and_those_that_are_named(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("a,b,y\n1,x,0\n?,NA,1\n,n/a,0\n-99,unknown,1\n5,,0\n")
    found = load_table(path, "y", missing=["-99", "unknown"])
    assert found.X["a"].isna().tolist() == [False, True, True, True, False]
    assert found.X["b"].isna().tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("how", ["csv", "parquet", "feather", "frame"])
def test_a_number_that_stands_for_a_gap_is_one_in_every_kind_of_file(
    tmp_path: Path, how: str
) -> None:
    cells = {"whole": [1, -999, 2**53 + 1], "real": [0.5, 1.5, -999.0], "word": ["u", "-999", "v"]}
    frame = pandas.DataFrame({**cells, "y": [0, 1, -999]})
    path = tmp_path / f"d.{how}"
    if how != "frame":
        path.write_bytes(written(frame, how))
    found = load_table(frame if how == "frame" else path, "y", missing="-999")
    assert found.X.isna().to_numpy().tolist() == [[False] * 3, [True, False, True]]
    assert found.y is not None
    assert found.y.tolist() == [0, 1]


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
def test_a_data_frame_is_a_table_too(library: str) -> None:
    frame = people().set_index(np.arange(120) + 7)
    frame.loc[9, "paid"] = None
    given = {"pandas": lambda: frame, "polars": lambda: polars.from_pandas(frame)}
    source = given.get(library, lambda: pyarrow.Table.from_pandas(frame, preserve_index=False))()
    found = load_table(source, "paid", drop=["income"])
    assert (list(found.X.columns), len(found.X)) == (FEATURES, 119)
    assert found.notes == ("1 row without a value in 'paid' is left out",)
    model = model_for(found, (8,)).fit(found.X, found.y, epochs=2, progress=False)
    assert set(model.predict(source)) <= {"yes", "no"}
    with pytest.raises(DataError, match="source has two columns 'x'"):
        load_table(pandas.DataFrame([[1, 2]], columns=["x", "x"]), "x")
    with pytest.raises(DataError, match="source has columns, but no examples"):
        load_table(frame.head(0), "paid")


def test_rows_without_a_target_are_left_out_and_counted(command: Callable[..., Any]) -> None:
    frame = people()
    frame.loc[[2, 5, 7], "paid"] = None
    frame.to_csv("d.csv", index=False)
    code, out, err = command("train", "--data", "d.csv", "--target", "paid", "--dry-run")
    assert code == 0
    assert "94 examples to train on, 23 held out, 2 classes" in out
    assert "3 rows without a value in 'paid' are left out" in err


def labelled(place: str, labels: Sequence[str], m: int = 60, mark: str = ",") -> None:
    """A table of a measure and of the label that follows from it, in turn."""
    i = np.arange(m) % len(labels)
    x = i + np.random.default_rng(0).uniform(0, 0.3, m)
    lines = [f"{a:.3f}{mark}{labels[k]}" for a, k in zip(x, i, strict=True)]
    Path(place).write_text("\n".join([f"x{mark}y", *lines]) + "\n")


@pytest.mark.parametrize("mark", [",", ", ", "\t"])
def test_labels_with_leading_zeros_come_back_as_they_are_written(
    mark: str, command: Callable[..., Any]
) -> None:
    labelled("months.csv", ["01", "02", "10"], mark=mark)
    code, out, _ = command("train", "--data", "months.csv", "--target", "y", "--no-progress")
    assert code == 0
    assert {"01", "02", "10"} <= {line.split(" ")[0] for line in out.split("\n")}
    code, out, _ = command("predict", "model.safetensors", "months.csv")
    assert code == 0
    assert out.split() == ["prediction", *["01", "02", "10"] * 20]
    labelled("tens.csv", ["10", ""], mark=mark)  # alone it would be a number, with gaps 10.0
    code, out, _ = command("evaluate", "model.safetensors", "tens.csv")
    assert code == 0
    assert "on 30 examples of tens.csv" in out


def test_labels_without_leading_zeros_are_numbers(tmp_path: Path) -> None:
    labelled(str(tmp_path / "plain.csv"), ["0", "-2", "10"])
    assert load_table(tmp_path / "plain.csv", "y").y.tolist()[:3] == [0, -2, 10]
    labelled(str(tmp_path / "parts.csv"), ["0.5", "01.5", "02"])
    assert load_table(tmp_path / "parts.csv", "y").y.tolist()[:3] == [0.5, 1.5, 2]


def test_numbers_with_leading_zeros_are_learnt_where_the_loss_is_for_numbers(
    command: Callable[..., Any],
) -> None:
    labelled("counts.csv", [f"{i:04}" for i in range(60)])
    options = ("--data", "counts.csv", "--target", "y", "--no-progress", "--epochs", "1")
    code, _, err = command("train", *options)
    assert code == 1
    assert "'0000', '0001'" in err
    assert "use --loss squared_error" in err
    code, out, _ = command("train", *options, "--loss", "squared_error")
    assert code == 0
    assert "R²" in out
    code, out, _ = command("evaluate", "model.safetensors", "counts.csv")
    assert code == 0
    assert "R²" in out


def test_words_with_blanks_behind_are_the_same_words_later(command: Callable[..., Any]) -> None:
    lines = [f"{'red ' if i % 2 else 'blue '}, {'yes ' if i % 2 else 'no '}" for i in range(40)]
    Path("blanks.csv").write_text("\n".join(["colour, y", *lines]) + "\n")
    code, _, _ = command("train", "--data", "blanks.csv", "--target", "y", "--no-progress")
    assert code == 0
    code, out, err = command("evaluate", "model.safetensors", "blanks.csv")
    assert code == 0
    assert out.startswith("accuracy 1,")
    assert "did not meet" not in err


def test_words_with_blanks_around_them_are_found_again_whoever_read_them(tmp_path: Path) -> None:
    lines = [f"{('red ', 'blue')[i % 2]},{('yes', 'no')[i % 2]}" for i in range(40)]
    (tmp_path / "blanks.csv").write_text("\n".join(["colour,y", *lines]))
    data = load_table(tmp_path / "blanks.csv", "y")
    model = model_for(data, (4,)).fit(data.X, data.y, epochs=1, progress=False)
    frame = pandas.read_csv(tmp_path / "blanks.csv")
    assert set(frame.colour) == {"red ", "blue"}  # as pandas reads them
    assert np.array_equal(model.predict_proba(frame), model.predict_proba(data.X))
    mixed = pandas.DataFrame({"colour": ["red ", "red", "blue"] * 9, "y": [0, 1, 0] * 9})
    both = load_table(mixed, "y")
    assert prepare(both).table.columns[0].values == ("blue", "red", "red ")
    apart = prepare(both).table.rows("X", both.X)[:3]
    assert apart.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_blanks_round_a_separator_are_of_no_cell(tmp_path: Path) -> None:
    rows = [f"{i} , {('yes', 'no ')[i % 2]}{' ' * (i % 3)}, 1.5 " for i in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["a , y , b", *rows]))
    data = load_table(tmp_path / "t.csv", "y")
    assert set(data.y.tolist()) == {"yes", "no"}
    assert [data.X[name].dtype.kind for name in ("a", "b")] == ["i", "f"]


@pytest.mark.parametrize(
    "line", ["{} , {} , {} , {} ", "{} ,{} ,{} ,{} ", "{},{},{},{}", " {}, {}, {}, {}"]
)
@pytest.mark.parametrize("order", ["abcy", "ybca"])
def test_blanks_are_of_no_cell_wherever_they_stand(line: str, order: str, tmp_path: Path) -> None:
    cells = {
        "a": [1.5, "   ", 3.5, 4.0] * 3,
        "b": [True, "  False", "NA ", True] * 3,
        "c": ["red   ", "blue", "  red", "N/A"] * 3,
        "y": ["01 ", "02", "NA ", " 10"] * 3,
    }
    table = zip(*(cells[name] for name in order), strict=True)
    lines = [line.format(*order), *(line.format(*row) for row in table)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    data = load_table(tmp_path / "t.csv", "y")
    assert data.y is not None
    assert data.y.tolist() == ["01", "02", "10"] * 3
    found = data.X.astype(object).where(data.X.notna(), None)
    assert found["a"].tolist() == [1.5, None, 4.0] * 3
    assert found["b"].tolist() == [True, False, True] * 3
    assert found["c"].tolist() == ["red", "blue", None] * 3


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["note", "self"])
def test_blanks_are_of_no_cell_whose_words_take_several_lines(
    name: str, end: str, tmp_path: Path
) -> None:
    words = [f"red{end}wine", "white", f"a {end} b"]
    rows = [f'"{word} ",{i}' for i, word in enumerate(words)]
    (tmp_path / "t.csv").write_text("\n".join([f"{name},y", *rows]), newline="")
    assert load_table(tmp_path / "t.csv", "y").X[name].tolist() == words


# -- what columns become -------------------------------------------------------------


def learnt(frame: Any, **options: Any) -> Columns:
    Y = np.arange(len(frame), dtype=float)[:, None]
    return learn(frame, Y, **options)


def test_each_column_is_told_as_what_it_is() -> None:
    found = {column.name: str(column) for column in learnt(people()[FEATURES]).columns}
    assert found["id"] == "left out: it numbers the rows"
    assert found["age"].startswith("number, gaps filled with ")
    assert found["age"].endswith(" and marked")
    assert found["city"] == "3 words, a column each, and one for gaps"
    assert found["job"] == "35 words, coded by the target"
    assert found["member"] == "number"
    assert found["joined"] == "date: year, month, day, total_seconds, weekday"
    assert found["country"] == "left out: it is 'Norway' throughout"


CELLS: dict[str, tuple[list[Any], str]] = {
    "whole": ([3, 1, 2, 2], "number"),
    "a year a row": ([1990, 1987, 1999, 2001], "number"),
    "counting": ([7, 8, 9, 10], "left out: it numbers the rows"),
    "nullable": (pandas.array([1, 5, None, 2], "Int64"), "number, gaps filled with 2 and marked"),
    "truth": ([True, False, None, True], "number, gaps filled with 1 and marked"),
    "categories": (pandas.Categorical([3, 1, 3, 1]), "2 words, a column each"),
    "codes": (["01", "02", "01", None], "2 words, a column each, and one for gaps"),
    "days": (["03/02/2020", "14/02/2020", "03/02/2020", None],
        "date (%d/%m/%Y): year, month, day, total_seconds, weekday, gaps marked"),
    "hours": (["2020-01-01 10:00", "2020-01-02 11:30"] * 2,
        "date (%Y-%m-%d %H:%M): year, month, day, hour, total_seconds, weekday"),
    "date objects": ([datetime.date(2020, 1, day) for day in (1, 2, 3, 9)],
        "date: year, month, day, total_seconds, weekday"),
    "names": (["Ann", "Bo", "Cy", "Di"], "left out: 4 of its 4 words are different"),
    "empty": ([None, None, None, None], "left out: it is empty"),
    "one word and gaps": (["x", None, "x", None], "1 word, a column each, and one for gaps"),
}  # fmt: skip


@pytest.mark.parametrize("case", CELLS)
def test_cells_show_what_a_column_is(case: str) -> None:
    cells, becomes = CELLS[case]
    found = learnt(pandas.DataFrame({"c": cells, "other": [1.0, 5.0, 2.0, 2.5]}))
    assert str(found.columns[0]) == becomes


def test_what_looks_like_nothing_to_learn_from_is_used_when_asked_for() -> None:
    frame = pandas.DataFrame({"id": [7, 8, 9, 10], "name": list("abcd")})
    found = learnt(frame, keep=["id", "name"])
    assert [str(column) for column in found.columns] == ["number", "4 words, coded by the target"]
    frame = pandas.DataFrame({"place": ["Oslo"] * 4, "year": 2020})
    found = learnt(frame, keep=["place", "year"])
    assert [str(column) for column in found.columns] == ["1 word, a column each", "number"]


def test_grades_are_words_and_numbers_with_another_mark_for_gaps_are_not() -> None:
    grades = [*map(str, range(12)), "10+"]
    assert str(learnt(pandas.DataFrame({"c": grades * 3})).columns[0]) == "13 words, a column each"
    prices = [f"{price}.5" for price in range(12)]
    for cells, slip in ((prices * 3 + ["-"], "'-'"), (prices + ["1O.5"] * 2, "'1O.5'")):
        with pytest.raises(
            TableError, match=f"{slip} is no number, but 12 of 13 .*--missing {slip}"
        ):
            learnt(pandas.DataFrame({"c": cells}))


def test_a_slip_is_found_in_the_rows_that_are_not_trained_on() -> None:
    cells = [f"{i}.5" for i in range(40)] + ["#DIV/0!"]
    frame = pandas.DataFrame({"c": cells, "x": np.arange(41) ** 2})
    data = a_set(frame, [0, 1] * 20 + [0], ["c", "x"])
    with pytest.raises(TableError, match="row 41, column 'c': '#DIV/0!' is no number, but 40 of"):
        prepare(data, np.arange(30))


def test_numbers_as_text_are_called_that_and_categories_taken_as_meant() -> None:
    cells = [f"{i}.5" for i in range(40)] * 2
    with pytest.raises(TableError, match=r"column 'c' holds numbers as text, such as '0\.5'"):
        learnt(pandas.DataFrame({"c": cells}))
    found = learnt(pandas.DataFrame({"c": pandas.Categorical(cells)}))
    assert str(found.columns[0]) == "40 words, coded by the target"


def test_the_numbers_of_a_row_are_these() -> None:
    frame = pandas.DataFrame(
        {
            "n": [1.0, np.nan, 4.0, 3.0],
            "w": ["a", "b", None, "a"],
            "b": [True, False, True, True],
            "d": pandas.to_datetime(["2020-02-03", None, "2021-12-31", "2020-02-03"]),
        }
    )
    found = learnt(frame)
    assert found.outputs == (
        *("n", "n missing", "w is a", "w is b", "w is missing", "b"),
        *("d year", "d month", "d day", "d total_seconds", "d weekday", "d missing"),
    )
    seconds = [pandas.Timestamp(day).timestamp() for day in ("2020-02-03", "2021-12-31")]
    expected = [
        [1, 0, 1, 0, 0, 1, 2020, 2, 3, seconds[0], 1, 0],
        [3, 1, 0, 1, 0, 0, 2020, 2, 3, seconds[0], 1, 1],
        [4, 0, 0, 0, 1, 1, 2021, 12, 31, seconds[1], 5, 0],
        [3, 0, 1, 0, 0, 1, 2020, 2, 3, seconds[0], 1, 0],
    ]
    rows = found.rows("X", frame)
    np.testing.assert_allclose(rows, expected, rtol=1e-7)  # skrub's seconds are float32
    assert found.scaled.tolist() == [True, False, False, False, False, True] + [True] * 5 + [False]


@pytest.mark.parametrize("kind", ["numbers", "two classes", "three classes"])
def test_many_words_are_coded_as_scikit_learn_does(kind: str) -> None:
    frame, rng = people(300)[["job"]], np.random.default_rng(1)
    y = {
        "numbers": rng.normal(size=300),
        "two classes": rng.choice(["no", "yes"], 300),
        "three classes": rng.choice(["a", "b", "c"], 300),
    }[kind]
    found = prepare(a_set(frame, y, ["job"]))
    assert found.table is not None
    Y = found.columns_of(y)
    for j, part in enumerate(Y.T):
        folds = KFold(5, shuffle=True, random_state=0)
        encoder = TargetEncoder(target_type="continuous", cv=folds)
        crossed = encoder.fit_transform(frame, part)[:, 0]
        np.testing.assert_array_equal(found.table.rows("X", frame, Y)[:, j], crossed)
        np.testing.assert_array_equal(
            found.table.rows("X", frame)[:, j], encoder.transform(frame)[:, 0]
        )


def test_a_model_does_not_learn_its_own_targets_by_words_that_mean_nothing() -> None:
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {"w": rng.integers(0, 200, 600).astype(str), "x": rng.normal(size=600)}
    )
    frame["w"] = "w" + frame["w"]
    data = mlp_xp.data.Dataset("d", frame, rng.normal(size=600), features=("w", "x"), table=frame)
    model = model_for(data, (), learning_rate=0.05)
    model.fit(data.X, data.y, epochs=60, progress=False)
    new = frame.assign(x=rng.normal(size=600))
    slope = np.corrcoef(model.predict(new), data.y)[0, 1]
    assert slope < 0.5  # 0.6 when each row's own target is among those that code its word
    leaky = prepare(data)
    assert leaky.table is not None
    own = leaky.table.rows("X", frame)[:, 0]
    other = leaky.table.rows("X", frame, leaky.columns_of(data.y))[:, 0]
    assert np.corrcoef(own, data.y)[0, 1] > 0.5 > abs(np.corrcoef(other, data.y)[0, 1]) + 0.3


def test_targets_that_float32_cannot_tell_apart_are_refused() -> None:
    """They are learnt scaled, with a good score, but all answers would be one number."""
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 3))
    times = 1.7e9 + 30 * X[:, 0]  # seconds, within minutes
    data = Dataset("t.npz", X, times)
    with pytest.raises(
        DataError, match=r"target 0: .* float32 has none .* closer than 203. Subtract"
    ):
        model_for(data)
    model = model_for(data, (32,), dtype="float64", learning_rate=0.01)
    model.fit(X, times, layout="rows", epochs=40, progress=False)
    error = model.predict(X) - times
    assert 1 - np.var(error) / np.var(times) > 0.95
    hours = Dataset("t.npz", X, 1.7e9 + 3600 * X[:, 0])
    assert model_for(hours).dtype == "float32"


@pytest.mark.parametrize("size", [1e-47, 1e45])
@pytest.mark.parametrize("what", ["column 'a'", "target 'y'"])
def test_numbers_that_no_file_of_the_dtype_could_scale_are_refused(
    size: float, what: str, command: Callable[..., Any]
) -> None:
    """Such as moments of inertia of molecules, in kg m²."""
    a = np.random.default_rng(0).normal(size=60)
    table = pandas.DataFrame({"a": a, "y": 2 * a})
    table[what[-2]] *= size
    table.to_csv("t.csv", index=False)
    options = ("--data", "t.csv", "--target", "y", "--no-progress", "--hidden", "8")
    code, _, err = command("train", *options)
    assert code == 1
    assert f"t.csv, {what}: its numbers are " in err
    assert "which float32 does not hold" in err
    assert not Path("model.safetensors").exists()
    assert command("train", *options, "--dtype", "float64")[0] == 0
    code, out, _ = command("evaluate", "model.safetensors", "t.csv")
    assert code == 0
    assert "R² 0.9" in out


# -- at predict ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> tuple[MLP, Any]:
    frame = people(400)
    data = a_set(frame, frame["income"], FEATURES)
    model = model_for(data, (32,), learning_rate=0.01)
    model.fit(data.X, data.y, epochs=40, progress=False)
    return model, frame


def test_a_table_is_learnt_from(trained: tuple[MLP, Any]) -> None:
    model, _ = trained
    new = people(200, seed=1)
    assert model.evaluate(new[FEATURES], new["income"]).score > 0.85


def frames(frame: Any) -> dict[str, Any]:
    """The same table in other libraries, and other orders and dtypes."""
    return {
        "reversed": frame[FEATURES[::-1]],
        "more columns": frame.assign(more="x"),
        "fewer": frame.drop(columns=["id", "country"]),  # which were left out
        "other index": frame.set_index(pandas.Index(range(1, len(frame) + 1))),
        "polars": polars.from_pandas(frame),
        "arrow": pyarrow.Table.from_pandas(frame),
        "objects": frame.astype(object),
        "nullable": frame.convert_dtypes(),
        "pandas on arrow": frame.convert_dtypes(dtype_backend="pyarrow"),
        "categories": frame.assign(city=frame["city"].astype("category")),
        "member as numbers": frame.assign(member=frame["member"].astype(int)),
        "dates as text": frame.assign(joined=frame["joined"].dt.strftime("%Y-%m-%d")),
        "dates with a zone": frame.assign(joined=frame["joined"].dt.tz_localize("UTC")),
    }


def test_dates_of_arrow_in_pandas_are_learnt_from() -> None:
    frame = people()[["joined", "city"]]
    day = frame["joined"].dt.date.astype(pandas.ArrowDtype(pyarrow.date32()))
    on_arrow = frame.convert_dtypes(dtype_backend="pyarrow")
    assert learnt(on_arrow) == learnt(frame.assign(joined=day)) == learnt(frame)


@pytest.mark.parametrize(
    "words",
    [("01", "02", "A7"), tuple(f"{i:03}" if i < 20 else f"A{i}" for i in range(40))],
)
def test_a_number_is_the_word_that_it_was_before_a_reader_made_a_number_of_it(
    words: tuple[str, ...],
) -> None:
    """A table of '01' and 'A7' is text, the next one, of '01' alone, numbers to any reader."""
    text = pandas.DataFrame({"code": words * 4})
    columns = learnt(text)
    some = pandas.DataFrame({"code": words[:2]})
    for read in (
        some["code"].astype(int),
        some["code"].astype("Int64"),
        some["code"].astype(float),
    ):
        frame = pandas.DataFrame({"code": read})
        np.testing.assert_array_equal(columns.rows("X", frame), columns.rows("X", some))
        assert columns.unknown(frame) == {}
    assert columns.unknown(pandas.DataFrame({"code": [77]})) == {"code": (1, "77")}
    two = learnt(pandas.DataFrame({"code": ("1", "01", "A7", "1.0") * 4}))
    exact = two.rows("X", pandas.DataFrame({"code": [1]}))
    np.testing.assert_array_equal(exact, two.rows("X", pandas.DataFrame({"code": ["1"]})))


@pytest.mark.parametrize("how", list(frames(people(20))))
def test_the_same_table_predicts_the_same_however_it_comes(
    trained: tuple[MLP, Any], how: str
) -> None:
    model, frame = trained
    expected = model.predict(frame)
    np.testing.assert_array_equal(model.predict(frames(frame)[how]), expected)


def test_whole_numbers_with_gaps_are_the_same_words() -> None:
    cells = ["1", "2", "2", "1", "3", "3"]
    found = learnt(pandas.DataFrame({"code": cells, "x": np.arange(6.0)[::-1]}))
    floats = pandas.DataFrame({"code": [1.0, 2.0, np.nan, 1.0, 3.0, 3.0], "x": np.zeros(6)})
    assert found.rows("X", floats)[:, :3].argmax(axis=1).tolist() == [0, 1, 0, 0, 2, 2]
    assert found.rows("X", floats)[2, :3].tolist() == [0, 0, 0]  # no gap in training


def test_a_new_word_is_none_of_the_known_and_is_said(
    command: Callable[..., Any],
) -> None:
    people(200).to_csv("d.csv", index=False)
    assert command("train", "--data", "d.csv", "--target", "income", "--epochs", 1)[0] == 0
    new = people().head(3).assign(city="Paris", job=["job 1", "spy", "spy"])
    new.to_csv("new.csv", index=False)
    code, _, err = command("predict", "model.safetensors", "new.csv")
    assert code == 0
    assert "column 'city': 3 rows hold words that training did not meet, such as 'Paris'" in err
    assert "column 'job': 2 rows hold words that training did not meet, such as 'spy'" in err
    model = MLP.load("model.safetensors")
    table = model.preparation.table  # type: ignore[union-attr]
    rows = dict(zip(table.outputs, table.rows("X", new).T, strict=True))  # type: ignore[union-attr]
    assert [rows[f"city is {city}"].tolist() for city in CITIES] == [[0, 0, 0]] * 3


PREDICT_ERRORS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "missing column": (lambda f: f.drop(columns="city"),
        "X has no column 'city', which the model was trained on.*in any order, but found 'id'"),
    "renamed": (lambda f: f.rename(columns={"age": "Age"}), "X has no column 'age'"),
    "twice": (lambda f: pandas.concat([f, f[["age"]]], axis=1), "X has two columns 'age'"),
    "words for numbers": (lambda f: f.assign(age="old"),
        r"X, row 1, column 'age': 'old' is no number, but .*\(400 such cells\)"),
    "infinite": (lambda f: f.assign(age=np.inf), "row 1, column 'age': 'inf' is infinite"),
    "no date": (lambda f: f.assign(joined="soon"), "column 'joined': 'soon' is no date"),
    "a new gap": (lambda f: f.assign(member=None),
        "X, row 1, column 'member' is empty, but the column had no gap in training"),
    "an array": (lambda f: f.to_numpy(), "X is a ndarray, but the model was trained on a table"),
}  # fmt: skip


@pytest.mark.parametrize("case", PREDICT_ERRORS)
def test_a_table_that_is_not_what_it_was_is_refused(trained: tuple[MLP, Any], case: str) -> None:
    model, frame = trained
    change, message = PREDICT_ERRORS[case]
    with pytest.raises((TableError, TypeError), match=message):
        model.predict(change(frame[FEATURES]))


def test_a_table_without_rows_is_said_to_be_that(trained: tuple[MLP, Any]) -> None:
    model, frame = trained
    with pytest.raises(TableError, match="X has columns, but no rows: there are no examples"):
        model.predict(frame[FEATURES].iloc[:0])


def test_a_table_of_numbers_alone_is_known_by_name_too() -> None:
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(rng.normal(size=(90, 3)) * [1, 10, 100], columns=["a", "b", "c"])
    data = mlp_xp.data.Dataset(
        "d", frame, frame["a"].to_numpy(), features=("a", "b", "c"), table=frame
    )
    model = model_for(data, (8,))
    model.fit(frame, data.y, epochs=2, progress=False)
    assert model.preparation is not None
    assert model.preparation.table is None
    expected = model.predict(frame)
    for other in (frame[["c", "a", "b"]], polars.from_pandas(frame)[["b", "c", "a"]]):
        np.testing.assert_array_equal(model.predict(other), expected)
    np.testing.assert_array_equal(model.predict(frame.to_numpy(), layout="rows"), expected)
    with pytest.raises(TableError, match="X has no column 'b'"):
        model.predict(frame.rename(columns={"b": "B"}))
    with pytest.raises(TableError, match="row 2, column 'b' is empty, but the column had no gap"):
        model.predict(frame.assign(b=frame["b"].where(frame.index != 1)))
    for word in ("oops", None):
        typed = frame.astype(object)
        typed.loc[1, "b"], typed.loc[3, "c"] = word, "4O"
        place = "row 4, column 'c': '4O'" if word is None else "row 2, column 'b': 'oops'"
        for other in (typed, polars.from_dict(typed.to_dict("list"), strict=False)):
            with pytest.raises(TableError, match=f"X, {place} is no number"):
                model.predict(other)


@pytest.mark.parametrize("words", [[], ["u", "v"]])
@pytest.mark.parametrize(("cell", "why"), [("oops", "no number"), ("", "empty"), ("inf", "infin")])
def test_the_row_of_a_fault_is_that_of_the_file(
    words: list[str], cell: str, why: str, command: Callable[..., Any]
) -> None:
    """Though rows above it have no target, and are left out."""
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"a": rng.normal(size=60), "y": ["p", "q"] * 30})
    frame["w"] = rng.choice(words, 60) if words else rng.normal(size=60)
    frame.to_csv("t.csv", index=False)
    assert command("train", "--data", "t.csv", "--target", "y", "--epochs", "1")[0] == 0
    frame = frame.astype(object)
    frame.loc[[0, 2], "y"] = ""
    frame.loc[5, "a"] = cell
    frame.to_csv("bad.csv", index=False)
    trials = [
        ("predict", "model.safetensors", "bad.csv"),
        ("evaluate", "model.safetensors", "bad.csv"),
    ]
    if why == "infin":
        trials.append(("train", "--data", "bad.csv", "--target", "y"))
    for argv in trials:
        code, _, err = command(*argv)
        assert code == 1
        assert re.search(f"bad.csv, row 6, column 'a'(: '{cell}')? is {why}", err), err


@pytest.mark.parametrize(
    "names", [(0, 1, 2), (1.5, "b", None), (("a", "x"), ("a", "y"), ("b", ""))]
)
def test_columns_whose_names_are_no_text_are_found_by_name(names: tuple[Any, ...]) -> None:
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({i: rng.normal(size=90) * 10**i for i in range(3)})
    frame = frame.set_axis(
        pandas.MultiIndex.from_tuples(names) if isinstance(names[0], tuple) else names, axis=1
    )
    data = load_table(frame, str(frame.columns[2]))
    model = model_for(data, (8,)).fit(data.X, data.y, epochs=2, progress=False)
    for order in ([1, 0], [2, 1, 0]):
        np.testing.assert_array_equal(model.predict(frame.iloc[:, order]), model.predict(data.X))


# -- files ---------------------------------------------------------------------------

TASKS: dict[str, tuple[str, tuple[object, ...]]] = {
    "numbers": ("income", ("--drop", "paid")),
    "classes": ("paid", ("--drop", "income")),
    "two": ("paid", ("--loss", "binary_cross_entropy")),
    "truth": ("member", ("--drop", "paid")),
    "three": ("city", ("--drop", "income")),
    "minmax": ("income", ("--scale", "minmax", "--no-scale-target")),
    "unscaled": ("paid", ("--scale", "none", "--hidden", "none")),
    "everything": ("income", ("--keep", "id", "--dtype", "float64")),
}


def printed(out: str) -> list[list[str]]:
    return [line.split(",") for line in out.splitlines()]


@pytest.mark.parametrize("task", TASKS)
def test_a_model_of_a_table_travels_from_the_command_line_and_back(
    task: str, command: Callable[..., Any]
) -> None:
    target, options = TASKS[task]
    people(150).dropna(subset=["city"] if task == "three" else []).to_csv("d.csv", index=False)
    argv = ("--data", "d.csv", "--target", target, "--epochs", 3, *options)
    code, _, err = command("train", *argv)
    assert code == 0, err
    out = command("predict", "model.safetensors", "d.csv")[1]
    frame = pandas.read_csv("d.csv")

    model = MLP.load("model.safetensors")
    lines = out.splitlines()[-len(frame) :]
    assert [str(value) for value in model.predict(frame)] == lines
    model.save("python")
    assert command("predict", "python", "d.csv")[1] == out

    classes = model.loss.kind in ("multiclass", "binary")
    kind = mlp_xp.MLPClassifier if classes else mlp_xp.MLPRegressor
    for path in ("model.safetensors", "python", "estimator"):
        estimator = kind.load(path)
        found = estimator.predict(frame)
        if classes:
            assert [str(value) for value in found.tolist()] == lines
            proba = model.predict_proba(frame)
            np.testing.assert_allclose(
                estimator.predict_proba(frame)[:, -1],
                np.reshape(proba, (len(frame), -1))[:, -1],
                atol=2e-6,
            )
        else:
            np.testing.assert_allclose(found, model.predict(frame), rtol=2e-5, atol=2e-5)
        estimator.save("estimator")
    again = command("predict", "estimator", "d.csv")[1]
    if classes:
        assert again == out
    else:
        np.testing.assert_allclose(
            np.array(again.splitlines()[-len(frame) :], float),
            np.array(lines, float),
            rtol=2e-5,
            atol=2e-5,
        )
    told = command("evaluate", "model.safetensors", "d.csv", "--json")[1]
    assert json.loads(told)["trained_on"] == round(0.8 * len(frame))

    code, _, err = command(
        "train", "--resume", "model.safetensors", "--data", "d.csv", "--epochs", 1
    )
    assert code == 0, err


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_kept_without_a_loss(kind: str) -> None:
    frame = people(200)[FEATURES]
    found = learnt(frame)
    again = Columns.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert any(isinstance(column, KINDS[kind]) for column in again.columns)
    np.testing.assert_array_equal(again.rows("X", frame), found.rows("X", frame))


DAMAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "kind": ("number", {"kind": "code"}),
    "no kind": ("number", {"kind": None}),
    "no name": ("number", {"name": 3}),
    "more": ("words", {"more": 1}),
    "fill": ("number", {"fill": "x"}),
    "infinite": ("number", {"fill": float("inf")}),
    "holes": ("number", {"holes": 1}),
    "no list": ("words", {"values": 3}),
    "a word": ("words", {"values": "ab"}),
    "no words": ("words", {"values": []}),
    "numbers": ("words", {"values": [1, 2]}),
    "twice": ("words", {"values": ["a", "a"]}),
    "a gap between": ("words", {"values": [None, "a"]}),
    "codes": ("coded", {"codes": [[1.0]]}),
    "ragged": ("coded", {"codes": [[1.0], [1.0, 2.0]]}),
    "means": ("coded", {"means": [float("nan")]}),
    "fills": ("date", {"fills": [1.0]}),
    "form": ("date", {"form": 3}),
    "hours": ("date", {"hours": "yes"}),
    "why": ("unused", {"why": None}),
    "same name": ("number", {"name": "city"}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_columns_of_no_known_kind_are_refused(damage: str) -> None:
    kind, change = DAMAGE[damage]
    stored = json.loads(json.dumps(learnt(people(200)[FEATURES]).to_json()))
    next(column for column in stored if column["kind"] == kind).update(change)
    with pytest.raises(ValueError, match="its preparation is none that this mlp_xp knows"):
        Preparation.from_json({**Preparation("squared_error").to_json(), "table": stored})


def test_a_file_with_columns_of_no_known_kind_is_refused(
    trained: tuple[MLP, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = trained
    model.save(tmp_path / "m")
    monkeypatch.delitem(KINDS, "coded")
    with pytest.raises(ModelFileError, match="column 'job' is of kind 'coded', but known are"):
        MLP.load(tmp_path / "m")


# -- with scikit-learn ---------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_estimator_takes_tables_in_skrubs_pipeline() -> None:
    from skrub import tabular_pipeline

    frame, new = people(300), people(100, seed=1)
    pipeline = tabular_pipeline(mlp_xp.MLPClassifier(max_iter=60, random_state=0))
    pipeline.fit(frame[FEATURES], frame["paid"])
    assert pipeline.score(new[FEATURES], new["paid"]) > 0.7


# -- the command ---------------------------------------------------------------------


def test_a_dry_run_shows_every_column_and_writes_nothing(command: Callable[..., Any]) -> None:
    people().to_csv("d.csv", index=False)
    argv = ("train", "--data", "d.csv", "--target", "paid", "--dry-run")
    code, out, _ = command(*argv)
    assert code == 0
    assert "  age      number, gaps filled with" in out
    assert "  joined   date (%Y-%m-%d): year" in out
    assert "  country  left out: it is 'Norway' throughout" in out
    assert "96 examples to train on, 24 held out, 2 classes" in out
    document = json.loads(command(*argv, "--json")[1])
    assert {"name": "id", "becomes": "left out: it numbers the rows"} in document["columns"]
    assert [path.name for path in Path().iterdir()] == ["d.csv"]


def test_what_keep_cannot_use_is_not_said_to_be(command: Callable[..., Any]) -> None:
    frame = pandas.DataFrame({"a b": 1, "none": None, "x": range(3, 123, 3), "y": [0, 1] * 20})
    frame.to_csv("d.csv", index=False)
    train = ("train", "--data", "d.csv", "--target", "y", "--epochs", "1", "--no-progress")
    out = command(*train)[1]
    assert "column 'a b' is left out: it is '1' throughout; --keep 'a b' uses it\n" in out
    assert "column 'none' is left out: it is empty\n" in out
    assert "'a b'" not in command(*train, "--keep", "a b")[1]


@pytest.mark.parametrize("how", ["csv", "parquet"])
def test_the_words_that_are_gaps_travel_with_the_model(
    how: str, command: Callable[..., Any]
) -> None:
    random = np.random.default_rng(0)
    word = np.array(["u", "v", "none"] * 20)
    frame = pandas.DataFrame({"a": random.normal(size=60), "word": word, "y": word == "u"})
    frame.loc[:2, "a"] = -999
    name = f"d.{how}"
    Path(name).write_bytes(written(frame, how))
    argv = ("--data", name, "--target", "y", "--epochs", "2", "--no-progress")
    assert command("train", *argv, "--missing=-999", "--missing", "none")[0] == 0
    told = command("predict", "model.safetensors", name, "--proba", "--no-header")[1]
    holes = frame.replace({"a": -999, "word": "none"}, np.nan)
    model = MLP.load("model.safetensors")
    expected = model.predict_proba(holes)
    np.testing.assert_array_equal(model.predict_proba(frame), expected)
    found = pandas.read_csv(io.StringIO(told), header=None)
    np.testing.assert_allclose(found[[1, 2]], expected, rtol=1e-6)
    out = command("evaluate", "model.safetensors", name)[1]
    assert "on 60 examples of " + name + ", of which 48 equal rows of the training" in out


def test_a_gap_in_whole_numbers_that_had_none_is_called_one(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"a": [3, 1, 2, 5, 9, 7], "b": [2, 5, 1, 8, 3, 4], "y": [0, 1] * 3})
    data = load_table(frame, "y", missing="-9")
    model = model_for(data, (4,)).fit(data.X, data.y, epochs=1, progress=False)
    with pytest.raises(TableError, match=r"X, row 2, column 'b' is empty, but the col.* no gap"):
        model.predict(pandas.DataFrame({"a": [1, 2], "b": [3, -9]}))


def test_a_gap_among_words_that_had_none_is_said_as_a_gap(command: Callable[..., Any]) -> None:
    frame = pandas.DataFrame({"word": ["u", "v", "w", "u"] * 10, "y": [0, 1] * 20})
    frame.to_csv("d.csv", index=False)
    command("train", "--data", "d.csv", "--target", "y", "--epochs", "1", "--no-progress")
    Path("new.csv").write_text("word,x\nu,1\n,2\n")
    code, out, err = command("predict", "model.safetensors", "new.csv")
    assert (code, len(out.split())) == (0, 3)
    assert "column 'word': 1 row holds a word that training did not meet, such as a gap" in err


@pytest.mark.parametrize("words", [True, False], ids=["words", "numbers"])
def test_a_column_that_is_left_out_is_said(words: bool, command: Callable[..., Any]) -> None:
    """Whatever the other columns are."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 60)).round(3)
    names = [f"n{i}" for i in range(60)]
    frame = pandas.DataFrame({"id": range(60), "a": names, "b": b, "y": a + b > 0})
    if words:
        frame["word"] = np.where(b > 0, "high", "low")
    frame.to_csv("d.csv", index=False)
    options = ("--data", "d.csv", "--target", "y")
    code, out, _ = command("train", *options, "--epochs", "1", "--out", "m.safetensors")
    assert code == 0
    why = ("'id' is left out: it numbers the rows", "'a' is left out: 48 of its 48 words are")
    assert all(f"column {one}" in out for one in why)
    assert "column 'id' is left out" in command("train", "--resume", "m.safetensors", *options)[1]
    document = json.loads(command("train", *options, "--dry-run", "--json")[1])
    became = {column["name"]: column["becomes"] for column in document["columns"]}
    assert set(became) == set(frame.columns) - {"y"}
    assert became["id"] == "left out: it numbers the rows"
    searched = command("search", *options, "--trials", "1", "--epochs", "1", "--no-progress")[1]
    assert "column 'id' is left out" in searched


def test_a_numbering_is_known_among_the_rows_that_are_drawn(command: Callable[..., Any]) -> None:
    """Under any name, and where rows without a target are left out."""
    x = np.random.default_rng(0).normal(size=60).round(3)
    frame = pandas.DataFrame({"PassengerId": range(1, 61), "x": x, "y": x > 0})
    frame["y"] = frame["y"].astype(object).where(frame.index % 7 != 3)
    frame.to_csv("d.csv", index=False)
    code, out, _ = command("train", "--data", "d.csv", "--target", "y", "--dry-run")
    assert code == 0
    assert "  PassengerId  left out: it numbers the rows" in out
    assert "  x            number" in out


def test_without_the_extra_the_error_names_it(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    people().to_csv("d.csv", index=False)
    monkeypatch.setitem(sys.modules, "pandas", None)
    code, _, err = command("train", "--data", "d.csv", "--target", "paid")
    assert code == 1
    assert "pip install 'mlp_xp[tables]'" in err


def test_a_model_for_a_bare_frame_or_array_is_refused_with_the_cure() -> None:
    frame = pandas.DataFrame({"wide": [1.0, 2.0, 4.0], "word": ["a", "b", "a"], "y": [1.5, 2.5, 3]})
    for data in (frame, frame["wide"].to_numpy()):
        with pytest.raises(TypeError, match=r"expected a Dataset or a stream.*load_table"):
            mlp_xp.model_for(data)  # type: ignore[arg-type]
    data = load_table(frame, "y")
    assert mlp_xp.model_for(data).fit(data.X, data.y, epochs=1, progress=False).epochs_trained == 1
