"""What changed between two runs, beyond noise.

    python bench/compare.py before.json after.json

A row changed if its medians differ by more than the floor and by more than four standard
errors of both together, each from the scatter of its rounds. Rounds do not see what sets
one run apart from another (where arrays came to lie, the clock's mood), hence the floor.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import results as stored

FLOOR = stored.LEVEL
ERRORS = 4.0  # of 1,000 rows that did not change, one is called changed
TO_DEVIATION = 1.4826  # median absolute deviation → standard deviation, of normal noise
OF_MEDIAN = 1.2533  # standard error of a median / that of a mean


class Change(NamedTuple):
    """A row in both runs: the ratio of times after / before, and how far noise goes."""

    key: tuple[str, ...]
    ratio: float
    noise: float

    @property
    def beyond(self) -> bool:
        """Whether the ratio is outside of what noise explains."""
        return abs(math.log(self.ratio)) > self.noise


def standard_error(rounds: Sequence[float]) -> float:
    """Of the median of the rounds' logarithms."""
    logs = np.log(rounds)
    deviation = TO_DEVIATION * float(np.median(np.abs(logs - np.median(logs))))
    return OF_MEDIAN * deviation / math.sqrt(len(logs))


def changes(before: stored.Results, after: stored.Results, floor: float = FLOOR) -> list[Change]:
    """Every row timed in both."""
    old = {stored.key(row): row for row in stored.timed(before)}
    found = []
    for row in stored.timed(after):
        earlier = old.get(stored.key(row))
        if earlier is not None:
            error = math.hypot(standard_error(earlier["rounds"]), standard_error(row["rounds"]))
            noise = max(math.log1p(floor), ERRORS * error)
            found.append(Change(stored.key(row), row["median"] / earlier["median"], noise))
    return found


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    parts = [_flat(part, f"{name}.{key}" if name else key) for key, part in value.items()]
    return {key: part for flat in parts for key, part in flat.items()}


def report(before: stored.Results, after: stored.Results, floor: float = FLOOR) -> list[str]:
    """Lines: what differs in the environment, in which rows there are, and in their times."""
    lines = []
    old, new = _flat(before["environment"]), _flat(after["environment"])
    old |= _flat(_blas(before), "blas")
    new |= _flat(_blas(after), "blas")
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            lines.append(f"environment: {name} was {old.get(name)}, is {new.get(name)}")
    for device, rates in after["ceilings"].items():
        for name, rate in rates.items():
            earlier = before["ceilings"].get(device, {}).get(name)
            if earlier and abs(math.log(rate / earlier)) > math.log1p(floor):
                lines.append(f"machine: {device} {name} rate × {rate / earlier:.2f}")
    states: list[dict[tuple[str, ...], str]] = [
        {stored.key(r): r["status"] for r in one["rows"]} for one in (before, after)
    ]
    for i, name in enumerate(("before", "after")):
        alone = len(states[i].keys() - states[1 - i].keys())
        if alone:
            lines.append(f"rows: {alone} only in the run {name}")
    for key in sorted(states[0].keys() & states[1].keys()):
        was, now = (state[key] for state in states)
        if was != now:
            lines.append(f"{_named(key)}: was {was}, is {now}")
    found = changes(before, after, floor)
    for change in sorted(found, key=lambda change: change.ratio):
        if change.beyond:
            word = "faster" if change.ratio < 1 else "slower"
            times = 1 / change.ratio if change.ratio < 1 else change.ratio
            noise = math.expm1(change.noise)
            lines.append(f"{_named(change.key)}: {times:.2f} × {word} (noise {100 * noise:.0f}%)")
    within = sum(not change.beyond for change in found)
    lines.append(f"{within} of {len(found)} rows did not change beyond noise.")
    return lines


def _blas(results: stored.Results) -> dict[str, Any]:
    return {row["contestant"]: row["blas"] for row in stored.timed(results) if row["blas"]}


def _named(key: tuple[str, ...]) -> str:
    kind, case, device, dtype, threads, contestant = key
    return f"{kind} {case}, {device} {dtype}, {threads} threads, {contestant}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--floor", type=float, default=FLOOR, help="least share (default: 0.05)")
    args = parser.parse_args(argv)
    print("\n".join(report(stored.load(args.before), stored.load(args.after), args.floor)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
