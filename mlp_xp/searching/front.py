"""Search for an architecture and its hyper-parameters, by Optuna.

Everything that a search is made of is Optuna's: the sampler (tree-structured Parzen estimator),
the pruner (successive halving), the storage, by which a search survives its process and several
processes work at one. What is here is what they work on:

    train     rows a trial learns from
    choose    rows by which trials are compared, after every few epochs and at their end
    held out  rows that nothing looks at before the best trial's model is done

The first trial is the library's default model, or the recipe of a family of layers, so that the
choice departs from it only for something better. The best trial is trained again on the rows to
train on and those to choose by, as `mlp-xp train` with its options would: to the same weights.
"""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .. import checks
from ..data import Dataset, Request, finite_numbers, load
from ..defaults import DEFAULT_SCHEDULE
from ..description import NOTED, SCORED
from ..exchange import hosted, unmasked
from ..extras import missing
from ..fingerprint import Fingerprint
from ..model import Model
from ..preparation import Examples
from ..readers import DataError, Rows, names_in
from ..scoring import judge
from ..tables import of_frame
from ..tally import numbers_of
from .space import arguments
from .study import RECORD, Study, quiet
from .task import TRIALS, VALIDATION, Task, Wanted

STORAGE = "search.db"
GAPS = ("None", "nan", "NaN", "<NA>", "NaT")  # what stands in an array for no value, as text


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with the trials that are kept."""

    def __init__(self, message: str, trials: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.trials = trials


# -- the result ----------------------------------------------------------------------


class Search(NamedTuple):
    """What a search has found.

    study      Optuna's, with everything that it can do
    best       number, value, options and the like of the best trial: a row of `trials`
    trials     a row for each trial that ended, in their order: see `rows`
    model      trained with the best trial's options on the rows to train on and to choose by
    held_out   its score on rows that nothing was chosen by, as `scoring.judge` gives it; None
               where none are held out
    examples   how many rows are in each part
    place      where the study lies
    choose_by  what trials are compared by
    """

    study: Any
    best: dict[str, Any]
    trials: list[dict[str, Any]]
    model: Model
    held_out: dict[str, Any] | None
    examples: dict[str, int]
    place: str
    choose_by: str = "score"

    def table(self) -> str:
        """The trials as lines of text, the best first."""
        return table(self.trials, self.choose_by)

    def plots(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Optuna's pictures of the study, as PNG files in a folder."""
        return plots(self.study, folder)


def rows(study: Any, task: Task) -> list[dict[str, Any]]:
    """What became of each trial of a study that ended, in their order.

    number      in the study
    state       "complete", "pruned", "diverged", "out of memory" or "score not finite"
    value       what trials are compared by; None where it was broken off
    loss, score on the rows to choose by, means over a trial's networks
    epochs      after which they were measured
    seconds     that it took
    parameters  of one network
    options     that were searched, as options of a model and its training
    choices     that its layers were made of, by the names of dimensions; {} of a dense network
    """
    found = []
    inside = [row.name for row in task.family.rows if task.shape]
    for trial in study.get_trials(deepcopy=False):
        known = trial.user_attrs.get("found")
        if known is None or trial.state.name not in ("COMPLETE", "PRUNED"):
            continue
        options = task.options(trial.params, known.get("learning_rate"))
        found.append(
            {
                "number": trial.number,
                "state": known["why"] or trial.state.name.lower(),
                "value": trial.value if trial.state.name == "COMPLETE" else None,
                "usual": bool(trial.user_attrs.get("usual")),
                **{key: known.get(key) for key in ("loss", "score", "epochs", "seconds")},
                "parameters": known.get("parameters"),
                "options": options,
                "choices": arguments({n: trial.params[n] for n in inside if n in trial.params}),
            }
        )
    return found


def _better_first(choose_by: str) -> Callable[[dict[str, Any]], tuple[bool, float]]:
    sign = 1 if choose_by == "loss" else -1

    def key(row: dict[str, Any]) -> tuple[bool, float]:
        value = row[choose_by]
        return row["value"] is None, math.inf if value is None else sign * value

    return key


