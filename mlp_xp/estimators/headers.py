"""What the header of an estimator's file may say: checked before it is believed.

As `headers` for `MLP`: a right checksum proves that a file is as it was written, not that
it was written by us.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import checks
from ..checkpoints import plateau_of
from ..fitting import Plan, Rates
from ..headers import (
    MISUSED,
    ModelFileError,
    Path,
    check_finite,
    check_shape,
    check_sizes,
    count,
    mapping,
    number,
    preparation,
    refusal,
)
from ..network import Network
from ..optimizers import Optimizer
from ..schedules import Schedule
from .arrays import HOST
from .recipe import network_of, optimizer_of, recipe_of, schedule_of

Tensors = Mapping[str, Any]

LARGE = 2**26  # bytes of the names of classes
Y_TYPES = ("binary", "multiclass", "multilabel-indicator")


def _bool(value: Any) -> bool:
    return isinstance(value, bool)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


# of the fitted attributes that are no counters: what they are, and in words
FACTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "out_activation_": (_text, "a name"),
    "loss_": (_or_none(number), "a number"),
    "best_loss_": (_or_none(number), "a number or null"),
    "best_validation_score_": (_or_none(number), "a number or null"),
    "stopped_": (_bool, "true or false"),
    "learning_rate": (number, "a number"),
    "metadata_": (lambda value: isinstance(value, dict), "names and values"),
}
COUNTERS = (
    "n_iter_",
    "t_",
    "n_layers_",
    "n_outputs_",
    "n_features_in_",
    "_no_improvement_count",
    "_dropout_seed",
    "_steps",
)
CURVES = ("loss_curve_", "validation_scores_", "validation_loss_curve_")
PROGRESS = ("t_", "_no_improvement_count", "best_loss_", "best_validation_score_")
NEEDED = ("n_layers_", "n_outputs_", "n_features_in_", "n_iter_")
# these have checks of their own
OTHERS = ("began", "rates", "classes", "targets", "feature_names_in_", "preparation")


def check_facts(path: Path, facts: Mapping[str, Any], classifies: bool) -> None:
    """What is fitted beside the arrays; raises `ModelFileError`."""

    def field(name: str) -> str:
        return f"metadata[{name!r}]"

    for name, value in facts.items():
        if name in COUNTERS:
            count(path, field(name), value)
        elif name in FACTS:
            fits, words = FACTS[name]
            if not fits(value):
                raise refusal(path, field(name), value, words)
        elif name not in OTHERS:
            raise refusal(path, "metadata", name, "attributes that this mlp_xp knows")
    needed = [*NEEDED, *(["classes", "targets"] if classifies else [])]
    missing = [name for name in needed if name not in facts]
    if missing:
        raise ModelFileError(f"{path} is incomplete: its metadata lack {', '.join(missing)}.")
    if ("learning_rate" in facts) != ("began" in facts):
        raise refusal(path, "metadata", sorted(facts), "'learning_rate' and 'began' together")
    if facts.get("began") is not None:
        count(path, field("began"), facts["began"])
    names = facts.get("feature_names_in_")
    if names is not None:
        texts = isinstance(names, list) and all(map(_text, names))
        if not texts or len(names) != facts["n_features_in_"]:
            raise refusal(path, field("feature_names_in_"), names, "a name for each feature")
    if classifies:
        _check_classes(path, facts)
    elif "classes" in facts:
        raise refusal(path, field("classes"), facts["classes"], "none for a regressor")


def check_progress(path: Path, facts: Mapping[str, Any], curves: Mapping[str, Any]) -> None:
    """What a stochastic solver goes on from."""
    for name, value in curves.items():
        if name not in CURVES:
            raise refusal(path, "history", name, f"no curves but {', '.join(CURVES)}")
        if value is None and name != "validation_scores_":
            raise refusal(path, f"history[{name!r}]", None, "a list of numbers")
    if "learning_rate" not in facts:
        return
    missing = [name for name in PROGRESS if name not in facts]
    missing += [name for name in CURVES[:2] if name not in curves]
    if missing:
        raise ModelFileError(f"{path} is incomplete: its header lacks {', '.join(missing)}.")
    watched = "best_loss_" if curves["validation_scores_"] is None else "best_validation_score_"
    if facts[watched] is None:
        raise refusal(path, f"metadata[{watched!r}]", None, "a number")


def rates_of(path: Path, stored: Any, schedule: Schedule | None) -> Rates:
    """How the calls of `partial_fit` go on with a schedule of the core."""
    field = "metadata['rates']"
    parts = mapping(path, field, stored)
    base: Any = parts.get("base")
    if schedule is None or not number(base) or not 0 < base < float("inf"):
        raise refusal(path, field, stored, "the rate that a schedule of the core multiplies")
    counts = [parts.get(name) for name in ("epochs", "steps_per_epoch")]
    epochs, steps = (count(path, field, value) for value in counts)
    if not epochs * steps:
        raise refusal(path, field, stored, "one epoch of one step, at least")
    rates = Rates(base, Plan(epochs, 1, (0,), (), schedule), steps)
    if rates.plateau is not None:
        stored, where = parts.get("plateau"), f"{field}['plateau']"
        rates.plateau = plateau_of(pathlib.Path(path), stored, 1, schedule, where)
    return rates


def _check_classes(path: Path, facts: Mapping[str, Any]) -> None:
    targets = mapping(path, "metadata['targets']", facts["targets"])
    if set(targets) != {"y_type_", "sparse_input_"} or not _bool(targets["sparse_input_"]):
        raise refusal(path, "metadata['targets']", targets, "y_type_ and sparse_input_")
    if targets["y_type_"] not in Y_TYPES:
        raise refusal(path, "metadata['targets']['y_type_']", targets["y_type_"], str(Y_TYPES))
    kept = mapping(path, "metadata['classes']", facts["classes"])
    try:
        dtype, values = np.dtype(str(kept["dtype"])), kept["values"]
        if not isinstance(values, list) or dtype.itemsize * len(values) > LARGE:
            raise ValueError("too large")
        classes = np.array(values, dtype=dtype)
        kinds = {type(value) for value in values}
        fitting = {"U": {str}, "O": {str}}.get(dtype.kind, {bool, int, float})
        known = dtype.kind in "biufUO" and kinds <= fitting
        known = known and classes.ndim == 1 and classes.tolist() == values
        known = known and np.array_equal(np.unique(classes), classes)
    except MISUSED:
        known, values = False, []
    n = len(values)
    expected = {"binary": n in (1, 2) and facts["n_outputs_"] == 1}
    fits = expected.get(targets["y_type_"], n == facts["n_outputs_"])
    if not known or not fits:
        raise refusal(path, "metadata['classes']", kept, "the classes in order, one an output")


def check_parameters(path: Path, est: Any) -> None:
    """That the parameters are such as `fit` takes."""
    try:
        est._validate_params()
        parameters = est._parameters()
        if isinstance(est.solver, Optimizer):
            checks.optimizer(est.solver)
        elif est.solver != "lbfgs":
            checks.optimizer(optimizer_of(parameters))
        schedule = schedule_of(parameters)
        if schedule is not None:
            checks.schedule(schedule)
        weights = getattr(est, "class_weight", None)
        if isinstance(weights, dict):
            for name, weight in weights.items():
                checks.number(f"class_weight[{name!r}]", weight, 0, np.inf)
    except MISUSED as error:
        raise ModelFileError(
            f"{path} has parameters that this mlp_xp cannot read: {str(error)[:500]}"
        ) from None


def check_model(path: Path, est: Any, facts: Mapping[str, Any], tensors: Tensors) -> None:
    """That all that was read belongs to one model: sizes, tensors, loss, solver."""
    try:
        sizes = [facts["n_features_in_"], *est._hidden_sizes(), facts["n_outputs_"]]
        check_sizes(path, {"sizes": sizes, "seed": 0}, tensors)
        if facts["n_layers_"] != len(sizes):
            raise refusal(path, "metadata['n_layers_']", facts["n_layers_"], str(len(sizes)))
        parameters, dtype = est._parameters(), str(tensors["W1"].dtype)
        if dtype not in checks.DTYPES:
            raise refusal(path, "dtype", dtype, " or ".join(checks.DTYPES))
        network = network_of(parameters, sizes)
        loss = est._loss(est._kind(), est.n_outputs_)
        recipe = recipe_of(parameters, network, loss, HOST, dtype)
        n_moments = recipe.optimizer.n_moments if "learning_rate" in facts else 0
        check_tensors(path, network, n_moments, tensors, dtype)
        known = set(est._label_binarizer.classes_.tolist()) if "classes" in facts else set()
        weights = getattr(est, "class_weight", None)
        if isinstance(weights, dict) and not set(weights) <= known:
            raise refusal(path, "class_weight", weights, "weights of its classes")
        goes_on = "preparation" not in facts  # what came from an `MLP` predicts only
        if goes_on and network.n_dropped and "_dropout_seed" not in facts:
            raise ModelFileError(f"{path} is incomplete: its metadata lack _dropout_seed.")
        if est.solver == "lbfgs":
            est._check_deterministic(network)
        if "preparation" in facts:
            found = preparation(path, facts["preparation"], dtype, loss.kind)
            found.check(sizes, dtype, loss.kind)
    except ModelFileError:
        raise
    except MISUSED as error:
        raise ModelFileError(
            f"{path} describes a model that cannot be built here: {str(error)[:500]}"
        ) from None


def check_tensors(
    path: Path, network: Network, n_moments: int, tensors: Tensors, dtype: str
) -> None:
    """That there are those of a network, in its dtype, and no others."""
    n = network.n_parameters
    shapes: dict[str, tuple[int, ...]] = {slot.name: slot.shape for slot in network.slots}
    shapes |= {f"moment{i + 1}": (n,) for i in range(n_moments)}
    if network.n_statistics:
        shapes["running"] = (network.n_statistics,)
    if "best" in tensors or "best_running" in tensors:
        shapes |= {"best": (n,), "best_running": (network.n_statistics,)}
    for name, shape in shapes.items():
        if str(check_shape(path, tensors, name, shape).dtype) != dtype:
            raise refusal(path, f"tensor {name}", tensors[name].dtype, dtype)
    more = sorted(set(tensors) - set(shapes))
    if more:
        raise refusal(path, "list of tensors", more, "none beside those of its config")
    check_finite(path, tensors)


__all__ = [
    "check_facts",
    "check_model",
    "check_parameters",
    "check_progress",
    "check_tensors",
    "rates_of",
]
