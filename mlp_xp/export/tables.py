"""What comes before the first layer and after the last, in ONNX's operators.

Scales are `prepared.Scale`s. A table comes column by column, (m, 1) each: numbers as float64,
words as text in which "" is a gap; where `missing` says so, so are other words and numbers.
Dates are not read: ONNX has no operator for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..cells import is_number
from ..columns import Coded, Columns, Date, Number, Words
from ..prepared import NO_SCALE, Scale
from .functions import NotExportable
from .graph import ML, Graph


class Input(NamedTuple):
    """An input of the graph: its name, dtype ("str" for text) and axes, "m" for the examples."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]


def scaled(g: Graph, A: str, scale: Scale, dtype: Any) -> str:
    """(A - offset) / divisor of rows (m, n), in a dtype."""
    if scale == NO_SCALE:
        return A
    offset, divisor = (np.reshape(part, (1, -1)).astype(dtype) for part in scale)
    return g("Div", g("Sub", A, g.constant(offset, "offset")), g.constant(divisor, "divisor"))


def unscaled(g: Graph, A: str, scale: Scale) -> str:
    """Back in the original units, computed in float64, (m, n) in the graph's dtype."""
    if scale == NO_SCALE:
        return A
    offset, divisor = (np.reshape(part, (1, -1)).astype(np.float64) for part in scale)
    wide = g("Mul", g.cast(A, np.float64), g.constant(divisor, "divisor"))
    return g.cast(g("Add", wide, g.constant(offset, "offset")), g.dtype)


def _number(g: Graph, column: Any, A: str, missing: Sequence[str]) -> list[str]:
    """Gaps, which are NaN, filled; and marked where training had some."""
    for value in (float(word) for word in missing if is_number(word)):
        meant = g("Equal", A, np.array(value, np.float64))
        A = g("Where", meant, np.array(np.nan, np.float64), A)
    if not column.holes:
        return [A]
    empty = g("IsNaN", A)
    fill = np.array(column.fill, np.float64)
    return [g("Where", empty, fill, A), g.cast(empty, np.float64)]


def _words(g: Graph, column: Any, A: str, missing: Sequence[str]) -> list[str]:
    """1 for the word it is, 0 for all others."""
    known, n = _known(column, missing), len(column.values)
    hot = g("OneHotEncoder", A, domain=ML, cats_strings=list(known), zeros=1)
    found = g.cast(g("Reshape", hot, [0, len(known)]), np.float64)
    if len(known) == n:
        return [found]
    places = np.eye(n + 1)[list(known.values())][:, :n]
    return [g("MatMul", found, g.constant(places, "places"))]


def _known(column: Any, missing: Sequence[str]) -> dict[str, int]:
    """The number of each word that a cell may be; of one not met, how many there are."""
    known = {"" if value is None else value: i for i, value in enumerate(column.values)}
    gap = known.get("", len(known))
    return known | dict.fromkeys(missing, gap)


def _coded(g: Graph, column: Any, A: str, missing: Sequence[str]) -> list[str]:
    """The word's number, then its row of codes; the last row is for words not met."""
    known, n = _known(column, missing), len(column.values)
    place = g(
        "LabelEncoder",
        A,
        domain=ML,
        keys_strings=list(known),
        values_int64s=list(known.values()),
        default_int64=n,
    )
    codes = np.array([*column.codes, column.means], np.float64)
    rows = g("Gather", g.constant(codes, "codes"), place, axis=0)
    return [g("Reshape", rows, [0, codes.shape[1]])]


# kind of column ↦ its numbers (m, n) in float64, in the order of `Columns.outputs`, and its dtype
COLUMNS: dict[type[Any], tuple[Callable[[Graph, Any, str, Sequence[str]], list[str]], str]] = {
    Number: (_number, "float64"),
    Words: (_words, "str"),
    Coded: (_coded, "str"),
}


def table_inputs(table: Columns) -> list[Input]:
    """One for each column that is used; dates are refused."""
    dates = [column.name for column in table.used if isinstance(column, Date)]
    if dates:
        names = ", ".join(map(repr, dates))
        which = f"columns {names} hold" if len(dates) > 1 else f"column {names} holds"
        raise NotExportable(
            f"The table's {which} dates, which no operator of ONNX reads: expected numbers and "
            "words. Train on numbers made of them (year, month, days since …), or "
            "predict with mlp_xp."
        )
    return [Input(column.name, COLUMNS[type(column)][1], ("m", 1)) for column in table.used]


def tabled(g: Graph, table: Columns, names: Sequence[str], missing: Sequence[str]) -> str:
    """The numbers (m, n) in float64 of a table's columns.

    missing  words that stand for a gap, too
    """
    parts = []
    for column, name in zip(table.used, names, strict=True):
        parts += COLUMNS[type(column)][0](g, column, name, missing)
    return parts[0] if len(parts) == 1 else g("Concat", *parts, axis=1)


__all__ = ["Input", "scaled", "table_inputs", "tabled", "unscaled"]
