"""One self-contained HTML page of a run, with its charts as PNG beside it.

    python bench/report.py results.json --out report.html
    python bench/report.py here.json gpu.json       # runs of several machines on one page

Every chart is drawn twice, for light pages and for dark ones; the page shows the one that
the reader's system asks for.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import results as stored
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

# Okabe & Ito's colours, told apart by everyone, on white and on black
COLOURS = {
    "mlp_xp": "#d55e00",
    "mlp_xp-spec": "#e8a26b",
    "mlp_xp-fit": "#c98a00",
    "torch": "#0072b2",
    "torch-compile": "#56b4e9",
    "jax": "#009e73",
    "jax-loop": "#6fcfae",
    "sklearn": "#cc79a7",
    "onnxruntime": "#9a86d8",
}
OTHER = "#8a8a8a"
MARKERS = {"cpu": "o", "cuda": "s"}
BY_HARDWARE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
THEMES = {
    "light": {"ink": "#1c1c1e", "paper": "#ffffff", "grid": "#d9d9de"},
    "dark": {"ink": "#ececf1", "paper": "#17181c", "grid": "#3a3c44"},
}

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --paper: #ffffff; --line: #d9d9de;
  --soft: #f4f4f6; --quiet: #5c5c66; --bad: #b00020; --mine: #fff3ea }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf1; --paper: #17181c; --line: #3a3c44;
  --soft: #212329; --quiet: #a5a6b0; --bad: #ff8a9a; --mine: #33261c } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 80rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2; font-weight: 600 } h2 { margin-top: 2.5rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap } th { background: var(--soft); font-weight: 600 }
td:first-child, th:first-child, td.text, th.text { text-align: left }
tr.mine td { background: var(--mine) } tr.case th { text-align: left; padding-top: .8rem }
td.bad { color: var(--bad); text-align: left; white-space: normal } .quiet { color: var(--quiet) }
img { max-width: 100%; height: auto } dl { display: grid; grid-template-columns: max-content 1fr;
  gap: .1rem 1rem } dt { color: var(--quiet) } dd { margin: 0; overflow-wrap: anywhere }
"""


# -- charts --------------------------------------------------------------------


def _axes(figure: Any, theme: dict[str, str], *place: int) -> Any:
    axes = figure.add_subplot(*place)
    axes.set_facecolor(theme["paper"])
    axes.grid(color=theme["grid"], linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme["grid"])
    axes.tick_params(colors=theme["ink"], which="both", labelsize=9)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(theme["ink"])
    return axes


def _figure(theme: dict[str, str], width: float, height: float) -> Any:
    return Figure((width, height), facecolor=theme["paper"], layout="constrained")


def _legend(figure: Any, theme: dict[str, str], axes: Any) -> None:
    handles: dict[str, Any] = {}
    for one in np.atleast_1d(np.array(axes, object)):
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=min(5, max(1, len(handles))),
        frameon=False,
        labelcolor=theme["ink"],
        fontsize=9,
    )


class Line(NamedTuple):
    """A line of a chart: the rows on it, and how it looks."""

    label: str
    rows: list[stored.Row]
    colour: str
    marker: str
    bold: bool


def _by_contestant(rows: list[stored.Row]) -> list[Line]:
    """A line for each contestant and device."""
    found: dict[tuple[str, str], list[stored.Row]] = {}
    for row in rows:
        found.setdefault((row["contestant"], row["device"]), []).append(row)
    return [
        Line(
            f"{contestant}, {device}",
            mine,
            COLOURS.get(contestant, OTHER),
            MARKERS.get(device, "^"),
            contestant == stored.OURS,
        )
        for (contestant, device), mine in found.items()
    ]


def _by_hardware(rows: list[stored.Row]) -> list[Line]:
    """A line for each processor, with so many threads, and each GPU."""
    found: dict[tuple[str, str], list[stored.Row]] = {}
    for row in rows:
        named = row["hardware"]
        if row["device"] == "cpu":
            named += f", {row['threads']} thread" + "s" * (row["threads"] > 1)
        found.setdefault((named, row["device"]), []).append(row)
    return [
        Line(named, mine, BY_HARDWARE[i % len(BY_HARDWARE)], MARKERS.get(device, "^"), True)
        for i, ((named, device), mine) in enumerate(found.items())
    ]


