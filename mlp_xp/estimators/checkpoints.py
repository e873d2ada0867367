"""The checkpoints of an estimator's `fit`: a file as `save` writes it, and how it is gone on from.

The orders of the examples are not kept: they are drawn again, epoch by epoch, from the
estimator's `random_state`, 1 ms for 60,000 examples.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import storage
from ..checkpoints import (
    Keeper,
    Mark,
    arrays_of,
    described_state,
    digest,
    fixed_seed,
    is_bool,
    plateau_of,
)
from ..fitting import Run, moved
from ..hardware import Device
from ..headers import number, parsed, refusal
from ..schedules import Plateau, Schedule
from ..training import Data
from ..types import Array, State
from .arrays import SparseRows
from .headers import CURVES, check_facts, check_progress, check_tensors
from .keeping import SESSION, config_of, facts_of, weights_of
from .solvers import Descent, Problem

# parameters that decide nothing of what an epoch does
OTHERS = (*SESSION, "max_iter", "max_fun", "verbose", "progress")
# what training changes beside arrays and curves
CHANGING = (
    "n_iter_",
    "t_",
    "loss_",
    "best_loss_",
    "best_validation_score_",
    "stopped_",
    "_no_improvement_count",
)
WATCHED = ("t_", "best_loss_", "best_validation_score_", "_no_improvement_count")


class Reached(NamedTuple):
    """What a training has reached at the end of an epoch. Nothing in it is written to later.

    curves  whose lists grow, but not those of this epoch: `lengths`
    best    weights and running moments of the best score
    seconds since `fit` began, but for those between a kill and the next begin
    """

    state: State
    facts: dict[str, Any]
    curves: dict[str, list[float] | None]
    lengths: dict[str, int]
    best: tuple[Array, Array] | None
    plateau: Plateau | None
    over: bool
    seconds: float


def check_asked(est: Any) -> None:
    """Raise ValueError where an estimator cannot go on from a checkpoint."""
    if est.solver == "lbfgs":
        raise ValueError(
            "checkpoint was given, but solver='lbfgs' keeps what it knows of the curvature within "
            "SciPy, so that nobody can go on from its middle: expected a stochastic solver, "
            "'adam' or another."
        )
    fixed_seed(est.random_state)


def described(
    est: Any, parameters: Mapping[str, Any], problem: Problem, state: State
) -> dict[str, Any]:
    """All that decides what a training computes, each by its name."""
    device, validation = problem.device, problem.validation
    begins = {name: getattr(est, name) for name in WATCHED}
    return {
        "the estimator": type(est).__name__,
        **{name: value for name, value in parameters.items() if name not in OTHERS},
        "the beginning": {**begins, "rate": est._optimizer.learning_rate},
        "the state it begins from": described_state(device, state, len(est.loss_curve_)),
        "the examples": _examples(device, problem.data, problem.chosen),
        "the validation data": validation and _examples(device, validation.data),
    }


class EstimatorKeeper(Keeper):
    """Of `fit` of `MLPClassifier` and `MLPRegressor`."""

    def __init__(self, est: Any, checkpoint: Any, every: float, problem: Problem, run: Run) -> None:
        device = problem.device
        self.est, self.device, self.network = est, device, problem.recipe.network
        self.step, self.n_moments = run.state.step, len(run.state.moments)
        self.t, self.n = est.t_, len(problem.chosen)
        self.seconds, self.clock = 0.0, time.perf_counter()
        self.rate = max(float(problem.recipe.optimizer.rate), est._optimizer.learning_rate)
        self.classifies = not est._is_regressor
        self.watches = problem.validation is not None
        self.dtype = str(np.dtype(device.get(run.state.theta[:0]).dtype))
        self.config = config_of(est)
        recipe = described(est, self.config["parameters"], problem, run.state)
        super().__init__(checkpoint, every, recipe, device)
        self.facts = facts_of(est, None)
        storage.to_json("the estimator", {**self.facts, "parameters": self.config})

    def note(self, est: Any, state: State, descent: Descent, over: bool = False) -> None:
        """Take in the end of an epoch. Nobody writes to `state` any more."""
        facts = {name: getattr(est, name) for name in CHANGING if hasattr(est, name)}
        facts |= {"learning_rate": descent.learning_rate, "began": descent.began}
        curves = {name: getattr(est, name) for name in CURVES if hasattr(est, name)}
        lengths = {name: len(curve) for name, curve in curves.items() if curve is not None}
        plateau = None if descent.rates is None else descent.rates.plateau
        best = getattr(est, "_best", None)
        seconds = self.seconds + time.perf_counter() - self.clock
        reached = Reached(state, facts, curves, lengths, best, plateau, over, seconds)
        self.offer(Mark(est.n_iter_), reached)

    def bring(self, reached: Reached) -> Reached:
        get, best = self.device.get, reached.best
        best = None if best is None else (get(best[0]), get(best[1]))
        return reached._replace(state=moved(reached.state, get), best=best)

    def packed(self, epoch: int, reached: Reached) -> bytes | None:
        state = reached.state
        vectors: dict[str, npt.NDArray[Any]] = {}
        if self.network.n_statistics:
            vectors["running"] = state.running
        if reached.best is not None:
            vectors |= dict(zip(storage.BEST, reached.best, strict=True))
        if not all(np.isfinite(array).all() for array in (state.theta, *vectors.values())):
            return None
        vectors |= {f"moment{i}": moment for i, moment in enumerate(state.moments, 1)}
        plateau = None if reached.plateau is None else reached.plateau._asdict()
        told = self.described(
            epochs=self.est.max_iter,
            began=0,
            memory={"over": reached.over, "plateau": plateau, "seconds": reached.seconds},
        )
        curves = {
            name: None if curve is None else curve[: reached.lengths[name]]
            for name, curve in reached.curves.items()
        }
        values = {
            "config": self.config,
            "step": state.step,
            "epoch": epoch,
            "history": curves,
            "metadata": {**self.facts, **reached.facts},
            storage.CHECKPOINT: told,
        }
        arrays = {name: np.ascontiguousarray(array) for name, array in vectors.items()}
        return storage.packed(values, weights_of(self.network, state.theta) | arrays)

    def restore(
        self, est: Any, run: Run, descent: Descent, schedule: Schedule | None, per_epoch: int
    ) -> bool:
        """Bring a training that is about to begin to where its last checkpoint was.

        Returns whether that training is over.
        """
        found = self.last(lambda path: self._read(path, descent, per_epoch))
        if found is None:
            return False
        path, told, reached = found
        done = reached.facts["n_iter_"]
        self.go_on(path, told, schedule, ("max_iter", est.max_iter), per_epoch, done * per_epoch)
        run.state = reached.state
        for name in CHANGING:
            setattr(est, name, reached.facts[name])
        for name, curve in reached.curves.items():
            setattr(est, name, curve)
        descent.learning_rate, descent.began = (
            reached.facts[n] for n in ("learning_rate", "began")
        )
        if descent.rates is not None:
            descent.rates.plateau = reached.plateau
        if reached.best is not None:
            est._best = reached.best
        self.seconds = reached.seconds
        self.gone_on(Mark(done), est.max_iter, reached.over)
        return reached.over

    def _read(
        self, path: Path, descent: Descent, per_epoch: int
    ) -> tuple[Path, dict[str, Any], Reached]:
        """What a checkpoint of this training holds, all of it checked."""
        header, tensors = storage.read(path)
        told = self.told(path, header)
        values = parsed(path, header)
        if "estimator" not in values["config"]:
            raise refusal(path, "config", values["config"], "that of an estimator")
        facts, curves, epoch, step = (
            values[name] for name in ("metadata", "history", "epoch", "step")
        )
        check_facts(path, facts, self.classifies)
        check_progress(path, facts, curves)
        lacking = [name for name in (*CHANGING, "learning_rate") if name not in facts]
        if lacking:
            raise refusal(path, "metadata", sorted(facts), f"also {', '.join(lacking)}")
        scores = "validation_scores_"
        expected = {"loss_curve_", scores} | ({"validation_loss_curve_"} if self.watches else set())
        if not expected <= set(curves) or (curves[scores] is None) == bool(self.est.early_stopping):
            raise refusal(path, "history", sorted(curves), f"{', '.join(sorted(expected))}")
        counts = {"n_iter_": epoch, "t_": self.t + epoch * self.n}
        for name, count in counts.items():
            if facts[name] != count:
                raise refusal(path, f"metadata[{name!r}]", facts[name], str(count))
        if not 0 <= facts["learning_rate"] <= self.rate:  # it only falls
            rate = facts["learning_rate"]
            raise refusal(path, "metadata['learning_rate']", rate, f"at most {self.rate:g}")
        began = facts["began"]
        if step != self.step + epoch * per_epoch or began is None or began > step:
            raise refusal(path, "step", step, f"as many as there are in {epoch} epochs")
        check_tensors(path, self.network, self.n_moments, tensors, self.dtype)
        if self.est.early_stopping and storage.BEST[0] not in tensors:
            raise refusal(path, "list of tensors", sorted(tensors), "also the best weights")
        memory = told["memory"]
        if not is_bool(memory.get("over")):
            raise refusal(path, "checkpoint['memory']['over']", memory.get("over"), "true or false")
        seconds = memory.get("seconds")
        if not number(seconds) or not 0 <= seconds < float("inf"):
            raise refusal(path, "checkpoint['memory']['seconds']", seconds, "a number of seconds")
        plateau = None
        if descent.rates is not None and descent.rates.plateau is not None:
            plateau = plateau_of(path, memory.get("plateau"), 1, descent.rates.plan.schedule)
        put, n_statistics = self.device.put, self.network.n_statistics
        theta = np.concatenate([tensors[slot.name].reshape(-1) for slot in self.network.slots])
        running = put(tensors.get("running", np.zeros(n_statistics, self.dtype)))
        moments = tuple(put(tensors[f"moment{i + 1}"]) for i in range(self.n_moments))
        best = None
        if storage.BEST[0] in tensors:
            best = (put(tensors[storage.BEST[0]]), put(tensors[storage.BEST[1]]))
        state = State(put(theta), moments, running, step)
        return path, told, Reached(state, facts, curves, {}, best, plateau, memory["over"], seconds)


def _examples(device: Device, data: Data, chosen: npt.NDArray[Any] | None = None) -> str:
    """Examples in words, and the hash of all that is in them."""
    rows, some = data.rows, [] if chosen is None else [chosen]
    if isinstance(rows, SparseRows):
        csr = rows.csr
        some += [csr.data, csr.indices, csr.indptr, np.array(csr.shape)]
        data = data._replace(rows=data.targets)
    m = data.m if chosen is None else len(chosen)
    return f"{m:,} with SHA-256 {digest(chain(some, arrays_of(device, data)))}"


__all__ = ["EstimatorKeeper", "check_asked", "described"]
