"""The solvers of the estimators: epochs as scikit-learn runs them, and L-BFGS.

What happens to an estimator while it trains: its curves and counters, when it stops, and
which weights it keeps. The steps are the core's.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning

from .. import kernels
from ..cached import cached_property
from ..fitting import (
    Epoch,
    Found,
    Interrupts,
    Plan,
    Rates,
    Run,
    batch_weights,
    check_batches,
    copied,
    one_epoch,
    progress_bar,
)
from ..guard import training
from ..hardware import Device
from ..network import forward, split
from ..optimizers import Optimizer
from ..passes import MUCH
from ..schedules import Schedule
from ..training import (
    CHUNK,
    Data,
    Recipe,
    Step,
    bits_for,
    encode,
    objective,
)
from ..types import Array, Layer, Namespace, State
from .arrays import SparseNumpy, SparseRows, dense_pieces, dtype_name, sparse_pieces
from .live import Live, publish
from .objective import share_of_gradient
from .recipe import family_of

AUTO_BATCH = 200
MINIMISER_CHUNK = 2048  # examples in one gradient of L-BFGS: their activations stay in cache


class Validation:
    """Examples that are watched, not learnt from.

    data     on the device, weights included
    truth    the targets on the host, (m,) or (m, n_out), for R²; as wide as the rows
    weights  those of `data` on the host, (m,), or None
    """

    def __init__(self, data: Data, truth: npt.NDArray[Any], device: Device) -> None:
        if truth.dtype.kind == "f":  # squares of float16 overflow
            truth = truth.astype(np.promote_types(truth.dtype, dtype_name(data.rows)), copy=False)
        self.data, self.truth = data, truth
        self.weights = None if data.weights is None else device.get(data.weights)

    @cached_property
    def spread(self) -> npt.NDArray[Any]:
        """`spread_of` the targets, which stay what they are."""
        return spread_of(self.truth.reshape(len(self.truth), -1), self.weights)


class Problem(NamedTuple):
    """What one call of `fit` or `partial_fit` works on.

    chosen  (m,) the examples of `data` that are learnt from
    """

    device: Device
    recipe: Recipe
    data: Data
    chosen: npt.NDArray[np.int64]
    validation: Validation | None
    weights: npt.NDArray[Any] | None  # of `data`, on the host


@dataclass
class Descent:
    """What a stochastic solver goes on from: all that is not a weight.

    learning_rate  as scikit-learn changes it between epochs
    began          the update from which a schedule of the core counts, or None before it
    rates          what that schedule has become
    family         `recipe.family_of` the optimiser; "" where that is not known
    """

    moments: tuple[Array, ...]
    step: int
    learning_rate: float
    began: int | None = None
    rates: Rates | None = None
    family: str = ""

    def fits(self, optimizer: Optimizer) -> bool:
        """Whether an optimiser goes on from these moments."""
        alike = self.family in ("", family_of(optimizer))
        return alike and len(self.moments) == optimizer.n_moments


# -- measuring -------------------------------------------------------------------


def scores(
    recipe: Recipe, device: Device, layers: Sequence[Layer], running: Array, rows: Any
) -> Array:
    """Scores (n_out, m) of rows (m, n_features), dense or sparse, in evaluation."""
    network, is_sparse = recipe.network, stays_sparse(recipe, rows)
    xp: Any = SparseNumpy() if is_sparse else device.xp

    def part(X: Any) -> Array:
        X = xp.matrix_transpose(X)
        return forward(network, recipe.kernels, xp, layers, X, running=running).scores

    return in_pieces(xp, part, rows, sparse_pieces if is_sparse else dense_pieces)


def stays_sparse(recipe: Recipe, rows: Any) -> bool:
    """Whether no dense copy is made of rows for their scores."""
    return isinstance(rows, SparseRows) and rows.few and recipe.precision == "float32"


def in_pieces(
    xp: Namespace,
    function: Callable[[Array], Array],
    rows: Any,
    pieces: Callable[[Any, int], Iterator[Any]] = dense_pieces,
) -> Array:
    """function(rows), some rows at a time, joined along the last axis."""
    parts = [function(X) for X in pieces(rows, CHUNK)]
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1)


def measure(
    recipe: Recipe,
    device: Device,
    layers: Sequence[Layer],
    running: Array,
    validation: Validation,
    n_classes: int | None,
) -> tuple[float, float]:
    """The mean loss, without the penalty, and scikit-learn's score: accuracy or R².

    n_classes  None for numbers; a classifier that knows one class is always right
    """
    xp, data, weights = device.xp, validation.data, validation.weights
    S = scores(recipe, device, layers, running, data.rows)
    T = encode(recipe, xp, data, data.targets)
    J = kernels.weighted_mean(xp, recipe.loss.value(xp, S, T), data.weights)
    loss = float(device.get(J))
    if n_classes is None:
        prediction = device.get(xp.matrix_transpose(recipe.loss.predict(xp, S)))
        if not np.isfinite(prediction).all():
            return loss, float("nan")
        truth = validation.truth.reshape(prediction.shape)
        return loss, r_squared(truth, prediction, weights, validation.spread)
    if n_classes == 1:
        return loss, 1.0
    if recipe.loss.kind == "multiclass":
        right = xp.argmax(S, axis=-2) == data.targets
    else:
        right = xp.all((S > 0) == (T > 0.5), axis=-2)
    right = device.get(right)
    return loss, float(right.mean() if weights is None else np.average(right, weights=weights))


def spread_of(truth: npt.NDArray[Any], weights: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """Σ w (t - mean)² of each output of targets (m, n_out): (n_out,)."""
    shares = 1.0 if weights is None else weights[:, None]
    centre = np.average(truth, axis=0, weights=weights)
    found: npt.NDArray[Any] = np.sum(shares * (truth - centre) ** 2, axis=0)
    return found


def r_squared(
    truth: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    weights: npt.NDArray[Any] | None,
    spread: npt.NDArray[Any],
) -> float:
    """R² of arrays (m, n_out), the mean over outputs: `sklearn.metrics.r2_score`, to the bit.

    What that one checks has been checked, and its checks would be half of a small fit.

    spread  `spread_of` the truth and its weights
    """
    if len(truth) < 2:
        message = "R^2 score is not well-defined with less than two samples."
        warnings.warn(message, UndefinedMetricWarning, stacklevel=2)
        return float("nan")
    errors = (truth - prediction) ** 2
    errors = np.sum(errors if weights is None else weights[:, None] * errors, axis=0)
    scores = (errors == 0).astype(errors.dtype)  # where all targets of an output are equal
    known = (errors != 0) & (spread != 0)
    scores[known] = 1 - errors[known] / spread[known]
    return float(np.average(scores))


# -- epochs ----------------------------------------------------------------------


def begin(recipe: Recipe, device: Device, theta: Array) -> Descent:
    """A descent with no history."""
    zeros = device.xp.zeros_like
    moments = tuple(zeros(theta) for _ in range(recipe.optimizer.n_moments))
    family = family_of(recipe.optimizer)
    return Descent(moments, 0, float(recipe.optimizer.rate), family=family)


def descend(
    est: Any,
    problem: Problem,
    run: Run,
    step: Step,
    schedule: Schedule | None,
    once: bool,
    keeper: Any = None,
    sharing: Any = None,
) -> State:
    """Train the estimator: up to `max_iter` epochs, or one. Returns the state reached.

    keeper   an `estimators.checkpoints.EstimatorKeeper` of this training, or None
    sharing  an `estimators.ranks.Sharing` of the ranks that share its batches, or None

    Draws from `est._random_state` and counts as scikit-learn does.
    """
    device, recipe, n = problem.device, problem.recipe, len(problem.chosen)
    descent: Descent = est._optimizer
    size = _batch_size(est, n)
    check_batches(recipe, size, stacklevel=8)
    per_epoch = -(-n // size)
    if descent.rates is not None and descent.rates.plan.schedule != schedule:
        descent.rates = None  # another has been set since
    if schedule is not None and descent.rates is None:
        plan = Plan(est.max_iter, size, (0,), (), schedule)
        descent.rates = Rates(recipe.optimizer.rate, plan, per_epoch)
    est.n_iter_ = 0
    if not est.early_stopping and est.best_loss_ is None:  # the last fit watched a score
        est.best_loss_ = np.inf
    over = keeper is not None and keeper.restore(est, run, descent, schedule, per_epoch)
    if sharing is not None:
        over = sharing.begin(est, run, descent, over)
    shows, done = sharing is None or sharing.shows, est.n_iter_
    began = descent.began = run.state.step if descent.began is None else descent.began
    callbacks = (est.callbacks,) if callable(est.callbacks) else tuple(est.callbacks)
    callbacks, progress = (callbacks if shows else ()), est.progress and shows and not once
    steps = per_epoch if once else per_epoch * est.max_iter
    clock = time.perf_counter() - (keeper.seconds if keeper is not None else 0.0)

    def say(*words: object) -> None:
        if est.verbose and shows:
            print(*words)

    def bits_at(number: int, m: int) -> Array | None:
        if recipe.network.n_dropped == 0:
            return None
        return bits_for(device, recipe.network, (est._dropout_seed,), (), number, m)

    def held() -> AbstractContextManager[object]:
        """The BLAS on one thread."""
        return device.threads(recipe.network.sizes, size)

    watched = problem.validation
    few = watched is None or watched.data.m * recipe.network.work < MUCH
    free: Callable[[], AbstractContextManager[object]] = nullcontext
    whole, stepping, watching = free, held, (held if few else free)
    if few and not callbacks:  # nobody wants its threads from the first epoch to the last
        whole, stepping, watching = held, free, free

    def rate_at() -> Callable[[int], Any]:
        if descent.rates is None:
            return lambda _: descent.learning_rate
        return descent.rates.since(run.state.step - began)

    def reordered(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        permutation = np.arange(n)
        est._random_state.shuffle(permutation)
        return order[permutation]

    shares = batch_weights(problem.chosen, size, None)
    order = problem.chosen
    for _ in range(done if est.shuffle else 0):  # as they were drawn before
        order = reordered(order)
    try:
        with (
            whole(),
            training(run),
            progress_bar(steps, progress, est.max_iter, done * per_epoch) as bar,
            Interrupts() as interrupts,
        ):

            def after_steps(count: int, _: Found) -> None:
                bar.update(count)
                interrupts.check()

            for _ in range(done, done if over else est.max_iter):
                if keeper is not None:
                    keeper.note(est, copied(device, run.state), descent)
                if est.shuffle:
                    order = reordered(order)
                _check_weights(problem, order, size)
                rate = rate_at()
                with stepping():
                    losses = one_epoch(device, run, step, order, size, rate, bits_at, after_steps)
                if len(losses) < per_epoch:  # ended by a loss that is not finite
                    losses = np.append(losses, np.full(per_epoch - len(losses), np.nan))
                est.n_iter_ += 1
                est.loss_ = float(np.sum(losses * shares)) / n
                est.t_ += n
                est.loss_curve_.append(est.loss_)
                say(f"Iteration {est.n_iter_}, loss = {est.loss_:.8f}")
                with watching():
                    measured = _watch(est, problem, device, run.state, say)
                if est._scikit_rate and est.learning_rate == "invscaling":
                    base = float(est.learning_rate_init)
                    descent.learning_rate = base / (est.t_ + 1) ** est.power_t
                if descent.rates is not None:
                    monitored = est.loss_ if measured is None else measured[0]
                    descent.rates.observe(np.array([monitored]))
                stop, asked = _is_over(est, descent, say), [False]
                if callbacks or progress:
                    seconds = time.perf_counter() - clock
                    result = Epoch(
                        epoch=len(est.loss_curve_),
                        step=run.state.step,
                        rate=rate(per_epoch - 1),
                        loss=est.loss_,
                        validation_loss=None if measured is None else measured[0],
                        validation_score=None if measured is None else measured[1],
                        seconds=seconds,
                    )
                    bar.show(result)
                    if callbacks:
                        publish(est, est._live, run.state)
                        descent.moments, descent.step = run.state.moments, run.state.step
                    asked = [bool(callback(est, result)) for callback in callbacks]
                    descent.moments = ()
                stop = stop or (any(asked) if sharing is None else sharing.first(any(asked)))
                if stop or once:
                    over = stop
                    break
                if est.n_iter_ == est.max_iter and shows:
                    unconverged(est)
        if keeper is not None:
            keeper.note(est, run.state, descent, over)
    except KeyboardInterrupt:
        if sharing is not None:  # the other ranks would wait for this one
            raise
        warnings.warn("Training interrupted by user.", stacklevel=4)
    finally:
        state = run.state
        descent.moments, descent.step = state.moments, state.step
    if not once:  # a schedule runs over one fit, or over all calls of partial_fit
        descent.began = descent.rates = None
    if est.early_stopping and (not once or est.stopped_):
        theta, running = est._best
        state = copied(device, state._replace(theta=theta, running=running))
    return state


def unconverged(est: Any) -> None:
    """scikit-learn's warning, from within `fit`."""
    warnings.warn(
        f"Stochastic Optimizer: Maximum iterations ({est.max_iter}) reached and the optimization "
        "hasn't converged yet.",
        ConvergenceWarning,
        stacklevel=5,
    )


