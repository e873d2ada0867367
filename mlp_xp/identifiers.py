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

    The very characters of a file of text; of other tables their values as text, and nothing
    for a gap.
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
    frame = None if source == tables.STDIN else tables.texts(source, names)
    if frame is None:
        frame = data.table[list(names)].astype(object).where(data.table[list(names)].notna(), "")
    else:
        frame = frame.iloc[data.table.index]  # rows without targets are left out
    return [[str(cell) for cell in frame[name]] for name in names]
