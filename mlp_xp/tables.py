"""Files of tables: a path in, a pandas data frame out, and a `DataError` that names the place.

CSV and its kin are read by pandas: separators, Excel's line that names one, quotes, gaps,
decimal commas, a byte order mark; Parquet and Feather by pyarrow. What pandas takes in
silence is refused here: lines that are too short or too long, and two columns of one name.
"""

from __future__ import annotations

import csv
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .cells import Frame, as_pandas, is_number, missing_extra, row_of, without
from .readers import GZIP, DataError, check_room, listed, unpacked

STDIN = "-"
SEPARATORS = ",;\t|"
GAPS = ("?",)  # beside pandas's own: nothing, NA, N/A, NaN, null, None …
WIDE = 256  # columns from which on short lines could be filled up to more than memory holds
SAMPLE = 1 << 16  # bytes that show how numbers are written, below the header if that is longer
LONGEST = 1 << 26  # bytes of a header
FIELD = 2**31 - 1  # characters of a cell: pandas knows no limit
DECIMAL_COMMA, DECIMAL_POINT = (
    re.compile(rf"[-+]?\d*{mark}\d+(e[-+]?\d+)?", re.I) for mark in (",", r"\.")
)
FIRST_LINE = re.compile(r'(?:(?<![^,;\t|])"[^"]*"|[^\r\n])*')  # whose quotes may hold line ends
NAMED_SEPARATOR = re.compile(rf'"?sep=([{SEPARATORS}])"?(\r\n?|\n)', re.I)  # Excel's first line
LEADING_ZEROS = r"[-+]?0\d+"
MAGIC = {b"PAR1": "parquet", b"ARROW1": "feather"}
STRANGE = {
    b"PK\x03\x04": "a zip file or a spreadsheet: save the sheet as .csv",
    b"\xd0\xcf\x11\xe0": "a spreadsheet: save the sheet as .csv",
    b"FEA1": "Feather of version 1, which no reader checks: write it again by pandas or pyarrow",
    b"\x93NUMPY": "a .npy file under another name: rename it",
    b"<!": "a web page: fetch the file itself",
    b"<html": "a web page: fetch the file itself",
    b"{": "JSON: save the table as .csv or .parquet",
    b"[": "JSON: save the table as .csv or .parquet",
}


