"""Trainings killed at random moments: whether each goes on to the bit.

    python bench/kills.py --kills 500
    python bench/kills.py --kills 20 --seed 7 --cases networks

A training with a checkpoint after every epoch (on a stream, after every step that finds the last
one written) runs in a process of its own, which is killed (SIGKILL) at a moment drawn uniformly
from the time that it takes, and begun again with the same call until it ends. Its model, moments,
running statistics and history must then be those of a training that nobody disturbed, bit for
bit; and after every kill each checkpoint in the folder must be whole. The moments are drawn from
the seed, which is printed first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TIME_LIMIT = 120  # seconds for a training that nobody kills
EPOCHS = 100
Reached = tuple[int, int]  # epochs, and steps of one that is within an epoch
NOTHING: Reached = (0, 0)
LATEST = 0.8  # of the time of a whole training: the latest moment of a kill
FULL: dict[str, Any] = {
    "normalization": "batch",
    "dropout": 0.2,
    "residual": True,
    "density": 0.7,
    "l2": 1e-4,
    "clip_norm": 2.0,
}


def _data() -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    X = random.normal(size=(8, 200))
    return X, (X[0] * X[1] > 0).astype(int) + (X[2] > 1)


def _digest(arrays: Sequence[Any], history: dict[str, Any]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).data)
    kept = {name: np.asarray(list_).tolist() for name, list_ in history.items()}
    kept.pop("seconds", None)
    found.update(json.dumps(kept, sort_keys=True).encode())
    return found.hexdigest()


def _trained(model: Any, folder: Any, epochs: int, streamed: Any = None, **options: Any) -> str:
    X, y = _data()
    fit: dict[str, Any] = {"epochs": epochs, "batch_size": 50, "progress": False}
    fit |= {"validation_data": (X[:, :60], y[:60]), "checkpoint": folder, "every": 0, **options}
    if streamed is None:
        model.fit(X, y, **fit)
    else:
        model.fit(streamed, **fit, layout="columns")
    state = model._run.state
    return _digest([state.theta, *state.moments, state.running], model.history)


def networks(folder: Any, epochs: int = EPOCHS) -> str:
    """Three at once, with everything, each stopped by itself."""
    from mlp_xp import MLP
    from mlp_xp.schedules import ReduceOnPlateau

    model = MLP((8, 16, 16, 3), seed=[0, 1, 2], **FULL)
    return _trained(model, folder, epochs, early_stopping=60, schedule=ReduceOnPlateau(patience=4))


def streamed(folder: Any, epochs: int = 40) -> str:
    """Three at once on windows of a stream: killed within epochs."""
    from mlp_xp import MLP, stream

    X, y = _data()
    data = stream(np.tile(X.T, (3, 1)), np.tile(y, 3), memory=30_000)
    model = MLP((8, 16, 16, 3), seed=[0, 1, 2], **FULL)
    return _trained(model, folder, epochs, data, early_stopping=30, schedule="cosine")


def layers(folder: Any, epochs: int = EPOCHS) -> str:
    """A convolution, normalised, on a cycle of rates."""
    from mlp_xp import Sequential
    from mlp_xp.layers import Activation, BatchNorm, Conv1d, Dense, Dropout, Flatten

    rows = [Conv1d(4, kernel=3), BatchNorm(), Activation("relu"), Flatten(), Dropout(0.1)]
    return _trained(Sequential((1, 8), [*rows, Dense(3)]), folder, epochs, schedule="one_cycle")


def large(folder: Any, epochs: int = 10) -> str:
    """Of 1.1 million parameters: a checkpoint of 17 MB takes many epochs to write."""
    from mlp_xp import MLP

    return _trained(MLP((8, 1024, 1024, 3)), folder, epochs, early_stopping=10)


def classifier(folder: Any, epochs: int = EPOCHS) -> str:
    """An estimator, which draws its orders from a random state."""
    import warnings

    from mlp_xp import MLPClassifier

    warnings.simplefilter("ignore")
    X, y = _data()
    options: dict[str, Any] = {"early_stopping": True, "n_iter_no_change": EPOCHS}
    est = MLPClassifier((16, 16), max_iter=epochs, random_state=0, dropout=0.1, **options)
    est.fit(X.T, y, checkpoint=folder, every=0)
    arrays = [*est.coefs_, *est.intercepts_, *est._optimizer.moments]
    return _digest(arrays, {"loss": est.loss_curve_, "scores": est.validation_scores_})


CASES: dict[str, Callable[..., str]] = {
    "networks": networks,
    "streamed": streamed,
    "layers": layers,
    "classifier": classifier,
    "large": large,
}


def child(case: str, folder: str) -> None:
    """Train to the end, saying when it begins, from where, and what came of it."""
    from mlp_xp.checkpoints import Checkpoints, Mark

    def tell(mark: Mark, last: int, over: bool) -> None:
        print("from", f"{mark.epoch},{mark.step}", flush=True)

    CASES[case](None, 1)  # nothing is imported or compiled later
    print("begins", flush=True)
    print("ended", CASES[case](Checkpoints(folder, tell)), flush=True)
    os._exit(0)  # which may take longer than all this


def begun(case: str, folder: Path) -> subprocess.Popen[bytes]:
    """A training in a process of its own, that is about to begin."""
    argv = [sys.executable, __file__, "--child", case, str(folder)]
    variables = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, bufsize=0, env={**os.environ, **variables}
    )  # unbuffered: a line that was read ahead would be lost to `communicate`
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != b"begins\n":
        process.kill()
        raise RuntimeError(f"{case} did not begin, but said {line!r}")
    return process


def ended(process: subprocess.Popen[bytes], after: float | None) -> tuple[str | None, Reached]:
    """What came of a training, None if it was killed; and from where it went on."""
    if after is not None:
        time.sleep(after)
        process.kill()
    out, _ = process.communicate(timeout=TIME_LIMIT)
    said = dict(line.split() for line in out.decode().splitlines() if line.count(" ") == 1)
    if process.returncode not in (0, -9):
        raise RuntimeError(f"a training ended with code {process.returncode}")
    epoch, step = map(int, said.get("from", "0,0").split(","))
    return said.get("ended"), (epoch, step)


def check_whole(case: str, folder: Path) -> tuple[Reached, int]:
    """Read every checkpoint; returns the newest's mark, and how many parts of one lie there."""
    from mlp_xp.checkpoints import Mark
    from mlp_xp.storage import read

    if not folder.exists():
        return NOTHING, 0
    kept = {path: Mark.of(path) for path in folder.iterdir()}
    marks = [mark for mark in kept.values() if mark is not None]
    if len(marks) > 3:  # the last two, and for a moment the one before
        raise AssertionError(f"{case}: {len(marks)} checkpoints are kept")
    for path, mark in kept.items():
        if mark is not None:
            read(path)  # raises for one that is not whole
    return max(marks, default=NOTHING), sum(path.suffix == ".tmp" for path in kept)


