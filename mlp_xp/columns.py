"""The columns of a table of words, numbers and dates, as the numbers that a network takes.

    Number    gaps filled with the median, and marked in a column of their own
    Words     up to 30 different ones: 0 or 1 for each, a gap being one of them
    Coded     more than 30: each word by what the target is where it stands
    Date      year, month, day, hour, weekday and seconds since 1970; gaps as a number's
    Unused    constant, numbering the rows, or all different: nothing to learn from

The work is scikit-learn's and skrub's. What their transformers have learnt is kept here as
plain values, from which they are made again: a file needs no pickle, and people can read it.

Words of which there are many are coded by the target (Micci-Barreca 2001, "A preprocessing
scheme for high-cardinality categorical attributes", as scikit-learn's `TargetEncoder` has
it, rows that are trained on by the others' targets). Measured on six tables with the
command's network, means of two splits, against hashed n-grams, min-hashes, SVD of n-grams and
one-hot: it was best or within 0.02 of the best R² in all, and at most 0.02 below leaving the
column out; the three that look into the letters lost up to 0.4 on titles and names that are
all different, which is why those are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from .cached import cached_property
from .cells import (
    Frame,
    Rows,
    Series,
    as_pandas,
    gaps,
    missing_extra,
    moments,
    named,
    no_gap,
    numbers,
    row_of,
    words,
)

PARTS = ("year", "month", "day", "hour", "total_seconds", "weekday")
FOLDS = 5
EMPTY = "it is empty"


@dataclass(frozen=True)
class Number:
    """A column of numbers, or of True and False.

    fill   what stands for a gap: the median
    holes  whether it had gaps, which are then marked
    """

    name: str
    fill: float
    holes: bool = False
    scaled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _demand(isinstance(self.fill, int | float) and np.isfinite(self.fill), self, "fill")
        _demand(isinstance(self.holes, bool), self, "holes")

    @classmethod
    def learn(cls, name: str, values: Rows, holes: bool) -> Number:
        from sklearn.impute import SimpleImputer

        imputer = SimpleImputer(strategy="median").fit(values[:, None])
        return cls(name, float(imputer.statistics_[0]), holes)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.name, f"{self.name} missing") if self.holes else (self.name,)

    def __str__(self) -> str:
        return "number" + (f", gaps filled with {self.fill:g} and marked" if self.holes else "")

    @staticmethod
    def encode(columns: Sequence[Any], cells: Sequence[Any], Y: Rows | None) -> list[Rows]:
        """Each column's outputs, (m, n)."""
        filled = _filled(
            np.column_stack(cells), [c.fill for c in columns], [c.holes for c in columns]
        )
        marks = iter(range(len(columns), filled.shape[1]))
        return [filled[:, [i, next(marks)] if c.holes else [i]] for i, c in enumerate(columns)]

    def cells(self, argument: str, column: Series) -> Rows:
        values = numbers(argument, self.name, column)
        empty = np.isnan(values)
        if empty.any() and not self.holes:
            usual = f"a number ({self.fill:g} was the median)"
            raise no_gap(argument, row_of(column, int(empty.argmax())), self.name, usual)
        return values


@dataclass(frozen=True)
class Words:
    """A column of few words: 0 or 1 for each, all 0 for one that is none of them.

    values  the words, None for a gap
    """

    name: str
    values: tuple[str | None, ...]
    scaled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _demand(not isinstance(self.values, str), self, "values")
        object.__setattr__(self, "values", tuple(self.values))
        _demand(_are_words(self.values), self, "values")

    @classmethod
    def learn(cls, name: str, cells: Rows) -> Words:
        from sklearn.preprocessing import OneHotEncoder

        return cls(name, tuple(OneHotEncoder().fit(cells[:, None]).categories_[0].tolist()))

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(f"{self.name} is {value or 'missing'}" for value in self.values)

    def __str__(self) -> str:
        n = len([value for value in self.values if value is not None])
        holes = ", and one for gaps" if None in self.values else ""
        return f"{n} word{'s' * (n != 1)}, a column each{holes}"

    @staticmethod
    def encode(columns: Sequence[Any], cells: Sequence[Any], Y: Rows | None) -> list[Rows]:
        """Each column's outputs, (m, n)."""
        from sklearn.preprocessing import OneHotEncoder

        known = [list(column.values) for column in columns]
        encoder = OneHotEncoder(categories=known, handle_unknown="ignore", sparse_output=False)
        encoder.fit(np.array([[values[0] for values in known]], object))
        found = encoder.transform(np.column_stack(cells))
        return np.split(found, np.cumsum([len(values) for values in known])[:-1], axis=1)

    def cells(self, argument: str, column: Series) -> Rows:
        return words(column, self.values)

    def unknown(self, cells: Rows) -> Rows:
        """(m,) where a cell is a word that training did not meet."""
        return _unknown(self.values, cells)


