"""The loop over epochs: history, early stopping, callbacks, progress.

`train` repeats one step and keeps in a `Run` whatever has been reached, so
that an interruption at any moment leaves the weights of the last whole step. Numbers
are read from the device once an epoch.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from .guard import training
from .hardware import Device
from .passes import Examples, InMemory, Part, Steps
from .schedules import Plateau, ReduceOnPlateau, Schedule
from .training import CHUNK, Data, Recipe, Step, bits_for, pieces, scorer, stepper
from .types import Array, State

EPOCHS = 20  # of a call of `fit` that names no number


class TrainingDiverged(FloatingPointError):
    """The loss or the weights stopped being finite; the model keeps the last good weights."""


class Epoch(NamedTuple):
    """What is known at the end of an epoch; numbers, or (n_networks,) arrays.

    epoch             counted from 1 over the life of the model
    step              updates done so far
    rate              learning rate of the epoch's last update
    loss              mean objective of the epoch's batches, each before its update
    validation_loss   the objective on the validation data, or None
    validation_score  accuracy or R² there, or None
    seconds           since `fit` began
    """

    epoch: int
    step: int
    rate: Any
    loss: Any
    validation_loss: Any
    validation_score: Any
    seconds: float


Callback = Callable[[Any, Epoch], Any]
Numbers = npt.NDArray[np.float64]
Found = Callable[[], Numbers]  # the objective of every batch of a pass so far, (…, n_batches)


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after `patience` epochs without an improvement of more than `threshold`.

    Watches the validation loss, or the training loss where there is no validation data.
    The best weights are restored. Each of several networks stops by itself.
    """

    patience: int = 10
    threshold: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What one call of `fit` is asked to do.

    seeds    one for each network
    leading  () for one network, (n_networks,) for several
    """

    epochs: int
    batch_size: int
    seeds: tuple[int, ...]
    leading: tuple[int, ...]
    schedule: Schedule
    shuffle: bool = True
    early_stopping: EarlyStopping | None = None
    callbacks: tuple[Callback, ...] = ()
    progress: bool = True


@dataclass(eq=False)
class Run:
    """What a training has reached: the one object that changes.

    Its `state` is replaced after every step, its `history` grows by one entry an epoch.
    """

    state: State
    epoch: int = 0
    history: dict[str, list[Any]] = field(default_factory=dict)

    def record(self, epoch: Epoch) -> None:
        """Add an epoch to the history: a list for each field that is known."""
        self.epoch = epoch.epoch
        for name, value in epoch._asdict().items():
            if value is not None:
                self.history.setdefault(name, []).append(value)


class Passed(NamedTuple):
    """What an epoch has passed, up to some step within it.

    losses   the objective of each batch so far, (…, n)
    shares   the weight of each, (…, n), or (n,) where all networks take the same
    seconds  since `fit` began
    """

    losses: Numbers
    shares: Numbers
    seconds: float

    @property
    def n(self) -> int:
        """Batches so far."""
        return int(self.losses.shape[-1])


class Taken:
    """What an epoch has taken, part by part: `Passed`, where more may come.

    passed  of this epoch in an earlier process, or None
    """

    def __init__(self, passed: Passed | None = None) -> None:
        self.losses = [] if passed is None else [passed.losses]
        self.shares = [] if passed is None else [passed.shares]

    @property
    def n(self) -> int:
        """Batches of the parts that were taken as a whole."""
        return sum(losses.shape[-1] for losses in self.losses)

    def so_far(self, seconds: float, found: Found | None = None) -> Passed | None:
        """Up to here, `found` of the part at hand included; None before the first batch."""
        parts = [*self.losses, *([] if found is None else [found()])]
        if not parts:
            return None
        losses = np.concatenate(parts, -1)
        return Passed(losses, np.concatenate(self.shares, -1)[..., : losses.shape[-1]], seconds)


class Best:
    """The best weights seen, for each network."""

    def __init__(self, rule: EarlyStopping, device: Device, state: State, n: int) -> None:
        self.rule, self.device, self.state = rule, device, state
        self.loss = np.full(n, np.inf)
        self.waited = np.zeros(n, dtype=int)
        self.stopped = np.zeros(n, dtype=bool)

    def observe(self, loss: npt.NDArray[np.float64], state: State) -> bool:
        """Take in an epoch's loss (n_networks,); whether every network has stopped."""
        better = (loss < self.loss - self.rule.threshold) & ~self.stopped
        self.loss = np.where(better, loss, self.loss)
        self.waited = np.where(better, 0, self.waited + 1)
        self.stopped = self.stopped | (self.waited >= self.rule.patience)
        if better.all():
            self.state = copied(self.device, state)
        elif better.any():
            chosen, where = self.device.put(better[:, None]), self.device.xp.where
            self.state = state._replace(
                theta=where(chosen, state.theta, self.state.theta),
                running=where(chosen, state.running, self.state.running),
            )
        return bool(self.stopped.all())