def table(trials: Sequence[Mapping[str, Any]], choose_by: str) -> str:
    """Trials as lines of text: complete ones first, the best at the top."""
    ordered = sorted(map(dict, trials), key=_better_first(choose_by))
    for row in ordered:  # what a line of layers is made of is shorter than the line
        choices = row.get("choices", {})
        told = {name: v for name, v in row["options"].items() if name != "layers" or not choices}
        row["options"] = {**choices, **told}
    options = list(dict.fromkeys(name for row in ordered for name in row["options"]))
    head = ["trial", "state", "loss", "score", "epochs", "seconds", *map(_titled, options)]
    lines = [head]
    for row in ordered:
        number = f"{row['number']}{'*' if row['usual'] else ''}"
        numbers = [_cell(row[key]) for key in ("loss", "score", "epochs", "seconds")]
        values = [_cell(row["options"].get(name)) for name in options]
        lines.append([number, row["state"], *numbers, *values])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    if any(row["usual"] for row in ordered):
        text.append("* all that is searched at its default")
    return "\n".join(text)


def _titled(option: str) -> str:
    short = {"learning_rate": "rate", "batch_size": "batch", "weight_decay": "decay"}
    return short.get(option, option)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return "-".join(map(str, value)) or "none"
    return "" if value is None else str(value)


PLOTS = {
    "history": "plot_optimization_history",
    "importances": "plot_param_importances",
    "slices": "plot_slice",
    "epochs": "plot_intermediate_values",
}


def plots(study: Any, folder: str | os.PathLike[str]) -> list[Path]:
    """Optuna's pictures of a study; those that its trials are too few for are left out."""
    check_plots()
    target, made = Path(folder), []
    target.mkdir(parents=True, exist_ok=True)
    with quiet() as optuna, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of matplotlib: axes that many points crowd
        from matplotlib import pyplot
        from optuna.visualization import matplotlib as drawing

        measured = f"{study.user_attrs[RECORD]['choose_by']} on the rows to choose by"
        states = [trial.state for trial in study.get_trials(deepcopy=False)]
        complete = states.count(optuna.trial.TrialState.COMPLETE)
        for name, function in PLOTS.items():
            if name == "importances" and complete < 2:
                continue
            axes = np.atleast_1d(getattr(drawing, function)(study)).reshape(-1)
            figure = axes[0].figure
            if name == "slices":
                figure.set_size_inches(3 * max(1, len(figure.axes)), 4)
            if name == "epochs":  # a legend of all trials would be longer than the picture
                figure.set_size_inches(8, 5)
                if (legend := axes[0].get_legend()) is not None:
                    legend.remove()
                axes[0].set_xlabel("epoch")
            if name != "importances":
                axes[0].set_ylabel(measured)
            place = target / f"{name}.png"
            figure.savefig(place, dpi=120, bbox_inches="tight")
            pyplot.close(figure)
            made.append(place)
    return made