def read(
    source: str,
    missing: Sequence[str] = (),
    text: Sequence[str] = (),
    copied: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> Frame:
    """The table of a file, or of the standard input for "-", its columns named by text.

    missing  words that stand for a gap, beside the usual ones
    text     columns to read as text whatever they hold
    copied   likewise, with the blanks around it
    labels   columns of whole numbers that are text where one of them is written 01
    """
    try:
        import pandas  # noqa: F401  # the error that says what to install, before a file is read
    except ImportError as error:
        raise missing_extra(error) from None
    name = "standard input" if source == STDIN else source
    file = _file(name, source)
    kind = next((kind for magic, kind in MAGIC.items() if file.head.startswith(magic)), "csv")
    frame = _csv(file, missing, text, copied, labels) if kind == "csv" else _arrow(file, kind)
    if len(frame) == 0:
        raise DataError(f"{name} has a header, but no examples below it.")
    return frame if kind == "csv" else without(frame, missing)


def of_frame(argument: str, X: Any, missing: Sequence[str] = ()) -> Frame:
    """A data frame of any library as if it had been read from a file."""
    frame = as_pandas(argument, X)
    names = [str(column) for column in frame.columns]
    _check_names(argument, names)
    if len(frame) == 0:
        raise DataError(f"{argument} has columns, but no examples in them.")
    return without(frame.set_axis(names, axis=1).reset_index(drop=True), missing)


def numbers_left(frame: Frame, whole: Frame, columns: Sequence[str]) -> Frame:
    """Some rows of a table, numbers in the columns where the others alone held words.

    A line of totals, say, which names no target.
    """
    import pandas

    frame = frame.copy(deep=False)
    for column in columns:
        inferred = pandas.api.types.infer_dtype(whole[column], skipna=True)
        if inferred not in ("string", "mixed", "mixed-integer"):
            continue
        numbers = pandas.to_numeric(whole[column], errors="coerce")
        slips = numbers.isna() & whole[column].notna()
        if slips.any() and not slips[frame.index].any():
            frame[column] = numbers[frame.index]
    return frame


class _File(NamedTuple):
    """A file that may be read more than once.

    head  its first bytes, the first line at least
    open  begins to read it
    path  where it lies as it is, or None
    """

    name: str
    head: bytes
    open: Callable[[], BinaryIO]
    path: str | None = None


def _file(name: str, source: str) -> _File:
    """A plain file, read where it lies; what is packed or comes in by a pipe, held in memory."""
    if source != STDIN:
        with open(source, "rb") as plain:
            head = plain.read(SAMPLE)
            head += b"" if b"\n" in head else plain.readline(LONGEST) + plain.read(SAMPLE)
        if head and not head.startswith(GZIP):
            return _File(name, head, lambda: open(source, "rb"), os.path.abspath(source))
    if source == STDIN and sys.stdin is None:
        raise DataError("standard input is closed, but expected a table in it.")
    given = sys.stdin.buffer.read() if source == STDIN else Path(source).read_bytes()
    content = unpacked(name, given)
    line = content.find(b"\n", 0, LONGEST) + 1
    return _File(name, content[: line + SAMPLE], lambda: io.BytesIO(content))


def _arrow(file: _File, kind: str) -> Frame:
    """Checked as a whole before it is used: Arrow trusts the offsets and codes in a file."""
    name = file.name
    try:
        from pyarrow import feather, parquet
    except ImportError as error:
        raise missing_extra(error) from None
    try:
        with file.open() as content:
            if kind == "parquet":
                packed = parquet.ParquetFile(content)
                _check_cells_fit(name, packed.metadata.num_rows, packed.metadata.num_columns)
                table = packed.read()
            else:
                table = feather.read_table(content)
            _check_cells_fit(name, table.num_rows, table.num_columns)
            table.validate(full=True)
            # whole numbers beside gaps stay whole: 2⁵³ + 1 is no float
            frame = table.to_pandas(integer_object_nulls=True)
    except DataError:
        raise
    except Exception as error:  # of many kinds: pandas' own notes in the file are read, too
        said = str(error).partition("\n")[0][:200] or type(error).__name__
        raise DataError(
            f"{name} cannot be read as {kind} ({said}): it is truncated or damaged. Write or "
            "fetch it again."
        ) from None
    names = [str(column) for column in frame.columns]
    _check_names(name, names)
    return frame.set_axis(names, axis=1).reset_index(drop=True)


def _check_cells_fit(name: str, rows: int, columns: int) -> None:
    """A column of one value has no size in a file: what it announces must fit in memory."""
    check_room(f"{name}, a table of {rows} rows and {columns} columns,", 8 * rows * columns)


class _Csv(NamedTuple):
    """How a file of text is written: what all who read it have to tell pandas.

    head   its first characters, from the header on
    above  lines before the header
    """

    file: _File
    encoding: str
    head: str
    separator: str
    header: list[str]
    above: int = 0

    @classmethod
    def of(cls, file: _File) -> _Csv:
        wide = file.head.startswith((b"\xff\xfe", b"\xfe\xff"))
        encoding = "utf-16" if wide else "utf-8-sig"
        head = _head(file, encoding)
        named = NAMED_SEPARATOR.match(head)
        if named is not None:
            head, separator = head[named.end() :], named[1]
            return cls(file, encoding, head, separator, _header(file.name, head, separator), 1)
        first = FIRST_LINE.match(head)
        assert first is not None  # it matches nothing, too
        separator = max(SEPARATORS, key=lambda mark: _outside_quotes(first[0], mark))
        return cls(file, encoding, head, separator, _header(file.name, head, separator))

    @property
    def options(self) -> dict[str, Any]:
        return {
            "sep": self.separator,
            "names": self.header,
            "header": 0,
            "skiprows": self.above,
            "index_col": False,
            "encoding": self.encoding.removesuffix("-sig"),  # the mark goes with the names
            "skipinitialspace": f"{self.separator} " in self.head,  # a sixth of the time
        }


def texts(source: str, names: Sequence[str]) -> Frame | None:
    """Columns of a file of text, their very characters; None of another kind of file.

    So 007 stays 007, and NA stays NA.
    """
    import pandas

    file = _file(source, source)
    if file.head.startswith(tuple(MAGIC)):
        return None
    options = _Csv.of(file).options
    with file.open() as content:
        return pandas.read_csv(content, dtype=str, na_filter=False, usecols=list(names), **options)


def _csv(
    file: _File,
    missing: Sequence[str],
    text: Sequence[str],
    copied: Sequence[str],
    labels: Sequence[str],
) -> Frame:
    import pandas

    name, written = file.name, _Csv.of(file)
    options = written.options | {
        "na_values": [*GAPS, *missing],
        "dtype": {column: str for column in (*text, *copied) if column in written.header},
        "decimal": _decimal(written.head, written.separator),
    }
    if len(written.header) > WIDE:
        _check_short(written)
    try:
        frame = _parsed(file, options)
    except UnicodeDecodeError as error:  # which counts from the beginning of a cell
        raise _encoding(name, _undecoded(written) or error) from None
    except (pandas.errors.ParserError, pandas.errors.ParserWarning) as error:
        _check_cells(written)
        said = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        raise DataError(f"{name}: {said}. Is a quote left open?") from None
    if frame.iloc[:, -1].isna().any():  # pandas fills up what is too short
        _check_cells(written)
    frame = _unpadded(frame, copied, options)
    for column in labels:
        if column in frame and _are_whole(frame[column]):
            found = _parsed(file, options | {"usecols": [column], "dtype": str})[column].str.strip()
            if found.str.fullmatch(LEADING_ZEROS).any():
                frame[column] = found.where(frame[column].notna())
    return frame


def _are_whole(values: Any) -> bool:
    """Whether a column holds whole numbers, gaps aside."""
    return values.dtype.kind in "iuf" and bool((values.dropna() % 1 == 0).all())


def _unpadded(frame: Frame, copied: Sequence[str], options: Mapping[str, Any]) -> Frame:
    """The same without blanks around words: where there were any, the rest is read again.

    So NA is a gap, and 1.5 beside it a number, wherever blanks stand.

    copied  columns whose very characters are wanted
    """
    import pandas

    kept = {name: options[name] for name in ("na_values", "dtype", "decimal")}
    for column in frame.select_dtypes(["object", "string"]).columns.difference(copied):
        cells = _stripped(frame[column])
        if not cells.equals(frame[column]):
            quoted = cells.to_csv(index=False, quoting=csv.QUOTE_ALL)  # cells may hold line ends
            text = io.StringIO(quoted, newline="")
            frame[column] = pandas.read_csv(text, low_memory=False, **kept)[column]
    return frame


def _stripped(column: Any) -> Any:
    """Its words without the blanks around them."""
    import pandas

    if isinstance(column.dtype, pandas.StringDtype):
        return column.str.strip()
    return column.map(lambda cell: cell.strip() if isinstance(cell, str) else cell)


def _check_short(written: _Csv) -> None:
    """Raise DataError for a line that is too short, if a cell for each name cannot be in all."""
    size = lines = 0
    with written.file.open() as content:
        while piece := content.read(1 << 20):
            size, lines = size + len(piece), lines + piece.count(b"\n") + piece.count(b"\r")
    if lines * len(written.header) > 2 * size:  # lines may end in two marks
        _check_cells(written)


def _parsed(file: _File, options: Mapping[str, Any]) -> Frame:
    """What pandas reads, each column's kind decided by all of it.

    In pieces first, which takes two thirds of the time; pandas warns where they differ.
    """
    import pandas

    def parse(**more: Any) -> Frame:
        if file.path is not None:  # which pandas reads twice as fast as an open file
            return pandas.read_csv(file.path, compression=None, **options, **more)
        with file.open() as content:
            return pandas.read_csv(content, **options, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        warnings.simplefilter("error", pandas.errors.DtypeWarning)
        try:
            return parse()
        except pandas.errors.DtypeWarning:
            return parse(low_memory=False)


def _head(file: _File, encoding: str) -> str:
    """The first characters, if they are text."""
    name, beginning = file.name, file.head
    strange = next(
        (why for magic, why in STRANGE.items() if beginning.lower().startswith(magic.lower())), None
    )
    if strange is not None:
        raise DataError(f"{name} is no table, but {strange}.")
    if b"\0" in beginning and encoding != "utf-16":
        raise DataError(f"{name} is no text: it holds bytes of 0. Expected a table in UTF-8.")
    encoding = encoding.removesuffix("-sig")  # which counts from behind the mark
    try:
        head = beginning.decode(encoding)
    except UnicodeDecodeError as error:
        if len(beginning) < SAMPLE or error.start < len(beginning) - 3:
            raise _encoding(name, error) from None
        head = beginning[: error.start].decode(encoding)  # cut within a character
    return head.removeprefix("\ufeff")


def _undecoded(written: _Csv) -> UnicodeDecodeError | None:
    """The error of the first byte that is none of the file's encoding."""
    with written.file.open() as content:
        try:
            content.read().decode(written.encoding.removesuffix("-sig"))
        except UnicodeDecodeError as error:
            return error
    return None


def _encoding(name: str, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"{name} is not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}): "
        "convert it, say with iconv -f latin1 -t utf-8."
    )


def _outside_quotes(line: str, mark: str) -> int:
    return sum(part.count(mark) for part in line.split('"')[::2])


def _header(name: str, head: str, separator: str) -> list[str]:
    """The names of the columns; one without a name is called by its number."""
    lines = csv.reader(io.StringIO(head, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        header = [cell.strip() for cell in next(lines, [])]
    except csv.Error as error:
        raise DataError(f"{name}, line 1: {error}.") from None
    if not any(header):
        raise DataError(f"{name} has no header: its first line is blank.")
    if all(is_number(cell) for cell in header):
        raise DataError(
            f"{name} has no header: its first line is {listed(header, 5)}, but expected the "
            "names of the columns."
        )
    names = [cell or f"column {i}" for i, cell in enumerate(header, 1)]
    _check_names(name, names)
    return names


def _check_names(name: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(column for column in names if names.count(column) > 1)
        raise DataError(
            f"{name} has two columns {twice!r}, but expected different names: rename one."
        )


def _decimal(head: str, separator: str) -> str:
    """The mark in numbers: a comma where cells show it, and none shows a point."""
    if separator == ",":
        return "."
    header = FIRST_LINE.match(head)
    assert header is not None  # it matches nothing, too
    below = io.StringIO(head[header.end() :][:SAMPLE], newline="")
    lines = csv.reader(below, delimiter=separator, skipinitialspace=True)
    cells = {cell.strip() for line in lines for cell in line}
    commas = any(DECIMAL_COMMA.fullmatch(cell) for cell in cells)
    return "," if commas and not any(map(DECIMAL_POINT.fullmatch, cells)) else "."


def _check_cells(written: _Csv) -> None:
    """Raise DataError for the first line that has not as many cells as there are names."""
    file, n = written.file, len(written.header)
    with file.open() as content:
        text = io.TextIOWrapper(content, encoding=written.encoding, newline="")
        lines = csv.reader(text, delimiter=written.separator, skipinitialspace=True)
        limit = csv.field_size_limit(FIELD)
        try:
            for row in islice(lines, written.above, None):
                if row and len(row) != n:
                    cells = f"{len(row)} cell" + "s" * (len(row) != 1)
                    raise DataError(
                        f"{file.name}, line {lines.line_num}: {cells}, but the header names {n} "
                        f"column{'s' * (n != 1)}. Is a separator missing or too many, or a quote "
                        "left open?"
                    )
        except csv.Error as error:
            raise DataError(f"{file.name}, line {lines.line_num}: {error}.") from None
        finally:
            csv.field_size_limit(limit)


# -- targets -----------------------------------------------------------------------


def target(name: str, frame: Frame, columns: Sequence[str]) -> Any:
    """Targets (m,) or (m, n_targets) of a table without gaps in them: numbers, or text."""
    import pandas

    parts = []
    for column in columns:
        values = frame[column]
        inferred = pandas.api.types.infer_dtype(values, skipna=True)
        if values.dtype.kind in "mM" or inferred in ("datetime", "date", "datetime64"):
            what = "durations" if values.dtype.kind == "m" else "dates"
            raise DataError(
                f"{name}, column {column!r} holds {what}, but a target is a number or a class. "
                "Predict a number made of it, such as days."
            )
        if values.dtype.kind in "iufb" or inferred in ("boolean", "integer", "floating", "decimal"):
            plain = values.astype(object) if inferred == "boolean" else values
            found = plain.to_numpy(bool if inferred == "boolean" else None)
            found = found.astype(np.float64) if found.dtype == object else found
        else:
            try:
                found = values.astype(str).to_numpy(object).astype(str)
            except UnicodeDecodeError:
                raise DataError(
                    f"{name}, column {column!r} holds bytes that are no text, but a target is a "
                    "number or a class. Is this the wrong column?"
                ) from None
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            i = int(np.argmin(np.isfinite(found)))
            raise DataError(
                f"{name}, row {row_of(values, i)}, column {column!r}: a target is {found[i]}."
            )
        parts.append(found)
    if len(parts) > 1 and any(part.dtype.kind == "U" for part in parts):
        text = next(c for c, part in zip(columns, parts, strict=True) if part.dtype.kind == "U")
        raise DataError(
            f"{name}, column {text!r} holds words, but several targets are numbers, or labels 0 "
            "and 1. Predict it alone."
        )
    return parts[0] if len(parts) == 1 else np.column_stack(parts)
