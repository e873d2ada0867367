"""Small fits on scikit-learn's own data: scikit-learn's time against ours.

    python bench/small_fits.py                    16 cases, every kind, some ten minutes
    python bench/small_fits.py --only wine        cases whose name contains a word
    python bench/small_fits.py --kinds warm       one kind

    packed  the first fit of a process, from the import of the library on, with kernels that came
            compiled with the package, and an empty cache. In a checkout:
            python -m mlp_xp.packing mlp_xp/fast
    kept    the same without them; what was compiled before lies in the cache
    empty   the same without them and with an empty cache: it waits for the compiler
    warm    a fit after the first of its process

Every first fit has a process of its own, which loads NumPy, the data and scikit-learn's
estimators' base before the clock starts. Warm ones take turns in one process, after a rest in
which the threads of the other side go to sleep. Of each case the median of the ratios of pairs is
taken. `--clock cpu` counts what the process and its compilers compute, on all cores: for a
machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import product
from typing import Any, NamedTuple

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
modules, data, estimator, parameters, clock, repeats = map(eval, sys.argv[1:])
if clock == "cpu":
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    clock = lambda: sum(sum(resource.getrusage(who)[:2]) for who in whose)
else:
    clock = time.perf_counter
X, y = getattr(datasets, f"load_{data}")(return_X_y=True)
X = (X - X.mean(axis=0)) / (X.std(axis=0) + 1e-9)
if estimator == "MLPRegressor":
    y = (y - y.mean()) / y.std()

def fit(module, rest):
    time.sleep(rest)
    began = clock()
    made = getattr(import_module(module), estimator)
    made(hidden_layer_sizes=(100,), max_iter=20, random_state=1, **parameters).fit(X, y)
    return clock() - began

first = [fit(module, 0) for module in modules]
warm = [[fit(module, 0.12) for module in modules] for _ in range(repeats)]
print(warm or first)  # as JSON has it, which ours would find loaded
"""
SIDES = ("sklearn.neural_network", "mlp_xp")
KINDS = {"packed": "1", "kept": "compile", "empty": "compile", "warm": "1"}


class Case(NamedTuple):
    """What is fitted, and how."""

    data: str
    solver: str
    kind: str
    cache: str
    clock: str


def answer(case: Case, modules: tuple[str, ...], repeats: int = 0) -> list[Any]:
    """Seconds of a process's first fit by each module, or of pairs of fits after these."""
    with tempfile.TemporaryDirectory() as empty:
        folder = empty if case.kind in ("packed", "empty") else case.cache
        known = {**os.environ, "MLP_XP_CACHE": folder, "MLP_XP_NATIVE": KINDS[case.kind]}
        known.pop("PYTHONDONTWRITEBYTECODE", None)
        told = (modules, case.data, DATA[case.data], SOLVERS[case.solver], case.clock, repeats)
        command = [sys.executable, "-c", CHILD, *map(repr, told)]
        done = subprocess.run(command, env=known, check=True, capture_output=True, text=True)
        return list(json.loads(done.stdout))


def pairs_of(case: Case, repeats: int) -> list[list[float]]:
    """Seconds of scikit-learn and of ours, in turns."""
    if case.kind == "warm":
        return answer(case, SIDES, repeats)
    for module in SIDES:  # bytecode, and what is kept
        answer(case, (module,))
    return [[answer(case, (module,))[0] for module in SIDES] for _ in range(repeats)]


def main() -> None:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of packed, kept, empty, warm")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args()
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for data, solver in product(DATA, SOLVERS):
            if args.only not in f"{data} {solver}":
                continue
            for kind in args.kinds.split(","):
                pairs = pairs_of(Case(data, solver, kind, cache, args.clock), args.repeats)
                theirs, ours = (1e3 * statistics.median(side) for side in zip(*pairs, strict=True))
                ratio = statistics.median(a / b for a, b in pairs)
                ratios.setdefault(kind, []).append(ratio)
                name = f"{data}, {solver}"
                print(f"{name:30} {kind:7} {theirs:7.1f} {ours:7.1f} ms {ratio:6.2f}", flush=True)
    for kind, found in ratios.items():
        mean = math.exp(statistics.fmean(map(math.log, found)))
        print(f"{kind}: geometric mean {mean:.2f}, least {min(found):.2f}")


if __name__ == "__main__":
    main()
