"""The charts of a report, as Vega-Lite specifications.

A specification is drawn by the reader's browser, where it answers the pointer and takes the
width that there is, and by `vl_convert` for files. Colours come from a theme: those of the
page are variables of its style sheet, so that one drawing serves light pages and dark ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import results as stored

Spec = dict[str, Any]
Theme = dict[str, str]

# Okabe & Ito's colours, told apart by everyone, on white and on black
COLOURS = {
    "mlp_xp": "#d55e00",
    "mlp_xp-spec": "#e8a26b",
    "mlp_xp-fit": "#c98a00",
    "mlp_xp-networks": "#e8a26b",
    "torch": "#0072b2",
    "torch-compile": "#56b4e9",
    "jax": "#009e73",
    "jax-loop": "#6fcfae",
    "sklearn": "#cc79a7",
    "onnxruntime": "#9a86d8",
}
OTHER = "#8a8a8a"
BY_HARDWARE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
OUTCOMES = {"ahead": "#009e73", "level": "#8a8a8a", "behind": "#d55e00"}
THEMES = {
    "light": {"ink": "#1c1c1e", "paper": "#ffffff", "line": "#d9d9de", "quiet": "#5c5c66"},
    "dark": {"ink": "#ececf1", "paper": "#17181c", "line": "#3a3c44", "quiet": "#a5a6b0"},
}
PAGE = {name: f"var(--{name})" for name in THEMES["light"]}
TIMES = "format(datum.value, '~r') + ' ×'"
NARROW = 330  # CSS pixels beside the labels, below which less is written
FONT = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif"
DOES = {"training": "train", "inference": "predict", "startup": "start up", "kernels": "kernel"}


class Chart(NamedTuple):
    """A chart of the page.

    name     of its files
    title    what it shows
    note     how it is read, and what is not in it, and why
    alt      the same in words, for those who do not see it
    spec     theme → specification
    key      what is drawn → its colour
    """

    name: str
    title: str
    note: str
    alt: str
    spec: Callable[[Theme], Spec]
    key: dict[str, str]


def network(row: stored.Row) -> str:
    """784-100-10 of "784-100-10 batch 32"."""
    return str(row["case"]).rpartition(" ")[0].rpartition(" ")[0] or str(row["case"])


def _label(kind: str, case: str, dtype: str) -> str:
    """Two lines: the network, and what is done with it."""
    name, _, many = case.rpartition(" ")
    name, _, what = name.rpartition(" ")
    less = "" if dtype == "float32" else f", {dtype}"
    does = DOES.get(kind, kind)
    if not name or kind == "startup":
        return f"{does}\n{case}{less}"
    if what == "rows":
        return f"{name}\n{does}, {int(many):,} row{'s' * (int(many) > 1)}{less}"
    return f"{name}\n{does}, {what} {int(many):,}{less}"


def specified(theme: Theme, height: int, **more: Any) -> Spec:
    axis = {
        "labelColor": theme["ink"],
        "titleColor": theme["quiet"],
        "gridColor": theme["line"],
        "domainColor": theme["line"],
        "tickColor": theme["line"],
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
    }
    legend = {"labelColor": theme["ink"], "labelFontSize": 12, "symbolOpacity": 1}
    legend |= {"title": None, "orient": "top", "symbolStrokeWidth": 2, "columns": 4}
    return {
        "width": "container",
        "height": height,
        "background": theme["paper"],
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": {"left": 2, "right": 10, "top": 4, "bottom": 2},
        "config": {
            "font": FONT,
            "axis": axis,
            "legend": legend,
            "view": {"stroke": None},
            "text": {"color": theme["ink"], "fontSize": 12},
        },
        **more,
    }


def colour_of(field: str, colours: dict[str, str]) -> Spec:
    return {
        "field": field,
        "type": "nominal",
        "scale": {"domain": list(colours), "range": list(colours.values())},
    }


def tips(*names: str) -> list[Spec]:
    return [{"field": name, "type": "nominal"} for name in names]


def log_scale(field: str, title: str | None, **more: Any) -> Spec:
    scale = {"type": "log", "nice": False, **more.pop("scale", {})}
    axis = {"title": title, "labelExpr": "format(datum.value, ',~r')", **more.pop("axis", {})}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": axis, **more}


def _cases(labels: Sequence[str]) -> Spec:
    """Cases down the side, a label in two lines each."""
    axis = {"title": None, "labelExpr": r"split(datum.label, '\n')", "labelLimit": 190}
    axis |= {
        "domain": False,
        "ticks": False,
        "labelPadding": 8,
        "labelLineHeight": 14,
        "labelOffset": -7,
    }
    return {"field": "label", "type": "nominal", "sort": list(dict.fromkeys(labels)), "axis": axis}


def ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … within, few enough for a telephone."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 60 else (1, 3) if high / low < 1000 else (1,)
    found = [step * 10.0**decade for decade in decades for step in steps]
    return [value for value in found if low <= value * 1.0001 and value <= high * 1.0001]


def _rate(data: Sequence[dict[str, Any]]) -> Spec:
    """Examples per second, between the least and the most of them."""
    low, high = min(d["rate"] for d in data) / 1.3, max(d["rate"] for d in data) * 1.3
    axis = {"values": ticks(low, high), "labelExpr": "format(datum.value, '~s')"}
    axis["labelOverlap"] = True
    return log_scale("rate", "examples / s", scale={"domain": [low, high]}, axis=axis)


# -- how we stand ----------------------------------------------------------------


def standing(name: str, title: str, found: Sequence[stored.Standing]) -> Chart:
    """A bar a case, from 1 to the best peer's time / ours, and a tick where the aim lies."""
    data = []
    for one in found:
        aim = one.asked
        if one.asked_seconds is not None:
            aim = one.ratio * one.median / one.asked_seconds
        mark = {None: "", True: "  ✓", False: "  ✗"}[one.met]
        told = {None: "none", True: f"{one.aim}, met", False: f"{one.aim}, missed"}[one.met]
        data.append(
            {
                "label": _label(one.kind, one.case, one.dtype),
                "one": 1,
                "ratio": one.ratio,
                "aim": aim,
                "outcome": one.outcome,
                "text": f"{one.ratio:.2f} ×{mark}",
                "longer": f"{one.ratio:.2f} × {one.peer}{mark}",
                "at": max(1.0, one.ratio, aim or 0.0),
                "case": f"{one.case}, {one.dtype}",
                "ours": stored.duration(one.median),
                "fastest other": one.peer,
                "its time / ours": f"{one.ratio:.2f}",
                "the aim": told,
            }
        )
    low = min([0.8, *(0.9 * min(d["ratio"], d["aim"] or 1) for d in data)])
    high = max([2.0, *(1.02 * d["at"] for d in data)])
    long, short = (7 * max(len(d[name]) for d in data) + 8 for name in ("longer", "text"))
    room = {"expr": f"width - (width < {NARROW} ? {short} : {long})"}
    scale = {"domain": [low, high], "range": [0, room]}
    x = log_scale("ratio", None, scale=scale, axis={"values": ticks(low, high), "labelExpr": TIMES})
    shown = tips("case", "ours", "fastest other", "its time / ours", "the aim")
    y = _cases([d["label"] for d in data])
    wide = f"width < {NARROW} ? datum.text : datum.longer"

    def spec(theme: Theme) -> Spec:
        colour = colour_of("outcome", OUTCOMES)
        colour["legend"] = None
        return specified(
            theme,
            max(60, 38 * len(data)),
            data={"values": data},
            encoding={"y": y, "tooltip": shown},
            layer=[
                {
                    "mark": {"type": "bar", "height": 16, "cornerRadius": 2},
                    "encoding": {"x": x, "x2": {"field": "one"}, "color": colour},
                },
                {
                    "data": {"values": [{}]},
                    "mark": {"type": "rule", "color": theme["ink"], "strokeWidth": 1.5},
                    "encoding": {"x": {"datum": 1}, "y": None, "tooltip": None},
                },
                {
                    "transform": [{"filter": "datum.aim"}],
                    "mark": {"type": "tick", "color": theme["ink"], "thickness": 2, "size": 26},
                    "encoding": {"x": {"field": "aim", "type": "quantitative"}},
                },
                {
                    "transform": [{"calculate": wide, "as": "told"}],
                    "mark": {"type": "text", "align": "left", "dx": 7, "fontWeight": 600},
                    "encoding": {
                        "x": {"field": "at", "type": "quantitative"},
                        "text": {"field": "told"},
                    },
                },
            ],
        )

    said = "; ".join(
        f"{d['case']}: {d['its time / ours']} ({d['fastest other']}), aim {d['the aim']}"
        for d in data
    )
    aims = any(d["aim"] for d in data)
    note = "The fastest is chosen case by case; the table below names it. Level is within 5 %." + (
        " The tick is the aim: ✓ met, ✗ missed." if aims else ""
    )
    used = {name: OUTCOMES[name] for name in OUTCOMES if any(d["outcome"] == name for d in data)}
    alt = f"The fastest other library's time / ours. {said}."
    return Chart(name, title, note, alt, spec, used)


