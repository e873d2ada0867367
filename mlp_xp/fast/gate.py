"""What a fast path takes: dense networks, described by fields that it reads. The rest is SPEC's.

A fast path writes a step or a prediction down from a description. A field that it does not
read, or a network that is no `Network`, would make it compute something else in silence: so
each says what it reads, and for a description with more in it gives None, upon which the
specification does the work. Whoever adds a field adds its name to `READ` when all of these
paths read it, or to `TAKES` of one that does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeAlias

from ..activations import Activation
from ..losses import Loss
from ..network import Network
from ..optimizers import Optimizer
from ..training import Data, Recipe

Reads: TypeAlias = Mapping[type, frozenset[str]]

# by class, the fields that are read, or rightly not looked at: a prediction needs no optimiser
READ: Reads = {
    Network: frozenset({"sizes", "activations", "dropout", "normalization", "residual", "density"}),
    Recipe: frozenset(
        {
            "network",
            "loss",
            "optimizer",
            "kernels",
            "decayed",
            "connected",
            "classes",
            "l2",
            "l2_shared",
            "label_smoothing",
            "clip_norm",
            "clip_value",
            "precision",
        }
    ),
    Data: frozenset({"rows", "targets", "weights"}),
    Loss: frozenset({"value", "delta", "predict", "kind", "report"}),
    Activation: frozenset({"f", "slope", "slope_of"}),
    Optimizer: frozenset({"rate", "weight_decay"}),  # of a row's own its formula tells
}


def named(kind: type) -> frozenset[str]:
    """The names of the fields of a dataclass or a named tuple."""
    if hasattr(kind, "_fields"):
        return frozenset(kind._fields)
    return frozenset(field.name for field in fields(kind))


def takes(reads: Reads, recipe: Recipe, data: Any = None) -> bool:
    """Whether a path that reads this can do all that a recipe says, on such data.

    A subclass may mean something else by the same fields: only `Network` and `Recipe`
    themselves are taken. 5 µs, once a fit.
    """
    own = type(recipe) is Recipe and type(recipe.network) is Network
    own = own and (data is None or type(data) is Data)
    return own and all(named(kind) <= known for kind, known in reads.items())


__all__ = ["READ", "Reads", "named", "takes"]