@dataclass(frozen=True)
class Coded:
    """A column of many words: each by the mean of the target where it stood in training.

    values  the words, None for a gap
    codes   (n_values, n_outputs)
    means   (n_outputs,) for words that training did not meet
    """

    name: str
    values: tuple[str | None, ...]
    codes: tuple[tuple[float, ...], ...]
    means: tuple[float, ...]
    scaled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "codes", tuple(map(tuple, self.codes)))
        object.__setattr__(self, "means", tuple(self.means))
        _demand(_are_words(self.values), self, "values")
        shape = np.shape(np.asarray(self.codes, np.float64))
        _demand(shape == (len(self.values), len(self.means)), self, "codes")
        _demand(
            bool(np.isfinite(self.codes).all() and np.isfinite(self.means).all()), self, "codes"
        )

    @classmethod
    def learn(cls, name: str, cells: Rows, Y: Rows) -> Coded:
        encoders = [_target_encoder().fit(cells[:, None], y) for y in Y.T]
        codes = np.column_stack([encoder.encodings_[0] for encoder in encoders])
        values = encoders[0].categories_[0].tolist()
        means = tuple(float(encoder.target_mean_) for encoder in encoders)
        return cls(name, tuple(values), tuple(map(tuple, codes.tolist())), means)

    @property
    def outputs(self) -> tuple[str, ...]:
        if len(self.means) == 1:
            return (self.name,)
        return tuple(f"{self.name} {j}" for j in range(len(self.means)))

    def __str__(self) -> str:
        n = len([value for value in self.values if value is not None])
        return f"{n:,} words, coded by the target" + (", gaps too" if None in self.values else "")

    @staticmethod
    def encode(columns: Sequence[Any], cells: Sequence[Any], Y: Rows | None) -> list[Rows]:
        """Each column's outputs, (m, n); with targets Y (m, n_outputs) those to train on."""
        if Y is not None and len(Y) >= FOLDS:
            text = np.column_stack(cells)
            coded = [_target_encoder().fit_transform(text, y) for y in Y.T]
            return [np.column_stack([part[:, i] for part in coded]) for i in range(len(columns))]
        return [column._coded(part) for column, part in zip(columns, cells, strict=True)]

    def _coded(self, cells: Rows) -> Rows:
        exemplar = np.array(self.values, object)[:, None]
        found = []
        for codes, mean in zip(np.transpose(self.codes), self.means, strict=True):
            encoder = _target_encoder().fit(exemplar, np.zeros(len(exemplar)))
            encoder.encodings_, encoder.target_mean_ = [codes], mean
            found.append(encoder.transform(cells[:, None])[:, 0])
        return np.column_stack(found)

    def cells(self, argument: str, column: Series) -> Rows:
        return words(column, self.values)

    def unknown(self, cells: Rows) -> Rows:
        """(m,) where a cell is a word that training did not meet."""
        return _unknown(self.values, cells)


