"""The roofline of a run: what was reached below what the machine can do, as measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import results as stored
from charts import COLOURS, OTHER, Chart, Spec, Theme, colour_of, log_scale, specified, ticks, tips


def roofline(name: str, results: stored.Results) -> Chart | None:
    """GFLOP/s by FLOP per byte, below what copying and products allow; None without ceilings."""
    roofs = results["ceilings"]
    rows = [
        row
        for row in stored.timed(results)
        if row.get("flops") and f"{row['device']} {row['dtype']}" in roofs
    ]
    if not rows:
        return None
    data, above = [], []
    for row in rows:
        roof = roofs[f"{row['device']} {row['dtype']}"]
        intensity = row["flops"] / row["moved"]
        share = row["gflops"] * 1e9 / min(roof["gemm"], intensity * roof["copy"])
        if share > 1:
            above.append(row)
        data.append(
            {
                "contestant": row["contestant"],
                "dtype": row["dtype"],
                "intensity": intensity,
                "gflops": row["gflops"],
                "above": share > 1,
                "case": f"{row['kind']} {row['case']}, {row['dtype']}",
                "GFLOP/s": f"{row['gflops']:,.3g}",
                "FLOP / byte": f"{intensity:.3g}",
                "of the roof": f"{100 * share:.0f} %",
                "median": stored.duration(row["median"]),
            }
        )
    least, most = (f(d["intensity"] for d in data) for f in (min, max))
    low, high = least / 4, most * 2
    slopes, labels, copies = [], [], {}
    several = len({title.partition(" ")[0] for title in roofs}) > 1
    for title, roof in roofs.items():
        device, _, dtype = title.partition(" ")
        where = f"{device}: " if several else ""
        corner = min(max(roof["gemm"] / roof["copy"], low), high)
        slopes += [
            {"roof": title, "x": x, "y": min(roof["gemm"], x * roof["copy"]) / 1e9}
            for x in sorted({low, corner, high})
        ]
        flat = f"{where}{dtype} products, {_rate_of_products(roof['gemm'])}"
        labels.append({"x": high, "y": roof["gemm"] / 1e9, "text": flat})
        slope = f"{where}copying, {roof['copy'] / 1e9:,.0f} GB/s"
        copies[slope] = {"x": low, "y": low * roof["copy"] / 1e9, "text": slope}
    bottom = 0.6 * min([*(one["y"] for one in copies.values()), *(d["gflops"] for d in data)])
    top = 2.2 * max(
        [*(roof["gemm"] / 1e9 for roof in roofs.values()), *(d["gflops"] for d in data)]
    )
    colours = {n: COLOURS.get(n, OTHER) for n in dict.fromkeys(d["contestant"] for d in data)}
    rise, run = (math.log10(b / a) for a, b in ((bottom, top), (low, high)))
    mine = [row for row in rows if row["contestant"] == stored.OURS and row["kind"] != "kernels"]
    named = _named(mine, [(one["x"], one["y"]) for one in labels], rise, run)
    angle = {"expr": f"-atan2(height / {rise}, width / {run}) * 180 / PI"}

    def spec(theme: Theme) -> Spec:
        x = log_scale(
            "intensity",
            "FLOP of products / byte that must move",
            scale={"domain": [low, high]},
            axis={"values": ticks(low, high)},
        )
        y = log_scale(
            "gflops",
            "GFLOP/s",
            scale={"domain": [bottom, top]},
            axis={"values": ticks(bottom, top)},
        )
        place = {
            "x": {"field": "x", "type": "quantitative"},
            "y": {"field": "y", "type": "quantitative"},
        }
        points = {
            "x": x,
            "y": y,
            "color": colour_of("contestant", colours),
            "tooltip": tips(
                "case", "contestant", "median", "GFLOP/s", "FLOP / byte", "of the roof"
            ),
        }
        return specified(
            theme,
            380,
            layer=[
                {
                    "data": {"values": slopes},
                    "mark": {"type": "line", "color": theme["ink"], "strokeWidth": 1.6},
                    "encoding": {**place, "detail": {"field": "roof"}},
                },
                {
                    "data": {"values": labels},
                    "mark": {"type": "text", "align": "right", "dy": -7},
                    "encoding": {**place, "text": {"field": "text"}},
                },
                {
                    "data": {"values": list(copies.values())},
                    "mark": {"type": "text", "align": "left", "dy": -8, "dx": 8, "angle": angle},
                    "encoding": {**place, "text": {"field": "text"}},
                },
                {
                    "data": {"values": named},
                    "transform": [{"calculate": "width < 560 ? '' : datum.name", "as": "told"}],
                    "mark": {
                        "type": "text",
                        "align": "right",
                        "dx": -8,
                        "fontSize": 11,
                        "color": theme["quiet"],
                    },
                    "encoding": {**place, "text": {"field": "told"}},
                },
                {
                    "data": {"values": [d for d in data if not d["above"]]},
                    "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.9},
                    "encoding": points,
                },
                {
                    "data": {"values": [d for d in data if d["above"]]},
                    "mark": {"type": "point", "filled": False, "size": 80, "strokeWidth": 2},
                    "encoding": points,
                },
            ],
        )

    said = "; ".join(
        f"{d['case']}, {d['contestant']}: {d['GFLOP/s']} GFLOP/s, {d['of the roof']} of the roof"
        for d in data
    )
    roofs_said = "; ".join(
        f"{title}: {roof['gemm'] / 1e9:,.0f} GFLOP/s of products, copying "
        f"{roof['copy'] / 1e9:,.1f} GB/s"
        for title, roof in roofs.items()
    )
    return Chart(
        name,
        "Roofline",
        _above(above),
        f"Measured roofs: {roofs_said}. Points: {said}.",
        spec,
        colours,
    )


def _rate_of_products(rate: float) -> str:
    return f"{rate / 1e12:,.0f} TFLOP/s" if rate > 1e13 else f"{rate / 1e9:,.0f} GFLOP/s"


def _named(
    rows: Sequence[stored.Row], taken: list[tuple[float, float]], rise: float, run: float
) -> list[dict[str, Any]]:
    """The points that have room for their names on their left, where others have none.

    taken      where names stand already
    rise, run  decades of the axes
    """
    found = []
    for row in sorted(rows, key=lambda row: -row["gflops"]):
        x, y = row["flops"] / row["moved"], row["gflops"]
        free = all(
            abs(math.log10(x / a)) > 0.2 * run or abs(math.log10(y / b)) > 0.045 * rise
            for a, b in taken
        )
        if free:
            taken.append((x, y))
            less = "" if row["dtype"] == "float32" else f", {row['dtype']}"
            label = row["case"] + less
            found.append({"x": x, "y": y, "name": label})
    return found


def _above(rows: Sequence[stored.Row]) -> str:
    """Why points lie above the roof."""
    told = "The line is the most that this machine's products and copies allow, measured in the "
    told += "same run. "
    if not rows:
        return told + "No point lies above it."
    most = max(row["held"] for row in rows) / 2**20
    many = f"{len(rows)} hollow point" + "s lie" * (len(rows) > 1) + " lies" * (len(rows) == 1)
    return told + (
        f"{many} above it: the slope is that of main memory, and what those cases hold "
        f"({most:.1f} MiB at most) stays in the processor's caches, which are faster."
    )
