"""Products of this library's own (`fast/multiply.c`) beside the BLAS's, one by one, on one thread.

    python bench/products.py [ROWSxCOLUMNSxINNER …] [--rounds 15]

Sides are as a step has them; `T` after the rows or the inner side says that A or B is read
transposed: 256x128x784T is (256, 784) · (784, 128), of a B whose columns lie together. Both
give the same numbers to rounding before anything is timed; then they take turns, and a row is
GFLOP/s of the medians, and the median of the ratios. What `blas.own` leaves to the BLAS is
marked: there a step does not take ours.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time

import numpy as np

from mlp_xp.fast import blas, calls, native
from mlp_xp.fast.threads import Alone

# (rows, columns, inner) of layers of 256, 100, 512 and 2048 units, of short sides, of gates
SHAPES = (
    *("256x128x784T", "256x128x256", "256Tx128x256", "256x256x128T", "256x784x128T"),
    *("10x128x256", "10x256x128T", "256Tx128x10"),
    *("100x32x784T", "100x784x32T", "100x200x784T", "100x784x200T"),
    *("512x128x784T", "512x512x128T", "512Tx128x512", "512x512x512"),
    *("128x256x128", "128Tx256x128", "128x128x256T", "128x128x128"),
    *("16x32x20T", "16Tx32x20", "2048x512x2048", "2048x512x2048T", "2048Tx512x2048"),
    *("100x8x784T", "100x784x8T"),
)
SECONDS = 0.004  # of one turn, at least


def parsed(shape: str) -> tuple[bool, bool, int, int, int]:
    """Whether A and B are read transposed, rows, columns and inner side."""
    found = re.fullmatch(r"(\d+)(T?)x(\d+)x(\d+)(T?)", shape)
    if found is None:
        raise SystemExit(f"{shape!r} is no product: expected one such as 256x128x784T.")
    rows, ta, columns, inner, tb = found.groups()
    return bool(ta), bool(tb), int(rows), int(columns), int(inner)


def table(words: list[int], n: int) -> np.ndarray:
    """The same call n times."""
    return np.array([words] * n, np.int64)


def measure(shape: str, dtype: str, rounds: int) -> tuple[float, float, float, bool]:
    """GFLOP/s of the BLAS and of ours, BLAS's time / ours, and whether steps take ours."""
    ta, tb, rows, columns, inner = parsed(shape)
    rng = np.random.default_rng(0)
    A = rng.random((inner, rows) if ta else (rows, inner)).astype(dtype)
    B = rng.random((columns, inner) if tb else (inner, columns)).astype(dtype)
    own, functions = blas.own(dtype, (False, False), (rows, columns, inner)), blas.product(dtype)
    if own is None or functions is None:
        raise SystemExit("There are no products of our own on this processor, or no BLAS.")
    run, outs, sides = native.runtime().run, [], []
    for function, argument in ((functions[0], functions[1]), (own, 0)):
        out = np.empty((rows, columns), dtype)
        words = [function, 1, argument, ta, tb, rows, columns, inner]
        words += [calls.address(A), A.shape[1], calls.address(B), B.shape[1]]
        words += [calls.address(out), columns, 0, 0]
        once = table(words, 1)
        run(calls.address(once), 1)
        outs.append(out)
        sides.append(words)
    unit = np.finfo(dtype).eps * inner * inner
    if not np.allclose(*outs, rtol=0, atol=unit):
        raise AssertionError(f"{shape}: they differ by {np.abs(outs[0] - outs[1]).max()}")
    once = table(sides[0], 1)
    began = time.perf_counter()
    run(calls.address(once), 1)
    n = max(1, min(4096, int(SECONDS / (time.perf_counter() - began))))
    tables = [table(words, n) for words in sides]
    times: list[list[float]] = [[], []]
    for turn in range(rounds):
        for side in (0, 1) if turn % 2 else (1, 0):
            began = time.perf_counter()
            run(calls.address(tables[side]), n)
            times[side].append((time.perf_counter() - began) / n)
    work = 2e-9 * rows * columns * inner
    theirs, mine = (work / statistics.median(side) for side in times)
    ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    return theirs, mine, ratio, blas.own(dtype, (ta, tb), (rows, columns, inner)) is not None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", default=SHAPES)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    with Alone():
        print(f"{'rows x columns x inner':24s}" + 2 * f"{'BLAS':>8s}{'ours':>8s}{'ratio':>8s}  ")
        for shape in args.shapes:
            line = f"{shape:24s}"
            for dtype in ("float32", "float64"):
                theirs, mine, ratio, taken = measure(shape, dtype, args.rounds)
                line += f"{theirs:8.0f}{mine:8.0f}{ratio:8.2f}{'  ' if taken else ' *'}"
            print(line, flush=True)
    print("float32, then float64: GFLOP/s; * a step takes the BLAS's")


if __name__ == "__main__":
    main()
