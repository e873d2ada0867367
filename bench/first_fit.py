"""The first fit of a process, from the import of the library on: scikit-learn's against ours.

    python bench/first_fit.py                    16 small cases, every kind, some ten minutes
    python bench/first_fit.py --only wine        cases whose name contains a word
    python bench/first_fit.py --kinds packed     one kind

    packed  with kernels that came compiled with the package, and an empty cache. In a checkout:
            python -m mlp_xp.packing mlp_xp/fast
    kept    without them; what was compiled before lies in the cache
    empty   without them and with an empty cache: it waits for the compiler

Every fit has a process of its own, which loads NumPy, the data and scikit-learn's estimators'
base before the clock starts. Pairs take turns; of each case the median of the ratios is taken.
`--clock cpu` counts what the process and its compilers compute, on all cores: for a machine that
others use too.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import product

DATA = {
    "breast_cancer": "MLPClassifier",
    "wine": "MLPClassifier",
    "diabetes": "MLPRegressor",
    "digits": "MLPClassifier",
}
SOLVERS = {
    "adam": {},
    "sgd": {"solver": "sgd"},
    "early stopping": {"early_stopping": True},
    "lbfgs": {"solver": "lbfgs"},
}
CHILD = """
import resource, sys, time, warnings
warnings.simplefilter("ignore")
warnings.filterwarnings("error", ".*(not compiled|compiled again)")
import numpy as np
from importlib import import_module
from sklearn import base, datasets
module, data, estimator, parameters, clock = sys.argv[1:]
if clock == "cpu":
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    clock = lambda: sum(sum(resource.getrusage(who)[:2]) for who in whose)
else:
    clock = time.perf_counter
X, y = getattr(datasets, f"load_{data}")(return_X_y=True)
X = (X - X.mean(axis=0)) / (X.std(axis=0) + 1e-9)
if estimator == "MLPRegressor":
    y = (y - y.mean()) / y.std()
began = clock()
made = getattr(import_module(module), estimator)
made(hidden_layer_sizes=(100,), max_iter=20, random_state=1, **eval(parameters)).fit(X, y)
print(clock() - began)
"""
KINDS = {"packed": "1", "kept": "compile", "empty": "compile"}


def seconds(module: str, data: str, solver: str, kind: str, cache: str, clock: str) -> float:
    """Of one first fit, in a process of its own."""
    with tempfile.TemporaryDirectory() as empty:
        folder = cache if kind == "kept" else empty
        known = {**os.environ, "MLP_XP_CACHE": folder, "MLP_XP_NATIVE": KINDS[kind]}
        known.pop("PYTHONDONTWRITEBYTECODE", None)
        told = (module, data, DATA[data], repr(SOLVERS[solver]), clock)
        command = [sys.executable, "-c", CHILD, *told]
        done = subprocess.run(command, env=known, check=True, capture_output=True, text=True)
        return float(done.stdout)


def main() -> None:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of packed, kept, empty")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args()
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for data, solver in product(DATA, SOLVERS):
            if args.only not in f"{data} {solver}":
                continue
            for kind in args.kinds.split(","):
                sides = ("sklearn.neural_network", "mlp_xp")
                told = (data, solver, kind, cache, args.clock)
                for module in sides:  # bytecode, and what is kept
                    seconds(module, *told)
                pairs = [[seconds(module, *told) for module in sides] for _ in range(args.repeats)]
                theirs, ours = (1e3 * statistics.median(side) for side in zip(*pairs, strict=True))
                ratio = statistics.median(a / b for a, b in pairs)
                ratios.setdefault(kind, []).append(ratio)
                name = f"{data}, {solver}"
                print(f"{name:30} {kind:7} {theirs:7.0f} {ours:7.0f} ms {ratio:6.2f}", flush=True)
    for kind, found in ratios.items():
        mean = math.exp(statistics.fmean(map(math.log, found)))
        print(f"{kind}: geometric mean {mean:.2f}, least {min(found):.2f}")


if __name__ == "__main__":
    main()
