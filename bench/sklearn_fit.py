"""scikit-learn's MLP against ours with the same parameters: time to the same model.

    python bench/sklearn_fit.py                 every case, about ten minutes
    python bench/sklearn_fit.py --only digits   cases whose name contains a word
    python bench/sklearn_fit.py --profile       also where the time of the slowest case goes

Both sides run in one process on the same data, with the same random_state and the same
number of threads. Each case is first trained once by both, and their weights and losses
are compared; only then are they timed, in turn, and the median of the ratios is taken.

`products` is the share of our time that the matrix products of the steps need by
themselves, on arrays that lie ready: with the same model in the same dtype that part is
the same for both, so that no ratio can exceed theirs / products.
"""

from __future__ import annotations

import argparse
import cProfile
import math
import pstats
import statistics
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from sklearn import neural_network
from sklearn.datasets import make_regression
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

import mlp_xp
from mlp_xp.data import DataError, load

NETWORKS = ((100,), (256, 128), (32, 32, 32))
BATCHES: tuple[int | str, ...] = ("auto", 32)
CHUNK = 500  # rows in one call of partial_fit
FASHION_ROWS = 10_000
SETTLE = 0.1  # seconds; OpenBLAS's threads spin for 2^26 cycles after a product
WANTED = {"geometric mean": 3.0, "every case": 1.5, "one row": 5.0}
TOLERANCE = {"float64": 1e-6, "float32": 1e-3}


class Task(NamedTuple):
    """Examples, and which estimator learns them; epochs long enough to be timed."""

    name: str
    estimator: str
    X: Any
    y: Any
    epochs: int


class Case(NamedTuple):
    """One row of the result."""

    task: Task
    hidden: tuple[int, ...]
    batch: int | str
    method: str

    @property
    def name(self) -> str:
        """As it is printed."""
        widths = "-".join(map(str, self.hidden))
        return f"{self.task.name} {widths} batch {self.batch} {self.method}"


def tasks(dtype: str) -> list[Task]:
    """The three data sets in the dtype."""
    digits = load("digits")
    fashion = load("fashion-mnist")
    chosen = slice(0, FASHION_ROWS)
    wide, values = make_regression(1500, 2000, n_informative=100, noise=1.0, random_state=0)
    values /= values.std()
    found = (
        ("digits", "MLPClassifier", digits.X / 16, digits.y, 10),
        ("fashion", "MLPClassifier", fashion.X[chosen] / 255, fashion.y[chosen], 2),
        ("wide", "MLPRegressor", wide, values, 3),
    )
    return [Task(name, row, np.ascontiguousarray(X, dtype), y, n) for name, row, X, y, n in found]


def make(module: Any, case: Case) -> Any:
    """An unfitted estimator of scikit-learn's module or ours."""
    return getattr(module, case.task.estimator)(
        hidden_layer_sizes=case.hidden,
        batch_size=case.batch,
        max_iter=case.task.epochs,
        random_state=1,
    )


def work(module: Any, case: Case) -> Any:
    """Train a new estimator; what is timed."""
    est, task = make(module, case), case.task
    if case.method == "fit":
        return est.fit(task.X, task.y)
    more = {"classes": np.unique(task.y)} if task.estimator == "MLPClassifier" else {}
    for start in range(0, len(task.X), CHUNK):
        part = slice(start, start + CHUNK)
        est.partial_fit(task.X[part], task.y[part], **more)
    return est


def difference(theirs: Any, ours: Any) -> float:
    """Largest difference of the weights and losses, to the largest of each."""
    pairs = [*zip(theirs.coefs_, ours.coefs_, strict=True)]
    pairs += zip(theirs.intercepts_, ours.intercepts_, strict=True)
    pairs.append((np.array(theirs.loss_curve_), np.array(ours.loss_curve_)))
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(a))) for a, b in pairs)


