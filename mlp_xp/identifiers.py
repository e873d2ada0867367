"""Columns of a table as they stand in its file, by name: what tells its examples apart."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from . import tables
from .data import Dataset
from .readers import DataError, listed

Column = Sequence[Any]


def columns(data: Dataset, source: str, names: Sequence[str]) -> list[Column]:
    """The columns of these names of a data set that is a table: a list of text each.

    The very characters of a file of text, so that 007 stays 007 and NA stays NA; of other
    tables their values as text, and nothing for a gap.
    """
    known = [str(column) for column in data.table.columns]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise DataError(
                f"--id {name}: {data.name} has no such column; its columns are {listed(known)}."
                + hint
            )
    frame = None if source == tables.STDIN else _texts(source, names)
    if frame is None or len(frame) != len(data.table):  # rows without targets are left out
        frame = data.table[list(names)].astype(object).where(data.table[list(names)].notna(), "")
    return [[str(cell) for cell in frame[name]] for name in names]


def _texts(source: str, names: Sequence[str]) -> Any:
    """The cells of a file of text as they stand; None for another kind of file."""
    import pandas

    file = tables._file(source, source)
    if file.head.startswith(tuple(tables.MAGIC)):
        return None
    encoding = "utf-16" if file.head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    head = tables._head(file, encoding)
    first = head.partition("\n")[0]
    separator = max(tables.SEPARATORS, key=lambda mark: tables._outside_quotes(first, mark))
    with file.open() as content:
        return pandas.read_csv(
            content,
            sep=separator,
            names=tables._header(source, head, separator),
            header=0,
            index_col=False,
            encoding=encoding,
            dtype=str,
            na_filter=False,
            usecols=list(names),
            skipinitialspace=True,
        )
