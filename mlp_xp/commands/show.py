"""`mlp-xp show`: what a model's file holds, in words or as a JSON document.

An estimator's file is described from what stands in it, without scikit-learn.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .. import storage
from ..description import OUTPUTS, describe, layers, noted, prepares, scored
from ..headers import parsed
from ..model import Model
from ..prepared import Preparation
from ..storage import EstimatorFileError, ModelFileError
from ..summary import as_text
from .common import Arguments, say

KINDS = {"multiclass": "multiclass", "binary": "binary", "multilabel-indicator": "multilabel"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL."""
    parser.add_argument("model", metavar="MODEL", help="file of a model")


def show(args: Arguments) -> dict[str, Any]:
    """Describe a file."""
    try:
        found = describe(Model.load(args.model))
    except EstimatorFileError:
        found = of_estimator(args.model)
    say(args, as_text(found))
    return {"file": args.model, **found}


def of_estimator(path: str) -> dict[str, Any]:
    """`describe` of an estimator's file."""
    header, tensors = storage.read(path)
    values = parsed(path, header)
    try:
        return _described(values, {name: T.shape for name, T in tensors.items()}, tensors["W1"])
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelFileError(
            f"{path} describes an estimator that this mlp_xp does not know ({error!r}): expected "
            "one of its own. Use the release of mlp_xp that wrote it."
        ) from None


def _described(
    values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], first: Any
) -> dict[str, Any]:
    config, facts, curves = values["config"], values["metadata"], values["history"]
    given = config["parameters"]
    n = facts["n_layers_"] - 1
    sizes = [shapes["W1"][1], *(shapes[f"W{i + 1}"][0] for i in range(n))]
    kind = _kind(facts)
    chosen = _plain(given["activation"])
    hidden = chosen if isinstance(chosen, list) else [chosen] * (n - 1)
    rates = _plain(given.get("dropout", 0.0))
    dropout = rates if isinstance(rates, list) else [rates] * (n - 1)
    parts = ("W", "b", "gain", "P")
    counts = [
        sum(int(np.prod(shapes[f"{part}{i + 1}"])) for part in parts if f"{part}{i + 1}" in shapes)
        for i in range(n)
    ]
    steps = facts.get("_steps", values["step"])
    metadata = facts.get("metadata_", {})
    return {
        "model": config["estimator"],
        "networks": 1,
        "layers": layers(
            sizes,
            [*map(str, hidden), OUTPUTS[kind]],
            given.get("normalization", "none"),
            dropout,
            bool(given.get("residual", False)),
            counts,
        ),
        "parameters": sum(counts),
        "dtype": str(first.dtype),
        "precision": given.get("precision", "float32"),
        "density": 1.0,
        **prepares(_preparation(facts, kind), sizes, kind),
        "training": {
            "optimizer": _optimizer(given),
            "loss": _plain(given.get("loss", "squared_error")),
            "alpha": given.get("alpha"),
            "label_smoothing": given.get("label_smoothing", 0.0),
            "clip_norm": given.get("clip_norm"),
            "clip_value": given.get("clip_value"),
            "class_weight": _plain(given.get("class_weight")),
            "epochs": facts["n_iter_"],
            "steps": steps,
            "seed": given.get("random_state"),
            **_chosen(given),
            **noted(metadata, steps),
            "final_loss": (curves.get("loss_curve_") or [facts.get("loss_")])[-1],
        },
        "scores": {**scored(metadata), **_validation(curves, facts)},
    }


def _plain(value: Any) -> Any:
    """A parameter as `estimators.keeping` writes it, in words and numbers."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tuple":
        return [_plain(part) for part in content]
    if kind == "dict":
        return {str(_plain(key)): _plain(part) for key, part in content}
    name, parts = content
    return {"name": name.lower(), **{key: _plain(part) for key, part in parts.items()}}


def _kind(facts: Mapping[str, Any]) -> str:
    """Of the targets."""
    if "targets" in facts:
        return KINDS.get(facts["targets"]["y_type_"], "binary")
    return "count" if facts["out_activation_"] == "exp" else "real"


def _preparation(facts: Mapping[str, Any], kind: str) -> Preparation:
    """What is done to examples and answers: nothing, but that classes have names."""
    stored = facts.get("preparation")
    found = Preparation("") if stored is None else Preparation.from_json(stored)
    classes = found.classes
    if kind in ("multiclass", "binary"):
        classes = tuple(facts["classes"]["values"])
    features = tuple(facts.get("feature_names_in_", found.features))
    return replace(found, classes=classes, features=features)


def _optimizer(given: Mapping[str, Any]) -> dict[str, Any]:
    """Name and rate, whether it was given as a word or as an `Optimizer`."""
    solver = _plain(given["solver"])
    if isinstance(solver, dict):
        return solver
    rate = None if solver == "lbfgs" else given.get("learning_rate_init")
    return {"name": solver, "rate": rate}


def _chosen(given: Mapping[str, Any]) -> dict[str, Any]:
    """What else was chosen of the training."""
    schedule = _plain(given.get("learning_rate"))
    patience = given.get("n_iter_no_change") if given.get("early_stopping") else None
    return {
        "schedule": schedule["name"] if isinstance(schedule, dict) else schedule,
        "batch_size": given.get("batch_size"),
        "early_stopping": patience,
    }


def _validation(curves: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The last score of examples that were set aside, and the best, which the weights are of."""
    names = {"loss": "validation_loss_curve_", "score": "validation_scores_"}
    found = {key: curves[name][-1] for key, name in names.items() if curves.get(name)}
    if not found:
        return {}
    return {"validation": {**found, "best_score": facts.get("best_validation_score_")}}