def products(case: Case) -> float:
    """Seconds of the case's matrix products by themselves."""
    task, X = case.task, case.task.X
    n_outputs = len(np.unique(task.y)) if task.estimator == "MLPClassifier" else 1
    sizes = (X.shape[1], *case.hidden, n_outputs)
    fit = case.method == "fit"
    n = len(X) if fit else CHUNK
    passes = task.epochs if fit else len(X) // CHUNK
    size = min(200, n) if case.batch == "auto" else int(case.batch)
    total = 0.0
    for m, times in ((size, n // size), (n % size, 1)):
        if m == 0:
            continue
        A = [np.ones((k, m), X.dtype) for k in sizes]
        W = [np.ones((n_out, n_in), X.dtype) for n_in, n_out in pairwise(sizes)]

        def step(A: list[Any] = A, W: list[Any] = W) -> None:
            for i, w in enumerate(W):
                np.matmul(w, A[i], out=A[i + 1])
                np.matmul(A[i + 1], A[i].T, out=w)
                if i > 0:
                    np.matmul(w.T, A[i + 1], out=A[i])

        with np.errstate(all="ignore"):
            step()
            total += passes * times * min(seconds(step, 3) for _ in range(3))
    return total


# "cpu" counts all threads, and is what can be trusted on a machine that others use too
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]


def seconds(function: Callable[[], Any], n: int = 1) -> float:
    """Of one call, the mean of n.

    Before that, a rest in which the threads that the other side left spinning fall asleep,
    and a call that is not timed, as everything is cold after a rest.
    """
    time.sleep(SETTLE)
    function()
    began = clock()
    for _ in range(n):
        function()
    return (clock() - began) / n


def peak(function: Callable[[], Any]) -> int:
    """Most bytes allocated at once in a call, arrays included."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Result(NamedTuple):
    """What one case gave: medians in seconds, of the ratios of pairs, and peaks in bytes."""

    case: Case
    theirs: float
    ours: float
    ratio: float
    spread: tuple[float, float]
    products: float
    memory: tuple[int, int]


def compare(case: Case, repeats: int) -> Result:
    """The same model first, then times in turn."""
    dtype = str(case.task.X.dtype)
    found = difference(work(neural_network, case), work(mlp_xp, case))
    if not found <= TOLERANCE[dtype]:
        sys.exit(f"{case.name}: the models differ by {found:.2g}, more than {TOLERANCE[dtype]:g}")
    pairs = []
    for _ in range(repeats):
        pair = [seconds(lambda m=m: work(m, case)) for m in (neural_network, mlp_xp)]  # type: ignore[misc]  # a lambda that binds
        pairs.append(pair)
    ratios = sorted(a / b for a, b in pairs)
    theirs, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    memory = tuple(peak(lambda m=m: work(m, case)) for m in (neural_network, mlp_xp))  # type: ignore[misc]  # a lambda that binds
    spread = (ratios[0], ratios[-1])
    return Result(case, theirs, ours, statistics.median(ratios), spread, products(case), memory)


def one_row(case: Case, repeats: int) -> tuple[float, float, float]:
    """Microseconds of a prediction for one row by both, and the median of their ratios."""
    models = [work(module, case) for module in (neural_network, mlp_xp)]
    x = case.task.X[:1].copy()
    methods = [getattr(m, "predict_proba", m.predict) for m in models]
    np.testing.assert_allclose(methods[0](x), methods[1](x), rtol=1e-4)
    pairs = [[seconds(lambda f=f: f(x), 300) for f in methods] for _ in range(repeats * 4)]  # type: ignore[misc]  # a lambda that binds
    ratio = statistics.median(a / b for a, b in pairs)
    theirs, ours = (1e6 * statistics.median(side) for side in zip(*pairs, strict=True))
    return theirs, ours, ratio


def show(result: Result) -> None:
    """One line."""
    low, high = result.spread
    theirs, ours = (n / 2**20 for n in result.memory)
    print(
        f"{result.case.name:44} {1e3 * result.theirs:9.1f} {1e3 * result.ours:9.1f} "
        f"{result.ratio:6.2f} {low:5.2f}–{high:5.2f} {result.products / result.ours:8.0%} "
        f"{theirs:8.1f} {ours:7.1f}",
        flush=True,
    )


def main() -> None:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--threads", type=int, default=1, help="of BLAS, for both sides")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=sorted(TOLERANCE), default="float64")
    parser.add_argument("--profile", action="store_true", help="of the slowest case")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    args = parser.parse_args()
    global clock
    clock = CLOCKS[args.clock]
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", "Got `batch_size`")
    try:
        found = tasks(args.dtype)
    except DataError as error:
        sys.exit(str(error))
    cases = [
        Case(task, hidden, batch, method)
        for task in found
        for hidden in NETWORKS
        for batch in BATCHES
        for method in ("fit", "partial_fit")
    ]
    cases = [case for case in cases if args.only in case.name]
    with threadpool_limits(args.threads):
        print(
            f"{args.dtype}, {args.threads} thread(s), {args.clock} time, "
            f"median of {args.repeats} pairs"
        )
        print(
            f"{'':44} {'theirs ms':>9} {'ours ms':>9} {'ratio':>6} {'spread':>11} "
            f"{'products':>8} {'MiB':>8} {'ours':>7}"
        )
        results = []
        for case in cases:
            results.append(compare(case, args.repeats))
            show(results[-1])
        ratios = [result.ratio for result in results]
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        print(f"geometric mean {mean:.2f} (wanted {WANTED['geometric mean']})", end=", ")
        print(f"least {min(ratios):.2f} (wanted {WANTED['every case']})")
        bounds = [result.theirs / result.products for result in results]
        bound = math.exp(statistics.fmean(map(math.log, bounds)))
        print(f"geometric mean if ours were its matrix products alone: {bound:.2f}")
        more = sum(result.memory[1] > result.memory[0] for result in results)
        print(f"peak memory above theirs in {more} of {len(results)} cases")
        print("\none row, µs")
        for case in cases:
            if case.method == "partial_fit" and case.batch == "auto":
                theirs, ours, ratio = one_row(case, args.repeats)
                name = case.name.removesuffix(" batch auto partial_fit")
                print(f"{name:44} {theirs:9.1f} {ours:9.1f} {ratio:6.2f}", flush=True)
        if args.profile:
            worst = min(results, key=lambda result: result.ratio).case
            print(f"\n{worst.name}")
            profile = cProfile.Profile()
            profile.runcall(work, mlp_xp, worst)
            pstats.Stats(profile).sort_stats("tottime").print_stats(15)


if __name__ == "__main__":
    main()