def throughput(
    rows: list[stored.Row],
    theme: dict[str, str],
    lines_of: Callable[[list[stored.Row]], list[Line]] = _by_contestant,
    missing: str = "",
) -> Any:
    """Examples per second by batch: a panel for each kind and network, a line a contestant.

    missing  what is not there, and why
    """
    panels: dict[tuple[str, str], list[stored.Row]] = {}
    for row in rows:
        network = row["case"].rpartition(" ")[0].rpartition(" ")[0]
        panels.setdefault((row["kind"], network), []).append(row)
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = _figure(theme, 4.2 * columns, 3.1 * lines + 0.6)
    if missing:
        figure.supxlabel(missing, color=theme["ink"], fontsize=9)
    all_axes = []
    for place, ((kind, network), found) in enumerate(panels.items(), 1):
        axes = _axes(figure, theme, lines, columns, place)
        all_axes.append(axes)
        for line in lines_of(found):
            points = sorted((row["batch"], row["examples_per_second"]) for row in line.rows)
            axes.plot(
                *zip(*points, strict=True),
                label=line.label,
                color=line.colour,
                marker=line.marker,
                linewidth=2 if line.bold else 1.2,
                markersize=6 if line.bold else 5,
                zorder=3 if line.bold else 2,
            )
        axes.set(xscale="log", yscale="log", xlabel="batch", ylabel="examples / s")
        axes.set_title(network if kind == "devices" else f"{kind} {network}", fontsize=10)
        batches = sorted({row["batch"] for row in found})
        axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_minor_locator(NullLocator())
    _legend(figure, theme, all_axes)
    return figure


def roofline(
    rows: list[stored.Row], ceilings: dict[str, dict[str, float]], theme: dict[str, str]
) -> Any:
    """GFLOP/s by FLOP per byte, below what copying and products allow."""
    figure = _figure(theme, 9, 5)
    axes = _axes(figure, theme, 1, 1, 1)
    rows = [row for row in rows if row["flops"] > 0]
    intensity = [row["flops"] / row["moved"] for row in rows] or [1.0]
    span = np.geomspace(min(intensity) / 3, max(intensity) * 3, 200)
    for style, (name, ceiling) in zip("-:" * len(ceilings), ceilings.items(), strict=False):
        roof = np.minimum(ceiling["gemm"], span * ceiling["copy"]) / 1e9
        label = f"measured ceilings, {name}"
        axes.plot(span, roof, color=theme["ink"], linewidth=1.4, linestyle=style, label=label)
    seen = dict.fromkeys((row["contestant"], row["device"]) for row in rows)
    for contestant, device in seen:
        mine = [r for r in rows if (r["contestant"], r["device"]) == (contestant, device)]
        axes.scatter(
            [row["flops"] / row["moved"] for row in mine],
            [row["gflops"] for row in mine],
            label=f"{contestant}, {device}",
            color=COLOURS.get(contestant, OTHER),
            marker=MARKERS.get(device, "^"),
            s=48 if contestant == stored.OURS else 28,
            zorder=3,
        )
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte that must move", ylabel="GFLOP/s")
    _legend(figure, theme, [axes])
    return figure


def without_gpu(runs: Sequence[stored.Results]) -> str:
    """Why no GPU stands beside the CPU, or ""."""
    rows = [row for one in runs for row in one["rows"] if row["kind"] == "devices"]
    on_gpu = [row for row in rows if row["device"] == "cuda"]
    if any(row["status"] == "ok" for row in on_gpu):
        return ""
    return "No GPU was measured" + (f": {on_gpu[0]['reason']}" if on_gpu else "") + "."


def charts(runs: Sequence[stored.Results]) -> dict[str, Callable[[dict[str, str]], Any]]:
    """Name → how to draw it in a theme: a chart is added by a line here.

    That of devices takes the rows of all runs; of the others each run has its own.
    """
    found: dict[str, Callable[[dict[str, str]], Any]] = {}
    devices = [row for one in runs for row in stored.timed(one) if row["kind"] == "devices"]
    if devices:
        found["devices"] = partial(
            throughput, devices, lines_of=_by_hardware, missing=without_gpu(runs)
        )
    for i, results in enumerate(runs):
        number = f"-{i + 1}" if len(runs) > 1 else ""
        rows = [row for row in stored.timed(results) if "flops" in row and row not in devices]
        batched = [row for row in rows if row["kind"] in ("training", "inference")]
        if batched:
            found[f"throughput{number}"] = partial(throughput, batched)
        if any(row["flops"] > 0 for row in rows) and results["ceilings"]:
            found[f"roofline{number}"] = partial(roofline, rows, results["ceilings"])
    return found


# -- page ----------------------------------------------------------------------

COLUMNS: dict[str, Callable[[stored.Row], str]] = {
    "contestant": lambda r: r["contestant"] + (f" ({r['setting']})" if r["setting"] else ""),
    "median": lambda r: stored.duration(r["median"]),
    "minimum": lambda r: stored.duration(r["least"]),
    "spread": lambda r: f"±{100 * r['spread']:.0f}%",
    "examples/s": lambda r: f"{r['examples_per_second']:,.0f}" if "flops" in r else "",
    "GFLOP/s": lambda r: f"{r['gflops']:.3g}" if r.get("flops") else "",
    "% of GEMM": lambda r: f"{r['percent_gemm']:.0f}" if r.get("flops") else "",
    "% of copying": lambda r: f"{r['percent_copy']:.0f}" if "percent_copy" in r else "",
    "memory, MiB": lambda r: f"{r['memory'] / 2**20:,.0f}" if r["memory"] is not None else "",
    "least it needs": lambda r: f"{r['held'] / 2**20:,.1f}" if r["memory"] and "held" in r else "",
    "host": lambda r: stored.duration(r["host_seconds"]) if r["device_seconds"] else "",
    "device": lambda r: stored.duration(r["device_seconds"]) if r["device_seconds"] else "",
    "memory of": lambda r: r.get("memory_of", "") if r["device"] != "cpu" else "",
    "kernels": lambda r: f"{r['kernels']:g}" if r.get("kernels") is not None else "",
    "waits": lambda r: f"{r['waits']:g}" if r.get("waits") is not None else "",
    "BLAS": lambda r: r["blas"],
}


