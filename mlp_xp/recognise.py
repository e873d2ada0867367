"""What each column of a table is: recognised by its cells, as the training rows show them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .cells import (
    Frame,
    Rows,
    Series,
    TableError,
    missing_extra,
    moments,
    numbers,
    row_of,
    shown,
    word,
    words,
)
from .columns import EMPTY, Coded, Column, Columns, Date, Number, Unused, Words

MOST_WORDS = 30  # that get a column each
FEWEST_ROWS = 2  # a word must stand in on average, to be coded
NEARLY = 0.9  # of the different words look like numbers: they are meant to be
ROW_NAMES = re.compile(
    r"|#|id|index|key|uuid|guid|row|row ?(id|names?)|unnamed: ?\d*|column 1", re.I
)
SIGN = "[-+\N{MINUS SIGN}\N{EN DASH}]?"
ALMOST_NUMBER = re.compile(
    rf"{SIGN}[$€£]? ?\d{{1,3}}(,\d{{3}})*(\.\d+)? ?[%€$£]?"
    rf"|{SIGN}\d{{1,3}}(\.\d{{3}})*,\d+|{SIGN}\d+[,.]\d+"
    rf"|{SIGN}\d{{1,3}}(['’\s]\d{{3}})+[.,]\d+"
)
DATE_LIKE = re.compile(r"(?=(.*\d){3}).*[-/.:, ].*")
PLAIN = ("boolean", "integer", "floating", "decimal", "mixed-integer-float")  # pandas's kinds


class _Told(NamedTuple):
    """What is known of a column beside its cells: see `learn`."""

    where: str
    Y: Rows
    keep: bool
    holes: bool
    whole: Series


def learn(
    frame: Frame,
    Y: Rows,
    keep: Iterable[str] = (),
    where: str = "X",
    holes: Iterable[str] | None = None,
    whole: Frame | None = None,
) -> Columns:
    """What the columns of a table are, and become, as its training rows show.

    Y      (m, n_outputs) targets as numbers, by which words are coded
    keep   names of columns that are used although they look like nothing to learn from
    where  the table's name, for messages
    holes  names of columns that have gaps, perhaps in other rows alone; None: as the rows show
    whole  these rows and others, any of which may hold the slip that made text of numbers
    """
    kept = set(keep)
    gappy = set(frame.columns[frame.isna().any()] if holes is None else holes)
    cells = frame if whole is None else whole

    def told(name: str) -> _Told:
        return _Told(where, Y, name in kept, name in gappy, cells[name])

    return Columns(tuple(_column(str(name), frame[name], told(name)) for name in frame))


def _column(name: str, column: Series, told: _Told) -> Column:
    import pandas

    where, keep, holes = told.where, told.keep, told.holes
    _check_kind(where, name, column)
    present = column.dropna()
    n_different = present.nunique()
    if len(present) == 0:
        return Unused(name, EMPTY)
    if n_different == 1 and len(present) == len(column) and not keep:
        return Unused(name, f"it is {word(present.iloc[0])[:40]!r} throughout")
    every = n_different == len(column)
    inferred = pandas.api.types.infer_dtype(present, skipna=True)
    category = isinstance(column.dtype, pandas.CategoricalDtype)
    if not category and (column.dtype.kind in "biuf" or inferred in PLAIN):
        values = numbers(where, name, column)
        rows = column.index.to_numpy() if column.index.dtype.kind in "iu" else None
        if every and not keep and numbers_the_rows(name, values, rows):
            return Unused(name, "it numbers the rows")
        return Number.learn(name, values, holes)
    if column.dtype.kind == "M" or inferred in ("datetime64", "datetime", "date"):
        return Date.learn(name, moments(where, name, column, None), None, holes)
    if not category:
        form = _date_form(present)
        if form is not None:
            return Date.learn(name, moments(where, name, column, form), form, holes)
        _check_almost_dates(where, name, column)
    cells = words(column)
    few = n_different <= MOST_WORDS and not (every and n_different > 2)
    repeated = len(present) >= FEWEST_ROWS * n_different
    if not category:
        _check_almost_numbers(where, name, told.whole, few, repeated)
    if few:
        return Words.learn(name, cells)
    if not repeated and not keep:
        return Unused(name, f"{n_different:,} of its {len(present):,} words are different")
    return Coded.learn(name, cells, told.Y)


def numbers_the_rows(name: str, values: Rows, rows: Rows | None = None) -> bool:
    """Different whole numbers under a name of identifiers, or counting up.

    rows  (m,) where each stands in its table, as training rows are drawn; None: one by one
    """
    whole = bool(np.all(values == np.floor(values)))
    steps = np.diff(values)
    counting = bool(np.all(steps == 1)) or (rows is not None and np.all(steps == np.diff(rows)))
    return whole and (ROW_NAMES.fullmatch(name.strip()) is not None or bool(counting))


def _check_kind(where: str, name: str, column: Series) -> None:
    """Raise TableError for what is neither number, word nor date."""
    import pandas

    first = next(iter(column.dropna().head(1)), None)
    strange = isinstance(first, list | dict | tuple | set | bytes | np.ndarray | complex)
    if strange or column.dtype.kind in "mcV" or isinstance(first, pandas.Timedelta):
        raise TableError(
            f"{where}, column {name!r} holds {type(first).__name__}, but expected numbers, words "
            "or dates. Leave it out with --drop (drop= in Python), or make columns of its parts."
        )


def _check_almost_numbers(where: str, name: str, column: Series, few: bool, repeated: bool) -> None:
    """Raise TableError for numbers that a few cells keep from being read as such.

    few       different ones, which may be meant as words: of those that are repeated 10+ may be
              one, but no - among numbers is; and $5 is as good a word as any
    """
    import pandas

    cells = pandas.Series(column.dropna().unique().astype(object)).astype(str).str.strip()
    plain = pandas.to_numeric(cells, errors="coerce").notna().to_numpy()
    written = np.array([ALMOST_NUMBER.fullmatch(cell) is not None for cell in cells])
    mark = not any(char.isalnum() for cell in cells[~plain] for char in cell)
    slip = NEARLY * len(cells) <= plain.sum() < len(cells)
    if slip and (mark or not few or not repeated):
        place = row_of(column, int((words(column) == cells[int(np.argmin(plain))]).argmax()))
        raise TableError(
            f"{where}, row {place}, column {name!r}: {shown(cells[int(np.argmin(plain))])} is "
            f"no number, but {plain.sum():,} of {len(cells):,} different cells are. Correct it, or "
            f"name it as a gap with --missing {shown(cells[int(np.argmin(plain))])}."
        )
    if few:
        return
    if plain.all():
        raise TableError(
            f"{where}, column {name!r} holds numbers as text, such as "
            f"{shown(column.dropna().iloc[0])}: expected a column of numbers. Convert it, as by "
            ".astype(float), or leave it out with --drop (drop= in Python)."
        )
    if NEARLY * len(cells) <= (plain | written).sum():
        first = cells[int(np.argmax(written & ~plain))]
        raise TableError(
            f"{where}, column {name!r} holds numbers written as {shown(first)}: expected plain "
            "ones, such as 1234.5. Rewrite them, or leave the column out with --drop."
        )


def _check_almost_dates(where: str, name: str, column: Series) -> None:
    """Raise TableError for dates that a few cells keep from being read as such."""
    import pandas
    from pandas.tseries.api import guess_datetime_format

    cells = column.dropna().unique()
    if not all(isinstance(cell, str) for cell in cells):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of days that come first
        forms = [guess_datetime_format(c) for c in cells[:50] if DATE_LIKE.fullmatch(c)]
    read = {
        form: pandas.to_datetime(pandas.Series(cells), format=form, errors="coerce", utc=True)
        for form in dict.fromkeys(forms)
        if form is not None
    }
    if not read:
        return
    form = min(read, key=lambda form: read[form].isna().sum())  # which reads the most
    bad = read[form].isna().to_numpy()
    if 0 < bad.sum() <= (1 - NEARLY) * len(cells):
        slip = cells[int(np.argmax(bad))]
        place = row_of(column, int((column == slip).to_numpy(bool, na_value=False).argmax()))
        raise TableError(
            f"{where}, row {place}, column {name!r}: {shown(slip)} is no date, but "
            f"{len(cells) - bad.sum():,} of {len(cells):,} different cells are ({form}). Correct "
            f"it, or name it as a gap with --missing {shown(slip)}."
        )


def _date_form(present: Series) -> str | None:
    """How text is written as dates, as skrub guesses it; None where it is none."""
    cells = present.unique()
    if not all(isinstance(cell, str) and DATE_LIKE.fullmatch(cell) for cell in cells[:50]):
        return None
    try:
        from skrub import ToDatetime
    except ImportError as error:
        raise missing_extra(error) from None
    import pandas

    reader = ToDatetime()
    try:
        reader.fit_transform(pandas.Series(cells, name="dates"))
    except ValueError:  # its way to say no
        return None
    return str(reader.format_)