def _batch_size(est: Any, n: int) -> int:
    if est.batch_size == "auto":
        return min(AUTO_BATCH, n)
    if est.batch_size > n:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
            stacklevel=5,
        )
    return int(min(est.batch_size, n))


def _check_weights(problem: Problem, order: npt.NDArray[np.int64], size: int) -> None:
    """A batch whose weights sum to 0 has no mean: scikit-learn's error, before the epoch."""
    weights = problem.weights
    if weights is None or (weights > 0).all():
        return
    totals = np.add.reduceat(weights[order], range(0, len(order), size))
    if (totals == 0).any():
        raise ZeroDivisionError(
            "Weights sum to zero, can't be normalized: sample_weight is 0 for all examples of "
            "a batch. Leave such examples out, or take larger batches."
        )


def _watch(
    est: Any, problem: Problem, device: Device, state: State, say: Callable[..., None]
) -> tuple[float, float] | None:
    """Measure on the validation data; count epochs without improvement; keep the best."""
    measured = None
    if problem.validation is not None:
        binarizer = getattr(est, "_label_binarizer", None)
        n_classes = None if binarizer is None else len(binarizer.classes_)
        live: Live = est._live
        layers = live.layers  # views of the state, where it is trained in place
        if state.theta is not live.theta:
            layers = split(problem.recipe.network, device.xp, state.theta)
        watched, recipe = problem.validation, problem.recipe
        measured = measure(recipe, device, layers, state.running, watched, n_classes)
        est.validation_loss_curve_.append(measured[0])
    if est.early_stopping and measured is not None:
        score = measured[1]
        est.validation_scores_.append(score)
        say(f"Validation score: {score:f}")
        improved = not score < est.best_validation_score_ + est.tol
        if score > est.best_validation_score_:
            est.best_validation_score_ = score
            best = copied(device, state._replace(moments=()))
            est._best = (best.theta, best.running)
    else:
        improved = not est.loss_ > est.best_loss_ - est.tol
        est.best_loss_ = est.loss_ if est.loss_ < est.best_loss_ else est.best_loss_
    est._no_improvement_count = 0 if improved else est._no_improvement_count + 1
    return measured


