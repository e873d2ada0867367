"""What each rank of `test_ranks_cuda.py` runs: python ranks_cuda_program.py WHAT FOLDER [CASE …].

cases     each twice; what it ends with in FOLDER/<number of ranks>.npz
stream    of a file, and of rows, that do not fit; the ends in FOLDER/stream.npz and host.npz
estimate  an estimator; its end in FOLDER/estimate.npz
counts    what a step asks of the device, on rank 0 as JSON in FOLDER/counts.json
errors    trainings that cannot be; what this rank says of each as JSON in FOLDER/<rank>.json
disagree  captures fail on the last rank; why this one does not replay in FOLDER/<rank>.txt
kill      the last rank is killed in a training
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cupy
import numpy as np
import pytest

from mlp_xp import MLP, checks, ranks
from mlp_xp.devices import device as find_device
from mlp_xp.training import bits_for
from ranks_program import (
    ESTIMATORS,
    M,
    X,
    Y,
    cases,
    estimator,
    examples,
    reached,
    streamed,
    trained,
)


def stream(folder: Path) -> None:
    from mlp_xp.fast import upload

    found = streamed("mpi", "cuda", 10)
    upload.fits = lambda *_: False
    host = trained("weights", "mpi", "cuda")
    if ranks.is_first():
        np.savez(folder / "stream.npz", **found)
        np.savez(folder / "host.npz", **host)


def estimate(folder: Path) -> None:
    warnings.filterwarnings("ignore", "Stochastic Optimizer: Maximum iterations")
    weights = ESTIMATORS["weights"][2]
    found = estimator("weights", "mpi", device="cuda").fit(*examples("weights"), **weights)
    with pytest.raises(ValueError, match="X is sparse, but ranks on GPUs fetch their examples"):
        estimator("sparse", "mpi", device="cuda").fit(*examples("sparse"))
    if ranks.is_first():
        np.savez(folder / "estimate.npz", **reached(found))


def counts(folder: Path) -> None:
    """Of the second steps of an epoch, eager and captured, four steps a graph."""
    import cupy_cpu

    found = {}
    for graph in (False, True):
        gpu = find_device("cuda", graph=graph)
        model = MLP((12, 300, 8, 4), normalization="batch", dropout=0.2, device=gpu, seed=1)
        with gpu.active():
            everyone, data = (
                ranks.world(),
                checks.data(X, Y, None, (12, 4), "multiclass", gpu, "float32"),
            )
            everyone.check(gpu, {})
            step: Any = everyone.stepper(model._recipe, gpu, data)
            index, state = gpu.put(np.arange(M)), model._run.state
            step.announce(state, index, [0.01] * 8)

            def bits(number: int, model: MLP = model) -> Any:
                return bits_for(model.device, model.network, model.seeds, (), number, 10)

            state = step.several(state, bits(0), 10, 4)
            with cupy_cpu.count() as counted, cupy_cpu.forbid_synchronisation():
                step.several(state, bits(4), 10, 4)
        found[f"graph={graph}"] = {
            "copies": sorted({*counted.copies} - {"D2D"}),
            "allocated": counted.pool_misses,
            "waits": counted.waits,
            "launches": counted.graph_launches,
            "exchanges": counted.callbacks + counted.replayed.get("host function", 0),
        }
    if everyone.rank == 0:
        (folder / "counts.json").write_text(json.dumps(found))


def errors(folder: Path) -> None:
    rank = ranks.world().rank

    def said(device: str) -> str:
        try:
            model = MLP((12, 4), device=device, seed=1)
            model.fit(X, Y, epochs=1, progress=False, processes="mpi")
        except (ValueError, ImportError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    found = {"one GPU": said("cuda:0"), "mixed": said(("cpu", "cuda")[rank])}
    cupy.cuda.nccl.available = False
    found["missing"] = said("cuda")
    (folder / f"{rank}.json").write_text(json.dumps(found))


def disagree(folder: Path) -> None:
    from mlp_xp.fast import graph

    everyone, own, steps = ranks.world(), ranks.Ranks.stepper, []

    def stepper(*args: Any) -> Any:
        steps.append(own(*args))
        return steps[-1]

    def captured(*args: Any) -> None:
        raise RuntimeError("no graph here")

    ranks.Ranks.stepper = stepper  # type: ignore[method-assign]
    last, found = everyone.size - 1, []
    for fails in (False, True):
        if fails and everyone.rank == last:
            graph.captured = captured
        model = MLP((12, 4), device="cuda", dtype="float64", seed=1)
        model.fit(X, Y, epochs=2, batch_size=20, progress=False, processes="mpi")
        found.append(model.device.get(model._run.state.theta))
    assert np.array_equal(*found)
    assert steps[0].failed == ""
    (folder / f"{everyone.rank}.txt").write_text(steps[1].failed)


def kill(folder: Path) -> None:
    everyone, own = ranks.world(), ranks.Ranks.stepper

    def stepper(*args: Any) -> Any:
        step = own(*args)
        several: Callable[..., Any] = step.several

        def inside(*given: Any) -> Any:
            if everyone.rank == everyone.size - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return several(*given)

        step.several = inside
        return step

    ranks.Ranks.stepper = stepper  # type: ignore[method-assign]
    MLP((12, 4), device="cuda", seed=1).fit(X, Y, epochs=2, progress=False, processes="mpi")
    (folder / "over").touch()


if __name__ == "__main__":
    warnings.simplefilter("error")  # a step that is not compiled would say so
    from cupy.cuda import nccl  # noqa: F401 — CuPy's own attribute from here on

    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "cases":
        cases(folder, "cuda", sys.argv[3:])
    else:
        programs = (stream, estimate, counts, errors, disagree, kill)
        {program.__name__: program for program in programs}[what](folder)
