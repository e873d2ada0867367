"""The checkpoints of `Model.fit`: what they hold beside the model, and how it is gone on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import storage
from .checkpoints import (
    Keeper,
    Mark,
    described_state,
    examples,
    is_bool,
    is_whole,
    plateau_of,
    vector,
    written,
)
from .fitting import Best, Passed, Plan, Rates, Run, moved
from .headers import check_finite, check_shape, mapping, number, parsed, refusal
from .model import Model
from .schedules import Plateau
from .streams.feed import Feed
from .training import Data
from .types import State


class Reached(NamedTuple):
    """What a training has reached. Nothing in it is written to later, but the state of `passed`.

    history  whose lists grow, but not those of this epoch: `lengths`
    best     of early stopping: theta and running moments, loss, epochs waited, stopped
    passed   within an epoch, of that; None between two
    """

    state: State
    history: dict[str, list[Any]]
    lengths: dict[str, int]
    plateau: Plateau | None
    best: tuple[State, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]] | None
    over: bool
    passed: Passed | None = None


def described(model: Model, plan: Plan, data: Any, validation: Any) -> dict[str, Any]:
    """All that decides what a training computes, each by its name."""
    run, device, stopping = model._run, model.device, plan.early_stopping
    return {
        **model.config,
        "batch_size": plan.batch_size,
        "shuffle": plan.shuffle,
        "schedule": written(plan.schedule),
        "early_stopping": None if stopping is None else written(stopping),
        "the state it begins from": described_state(device, run.state, run.epoch),
        "the examples": examples(device, data),
        "the validation data": None if validation is None else examples(device, validation),
    }


class ModelKeeper(Keeper):
    """Of `Model.fit`."""

    def __init__(
        self,
        model: Model,
        checkpoint: Any,
        every: float,
        plan: Plan,
        data: Data | Feed,
        validation: Data | Feed | None,
    ) -> None:
        self.model, self.plan, device = model, plan, model.device
        self.began = model._run.epoch
        self.per_epoch = -(-data.m // plan.batch_size)
        recipe = described(model, plan, data, validation)
        super().__init__(checkpoint, every, recipe, device)
        self.written = Mark(self.began)
        self.streamed = isinstance(data, Feed)
        self.metadata = dict(model.metadata)
        storage.check_named(model.config)  # what a file cannot hold is said now
        storage.to_json("metadata", self.metadata)

    def note(
        self, run: Run, state: State, rates: Rates, best: Best | None, over: bool = False
    ) -> None:
        """Take in the end of an epoch. Nobody writes to `state` any more."""
        self.offer(Mark(run.epoch), _reached(run, state, rates, best, over))

    def wants(self, asked: bool) -> bool:
        """Whether it is time for one within an epoch; `asked`: whether the training is to end."""
        return self.streamed and (asked or self.due())

    def within(
        self, run: Run, rates: Rates, best: Best | None, passed: Passed, asked: bool
    ) -> None:
        """Take in what lies between two steps, where it is wanted and worth it.

        asked  whether it is the last, so that nobody writes to the state until it is kept
        """
        mark, device = Mark(run.epoch, run.state.step), self.model.device
        finite = map(device.all_finite, (run.state.theta, run.state.running))
        if mark <= self.written or not (all(finite) and np.isfinite(passed.losses).all()):
            return
        reached = _reached(run, run.state, rates, best)._replace(passed=passed)
        if asked:
            self.newest = (mark, reached)
        else:
            self._begin(mark, reached)

    def bring(self, reached: Reached) -> Reached:
        get, best = self.model.device.get, reached.best
        if best is not None:
            best = (moved(best[0]._replace(moments=()), get), *best[1:])
        if reached.passed is None:
            return reached._replace(state=moved(reached.state, get), best=best)
        state = moved(reached.state, lambda array: np.array(get(array)))  # the next step writes
        return reached._replace(state=state, best=best)

    def packed(self, epoch: int, reached: Reached) -> bytes | None:
        vectors: storage.Tensors = {}
        memory: dict[str, Any] = {"over": reached.over, "best": None, "plateau": None}
        if reached.plateau is not None:
            memory["plateau"] = reached.plateau._asdict()
        if reached.best is not None:
            state, loss, waited, stopped = reached.best
            vectors = dict(zip(storage.BEST, (state.theta, state.running), strict=True))
            memory["best"] = {"loss": loss, "waited": waited, "stopped": stopped}
        finite = (reached.state.theta, reached.state.running, *vectors.values())
        if not all(np.isfinite(array).all() for array in finite):
            return None
        if reached.passed is not None:
            *arrays, memory["seconds"] = reached.passed
            found = map(np.ascontiguousarray, arrays)
            vectors |= dict(zip(storage.PASSED, found, strict=True))
        told = self.described(
            epochs=self.plan.epochs,
            began=self.began,
            memory=memory,
        )
        history = {name: reached.history[name][:n] for name, n in reached.lengths.items()}
        run = Run(reached.state, epoch, history)
        return storage.contents(self.model, run, self.metadata, {storage.CHECKPOINT: told}, vectors)

    def restore(self, run: Run, rates: Rates, best: Best | None) -> tuple[bool, Passed | None]:
        """Bring a training that is about to begin to where its last checkpoint was.

        Returns whether that training is over, and what its epoch has passed.
        """
        found = self.last(lambda path: self._read(path, rates, best))
        if found is None:
            return False, None
        path, told, reached, stored = found
        steps, epochs = stored.state.step - run.state.step, self.plan.epochs
        self.go_on(path, told, self.plan.schedule, ("epochs", epochs), self.per_epoch, steps)
        run.state, run.epoch, run.history = stored.state, stored.epoch, stored.history
        rates.plateau = reached.plateau
        if best is not None and reached.best is not None:
            best.state, best.loss, best.waited, best.stopped = reached.best
        mark = Mark(run.epoch, 0 if reached.passed is None else run.state.step)
        self.gone_on(mark, self.began + epochs, reached.over)
        return reached.over, reached.passed

    def _read(
        self, path: Path, rates: Rates, best: Best | None
    ) -> tuple[Path, dict[str, Any], Reached, Run]:
        """What a checkpoint of this training holds, all of it checked."""
        header, tensors = storage.read(path)
        told = self.told(path, header)
        values, model = parsed(path, header), self.model
        layout, n = storage.shapes_of(model), len(model.seeds)
        vectors = {name: T for name, T in tensors.items() if name in storage.BEST}
        beside = (*storage.BEST, *storage.PASSED)
        own = {name: T for name, T in tensors.items() if name not in beside}
        storage.check_layout(path, own, layout, model.dtype)
        check_finite(path, tensors)
        epoch, step = values["epoch"], values["step"]
        first = model._run.state.step
        passed = self._passed(path, told["memory"], tensors)
        batches = 0 if passed is None else passed.n
        if (
            told["began"] != self.began
            or epoch < self.began
            or step != first + (epoch - self.began) * self.per_epoch + batches
        ):
            raise refusal(path, "step", step, f"as many as there are in {epoch} epochs")
        state = storage.state_of(model, tensors, step)
        storage.check_connections(path, model, state)
        history = storage.history_of(path, model, values["history"])
        for name in ("epoch", "seconds", "step"):
            entries = history.get(name, [])
            if epoch > self.began and not (entries and number(entries[-1])):
                raise refusal(path, f"history[{name!r}]", entries, "a number an epoch")
        memory, field = told["memory"], "checkpoint['memory']"
        if not isinstance(memory.get("over"), bool):
            raise refusal(path, f"{field}['over']", memory.get("over"), "true or false")
        plateau = kept = None
        if rates.plateau is not None:
            plateau = plateau_of(path, memory.get("plateau"), n, self.plan.schedule)
        if best is not None:
            parts = mapping(path, f"{field}['best']", memory.get("best"))
            shapes = (model.network.n_parameters, model.network.n_statistics)
            theta, running = (
                model.device.put(check_shape(path, vectors, name, (*model.leading, size)))
                for name, size in zip(storage.BEST, shapes, strict=True)
            )
            if {str(T.dtype) for T in vectors.values()} != {model.dtype}:
                raise refusal(path, "tensor best", vectors["best"], model.dtype)
            kept = (
                State(theta, (), running, step),
                vector(path, f"{field}['best']['loss']", parts.get("loss"), n, number, float),
                vector(path, f"{field}['best']['waited']", parts.get("waited"), n, is_whole, int),
                vector(path, f"{field}['best']['stopped']", parts.get("stopped"), n, is_bool, bool),
            )
        reached = Reached(state, history, {}, plateau, kept, memory["over"], passed)
        return path, told, reached, Run(state, epoch, history)

    def _passed(
        self, path: Path, memory: dict[str, Any], tensors: storage.Tensors
    ) -> Passed | None:
        """What the epoch of a checkpoint has passed; None of one between two."""
        if not set(storage.PASSED) & set(tensors):
            return None
        leading = self.model.leading
        losses, shares = (tensors.get(name, np.zeros(0)) for name in storage.PASSED)
        n = losses.shape[-1] if losses.ndim else 0
        check_shape(path, tensors, storage.PASSED[0], (*leading, n))
        each = leading if shares.ndim > 1 else ()  # where every network has its own order
        check_shape(path, tensors, storage.PASSED[1], (*each, n))
        if not 1 <= n <= self.per_epoch or {losses.dtype, shares.dtype} != {np.dtype("float64")}:
            expected = f"1 to {self.per_epoch} numbers of float64"
            raise refusal(path, f"tensor {storage.PASSED[0]}", f"{losses.dtype} {n}", expected)
        seconds = memory.get("seconds")
        if seconds is None or not number(seconds) or not 0 <= seconds < float("inf"):
            raise refusal(path, "checkpoint['memory']['seconds']", seconds, "a number of seconds")
        return Passed(losses, shares, seconds)


def _reached(
    run: Run, state: State, rates: Rates, best: Best | None, over: bool = False
) -> Reached:
    lengths = {name: len(entries) for name, entries in run.history.items()}
    memory = None if best is None else (best.state, best.loss, best.waited, best.stopped)
    return Reached(state, run.history, lengths, rates.plateau, memory, over)


__all__ = ["ModelKeeper", "described"]
