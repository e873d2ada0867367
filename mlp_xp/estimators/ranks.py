"""Estimators that several processes train: the ranks of `ranks`, of MPI or of a Dask cluster.

Each rank has all examples and the same draws, and takes its share of every batch; rank 0 alone
prints, calls callbacks and keeps checkpoints. Whatever a training draws is drawn by all alike.
"""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np

from ..checkpoints import digest
from ..exchange import is_foreign, library_of
from ..fitting import Run, moved
from ..ranks import Ranks
from ..ranks_cuda import is_cuda
from ..training import Step
from .arrays import SparseRows
from .checkpoints import CHANGING, described
from .headers import CURVES
from .keeping import plain
from .solvers import Descent, Problem, unconverged


class Sharing:
    """One training of an estimator by several ranks.

    shows  whether this is the one that prints and calls callbacks
    """

    def __init__(self, ranks: Ranks, est: Any, problem: Problem, run: Run) -> None:
        """Raise `ranks.RanksDiffer`, on all ranks, unless all were given the same training."""
        self.ranks, self.shows, self.device = ranks, ranks.rank == 0, problem.device
        if is_cuda(self.device) and isinstance(problem.data.rows, SparseRows):
            raise ValueError(
                "X is sparse, but ranks on GPUs fetch their examples there: expected a dense X, "
                "X.toarray(), or device='cpu'."
            )
        _, keys, *rest = est._random_state.get_state()
        ranks.check(
            self.device,
            {
                "max_iter": est.max_iter,
                **described(est, _parameters(est), problem, run.state),
                "what random_state has drawn": (digest([keys]), *rest),
            },
        )

    def stepper(self, problem: Problem) -> Step:
        return self.ranks.stepper(problem.recipe, self.device, problem.data)

    def first(self, value: Any) -> Any:
        """What rank 0 has, on all ranks."""
        return self.ranks.first(value)

    def begin(self, est: Any, run: Run, descent: Descent, over: bool) -> bool:
        """Bring every rank to where rank 0 begins, perhaps from a checkpoint; whether over."""
        get, put = self.device.get, self.device.put
        facts = {name: vars(est)[name] for name in (*CHANGING, *CURVES) if name in vars(est)}
        best = tuple(map(get, est._best)) if hasattr(est, "_best") else None
        plateau = None if descent.rates is None else descent.rates.plateau
        host = moved(run.state, get)._replace(loss=None)
        rate = descent.learning_rate, descent.began
        host, facts, rate, plateau, best, over = self.first(
            (host, facts, rate, plateau, best, over)
        )
        if not self.shows:
            run.state = moved(host, put)
            vars(est).update(facts)
            descent.learning_rate, descent.began = rate
            if descent.rates is not None:
                descent.rates.plateau = plateau
            if best is not None:
                est._best = tuple(map(put, best))
        return over


def _parameters(est: Any) -> dict[str, Any]:
    """Parameters as all ranks have them; what a file cannot hold, functions, by its class."""
    found = {}
    for name, value in est._parameters().items():
        try:
            found[name] = plain(name, value)
        except ValueError:
            found[name] = type(value).__name__
    return found


# -- on a cluster of Dask --------------------------------------------------------------


class OfEstimator:
    """An estimator as a `ranks_dask.Trainee`; what is fitted of it goes to the workers and back.

    once  whether it is for one epoch: `partial_fit`
    """

    def __init__(self, est: Any, once: bool) -> None:
        self.subject, self.once = est, once
        going_on = once or est.warm_start
        self.epochs_trained = len(getattr(est, "loss_curve_", ())) if going_on else 0

    def __getstate__(self) -> dict[str, Any]:
        est = self.subject
        twin: Any = object.__new__(type(est))
        own = {"callbacks": (), "progress": False, "processes": None}
        vars(twin).update({**est.__getstate__(), **own})
        return {**vars(self), "subject": twin}

    def fit(
        self,
        data: dict[str, Any],
        options: dict[str, Any],
        callbacks: Any,
        place: Any,
        ranks: Ranks,
    ) -> None:
        est = self.subject
        est.callbacks, est.processes = callbacks, ranks
        keeping = None if place is None else (place, options["every"])
        est._fit(*data.values(), once=self.once, keeping=keeping)

    def reached(self) -> bytes:
        """All that is no parameter."""
        import cloudpickle  # which Dask needs

        est = self.subject
        parameters, state = est._parameters(), est.__getstate__()
        kept = {name: value for name, value in state.items() if name not in parameters}
        descent = kept.get("_optimizer")
        if descent is not None and not descent.moments:  # a run has them that has not ended
            del kept["_optimizer"]
        content: bytes = cloudpickle.dumps(kept)
        return content

    def take(self, reached: bytes) -> None:
        est = self.subject
        for name in [*vars(est)]:
            if name not in est._parameters() and name != "_guard":
                delattr(est, name)
        vars(est).update(pickle.loads(reached))
        if isinstance(est.random_state, np.random.RandomState):  # it is drawn from, as here
            est.random_state.set_state(est._random_state.get_state())
            est._random_state = est.random_state


def fit_on_cluster(
    est: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    validation_data: Any,
    once: bool,
    keeping: Any,
) -> None:
    """Train an estimator on all workers of a Dask cluster, as if that ran here."""
    from ..ranks_dask import train

    if is_foreign(X):
        raise TypeError(
            f"X is an array of {library_of(X)}, but processes are a Dask cluster's: expected "
            "arrays of NumPy or Dask, or a data frame. Convert X first."
        )
    data = {"X": X, "y": y, "sample_weight": sample_weight, "validation_data": validation_data}
    place, every = keeping or (None, 0.0)
    stopped = False
    called = (est.callbacks,) if callable(est.callbacks) else tuple(est.callbacks)

    def each(est: Any, epoch: Any) -> bool:
        nonlocal stopped
        stops = [bool(callback(est, epoch)) for callback in called]
        stopped = any(stops)
        return stopped

    try:
        train(
            OfEstimator(est, once),
            est.processes,
            data,
            {"every": every},
            1 if once else est.max_iter,
            place,
            each if called else (),
            est.progress and not once,
        )
    except KeyboardInterrupt:
        if not hasattr(est, "coefs_"):
            raise
        warnings.warn("Training interrupted by user.", stacklevel=4)
        return
    if not (once or stopped or est.stopped_) and est.n_iter_ == est.max_iter:
        unconverged(est)
