"""What a search works on: its data in three parts, its dimensions, and what a trial does.

train     rows a trial learns from
choose    rows by which trials are compared, now and then and at their end
held out  rows that nothing looks at before the best trial's model is done
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .. import checks
from ..data import Dataset
from ..defaults import (
    DEFAULT_SCHEDULE,
    default_batch_size,
    default_epochs,
    default_rate,
    defaults,
)
from ..fingerprint import hashed
from ..fitting import Epoch
from ..losses import LOSSES
from ..meant import meant
from ..model import Model
from ..optimizers import OPTIMIZERS
from ..preparation import SCALES, Examples, default_loss, divide, model_for, prepare
from ..prepared import Preparation
from ..readers import listed
from ..schedules import SCHEDULES, ReduceOnPlateau
from .families import FAMILIES, OF_LAYERS
from .space import Dimension, dimensions, usual

TRIALS = 30
VALIDATION = 0.2  # many choices are made by it: twice as much as `train` keeps for one
REDUCTION = 3  # one of so many trials goes on at each rung
RUNGS = 2  # before the end
PRUNING = ("halving", "hyperband", "none")
CHOOSE_BY = {"loss": "minimize", "score": "maximize"}


class OutOfTime(Exception):
    """The time is up in the middle of a trial."""


@dataclass(frozen=True)
class Wanted:
    """What a search is asked for.

    layers          the family of networks: a row of `families.FAMILIES`
    shape           of one example, for families of layers; None: as the data's source knows it
    fixed           options of the model and its training that are not searched
    limits          of dimensions: see `space.dimensions`
    epochs          of every trial and of the model; None goes by the number of examples
    repeats         networks a trial, trained in one call, whose mean is the trial's value
    choose_by       "score" (accuracy or R²) or "loss" on the rows to choose by
    pruning         "halving", "hyperband" or "none"
    early_stopping  epochs without a better loss after which a trial ends; None never
    """

    trials: int = TRIALS
    layers: str = "dense"
    shape: Sequence[int] | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    held_out: float = 0.2
    validation: float = VALIDATION
    epochs: int | None = None
    repeats: int = 1
    choose_by: str = "score"
    pruning: str = "halving"
    schedule: str = DEFAULT_SCHEDULE
    early_stopping: int | None = None
    scale: str = "auto"
    scale_target: bool = True
    keep: tuple[str, ...] = ()
    device: str = "cpu"

    def check(self, data: Dataset) -> None:
        """Raise ValueError for what cannot be."""
        for name in ("trials", "repeats"):
            checks.integer(name, getattr(self, name), 1)
        checks.seed("seed", self.seed)
        for name in ("epochs", "early_stopping"):
            if getattr(self, name) is not None:
                checks.integer(name, getattr(self, name), 1)
        tables: dict[str, Mapping[str, Any]] = {
            "choose_by": CHOOSE_BY,
            "pruning": dict.fromkeys(PRUNING),
            "schedule": SCHEDULES,
            "scale": SCALES,
        }
        if self.layers not in FAMILIES:
            raise ValueError(
                f"layers is {self.layers!r}, but a search varies a family: expected one of "
                f"{', '.join(FAMILIES)}.{meant(FAMILIES, self.layers)} Layers of your own "
                "are trained by mlp-xp train --layers."
            )
        FAMILIES[self.layers].check(self.layers, self.fixed)
        for name, table in tables.items():
            checks.choose(name, table, getattr(self, name))
        if isinstance(SCHEDULES[self.schedule], ReduceOnPlateau):
            raise ValueError(
                f"schedule {self.schedule!r} goes by rows to choose by, but the model that is "
                "found is trained on those too: expected another."
            )
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out:g}, but expected a number in [0, 1).")
        if not 0 < self.validation < 1:
            raise ValueError(
                f"validation is {self.validation:g}, but trials are compared by it: expected a "
                "number in (0, 1)."
            )
        if data.y is None or len(data.y) < 5:
            raise ValueError(f"{data.name} has too few examples to search by: expected 5 or more.")


class Task:
    """A search: its data in three parts, its dimensions, and what a trial does."""

    def __init__(self, data: Dataset, wanted: Wanted) -> None:
        wanted.check(data)
        assert data.y is not None
        self.data, self.wanted, self.fixed = data, wanted, dict(wanted.fixed)
        self.loss = self.fixed.pop("loss", None) or default_loss(data.y)
        self.kind = LOSSES[self.loss].kind
        self.examples, index = divide(data, wanted.held_out, wanted.validation, wanted.seed)
        self.found = self._prepared(index)
        self._numbers()
        self.family = FAMILIES[wanted.layers]
        self.shape = self._shape()
        m = len(self.examples.X)
        self.epochs = wanted.epochs or default_epochs(m)
        batch = default_batch_size(m)
        rows = self.family.dimensions(self.shape)
        self.dimensions = dimensions(self.fixed, wanted.limits, m, batch, rows)
        self.defaults = {
            "optimizer": "adam",
            "batch_size": batch,
            **{key: defaults(self.kind)[key] for key in ("normalization", "dropout")},
            **self.family.usual(self.shape),
        }
        self._usual_rate()

    def _shape(self) -> tuple[int, ...]:
        """Of one example; an error about a table says what its columns have become."""
        n, wanted = self.X.shape[1], self.wanted
        try:
            return self.family.shape(wanted.layers, n, self.data.shape, wanted.shape)
        except ValueError as error:
            left = [name for name in self.data.features if name not in self.found.features]
            if not left:
                raise
            raise ValueError(
                f"{error} {len(left)} of {len(self.data.features)} columns look like nothing to "
                f"learn from and are left out ({listed(left)}): a .npz file of X and y takes all."
            ) from None

    def _prepared(self, index: Any) -> Preparation:
        wanted = self.wanted
        return prepare(
            self.data, index, self.loss, wanted.scale, wanted.scale_target, keep=wanted.keep
        )

    def _numbers(self) -> None:
        """Rows as numbers, once for all trials; of a table they are costly to make."""
        X, y, X_choice, y_choice, _, _ = self.examples
        self.bare = replace(self.found, table=None, features=())
        self.X = self.found.rows("X", X, y)
        self.X_choice = self.found.rows("X", X_choice)
        self.y, self.y_choice = y, y_choice

    def _usual_rate(self) -> None:
        """The rate and the decay that go with the usual optimiser, or the one that is fixed."""
        name = self.fixed.get("optimizer", self.defaults["optimizer"])
        row = checks.choose("optimizer", OPTIMIZERS, name)()
        self.defaults["weight_decay"] = row.weight_decay
        self.usual_rate = default_rate(name, layers=bool(self.shape)) or row.rate

    @property
    def name(self) -> str:
        """Of the study, unless another is asked for."""
        layers = self.wanted.layers
        return f"{self.data.name} {layers}" if self.shape else self.data.name

    def model(self, drawn: Mapping[str, Any], rate: float | None) -> Model:
        """The networks of a trial, untrained."""
        wanted = self.wanted
        seeds: Any = wanted.seed
        if wanted.repeats > 1:
            seeds = range(wanted.seed, wanted.seed + wanted.repeats)
        model = self._model({**self.always, **self.options(drawn, rate)}, self.found, seeds)
        model.preparation = self.bare
        return model

    def _model(self, options: dict[str, Any], found: Preparation, seeds: Any) -> Model:
        """Of options of a model and its training."""
        options = {name: value for name, value in options.items() if name != "batch_size"}
        if self.shape:
            options["shape"] = self.shape
        return model_for(self.data, found=found, seed=seeds, device=self.wanted.device, **options)

    @property
    def always(self) -> dict[str, Any]:
        """Options of a model and its training that every trial has."""
        return {"label_smoothing": defaults(self.kind)["label_smoothing"], **self.held}

    @property
    def held(self) -> dict[str, Any]:
        """What is fixed, but for what is in the layers of a line."""
        inside = OF_LAYERS if self.shape else ()
        return {name: value for name, value in self.fixed.items() if name not in inside}

    def options(self, drawn: Mapping[str, Any], rate: float | None) -> dict[str, Any]:
        """What was drawn, as options of a model and its training."""
        found = self.family.options(drawn, self.fixed, self.shape)
        found |= {} if "batch_size" not in drawn else {"batch_size": drawn["batch_size"]}
        return found if rate is None else {**found, "learning_rate": rate}

    def batch_size(self, drawn: Mapping[str, Any]) -> int:
        """Examples a step of a trial."""
        known = {"batch_size": default_batch_size(len(self.X)), **self.fixed, **drawn}
        return int(known["batch_size"])

    def rate(self, drawn: Mapping[str, Any], usual: bool) -> float | None:
        """The finder's suggestion for the very networks, times what was drawn; None: fixed.

        usual  whether the trial is the default model: then the rate is its own
        """
        if "rate_factor" not in drawn:
            return None
        rate = self.usual_rate if usual else drawn["rate_factor"] * self.suggestion(drawn)
        return float(f"{rate:.4g}")  # so that it can be given on a command line

    def suggestion(self, drawn: Mapping[str, Any]) -> float:
        """Where the loss falls fastest."""
        size = self.batch_size(drawn)
        model = self.model(drawn, None)
        found = model.find_learning_rate(
            self.X, self.y, lowest=1e-5, highest=1.0, steps=50, batch_size=size, layout="rows"
        )
        return found.suggestion

    def usual(self) -> tuple[dict[str, Any], bool]:
        """The dimensions of the default model as far as they can be drawn, and whether all can.

        Its rate counts as the factor that is nearest to it.
        """
        rows = {row.name: row for row in self.dimensions}
        rate = rows.pop("rate_factor", None)
        drawn = usual(self.defaults, tuple(rows.values()))
        whole = len(drawn) == len(rows)
        if not whole or rate is None:
            return drawn, whole
        factor = self.usual_rate / self.suggestion(drawn)
        near = min(max(factor, rate.low), rate.high)
        if near != factor and "rate_factor" in self.wanted.limits:
            return drawn, False
        return {**drawn, "rate_factor": near}, True

    def check(self) -> None:
        """Raise what a model raises for options that cannot be; for a batch that is too large."""
        drawn = {row.name: self._one_of(row) for row in self.dimensions}
        self.model(drawn, self.usual_rate if "rate_factor" in drawn else None)
        size = self.fixed.get("batch_size")
        if size is not None and checks.integer("batch_size", size, 1) > len(self.X):
            raise ValueError(
                f"batch_size is {size}, but there are {len(self.X)} examples to train on."
            )

    def _one_of(self, row: Dimension) -> Any:
        """The usual value of a dimension, or another that can be drawn."""
        value = {**self.defaults, "rate_factor": 1.0}[row.name]
        if row.holds(value):
            return value
        return row.choices[0] if row.choices else row.low

    @property
    def sizes(self) -> dict[str, int]:
        """How many rows are in each part."""
        return self.examples.sizes

    # -- a trial -------------------------------------------------------------

    def train(self, drawn: Mapping[str, Any], watch: Watch, usual: bool = False) -> None:
        """Train a trial's networks under the eyes of `watch`."""
        rate = self.rate(drawn, usual)
        watch.found["learning_rate"] = rate
        model = self.model(drawn, rate)
        watch.found["parameters"] = model.n_parameters
        model.fit(
            self.X,
            self.y,
            epochs=self.epochs,
            batch_size=self.batch_size(drawn),
            validation_data=(self.X_choice, self.y_choice),
            schedule=self.wanted.schedule,
            callbacks=watch,
            progress=False,
            layout="rows",
        )

    # -- the model -----------------------------------------------------------

    def refitted(self, trial: Mapping[str, Any]) -> tuple[Model, Examples]:
        """The model of a trial, trained on the rows to train on and to choose by.

        trial  a row of `front.rows`

        Its epochs are those after which the trial was best, of a schedule over all of them.
        """
        wanted = self.wanted
        examples, index = divide(self.data, wanted.held_out, 0.0, wanted.seed)
        options = {**self.always, **trial["options"]}
        model = self._model(options, self._prepared(index), wanted.seed)
        last = trial["epochs"]
        model.fit(
            examples.X,
            examples.y,
            epochs=self.epochs,
            batch_size=self.final_batch_size(trial),
            schedule=wanted.schedule,
            callbacks=lambda model, epoch: epoch.epoch >= last,
            progress=False,
            layout="rows",
        )
        return model, examples

    def final_batch_size(self, trial: Mapping[str, Any]) -> int:
        """Examples a step of the model of a trial."""
        m = len(self.examples.X) + len(self.examples.X_choice)
        return int(
            {"batch_size": default_batch_size(m), **self.fixed, **trial["options"]}["batch_size"]
        )

    # -- to know again -------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """What every process that works at the study must be asked for alike."""
        wanted = self.wanted
        kept: tuple[str, ...] = (
            "seed",
            "held_out",
            "validation",
            "repeats",
            "choose_by",
            "pruning",
            "schedule",
        )
        kept = (*kept, "early_stopping", "scale", "scale_target")
        digest = hashlib.blake2b(digest_size=16)
        for X, y in ((self.X, self.y), (self.X_choice, self.y_choice)):
            digest.update(hashed(np.asarray(X)).tobytes())
            digest.update(json.dumps(np.asarray(y).tolist()).encode())
        found = {
            "data": self.data.name,
            "rows": digest.hexdigest(),
            "loss": self.loss,
            "epochs": self.epochs,
            **{name: getattr(wanted, name) for name in kept},
            "space": {row.name: row.plain() for row in self.dimensions},
            **({"layers": wanted.layers, "shape": self.shape} if self.shape else {}),
            **self.fixed,
        }
        return dict(
            json.loads(json.dumps(found, default=repr))
        )  # tuples as lists, as they come back


