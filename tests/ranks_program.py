"""What each rank of `test_ranks.py` runs: python ranks_program.py WHAT FOLDER [RANK EPOCH].

Of cases, their names follow.

cases    each twice; what it ends with in FOLDER/<number of ranks>.npz
train    one training with checkpoints in FOLDER/run; its end in FOLDER/end.npz
raise    the same, but RANK raises an error after EPOCH
kill     the same, but RANK is killed after EPOCH
differ   ranks with seeds of their own
estimate every case of estimators, and what is theirs alone; in FOLDER/estimators.npz
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_xp import MLP, EarlyStopping, Sequential, ranks, stream
from mlp_xp.checkpoints import digest
from mlp_xp.layers import Activation, BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool

RANDOM = np.random.default_rng(20220530)
M = 83  # the last batch of 20 is of 3 examples: fewer than four ranks
X, Y, WEIGHTS = RANDOM.normal(size=(12, M)), RANDOM.integers(0, 4, M), RANDOM.uniform(0, 2, M)
IMAGES = RANDOM.normal(size=(M, 2, 6, 6))
VALIDATION = {"validation_data": (X[:, :40], Y[:40])}

# options of MLP, and of fit
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"hidden": 300}, {}),  # a gradient that is summed in parts
    "dropout": ({"dropout": 0.3, "normalization": "batch"}, {"schedule": "one_cycle"}),
    "clipping": ({"clip_norm": 0.1, "clip_value": 0.05, "l2": 1e-3, "density": 0.5}, {}),
    "weights": ({"normalization": "batch"}, {"sample_weight": WEIGHTS}),
    "several": ({"seed": [1, 2], "dropout": 0.2, "normalization": "batch"}, {}),
    "early stopping": (
        {"learning_rate": 0.05},
        {"early_stopping": EarlyStopping(2), "schedule": "reduce_on_plateau", **VALIDATION},
    ),
}


def trained(case: str, processes: str | None, device: str = "cpu") -> dict[str, np.ndarray]:
    """What a training ends with."""
    if case == "images":
        layers = [Conv2d(4, kernel=3), BatchNorm(), Activation("tanh"), MaxPool(2), Flatten()]
        options: dict[str, Any] = {"dtype": "float64", "seed": 1, "device": device}
        model: Any = Sequential((2, 6, 6), [*layers, Dropout(0.3), Dense(4)], **options)
        given, fit = IMAGES, {"layout": "rows"}
    elif case == "stream":
        return streamed(processes, device)
    elif case == "memory map":
        return mapped(processes, device)
    else:
        options, fit = CASES[case]
        options = {"dtype": "float64", "seed": 3, "device": device, **options}
        model, given = MLP((12, options.pop("hidden", 16), 8, 4), **options), X
    model.fit(given, Y, epochs=4, batch_size=20, progress=False, processes=processes, **fit)
    state, history = model._run.state, model.history
    told = {name: np.asarray(history[name]) for name in history if name != "seconds"}
    get = model.device.get
    return {"theta": get(state.theta), "running": get(state.running), **told}


def mapped(processes: str | None, device: str) -> dict[str, np.ndarray]:
    """Of rows that stay in a file."""
    model = MLP((12, 16, 4), normalization="batch", dtype="float64", seed=3, device=device)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "X.npy"), X.T)
        rows = np.load(Path(folder, "X.npy"), mmap_mode="r")
        fit = {"layout": "rows", "progress": False, "processes": processes}
        model.fit(rows, Y, epochs=2, batch_size=20, **fit)
        del rows
    return {"theta": model.device.get(model._run.state.theta)}


def streamed(processes: str | None, device: str, times: int = 15) -> dict[str, np.ndarray]:
    """Of a file that does not fit into the memory given; each process has its own."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "X.npy"), np.tile(X.T, (times, 1)))
        np.save(Path(folder, "y.npy"), np.tile(Y, times))
        data = stream(Path(folder, "X.npy"), target=Path(folder, "y.npy"), memory="60kB")
        options: dict[str, Any] = {"dtype": "float64", "seed": 3, "device": device}
        model = MLP((12, 16, 4), normalization="batch", **options)
        model.fit(data, epochs=2, batch_size=50, progress=False, processes=processes)
    theta = model.device.get(model._run.state.theta)
    return {"theta": theta, "loss": np.asarray(model.history["loss"])}


