"""What a run leaves, as JSON, and what follows from its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sections

FORMAT = 1
OURS = "mlp_xp"
HARDWARE = {"cpu": "processor", "cuda": "gpu"}  # where the environment names it
LEVEL = 0.05  # two runs of the same program on a quiet machine differ by less
NAMES = {
    "training": "training steps",
    "inference": "inference",
    "startup": "start-up",
    "kernels": "single kernels",
}

Row = dict[str, Any]
Results = dict[str, Any]


def load(path: str | Path) -> Results:
    """A file written by run.py, or by gpu.py, whose sections become rows."""
    try:
        results: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} is no file of results: {error}") from error
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise SystemExit(
            f"{path} is no file of results, format {FORMAT}: "
            "expected what bench/run.py --out or bench/gpu.py wrote."
        )
    if "sections" in results:
        results |= {"rows": sections.rows(results), "ceilings": sections.ceilings(results)}
    for row in results["rows"]:  # files of before rows named it
        row.setdefault("hardware", results["environment"][HARDWARE[row["device"]]])
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
    asked          the ratio that the project means to reach, or None
    dtype          what products are computed in
    median         seconds of ours
    asked_seconds  that it means to take, or None
    """

    kind: str
    case: str
    device: str
    peer: str
    ratio: float
    specification: float | None
    asked: float | None
    dtype: str = "float32"
    median: float = float("nan")
    asked_seconds: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether what was meant to be reached was; None where nothing was."""
        if self.asked_seconds is not None:
            return self.median <= self.asked_seconds
        return None if self.asked is None or not self.peer else self.ratio >= self.asked

    @property
    def aim(self) -> str:
        """What was meant to be reached: 1.5 ×, or 15 µs at most; or ""."""
        if self.asked_seconds is not None:
            return f"{duration(self.asked_seconds)} at most"
        return "" if self.asked is None else f"{self.asked:g} ×"

    @property
    def outcome(self) -> str:
        """ "ahead", "level" or "behind": beyond what two runs of one program differ by."""
        if abs(np.log(self.ratio)) <= np.log1p(LEVEL):
            return "level"
        return "ahead" if self.ratio > 1 else "behind"


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
                ours["dtype"],
                ours["median"],
                ours.get("asked_seconds"),
            )
        )
    return found


class Group(NamedTuple):
    """How all cases of a kind came out: the standings of those that have a peer."""

    kind: str
    dtype: str
    found: list[Standing]

    @property
    def name(self) -> str:
        less = "" if self.dtype == "float32" else f", {self.dtype}"
        return NAMES.get(self.kind, self.kind) + less

    @property
    def ratio(self) -> float:
        """Geometric mean of the best peers' times / ours."""
        return float(np.exp(np.mean(np.log([one.ratio for one in self.found]))))

    @property
    def aims(self) -> str:
        """5 of 6."""
        asked = [one.met for one in self.found if one.met is not None]
        return f"{sum(asked)} of {len(asked)}" if asked else "–"

    def count(self, outcome: str) -> int:
        return sum(one.outcome == outcome for one in self.found)


def groups(results: Results) -> list[Group]:
    """By kind and by what products are computed in; what a user calls first, kernels last."""
    found: dict[tuple[str, str], list[Standing]] = {}
    for one in standings(results):
        if one.peer:
            found.setdefault((one.kind, one.dtype), []).append(one)
    made = [Group(kind, dtype, ones) for (kind, dtype), ones in found.items()]
    return sorted(made, key=lambda group: group.kind == "kernels")


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