@dataclass(frozen=True)
class Date:
    """A column of dates.

    form   how text is written, as `strptime` has it; None where it is no text
    hours  whether times of day differ
    fills  what stands for each part of a gap: the median
    holes  whether it had gaps, which are then marked
    """

    name: str
    form: str | None
    hours: bool
    fills: tuple[float, ...]
    holes: bool = False
    scaled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "fills", tuple(self.fills))
        _demand(self.form is None or isinstance(self.form, str), self, "form")
        _demand(isinstance(self.hours, bool) and isinstance(self.holes, bool), self, "holes")
        numbers = all(isinstance(fill, int | float) for fill in self.fills)
        _demand(numbers and len(self.fills) == len(self.parts), self, "fills")

    @classmethod
    def learn(cls, name: str, dates: Series, form: str | None, holes: bool) -> Date:
        midnight = dates.dropna()
        hours = bool((midnight != midnight.dt.normalize()).any())
        fills = np.nanmedian(_date_parts(dates, hours), axis=0)
        return cls(name, form, hours, tuple(fills.tolist()), holes)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(part for part in PARTS if self.hours or part != "hour")

    @property
    def outputs(self) -> tuple[str, ...]:
        found = tuple(f"{self.name} {part}" for part in self.parts)
        return (*found, f"{self.name} missing") if self.holes else found

    def __str__(self) -> str:
        form = "" if self.form is None else f" ({self.form})"
        return f"date{form}: {', '.join(self.parts)}" + (", gaps marked" if self.holes else "")

    @staticmethod
    def encode(columns: Sequence[Any], cells: Sequence[Any], Y: Rows | None) -> list[Rows]:
        """Each column's outputs, (m, n)."""
        found = []
        for column, dates in zip(columns, cells, strict=True):
            holes = [column.holes] + [False] * (len(column.parts) - 1)
            found.append(_filled(_date_parts(dates, column.hours), column.fills, holes))
        return found

    def cells(self, argument: str, column: Series) -> Series:
        empty = gaps(column)
        if empty.any() and not self.holes:
            raise no_gap(argument, row_of(column, int(empty.argmax())), self.name, "a date")
        return moments(argument, self.name, column, self.form)


@dataclass(frozen=True)
class Unused:
    """A column that is left out, and why."""

    name: str
    why: str

    outputs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        _demand(isinstance(self.why, str), self, "why")

    def __str__(self) -> str:
        return f"left out: {self.why}"


Used: TypeAlias = Number | Words | Coded | Date
Column: TypeAlias = Used | Unused
KINDS: dict[str, type[Column]] = {
    "number": Number,
    "words": Words,
    "coded": Coded,
    "date": Date,
    "unused": Unused,
}


def _demand(right: bool, column: Column, field: str) -> None:
    if not (right and isinstance(column.name, str)):
        raise ValueError(f"column {column.name!r} has {field} {getattr(column, field)!r}")


def _unknown(values: Sequence[str | None], cells: Rows) -> Rows:
    known = set(values)
    return np.array([cell not in known for cell in cells])


def _are_words(values: Iterable[Any]) -> bool:
    known = list(values)
    text = all(value is None or isinstance(value, str) for value in known)
    return text and bool(known) and len(set(known)) == len(known) and None not in known[:-1]


def _target_encoder() -> Any:
    from sklearn.model_selection import KFold
    from sklearn.preprocessing import TargetEncoder

    folds = KFold(FOLDS, shuffle=True, random_state=0)
    return TargetEncoder(target_type="continuous", cv=folds)


def _filled(values: Rows, fills: Sequence[float], holes: Sequence[bool]) -> Rows:
    """(m, n) filled, and a column more for each that had gaps in training, 1 where one is."""
    from sklearn.impute import SimpleImputer

    exemplar = np.array([fills, np.where(holes, np.nan, fills)])
    imputer = SimpleImputer(strategy="median", add_indicator=True).fit(exemplar)
    found: Rows = imputer.transform(values)
    return found


def _date_parts(dates: Series, hours: bool) -> Rows:
    """(m, n_parts), NaN where there is a gap."""
    try:
        from skrub import DatetimeEncoder
    except ImportError as error:
        raise missing_extra(error) from None
    import pandas

    encoder = DatetimeEncoder(resolution="hour" if hours else "day", add_weekday=True)
    encoder.fit(pandas.Series(pandas.to_datetime(["2001-02-03 04:05:06"]), name=dates.name))
    found: Rows = encoder.transform(dates).to_numpy(np.float64)
    return found