# of MLPClassifier, MLPRegressor, NeuralClassifier, NeuralRegressor: options, and of fit
QUICK = {"max_iter": 4, "batch_size": 20, "random_state": 3}
WATCHING = {"early_stopping": True, "validation_fraction": 0.2, "n_iter_no_change": 2}
ESTIMATORS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "classes": ("MLPClassifier", {"dropout": 0.3, "normalization": "batch", **QUICK}, {}),
    "weights": ("MLPClassifier", {"alpha": 0.1, **QUICK}, {"sample_weight": WEIGHTS}),
    "watched": ("MLPClassifier", {**QUICK, **WATCHING, "tol": 1.0, "max_iter": 30}, {}),
    "values": ("MLPRegressor", {"solver": "sgd", "learning_rate": "adaptive", **QUICK}, {}),
    "sparse": ("MLPRegressor", {"learning_rate": "reduce_on_plateau", **QUICK}, {}),
    "layers": (
        "NeuralClassifier",
        {"layers": "dense:16", "epochs": 9, "early_stopping": 2, "batch_size": 20},
        {"sample_weight": WEIGHTS},
    ),
    "numbers": ("NeuralRegressor", {"layers": "dense:16", "epochs": 4}, {}),
}


def estimator(case: str, processes: Any, **more: Any) -> Any:
    import mlp_xp

    name, options, _ = ESTIMATORS[case]
    usual: dict[str, Any] = {"random_state": 3, "dtype": "float64"}
    if name.startswith("MLP"):
        usual |= {"hidden_layer_sizes": (16, 8)}
    return getattr(mlp_xp, name)(**{**usual, **options, **more}, processes=processes)


def examples(case: str) -> tuple[Any, Any]:
    rows = X.T
    if case == "sparse":
        import scipy.sparse

        rows = scipy.sparse.csr_array(np.where(np.abs(rows) < 1, 0, rows))
    return rows, rows @ np.ones(12) if ESTIMATORS[case][0].endswith("Regressor") else Y


def reached(est: Any) -> dict[str, np.ndarray]:
    """What an estimator's training ends with."""
    from mlp_xp.estimators.arrays import to_host

    if hasattr(est, "model_"):
        found = {"theta": to_host(est.model_._run.state.theta), "n": np.array(est.n_iter_)}
        return {**found, "loss": np.array(est.history_["loss"]), "is": est.predict(X.T)}
    found = {f"W{i}": coef for i, coef in enumerate(est.coefs_)}
    found |= {f"b{i}": b for i, b in enumerate(est.intercepts_)}
    found |= {f"moment{i}": moment for i, moment in enumerate(map(to_host, est._optimizer.moments))}
    told = ("loss_curve_", "n_iter_", "t_", "best_loss_", "validation_scores_", "running_")
    given = {name: getattr(est, name, None) for name in told}
    found |= {name: v for name, v in given.items() if v is not None}
    return {name: np.array(value) for name, value in found.items()}  # training writes to them


def estimated(case: str, processes: Any) -> dict[str, np.ndarray]:
    """By `fit`, and where it can be by two calls of `partial_fit` after it."""
    rows, y = examples(case)
    est = estimator(case, processes).fit(rows, y, **ESTIMATORS[case][2])
    found = reached(est)
    if case in ("classes", "values"):
        for _ in range(2):
            est.partial_fit(rows, y)
        found |= {f"then/{name}": array for name, array in reached(est).items()}
    return found


def estimate(folder: Path) -> None:
    everyone, found = ranks.world(), {}
    for case in ESTIMATORS:
        ends = [estimated(case, "mpi") for _ in range(2)]
        same(everyone, *(digest(end.values()) for end in ends))
        found |= {f"{case}/{name}": array for name, array in ends[0].items()}
    for case in ("classes", "layers"):  # ranks that draw what they like draw what rank 0 does
        np.random.seed(everyone.rank)
        est = estimator(case, "mpi", random_state=None).fit(*examples(case))
        same(everyone, digest(reached(est).values()))
    seen: list[int] = []

    def stops(est: Any, epoch: Any) -> bool:
        seen.append(epoch.epoch)
        return bool(epoch.epoch == 2)

    rows, y = examples("classes")
    kept = {"checkpoint": folder / "kept", "every": 0}
    est = estimator("classes", "mpi", callbacks=stops, verbose=True).fit(rows, y)
    assert (est.n_iter_, seen) == (2, [1, 2] if everyone.rank == 0 else [])
    estimator("classes", "mpi", max_iter=3).fit(rows, y, **kept)
    est = estimator("classes", "mpi").fit(rows, y, **kept)
    found |= {f"kept/{name}": array for name, array in reached(est).items()}
    with pytest.raises(ranks.RanksDiffer, match="random_state is 0 on rank 0, but 1 on rank 1"):
        estimator("classes", "mpi", random_state=everyone.rank).fit(rows, y)
    if everyone.rank == 0:
        np.savez(folder / "estimators.npz", **found)