class Rates:
    """The learning rate of every step of one `fit`: the optimiser's × schedule × plateau."""

    def __init__(self, base: float, plan: Plan, steps_per_epoch: int) -> None:
        self.base, self.plan, self.steps_per_epoch = base, plan, steps_per_epoch
        self.n_steps = plan.epochs * steps_per_epoch
        self.plateau: Plateau | None = None
        if isinstance(plan.schedule, ReduceOnPlateau):
            self.plateau = plan.schedule.begin(len(plan.seeds))

    def at(self, step: int) -> Any:
        """The rate of update `step`: a float, or (n_networks,) where networks differ."""
        rate = self.base * self.plan.schedule.factor(step, self.n_steps, self.steps_per_epoch)
        if self.plateau is None:
            return rate
        reduction = self.plateau.reduction
        return rate * (reduction if self.plan.leading else float(reduction[0]))

    def since(self, first: int) -> Callable[[int], Any]:
        """The rates counted from update `first`."""
        return lambda i: self.at(first + i)

    def observe(self, loss: npt.NDArray[np.float64]) -> None:
        """Take in the monitored loss of an epoch, (n_networks,)."""
        if self.plateau is not None and isinstance(self.plan.schedule, ReduceOnPlateau):
            self.plateau = self.plan.schedule.observe(self.plateau, loss)


