"""Sparse rows: scikit-learn's time against ours, of a fit, of predictions, and of one.

    python bench/sparse_rows.py [--rounds 5]

Rows are random, with as many words as a text has; labels too. Both have to come to the same
model before anything is timed; then they take turns, and a ratio is the median of each round's.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.neural_network import MLPClassifier as Theirs

from mlp_xp import MLPClassifier as Ours

# rows, features, share of entries that are not zero, dtype, options
CASES: tuple[tuple[int, int, float, str, dict[str, Any]], ...] = (
    (11_000, 40_000, 0.002, "float64", {"max_iter": 2}),
    (3_000, 20_000, 0.005, "float64", {"max_iter": 3}),
    (3_000, 20_000, 0.002, "float32", {"max_iter": 3}),
    (3_000, 20_000, 0.002, "float64", {"max_iter": 3, "early_stopping": True}),
    (3_000, 5_000, 0.01, "float64", {"max_iter": 5, "hidden_layer_sizes": (16,)}),
    (3_000, 5_000, 0.01, "float64", {"max_iter": 10, "solver": "lbfgs"}),
)
ONE = 20  # predictions of one row, of which the mean is taken


def taken(estimator: Any, X: Any, y: Any, options: dict[str, Any]) -> tuple[list[float], Any]:
    """Seconds of a fit, of a prediction of all rows and of one; and the probabilities."""
    model = estimator(random_state=0, **options)
    times = [time.perf_counter()]
    model.fit(X, y)
    times.append(time.perf_counter())
    probabilities = model.predict_proba(X)
    times.append(time.perf_counter())
    for _ in range(ONE):
        model.predict(X[:1])
    times.append(time.perf_counter())
    fit, all_rows, one = np.diff(times)
    return [fit, all_rows, one / ONE], probabilities


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for m, n, density, dtype, options in CASES:
        X = scipy.sparse.random(m, n, density, "csr", dtype, random_state=0)
        y = np.random.default_rng(0).integers(0, 5, m)
        sides = (Theirs, Ours)
        _, expected = taken(Theirs, X, y, options)
        _, found = taken(Ours, X, y, options)
        np.testing.assert_allclose(found, expected, atol=1e-9 if dtype == "float64" else 1e-3)
        rounds = [[taken(side, X, y, options)[0] for side in sides] for _ in range(args.rounds)]
        told = [f"{m:,} rows of {n:,}, {100 * density:g} %, {dtype}, {options}:"]
        for i, what in enumerate(("fit", "all rows", "one row")):
            ratio = statistics.median(theirs[i] / ours[i] for theirs, ours in rounds)
            seconds = statistics.median(ours[i] for _, ours in rounds)
            told.append(f"{what} {1e3 * seconds:.1f} ms, {ratio:.2f};")
        print(*told, flush=True)


if __name__ == "__main__":
    main()