def campaign(case: str, kills: int, seed: int) -> dict[str, Any]:
    """Kill trainings of a case so many times; raises AssertionError for one that was not right."""
    draw = random.Random(f"{case} {seed}")
    found = {"case": case, "kills": 0, "ended": 0, "gone on": 0, "within": 0, "parts left": 0}
    with tempfile.TemporaryDirectory() as place:
        process = begun(case, Path(place) / "undisturbed")
        began = time.perf_counter()
        expected, _ = ended(process, None)
        longest = LATEST * (time.perf_counter() - began)
        while found["kills"] < kills:
            folder = Path(place) / f"training-{found['ended']}"
            reached, parts = NOTHING, 0
            digest = None
            while digest is None:
                last = found["kills"] >= kills
                process = begun(case, folder)
                digest, first = ended(process, None if last else draw.uniform(0, longest))
                newest, left = check_whole(case, folder)
                told = first == reached or (first == NOTHING and digest is None)  # before it told
                if newest < reached or not told:
                    raise AssertionError(
                        f"{case}: had reached {reached}, went on from {first} to {newest}"
                    )
                found["gone on"] += first > NOTHING
                found["within"] += first[1] > 0
                if digest is None:
                    found["kills"] += 1
                    found["parts left"] += max(0, left - parts)
                reached, parts = newest, left
            if digest != expected:
                raise AssertionError(f"{case}: ended with {digest}, but expected {expected}")
            found["ended"] += 1
    return found


def main() -> None:
    """Run the campaigns that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="of all cases together")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    seed = time.time_ns() % 1_000_000 if args.seed is None else args.seed
    print(f"repeat with --seed {seed}", flush=True)
    cases = args.cases.split(",")
    for number, case in enumerate(cases):
        share = args.kills // len(cases) + (number < args.kills % len(cases))
        began = time.perf_counter()
        found = campaign(case, share, seed)
        print(f"{found}, {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
