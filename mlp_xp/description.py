"""What a model is, as plain data, which JSON can hold; `summary` has it in words.

    model       "MLP", or the estimator's class
    networks    how many of them
    layers      one row each: name, inputs, units, activation, normalization, dropout, skip,
                parameters; of a Sequential also its kind with its options, and its output's shape
    parameters, dtype, precision, density
    features    number, names, scaling: {"offset", "divisor"} of (x - offset) / divisor, or None;
                of a table also its columns: name, and what it becomes
    answers     kind of targets, number, names, classes, scaling
    training    optimizer, loss, epochs, steps, seed; of `mlp-xp train` also data, examples,
                schedule, batch_size, early_stopping, date; and until which step that holds
    scores      held_out or training as `mlp-xp train` measured it, and the step it is of;
                validation, of the last epoch

What nobody knows is None or not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .activations import ACTIVATIONS
from .losses import LOSSES

if TYPE_CHECKING:
    from .architecture import Architecture
    from .model import Model
    from .network import Network
    from .prepared import Preparation

Document: TypeAlias = dict[str, Any]

OUTPUTS = {
    "multiclass": "softmax",
    "binary": "sigmoid",
    "multilabel": "sigmoid",
    "count": "exp",
    "real": "identity",
}
NOTED = "trained"  # the entries of `MLP.metadata` that `mlp-xp train` writes
SCORED = "score"
KINDS: dict[str, type] = {
    "data": str,
    "examples": dict,
    "schedule": str,
    "batch_size": int,
    "early_stopping": int,
    "date": str,
}


def describe(model: Model) -> Document:
    """All that is known of a model."""
    network, config, prepared = model.network, model.config, model.preparation
    return {
        "model": type(model).__name__,
        "networks": len(model.seeds),
        "layers": model.layer_rows(),
        "parameters": network.n_parameters,
        "dtype": model.dtype,
        "precision": model.precision,
        "density": config["density"],
        **prepares(prepared, network.sizes, model.loss.kind),
        "training": {
            "optimizer": config["optimizer"],
            "loss": name_of(LOSSES, model.loss),
            "l2": model.l2,
            "label_smoothing": model.label_smoothing,
            "clip_norm": model.clip_norm,
            "clip_value": model.clip_value,
            "epochs": model.epochs_trained,
            "steps": model.steps_trained,
            "seed": config["seed"],
            **noted(model.metadata, model.steps_trained),
            **_curve(model.history),
        },
        "scores": scores(model),
    }


def dense(network: Network, kind: str) -> list[Document]:
    """The layers of an MLP whose loss is of this kind."""
    activations = [name_of(ACTIVATIONS, row) for row in network.activations]
    return layers(
        network.sizes,
        [*activations, OUTPUTS[kind]],
        network.normalization,
        network.dropout,
        network.residual,
        counts(network),
    )


def counts(network: Architecture) -> list[int]:
    """How many parameters each layer has."""
    found = [0] * (len(network.sizes) - 1)
    for slot in network.slots:
        found[slot.layer] += slot.stop - slot.start
    return found


def name_of(rows: Mapping[str, Any], row: Any) -> str:
    """Of a row of a table; "own" for one of the user's."""
    return next((name for name, value in rows.items() if value is row), "own")


def layers(
    sizes: Sequence[int],
    activations: Sequence[str],
    normalization: str,
    dropout: Sequence[float],
    residual: bool,
    counts: Sequence[int],
) -> list[Document]:
    """A row a layer, the output layer's last.

    activations, counts  one a layer; counts are of parameters
    dropout              one a hidden layer
    """
    last = len(sizes) - 2
    return [
        {
            "name": f"hidden {i + 1}" if i < last else "output",
            "inputs": n_in,
            "units": n_out,
            "activation": activations[i],
            "normalization": normalization if i < last else "none",
            "dropout": dropout[i] if i < last else 0.0,
            "skip": residual and i < last,
            "parameters": counts[i],
        }
        for i, (n_in, n_out) in enumerate(pairwise(sizes))
    ]


def prepares(prepared: Preparation | None, sizes: Sequence[int], kind: str) -> Document:
    """What a network with a `Preparation`, or None, is given and answers."""
    features: Document = {"number": sizes[0], "names": [], "scaling": None}
    answers: Document = {"kind": kind, "number": sizes[-1], "names": [], "classes": None}
    answers["scaling"] = None
    if prepared is not None:
        features["names"], features["scaling"] = list(prepared.features), _scale(prepared.inputs)
        if prepared.table is not None:
            columns = prepared.table.columns
            features["columns"] = [{"name": c.name, "becomes": str(c)} for c in columns]
        answers["names"], answers["scaling"] = list(prepared.target), _scale(prepared.outputs)
        answers["classes"] = None if prepared.classes is None else list(prepared.classes)
    return {"features": features, "answers": answers}


def _scale(scale: Any) -> Document | None:
    """None where numbers are taken as they are."""
    parts = {"offset": scale.offset, "divisor": scale.divisor}
    flat = {name: np.ravel(part).tolist() for name, part in parts.items()}
    return None if flat == {"offset": [0.0], "divisor": [1.0]} else parts


def _mapping(metadata: Mapping[str, Any], name: str) -> Document:
    """An entry that is ours: with the step up to which it holds."""
    found = metadata.get(name)
    ours = isinstance(found, Mapping) and isinstance(found.get("steps"), int)
    return dict(found) if ours and found is not None else {}


def noted(metadata: Mapping[str, Any], steps: int) -> Document:
    """What `mlp-xp train` wrote of a training, and until which step that is all."""
    found = _mapping(metadata, NOTED)
    kept = {
        name: found[name]
        for name, kind in KINDS.items()
        if name in found and (found[name] is None or isinstance(found[name], kind))
    }
    if not all(isinstance(n, int) for n in (kept.get("examples") or {}).values()):
        del kept["examples"]
    if found and found["steps"] != steps:
        kept["known_until_step"] = found["steps"]
    return kept


def scored(metadata: Mapping[str, Any]) -> Document:
    """The score that `mlp-xp train` measured."""
    found = _mapping(metadata, SCORED)
    on = found.pop("on", None)
    return {on: found} if on in ("held_out", "training") else {}


def _last(history: Mapping[str, Sequence[Any]], name: str) -> Any:
    values = history.get(name) or [None]
    return None if values[-1] is None else np.asarray(values[-1]).tolist()


def _curve(history: Mapping[str, Sequence[Any]]) -> Document:
    return {
        "final_loss": _last(history, "loss"),
        "final_rate": _last(history, "rate"),
        "seconds": _last(history, "seconds"),
    }


def scores(model: Model) -> Document:
    """As `mlp-xp train` measured it, and of the last epoch where that is another."""
    found = scored(model.metadata)
    sizes = noted(model.metadata, model.steps_trained).get("examples")
    twice = "held_out" in found and isinstance(sizes, Mapping) and not sizes.get("validation")
    if twice or "validation_loss" not in model.history:
        return found
    last = {name: _last(model.history, f"validation_{name}") for name in ("loss", "score")}
    return {**found, "validation": last}
