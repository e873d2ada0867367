"""The checkpoints of `Model.fit`: what they hold beside the model, and how it is gone on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import storage
from .checkpoints import (
    Keeper,
    described_state,
    examples,
    is_bool,
    is_whole,
    plateau_of,
    vector,
    written,
)
from .fitting import Best, Plan, Rates, Run, moved
from .headers import check_finite, check_shape, mapping, number, parsed, refusal
from .model import Model
from .schedules import Plateau
from .streams.feed import Feed
from .training import Data
from .types import State


class Reached(NamedTuple):
    """What a training has reached at the end of an epoch. Nothing in it is written to later.

    history  whose lists grow, but not those of this epoch: `lengths`
    best     of early stopping: theta and running moments, loss, epochs waited, stopped
    """

    state: State
    history: dict[str, list[Any]]
    lengths: dict[str, int]
    plateau: Plateau | None
    best: tuple[State, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]] | None
    over: bool


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
        self.written = self.began
        self.metadata = dict(model.metadata)
        storage.check_named(model.config)  # what a file cannot hold is said now
        storage.to_json("metadata", self.metadata)

    def note(
        self, run: Run, state: State, rates: Rates, best: Best | None, over: bool = False
    ) -> None:
        """Take in the end of an epoch. Nobody writes to `state` any more."""
        lengths = {name: len(entries) for name, entries in run.history.items()}
        memory = None if best is None else (best.state, best.loss, best.waited, best.stopped)
        reached = Reached(state, run.history, lengths, rates.plateau, memory, over)
        self.offer(run.epoch, reached)

    def bring(self, reached: Reached) -> Reached:
        get, best = self.model.device.get, reached.best
        if best is not None:
            best = (moved(best[0]._replace(moments=()), get), *best[1:])
        return reached._replace(state=moved(reached.state, get), best=best)

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
        told = self.described(
            epochs=self.plan.epochs,
            began=self.began,
            memory=memory,
        )
        history = {name: reached.history[name][:n] for name, n in reached.lengths.items()}
        run = Run(reached.state, epoch, history)
        return storage.contents(self.model, run, self.metadata, {storage.CHECKPOINT: told}, vectors)

    def restore(self, run: Run, rates: Rates, best: Best | None) -> bool:
        """Bring a training that is about to begin to where its last checkpoint was.

        Returns whether that training is over.
        """
        found = self.last(lambda path: self._read(path, rates, best))
        if found is None:
            return False
        path, told, reached, stored = found
        done, epochs = stored.epoch - self.began, self.plan.epochs
        self.go_on(path, told, self.plan.schedule, ("epochs", epochs), self.per_epoch, done)
        run.state, run.epoch, run.history = stored.state, stored.epoch, stored.history
        rates.plateau = reached.plateau
        if best is not None and reached.best is not None:
            best.state, best.loss, best.waited, best.stopped = reached.best
        self.gone_on(run.epoch, self.began + epochs, reached.over)
        return reached.over

    def _read(
        self, path: Path, rates: Rates, best: Best | None
    ) -> tuple[Path, dict[str, Any], Reached, Run]:
        """What a checkpoint of this training holds, all of it checked."""
        header, tensors = storage.read(path)
        told = self.told(path, header)
        values, model = parsed(path, header), self.model
        layout, n = storage.shapes_of(model), len(model.seeds)
        vectors = {name: T for name, T in tensors.items() if name in storage.BEST}
        own = {name: T for name, T in tensors.items() if name not in vectors}
        storage.check_layout(path, own, layout, model.dtype)
        check_finite(path, tensors)
        epoch, step = values["epoch"], values["step"]
        first = model._run.state.step
        if (
            told["began"] != self.began
            or epoch < self.began
            or step != first + (epoch - self.began) * self.per_epoch
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
        reached = Reached(state, history, {}, plateau, kept, memory["over"])
        return path, told, reached, Run(state, epoch, history)


__all__ = ["ModelKeeper", "described"]