def everyone(name: str, results: stored.Results) -> Chart | None:
    """A dot a contestant at every case: its time / ours."""
    rows = [row for row in stored.timed(results) if row["kind"] not in ("kernels", "networks")]
    ours = {stored.key(row)[:-1]: row for row in rows if row["contestant"] == stored.OURS}
    data = [
        {
            "label": _label(row["kind"], row["case"], row["dtype"]),
            "contestant": row["contestant"],
            "ratio": row["median"] / ours[stored.key(row)[:-1]]["median"],
            "case": f"{row['case']}, {row['dtype']}",
            "setting": row["setting"] or "–",
            "median": stored.duration(row["median"]),
            "spread": f"±{100 * row['spread']:.0f} %",
        }
        for row in rows
        if stored.key(row)[:-1] in ours
    ]
    names = list(dict.fromkeys(d["contestant"] for d in data))
    if len(names) < 2:
        return None
    for d in data:
        d["its time / ours"] = f"{d['ratio']:.2f}"
    low, high = (f(d["ratio"] for d in data) for f in (min, max))
    x = log_scale(
        "ratio",
        "time / ours",
        scale={"domain": [low / 1.15, high * 1.15]},
        axis={"values": ticks(low / 1.15, high * 1.15), "labelExpr": TIMES},
    )
    colours = {name: COLOURS.get(name, OTHER) for name in names}

    def spec(theme: Theme) -> Spec:
        y = _cases([d["label"] for d in data])
        y["axis"]["grid"] = True
        return specified(
            theme,
            34 * len({d["label"] for d in data}),
            data={"values": data},
            encoding={
                "y": y,
                "x": x,
                "color": colour_of("contestant", colours),
                "tooltip": tips(
                    "case", "contestant", "setting", "median", "spread", "its time / ours"
                ),
            },
            layer=[{"mark": {"type": "point", "filled": True, "size": 90, "opacity": 0.9}}],
        )

    said = "; ".join(f"{d['case']}, {d['contestant']} {d['its time / ours']}" for d in data)
    note = "Dots are medians; right of 1 is slower than ours."
    if f"{stored.OURS}-spec" in names:
        note = (
            f"{note} mlp_xp-spec is ours by the kernels of the specification, "
            "mlp_xp-fit is MLP.fit with all its checks."
        )
    return Chart(name, "All contestants", note, f"Time / ours. {said}.", spec, colours)


