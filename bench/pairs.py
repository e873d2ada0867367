"""Two states of this library beside each other: µs a training step, in pairs of processes.

    python bench/pairs.py BEFORE AFTER [--pairs 6] [--cases plain "784-100-10 batch 32" …]
    python bench/pairs.py . .:MLP_XP_BLAS=mkl --cases "784-512-512-10 batch 128 float64"

A state is a checkout (`git worktree add`), with variables of the environment behind colons. A
case is one of `beyond.py`'s by its name, or widths, batch and, if not float32, the dtype. Each
process takes the steps that `fit` takes for half a second and tells the median; first one state
begins, then the other. Before that both have to give the same first loss. A ratio is after /
before: below 1 the second state is faster.

Within one process a step's speed depends on where its memory happens to lie, by some percent:
so several pairs, and the median of their ratios with the least and the most.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CASES = ("784-100-10 batch 32", "784-512-512-10 batch 128", "64-" + 8 * "128-" + "10 batch 256")
TURNS, SECONDS = 25, 0.02


def model_of(case: str) -> tuple[Any, tuple[int, ...], int]:
    """The model, the shape of an example, and examples a step."""
    import beyond

    if case in beyond.CASES:
        found = beyond.CASES[case]
        return found.make(), found.shape, found.m
    from mlp_xp import MLP

    parts = re.fullmatch(r"(\d+(?:-\d+)+) batch (\d+)(?: (float32|float64))?", case)
    if parts is None:
        raise SystemExit(
            f"{case!r} is no case: expected one of {', '.join(beyond.CASES)}, or one such as "
            "'784-100-10 batch 32 float64'."
        )
    sizes = tuple(map(int, parts[1].split("-")))
    loss = "binary_cross_entropy" if sizes[-1] == 1 else "cross_entropy"
    return MLP(sizes, loss=loss, seed=0, dtype=parts[3] or "float32"), sizes[:1], int(parts[2])


def steps(case: str) -> dict[str, float]:
    """What one process finds: the first loss, and µs a step."""
    import beyond
    import numpy as np

    model, shape, m = model_of(case)
    rng = np.random.default_rng(0)
    dtype = model._run.state.theta.dtype
    X = rng.random((8 * m, int(np.prod(shape))), dtype=np.float32).astype(dtype)
    y = rng.integers(0, max(2, model.network.sizes[-1]), len(X))
    side, first = beyond.ours(model, X, y, m)
    began = time.perf_counter()
    side.run(8)
    n = max(1, int(8 * SECONDS / (time.perf_counter() - began)))
    times = []
    for _ in range(TURNS):
        began = time.perf_counter()
        side.run(n)
        times.append((time.perf_counter() - began) / n)
    return {"loss": first, "microseconds": 1e6 * statistics.median(times)}


def asked(state: str, case: str) -> dict[str, float]:
    """The same of a process with a state's library."""
    where, *variables = state.split(":")
    root = Path(where).resolve()
    if not (root / "mlp_xp").is_dir():
        raise SystemExit(f"{where} is no checkout: it has no folder mlp_xp.")
    environment = {**os.environ, "PYTHONPATH": str(root)}
    environment |= dict(variable.split("=", 1) for variable in variables)
    command = [sys.executable, __file__, "--within", case]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(found.stderr)
    return dict(json.loads(found.stdout))


def told(case: str, states: list[str], pairs: int) -> str:
    """One row."""
    found: list[list[dict[str, float]]] = [[], []]
    for turn in range(-1, pairs):  # the first compiles
        for i in (0, 1) if turn % 2 else (1, 0):
            row = asked(states[i], case)
            if turn >= 0:
                found[i].append(row)
    losses = [side[0]["loss"] for side in found]
    if abs(losses[0] - losses[1]) > 1e-4 * abs(losses[0]):
        raise SystemExit(f"{case}: the first losses are {losses[0]} and {losses[1]}")
    before, after = ([row["microseconds"] for row in side] for side in found)
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    line = f"{case:32s} {statistics.median(before):9.1f} {statistics.median(after):9.1f} µs"
    return f"{line} {statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("states", nargs="*", metavar="STATE", help="two of them")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="CASE")
    parser.add_argument("--within", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.within:
        print(json.dumps(steps(args.within)))
        return
    if len(args.states) != 2:
        parser.error(f"expected two states, before and after, not {len(args.states)}")
    for case in args.cases:
        print(told(case, args.states, args.pairs), flush=True)


if __name__ == "__main__":
    main()
