"""How the time of a training step grows with batch and width, and what it is spent on.

    python bench/growth.py --out bench/README.md

The step of a network of two hidden layers, width-width-width-10, is timed whole; then its
parts are timed in ways that need to know nothing of how the step is made:

    Python       the same step on one example of one feature, one unit wide: all calls,
                 no arithmetic
    GEMM         the step's matrix products alone, made in the same way, on other arrays
    update       the step less the same step with an optimiser that does nothing but hand
                 theta on
    elementwise  what is left: gather, biases, activations, loss, sums over examples

Parts are clipped at what is left of the whole, so that shares add up to it. With --out the
table replaces what stands between its two marks in that file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import results as stored
import timing

from mlp_xp import MLP
from mlp_xp.bench import Trainer, examples, repeats_for, step_work
from mlp_xp.fast import native
from mlp_xp.fast.calls import Calls
from mlp_xp.optimizers import Optimizer
from mlp_xp.training import Data

BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
WIDTHS = (16, 64, 256, 1024, 4096)
N_CLASSES = 10
MARKS = ("<!-- growth -->", "<!-- /growth -->")


@dataclass(frozen=True)
class Nothing(Optimizer):
    """θ ← θ."""

    n_moments: ClassVar[int] = 0

    def update(self, xp: Any, theta: Any, g: Any, moments: Any, *scalars: float) -> Any:
        """The same arrays."""
        return theta, ()


class Shares(NamedTuple):
    """Seconds of a step, and of its parts."""

    whole: float
    gemm: float
    elementwise: float
    update: float
    python: float


def _least(runs: Sequence[Callable[[int], None]], seconds: float, rounds: int) -> list[float]:
    """Seconds of one call of each, the least of some rounds, as they are subtracted."""
    n = [repeats_for(run, lambda: None, seconds) for run in runs]
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for i, run in enumerate(runs):
            began = time.perf_counter()
            run(n[i])
            times[i].append((time.perf_counter() - began) / n[i])
    return [min(each) for each in times]


def _trainer(sizes: tuple[int, ...], m: int, optimizer: Any) -> Trainer:
    n_examples = m * max(4, 2048 // m)
    rows, labels = examples(sizes, n_examples)
    model = MLP(sizes, optimizer=optimizer, seed=0)
    order = np.random.default_rng(1).permutation(n_examples)
    return Trainer(model, Data(rows, labels.astype(np.int64)), order, m)


def _products(sizes: tuple[int, ...], m: int) -> Callable[[int], None]:
    """The products of a step as the step makes them, on arrays of their own."""
    calls = Calls("float32")

    def product(A: Any, B: Any, out: Any) -> None:
        if not native.available() or calls.product(A, B, out) is None:
            calls.calls.append(partial(np.matmul, A, B, out=out))

    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        W, A = np.ones((n_out, n_in), np.float32), np.ones((m, n_in), np.float32).T
        A = A if i == 0 else np.ascontiguousarray(A)
        delta = np.ones((n_out, m), np.float32)
        product(W, A, np.empty_like(delta))
        product(delta, A.T, np.empty_like(W))
        if i > 0:
            product(W.T, delta, np.empty((n_in, m), np.float32))
    if native.available():
        calls.finish()

    def run(n: int) -> None:
        for _ in range(n):
            for call in calls.calls:
                call()

    return run


def shares(width: int, m: int, seconds: float, rounds: int) -> Shares:
    """Time a step and its parts."""
    sizes = (width, width, width, N_CLASSES)
    step = _trainer(sizes, m, "adam")
    products = _products(sizes, m)

    def products_alone(n: int) -> None:
        with step.device.threads(sizes, m):
            products(n)

    whole, still, calls, alone = _least(
        [
            step.run,
            _trainer(sizes, m, Nothing()).run,
            _trainer((1, 1, 1, 2), 1, "adam").run,
            products_alone,
        ],
        seconds,
        rounds,
    )
    python = min(calls, whole)
    gemm = min(alone, whole - python)
    update = min(max(whole - still, 0.0), whole - python - gemm)
    return Shares(whole, gemm, whole - python - gemm - update, update, python)


def table(batches: Sequence[int], widths: Sequence[int], seconds: float, rounds: int) -> list[str]:
    """Markdown lines, one row a width and batch."""
    head = "| width | batch | step | examples/s | GFLOP/s | GEMM | elementwise | update | Python |"
    lines = [head, "|" + "---:|" * 9]
    for width in widths:
        for m in batches:
            found = shares(width, m, seconds, rounds)
            flops = step_work((width, width, width, N_CLASSES), m, 4).flops
            parts = (found.gemm, found.elementwise, found.update, found.python)
            cells = (
                f"{width:,}",
                f"{m:,}",
                stored.duration(found.whole),
                f"{m / found.whole:,.0f}",
                f"{flops / found.whole / 1e9:.3g}",
                *(f"{100 * part / found.whole:.0f} %" for part in parts),
            )
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def put(path: Path, lines: Sequence[str]) -> None:
    """Replace what stands between the marks."""
    text = path.read_text(encoding="utf-8")
    before, first, rest = text.partition(MARKS[0])
    _, last, after = rest.partition(MARKS[1])
    if not first or not last:
        raise SystemExit(f"{path} has no {MARKS[0]} … {MARKS[1]} to put the table between.")
    body = "\n".join(lines)
    path.write_text(f"{before}{first}\n{body}\n{last}{after}", encoding="utf-8")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main(argv: Sequence[str] | None = None) -> int:
    """Time in a child with threads set, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--batches", type=_numbers, default=BATCHES, help="with commas")
    add("--widths", type=_numbers, default=WIDTHS, help="with commas")
    add("--threads", type=int, default=os.cpu_count())
    add("--seconds", type=float, default=0.2, help="of one round (default: 0.2)")
    add("--rounds", type=int, default=5, help="of each part (default: 5)")
    add("--out", type=Path, help="file that has the marks (default: standard output)")
    add("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if not args.child:
        given = sys.argv[1:] if argv is None else list(argv)
        command = [sys.executable, __file__, *given, "--child"]
        environment = timing.child_environment(args.threads, "float32")
        return subprocess.run(command, env=environment, check=False).returncode
    timing.pin(args.threads)
    lines = table(args.batches, args.widths, args.seconds, args.rounds)
    gemm = timing.ceilings("cpu", "float32")["gemm"]
    machine = timing.machine()
    numpy = machine["packages"]["numpy"]
    lines += [
        "",
        f"{machine['processor']}, {args.threads} threads, NumPy {numpy}, {timing.blas()}, "
        f"float32; products alone reach {gemm / 1e9:,.0f} GFLOP/s.",
    ]
    if args.out is None:
        print("\n".join(lines))
    else:
        put(args.out, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