# -- throughput ------------------------------------------------------------------


def by_batch(
    name: str,
    title: str,
    rows: Sequence[stored.Row],
    line: str,
    colours: dict[str, str],
    note: str = "",
) -> Chart:
    """Examples per second by batch: a line for each contestant, or each machine."""
    data = [
        {
            "line": row[line],
            "batch": row["batch"],
            "rate": row["examples_per_second"],
            "case": row["case"],
            "measured on": row["machine"],
            "median": stored.duration(row["median"]),
            "examples/s": f"{row['examples_per_second']:,.0f}",
        }
        for row in rows
    ]
    batches = sorted({row["batch"] for row in rows})
    named = dict.fromkeys(d["line"] for d in data)
    chosen = {line: colours.get(line, OTHER) for line in named}

    def spec(theme: Theme) -> Spec:
        x = log_scale("batch", "batch", axis={"values": batches, "labelOverlap": True})
        y = _rate(data)
        return specified(
            theme,
            250,
            data={"values": data},
            encoding={
                "x": x,
                "y": y,
                "color": colour_of("line", chosen),
                "tooltip": tips("line", "case", "measured on", "median", "examples/s"),
            },
            layer=[
                {"mark": {"type": "line", "strokeWidth": 2}},
                {"mark": {"type": "point", "filled": True, "size": 60, "opacity": 1}},
            ],
        )

    said = "; ".join(f"{d['line']}, batch {d['batch']}: {d['examples/s']}" for d in data)
    return Chart(name, title, note, f"Examples per second. {said}.", spec, chosen)


