"""Whether memory stays flat over thousands of fits, predictions and models of changing shapes.

    python bench/flat.py                    all of them: some minutes
    python bench/flat.py predictions        one of them
    python bench/flat.py --device cuda      what the GPU's pool holds, too
    python bench/flat.py --scale 0.1        a tenth of the rounds

Each kind of work runs in rounds. A first third of them brings the caches to their size; what the
process holds (RSS) after each of the others is fitted by a line, whose rise over all of them must
be below `ALLOWED`. Prints a row for each and ends with 1 if one rises.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ALLOWED = 8.0  # MB: what allocators leave in pieces; a leak of one array a round shows hundreds
ROUNDS = 30

Work = Callable[[np.random.Generator, str], object]


def _examples(random: np.random.Generator, n: int) -> tuple[Any, Any]:
    m = int(random.integers(300, 3000))
    return random.normal(size=(n, m)).astype("float32"), random.integers(0, 3, m)


def _model(random: np.random.Generator, device: str) -> Any:
    from mlp_xp import MLP

    hidden = int(random.choice((8, 64, 200)))  # few, for each is compiled once
    more: Any = ({}, {"normalization": "batch"}, {"dropout": 0.2}, {"seed": [0, 1]})
    return MLP((30, hidden, 3), device=device, **more[int(random.integers(4))])


def fits(random: np.random.Generator, device: str) -> None:
    """70 models made, trained, evaluated and dropped."""
    for _ in range(70):
        X, y = _examples(random, 30)
        model = _model(random, device)
        model.fit(X, y, epochs=1, batch_size=int(random.integers(8, 300)), progress=False)
        model.evaluate(X, y)


_kept: dict[str, Any] = {}


def predictions(random: np.random.Generator, device: str) -> None:
    """3,500 predictions of one to 100 rows by a model and its predictor."""
    model = _kept.setdefault("model", _model(np.random.default_rng(0), device))
    predict = _kept.setdefault("predictor", model.predictor(100))
    for _ in range(3500):
        X = model.device.put(random.normal(size=(30, random.integers(1, 100))).astype("float32"))
        predict(X)
        if random.random() < 0.1:
            model.predict(X, layout="columns")


def models(random: np.random.Generator, device: str) -> None:
    """10 models of 1.7 MB with their moments, kept together and dropped."""
    from mlp_xp import MLP

    X, y = _examples(random, 30)
    kept = [MLP((30, 600, 200, 3), device=device) for _ in range(10)]
    for model in kept:
        model.fit(X, y, epochs=1, progress=False)


def files(random: np.random.Generator, device: str) -> None:
    """20 models saved and loaded, and trainings gone on from checkpoints."""
    from mlp_xp import MLP

    X, y = _examples(random, 30)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(20):
            model = _model(random, device)
            model.fit(X, y, epochs=1, progress=False, checkpoint=f"{folder}/{i}", every=0)
            model.save(path := Path(folder, "model.safetensors"))
            MLP.load(path, device=device).predict(X)


def estimators(random: np.random.Generator, device: str) -> None:
    """20 estimators fitted, scored and dropped."""
    from mlp_xp import MLPClassifier

    for _ in range(20):
        X, y = _examples(random, 30)
        est = MLPClassifier((int(random.choice((8, 64))),), max_iter=3, device=device)
        est.fit(X.T, y).score(X.T, y)


def layers(random: np.random.Generator, device: str) -> None:
    """10 networks of convolutions, trained and asked."""
    from mlp_xp import Sequential
    from mlp_xp.layers import Activation, BatchNorm, Conv1d, Dense, Flatten

    for _ in range(10):
        X, y = _examples(random, 32)
        rows = [Conv1d(4, kernel=3), BatchNorm(), Activation("relu"), Flatten(), Dense(3)]
        model = Sequential((1, 32), rows, device=device)
        model.fit(X, y, epochs=1, batch_size=int(random.choice((32, 100))), progress=False)
        model.predict(X)


KINDS: dict[str, Work] = {
    work.__name__: work for work in (fits, predictions, models, files, estimators, layers)
}


def held(device: str) -> float:
    """MB that the process holds, and the GPU's pool for it, after what is free was given back."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    found = pages * os.sysconf("SC_PAGE_SIZE")
    if device != "cpu":
        import cupy

        found += cupy.get_default_memory_pool().used_bytes()
    return found / 1e6


def rise(found: list[float]) -> float:
    """MB by which a line through them rises from first to last."""
    slope = float(np.polyfit(range(len(found)), found, 1)[0])
    return slope * (len(found) - 1)


def measured(kind: str, device: str, rounds: int) -> list[float]:
    random = np.random.default_rng(0)
    found = []
    for _ in range(rounds):
        KINDS[kind](random, device)
        found.append(held(device))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", default=list(KINDS), metavar="KIND")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = sorted(set(args.kinds) - set(KINDS))
    if unknown:
        parser.error(f"{', '.join(unknown)}: expected some of {', '.join(KINDS)}")
    rounds = max(6, round(ROUNDS * args.scale))
    if not args.child:
        print(f"{'':12} {'rounds':>6} {'first':>8} {'last':>8} {'rise':>8}  MB")
        command = [sys.executable, __file__, "--child", "--device", args.device]
        command += ["--scale", str(args.scale)]
        return max([subprocess.call([*command, kind]) for kind in args.kinds], default=0)
    warnings.simplefilter("ignore")
    (kind,) = args.kinds
    found = measured(kind, args.device, rounds)[rounds // 3 :]
    up = rise(found)
    verdict = "" if up < ALLOWED else "  RISES"
    print(f"{kind:12} {rounds:6} {found[0]:8.1f} {found[-1]:8.1f} {up:8.2f}{verdict}", flush=True)
    return int(up >= ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
