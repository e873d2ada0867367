"""The cells of a table's columns, checked: numbers, words and dates.

What is wrong with one is said with its row, counted from 1 below the header, and its column.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .extras import missing

Series: TypeAlias = Any  # a column of a pandas.DataFrame
Frame: TypeAlias = Any  # a pandas.DataFrame
Rows: TypeAlias = npt.NDArray[Any]

NO_NUMBER = (
    "is no number, but the column held numbers in training. Correct it, or leave the row out"
)


class TableError(ValueError):
    """A column that is not what it was, or what it is taken for."""


def missing_extra(error: ImportError) -> ImportError:
    """The error that says what to install."""
    return missing("tables need pandas, scikit-learn, skrub, narwhals and pyarrow", "tables", error)


def as_pandas(argument: str, X: Any) -> Frame:
    """A data frame of pandas, polars, Arrow or the like as pandas has it."""
    try:
        import narwhals
        import pandas
    except ImportError as error:
        raise missing_extra(error) from None
    if isinstance(X, pandas.DataFrame):
        return X
    try:
        frame: Frame = narwhals.from_native(X, eager_only=True).to_pandas()
        return frame
    except ImportError as error:
        raise missing_extra(error) from None
    except TypeError:
        raise TypeError(
            f"{argument} is a {type(X).__name__}, but the model was trained on a table with named "
            "columns: expected a data frame of pandas, polars or Arrow."
        ) from None


def shown(cell: Any) -> str:
    text = repr(str(cell))
    return text if len(text) < 45 else text[:40] + "…'"


def _fault(argument: str, name: str, column: Series, bad: Rows, why: str) -> TableError:
    """An error that names the first bad cell."""
    i = int(np.argmax(bad))
    more = f" ({int(bad.sum()):,} such cells)" if bad.sum() > 1 else ""
    where = f"{argument}, row {row_of(column, i)}, column {name!r}"
    return TableError(f"{where}: {shown(column.iloc[i])} {why}{more}.")


def row_of(column: Series, i: int) -> int:
    """The number of the i-th row in its file, from 1: what was taken out of a table knows it."""
    label = column.index[i]
    return int(label if isinstance(label, int | np.integer) else i) + 1


def without(frame: Frame, missing: Sequence[str]) -> Frame:
    """The same with gaps where words stand for them; -999 stands for the number, too."""
    import pandas

    numbers = [float(word) for word in missing if is_number(word)]
    for values in (list(missing), numbers):
        frame = frame.replace(values, pandas.NA) if values else frame
    return frame


def is_number(cell: Any) -> bool:
    """Whether a cell is a number, or text that spells one; a gap may be one, too."""
    try:
        float("nan" if cell is None else cell)
    except (TypeError, ValueError):
        return False
    return True


def gaps(column: Series) -> Rows:
    """(m,) where a cell is missing."""
    found: Rows = column.isna().to_numpy(bool)
    return found


def numbers(argument: str, name: str, column: Series) -> Rows:
    """A column as float64, NaN where it has gaps; True is 1."""
    import pandas

    values: Rows
    if column.dtype.kind in "biuf" and isinstance(column.dtype, np.dtype):
        values = column.to_numpy(np.float64)
    else:
        plain = column.astype(object).where(~column.isna(), None)
        values = pandas.to_numeric(plain, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        bad = np.isnan(values) & ~gaps(column)
        if bad.any():
            raise _fault(argument, name, column, bad, NO_NUMBER)
    if np.isinf(values).any():
        why = "is infinite, but expected finite numbers and gaps"
        raise _fault(argument, name, column, np.isinf(values), why)
    return values


def words(column: Series, known: Sequence[str | None] = ()) -> Rows:
    """A column as text, None where it has gaps; 3.0 is the word '3'.

    known  words that a number may stand for: whoever read the file made 1 of '01'; or one with
           blanks around it, which some readers keep
    """
    import pandas

    codes, different = pandas.factorize(column)
    meant = _by_number(known) if column.dtype.kind in "iuf" else {}
    texts = [(cell, word(cell)) for cell in different.tolist()]
    told = [(text, meant.get(cell, text), text.strip()) for cell, text in texts]
    found_again = [next((one for one in of if one in known), of[0]) for of in told]
    cells = np.array([*found_again, None], object)
    found: Rows = cells[codes]  # a gap's code is -1
    return found


def _by_number(known: Sequence[str | None]) -> dict[float, str]:
    """The words that are numbers, each by its own; not where two are of one number."""
    found: dict[float, list[str]] = {}
    for text in known:
        with suppress(TypeError, ValueError):  # a gap, or no number
            found.setdefault(float(text), []).append(text)  # type: ignore[arg-type]
    return {number: texts[0] for number, texts in found.items() if len(texts) == 1}


def word(cell: Any) -> str:
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell)


def moments(argument: str, name: str, column: Series, form: str | None) -> Series:
    """A column as dates without a time zone, in UTC where it had one.

    form  how text is written, as `strptime` has it; None where the column held no text
    """
    import pandas

    dates = column
    if column.dtype.kind != "M" or isinstance(column.dtype, pandas.ArrowDtype):
        dates = pandas.to_datetime(
            column.astype(object), format=form or "ISO8601", errors="coerce", utc=True
        )
        bad = dates.isna().to_numpy() & ~gaps(column)
        if bad.any():
            why = f"is no date as in training ({form or 'ISO 8601'})"
            raise _fault(argument, name, column, bad, f"{why}. Correct it, or leave the row out")
    if dates.dt.tz is not None:
        dates = dates.dt.tz_convert("UTC").dt.tz_localize(None)
    return dates.rename(name)


# -- tables by name ------------------------------------------------------------


def named(argument: str, X: Any, names: Sequence[str]) -> Frame:
    """The named columns of a data frame, in that order."""
    frame = as_pandas(argument, X)
    found = [str(name) for name in frame.columns]
    _check_named(argument, found, names)
    if len(frame) == 0:
        raise TableError(f"{argument} has columns, but no rows: there are no examples.")
    frame = frame.iloc[:, [found.index(name) for name in names]]
    return frame.set_axis(list(names), axis=1)


def _check_named(argument: str, found: Sequence[str], names: Sequence[str]) -> None:
    """Raise TableError where a name is missing, or stands twice."""
    for name in names:
        if found.count(name) != 1:
            how = "has no column" if name not in found else "has two columns"
            raise TableError(
                f"{argument} {how} {name!r}, which the model was trained on: expected the columns "
                f"{listed(names)} in any order, but found {listed(found)}."
            )


def check_numbers(argument: str, X: Any, names: Sequence[str]) -> None:
    """Raise TableError for the first cell of the named columns that is no finite number."""
    frame = named(argument, X, names)
    for name in names:
        empty = np.isnan(numbers(argument, name, frame[name]))
        if empty.any():
            raise no_gap(argument, row_of(frame[name], int(empty.argmax())), name, "a number")


def named_numbers(argument: str, X: Any, names: Sequence[str]) -> Rows:
    """The named columns of a data frame of numbers without gaps, (m, n), in that order.

    Needs no library but the frame's own.
    """
    columns = list(getattr(X, "column_names", None) or X.columns)
    found = [str(column) for column in columns]
    _check_named(argument, found, names)
    own = dict(zip(found, columns, strict=True))  # which may be no text
    sought = [own[name] for name in names]
    chosen = X.select(sought) if hasattr(X, "column_names") else X[sought]
    if hasattr(chosen, "to_pandas") and not hasattr(chosen, "to_numpy"):
        chosen = chosen.to_pandas()  # an Arrow table
    rows: Rows = np.asarray(chosen.to_numpy())
    if rows.dtype.kind == "O":
        if hasattr(chosen, "isna"):
            rows = np.where(chosen.isna(), np.nan, rows)
        try:
            rows = rows.astype(np.float64)
        except (TypeError, ValueError):
            bad = ~np.vectorize(is_number, [bool])(rows)
            row, column = np.argwhere(bad)[0]
            raise TableError(
                f"{argument}, row {row + 1}, column {names[column]!r}: "
                f"{shown(rows[row, column])} {NO_NUMBER}."
            ) from None
    if rows.dtype.kind == "f" and np.isnan(rows).any():
        row, column = np.argwhere(np.isnan(rows))[0]
        raise no_gap(argument, int(row) + 1, names[column], "a number")
    return rows


def no_gap(argument: str, row: int, name: str, expected: str) -> TableError:
    return TableError(
        f"{argument}, row {row}, column {name!r} is empty, but the column had no gap in "
        f"training, so the model does not know what one means. Fill it with {expected}, or leave "
        "the row out."
    )


def listed(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return shown + (f" … ({len(names)} in all)" if len(names) > most else "")