def _table(results: stored.Results) -> str:
    timed = stored.timed(results)
    columns = {name: cell for name, cell in COLUMNS.items() if any(map(cell, timed))}
    head = "".join(f"<th>{name}</th>" for name in columns)
    lines, last = [], None
    for row in results["rows"]:
        title = (
            f"{row['kind']}: {row['case']}, {row['device']}, {row['dtype']}, "
            f"{row['threads']} threads, {'cold' if row['cold'] else 'warm'}"
        )
        if title != last:
            span = f'<th colspan="{len(columns)}">{html.escape(title)}</th>'
            lines.append(f'<tr class="case">{span}</tr>')
            last = title
        if row["status"] != "ok":
            told = f"{row['status']}, not timed: {row['reason']}"
            lines.append(
                f"<tr><td>{html.escape(row['contestant'])}</td>"
                f'<td class="bad" colspan="{len(columns) - 1}">{html.escape(told)}</td></tr>'
            )
            continue
        cells = "".join(f"<td>{html.escape(cell(row))}</td>" for cell in columns.values())
        mine = ' class="mine"' if row["contestant"] == stored.OURS else ""
        lines.append(f"<tr{mine}>{cells}</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _standings(results: stored.Results) -> str:
    lines = []
    for one in stored.standings(results):
        cells = (
            f"{one.kind} {one.case}, {one.device}",
            one.peer or "no peer",
            f"{one.ratio:.2f}" if one.peer else "",
            f"{one.asked:g}" if one.asked is not None else "",
            f"{one.specification:.2f}" if one.specification else "",
        )
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "<th>case</th><th>best peer</th><th>its time / ours</th><th>aim</th>"
    head += "<th>specification's time / ours</th>"
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _environment(results: stored.Results) -> str:
    found = {**results["environment"]}
    found |= found.pop("packages")
    for name, rates in results["ceilings"].items():
        found[name] = f"{rates['gemm'] / 1e9:,.0f} GFLOP/s, copying {rates['copy'] / 1e9:,.1f} GB/s"
    pairs = (
        f"<dt>{html.escape(str(k))}</dt><dd>{html.escape(str(v))}</dd>" for k, v in found.items()
    )
    return f"<dl>{''.join(pairs)}</dl>"


def _drawn(figure: Any) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context({"font.family": "DejaVu Sans"}):
        figure.savefig(buffer, format="png", dpi=144, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def page(runs: Sequence[stored.Results], out: Path) -> list[Path]:
    """Write the page, and its charts as NAME-light.png and NAME-dark.png; returns the files."""
    files, pictures = [out], []
    for name, draw in charts(runs).items():
        source = {}
        for theme, colours in THEMES.items():
            image = _drawn(draw(colours))
            path = out.with_name(f"{out.stem}-{name}-{theme}.png")
            path.write_bytes(image)
            files.append(path)
            source[theme] = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        pictures.append(
            f"<h2>{name.capitalize()}</h2><picture>"
            f'<source media="(prefers-color-scheme: dark)" srcset="{source["dark"]}">'
            f'<img src="{source["light"]}" alt="{name}"></picture>'
        )
    out.write_text(
        f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>mlp_xp beside its peers</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style>
<h1>mlp_xp beside its peers</h1>
<p class="quiet">Times are medians over rounds in which contestants took turns; the spread is
half the distance between quartiles. Memory is the peak above the bare import and the examples,
on a GPU that of the device above the examples.
Every row gave the numbers of a float64 run first.</p>
<h2>Standing</h2><p class="quiet">Ratios are paired by round; above 1, ours is faster.</p>
{"".join(map(_standings, runs))}
{"".join(pictures)}
<h2>Rows</h2>{"".join(map(_table, runs))}
<h2>Environment</h2>{"".join(map(_environment, runs))}
</html>
""",
        encoding="utf-8",
    )
    return files


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and say where."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", nargs="+", help="files of run.py, one a machine")
    parser.add_argument("--out", help="page to write (default: beside the first, .html)")
    args = parser.parse_args(argv)
    out = Path(args.out) if args.out else Path(args.results[0]).with_suffix(".html")
    for path in page([stored.load(path) for path in args.results], out):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