def differences(begun: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What a study was begun with and is not asked for now, in words."""
    found = []
    one, other = (record.get("layers", "dense") for record in (begun, asked))
    if one != other:
        return [f"layers {one}, not {other}"]
    for name in dict.fromkeys((*begun, *asked)):
        old, new = begun.get(name, "searched"), asked.get(name, "searched")
        if old == new or name == "data":
            continue
        if name == "rows":
            found.append(f"other rows (of {begun.get('data')})")
        elif name == "space":
            for row in dict.fromkeys((*old, *new)):
                if old.get(row) != new.get(row) and row in old and row in new:
                    found.append(f"{row} within {old[row]}, not {new[row]}")
        else:
            found.append(f"{name} {old}, not {new}")
    return found


# -- the callback --------------------------------------------------------------------


class Watch:
    """Reports a trial's epochs to Optuna, and ends it: pruned, out of time, or early.

    The default model is never pruned: others are to be better than it at its end.

    found  what is known of the trial: epochs after which it was best, loss and score then
    """

    def __init__(self, trial: Any, task: Task, deadline: float, every: int) -> None:
        self.trial, self.deadline, self.every = trial, deadline, every
        self.by, self.patience = task.wanted.choose_by, task.wanted.early_stopping
        self.last = task.epochs
        self.found: dict[str, Any] = {}
        self.pruned = False
        self.waited = 0

    @property
    def value(self) -> float:
        return float(self.found[self.by])

    def __call__(self, model: Any, epoch: Epoch) -> bool:
        loss = float(np.mean(epoch.validation_loss))
        score = float(np.mean(epoch.validation_score))
        now = {"epochs": epoch.epoch, "loss": loss, "score": score}
        better = "loss" not in self.found or loss < self.found["loss"]
        self.waited = 0 if better else self.waited + 1
        if better or self.patience is None:
            self.found |= now
        if time.monotonic() > self.deadline:
            raise OutOfTime
        if epoch.epoch % self.every == 0 and epoch.epoch < self.last:
            self.trial.report(self.value, epoch.epoch)
            self.pruned = bool(self.trial.should_prune()) and "usual" not in self.trial.user_attrs
        return self.pruned or (self.patience is not None and self.waited >= self.patience)