def _is_over(est: Any, descent: Descent, say: Callable[..., None]) -> bool:
    """Whether the patience has ended; an adaptive learning rate is lowered first."""
    if not est._no_improvement_count > est.n_iter_no_change:
        return False
    what = "Training loss"
    if est.early_stopping:
        what = "Validation score"
    message = (
        f"{what} did not improve more than tol={est.tol:f} for {est.n_iter_no_change:d} "
        "consecutive epochs."
    )
    if not (est._scikit_rate and est.learning_rate == "adaptive"):
        ending = "Stopping."
    elif descent.learning_rate <= 1e-6:
        ending = "Learning rate too small. Stopping."
    else:
        descent.learning_rate /= 5.0
        ending = f"Setting learning rate to {descent.learning_rate:f}"
        est._no_improvement_count = 0
    say(message, ending)
    est.stopped_ = ending.endswith("Stopping.")
    return bool(est.stopped_)


# -- L-BFGS ----------------------------------------------------------------------


def minimise(est: Any, problem: Problem, state: State) -> State:
    """Minimise the objective of all examples with SciPy's L-BFGS-B, in float64.

    The objective is summed over pieces, so that sparse rows are never dense as a whole.
    """
    from scipy.optimize import minimize

    from ..fast.threads import scipy_alone

    device, recipe, data = problem.device, problem.recipe, problem.data
    xp, get = device.xp, device.get
    plain = replace(recipe, l2=0.0, decayed=xp.astype(recipe.decayed, xp.float64))
    penalised = replace(plain, l2=recipe.l2)
    weights = None if data.weights is None else xp.astype(data.weights, xp.float64)
    total = data.m if problem.weights is None else float(np.sum(problem.weights))
    _check_weights(problem, problem.chosen, data.m)

    labels = data.targets.ndim == 1
    part, key = share_of_gradient(plain, data)
    is_sparse = stays_sparse(plain, data.rows)
    made = None
    if device.function is not None and not is_sparse:
        made = device.function(part, "float64", key)
    own: Any = SparseNumpy() if is_sparse else xp
    share_of = made or partial(part, own)
    parts_of = sparse_pieces if is_sparse else dense_pieces

    def value(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        theta, start = device.put(flat), 0
        J, g = 0.0, xp.zeros_like(theta)
        for X in parts_of(data.rows, MINIMISER_CHUNK):
            stop = start + X.shape[0]
            X = own.astype(X, xp.float64, copy=False)
            targets = data.targets[start:stop, ...]
            targets = targets if labels else xp.astype(targets, xp.float64, copy=False)
            w = [] if weights is None else [weights[start:stop]]
            share = xp.sum(w[0]) / total if w else device.put(np.asarray(X.shape[0] / total))
            J_part, g_part = share_of(theta, X, targets, share, *w)
            J, g, start = J + J_part, g + g_part, stop
        l2 = recipe.l2 / total
        J = objective(penalised, xp, theta, J, l2)
        return float(get(J)), get(g + l2 * (plain.decayed * theta))

    initial = get(state.theta)
    options = {"maxfun": est.max_fun, "maxiter": est.max_iter, "gtol": est.tol}
    with recipe.network.threads(device, min(data.m, MINIMISER_CHUNK)), scipy_alone():
        found = minimize(
            value, initial.astype(np.float64), jac=True, method="L-BFGS-B", options=options
        )
    if made is not None:
        made.end()
    est.n_iter_ = min(found.nit, est.max_iter)
    est.loss_ = float(found.fun)
    if found.status != 0:
        message = (
            f"lbfgs failed to converge after {est.n_iter_} iteration(s) "
            f"(status={found.status}):\n{found.message}\n"
        )
        if est.n_iter_ == est.max_iter:
            message += (
                "\nIncrease the number of iterations to improve the convergence "
                f"(max_iter={est.max_iter})."
            )
        message += (
            "\nYou might also want to scale the data as shown in:\n"
            "    https://scikit-learn.org/stable/modules/preprocessing.html"
        )
        warnings.warn(message, ConvergenceWarning, stacklevel=4)
    return state._replace(theta=device.put(found.x.astype(initial.dtype)))
