"""Trainings in TensorBoard, MLflow and Weights & Biases: a callback each.

    model.fit(X, y, callbacks=TensorBoard("runs/first"))
    MLPClassifier(callbacks=[MLflow()]).fit(X, y)

Each records loss, validation loss, validation score and learning rate of every epoch, under these
names; of several networks one of each, "loss/0", "loss/1". MLflow and W&B are told once how the
model was made. Every library is imported by the first epoch, not before. What one of them raises
ends the training, as of any callback.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np

from .extras import missing
from .fitting import Epoch
from .model import Model

RECORDED = ("loss", "validation_loss", "validation_score", "rate")


def library(name: str, extra: str) -> Any:
    """A module; ImportError with the cure where it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        raise missing(f"mlp_xp.trackers needs {extra}", extra, error) from None


def scalars(epoch: Epoch) -> dict[str, float]:
    """What is recorded of an epoch, by name."""
    found: dict[str, float] = {}
    for name in RECORDED:
        value = getattr(epoch, name)
        if value is None:
            continue
        if np.ndim(value) == 0:
            found[name] = float(value)
        else:
            found |= {f"{name}/{i}": float(part) for i, part in enumerate(value)}
    return found


def options(model: Any) -> dict[str, Any]:
    """How a model or an estimator was made: names of arguments, and plain values."""
    if isinstance(model, Model):
        given = {**model.config, "parameters": model.n_parameters}
    else:
        given = {k: v for k, v in model.get_params(deep=False).items() if k != "callbacks"}
    return {"model": type(model).__name__, **_flat(given)}


def _flat(given: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            simple = value is None or isinstance(value, bool | int | float | str)
            found[before + name] = value if simple else str(value)
    return found


class TensorBoard:
    """A callback that writes event files: `tensorboard --logdir FOLDER` shows them.

    folder  of one training; several lie side by side, "runs/a" and "runs/b"

    They are whole after every epoch. `close`, or the end of a `with`, lets go of the file; the
    next epoch begins another.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = str(folder)
        self._writer: Any = None

    def __call__(self, model: Any, epoch: Epoch) -> None:
        """Record an epoch."""
        if self._writer is None:
            self._writer = library("tensorboard.summary", "tensorboard").Writer(self.folder)
        for name, value in scalars(epoch).items():
            self._writer.add_scalar(name, value, epoch.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Let go of the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Without the file: scikit-learn's `clone` copies an estimator's callbacks."""
        return {**vars(self), "_writer": None}


class MLflow:
    """A callback that logs to MLflow's active run, or to a new one where there is none.

    Where runs are kept is MLflow's own: `mlflow.set_tracking_uri`, `set_experiment`.
    """

    def __init__(self) -> None:
        self._told = ""  # the run that knows how the model was made

    def __call__(self, model: Any, epoch: Epoch) -> None:
        """Record an epoch, and before the first of a run how the model was made."""
        mlflow = library("mlflow", "mlflow")
        run = (mlflow.active_run() or mlflow.start_run()).info.run_id
        if run != self._told:
            mlflow.log_params(options(model))
            self._told = run
        mlflow.log_metrics(scalars(epoch), step=epoch.epoch)


class WandB:
    """A callback that logs to the active run of Weights & Biases, or begins one.

    options  of `wandb.init` where it begins one: project, name, mode="offline" …

    `wandb.finish()` ends the run, as does the end of the process.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self._told = ""

    def __call__(self, model: Any, epoch: Epoch) -> None:
        """Record an epoch, and before the first of a run how the model was made."""
        wandb = library("wandb", "wandb")
        run = wandb.run or wandb.init(**self.options)
        if run.id != self._told:
            run.config.update(options(model))
            run.define_metric("*", step_metric="epoch")
            self._told = run.id
        run.log({**scalars(epoch), "epoch": epoch.epoch})


def mlflow_autolog(*, disable: bool = False, silent: bool = False, log_models: bool = True) -> None:
    """Have MLflow log every `fit` from now on, without a word in the program.

    disable     end that
    silent      say nothing of what goes wrong in logging
    log_models  keep the trained model as the run's artifact model.safetensors, which `load` reads

    A `fit` is logged to the active run, or to a run of its own, with the arguments of the model
    and of `fit`, the metrics of every epoch, and the final loss where a solver has no epochs. By
    MLflow's own hooks for such integrations; an error of logging is a warning, and the training
    goes on. A `partial_fit` is not logged.
    """
    mlflow = library("mlflow", "mlflow")
    hooks = library("mlflow.utils.autologging_utils", "mlflow")
    from .estimators.base import BaseMLP

    @contextmanager
    def spared() -> Iterator[None]:
        """Errors become warnings."""
        try:
            yield
        except Exception as error:
            if not hooks.get_autologging_config(NAME, "silent", False):
                warnings.warn(f"MLflow does not log all of this fit: {error}", stacklevel=3)

    def logged(original: Callable[..., Any], self: Any, *args: Any, **given: Any) -> Any:
        """`fit`, with a callback more."""
        tracker = MLflow()
        failed = True  # while an epoch is logged, and from its failure on

        def callback(model: Any, epoch: Epoch) -> None:
            nonlocal failed
            if failed:
                return
            failed = True
            with spared():
                tracker(model, epoch)
                failed = False

        with spared():
            mlflow.log_params(_flat({f"fit.{k}": v for k, v in given.items() if k in FIT}))
            failed = False
        if isinstance(self, Model):
            found = original(self, *args, **{**given, "callbacks": _more(given, callback)})
        else:
            before = self.callbacks
            self.callbacks = _more({"callbacks": before}, callback)
            try:
                found = original(self, *args, **given)
            finally:
                self.callbacks = before
        with spared(), tempfile.TemporaryDirectory() as folder:
            if getattr(self, "solver", None) == "lbfgs":
                mlflow.log_params(options(self))
                mlflow.log_metric("loss", self.loss_)
            if hooks.get_autologging_config(NAME, "log_models", True):
                path = Path(folder) / "model.safetensors"
                self.save(path)
                mlflow.log_artifact(str(path))
        return found

    @hooks.autologging_integration(NAME)  # type: ignore[untyped-decorator]
    def autolog(disable: bool = False, silent: bool = False, log_models: bool = True) -> None:
        for kind in (Model, BaseMLP):  # the estimators of layers fit a model
            hooks.safe_patch(NAME, kind, "fit", logged, manage_run=True)

    autolog(disable=disable, silent=silent, log_models=log_models)


NAME = "mlp_xp"
FIT = ("epochs", "batch_size", "schedule", "early_stopping", "shuffle")  # arguments that are logged


def _more(given: Mapping[str, Any], callback: Callable[..., Any]) -> list[Any]:
    before = given.get("callbacks") or ()
    return [before, callback] if callable(before) else [*before, callback]


__all__ = ["MLflow", "TensorBoard", "WandB", "mlflow_autolog"]
