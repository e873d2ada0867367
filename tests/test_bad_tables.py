"""Bad tables: each gets one sentence that says where and what to do, and nothing is written."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("skrub")
pytest.importorskip("pyarrow")

import numpy as np
import pandas

from mlp_xp.cli import main

Y = ("--target", "y")
ROWS = "".join(f"{i % 7},{i % 2}\n" for i in range(20))  # of a, y
GOOD = "a,y\n" + ROWS


def a_slip(i: int) -> str:
    return "1O.5,1,0" if i == 7 else f"{i * 1.5},{i % 3},{i % 2}"


def two_marks(i: int) -> str:
    return f"{i}{',' if i % 2 else '.'}5;1;{i % 2}"


def lines(row: Callable[[int], str], m: int = 40) -> str:
    return "a,b,y\n" + "".join(row(i) + "\n" for i in range(m))


def parquet(frame: pandas.DataFrame) -> bytes:
    content = io.BytesIO()
    frame.to_parquet(content)
    return content.getvalue()


NESTED = pandas.DataFrame({"a": [[1, 2], [3]] * 5, "y": [0, 1] * 5})
DAYS = pandas.DataFrame({"a": [1, 5] * 5, "y": pandas.Timestamp("2020-01-01")})
PARQUET = parquet(pandas.DataFrame({"a": [3, 1, 4, 1, 5] * 2, "y": [0, 1] * 5}))

# the file's name, its content, options, and what the error says
BAD: dict[str, tuple[str, str | bytes, tuple[str, ...], str]] = {
    # -- no table at all
    "empty": ("t.csv", "", Y, "t.csv is empty"),
    "blank": ("t.csv", "\n\n", Y, "t.csv has no header: its first line is blank"),
    "header only": ("t.csv", "a,y\n", Y, "t.csv has a header, but no examples below it"),
    "no header": ("t.csv", "1,2\n3,4\n", Y, "has no header: its first line is '1', '2'"),
    "spreadsheet": (
        "t.csv",
        b"PK\x03\x04rest",
        Y,
        "t.csv is no table, but a zip .* save the sheet",
    ),
    "old spreadsheet": (
        "t.csv",
        b"\xd0\xcf\x11\xe0rest",
        Y,
        "a spreadsheet: save the sheet as .csv",
    ),
    "web page": ("t.csv", "<!DOCTYPE html><html>", Y, "a web page: fetch the file itself"),
    "JSON": ("t.csv", '{"a": [1]}', Y, "JSON: save the table as .csv or .parquet"),
    "old Feather": ("t.feather", b"FEA1rest", Y, "Feather of version 1, .* write it again"),
    "npy": ("t.csv", b"\x93NUMPY\x01\x00", Y, "a .npy file under another name: rename it"),
    "binary": ("t.csv", b"a,y\n\x00\x01,2\n", Y, "t.csv is no text: it holds bytes of 0"),
    "cut gzip": (
        "t.csv.gz",
        gzip.compress(GOOD.encode())[:-9],
        Y,
        "cannot be unpacked .*fetch it again",
    ),
    "cut parquet": (
        "t.parquet",
        PARQUET[:-20],
        Y,
        "t.parquet cannot be read as parquet .*truncated or damaged",
    ),
    "only the mark": ("t.parquet", b"PAR1", Y, "t.parquet cannot be read as parquet"),
    "cut feather": ("t.feather", b"ARROW1\x00\x00rest", Y, "t.feather cannot be read as feather"),
    "unknown kind": ("t.xlsx", b"PK\x03\x04", Y, r"t.xlsx is of no known kind: .* ends in \.csv"),
    # -- text
    "latin-1": (
        "t.csv",
        "größe,y\n1,0\n".encode("latin1"),
        Y,
        r"not UTF-8 \(byte 2 is 0xf6\): convert it",
    ),
    "latin-1 below": (
        "t.csv",
        b"a,y\n" + b"x,1\n" * 30000 + b"\xe9,0\n",
        Y,
        r"not UTF-8 \(byte 120004 is 0xe9\): .*iconv",
    ),
    "latin-1 behind a mark": (
        "t.csv",
        b"\xef\xbb\xbfa,y\n" + b"x,1\n" * 30000 + b"\xe9,0\n",
        Y,
        r"not UTF-8 \(byte 120007 is 0xe9\): .*iconv",
    ),
    # -- lines
    "too long": ("t.csv", GOOD + "1,2,3\n", Y, "t.csv, line 22: 3 cells, but the header names 2"),
    "too short": (
        "t.csv",
        lines(lambda i: f"{i},{i % 3},{i % 2}" if i != 30 else "5,1"),
        Y,
        "t.csv, line 32: 2 cells, but the header names 3 columns",
    ),
    "all too long": ("t.csv", "a,y\n" + "1,2,0\n3,4,1\n" * 9, Y, "t.csv, line 2: 3 cells"),
    "open quote": ("t.csv", GOOD + '"1,0\n2,1\n', Y, "t.csv, line 23: 1 cell, .* quote left open"),
    "one column": (
        "t.csv",
        "# t\na,y\n1,0\n",
        Y,
        "line 2: 2 cells, but the header names 1 column. ",
    ),
    "another separator": (
        "t.csv",
        "a y\n1 0\n2 1\n",
        Y,
        "t.csv has no column 'y'; its columns are 'a y'",
    ),
    # -- names
    "twice": ("t.csv", "a,a,y\n1,2,0\n", Y, "t.csv has two columns 'a', .* rename one"),
    "two targets": ("t.csv", "y,a,y\n1,2,0\n", Y, "t.csv has two columns 'y'"),
    "no target named": (
        "t.csv",
        GOOD,
        (),
        "columns 'a', 'y': name the one to predict with --target",
    ),
    "mistyped": (
        "t.csv",
        "height,y\n1,0\n",
        ("--target", "heigth"),
        "no column 'heigth'.* Did you mean 'height'",
    ),
    "mistyped drop": (
        "t.csv",
        GOOD,
        (*Y, "--drop", "aa"),
        "no column 'aa'; its columns are 'a', 'y'",
    ),
    "only the target": ("t.csv", "y\n1\n0\n", Y, "no column beside its targets"),
    "all dropped": ("t.csv", GOOD, (*Y, "--drop", "a"), "no column beside its targets"),
    # -- cells
    "a word among numbers": (
        "t.csv",
        lines(a_slip, 60),
        Y,
        r"t.csv, row 8, column 'a': '1O.5' is no number, but .* Correct it, or .*--missing '1O.5'",
    ),
    "a slip among dates": (
        "t.csv",
        lines(lambda i: f"2020-{13 if i == 7 else i % 12 + 1:02d}-{i % 28 + 1:02d},1,{i % 2}", 60),
        Y,
        r"t.csv, row 8, column 'a': '2020-13-08' is no date, but .* \(%Y-%m-%d\). Correct it, or",
    ),
    "a mark for gaps among dates": (
        "t.csv",
        lines(lambda i: f"{'-' if i == 7 else f'{i % 28 + 1}.12.2020'},1,{i % 2}", 60),
        Y,
        "column 'a': '-' is no date, .*--missing '-'",
    ),
    "thousands": (
        "t.csv",
        lines(lambda i: f'"{i + 1},{i + 100}",{i % 3},{i % 2}', 60),
        Y,
        r"column 'a' holds numbers written as '.*,.*': expected plain ones, such as 1234.5",
    ),
    "money": (
        "t.csv",
        lines(lambda i: f"${i}.50,{i % 3},{i % 2}", 60),
        Y,
        "column 'a' holds numbers written as '.*50'",
    ),
    "commas and points": (
        "t.csv",
        "a;b;y" + lines(two_marks, 80)[5:],
        Y,
        "column 'a' holds numbers written as",
    ),
    "infinite": ("t.csv", GOOD + "inf,1\n", Y, "t.csv, row 21, column 'a': 'inf' is infinite"),
    "lists": ("t.parquet", parquet(NESTED), Y, "t.parquet, column 'a' holds ndarray, .*--drop"),
    "nothing to learn": (
        "t.csv",
        "a,b,y\n" + "1,,0\n1,,1\n" * 9,
        Y,
        r"no column to learn from \('a': it is '1' throughout; 'b': it is empty",
    ),
    # -- targets
    "no targets": ("t.csv", "a,y\n1,\n2,\n", Y, "no row with a value in 'y'"),
    "one class": (
        "t.csv",
        "a,y\n" + "1,no\n2,no\n" * 9,
        Y,
        "every label is no, .*Is this the wrong column",
    ),
    "minus signs": (
        "t.csv",
        lines(lambda i: f"\N{MINUS SIGN}{i}.5,1,{i % 2}"),
        Y,
        "column 'a' holds numbers written as '\N{MINUS SIGN}.*': expected plain ones",
    ),
    "two marks in each": (
        "t.csv",
        "a;y\n" + "".join(f"1.{i + 100},5;{i % 2}\n" for i in range(40)),
        Y,
        "column 'a' holds numbers written as '1.1.*,5': expected plain ones",
    ),
    "two rows": (
        "t.csv",
        "a,y\n1,yes\n2,no\n",
        Y,
        "one example to train on, of 2, but .* learnt from two or more. Hold out fewer, or bring",
    ),
    "names as target": (
        "t.csv",
        "a,y\n" + "".join(f"{i % 5},n{i}\n" for i in range(30)),
        Y,
        "the target has 30 different words in 30 rows.* classes: '.* Is this the wrong column",
    ),
    "a mark for gaps in the target": (
        "t.csv",
        "a,y\n" + "".join(f"{i % 5},{f'{i}.5' if i % 5 else '-'}\n" for i in range(30)),
        Y,
        "the target holds '-', which is no number, but 24 of its 25 .*--missing '-'",
    ),
    "a slip among whole numbers to predict": (
        "t.csv",
        "a,y\n" + "".join(f"{i % 5},{'4O' if i == 40 else i % 50}\n" for i in range(200)),
        Y,
        "the target holds '4O', which is no number, but 50 of its 51 .*--missing '4O'; if these "
        "are classes, say so: --loss cross_entropy",
    ),
    "prices to predict": (
        "t.csv",
        "a,y\n" + "".join(f"{i % 5},${i}.50\n" for i in range(30)),
        Y,
        r"the target holds numbers written as '\$0\.50': expected plain ones",
    ),
    "thousands parted by blanks": (
        "t.csv",
        "a;b;y\n" + "".join(f"{i % 6} {i * 7 + 100},{i % 10};{i % 3};{i % 2}\n" for i in range(60)),
        Y,
        "column 'a' holds numbers written as '0 100,0': expected plain ones",
    ),
    "numbers as text": (
        "t.parquet",
        parquet(pandas.DataFrame({"a": range(30), "y": [f"{i}.5" for i in range(30)]})),
        Y,
        r"the target holds numbers as text, such as '0\.5': .*astype\(float\)",
    ),
    "bytes as target": (
        "t.parquet",
        parquet(pandas.DataFrame({"a": [1, 5] * 5, "y": [b"\xff", b"\xfe"] * 5})),
        Y,
        "column 'y' holds bytes that are no text",
    ),
    "durations as target": (
        "t.parquet",
        parquet(pandas.DataFrame({"a": [1, 5] * 5, "y": pandas.to_timedelta(range(10), "D")})),
        Y,
        "column 'y' holds durations, but a target is a number",
    ),
    "labels beside a table": (
        "t.csv",
        GOOD,
        (*Y, "--labels", "y.npy"),
        "--labels is for a .npy or IDX file of examples, but t.csv has its targets in itself",
    ),
    "dates as target": (
        "t.parquet",
        parquet(DAYS),
        Y,
        "column 'y' holds dates, but a target is a number or a class",
    ),
    "words for numbers": (
        "t.csv",
        "a,y\n" + "1,no\n2,yes\n" * 9,
        (*Y, "--loss", "squared_error"),
        "the target holds words .*Use --loss cross_entropy",
    ),
    "fractions for classes": (
        "t.csv",
        "a,y\n1,0.5\n2,1\n" * 1,
        (*Y, "--loss", "cross_entropy"),
        "a label is 0.5, .* use --loss squared_error",
    ),
    "three of two": (
        "t.csv",
        "a,y\n" + "1,a\n2,b\n3,c\n" * 9,
        (*Y, "--loss", "binary_cross_entropy"),
        "there are 3 classes, but loss .* takes two",
    ),
    "several with words": (
        "t.csv",
        "a,y,z\n" + "1,no,2\n3,yes,4\n" * 9,
        (*Y, "--target", "z"),
        "column 'y' holds words, but several targets are numbers",
    ),
    "infinite target": (
        "t.csv",
        "a,y\n1,inf\n2,0.5\n3,1.5\n",
        Y,
        "row 1, column 'y': a target is inf",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_gets_one_sentence_and_nothing_is_written(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, options, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    code = main(["train", "--data", name, "--epochs", "1", *options])
    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert err.startswith("mlp-xp: error: ")
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert [path.name for path in Path().iterdir()] == [name]


def test_there_are_forty_of_them() -> None:
    assert len(BAD) >= 40


def test_the_good_table_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(GOOD)
    Path("t.parquet").write_bytes(PARQUET)
    assert np.isfinite(PARQUET[0])
    for name in ("t.csv", "t.parquet"):
        assert main(["train", "--data", name, "--epochs", "1", *Y]) == 0
