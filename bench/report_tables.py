"""The tables of a report: what their columns are, as HTML that sorts by a click."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import results as stored


def escaped(value: object) -> str:
    """Text of HTML."""
    return html.escape(str(value))


class Cell(NamedTuple):
    """What a cell shows, the number that it is sorted by, and whether that is good or bad."""

    text: str
    value: float | None = None
    tone: str = ""


def _number(value: float | None, form: Callable[[float], str]) -> Cell:
    return Cell("") if value is None else Cell(form(value), value)


Columns = dict[str, Callable[[Any], Cell]]
CONTEXT = ("kind", "device", "dtype")  # a column only where rows differ
WORDS = (
    "kind",
    "case",
    "device",
    "contestant",
    "dtype",
    "memory of",
    "BLAS",
    "fastest other",
    "aim",
    "reached",
    "what",
    "outcome",
)  # columns of words, to the left
COLUMNS: dict[str, Callable[[stored.Row], Cell]] = {
    "contestant": lambda r: Cell(r["contestant"] + (f" ({r['setting']})" if r["setting"] else "")),
    "case": lambda r: Cell(r["case"]),
    "median": lambda r: _number(r["median"], stored.duration),
    "minimum": lambda r: _number(r["least"], stored.duration),
    "spread": lambda r: _number(r["spread"], lambda v: f"±{100 * v:.0f}%"),
    "examples/s": lambda r: _number(r.get("examples_per_second"), lambda v: f"{v:,.0f}"),
    "GFLOP/s": lambda r: _number(r.get("gflops") or None, lambda v: f"{v:.3g}"),
    "% of GEMM": lambda r: _number(
        r.get("percent_gemm") if r.get("flops") else None, lambda v: f"{v:.0f}"
    ),
    "% of copying": lambda r: _number(r.get("percent_copy"), lambda v: f"{v:.0f}"),
    "memory, MiB": lambda r: _number(r["memory"], lambda v: f"{v / 2**20:,.0f}"),
    "least it needs": lambda r: _number(
        r.get("held") if r["memory"] else None, lambda v: f"{v / 2**20:,.1f}"
    ),
    "host": lambda r: _number(r["host_seconds"] if r["device_seconds"] else None, stored.duration),
    "device time": lambda r: _number(r["device_seconds"], stored.duration),
    "memory of": lambda r: Cell(r.get("memory_of", "") if r["device"] != "cpu" else ""),
    "kernels": lambda r: _number(r.get("kernels"), lambda v: f"{v:g}"),
    "waits": lambda r: _number(r.get("waits"), lambda v: f"{v:g}"),
    "kind": lambda r: Cell(r["kind"]),
    "device": lambda r: Cell(r["device"]),
    "dtype": lambda r: Cell(r["dtype"]),
    "BLAS": lambda r: Cell(r["blas"]),
}
NAMING = ("contestant", "case")  # what a row that failed has, too


REACHED = {None: Cell(""), True: Cell("✓ met", tone="good"), False: Cell("✗ missed", tone="bad")}
STANDINGS: dict[str, Callable[[stored.Standing], Cell]] = {
    "case": lambda s: Cell(s.case),
    "× as fast": lambda s: Cell(f"{s.ratio:.2f} ×", s.ratio) if s.peer else Cell(""),
    "aim": lambda s: Cell(s.aim),
    "reached": lambda s: REACHED[s.met],
    "outcome": lambda s: Cell(s.outcome if s.peer else ""),
    "ours": lambda s: _number(s.median, stored.duration),
    "fastest other": lambda s: Cell(s.peer or "none"),
    "specification / ours": lambda s: _number(s.specification, lambda v: f"{v:.2f} ×"),
    "kind": lambda s: Cell(s.kind),
    "device": lambda s: Cell(s.device),
    "dtype": lambda s: Cell(s.dtype),
}
GROUPS: dict[str, Callable[[stored.Group], Cell]] = {
    "what": lambda g: Cell(g.name),
    "× as fast": lambda g: Cell(f"{g.ratio:.2f} ×", g.ratio),
    "cases": lambda g: _number(len(g.found), str),
    "ahead": lambda g: _number(g.count("ahead"), str),
    "level": lambda g: _number(g.count("level"), str),
    "behind": lambda g: _number(g.count("behind"), str),
    "aims met": lambda g: Cell(g.aims),
}


def _filled(columns: Columns, ones: Sequence[Any]) -> tuple[Columns, str]:
    """The columns in which there is anything, and what all have in common."""
    found, common = {}, []
    for name, cell in columns.items():
        texts = {cell(one).text for one in ones}
        if name in CONTEXT and len(texts) == 1:
            common += texts
        elif texts - {""}:
            found[name] = cell
    return found, f'<p class="quiet">All: {escaped(", ".join(common))}.</p>' if common else ""


def _cells(columns: Columns, one: Any) -> str:
    made = []
    for name, of in columns.items():
        cell = of(one)
        kind = " ".join(["text"] * (name in WORDS) + [cell.tone] * bool(cell.tone))
        text = escaped(cell.text)
        if name == "case":  # a network is not broken into lines
            first, _, rest = text.partition(" ")
            text = f"<span>{first}</span> {rest}"
        made.append(
            "<td"
            + (f' class="{kind}"' if kind else "")
            + ("" if cell.value is None else f' data-value="{cell.value:.9g}"')
            + f">{text}</td>"
        )
    return "".join(made)


def _table(caption: str, names: Iterable[str], lines: Iterable[str], filtered: str = "") -> str:
    head = "".join(
        f'<th scope="col"{" class=text" if name in WORDS else ""}>{escaped(name)}</th>'
        for name in names
    )
    box = (
        f'<input id="{filtered}" type="search" placeholder="only rows with …" '
        f'aria-label="Show only rows with these words">'
    )
    return (
        f'{box if filtered else ""}<div class="wide{" rows" if filtered else ""}" tabindex="0" '
        f'role="region" '
        f'aria-label="{escaped(caption)}"><table class="sortable" data-filter="{filtered}">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def rows(what: str, results: stored.Results, number: int) -> str:
    """A table of all rows, those that failed with the reason; it can be filtered."""
    timed = stored.timed(results)
    naming = {name: COLUMNS[name] for name in NAMING}
    filled, common = _filled(COLUMNS, timed)
    columns = naming | filled
    lines = []
    for row in results["rows"]:
        if row["status"] == "ok":
            cells = _cells(columns, row)
        else:
            where = f"{row['kind']}, {row['device']}, {row['dtype']}"
            told = escaped(f"{row['status']}, not timed: {row['reason']} ({where})")
            span = max(1, len(columns) - len(naming))
            cells = _cells(naming, {"setting": "", **row})
            cells += f'<td class="failed" colspan="{span}">{told}</td>'
        mine = ' class="mine"' if row["contestant"] == stored.OURS else ""
        lines.append(f"<tr{mine}>{cells}</tr>")
    return _table(what, columns, lines, f"filter-{number}") + common


def overview(what: str, columns: Columns, ones: Sequence[Any]) -> str:
    """A table of a line for each; "" of nothing."""
    if not ones:
        return ""
    filled, common = _filled(columns, ones)
    return _table(what, filled, [f"<tr>{_cells(filled, one)}</tr>" for one in ones]) + common