def train(
    recipe: Recipe,
    device: Device,
    run: Run,
    plan: Plan,
    data: Data | Examples,
    validation: Data | Examples | None = None,
    model: Any = None,
    keeper: Any = None,
    ranks: Any = None,
) -> None:
    """Train `run` by `plan`; everything reached is in `run`, also after an exception.

    data    examples on the device, or what brings them there in parts
    model   what callbacks get as their first argument
    keeper  a `checkpoints_models.ModelKeeper` of this training, or None
    ranks   the `ranks.Ranks` that share its batches, or None; callbacks are called on rank 0
    """
    examples = InMemory(data, device) if isinstance(data, Data) else data
    judge = InMemory(validation, device) if isinstance(validation, Data) else validation
    rates = Rates(recipe.optimizer.rate, plan, -(-data.m // plan.batch_size))
    best = None
    if plan.early_stopping is not None:
        best = Best(plan.early_stopping, device, run.state, len(plan.seeds))
    run.state = copied(device, run.state)  # steps may write over what they are given
    last = run.epoch + plan.epochs
    over, passed = False, None
    if keeper is not None:
        over, passed = keeper.restore(run, rates, best)
    if ranks is not None:
        over, passed = ranks.begin(device, run, rates, best, over, passed)
    done, taken = run.epoch + plan.epochs - last, Taken(passed)
    steps = Steps(recipe, device, stepper if ranks is None else ranks.stepper)
    scores = scorer(device)
    before = run.history["seconds"][-1] if done else 0.0
    began = time.perf_counter() - (before if passed is None else passed.seconds)
    interrupts = Interrupts()

    def check(found: Found | None = None) -> None:
        asked = interrupts.asked
        if keeper is not None and keeper.wants(asked):
            so_far = taken.so_far(time.perf_counter() - began, found)
            if so_far is not None:
                keeper.within(run, rates, best, so_far, asked)
        interrupts.check()

    def after_steps(count: int, found: Found) -> None:
        bar.update(count)
        check(found)

    def bits_at(step: int, m: int) -> Array | None:
        return bits_for(device, recipe.network, plan.seeds, plan.leading, step, m)

    begun = done * rates.steps_per_epoch + taken.n
    with (
        np.errstate(all="ignore"),  # what is not finite is found and said in words
        training(run),
        progress_bar(rates.n_steps, plan.progress, last, begun) as bar,
        interrupts,
        examples.passes(plan, range(run.epoch, last), check, taken.n) as parts,
    ):
        for number in range(done, done if over else plan.epochs):
            good = copied(device, run.state)  # finite: so the last epoch's end found
            if keeper is not None and passed is None:
                keeper.note(run, good, rates, best)
            kept = f"the end of epoch {run.epoch}"
            if passed is not None:
                kept = f"step {run.state.step}, from which it went on"
            first, passed = number * rates.steps_per_epoch, None
            with recipe.network.threads(device, plan.batch_size):
                for part in parts(run.epoch):
                    taken.shares.append(batch_weights(part.order, plan.batch_size, part.weights))
                    found_losses = one_epoch(
                        device,
                        run,
                        steps.on(part.data),
                        part.order,
                        plan.batch_size,
                        rates.since(first + taken.n),
                        bits_at,
                        after_steps,
                    )
                    taken.losses.append(found_losses)
                    if not np.isfinite(found_losses).all():
                        break
            losses, share = np.concatenate(taken.losses, -1), np.concatenate(taken.shares, -1)
            finite = np.all(np.isfinite(losses).reshape(-1, losses.shape[-1]), axis=0)
            if not finite.all() or not device.all_finite(run.state.theta):
                run.state = good
                bad = losses.shape[-1] if finite.all() else int(np.argmin(finite)) + 1
                rate = float(np.max(rates.at(first + bad - 1)))
                raise TrainingDiverged(_divergence(run, bad, rate, kept, part, device))
            loss = weighted_mean(losses, share)
            found = None
            if judge is not None:
                found = judge.evaluate(recipe, device, run.state, scores)
                found = found._replace(loss=_number(found.loss), score=_number(found.score))
            result = Epoch(
                epoch=run.epoch + 1,
                step=run.state.step,
                rate=_number(rates.at(first + rates.steps_per_epoch - 1)),
                loss=_number(loss),
                validation_loss=None if found is None else found.loss,
                validation_score=None if found is None else found.score,
                seconds=time.perf_counter() - began,
            )
            run.record(result)
            taken = Taken()
            bar.show(result)
            monitored = np.reshape(loss if found is None else np.asarray(found.loss), (-1,))
            rates.observe(monitored)
            stops = [bool(callback(model, result)) for callback in plan.callbacks]
            stopped = any(stops) if ranks is None else ranks.first(any(stops))
            if (best is not None and best.observe(monitored, run.state)) or stopped:
                over = True
                break
    steps.end()
    if keeper is not None:
        keeper.note(run, run.state, rates, best, over)
    if best is not None and np.isfinite(best.loss).any():
        run.state = run.state._replace(theta=best.state.theta, running=best.state.running)
    interrupts.check()  # what came after the last step stops whoever trains in a loop


def check_batches(recipe: Recipe, batch_size: int, stacklevel: int = 3) -> None:
    """Warn where batches of one example teach little or nothing."""
    if batch_size == 1 and recipe.network.by_batch:
        warnings.warn(
            "Batch normalisation of batches of one example makes b of every unit, whatever the "
            "example was, and little or nothing is learnt: take a batch_size of 2 or more, or "
            "layer normalisation.",
            UserWarning,
            stacklevel=stacklevel,
        )


def one_epoch(
    device: Device,
    run: Run,
    step: Step,
    order: npt.NDArray[np.int64],
    batch_size: int,
    rate_at: Callable[[int], Any],
    bits_at: Callable[[int, int], Array | None],
    after_steps: Callable[[int, Found], object],
) -> Numbers:
    """One pass over the data in the given order: the objective of every batch.

    order        (m,), or (n_networks, m) where every network has its own
    rate_at      number of the batch in this pass → rate, a float or (n_networks,)
    bits_at      (number of the update over the life of the model, m) → dropout bits
    after_steps  called between steps, with how many there were since, and what the pass found

    `run.state` is replaced after every step, or after a few where the device takes several
    at once. Returns (…, n_batches) float64, and ends early, that batch the last, where a
    device whose numbers are free to read meets a loss that is not finite. Otherwise nothing
    is read before the pass ends.
    """
    index = device.put(order)
    if hasattr(step, "announce"):
        return _announced_epoch(
            device, run, step, index, order, batch_size, rate_at, bits_at, after_steps
        )
    losses, waits = list[Array](), device.reads_wait

    def found() -> Numbers:
        if waits:
            return _on_host(device, device.xp.stack(losses))
        return np.asarray(losses, np.float64).T

    for piece in pieces(order.shape[-1], batch_size):
        rate = rate_at(len(losses))
        if isinstance(rate, np.ndarray):
            rate = device.put(rate[:, None])
        bits = bits_at(run.state.step, piece.stop - piece.start)
        run.state = step(run.state, index[..., piece], bits, rate)
        losses.append(run.state.loss if waits else device.get(run.state.loss))
        if not waits and not np.isfinite(losses[-1]).all():
            break
        after_steps(1, found)
    return found()


def _announced_epoch(
    device: Device,
    run: Run,
    step: Any,
    index: Array,
    order: npt.NDArray[np.int64],
    batch_size: int,
    rate_at: Callable[[int], Any],
    bits_at: Callable[[int, int], Array | None],
    after_steps: Callable[[int, Found], object],
) -> Numbers:
    """`one_epoch` by a step that takes a whole epoch's rates, and many steps at once."""
    m = order.shape[-1]
    rates = [rate_at(i) for i in range(-(-m // batch_size))]
    step.announce(run.state, index, rates, order, batch_size)
    first = run.state.step

    def found() -> Numbers:
        return _on_host(device, step.losses[: run.state.step - first])

    for size, count in ((batch_size, m // batch_size), (m % batch_size, min(1, m % batch_size))):
        for piece in pieces(count, step.most):
            n = piece.stop - piece.start
            run.state = step.several(run.state, bits_at(run.state.step, size), size, n)
            after_steps(n, found)
    return found()


def _on_host(device: Device, losses: Array) -> Numbers:
    """The objectives of batches (n_batches, …) as (…, n_batches) float64."""
    return device.get(losses).astype(np.float64).T


def batch_weights(
    order: npt.NDArray[np.int64], batch_size: int, weights: npt.NDArray[Any] | None
) -> npt.NDArray[np.float64]:
    """The sum of the weights (m,) of each batch in an order, (…, n_batches); of None its size."""
    n = len(order[0]) if order.ndim == 2 else len(order)
    sizes = np.ones(n) if weights is None else weights.astype(np.float64)[order]
    share: npt.NDArray[np.float64] = np.add.reduceat(sizes, range(0, n, batch_size), axis=-1)
    return share


def weighted_mean(
    losses: npt.NDArray[np.float64], share: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Σ share · losses / Σ share over the batches, the last axis."""
    losses = np.ascontiguousarray(losses)  # so that each network's are added up as if alone
    return np.asarray(np.sum(losses * share, axis=-1) / np.sum(share, axis=-1))


def copied(device: Device, state: State) -> State:
    """A state whose arrays are its own."""
    return state._replace(
        theta=device.copied(state.theta),
        moments=tuple(map(device.copied, state.moments)),
        running=device.copied(state.running),
    )


def moved(state: State, move: Callable[[Any], Any]) -> State:
    """A state whose arrays went through `move`; its loss is not wanted any more."""
    moments = tuple(map(move, state.moments))
    return State(move(state.theta), moments, move(state.running), state.step)


def _divergence(run: Run, step: int, rate: float, kept: str, part: Part, device: Device) -> str:
    xp, data = device.xp, part.data
    largest = float(xp.max(xp.abs(data.rows[: min(data.m, CHUNK), :])))
    cure = "lower the learning rate or set clip_norm=1.0"
    if largest > 100:
        cure = f"scale the features (the largest is {largest:.3g} in size), or " + cure
    return (
        f"The loss stopped being finite in epoch {run.epoch + 1}, step {step}, at a learning rate "
        f"of {rate:.3g}. The model keeps its weights from {kept}. "
        f"Likely cure: {cure}."
    )


def _number(value: Any) -> Any:
    """A float for one network, a float64 array for several."""
    array = np.asarray(value, dtype=np.float64)
    return float(array) if array.ndim == 0 else array


def describe(epoch: Epoch) -> str:
    """One line for people, the best network standing for several."""
    return ", ".join(f"{name} {value:.4f}" for name, value in _told(epoch))


def _told(epoch: Epoch) -> list[tuple[str, float]]:
    """What a line says of an epoch, the most wanted first."""
    told = [("loss", float(np.min(epoch.loss)))]
    if epoch.validation_loss is not None:
        told.append(("validation", float(np.min(epoch.validation_loss))))
        told.append(("score", float(np.max(epoch.validation_score))))
    return told


def fitted(epoch: Epoch, last: int | None, width: int) -> str:
    """As much of an epoch as a width has room for: its number and loss, then the score.

    last  number of the last epoch, where it is known
    """
    number = f"{epoch.epoch}" if last is None else f"{epoch.epoch}/{last}"
    told = {
        name: f"{name} {value:.4f}" if abs(value) < 1000 else f"{name} {value:.3g}"
        for name, value in _told(epoch)
    }
    longest = [f"epoch {number}", *told.values()]
    without = [f"epoch {number}", told["loss"], *([told["score"]] if "score" in told else [])]
    choices = [longest, without, without[:2], [number, told["loss"]]]
    lines = [", ".join(parts) for parts in choices]
    return next((line for line in lines if len(line) <= width), lines[-1])


class Interrupts:
    """Holds Ctrl-C back until a step is whole: `check` then raises KeyboardInterrupt.

    Only in the main thread, and only in the place of Python's own handler: whoever has
    installed another one keeps it. A second Ctrl-C is not held back.
    """

    def __init__(self) -> None:
        self.asked = False
        self.ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )

    def __enter__(self) -> Self:
        if self.ours:
            signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed since the last step."""
        if self.asked:
            raise KeyboardInterrupt


class _Silent:
    """A progress bar that shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def update(self, n: int) -> None:
        return None

    def show(self, epoch: Epoch) -> None:
        return None


# Columns from which tqdm's own line has room for all that is said of an epoch, and from which
# it has without the number of steps a second.
WIDE, USUAL = 100, 80
PLAIN = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
NARROW = "{desc} {bar}{percentage:4.0f}%"
BESIDE = 8  # columns that NARROW takes beside what is said, with a bar of two


def _columns() -> int | None:
    """How wide standard error is; None where nobody says."""
    found = None
    with suppress(OSError, ValueError):  # it is no terminal
        found = os.get_terminal_size(sys.stderr.fileno()).columns
    if not found:  # 0: a terminal that does not know
        with suppress(ValueError):
            return max(int(os.environ.get("COLUMNS", "")), 1)
    return 80 if found == 0 else found


def progress_bar(
    n_steps: int, shown: bool, last: int | None = None, done: int = 0, unit: str = "step"
) -> Any:
    """A tqdm bar on standard error or in a notebook, or nothing; imported only when shown.

    last  number of the last epoch, where it is known
    done  steps of an earlier process
    unit  what is counted

    On a narrow terminal epoch and loss come before everything else, for tqdm cuts a line at
    its end.
    """
    if not shown:
        return _Silent()
    from tqdm.auto import tqdm

    ncols = _columns()
    room = ncols - BESIDE if ncols is not None and ncols < USUAL else None

    class Bar(tqdm):  # type: ignore[misc]
        """A bar that says what is known of an epoch."""

        def show(self, epoch: Epoch) -> None:
            if room is not None:
                self.set_description_str(fitted(epoch, last, room), refresh=False)
            else:
                self.set_postfix_str(describe(epoch), refresh=False)

    layout = None
    if ncols is not None and ncols < WIDE:
        layout = PLAIN if room is None else NARROW
    first = f"epoch 0/{last}" if room is not None and last is not None else None
    return Bar(
        total=n_steps,
        initial=done,
        unit=unit,
        file=sys.stderr,
        ncols=ncols,
        bar_format=layout,
        desc=first,
    )


__all__ = [
    "Callback",
    "EarlyStopping",
    "Epoch",
    "Plan",
    "Rates",
    "Run",
    "TrainingDiverged",
    "describe",
    "train",
]