# -- a table -----------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """The columns of a table as they were in training, and what each becomes."""

    columns: tuple[Column, ...]

    @cached_property
    def used(self) -> tuple[Used, ...]:
        return tuple(column for column in self.columns if not isinstance(column, Unused))

    @property
    def unused(self) -> tuple[Unused, ...]:
        return tuple(column for column in self.columns if isinstance(column, Unused))

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the columns of `rows`."""
        return tuple(name for column in self.used for name in column.outputs)

    @property
    def scaled(self) -> Rows:
        """(n,) which columns of `rows` are scaled: not those of 0 and 1."""
        marks = [
            getattr(column, "holes", False) and name == column.outputs[-1]
            for column in self.used
            for name in column.outputs
        ]
        kinds = [column.scaled for column in self.used for _ in column.outputs]
        found: Rows = np.array(kinds) & ~np.array(marks)
        return found

    @property
    def text(self) -> tuple[str, ...]:
        """Names of the columns that a file is to give as text, whatever they hold."""
        return tuple(
            column.name for column in self.used if isinstance(column, Words | Coded | Date)
        )

    def plain(self, frame: Frame) -> bool:
        """Whether what is used of a frame are numbers without gaps, all of one kind."""
        dtypes = [frame[column.name].dtype for column in self.used]
        numbers = all(isinstance(column, Number) and not column.holes for column in self.used)
        return numbers and all(isinstance(d, np.dtype) and d.kind in "iuf" for d in dtypes)

    def check(self, argument: str, X: Any) -> None:
        """Raise TableError for columns that are missing, or hold what they did not in training."""
        frame = named(argument, X, [column.name for column in self.used])
        for column in self.used:
            column.cells(argument, frame[column.name])

    def rows(self, argument: str, X: Any, Y: Rows | None = None) -> Rows:
        """(m, n) float64 of a data frame, its columns found by name.

        Y  (m, n_outputs) targets, where the rows are to be trained on: then a word is coded by
           the targets of other rows alone
        """
        frame = named(argument, X, [column.name for column in self.used]).reset_index(drop=True)
        found: dict[str, Rows] = {}
        for kind in (Number, Words, Coded, Date):
            group = [column for column in self.used if isinstance(column, kind)]
            if group:
                cells = [column.cells(argument, frame[column.name]) for column in group]
                parts = kind.encode(group, cells, Y)
                found |= {column.name: part for column, part in zip(group, parts, strict=True)}
        return np.hstack([found[column.name] for column in self.used])

    def unknown(self, X: Any) -> dict[str, tuple[int, str | None]]:
        """By column: how many rows hold a word that training did not meet, and the first.

        None is a gap.
        """
        frame, found = as_pandas("X", X), {}
        for column in self.used:
            if isinstance(column, Words | Coded):
                cells = column.cells("X", frame[column.name])
                new = column.unknown(cells)
                if new.any():
                    found[column.name] = (int(new.sum()), cells[int(np.argmax(new))])
        return found

    def to_json(self) -> list[dict[str, Any]]:
        names = {kind: name for name, kind in KINDS.items()}
        return [{"kind": names[type(column)], **asdict(column)} for column in self.columns]

    @classmethod
    def from_json(cls, stored: Iterable[Mapping[str, Any]]) -> Columns:
        """The inverse of `to_json`; ValueError for what is none of ours."""
        columns = []
        for entry in stored:
            kind = KINDS.get(entry.get("kind", ""))
            if kind is None:
                raise ValueError(
                    f"column {entry.get('name')!r} is of kind {entry.get('kind')!r}, but known are "
                    f"{', '.join(KINDS)}"
                )
            columns.append(kind(**{name: v for name, v in entry.items() if name != "kind"}))
        names = [column.name for column in columns]
        if len(set(names)) < len(names) or not any(column.outputs for column in columns):
            raise ValueError("its columns have no names of their own, or none is used")
        return cls(tuple(columns))