def check_plots() -> None:
    """Raise ImportError where there is nothing to draw with."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise missing("Optuna's plots need matplotlib", "search", error) from None


# -- the front -----------------------------------------------------------------------


def search(
    data: Any = "digits",
    y: Any = None,
    *,
    target: str | Sequence[str] = (),
    layout: checks.Layout | None = None,
    layers: str = "dense",
    shape: Sequence[int] | None = None,
    trials: int = TRIALS,
    storage: Any = STORAGE,
    study: str | None = None,
    seconds: float | None = None,
    space: Mapping[str, Any] | None = None,
    seed: int = 0,
    held_out: float = 0.2,
    validation: float = VALIDATION,
    epochs: int | None = None,
    repeats: int = 1,
    choose_by: str = "score",
    pruning: str = "halving",
    schedule: str = DEFAULT_SCHEDULE,
    early_stopping: int | None = None,
    scale: str = "auto",
    scale_target: bool = True,
    keep: str | Sequence[str] = (),
    device: str = "cpu",
    progress: bool = True,
    **fixed: Any,
) -> Search:
    """Search for a network and how to train it; what `mlp-xp search` does.

    data       name of a set or of a file, as `mlp-xp train --data` takes it; what `load_table`
               gives; or X
    y          targets of X; layout says how X lies, as everywhere
    target     a file's columns to predict
    layers     the family of networks: "dense", "conv", "recurrent" or "temporal"
    shape      of one example, for all but dense ones: (channels, height, width) or
               (features, time). Digits, Fashion-MNIST and files of images know it, and so does
               an X of more than two axes, (m, *shape) with layout="rows"; sequence networks read
               an image column by column
    trials     of the study in all: the same call again adds what is missing
    storage    name of an SQLite file; an address that Optuna knows; Optuna's storage; None keeps
               nothing. Several processes, on several machines, may work at one study
    study      its name there; None takes that of the data and of the family
    seconds    after which no epoch is begun; a trial that is broken off is run again next time
    space      limits of what is searched: {"width": (16, 128), "activation": ["relu", "tanh"]};
               `space.DIMENSIONS` has all names, and `families.FAMILIES` those of other families
    seed       of split, trials and model
    held_out, validation, epochs, repeats, choose_by, pruning, schedule, early_stopping
               see `Wanted`
    progress   a line on standard error for each trial
    fixed      options of `MLP`, `hidden` and `batch_size`: these are not searched

    Raises ValueError for a study that was begun for something else; ImportError without the
    extra [search]; `Interrupted`, a KeyboardInterrupt, at Ctrl-C, after which the study has all
    trials that ended, and the same call goes on.
    """
    if not isinstance(space or {}, Mapping):
        raise TypeError(
            f"space is {space!r}, but expected limits by names, such as {{'width': (16, 128)}}."
        )
    wanted = Wanted(
        trials=trials,
        layers=layers,
        shape=shape,
        fixed=fixed,
        limits=dict(space or {}),
        seed=seed,
        held_out=held_out,
        validation=validation,
        epochs=epochs,
        repeats=repeats,
        choose_by=choose_by,
        pruning=pruning,
        schedule=schedule,
        early_stopping=early_stopping,
        scale=scale,
        scale_target=scale_target,
        keep=names_in("keep", keep),
        device=device,
    )
    task = Task(_dataset(data, y, names_in("target", target), layout, layers), wanted)
    task.check()

    def say(text: str) -> None:
        if progress:
            print(text, file=sys.stderr, flush=True)

    return run(task, storage, study, seconds, say)


def _targets(y: Any) -> Rows:
    """Targets as an array without gaps: as text a gap would be one more class."""
    unmasked("y", y)
    found = np.asarray(y.to_numpy() if hasattr(y, "to_numpy") else hosted("y", y))
    if found.dtype.kind in "fc":
        return finite_numbers("y", found)
    if found.dtype != object:
        return found
    for i, value in enumerate(found.reshape(-1)):
        if not isinstance(value, str) and str(value) in GAPS:
            raise DataError(
                f"y holds {value} at {i}, but expected a target for every example. "
                "Leave such examples out."
            )
    return found.astype(str)


def _dataset(
    data: Any,
    y: Any,
    target: tuple[str, ...],
    layout: checks.Layout | None,
    layers: str = "dense",
) -> Dataset:
    """Examples as rows, wherever they come from."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | os.PathLike):
        return load(os.fspath(data), Request(target=target))
    if y is None:
        raise ValueError("y is missing: X comes with targets, or a file's name without.")
    lies = checks.layout(data, layout, None)
    labels = _targets(y)
    if checks.is_frame(data):
        frame = of_frame("X", data)
        return Dataset("X", frame, labels, features=tuple(map(str, frame.columns)), table=frame)
    unmasked("X", data)
    X = finite_numbers("X", np.asarray(hosted("X", data)))
    if lies is None and X.ndim == 2 and X.shape[0] == X.shape[1]:
        raise ValueError(
            f"X has shape {X.shape}, which does not show which way it lies: say layout='rows' or "
            "layout='columns'."
        )
    inner: tuple[int, ...] = ()
    if X.ndim > 2 and layers == "dense":
        raise ValueError(
            f"X has shape {X.shape}, but dense networks take a table of features: reshape it, or "
            "say layers='conv', 'recurrent' or 'temporal', which read examples of such a shape."
        )
    if X.ndim > 2:  # examples of some shape as rows
        inner = X.shape[1:] if lies == "rows" else X.shape[:-1]
        X = X.reshape((len(X), -1) if lies == "rows" else (-1, X.shape[-1]))
    if lies != "rows":
        X, labels = X.T, labels.T
    if len(labels) == 1 and labels.ndim == 2:
        labels = labels[0]
    elif labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if X.ndim != 2 or len(X) != len(labels):
        raise ValueError(
            f"X has {len(X)} examples, but y has {len(labels)}. Are your examples rows? Say "
            "layout='rows'."
        )
    return Dataset("X", X, labels, shape=inner)


