"""What a run leaves, as JSON, and what follows from its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT = 1
OURS = "mlp_xp"

Row = dict[str, Any]
Results = dict[str, Any]


def load(path: str | Path) -> Results:
    """A file written by run.py."""
    results: Results = json.loads(Path(path).read_text(encoding="utf-8"))
    if results.get("format") != FORMAT:
        raise SystemExit(f"{path} is no file of results, format {FORMAT}.")
    return results


def save(results: Results, path: str | Path) -> None:
    """Write, readable in a diff."""
    text = json.dumps(results, indent=1, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def key(row: Row) -> tuple[str, ...]:
    """What makes two rows the same measurement."""
    names = ("kind", "case", "device", "dtype", "threads", "contestant")
    return tuple(str(row[name]) for name in names)


def timed(results: Results) -> list[Row]:
    """The rows that have times."""
    return [row for row in results["rows"] if row["status"] == "ok"]


class Standing(NamedTuple):
    """How a case came out: another's time / ours, paired round by round, the median of them.

    peer, ratio    the peer of the least median
    specification  the ratio of the specification's kernels
    asked          what the project means to reach, or None
    """

    kind: str
    case: str
    device: str
    peer: str
    ratio: float
    specification: float | None
    asked: float | None


def paired(theirs: Row, ours: Row) -> float:
    """Their time / ours: the median over rounds, in each of which both were measured."""
    n = min(len(theirs["rounds"]), len(ours["rounds"]))
    return float(np.median(np.divide(theirs["rounds"][:n], ours["rounds"][:n])))


def standings(results: Results) -> list[Standing]:
    """One for each case in which we and a peer were timed."""
    found = []
    rows = timed(results)
    for ours in rows:
        if ours["contestant"] != OURS:
            continue
        same = [row for row in rows if key(row)[:-1] == key(ours)[:-1]]
        # our own variants are no peers, nor, on a CPU, is a loop that nothing can be done in;
        # on a GPU our steps go several at a launch, too
        none = (OURS, "jax-loop") if ours["device"] == "cpu" else (OURS,)
        rivals = [r for r in same if not r["contestant"].startswith(none)]
        spec = [row for row in same if row["contestant"] == f"{OURS}-spec"]
        best = min(rivals, key=lambda row: row["median"], default=None)
        if best is None and not spec:
            continue
        found.append(
            Standing(
                ours["kind"],
                ours["case"],
                ours["device"],
                best["contestant"] if best else "",
                paired(best, ours) if best else float("nan"),
                paired(spec[0], ours) if spec else None,
                ours["asked"],
            )
        )
    return found


def duration(seconds: float) -> str:
    """1.23 µs, 45.6 ms, …"""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return (
                f"{seconds / size:.3g} {unit}"
                if seconds / size < 999.5
                else f"{seconds / size:,.0f} {unit}"
            )
    return f"{seconds / 1e-9:.3g} ns"


def line(row: Row) -> str:
    """A row as the terminal shows it."""
    name = f"  {row['contestant']:<14}"
    if row["status"] != "ok":
        return f"{name}{row['status'].upper()}, not timed: {row['reason']}"
    parts = [f"{duration(row['median']):>9}", f"±{100 * row['spread']:.0f}%"]
    if row["kind"] != "startup":
        parts.append(f"least {duration(row['least'])}")
        parts.append(f"{row['examples_per_second']:,.0f} examples/s")
        if row["flops"] > 0:
            parts.append(f"{row['gflops']:.3g} GFLOP/s, {row['percent_gemm']:.0f}% of GEMM")
        parts.append(f"{row['percent_copy']:.0f}% of copying")
    if row["memory"] is not None:
        parts.append(f"{row['memory'] / 2**20:,.0f} MiB")
    if row.get("kernels") is not None:
        parts.append(f"{row['kernels']:g} kernels")
    if row["device_seconds"] is not None:
        parts.append(f"host {duration(row['host_seconds'])}")
        parts.append(f"device {duration(row['device_seconds'])}")
    if row["setting"]:
        parts.append(f"[{row['setting']}]")
    parts += [f"[refused: {refused}]" for refused in row.get("settings_refused", ())]
    return name + "  ".join(parts)