def same(everyone: ranks.Ranks, *ends: str) -> None:
    assert len({end for pair in everyone.link.all(ends) for end in pair}) == 1


def cases(folder: Path, device: str, names: Sequence[str]) -> None:
    everyone, found = ranks.world(), {}
    for case in names:
        first, second = (trained(case, "mpi", device) for _ in range(2))
        ends = everyone.link.all([digest(end.values()) for end in (first, second)])
        assert len({end for pair in ends for end in pair}) == 1, f"{case}: {ends}"
        found |= {f"{case}/{name}": array for name, array in first.items()}
    for size in (1, 7, 10_007):
        arrays = [np.random.default_rng(r).normal(size=(1, size)) for r in range(everyone.size)]
        expected = arrays[0].copy()
        for array in arrays[1:]:
            expected += array
        assert np.array_equal(summed(everyone, arrays[everyone.rank]), expected)
    if everyone.rank == 0:
        np.savez(folder / f"{everyone.size}.npz", **found)


def summed(everyone: ranks.Ranks, x: np.ndarray) -> np.ndarray:
    """By MPI, or where a training on GPUs went before, by NCCL."""
    if everyone.sums is None:
        return everyone.total(x)
    import cupy

    return cupy.asnumpy(everyone.sums(cupy.asarray(x)))


def train(folder: Path, ends: Any = None) -> None:
    """ends  called with rank and epochs before every step: rank 0 alone calls callbacks"""
    model = MLP((12, 16, 4), normalization="batch", dropout=0.2, dtype="float64", seed=4)
    own = ranks.Ranks.stepper

    def stepper(self: Any, *args: Any) -> Any:
        step = own(self, *args)

        def inside(*given: Any) -> Any:
            if ends is not None:
                ends(self.rank, model.epochs_trained)
            return step(*given)

        return inside

    ranks.Ranks.stepper = stepper  # type: ignore[method-assign]
    model.fit(
        X,
        Y,
        epochs=8,
        batch_size=20,
        progress=False,
        callbacks=lambda model, epoch: print(f"epoch {epoch.epoch}", flush=True),
        checkpoint=folder / "run",
        every=0,
        processes="mpi",
    )
    if ranks.is_first():
        loss = model.history["loss"]
        np.savez(folder / "end.npz", theta=model._run.state.theta, loss=loss)


def main(what: str, place: str, *more: str) -> None:
    folder, (rank, epoch) = Path(place), more if what in ("raise", "kill") else ("0", "0")

    def raises(own: int, reached: int) -> None:
        if (own, reached) == (int(rank), int(epoch)):
            raise RuntimeError("the disk of this rank is on fire")

    def kills(own: int, reached: int) -> None:
        if (own, reached) == (int(rank), int(epoch)):
            while not any((folder / "run").glob("*.safetensors")):  # written by another thread
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    if what == "estimate":
        warnings.filterwarnings("ignore", "Stochastic Optimizer: Maximum iterations")
        estimate(folder)
    elif what == "cases":
        cases(folder, "cpu", more)
    elif what == "differ":
        own = ranks.world().rank
        try:
            MLP((12, 4), seed=own).fit(X, Y, epochs=1, progress=False, processes="mpi")
        except ranks.RanksDiffer as error:
            (folder / f"{own}.txt").write_text(str(error))
    else:
        train(folder, {"train": None, "raise": raises, "kill": kills}[what])


if __name__ == "__main__":
    warnings.simplefilter("error")  # a step that is not compiled would say so
    main(*sys.argv[1:])