def run(
    task: Task, storage: Any, name: str | None, seconds: float | None, say: Callable[[str], None]
) -> Search:
    """A search whose task is made: see `search`."""
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    with quiet() as optuna:
        worker = Study(optuna, task, storage, name or task.name, say)
        study = worker.study
        try:
            worker.work(deadline)
            best = _best(worker, seconds)
            model, examples = task.refitted(best)
        except KeyboardInterrupt:
            _interrupted(worker)
        trials = rows(study, task)
    held = _sign(model, examples, task, best, study.study_name, len(trials))
    where, choose_by = worker.place, task.wanted.choose_by
    return Search(study, best, trials, model, held, task.sizes, where, choose_by)


def _best(worker: Study, seconds: float | None) -> dict[str, Any]:
    trials = rows(worker.study, worker.task)
    if not any(row["value"] is not None for row in trials):
        why = "all of them diverged" if trials else f"none was within {seconds:g} seconds"
        raise ValueError(
            f"no trial of study {worker.study.study_name!r} has ended: {why}. The same again "
            "goes on with it; lower rates, say, come by a space of rate_factor=0.01..1."
        )
    number = worker.study.best_trial.number
    return next(row for row in trials if row["number"] == number)


def _interrupted(worker: Study) -> NoReturn:
    trials = rows(worker.study, worker.task)
    wanted, where = worker.task.wanted.trials, worker.place
    message = f"interrupted: {len(trials)} of {wanted} trials have ended"
    if where != "memory":
        message += (
            f" and are kept in {where} (study {worker.study.study_name!r}); the same again goes on"
        )
    raise Interrupted(message, trials) from None


def _sign(
    model: Model, examples: Examples, task: Task, best: Mapping[str, Any], name: str, n: int
) -> dict[str, Any] | None:
    """Let a model know where it comes from, what it has seen and how it does on other rows.

    As `mlp-xp train` does. Returns the score on the rows held out.
    """
    data, wanted, steps = task.data, task.wanted, model.steps_trained
    seen = Fingerprint.of(numbers_of(model, examples.X))
    model.metadata = {
        "data": data.name,
        "split": {
            "seed": wanted.seed,
            "held_out": 0.0 if data.X_test is not None else wanted.held_out,
            "validation": 0.0,
            "examples": len(data.X),
        },
        "search": {
            "study": name,
            "trials": n,
            "trial": best["number"],
            "choose_by": wanted.choose_by,
            "validation": wanted.validation,
            "repeats": wanted.repeats,
            **{key: best[key] for key in ("loss", "score", "epochs", "options")},
        },
        "fingerprint": {"rows": str(seen), "steps": steps},
        NOTED: {
            "data": data.name,
            "examples": examples.sizes,
            "schedule": wanted.schedule,
            "batch_size": task.final_batch_size(best),
            "early_stopping": None,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "steps": steps,
        },
    }
    if not len(examples.X_held):
        return None
    found = judge(model, examples.X_held, examples.y_held)
    long = ("classes", "confused", "unseen")
    kept = {key: value for key, value in found.items() if key not in long}
    model.metadata[SCORED] = {"on": "held_out", "data": data.name, **kept, "steps": steps}
    return found