def throughput(name: str, results: stored.Results) -> list[Chart]:
    """Of one run: a chart for each network that was measured at several batches."""
    groups: dict[tuple[str, str, str], list[stored.Row]] = {}
    for row in stored.timed(results):
        if row["kind"] in ("training", "inference"):
            groups.setdefault((row["kind"], network(row), row["dtype"]), []).append(row)
    found = []
    for (kind, sizes, dtype), rows in groups.items():
        if len({row["batch"] for row in rows}) > 1:
            less = "" if dtype == "float32" else f", {dtype}"
            title = f"{kind.capitalize()}, {sizes}{less}: examples/s by batch"
            made = by_batch(f"{name}-{len(found) + 1}", title, rows, "contestant", COLOURS)
            found.append(made)
    return found


def without_gpu(runs: Sequence[stored.Results]) -> str:
    """Why no GPU stands beside the CPU, or ""."""
    rows = [row for one in runs for row in one["rows"] if row["device"] == "cuda"]
    if any(row["status"] == "ok" for row in rows):
        return ""
    return "No GPU was measured" + (f": {rows[0]['reason']}" if rows else "") + "."


def machines(runs: Sequence[stored.Results]) -> list[Chart]:
    """Our training steps on every machine and device of the runs, side by side."""
    taken = {}
    for kind in ("training", "devices"):  # these are made to be compared, and go before
        for row in (row for one in runs for row in stored.timed(one) if row["kind"] == kind):
            if row["contestant"] == stored.OURS and row["dtype"] == "float32":
                taken[row["machine"], row["case"]] = row
    rows = list(taken.values())
    several = len({row["machine"] for row in rows}) > 1
    if not several and not any(row["kind"] == "devices" for row in rows):
        return []
    named = list(dict.fromkeys(row["machine"] for row in rows))
    colours = {one: BY_HARDWARE[i % len(BY_HARDWARE)] for i, one in enumerate(named)}
    networks: dict[str, list[stored.Row]] = {}
    for row in rows:
        networks.setdefault(network(row), []).append(row)
    found = []
    for sizes, mine in networks.items():
        if len({row["batch"] for row in mine}) > 1:
            title = f"{sizes}: our training examples/s by batch"
            found.append(
                by_batch(
                    f"devices-{len(found) + 1}",
                    title,
                    mine,
                    "machine",
                    colours,
                    without_gpu(runs),
                )
            )
    common = {
        case: [row for row in rows if row["case"] == case]
        for case in dict.fromkeys(row["case"] for row in rows)
    }
    common = {
        case: mine for case, mine in common.items() if len({row["machine"] for row in mine}) > 1
    }
    if common:
        found.append(_beside(common, colours))
    return found


def _beside(common: dict[str, list[stored.Row]], colours: dict[str, str]) -> Chart:
    data = [
        {
            "label": _label("training", case, "float32"),
            "machine": row["machine"],
            "rate": row["examples_per_second"],
            "case": case,
            "median": stored.duration(row["median"]),
            "examples/s": f"{row['examples_per_second']:,.0f}",
        }
        for case, rows in common.items()
        for row in rows
    ]
    used = {
        name: colour for name, colour in colours.items() if any(d["machine"] == name for d in data)
    }

    def spec(theme: Theme) -> Spec:
        y = _cases([d["label"] for d in data])
        x = _rate(data)
        return specified(
            theme,
            36 * len(common),
            data={"values": data},
            encoding={"y": y, "x": x},
            layer=[
                {
                    "mark": {"type": "line", "color": theme["line"], "strokeWidth": 3},
                    "encoding": {"detail": {"field": "label"}},
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1},
                    "encoding": {
                        "color": colour_of("machine", used),
                        "tooltip": tips("case", "machine", "median", "examples/s"),
                    },
                },
            ],
        )

    said = "; ".join(f"{d['case']}, {d['machine']}: {d['examples/s']}" for d in data)
    return Chart(
        "machines",
        "Our training steps, machine beside machine",
        "Cases that were measured on more than one machine or device.",
        f"Examples per second. {said}.",
        spec,
        used,
    )
