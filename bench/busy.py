"""A step on two threads and on one, beside processes that compute all the time.

    python bench/busy.py [--busy 0,1,2] [--sizes 784,100,10] [--batch 200] [--rounds 8]

The two take turns, an epoch each of `fit` in the same process, which the system may move as it
likes. A row is µs a step on one thread and on two, medians, and their ratio: with a busy process
a core of two threads is not to be had, and two should not take longer than one.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import numpy as np
from threadpoolctl import threadpool_limits

from mlp_xp import MLP

ROWS, EPOCHS = 6000, 20
SPIN = "while True: pass"


def measure(sizes: tuple[int, ...], batch: int, rounds: int) -> dict[int, float]:
    """µs a step, by the number of threads."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((ROWS, sizes[0])).astype(np.float32)
    y = rng.integers(0, sizes[-1], ROWS)
    models = {threads: MLP(sizes, seed=0) for threads in (1, 2)}
    times: dict[int, list[float]] = {threads: [] for threads in models}
    steps = EPOCHS * -(-ROWS // batch)
    for turn in range(rounds + 1):
        for threads, model in models.items():
            with threadpool_limits(threads):
                began = time.perf_counter()
                model.fit(X, y, layout="rows", batch_size=batch, epochs=EPOCHS, progress=False)
                if turn:  # the first one compiles
                    times[threads].append(1e6 * (time.perf_counter() - began) / steps)
    return {threads: statistics.median(found) for threads, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--busy", default="0,1,2", help="how many processes, one row each")
    parser.add_argument("--sizes", default="784,100,10")
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    sizes = tuple(map(int, args.sizes.split(",")))
    for n in map(int, args.busy.split(",")):
        others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(n)]
        try:
            found = measure(sizes, args.batch, args.rounds)
        finally:
            for other in others:
                other.kill()
                other.wait()
        one, two = found[1], found[2]
        print(f"{n} busy: one thread {one:.0f} µs, two {two:.0f}: {two / one:.2f}", flush=True)


if __name__ == "__main__":
    main()
